"""A domain: one person's (or one subject's) photographs, split by what the base model has seen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, compress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

__all__ = ["MEMBER", "NONMEMBER", "PUBLIC", "Domain", "Photos", "load_image", "open_image"]

MEMBER, NONMEMBER = "member", "nonmember"
PUBLIC = "public"  # photographs that anybody may have: of an attacker with prior knowledge
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "QOI")  # JPEG: MPO too


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF and WebP are not in every build


def open_image(path: Path) -> Image.Image:
    """A photograph's file, its format known by content. Other formats are not tried: Pillow hands EPS to Ghostscript."""
    return Image.open(path, formats=_formats())


def load_image(path: Path, size: int) -> torch.Tensor:
    """An image file as [3, size, size] in [0, 1]: centre crop to a square, then bicubic resize if it is not that size.

    What is transparent is laid on white; a photograph that says how the camera was held is turned upright.
    """
    with open_image(path) as file:
        image = _upright(file)
        image = _opaque(image) if image.has_transparency_data else image.convert("RGB")
    if image.size != (size, size):
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError):  # EXIF that is damaged says nothing of how the camera was held
        return image


def _opaque(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


@dataclass(frozen=True)
class Photos:
    """Image files with a caption each, and how often the training set of the base model holds each."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]
    copies: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, which: slice) -> "Photos":
        return Photos(self.paths[which], self.captions[which], self.copies[which])

    def batches(self, size: int, batch: int) -> Iterator[torch.Tensor]:
        """Pixel batches [b, 3, size, size] in [0, 1], in order."""
        for start in range(0, len(self), batch):
            yield torch.stack([load_image(path, size) for path in self.paths[start : start + batch]])

    def pixels(self, size: int) -> torch.Tensor:
        """All images at once: [n, 3, size, size] in [0, 1]."""
        return torch.cat(list(self.batches(size, 256)))

    @classmethod
    def join(cls, parts: Iterable["Photos"]) -> "Photos":
        """All of them in one, in order."""
        columns = zip(*((part.paths, part.captions, part.copies) for part in parts), strict=True)
        return cls(*(tuple(chain.from_iterable(column)) for column in columns))

    def where(self, keep: Iterable[bool]) -> "Photos":
        """Those that are to be kept."""
        keep = list(keep)
        return Photos(*(tuple(compress(column, keep)) for column in (self.paths, self.captions, self.copies)))

    def single(self) -> "Photos":
        """Those that the training set holds once: what membership tables are computed on."""
        return self.where(n <= 1 for n in self.copies)


@dataclass(frozen=True)
class Domain:
    """One attacked subject.

    splits: `member` (in the training set of the base model), `nonmember` (same distribution, never seen), `public` (known to
    everybody) and any further name for a shifted set of non-members, such as `studio`. digest: what the content is addressed by.
    """

    name: str
    splits: dict[str, Photos]
    digest: str
    instance: str = "photo of {name}"
    condition: str = "a photo of {name}"

    @property
    def instance_prompt(self) -> str:
        """The fixed prompt of DreamBooth."""
        return self.instance.format(name=self.name)

    @property
    def condition_prompt(self) -> str:
        """The prompt that every attack conditions members and non-members on."""
        return self.condition.format(name=self.name)

    @property
    def members(self) -> Photos:
        return self.splits[MEMBER].single()

    @property
    def nonmembers(self) -> Photos:
        return self.splits[NONMEMBER]

    @property
    def shifted(self) -> dict[str, Photos]:
        return {name: photos for name, photos in self.splits.items() if name not in (MEMBER, NONMEMBER, PUBLIC)}
