"""Stage 7 of a study: black-box membership inference against models fine-tuned on private photographs (Pang & Wang 2025)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from s2llib.data.domain import Domain, Photos
from s2llib.data.worlds import auxiliary_images, data_version, private_pool
from s2llib.finetune.methods import METHODS
from s2llib.params import LoRA, ParamsError, resolved
from s2llib.progress import track
from s2llib.store import digest, file_digest, folder_digest, number

__all__ = ["SCENARIOS", "BlackBoxStage", "Evidence", "Tuned"]

TARGET_VERSION = 1
CAPTIONS_VERSION = 1
ENCODER_VERSION = 1
LEARNT_VERSION = 1
KEPT = 48  # feature tensors kept in memory
CAPTIONER_VERSION = 1

# scenario: (who writes the caption, what the inference model is fitted on)
SCENARIOS = {
    "Attack-I": ("own", "partial"),
    "Attack-II": ("written", "partial"),
    "Attack-III": ("own", "shadow"),
    "Attack-IV": ("written", "shadow"),
}


@dataclass(frozen=True)
class Tuned:
    """One model fine-tuned on private photographs, and those it is asked about.

    members: its fine-tuning set; others: as many photographs that it never saw. recipe: None for the base model itself. private: with
    DP-SGD; epsilon: None for its clipping without noise. trained: the fine-tuning set, if it is not the members (a control).
    budget: images that the attacker may ask it for; None: a model of our own, or of the attacker's, is asked as often as is needed.
    """

    name: str
    members: Photos
    others: Photos
    recipe: LoRA | None
    epsilon: float | None = None
    private: bool = False
    trained: Photos | None = None
    budget: int | None = None

    @property
    def fine_tuning_set(self) -> Photos:
        return self.members if self.trained is None else self.trained


@dataclass(frozen=True)
class Evidence:
    """Similarities of members and of non-members to their generations: [n, channels] each; the first halves are known to the attacker."""

    members: np.ndarray
    others: np.ndarray

    @property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(x[: len(x) // 2] for x in (self.members, self.others))

    @property
    def tested(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(x[len(x) // 2 :] for x in (self.members, self.others))


class BlackBoxStage:
    """What `Study` knows about the black-box attack."""

    # who is in which set

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
        from s2llib.defenses.dp import check_epsilons
        from s2llib.models.captioner import check_blip
        from s2llib.models.encoders import check_encoder

        p, world = self.params.blackbox, self.params.world
        check_epsilons(p.private.epsilons, p.private, "blackbox.private")
        if folder := p.folder or (world.folder if world.kind == "folder" else None):
            check_captions(resolved(folder))
        if folder or world.kind != "portraits":  # portraits are drawn as many as are asked for
            self.private_sets  # noqa: B018  raises
        for name, folder in p.encoder_folders.items():
            check_encoder(name, folder)
        if p.captioner:
            check_blip(p.captioner)
        if self.params.trains_base or (self.base_folder / "clip").is_dir():
            return
        where = f"{self.base_folder} has no CLIP pair (clip/)"
        if "clip" in (p.encoder, *p.encoders):
            raise ParamsError(f"blackbox.encoders: {where}; leave 'clip' out, or name one in encoder_folders.")
        if not p.captioner:
            raise ParamsError(f"blackbox.captioner: {where} to find captions with; name a BLIP folder.")

    @cached_property
    def private_sets(self) -> list[Photos]:
        """Four disjoint sets of photographs that the base model never saw: of the two targets, and of the two shadow models.

        Raises ParamsError where there are too few.
        """
        p = self.params.blackbox
        pool = private_pool(self.params.world, 4 * p.members, self.store, p.folder)
        order = np.random.default_rng([self.params.seed, 7]).permutation(len(pool)).reshape(4, -1)
        return [Photos(*(tuple(column[i] for i in part) for column in (pool.paths, pool.captions, pool.copies))) for part in order]

    def targets(self) -> list[Tuned]:
        """The attacked models: two sets of photographs, the members of one being the non-members of the other."""
        a, b, *_ = self.private_sets
        p = self.params.blackbox
        return [Tuned(f"target {i}", *sets, p.tune, budget=p.budget) for i, sets in enumerate([(a, b), (b, a)][: p.targets])]

    def shadows(self) -> list[Tuned]:
        """The attacker's own models, on auxiliary photographs."""
        *_, a, b = self.private_sets
        p = self.params.blackbox
        return [Tuned(f"shadow {i}", *sets, p.tune) for i, sets in enumerate([(a, b), (b, a)][: p.shadows])]

    # fine-tuning

    def _content(self, photos: Photos) -> str:
        return digest([[file_digest(path) for path in photos.paths], list(photos.captions)])

    def _tuned_inputs(self, model: Tuned) -> dict:
        from s2llib.defenses.dp import PRIVATE_VERSION
        from s2llib.finetune.recipe import FINETUNE_VERSION

        recipe = model.recipe.model_dump(exclude={"epsilons", "looks"})
        machine = self._machine() if model.private else self._machine("precision", "optimizer")  # DP-SGD is in float32
        inputs = {"base": self.base_key, "content": self._content(model.fine_tuning_set), "recipe": recipe, "device": machine}
        inputs |= {"seed": self.params.seed, "finetune": FINETUNE_VERSION}
        return inputs | ({"private": PRIVATE_VERSION, "epsilon": model.epsilon} if model.private else {})

    def tuned(self, model: Tuned) -> Path:
        """The folder of a fine-tuned model: LoRA weights, and `training.json`."""
        if model.recipe is None:
            return self.base_folder
        inputs = self._tuned_inputs(model)
        return self.store.get("blackbox_target", TARGET_VERSION, inputs, lambda new: self._tune(model, inputs, new))

    def _tune(self, model: Tuned, inputs: dict, new: Path) -> None:
        from s2llib.defenses.dp import private_finetune
        from s2llib.finetune.recipe import finetune, save_finetuned

        pipeline, nobody, how = self._load(self.base_folder, trains=True), Domain("private", {}, ""), METHODS["lora"]
        batch = self.params.attacks.batch
        if model.private:
            pipeline.unet.disable_gradient_checkpointing()  # which opacus' hooks do not know
            seed = number(f"private/{self.params.seed}/{model.epsilon}")  # noise of its own for every epsilon
            report = private_finetune(pipeline, model.recipe, model.fine_tuning_set, model.epsilon, seed, model.name, batch)
        else:
            scratch = self.store.scratch("blackbox_target", TARGET_VERSION, inputs)
            seed = number(f"blackbox/{self.params.seed}")
            report = finetune(
                pipeline, how, model.recipe, model.fine_tuning_set, nobody, seed, model.name, encode_batch=batch, checkpoint=scratch,
                hardware=self.params.hardware,
            )  # fmt: skip
        save_finetuned(pipeline, how, model.recipe, nobody, new)
        (new / "training.json").write_text(json.dumps(report))

    def training(self, model: Tuned) -> dict:
        """What was noted of a fine-tuning: loss of every step, trainable parameters, and with DP-SGD its guarantee."""
        return json.loads((self.tuned(model) / "training.json").read_text())

    # what the attacker asks and sees

    def generator(self, model: Tuned, steps: int | None = None, budget: int | None = None):
        """A fine-tuned model as the attacker sees it: `generate(prompts, seed)`, with a cache and a query budget."""
        from s2llib.attacks.query import CachedGenerator

        p = self.params.blackbox
        steps = p.steps if steps is None else steps
        key = [self._address(model), steps, p.guidance, self.params.seed, self._machine("precision")]
        folder = self.store.root / "queries" / digest(key)[:20]
        if budget is None:  # of our studies: not counted, but what the attack asked for need not be asked again
            return CachedGenerator(_Lazy(self, model, steps), folder.with_name(f"{folder.name}-studies"), None, p.batch, also=folder)
        return CachedGenerator(_Lazy(self, model, steps), folder, budget, p.batch)

    def replies(
        self, model: Tuned, prompts: Sequence[str], repeats: int, steps: int | None = None, budget: int | None = None
    ) -> torch.Tensor:
        """[n, m, 3, h, w] in [0, 1]: m = repeats images for every prompt."""
        asked = self.generator(model, steps, budget)
        drawn = [asked.generate(list(prompts), self.params.seed + seed) for seed in range(repeats)]
        return torch.from_numpy(np.stack(drawn, 1)).permute(0, 1, 4, 2, 3).float() / 255

    def written_captions(self, photos: Photos) -> list[str]:
        """What the captioner writes for photographs whose captions the attacker does not know."""
        from s2llib.models.captioner import load_blip, retrieve_captions, write_captions

        p = self.params.blackbox
        known = sorted(set(self._auxiliary[1]))
        source = {"folder": folder_digest(self._captioner())} if p.captioner else {"base": self.base_key, "known": digest(known)}
        files = [file_digest(path) for path in photos.paths]
        own = list(photos.captions) if self._auxiliary_is_shadow else None  # a photograph must not find its own caption
        source |= {"own": digest(own)} if own else {}

        def make(new: Path) -> None:
            x = photos.pixels(self.image_size)
            texts = write_captions(*load_blip(self._captioner()), x) if p.captioner else retrieve_captions(self.base_folder, x, known, own)
            (new / "captions.json").write_text(json.dumps(texts))

        return json.loads(
            (self.store.get("written_captions", CAPTIONS_VERSION, source | {"files": files}, make) / "captions.json").read_text()
        )

    def _captioner(self) -> Path:
        """The BLIP folder, fine-tuned on the shadow photographs if the profile says so."""
        from s2llib.models.captioner import check_blip, load_blip, tune_blip

        p = self.params.blackbox
        folder = check_blip(p.captioner)
        if not p.captioner_steps:
            return folder
        own = Photos.join(self.private_sets[2:])
        inputs = {"model": folder_digest(folder), "content": self._content(own), "seed": self.params.seed}
        inputs |= {"steps": p.captioner_steps, "lr": p.captioner_lr}

        def make(new: Path) -> None:
            model, tokenizer = load_blip(folder)
            tune_blip(
                model, tokenizer, own.pixels(self.image_size), list(own.captions), p.captioner_steps, p.captioner_lr, self.params.seed
            )
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)

        return self.store.get("captioner", CAPTIONER_VERSION, inputs, make)

    @property
    def _auxiliary_is_shadow(self) -> bool:
        """Whether the attacker has no photographs but those of the shadow sets: a folder holds no others."""
        return bool(self.params.world.kind == "folder" or self.params.blackbox.folder)

    @cached_property
    def _auxiliary(self) -> tuple[np.ndarray, list[str]]:
        """The attacker's photographs and captions: [n, h, w, 3] uint8, in none of the four sets; of a folder, the shadow sets."""
        if self._auxiliary_is_shadow:
            own = Photos.join(self.private_sets[2:])
            return (own.pixels(self.image_size).permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8), list(own.captions)
        return auxiliary_images(self.params.world, self.params.base.auxiliary, self.store)

    # similarity

    def encode(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Features [n, tokens, channels] of images [n, 3, h, w] in [0, 1] by an encoder of the profile."""
        from s2llib.models import encoders

        p, batch = self.params.blackbox, self.params.attacks.batch
        if name == "pixels":
            return encoders.dct_tokens(x)
        if name == "vae":
            return encoders.vae_tokens(self.base, x, batch)
        if name == "clip":
            return encoders.clip_tokens(self.base_folder, x, batch)
        if name == "selfsupervised":
            return self._selfsupervised.tokens(x, batch)
        return encoders.transformers_tokens(encoders.check_encoder(name, p.encoder_folders[name]), x, batch)

    @cached_property
    def _selfsupervised(self):
        from s2llib.models.encoders import load_selfsupervised, save_selfsupervised, train_selfsupervised

        p, world = self.params.blackbox.selfsupervised, self.params.world
        source = {"base": self.params.base.auxiliary, "world": world.model_dump(include={"kind", "seed", "people", "bystanders"})}
        if self._auxiliary_is_shadow:
            source = {"content": self._content(Photos.join(self.private_sets[2:]))}
        inputs = source | {"encoder": p.model_dump(), "seed": self.params.seed, "data": data_version(world)}

        def make(new: Path) -> None:
            images, _ = self._auxiliary
            x = torch.from_numpy(images[:: max(1, len(images) // p.images)]).permute(0, 3, 1, 2).float() / 255
            model, losses = train_selfsupervised(x, p, self.params.seed, self.store.scratch("encoder", ENCODER_VERSION, inputs))
            save_selfsupervised(model, new)
            (new / "training.json").write_text(json.dumps({"loss": losses}))

        return load_selfsupervised(self.store.get("encoder", ENCODER_VERSION, inputs, make), p.channels)

    def evidence(self, model: Tuned, captions: str = "own", wording: str | None = None, steps: int | None = None, **how) -> Evidence:
        """What the attacker sees of a model's members and non-members.

        captions: `own`, or `written` by the captioner; wording: a template of blackbox.wordings; how: encoder, measure, form, aggregate,
        repeats in place of the profile's.
        """
        p = self.params.blackbox
        use = p.model_dump(include={"encoder", "measure", "form", "aggregate"}) | {"repeats": p.queries} | how
        main = wording is None and steps is None and use["repeats"] <= p.queries
        budget = model.budget if main else None  # the studies are ours, not the attacker's
        return Evidence(*(self._seen(model, photos, captions, wording, steps, budget, **use) for photos in (model.members, model.others)))

    def _seen(self, model, photos, captions, wording, steps, budget, encoder, measure, form, aggregate, repeats) -> np.ndarray:
        from s2llib.attacks.blackbox import AGGREGATES, similarity

        prompts = list(photos.captions) if captions == "own" else self.written_captions(photos)
        if wording is not None:
            prompts = [reworded(text, self.params.blackbox.wordings[wording]) for text in prompts]
        query = self._features(encoder, ("photos", self._content(photos)), lambda: photos.pixels(self.image_size))
        name = (self._address(model), self._content(photos), digest(prompts), steps, repeats)
        drawn = self._features(encoder, name, lambda: self.replies(model, prompts, repeats, steps, budget).flatten(0, 1))
        generated = drawn.view(len(photos), repeats, *query.shape[1:])
        return AGGREGATES[aggregate](similarity(query, generated, measure, form)).numpy()

    def _features(self, encoder: str, name: tuple, images) -> torch.Tensor:
        """Features of images, kept in memory: the studies of one notebook ask for the same ones."""
        kept = self.__dict__.setdefault("_kept_features", {})
        if (encoder, *name) not in kept:
            kept[encoder, *name] = self.encode(encoder, images()).float()
            if len(kept) > KEPT:
                del kept[next(iter(kept))]  # the oldest
        return kept[encoder, *name]

    def _address(self, model: Tuned) -> str:
        """What a model's weights are addressed by."""
        return self.base_key if model.recipe is None else self.tuned(model).name

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

    def _pipeline(self, model: Tuned):
        """The pipeline of a model, ready to query."""
        from s2llib.finetune.recipe import load_finetuned

        return self.base if model.recipe is None else self._ready(load_finetuned(self.base_folder, self.tuned(model)))

    def _retrieved(self, model: Tuned) -> list[float] | None:
        """Whether the base's CLIP finds the right name, for each first generation of the members; None where there is no such."""
        from s2llib.data.worlds import known_names
        from s2llib.metrics.clip import retrieved

        people, world = known_names(self.params.world), self.params.world
        named = [next((i for i, name in enumerate(people) if name in text), None) for text in model.members.captions]
        if None in named or not (self.base_folder / "clip").is_dir():
            return None
        x = self.replies(model, model.members.captions, 1)[:, 0]
        return retrieved(self.base_folder, x, torch.tensor(named), [world.condition.format(name=name) for name in people]).tolist()


class _Lazy:
    """A local generator whose model is made and loaded when the first image is asked for."""

    def __init__(self, study: BlackBoxStage, model: Tuned, steps: int):
        self.study, self.model, self.steps, self.inner = study, model, steps, None

    def generate(self, prompts: list[str], seed: int) -> np.ndarray:
        from s2llib.attacks.query import LocalGenerator

        if self.inner is None:
            p = self.study.params.blackbox
            precision = self.study.params.hardware.precision
            self.inner = LocalGenerator(self.study._pipeline(self.model), self.steps, p.guidance, p.batch, precision)
        return self.inner.generate(prompts, seed)


def reworded(caption: str, template: str) -> str:
    """A caption "a photo of NAME, and so on" in another wording: {name} is what follows "of", {rest} the other phrases."""
    opening, comma, rest = caption.partition(",")
    return template.format(name=opening.split(" of ", 1)[-1], rest=comma + rest)
