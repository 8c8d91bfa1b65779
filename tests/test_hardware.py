"""How the machine is used changes cost and rounding, never what is computed, and by default nothing at all."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from s2llib import Lab, ParamsError
from s2llib.artifact import REGISTRY, key
from s2llib.attacks import ATTACKS
from s2llib.data.domain import Domain, Photos
from s2llib.defenses.perturbation import aspl
from s2llib.defenses.surrogate import Surrogate
from s2llib.finetune.methods import METHODS
from s2llib.finetune.recipe import finetune
from s2llib.generate import sample
from s2llib.loop import train
from s2llib.models.denoiser import Denoiser
from s2llib.models.hardware import halved, prepare, use_attention
from s2llib.models.pipeline import load_pipeline
from s2llib.params import Hardware, LoRA
from s2llib.params import Surrogate as Settings
from s2llib.studies import plan

ADA = Domain("ada abeck", {}, "")
CPU = torch.device("cpu")
HALF = Hardware(precision="bfloat16")
LORA = LoRA(steps=4, batch=2, lr=1e-2, rank=4, alpha=8)


@pytest.fixture
def images(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return Photos(tuple(paths), ("photo of ada abeck",) * 4, (1,) * 4)


def tuned(folder, images, hardware, method="lora", recipe=LORA):
    pipeline = prepare(load_pipeline(folder), hardware, CPU, trains=True)
    report = finetune(pipeline, METHODS[method], recipe, images, ADA, 0, "test", hardware=hardware)
    return pipeline, report


def adapters(pipeline):
    return {name: p.detach().clone() for name, p in pipeline.unet.named_parameters() if "lora_" in name}


# keys


@pytest.fixture
def tiny(pipeline_folder, tmp_path):
    return Lab.open("tiny", {"base.path": str(pipeline_folder)}, root=tmp_path / "artifacts")


def keys(lab):
    domain = lab.domains[0]
    return [key(lab, spec) for spec in (plan.sp_set(lab, domain), plan.tuned(lab, domain, "lora"), plan.perturbed_set(lab, domain))]


def test_the_default_machine_leaves_every_key_as_it_was(tiny):
    assert tiny.machine("precision", "optimizer") == tiny.device.type
    assert keys(tiny) == keys(tiny.at({"hardware.offload": True, "hardware.checkpointing": True, "hardware.workers": 3}))


@pytest.mark.parametrize(
    ("name", "value", "changes"), [("precision", "bfloat16", 3), ("attention", "math", 3), ("optimizer", "adamw8bit", 2)]
)
def test_what_rounds_otherwise_enters_the_keys_it_concerns(tiny, name, value, changes):
    other = tiny.at({f"hardware.{name}": value})
    assert sum(a != b for a, b in zip(keys(tiny), keys(other), strict=True)) == changes


def test_attacks_on_the_base_are_the_same_artifact_in_every_precision(tiny):
    other, spec = tiny.at({"hardware.precision": "bfloat16"}), plan.scoring(tiny, tiny.domains[0], tiny.base, shifted=False)
    assert key(other, spec) == key(tiny, spec)
    assert not REGISTRY[type(spec)].rounds


# precision


@pytest.mark.parametrize("method", ["lora", "dreambooth", "textual_inversion"])
def test_in_bfloat16_the_weights_train_in_every_step_and_stay_float32(pipeline_folder, images, method):
    """One autocast around the whole training would reuse the first step's casts: the loss would see no step but the first."""
    from s2llib.params import Recipe, TextualInversion

    recipe = {
        "lora": LORA,
        "dreambooth": Recipe(steps=4, batch=2, lr=1e-2),
        "textual_inversion": TextualInversion(steps=4, batch=2, lr=0.5),
    }
    exact, half = (tuned(pipeline_folder, images, hardware, method, recipe[method]) for hardware in (Hardware(), HALF))
    assert half[1]["loss"] != exact[1]["loss"]
    np.testing.assert_allclose(half[1]["loss"], exact[1]["loss"], rtol=0.03)
    moved = [abs(a - b) for a, b in zip(exact[1]["loss"], still(pipeline_folder, images, method, recipe[method]), strict=True)]
    apart = [abs(a - b) for a, b in zip(half[1]["loss"], exact[1]["loss"], strict=True)]
    assert moved[-1] > 3 * apart[-1], "the last loss is that of trained weights, in both precisions"
    for part in (half[0].unet, half[0].text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}


