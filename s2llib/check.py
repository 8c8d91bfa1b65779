"""Every check of a study, what was read, and an estimate of time and disk; nothing is computed.

./run_all.sh --check --profile audit --set base.path=/models/mine
python -m s2llib.check --profile audit --set base.path=/models/mine
"""

import argparse
import sys
from pathlib import Path

from s2llib.command import guarded
from s2llib.data.domain import MEMBER, NONMEMBER, Domain, Photos
from s2llib.data.portraits import STYLES
from s2llib.data.worlds import domain_names
from s2llib.estimate import estimate
from s2llib.models.hardware import free_memory
from s2llib.models.pipeline import base_folder
from s2llib.params import World
from s2llib.report.reading import what_was_read
from s2llib.run import parser, prepared
from s2llib.study import Study

__all__ = ["announce", "check", "main", "planned"]

TRAINED_HERE = "No estimate: the base model is trained here first, and only then can one evaluation of it be timed."


def planned(world: World) -> list[Domain]:
    """The domains of a world of portraits before any is drawn: so many images each, and no files."""
    single = world.members - round(world.duplicated * world.members)
    copies = {MEMBER: (1,) * single + (2,) * (world.members - single), NONMEMBER: (1,) * world.nonmembers}
    copies |= dict.fromkeys(STYLES[1:], (1,) * world.shifted)
    splits = {split: Photos((Path(),) * len(n), ("",) * len(n), n) for split, n in copies.items()}
    return [Domain(name, splits, "", world.instance, world.condition) for name in domain_names(world)]


def announce(study: Study, notebooks: list[Path]) -> str:
    """What was read, and how long these notebooks take: said before anything is computed."""
    cost = TRAINED_HERE if study.params.trains_base else estimate(study, [path.name[:2] for path in notebooks])
    study.__dict__.pop("base", None)  # its memory is for the notebooks
    free_memory()
    return f"## What was read\n\n{what_was_read(study)}\n\n## Estimate\n\n{cost}"


def check(args: argparse.Namespace) -> int:
    """Say what a call of `./run_all.sh` with these arguments would read, skip and cost."""
    study, _, notebooks, refusals = prepared(args, plan)
    print(announce(study, [path for path in notebooks if path not in refusals]))
    for path, reason in refusals.items():
        print(f"\n{path.stem} will be skipped. {reason}")
    return 0


def plan(study: Study) -> None:
    """Let a study of portraits count its images without drawing them, and one with a LoRA time its base without fusing it."""
    if study.params.base.lora:
        study.base = study._load(base_folder(study.params))
    if study.params.world.kind == "portraits":
        study.domains = planned(study.params.world)


def main() -> int:
    args = parser("python -m s2llib.check").parse_args()
    return guarded(lambda: check(args))


if __name__ == "__main__":
    sys.exit(main())
