"""The audit: its verdict, how often that is right, and a conclusion that claims no more than the intervals allow."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from s2llib import Lab, ParamsError
from s2llib.compute.images import photos
from s2llib.finetune.methods import PRETRAINED
from s2llib.metrics.permutation import permutation_test, smallest_p
from s2llib.metrics.roc import auc
from s2llib.models.base import base_key
from s2llib.params import Audit, Statistics, load_params
from s2llib.report.audit import (
    BEYOND_BLIND,
    audit_extraction_table,
    audit_note,
    audit_report,
    audit_table,
    conclusion,
    gallery,
    trials_line,
)
from s2llib.studies import audit, blackbox, s2l
from s2llib.studies.audit import AFTER, DEFENDED, EVIDENCE, NO_EVIDENCE, Verdict, _draw, verdict_of
from s2llib.studies.plan import generations


def scores(rng, shift, domains=4, images=32):
    return [rng.normal(shift, 1, images) for _ in range(domains)], [rng.normal(0, 1, images) for _ in range(domains)]


# the test


def test_the_p_value_is_that_of_all_dealings_counted_out():
    members, others = [np.array([3.0, 1.0]), np.array([0.5])], [np.array([2.0, 0.0]), np.array([0.1, 0.9])]
    value, p = permutation_test(members, others, 20000, seed=0)
    each = [[auc(np.array(inside), np.array(rest)) for inside, rest in dealings(m, n)] for m, n in zip(members, others, strict=True)]
    means = [np.mean(pair) for pair in itertools.product(*each)]
    assert value == pytest.approx(np.mean([auc(m, n) for m, n in zip(members, others, strict=True)]))
    assert p == pytest.approx(np.mean([mean >= value - 1e-9 for mean in means]), abs=0.01)


def dealings(members, others):
    pool = [*members, *others]
    for chosen in itertools.combinations(range(len(pool)), len(members)):
        yield [pool[i] for i in chosen], [pool[i] for i in range(len(pool)) if i not in chosen]


def test_a_difference_between_domains_is_no_evidence():
    """One person scores higher than the other throughout, and has more members: labels are dealt within each of them."""
    rng = np.random.default_rng(0)
    members = [rng.normal(5, 1, 60), rng.normal(0, 1, 6)]
    others = [rng.normal(5, 1, 6), rng.normal(0, 1, 60)]
    assert auc(np.concatenate(members), np.concatenate(others)) > 0.85
    assert permutation_test(members, others, 999, seed=0)[1] > 0.01


@pytest.mark.parametrize(("shift", "says", "at_least"), [(0.65, EVIDENCE, 9), (0.0, NO_EVIDENCE, 9), (-0.65, NO_EVIDENCE, 10)])
def test_the_verdict_is_right_nine_times_in_ten(shift, says, at_least):
    """An AUC of 0.677 in truth, of 0.5, and of 0.323: the other sign is not membership."""
    found = [verdict_of(*scores(np.random.default_rng(seed), shift), Audit(), seed).says for seed in range(10)]
    assert found.count(says) >= at_least


def test_the_level_is_kept_where_there_is_nothing():
    p = Audit(level=0.1, permutations=999)
    found = [verdict_of(*scores(np.random.default_rng(seed), 0, 2, 10), p, seed).says for seed in range(300)]
    assert found.count(EVIDENCE) / 300 < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_too_few_images_for_the_level_are_refused():
    assert smallest_p([(3, 3), (2, 2)], 9999) == pytest.approx(1 / 120)
    with pytest.raises(ParamsError, match=r"audit.level is 0.01 but 3 suspected images and 3 non-members cannot give a p-value below 0.05"):
        verdict_of([np.arange(3.0)], [np.arange(3.0)], Audit(), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audit.method": "lorra"}, "audit.method: unknown method 'lorra'"),
        ({"audit.trial_images": 7}, "trial_images is 7; it must be a multiple of trial_domains"),
        ({"audit.level": 0.0001, "audit.permutations": 999}, "999 permutations cannot reach a level of 0.0001"),
    ],
)
def test_an_audit_that_cannot_run_is_refused(change, message, tmp_path):
    with pytest.raises(ParamsError, match=message):
        Lab.open("tiny", change, root=tmp_path)


def test_an_attack_that_is_not_run_has_no_verdict(tmp_path):
    lab = Lab.open("tiny", {"audit.attack": "sima", "attacks.names": ["pia", "secmi"]}, root=tmp_path)
    assert audit.refusal(lab).startswith("audit.attack is 'sima', which attacks.names lacks; add it there")
    with pytest.raises(ParamsError, match=r"which attacks.names lacks"):
        audit.verdict(lab)


# on a model


@pytest.fixture(scope="module")
def audited(pipeline_folder, tmp_path_factory):
    """The tiny audit of a model with random weights, which saw nothing."""
    changes = {"base.path": str(pipeline_folder), "finetune.methods": ["lora"], "audit.method": "lora"}
    lab = Lab.open("tiny", changes, root=tmp_path_factory.mktemp("audit"))
    p, blind = lab.params, s2l.blind(lab)
    tables = [audit_table(found, blind, p.statistics) for found in (audit.scores(lab), audit.changes(lab))]
    return lab, *tables, audit_extraction_table(audit.extraction(lab), p)


def test_the_audit_measures_the_model_before_and_after_both_fine_tunings(audited):
    lab, table, changes, extraction = audited
    assert set(table["method"]) == {PRETRAINED, "no model"}
    assert set(table["metric"]) == {"AUC", BEYOND_BLIND}, "12 non-members show no rate of 1 %"
    assert set(changes["method"]) == {PRETRAINED, AFTER, DEFENDED, "no model"}
    assert set(changes.loc[changes["method"].isin([AFTER, DEFENDED]), "attack"]) == set(lab.params.attacks.names)
    assert changes.loc[changes["method"] == DEFENDED, ["delta", "p_adjusted"]].notna().all(axis=None)
    assert list(extraction["method"].unique()) == [PRETRAINED, AFTER, DEFENDED]
    assert "paper" not in table


def test_a_table_says_whether_its_intervals_are_over_domains_or_over_images(audited):
    _, table, changes, _ = audited
    assert "Intervals are over domains." in audit_note(table)
    assert "Intervals are over images: one domain has nothing to say of others." in audit_note(changes)
    assert "AUC: p adjusted by Holm" in audit_note(changes)
    assert set(changes["interval"]) <= {
        f"{how} over images of one domain" for how in ("normal", "rule of three", "least of two, normal", "least of two, rule of three")
    }


def test_the_report_is_one_page_with_its_verdict(audited):
    lab, table, changes, extraction = audited
    found = audit.verdict(lab)
    text = conclusion(found, table, changes, extraction)
    assert found.says == NO_EVIDENCE
    assert text.startswith(
        "**No evidence.** SimA, the attack named beforehand, gives 12 suspected images against 12 non-members of the same 2"
    )
    assert "That is no proof of absence" in text
    assert "On 1 domain (intervals over its images) the AUC was measured again: " in text
    assert "\n" not in text
    page = audit_report(lab, text, table, changes, extraction)
    for part in ("# Audit of model", text, "SimA", DEFENDED, "audit_gallery.png", "## What was read"):
        assert part in page


def test_the_gallery_shows_the_closest_matches(audited):
    lab = audited[0]
    shown = gallery(lab, rows=2)
    assert [x.shape for x in shown.values()] == [(3, 3, 64, 64)] * 2
    (domain,) = audit.audit_domains(lab)
    near = audit.extraction(lab).query("split == 'member' and method == @PRETRAINED")
    closest, first = near.nsmallest(1, "distance").iloc[0], next(iter(shown.values()))
    expected = photos(lab, generations(lab, domain, lab.base))[closest["nearest"] : closest["nearest"] + 1].pixels(64)[0]
    assert torch.equal(first[1], expected)


def test_trials_deal_images_anew_and_none_to_both_sides(audited):
    lab = audited[0]
    seen, unseen = audit.trials(lab, seen=True), audit.trials(lab, seen=False)
    for trials in (seen, unseen):
        assert len(trials) == lab.params.audit.trials
        assert set(trials["images"]) == set(trials["nonmembers"]) == {6}
    assert seen["auc"].nunique() > 1
    assert unseen["auc"].nunique() > 1
    assert "6 suspected images and 6 non-members of 2 people" in trials_line(seen, unseen, "sima", stranger=False)
    same = Lab.open("tiny", {"audit.trial_images": 8}, root=lab.store.root)
    assert "0 people have 4 members and 8 non-members" in audit.no_trials(same)


@pytest.mark.parametrize("members", [True, False])
def test_no_image_is_suspected_and_not(members):
    splits = {"member": np.arange(10.0), "nonmember": 100 + np.arange(10.0)}
    suspected, others = _draw(splits, 5, members, np.random.default_rng(0))
    assert len(set(suspected)) == len(set(others)) == 5
    assert not set(suspected) & set(others)
    assert set(suspected) <= set(splits["member" if members else "nonmember"])
    assert set(others) <= set(splits["nonmember"])


def test_the_reported_profiles_ask_a_stranger_only_where_it_is_one():
    assert load_params("lab-full").audit.stranger == {"seed": 7, "world.seed": 77}
    assert [load_params(name).audit.stranger for name in ("lab", "olivetti", "calibration", "tiny")] == [None] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audit.stranger": {"seed": 3}}, "audit.stranger keeps world.seed"),
        (
            {"audit.stranger": {"world.seed": 6}, "world.kind": "olivetti", "base.path": None},
            "a world of kind 'olivetti' has the same people",
        ),
    ],
)
def test_a_stranger_that_would_know_the_people_is_refused(change, message, audited):
    with pytest.raises(ParamsError, match=message):
        audit.check(audited[0].at(change))


def test_a_stranger_is_no_matter_where_there_are_no_trials(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, side, 3, seed)
    assert audit.check(own(tmp_path, pipeline_folder).at({"audit.stranger": {"seed": 3}})) is None


def test_a_stranger_is_asked_about_the_same_images(audited, monkeypatch):
    lab, ask = audited[0].at({"audit.stranger": {"world.seed": 5}, "audit.level": 0.1}), audit._of_attack
    sides = {name: {"member": np.arange(20.0) + 100, "nonmember": np.arange(20.0)} for name in ask(lab)}
    monkeypatch.setattr(audit, "stranger", lambda _: "another model")
    monkeypatch.setattr(audit, "_of_attack", lambda lab, model=None: sides if model == "another model" else ask(lab))
    found = audit.trials(lab, seen=False)
    assert set(found["auc"]) == {1.0}, "its scores, of members"
    assert not found["right"].any()
    assert set(audit.trials(lab, seen=True)["auc"]) != {1.0}


def test_a_stranger_is_the_model_of_another_world(audited, pipeline_folder, monkeypatch):
    lab, trained = audited[0].at({"audit.stranger": {"world.seed": 5, "seed": 3}}), []
    monkeypatch.setattr(audit, "base_model", lambda p, _store: trained.append(p) or pipeline_folder)
    other = audit.stranger(lab)
    assert [(p.world.seed, p.seed, p.trains_base) for p in trained] == [(5, 3, True)]
    assert (other.path, other.content) == (pipeline_folder, base_key(trained[0]))
    assert other != lab.base
    asked = [spec for spec, _ in audit.score_cells(lab, other)]
    assert [spec.domain for spec in asked] == lab.domains
    assert {spec.model for spec in asked} == {other}
    assert audit.stranger(audited[0]) is None


# what the conclusion says


def told(blind, auc_row, found, moved=(0.0, -0.1, 0.1), matched=(0.0, 0.0, 0.0), beyond=(0.2, 0.1, 0.3)):
    row = {"protocol": "iid", "domains": 2, "seeds": "1"}
    levels = lambda values: dict(zip(("value", "low", "high"), values, strict=True))  # noqa: E731
    table = pd.DataFrame(
        [
            row | {"method": PRETRAINED, "attack": "sima", "metric": "AUC"} | levels(auc_row),
            row | {"method": PRETRAINED, "attack": "sima", "metric": "TPR@1%FPR"} | levels((0.1, 0.05, 0.2)),
            row | {"method": PRETRAINED, "attack": "sima", "metric": BEYOND_BLIND} | levels(beyond),
            row | {"method": "no model", "attack": "blind", "metric": "AUC"} | levels(blind),
        ]
    )
    delta = dict(zip(("delta", "delta_low", "delta_high"), moved, strict=True)) | {"smallest_visible": 0.14}
    delta["p_adjusted"] = 0.01 if moved[1] > 0 or moved[2] < 0 else 0.5
    changes = pd.DataFrame(
        [row | {"method": m, "attack": "sima", "metric": "AUC"} | levels(auc_row) | delta for m in (PRETRAINED, AFTER, DEFENDED)]
    )
    counts = [row | {"method": PRETRAINED, "attack": "extraction", "metric": m, "images": 96} for m in ("DE", "false alarms")]
    chance = {"delta_chance": matched[0], "p_chance_adjusted": 0.01 if matched[1] > 0 else 0.5}
    extraction = pd.DataFrame([count | levels(matched) | chance for count in counts])
    return conclusion(found, table, changes, extraction)


STRONG = Verdict("sima", 0.7, 0.0001, 0.01, 128, 128, 2)
WEAK = Verdict("sima", 0.52, 0.3, 0.01, 64, 64, 2)


def test_evidence_is_about_the_set_and_names_its_grounds():
    text = told((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), STRONG, moved=(0.1, 0.05, 0.15), matched=(2.0, 1.0, 3.0))
    assert text.startswith("**Evidence of membership.** SimA")
    for part in (
        "0.700 [0.600, 0.800]",
        "p = 0.0001 at a level of 0.01",
        "not of any one of them",
        "10.0 % [5.0, 20.0]",
        "2.00 [1.00, 3.00]",
    ):
        assert part in text
    assert "more than the" in text
    assert "after S2L it rises away from 0.5 (+0.100 [+0.050, +0.150])" in text
    assert "Warning" not in text


def test_evidence_that_style_would_explain_comes_with_a_warning():
    text = told((0.9, 0.8, 0.95), (0.7, 0.6, 0.8), STRONG)
    assert text.startswith("**A difference, which style may explain.**")
    assert "**Warning:** a classifier that never asks the model tells the two kinds of images apart (blind AUC 0.900" in text
    assert "may be style and not membership" in text
    hidden = told((0.9, 0.8, 0.95), (0.52, 0.45, 0.6), WEAK)
    assert hidden.startswith("**No evidence.**")
    assert "which may hide membership as well as feign it" in hidden


def test_a_classifier_too_weak_to_judge_does_not_clear_the_style():
    """Its interval holds 0.5, but so does that of the attack's lead over it hold 0."""
    text = told((0.65, 0.45, 0.85), (0.7, 0.6, 0.8), STRONG, beyond=(0.05, -0.15, 0.25))
    assert text.startswith("**A difference, which style may explain.**")
    assert "the attack is not shown to tell more than it, so style is not excluded (+0.050 [-0.150, +0.250])" in text


