import json
import re
from pathlib import Path

import pytest
from PIL import Image

from s2llib import ParamsError, Study
from s2llib.data.worlds import check_unchanged
from s2llib.params import load_params, profiles

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
        ("attacks.secmi", {"k": 30, "t": 100}, "t must be a multiple of k"),
        ("attacks.names", ["secmy"], "attacks.names.0 is 'secmy'; it must be 'secmi', 'pia'"),
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
        ({"finetune.textual_inversion.extra": -4}, "finetune.textual_inversion.extra: extra is -4 but 'photo of ada abeck' has 4 tokens"),
        ({"ablations.extra": [-9, 0]}, "ablations.extra: extra is -9"),
    ],
)
def test_what_cannot_run_is_refused_before_any_compute(overrides, message, tmp_path):
    with pytest.raises(ParamsError, match=re.escape(message)):
        Study.from_profile("tiny", overrides, root=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_a_world_that_the_base_model_was_not_trained_on_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"world.seed is 5 but .*models/lab was trained with 2024.*retrain_base"):
        Study.from_profile("lab", {"world.seed": 5}, root=tmp_path / "artifacts")
    with pytest.raises(ParamsError, match=r"world.members is 50"):
        Study.from_profile("lab", {"world.members": 50}, root=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_a_hub_model_takes_the_place_of_the_profiles_folder():
    assert load_params("lab", {"base.hub": "someone/model"}).base.path is None


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(ParamsError, match=r"Unknown profile 'labb'.*known: .*lab, .*tiny"):
        load_params("labb")


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
    return Study.from_profile("tiny", world, root=folder / "artifacts")


def test_a_folder_of_ones_own_images_is_a_world(folder, pipeline_folder):
    (domain,) = load(*folder, pipeline_folder).domains
    assert (domain.name, len(domain.members), len(domain.nonmembers)) == ("zoe", 3, 3)


def test_a_folder_that_changes_while_a_study_runs_is_noticed_and_its_results_are_made_anew(folder, pipeline_folder):
    study = load(*folder, pipeline_folder)
    (domain,) = study.domains
    check_unchanged(study.params.world, domain, study.store)
    before = study.scores(domain, "pretrained")
    Image.new("RGB", (64, 64), (9, 8, 7)).save(folder[0] / "member1.png")
    with pytest.raises(ParamsError, match="images or captions of 'zoe' changed while the study ran; run the same command again"):
        study.extracted(domain, "pretrained")
    again = load(*folder, pipeline_folder)
    assert again.domains[0].digest != domain.digest
    assert not again.scores(again.domains[0], "pretrained")["score"].equals(before["score"])


def test_people_with_public_photographs_alone_are_no_members(folder, pipeline_folder):
    path, rows = folder
    for i in range(2):
        Image.new("RGB", (64, 64), (i, 77, 1)).save(path / f"public{i}.png")
    public = [{"file_name": f"public{i}.png", "text": "a photo of max", "domain": "max", "split": "public"} for i in range(2)]
    (path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *public]))
    world = {"world": {"kind": "folder", "folder": str(path), "domains": ["zoe"]}, "base.path": str(pipeline_folder)}
    study = Study.from_profile("tiny", world | {"priors.public": ["max"]}, root=path / "artifacts")
    assert [person.name for person in study.everyone] == ["zoe"]
    assert study.no_transfer() == ""
    assert study.prior_levels()[-1] == "attributes", "zoe has no public photographs"


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
        Study.from_profile("tiny", world)


@pytest.mark.parametrize(("part", "message"), [("unet", "has no unet"), ("text_encoder", "has no text_encoder")])
def test_a_base_without_a_part_is_no_stable_diffusion(tmp_path, pipeline_folder, part, message):
    import shutil

    shutil.copytree(pipeline_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(ParamsError, match=message):
        Study.from_profile("tiny", {"base.path": str(tmp_path / "model")})


def test_pickled_weights_are_refused(tmp_path, pipeline_folder):
    import shutil

    shutil.copytree(pipeline_folder, tmp_path / "model")
    for path in (tmp_path / "model" / "unet").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(ParamsError, match=r"no \.safetensors weights"):
        Study.from_profile("tiny", {"base.path": str(tmp_path / "model")})


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
