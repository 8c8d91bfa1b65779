"""The estimate before a run: its counts are those of the run."""

import pytest

import s2llib.estimate as module
from s2llib import Lab
from s2llib.artifact import made
from s2llib.attacks import ATTACKS
from s2llib.compute.models import pipeline
from s2llib.estimate import costs, estimate, main
from s2llib.studies import s2l
from s2llib.studies.plan import attack_settings, cells, tuned


@pytest.fixture
def tiny(pipeline_folder, tmp_path):
    return Lab.open("tiny", {"base.path": str(pipeline_folder), "finetune.methods": ["lora"]}, root=tmp_path / "artifacts")


GRID = "fine-tuned models of the grid"


def test_the_counts_of_attacks_and_sp_sets_are_those_that_are_spent(tiny):
    calls = []
    pipeline(tiny, tiny.base).unet.register_forward_hook(lambda _module, inputs, _out: calls.append(len(inputs[0])))
    s2l.sp_sets(tiny)
    assert sum(calls) == costs(tiny)["SP sets"].mixed
    calls.clear()
    table = s2l.membership(tiny, ["pretrained"])
    defined = sum(part["evaluations"].iloc[0] * len(part) for _, part in table.groupby("attack"))
    images = len(table) // table["attack"].nunique()
    assert sum(calls) == defined - 2 * images, "SecMI, PIA and PIAN begin with the same evaluation"
    assert defined * 2 == costs(tiny)["membership inference"].exact, "the grid has one fine-tuned model beside the base"


def test_the_cost_of_an_attack_is_the_defined_one(tiny):
    settings = attack_settings(tiny)
    assert {name: ATTACKS[name].cost(each) for name, (each,) in settings.items()} == {"secmi": 6, "pia": 2, "pian": 2, "loss": 5, "sima": 1}


def test_the_estimated_disk_is_near_what_is_written(tiny):
    found = costs(tiny)[GRID]
    written = 0
    for cell in cells(tiny, ["lora"]):
        written += sum(path.stat().st_size for path in made(tiny, tuned(tiny, *cell)).glob("*.safetensors"))
    slack = module.SMALL * len(tiny.domains)
    assert written <= found.bytes <= 1.5 * written + slack


def test_a_method_that_trains_the_unet_takes_a_whole_pipeline(tiny):
    whole = costs(tiny.at({"finetune.methods": ["dreambooth"]}))[GRID]
    size = sum(path.stat().st_size for path in tiny.base.path.rglob("*.safetensors"))
    assert whole.bytes == pytest.approx(2 * size, rel=0.1)


def test_the_estimate_names_time_disk_and_a_disk_that_is_too_small(tiny, monkeypatch):
    text = estimate(tiny, ["03"])
    assert "- membership inference:" in text
    assert "MixSyn" not in text
    assert "ms an evaluation of the UNet" in text
    assert "too small" not in text
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    assert "is too small for all of it; set $S2L_HOME" in estimate(tiny, ["03"])


def test_twice_the_images_take_twice_the_evaluations(tiny):
    more, once = costs(tiny.at({"sp.images": 8})), costs(tiny)
    assert more["SP sets"].mixed == 2 * once["SP sets"].mixed
    assert more.keys() == once.keys()


def test_the_command_prints_it(monkeypatch, capsys, pipeline_folder, tmp_path):
    monkeypatch.setenv("S2L_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["estimate", "--profile", "tiny", "--only", "01", "--set", f"base.path={pipeline_folder}"])
    assert main() == 0
    assert "About" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["estimate", "--profile", "tiny", "--only", "12"])
    assert main() == 2
    assert "There is no notebook 12" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["estimate", "--profile", "labb"])
    assert main() == 2
