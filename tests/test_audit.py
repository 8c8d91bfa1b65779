"""The audit: its verdict, how often that is right, and a conclusion that claims no more than the intervals allow."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from s2llib import ParamsError, Study
from s2llib.metrics.permutation import permutation_test, smallest_p
from s2llib.metrics.roc import auc
from s2llib.params import Audit, load_params
from s2llib.report.audit import BEYOND_BLIND, audit_extraction_table, audit_report, audit_table, conclusion, gallery, trials_line
from s2llib.stages.audit import AFTER, DEFENDED, EVIDENCE, NO_EVIDENCE, Verdict, _draw, verdict
from s2llib.study import PRETRAINED


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
    found = [verdict(*scores(np.random.default_rng(seed), shift), Audit(), seed).says for seed in range(10)]
    assert found.count(says) >= at_least


def test_the_level_is_kept_where_there_is_nothing():
    p = Audit(level=0.1, permutations=999)
    found = [verdict(*scores(np.random.default_rng(seed), 0, 2, 10), p, seed).says for seed in range(300)]
    assert found.count(EVIDENCE) / 300 < 0.1 + 3 * np.sqrt(0.1 * 0.9 / 300)


def test_too_few_images_for_the_level_are_refused():
    assert smallest_p([(3, 3), (2, 2)], 9999) == pytest.approx(1 / 120)
    with pytest.raises(ParamsError, match=r"audit.level is 0.01 but 3 suspected images and 3 non-members cannot give a p-value below 0.05"):
        verdict([np.arange(3.0)], [np.arange(3.0)], Audit(), 0)


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
        Study.from_profile("tiny", change, root=tmp_path)


def test_an_attack_that_is_not_run_has_no_verdict(tmp_path):
    study = Study.from_profile("tiny", {"audit.attack": "sima", "attacks.names": ["pia", "secmi"]}, root=tmp_path)
    assert study.no_audit().startswith("audit.attack is 'sima', which attacks.names lacks; add it there")
    with pytest.raises(ParamsError, match=r"which attacks.names lacks"):
        study.audit_verdict()


# on a model


@pytest.fixture(scope="module")
def audited(pipeline_folder, tmp_path_factory):
    """The tiny audit of a model with random weights, which saw nothing."""
    changes = {"base.path": str(pipeline_folder), "finetune.methods": ["lora"], "audit.method": "lora"}
    study = Study.from_profile("tiny", changes, root=tmp_path_factory.mktemp("audit"))
    p, blind = study.params, study.blind()
    tables = [audit_table(found, blind, p.statistics) for found in (study.membership([PRETRAINED]), study.audit_changes())]
    return study, *tables, audit_extraction_table(study.audit_extraction(), p)


def test_the_audit_measures_the_model_before_and_after_both_fine_tunings(audited):
    study, table, changes, extraction = audited
    assert set(table["method"]) == {PRETRAINED, "no model"}
    assert set(table["metric"]) == {"AUC", BEYOND_BLIND}, "12 non-members show no rate of 1 %"
    assert set(changes["method"]) == {PRETRAINED, AFTER, DEFENDED, "no model"}
    assert set(changes.loc[changes["method"].isin([AFTER, DEFENDED]), "attack"]) == set(study.params.attacks.names)
    assert changes.loc[changes["method"] == DEFENDED, "delta"].notna().all()
    assert list(extraction["method"].unique()) == [PRETRAINED, AFTER, DEFENDED]
    assert "paper" not in table


def test_the_report_is_one_page_with_its_verdict(audited):
    study, table, changes, extraction = audited
    found = study.audit_verdict()
    text = conclusion(found, table, changes, extraction)
    assert found.says == NO_EVIDENCE
    assert text.startswith(
        "**No evidence.** SimA, the attack named beforehand, gives 12 suspected images against 12 non-members of the same 2"
    )
    assert "That is no proof of absence" in text
    assert "\n" not in text
    page = audit_report(study, text, table, changes, extraction)
    for part in ("# Audit of model", text, "SimA", DEFENDED, "audit_gallery.png"):
        assert part in page


def test_the_gallery_shows_the_closest_matches(audited):
    study = audited[0]
    shown = gallery(study, rows=2)
    assert [x.shape for x in shown.values()] == [(3, 3, 64, 64)] * 2
    domain = study.audit_domains[0]
    closest = study.extracted(domain, PRETRAINED).query("split == 'member'").nsmallest(1, "distance").iloc[0]
    first = next(iter(shown.values()))
    expected = study.generations(domain)[closest["nearest"] : closest["nearest"] + 1].pixels(64)[0]
    assert torch.equal(first[1], expected)


def test_trials_deal_images_anew_and_none_to_both_sides(audited):
    study = audited[0]
    seen, unseen = study.audit_trials(seen=True), study.audit_trials(seen=False)
    for trials in (seen, unseen):
        assert len(trials) == study.params.audit.trials
        assert set(trials["images"]) == set(trials["nonmembers"]) == {6}
    assert seen["auc"].nunique() > 1
    assert unseen["auc"].nunique() > 1
    assert "6 suspected images and 6 non-members of 2 people" in trials_line(seen, unseen, "sima", stranger=False)
    same = Study.from_profile("tiny", {"audit.trial_images": 8}, root=study.store.root)
    assert "0 people have 4 members and 8 non-members" in same.no_trials()


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
        audited[0].variant(change).check_audit()


def test_a_stranger_is_no_matter_where_there_are_no_trials(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, side, 3, seed)
    assert own(tmp_path, pipeline_folder).variant({"audit.stranger": {"seed": 3}}).check_audit() is None


def test_a_stranger_is_asked_about_the_same_images(audited, monkeypatch):
    study = audited[0].variant({"audit.stranger": {"world.seed": 5}, "audit.level": 0.1})
    sides = {name: {"member": np.arange(20.0) + 100, "nonmember": np.arange(20.0)} for name in study._of_attack()}
    monkeypatch.setattr(study, "stranger", lambda: SimpleNamespace(_of_attack=lambda: sides))
    found = study.audit_trials(seen=False)
    assert set(found["auc"]) == {1.0}, "its scores, of members"
    assert not found["right"].any()
    assert set(study.audit_trials(seen=True)["auc"]) != {1.0}


def test_a_stranger_is_the_model_of_another_world(audited, pipeline_folder, monkeypatch):
    study = audited[0].variant({"audit.stranger": {"world.seed": 5, "seed": 3}})
    asked = []
    monkeypatch.setattr(Study, "base_folder", property(lambda self: asked.append(self.params) or pipeline_folder))
    other = study.stranger()
    trained = [p for p in asked if p.trains_base]
    assert {(p.world.seed, p.seed) for p in trained} == {(5, 3)}
    assert other.params.world == study.params.world
    assert not other.params.trains_base
    assert audited[0].stranger() is None


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
    delta = dict(zip(("delta", "delta_low", "delta_high"), moved, strict=True))
    changes = pd.DataFrame(
        [row | {"method": m, "attack": "sima", "metric": "AUC"} | levels(auc_row) | delta for m in (PRETRAINED, AFTER, DEFENDED)]
    )
    counts = [
        row | {"method": PRETRAINED, "attack": "extraction", "metric": m, "images": 96} for m in ("DE", "false alarms", "beyond chance")
    ]
    extraction = pd.DataFrame([count | levels(matched) for count in counts])
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


def test_too_few_nonmembers_show_no_rate_of_one_percent():
    text = told((0.5, 0.4, 0.6), (0.7, 0.6, 0.8), replace(STRONG, nonmembers=64))
    assert "64 non-members are too few for a false-positive rate of 1 %" in text
    assert "the attack finds" not in text


def test_the_lead_over_the_blind_classifier_is_a_paired_difference(audited):
    study, table, *_ = audited
    rows = table.set_index(["method", "attack", "metric"])["value"]
    for attack in study.params.attacks.names:
        expected = rows[PRETRAINED, attack, "AUC"] - max(rows["no model", "blind", "AUC"], 0.5)
        assert rows[PRETRAINED, attack, BEYOND_BLIND] == pytest.approx(expected)
    scores, blind = study.membership([PRETRAINED]), study.blind()
    same = blind[blind["against"] == "nonmember"].assign(attack="sima", method=PRETRAINED, seed=0)
    same["image"] = same.groupby(["domain", "split"]).cumcount()
    same = same[scores.columns.intersection(same.columns)]
    for sign in (1, -1):  # better than guessing, and worse
        lead = audit_table(flipped(same, sign), flipped(blind, sign), study.params.statistics).query("metric == @BEYOND_BLIND").iloc[0]
        value = auc_of(flipped(same, sign))
        assert lead["value"] == pytest.approx(min(value - 0.5, 0)), "an attack that reads what the classifier does has no lead"
        assert lead["high"] <= 0


def flipped(scores, sign):
    return scores.assign(score=sign * scores["score"])


def auc_of(scores):
    of = lambda part, side: part.loc[part["split"] == side, "score"].to_numpy()  # noqa: E731
    return np.mean([auc(of(part, "member"), of(part, "nonmember")) for _, part in scores.groupby("domain")])


def test_a_classifier_worse_than_guessing_lends_the_attack_no_lead(audited):
    """Two people: the attack guesses, the classifier is wrong throughout."""
    rows = [(d, side, i) for d in ("ada", "ben") for side in ("member", "nonmember") for i in range(20)]
    base = pd.DataFrame(rows, columns=["domain", "split", "image"]).assign(seed=0)
    blind = base.drop(columns=["image", "seed"]).assign(against="nonmember", score=(base["split"] == "nonmember").astype(float))
    guess = base.assign(method=PRETRAINED, attack="sima", score=np.random.default_rng(0).normal(size=len(base)))
    lead = audit_table(guess, blind, audited[0].params.statistics).query("metric == @BEYOND_BLIND").iloc[0]
    assert lead["value"] == pytest.approx(auc_of(guess) - 0.5)
    assert lead["low"] < 0


def test_the_other_sign_is_named_and_is_no_evidence():
    text = told((0.5, 0.4, 0.6), (0.4, 0.35, 0.45), WEAK)
    assert text.startswith("**No evidence.**")
    assert "The AUC lies below 0.5: the attack tells the two apart with the other sign" in text


def test_a_score_that_is_no_number_has_no_verdict():
    members, others = scores(np.random.default_rng(0), 0.0)
    members[1][3] = np.nan
    with pytest.raises(ParamsError, match="sima gives 1 image a score that is no number"):
        verdict(members, others, Audit(), 0)


def test_no_evidence_is_not_called_proof_of_absence():
    text = told((0.5, 0.4, 0.6), (0.52, 0.45, 0.6), WEAK)
    assert text.startswith("**No evidence.**")
    assert "an AUC of up to 0.600 remains possible" in text
    assert "Of 96 images that the model generates for a domain, none matches a suspected image." in text
    assert "not clearly more than" in told((0.5, 0.4, 0.6), (0.52, 0.45, 0.6), WEAK, matched=(0.5, 0.0, 1.0))
    assert "does not move beyond its interval" in text


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
    return Study.from_profile("tiny", {"world": world | more, "base.path": str(pipeline_folder)}, root=tmp_path / "artifacts")


def test_two_folders_of_images_are_a_world(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, f"{side}", 4, seed)
        paint(tmp_path, f"{side}/max", 3, seed + 2)
    (tmp_path / "in" / "0.txt").write_text("a photo of zoe on a beach\n")
    study = own(tmp_path, pipeline_folder)
    assert [(d.name, len(d.members), len(d.nonmembers)) for d in study.domains] == [("max", 3, 3), ("zoe", 4, 4)]
    assert study.domains[1].members.captions[:2] == ("a photo of zoe on a beach", "a photo of zoe")
    assert study.audit_verdict().members == 7
    assert "trials need a model whose members are known" in study.no_trials()


def test_two_folders_without_captions_cannot_be_asked_from_outside(tmp_path, pipeline_folder):
    for side, seed in (("in", 0), ("out", 1)):
        paint(tmp_path, side, 64, seed)
    study = own(tmp_path, pipeline_folder)
    assert study.no_blackbox().startswith("blackbox: 64 photographs have no caption of their own, which Attack-I and III need; put a .txt")
    (tmp_path / "out" / "0.txt").write_bytes(b"zo\xeb")
    assert study.variant({}).no_blackbox().startswith("blackbox: ")
    assert "0.txt is not UTF-8 text; save it as UTF-8." in study.variant({}).no_blackbox()
    for i in range(64):
        (tmp_path / "out" / f"{i}.txt").write_text("a photo of zoe" if i % 2 else f"a photo of zoe, {i}")  # as a template, but its own
    assert "caption of their own" not in study.variant({}).no_blackbox()
    for side, seed in (("in", 2), ("out", 3)):
        paint(tmp_path, f"{side}/ada", 3, seed)
    assert "caption of their own" in own(tmp_path, pipeline_folder, domains=["zoe"]).no_blackbox(), "of one who is not attacked"


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
