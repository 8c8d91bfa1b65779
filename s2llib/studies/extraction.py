"""Data extraction: which training images come out of the models, before and after fine-tuning.

found = extraction.extracted(lab)
"""

from collections.abc import Iterable, Iterator

import pandas as pd

from s2llib.compute.models import folder, image_size
from s2llib.data.domain import Domain
from s2llib.data.worlds import domain_names, known_names
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.scale import run
from s2llib.specs import Judge, Model, OtherWays
from s2llib.studies.cells import Cell, read
from s2llib.studies.plan import cells, crowd, generations, search, tuned

__all__ = ["extracted", "extraction_cells", "memorising", "options", "searched"]


def memorising(lab: Lab) -> Lab:
    """The lab of the base model whose images are extracted (extraction.base); the same one, if the profile names none.

    Raises ParamsError if that base knows none of the domains.
    """
    p, world = lab.params.extraction, lab.params.world
    if not p.base:
        return lab
    names = [name for name in domain_names(world) if name in known_names(world)[: p.people]]
    if not names:
        raise ParamsError(
            f"extraction.people: {p.base} was trained on the first {p.people} people, none of whom is in world.domains; add one, or"
            " set extraction.base=null."
        )
    seeds = lab.params.finetune.seeds[:1]  # what varies most are the people, and there are few
    another = {"base.path": p.base, "base.hub": None, "retrain_base": False, "extraction.base": None, "base.unet.people": p.people}
    return lab.at(another | {"world.domains": names[: p.domains], "finetune.seeds": seeds})


def extraction_cells(lab: Lab, methods: list[str] | None = None, domains: list[Domain] | None = None) -> Iterator[Cell]:
    """The grid, searched for each domain's photographs."""
    for domain, method, seed in cells(lab, methods, domains):
        yield search(lab, domain, tuned(lab, domain, method, seed)), {"domain": domain.name, "method": method, "seed": seed}


def extracted(lab: Lab, methods: list[str] | None = None, domains: list[Domain] | None = None) -> pd.DataFrame:
    """Each member's and each iid non-member's distance to what the models of its domain generate.

    Columns: domain, method, seed, split, image, copies, generated (how many), distance, nearest (generated image), matches
    (generated images whose nearest of the split it is and that lie within extraction.delta), crowd_D (training images
    within D of it, for every D of extraction.deltas; of a non-member: non-members within D of it).
    """
    return searched(lab, extraction_cells(lab, methods, domains))


def searched(lab: Lab, cells: Iterable[Cell]) -> pd.DataFrame:
    """`extracted` of these searches."""
    cells, p, size = list(cells), lab.params.extraction, image_size(lab, lab.base)
    if bad := [tiles for tiles in (p.tiles, p.other_tiles) if size % tiles]:
        raise ParamsError(f"extraction: images of {size} pixels cannot be cut into {bad[0]} x {bad[0]} tiles; give a divisor.")
    run(lab, [spec for spec, _ in cells], "extraction")
    tables = []
    for spec, labels in track(cells, "extraction"):
        around = read(lab, crowd(lab, spec.domain))
        tables.append(read(lab, spec).merge(around, on=["split", "image"], validate="one_to_one").assign(**labels))
    return pd.concat(tables, ignore_index=True)


def own_judge(lab: Lab, model: Model) -> Judge | None:
    """The CLIP pair that lies in a base model's folder, if one does."""
    at = folder(lab, model)
    return Judge(model.content, at) if (at / "clip").is_dir() else None


def options(lab: Lab, method: str) -> pd.DataFrame:
    """Distances under other ways to look for a match, of the pre-trained model and one method, on the first few domains.

    Columns: option, domain, method, seed, split, image, copies, distance, generated, crowd_D.
    """
    p, size, tables = lab.params.extraction, image_size(lab, lab.base), []
    grid = list(cells(lab, [PRETRAINED, method], lab.domains[: p.option_domains]))
    for domain, name, seed in track(grid, "extraction, other ways"):
        drawn = generations(lab, domain, tuned(lab, domain, name, seed))
        rules = {"other_tiles": p.other_tiles, "clique": p.clique, "candidates": p.candidates, "judge": own_judge(lab, lab.base)}
        found = read(lab, OtherWays(drawn, domain, size, p.tiles, p.delta, **rules))
        parts = [
            part.merge(read(lab, crowd(lab, domain, tiles)), on=["split", "image"], validate="many_to_one")
            for tiles, part in found.groupby("tiles")
        ]
        tables.append(pd.concat(parts, ignore_index=True).assign(domain=domain.name, method=name, seed=seed))
    return pd.concat(tables, ignore_index=True)
