"""Tables of the black-box attack: scenarios, controls, studies, DP-SGD."""

import numpy as np
import pandas as pd

from s2llib.lab import Lab
from s2llib.metrics.images import Sample, accuracy_sample, auc_sample, combined, mean_sample
from s2llib.metrics.intervals import ANY
from s2llib.metrics.roc import tpr_at_fpr
from s2llib.models.captioner import slot_accuracy
from s2llib.params import Params, Statistics
from s2llib.report.estimate import SHARE, Entry, Photographs, Resampled, estimated, family_note
from s2llib.report.membership import change, level, level_and_change, shown, unseen
from s2llib.studies.blackbox import private_sets, written

__all__ = [
    "captioner_table", "control_verdict", "dp_note", "dp_table", "dp_verdict", "printed_dp", "printed_scenarios", "printed_study",
    "scenario_note", "scenario_table", "scenario_verdict", "study_table", "study_verdict", "threshold_table",
]  # fmt: skip

NO_NOISE = "clipping, no noise"
LEARNT = ("error on members", "error on non-members")  # noise prediction
CLIP = "CLIP-R precision (%)"
GUARANTEE = {"epsilon": "epsilon", "delta": "dp_delta", "clip": "clip", "noise multiplier": "noise multiplier", "trainable": "trainable"}
SWAPPED = "; the members of one are the non-members of the other, so that no photograph is easier as a member"
OF_NOISE = "_no_noise"  # columns of the change against the same recipe without noise


def scenario_note(p: Params, spent: int, table: pd.DataFrame) -> str:
    """What stands under the main table; spent: images that a target was asked for."""
    b = p.blackbox
    return (
        f"Value [95 % interval] over the tested photographs ({b.members // 2} members and {b.members // 2} non-members of each of"
        f" {b.targets} target models{SWAPPED if b.targets > 1 else ''})."
        " Every model was trained once: the intervals are over photographs, not over trainings, and the shadow models share the targets'"
        " base, recipe, seed and people. ASR: accuracy of the hard decision, its threshold fixed on what the model was fitted on."
        f" TPR@1%FPR is pooled over targets; with {b.members // 2 * b.targets} non-members no false alarm is allowed: a rough value."
        f" Attack-I and II are fitted on {b.members // 2} members and as many non-members of the same target, III and IV on"
        f" {2 * b.members} photographs of each of {b.shadows} shadow models. Query budget: {spent} of {b.budget} images per target spent."
        f" {family_note(table, '0.5')} The values of the paper's tables are not public; its best AUC is 0.95 (Stable Diffusion v1-5)."
    )


# measures


def _name(target: int, split: str, photographs: int) -> str:
    """Which photographs these are: the members of one target are the non-members of the other.

    Values that were tested on as many are paired, photograph by photograph; on fewer or more, they count as independent.
    """
    return f"{'first' if (target + (split == 'nonmember')) % 2 == 0 else 'second'} {photographs}"


def _sides(frame: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray, tuple[str, str]]]:
    """(members' scores, non-members', names of the two sets) of every target."""
    found = []
    for target, part in frame.sort_values("image").groupby("target", sort=True):
        each = {split: part.loc[part["split"] == split, "score"].to_numpy() for split in ("member", "nonmember")}
        found.append((*each.values(), tuple(_name(target, split, len(x)) for split, x in each.items())))
    return found


def _mean(samples: list[Sample], bounds: tuple[float, float] = SHARE, unit: float | None = 1.0) -> Photographs:
    """The mean over targets."""
    return Photographs(combined(samples, [1 / len(samples)] * len(samples)), bounds, unit)


def _auc(frame: pd.DataFrame) -> Photographs:
    return _mean([auc_sample(*sides) for sides in _sides(frame)])


def _asr(frame: pd.DataFrame, threshold: float = 0.0) -> Photographs:
    return _mean([accuracy_sample(members, others, threshold, names) for members, others, names in _sides(frame)])


def _tpr(frame: pd.DataFrame) -> Resampled:
    """On scores pooled over targets."""
    sides = _sides(frame)
    members, others = (np.concatenate(side) for side in list(zip(*sides, strict=True))[:2])

    def statistic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        drawn = [(first, second), (second, first)][: len(sides)]
        return tpr_at_fpr(members, others, 0.01, *(np.concatenate(side, axis=1) for side in zip(*drawn, strict=True)))

    return Resampled(statistic, tuple(map(len, sides[0][:2])))


METRICS = {"AUC": _auc, "ASR": _asr, "TPR@1%FPR": _tpr}


