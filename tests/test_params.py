import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from s2llib import Lab, ParamsError
from s2llib.data.worlds import check_unchanged
from s2llib.finetune.methods import PRETRAINED
from s2llib.models.pipeline import check_folder
from s2llib.params import load_params, profiles
from s2llib.studies import extraction, priors, s2l

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("profile", profiles())
def test_every_shipped_profile_is_valid(profile):
    assert load_params(profile).profile == profile


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sp.imagse", 4, "sp.imagse is not a known key; known here: images, steps"),
        ("colour", 4, "colour is not a known key; known here: profile, seed"),
        ("finetune.lora.rank", 0, "finetune.lora.rank is 0; it must be greater than or equal to 1"),
        ("finetune.dreambooth.steps", -5, "finetune.dreambooth.steps is -5"),
        ("sp.images", "many", "sp.images is 'many'; it must be a valid integer"),
        ("world.domains", 99, "only 4 people are in the training set"),
        ("world.members", 1, "world.members is 1"),
        ("world.condition", "a photo", "must contain {name}"),
        ("base", {"path": "x", "hub": "y"}, "`path` or `hub`, not both"),
        ("world.copies", [], "copies is empty"),
        ("finetune.methods", [], "finetune.methods"),
        ("finetune.seeds", [0, 0], "its entries must differ"),
        ("sp.templates", [{"text": "{name} {who}", "weight": 1}], "must contain {name} and no other braces"),
        ("base.unet.channels", [50, 96], "every entry must be a multiple of 16"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_with_its_key(key, value, message):
    with pytest.raises(ParamsError) as error:
        load_params("tiny", {key: value})
    assert message in str(error.value)
    assert str(error.value).startswith("params/tiny.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"world.domains": ["ada lovelace"]}, "unknown domain 'ada lovelace'; known: ada abeck"),
        ({"finetune.methods": ["lorra"]}, "unknown method 'lorra'; known: dreambooth, lora"),
        ({"base.path": "/nowhere"}, "/nowhere is no diffusers pipeline"),
        ({"attacks.sweep.methods": ["lorra"]}, "unknown method 'lorra'"),
        ({"attacks.names": ["secmy"]}, "params/tiny.yaml: attacks.names: unknown attack 'secmy'; known: secmi, pia"),
        ({"attacks.secmi": {"k": 30, "t": 100}}, "params/tiny.yaml: attacks.secmi; k is 30 and t is 100; t must be a multiple of k."),
        ({"finetune.textual_inversion.extra": -4}, "finetune.textual_inversion.extra: extra is -4 but 'photo of ada abeck' has 4 tokens"),
        ({"ablations.extra": [-9, 0]}, "ablations.extra: extra is -9"),
    ],
)
def test_what_cannot_run_is_refused_before_any_compute(overrides, message, tmp_path):
    with pytest.raises(ParamsError, match=re.escape(message)) as error:
        Lab.open("tiny", overrides, root=tmp_path / "artifacts")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "artifacts").exists()


def test_a_world_that_the_base_model_was_not_trained_on_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"world.seed is 5 but .*models/lab was trained with 2024.*retrain_base"):
        Lab.open("lab", {"world.seed": 5}, root=tmp_path / "artifacts")
    with pytest.raises(ParamsError, match=r"world.members is 50"):
        Lab.open("lab", {"world.members": 50}, root=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_a_model_with_a_world_of_its_own_is_audited_with_ones_own_folders(tmp_path):
    rng = np.random.default_rng(0)
    for side in ("in", "out"):
        (tmp_path / side).mkdir()
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / side / f"{i}.png")
    given = {"base.path": "models/lab", "world.folders.member": str(tmp_path / "in"), "world.folders.nonmember": str(tmp_path / "out")}
    assert Lab.open("audit", given, root=tmp_path / "artifacts").base_name == "lab"


def test_a_hub_model_takes_the_place_of_the_profiles_folder():
    assert load_params("lab", {"base.hub": "someone/model"}).base.path is None


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(ParamsError, match=r"Unknown profile 'labb'.*known: .*lab, .*tiny"):
        load_params("labb")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"one": "- 1\n"}, r"params/one.yaml holds no keys with values"),
        ({"one": "extends: two\n", "two": "extends: one\n"}, r"params/two.yaml: extends leads back to one; name another profile"),
        ({"one": "extends: one\n"}, r"params/one.yaml: extends leads back to one"),
    ],
)
def test_a_profile_that_is_none_is_one_sentence(texts, message, tmp_path, monkeypatch):
    monkeypatch.setattr("s2llib.params.profile.PARAMS_DIR", tmp_path)
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params("one")


@pytest.fixture
def folder(tmp_path):
    rows = []
    for split in ("member", "nonmember"):
        for i in range(3):
            name = f"{split}{i}.png"
            Image.new("RGB", (64, 64), (40 * i, 0, 99 if split == "member" else 0)).save(tmp_path / name)
            rows.append({"file_name": name, "text": "a photo of zoe", "domain": "zoe", "split": split})
    return tmp_path, rows


