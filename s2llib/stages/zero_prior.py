"""Stage 6 of a study: no prior knowledge at all, on a small unconditional diffusion model (Shake-to-Leak's zero-prior study)."""

import json
from pathlib import Path

import pandas as pd
import torch

from s2llib.data.domain import MEMBER, NONMEMBER, Domain, Photos
from s2llib.finetune.methods import PRETRAINED
from s2llib.params import resolved
from s2llib.progress import track
from s2llib.store import folder_digest, number

__all__ = ["ZeroPriorStage"]

UNCONDITIONAL_VERSION = 1
SHAKEN_VERSION = 1
ZERO_VERSION = 1

NOISE_IMAGES, OWN_SAMPLES = "fine-tuned on noise images", "fine-tuned on its own samples"


class ZeroPriorStage:
    """What `Study` knows about shaking an unconditional model."""

    @property
    def _zero_people(self) -> list[Domain]:
        """Whose members the unconditional model is trained on."""
        return self.everyone[: self.params.zero_prior.people]

    def zero_folder(self) -> Path:
        """The unconditional model: the folder that the profile names, or one trained on the members of all people."""
        p = self.params.zero_prior
        if p.path and not self.params.retrain_base:
            return resolved(p.path)
        trained = p.model_dump(include={"size", "channels", "epochs", "batch", "lr"})
        inputs = {
            "training": [person.digest for person in self._zero_people],
            "seed": self.params.seed,
            "device": self._device.type,
        } | trained
        return self.store.get("unconditional", UNCONDITIONAL_VERSION, inputs, lambda new: self._train_unconditional(inputs, new))

    def _train_unconditional(self, inputs: dict, new: Path) -> None:
        from s2llib.models.base import WORLD, training_world
        from s2llib.models.unconditional import new_unconditional, train_unconditional

        p, seed = self.params.zero_prior, self.params.seed
        photos = Photos.join(person.splits[MEMBER] for person in self._zero_people)
        x = torch.repeat_interleave(photos.pixels(p.size) * 2 - 1, torch.tensor(photos.copies), dim=0)
        pipeline = new_unconditional(p, seed).to(self._device)
        losses = train_unconditional(
            pipeline, x, steps=p.epochs * -(-len(x) // p.batch), batch=p.batch, lr=p.lr, seed=seed, cosine=True,
            what="unconditional model", checkpoint=self.store.scratch("unconditional", UNCONDITIONAL_VERSION, inputs),
        )  # fmt: skip
        pipeline.save_pretrained(new)
        (new / WORLD).write_text(json.dumps(training_world(self.params, p.people), indent=1))
        (new / "training.json").write_text(json.dumps({"steps": len(losses), "loss": losses[:: max(1, len(losses) // 200)]}))

    def zero_variants(self) -> dict[str, dict]:
        """{title: what is done to the model}: nothing, both readings of the paper's noise, and its own samples."""
        p = self.params.zero_prior
        tune = p.model_dump(include={"images", "steps", "tune_batch", "tune_lr"})
        noisy = {f"noise on weights, {sigma:g}": {"how": "weights", "sigma": sigma} for sigma in p.sigmas}
        return {
            PRETRAINED: {},
            NOISE_IMAGES: {"how": "noise", **tune},
            **noisy,
            OWN_SAMPLES: {"how": "samples", "sampling": p.sampling, **tune},
        }

    def _zero_inputs(self, change: dict, seed: int) -> dict:
        base = [folder_digest(self.zero_folder() / part) for part in ("unet", "scheduler")]
        return {"base": base, "seed": [self.params.seed, seed], "device": self._device.type} | change

    def zero_model(self, title: str, seed: int = 0) -> Path:
        """The folder of the unconditional model after one change."""
        change = self.zero_variants()[title]
        if not change:
            return self.zero_folder()
        inputs = self._zero_inputs(change, seed)
        return self.store.get("shaken", SHAKEN_VERSION, inputs, lambda new: self._shake(change, inputs, title, seed, new))

    def _shake(self, change: dict, inputs: dict, title: str, seed: int, new: Path) -> None:
        from s2llib.finetune.knowledge import add_noise, noise_images
        from s2llib.models.unconditional import load_unconditional, sample_unconditional, train_unconditional

        p, pipeline = self.params.zero_prior, load_unconditional(self.zero_folder()).to(self._device)
        stream, images_stream = (number(f"{title}/{what}/{self.params.seed}/{seed}") for what in ("training", "images"))
        if change["how"] == "weights":
            add_noise(list(pipeline.unet.parameters()), change["sigma"], stream)
        else:
            if change["how"] == "noise":
                images = noise_images(p.images, p.size, images_stream)
            else:
                images = sample_unconditional(pipeline, p.images, p.sampling, images_stream)
            x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
            scratch = self.store.scratch("shaken", SHAKEN_VERSION, inputs)
            recipe = {"steps": p.steps, "batch": p.tune_batch, "lr": p.tune_lr, "seed": stream}
            train_unconditional(pipeline, x, **recipe, what=title, checkpoint=scratch)
        pipeline.save_pretrained(new)

    def zero_prior(self) -> pd.DataFrame:
        """iid membership scores of the unconditional model before and after each change; columns as `membership`."""
        p = self.params.zero_prior
        cells = [(title, seed) for title in self.zero_variants() for seed in (p.seeds if title != PRETRAINED else [0])]
        return pd.concat([self._zero_scores(*cell) for cell in track(cells, "no prior knowledge")], ignore_index=True)

    def _zero_scores(self, title: str, seed: int) -> pd.DataFrame:
        p = self.params.zero_prior
        domains = self._zero_people
        settings = {"loss": self.params.attacks.loss.model_dump(), "secmi": p.secmi.model_dump()}
        settings |= {name: {"t": p.t} for name in ("pia", "pian", "sima")}
        settings = {name: settings[name] for name in self.params.attacks.names if name in settings}  # CLiD needs a prompt
        inputs = self._zero_inputs(self.zero_variants()[title], seed)
        inputs |= {"domains": [domain.digest for domain in domains], "settings": settings}
        make = lambda new: self._score_zero(domains, settings, self.zero_model(title, seed), new)  # noqa: E731
        found = pd.read_parquet(self.store.get("zero_prior", ZERO_VERSION, inputs, make) / "scores.parquet")
        return found.assign(method=title, seed=seed)

    def _score_zero(self, domains: list, settings: dict, folder: Path, new: Path) -> None:
        from s2llib.attacks import attack_scores
        from s2llib.models.denoiser import Denoiser
        from s2llib.models.unconditional import load_unconditional

        denoiser, tables = Denoiser(load_unconditional(folder).to(self._device), self.params.attacks.batch), []
        for domain in domains:
            for split, photos in ((MEMBER, domain.members), (NONMEMBER, domain.nonmembers)):
                z0, c = denoiser.encode_photos(photos), denoiser.prompts([""])
                for attack, setting in settings.items():
                    score = attack_scores(attack, denoiser, z0, c, **setting).cpu().numpy()
                    row = {"domain": domain.name, "attack": attack, "setting": json.dumps(setting), "split": split}
                    tables.append(pd.DataFrame({**row, "image": range(len(photos)), "score": score}))
        pd.concat(tables, ignore_index=True).to_parquet(new / "scores.parquet")
