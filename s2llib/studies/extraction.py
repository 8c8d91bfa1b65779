"""Data extraction: which training images come out of the models, before and after fine-tuning.

found = extraction.extracted(lab)
"""

from collections.abc import Iterable, Iterator

import pandas as pd

from s2llib.artifact import table
from s2llib.compute.models import image_size
from s2llib.data.domain import Domain
from s2llib.data.worlds import domain_names, known_names
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab, other_base, refuses
from s2llib.models.base import image_edge
from s2llib.models.pipeline import base_folder
from s2llib.params import Params, ParamsError
from s2llib.progress import track
from s2llib.scale import run
from s2llib.specs import Judge, OtherWays
from s2llib.studies.cells import Cell
from s2llib.studies.plan import cells, check_other, crowd, generations, search, tuned

__all__ = ["extracted", "extraction_cells", "memorising", "options", "searched"]


@refuses
def check(lab: Lab) -> None:
    """The base model that is extracted from knows this world, and its images can be cut into tiles; raises ParamsError."""
    p = lab.params.extraction
    if p.base:
        check_other(lab, memorising_overrides(lab), "extraction.base", "null")
    for params in (lab.params, *([lab.params.changed(memorising_overrides(lab))] if p.base else [])):
        edge = image_edge(params)
        for key, tiles in p.model_dump(include={"tiles", "other_tiles"}).items():
            if edge % tiles:
                raise ParamsError(
                    f"extraction.{key} is {tiles} but images of {edge} x {edge} pixels cannot be cut into {tiles} x {tiles} tiles; set"
                    " it to a divisor."
                )


def memorising(lab: Lab) -> Lab:
    """The lab of the base model whose images are extracted (extraction.base); the same one, if the profile names none."""
    return lab.at(memorising_overrides(lab)) if lab.params.extraction.base else lab


def memorising_overrides(lab: Lab) -> dict:
    """What the lab of extraction.base has otherwise; raises ParamsError if that base knows none of the domains."""
    p, world = lab.params.extraction, lab.params.world
    names = [name for name in domain_names(world) if name in known_names(world)[: p.people]]
    if not names:
        raise ParamsError(
            f"extraction.people: {p.base} was trained on the first {p.people} people, none of whom is in world.domains; add one, or"
            " set extraction.base=null."
        )
    return other_base(p.base) | {
        "extraction.base": None,
        "base.unet.people": p.people,
        "world.domains": names[: p.domains],
        "finetune.seeds": lab.params.finetune.seeds[:1],  # what varies most are the people, and there are few
    }


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
    cells = list(cells)
    run(lab, [spec for search, _ in cells for spec in (search, crowd(lab, search.domain))], "extraction")
    tables = []
    for spec, labels in track(cells, "extraction"):
        around = table(lab, crowd(lab, spec.domain))
        tables.append(table(lab, spec).merge(around, on=["split", "image"], validate="one_to_one").assign(**labels))
    return pd.concat(tables, ignore_index=True)


def own_judge(lab: Lab) -> Judge | None:
    """The CLIP pair that lies in the base model's folder, if one does."""
    return Judge(lab.base.content, lab.base.path) if has_judge(lab.params) else None


def has_judge(p: Params) -> bool:
    """Whether there is one, asked of the folder as it is named: nothing is trained, and no LoRA fused, for an answer."""
    at = base_folder(p)
    return at is None or (at / "clip").is_dir()


def option_cells(lab: Lab, method: str) -> Iterator[Cell]:
    """The pre-trained model and one method on the first few domains, searched by other rules."""
    p, size = lab.params.extraction, image_size(lab, lab.base)
    rules = {"other_tiles": p.other_tiles, "clique": p.clique, "candidates": p.candidates, "judge": own_judge(lab)}
    for domain, name, seed in cells(lab, [PRETRAINED, method], lab.domains[: p.option_domains]):
        drawn = generations(lab, domain, tuned(lab, domain, name, seed))
        yield OtherWays(drawn, domain, size, p.tiles, p.delta, **rules), {"domain": domain.name, "method": name, "seed": seed}


def options(lab: Lab, method: str) -> pd.DataFrame:
    """Distances under other ways to look for a match, of the pre-trained model and one method, on the first few domains.

    Columns: option, domain, method, seed, split, image, copies, distance, generated, crowd_D.
    """
    grid, tables = list(option_cells(lab, method)), []
    run(lab, [spec for spec, _ in grid], "extraction, other ways")
    for spec, labels in track(grid, "extraction, other ways"):
        for tiles, part in table(lab, spec).groupby("tiles"):
            around = table(lab, crowd(lab, spec.domain, tiles))
            tables.append(part.merge(around, on=["split", "image"], validate="many_to_one").assign(**labels))
    return pd.concat(tables, ignore_index=True)
