"""The study's figures. Every function returns a matplotlib Figure; `Report.figure` writes it."""

from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import PRETRAINED
from s2llib.metrics.roc import roc_curve
from s2llib.report.membership import method_title
from s2llib.report.placebo import PLACES

__all__ = [
    "ablation", "changes", "contact_sheet", "curves", "extraction_curves", "levels", "named_changes", "placebo", "protocol_contrast",
    "ratios", "roc", "sweep", "thresholds",
]  # fmt: skip

sns.set_theme(style="whitegrid", context="paper", rc={"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "s2l"})


def _palette(methods: list[str]) -> dict[str, tuple]:
    """Grey for the pre-trained model, the same colour for a method in every figure."""
    colours = iter(sns.color_palette("colorblind", len(methods)))
    return {method: (0.35, 0.35, 0.35) if method == PRETRAINED else next(colours) for method in methods}


def _title(attack: str) -> str:
    return TITLES.get(attack, attack)


def _finish(figure: Figure, axis: plt.Axes) -> None:
    """One legend to the right of all panels."""
    figure.tight_layout()
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plt.close(figure)


def contact_sheet(rows: dict[str, Tensor], columns: int = 8, edge: float = 0.75, heads: tuple[str, ...] = ()) -> Figure:
    """One labelled row of images for every entry; images are [n, 3, h, w] in [0, 1]; heads: what the columns show."""
    figure, axes = plt.subplots(len(rows), columns, figsize=(edge * columns + 1.3, edge * len(rows)), squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for place, axis in enumerate(line):
            axis.axis("off")
            if place < len(images):
                axis.imshow(images[place].permute(1, 2, 0).numpy(), interpolation="nearest")
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    for axis, head in zip(axes[0], heads, strict=False):
        axis.set_title(head, fontsize=8)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    plt.close(figure)
    return figure


def curves(losses: dict[str, list[float]], smooth: int = 10, label: str = "training loss") -> Figure:
    """Loss against step, a line per entry, each smoothed by a running mean."""
    figure, axis = plt.subplots(figsize=(5.5, 2.8))
    palette = _palette(list(losses))
    for name, values in losses.items():
        series = pd.Series(values).rolling(max(1, min(smooth, len(values) // 4)), min_periods=1).mean()
        axis.plot(np.arange(1, len(series) + 1), series, label=name, color=palette[name], lw=1.3)
    axis.set(xlabel="step", ylabel=label)
    _finish(figure, axis)
    return figure


def roc(scores: pd.DataFrame, split: str = NONMEMBER) -> Figure:
    """ROC curves on logarithmic axes, scores pooled over domains, a panel per attack, a line per method."""
    attacks, methods = list(scores["attack"].unique()), list(scores["method"].unique())
    palette = _palette(methods)
    figure, axes = plt.subplots(1, len(attacks), figsize=(2.3 * len(attacks), 2.6), sharey=True, squeeze=False)
    for axis, attack in zip(axes[0], attacks, strict=True):
        for method in methods:
            part = scores[(scores["attack"] == attack) & (scores["method"] == method)]
            sides = [part.loc[part["split"] == side, "score"].to_numpy() for side in (MEMBER, split)]
            false, true = roc_curve(*sides)
            axis.plot(false, true, label=method_title(method), color=palette[method], lw=1.3)
        axis.plot([1e-3, 1], [1e-3, 1], ":", color="black", lw=0.8)
        axis.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1), title=_title(attack), xlabel="false positive rate")
    axes[0, 0].set_ylabel("true positive rate")
    _finish(figure, axes[0, 0])
    return figure


def _panels(table: pd.DataFrame) -> tuple[list, list, list, pd.DataFrame]:
    rows = table[(table["metric"] == "AUC") & ~table["method"].str.startswith("largest change") & (table["attack"] != "blind")]
    return list(rows["protocol"].unique()), list(rows["attack"].unique()), list(rows["method"].unique()), rows


def changes(table: pd.DataFrame) -> Figure:
    """Paired change in AUC against the pre-trained model with its interval: attack x method, a panel per protocol."""
    names, attacks, methods, rows = _panels(table)
    palette, series = _palette(methods), []
    for offset, method in enumerate(methods[1:]):
        y = 0.75 / len(methods) * (offset - (len(methods) - 2) / 2)
        style = {"color": palette[method], "lw": 1.2, "label": method_title(method)}
        series.append((rows[rows["method"] == method], y, style))
    return _forest(names, attacks, series, (2.7, 0.15 * len(methods) * len(attacks) + 1.2))


def _forest(
    panels: list[str], rows: list[str], series: list[tuple], size: tuple[float, float], panel: str = "protocol", row: str = "attack"
) -> Figure:  # fmt: skip
    """Changes in AUC with their intervals, a row for each value of one column, a panel for each value of another.

    series: (rows of a table, vertical offset, style); size: width of a panel and height in inches.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(size[0] * len(panels) + 0.6, size[1]), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], panels, strict=True):
        for found, offset, style in series:
            part = found[found[panel] == name].set_index(row).loc[rows]
            axis.errorbar(part["delta"], np.arange(len(rows)) + offset, xerr=_delta_error(part), fmt="o", ms=3.5, **style)
        axis.axvline(0, color="black", lw=0.8)
        axis.set(title=_title(name), xlabel="change in AUC", yticks=range(len(rows)), yticklabels=[_title(value) for value in rows])
        axis.locator_params(axis="x", nbins=min(5, int(2 * size[0])))  # as many as fit
    axes[0, 0].invert_yaxis()
    _finish(figure, axes[0, 0])
    return figure


def protocol_contrast(table: pd.DataFrame) -> Figure:
    """AUC of the same models under every protocol, with the blind baseline: what the choice of non-members does."""
    names, attacks, methods, rows = _panels(table)
    blind = table[table["attack"] == "blind"].set_index("protocol")
    palette = _palette(methods)
    figure, axes = plt.subplots(1, len(attacks), figsize=(2.1 * len(attacks), 2.8), sharey=True, squeeze=False)
    for axis, attack in zip(axes[0], attacks, strict=True):
        for offset, method in enumerate(methods):
            part = rows[(rows["attack"] == attack) & (rows["method"] == method)].set_index("protocol").loc[names]
            x = np.arange(len(names)) + 0.7 / len(methods) * (offset - (len(methods) - 1) / 2)
            error = np.stack([part["value"] - part["low"], part["high"] - part["value"]])
            axis.errorbar(x, part["value"], yerr=error.clip(0), fmt="o", ms=3, lw=1, color=palette[method], label=method_title(method))
        for i, name in enumerate(names):
            axis.hlines(blind.loc[name, "value"], i - 0.4, i + 0.4, color="crimson", lw=1.2, label=None if i else "blind (no model)")
        axis.axhline(0.5, color="black", lw=0.8, ls=":")
        axis.set(title=_title(attack), xticks=range(len(names)))
        axis.set_xticklabels([name.replace("shifted ", "") for name in names], fontsize=7)
    axes[0, 0].set_ylabel("AUC")
    _finish(figure, axes[0, 0])
    return figure


def placebo(table: pd.DataFrame) -> Figure:
    """Change in AUC under each shifted protocol: members (filled) and never-seen photographs in their place (hollow)."""
    names, attacks, methods = (list(table[column].unique()) for column in ("protocol", "attack", "method"))
    palette, series = _palette([PRETRAINED, *methods]), []
    for offset, method in enumerate(methods):
        for below, who in enumerate(PLACES.values()):
            rows = table[(table["method"] == method) & (table["in place of members"] == who)]
            y = 0.8 / len(methods) * (offset - (len(methods) - 1) / 2 + 0.4 * below)
            style = {"color": palette[method], "lw": 1, "mfc": "white" if below else palette[method]}
            style |= {"label": f"{method_title(method)}, {who}"}
            series.append((rows, y, style))
    return _forest(names, attacks, series, (3.6, 0.18 * len(methods) * len(attacks) + 1.2))


def ablation(table: pd.DataFrame, column: str) -> Figure:
    """Change in AUC against the varied parameter with its interval, a panel per attack."""
    attacks = list(table["attack"].unique())
    figure, axes = plt.subplots(1, len(attacks), figsize=(2.1 * len(attacks), 2.4), sharey=True, squeeze=False)
    for axis, attack in zip(axes[0], attacks, strict=True):
        part = table[(table["attack"] == attack) & table["delta"].notna()]
        x = np.arange(len(part))
        axis.errorbar(x, part["delta"], yerr=_delta_error(part), fmt="o-", ms=3.5, lw=1.2, color=sns.color_palette("colorblind")[0])
        axis.axhline(0, color="black", lw=0.8)
        axis.set(title=_title(attack), xlabel=column, xticks=x)
        axis.set_xticklabels(list(map(str, part[column])), fontsize=7)
    axes[0, 0].set_ylabel("change in AUC (iid)")
    figure.tight_layout()
    plt.close(figure)
    return figure


def named_changes(table: pd.DataFrame, column: str) -> Figure:
    """Change in AUC with its interval, a row for each name in `column`, from the top, and a panel per attack."""
    rows = table[table["delta"].notna()]
    attacks, names = list(rows["attack"].unique()), list(rows[column].unique())
    series = [(rows, 0, {"lw": 1.2, "color": sns.color_palette("colorblind")[0]})]
    return _forest(attacks, names, series, (1.9, 1.1 + 0.26 * len(names)), panel="attack", row=column)


def _delta_error(part: pd.DataFrame) -> np.ndarray:
    """[2, n]: how far the interval reaches below and above each change."""
    return np.stack([part["delta"] - part["delta_low"], part["delta_high"] - part["delta"]]).clip(0)


def extraction_curves(table: pd.DataFrame) -> Figure:
    """S2L's Figure 4: DE per domain against delta and against k with its interval, a line per method; dotted: false alarms."""
    axes_names, methods = list(table["axis"].unique()), list(table["method"].unique())
    palette = _palette(methods)
    figure, axes = plt.subplots(1, len(axes_names), figsize=(3.2 * len(axes_names), 2.8), squeeze=False)
    for axis, name in zip(axes[0], axes_names, strict=True):
        for (method, metric), part in table[table["axis"] == name].groupby(["method", "metric"], sort=False):
            colour, counted = palette[method], metric == "DE"
            axis.plot(
                part["x"], part["value"], color=colour, lw=1.2, ls="-" if counted else ":", label=method_title(method) if counted else None
            )
            if counted:
                axis.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.12, lw=0)
        axis.set(xlabel={"delta": "delta (RMS)"}.get(name, name), xscale="log" if name == "k" else "linear")
    axes[0, 0].set_ylabel("images per domain (dotted: false alarms)")
    _finish(figure, axes[0, 0])
    return figure


def sweep(table: pd.DataFrame) -> Figure:
    """AUC against the attack's timestep with its interval, before and after fine-tuning, a panel per attack."""
    attacks, methods = list(table["attack"].unique()), list(table["method"].unique())
    palette = _palette(methods)
    figure, axes = plt.subplots(1, len(attacks), figsize=(2.3 * len(attacks), 2.5), sharey=True, squeeze=False)
    for axis, attack in zip(axes[0], attacks, strict=True):
        for method in methods:
            part = table[(table["attack"] == attack) & (table["method"] == method)].sort_values("t")
            part = part[part["k"].isna() | (part["k"] == part["k"].min())]
            axis.plot(part["t"], part["value"], "o-", ms=2.5, lw=1.2, color=palette[method], label=method_title(method))
            axis.fill_between(part["t"], part["low"], part["high"], color=palette[method], alpha=0.15, lw=0)
        axis.axhline(0.5, color="black", lw=0.8, ls=":")
        axis.set(title=_title(attack), xlabel="timestep t")
    axes[0, 0].set_ylabel("AUC (iid)")
    _finish(figure, axes[0, 0])
    return figure


def levels(table: pd.DataFrame, column: str, joined: bool = True) -> Figure:
    """AUC with its interval at each value of `column`, a series per inference model; joined: by a line, along an axis that has an order."""
    table = table[table["metric"] == "AUC"]
    values, methods = list(dict.fromkeys(table[column])), list(dict.fromkeys(table["method"]))
    palette = _palette(methods)
    figure, axis = plt.subplots(figsize=(1.6 + 0.75 * len(values), 2.8))
    for offset, method in enumerate(methods):
        part = table[table["method"] == method].set_index(column).loc[values]
        x = np.arange(len(values)) + 0.5 / len(methods) * (offset - (len(methods) - 1) / 2)
        error = np.stack([part["value"] - part["low"], part["high"] - part["value"]]).clip(0)
        axis.errorbar(x, part["value"], yerr=error, fmt="o-" if joined else "o", ms=3.5, lw=1.2, color=palette[method], label=method)
    axis.axhline(0.5, color="black", lw=0.8, ls=":")
    axis.set(xlabel=column, ylabel="AUC", xticks=range(len(values)))
    axis.set_xticklabels(list(map(str, values)), fontsize=7, rotation=0 if joined else 20, ha="center" if joined else "right")
    _finish(figure, axis)
    return figure


def thresholds(table: pd.DataFrame) -> Figure:
    """(TPR + TNR) / 2 against the threshold with its interval, a line per scenario; 0: the threshold that was fixed beforehand."""
    scenarios = list(dict.fromkeys(table["scenario"]))
    palette = _palette(scenarios)
    figure, axis = plt.subplots(figsize=(4.6, 2.8))
    for scenario in scenarios:
        part = table[table["scenario"] == scenario]
        axis.plot(part["threshold"], part["value"], color=palette[scenario], lw=1.3, label=scenario)
        axis.fill_between(part["threshold"], part["low"], part["high"], color=palette[scenario], alpha=0.12, lw=0)
    axis.axhline(0.5, color="black", lw=0.8, ls=":")
    axis.axvline(0, color="black", lw=0.8)
    axis.set(xlabel="threshold, from the one fixed beforehand (standard deviations)", ylabel="(TPR + TNR) / 2")
    _finish(figure, axis)
    return figure


def ratios(table: pd.DataFrame, base: pd.DataFrame) -> Figure:
    """MixSyn's Figure 4: AUC against the mixup ratio with its interval; a panel per attack and protocol. Crosses: the paper's.

    base: AUC rows of the pre-trained model, drawn as dashed lines.
    """
    names, attacks, kinds = (list(table[column].unique()) for column in ("protocol", "attack", "mixing"))
    size, palette = (2.6 * len(attacks) + 0.6, 1.9 * len(names) + 0.5), _palette(kinds)
    figure, axes = plt.subplots(len(names), len(attacks), figsize=size, sharex=True, squeeze=False)
    for axis, (name, attack) in zip(axes.flat, product(names, attacks), strict=True):
        start = base[(base["protocol"] == name) & (base["attack"] == attack)]["value"].item()
        axis.axhline(start, color="0.35", lw=1, ls="--", label=method_title(PRETRAINED))
        axis.axhline(0.5, color="black", lw=0.8, ls=":")
        for i, kind in enumerate(kinds):
            part = table[(table["protocol"] == name) & (table["attack"] == attack) & (table["mixing"] == kind)]
            x = part["ratio"] + 0.02 * (i - (len(kinds) - 1) / 2)  # side by side
            error = np.stack([part["value"] - part["low"], part["high"] - part["value"]]).clip(0)
            axis.errorbar(x, part["value"], yerr=error, fmt="o-", ms=3.5, lw=1.2, color=palette[kind], label=kind)
            if part["paper"].notna().any():
                axis.plot(x, part["paper"], "x", ms=5, color=palette[kind], label=f"{kind}, the paper's")
        axis.set(
            title=f"{_title(attack)}, {name}", xlabel="ratio" if name == names[-1] else "", ylabel="AUC" if attack == attacks[0] else ""
        )
    _finish(figure, axes[-1, 0])
    return figure
