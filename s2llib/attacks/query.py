"""Asking a generator for images: the only access that a black-box attacker has, with a cache and a budget.

A generator is anything that has `generate(prompts, seed) -> images`: a pipeline on this machine, or a client of an HTTP endpoint.
"""

import os
import uuid
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from s2llib.generate import draw
from s2llib.loop import generator
from s2llib.params import ParamsError
from s2llib.store import FRESH, digest, number, room_on

__all__ = ["CachedGenerator", "Generator", "LocalGenerator"]


class Generator(Protocol):
    def generate(self, prompts: list[str], seed: int) -> np.ndarray:
        """One image per prompt: [n, h, w, 3] uint8. An image depends on its prompt and the seed alone."""


class LocalGenerator:
    """A pipeline on this machine as a generator."""

    def __init__(self, pipeline, steps: int, guidance: float, batch: int, precision: str = "float32"):
        self.pipeline, self.steps, self.guidance, self.batch, self.precision = pipeline, steps, guidance, batch, precision

    def generate(self, prompts: list[str], seed: int) -> np.ndarray:
        noise = lambda i: generator(number(prompts[i]), seed + 1)  # noqa: E731
        return draw(self.pipeline, prompts, noise, self.steps, self.guidance, batch=self.batch, precision=self.precision)


class CachedGenerator:
    """A generator whose images are kept: what was asked before costs nothing, and no more than `budget` images are ever asked for.

    folder: of this generator's images, one PNG for each prompt and seed; one that is damaged is asked for again. budget: None for no
    limit. also: a second folder to look into. Raises ParamsError before anything is sent that would pass it.
    """

    def __init__(self, inner: Generator, folder: Path, budget: int | None = None, chunk: int = 80, also: Path | None = None):
        self.inner, self.folder, self.budget, self.chunk, self.also = inner, folder, budget, chunk, also
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def spent(self) -> int:
        """Images that were asked for, in earlier runs too."""
        return len(list(self.folder.glob("*.png")))

    def _path(self, prompt: str, seed: int) -> Path:
        return self.folder / f"{digest([prompt, seed])[:24]}.png"

    def _find(self, prompt: str, seed: int) -> np.ndarray | None:
        path = self._path(prompt, seed)
        image = self._read(path)
        return self._read(self.also / path.name) if image is None and self.also else image

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            if path.stat().st_mtime < float(os.environ.get(FRESH, 0)):
                path.unlink()
                return None
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except FileNotFoundError:
            return None
        except (OSError, UnidentifiedImageError, SyntaxError):
            path.unlink()
            return None

    def _keep(self, path: Path, image: np.ndarray) -> None:
        new = path.with_name(f".{uuid.uuid4().hex}.new")
        try:
            with room_on(self.folder):
                Image.fromarray(image).save(new, format="PNG", compress_level=1)
                os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)

    def generate(self, prompts: list[str], seed: int) -> np.ndarray:
        """[n, h, w, 3] uint8."""
        found = {text: self._find(text, seed) for text in dict.fromkeys(prompts)}
        new = [text for text, image in found.items() if image is None]
        if self.budget is not None and self.spent + len(new) > self.budget:
            raise ParamsError(
                f"{self.spent} images of a query budget of {self.budget} are spent and {len(new)} more are asked for; raise"
                " blackbox.budget, or lower blackbox.queries."
            )
        for start in range(0, len(new), self.chunk):  # kept as they come: a killed run loses one chunk
            some = new[start : start + self.chunk]
            for text, image in zip(some, self.inner.generate(some, seed), strict=True):
                self._keep(self._path(text, seed), image)
                found[text] = image
        return np.stack([found[text] for text in prompts])
