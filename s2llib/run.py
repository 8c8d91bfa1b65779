"""Run the notebooks of a study headlessly: `./run_all.sh` calls this.

Notebooks whose inputs have not changed are not executed again; an interrupted run goes on where it stopped.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat

from s2llib.arguments import parser
from s2llib.check import announce, check
from s2llib.command import ROOT, clock, guarded, prepared
from s2llib.kernel import cells_of, execute
from s2llib.lab import Lab, other_base
from s2llib.lock import code_versions
from s2llib.metrics.quality import no_brisque
from s2llib.models.base import base_key, content
from s2llib.params import ParamsError, resolved
from s2llib.report.gallery import write_gallery
from s2llib.scale import run as make
from s2llib.scale import side_by_side
from s2llib.scores import TABLES_ONLY, figures_root
from s2llib.store import digest, file_digest, room_on, write_atomic
from s2llib.studies import NOTEBOOKS
from s2llib.studies.extraction import memorising


def notebook_key(path: Path, lab: Lab) -> str:
    """What a notebook's results depend on: its cells, the parameters, models and images, artifacts' versions, the code of the tables."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in cells_of(path)]
    digests = [domain.digest for domain in lab.domains] if lab.params.world.kind == "folder" else []
    p = lab.params
    bases = [lab.base.content, memorising(lab).base.content, *(base_key(p.changed(other_base(path))) for path in p.ablations.scale)]
    unconditional = resolved(p.zero_prior.path) / "unet" if p.zero_prior.path and not p.retrain_base else None
    named = [p.blackbox.folder, p.blackbox.captioner, *p.blackbox.encoder_folders.values(), p.mixsyn.clip, unconditional]
    others = [content(resolved(str(folder))) for folder in named if folder and resolved(str(folder)).is_dir()]
    tables = [file_digest(source) for folder in ("report", "metrics") for source in sorted((ROOT / "s2llib" / folder).glob("*.py"))]
    return digest([cells, p.model_dump(mode="json"), bases, digests, others, no_brisque(), code_versions(), tables])


def time_left(work: list[dict]) -> float | None:
    """Seconds until the outermost of loops within loops (`progress`) ends, if it goes on as it began; None while nothing is done."""
    done = 0.0
    for each in reversed(work):  # the item that the outer loop is at is as far as the inner loop
        done = (each["done"] + done) / max(each["total"], 1)
    return work[0]["spent"] * (1 - done) / done if work and done else None


