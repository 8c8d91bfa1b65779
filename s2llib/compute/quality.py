"""How good generated images are: CLIP-R precision, whether the person is recognised, BRISQUE, and the features of KID."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s2llib.artifact import artifact, made, table
from s2llib.compute.images import photos
from s2llib.compute.models import judge_folder
from s2llib.data.domain import NONMEMBER
from s2llib.generate import read_generated
from s2llib.lab import Lab
from s2llib.metrics.clip import image_features, retrieved
from s2llib.metrics.quality import brisque, recognised
from s2llib.progress import track
from s2llib.specs import Judged, RealFeatures, Retrieved

__all__ = ["real_features"]


@artifact(RealFeatures, "real_features", 1)
def look_at_photographs(lab: Lab, spec: RealFeatures, folder: Path) -> None:
    """features.parquet: person, f0, f1, ... of their iid non-members."""
    tables = []
    for person in track(spec.people, "real photographs"):
        x = image_features(judge_folder(lab, spec.judge), person.splits[NONMEMBER].pixels(spec.size)).numpy()
        tables.append(pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])]).assign(person=person.name))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "features.parquet")


def real_features(lab: Lab, spec: RealFeatures) -> dict[str, Tensor]:
    """{person: CLIP features [n, d] of real photographs}, in the order of `spec.people`."""
    found = {name: part.drop(columns="person") for name, part in table(lab, spec).groupby("person")}
    return {person.name: torch.tensor(found[person.name].to_numpy()) for person in spec.people}


@artifact(Retrieved, "retrieved", 1)
def retrieve(lab: Lab, spec: Retrieved, folder: Path) -> None:
    """hits.parquet: image, hit."""
    x = read_generated(made(lab, spec.images)).pixels(spec.size)
    hits = retrieved(judge_folder(lab, spec.judge), x, torch.tensor(spec.truth), list(spec.prompts)).numpy()
    pd.DataFrame({"image": range(len(hits)), "hit": hits}).to_parquet(folder / "hits.parquet")


@artifact(Judged, "quality", 1)
def judge(lab: Lab, spec: Judged, folder: Path) -> None:
    """quality.parquet: image, retrieved, recognised, brisque, f0, f1, ... (CLIP features)."""
    real, at = real_features(lab, spec.real), judge_folder(lab, spec.real.judge)
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
