"""Attacks against a reference written from the papers' equations alone: plain loops, float64, no shared code."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s2llib.attacks import ATTACKS
from s2llib.models.denoiser import Denoiser

N = 3


@pytest.fixture
def setting(pipeline):
    torch.manual_seed(1)
    denoiser = Denoiser(pipeline, batch=2)
    z0 = torch.randn(N, 4, 16, 16)
    return denoiser, z0, denoiser.prompts(["a photo of ada abeck"])


@pytest.fixture
def reference(pipeline_folder, setting):
    """eps64(z, t) on one latent [4, 16, 16], and the cumulative alphas, from the schedule's own formula."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(pipeline_folder / "unet").double().eval()
    config = json.loads((pipeline_folder / "scheduler" / "scheduler_config.json").read_text())
    low, high, steps = math.sqrt(config["beta_start"]), math.sqrt(config["beta_end"]), config["num_train_timesteps"]
    alphas, product = [], 1.0
    for i in range(steps):
        product *= 1 - (low + (high - low) * i / (steps - 1)) ** 2
        alphas.append(product)
    c = setting[2].double()

    def eps(z, t):
        with torch.no_grad():
            return unet(torch.from_numpy(z)[None], t, c).sample[0].numpy()

    return eps, alphas


def reference_secmi(eps, a, z0, k, t):
    def move(z, s, to):
        e = eps(z, s)
        return math.sqrt(a[to]) * (z - math.sqrt(1 - a[s]) * e) / math.sqrt(a[s]) + math.sqrt(1 - a[to]) * e

    z, s = z0, 0
    while s < t:
        z, s = move(z, s, s + k), s + k
    back = move(move(z, t, t + k), t + k, t)
    return -sum(float(v) ** 2 for v in (back - z).ravel())


def test_clid_is_what_the_prompt_takes_off_the_loss(setting, pipeline):
    denoiser, z0, c = setting
    given = {"timesteps": [50, 300], "draws": 2}
    with_it, without = (ATTACKS["loss"](denoiser, z0, each, **given) for each in (c, denoiser.prompts([""])))
    before = denoiser.evaluations
    found = ATTACKS["clid"](denoiser, z0, c, **given)
    assert denoiser.evaluations - before == 2 * 2 * 2 * N
    assert found.tolist() == pytest.approx((with_it - without).tolist())
    assert ATTACKS["clid"](denoiser, z0, denoiser.prompts([""]), **given).abs().max() == 0, "the empty prompt takes nothing off"


def reference_pia(eps, a, z0, t, normalised):
    e0 = eps(z0, 0)
    if normalised:
        e0 = e0 / (sum(abs(float(v)) for v in e0.ravel()) / e0.size) * math.sqrt(2 / math.pi)
    et = eps(math.sqrt(a[t]) * z0 + math.sqrt(1 - a[t]) * e0, t)
    return -sum(abs(float(v)) ** 4 for v in (et - e0).ravel())


@pytest.mark.parametrize(("k", "t"), [(10, 40), (20, 140), (5, 5)])
def test_secmi_agrees_with_the_equations(setting, reference, k, t):
    denoiser, z0, c = setting
    expected = [reference_secmi(*reference, z.double().numpy(), k, t) for z in z0]
    np.testing.assert_allclose(ATTACKS["secmi"](denoiser, z0, c, k=k, t=t), expected, rtol=1e-4)


@pytest.mark.parametrize("t", [1, 100, 400])
@pytest.mark.parametrize("name", ["pia", "pian"])
def test_pia_and_pian_agree_with_the_equations(setting, reference, name, t):
    denoiser, z0, c = setting
    expected = [reference_pia(*reference, z.double().numpy(), t, name == "pian") for z in z0]
    np.testing.assert_allclose(ATTACKS[name](denoiser, z0, c, t=t), expected, rtol=1e-4)


def test_sima_agrees_with_the_equation(setting, reference):
    denoiser, z0, c = setting
    expected = [-math.sqrt((reference[0](z.double().numpy(), 100) ** 2).sum()) for z in z0]
    np.testing.assert_allclose(ATTACKS["sima"](denoiser, z0, c, t=100), expected, rtol=1e-4)


