"""The shipped base models: what the repository promises of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import safe_open

from s2llib import Lab, ParamsError, ship
from s2llib.data.people import person_name
from s2llib.models import mini
from s2llib.models.base import pixel_digest
from s2llib.report.base import base_metrics
from s2llib.store import folder_digest
from s2llib.studies import zero_prior

MODELS = Path(__file__).resolve().parent.parent / "models"
SHIPPED = MODELS / "lab"
NAMES = ("lab-small", "lab", "lab-large")
EVERY = pytest.mark.parametrize("folder", [MODELS / name for name in NAMES], ids=NAMES)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab.open("lab", {"world.domains": 4}, root=tmp_path_factory.mktemp("lab"))


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_they_are_small():
    assert size(SHIPPED) < 25e6
    assert size(MODELS / "lab-small") + size(MODELS / "lab-large") < 60e6


@EVERY
def test_it_is_in_half_precision_and_carries_its_card(folder):
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= {"F16", "I64"}  # noqa: SIM118
    assert "## Metrics" in (folder / "README.md").read_text()


def test_they_differ_in_the_unet_alone():
    same = [part for part in ("vae", "text_encoder", "clip", "tokenizer", "scheduler") if (SHIPPED / part).is_dir()]
    for folder in (MODELS / "lab-small", MODELS / "lab-large"):
        assert [folder_digest(folder / part) for part in same] == [folder_digest(SHIPPED / part) for part in same]
    sizes = [sum(p.numel() for p in UNet2DConditionModel.from_pretrained(MODELS / name / "unet").parameters()) for name in NAMES]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 3 * sizes[0]


@EVERY
def test_plain_diffusers_draws_with_it(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a photo of ada abeck", num_inference_steps=2).images[0].size == (64, 64)


def test_unseen_photographs_survive_the_autoencoder_and_clip_knows_the_people(lab):
    found = base_metrics(lab)
    assert found["VAE reconstruction error (RMS)"] <= 0.05
    assert found["CLIP-R precision of non-members, 40 candidates (%)"] > 50


@EVERY
def test_its_losses_fell_to_the_end(folder):
    for stage, report in json.loads((folder / "training.json").read_text()).items():
        lowest = report["loss"][0]
        for loss in report["loss"]:
            assert loss < 1.4 * lowest, stage
            lowest = min(lowest, loss)


def test_a_base_model_whose_training_diverged_is_refused(tmp_path):
    from s2llib.models.base import _report

    with pytest.raises(RuntimeError, match=r"UNet diverged: loss 0\.100 rose to 0\.900"):
        _report(tmp_path, "UNet", [0.5] * 500 + [0.1] * 500 + [0.9] * 500 + [0.11] * 500)  # half recovered
    _report(tmp_path, "UNet", [0.5] * 500 + [0.1] * 500)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 1000


def test_its_schedule_is_stable_diffusions(pipeline_folder):
    for folder in (SHIPPED, pipeline_folder):
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        assert [config[key] for key in ("beta_schedule", "beta_start", "beta_end")] == ["scaled_linear", 0.00085, 0.012]


def test_every_word_of_every_caption_is_one_token(tmp_path):
    from s2llib.data.portraits import portrait

    tokenizer = mini.build_tokenizer(tmp_path)
    for who in range(45):
        caption = portrait(1, who, "member", 0)[1]
        words = caption.replace(",", " ,").split()
        assert len(tokenizer.tokenize(caption)) == len(words)
        assert len(tokenizer(caption).input_ids) <= mini.TOKENS


def test_the_unconditional_share_and_the_copies_reach_the_unet(monkeypatch, tmp_path):
    """Count what pre-training draws: an image with c copies c times an epoch, prompts in the stated shares."""
    from s2llib.params import UNet

    tokenizer, seen = mini.build_tokenizer(tmp_path), []

    class Encoder(torch.nn.Module):
        config = type("Config", (), {"hidden_size": 1})

        def forward(self, ids):
            return (ids.sum(1).float().view(-1, 1, 1),)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def forward(self, z, t, c):
            seen.append((z.detach(), c.flatten().clone()))
            return type("Out", (), {"sample": z * self.w})

    monkeypatch.setattr(mini, "new_unet", lambda *_: Net())
    copies = [1, 1, 4]
    z = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 16, 16)
    captions = ["a photo of ada abeck, sad", "a photo of arvo borg, sad", "a photo of bela calder, sad"]
    p = UNet(epochs=300, batch=3, full_caption=0.5, empty_prompt=0.1)
    _, losses = mini.train_unet(z, captions, ["ada abeck", "arvo borg", "bela calder"], copies, Encoder(), tokenizer, p, 0, tmp_path)
    assert len(losses) == 300 * 2
    c = torch.cat([prompts for _, prompts in seen])
    empty = mini.tokenize(tokenizer, [""]).sum().float()
    full = mini.tokenize(tokenizer, captions).sum(1).float()
    n = len(c)
    assert n == 300 * 6
    assert abs((c == empty).float().mean() - 0.1) < 4 * (0.09 / n) ** 0.5
    assert abs(torch.isin(c, full).float().mean() - 0.5) < 4 * (0.25 / n) ** 0.5
    third = (c == full[2]).sum() / torch.isin(c, full).sum()
    assert abs(third - 4 / 6) < 4 * (0.22 / (n / 2)) ** 0.5


# the pixels of members


ALONE = {"world.domains": 1, "extraction.base": None, "ablations.scale": [], "zero_prior.path": None}


@pytest.fixture(scope="module")
def ada(tmp_path_factory):
    """(a store, the first person of the lab, whose portraits are drawn in it)."""
    root = tmp_path_factory.mktemp("ada")
    (person,) = Lab.open("lab", ALONE, root=root).domains
    return root, person


def drawn_otherwise(shipped, to, name):
    """A copy of a shipped model that was trained on other pixels of somebody."""
    folder = shutil.copytree(MODELS / shipped, to)
    world = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps(world | {"pixels": world["pixels"] | {name: "0" * 64}}))
    return folder


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("*/world.json")))
def test_a_shipped_model_holds_the_pixels_of_everybody_whom_it_was_trained_on(name, ada):
    world, (_, person) = json.loads((MODELS / name / "world.json").read_text()), ada
    people = world.get("unet_people") or world["people"] + world["bystanders"]
    assert list(world["pixels"]) == [person_name(i) for i in range(people)]
    assert len(set(world["pixels"].values())) == people
    assert world["pixels"][person.name] == pixel_digest(person)


OTHERWISE = "come out here in other pixels than those that"


def test_a_base_whose_members_are_drawn_here_in_other_pixels_is_refused_before_it_is_loaded(tmp_path, ada, monkeypatch):
    root, person = ada
    folder = drawn_otherwise("lab-small", tmp_path / "base", person.name)
    monkeypatch.setattr("s2llib.compute.models.load_pipeline", lambda *_: pytest.fail("nothing is computed"))
    with pytest.raises(ParamsError) as error:
        Lab.open("lab", ALONE | {"base.path": str(folder)}, root=root)
    assert str(error.value) == (
        f"The photographs of 'ada abeck' {OTHERWISE} {folder} was trained on, as under another Pillow or numpy or on another processor, so"
        f" that its members would not be these; pip install -c constraints.txt -e . and remove {root / 'domain'}, where they are kept, or"
        " set retrain_base=true."
    )
    assert Lab.open("lab", ALONE | {"base.path": str(folder), "retrain_base": True}, root=root).domains


@pytest.mark.parametrize(
    ("key", "shipped", "mend"),
    [
        ("ablations.scale", "lab-small", "leave it out of ablations.scale"),
        ("extraction.base", "lab-extraction", "set extraction.base=null"),
        ("zero_prior.path", "lab-ddpm", "set zero_prior.path=null"),
    ],
)
def test_so_is_every_other_model_of_a_profile(key, shipped, mend, tmp_path, ada):
    root, person = ada
    folder = str(drawn_otherwise(shipped, tmp_path / "other", person.name))
    value = [folder, str(MODELS / "lab")] if key == "ablations.scale" else folder
    with pytest.raises(ParamsError, match=rf"{OTHERWISE} {folder} was trained on, .*, or {mend}\.$"):
        Lab.open("lab", ALONE | {key: value}, root=root)


def test_everybody_who_is_attacked_is_compared(tmp_path, ada):
    root, person = ada
    folder = drawn_otherwise("lab-small", tmp_path / "base", "arvo borg")
    lab = Lab.open("lab", ALONE | {"base.path": str(folder)}, root=root)
    assert [domain.name for domain in lab.domains] == [person.name]
    with pytest.raises(ParamsError, match=f"The photographs of 'arvo borg' {OTHERWISE} {folder}"):
        lab.at({"world.domains": 2}).domains  # noqa: B018


def test_and_everybody_of_an_unconditional_model(tmp_path, ada):
    root, _ = ada
    folder = drawn_otherwise("lab-ddpm", tmp_path / "ddpm", "arvo borg")
    lab = Lab.open("lab", ALONE | {"zero_prior.path": str(folder)}, root=root)
    lab.everyone = lab.at({"world.domains": 2}).domains
    with pytest.raises(ParamsError, match=rf"'arvo borg' {OTHERWISE} {folder}.*, or set zero_prior.path=null\.$"):
        list(zero_prior.zero_prior_cells(lab))


def test_people_of_a_folder_may_be_called_as_those_of_a_shipped_base(tmp_path, ada):
    root, person = ada
    folders = {split: str(tmp_path / split) for split in ("member", "nonmember")}
    for split, at in folders.items():
        shutil.copytree(person.splits[split].paths[0].parent, Path(at) / "ada abeck")
    given = {"world": {"kind": "folder", "folders": {"member": folders["nonmember"], "nonmember": folders["member"]}}}
    lab = Lab.open("audit", given | {"base.path": str(MODELS / "lab-small")}, root=root)
    assert [domain.name for domain in lab.domains] == ["ada abeck"]


def test_a_portrait_that_is_stored_as_another_file_has_the_same_pixels(tmp_path, ada):
    _, person = ada
    photos = person.splits["member"]
    for i, path in enumerate(photos.paths):
        Image.open(path).save(tmp_path / f"{i}.bmp")
    other = replace(person, splits={"member": replace(photos, paths=tuple(tmp_path / f"{i}.bmp" for i in range(len(photos))))})
    assert pixel_digest(other) == pixel_digest(person)
    with Image.open(tmp_path / "0.bmp") as image:
        image.putpixel((0, 0), tuple(v ^ 1 for v in image.getpixel((0, 0))))
        image.save(tmp_path / "changed.bmp")
    paths = (tmp_path / "changed.bmp", *other.splits["member"].paths[1:])
    assert pixel_digest(replace(person, splits={"member": replace(photos, paths=paths)})) != pixel_digest(person)


def test_what_is_shipped_holds_the_pixels(tmp_path, ada):
    _, person = ada
    (tmp_path / "made").mkdir()
    (tmp_path / "shipped").mkdir()
    (tmp_path / "made" / "world.json").write_text('{"seed": 2024}')
    ship._write_world(tmp_path / "made", tmp_path / "shipped", [person])
    assert json.loads((tmp_path / "shipped" / "world.json").read_text()) == {"seed": 2024, "pixels": {person.name: pixel_digest(person)}}
