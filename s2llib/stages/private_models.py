"""Models fine-tuned on private photographs (Pang & Wang 2025), what they are asked, and how like the photographs their answers are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from s2llib.data.domain import Domain, Photos
from s2llib.data.worlds import auxiliary_images, data_version, private_pool
from s2llib.finetune.methods import METHODS
from s2llib.models.base import auxiliary_inputs
from s2llib.params import LoRA
from s2llib.store import digest, file_digest, folder_digest, number

__all__ = ["Evidence", "PrivateModels", "Tuned", "reworded"]

TARGET_VERSION = 1
CAPTIONS_VERSION = 1
ENCODER_VERSION = 1
CAPTIONER_VERSION = 1
KEPT = 48  # feature tensors kept in memory


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


class PrivateModels:
    """What `Study` knows about models fine-tuned on private photographs."""

    # who is in which set

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

    def _pipeline(self, model: Tuned):
        """The pipeline of a model, ready to query."""
        from s2llib.finetune.recipe import load_finetuned

        return self.base if model.recipe is None else self._ready(load_finetuned(self.base_folder, self.tuned(model)))

    def _address(self, model: Tuned) -> str:
        """What a model's weights are addressed by."""
        return self.base_key if model.recipe is None else self.tuned(model).name

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
        source |= {"size": self.image_size} | ({"own": digest(own)} if own else {})

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
        inputs |= {"steps": p.captioner_steps, "lr": p.captioner_lr, "size": self.image_size}

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
        source = auxiliary_inputs(self.params)
        if self._auxiliary_is_shadow:
            source = {"content": self._content(Photos.join(self.private_sets[2:])), "size": self.image_size}
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


class _Lazy:
    """A local generator whose model is made and loaded when the first image is asked for."""

    def __init__(self, study: PrivateModels, model: Tuned, steps: int):
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
