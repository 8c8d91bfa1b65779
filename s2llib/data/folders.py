"""Image folders: images beside one listing (the `imagefolder` convention), or a folder of images for every split.

Each line of the listing (metadata.jsonl, or metadata.csv) has file_name, domain and split (`member`, `nonmember`, `public`, or the name of
a shifted set), text or caption, and copies (how often the training set holds the image), which is optional.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path

from PIL import Image

from s2llib.data.captions import NONE, Caption, TextsBeside, find_file, find_listing, merged, of_row, read_beside, read_rows
from s2llib.data.domain import MEMBER, NONMEMBER, PUBLIC, Photos, load_image, open_image
from s2llib.data.files import LISTINGS, Tree, photographs, shown, tree, unreadable, why_not
from s2llib.params import ParamsError

__all__ = [
    "Found", "check_captions", "check_images", "check_splits", "in_folder", "in_folders", "photos_of", "read_folder",
    "unlisted", "write_folder",
]  # fmt: skip

METADATA = LISTINGS[0]
REPEATS = re.compile(r"^\d+_(?=\S)")  # of kohya's trainer, in front of a subject's name
# names of folders that hold a data set or a part of it, and never a subject
CONTAINERS = set("train training test testing valid validation img imgs image images photos pictures data dataset".split())


@dataclass(frozen=True)
class Found:
    """An image file, whose it is, and what is known of it; where: the line of the listing that names it."""

    path: Path
    domain: str
    split: str
    caption: Caption = NONE
    copies: int = 1
    where: str = ""


def write_folder(folder: Path, rows: list[dict], images: list[Image.Image]) -> None:
    """Save images as PNG with their metadata; each row holds file_name, text, domain, split and, if not 1, copies."""
    for row, image in zip(rows, images, strict=True):
        path = folder / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, compress_level=1)
    (folder / METADATA).write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_folder(folder: Path, key: str = "world.folder") -> dict[str, dict[str, Photos]]:
    """{domain: {split: Photos}} of an image folder with a listing. Raises ParamsError that names the file and the mend.

    key: the parameter that names the folder.
    """
    return photos_of(in_folder(folder, key))


def photos_of(found: Iterable[Found]) -> dict[str, dict[str, Photos]]:
    """{domain: {split: Photos}}; an image without a caption of its own has a template's."""
    sorted_in: dict = defaultdict(lambda: defaultdict(list))
    for one in found:
        sorted_in[one.domain][one.split].append(one)
    return {name: {split: _photos(some) for split, some in splits.items()} for name, splits in sorted(sorted_in.items())}


def _photos(found: list[Found]) -> Photos:
    return Photos(
        paths=tuple(one.path for one in found),
        captions=tuple(one.caption.text or f"a photo of {one.domain}" for one in found),
        copies=tuple(one.copies for one in found),
    )


def _check_is_folder(folder: Path, key: str, holds: str) -> None:
    if folder.is_file():
        raise ParamsError(f"Image folder {shown(folder)} is a file; set {key} to a folder {holds}.")
    if not folder.is_dir():
        raise ParamsError(f"Image folder {shown(folder)} does not exist; set {key} to a folder {holds}.")


@lru_cache(maxsize=1 << 12)
def _plain(name: str) -> str:
    """A subject's name in one Unicode form (macOS writes another), without spaces around it."""
    return " ".join(unicodedata.normalize("NFC", name).split())


# with a listing


def in_folder(folder: Path, key: str = "world.folder") -> list[Found]:
    """The images that a folder's listing names, in its order. Raises ParamsError that names the file and the mend."""
    _check_is_folder(folder, key, f"that holds {METADATA}")
    listing = find_listing(folder)
    if not listing:
        raise ParamsError(f"Image folder {shown(folder)} has no {METADATA}; write one line per image with file_name, text, domain, split.")
    found, names, texts = [], {}, TextsBeside()
    for where, row in read_rows(listing):
        one = _of_line(folder, where, row, listing.name)
        # what the listing says is what is meant; a file beside the image fills in where it says nothing
        caption = merged(map(read_beside, texts[one.path]), one.path) if one.caption == NONE else one.caption
        found.append(replace(one, domain=names.setdefault(one.domain.casefold(), one.domain), caption=caption))
    if not found:
        raise ParamsError(f"{shown(listing)} lists no image; write one line per image with file_name, text, domain, split.")
    return found


