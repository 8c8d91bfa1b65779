"""Writing tables (CSV, Markdown, LaTeX) and figures (PNG, PDF) of one study, each with its provenance."""

import json
import os
from pathlib import Path

import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure

from s2llib.report.provenance import provenance
from s2llib.store import file_digest, write_atomic
from s2llib.study import Study

__all__ = ["Report", "figures_root"]


REPORT_VERSION = 2  # raised when a table or figure is drawn otherwise from the same results


def figures_root() -> Path:
    """`$S2L_FIGURES`, or `figures/` of the repository."""
    return Path(os.environ.get("S2L_FIGURES") or Path(__file__).resolve().parents[2] / "figures")


class Report:
    """The folder `figures/<profile>/` of a study."""

    def __init__(self, study: Study, notebook: str):
        self.study, self.notebook = study, notebook
        self.folder = figures_root() / study.params.profile
        self.folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, tidy: pd.DataFrame, printed: pd.DataFrame | None = None, note: str = "") -> pd.DataFrame:
        """Write NAME.csv from the tidy table, NAME.md and NAME.tex from the one laid out for print, which is returned."""
        printed = tidy if printed is None else printed
        csv = tidy.to_csv(index=False, float_format="%.6g")
        write_atomic(self.folder / f"{name}.csv", csv)
        flat = printed.reset_index() if printed.index.names != [None] else printed
        write_atomic(self.folder / f"{name}.md", flat.to_markdown(index=False) + (f"\n\n{note}\n" if note else "\n"))
        latex = flat.to_latex(index=False, escape=True, na_rep="", caption=note or None, label=f"tab:{name}")
        write_atomic(self.folder / f"{name}.tex", latex)
        self._record(*(f"{name}.{kind}" for kind in ("csv", "md", "tex")))
        return printed

    def figure(self, name: str, figure: Figure) -> None:
        """Write NAME.png and NAME.pdf."""
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            new = self.folder / f".{name}.{kind}"
            figure.savefig(new, dpi=150, bbox_inches="tight", metadata=metadata, format=kind)
            os.replace(new, self.folder / f"{name}.{kind}")
        self._record(f"{name}.png", f"{name}.pdf")

    def _record(self, *names: str) -> None:
        path = self.folder / "provenance.json"
        with FileLock(f"{path}.lock"):
            try:
                files = json.loads(path.read_text())["files"]
            except (OSError, ValueError, KeyError):
                files = {}
            source = provenance(self.study.params)
            for name in names:
                made = {"notebook": self.notebook, "commit": source["commit"], "sha256": file_digest(self.folder / name)}
                files[name] = made
            write_atomic(path, json.dumps(source | {"files": dict(sorted(files.items()))}, indent=1))
