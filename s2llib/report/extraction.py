"""From distances to S2L's extraction tables: distinct training images per domain, precision, false alarms, copies."""

from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from s2llib.attacks.extraction import eidetic
from s2llib.compute.extraction import crowd_column
from s2llib.compute.images import photos
from s2llib.compute.models import image_size
from s2llib.data.domain import MEMBER, NONMEMBER
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.params import Extraction, Params
from s2llib.report.estimate import Entry, Measure, collect, estimated, family_note, share, weighted
from s2llib.report.membership import PEOPLE, change, level, level_and_change, method_title, on_domains, shown, unseen
from s2llib.report.paper import S2L_BEST_DE
from s2llib.studies.extraction import searched
from s2llib.studies.plan import generations, search, tuned

__all__ = [
    "copies_table", "curves_table", "extraction_note", "extraction_table", "main_table", "matches", "options_table", "printed_copies",
    "printed_extraction", "printed_main", "verdict",
]  # fmt: skip

FALSE = "false alarms"
BEYOND = "beyond chance"


def extraction_note(e: Extraction, table: pd.DataFrame, paper: bool = True) -> str:
    """What stands under a table of extracted images; paper: with Shake-to-Leak's own figures."""
    prompts = "SP prompts" if e.prompts == "sp" else "each photograph's own caption"
    text = (
        f"DE: distinct training images per domain that some of {table['images'].max():.0f} generated images ({prompts}) matches within RMS"
        f" distance {e.delta} and that at most {e.k} training images match. False alarms: the same count of iid non-members, which no"
        " model saw, scaled to the number of members. Beyond chance: the difference. Precision: the share of generated images that match."
        f" {PEOPLE} Where all counts are equal, as where all are 0, the interval holds what that leaves possible (rule of three)."
        f" {family_note(table)}"
    )
    return text + (" Shake-to-Leak (Stable Diffusion v1-1): about 0 before, 15.8 after with the best method." if paper else "")


def _counts(found: pd.DataFrame, k: int, delta: float) -> dict[str, dict[str, Measure]]:
    """{method: {metric: measure}} of a table of `extraction.searched`; precision where that says how many images match."""
    hit, counts = eidetic(found["distance"].to_numpy(), found[crowd_column(delta)].to_numpy(), k, delta).astype(float), {}
    matched = collect(found.assign(score=hit * found["matches"] / found["generated"])) if "matches" in found else {}
    for method, sides in collect(found.assign(score=hit)).items():
        of = {name: x.shape[1] for name, x in sides[MEMBER].items()}
        real, false = share(sides[MEMBER], of), share(sides[NONMEMBER], of, NONMEMBER)
        counts[method] = {"DE": real, FALSE: false, BEYOND: weighted([real, false], [1, -1])}
        if matched:
            parts = share({name: of[name] * x for name, x in matched[method][MEMBER].items()})
            counts[method]["precision (%)"] = replace(parts, unit=100 / found["generated"].min())
    return counts


def _entries(found: pd.DataFrame, k: int, delta: float, labels: dict, metrics: list[str] | None = None) -> list[Entry]:
    """Of every method, with changes against the pre-trained model on the same domains; DE is compared with its false alarms too."""
    counts, entries = _counts(found, k, delta), []
    for method, each in counts.items():
        for metric in metrics or each:
            names = labels | {"method": method, "attack": "extraction", "protocol": "iid", "metric": metric}
            before = None if method == PRETRAINED else counts[PRETRAINED][metric]
            entries.append(Entry(names, each[metric], before, others={"chance": each[FALSE]} if metric == "DE" else {}))
    return entries


def _table(entries: list[Entry], found: pd.DataFrame, p: Params) -> pd.DataFrame:
    return estimated(entries, p.statistics).assign(k=p.extraction.k, radius=p.extraction.delta, images=found["generated"].max())


def extraction_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy DE, false alarms, their difference and precision of every method at the profile's (k, delta), with changes.

    A method on fewer domains is compared with the pre-trained model on those; delta_chance: of DE against the false alarms. The last row
    is the best method's, for the paper's.
    """
    table = _table(_entries(found, p.extraction.k, p.extraction.delta, {}), found, p).assign(prompts=p.extraction.prompts)
    tuned = table[(table["metric"] == "DE") & (table["method"] != PRETRAINED)]
    best = tuned.loc[[tuned["value"].idxmax()]]
    rows = pd.concat([table, best.assign(method="best: " + best["method"], paper=S2L_BEST_DE)], ignore_index=True)
    rows.attrs = table.attrs
    return rows


def copies_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Share of members extracted (%), by how often the training set holds them (0: iid non-members), with changes."""
    e, entries = p.extraction, []
    hit = eidetic(found["distance"].to_numpy(), found[crowd_column(e.delta)].to_numpy(), e.k, e.delta).astype(float)
    for copies, part in found.assign(score=hit, copies=found["copies"].where(found["split"] == MEMBER, 0)).groupby("copies"):
        sides = {method: next(iter(each.values())) for method, each in collect(part).items()}
        shares = {method: share(images) for method, images in sides.items()}
        for method, each in shares.items():
            many = sum(x.shape[1] for x in sides[method].values())
            labels = {"method": method, "copies": copies, "photographs": many, "metric": "extracted (%)"}
            entries.append(Entry(labels, each, None if method == PRETRAINED else shares[PRETRAINED]))
    return _table(entries, found, p)


