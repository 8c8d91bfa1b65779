"""The estimate before a run: its counts are those of the run."""

import pytest

import s2llib.estimate as module
from s2llib import Study
from s2llib.estimate import estimate, evaluations, main, works


@pytest.fixture
def tiny(pipeline_folder, tmp_path):
    return Study.from_profile("tiny", {"base.path": str(pipeline_folder), "finetune.methods": ["lora"]}, root=tmp_path / "artifacts")


def work_of(study, title):
    return next(work for work in works(study) if work.title == title)


def test_the_counts_of_attacks_and_sp_sets_are_those_that_are_spent(tiny):
    calls = []
    tiny.base.unet.register_forward_hook(lambda _module, inputs, _out: calls.append(len(inputs[0])))
    tiny.sp_sets()
    assert sum(calls) == work_of(tiny, "SP sets").mixed
    calls.clear()
    table = tiny.membership(["pretrained"])
    assert sum(calls) == sum(part["evaluations"].iloc[0] * len(part) for _, part in table.groupby("attack"))
    assert sum(calls) * 2 == work_of(tiny, "membership inference").exact, "the grid has one fine-tuned model beside the base"


def test_the_cost_of_an_attack_is_the_defined_one(tiny):
    settings = tiny.attack_settings()
    assert {name: evaluations({name: each}) for name, each in settings.items()} == {"secmi": 6, "pia": 2, "pian": 2, "loss": 5, "sima": 1}


def test_the_estimated_disk_is_near_what_is_written(tiny):
    found = work_of(tiny, "fine-tuned models of the grid")
    written = 0
    for domain, method, seed in tiny.cells(["lora"]):
        written += sum(path.stat().st_size for path in tiny.finetuned(domain, method, seed).glob("*.safetensors"))
    slack = module.SMALL * len(tiny.domains)
    assert written <= found.bytes <= 1.5 * written + slack


def test_a_method_that_trains_the_unet_takes_a_whole_pipeline(tiny):
    whole = work_of(tiny.variant({"finetune.methods": ["dreambooth"]}), "fine-tuned models of the grid")
    size = sum(path.stat().st_size for path in tiny.base_folder.rglob("*.safetensors"))
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
    more = tiny.variant({"sp.images": 8})
    assert work_of(more, "SP sets").mixed == 2 * work_of(tiny, "SP sets").mixed
    assert {work.title for work in works(more)} == {work.title for work in works(tiny)}


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
