"""How good generated images are: CLIP-R precision, whether the person is recognised, BRISQUE, and the features of KID."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2llib.artifact import artifact, made
from s2llib.compute.images import photos
from s2llib.data.domain import NONMEMBER
from s2llib.lab import Lab
from s2llib.metrics.clip import image_features, retrieved
from s2llib.metrics.quality import brisque, recognised
from s2llib.progress import track
from s2llib.specs import Judged, RealFeatures

__all__ = ["real_features"]


@artifact(RealFeatures, "real_features", 1)
def look_at_photographs(lab: Lab, spec: RealFeatures, folder: Path) -> None:
    """features.safetensors: {person: [n, d]} of their iid non-members."""
    pixels = {person.name: person.splits[NONMEMBER].pixels(spec.size) for person in track(spec.people, "real photographs")}
    save_file({name: image_features(spec.judge.at, x) for name, x in pixels.items()}, folder / "features.safetensors")


def real_features(lab: Lab, spec: RealFeatures) -> dict[str, Tensor]:
    """{person: CLIP features [n, d] of real photographs}, in the order of `spec.people`."""
    found = load_file(made(lab, spec) / "features.safetensors")
    return {person.name: found[person.name] for person in spec.people}


@artifact(Judged, "quality", 1)
def judge(lab: Lab, spec: Judged, folder: Path) -> None:
    """quality.parquet: image, retrieved, recognised, brisque, f0, f1, ... (CLIP features)."""
    real, at = real_features(lab, spec.real), spec.real.judge.at
    names = list(real)
    x, truth = photos(lab, spec.generated).pixels(spec.real.size), torch.tensor(names.index(spec.person))
    features = image_features(at, x)
    labels = torch.repeat_interleave(torch.arange(len(real)), torch.tensor([len(some) for some in real.values()]))
    columns = {
        "image": range(len(x)),
        "retrieved": retrieved(at, x, torch.tensor(spec.prompts.index(spec.own)), list(spec.prompts)).numpy(),
        "recognised": recognised(features, truth, torch.cat(list(real.values())), labels).numpy(),
        "brisque": brisque(x) if spec.brisque else np.full(len(x), np.nan),
    }
    columns |= {f"f{i}": column for i, column in enumerate(features.numpy().T)}
    pd.DataFrame(columns).to_parquet(folder / "quality.parquet")
