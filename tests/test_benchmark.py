"""What is measured, and that the model it is measured on is Stable Diffusion v1."""

import pytest
import torch

from s2llib import benchmark
from s2llib.benchmark import attack_cost, finetune_cost, main, walk_costs
from s2llib.models.hardware import prepare
from s2llib.models.pipeline import check_folder, load_pipeline
from s2llib.models.random_weights import SIZES, random_parts, random_stable_diffusion
from s2llib.params import Hardware, LoRA, Recipe


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random") / "model"
    random_stable_diffusion("small").save_pretrained(folder)
    return folder


def test_the_full_size_has_the_parameters_of_stable_diffusion_v1():
    with torch.device("meta"):
        parts = random_parts(SIZES["full"], {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1})
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [83_653_863, 123_060_480, 859_520_964]


def test_a_random_model_is_a_base_model_like_any_other(small):
    check_folder(small)
    pipeline = load_pipeline(small)
    assert pipeline(["photo of ada abeck"], num_inference_steps=1, output_type="np").images.shape == (1, 128, 128, 3)


def test_an_attack_is_measured_beside_the_bare_calls_it_needs_and_decodes_nothing(small, monkeypatch):
    pipeline = load_pipeline(small)
    monkeypatch.setattr(pipeline.vae, "decode", lambda *_: pytest.fail("SecMI decodes nothing"))
    calls = []
    pipeline.unet.register_forward_hook(lambda _module, inputs, _out: calls.append(len(inputs[0])))
    cost = attack_cost(pipeline, "secmi", {"k": 10, "t": 140}, images=3, batch=2, repeats=2)
    assert cost["NFE"] == 16
    assert calls == [2, 1] * 16 * (1 + 2 * 2 + 1), "the bare loop makes the attack's calls, batch for batch"
    assert cost["ratio"] > 0.5
    assert 0.5 < cost["share in the UNet"] <= 1
    assert cost["encoding (s/image)"] > 0


@pytest.mark.parametrize(
    ("method", "recipe", "hardware"),
    [
        ("lora", LoRA(steps=4, batch=1, rank=4), Hardware(precision="bfloat16", checkpointing=True)),
        ("dreambooth", Recipe(steps=4, batch=2), Hardware()),
    ],
)
def test_fine_tuning_is_measured_beside_the_unets_own_steps(small, method, recipe, hardware):
    pipeline = prepare(load_pipeline(small), hardware, torch.device("cpu"), trains=True)
    cost = finetune_cost(pipeline, method, recipe, hardware)
    assert cost["fine-tuning (steps/s)"] > 0
    assert cost["bare UNet steps (steps/s)"] > 0
    assert cost["trainable"] > 0
    assert cost["memory (GiB)"] > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_kind_of_work_goes_through_on_the_architecture_of_stable_diffusion(small, tmp_path, precision):
    rows = walk_costs(small, tmp_path, Hardware(precision=precision, checkpointing=True), "cpu")
    assert [row["work"] for row in rows] == ["SP generation", "LoRA", "SecMI and PIA", "extraction", "MixSyn's perturbation"]


def test_the_command_prints_a_table_or_one_sentence(monkeypatch, capsys, small):
    monkeypatch.setattr("sys.argv", ["benchmark", "attack", "--model", str(small), "--attack", "pia", "--repeats", "1"])
    assert main() == 0
    assert "NFE" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["benchmark", "finetune", "--method", "lorra"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("--method: unknown method 'lorra'")
    monkeypatch.setattr("sys.argv", ["benchmark", "extraction", "4", "3", "16"])
    assert main() == 0
    assert "4 x 3 images of 16 pixels" in capsys.readouterr().out
    assert benchmark.Drawn(3, 0)[1:].count == 2
