"""Tables about the world and the base model."""

import json

import pandas as pd
import torch
from torch import Tensor

from s2llib.compute.models import folder, image_size, pipeline
from s2llib.data.domain import Domain
from s2llib.lab import Lab
from s2llib.metrics.clip import retrieved
from s2llib.models.denoiser import Denoiser
from s2llib.models.hardware import in_batches

__all__ = ["base_metrics", "base_table", "captions_table", "reconstruction", "splits_table"]


def splits_table(lab: Lab) -> pd.DataFrame:
    """Photographs per domain in every split, and how many copies of members the training set holds."""
    rows = []
    for domain in lab.domains:
        counts = {split: len(photos) for split, photos in domain.splits.items()}
        copies = domain.splits["member"].copies
        rows.append({"domain": domain.name, **counts, "duplicated": sum(n > 1 for n in copies), "copies": sum(n for n in copies if n > 1)})
    return pd.DataFrame(rows)


def captions_table(domain: Domain, count: int = 5) -> pd.DataFrame:
    """Some members' captions, the last ones being those with copies."""
    photos = domain.splits["member"]
    which = sorted({*range(min(count - 2, len(photos))), *range(max(0, len(photos) - 2), len(photos))})
    return pd.DataFrame({"caption": [photos.captions[i] for i in which], "copies": [photos.copies[i] for i in which]})


def reconstruction(lab: Lab, pixels: Tensor) -> Tensor:
    """Images [n, 3, h, w] in [0, 1] through the autoencoder and back."""
    denoiser, vae = Denoiser(pipeline(lab, lab.base), lab.params.attacks.batch), pipeline(lab, lab.base).vae
    z = denoiser.encode(pixels) / vae.config.scaling_factor
    with torch.no_grad():
        decoded, _ = in_batches(lambda some: vae.decode(some).sample.cpu(), (z,), denoiser.batch)
    return (decoded / 2 + 0.5).clamp(0, 1)


def base_metrics(lab: Lab, domains: int = 40) -> dict[str, float]:
    """Quality on photographs that no part of the model was trained on: reconstruction error, CLIP-R precision."""
    chosen = lab.domains[:domains]
    pixels = [domain.nonmembers[:16].pixels(image_size(lab, lab.base)) for domain in chosen]
    some = torch.cat(pixels[:8])
    found = {"VAE reconstruction error (RMS)": (reconstruction(lab, some) - some).square().mean().sqrt().item()}
    if (folder(lab, lab.base) / "clip").is_dir():
        people = lab.names
        truth = [people.index(domain.name) for domain, x in zip(chosen, pixels, strict=True) for _ in x]
        prompts = [lab.params.world.condition.format(name=name) for name in people]
        found[f"CLIP-R precision of non-members, {len(people)} candidates (%)"] = (
            100 * retrieved(folder(lab, lab.base), torch.cat(pixels), torch.tensor(truth), prompts).mean().item()
        )
    return found


def base_table(lab: Lab) -> pd.DataFrame:
    """Size and quality of the base model."""
    parts = {part: getattr(pipeline(lab, lab.base), part) for part in ("unet", "text_encoder", "vae")}
    rows = {f"{part}: parameters (millions)": sum(p.numel() for p in module.parameters()) / 1e6 for part, module in parts.items()}
    rows["image size (pixels)"] = image_size(lab, lab.base)
    training = folder(lab, lab.base) / "training.json"
    if training.is_file():
        rows |= {f"{stage}: training steps": report["steps"] for stage, report in json.loads(training.read_text()).items()}
    return pd.Series(rows | base_metrics(lab), name="value").round(4).rename_axis("base model").reset_index()
