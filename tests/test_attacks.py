"""Attacks against a reference written from the papers' equations alone: plain loops, float64, no shared code."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s2llib import Lab, attacks
from s2llib.attacks import ATTACKS
from s2llib.models.denoiser import Denoiser
from s2llib.params import ParamsError
from s2llib.report.membership import membership_table, printed_membership
from s2llib.studies import s2l

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
    c = setting[2].tensors["encoder_hidden_states"].double()

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
    with_it, without = (ATTACKS["loss"].score(denoiser, z0, each, **given) for each in (c, denoiser.prompts([""])))
    before = denoiser.evaluations
    found = ATTACKS["clid"].score(denoiser, z0, c, **given)
    assert denoiser.evaluations - before == 2 * 2 * 2 * N
    assert found.tolist() == pytest.approx((with_it - without).tolist())
    assert ATTACKS["clid"].score(denoiser, z0, denoiser.prompts([""]), **given).abs().max() == 0, "the empty prompt takes nothing off"


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
    np.testing.assert_allclose(ATTACKS["secmi"].score(denoiser, z0, c, k=k, t=t), expected, rtol=1e-4)


@pytest.mark.parametrize("t", [1, 100, 400])
@pytest.mark.parametrize("name", ["pia", "pian"])
def test_pia_and_pian_agree_with_the_equations(setting, reference, name, t):
    denoiser, z0, c = setting
    expected = [reference_pia(*reference, z.double().numpy(), t, name == "pian") for z in z0]
    np.testing.assert_allclose(ATTACKS[name].score(denoiser, z0, c, t=t), expected, rtol=1e-4)


def test_sima_agrees_with_the_equation(setting, reference):
    denoiser, z0, c = setting
    expected = [-math.sqrt((reference[0](z.double().numpy(), 100) ** 2).sum()) for z in z0]
    np.testing.assert_allclose(ATTACKS["sima"].score(denoiser, z0, c, t=100), expected, rtol=1e-4)


def test_loss_uses_the_same_noise_for_every_image(setting):
    denoiser, z0, c = setting
    same = z0[:1].expand(N, -1, -1, -1)
    score = ATTACKS["loss"].score(denoiser, same, c, timesteps=[50, 400], draws=2)
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
    ATTACKS[name].score(denoiser, z0, c, **arguments)
    handle.remove()
    assert denoiser.evaluations == sum(calls) == cost * N


@pytest.mark.parametrize("name", list(ATTACKS))
def test_scores_do_not_depend_on_the_batch_size(setting, name):
    denoiser, z0, c = setting
    arguments = {"secmi": {"k": 10, "t": 20}, "loss": {"timesteps": [50]}, "clid": {"timesteps": [50]}}.get(name, {"t": 50})
    whole = ATTACKS[name].score(Denoiser(denoiser.pipeline, batch=64), z0, c, **arguments)
    torch.testing.assert_close(ATTACKS[name].score(denoiser, z0, c, **arguments), whole, rtol=1e-3, atol=1e-6)


def test_v_prediction_models_give_the_same_noise(setting):
    denoiser, z0, c = setting
    t = 300
    eps = denoiser.eps(z0, t, c)
    alpha, sigma = denoiser.levels(t)
    denoiser.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    converted = Denoiser(denoiser.pipeline).eps(z0, t, c)
    torch.testing.assert_close(converted, alpha * eps + sigma * z0)


class Velocity(torch.nn.Module):
    """The same network as a v-prediction model: v = (eps - sigma z) / alpha."""

    def __init__(self, denoiser):
        super().__init__()
        self.unet, self.levels = denoiser.pipeline.unet, denoiser.levels
        self.config, self.device = self.unet.config, self.unet.device

    def forward(self, z, t, encoder_hidden_states):
        (alpha, sigma), output = self.levels(t), self.unet(z, t, encoder_hidden_states)
        output.sample = (output.sample - sigma * z) / alpha
        return output


@pytest.mark.parametrize(
    ("name", "arguments"), [("secmi", {"k": 10, "t": 140}), ("pia", {"t": 100}), ("pian", {"t": 400}), ("sima", {"t": 100})]
)
def test_a_v_prediction_pipeline_gets_the_scores_of_its_epsilon_form(setting, name, arguments):
    denoiser, z0, c = setting
    expected = ATTACKS[name].score(denoiser, z0, c, **arguments)
    unread = ATTACKS[name].score(_as_velocity(denoiser, "epsilon"), z0, c, **arguments)
    converted = _as_velocity(denoiser, "v_prediction")
    torch.testing.assert_close(ATTACKS[name].score(converted, z0, c, **arguments), expected, rtol=1e-3, atol=1e-6)
    assert converted.evaluations == denoiser.evaluations
    assert (unread - expected).abs().max() > 0.01 * expected.abs().max(), "the same weights read as epsilon are another model"


def _as_velocity(denoiser, prediction):
    scheduler = SimpleNamespace(
        alphas_cumprod=denoiser.pipeline.scheduler.alphas_cumprod, config=SimpleNamespace(prediction_type=prediction)
    )
    return Denoiser(SimpleNamespace(unet=Velocity(denoiser), scheduler=scheduler, text_encoder=None), batch=2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_split_undoes_join_where_the_network_is_right(setting, prediction):
    """A network that answers with the target of (x0, e): z is taken apart into what it was made of."""
    denoiser, x0, c = setting
    e, t = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3)), torch.tensor([5, 300, 900])
    denoiser.prediction = prediction
    right = denoiser.target(x0, e, t)
    denoiser.pipeline.unet.register_forward_hook(lambda _module, inputs, _out: SimpleNamespace(sample=right[: len(inputs[0])]))
    denoiser.batch = len(x0)
    found = denoiser.split(denoiser.join(x0, e, t), t, c)
    for part, expected in zip(found, (x0, e), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-3)


def test_many_settings_at_once_are_the_same_scores_for_fewer_evaluations(setting):
    denoiser, z0, c = setting
    attack = ATTACKS["secmi"]
    settings = [attack.settings(k=k, t=t) for k, t in ((10, 40), (10, 10), (20, 40))]
    alone = [attack.score(Denoiser(denoiser.pipeline, batch=2), z0, c, **each.model_dump()) for each in settings]
    for found, expected in zip(attack.scores(denoiser, z0, c, settings), alone, strict=True):
        torch.testing.assert_close(found, expected)
    assert denoiser.evaluations == N * (4 + 2 * 2 + 1 + 2), "one start, three steps up and two errors by 10, one step and an error by 20"


def test_attacks_share_their_first_evaluation(setting):
    denoiser, z0, c = setting
    for name in ("secmi", "pia", "pian"):
        ATTACKS[name].score(denoiser, z0, c, **ATTACKS[name].settings().model_dump())
    assert denoiser.evaluations == N * (16 + 1 + 1)
    ATTACKS["pia"].score(denoiser, z0.clone(), c, t=100)
    assert denoiser.evaluations == N * (16 + 1 + 1 + 2), "other latents have a start of their own"


@pytest.fixture
def another_attack(tmp_path, monkeypatch):
    """The attack that CONTRIBUTING.md shows, in a file of its own."""
    page = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "mean_norm.py").write_text(source)
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "attacks")])
    attacks.load()
    yield "mean_norm"
    for table in (attacks.ATTACKS, attacks.TITLES):
        table.pop("mean_norm")


def test_an_attack_of_one_file_is_found_scored_and_reported(another_attack, setting, pipeline_folder, tmp_path):
    denoiser, z0, c = setting
    expected = sum(ATTACKS["sima"].score(denoiser, z0, c, t=t) for t in (30, 60)) / 2
    assert torch.equal(ATTACKS[another_attack].score(denoiser, z0, c, timesteps=[30, 60]), expected)
    changed = {"base.path": str(pipeline_folder), "finetune.methods": ["lora"], "attacks.names": ["secmi", "pia", another_attack]}
    changed |= {f"attacks.{another_attack}": {"timesteps": [30, 60]}, "audit.attack": "pia", "world.domains": 1}
    lab = Lab.open("tiny", changed, root=tmp_path / "artifacts")
    scores = s2l.membership(lab, ["pretrained"])
    assert scores.loc[scores["attack"] == another_attack, "evaluations"].unique().tolist() == [2]
    table = membership_table(scores, s2l.blind(lab), lab.params.statistics)
    assert "mean norm" in printed_membership(table).columns
    with pytest.raises(ParamsError, match=r"attacks.mean_norm.timestep is not a known key; known here: timesteps"):
        Lab.open("tiny", changed | {f"attacks.{another_attack}": {"timestep": 3}})
