"""From distances to S2L's extraction tables: distinct training images per domain, precision, false alarms, copies."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s2llib.attacks.extraction import eidetic
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.metrics.bootstrap import Estimate, HierarchicalBootstrap
from s2llib.params import Extraction, Params
from s2llib.report.membership import change, estimate_row, level, level_and_change, method_title, on_domains
from s2llib.report.paper import S2L_BEST_DE
from s2llib.stages.extraction import crowd_column
from s2llib.study import PRETRAINED, Study

__all__ = [
    "copies_table", "curves_table", "extraction_note", "extraction_table", "main_table", "matches", "options_table", "printed_copies",
    "printed_extraction", "printed_main", "verdict",
]  # fmt: skip

FALSE = "false alarms"
BEYOND = "beyond chance"


def extraction_note(e: Extraction, generated: int, paper: bool = True) -> str:
    """What stands under a table of extracted images; paper: with Shake-to-Leak's own figures."""
    prompts = "SP prompts" if e.prompts == "sp" else "each photograph's own caption"
    text = (
        f"DE: distinct training images per domain that some of {generated} generated images ({prompts}) matches within RMS distance"
        f" {e.delta} and that at most {e.k} training images match. False alarms: the same count of iid non-members, which no model saw,"
        " scaled to the number of members. Beyond chance: the difference. Precision: the share of generated images that match."
        " Value [95 % interval] (paired change against the pre-trained model [interval]); where it is [0, 0] every count was 0, and with n"
        " domains looked at up to a share 3 / n of all domains could still yield one (rule of three)."
    )
    return text + (" Shake-to-Leak (Stable Diffusion v1-1): about 0 before, 15.8 after with the best method." if paper else "")


def _hits(found: pd.DataFrame, k: int, delta: float) -> pd.DataFrame:
    """Extraction's table with a column `hit`, and `share`, of the generated images that match it, in percent."""
    hit = eidetic(found["distance"].to_numpy(), found[crowd_column(delta)].to_numpy(), k, delta).astype(float)
    share = 100 * hit * found["matches"] / found["generated"] if "matches" in found else None
    return found.assign(hit=hit, share=share)


def _images(hits: pd.DataFrame, column: str = "hit") -> dict[str, dict[str, np.ndarray]]:
    """{method: {domain: [images], a column's mean over fine-tuning seeds}}."""
    each: dict = {}
    for (method, domain), part in hits.groupby(["method", "domain"], sort=False):
        each.setdefault(method, {})[domain] = part.groupby("image")[column].mean().to_numpy()
    return each


class _Counts:
    """Estimates of counts per domain, of methods on the same domains and resamples."""

    def __init__(self, hits: pd.DataFrame, p: Params):
        sides = [hits[hits["split"] == split] for split in (MEMBER, NONMEMBER)]
        self.found = [_images(side) for side in sides]
        self.shares = _images(sides[0], "share") if hits["share"].notna().all() else None
        self.p = p
        self.bootstraps: dict[tuple, HierarchicalBootstrap] = {}

    def domains(self, method: str) -> tuple[str, ...]:
        return tuple(self.found[0][method])

    def estimates(self, method: str, domains: tuple[str, ...]) -> dict[str, Estimate]:
        """{metric: estimate} of a method on these domains; false alarms are scaled to the number of members."""
        members, others = ([side[method][name] for name in domains] for side in self.found)
        sizes = [(len(m), len(n)) for m, n in zip(members, others, strict=True)]
        if domains not in self.bootstraps:
            self.bootstraps[domains] = HierarchicalBootstrap(sizes, self.p.statistics.bootstrap, seed=0)
        mean = self.bootstraps[domains].mean
        sides = [mean([x * n for x, (n, _) in zip(side, sizes, strict=True)], i) for i, side in enumerate((members, others))]
        found = {"DE": sides[0], FALSE: sides[1], BEYOND: sides[0] - sides[1]}
        if self.shares:
            found["precision (%)"] = mean([self.shares[method][name] * n for name, (n, _) in zip(domains, sizes, strict=True)])
        return found

    def rows(self, method: str, metrics: list[str] | None = None) -> list[dict]:
        """Tidy rows with changes against the pre-trained model on the same domains."""
        domains, level = self.domains(method), self.p.statistics.level
        values, base = self.estimates(method, domains), self.estimates(PRETRAINED, domains)
        return [
            {"method": method, "attack": "extraction", "protocol": "iid", "metric": metric}
            | estimate_row(values[metric], None if method == PRETRAINED else base[metric], level)
            | {"domains": len(domains)}
            for metric in metrics or values
        ]


