"""The lock of the artifacts' code: artifacts.json says which code made the results of which version.

python -m s2llib.lock                # whose code is not the one of the lock
python -m s2llib.lock --acknowledge  # write the lock anew: results are the same, or their version was raised
"""

import argparse
import ast
import json
import sys
from collections.abc import Container, Iterator
from functools import lru_cache
from pathlib import Path

from s2llib import artifact, compute  # noqa: F401  compute fills the registry
from s2llib.data import worlds
from s2llib.models import base
from s2llib.store import digest, write_atomic

__all__ = ["LIBRARY", "LOCK", "acknowledge", "changes", "code_versions", "current", "imported", "modules"]

LIBRARY = Path(__file__).resolve().parent
LOCK = LIBRARY.parent / "artifacts.json"
# what computes; the rest describes, keeps or shows: parameters and specifications are in the keys themselves
LAYERS = ("data", "models", "loop", "generate", "attacks", "defenses", "finetune", "metrics", "compute")
# photographs and the stages of a base model, made below the artifacts: {name: (module, constant with its version)}
BELOW = {
    "portraits": (worlds, "PORTRAITS_VERSION"),
    "olivetti": (worlds, "OLIVETTI_VERSION"),
    "folder": (worlds, "FOLDER_VERSION"),
    "folder_check": (worlds, "CHECK_VERSION"),
    "base_vae": (base, "VAE_VERSION"),
    "base_clip": (base, "CLIP_VERSION"),
    "base_unet": (base, "UNET_VERSION"),
    "base": (base, "BASE_VERSION"),
    "fused": (base, "FUSED_VERSION"),
}
MEND = "raise its version if its results change, then run python -m s2llib.lock --acknowledge and commit artifacts.json."


def modules(library: Path = LIBRARY) -> dict[str, Path]:
    """{dotted name below s2llib: file}."""
    found = {}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, known: Container[str]) -> set[str]:
    """The modules of the library that the import statements of a tree name, wherever they stand."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "s2llib":
            module = node.module.partition(".")[2]
            found |= {inner if (inner := f"{module}.{name.name}".strip(".")) in known else module for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name.partition(".")[2] for name in node.names if name.name.partition(".")[0] == "s2llib"}
    return found - {""}


def current(library: Path = LIBRARY) -> dict[str, dict]:
    """{artifact: {"version", "code"}} as they are now. code: of its module, and of all that it imports in LAYERS."""
    files, found = modules(library), {}
    read = {name: _read(path.read_text(encoding="utf-8"), name, frozenset(files)) for name, path in files.items()}
    needed = {name: others for name, (_, others) in read.items()}
    roots = {a.name: a.make.__module__ for a in artifact.REGISTRY.values()} | {name: module.__name__ for name, (module, _) in BELOW.items()}
    for name, version in sorted(code_versions().items()):
        code = {each: read[each][0] for each in _reached(roots[name].partition(".")[2], needed)}
        found[name] = {"version": version, "code": digest(code)[:20]}
    return found


def code_versions() -> dict[str, int]:
    """The version of every artifact, and of photographs and base models below them."""
    below = {name: getattr(module, constant) for name, (module, constant) in BELOW.items()}
    return {a.name: a.version for a in artifact.REGISTRY.values()} | below


def _reached(module: str, needed: dict[str, set[str]]) -> set[str]:
    """A module and those that it needs, and they need."""
    found, left = set(), {module}
    while left:
        found.add(name := left.pop())
        left |= needed[name] - found
    return found


@lru_cache(maxsize=1000)
def _read(source: str, module: str, known: frozenset[str]) -> tuple[str, set[str]]:
    """(digest of a module's code, modules of LAYERS that it imports)."""
    tree = ast.parse(source)
    needed = imported(tree, known)
    if any(isinstance(node, ast.ImportFrom) and node.module == "pkgutil" for node in tree.body):  # it imports its own modules by name
        needed |= {each for each in known if each.startswith(f"{module}.")}
    return digest(_plain(tree)), {each for each in needed if each.partition(".")[0] in LAYERS}


def _plain(value: object) -> object:
    """A syntax tree as JSON, the same under every Python: without positions, comments, docstrings and versions, which the lock names."""
    if isinstance(value, list):
        return [_plain(each) for each in value if not (_is_text(each) or _is_version(each))]
    if not isinstance(value, ast.AST):
        return repr(value)
    given = {name: each for name, each in ast.iter_fields(value) if each is not None and each != []}
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") == "artifact":
        given["args"] = value.args[:2] + value.args[3:]
        given["keywords"] = [each for each in value.keywords if each.arg != "version"]
    return [type(value).__name__, {name: _plain(each) for name, each in given.items()}]


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_version(node: object) -> bool:
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").endswith("VERSION")


def changes(library: Path = LIBRARY, lock: Path = LOCK) -> Iterator[str]:
    """A sentence, with its mend, for each artifact that is not as the lock says."""
    then, now = json.loads(lock.read_text(encoding="utf-8")) if lock.is_file() else {}, current(library)
    for name in sorted(then | now):
        if name not in now:
            yield f"{name}: it is in {lock.name} and no artifact any longer; run python -m s2llib.lock --acknowledge."
        elif name not in then:
            yield f"{name}: it is not in {lock.name}; run python -m s2llib.lock --acknowledge."
        elif now[name]["version"] != then[name]["version"]:
            versions = f"its version is {now[name]['version']} and {then[name]['version']} in {lock.name}"
            yield f"{name}: {versions}; run python -m s2llib.lock --acknowledge."
        elif now[name] != then[name]:
            yield f"{name}: its code changed and its version, {now[name]['version']}, did not; {MEND}"


def acknowledge(library: Path = LIBRARY, lock: Path = LOCK) -> None:
    """Write the lock anew."""
    rows = (f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in current(library).items())  # a line each: for diffs
    write_atomic(lock, "{\n" + ",\n".join(rows) + "\n}\n")


def main(library: Path = LIBRARY, lock: Path = LOCK) -> int:
    p = argparse.ArgumentParser(prog="python -m s2llib.lock", description="Say which artifacts' code is not that of artifacts.json.")
    p.add_argument("--acknowledge", action="store_true", help="write artifacts.json anew")
    if p.parse_args().acknowledge:
        acknowledge(library, lock)
    found = list(changes(library, lock))
    print("\n".join(found) or "Every artifact is as artifacts.json says.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
