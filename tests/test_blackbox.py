import hashlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import multivariate_normal, norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neural_network import MLPClassifier

from s2llib import Lab
from s2llib.artifact import made, needed, table
from s2llib.attacks import blackbox as bb
from s2llib.attacks.blackbox import Evidence
from s2llib.compute import blackbox as compute
from s2llib.compute.models import folder as model_folder
from s2llib.compute.models import image_size
from s2llib.data.domain import Photos
from s2llib.data.worlds import auxiliary_images
from s2llib.defenses.dp import check_epsilons, noise_multiplier, private_finetune, spent_epsilon
from s2llib.finetune.parts import PARTS
from s2llib.finetune.recipe import denoising_target
from s2llib.generate import read_generated
from s2llib.loop import generator
from s2llib.metrics.images import image_bootstrap
from s2llib.metrics.roc import tpr_at_fpr
from s2llib.models.captioner import retrieve_captions, slot_accuracy, tune_blip, write_captions
from s2llib.models.denoiser import Denoiser
from s2llib.models.encoders import _edge, check_encoder, contrastive_loss, dct_tokens, transformers_tokens
from s2llib.models.pipeline import load_pipeline
from s2llib.params import ParamsError, PrivateLoRA, Statistics
from s2llib.report.blackbox import (
    _tpr,
    control_verdict,
    dp_note,
    dp_table,
    dp_verdict,
    printed_dp,
    scenario_note,
    scenario_table,
    scenario_verdict,
    study_table,
    study_verdict,
    threshold_table,
)
from s2llib.report.finetuning import finetuning_table, mean_curves
from s2llib.specs import Learnt, Replies
from s2llib.studies import blackbox
from s2llib.studies.blackbox import SCENARIOS
from s2llib.studies.plan import attack_settings, private_recipe
from s2llib.studies.prompts import reworded

RNG = np.random.default_rng(0)


def digests(photos):
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.paths}


# sets


def test_no_query_image_is_in_any_set_that_something_is_fitted_on(lab):
    target, shadow = blackbox.targets(lab)[0], blackbox.shadows(lab)[0]
    half = len(target.members) // 2
    tested = digests(target.members[half:]) | digests(target.others[half:])
    fitted = digests(target.members[:half]) | digests(target.others[:half]) | digests(shadow.members) | digests(shadow.others)
    assert len(tested) == 2 * (len(target.members) - half)
    assert not tested & fitted
    base = {hashlib.sha256(path.read_bytes()).hexdigest() for d in lab.everyone for photos in d.splits.values() for path in photos.paths}
    assert not (tested | fitted) & base
    drawn = {x.tobytes() for x in auxiliary(lab)[0]}  # what VAE, CLIP, the captioner and the self-supervised encoder are fitted on
    assert not drawn & {np.asarray(Image.open(path)).tobytes() for part in blackbox.private_sets(lab) for path in part.paths}


def auxiliary(lab):
    return auxiliary_images(lab.params.world, lab.params.base.auxiliary, lab.store)


def test_the_members_of_one_target_are_the_nonmembers_of_the_other(lab):
    first, second = blackbox.targets(lab)
    assert first.members == second.others
    assert first.others == second.members


def test_a_control_is_trained_on_other_photographs_than_it_is_asked_about(lab, monkeypatch):
    asked = []
    monkeypatch.setattr(blackbox, "attacked", lambda _, models, labels: asked.append((labels["control"], models)) or [])
    monkeypatch.setattr(blackbox, "collected", lambda *_: pd.DataFrame())
    blackbox.controls(lab)
    found = dict(asked)
    for stranger in found["fine-tuned on others"]:
        assert not digests(stranger.model.images) & (digests(stranger.members) | digests(stranger.others))
    assert all(target.model == lab.base for target in found["not fine-tuned"])
    assert all(target.model.images == target.members for target in found["overfitted"])


# similarity


@pytest.mark.parametrize("measure", list(bb.MEASURES))
def test_a_similarity_is_what_plain_loops_say_and_highest_for_the_image_itself(measure):
    query, drawn = torch.randn(3, 5, 4), torch.randn(3, 2, 5, 4)
    found = bb.similarity(query, drawn, measure, "vector")
    for i, j, k in np.ndindex(3, 2, 4):
        a, b = query[i, :, k].double().numpy(), drawn[i, j, :, k].double().numpy()
        expected = {
            "cosine": a @ b / np.sqrt((a @ a) * (b @ b)),
            "l1": -np.mean([abs(u - v) for u, v in zip(a, b, strict=True)]),
            "l2": -np.sqrt(np.mean([(u - v) ** 2 for u, v in zip(a, b, strict=True)])),
            "hamming": np.mean([(u > a.mean()) == (v > b.mean()) for u, v in zip(a, b, strict=True)]),
        }[measure]
        assert found[i, j, k].item() == pytest.approx(expected, abs=1e-6)
    same = bb.similarity(query, query[:, None], measure, "scalar")
    assert (same >= bb.similarity(query, drawn, measure, "scalar") - 1e-9).all()
    assert same.shape == (3, 1, 1)


def test_aggregates_are_over_generations():
    s = torch.tensor([[[1.0, 9.0], [2.0, 8.0], [6.0, 1.0]]])
    assert bb.AGGREGATES["mean"](s).tolist() == [[3.0, 6.0]]
    assert bb.AGGREGATES["max"](s).tolist() == [[6.0, 9.0]]
    assert bb.AGGREGATES["median"](s).tolist() == [[2.0, 8.0]]


# inference models