class Status:
    """One line of the terminal: which notebook, which of its cells, how far the work in it is, how much time is left."""

    def __init__(self, label: str, cells: int, expected: float | None):
        self.label, self.cells, self.expected = label, cells, expected
        self.cell, self.begun, self.spoken = 0, time.monotonic(), time.monotonic()
        self.file = Path(tempfile.gettempdir()) / f"s2l-progress-{os.getpid()}"
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        os.environ["S2L_PROGRESS"] = str(self.file)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        os.environ.pop("S2L_PROGRESS")
        self.file.unlink(missing_ok=True)
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")

    def at(self, cell: int) -> None:
        """A cell, counted from 0, is begun."""
        self.cell = min(cell + 1, self.cells)

    def line(self) -> str:
        spent = time.monotonic() - self.begun
        left = self.expected - spent if self.expected and self.expected > spent else None
        work = []
        try:
            work = json.loads(self.file.read_text())
            left = max(left or 0, time_left(work) or 0) or None
        except (OSError, ValueError, KeyError):
            pass
        parts = [
            self.label,
            f"cell {self.cell}/{self.cells}",
            f"{clock(spent)} spent",
            f"about {clock(left)} left" if left else "time left unknown",
        ]
        return " · ".join([*parts, *(f"{each['what']} {each['done']}/{each['total']}" for each in work)])  # the end may be cut off

    def _watch(self) -> None:
        while not self.done.wait(0.5):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\033[K{self.line()[: columns() - 1]}")
                sys.stderr.flush()
            elif time.monotonic() - self.spoken > 30:
                self.spoken = time.monotonic()
                print(self.line(), file=sys.stderr, flush=True)


def columns() -> int:
    """Of the terminal that progress is shown on; 80 where it does not say, as under some editors and in containers."""
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _record(at: Path) -> dict:
    """What is noted of a notebook's last run; nothing if the note is missing or damaged."""
    try:
        return json.loads(at.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def outputs(profile: str, notebook: str) -> dict[str, str]:
    """{file: SHA-256} of what a notebook wrote to figures/<profile>/."""
    try:
        files = json.loads((figures_root() / profile / "provenance.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: made["sha256"] for name, made in files.items() if made["notebook"] == notebook}


def unchanged(record: dict, key: str, profile: str) -> bool:
    """Whether a notebook was executed with this key, and everything it wrote is still there, byte for byte."""
    try:
        folder, written = figures_root() / profile, record["outputs"]
        return record["key"] == key and bool(written) and all(file_digest(folder / name) == checksum for name, checksum in written.items())
    except (KeyError, OSError):
        return False


def store_outputs(executed: Path, notebook: Path) -> None:
    """Put the outputs of an executed notebook into the repository's copy, without what papermill added."""
    done, mine = nbformat.read(executed, 4), nbformat.read(notebook, 4)
    ran = [cell for cell in done.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell, result in zip(mine.cells, ran, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = result.outputs, result.execution_count
    nbformat.write(mine, notebook)


def fill(lab: Lab, notebook: str) -> None:
    """Let what a notebook will ask for be made side by side, all of it at once: its cells ask for one study after another."""
    if side_by_side(lab):
        specs = [spec for asks, some in NOTEBOOKS.values() if asks == notebook for spec in some(lab)]
        make(lab, specs, f"cells of notebook {notebook}")
        lab.forget()  # the kernel loads its own


def without_images(path: Path, to: Path) -> Path:
    """A copy of a notebook without the cells that are tagged `images`."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if "images" not in cell.metadata.get("tags", [])]
    nbformat.write(notebook, to)
    return to


def run(args: argparse.Namespace) -> int:
    if args.tables:
        if args.store or args.fresh:
            raise ParamsError("--tables computes nothing, so that it goes with neither --store nor --fresh; leave one of them out.")
        os.environ[TABLES_ONLY] = "1"
    lab, changed, notebooks, refusals = prepared(args)
    if lab.params.world.kind == "folder" and not args.tables:  # a large model: hours or weeks
        print(announce(lab, [path for path in notebooks if path not in refusals]), file=sys.stderr, flush=True)
    folder, rows = lab.store.root / "runs" / args.profile, []
    with room_on(lab.store.root):
        folder.mkdir(parents=True, exist_ok=True)
        if args.fresh:  # by the clock of the store's file system, which may be another machine's
            (folder / "fresh").touch()
            os.environ["S2L_FRESH"] = str((folder / "fresh").stat().st_mtime)
    for number, path in enumerate(notebooks, 1):
        if path in refusals:
            print(f"{path.stem} is skipped. {refusals[path]}", file=sys.stderr)
            rows.append((path.stem, "skipped", 0, 0))
            continue
        at, key = folder / f"{path.stem}.json", notebook_key(path, lab)
        record = _record(at)
        if not args.fresh and not args.tables and unchanged(record, key, args.profile):
            rows.append((path.stem, "unchanged", record["seconds"], len(record["outputs"])))
        else:
            label, executed = f"[{number}/{len(notebooks)}] {path.stem}", folder / (f"tables-{path.name}" if args.tables else path.name)
            print(f"{label} ...", file=sys.stderr, flush=True)
            start = time.monotonic()
            with Status(label, len(cells_of(path)), record.get("seconds")) as status, room_on(folder):
                fill(lab, path.name[:2])
                source = without_images(path, folder / f"tables-{path.name}") if args.tables else path
                failure = execute(source, executed, {"profile": args.profile, "overrides": changed}, status.at)
            if failure and failure.refused:
                print(failure.sentence, file=sys.stderr)
                return 2
            if failure:
                print(f"{path.stem} failed in {failure.sentence}", file=sys.stderr)
                print(f"The notebook with the error is {executed}; run the same command again to go on from here.", file=sys.stderr)
                return 1
            written = outputs(args.profile, path.stem)
            record = {"key": key, "seconds": round(time.monotonic() - start, 1), "outputs": written}
            if not args.tables:
                with room_on(lab.store.root):
                    write_atomic(at, json.dumps(record))
            rows.append((path.stem, "made", record["seconds"], len(written)))
        if args.store:
            store_outputs(folder / path.name, path)
    if args.store:
        write_gallery(args.profile)
    summary(rows, args.profile, folder)
    return 0


def summary(rows: list[tuple], profile: str, folder: Path) -> None:
    width = max(len(row[0]) for row in rows)
    print(f"\n{'notebook':<{width}}  {'status':<9}  {'took':>12}  files")
    for name, status, seconds, files in rows:
        print(f"{name:<{width}}  {status:<9}  {clock(seconds):>12}  {files}")
    print(f"{'all':<{width}}  {'':<9}  {clock(sum(row[2] for row in rows if row[1] == 'made')):>12}  in this call")
    print(f"\nTables and figures: {figures_root() / profile}\nExecuted notebooks: {folder}")


def main() -> int:
    args = parser().parse_args()
    return guarded(lambda: check(args) if args.check else run(args))


if __name__ == "__main__":
    sys.exit(main())
