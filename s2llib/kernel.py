"""Running a notebook in a kernel that is this very interpreter with this very library, whatever else is installed around it."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from s2llib.params import PARAMS_DIR, ParamsError

__all__ = ["Failure", "cells_of", "check_kernel", "check_notebook", "execute", "own_kernel"]

ROOT = PARAMS_DIR.parent
NEEDED = ("ipykernel", "papermill", "nbclient", "nbformat")
START = 300  # seconds until a kernel that does not answer is given up: the first import from a network's disk takes its time
REFUSALS = ("ParamsError", "DiskFull")  # errors whose message is one sentence with the mend


@dataclass(frozen=True)
class Failure:
    """What stopped a notebook, in one sentence. refused: it names the mend, so that where it happened is of no use."""

    sentence: str
    refused: bool = False


def check_kernel() -> None:
    """Raises ParamsError where what runs notebooks is not installed, or has no room for its connection."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # none can be written to, or all are full
        raise ParamsError("No temporary folder can be written to; set $TMPDIR to one that has room.") from None
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ParamsError(f"{missing[0]}, which runs the notebooks, is missing in {sys.executable}; pip install -e . in {ROOT}.")


def cells_of(path: Path) -> list[dict]:
    """The cells of a notebook; raises ParamsError for one that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        why = type(error).__name__
        raise ParamsError(f"{path} cannot be read as a notebook ({why}); restore it: git checkout -- notebooks/{path.name}") from None


def check_notebook(path: Path) -> None:
    """Raises ParamsError for a notebook that is damaged, or that has lost the tag by which it is given its parameters."""
    if not any("parameters" in cell["metadata"].get("tags", []) for cell in cells_of(path)):
        raise ParamsError(
            f"{path} has lost the tag 'parameters' of its first code cell, so that no profile reaches it; restore it: git checkout --"
            f" notebooks/{path.name}"
        )


def _environment() -> dict[str, str]:
    """What a kernel is told beside the environment of this process: it imports this library first, and text files are UTF-8."""
    others = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), *([others] if others else [])]), "PYTHONSAFEPATH": "", "PYTHONUTF8": "1"}


def own_kernel(scratch: Path) -> type:
    """A class of kernel managers that knows one kernel, under every name, and looks into no folder of Jupyter's.

    scratch: where its connection is written down, and in `kernel.log` what it says on standard error.
    """
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.ignore_cwd=True"]
    spec = KernelSpec(argv=argv, language="python", display_name="Python 3", env=_environment())

    class OwnKernel(AsyncKernelManager):
        kernel_spec = spec

        def __init__(self, **settings):
            super().__init__(**settings, connection_file=str(scratch / "connection.json"))

        async def start_kernel(self, **settings):
            with open(scratch / "kernel.log", "wb") as log:
                return await super().start_kernel(**settings, stderr=log)

    return OwnKernel


def _last_words(scratch: Path) -> str:
    """The last line that a kernel wrote on standard error, in brackets; empty if it wrote none."""
    try:
        lines = (scratch / "kernel.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f" ({said[-1]})" if said else ""


def _engine(kernel: type, at_cell: Callable[[int], None]) -> type:
    """Papermill's engine with a kernel of our own, which tells when a cell (counted from 0) is begun."""
    from papermill.engines import NBClientEngine

    class Watched(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, manager, *args, **kwargs):
            start = manager.cell_start

            def cell_start(cell, cell_index=None, **more):
                at_cell(cell_index or 0)
                return start(cell, cell_index, **more)

            manager.cell_start = cell_start
            return super().execute_managed_notebook(manager, *args, kernel_manager_class=kernel, **kwargs)

    return Watched


def execute(path: Path, to: Path, parameters: dict, at_cell: Callable[[int], None]) -> Failure | None:
    """Execute a notebook through papermill; returns what failed, if anything.

    What the notebook says of its kernel and language is not asked: whoever opened and saved it last had their own.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import papermill_engines

    reached = -1

    def begun(cell: int) -> None:
        nonlocal reached
        reached = cell
        at_cell(cell)

    quiet = {"progress_bar": False, "extra_arguments": ["--log-level=ERROR"]}
    ours = {"engine_name": "watched", "kernel_name": "python3", "language": "python", "start_timeout": START}
    with tempfile.TemporaryDirectory(prefix="s2l-kernel-", ignore_cleanup_errors=True) as scratch:
        papermill_engines.register("watched", _engine(own_kernel(Path(scratch)), begun))
        try:
            papermill.execute_notebook(path, to, parameters, **ours, **quiet)
        except papermill.PapermillExecutionError as error:
            return _failure(error)
        except DeadKernelError:
            died = f"cell {reached + 1}: the kernel died{_last_words(Path(scratch))}"
            return Failure(f"{died}, most likely for want of memory; lower attacks.batch and sp.batch")
        except RuntimeError as error:  # nbclient's, of a kernel that died before it answered
            if reached >= 0:
                raise
            return Failure(f"no cell: the kernel {sys.executable} did not start{_last_words(Path(scratch)) or f' ({error})'}")
    return None


def _failure(error) -> Failure:
    """What a cell's error says, on one line."""
    said = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", error.evalue or "").splitlines() if line.strip()]
    if error.ename in REFUSALS:
        return Failure(" ".join(said), refused=True)
    return Failure(f"cell {error.exec_count}: {': '.join([error.ename, *said[:1]])}")