def test_evidence_in_unlike_domains_is_not_said_of_others():
    text = told((0.5, 0.4, 0.6), (0.68, 0.45, 0.8), STRONG)
    assert text.startswith("**Evidence of membership in these domains alone.**")
    assert "holds 0.5: it has nothing to say of others" in text


def test_evidence_in_one_domain_is_not_said_of_others():
    text = told((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), replace(STRONG, domains=1))
    assert text.startswith("**Evidence of membership in this domain alone.**")
    assert "One domain has nothing to say of others." in text
    assert "an AUC of 0.700 [0.600, 0.800] (interval over its images)" in text


def test_too_few_nonmembers_show_no_rate_of_one_percent():
    text = told((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), replace(STRONG, nonmembers=64))
    assert "64 non-members are too few for a false-positive rate of 1 %" in text
    assert "the attack finds" not in text


def test_the_lead_over_the_blind_classifier_is_a_paired_difference(audited):
    lab, table, *_ = audited
    rows = table.set_index(["method", "attack", "metric"])["value"]
    for attack in lab.params.attacks.names:
        expected = rows[PRETRAINED, attack, "AUC"] - max(rows["no model", "blind", "AUC"], 0.5)
        assert rows[PRETRAINED, attack, BEYOND_BLIND] == pytest.approx(expected)
    blind = s2l.blind(lab)
    same = blind[blind["against"] == "nonmember"].assign(attack="sima", method=PRETRAINED, seed=0)
    same["image"] = same.groupby(["domain", "split"]).cumcount()
    for sign in (1, -1):  # better than guessing, and worse
        lead = lead_of(flipped(same, sign), flipped(blind, sign))
        value = auc_of(flipped(same, sign))
        assert lead["value"] == pytest.approx(min(value - 0.5, 0)), "an attack that reads what the classifier does has no lead"
        assert lead["low"] < 0


