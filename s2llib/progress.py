"""Progress of long work, with the time left: a bar in a notebook, a status file under the headless runner."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["PROGRESS_FILE", "track"]

PROGRESS_FILE = "S2L_PROGRESS"  # the runner names a file here and shows what stands in it
Item = TypeVar("Item")
_under_way: list[dict] = []  # loops within loops, the outermost first


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items while showing how many are done and how long the rest will take."""
    total = len(items) if total is None else total
    status = os.environ.get(PROGRESS_FILE)
    if not status:
        yield from tqdm(items, desc=what, total=total, leave=False)
        return
    start = shown = time.monotonic()
    mine = {"what": what, "done": 0, "total": total, "left": None}
    _under_way.append(mine)
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if done == 0 or now - shown > 0.5:
                mine |= {"done": done, "left": (now - start) / done * (total - done) if done else None}
                _write(status)
                shown = now
            yield item
    finally:  # an error or a loop that is left early ends it too
        _under_way.remove(mine)
        _write(status)


def _write(status: str) -> None:
    try:
        with open(status, "w") as file:
            json.dump(_under_way, file)
    except OSError:
        pass  # a lost progress line must never stop a run