def extraction_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy DE, false alarms, their difference and precision of every method at the profile's (k, delta), with changes.

    A method on fewer domains is compared with the pre-trained model on those. The last row is the best method's, for the paper's.
    """
    e = p.extraction
    counts, rows = _Counts(_hits(found, e.k, e.delta), p), []
    for method, part in found.groupby("method", sort=False):
        rows += [row | {"seeds": part["seed"].nunique()} for row in counts.rows(method)]
    best = max((row for row in rows if row["metric"] == "DE" and row["method"] != PRETRAINED), key=lambda row: row["value"])
    rows.append(best | {"method": f"best: {best['method']}", "paper": S2L_BEST_DE})
    return pd.DataFrame(rows).assign(k=e.k, radius=e.delta, prompts=e.prompts, images=found["generated"].max())


def copies_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Share of members extracted (%), by how often the training set holds them (0: iid non-members), with changes."""
    hits, rows = _hits(found, p.extraction.k, p.extraction.delta), []
    hits = hits.assign(copies=hits["copies"].where(hits["split"] == MEMBER, 0))
    for copies, part in hits.groupby("copies"):
        each = _images(part)
        for method, shares in each.items():
            bootstrap = HierarchicalBootstrap([(len(x), 1) for x in shares.values()], p.statistics.bootstrap, seed=0)
            value, base = (bootstrap.mean([100 * each[m][name] for name in shares]) for m in (method, PRETRAINED))
            row = {"method": method, "copies": copies, "photographs": sum(map(len, shares.values())), "metric": "extracted (%)"}
            row |= {"domains": len(shares), "images": found["generated"].max()}
            rows.append(row | estimate_row(value, None if method == PRETRAINED else base, p.statistics.level))
    return pd.DataFrame(rows)


