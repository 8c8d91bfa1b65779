"""Progress of long work, with the time left: a bar in a notebook, a status file under the headless runner."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["PROGRESS_FILE", "progress", "track"]

PROGRESS_FILE = "S2L_PROGRESS"  # the runner names a file here and shows what stands in it
Item = TypeVar("Item")


@dataclass(eq=False)
class _Loop:
    """A piece of work that is under way."""

    what: str
    total: int
    begun: float
    done: int = 0


_under_way: list[_Loop] = []  # loops within loops, the outermost first


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show how much of a piece of work is done and how long the rest will take; yields what to call with how many more are done."""
    status = os.environ.get(PROGRESS_FILE)
    if not status:
        with tqdm(desc=what, total=total, leave=False) as bar:
            yield bar.update
        return
    shown = time.monotonic()
    mine = _Loop(what, total, begun=shown)

    def advance(more: int) -> None:
        nonlocal shown
        mine.done += more
        if time.monotonic() - shown > 0.5:
            _write(status)
            shown = time.monotonic()

    _under_way.append(mine)
    _write(status)
    try:
        yield advance
    finally:  # an error or a loop that is left early ends it too
        _under_way.remove(mine)
        _write(status)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items while showing how many are done and how long the rest will take."""
    with progress(what, len(items) if total is None else total) as advance:
        for item in items:
            yield item
            advance(1)


def _write(status: str) -> None:
    now = time.monotonic()
    loops = [{"what": loop.what, "done": loop.done, "total": loop.total, "spent": now - loop.begun} for loop in _under_way]
    try:
        with open(status, "w") as file:
            json.dump(loops, file)
    except OSError:
        pass  # a lost progress line must never stop a run
