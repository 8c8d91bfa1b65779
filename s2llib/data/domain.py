"""A domain: one person's (or one subject's) photographs, split by what the base model has seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

__all__ = ["MEMBER", "NONMEMBER", "Domain", "Photos", "load_image"]

MEMBER, NONMEMBER = "member", "nonmember"


def load_image(path: Path, size: int) -> torch.Tensor:
    """An image file as [3, size, size] in [0, 1]: centre crop to a square, then bicubic resize if it is not that size."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    if image.size != (size, size):
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge)).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


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

    def single(self) -> "Photos":
        """Those that the training set holds once: what membership tables are computed on."""
        keep = [i for i, n in enumerate(self.copies) if n <= 1]
        return Photos(*(tuple(column[i] for i in keep) for column in (self.paths, self.captions, self.copies)))


@dataclass(frozen=True)
class Domain:
    """One attacked subject.

    splits: `member` (in the training set of the base model), `nonmember` (same distribution, never seen) and any
    further name for a shifted set of non-members, such as `studio`. digest: what the content is addressed by.
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
        return {name: photos for name, photos in self.splits.items() if name not in (MEMBER, NONMEMBER)}