def test_gaussian_scores_equal_scipys():
    m, n, x = RNG.normal(1, 2, (30, 4)), RNG.normal(0, 1, (25, 4)), RNG.normal(0, 2, (7, 4))
    model = bb.Distribution().fit(m, n)
    every = np.concatenate([m, n])
    standard = lambda v: (v - every.mean(0)) / every.std(0)  # noqa: E731
    expected = 0
    for sign, side in ((1, m), (-1, n)):
        z, d = standard(side), 4
        shrink, cov = d / (len(z) + d), np.cov(z.T, bias=True)
        cov = (1 - shrink) * cov + shrink * np.trace(cov) / d * np.eye(d) + 1e-9 * np.eye(d)
        expected = expected + sign * multivariate_normal(z.mean(0), cov).logpdf(standard(x))
    np.testing.assert_allclose(model.score(x), expected, rtol=1e-8)


def test_one_channel_has_a_gaussian_too():
    m, n = RNG.normal(3, 1, (40, 1)), RNG.normal(0, 1, (40, 1))
    assert bb.Distribution().fit(m, n).score(np.array([[3.0], [0.0]])) @ [1, -1] > 0


def test_the_threshold_is_the_best_on_what_it_is_fitted_on():
    m, n = RNG.normal(0.7, 1, (20, 3)), RNG.normal(0, 1, (20, 3))
    model = bb.Threshold().fit(m, n)
    score, truth = np.concatenate([model.score(m), model.score(n)]), np.repeat([1, 0], 20)
    chosen = balanced_accuracy_score(truth, score > 0)
    cuts = [*(score - 1e-9), score.max() + 1]
    assert chosen == pytest.approx(max(balanced_accuracy_score(truth, score > cut) for cut in cuts))


@pytest.mark.parametrize("name", list(bb.MODELS))
def test_every_model_finds_what_is_there(name):
    p, truth, found = SimpleNamespace(networks=3, hidden=8, validation=0.25), np.repeat([1, 0], 100), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, test = (rng.normal(0, 1, (200, 3)) + truth[:, None] for _ in range(2))
        found.append(roc_auc_score(truth, bb.MODELS[name](p, seed).fit(x[:100], x[100:]).score(test)))
    assert np.mean(found) > 0.85


def test_permuted_membership_gives_one_half_and_a_leak_of_labels_would_show(lab):
    """Evidence that separates members perfectly, dealt anew: only labels that reach the tested half could bring the AUC back."""

    def mean_auc(deals):
        return np.mean([auc(part) for deal in deals for _, part in deal.groupby("model")])

    auc = lambda part: roc_auc_score(part["split"] == "member", part["score"])  # noqa: E731
    p = lab.params.blackbox
    rng, every = np.random.default_rng(0), np.concatenate([RNG.normal(2, 1, (32, 3)), RNG.normal(-2, 1, (32, 3))])
    true = Evidence(every[:32], every[32:])
    assert mean_auc([bb.inferred(true, (), p, 0)]) > 0.95
    dealt, leaking = [], []
    for _ in range(25):
        x = rng.permutation(every)
        dealt.append(bb.inferred(Evidence(x[:32], x[32:]), (), p, 0))
        seen = [np.concatenate([side[:16], side[:16]]) for side in (x[:32], x[32:])]  # tested on what it was fitted on
        leaking.append(bb.inferred(Evidence(*seen), (), p, 0))
    assert abs(mean_auc(dealt) - 0.5) < 0.06
    assert mean_auc(leaking) > 0.6


