"""Data extraction: how near a model's images come to photographs, by several rules, and how crowded it is around each of them."""

from pathlib import Path

import pandas as pd

from s2llib.artifact import artifact
from s2llib.attacks.extraction import agreeing, both_ways, candidates, crowd, nearest, nearest_aligned
from s2llib.compute.images import photos
from s2llib.compute.models import judge_folder
from s2llib.data.domain import MEMBER, NONMEMBER, Photos
from s2llib.data.worlds import check_unchanged
from s2llib.lab import Lab
from s2llib.metrics.clip import image_features
from s2llib.specs import Crowd, OtherWays, Search

__all__ = ["SIDES", "crowd_column"]

SIDES = (MEMBER, NONMEMBER)


def crowd_column(delta: float) -> str:
    """The column with the number of training images within delta."""
    return f"crowd_{delta:g}"


@artifact(Search, "extraction", 1)
def search(lab: Lab, spec: Search, folder: Path) -> None:
    """extraction.parquet: split, image, copies, generated, distance, nearest, matches."""
    generated, tables = photos(lab, spec.generated), []
    check_unchanged(lab.params.world, spec.domain, lab.store)
    for split in SIDES:
        some = spec.domain.splits[split]
        (distance, which), (back, whose) = both_ways(some, generated, spec.size, spec.tiles, lab.device)
        row = {"split": split, "image": range(len(some)), "copies": some.copies, "generated": len(generated)}
        matches = whose[back <= spec.delta].bincount(minlength=len(some))
        tables.append(pd.DataFrame(row | {"distance": distance, "nearest": which, "matches": matches}))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "extraction.parquet")


@artifact(OtherWays, "extraction_other_ways", 1)
def search_otherwise(lab: Lab, spec: OtherWays, folder: Path) -> None:
    """options.parquet: option, tiles, split, image, copies, distance, generated."""
    generated, tables, find = photos(lab, spec.generated), [], {"size": spec.size, "device": lab.device}
    agree = generated.where(agreeing(generated, delta=spec.delta, clique=spec.clique, tiles=spec.tiles, **find).tolist())
    other = spec.other_tiles
    for split in SIDES:
        some = spec.domain.splits[split]
        found = {
            ("every pair", spec.tiles): nearest(some, generated, tiles=spec.tiles, **find)[0],
            (f"{other} x {other} tiles", other): nearest(some, generated, tiles=other, **find)[0],
            (f"cliques of {spec.clique}", spec.tiles): nearest(some, agree, tiles=spec.tiles, **find)[0],
        }
        if spec.judge is not None:
            x, y = some.pixels(spec.size), generated.pixels(spec.size)
            which = candidates(*(image_features(judge_folder(lab, spec.judge), pixels) for pixels in (x, y)), spec.candidates)
            found[f"{spec.candidates} candidates by CLIP", 1] = (x[:, None] - y[which]).square().mean((2, 3, 4)).sqrt().amin(1).double()
            found[f"{spec.candidates} candidates by CLIP, SIFT-aligned", 1] = nearest_aligned(x, y, which)
        for (option, tiles), distance in found.items():
            row = {"option": option, "tiles": tiles, "split": split, "image": range(len(some)), "copies": some.copies}
            tables.append(pd.DataFrame(row | {"distance": distance, "generated": len(generated)}))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "options.parquet")


@artifact(Crowd, "crowd", 1)
def count_crowds(lab: Lab, spec: Crowd, folder: Path) -> None:
    """crowd.parquet: split, image, crowd_D: photographs of everybody (members; of a non-member: non-members) within D, for every D."""
    for person in spec.people:
        check_unchanged(lab.params.world, person, lab.store)
    tables = []
    for split in SIDES:
        world = Photos.join(person.splits[split] for person in spec.people)
        counts = crowd(spec.domain.splits[split], world, spec.size, list(spec.deltas), spec.tiles, lab.device).numpy()
        row = {"split": split, "image": range(counts.shape[1])}
        tables.append(pd.DataFrame(row | dict(zip(map(crowd_column, spec.deltas), counts, strict=True))))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "crowd.parquet")
