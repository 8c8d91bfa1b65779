"""Stage 3 of a study: membership inference, before and after fine-tuning, at calibrated and at other settings; the blind baseline."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from s2llib.data.domain import Domain
from s2llib.data.worlds import check_unchanged
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.scale import precompute

__all__ = ["MembershipStage"]

MEMBERSHIP_VERSION = 1
BLIND_VERSION = 1
CAPTION = "a photo of {name}"  # how captions begin in worlds that are made here


class MembershipStage:
    """What `Study` knows about membership inference."""

    def attack_settings(self) -> dict[str, list[dict]]:
        """The calibrated setting of each attack of the profile."""
        a = self.params.attacks
        return {name: [getattr(a, name).model_dump()] for name in a.names}

    def check_asked(self, methods: list[str], key: str = "attacks.caption") -> None:
        """Raises ParamsError if one of these methods learns a token in place of an instance prompt that a caption lacks.

        key: what asks for captions.
        """
        from s2llib.finetune.recipe import check_captions

        world, learning = self.params.world, [METHODS[name] for name in methods if "tokens" in METHODS[name].trains]
        if not learning or not (self.params.attacks.caption or key != "attacks.caption"):
            return
        if world.kind == "folder":
            for domain in self.domains:
                check_captions(learning[0], domain, key)
        elif world.instance not in CAPTION:
            raise ParamsError(
                f"{key}: captions of this world begin with '{CAPTION}', without world.instance ('{world.instance}'), in whose place"
                f" {learning[0].title} learns a token; change it, or do without one of the two."
            )

    def no_ablations(self) -> str:
        """Why there can be no ablations here; empty if there can."""
        try:
            self.check_asked(["textual_inversion"])
        except ParamsError as error:
            return str(error)
        return ""

    def membership(self, methods: list[str] | None = None) -> pd.DataFrame:
        """Membership scores of the grid at the calibrated settings.

        Columns: domain, method, seed, attack, setting, evaluations (of the UNet, per image), split, image, score.
        """
        cells = list(self.cells(methods))
        precompute(self, "scores", cells)
        return pd.concat([self.scores(*cell) for cell in track(cells, "membership")], ignore_index=True)

    def scores(self, domain: Domain, method: str, seed: int = 0) -> pd.DataFrame:
        """Membership scores of one cell at the calibrated settings; columns as `membership`."""
        return self._scores(domain, method, seed, self.attack_settings())

    def iid_scores(self, domain: Domain, method: str, seed: int = 0) -> pd.DataFrame:
        """Membership scores of one cell at the calibrated settings, without the shifted sets; columns as `membership`."""
        return self._scores(domain, method, seed, self.attack_settings(), iid=True)

    def _scores(self, domain: Domain, method: str, seed: int, settings: dict[str, list[dict]], iid: bool = False) -> pd.DataFrame:
        inputs = self._model_inputs(domain, method, seed) | {
            "domain": domain.digest, "condition": domain.condition, "caption": self.params.attacks.caption, "settings": settings,
            "splits": "iid" if iid else "all", "device": self._machine(),
        }  # fmt: skip
        make = lambda new: self._score(domain, method, seed, settings, iid, new)  # noqa: E731
        table = pd.read_parquet(self.store.get("membership", MEMBERSHIP_VERSION, inputs, make) / "scores.parquet")
        return table.assign(domain=domain.name, method=method, seed=seed)

    def _score(self, domain: Domain, method: str, seed: int, settings: dict[str, list[dict]], iid: bool, new: Path) -> None:
        from s2llib.attacks import attack_scores
        from s2llib.models.denoiser import Denoiser

        denoiser = Denoiser(self.model(domain, method, seed), self.params.attacks.batch)
        check_unchanged(self.params.world, domain, self.store)
        tables, splits = [], {"member": domain.members, "nonmember": domain.nonmembers, **({} if iid else domain.shifted)}
        for split, photos in track(splits.items(), f"attacks on {domain.name}"):
            texts = list(photos.captions) if self.params.attacks.caption else [domain.condition_prompt]
            texts = [self._prompt(method, domain, text) for text in texts]
            z0, c = denoiser.encode_photos(photos), denoiser.prompts(texts)
            for attack, variants in settings.items():
                for setting in variants:
                    before = denoiser.evaluations
                    score = attack_scores(attack, denoiser, z0, c, **setting).cpu().numpy()
                    row = {"attack": attack, "setting": json.dumps(setting), "split": split}
                    each = (denoiser.evaluations - before) // len(photos)
                    tables.append(pd.DataFrame({**row, "evaluations": each, "image": range(len(photos)), "score": score}))
        pd.concat(tables, ignore_index=True).to_parquet(new / "scores.parquet")

    # against the timestep

    def sweep_settings(self) -> dict[str, list[dict]]:
        """Each attack at every setting of the sweep."""
        p = self.params.attacks
        single = [{"t": t} for t in p.sweep.timesteps]
        special = {"secmi": [setting.model_dump() for setting in p.sweep.secmi]}
        special |= {
            name: [{"timesteps": [t], "draws": given.draws} for t in p.sweep.timesteps]
            for name, given in (("loss", p.loss), ("clid", p.clid))
        }
        return {name: special.get(name, single) for name in p.names}

    def sweep(self) -> pd.DataFrame:
        """iid membership scores against the attacks' timesteps, before and after, on the sweep's domains; columns as `membership`."""
        p = self.params.attacks.sweep
        cells = list(self.cells([PRETRAINED, *p.methods], self.domains[: p.domains]))
        precompute(self, "sweep_scores", cells)
        return pd.concat([self.sweep_scores(*cell) for cell in track(cells, "timestep sweep")], ignore_index=True)

    def sweep_scores(self, domain: Domain, method: str, seed: int = 0) -> pd.DataFrame:
        """iid membership scores of one cell at every setting of the sweep; columns as `membership`."""
        return self._scores(domain, method, seed, self.sweep_settings(), iid=True)

    # against other parameters

    @property
    def ablation_domains(self) -> list[Domain]:
        """The domains of the ablations."""
        return self.domains[: self.params.ablations.domains]

    def ablation(self, values: dict[object, dict], method: str, domains: list[Domain] | None = None) -> pd.DataFrame:
        """iid membership scores before and after, with each value's overrides: columns as `membership`, `value` and `trainable`.

        values: {value: what it overrides}, such as {4: {"finetune.lora.rank": 4}}; domains: those of the ablations, if not given.
        """
        self.check_asked([method])
        parts = []
        alike = {"finetune.seeds": self.params.finetune.seeds[:1], f"finetune.fewer_domains.{method}": len(self.domains)}
        variants = {value: self.variant(overrides | alike) for value, overrides in values.items()}
        for value, variant in track(variants.items(), "ablation", len(variants)):
            cells = list(variant.cells([PRETRAINED, method], domains or variant.ablation_domains))
            precompute(variant, "iid_scores", cells)
            for cell in track(cells, f"ablation, {value}"):
                parts.append(variant.iid_scores(*cell).assign(value=value, trainable=variant.trainable(*cell)))
        return pd.concat(parts, ignore_index=True)

    def trainable(self, domain: Domain, method: str, seed: int = 0) -> int:
        """Number of parameters that a method trains; 0 for the pre-trained model."""
        if method == PRETRAINED:
            return 0
        return json.loads((self.finetuned(domain, method, seed) / "training.json").read_text())["trainable"]

    # the blind baseline

    def blind(self) -> pd.DataFrame:
        """Scores of the blind baseline, which never sees the model: columns as `membership`, one protocol per row."""
        inputs = {
            "domains": [domain.digest for domain in self.domains],
            "size": self.image_size,
            "folds": self.params.statistics.blind_folds,
            "caption": self.params.attacks.caption,
            "seed": self.params.seed,
        }
        return pd.read_parquet(self.store.get("blind", BLIND_VERSION, inputs, self._blind) / "scores.parquet")

    def _blind(self, new: Path) -> None:
        from s2llib.metrics.blind import blind_scores, caption_features, image_features

        features: dict = {}
        for domain in track(self.domains, "blind baseline"):
            for split, photos in {"member": domain.members, "nonmember": domain.nonmembers, **domain.shifted}.items():
                seen = [np.concatenate([image_features(x) for x in photos.batches(self.image_size, self.params.attacks.batch)])]
                if self.params.attacks.caption:  # what the attacks see, the baseline sees
                    seen.append(caption_features(photos.captions))
                features.setdefault(split, []).append((domain.name, np.concatenate(seen, axis=1)))
        stacked = {split: np.concatenate([x for _, x in parts]) for split, parts in features.items()}
        names = {split: np.repeat([name for name, _ in parts], [len(x) for _, x in parts]) for split, parts in features.items()}
        tables = []
        for split in stacked:
            if split != "member":
                scores = blind_scores(stacked["member"], stacked[split], self.params.statistics.blind_folds, self.params.seed)
                for side, score in zip(("member", split), scores, strict=True):
                    tables.append(pd.DataFrame({"domain": names[side], "against": split, "split": side, "score": score}))
        pd.concat(tables, ignore_index=True).to_parquet(new / "scores.parquet")