def test_early_stopping_never_sees_test_data(lab, monkeypatch):
    """What the networks are given is the known half, and what they learn does not change with the tested half."""
    sides, runs = blackbox.seen(lab, blackbox.targets(lab)[0]), []
    evidence = Evidence(*(table(lab, side).to_numpy() for side in sides))
    fit = bb.MLPClassifier.fit

    def watched(self, x, y):
        fitted = fit(self, x, y)
        runs[-1].append((x, y, [w.copy() for w in self.coefs_], self.best_validation_score_))
        return fitted

    monkeypatch.setattr(bb.MLPClassifier, "fit", watched)
    half = len(evidence.members) // 2
    moved = Evidence(*(np.concatenate([x[:half], x[half:] + 100]) for x in (evidence.members, evidence.others)))
    for each in (evidence, moved):
        runs.append([])
        bb.inferred(each, (), lab.params.blackbox, 0)
    known = np.concatenate([evidence.members[:half], evidence.others[:half]])
    for (x, y, weights, score), (x2, _, weights2, score2) in zip(*runs, strict=True):
        np.testing.assert_allclose(x, (known - known.mean(0)) / known.std(0).clip(1e-12))
        assert list(y) == [1] * half + [0] * half
        np.testing.assert_array_equal(x, x2)
        assert score == score2
        for one, other in zip(weights, weights2, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_classifier_is_the_mean_of_networks_that_scikit_learn_fits_alone():
    m, n, x = RNG.normal(1, 1, (30, 2)), RNG.normal(0, 1, (30, 2)), RNG.normal(0, 1, (9, 2))
    every, common = np.concatenate([m, n]), {"early_stopping": True, "n_iter_no_change": 20, "max_iter": 300, "alpha": 1e-2}
    standard = lambda v: (v - every.mean(0)) / every.std(0)  # noqa: E731
    each = [
        MLPClassifier((8,), **common, learning_rate_init=1e-2, validation_fraction=0.3, random_state=seed).fit(
            standard(every), np.repeat([1, 0], 30)
        )
        for seed in (5, 6, 7)
    ]
    p = np.mean([network.predict_proba(standard(x))[:, 1] for network in each], axis=0)
    np.testing.assert_allclose(bb.Classifier(3, 8, 0.3, 5).fit(m, n).score(x), np.log(p / (1 - p)), rtol=1e-6)
    assert len({network.n_iter_ for network in each}) > 1, "they stop at different times: on splits of their own"


# intervals over photographs


def framed(pairs, **labels):
    """The frame of (members' scores, non-members') of every target."""
    parts = [
        pd.DataFrame({"target": i, "split": split, "image": range(len(x)), "score": x})
        for i, pair in enumerate(pairs)
        for split, x in zip(("member", "nonmember"), pair, strict=True)
    ]
    return pd.concat(parts, ignore_index=True).assign(model="threshold", fitted=40, **labels)


def row_of(table, **where):
    (row,) = (row for _, row in table.iterrows() if all(row[name] == value for name, value in where.items()))
    return row


def placements(members, others):
    """Of each member: the share of others below it; of each other: the share of members above it."""
    below = [np.mean([(m > n) + 0.5 * (m == n) for n in others]) for m in members]
    above = [np.mean([(m > n) + 0.5 * (m == n) for m in members]) for n in others]
    return np.array(below), np.array(above)


PAIRS = [(RNG.normal(0.5, 1, 30), RNG.normal(0, 1, 30)), (RNG.normal(0.5, 1, 30), RNG.normal(0, 1, 30))]


def test_values_are_scikit_learns_and_the_swap_is_paired():
    table, truth = scenario_table(framed(PAIRS, control="any"), "control", Statistics()), np.repeat([1, 0], 30)
    assert row_of(table, metric="AUC")["value"] == pytest.approx(np.mean([roc_auc_score(truth, np.concatenate(pair)) for pair in PAIRS]))
    assert row_of(table, metric="ASR")["value"] == pytest.approx(
        np.mean([balanced_accuracy_score(truth, np.concatenate(pair) > 0) for pair in PAIRS])
    )
    pooled = [np.concatenate(side) for side in zip(*PAIRS, strict=True)]
    assert row_of(table, metric="TPR@1%FPR")["value"] == pytest.approx(float(tpr_at_fpr(*pooled)))
    # a score that knows the photograph and not the membership: the two targets cancel in every photograph
    ease = [RNG.normal(0, 1, 30), RNG.normal(1, 1, 30)]
    blind = scenario_table(framed([(ease[0], ease[1]), (ease[1], ease[0])], control="any"), "control", Statistics())
    auc = row_of(blind, metric="AUC")
    assert auc["value"] == pytest.approx(0.5)
    assert auc["interval"] == "rule of three over photographs, models trained once"
    assert auc["p"] == pytest.approx(1)


def test_an_interval_of_two_targets_is_delongs_over_the_photographs_that_they_share():
    row = row_of(scenario_table(framed(PAIRS, control="any"), "control", Statistics()), metric="AUC")
    (first, second), (second2, first2) = (placements(*pair) for pair in PAIRS)
    se = sum(((x + y) / 2).var(ddof=1) / 30 for x, y in ((first, first2), (second, second2))) ** 0.5
    middle, reach = np.log(row["value"] / (1 - row["value"])), 1.959964 * se / (row["value"] * (1 - row["value"]))
    assert [row["low"], row["high"]] == pytest.approx([1 / (1 + np.exp(-x)) for x in (middle - reach, middle + reach)], rel=1e-5)
    assert row["interval"] == "normal over photographs, models trained once"
    assert row["p"] == pytest.approx(2 * norm.sf(abs(middle) / (reach / 1.959964)), rel=1e-4)
    assert not {"domains", "seeds"} & set(row.index)


def test_a_resampled_photograph_stands_on_both_sides_of_a_pooled_rate():
    measure, sizes = _tpr(framed(PAIRS)), (30, 30)
    first, second = (RNG.multinomial(n, np.full(n, 1 / n), size=8) for n in sizes)
    found = measure.statistic(first.astype(float), second.astype(float))
    for i in range(8):
        (m, n), (m2, n2) = PAIRS
        inside = np.concatenate([np.repeat(m, first[i]), np.repeat(m2, second[i])])
        outside = np.concatenate([np.repeat(n, second[i]), np.repeat(n2, first[i])])
        assert found[i] == pytest.approx(float(tpr_at_fpr(inside, outside)))
    row = row_of(scenario_table(framed(PAIRS, control="any"), "control", Statistics()), metric="TPR@1%FPR")
    assert [row["low"], row["high"]] == pytest.approx([(e := image_bootstrap(measure.statistic, *sizes)).low, e.high])
    assert np.isnan(row["p"])


def test_a_change_is_over_the_same_photographs():
    """A score and the same with a little noise: the change is far better known than either value."""
    noisy = [tuple(x + RNG.normal(0, 0.1, len(x)) for x in pair) for pair in PAIRS]
    scores = pd.concat([framed(PAIRS, steps=1), framed(noisy, steps=2)])
    row = row_of(study_table(scores, "steps", Statistics()), steps=2)
    (a, b), (b2, a2) = (placements(*pair) for pair in PAIRS)
    (c, d), (d2, c2) = (placements(*pair) for pair in noisy)
    se = sum(((after - before) / 2).var(ddof=1) / 30 for after, before in ((c + c2, a + a2), (d + d2, b + b2))) ** 0.5
    assert [row["delta_low"], row["delta_high"]] == pytest.approx([row["delta"] - 1.959964 * se, row["delta"] + 1.959964 * se], abs=1e-6)
    assert row["delta_high"] - row["delta_low"] < 0.3 * (row["high"] - row["low"])
    assert row["smallest_visible"] == pytest.approx(2.8016 * se, rel=1e-3)


def test_values_that_were_tested_on_other_photographs_count_as_independent():
    fewer = [tuple(x[:20] for x in pair) for pair in PAIRS]
    row = row_of(study_table(pd.concat([framed(fewer, members=20), framed(PAIRS, members=30)]), "members", Statistics()), members=30)
    variance = 0
    for pairs, n in ((fewer, 20), (PAIRS, 30)):
        (a, b), (b2, a2) = (placements(*pair) for pair in pairs)
        variance += sum(((x + y) / 2).var(ddof=1) / n for x, y in ((a, a2), (b, b2)))
    assert row["delta_high"] - row["delta"] == pytest.approx(1.959964 * variance**0.5, rel=1e-5)


# queries


class Painter:
    """In place of the sampler: an image of one grey, which its prompt's noise decides."""

    def __init__(self):
        self.asked = []

    def __call__(self, _pipeline, prompts, noise, *_how):
        self.asked += prompts
        return np.stack([np.full((64, 64, 3), noise(i).initial_seed() % 256, np.uint8) for i in range(len(prompts))])


@pytest.fixture
def painter(monkeypatch):
    found = Painter()
    monkeypatch.setattr(compute, "draw", found)
    return found


@pytest.fixture
def own(pipeline_folder, tmp_path):
    return Lab.open("tiny", {"base.path": str(pipeline_folder), "blackbox.guidance": 2.0}, root=tmp_path / "store")


def again(lab):
    """The same in another run."""
    return Lab(lab.params, lab.store.root)


def test_a_repeated_query_is_free_and_a_damaged_reply_is_asked_for_again(own, painter):
    first = blackbox.drawn(own, own.base, ["a", "bb", "a"], 1)
    assert painter.asked == ["a", "bb"]
    assert torch.equal(first[0], first[2])
    assert torch.equal(blackbox.drawn(again(own), own.base, ["a", "bb"], 1), first[:2])
    assert len(painter.asked) == 2
    next((own.store.root / "replies").rglob("*.png")).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"damaged; it is made again"):
        assert torch.equal(blackbox.drawn(again(own), own.base, ["a", "bb"], 1), first[:2])
    assert len(painter.asked) == 4


