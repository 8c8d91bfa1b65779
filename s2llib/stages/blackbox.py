"""Stage 7 of a study: black-box membership inference against models fine-tuned on private photographs (Pang & Wang 2025)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from s2llib.data.domain import Photos
from s2llib.data.worlds import known_names, without_caption
from s2llib.params import ParamsError, resolved
from s2llib.progress import track
from s2llib.stages.private_models import Evidence, PrivateModels, Tuned
from s2llib.stages.prompts import private_prompts

__all__ = ["SCENARIOS", "BlackBoxStage"]

LEARNT_VERSION = 1

# scenario: (who writes the caption, what the inference model is fitted on)
SCENARIOS = {
    "Attack-I": ("own", "partial"),
    "Attack-II": ("written", "partial"),
    "Attack-III": ("own", "shadow"),
    "Attack-IV": ("written", "shadow"),
}


class BlackBoxStage(PrivateModels):
    """What `Study` knows about the black-box attack."""

    def no_blackbox(self) -> str:
        """Why there can be no black-box study here; empty if there can."""
        try:
            self.check_blackbox()
        except ParamsError as error:
            return str(error)
        return ""

    def check_blackbox(self) -> None:
        """Raises ParamsError where photographs, an encoder or a captioner are missing."""
        from s2llib.data.folders import check_captions
        from s2llib.data.reading import check_prompts
        from s2llib.defenses.dp import check_epsilons
        from s2llib.models.base import base_tokenizer
        from s2llib.models.captioner import check_blip
        from s2llib.models.encoders import check_encoder
        from s2llib.models.pipeline import base_folder

        p, world = self.params.blackbox, self.params.world
        check_epsilons(p.private.epsilons, p.private, p.members, "blackbox.private")
        if folder := p.folder or (world.folder if world.kind == "folder" else None):
            check_captions(resolved(folder), "blackbox.folder" if p.folder else "world.folder")
        if folder or world.kind != "portraits":  # portraits are drawn as many as are asked for
            captions, tokenizer = Photos.join(self.private_sets).captions, base_tokenizer(self.params)
            check_prompts(tokenizer, tokenizer.model_max_length, private_prompts(captions, p.wordings))
        if world.folders and not p.folder:
            bare = without_caption(world)
            lacking = [path for some in self.private_sets for path in some.paths if path in bare]
            if problem := next((bare[path] for path in lacking if bare[path]), ""):
                raise ParamsError(f"blackbox: {problem}")
            if lacking:
                raise ParamsError(
                    f"blackbox: {len(lacking)} photographs have no caption of their own, which Attack-I and III need; put a .txt beside"
                    " each."
                )
        for name, folder in p.encoder_folders.items():
            check_encoder(name, folder)
        if p.captioner:
            check_blip(p.captioner)
        base = base_folder(self.params)  # as it is named: a LoRA is not fused for a check
        if not base or (base / "clip").is_dir():
            return
        where = f"{base} has no CLIP pair (clip/)"
        if "clip" in (p.encoder, *p.encoders):
            raise ParamsError(f"blackbox.encoders: {where}; leave 'clip' out, or name one in encoder_folders.")
        if not p.captioner:
            raise ParamsError(f"blackbox.captioner: {where} to find captions with; name a BLIP folder.")

    # inference

    def inferred(self, evidence: Evidence, fitted_on: Sequence[Evidence] | None, labels: dict, most: int | None = None) -> pd.DataFrame:
        """Scores of the tested photographs by every inference model: columns of labels, model, split, image, score (above 0: a member).

        fitted_on: evidence of shadow models, all of it; None: the known half of `evidence`, at most that many members and non-members.
        """
        from s2llib.attacks.blackbox import MODELS

        known = [tuple(x[:most] for x in evidence.known)] if fitted_on is None else [(e.members, e.others) for e in fitted_on]
        members, others = (np.concatenate(side) for side in zip(*known, strict=True))
        tables = []
        for name, new in MODELS.items():
            model = new(self.params.blackbox, self.params.seed).fit(members, others)
            for split, x in zip(("member", "nonmember"), evidence.tested, strict=True):
                tables.append(pd.DataFrame(labels | {"model": name, "split": split, "image": range(len(x)), "score": model.score(x)}))
        return pd.concat(tables, ignore_index=True).assign(fitted=len(members) + len(others))

    def attack(self, models: list[Tuned], labels: dict, scenario: str = "Attack-I", most: int | None = None, **how) -> pd.DataFrame:
        """A scenario against some models: columns of `inferred`, target. most: as in `inferred`; how: as in `evidence`."""
        captions, source = SCENARIOS[scenario]
        shadows = [self.evidence(shadow, captions, **how) for shadow in self.shadows()] if source == "shadow" else None
        parts = []
        for i, model in enumerate(models):
            parts.append(self.inferred(self.evidence(model, captions, **how), shadows, labels | {"scenario": scenario, "target": i}, most))
        return pd.concat(parts, ignore_index=True)

    def scenarios(self) -> pd.DataFrame:
        """The main table: every scenario against every target."""
        return pd.concat([self.attack(self.targets(), {}, name) for name in track(SCENARIOS, "scenarios")], ignore_index=True)

    # controls

    def controls(self) -> pd.DataFrame:
        """Attack-I against a model that is to leak, against models that saw none of the photographs, against the base; column control."""
        p, found = self.params.blackbox, []
        a, b, *_ = self.private_sets
        few = p.overfitted.members
        overfitted = Tuned("overfitted", a[:few], b[:few], p.tune.model_copy(update={"steps": p.overfitted.steps}))
        pairs = list(zip(self.targets(), self.shadows(), strict=False))
        strangers = [replace(target, name=f"stranger {i}", trained=shadow.members, budget=None) for i, (target, shadow) in enumerate(pairs)]
        for title, models in {"overfitted": [overfitted], "fine-tuned on others": strangers, "not fine-tuned": self.untuned()[:1]}.items():
            found.append(self.attack(models, {"control": title}))
        return pd.concat(found, ignore_index=True)

    def untuned(self) -> list[Tuned]:
        """The base model, asked about the targets' photographs."""
        return [replace(target, name=f"base {i}", recipe=None, budget=None) for i, target in enumerate(self.targets())]

    def private_blind(self) -> pd.DataFrame:
        """Out-of-fold scores of the tested photographs by a classifier that sees them and their captions and never asks a model."""
        from s2llib.metrics.blind import blind_scores, caption_features, image_features

        tables = []
        for i, target in enumerate(self.targets()):
            x = [
                np.hstack([image_features(s.pixels(self.image_size)), caption_features(s.captions)])
                for s in (target.members, target.others)
            ]
            scores = blind_scores(*x, self.params.statistics.blind_folds, self.params.seed)
            for split, score in zip(("member", "nonmember"), scores, strict=True):
                tested = score[len(score) // 2 :]
                tables.append(pd.DataFrame({"target": i, "split": split, "image": range(len(tested)), "score": tested}))
        return pd.concat(tables, ignore_index=True).assign(model="blind")

    # studies: all Attack-I, on the targets

    @property
    def _some_targets(self) -> list[Tuned]:
        """The targets of studies that make new models or ask for more images."""
        return self.targets()[: self.params.blackbox.study_targets]

    def _study(self, column: str, values: dict[object, tuple[list[Tuned], dict]], scenario: str = "Attack-I") -> pd.DataFrame:
        """{value: (models, how)}; column `column`: the value."""
        parts = [
            self.attack(models, {column: value}, scenario, **how) for value, (models, how) in track(values.items(), column, len(values))
        ]
        return pd.concat(parts, ignore_index=True)

    def by_encoder(self) -> pd.DataFrame:
        return self._study("encoder", {name: (self.targets(), {"encoder": name}) for name in self.params.blackbox.encoders})

    def by_similarity(self) -> pd.DataFrame:
        """Every measure, form and aggregate; column `similarity`."""
        from s2llib.attacks.blackbox import AGGREGATES, MEASURES

        ways = {
            f"{measure}, {form}, {aggregate}": (self.targets(), {"measure": measure, "form": form, "aggregate": aggregate})
            for measure in MEASURES
            for form in ("vector", "scalar")
            for aggregate in AGGREGATES
        }
        return self._study("similarity", ways)

    def by_queries(self) -> pd.DataFrame:
        return self._study("queries", {m: (self._some_targets, {"repeats": m}) for m in self.params.blackbox.repeats})

    def by_wording(self) -> pd.DataFrame:
        """The attacker knows the caption but asks in other words; fitted on evidence from the same words."""
        ways = {"the caption": (self._some_targets, {})}
        ways |= {title: (self._some_targets, {"wording": title}) for title in self.params.blackbox.wordings}
        return self._study("wording", ways)

    def by_epochs(self) -> pd.DataFrame:
        p = self.params.blackbox
        return self._study("steps", {n: (self._other_targets({"steps": n}, f"{n} steps")[: p.study_targets], {}) for n in p.epochs})

    def _other_targets(self, update: dict, name: str, members: int | None = None) -> list[Tuned]:
        recipe = self.params.blackbox.tune.model_copy(update=update)
        return [Tuned(f"{t.name}, {name}", t.members[:members], t.others[:members], recipe) for t in self.targets()]

    def by_size(self) -> pd.DataFrame:
        """Fine-tuning sets of several sizes, at equal epochs; the attacker knows as many photographs of each."""
        p = self.params.blackbox
        how = {"most": min(p.sizes) // 2}
        steps = {n: max(1, round(p.tune.steps * n / p.members)) for n in p.sizes}
        return self._study("members", {n: (self._other_targets({"steps": steps[n]}, f"{n} members", n), how) for n in p.sizes})

    def by_sampling(self) -> pd.DataFrame:
        """Inference steps; one generation a query."""
        how = lambda n: {"repeats": 1} | ({} if n == self.params.blackbox.steps else {"steps": n})  # noqa: E731
        return self._study("inference steps", {n: (self._some_targets, how(n)) for n in self.params.blackbox.sampling})

    # DP-SGD

    def private_models(self) -> dict[str, list[Tuned]]:
        """{row of the table: models}: the base, DP-SGD's recipe from the smallest epsilon to none at all, and the usual fine-tuning."""
        p = self.params.blackbox
        targets = self._some_targets
        rows = {"not fine-tuned": self.untuned()[: p.study_targets]}
        for epsilon in [*sorted(p.private.epsilons), None]:
            title = f"epsilon {epsilon:g}" if epsilon else "clipping, no noise"
            change = {"recipe": p.private, "epsilon": epsilon, "private": True}
            rows[title] = [replace(target, name=f"{target.name}, {title}", **change) for target in targets]
        return rows | {"no DP-SGD": targets}

    def private(self) -> pd.DataFrame:
        """Attack-I against models fine-tuned with DP-SGD; column `training`."""
        return self._study("training", {title: (models, {}) for title, models in self.private_models().items()})

    def private_quality(self) -> pd.DataFrame:
        """Of every row of `private` and target: what it learnt, hits, and the guarantee.

        loss: {member, nonmember: noise-prediction error of each photograph with its caption, the same draws for every model};
        hits: 1 where the base's CLIP finds the right name among all people's in a member's first generation, or None.
        """
        rows = []
        for title, models in track(self.private_models().items(), "what was learnt", len(self.private_models())):
            for i, model in enumerate(models):
                report = {} if model.recipe is None else self.training(model)
                row = {"training": title, "target": i, "trainable": report.get("trainable", 0)}
                row |= {key: report.get(key) for key in ("epsilon", "delta", "clip", "noise multiplier")}
                row["norm"] = float(np.median(report["norms"])) if report.get("norms") else None
                rows.append(row | {"hits": self._retrieved(model), "loss": self.learnt(model)})
        return pd.DataFrame(rows)

    def learnt(self, model: Tuned) -> dict[str, list[float]]:
        """Noise-prediction error of a model's members and of its non-members, the loss attack's draws, each with its own caption."""
        p = self.params.blackbox.private
        inputs = {
            "model": self._address(model),
            "content": [self._content(photos) for photos in (model.members, model.others)],
            "device": self._machine(),
        }
        inputs |= {"setting": self.params.attacks.loss.model_dump() | {"draws": p.looks}}

        def make(new: Path) -> None:
            from s2llib.attacks import ATTACKS
            from s2llib.models.denoiser import Denoiser

            denoiser, found = Denoiser(self._pipeline(model), self.params.attacks.batch), {}
            for split, photos in (("member", model.members), ("nonmember", model.others)):
                z0, c = denoiser.encode_photos(photos), denoiser.prompts(list(photos.captions))
                found[split] = (-ATTACKS["loss"](denoiser, z0, c, **inputs["setting"])).tolist()
            (new / "loss.json").write_text(json.dumps(found))

        return json.loads((self.store.get("learnt", LEARNT_VERSION, inputs, make) / "loss.json").read_text())

    def _retrieved(self, model: Tuned) -> list[float] | None:
        """Whether the base's CLIP finds the right name, for each first generation of the members; None where there is no such."""
        from s2llib.metrics.clip import retrieved

        people, world = known_names(self.params.world), self.params.world
        named = [next((i for i, name in enumerate(people) if name in text), None) for text in model.members.captions]
        if None in named or not (self.base_folder / "clip").is_dir():
            return None
        x = self.replies(model, model.members.captions, 1)[:, 0]
        return retrieved(self.base_folder, x, torch.tensor(named), [world.condition.format(name=name) for name in people]).tolist()
