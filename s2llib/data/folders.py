"""Image folders in the `imagefolder` convention: images beside one `metadata.jsonl`.

Each line has file_name, text (caption), domain and split (`member`, `nonmember`, or the name of a shifted set);
copies (how often the training set holds the image) is optional.
"""

import json
from collections import defaultdict
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from s2llib.data.domain import MEMBER, NONMEMBER, PUBLIC, Photos
from s2llib.params import ParamsError

__all__ = ["check_captions", "check_images", "check_splits", "read_folder", "read_folders", "write_folder"]

METADATA = "metadata.jsonl"
KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".psd", ".svg"}


def write_folder(folder: Path, rows: list[dict], images: list[Image.Image]) -> None:
    """Save images as PNG with their metadata; each row holds file_name, text, domain, split and, if not 1, copies."""
    for row, image in zip(rows, images, strict=True):
        path = folder / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, compress_level=1)
    (folder / METADATA).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_folder(folder: Path) -> dict[str, dict[str, Photos]]:
    """{domain: {split: Photos}} of an image folder. Raises ParamsError that names the file and the mend."""
    listing = folder / METADATA
    if not folder.is_dir():
        raise ParamsError(f"Image folder {folder} does not exist; set world.folder to a folder that holds {METADATA}.")
    if not listing.is_file():
        raise ParamsError(f"Image folder {folder} has no {METADATA}; write one line per image with file_name, text, domain, split.")
    found: dict = defaultdict(lambda: defaultdict(list))
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ParamsError(f"{listing} is not UTF-8 text; save it as UTF-8.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _row(listing, number, line)
            found[row["domain"]][row["split"]].append(row)
    if not found:
        raise ParamsError(f"{listing} lists no image; write one line per image with file_name, text, domain, split.")
    return {domain: {split: _photos(folder, rows) for split, rows in splits.items()} for domain, splits in sorted(found.items())}


def read_folders(folders: dict[str, Path], subject: str) -> dict[str, dict[str, Photos]]:
    """{domain: {split: Photos}} of a folder of images for every split, without a listing. Raises ParamsError.

    A subfolder is called by its domain; images beside the subfolders are of `subject`. An image's caption may stand beside it in a .txt.
    """
    found: dict = defaultdict(lambda: defaultdict(list))
    for split, folder in folders.items():
        if not folder.is_dir():
            raise ParamsError(f"Image folder {folder} does not exist; set world.folders.{split} to a folder of images.")
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS and path.is_file()):
            inside = path.relative_to(folder).parts
            text = path.with_suffix(".txt")
            row = {"file_name": path, "domain": inside[0] if len(inside) > 1 else subject}
            found[row["domain"]][split].append(row | ({"text": _caption(text)} if text.is_file() else {}))
        if other := sorted(path for path in folder.rglob("*") if path.suffix.lower() in UNREAD):
            raise ParamsError(f"world.folders.{split}: {other[0]} cannot be read; save it as one of {', '.join(sorted(KINDS))}.")
    for split, folder in folders.items():
        for domain in found or [subject]:
            if split in (MEMBER, NONMEMBER) and not found[domain][split]:
                at = folder if domain == subject else folder / domain
                raise ParamsError(f"world.folders.{split}: {at} has no image of '{domain}'; put some there.")
    return {domain: {split: _photos(Path(), rows) for split, rows in splits.items() if rows} for domain, splits in sorted(found.items())}


def _caption(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ParamsError(f"{path} is not UTF-8 text; save the caption again.") from None


def _row(listing: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        raise ParamsError(f"{listing}, line {number} is not JSON; each line must be one JSON object.") from None
    for key in ("file_name", "domain", "split"):
        if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key]:
            raise ParamsError(f"{listing}, line {number} has no '{key}'; every line needs file_name, text, domain and split.")
    if not isinstance(row.get("text", ""), str):
        raise ParamsError(f"{listing}, line {number}: text is {row['text']!r}; it must be a caption in quotes.")
    if not (listing.parent / row["file_name"]).is_file():
        raise ParamsError(
            f"{listing}, line {number} names {row['file_name']}, which is not in the folder; remove the line or add the file."
        )
    copies = row.get("copies", 1)
    if not isinstance(copies, int) or copies < 1:
        raise ParamsError(f"{listing}, line {number}: copies is {copies!r}; it must be a whole number of at least 1.")
    return row


def _photos(folder: Path, rows: list[dict]) -> Photos:
    return Photos(
        paths=tuple(folder / row["file_name"] for row in rows),
        captions=tuple(row.get("text") or f"a photo of {row['domain']}" for row in rows),
        copies=tuple(row.get("copies", 1) for row in rows),
    )


def check_captions(folder: Path) -> None:
    """Raises ParamsError unless every image of a folder has a caption of its own."""
    read_folder(folder)
    for number, line in enumerate((folder / METADATA).read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not str(json.loads(line).get("text") or "").strip():
            raise ParamsError(f"{folder / METADATA}, line {number} has no caption, which Attack-I and III need; write one as its `text`.")


def check_splits(domains: dict[str, dict[str, Photos]], files: dict[str, dict[str, list[str]]]) -> None:
    """No image stands in two places, every domain has the same splits (public ones aside), with at least 2 images each.

    Raises ParamsError.

    files: the SHA-256 of every image, in the order of the Photos.
    """
    names = dict.fromkeys(split for splits in domains.values() for split in splits if split != PUBLIC)
    seen: dict[str, tuple[str, str, Path]] = {}
    for domain, splits in domains.items():
        for split in dict.fromkeys((MEMBER, NONMEMBER, *names, *splits)):
            count = len(splits[split].single()) if split in splits else 0
            if count < 2 and split != PUBLIC:
                raise ParamsError(
                    f"Domain '{domain}' has {count} {split} image{'' if count == 1 else 's'} that occur once;"
                    f" an attack needs at least 2: add images of split '{split}'."
                )
            for path, content in zip(splits[split].paths, files[domain][split], strict=True):
                if content in seen:
                    other = seen[content]
                    raise ParamsError(
                        f"{path} ({domain}, {split}) is the same image as {other[2]} ({other[0]}, {other[1]}); an image belongs to one"
                        f" domain and one split: remove one of them (in {METADATA}, `copies` says how often an image was trained on)."
                    )
                seen[content] = (domain, split, path)


def check_images(domains: dict[str, dict[str, Photos]]) -> None:
    """Raises ParamsError unless every image decodes, is still, and has 8-bit pixels. Any size, palette, grey or transparency will do."""
    for splits in domains.values():
        for photos in splits.values():
            for path in photos.paths:
                try:
                    with Image.open(path) as image:
                        # a camera's JPEG may hold further pictures (MPO); the first is the photograph
                        frames, mode = 1 if image.format == "MPO" else getattr(image, "n_frames", 1), image.mode
                        image.load()
                except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError):
                    raise ParamsError(f"{path} cannot be read as an image; replace or remove it.") from None
                if frames > 1:
                    raise ParamsError(f"{path} is animated ({frames} frames); save the one frame that is meant as a still image.")
                if mode.startswith(("I", "F")):
                    raise ParamsError(f"{path} has pixels of more than 8 bits (mode {mode}); save it with 8.")
