"""Progress of long work, with the time left: a bar in a notebook, a status file under the headless runner."""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["PROGRESS_FILE", "progress", "track"]

PROGRESS_FILE = "S2L_PROGRESS"  # the runner names a file here and shows what stands in it
Item = TypeVar("Item")
_under_way: list[dict] = []  # loops within loops, the outermost first


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show how much of a piece of work is done and how long the rest will take; yields what to call with how many more are done."""
    status = os.environ.get(PROGRESS_FILE)
    if not status:
        with tqdm(desc=what, total=total, leave=False) as bar:
            yield bar.update
        return
    start = shown = time.monotonic()
    mine = {"what": what, "done": 0, "total": total, "left": None}

    def advance(more: int) -> None:
        nonlocal shown
        now, mine["done"] = time.monotonic(), mine["done"] + more
        mine["left"] = (now - start) / mine["done"] * (total - mine["done"])
        if now - shown > 0.5:
            _write(status)
            shown = now

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
    try:
        with open(status, "w") as file:
            json.dump(_under_way, file)
    except OSError:
        pass  # a lost progress line must never stop a run