def lead_of(scores, blind):
    return audit_table(scores, blind, Statistics()).query("metric == @BEYOND_BLIND").iloc[0]


def flipped(scores, sign):
    return scores.assign(score=sign * scores["score"])


def aucs_of(scores):
    of = lambda part, side: part.loc[part["split"] == side, "score"].to_numpy()  # noqa: E731
    return np.array([auc(of(part, "member"), of(part, "nonmember")) for _, part in scores.groupby("domain", sort=False)])


def auc_of(scores):
    return aucs_of(scores).mean()


def dealt(people, shift=0.0, images=20, seed=0):
    """Scores of an attack, and of a classifier that never asks: of every person members and non-members."""
    rng = np.random.default_rng(seed)
    rows = [(d, side, i) for d in people for side in ("member", "nonmember") for i in range(images)]
    base = pd.DataFrame(rows, columns=["domain", "split", "image"]).assign(seed=0)
    members = (base["split"] == "member").astype(float)
    blind = base.drop(columns=["image", "seed"]).assign(against="nonmember", score=0.3 * members + rng.normal(size=len(base)))
    return base.assign(method=PRETRAINED, attack="sima", score=shift * members + rng.normal(size=len(base))), blind


def test_a_lead_is_as_sure_as_the_less_sure_of_its_two():
    """t intervals over five people, by hand."""
    found, blind = dealt("abcde", 1.5)
    lead, leads = lead_of(found, blind), [aucs_of(found) - 0.5, aucs_of(found) - aucs_of(blind)]
    reach = [2.776445 * each.std(ddof=1) / 5**0.5 for each in leads]
    assert lead["value"] == pytest.approx(min(each.mean() for each in leads))
    assert lead["low"] == pytest.approx(min(each.mean() - r for each, r in zip(leads, reach, strict=True)), rel=1e-5)
    ends = [each.mean() + r for each, r in zip(leads, reach, strict=True)]
    assert lead["high"] == pytest.approx(min(ends[0], 0.5, ends[1]), rel=1e-5)
    assert lead["interval"] == "least of two, t over 5 domains, one training"
    assert (lead["domains"], lead["seeds"]) == (5, "1")