def load(folder, rows, pipeline_folder):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    world = {"world": {"kind": "folder", "folder": str(folder), "domains": 40}, "base.path": str(pipeline_folder)}
    return Lab.open("tiny", world, root=folder / "artifacts")


def test_a_folder_of_ones_own_images_is_a_world(folder, pipeline_folder):
    (domain,) = load(*folder, pipeline_folder).domains
    assert (domain.name, len(domain.members), len(domain.nonmembers)) == ("zoe", 3, 3)


def test_a_folder_that_changes_while_a_study_runs_is_noticed_and_its_results_are_made_anew(folder, pipeline_folder):
    lab = load(*folder, pipeline_folder)
    (domain,) = lab.domains
    check_unchanged(lab.params.world, domain, lab.store)
    before = s2l.membership(lab, [PRETRAINED])
    Image.new("RGB", (64, 64), (9, 8, 7)).save(folder[0] / "member1.png")
    with pytest.raises(ParamsError, match="images or captions of 'zoe' changed while the study ran; run the same command again"):
        extraction.extracted(lab, [PRETRAINED])
    again = load(*folder, pipeline_folder)
    assert again.domains[0].digest != domain.digest
    assert not s2l.membership(again, [PRETRAINED])["score"].equals(before["score"])


def test_people_with_public_photographs_alone_are_no_members(folder, pipeline_folder):
    path, rows = folder
    for i in range(2):
        Image.new("RGB", (64, 64), (i, 77, 1)).save(path / f"public{i}.png")
    public = [{"file_name": f"public{i}.png", "text": "a photo of max", "domain": "max", "split": "public"} for i in range(2)]
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *public]))
    world = {"world": {"kind": "folder", "folder": str(path), "domains": ["zoe"]}, "base.path": str(pipeline_folder)}
    lab = Lab.open("tiny", world | {"priors.public": ["max"]}, root=path / "artifacts")
    assert [person.name for person in lab.everyone] == ["zoe"]
    assert priors.no_transfer(lab) == ""
    assert priors.prior_levels(lab)[-1] == "attributes", "zoe has no public photographs"
    shutil.copy(path / "member1.png", path / "public1.png")
    with pytest.raises(ParamsError, match=r"the public photograph .*public1.png is the same image as .*member1.png; remove one"):
        lab.check()
    (path / "public1.png").write_bytes(b"x")
    with pytest.raises(ParamsError, match=r"public1.png cannot be read as an image"):
        lab.check()