def test_a_fresh_run_asks_again(own, painter, monkeypatch):
    blackbox.drawn(own, own.base, ["a"], 1)
    monkeypatch.setenv("S2L_FRESH", str(time.time() + 10))
    blackbox.drawn(again(own), own.base, ["a"], 1)
    assert painter.asked == ["a", "a"]


def test_a_study_reads_what_the_attack_asked_for(own, painter):
    first = blackbox.drawn(own, own.base, ["a"], 2)
    more = blackbox.drawn(own, own.base, ["a"], 3)
    assert painter.asked == ["a"] * 3
    assert torch.equal(more[:, :2], first)
    assert len({x.item() for x in more[0, :, 0, 0, 0]}) == 3, "asked anew, it draws another image"


def test_the_scenarios_ask_no_target_for_more_images_than_the_budget(lab):
    """Counted in the store, of all that the scenarios are made of."""
    cells = [cell for name in SCENARIOS for cell in blackbox.attacked(lab, blackbox.targets(lab), {}, name)]
    questions = [spec for spec in needed(lab, [spec for spec, _ in cells]) if isinstance(spec, Replies)]
    for target in blackbox.targets(lab):
        mine = [question for question in questions if question.model == target.model]
        kept = [(text, question.seed) for question in mine for text in read_generated(made(lab, question)).captions]
        assert 0 < blackbox.spent(lab, target) == len(set(kept)) <= len(kept) <= lab.params.blackbox.budget


def test_an_image_depends_on_prompt_and_seed_alone(own):
    ask = lambda texts, repeats=1: blackbox.drawn(own, own.base, texts, repeats, steps=2)  # noqa: E731
    many = ask(["a photo of ada abeck", "face of ada abeck", "photo of ada abeck"])
    alone = ask(["photo of ada abeck"], 2)
    level = 1 / 255
    assert (many[2, 0] - alone[0, 0]).abs().max() <= 1.001 * level
    assert (alone[0, 1] - alone[0, 0]).abs().max() > 1.001 * level


def test_retrieval_never_gives_a_photograph_its_own_caption(lab):
    photos = blackbox.private_sets(lab)[2]
    known, x = sorted(set(photos.captions)), photos.pixels(image_size(lab, lab.base))
    found = retrieve_captions(model_folder(lab, lab.base), x, known, list(photos.captions))
    assert not any(a == b for a, b in zip(found, photos.captions, strict=True))


# encoders and captions


def test_cosine_coefficients_keep_the_mean_colour():
    x = torch.rand(2, 3, 16, 16)
    found = dct_tokens(x).view(2, 4, 3, 16)
    blocks = x.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).flatten(2).transpose(1, 2)
    np.testing.assert_allclose(found[..., 0].numpy(), 8 * blocks.double().numpy(), atol=1e-5)


def test_the_contrastive_loss_is_the_papers():
    a, b = (torch.nn.functional.normalize(torch.randn(4, 5), dim=1) for _ in range(2))
    z, total = torch.cat([a, b]).double(), 0.0
    for i in range(8):
        j = (i + 4) % 8
        others = [torch.exp(z[i] @ z[k] / 0.2) for k in range(8) if k != i]
        total += -torch.log(torch.exp(z[i] @ z[j] / 0.2) / sum(others)).item()
    assert contrastive_loss(a, b).item() == pytest.approx(total / 8, rel=1e-5)