def options_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Tidy DE and false alarms under other ways to look for a match (`extraction.options`)."""
    e, entries = p.extraction, []
    for option, part in found.groupby("option", sort=False):
        entries += _entries(part, e.k, e.delta, {"option": option}, ["DE", FALSE, BEYOND])
    return _table(entries, found, p)


def curves_table(found: pd.DataFrame, p: Params) -> pd.DataFrame:
    """DE and false alarms per domain against delta (at the profile's k) and against k (at its delta): S2L's Figure 4."""
    e, entries = p.extraction, []
    points = [("delta", delta, e.k, delta) for delta in e.deltas] + [("k", k, k, e.delta) for k in e.ks]
    for axis, x, k, delta in points:
        entries += _entries(found.drop(columns="matches"), k, delta, {"axis": axis, "x": x}, ["DE", FALSE])
    return _table(entries, found, p)


def main_table(membership: pd.DataFrame, extraction: pd.DataFrame, bases: tuple[str, str]) -> pd.DataFrame:
    """S2L's main table, tidy: AUC and TPR@1%FPR of every attack and protocol, and DE, of every method.

    bases: which base model membership inference attacks, and which extraction.
    """
    rows = membership[~membership["method"].str.startswith("largest change") & (membership["attack"] != "blind")]
    counts = extraction[~extraction["method"].str.startswith("best: ") & (extraction["metric"].isin(["DE", FALSE]))]
    parts = [part.assign(base=base) for part, base in zip((rows, counts), bases, strict=True)]
    table = pd.concat(parts, ignore_index=True)[[*rows.columns, "base", "k", "radius", "images"]]
    table.attrs["families"] = membership.attrs["families"] | extraction.attrs["families"]
    return table


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
    cells = table[list(keys)].assign(method=methods, head=heads, cell=cells)
    index = [*keys, "method"]
    wide = cells.pivot(index=index, columns="head", values="cell").fillna("")
    order = cells[index].drop_duplicates()
    rows = pd.MultiIndex.from_frame(order) if keys else pd.Index(order["method"])
    return wide.loc[rows, list(dict.fromkeys(heads))].rename_axis(columns=None)


def matches(lab: Lab, method: str, domains: int = 4, rows: int = 2) -> dict[str, Tensor]:
    """S2L's Figure 3: {label: [SP sample, S2L sample, its nearest training image]} of the closest matches of some domains.

    The SP sample is what the base model drew from the same noise and prompt as the S2L sample.
    """
    found = {}
    for domain in lab.domains[:domains]:
        model = tuned(lab, domain, method)
        near = searched(lab, [(search(lab, domain, model), {})])
        before, after = (photos(lab, generations(lab, domain, each)) for each in (lab.base, model))
        for row in near[near["split"] == MEMBER].nsmallest(rows, "distance").itertuples():
            chosen = [before[row.nearest : row.nearest + 1], after[row.nearest : row.nearest + 1]]
            chosen.append(domain.splits[MEMBER][row.image : row.image + 1])
            copies = "1 copy" if row.copies == 1 else f"{row.copies} copies"
            label = f"{domain.name} {row.image}\nRMS {row.distance:.3f}, {copies}"
            found[label] = torch.cat([some.pixels(image_size(lab, lab.base)) for some in chosen])
    return found


def verdict(table: pd.DataFrame) -> str:
    """What the extraction table says, in Markdown sentences."""
    lines = []
    for method, rows in table[~table["method"].str.startswith("best: ")].groupby("method", sort=False):
        found, false, beyond = (rows.set_index("metric").loc[metric] for metric in ("DE", FALSE, BEYOND))
        says = "more than" if shown(found, of="_chance") and found["delta_chance"] > 0 else "not shown to be more than"
        people = f"{found['domains']} domain{'' if found['domains'] == 1 else 's'}"
        text = f"- **{method_title(method)}** ({people}): {level(found, '.2f')} images a domain, {says} the false alarms"
        text += f" ({level(false, '.2f')})"
        if pd.notna(beyond.get("delta")):
            moved = "rises" if beyond["delta"] > 0 else "falls"
            moved = f"what is beyond chance {moved}" if shown(beyond) else "no change of what is beyond chance is shown"
            rest = "" if shown(beyond) else unseen([beyond["smallest_visible"]], ".2f")
            text += f"; {moved} against the pre-trained model ({change(beyond, '+.2f')}){rest}"
        lines.append(text + ".")
    return "\n".join(lines)