def test_loss_uses_the_same_noise_for_every_image(setting):
    denoiser, z0, c = setting
    same = z0[:1].expand(N, -1, -1, -1)
    score = ATTACKS["loss"](denoiser, same, c, timesteps=[50, 400], draws=2)
    np.testing.assert_allclose(score, score[0].expand(N), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "cost"),
    [
        ("secmi", {"k": 10, "t": 140}, 16),
        ("secmi", {"k": 20, "t": 40}, 4),
        ("pia", {"t": 100}, 2),
        ("pian", {"t": 100}, 2),
        ("sima", {"t": 100}, 1),
        ("loss", {"timesteps": [50, 100], "draws": 3}, 6),
    ],
)
def test_an_attack_spends_exactly_its_stated_evaluations(setting, name, arguments, cost):
    denoiser, z0, c = setting
    calls = []
    handle = denoiser.pipeline.unet.register_forward_hook(lambda _module, inputs, _out: calls.append(len(inputs[0])))
    ATTACKS[name](denoiser, z0, c, **arguments)
    handle.remove()
    assert denoiser.evaluations == sum(calls) == cost * N


@pytest.mark.parametrize("name", list(ATTACKS))
def test_scores_do_not_depend_on_the_batch_size(setting, name):
    denoiser, z0, c = setting
    arguments = {"secmi": {"k": 10, "t": 20}, "loss": {"timesteps": [50]}, "clid": {"timesteps": [50]}}.get(name, {"t": 50})
    whole = ATTACKS[name](Denoiser(denoiser.pipeline, batch=64), z0, c, **arguments)
    torch.testing.assert_close(ATTACKS[name](denoiser, z0, c, **arguments), whole, rtol=1e-3, atol=1e-6)


def test_v_prediction_models_give_the_same_noise(setting):
    denoiser, z0, c = setting
    t = 300
    eps = denoiser.eps(z0, t, c)
    a = denoiser.a[t]
    denoiser.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    converted = Denoiser(denoiser.pipeline).eps(z0, t, c)
    torch.testing.assert_close(converted, a.sqrt() * eps + (1 - a).sqrt() * z0)


class Velocity(torch.nn.Module):
    """The same network as a v-prediction model: v = (eps - sqrt(1-a) z) / sqrt(a)."""

    def __init__(self, unet, a):
        super().__init__()
        self.unet, self.a, self.config, self.device = unet, a, unet.config, unet.device

    def forward(self, z, t, c):
        a, output = self.a[t].view(-1, 1, 1, 1), self.unet(z, t, c)
        output.sample = (output.sample - (1 - a).sqrt() * z) / a.sqrt()
        return output


@pytest.mark.parametrize(
    ("name", "arguments"), [("secmi", {"k": 10, "t": 140}), ("pia", {"t": 100}), ("pian", {"t": 400}), ("sima", {"t": 100})]
)
def test_a_v_prediction_pipeline_gets_the_scores_of_its_epsilon_form(setting, name, arguments):
    denoiser, z0, c = setting
    expected = ATTACKS[name](denoiser, z0, c, **arguments)
    unread = ATTACKS[name](_as_velocity(denoiser, "epsilon"), z0, c, **arguments)
    converted = _as_velocity(denoiser, "v_prediction")
    torch.testing.assert_close(ATTACKS[name](converted, z0, c, **arguments), expected, rtol=1e-3, atol=1e-6)
    assert converted.evaluations == denoiser.evaluations
    assert (unread - expected).abs().max() > 0.01 * expected.abs().max(), "the same weights read as epsilon are another model"


def _as_velocity(denoiser, prediction):
    scheduler = SimpleNamespace(alphas_cumprod=denoiser.a, config=SimpleNamespace(prediction_type=prediction))
    unet = Velocity(denoiser.pipeline.unet, denoiser.a)
    return Denoiser(SimpleNamespace(unet=unet, scheduler=scheduler, text_encoder=None), batch=2)