def still(folder, images, method, recipe):
    """The losses of the same steps if nothing trained."""
    return tuned(folder, images, Hardware(), method, recipe.model_copy(update={"lr": 1e-12}))[1]["loss"]


def test_guidance_and_the_sampler_compute_in_float32(pipeline, monkeypatch):
    seen, step = [], type(pipeline.scheduler).step
    monkeypatch.setattr(
        type(pipeline.scheduler), "step", lambda self, noise, *rest, **more: seen.append(noise) or step(self, noise, *rest, **more)
    )
    half, exact = (sample(pipeline, ["photo of ada abeck"], 0, 2, 3.0, precision=precision) for precision in ("bfloat16", "float32"))
    assert {noise.dtype for noise in seen} == {torch.float32}
    assert (half != exact).any(), "the UNet is in half precision"
    assert not pipeline.unet._forward_hooks


def test_attacks_are_in_float32_in_every_precision(pipeline):
    z0 = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    exact, half = Denoiser(pipeline), Denoiser(pipeline, precision="bfloat16")
    c = exact.prompts(["a photo of ada abeck"])
    assert ATTACKS["secmi"].score(half, z0, c, k=10, t=20).equal(ATTACKS["secmi"].score(exact, z0, c, k=10, t=20))
    t = torch.full((2,), 100)
    assert not half.predict(z0, t, c.expand(2)).equal(exact.predict(z0, t, c.expand(2)))
    assert half.predict(z0, t, c.expand(2)).dtype == torch.float32


def test_generation_and_perturbation_run_in_bfloat16_and_stay_close(pipeline_folder):
    pipeline = load_pipeline(pipeline_folder)
    drawn = [sample(pipeline, ["photo of ada abeck"] * 2, 0, 3, 3.0, precision=p).astype(int) for p in ("float32", "bfloat16")]
    assert 0 < np.abs(drawn[0] - drawn[1]).mean() < 8
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    ball = {"norm": "linf", "radius": 0.06, "step": 0.02, "draws": 1, "group": 2, "rounds": 1, "steps": 2, "clean_steps": 1}
    found = []
    for hardware in (Hardware(), HALF):
        surrogate = Surrogate(load_pipeline(pipeline_folder), Settings(kind="lora", batch=2, lr=1e-3), ADA, seed=0, hardware=hardware)
        found.append(aspl(surrogate, x, **ball, perturbed_steps=1, seed=0))
        assert (found[-1].int() - x.int()).abs().max() <= 0.06 * 127.5 + 1e-3
    assert (found[0] == found[1]).float().mean() > 0.7