def options_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy DE and false alarms under other ways to look for a match (`Study.extraction_options`)."""
    rows = []
    for option, part in found.groupby("option", sort=False):
        counts = _Counts(_hits(part, p.extraction.k, p.extraction.delta), p)
        for method in part["method"].unique():
            rows += [{"option": option} | row for row in counts.rows(method, ["DE", FALSE, BEYOND])]
    return pd.DataFrame(rows).assign(k=p.extraction.k, radius=p.extraction.delta, images=found["generated"].max())


def curves_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """DE and false alarms per domain against delta (at the profile's k) and against k (at its delta): S2L's Figure 4."""
    e, rows = p.extraction, []
    points = [("delta", delta, e.k, delta) for delta in e.deltas] + [("k", k, k, e.delta) for k in e.ks]
    for axis, x, k, delta in points:
        counts = _Counts(_hits(found, k, delta), p)
        for method in found["method"].unique():
            rows += [{"axis": axis, "x": x} | row for row in counts.rows(method, ["DE", FALSE])]
    return pd.DataFrame(rows).assign(k=e.k, radius=e.delta, images=found["generated"].max())


def main_table(membership: pd.DataFrame, extraction: pd.DataFrame, bases: tuple[str, str]) -> pd.DataFrame:
    """S2L's main table, tidy: AUC and TPR@1%FPR of every attack and protocol, and DE, of every method.

    bases: which base model membership inference attacks, and which extraction.
    """
    rows = membership[~membership["method"].str.startswith("largest change") & (membership["attack"] != "blind")]
    counts = extraction[~extraction["method"].str.startswith("best: ") & (extraction["metric"].isin(["DE", FALSE]))]
    parts = [part.assign(base=base) for part, base in zip((rows, counts), bases, strict=True)]
    return pd.concat(parts, ignore_index=True)[[*rows.columns, "base", "k", "radius", "images"]]


def printed_main(table: pd.DataFrame, attack: str = "secmi") -> pd.DataFrame:
    """A row per method: AUC and TPR@1%FPR of one attack under every protocol, DE and false alarms."""
    rows = table[table["attack"].isin([attack, "extraction"])]
    heads = rows["metric"].where(rows["attack"] == "extraction", rows["metric"] + ", " + rows["protocol"])
    return _wide(rows.assign(domains=0), heads, [2 if name == "extraction" else 3 for name in rows["attack"]])


def printed_extraction(table: pd.DataFrame) -> pd.DataFrame:
    """A row per method (and option), a column per metric: value [interval] (change [interval])."""
    table = table[~table["method"].str.startswith("best: ")]
    return _wide(table, table["metric"], [2] * len(table), ["option"] if "option" in table else [])


def printed_copies(table: pd.DataFrame) -> pd.DataFrame:
    """A row per method, a column per number of copies."""
    heads = ["iid non-members" if n == 0 else "1 copy" if n == 1 else f"{n} copies" for n in table["copies"]]
    return _wide(table, pd.Series(heads, index=table.index), [1] * len(table))


def _wide(table: pd.DataFrame, heads: pd.Series, digits: list[int], keys: tuple | list = ()) -> pd.DataFrame:
    cells = [level_and_change(row, f".{n}f") for (_, row), n in zip(table.iterrows(), digits, strict=True)]
    most = table.groupby("metric")["domains"].transform("max")
    methods = [on_domains(method, n, top) for method, n, top in zip(table["method"], table["domains"], most, strict=True)]
    shown = table[list(keys)].assign(method=methods, head=heads, cell=cells)
    index = [*keys, "method"]
    wide = shown.pivot(index=index, columns="head", values="cell").fillna("")
    order = shown[index].drop_duplicates()
    rows = pd.MultiIndex.from_frame(order) if keys else pd.Index(order["method"])
    return wide.loc[rows, list(dict.fromkeys(heads))].rename_axis(columns=None)


def matches(study: Study, method: str, domains: int = 4, rows: int = 2) -> dict[str, Tensor]:
    """S2L's Figure 3: {label: [SP sample, S2L sample, its nearest training image]} of the closest matches of some domains.

    The SP sample is what the base model drew from the same noise and prompt as the S2L sample.
    """
    shown = {}
    for domain in study.domains[:domains]:
        found = study.extracted(domain, method)
        found = found[found["split"] == MEMBER].nsmallest(rows, "distance")
        before, after = study.generations(domain), study.generations(domain, method)
        for row in found.itertuples():
            chosen = [before[row.nearest : row.nearest + 1], after[row.nearest : row.nearest + 1]]
            chosen.append(domain.splits[MEMBER][row.image : row.image + 1])
            copies = "1 copy" if row.copies == 1 else f"{row.copies} copies"
            label = f"{domain.name} {row.image}\nRMS {row.distance:.3f}, {copies}"
            shown[label] = torch.cat([photos.pixels(study.image_size) for photos in chosen])
    return shown


def verdict(table: pd.DataFrame) -> str:
    """What the extraction table says, in Markdown sentences."""
    lines = []
    for method, rows in table[~table["method"].str.startswith("best: ")].groupby("method", sort=False):
        found, false, beyond = (rows.set_index("metric").loc[metric] for metric in ("DE", FALSE, BEYOND))
        says = "more than" if beyond["low"] > 0 else "not clearly more than"
        text = f"- **{method_title(method)}** ({found['domains']} domains): {level(found, '.2f')} images a domain, {says} the false alarms"
        text += f" ({level(false, '.2f')})"
        if pd.notna(beyond.get("delta")):
            moved = "rises" if beyond["delta_low"] > 0 else "falls" if beyond["delta_high"] < 0 else "does not move beyond its interval"
            text += f"; what is beyond chance {moved} against the pre-trained model ({change(beyond, '+.2f')})"
        lines.append(text + ".")
    return "\n".join(lines)
