"""What every command shares: whatever goes wrong is one sentence and an exit code, never a traceback."""

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import yaml

from s2llib.kernel import check_kernel, check_notebook
from s2llib.lab import Lab
from s2llib.params import PARAMS_DIR, ParamsError, first_line, takes_text
from s2llib.scale import EXECUTOR, check_executor
from s2llib.scores import figures_root
from s2llib.store import DiskFull, check_writable
from s2llib.studies import REFUSALS

__all__ = ["clock", "default_notebooks", "guarded", "overrides", "prepared", "selected"]

ROOT = PARAMS_DIR.parent


class _Terminated(KeyboardInterrupt):
    """SIGTERM: of `kill`, of a batch queue whose time is up, of a container that is stopped."""


def _terminate(*_) -> None:
    raise _Terminated


def guarded(call: Callable[[], int]) -> int:
    """The exit code of a command: its own; 2 and one sentence for what cannot be used; 1, one sentence and a log for any other error."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return call()
    except (ParamsError, DiskFull) as error:
        print(" ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("\nInterrupted; run the same command again to go on from here.", file=sys.stderr)
        return 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:  # whoever read our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        print(f"Unexpected: {first_line(error)}; the details are in {_log()}: please report it.", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _log() -> str:
    """A new file with the traceback of the error that is being handled."""
    handle, name = tempfile.mkstemp(prefix=time.strftime("s2llib-%Y%m%d-%H%M%S-"), suffix=".log")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return name


def overrides(pairs: list[str]) -> dict:
    """{"sp.images": 96} of ["sp.images=96"]; values are read as YAML, those of keys that take text (paths, names, prompts) as they are."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ParamsError(f"--set {pair}: write KEY=VALUE, such as --set sp.images=96.")
        if takes_text(key) and value not in ("null", "~") and value[:1] not in ("'", '"'):
            found[key] = value
            continue
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: of a date that there is none of
            raise ParamsError(f"--set {pair}: {value!r} is not a YAML value; put text in quotes, such as --set \"{key}='...'\".") from None
    return found


def default_notebooks(profile: str | None) -> list[str] | None:
    """The notebooks of a profile where none are named; None: all."""
    return ["09"] if profile == "audit" else None


def selected(only: list[str] | None, start: str | None) -> list[Path]:
    """The notebooks to run, in order."""
    every = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise ParamsError(f"There are no notebooks in {ROOT}; call this from a checkout of the repository, installed with pip install -e.")
    numbers = [path.name[:2] for path in every]
    for wanted in [*(only or []), *([start] if start else [])]:
        if wanted not in numbers:
            raise ParamsError(f"There is no notebook {wanted}; known: {', '.join(numbers)}.")
    chosen = [path for path, n in zip(every, numbers, strict=True) if (not only or n in only) and (not start or n >= start)]
    if not chosen:
        raise ParamsError(f"--only {' --only '.join(only or [])} and --from {start} leave no notebook to run; drop one of them.")
    return chosen


def prepared(args: argparse.Namespace, plan: Callable | None = None) -> tuple:
    """(lab, overrides, notebooks, {notebook: why it cannot run}) of a call, all of it checked. plan: what is done to the lab first."""
    changed = overrides(args.set)
    only = args.only or (None if args.start else default_notebooks(args.profile))
    notebooks = selected(only, args.start)
    for path in notebooks:
        check_notebook(path)
    check_kernel()
    check_writable(figures_root() / args.profile, "S2L_FIGURES")
    lab = Lab.open(args.profile, changed)
    if args.executor:
        os.environ[EXECUTOR] = args.executor
    check_executor(lab)
    if plan:
        plan(lab)
    refusals = {path: reason for path in notebooks if path.name[:2] in REFUSALS and (reason := REFUSALS[path.name[:2]](lab))}
    if refusals and only:
        raise ParamsError(next(iter(refusals.values())))
    return lab, changed, notebooks, refusals


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