def test_gradient_checkpointing_changes_no_result(pipeline_folder, images):
    plain, saving = (tuned(pipeline_folder, images, Hardware(checkpointing=flag)) for flag in (False, True))
    assert saving[0].unet.is_gradient_checkpointing
    assert not plain[0].unet.is_gradient_checkpointing
    np.testing.assert_allclose(saving[1]["loss"], plain[1]["loss"], rtol=1e-5)
    for name, value in adapters(plain[0]).items():
        torch.testing.assert_close(adapters(saving[0])[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", ["flash", "efficient", "math", "auto"])
def test_every_attention_backend_gives_the_same_predictions(pipeline, backend):
    z, t = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.full((2,), 100)
    denoiser = Denoiser(pipeline)
    c = denoiser.prompts(["a photo of ada abeck"])
    expected = denoiser.eps(z, t, c)
    try:
        use_attention(backend)
        cuda = torch.backends.cuda
        allowed = {"flash": cuda.flash_sdp_enabled(), "efficient": cuda.mem_efficient_sdp_enabled(), "math": cuda.math_sdp_enabled()}
        assert {name for name, flag in allowed.items() if flag} == {"math"} | ({"flash", "efficient"} if backend == "auto" else {backend})
        torch.testing.assert_close(denoiser.eps(z, t, c), expected, rtol=1e-3, atol=1e-4)
    finally:
        use_attention("auto")


# the optimizer


def test_an_optimizer_that_is_not_installed_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ParamsError, match=r"hardware.optimizer is 'adamw8bit' but bitsandbytes cannot be imported .*pip install bitsandbytes"
    ):
        Lab.open("tiny", {"hardware.optimizer": "adamw8bit"}, root=tmp_path)


def test_the_8_bit_optimizer_is_that_of_bitsandbytes_and_leaves_no_checkpoint(monkeypatch, tmp_path):
    class AdamW8bit(torch.optim.AdamW):
        made = 0

        def __init__(self, *arguments, **more):
            type(self).made += 1
            super().__init__(*arguments, **more)

    library, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    optim.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    monkeypatch.setattr("s2llib.loop.CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr("s2llib.loop.COST_FACTOR", 0)
    w = torch.nn.Parameter(torch.ones(3))
    losses = train([w], lambda *_: w.square().sum(), steps=5, lr=0.1, seed=0, what="test", checkpoint=tmp_path, optimizer="adamw8bit")
    assert AdamW8bit.made == 1
    assert losses[-1] < losses[0]
    assert not list(tmp_path.iterdir())


# memory


class Narrow(torch.nn.Module):
    """A UNet on a machine where no more than `most` images fit."""

    def __init__(self, unet, most):
        super().__init__()
        self.unet, self.most, self.config, self.device, self.seen = unet, most, unet.config, unet.device, []

    def forward(self, z, *more, **named):
        self.seen.append(len(z))
        if len(z) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.unet(z, *more, **named)


def test_the_batch_is_halved_until_it_fits_and_scores_stay_the_same(pipeline):
    from types import SimpleNamespace

    z0 = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    wide = Denoiser(pipeline, batch=64)
    c = wide.prompts(["a photo of ada abeck"])
    small = SimpleNamespace(unet=Narrow(pipeline.unet, 2), scheduler=pipeline.scheduler, text_encoder=None)
    narrow = Denoiser(small, batch=64)
    torch.testing.assert_close(ATTACKS["pia"].score(narrow, z0, c, t=100), ATTACKS["pia"].score(wide, z0, c, t=100), rtol=1e-3, atol=1e-6)
    assert narrow.batch == 1
    assert narrow.evaluations == wide.evaluations == 12
    assert small.unet.seen.count(6) == 1, "what did not fit once is not tried again"


def test_generation_halves_its_batch_too(pipeline, monkeypatch):
    expected = sample(pipeline, ["photo of ada abeck"] * 3, 0, 2, 1.0, batch=1)
    real, tried = type(pipeline).__call__, []

    def scarce(self, prompts, **more):
        tried.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, prompts, **more)

    monkeypatch.setattr(type(pipeline), "__call__", scarce)
    assert (sample(pipeline, ["photo of ada abeck"] * 3, 0, 2, 1.0, batch=64) == expected).all()
    assert tried == [3, 1, 1, 1]


def test_what_never_fits_is_one_sentence_and_other_errors_pass():
    with pytest.raises(ParamsError, match=r"A single image does not fit in memory; set hardware.precision=bfloat16"):
        halved(1, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="shape"):
        halved(8, RuntimeError("shape mismatch"))
    assert halved(7, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")) == 3


def test_a_training_step_that_does_not_fit_says_what_to_change():
    def loss(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ParamsError, match=r"LoRA, ada: a step does not fit in memory; set hardware.checkpointing=true"):
        train([torch.nn.Parameter(torch.ones(1))], loss, steps=1, lr=0.1, seed=0, what="LoRA, ada")


def test_an_optimizer_state_that_does_not_fit_says_what_to_change(monkeypatch):
    def step(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ParamsError, match="DreamBooth, ada: a step does not fit in memory"):
        train([weight], lambda *_: weight.square().sum(), steps=1, lr=0.1, seed=0, what="DreamBooth, ada")