def test_a_vision_model_of_transformers_is_an_encoder_after_its_own_preprocessing(tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 8,
    }
    model = ViTModel(ViTConfig(**small)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    x = torch.rand(2, 3, 32, 32)
    expected = model(pixel_values=(x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
    torch.testing.assert_close(
        transformers_tokens(check_encoder("vit", str(tmp_path)), x, 1), expected.last_hidden_state, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("listing", "edge"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 224),
        ({"size": {"height": 384, "width": 384}}, 384),
        ({"size": 224}, 224),
        ({"image_mean": [0.5] * 3}, None),
    ],
)
def test_images_are_brought_to_the_size_that_the_preprocessor_names(listing, edge):
    assert _edge(listing) == edge


def test_slots():
    assert slot_accuracy(["a photo of ada, sad", "x"], ["a photo of ada, smiling", "x, y, z, u"]) == [0.5, 0.25]


def test_the_captioner_knows_the_captions_that_it_was_shown(lab):
    photos = blackbox.private_sets(lab)[0]
    written = blackbox.written(lab, photos)
    assert set(written) <= set(auxiliary(lab)[1])
    assert len(written) == len(photos)


def test_blip_learns_the_attackers_captions(tmp_path):
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "red", "blue", "thing"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"), bos_token="[DEC]")
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = small | {"vocab_size": len(words), "encoder_hidden_size": 32, "bos_token_id": 4, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(text_config=text | {"pad_token_id": 0}, vision_config=small | {"image_size": 32, "patch_size": 16})
    model = BlipForConditionalGeneration(config).eval()
    x = torch.stack([torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])]).view(2, 3, 1, 1).expand(2, 3, 32, 32)
    losses = tune_blip(model, tokenizer, x, ["red thing", "blue thing"], steps=60, lr=3e-3, seed=0)
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    assert [text.split()[0] for text in write_captions(model, tokenizer, x)] == ["red", "blue"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [("a picture of {name}{rest}", "a picture of ada abeck, sad, in red"), ("a photo of {name}", "a photo of ada abeck")],
)
def test_a_caption_in_other_words(template, expected):
    assert reworded("a photo of ada abeck, sad, in red", template) == expected


# DP-SGD


@pytest.fixture
def photos(tmp_path):
    paths = []
    for i in range(6):
        Image.fromarray(RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    return Photos(tuple(paths), tuple(f"a photo of ada abeck, {word}" for word in ("sad", "red") * 3), (1,) * 6)


def gradients(pipeline, parameters, photos, recipe, seed):
    """[image, parameter] gradients of the first step, one image at a time."""
    denoiser = Denoiser(pipeline)
    z0, c = denoiser.encode_photos(photos), denoiser.prompts(list(photos.captions))
    draw = generator(seed, 0, 2)
    which = (torch.rand(len(photos), generator=draw) < recipe.share).nonzero()[:, 0].repeat_interleave(recipe.draws)
    x, t, target = denoising_target(denoiser, z0[which], draw)
    found = []
    for i in which.unique():
        mine = which == i
        loss = (pipeline.unet(x[mine], t[mine], **c[which[mine]].tensors).sample - target[mine]).square().mean()
        found.append(torch.autograd.grad(loss, parameters, retain_graph=False))
    return found


def adapters(pipeline):
    return [p for name, p in pipeline.unet.named_parameters() if "lora_" in name]


def plain_descent(monkeypatch):
    """In place of AdamW, whose first step hides the gradient's size."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, lr, weight_decay: torch.optim.SGD(parameters, lr=lr))


def test_a_step_is_the_clipped_sum_of_the_photographs_gradients(pipeline_folder, photos, monkeypatch):
    """Against gradients taken one photograph at a time, with two draws each, by plain autograd."""
    plain_descent(monkeypatch)
    recipe = PrivateLoRA(steps=1, rank=2, alpha=2, lr=1e3, clip=1e-4, draws=2, share=1.0)
    plain = load_pipeline(pipeline_folder)
    torch.manual_seed(5)
    parameters = PARTS["unet_lora"](plain, recipe, "", "")
    before = [p.detach().clone() for p in parameters]
    each = gradients(plain, parameters, photos, recipe, 5)
    norms = [torch.stack([g.norm() for g in one]).norm() for one in each]
    assert min(norms) > recipe.clip, "the clip bites"
    private = load_pipeline(pipeline_folder)
    private_finetune(private, recipe, photos, None, 5, "dp")
    moved = 0.0
    for k, (old, new) in enumerate(zip(before, adapters(private), strict=True)):
        summed = sum(g[k] * min(1.0, recipe.clip / n) for g, n in zip(each, norms, strict=True))
        torch.testing.assert_close(old - new, recipe.lr * summed / len(photos), atol=2e-5, rtol=1e-2)
        moved += (old - new).square().sum().item()
    assert moved**0.5 > 1e-2
    chunked = load_pipeline(pipeline_folder)
    private_finetune(chunked, recipe, photos, None, 5, "dp", batch=5)  # two photographs of two draws at a time
    for x, y in zip(adapters(chunked), adapters(private), strict=True):
        torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-2)


def test_a_delta_that_gives_an_image_away_is_refused():
    with pytest.raises(ParamsError, match=r"delta is 0.2 where 5 images are protected, which promises nothing; set it below 0.2"):
        check_epsilons([1.0], PrivateLoRA(delta=0.2), 5, "key")


def test_noise_has_the_stated_size_and_a_seed(pipeline_folder, photos, monkeypatch):
    """One step with a clip beside which the gradients vanish: the weights move by noise x clip / photographs in each value."""
    plain_descent(monkeypatch)
    recipe, steps = PrivateLoRA(steps=1, rank=8, alpha=2, lr=1.0, clip=10.0), []
    for epsilon in (1.0, 1.0, 50.0):
        pipeline = load_pipeline(pipeline_folder)
        torch.manual_seed(3)
        start = torch.cat([p.detach().flatten() for p in PARTS["unet_lora"](load_pipeline(pipeline_folder), recipe, "", "")])
        report = private_finetune(pipeline, recipe, photos, epsilon, 3, "dp")
        steps.append(start - torch.cat([p.flatten() for p in adapters(pipeline)]))
        assert report["epsilon"] == pytest.approx(epsilon, rel=0.01)
        assert steps[-1].std().item() == pytest.approx(report["noise multiplier"] * recipe.clip / len(photos), rel=0.05)
    torch.testing.assert_close(steps[0], steps[1])
    assert steps[2].std() < 0.2 * steps[0].std()


def test_epsilon_is_the_closed_form_of_the_gaussian_mechanism():
    """One full-batch step with noise s: Renyi DP alpha / (2 s^2), and the conversion of opacus' accountant, minimised over alpha."""
    recipe = PrivateLoRA(steps=1, share=1.0, delta=1e-3)
    s = 3.0
    alphas = np.array([1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64)))
    closed = alphas / (2 * s**2) + np.log((alphas - 1) / alphas) - (np.log(recipe.delta) + np.log(alphas)) / (alphas - 1)
    assert spent_epsilon(s, recipe) == pytest.approx(closed.min(), rel=1e-6)


def test_more_privacy_is_more_noise():
    recipe = PrivateLoRA()
    noise = [noise_multiplier(epsilon, recipe) for epsilon in (1.0, 10.0, 1000.0, None)]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] == 0
    assert spent_epsilon(noise[0], recipe) <= 1.0