def _labels(column: str, value: object, model: str, metric: str, part: pd.DataFrame) -> dict:
    labels = {column: value, "method": model, "attack": "black box", "protocol": "iid", "metric": metric}
    labels |= {"targets": part["target"].nunique(), "tested": len(part)}
    return labels | ({"fitted": part["fitted"].iloc[0]} if "fitted" in part else {}) | {"paper": None}


# scenarios and controls


def scenario_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy: AUC, ASR and TPR@1%FPR of every value of `column` (scenario, control) and inference model; p: against 0.5."""
    entries = []
    for (value, model), part in scores.groupby([column, "model"], sort=False):
        for metric, measure in METRICS.items():
            labels = _labels(column, value, model, metric, part)
            entries.append(Entry(labels, measure(part), null=None if measure is _tpr else 0.5))
    return estimated(entries, p)


def printed_scenarios(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per scenario and inference model, a column per metric."""
    cells = table.assign(cell=[level(row) for _, row in table.iterrows()])
    order = {name: list(dict.fromkeys(table[name])) for name in (column, "method", "metric")}
    wide = cells.pivot(index=[column, "method"], columns="metric", values="cell")[order["metric"]].rename_axis(columns=None)
    return wide.reindex([(a, b) for a in order[column] for b in order["method"] if (a, b) in wide.index])


def _side(row: pd.Series) -> str:
    return f"shown to be {'above' if row['value'] > 0.5 else 'below'} 0.5" if shown(row) else "not shown to differ from 0.5"


def scenario_verdict(table: pd.DataFrame) -> str:
    """What the main table says, in Markdown sentences."""
    auc, lines = table[table["metric"] == "AUC"], []
    above = auc.apply(shown, axis=1) & (auc["value"] > 0.5)
    seen = unseen(auc.loc[~above, "smallest_visible"])
    lines.append(f"- Of {len(auc)} pairs of scenario and inference model {above.sum()} are shown to have an AUC above 0.5{seen}.")
    for scenario, part in auc.groupby("scenario", sort=False):
        lines.append(f"- **{scenario}**: " + "; ".join(f"{row['method']} {level(row)}" for _, row in part.iterrows()) + ".")
    lines.append("- The paper's best AUC is 0.95, on Stable Diffusion v1-5 with other data: a reference, not a comparison.")
    return "\n".join(lines)


def control_verdict(table: pd.DataFrame) -> str:
    """Whether the controls read what they must: one must leak, and of the others no difference from 0.5 may be shown."""
    auc, lines = table[table["metric"] == "AUC"], []
    for control, part in auc.groupby("control", sort=False):
        found, leaks = "; ".join(f"{row['method']} {level(row)}, {_side(row)}" for _, row in part.iterrows()), control == "overfitted"
        wanted = "must leak (0.90 or more)" if leaks else "must not be shown to differ from 0.5"
        right = (part["value"] >= 0.9).all() if leaks else not part.apply(shown, axis=1).any()
        seen = "" if leaks else unseen(part["smallest_visible"])
        lines.append(f"- **{control}** ({wanted}): {'yes' if right else 'NOT for all'}{seen}: {found}.")
    return "\n".join(lines)


