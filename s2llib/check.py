"""Every check of a study, what was read, and an estimate of time and disk; nothing is computed.

./run_all.sh --check --profile audit --set base.path=/models/mine
python -m s2llib.check --profile audit --set base.path=/models/mine
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from s2llib.arguments import parser
from s2llib.command import guarded, prepared
from s2llib.estimate import estimate
from s2llib.lab import Lab
from s2llib.models.hardware import free_memory
from s2llib.models.pipeline import base_folder
from s2llib.report.reading import what_was_read

__all__ = ["announce", "check", "main"]

TRAINED_HERE = "No estimate: the base model is trained here first, and only then can one evaluation of it be timed."


def announce(lab: Lab, notebooks: list[Path]) -> str:
    """What was read, and how long these notebooks take: said before anything is computed."""
    cost = TRAINED_HERE if lab.params.trains_base else estimate(lab, [path.name[:2] for path in notebooks])
    lab.forget()  # their memory is for the notebooks
    free_memory()
    return f"## What was read\n\n{what_was_read(lab)}\n\n## Estimate\n\n{cost}"


def check(args: argparse.Namespace) -> int:
    """Say what a call of `./run_all.sh` with these arguments would read, skip and cost."""
    lab, _, notebooks, refusals = prepared(args, plan)
    print(announce(lab, [path for path in notebooks if path not in refusals]))
    for path, reason in refusals.items():
        print(f"\n{path.stem} will be skipped. {reason}")
    return 0


def plan(lab: Lab) -> None:
    """Let a lab of portraits count its images without drawing them, and one with a LoRA time its base without fusing it."""
    if lab.params.base.lora:
        lab.base = replace(lab.base, path=base_folder(lab.params))
    lab.counts = True


def main() -> int:
    args = parser("python -m s2llib.check").parse_args()
    return guarded(lambda: check(args))


if __name__ == "__main__":
    sys.exit(main())