def test_the_lead_in_one_domain_is_paired_image_by_image():
    """An attack that reads what the classifier does, and a little more, with one person."""
    _, blind = dealt("a", images=60)
    found, _ = dealt("a", images=60, seed=1)
    found["score"] = blind["score"].to_numpy() + 1.5 * (found["split"] == "member") + 0.01 * found["score"]
    lead = lead_of(found, blind)
    sides = [[part.loc[part["split"] == side, "score"].to_numpy() for side in ("member", "nonmember")] for part in (found, blind)]
    over = [np.sign(m[:, None] - n).mean(axis=1) / 2 for m, n in sides], [np.sign(m[:, None] - n).mean(axis=0) / 2 for m, n in sides]
    se = sum((after - before).var(ddof=1) / 60 for after, before in over) ** 0.5
    assert lead["low"] == pytest.approx(lead["value"] - 1.959964 * se, rel=1e-5)
    assert lead["interval"] == "least of two, normal over images of one domain"


def test_a_classifier_worse_than_guessing_lends_the_attack_no_lead():
    """Two people: the attack guesses, the classifier is wrong throughout."""
    guess, blind = dealt(("ada", "ben"))
    lead = lead_of(guess, blind.assign(score=(blind["split"] == "nonmember").astype(float)))
    assert lead["value"] == pytest.approx(auc_of(guess) - 0.5)
    assert lead["low"] < 0


