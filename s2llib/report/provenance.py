"""Where a result comes from: profile, seeds, package versions, git commit, hardware."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from s2llib.params import Params
from s2llib.store import digest, versions

__all__ = ["provenance"]


def _git_commit() -> str:
    root = Path(__file__).resolve().parents[2]
    run = lambda *words: subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)  # noqa: E731
    try:
        above, head = run("rev-parse", "--show-toplevel"), run("rev-parse", "HEAD")
        if head.returncode or Path(above.stdout.strip()).resolve() != root:  # unpacked from an archive, within another repository
            return "unknown"
        changed = run("status", "--porcelain", "--untracked-files=no", "--", "s2llib", "params").stdout.strip()
        return head.stdout.strip() + (" with uncommitted changes" if changed else "")
    except OSError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def provenance(params: Params) -> dict:
    """Everything needed to make a result again."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "profile": params.profile,
        "seeds": {"study": params.seed, "world": params.world.seed, "finetuning": params.finetune.seeds},
        "parameters_digest": digest(params.model_dump(mode="json"))[:20],
        "parameters": params.model_dump(mode="json"),
        "commit": _git_commit(),
        "packages": versions(),
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu},
    }
