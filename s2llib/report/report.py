"""Writing tables (CSV, Markdown, LaTeX) and figures (PNG, PDF) of one study, each with its provenance."""

import json
import os
import re

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from s2llib.artifact import read
from s2llib.lab import Lab
from s2llib.report.provenance import provenance
from s2llib.scores import figures_root, keep, tables_only
from s2llib.store import check_writable, digest, file_digest, write_atomic

__all__ = ["Report"]


def _escaped(text: str) -> str:
    """Text for LaTeX, where %, & and _ mean something else."""
    return re.sub(r"([%&_#$])", r"\\\1", text)


class Report:
    """The folder `figures/<profile>/` of a profile."""

    def __init__(self, lab: Lab, notebook: str):
        self.lab, self.notebook = lab, notebook
        self._parameters = digest(lab.params.model_dump(mode="json"))[:20]
        self.folder = figures_root() / lab.params.profile
        check_writable(self.folder, "S2L_FIGURES")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._kept: set[tuple[str, str]] = set()
        if not tables_only():  # which leaves out what needs images
            self._record()

    def table(self, name: str, tidy: pd.DataFrame, printed: pd.DataFrame | None = None, note: str = "") -> pd.DataFrame:
        """Write NAME.csv from the tidy table, NAME.md and NAME.tex from the one laid out for print, which is returned."""
        printed = tidy if printed is None else printed
        csv = tidy.to_csv(index=False, float_format="%.6g")
        write_atomic(self.folder / f"{name}.csv", csv)
        flat = printed.reset_index() if printed.index.names != [None] else printed
        write_atomic(self.folder / f"{name}.md", flat.to_markdown(index=False) + (f"\n\n{note}\n" if note else "\n"))
        latex = flat.to_latex(index=False, escape=True, na_rep="", caption=_escaped(note) or None, label=f"tab:{name}")
        write_atomic(self.folder / f"{name}.tex", latex)
        self._record(*(f"{name}.{kind}" for kind in ("csv", "md", "tex")))
        self._keep_scores()
        return printed

    def _keep_scores(self) -> None:
        """Keep what was read since the last table was written."""
        new = {address: kept for address, kept in read(self.lab).items() if address not in self._kept}
        if new and not tables_only():
            keep(self.folder / "scores", new.values(), self.notebook, forget=not self._kept)
            self._kept |= new.keys()

    def page(self, name: str, text: str) -> None:
        """Write NAME.md."""
        write_atomic(self.folder / f"{name}.md", text)
        self._record(f"{name}.md")

    def figure(self, name: str, figure: Figure) -> None:
        """Write NAME.png and NAME.pdf."""
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            new = self.folder / f".{name}.{kind}"
            figure.savefig(new, dpi=150, bbox_inches="tight", metadata=metadata, format=kind)
            os.replace(new, self.folder / f"{name}.{kind}")
        self._record(f"{name}.png", f"{name}.pdf")

    def _record(self, *names: str) -> None:
        """Note where files come from; without names, forget what this notebook wrote before."""
        path = self.folder / "provenance.json"
        with FileLock(f"{path}.lock"):
            try:
                files = json.loads(path.read_text(encoding="utf-8"))["files"]
            except (OSError, ValueError, KeyError):
                files = {}
            if not names:
                files = {name: made for name, made in files.items() if made["notebook"] != self.notebook}
            source = provenance(self.lab.params)
            made = {"notebook": self.notebook, "commit": source["commit"], "seeds": source["seeds"], "parameters": self._parameters}
            for name in names:
                files[name] = made | {"sha256": file_digest(self.folder / name)}
            write_atomic(path, json.dumps(source | {"files": dict(sorted(files.items()))}, indent=1))