def test_what_is_written_of_a_private_training_is_the_same_whatever_the_photographs(pipeline_folder, photos, tmp_path):
    """Neither losses nor gradients' norms: nothing that is computed from them without noise."""
    (tmp_path / "others").mkdir()
    paths = [tmp_path / "others" / path.name for path in photos.paths]
    for path in paths:
        Image.new("RGB", (64, 64), "red").save(path)
    others, recipe = Photos(tuple(paths), ("a photo of bo",) * 6, photos.copies), PrivateLoRA(steps=2, rank=2)
    reports = [private_finetune(load_pipeline(pipeline_folder), recipe, some, 10.0, 3, "dp") for some in (photos, others)]
    assert reports[0] == reports[1]
    assert set(reports[0]) == {"trainable", "threads", "clip", "delta", "noise multiplier", "epsilon"}


def test_nothing_of_the_photographs_stands_beside_a_privately_tuned_model(lab):
    model = blackbox.private_models(lab)["epsilon 1"][0].model
    assert set(json.loads((made(lab, model) / "training.json").read_text())) == {
        "trainable", "threads", "clip", "delta", "noise multiplier", "epsilon"
    }  # fmt: skip
    assert {path.name for path in made(lab, model).iterdir()} == {"manifest.json", "training.json", "pytorch_lora_weights.safetensors"}


def test_a_method_whose_losses_are_not_written_has_no_curve(lab):
    rows = [{"domain": "ada", "method": name, "trainable": 4, "loss": loss} for name, loss in (("dreambooth", [2.0, 1.0]), ("lora", []))]
    assert mean_curves(pd.DataFrame(rows)) == {"DreamBooth": [2.0, 1.0]}
    table = finetuning_table(lab, pd.DataFrame(rows)).set_index("method")
    assert list(table["loss at last"].isna()) == [False, True]


def test_every_guarantee_and_every_set_of_photographs_has_noise_of_its_own(lab, tmp_path):
    how, (target, other) = private_recipe(lab), blackbox.targets(lab)
    seed = lambda photos, epsilon=1.0: blackbox.privately(lab, photos, how, epsilon).seed  # noqa: E731
    assert len({seed(photos, epsilon) for photos in (target.members, other.members) for epsilon in (1.0, 2.0, None)}) == 6
    moved = [tmp_path / f"{i}.png" for i in range(len(target.members))]
    for path, source in zip(moved, target.members.paths, strict=True):
        path.write_bytes(source.read_bytes())
    elsewhere = Photos(tuple(moved), target.members.captions, target.members.copies)
    assert seed(elsewhere) == seed(target.members), "wherever they lie"
    moved[0].write_bytes(other.members.paths[0].read_bytes())
    assert seed(elsewhere) != seed(target.members), "whatever they are called"


def test_what_was_learnt_is_the_error_of_the_same_draws(lab, tmp_path):
    target, looks = blackbox.targets(lab)[0], attack_settings(lab)["loss"][0]
    after, before = (Learnt(model, *target.sides, looks) for model in (target.model, lab.base))
    found, other = (table(lab, spec).groupby("split")["loss"].agg(list) for spec in (after, before))
    assert len(found["member"]) == len(target.members)
    assert found["member"] != other["member"]
    compute.measure(lab, before, tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "loss.parquet"), table(lab, before))


# tables


def scored(column, values, shift=1.0, targets=2, n=20):
    rng, rows = np.random.default_rng(1), []
    for k, value in enumerate(values):
        for model in ("threshold", "classifier"):
            for target in range(targets):
                for split, mean in (("member", shift * k), ("nonmember", 0.0)):
                    found = {"image": range(n), "score": rng.normal(mean, 1, n)}
                    rows.append(pd.DataFrame({column: value, "model": model, "target": target, "split": split, "fitted": 40, **found}))
    return pd.concat(rows, ignore_index=True)


def test_tables_hold_the_values_of_scikit_learn():
    p, scores = Statistics(), scored("scenario", ["Attack-I", "Attack-II"])
    table = scenario_table(scores, "scenario", p).set_index(["scenario", "method", "metric"])
    for (scenario, model), part in scores.groupby(["scenario", "model"]):
        each = [roc_auc_score(some["split"] == "member", some["score"]) for _, some in part.groupby("target")]
        hard = [balanced_accuracy_score(some["split"] == "member", some["score"] > 0) for _, some in part.groupby("target")]
        assert table.loc[(scenario, model, "AUC"), "value"] == pytest.approx(np.mean(each))
        assert table.loc[(scenario, model, "ASR"), "value"] == pytest.approx(np.mean(hard))
    assert (table["low"] <= table["value"]).all()
    curve = threshold_table(scores, p).set_index(["scenario", "threshold"])
    assert curve.loc[("Attack-II", 0.0), "value"] == pytest.approx(table.loc[("Attack-II", "threshold", "ASR"), "value"])


