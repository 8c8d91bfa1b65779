"""Sampling from a pipeline, and the self-generated private-domain (SP) set of Shake-to-Leak."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from s2llib.data.domain import Photos
from s2llib.data.folders import read_folder, write_folder
from s2llib.loop import generator
from s2llib.models.finite import eight_bit
from s2llib.models.hardware import autocast, computes_on, halved
from s2llib.params import SP
from s2llib.progress import progress

__all__ = ["draw", "draw_prompts", "read_generated", "sample", "write_generated"]


def sample(
    pipeline, prompts: list[str], seed: int, steps: int, guidance: float, negative: str = "", batch: int = 64, precision: str = "float32",
    sampler: str = "own",
) -> np.ndarray:  # fmt: skip
    """One image per prompt with classifier-free guidance: [n, h, w, 3] uint8.

    Image i depends on (seed, i, its prompt) alone, not on the batch it is drawn in, which is halved where memory does not suffice.
    """
    return draw(pipeline, prompts, lambda i: generator(seed, i), steps, guidance, negative, batch, precision, sampler)


def draw(
    pipeline, prompts: list[str], noise: Callable[[int], torch.Generator], steps: int, guidance: float, negative: str = "",
    batch: int = 64, precision: str = "float32", sampler: str = "own",
) -> np.ndarray:  # fmt: skip
    """One image per prompt: [n, h, w, 3] uint8. noise: image i's own generator, made anew where a smaller batch is tried.

    sampler: `own`, the pipeline's scheduler, or `multistep`: DPM-Solver++ of second order (Lu et al. 2022), which needs half the steps.
    Raises ParamsError for images that are none (`eight_bit`).
    """
    images, shown = [], progress("images", len(prompts)) if len(prompts) > batch else nullcontext(lambda _: None)
    with shown as advance:
        while (start := sum(map(len, images))) < len(prompts):
            chunk = prompts[start : start + batch]
            try:
                with autocast(computes_on(pipeline), precision), _float32_outputs(pipeline.unet), _sampled_by(pipeline, sampler):
                    drawn = pipeline(
                        chunk,
                        negative_prompt=[negative] * len(chunk),
                        num_inference_steps=steps,
                        guidance_scale=guidance,
                        generator=[noise(start + i) for i in range(len(chunk))],
                        output_type="np",
                    ).images
            except (RuntimeError, MemoryError) as error:
                batch = halved(len(chunk), error)
                continue
            images.append(eight_bit(drawn, pipeline, precision))
            advance(len(chunk))
    return np.concatenate(images)


@contextmanager
def _sampled_by(pipeline, sampler: str) -> Iterator[None]:
    own = pipeline.scheduler
    if sampler == "multistep":
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(own.config)
    try:
        yield
    finally:
        pipeline.scheduler = own


@contextmanager
def _float32_outputs(unet: torch.nn.Module) -> Iterator[None]:
    """In half precision too: guidance and the sampler's sums over past outputs would magnify the outputs' rounding."""
    hook = unet.register_forward_hook(lambda _module, _inputs, output: tuple(x.float() for x in output))
    try:
        yield
    finally:
        hook.remove()


def draw_prompts(name: str, count: int, p: SP, seed: int, attributes: Sequence[list[str]] = ()) -> list[str]:
    """A prompt for every image, its template and one attribute of each group drawn anew (S2L's code drew one per domain)."""
    weights = torch.tensor([template.weight for template in p.templates])
    which = torch.multinomial(weights, count, replacement=True, generator=generator(seed, 0, 1)).tolist()
    drawn = [torch.randint(len(group), (count,), generator=generator(seed, i, 2)).tolist() for i, group in enumerate(attributes)]
    more = [[group[i] for i in some] for group, some in zip(attributes, drawn, strict=True)] + [[p.suffix] * count if p.suffix else []]
    parts = [[p.templates[i].text.format(name=name) for i in which], *filter(None, more)]
    return [", ".join(prompt) for prompt in zip(*parts, strict=True)]


def write_generated(folder: Path, images: np.ndarray, prompts: list[str], name: str) -> None:
    """Generated images as an image folder: the caption is the prompt, the split `generated`."""
    rows = [{"file_name": f"{i:05d}.png", "text": text, "domain": name, "split": "generated"} for i, text in enumerate(prompts)]
    write_folder(folder, rows, [Image.fromarray(image) for image in images])


def read_generated(folder: Path) -> Photos:
    """The images that `write_generated` saved."""
    ((_, splits),) = read_folder(folder).items()
    return splits["generated"]
