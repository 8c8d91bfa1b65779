"""Membership scores of a domain's photographs under one model."""

from pathlib import Path

import numpy as np
import pandas as pd

from s2llib.artifact import artifact
from s2llib.attacks import ATTACKS
from s2llib.compute.images import photos as photographs
from s2llib.compute.models import asked, pipeline
from s2llib.data.worlds import check_unchanged
from s2llib.lab import Lab
from s2llib.metrics.blind import blind_scores, caption_features, image_features
from s2llib.models.denoiser import Denoiser
from s2llib.progress import track
from s2llib.specs import Blind, Scoring

__all__: list[str] = []


@artifact(Scoring, "scores", 1)
def score(lab: Lab, spec: Scoring, folder: Path) -> None:
    """scores.parquet: attack, setting, split, evaluations (of the network, per image), image, score."""
    denoiser, domain = Denoiser(pipeline(lab, spec.model), lab.params.attacks.batch), spec.domain
    check_unchanged(lab.params.world, domain, lab.store)
    tables, splits = [], {"member": domain.members, "nonmember": domain.nonmembers, **(domain.shifted if spec.shifted else {})}
    splits |= {} if spec.reference is None else {"reference": photographs(lab, spec.reference)}
    for split, photos in track(splits.items(), f"attacks on {domain.name}"):
        texts = list(photos.captions) if spec.prompt is None else [spec.prompt]
        z0, c = denoiser.encode_photos(photos), denoiser.prompts([asked(spec.model, domain, text) for text in texts])
        for attack, settings in spec.settings.items():
            for setting, found in zip(settings, ATTACKS[attack].scores(denoiser, z0, c, settings), strict=True):
                row = {"attack": attack, "setting": setting.model_dump_json(), "split": split, "evaluations": ATTACKS[attack].cost(setting)}
                tables.append(pd.DataFrame({**row, "image": range(len(photos)), "score": found.cpu().numpy()}))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "scores.parquet")


@artifact(Blind, "blind", 1)
def score_blindly(lab: Lab, spec: Blind, folder: Path) -> None:
    """scores.parquet: domain, against (which non-members), split, score."""
    features: dict = {}
    for domain in track(spec.domains, "blind baseline"):
        for split, photos in {"member": domain.members, "nonmember": domain.nonmembers, **domain.shifted}.items():
            seen = [np.concatenate([image_features(x) for x in photos.batches(spec.size, lab.params.attacks.batch)])]
            if spec.captions:  # what the attacks see, the baseline sees
                seen.append(caption_features(photos.captions))
            features.setdefault(split, []).append((domain.name, np.concatenate(seen, axis=1)))
    stacked = {split: np.concatenate([x for _, x in parts]) for split, parts in features.items()}
    names = {split: np.repeat([name for name, _ in parts], [len(x) for _, x in parts]) for split, parts in features.items()}
    tables = []
    for split in stacked:
        if split != "member":
            scores = blind_scores(stacked["member"], stacked[split], spec.folds, spec.seed)
            for side, score in zip(("member", split), scores, strict=True):
                tables.append(pd.DataFrame({"domain": names[side], "against": split, "split": side, "score": score}))
    pd.concat(tables, ignore_index=True).to_parquet(folder / "scores.parquet")
