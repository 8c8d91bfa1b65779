"""What lies in a folder: photographs, known by their content whatever they are called, and what is none, with the reason."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from s2llib.data.domain import open_image
from s2llib.params import ParamsError

__all__ = ["CAPTIONS", "LISTINGS", "Tree", "photographs", "shown", "tree", "unreadable", "why_not"]

LISTINGS = ("metadata.jsonl", "metadata.csv")
CAPTIONS = (".txt", ".caption")
# suffixes of photographs: such a file is read, or stops the audit
KINDS = set(".png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .gif .tif .tiff .jp2 .j2k .ppm .pgm .qoi .avif".split())
# of many of these Pillow would read a thumbnail, of a PSD one layer
UNREAD = set(".heic .heif .hif .jxl .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pef .srw .raw .psd .svg .tga".split())
SAVE = ".png or .jpg"

_SYSTEM = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
_REASONS = {
    "a caption or text that belongs to no image here": ".txt .caption .md .rtf .doc .docx .pdf .html .htm",
    "no image but what a trainer or a program keeps": ".npz .npy .safetensors .pt .pth .ckpt .pkl .db .log .xmp .aae",
    "a table or settings, which are not read": ".json .jsonl .csv .tsv .toml .yaml .yml .xml .parquet",
    "an archive; unpack it if its images are meant": ".zip .rar .7z .tar .gz .tgz .bz2 .xz",
    "a video": ".mp4 .mov .avi .mkv .webm .m4v .3gp",
    "a shortcut, which is not followed; put the image itself there if it is meant": ".lnk .url .webloc",
}
_REASON = {suffix: reason for reason, suffixes in _REASONS.items() for suffix in suffixes.split()}


@dataclass(frozen=True)
class Tree:
    """The files below a folder, as (path, size, time of change), in the order of paths, and what is not looked at, with the reason."""

    files: tuple[tuple[str, int, int], ...]
    left_out: tuple[tuple[Path, str], ...]


def shown(path: Path | str) -> str:
    """A name for a sentence: what cannot be printed in one line (line breaks, bytes that are no text) is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(path))


def tree(folder: Path) -> Tree:
    """What lies below a folder; links are followed. Raises ParamsError that names a broken link or a folder that cannot be read."""
    files: list = []
    left_out: list = []
    here = folder.resolve()
    _walk(folder, (here, *here.parents), files, left_out)
    return Tree(tuple(files), tuple(left_out))


def _walk(folder: Path, above: tuple, files: list, left_out: list) -> None:
    if not (entries := _entries(folder)):
        left_out.append((folder, "an empty folder"))
    for entry in entries:
        if reason := _system(entry.name):
            left_out.append((Path(entry.path), reason))
            continue
        try:
            about = entry.stat()
        except OSError:
            if entry.is_symlink():
                to = shown(os.readlink(entry.path))
                raise ParamsError(f"{shown(entry.path)} is a broken link (to {to}); mend or remove it.") from None
            continue  # removed in this moment
        if stat.S_ISDIR(about.st_mode):
            here = Path(entry.path).resolve()
            if here in above:
                left_out.append((Path(entry.path), "a link to a folder that holds it"))
            else:
                _walk(Path(entry.path), (*above, here), files, left_out)
        elif stat.S_ISREG(about.st_mode):
            files.append((entry.path, about.st_size, about.st_mtime_ns))
        else:
            left_out.append((Path(entry.path), "no file but a device or a pipe"))


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise ParamsError(f"{shown(folder)} cannot be opened ({error.strerror}); make it readable.") from None


def _system(name: str) -> str:
    """Why a name is not looked at; empty if it is. Raises ParamsError for an image that is not on this disk."""
    if name.startswith(".") and name.endswith(".icloud"):
        raise ParamsError(f"{shown(name[1:-7])} is in iCloud and not on this disk; download it.")
    if name.lower() in _SYSTEM or name.startswith("._"):
        return "of the operating system"
    return "hidden" if name.startswith(".") else ""


@lru_cache(maxsize=1 << 17)
def why_not(name: str, _size: int, _changed: int) -> str:
    """Why a file is no photograph; empty if it is one. Raises ParamsError if it is meant to be one but cannot be read.

    Known from the file's first bytes, once as long as size and time of change stay.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in _REASON:
        return _REASON[suffix]
    if suffix not in UNREAD and _opens(path):
        return ""
    if suffix in KINDS | UNREAD or _is_heif(_head(path)):
        raise ParamsError(unreadable(path))
    return "empty" if not _head(path) else "no image"


def _opens(path: Path) -> bool:
    try:
        with open_image(path):
            return True
    except Image.DecompressionBombError:  # which `check_images` names
        return True
    except (OSError, ValueError, SyntaxError):
        return False


def unreadable(path: Path) -> str:
    """What is the matter with an image that cannot be read, and the mend."""
    head = _head(path)
    if not head:
        return f"{shown(path)} cannot be read as an image (it is empty); replace or remove it."
    if head.startswith(b"version https://git-lfs"):
        return f"{shown(path)} cannot be read as an image (it is a pointer of Git LFS); fetch it with `git lfs pull`."
    if path.suffix.lower() in UNREAD or _is_heif(head):
        return f"{shown(path)} cannot be read; save it as {SAVE}."
    return f"{shown(path)} cannot be read as an image; replace or remove it."


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError as error:
        raise ParamsError(f"{shown(path)} cannot be opened ({error.strerror}); make it readable.") from None


def _is_heif(head: bytes) -> bool:
    """HEIC, which phones write under .jpg too, AVIF where Pillow lacks it, and JPEG XL."""
    brands = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
    return (head[4:8] == b"ftyp" and head[8:12] in brands) or head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL "))


def photographs(found: Tree) -> Iterator[tuple[Path, str]]:
    """(path, why it is no photograph, empty if it is one) of every file of a tree, in order.

    Raises ParamsError for one that is meant to be a photograph but cannot be read.
    """
    return ((Path(name), why_not(name, *about)) for name, *about in found.files)
