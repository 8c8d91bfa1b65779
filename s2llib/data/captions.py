"""Captions: in a listing (metadata.jsonl, metadata.csv) or beside each image, and where each came from."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from s2llib.data.files import CAPTIONS, LISTINGS, shown
from s2llib.params import ParamsError

__all__ = ["NONE", "TEMPLATE", "Caption", "TextsBeside", "find_file", "find_listing", "merged", "of_row", "read_beside", "read_rows"]

TEMPLATE = "template"
KEYS = ("text", "caption")


@dataclass(frozen=True)
class Caption:
    """An image's own caption (empty: a template stands for it), where it came from, and why it cannot be used, if so."""

    text: str = ""
    source: str = TEMPLATE
    problem: str = ""


NONE = Caption()


def merged(captions: Iterable[Caption], path: Path) -> Caption:
    """The caption of an image that has one in several places; a problem if they differ."""
    known = [one for one in captions if one.text or one.problem]
    if len({one.text for one in known if one.text}) > 1:
        first, second = [one.source for one in known if one.text][:2]
        return Caption(problem=f"{shown(path)} has captions that differ ({first}, {second}); keep the one that it was trained with.")
    return next((one for one in known if one.problem), known[0] if known else NONE)


# beside an image


class TextsBeside(dict):
    """{image: its caption files}, NAME.txt, NAME.caption or NAME.png.txt, each folder being listed once."""

    def __init__(self):
        self._names: dict[Path, dict[str, Path]] = {}

    def __missing__(self, image: Path) -> list[Path]:
        folder = image.parent
        if folder not in self._names:
            names = (name for name in sorted(os.listdir(folder)) if name.lower().endswith(CAPTIONS) and not name.startswith("."))
            self._names[folder] = {name.casefold(): folder / name for name in names}
        names = (f"{start}{suffix}".casefold() for start in dict.fromkeys((image.stem, image.name)) for suffix in CAPTIONS)
        self[image] = [self._names[folder][name] for name in names if name in self._names[folder]]
        return self[image]


def read_beside(path: Path) -> Caption:
    """The caption that a file holds."""
    try:
        text = read_text(path).strip()
    except ParamsError as error:
        return Caption(problem=str(error))
    if "\n" in text:
        lines = len([line for line in text.splitlines() if line.strip()])
        return Caption(problem=f"{shown(path)} has {lines} lines of text; keep the one that the image was trained with.")
    return Caption(text, f"{path.suffix.lower()} file") if text else NONE


def read_text(path: Path) -> str:
    """A text file, without a byte-order mark. Raises ParamsError unless it is UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise ParamsError(f"{shown(path)} cannot be opened ({error.strerror}); make it readable.") from None
    if "\0" in text:  # UTF-16 of Latin letters is valid UTF-8, every second one being this
        raise ParamsError(f"{shown(path)} is not UTF-8 text; save it as UTF-8.")
    return text


# in a listing


def find_listing(folder: Path) -> Path | None:
    """The listing of a folder, if it has one. Raises ParamsError if it has two, or one that is not read."""
    found = [folder / name for name in LISTINGS if (folder / name).is_file()]
    if len(found) > 1:
        raise ParamsError(f"{shown(folder)} has both {' and '.join(LISTINGS)}; keep one of them.")
    if not found and (folder / "metadata.parquet").is_file():
        raise ParamsError(f"{shown(folder / 'metadata.parquet')} is not read; save it as {' or '.join(LISTINGS)}.")
    return found[0] if found else None


def read_rows(listing: Path) -> tuple[tuple[str, dict], ...]:
    """("FILE, line N", row) of every line of a listing, read once as long as it stays. Raises ParamsError that names file and line."""
    about = listing.stat()
    return _rows(listing, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=64)
def _rows(listing: Path, _size: int, _changed: int) -> tuple[tuple[str, dict], ...]:
    return tuple((_of_csv if listing.suffix == ".csv" else _of_jsonl)(listing))


def _of_jsonl(listing: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(read_text(listing).split("\n"), 1):  # not splitlines: a caption may hold U+2028
        if line.strip():
            where = f"{shown(listing)}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                raise ParamsError(f"{where} is not JSON; each line must be one JSON object.") from None
            yield where, row if isinstance(row, dict) else {}


def _of_csv(listing: Path) -> Iterator[tuple[str, dict]]:
    rows = csv.DictReader(io.StringIO(read_text(listing)), strict=True)
    try:
        if "file_name" not in (rows.fieldnames or []):
            raise ParamsError(f"{shown(listing)} has no column 'file_name'; begin it with a line such as file_name,text,domain,split.")
        for row in rows:
            where = f"{shown(listing)}, line {rows.line_num}"
            if None in row or None in row.values():
                raise ParamsError(f"{where} has not as many fields as the first line; put quotes around a caption that holds commas.")
            copies = row.get("copies", "")
            yield where, {key: value for key, value in row.items() if value} | ({"copies": int(copies)} if copies.isdecimal() else {})
    except csv.Error as error:
        raise ParamsError(f"{shown(listing)}, line {rows.line_num} is no CSV ({error}); save it again.") from None


def find_file(folder: Path, name: str) -> Path | None:
    """The file that a listing names: with Windows' separators, or in another Unicode form than on disk (macOS), too."""
    if os.path.isfile(at := os.path.join(folder, name)):
        return Path(at)
    plain = name.replace("\\", "/")
    ways = (folder / unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    return next((path for path in ways if os.path.isfile(path)), None)


def of_row(where: str, row: dict, source: str) -> Caption:
    """The caption of a listing's line; a problem if it stands under another name than `text` or `caption`."""
    known = {key: row[key] for key in KEYS if row.get(key) is not None}
    for key, text in known.items():
        if not isinstance(text, str):
            return Caption(problem=f"{where}: {key} is {text!r}; it must be a caption in quotes.")
    found = [Caption(text.strip(), f"{source}: {key}") for key, text in known.items() if text.strip()]
    if len({one.text for one in found}) > 1:
        return Caption(problem=f"{where} has a `text` and a `caption` that differ; keep the one that the image was trained with.")
    others = [key for key, value in row.items() if isinstance(value, str) and key not in ("file_name", "domain", "split", *KEYS)]
    if not known and others:
        return Caption(problem=f"{where} has no `text` or `caption` (but {', '.join(others)}); call its caption `text`.")
    return found[0] if found else NONE