def test_what_is_shown_is_said_by_the_p_value_of_the_whole_table(lab):
    """Eleven values that guess, one that is above 0.5 by its own interval alone, and one that leaks."""
    normal = norm.ppf((np.arange(40) + 0.5) / 40)
    guesses = [framed([(normal, normal)], scenario=f"guess {i}") for i in range(11)]
    lucky, leak = (framed([(normal + shift, normal)], scenario=title) for title, shift in (("lucky", 0.5), ("leak", 2.0)))
    table = scenario_table(pd.concat([*guesses, lucky, leak]), "scenario", Statistics())
    auc = table[table["metric"] == "AUC"].set_index("scenario")
    assert auc.loc["lucky", "low"] > 0.5
    assert 0.05 < auc.loc["lucky", "p_adjusted"] == pytest.approx(auc.loc["lucky", "p"] * 12)
    text = scenario_verdict(table)
    assert "- Of 13 pairs of scenario and inference model 1 are shown to have an AUC above 0.5 (smallest visible: 0." in text
    note = scenario_note(lab.params, 76, table)
    assert "AUC: p (against 0.5) adjusted by Holm (not all tests are t tests over domains), 13 tests. Smallest distance from 0.5" in note
    assert "Query budget: 76 of 200 images per target spent." in note


def test_controls_are_read_by_what_they_must_be():
    guess = lambda title: framed([(RNG.normal(0, 1, 40), RNG.normal(0, 1, 40))], control=title)  # noqa: E731
    leak = lambda title: framed([(RNG.normal(4, 1, 40), RNG.normal(0, 1, 40))], control=title)  # noqa: E731
    right = pd.concat([leak("overfitted"), guess("fine-tuned on others"), guess("not fine-tuned")])
    text = control_verdict(scenario_table(right, "control", Statistics()))
    assert "**overfitted** (must leak (0.90 or more)): yes: " in text
    assert "**not fine-tuned** (must not be shown to differ from 0.5): yes (smallest visible: 0.1" in text
    assert "not shown to differ from 0.5." in text
    wrong = control_verdict(scenario_table(pd.concat([guess("overfitted"), leak("not fine-tuned")]), "control", Statistics()))
    assert wrong.count("NOT for all") == 2
    assert "shown to be above 0.5" in wrong


def test_a_change_is_against_the_first_value():
    table = study_table(scored("steps", [10, 20, 30]), "steps", Statistics())
    part = table[table["method"] == "threshold"]
    assert np.isnan(part["delta"].iloc[0])
    np.testing.assert_allclose(part["delta"].iloc[1:], part["value"].iloc[1:] - part["value"].iloc[0])
    text = study_verdict(table, "steps")
    assert text.startswith("Against steps 10, of 4 values 4 are shown to differ: 20 (threshold +0.")
    assert "fitted on 40 photographs, tested on 40; every model was trained once." in text
    still = study_verdict(study_table(scored("steps", [10, 20], shift=0), "steps", Statistics()), "steps")
    assert "of 2 values none is shown to differ. AUC: p adjusted by Holm" in still


def test_dp_steps_are_against_the_row_before():
    scores = scored("training", ["not fine-tuned", "epsilon 1", "clipping, no noise", "no DP-SGD"], shift=1.5)
    known = {"trainable": 4, "epsilon": None, "delta": 1e-3, "clip": 0.1, "noise multiplier": 2.0, "hits": [1.0, 0.0] * 10}
    losses = {"not fine-tuned": 0.1, "epsilon 1": 0.1, "clipping, no noise": 0.09, "no DP-SGD": 0.07}
    noise = np.random.default_rng(2).normal(0, 0.001, (4, 20))
    noise[0] = 0
    error = lambda i, loss: {"member": list(loss + 0.001 * np.arange(20) + noise[i]), "nonmember": [0.1] * 20}  # noqa: E731
    quality = pd.DataFrame(
        [{"training": name, "target": i, "loss": error(k, loss)} | known for k, (name, loss) in enumerate(losses.items()) for i in range(2)]
    )
    table = dp_table(scores, quality, Statistics())
    auc = table[(table["metric"] == "AUC") & (table["method"] == "threshold")]
    np.testing.assert_allclose(auc["delta"].iloc[1:], np.diff(auc["value"]))
    clip = table[table["metric"].str.startswith("CLIP-R")]
    assert (clip["value"] == 50).all()
    text = dp_verdict(table)
    assert "shown to be higher than in the row before at epsilon 1 (+0." in text
    learnt = table[table["metric"] == "error on members"].set_index("training")
    assert learnt.loc["no DP-SGD", "value"] == pytest.approx(0.07 + 0.0095 + noise[3].mean())
    reach = 1.959964 * noise[3].std(ddof=1) / 40**0.5  # two sets of 20, each with half the weight
    found = learnt.loc["no DP-SGD", ["delta_low", "delta_high"]].astype(float)
    expected = [-0.03 + noise[3].mean() - reach, -0.03 + noise[3].mean() + reach]
    np.testing.assert_allclose(found, expected, rtol=1e-5, err_msg="paired: the same photographs and draws")
    against = auc.set_index("training")["delta_no_noise"].dropna()
    assert list(against.index) == ["epsilon 1"]
    assert against.iloc[0] == pytest.approx(auc["value"].iloc[1] - auc["value"].iloc[2])
    assert "**epsilon 1** is not shown to have learnt anything (smallest visible: 0.000" in text
    assert "**no DP-SGD** is shown to have learnt its members: error 0.0" in text
    assert "gradient norm" not in printed_dp(table)


def test_the_note_on_dp_says_what_the_guarantee_is_of_and_what_is_outside():
    known = dict.fromkeys(("epsilon", "delta", "clip", "noise multiplier", "hits")) | {"trainable": 0}
    errors = {"member": [0.1, 0.2], "nonmember": [0.1, 0.2]}
    quality = pd.DataFrame([{"training": "not fine-tuned", "target": 0, "loss": errors} | known])
    note = dp_note(dp_table(scored("training", ["not fine-tuned"]), quality, Statistics()))
    for part in ("adding or removing one", "is no cryptographic one", "No loss and no gradient norm", "outside of the guarantee"):
        assert part in note