def threshold_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy (TPR + TNR) / 2 of the hard decision score > threshold, by scenario (the paper's Figure 2); threshold model only.

    threshold 0 is the one that was fixed on the fitted evidence; the unit is a standard deviation of that evidence.
    """
    entries = []
    for scenario, part in scores[scores["model"] == "threshold"].groupby("scenario", sort=False):
        for threshold in np.linspace(-2, 2, 41).round(3):
            labels = {"scenario": scenario, "threshold": threshold, "method": "threshold", "metric": "(TPR+TNR)/2"}
            entries.append(Entry(labels, _asr(part, threshold)))
    return estimated(entries, p)


def captioner_table(lab: Lab) -> pd.DataFrame:
    """How well the captioner does: share of the true captions' phrases that it finds, and of captions that it finds whole."""
    rows = []
    for name, photos in zip(("targets", "targets", "shadows", "shadows"), private_sets(lab), strict=True):
        found = written(lab, photos)
        slots, whole = slot_accuracy(found, list(photos.captions)), [a == b for a, b in zip(found, photos.captions, strict=True)]
        person = [a.split(",")[0] == b.split(",")[0] for a, b in zip(found, photos.captions, strict=True)]
        rows += [
            {"photographs of": name, "phrases": a, "opening": b, "whole caption": c} for a, b, c in zip(slots, person, whole, strict=True)
        ]
    table = 100 * pd.DataFrame(rows).groupby("photographs of", sort=False).mean()
    return table.round(1).assign(photographs=[2 * lab.params.blackbox.members] * 2).reset_index()


# studies


def study_table(scores: pd.DataFrame, column: str, p: Statistics) -> pd.DataFrame:
    """Tidy AUC of Attack-I at each value of a study, with the change against the first value.

    On the same photographs, where as many were tested; on independent ones, where not.
    """
    entries = []
    for model, every in scores.groupby("model", sort=False):
        found = [(value, part, _auc(part)) for value, part in every.groupby(column, sort=False)]
        for i, (value, part, measure) in enumerate(found):
            entries.append(Entry(_labels(column, value, model, "AUC", part), measure, found[0][2] if i else None))
    return estimated(entries, p)


def printed_study(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per value, a column per inference model: AUC [interval] (change against the first value [interval])."""
    cells = table.assign(cell=[level_and_change(row) for _, row in table.iterrows()])
    order = [list(dict.fromkeys(table[name])) for name in (column, "method")]
    return cells.pivot(index=column, columns="method", values="cell").loc[order[0], order[1]].rename_axis(columns=None)


def study_verdict(table: pd.DataFrame, column: str) -> str:
    """Which values are shown to differ from the first, in Markdown sentences."""
    tested, changed = (table["tested"] // table["targets"]).unique(), table[table["delta"].notna()]
    count, fitted = (" or ".join(str(n) for n in some) for some in (tested, table["fitted"].unique()))
    moved = changed[changed.apply(shown, axis=1)]
    names = "; ".join(f"{row[column]} ({row['method']} {change(row)})" for _, row in moved.iterrows())
    says = f"{len(moved)} are shown to differ: {names}" if len(moved) else "none is shown to differ"
    return (
        f"Against {column} {table[column].iloc[0]}, of {len(changed)} values {says}. {family_note(table)} For each of"
        f" {table['targets'].iloc[0]} target(s): fitted on {fitted} photographs, tested on {count}; every model was trained once."
    )


# DP-SGD


def dp_note(table: pd.DataFrame) -> str:
    """What stands under the table of DP-SGD: what the guarantee is of, and what lies outside of it."""
    return (
        "epsilon, delta: differential privacy of the LoRA's weights for every photograph, against adding or removing one (how many there"
        " are counts as known), by opacus' accountant (Renyi DP). The noise comes from PyTorch's generator, which is no cryptographic one,"
        " from a seed that whoever holds the photographs can compute: these models are for measuring, not for release. No loss and no"
        " gradient norm of their training is written: both are computed from the photographs without noise, which the guarantee does not"
        " cover. AUC, error and CLIP-R are measured by us, the evaluators, on the photographs themselves, outside of the guarantee too:"
        " whoever has to keep it cannot publish them. AUC's change is against the row before, and (no_noise) against the same recipe"
        f" without noise; the others' against the base model. {family_note(table)}"
    )


def dp_table(scores: pd.DataFrame, quality: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy: AUC, CLIP-R precision and noise-prediction error of each training, from the base model over growing epsilon to no DP-SGD.

    delta: the change against the training before it (AUC), against the base model (the rest); delta_no_noise: of AUC, against the same
    recipe without noise. Columns of the guarantee.
    """
    known = quality.groupby("training", sort=False)[list(GUARANTEE)].first().rename(columns=GUARANTEE).to_dict("index")
    entries = []
    for model, every in scores.groupby("model", sort=False):
        found, before = {training: _auc(part) for training, part in every.groupby("training", sort=False)}, None
        for training, part in every.groupby("training", sort=False):
            others = {OF_NOISE[1:]: found[NO_NOISE]} if training.startswith("epsilon") else {}
            labels = _labels("training", training, model, "AUC", part) | known[training]
            entries.append(Entry(labels, found[training], before, others=others))
            before = found[training]
    for metric, measured in _learnt(quality).items():
        base = None
        for training, measure in measured.items():
            count = {"targets": (quality["training"] == training).sum(), "tested": sum(map(len, measure.sample.influence.values()))}
            labels = {"training": training, "method": "", "attack": "", "protocol": "", "metric": metric, **count, "paper": None}
            entries.append(Entry(labels | known[training], measure, base))
            base = base or measure
    return estimated(entries, p)


def _learnt(quality: pd.DataFrame) -> dict[str, dict[str, Photographs]]:
    """{metric: {training: what it learnt}}: errors, and hits where there are any."""
    values = {LEARNT[0]: ("member", lambda row: row["loss"]["member"], ANY, None)}
    values[LEARNT[1]] = ("nonmember", lambda row: row["loss"]["nonmember"], ANY, None)
    if quality["hits"].notna().all():
        values[CLIP] = ("member", lambda row: 100 * np.array(row["hits"]), (0.0, 100.0), 100.0)
    found: dict[str, dict[str, Photographs]] = {}
    for metric, (split, of, bounds, unit) in values.items():
        for training, part in quality.groupby("training", sort=False):
            each = [(row["target"], of(row)) for _, row in part.iterrows()]
            samples = [mean_sample(x, _name(target, split, len(x))) for target, x in each]
            found.setdefault(metric, {})[training] = _mean(samples, bounds, unit)
    return found


def printed_dp(table: pd.DataFrame) -> pd.DataFrame:
    """A row per training: its guarantee, AUC of each inference model, what it learnt (error against the base model's), CLIP-R."""

    def cell(row: pd.Series) -> str:
        if row["metric"] == "AUC":
            return level(row)
        return level(row, ".1f") if row["metric"] == CLIP else _error(row)

    heads = [row["method"] or row["metric"] for _, row in table.iterrows()]
    cells = [cell(row) for _, row in table.iterrows()]
    wide = table.assign(cell=cells, head=heads).pivot(index="training", columns="head", values="cell")
    known = table.drop_duplicates("training").set_index("training")[list(GUARANTEE.values())]
    known = known.map(lambda value: "" if pd.isna(value) else f"{value:.4g}")
    known.loc[known.index == NO_NOISE, "epsilon"] = "none"
    known = known.rename(columns={"dp_delta": "delta", "trainable": "parameters"})
    return known.join(wide[list(dict.fromkeys(heads))]).loc[list(dict.fromkeys(table["training"]))]


def dp_verdict(table: pd.DataFrame) -> str:
    """Whether a smaller epsilon lowers AUC, step by step, and what the models learnt, in Markdown sentences."""
    auc, lines = table[(table["metric"] == "AUC") & table["delta"].notna()], []
    for model, part in auc[auc["training"] != "no DP-SGD"].groupby("method", sort=False):
        moves, seen = part.apply(shown, axis=1), unseen(part["smallest_visible"])
        named = lambda some: ", ".join(f"{row['training']} ({change(row)})" for _, row in some.iterrows())  # noqa: E731
        up, down = (part[moves & side] for side in (part["delta"] > 0, part["delta"] < 0))
        says = f"shown to be higher than in the row before at {named(up)}" if len(up) else "no step to the next row is shown to raise it"
        against = f"; shown to be lower, against the order, at {named(down)}" if len(down) else "; none is shown to lower it"
        lines.append(f"- **{model}**, from the base model over growing epsilon to clipping without noise: {says}{against}{seen}.")
        lines.append(f"- **{model}**, what the noise changes against the same recipe without it: {_of_noise(part)}.")
    for _, row in table[(table["metric"] == LEARNT[0]) & table["delta"].notna()].iterrows():
        says = "is shown to have learnt its members" if row["delta"] < 0 else "is shown to be worse on its members than the base model"
        if not shown(row):
            says = f"is not shown to have learnt anything{unseen([row['smallest_visible']], '.2g')}"
        lines.append(f"- **{row['training']}** {says}: error {_error(row)}.")
    lines.append("- Every row is one training: the intervals are over photographs, not over trainings.")
    lines.append("- Where nothing was learnt, an AUC of 0.5 is that of a model that was not fine-tuned: privacy, but no use.")
    return "\n".join(lines)


def _error(row: pd.Series) -> str:
    """An error with its change, which is small beside it."""
    return level(row, ".4f") + ("" if pd.isna(row["delta"]) else f" ({change(row, '+.2g')})")


def _of_noise(part: pd.DataFrame) -> str:
    """AUC against the same recipe without noise, of every epsilon."""
    noisy = part[part[f"delta{OF_NOISE}"].notna()]
    moves = [(row, shown(row, of=OF_NOISE)) for _, row in noisy.iterrows()]
    found = "; ".join(f"{row['training']} {change(row, of=OF_NOISE)}{', shown' if moved else ''}" for row, moved in moves)
    return found + ("" if any(moved for _, moved in moves) else f": no change is shown{unseen(noisy[f'smallest_visible{OF_NOISE}'])}")