def broken(folder, rows, how):
    match how:
        case "no domain":
            del rows[1]["domain"]
        case "missing file":
            (folder / "member1.png").unlink()
        case "unreadable":
            (folder / "member1.png").write_bytes(b"no image")
        case "truncated":
            content = (folder / "member1.png").read_bytes()
            (folder / "member1.png").write_bytes(content[: len(content) // 2])
        case "empty":
            rows.clear()
        case "one member":
            del rows[1:3]
        case "no non-member":
            del rows[3:]
        case "bad copies":
            rows[0]["copies"] = 0
        case "same image":
            (folder / "nonmember1.png").write_bytes((folder / "member1.png").read_bytes())
        case "a shifted set in one domain":
            for i, row in enumerate([*rows]):
                name = f"yan{i}.png"
                Image.new("RGB", (64, 64), (i, 1, 1)).save(folder / name)
                rows.append(row | {"file_name": name, "domain": "yan"})
            for i in range(2):
                Image.new("RGB", (64, 64), (i, 2, 2)).save(folder / f"web{i}.png")
                rows.append(rows[0] | {"file_name": f"web{i}.png", "split": "web"})
    return rows


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no domain", "line 2 has no 'domain'"),
        ("missing file", "names member1.png, which is not in the folder"),
        ("unreadable", "member1.png cannot be read as an image"),
        ("truncated", "member1.png cannot be read as an image"),
        ("empty", "lists no image"),
        ("one member", "has 1 member image that occur once"),
        ("no non-member", "has 0 nonmember images"),
        ("bad copies", "copies is 0"),
        ("same image", "is the same image as"),
        ("a shifted set in one domain", "Domain 'yan' has 0 web images"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_the_mend(folder, pipeline_folder, how, message):
    with pytest.raises(ParamsError) as error:
        load(folder[0], broken(*folder, how), pipeline_folder)
    assert message in str(error.value)


def test_a_missing_image_folder_is_named(pipeline_folder):
    world = {"world": {"kind": "folder", "folder": "/no/such/place"}, "base.path": str(pipeline_folder)}
    with pytest.raises(ParamsError, match="/no/such/place does not exist"):
        Lab.open("tiny", world)


@pytest.mark.parametrize(("part", "message"), [("unet", "has no unet"), ("text_encoder", "has no text_encoder")])
def test_a_base_without_a_part_is_no_stable_diffusion(tmp_path, pipeline_folder, part, message):
    shutil.copytree(pipeline_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(ParamsError, match=message):
        Lab.open("tiny", {"base.path": str(tmp_path / "model")})


PICKLED = [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")]


def damaged(model, how):
    """A copy of a model's folder with one thing wrong."""
    unet, weights = model / "unet", model / "unet" / "diffusion_pytorch_model.safetensors"
    match how:
        case "pickled":
            weights.rename(weights.with_suffix(".bin"))
        case "no weights":
            weights.unlink()
        case "no config":
            (unet / "config.json").unlink()
        case "no tokenizer":
            for path in (model / "tokenizer").iterdir():
                path.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "no shard":
            index = {"weight_map": {"a": "part-1-of-2.safetensors", "b": weights.name}}
            (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
        case "half precision":
            weights.rename(weights.with_suffix(".fp16.safetensors"))
        case "one file":
            shutil.rmtree(model)
            model.write_bytes(b"x")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "pickled",
            r"no \.safetensors weights but pickled ones \(diffusion_pytorch_model.bin\), which are never loaded.* convert them once: ",
        ),
        ("no weights", r"unet has no \.safetensors weights; copy"),
        ("no config", "unet has no config.json; copy"),
        ("no tokenizer", r"tokenizer has no tokenizer.json and no vocab.json"),
        ("cut off", r"diffusion_pytorch_model.safetensors is damaged"),
        ("no shard", r"lacks part-1-of-2.safetensors, which .*index.json names"),
        ("half precision", r"has diffusion_pytorch_model.fp16.safetensors but no diffusion_pytorch_model.safetensors"),
        ("one file", r"model is one file; a diffusers folder is needed.* is pickled.*from_single_file"),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused_with_the_mend(tmp_path, pipeline_folder, how, message):
    shutil.copytree(pipeline_folder, tmp_path / "model")
    damaged(tmp_path / "model", how)
    with pytest.raises(ParamsError, match=message) as error:
        Lab.open("tiny", {"base.path": str(tmp_path / "model")})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [PICKLED, PICKLED[:1]])
def test_the_printed_conversion_makes_a_folder_that_is_accepted(tmp_path, pipeline_folder, parts):
    """The command of the refusal, run as printed, on weights of which all or some were pickled."""
    shutil.copytree(pipeline_folder, tmp_path / "model")
    for part, name in parts:
        (weights,) = (tmp_path / "model" / part).glob("*.safetensors")
        torch.save(load_file(weights), weights.with_name(f"{name}.bin"))
        weights.unlink()
    with pytest.raises(ParamsError) as error:
        check_folder(tmp_path / "model")
    code = str(error.value).split('python -c "')[1].split('"')[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_folder(tmp_path / "model-safe")


def test_images_of_any_size_and_colour_are_read_alike(folder, pipeline_folder):
    path, rows = folder
    red = Image.new("RGB", (300, 200), (200, 10, 10))
    red.save(path / "member0.png")
    red.quantize(4).save(path / "member1.png")
    red.convert("CMYK").save(path / "member2.tiff")
    Image.new("L", (17, 90), 128).save(path / "nonmember0.png")
    Image.new("RGBA", (64, 64), (200, 10, 10, 0)).save(path / "nonmember1.png")
    rows[2]["file_name"] = "member2.tiff"
    lying = Image.new("RGB", (90, 60), "white")
    lying.paste((0, 0, 0), (0, 0, 45, 60))  # the left half is black; held so that the left is up
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(path / "nonmember2.png", exif=exif)
    (domain,) = load(path, rows, pipeline_folder).domains
    members, others = (photos.pixels(64) for photos in (domain.members, domain.nonmembers))
    assert members.shape == others.shape == (3, 3, 64, 64)
    assert (members - members[:1]).abs().max() < 0.03
    assert (others[0] - 128 / 255).abs().max() < 0.01
    assert others[1].min() == 1, "what is transparent is laid on white"
    assert others[2][:, :30].max() < 0.1 < 0.9 < others[2][:, 34:].min(), "upright"


def test_a_cameras_picture_in_several_frames_is_its_first(folder, pipeline_folder):
    path, rows = folder
    Image.new("RGB", (64, 64), "red").save(path / "member1.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    rows[1]["file_name"] = "member1.jpg"
    (domain,) = load(path, rows, pipeline_folder).domains
    assert domain.members.pixels(64)[1, 0].min() > 0.9


@pytest.mark.parametrize(
    ("how", "message"),
    [("animated", r"member1.png is animated \(2 frames\); save"), ("deep", r"member1.png has pixels of more than 8 bits")],
)
def test_images_that_would_be_misread_are_named(folder, pipeline_folder, how, message):
    path, rows = folder
    if how == "animated":
        Image.new("RGB", (8, 8), "red").save(path / "member1.png", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    else:
        Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(path / "member1.png")
    with pytest.raises(ParamsError, match=message):
        load(path, rows, pipeline_folder)


def test_environment_yml_has_the_pins_of_the_constraints_file():
    import yaml

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    mine = dict(line.split("==") for line in conda[-1]["pip"] if line != "-e .")
    assert "-e ." in conda[-1]["pip"]
    assert mine == {name: pins[name] for name in mine}
    declared = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    assert set(re.findall(r'"([a-z0-9-]+)', declared)) <= set(mine)
