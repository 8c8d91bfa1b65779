"""How good a model's images of its domain are: CLIP-R precision, domain accuracy, BRISQUE, and the features of KID."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from s2llib.data.domain import NONMEMBER, Domain
from s2llib.data.worlds import known_names
from s2llib.finetune.methods import PRETRAINED
from s2llib.models.base import content
from s2llib.params import resolved
from s2llib.progress import track

__all__ = ["QualityStage"]

QUALITY_VERSION = 1
FEATURES_VERSION = 1


class QualityStage:
    """What `Study` knows about the quality of generated images."""

    @property
    def judge(self) -> Path | str:
        """Whose CLIP pair judges generated images: the base model's own, or mixsyn.clip."""
        clip = self.params.mixsyn.clip
        return (resolved(clip) if resolved(clip).is_dir() else clip) if clip else self.base_folder

    @property
    def _judge_key(self) -> str:
        """What the judge is addressed by: its content, or its name on the hub."""
        if not self.params.mixsyn.clip:
            return self.base_key
        return content(self.judge) if isinstance(self.judge, Path) else self.judge

    def quality(self, domain: Domain, method: str = PRETRAINED, seed: int = 0) -> pd.DataFrame:
        """Each image that a model generates for its domain, judged.

        Columns: domain, method, seed, image, retrieved (1: CLIP picks the true prompt among all people's), recognised (1: nearest to
        the true person's real photographs), brisque (empty without its package), f0, f1, ... (CLIP features).
        """
        from s2llib.generate import SAMPLES_VERSION
        from s2llib.metrics.quality import no_brisque

        world, p = self.params.world, self.params.sp
        inputs = self._model_inputs(domain, method, seed) | p.model_dump(include={"steps", "guidance", "negative"}) | {
            "samples": [SAMPLES_VERSION, self.params.mixsyn.quality_images, domain.instance_prompt], "seed": self.params.seed,
            "judge": self._judge_key, "condition": world.condition, "names": known_names(world),
            "people": [person.digest for person in self.everyone], "brisque": not no_brisque(), "device": self._machine("precision"),
        }  # fmt: skip
        make = lambda new: self._judge_images(domain, method, seed, new)  # noqa: E731
        table = pd.read_parquet(self.store.get("quality", QUALITY_VERSION, inputs, make) / "quality.parquet")
        return table.assign(domain=domain.name, method=method, seed=seed)

    def _judge_images(self, domain: Domain, method: str, seed: int, new: Path) -> None:
        from s2llib.metrics.clip import image_features, retrieved
        from s2llib.metrics.quality import brisque, no_brisque, recognised

        names, real = known_names(self.params.world), self.real_features()
        x = self.samples(domain, method, seed, self.params.mixsyn.quality_images).pixels(self.image_size)
        prompts, truth = [self.params.world.condition.format(name=name) for name in names], torch.tensor(names.index(domain.name))
        features = image_features(self.judge, x)
        labels = torch.repeat_interleave(torch.arange(len(real)), torch.tensor([len(some) for some in real.values()]))
        person = torch.tensor(list(real).index(domain.name))
        columns = {
            "image": range(len(x)),
            "retrieved": retrieved(self.judge, x, truth, prompts).numpy(),
            "recognised": recognised(features, person, torch.cat(list(real.values())), labels).numpy(),
            "brisque": np.full(len(x), np.nan) if no_brisque() else brisque(x),
        }
        columns |= {f"f{i}": column for i, column in enumerate(features.numpy().T)}
        pd.DataFrame(columns).to_parquet(new / "quality.parquet")

    def real_features(self) -> dict[str, Tensor]:
        """{person: CLIP features [n, d] of their iid non-members}, of everyone whom the base model was trained on."""
        from safetensors.torch import load_file

        inputs = {"judge": self._judge_key, "people": [person.digest for person in self.everyone]}
        folder = self.store.get("real_features", FEATURES_VERSION, inputs | {"size": self.image_size}, self._look_at_photographs)
        found = load_file(folder / "features.safetensors")
        return {person.name: found[person.name] for person in self.everyone}

    def _look_at_photographs(self, new: Path) -> None:
        from safetensors.torch import save_file

        from s2llib.metrics.clip import image_features

        photos = {person.name: person.splits[NONMEMBER] for person in track(self.everyone, "real photographs")}
        features = {name: image_features(self.judge, some.pixels(self.image_size)) for name, some in photos.items()}
        save_file(features, new / "features.safetensors")