def test_a_rate_of_one_percent_is_of_scores_on_each_domains_own_scale():
    """One person's scores lie higher throughout, those of images that the model generates of him too: that tells nothing."""
    found, blind = dealt(("ada", "ben"), 1.0, images=60)
    drawn = found[found["split"] == "nonmember"].assign(split="reference", score=np.random.default_rng(3).normal(size=120))
    found = pd.concat([found, drawn])
    moved = found.assign(score=found["score"] + 10 * (found["domain"] == "ben"))
    tprs = [audit_table(each, blind, Statistics()).query("metric == 'TPR@1%FPR'")["value"].item() for each in (found, moved)]
    assert 0 < tprs[0] == pytest.approx(tprs[1])
    assert "TPR@1%FPR" not in set(audit_table(*dealt(("ada", "ben"), images=49), Statistics())["metric"]), "98 non-members are too few"


def test_the_other_sign_is_named_and_is_no_evidence():
    text = told((0.5, 0.4, 0.6), (0.4, 0.35, 0.45), WEAK)
    assert text.startswith("**No evidence.**")
    assert "The AUC lies below 0.5: the attack tells the two apart with the other sign" in text


def test_a_score_that_is_no_number_has_no_verdict():
    members, others = scores(np.random.default_rng(0), 0.0)
    members[1][3] = np.nan
    with pytest.raises(ParamsError, match="sima gives 1 image a score that is no number"):
        verdict_of(members, others, Audit(), 0)


