"""Tables of the black-box attack: scenarios, controls, studies, DP-SGD."""

import numpy as np
import pandas as pd

from s2llib.metrics.bootstrap import Estimate, PhotoBootstrap
from s2llib.models.captioner import slot_accuracy
from s2llib.params import Params, Statistics
from s2llib.report.membership import estimate_row, level, level_and_change
from s2llib.study import Study

__all__ = [
    "captioner_table", "control_verdict", "dp_table", "dp_verdict", "printed_dp", "printed_scenarios", "printed_study", "scenario_note",
    "scenario_table", "scenario_verdict", "study_table", "study_verdict", "threshold_table",
]  # fmt: skip

NO_NOISE = "clipping, no noise"
LEARNT = ("error on members", "error on non-members")  # noise prediction
SWAPPED = "; the members of one are the non-members of the other, so that no photograph is easier as a member"
METRICS = {"auc": "AUC", "accuracy": "ASR", "tpr": "TPR@1%FPR"}


def scenario_note(p: Params, spent: int) -> str:
    b = p.blackbox
    return (
        f"Value [95 % interval] over the tested photographs ({b.members // 2} members and {b.members // 2} non-members of each of"
        f" {b.targets} target models{SWAPPED if b.targets > 1 else ''})."
        " Every model was trained once: the intervals are over photographs, not over trainings, and the shadow models share the targets'"
        " base, recipe, seed and people. ASR: accuracy of the hard decision, its threshold fixed on what the model was fitted on."
        f" TPR@1%FPR is pooled over targets; with {b.members // 2 * b.targets} non-members no false alarm is allowed: a rough value."
        f" Attack-I and II are fitted on {b.members // 2} members and as many non-members of the same target, III and IV on"
        f" {2 * b.members} photographs of each of {b.shadows} shadow models. Query budget: {spent} of {b.budget} images per target spent."
        " The values of the paper's tables are not public; its best AUC is 0.95 (Stable Diffusion v1-5)."
    )


