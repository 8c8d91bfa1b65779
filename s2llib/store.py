"""Artifacts on disk: addressed by what they depend on, written atomically, checked when read.

An artifact is a folder `<root>/<stage>/<key>`; the key is the SHA-256 of the stage's name, its code version and its inputs.
`manifest.json` inside it holds those inputs, package versions, threads and the SHA-256 of every file. A folder that lacks a file or has
a changed byte is removed and made again.
"""

import errno
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from filelock import FileLock

from s2llib.params import ParamsError

__all__ = ["DiskFull", "Store", "check_writable", "digest", "file_digest", "folder_digest", "number", "room_on", "versions", "write_atomic"]

PACKAGES = ("torch", "diffusers", "transformers", "peft", "opacus", "numpy", "pandas", "pillow", "scikit-learn", "papermill", "safetensors")
MANIFEST = "manifest.json"
FRESH = "S2L_FRESH"  # a time: artifacts older than that are made again


class DiskFull(OSError):
    """No room for an artifact; the message names the folder and what to do. What is finished is kept."""


def _is_full(error: BaseException | None) -> bool:
    """Whether an error, or the one that it came from, says that a disk is full: safetensors wraps it and drops its number."""
    if error is None:
        return False
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(error)
    return full or _is_full(error.__cause__ or error.__context__)


@contextmanager
def room_on(folder: Path) -> Iterator[None]:
    """Around what writes below a folder: raises DiskFull, one sentence, where the disk is full."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        raise DiskFull(
            f"The disk of {folder} is full; make room, or set $S2L_HOME to a folder on another disk, and run the same command again: what"
            " is finished is kept."
        ) from error


def check_writable(folder: Path, variable: str) -> None:
    """Raises ParamsError unless a folder, which need not be there yet, can be written to. variable: of the environment, that names it."""
    at = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    mend = f"set ${variable} to a folder that you may write to"
    if not at.is_dir():  # a file, or a link to a disk that is not there
        raise ParamsError(f"{folder} cannot be written to: {at} is no folder; {mend}.")
    for each in (at, *(at.glob("*/") if at == folder.absolute() and os.access(at, os.R_OK) else ())):
        if not os.access(each, os.R_OK | os.W_OK | os.X_OK):  # one inside may be of another user: of an earlier run in a container
            raise ParamsError(f"{each} cannot be written to by this user; {mend}.")
    if shutil.disk_usage(at).free < 2**20:
        raise ParamsError(f"The disk of {folder} is full; make room, or {mend}.")


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value, the same for the same content in any key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def number(text: str) -> int:
    """A seed that depends on a name."""
    return int(digest(text)[:8], 16)


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest({str(path.relative_to(folder)): file_digest(path) for path in files})


@cache
def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # put there without pip
            found[name] = "unknown"
    return found


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


class Store:
    """A folder of artifacts. `get` is the only way in: it returns a finished, verified artifact."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._verified: set[Path] = set()

    def key(self, stage: str, version: int, inputs: dict) -> str:
        return digest({"stage": stage, "version": version, "inputs": inputs})[:20]

    def get(self, stage: str, version: int, inputs: dict, make: Callable[[Path], None]) -> Path:
        """The artifact of (stage, version, inputs), made by `make(folder)` if it is missing or damaged.

        stage: the kind of artifact; version: raised by hand when the stage's result changes; inputs: JSON-able. Raises DiskFull.
        """
        path = self.root / stage / self.key(stage, version, inputs)
        if path in self._verified:
            return path
        with room_on(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not self._sound(path):
                    self._make(path, stage, version, inputs, make)
        self._verified.add(path)
        return path

    def has(self, stage: str, version: int, inputs: dict) -> bool:
        """Whether an artifact is finished; `get` looks at what is in its files."""
        manifest = self.root / stage / self.key(stage, version, inputs) / MANIFEST
        return manifest.is_file() and manifest.stat().st_mtime >= float(os.environ.get(FRESH, 0))

    def scratch(self, stage: str, version: int, inputs: dict) -> Path:
        """Where a long stage keeps its checkpoints until its artifact is finished."""
        return self.root / stage / f"{self.key(stage, version, inputs)}.partial"

    def _make(self, path: Path, stage: str, version: int, inputs: dict, make: Callable[[Path], None]) -> None:
        for left_over in path.parent.glob(f"{path.name}.new-*"):  # of a killed run: we hold the lock
            shutil.rmtree(left_over, ignore_errors=True)
        new = path.with_name(f"{path.name}.new-{uuid.uuid4().hex[:8]}")
        new.mkdir()
        start = time.perf_counter()
        try:
            make(new)
            files = sorted(file for file in new.rglob("*") if file.is_file())
            manifest = {
                "stage": stage,
                "version": version,
                "inputs": inputs,
                "seconds": round(time.perf_counter() - start, 2),
                "packages": versions(),
                "threads": torch.get_num_threads(),
                "files": {str(file.relative_to(new)): file_digest(file) for file in files},
            }
            (new / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
            os.rename(new, path)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        shutil.rmtree(path.with_name(f"{path.name}.partial"), ignore_errors=True)

    def _sound(self, path: Path) -> bool:
        if not path.is_dir():
            return False
        try:
            files = json.loads((path / MANIFEST).read_text())["files"]
            if (path / MANIFEST).stat().st_mtime < float(os.environ.get(FRESH, 0)):
                shutil.rmtree(path)
                return False
            if all(file_digest(path / name) == checksum for name, checksum in files.items()):
                return True
        except (OSError, ValueError, KeyError):
            pass
        warnings.warn(f"Artifact {path} is damaged; it is made again.", stacklevel=3)
        shutil.rmtree(path)
        return False

    def seconds(self, path: Path) -> float:
        """How long an artifact took to make."""
        return json.loads((path / MANIFEST).read_text())["seconds"]