def test_no_evidence_is_not_called_proof_of_absence():
    text = told((0.5, 0.4, 0.6), (0.52, 0.45, 0.6), WEAK)
    assert text.startswith("**No evidence.**")
    assert "with so many domains an AUC of up to 0.600 remains possible" in text
    assert "with so many images an AUC" in told((0.5, 0.4, 0.6), (0.52, 0.45, 0.6), replace(WEAK, domains=1))
    assert "Of 96 images that the model generates for a domain, none matches a suspected image." in text
    assert "not shown to be more than" in told((0.5, 0.4, 0.6), (0.52, 0.45, 0.6), WEAK, matched=(0.5, 0.0, 1.0))
    assert "after S2L no change is shown (+0.000 [-0.100, +0.100]) (smallest visible: 0.140)" in text


# one's own folders


def paint(folder, name, count, colour):
    (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(colour)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (40 + i, 64, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


def own(tmp_path, pipeline_folder, **more):
    world = {
        "kind": "folder",
        "folders": {"member": str(tmp_path / "in"), "nonmember": str(tmp_path / "out")},
        "subject": "zoe",
        "domains": 40,
    }
    return Lab.open("tiny", {"world": world | more, "base.path": str(pipeline_folder)}, root=tmp_path / "artifacts")


def test_two_folders_of_images_are_a_world(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, f"{side}", 4, seed)
        paint(tmp_path, f"{side}/max", 3, seed + 2)
    (tmp_path / "in" / "0.txt").write_text("a photo of zoe on a beach\n")
    lab = own(tmp_path, pipeline_folder)
    assert [(d.name, len(d.members), len(d.nonmembers)) for d in lab.domains] == [("max", 3, 3), ("zoe", 4, 4)]
    assert lab.domains[1].members.captions[:2] == ("a photo of zoe on a beach", "a photo of zoe")
    assert audit.verdict(lab).members == 7
    assert "trials need a model whose members are known" in audit.no_trials(lab)


def test_two_folders_without_captions_cannot_be_asked_from_outside(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, side, 64, seed)
    lab = own(tmp_path, pipeline_folder)
    assert blackbox.refusal(lab).startswith(
        "blackbox: 64 photographs have no caption of their own, which Attack-I and III need; put a .txt"
    )
    (tmp_path / "out" / "0.txt").write_bytes(b"zo\xeb")
    assert blackbox.refusal(own(tmp_path, pipeline_folder)).startswith("blackbox: ")
    assert "0.txt is not UTF-8 text; save it as UTF-8." in blackbox.refusal(own(tmp_path, pipeline_folder))
    for i in range(64):
        (tmp_path / "out" / f"{i}.txt").write_text("a photo of zoe" if i % 2 else f"a photo of zoe, {i}")  # as a template, but its own
    assert "caption of their own" not in blackbox.refusal(own(tmp_path, pipeline_folder))
    for side, seed in (("in", 2), ("out", 3)):
        paint(tmp_path, f"{side}/ada", 3, seed)
    assert "caption of their own" in blackbox.refusal(own(tmp_path, pipeline_folder, domains=["zoe"])), "of one who is not attacked"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no folder", r"out does not exist; set world.folders.nonmember to a folder of images"),
        ("empty", r"world.folders.nonmember: .*out has no image of 'zoe'; put some there"),
        ("one side", r"world.folders.nonmember: .*out/max has no image of 'max'"),
        ("same image", "is the same image as"),
    ],
)
def test_folders_that_cannot_be_audited_are_refused_with_the_mend(tmp_path, pipeline_folder, how, message):
    paint(tmp_path, "in", 3, 0)
    if how == "empty":
        (tmp_path / "out").mkdir()
    elif how != "no folder":
        paint(tmp_path, "out", 3, 0 if how == "same image" else 1)
    if how == "one side":
        paint(tmp_path, "in/max", 3, 2)
    with pytest.raises(ParamsError, match=message):
        own(tmp_path, pipeline_folder)


def test_the_audit_profile_takes_a_model_and_two_folders(tmp_path):
    p = load_params("audit", {"base.path": "/m", "world.folders.member": "/in", "world.folders.nonmember": "/out"})
    assert p.world.folders == {"member": "/in", "nonmember": "/out"}
    assert load_params("audit", {"world.folder": "/listed"}).world.folders == {}
    with pytest.raises(ParamsError, match="it must name a folder for member and one for nonmember"):
        load_params("tiny", {"world": {"kind": "folder", "folders": {"member": "/in"}}})
