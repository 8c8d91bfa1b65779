"""Shake-to-Leak on the tiny lab: what its tables hold and what they depend on."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from s2llib import Lab
from s2llib.compute.models import folder, training
from s2llib.finetune.methods import PRETRAINED
from s2llib.metrics.roc import auc
from s2llib.params import Statistics
from s2llib.report import Report
from s2llib.report.ablations import ablation_table, trend_table, trends
from s2llib.report.finetuning import _made_alike, methods_table, printed_methods
from s2llib.report.membership import membership_table, printed_membership, sweep_table, verdicts
from s2llib.report.placebo import placebo_table, placebo_verdicts, printed_placebo
from s2llib.scores import figures_root
from s2llib.specs import Tune
from s2llib.studies import ablations, plan, s2l


@pytest.fixture(scope="module")
def scores(lab):
    return s2l.membership(lab)


@pytest.fixture(scope="module")
def table(lab, scores):
    return membership_table(scores, s2l.blind(lab), lab.params.statistics)


def test_every_cell_of_the_grid_is_scored_by_every_attack(lab, scores):
    cells = scores.groupby(["domain", "method", "attack"]).size()
    assert len(cells) == 2 * (1 + len(lab.params.finetune.methods)) * 5
    single_copy_members, nonmembers, studio, street = 6, 6, 4, 4
    assert set(cells) == {single_copy_members + nonmembers + studio + street + lab.params.sp.images}
    assert scores["score"].notna().all()


def test_the_stored_cost_is_the_defined_one(scores):
    cost = scores.groupby("attack")["evaluations"].unique().map(list).to_dict()
    assert cost == {"secmi": [6], "pia": [2], "pian": [2], "loss": [5], "sima": [1]}


def test_every_value_has_an_interval_and_every_change_is_the_difference(lab, table):
    spread = table[table["low"].notna()]
    assert (spread["low"] <= spread["value"] + 1e-9).all()
    assert (spread["value"] <= spread["high"] + 1e-9).all()
    assert set(table[table["low"].isna()]["interval"]) <= {"no spread bootstrap over 2 domains, one training"}
    keys = ["attack", "protocol", "metric"]
    tuned = table[table["delta"].notna()].merge(table[table["method"] == PRETRAINED], on=keys, suffixes=("", "_base"))
    assert len(tuned) == 5 * len(lab.params.finetune.methods) * 3 * 2
    assert (tuned["delta"] - (tuned["value"] - tuned["value_base"])).abs().max() < 1e-9


def test_the_auc_of_the_table_is_that_of_the_scores(scores, table):
    from sklearn.metrics import roc_auc_score

    part = scores[(scores["method"] == "lora") & (scores["attack"] == "pia") & scores["split"].isin(["member", "studio"])]
    each = [roc_auc_score(p["split"] == "member", p["score"]) for _, p in part.groupby("domain")]
    row = table.query("method == 'lora' and attack == 'pia' and protocol == 'shifted (studio)' and metric == 'AUC'")
    assert row["value"].item() == pytest.approx(sum(each) / len(each))


def test_papers_values_stand_only_where_they_are_known(table):
    known = table[table["paper"].notna()]
    assert set(known["paper"]) == {0.054}
    assert set(known["attack"]) == {"secmi"}
    assert set(known["metric"]) == {"AUC change"}
    assert table[table["protocol"] == "iid"][["paper", "mixsyn_table1"]].isna().all(axis=None)
    assert set(table[table["mixsyn_table1"].notna()]["attack"]) == {"secmi", "pia"}
    shown = table.query("method == 'dreambooth' and attack == 'pia' and metric == 'AUC' and protocol != 'iid'")
    assert shown["mixsyn_table1"].unique().tolist() == [0.749]


def test_a_table_is_written_in_three_forms_with_its_provenance(lab, table, tmp_path, monkeypatch):
    monkeypatch.setenv("S2L_FIGURES", str(tmp_path))
    Report(lab, "03").table("s2l_membership", table, printed_membership(table), "a note")
    folder = tmp_path / "tiny"
    assert len(pd.read_csv(folder / "s2l_membership.csv")) == len(table)
    assert "DreamBooth+LoRA" in (folder / "s2l_membership.md").read_text()
    latex = (folder / "s2l_membership.tex").read_text()
    assert r"\begin{tabular}" in latex
    assert not re.search(r"(?<!\\)[%&_]", re.sub(r"^.*&.*$|\\label.*", "", latex, flags=re.MULTILINE))
    source = json.loads((folder / "provenance.json").read_text())
    assert {"profile", "seeds", "packages", "commit", "hardware", "files"} <= set(source)
    assert source["files"]["s2l_membership.csv"]["notebook"] == "03"


def test_the_verdict_follows_the_adjusted_p():
    row = {"attack": "pia", "protocol": "iid", "metric": "AUC", "value": 0.6, "low": 0.5, "high": 0.7, "p_adjusted": 0.04}
    tuned = [
        row | {"method": "dreambooth", "delta": 0.1, "delta_low": 0.05, "delta_high": 0.15},
        row | {"method": "lora", "delta": -0.1, "delta_low": -0.15, "delta_high": -0.05},
        row | {"method": "dreambooth_lora", "delta": 0.01, "delta_low": 0.001, "delta_high": 0.05, "p_adjusted": 0.06},
    ]
    text = verdicts(pd.DataFrame([row | {"method": PRETRAINED}, *tuned]))
    assert "DreamBooth: rises" in text
    assert "LoRA: falls" in text
    assert "DreamBooth+LoRA: no change is shown" in text, "its own interval excludes zero, the table's p does not"
    assert "other sign" not in text
    assert "**iid**: of 3 method and attack pairs 1 are shown to rise and 1 to fall. They rise for DreamBooth / PIA." in text


def test_a_fall_below_one_half_is_called_leakage():
    row = {"attack": "pia", "protocol": "shifted (studio)", "metric": "AUC"}
    base = row | {"method": PRETRAINED, "value": 0.3, "low": 0.2, "high": 0.4}
    tuned = row | {"method": "lora", "value": 0.2, "low": 0.1, "high": 0.3, "delta": -0.1, "delta_low": -0.2, "delta_high": -0.05}
    tuned |= {"p_adjusted": 0.01}
    blind = row | {"attack": "blind", "method": "no model", "value": 0.9, "low": 0.8, "high": 1.0}
    text = verdicts(pd.DataFrame([base, tuned, blind]))
    assert "below 0.5: leakage with the other sign" in text
    assert "LoRA: falls away from 0.5" in text
    assert "may be reading the style" in text


def test_the_sweep_covers_each_attack_and_timestep_before_and_after(lab):
    table = sweep_table(s2l.sweep(lab), lab.params.statistics)
    assert len(table) == 5 * 2 * 2
    assert set(table["t"]) == {20, 100}


def test_a_relative_home_is_below_the_repository_wherever_a_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("S2L_HOME", "some/store")
    monkeypatch.setenv("S2L_FIGURES", "~/pictures")
    assert Lab.open("tiny").store.root == Path(__file__).resolve().parent.parent / "some" / "store"
    assert figures_root() == Path.home() / "pictures"


def test_another_finetuning_seed_gives_another_model_and_the_same_base(lab):
    other = Lab.open("tiny", {"finetune.seeds": [1], "finetune.methods": ["lora"], "world.domains": 1})
    mine = s2l.membership(lab, ["pretrained", "lora"]).query(f"domain == '{other.domains[0].name}'")
    theirs = s2l.membership(other)
    same = {method: mine[mine["method"] == method]["score"].tolist() == part["score"].tolist() for method, part in theirs.groupby("method")}
    assert same == {"pretrained": True, "lora": False}


@pytest.mark.parametrize(("members", "never_seen", "left"), [(0.8, 0.8, False), (0.8, 0.0, True)])
def test_the_placebo_tells_style_from_membership(members, never_seen, left):
    """Fine-tuning lifts the scores of members, and of iid non-members or not, against a shifted set that it leaves alone."""
    rng, rows = np.random.default_rng(0), []
    for domain in "abcdefghij":
        means = {"member": members, "nonmember": never_seen, "street": 0.0}
        for split in means:
            before = rng.normal(0, 1, 30)
            for method, score in ((PRETRAINED, before), ("lora", before + means[split])):
                row = {"domain": domain, "method": method, "seed": 0, "attack": "pia", "split": split, "image": range(30)}
                rows.append(pd.DataFrame(row | {"score": score}))
    scores = pd.concat(rows, ignore_index=True)
    table = placebo_table(scores, Statistics()).set_index("in place of members")
    side = scores.groupby(["method", "domain", "split"])["score"].apply(np.array)
    against = lambda m, d, split: auc(side[m, d, split], side[m, d, "street"])  # noqa: E731
    lift = lambda split: np.mean([against("lora", d, split) - against(PRETRAINED, d, split) for d in "abcdefghij"])  # noqa: E731
    assert table.loc["members", "delta"] == pytest.approx(lift("member"))
    assert table.loc["never seen", "delta"] == pytest.approx(lift("nonmember"))
    assert table.loc["difference", "delta"] == pytest.approx(lift("member") - lift("nonmember"))
    text = placebo_verdicts(table.reset_index())
    assert ("a rise is left for membership" in text) == left
    assert ("no rise is shown to be left for membership" in text) != left
    assert list(printed_placebo(table.reset_index()).columns) == ["members", "never seen", "difference"]


def test_a_placebo_says_so_when_nothing_rises(lab, scores):
    table = placebo_table(scores, lab.params.statistics)
    assert len(table) == 5 * 2 * len(lab.params.finetune.methods) * 3
    flat = table.assign(p_adjusted=1.0)
    assert placebo_verdicts(flat) == "No attack is shown to rise under a shifted protocol."


def fake_scores(cells, shift):
    """Scores of 20 members and 20 non-members for each (domain, method, seed) cell; members lie `shift(method)` higher."""
    rows = []
    for n, (domain, method, seed) in enumerate(cells):
        rng = np.random.default_rng(n)
        for split, mean in (("member", shift(method)), ("nonmember", 0.0)):
            score = rng.normal(mean, 1, 20)
            rows.append(
                pd.DataFrame({"domain": domain, "method": method, "seed": seed, "split": split, "image": range(20), "score": score})
            )
    return pd.concat(rows, ignore_index=True).assign(attack="pia", setting="{}", evaluations=2)


def test_a_method_on_fewer_domains_is_compared_with_the_base_on_those():
    cells = [(d, PRETRAINED, 0) for d in "abc"] + [(d, "lora", 0) for d in "abc"] + [("b", "dreambooth", 0), ("b", "dreambooth", 1)]
    scores = fake_scores(cells, lambda method: 0.5)
    table = membership_table(scores, pd.DataFrame({"against": []}), Statistics())
    row = table.query("method == 'dreambooth' and metric == 'AUC'").iloc[0]
    side = lambda method, split, seed: scores.query("domain == 'b' and method == @method and split == @split and seed == @seed")["score"]  # noqa: E731
    each = lambda method, seed: auc(side(method, "member", seed).to_numpy(), side(method, "nonmember", seed).to_numpy())  # noqa: E731
    tuned = (each("dreambooth", 0) + each("dreambooth", 1)) / 2
    assert row["value"] == pytest.approx(tuned)
    assert row["delta"] == pytest.approx(tuned - each(PRETRAINED, 0))
    assert (row["domains"], row["seeds"]) == (1, "2")
    assert "DreamBooth (1 domain: interval over images)" in printed_membership(table).reset_index()["method"].tolist()


def test_seeds_on_some_domains_only_are_said_to_be():
    cells = [(d, PRETRAINED, 0) for d in "abc"] + [("a", "lora", 0), ("a", "lora", 1), ("b", "lora", 0), ("c", "lora", 0)]
    table = membership_table(fake_scores(cells, lambda _: 0.5), pd.DataFrame({"against": []}), Statistics())
    assert set(table.query("method == 'lora'")["seeds"]) == {"2 on 1 domains, 1 on 2"}


@pytest.mark.parametrize(
    ("slope", "says", "if_claimed_to_rise", "if_claimed_to_matter"),
    [
        (0.8, "it rises", ": the paper's trend holds here", ": an effect of this parameter, as in the paper"),
        (-0.8, "it falls", ": the paper's trend is reversed here", ": an effect of this parameter, as in the paper"),
        (0.0, "no linear trend is shown", *["; the paper's is not seen here"] * 2),
    ],
)
def test_an_ablation_says_which_way_the_change_moves(slope, says, if_claimed_to_rise, if_claimed_to_matter):
    parts = []
    for i, value in enumerate((1, 4, 16)):
        cells = [(d, m, 0) for d in "abcdefgh" for m in (PRETRAINED, "lora")]
        means = {PRETRAINED: 0.0, "lora": 0.8 + slope * (i - 1)}
        parts.append(fake_scores(cells, means.get).assign(value=value, trainable=value))
    scores, p = pd.concat(parts), Statistics()
    table, trend = ablation_table(scores, "rank", p), trend_table(scores, "rank", p)
    assert table["rank"].tolist() == [1, 1, 4, 4, 16, 16]
    changes = table["delta"].dropna().tolist()
    assert trend["value"].item() == pytest.approx(changes[-1] - changes[0])  # of three equally spaced points, the line's ends
    for claim, more in ((None, ""), ("rises", if_claimed_to_rise), ("depends", if_claimed_to_matter)):
        assert trends(trend, table, claim).endswith(f": {says}{more}.")


def test_where_the_base_differs_the_level_has_a_trend_of_its_own_and_the_claim():
    parts = []
    for i, value in enumerate(("small", "large")):
        cells = [(d, m, 0) for d in "abcdefgh" for m in (PRETRAINED, "lora")]
        parts.append(fake_scores(cells, {PRETRAINED: 1.5 * i, "lora": 1.5 * i}.get).assign(value=value, trainable=1))
    scores, p = pd.concat(parts), Statistics()
    table, trend = ablation_table(scores, "base model", p), trend_table(scores, "base model", p)
    assert trend["metric"].tolist() == ["trend of the AUC change", "trend of the AUC after fine-tuning"]
    first, last = table.loc[table["method"] == "lora", "value"]
    assert trend["value"].iloc[1] == pytest.approx(last - first)
    of_change, of_level = trends(trend, table, "rises").splitlines()
    assert of_change.endswith(": no linear trend is shown.")
    assert of_level.endswith(": it rises: the paper's trend holds here.")


def test_an_ablation_counts_the_domains_that_its_method_ran_on(lab):
    few = lab.at({"world.domains": 2, "ablations.domains": 2, "finetune.fewer_domains": {"dreambooth_lora": 1}})
    rank = ablations.Ablation("rank", "dreambooth_lora", {4: {"finetune.dreambooth_lora.rank": 4}}, None)
    scores = ablations.ablation(few, rank)
    assert scores.groupby("method")["domain"].nunique().tolist() == [2, 2]


def test_an_ablation_shares_what_does_not_depend_on_its_parameter(lab):
    scores = ablations.ablation(lab, ablations.ablations(lab.params)["s2l_figure2_left"])
    assert sorted(scores["value"].unique()) == [1, 4]
    base = scores[scores["method"] == PRETRAINED].pivot_table(index=["attack", "split", "image"], columns="value", values="score")
    assert (base[1] == base[4]).all()
    tuned = scores[scores["method"] != PRETRAINED].groupby("value")["trainable"].unique()
    assert tuned[4].item() == 4 * tuned[1].item() > 0


def test_every_method_has_its_line(lab, table):
    hits = s2l.clip_hits(lab, [PRETRAINED, *lab.params.finetune.methods])
    tidy = methods_table(lab, s2l.finetuned(lab), hits, table)
    shown = printed_methods(tidy)
    assert shown.index[0] == "Pre-trained"
    assert len(shown) == 1 + len(lab.params.finetune.methods)
    assert not (shown.iloc[1:] == "").any().any()
    clip = tidy[tidy["metric"] == "CLIP-R precision"]
    assert clip["value"].between(0, 100).all()


def test_seconds_are_compared_between_models_made_with_as_many_threads():
    models = pd.DataFrame({"method": ["a", "a", "b", "b"], "threads": [None, 1, 2, 1], "seconds": [5.0, 9.0, 4.0, 8.0]})
    assert _made_alike(models)["seconds"].tolist() == [9.0, 8.0]
    assert _made_alike(models[models["threads"] != 1]).empty


@pytest.mark.parametrize("method", ["dreambooth", "lora", "textual_inversion", "hypernetwork"])
def test_a_stop_of_a_run_is_the_model_of_a_shorter_run(lab, method):
    model = plan.tuned(lab, lab.domains[0], method)
    models, short = plan.after_steps(model, [2, 5]), replace(model, recipe=model.recipe.model_copy(update={"steps": 2}))
    stopped, alone = folder(lab, models[2]), folder(lab, short)
    weights = sorted(path.relative_to(alone) for path in alone.rglob("*.safetensors"))
    assert weights
    assert all((stopped / path).read_bytes() == (alone / path).read_bytes() for path in weights)
    assert training(lab, models[2])["loss"] == training(lab, short)["loss"]
    assert len(training(lab, models[5])["loss"]) == 5


def test_of_a_cosine_schedule_every_length_is_a_run_of_its_own(lab):
    model = plan.tuned(lab, lab.domains[0], "lora")
    falling = replace(model, recipe=model.recipe.model_copy(update={"schedule": "cosine"}))
    assert all(isinstance(each, Tune) and not each.stops for each in plan.after_steps(falling, [2, 5]).values())