# end to end, and bad input


def test_every_scenario_gives_a_score_for_every_tested_photograph(lab):
    found = blackbox.scenarios(lab)
    half = lab.params.blackbox.members // 2
    assert set(found["scenario"]) == set(SCENARIOS)
    assert len(found) == len(SCENARIOS) * 3 * 2 * 2 * half
    assert found["score"].notna().all()
    fitted = found.groupby("scenario")["fitted"].first()
    assert fitted["Attack-I"] == fitted["Attack-II"] == 2 * half
    assert fitted["Attack-III"] == fitted["Attack-IV"] == 2 * 2 * 2 * half


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"blackbox.budget": 100},
            "budget is 100 but 32 photographs with 2 captions each and 2 generations for each need 128; raise budget",
        ),
        ({"blackbox.members": 4}, "the classifier is fitted on 4 photographs .* raise members"),
        ({"blackbox.sizes": [12, 18]}, "sizes and overfitted.members must be at most members"),
        ({"blackbox.encoder": "deit"}, "unknown encoder 'deit'; known: pixels, vae, clip, selfsupervised; name its folder"),
        (
            {"blackbox.wordings": {"x": "a {nmae}"}},
            r"wordings 'x' is 'a \{nmae\}'; it must contain \{name\} and no other braces but \{rest\}",
        ),
        ({"blackbox.private.clip": 0}, "blackbox.private.clip is 0; it must be greater than 0"),
        ({"blackbox.private.epsilons": [0.01]}, "epsilons.0 is 0.01; it must be greater than or equal to 0.1"),
    ],
)
def test_bad_parameters_stop_with_one_sentence(tmp_path, overrides, message):
    with pytest.raises(ParamsError, match=message):
        Lab.open("tiny", overrides, root=tmp_path)


def folder(tmp_path, captions):
    rows = []
    for i, text in enumerate(captions):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "domain": "any", "split": "private"} | ({} if text is None else {"text": text}))
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def test_a_folder_is_dealt_and_what_it_lacks_is_named(tmp_path):
    where = folder(tmp_path, [f"caption {i}" for i in range(64)])
    own = Lab.open("tiny", {"blackbox.folder": where}, root=tmp_path / "store")
    assert blackbox.refusal(own) == ""
    assert len(set().union(*(part.paths for part in blackbox.private_sets(own)))) == 64
    more = Lab.open("tiny", {"blackbox.folder": where, "blackbox.members": 20, "blackbox.budget": 400}, root=tmp_path / "store")
    assert "80 different photographs are needed that the base model never saw and 64 are there" in blackbox.refusal(more)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert "64 different photographs are needed that the base model never saw and 63 are there" in (
        blackbox.refusal(Lab.open("tiny", {"blackbox.folder": where}, root=tmp_path / "store2"))
    )


@pytest.mark.parametrize("text", [" ", "", None])
def test_a_missing_caption_is_named(tmp_path, text):
    where = folder(tmp_path, ["a caption", text] * 32)
    found = blackbox.refusal(Lab.open("tiny", {"blackbox.folder": where}, root=tmp_path / "store"))
    assert "metadata.jsonl, line 2 has no caption, which Attack-I and III need; write one as its `text`" in found


def test_captions_that_are_all_cut_to_the_same_are_refused(tmp_path):
    where = folder(tmp_path, ["a photo of " + "ada " * 30 + str(i) for i in range(64)])
    found = blackbox.refusal(Lab.open("tiny", {"blackbox.folder": where}, root=tmp_path / "store"))
    assert "blackbox: its 64 different prompts" in found
    assert "are the same in the 24 tokens that the text encoder reads" in found


def test_captions_may_stand_beside_the_images_of_a_listing(tmp_path):
    where = folder(tmp_path, [None] * 64)
    for i in range(64):
        (tmp_path / f"{i}.caption").write_text(f"caption {i}")
    own = Lab.open("tiny", {"blackbox.folder": where}, root=tmp_path / "store")
    assert blackbox.refusal(own) == ""
    assert {text for some in blackbox.private_sets(own) for text in some.captions} == {f"caption {i}" for i in range(64)}


def test_a_photograph_that_the_base_was_trained_on_is_left_out(tmp_path, lab):
    where = folder(tmp_path, [f"caption {i}" for i in range(64)])
    (tmp_path / "5.png").write_bytes(lab.domains[0].splits["member"].paths[0].read_bytes())
    found = blackbox.refusal(Lab.open("tiny", {"blackbox.folder": where}, root=lab.store.root))
    assert "64 different photographs are needed that the base model never saw and 63 are there" in found


def test_a_guarantee_out_of_reach_is_named(tmp_path):
    overrides = {"blackbox.private.delta": 1e-300, "blackbox.private.epsilons": [0.1]}
    found = blackbox.refusal(Lab.open("tiny", overrides, root=tmp_path))
    assert "blackbox.private: epsilon 0.1 at delta 1e-300 in 3 steps is out of reach" in found


def test_an_encoder_or_captioner_that_is_not_there_is_named_with_how_to_get_it(tmp_path):
    overrides = {"blackbox.encoder_folders": {"deit": str(tmp_path / "none")}}
    found = blackbox.refusal(Lab.open("tiny", overrides, root=tmp_path))
    assert "the encoder 'deit' is not in" in found
    assert "`hf download facebook/deit-base-distilled-patch16-224 --local-dir" in found
    found = blackbox.refusal(Lab.open("tiny", {"blackbox.captioner": str(tmp_path)}, root=tmp_path))
    assert "is no BLIP model with .safetensors weights; get one with" in found