def _of_line(folder: Path, where: str, row: dict, source: str) -> Found:
    for key in ("file_name", "domain", "split"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise ParamsError(f"{where} has no '{key}'; every line needs file_name, text, domain and split.")
    if not (path := find_file(folder, row["file_name"])):
        raise ParamsError(f"{where} names {shown(row['file_name'])}, which is not in the folder; remove the line or add the file.")
    copies = row.get("copies", 1)
    if not isinstance(copies, int) or copies < 1:
        raise ParamsError(f"{where}: copies is {copies!r}; it must be a whole number of at least 1.")
    return Found(path, _plain(row["domain"]), _split(row["split"]), of_row(where, row, source), copies, where)


@lru_cache(maxsize=64)
def _split(name: str) -> str:
    """`Members` and `non-member` are those that are meant; any other name is that of a shifted set."""
    plain = re.sub("[^a-z]", "", name.casefold()).removesuffix("s")
    return plain if plain in (MEMBER, NONMEMBER, PUBLIC) else name.strip()


def unlisted(folder: Path, found: Iterable[Found]) -> list[tuple[Path, str]]:
    """What lies in a folder with a listing and is not used, with the reason."""
    below, texts, listing = tree(folder), TextsBeside(), find_listing(folder)
    reasons = {str(listing): ""}
    for one in found:
        reasons[str(one.path)] = ""
        why = f"a caption whose image has another in {listing.name}" if one.caption.source.startswith(listing.name) else ""
        reasons |= dict.fromkeys(map(str, texts[one.path]), why)
    rest = ((Path(name), reasons[name] if name in reasons else _why_unlisted(name, *about)) for name, *about in below.files)
    return sorted([*below.left_out, *((path, reason) for path, reason in rest if reason)])


def _why_unlisted(name: str, *about: int) -> str:
    try:
        reason = why_not(name, *about)
    except ParamsError:
        reason = ""
    return reason or "an image that no line of the listing names"


# a folder for every split


def in_folders(folders: dict[str, Path], subject: str) -> tuple[list[Found], list[tuple[Path, str]]]:
    """The images of a folder for every split, without a listing, and what lies there and is not used, with the reason.

    A subfolder is called by its subject (in `10_zoe`, as kohya's trainer has it, 10 is how often an epoch repeats the images, and no part
    of the name); images beside the subfolders are of `subject`, and those deeper down of the subfolder. Raises ParamsError.
    """
    for split, folder in folders.items():
        _check_is_folder(folder, f"world.folders.{split}", "of images")
    for (one, a), (other, b) in combinations(folders.items(), 2):
        if (x := a.resolve()) == (y := b.resolve()) or x in y.parents or y in x.parents:
            raise ParamsError(
                f"world.folders.{one} and world.folders.{other} hold the same images ({shown(a)}, {shown(b)}); name two apart."
            )
    found, left_out = _in_folders(tuple((split, folder, tree(folder)) for split, folder in folders.items()), subject)
    _check_subjects(folders, found, subject)
    return list(found), list(left_out)


@lru_cache(maxsize=8)
def _in_folders(folders: tuple[tuple[str, Path, Tree], ...], subject: str) -> tuple[tuple[Found, ...], tuple[tuple[Path, str], ...]]:
    names, found, left_out = {_plain(subject).casefold(): _plain(subject)}, [], []
    for split, folder, below in folders:
        reasons = dict(photographs(below))
        captions, unused = _captions(reasons, split)
        for path in (path for path, reason in reasons.items() if not reason):
            domain = _subject(path.relative_to(folder).parts, subject, split, folder)
            found.append(Found(path, names.setdefault(domain.casefold(), domain), split, captions[path]))
        left_out += [*below.left_out, *unused, *_repeats(folder, reasons)]
    return tuple(found), tuple(sorted(left_out))


def _subject(inside: tuple[str, ...], subject: str, split: str, folder: Path) -> str:
    """Whose an image is, by its place in the folder of its split."""
    if len(inside) == 1:
        return _plain(subject)
    if inside[0].casefold() in CONTAINERS:
        raise ParamsError(
            f"world.folders.{split}: {shown(folder / inside[0])} is called like a part of a data set and not like a subject; set"
            f" world.folders.{split} to it, or call it by its subject."
        )
    if not (name := _plain(REPEATS.sub("", inside[0]))).isprintable():
        raise ParamsError(f"world.folders.{split}: the folder {shown(folder / inside[0])} has a name that is no text; rename it.")
    return name


def _repeats(folder: Path, files: Iterable[Path]) -> list[tuple[Path, str]]:
    """The numbers in front of subjects' names."""
    tops = sorted({inside[0] for path in files if len(inside := path.relative_to(folder).parts) > 1})
    return [
        (folder / top, f"the {number[0]} in front of '{_plain(REPEATS.sub('', top))}' alone: how often a trainer repeats the images")
        for top in tops
        if (number := REPEATS.match(top))
    ]


def _captions(reasons: dict[Path, str], split: str) -> tuple[dict[Path, Caption], list[tuple[Path, str]]]:
    """Captions of the photographs, and the other files that hold none of them, with the reason. reasons: of every file."""
    images, others = ([path for path, reason in reasons.items() if bool(reason) == other] for other in (False, True))
    texts, listed, why, found = TextsBeside(), defaultdict(list), {}, {}
    for path in others:
        if path.name in LISTINGS:
            lines, why[path] = _of_listing(path, set(images), split)
            for image, caption in lines.items():
                listed[image].append(caption)
    for path in images:
        found[path] = merged([*map(read_beside, texts[path]), *listed[path]], path)
        why |= dict.fromkeys(texts[path], "")
    unused = ((path, why.get(path, reasons[path])) for path in others)
    return found, [(path, reason) for path, reason in unused if reason]


def _of_listing(listing: Path, images: set[Path], split: str) -> tuple[dict[Path, Caption], str]:
    """Captions by a listing's lines for images beside or below it, and what of it is not used (empty: nothing).

    Raises ParamsError where it has a split of its own.
    """
    captions, others = {}, 0
    try:
        find_listing(listing.parent)
        rows = read_rows(listing)
    except ParamsError as error:
        below = [path for path in images if listing.parent in path.parents]
        return dict.fromkeys(below, Caption(problem=str(error))), "" if below else str(error)
    for where, row in rows:
        if (own := _split(str(row.get("split", "")))) in (MEMBER, NONMEMBER) and own != split:
            raise ParamsError(f"world.folders.{split}: {where} is of split '{own}'; set world.folder to {shown(listing.parent)} instead.")
        path = find_file(listing.parent, str(row.get("file_name", "")))
        if path in images:
            captions[path] = of_row(where, row, listing.name)
        else:
            others += 1
    return captions, f"{others} of its lines name no image here" if others else ""


def _check_subjects(folders: dict[str, Path], found: Iterable[Found], subject: str) -> None:
    """Raises ParamsError unless every subject has images of both kinds."""
    splits: dict = defaultdict(dict)
    for one in found:
        splits[one.domain].setdefault(one.split, one.path)
    for split, folder in folders.items():
        for domain in splits or [_plain(subject)]:
            if split in (MEMBER, NONMEMBER) and split not in splits[domain]:
                at = folder if domain == _plain(subject) else folder / domain
                alone = [name for name, known in splits.items() if split in known and len(known) == 1]
                mend = f", or give '{alone[0]}' and '{domain}' one name if they are the same" if alone else ""
                raise ParamsError(f"world.folders.{split}: {shown(at)} has no image of '{domain}'; put some there{mend}.")


# checks


def check_captions(folder: Path, key: str = "world.folder") -> None:
    """Raises ParamsError unless every image of a folder with a listing has a caption of its own."""
    for one in in_folder(folder, key):
        if one.caption.problem:
            raise ParamsError(one.caption.problem)
        if not one.caption.text:
            raise ParamsError(f"{one.where} has no caption, which Attack-I and III need; write one as its `text`.")


def check_splits(domains: dict[str, dict[str, Photos]], files: dict[str, dict[str, list[str]]], listed: bool) -> None:
    """No image stands in two places, every domain has the same splits (public ones aside), with at least 2 images each.

    Raises ParamsError.

    files: the SHA-256 of every image, in the order of the Photos. listed: whether a listing could say how often one was trained on.
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
                    raise ParamsError(_same((domain, split, path), seen[content], files[domain][split], listed))
                seen[content] = (domain, split, path)


def _same(one: tuple[str, str, Path], other: tuple[str, str, Path], files: list[str], listed: bool) -> str:
    (domain, split, path), copies = one, len(files) - len(set(files))
    hint = f" (in {METADATA}, `copies` says how often an image was trained on)" if listed else ""
    if path == other[2]:
        return f"{shown(path)} is listed twice; remove one of the lines{hint}."
    if (domain, split) == other[:2]:
        many = f", and {copies - 1} more such copies" if copies > 1 else ""
        return f"{shown(path)} is the same image as {shown(other[2])}, and would count twice; remove one of them{many}{hint}."
    return (
        f"{shown(path)} ({domain}, {split}) is the same image as {shown(other[2])} ({other[0]}, {other[1]}); an image belongs to one domain"
        f" and one split: remove one of them{hint}."
    )


def check_images(domains: dict[str, dict[str, Photos]]) -> None:
    """Raises ParamsError unless every image decodes, is still, and has 8-bit pixels. Any size, palette, grey or transparency will do."""
    for splits in domains.values():
        for photos in splits.values():
            for path in photos.paths:
                _check_image(path)


def _check_image(path: Path) -> None:
    with _named(path), open_image(path) as image:
        # a camera's JPEG may hold further pictures (MPO); the first is the photograph
        frames, mode = 1 if image.format == "MPO" else getattr(image, "n_frames", 1), image.mode
    if frames > 1:
        raise ParamsError(f"{shown(path)} is animated ({frames} frames); save the one frame that is meant as a still image.")
    if mode.startswith(("I", "F")):
        raise ParamsError(f"{shown(path)} has pixels of more than 8 bits (mode {mode}); save it with 8.")
    with _named(path):
        load_image(path, 8)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError:
        raise ParamsError(f"{shown(path)} has more than {2 * Image.MAX_IMAGE_PIXELS} pixels; save a smaller copy of it.") from None
    except Exception:  # what Pillow's decoders raise of a damaged file is of any kind
        raise ParamsError(unreadable(path)) from None