def _pairs(frame: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """(members' scores, non-members') of every target."""
    return [
        tuple(part.loc[part["split"] == side, "score"].to_numpy() for side in ("member", "nonmember"))
        for _, part in frame.groupby("target", sort=True)
    ]


def estimates(frame: pd.DataFrame, p: Statistics, metrics: tuple[str, ...] = ("auc",)) -> dict[str, Estimate]:
    """{metric: estimate} of one inference model's scores; frames with as many photographs share their resamples."""
    pairs = _pairs(frame)
    sizes = len(pairs[0][0]), len(pairs[0][1])
    bootstrap = PhotoBootstrap(sizes, p.bootstrap, seed=sizes[0])
    return {metric: getattr(bootstrap, metric)(pairs) for metric in metrics}


def _counts(frame: pd.DataFrame) -> dict:
    counts = {"targets": frame["target"].nunique(), "tested": len(frame)}
    return counts | ({"fitted": frame["fitted"].iloc[0]} if "fitted" in frame else {})


def scenario_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy: AUC, ASR and TPR@1%FPR of every value of `column` (scenario, control) and inference model."""
    rows = []
    for (value, model), part in scores.groupby([column, "model"], sort=False):
        for metric, estimate in estimates(part, p, tuple(METRICS)).items():
            row = {column: value, "method": model, "attack": "black box", "protocol": "iid", "metric": METRICS[metric]}
            rows.append(row | estimate_row(estimate, None, p.level) | _counts(part))
    return pd.DataFrame(rows).assign(paper=None)


def printed_scenarios(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per scenario and inference model, a column per metric."""
    cells = table.assign(cell=[level(row) for _, row in table.iterrows()])
    order = {name: list(dict.fromkeys(table[name])) for name in (column, "method", "metric")}
    wide = cells.pivot(index=[column, "method"], columns="metric", values="cell")[order["metric"]].rename_axis(columns=None)
    return wide.reindex([(a, b) for a in order[column] for b in order["method"] if (a, b) in wide.index])


def _side(row: pd.Series) -> str:
    return "above 0.5" if row["low"] > 0.5 else "below 0.5" if row["high"] < 0.5 else "0.5 is in the interval"


def scenario_verdict(table: pd.DataFrame) -> str:
    """What the main table says, in Markdown sentences."""
    auc, lines = table[table["metric"] == "AUC"], []
    above = (auc["low"] > 0.5).sum()
    lines.append(f"- Of {len(auc)} pairs of scenario and inference model {above} have an AUC above 0.5 beyond their intervals.")
    for scenario, part in auc.groupby("scenario", sort=False):
        lines.append(f"- **{scenario}**: " + "; ".join(f"{row['method']} {level(row)}" for _, row in part.iterrows()) + ".")
    lines.append("- The paper's best AUC is 0.95, on Stable Diffusion v1-5 with other data: a reference, not a comparison.")
    return "\n".join(lines)


def control_verdict(table: pd.DataFrame) -> str:
    """Whether the controls read what they must."""
    auc, lines = table[table["metric"] == "AUC"], []
    for control, part in auc.groupby("control", sort=False):
        found = "; ".join(f"{row['method']} {level(row)}, {_side(row)}" for _, row in part.iterrows())
        wanted = "must leak (0.90 or more)" if control == "overfitted" else "must read 0.5"
        right = (part["value"] >= 0.9).all() if control == "overfitted" else ((part["low"] <= 0.5) & (part["high"] >= 0.5)).all()
        lines.append(f"- **{control}** ({wanted}): {'yes' if right else 'NOT for all'}: {found}.")
    return "\n".join(lines)


def study_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy AUC of Attack-I at each value of a study, with the change against the first value.

    On the same resamples, where as many photographs were tested; on independent ones, where not.
    """
    rows = []
    for model, every in scores.groupby("model", sort=False):
        first = None
        for value, part in every.groupby(column, sort=False):
            estimate = estimates(part, p)["auc"]
            row = {column: value, "method": model, "attack": "black box", "protocol": "iid", "metric": "AUC"}
            rows.append(row | estimate_row(estimate, first, p.level) | _counts(part))
            first = first or estimate
    return pd.DataFrame(rows).assign(paper=None)


def printed_study(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per value, a column per inference model: AUC [interval] (change against the first value [interval])."""
    cells = table.assign(cell=[level_and_change(row) for _, row in table.iterrows()])
    order = [list(dict.fromkeys(table[name])) for name in (column, "method")]
    return cells.pivot(index=column, columns="method", values="cell").loc[order[0], order[1]].rename_axis(columns=None)


def study_verdict(table: pd.DataFrame, column: str) -> str:
    """Which values differ from the first beyond their intervals, in a Markdown sentence."""
    tested, changed = (table["tested"] // table["targets"]).unique(), table[table["delta"].notna()]
    first, count = table[column].iloc[0], " or ".join(str(n) for n in tested)
    fitted = " or ".join(str(n) for n in table["fitted"].unique())
    moved = changed[(changed["delta_low"] > 0) | (changed["delta_high"] < 0)]
    names = [
        f"{row[column]} ({row['method']} {row['delta']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}])"
        for _, row in moved.iterrows()
    ]
    says = f"differ beyond their intervals: {'; '.join(names)}" if names else "differ from it beyond their intervals: none"
    return (
        f"Against {column} {first}, of {len(changed)} values {says} (by chance one in twenty would be). For each of"
        f" {table['targets'].iloc[0]} target(s): fitted on {fitted} photographs, tested on {count}; every model was trained once."
    )


def threshold_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy (TPR + TNR) / 2 of the hard decision score > threshold, by scenario (the paper's Figure 2); threshold model only.

    threshold 0 is the one that was fixed on the fitted evidence; the unit is a standard deviation of that evidence.
    """
    rows = []
    for scenario, part in scores[scores["model"] == "threshold"].groupby("scenario", sort=False):
        pairs = _pairs(part)
        bootstrap = PhotoBootstrap((len(pairs[0][0]), len(pairs[0][1])), p.bootstrap, seed=0)
        for threshold in np.linspace(-2, 2, 41).round(3):
            row = {"scenario": scenario, "threshold": threshold, "method": "threshold", "metric": "(TPR+TNR)/2"}
            rows.append(row | estimate_row(bootstrap.accuracy(pairs, threshold), None, p.level))
    return pd.DataFrame(rows)


def captioner_table(study: Study) -> pd.DataFrame:
    """How well the captioner does: share of the true captions' phrases that it finds, and of captions that it finds whole."""
    rows = []
    for name, photos in zip(("targets", "targets", "shadows", "shadows"), study.private_sets, strict=True):
        written = study.written_captions(photos)
        slots, whole = slot_accuracy(written, list(photos.captions)), [a == b for a, b in zip(written, photos.captions, strict=True)]
        person = [a.split(",")[0] == b.split(",")[0] for a, b in zip(written, photos.captions, strict=True)]
        rows += [
            {"photographs of": name, "phrases": a, "opening": b, "whole caption": c} for a, b, c in zip(slots, person, whole, strict=True)
        ]
    table = 100 * pd.DataFrame(rows).groupby("photographs of", sort=False).mean()
    return table.round(1).assign(photographs=[2 * study.params.blackbox.members] * 2).reset_index()


def dp_table(scores: pd.DataFrame, quality: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy: AUC, CLIP-R precision and noise-prediction error of each training, from the base model over growing epsilon to no DP-SGD.

    delta: the change against the training before it (AUC), against the base model (the rest); against_none: of AUC, against the same
    recipe without noise. Columns of the guarantee.
    """
    rows = []
    for model, every in scores.groupby("model", sort=False):
        found = {training: estimates(part, p)["auc"] for training, part in every.groupby("training", sort=False)}
        before = None
        for training, part in every.groupby("training", sort=False):
            row = {"training": training, "method": model, "attack": "black box", "protocol": "iid", "metric": "AUC"}
            row |= estimate_row(found[training], before, p.level) | _counts(part)
            if training.startswith("epsilon"):
                alone = estimate_row(found[training] - found[NO_NOISE], None, p.level)
                row |= dict(zip(("against_none", "against_low", "against_high"), alone.values(), strict=True))
            rows.append(row)
            before = found[training]
    columns = {LEARNT[0]: lambda row: row["loss"]["member"], LEARNT[1]: lambda row: row["loss"]["nonmember"]}
    if quality["hits"].notna().all():
        columns["CLIP-R precision (%)"] = lambda row: 100 * np.array(row["hits"])
    for metric, values in columns.items():
        base = None
        for training, part in quality.groupby("training", sort=False):
            estimate, count = _mean(part, values, int(metric == LEARNT[1]), p)
            row = {"training": training, "method": "", "attack": "", "protocol": "", "metric": metric}
            rows.append(row | estimate_row(estimate, base, p.level) | {"targets": len(part), "tested": count})
            base = base or estimate
    known = quality.groupby("training", sort=False)[["epsilon", "delta", "clip", "noise multiplier", "norm", "trainable"]].mean()
    known = known.rename(columns={"delta": "dp_delta", "norm": "gradient norm"})
    return pd.DataFrame(rows).merge(known, left_on="training", right_index=True).assign(paper=None)


def _mean(part: pd.DataFrame, values, side: int, p: Statistics) -> tuple[Estimate, int]:
    """The mean over a target's photographs (side 0: members, 1: non-members), then over targets; and how many photographs that is."""
    each = [np.asarray(values(row)) for _, row in part.iterrows()]
    bootstrap = PhotoBootstrap((len(each[0]),) * 2, p.bootstrap, seed=len(each[0]))
    weights = [bootstrap.weights[(i + side) % 2] for i in range(len(each))]
    replicates = np.mean([w @ x / len(x) for w, x in zip(weights, each, strict=True)], axis=0)
    return Estimate(float(np.mean([x.mean() for x in each])), replicates), sum(map(len, each))


def printed_dp(table: pd.DataFrame) -> pd.DataFrame:
    """A row per training: its guarantee, AUC of each inference model, what it learnt (error against the base model's), CLIP-R."""

    def cell(row: pd.Series) -> str:
        if row["metric"] == "AUC":
            return level(row)
        return level(row, ".1f") if "CLIP-R" in row["metric"] else level_and_change(row, ".4f")

    heads = [row["method"] or row["metric"] for _, row in table.iterrows()]
    cells = [cell(row) for _, row in table.iterrows()]
    wide = table.assign(cell=cells, head=heads).pivot(index="training", columns="head", values="cell")
    guarantee = ["epsilon", "dp_delta", "clip", "noise multiplier", "gradient norm", "trainable"]
    known = table.drop_duplicates("training").set_index("training")[guarantee].map(lambda value: "" if pd.isna(value) else f"{value:.4g}")
    known.loc[known.index == NO_NOISE, "epsilon"] = "none"
    shown = known.rename(columns={"dp_delta": "delta", "trainable": "parameters"})
    return shown.join(wide[list(dict.fromkeys(heads))]).loc[list(dict.fromkeys(table["training"]))]


def _named(some: pd.DataFrame) -> str:
    return ", ".join(
        f"{row['training']} ({row['delta']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}])" for _, row in some.iterrows()
    )


def dp_verdict(table: pd.DataFrame) -> str:
    """Whether a smaller epsilon lowers AUC, step by step, and what the models learnt, in Markdown sentences."""
    auc, lines = table[(table["metric"] == "AUC") & table["delta"].notna()], []
    for model, part in auc[auc["training"].str.startswith("epsilon") | (auc["training"] == NO_NOISE)].groupby("method", sort=False):
        up, down = part[part["delta_low"] > 0], part[part["delta_high"] < 0]
        says = f"higher than in the row before at {_named(up)}" if len(up) else "no step to the next row raises it beyond its interval"
        against = f"; lower, against the order, at {_named(down)}" if len(down) else "; none lowers it beyond its interval"
        lines.append(f"- **{model}**, from the base model over growing epsilon to clipping without noise: {says}{against}.")
        noise = part[part["against_none"].notna()]
        found = [
            f"{row['training']} {row['against_none']:+.3f} [{row['against_low']:+.3f}, {row['against_high']:+.3f}]"
            for _, row in noise.iterrows()
        ]
        lines.append(f"- **{model}**, what the noise changes against the same recipe without it: {'; '.join(found)}.")
    for _, row in table[(table["metric"] == LEARNT[0]) & table["delta"].notna()].iterrows():
        more = row["delta_high"] < 0
        says = (
            "learnt its members"
            if more
            else "worse on its members than the base model"
            if row["delta_low"] > 0
            else "learnt nothing beyond the interval"
        )
        lines.append(f"- **{row['training']}** {says}: error {level_and_change(row, '.4f')}.")
    lines.append("- Every row is one training: the intervals are over photographs, not over trainings.")
    lines.append("- Where nothing was learnt, an AUC of 0.5 is that of a model that was not fine-tuned: privacy, but no use.")
    return "\n".join(lines)
