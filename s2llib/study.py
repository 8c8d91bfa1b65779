"""The spine: a profile becomes domains, a base model and stages; every stage is a cached artifact.

study = Study.from_profile("lab")
scores = study.membership()          # one row per image, attack and model
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from s2llib.data.domain import MEMBER, Domain, Photos
from s2llib.data.reading import check_prompts
from s2llib.data.worlds import check_used_captions, domain_names, known_names, load_domains
from s2llib.finetune.methods import METHODS, PRETRAINED
from s2llib.params import Params, ParamsError, Recipe, below_repository, load_params, resolved
from s2llib.progress import track
from s2llib.scale import precompute
from s2llib.stages.audit import AuditStage
from s2llib.stages.blackbox import BlackBoxStage
from s2llib.stages.extraction import ExtractionStage
from s2llib.stages.membership import MembershipStage
from s2llib.stages.mixsyn import MixSynStage
from s2llib.stages.priors import PriorStage
from s2llib.stages.prompts import asked_prompts, caption_key
from s2llib.stages.zero_prior import ZeroPriorStage
from s2llib.store import Store, check_writable, folder_digest, number

__all__ = ["NO_BASE", "PRETRAINED", "Study", "other_base"]

PRIOR_PROMPT = "a photo of a person"
NO_BASE = {"base.path": None, "base.hub": None, "base.lora": None, "base.lora_scale": 1.0}


def other_base(path: str) -> dict:
    """What to override for the base model in another folder."""
    return NO_BASE | {"base.path": path, "retrain_base": False}


class Study(MembershipStage, ExtractionStage, PriorStage, ZeroPriorStage, BlackBoxStage, MixSynStage, AuditStage):
    """All experiments of one profile. Nothing is computed until it is asked for, and nothing twice."""

    def __init__(self, params: Params, root: str | Path | None = None):
        self.params = params
        self.store = Store(root or below_repository(os.environ.get("S2L_HOME") or "artifacts"))
        self._origin: Study | None = None  # of a variant with the same base model, which is loaded once

    @classmethod
    def from_profile(cls, profile: str | None = None, overrides: dict | None = None, root: str | Path | None = None) -> "Study":
        """The study of `params/<profile>.yaml` ($S2L_PROFILE or `lab` by default), checked before any compute."""
        study = cls(load_params(profile, overrides), root)
        study.check()
        return study

    def check(self) -> None:
        """Refuse what cannot run: raises ParamsError with the thing and the mend."""
        from s2llib.finetune.methods import method
        from s2llib.models.base import check_base, check_world
        from s2llib.models.hardware import check_hardware
        from s2llib.models.pipeline import pick_device

        p = self.params
        check_writable(self.store.root, "S2L_HOME")
        for key, names in (
            ("finetune.methods", p.finetune.methods),
            ("finetune.fewer_domains", p.finetune.fewer_domains),
            ("attacks.sweep.methods", p.attacks.sweep.methods),
        ):
            for name in names:
                method(name, key)
        if p.trains_base and p.world.kind == "folder":
            raise ParamsError(f"params/{p.profile}.yaml: a folder world needs a base model; set base.path or base.hub.")
        check_base(p)
        check_world(p)
        self._check_others()
        self._check_trained()
        check_hardware(p.hardware, pick_device(p.device))
        domain_names(p.world)
        if p.world.kind == "folder" and (key := caption_key(p)):
            check_used_captions(p.world, key)
        self._check_prompts()
        self.check_extraction()
        self.check_priors()
        self.check_mixsyn()
        self.check_audit()
        if p.zero_prior.path and not p.retrain_base:
            self._check_zero_prior(resolved(p.zero_prior.path))
        if p.world.kind != "portraits":
            self.domains  # noqa: B018  read and checked now, not in the middle of a run
        if p.world.kind == "folder":
            self.check_public()
        self.check_asked([*p.finetune.methods, *p.attacks.sweep.methods, p.audit.method])
        if p.extraction.prompts == "captions":
            self.check_asked(p.finetune.methods, "extraction.prompts")
        self._check_models()

    def _check_models(self) -> None:
        """Every model that is not trained here is sound and predicts what it says, asked once per content, and knows all timesteps."""
        from s2llib.attacks import last_timestep
        from s2llib.models.base import content
        from s2llib.models.fit import check_timesteps
        from s2llib.models.pipeline import base_folder
        from s2llib.models.unconditional import load_unconditional

        p = self.params
        given = [] if p.trains_base else [("base.path", self)]
        for key, study in given + [(key, self.variant(overrides)) for key, _, overrides in self._others()]:
            folder = base_folder(study.params)  # as it is named: a LoRA is not fused for a check
            check_timesteps(folder, *last_timestep(p.attacks), key)
            self._check_sound(content(folder), f"{key}: {folder}", lambda folder=folder: self._load(folder))
        if p.zero_prior.path and not p.retrain_base:
            folder = resolved(p.zero_prior.path)
            load = lambda: load_unconditional(folder).to(self._device)  # noqa: E731
            for asked in (("zero_prior.t", p.zero_prior.t), ("zero_prior.secmi.t + k", p.zero_prior.secmi.t + p.zero_prior.secmi.k)):
                check_timesteps(folder, *asked, "zero_prior.path")
            self._check_sound(content(folder), f"zero_prior.path: {folder}", load)

    def _check_sound(self, key: str, where: str, load: Callable) -> None:
        from s2llib.models.hardware import free_memory
        from s2llib.models.sanity import SANITY_VERSION, check_outputs

        def make(new: Path) -> None:
            world = self.params.world.model_copy(update={"domains": domain_names(self.params.world)[:1]})
            (domain,) = load_domains(world, self.store)
            check_outputs(load(), domain.splits[MEMBER][:2], domain.condition_prompt, self.params.hardware.precision, where)
            free_memory()  # of a model that may fill it, in a process that may ask no more of it

        self.store.get("sound_model", SANITY_VERSION, {"model": key, "device": self._machine("precision")}, make)

    def _check_zero_prior(self, folder: Path) -> None:
        """The unconditional model of the profile is there and knows this world."""
        from s2llib.models.base import check_trained_on, training_world
        from s2llib.models.pipeline import check_unconditional

        check_unconditional(folder)
        people = self.params.zero_prior.people
        try:
            check_trained_on(folder, training_world(self.params, people), "zero_prior.people", "set zero_prior.path=null")
        except ParamsError as error:
            raise ParamsError(f"zero_prior.path: {error}") from None

    def _check_others(self) -> None:
        """The other base models, of the ablation and of extraction, are there and know this world."""
        from s2llib.models.base import check_world
        from s2llib.models.pipeline import base_folder, check_folder

        for key, none, overrides in self._others():
            other = self.params.changed(overrides)
            try:
                check_folder(base_folder(other))
                check_world(other, f"set {key}={none}")
            except ParamsError as error:
                raise ParamsError(f"{key}: {error}") from None

    def _others(self) -> list[tuple[str, str, dict]]:
        """(key, its value for none, what to override) of the other base models."""
        p = self.params
        scale = [("ablations.scale", "[]", other_base(path)) for path in p.ablations.scale]
        return scale + ([("extraction.base", "null", self.memorising_overrides())] if p.extraction.base else [])

    def _check_trained(self) -> None:
        """Every attacked person is one that the base model was trained on."""
        p = self.params
        trained = known_names(p.world)[: p.base.unet.people]
        for name in domain_names(p.world):
            if name not in trained:
                raise ParamsError(
                    f"base.unet.people is {p.base.unet.people} but '{name}' of world.domains is not among them; raise it or leave that out."
                )

    def _check_prompts(self) -> None:
        """Textual Inversion: its number of tokens fits the prompts, and every attack's prompt holds the instance prompt."""
        from s2llib.finetune.textual_inversion import check_tokens
        from s2llib.models.base import base_tokenizer

        p = self.params
        used = {"textual_inversion"} | {name for name in p.finetune.methods if "tokens" in METHODS[name].trains}  # the ablation always
        if p.world.instance not in p.world.condition:
            raise ParamsError(
                f"world.condition ('{p.world.condition}') must hold world.instance ('{p.world.instance}'): Textual Inversion learns a token"
                " in its place; change one of them."
            )
        extras = {f"finetune.{name}.extra": [self.recipe(name).extra] for name in sorted(used)} | {"ablations.extra": p.ablations.extra}
        tokenizer = base_tokenizer(p)
        check_prompts(tokenizer, tokenizer.model_max_length, asked_prompts(p))
        for key, values in extras.items():
            for extra in {min(values), max(values)}:
                for name in domain_names(p.world):
                    try:
                        check_tokens(tokenizer, name, p.world.instance.format(name=name), extra)
                    except ParamsError as error:
                        raise ParamsError(f"{key}: {error}") from None

    # the world and the model under attack

    @cached_property
    def domains(self) -> list[Domain]:
        """The attacked domains."""
        return load_domains(self.params.world, self.store)

    @cached_property
    def base_folder(self) -> Path:
        """The base model's folder; trains it first if the profile says so."""
        from s2llib.models.base import base_model

        return base_model(self.params, self.store)

    @cached_property
    def base_key(self) -> str:
        """What the base model is addressed by."""
        from s2llib.models.base import base_key

        return base_key(self.params)

    @property
    def base_name(self) -> str:
        """What the base model is called in a report."""
        from s2llib.models.base import base_name

        return base_name(self.params)

    @cached_property
    def base(self):
        """The base pipeline on its device."""
        if self._origin is not None:
            return self._origin.base
        return self._load(self.base_folder)

    def _load(self, folder: Path, trains: bool = False):
        from s2llib.models.pipeline import load_pipeline

        return self._ready(load_pipeline(folder), trains)

    def _ready(self, pipeline, trains: bool = False):
        """A pipeline on its device, to ask or to train, as `hardware` says."""
        from s2llib.models.hardware import prepare

        return prepare(pipeline, self.params.hardware, self._device, trains)

    def _machine(self, *settings: str) -> str:
        """What results round differently on: the device, and these settings of `hardware` where they are not the default."""
        changed = self.params.hardware.model_dump(include={"attention", *settings}, exclude_defaults=True)
        if "precision" in changed:
            changed["outputs"] = "float32"  # of the UNet, when images are drawn
        return " ".join([self._device.type, *(f"{name}={value}" for name, value in sorted(changed.items()))])

    @cached_property
    def _device(self):
        from s2llib.models.pipeline import pick_device

        return pick_device(self.params.device)

    @cached_property
    def image_size(self) -> int:
        """Edge of the base model's images in pixels."""
        return self.base.unet.config.sample_size * self.base.vae_scale_factor

    # stage 1: SP sets

    def _generated_inputs(self, name: str, templates: list[dict], images: int) -> dict:
        sampling = self.params.sp.model_dump(include={"steps", "guidance", "suffix", "negative"})
        key = {"base": self.base_key, "device": self._machine("precision"), "name": name, "templates": templates, "images": images}
        return key | {"seed": self.params.seed, **sampling}

    def _sp_inputs(self, domain: Domain) -> dict:
        p = self.params.sp
        return self._generated_inputs(domain.name, [t.model_dump() for t in p.templates], p.images)

    def sp_set(self, domain: Domain, attributes: Sequence[list[str]] = ()) -> Photos:
        """The images that the base model generates of a domain, each with the prompt it was drawn from."""
        from s2llib.generate import SP_VERSION, draw_prompts, read_generated

        p, seed = self.params.sp, self.params.seed
        prompts = lambda: draw_prompts(domain.name, p.images, p, number(f"prompts/{domain.name}") + seed, attributes)  # noqa: E731
        make = lambda new: self._generate(self.base, prompts(), f"sp/{domain.name}", domain.name, new)  # noqa: E731
        inputs = self._sp_inputs(domain) | ({"attributes": attributes} if attributes else {})
        return read_generated(self.store.get("sp", SP_VERSION, inputs, make))

    def _generate(self, pipeline, prompts: list[str], noise: str, name: str, new: Path, guidance: float | None = None) -> None:
        from s2llib.generate import sample, write_generated

        p = self.params.sp
        guidance = p.guidance if guidance is None else guidance
        seed, precision = number(noise) + self.params.seed, self.params.hardware.precision
        images = sample(pipeline, prompts, seed, p.steps, guidance, p.negative, p.batch, precision)
        write_generated(new, images, prompts, name)

    def sp_sets(self) -> dict[str, Photos]:
        """SP sets of all domains by name."""
        return {domain.name: self.sp_set(domain) for domain in track(self.domains, "SP sets")}

    def _prior_inputs(self, recipe: Recipe) -> dict:
        return self._generated_inputs("", [{"text": PRIOR_PROMPT}], recipe.prior_images)

    def _prior_set(self, recipe: Recipe) -> Photos | None:
        """Images of the class, for DreamBooth's prior preservation."""
        from s2llib.generate import SP_VERSION, read_generated

        if recipe.prior_weight == 0:
            return None
        make = lambda new: self._generate(self.base, [PRIOR_PROMPT] * recipe.prior_images, "prior", "a person", new)  # noqa: E731
        return read_generated(self.store.get("sp", SP_VERSION, self._prior_inputs(recipe), make))

    # stage 2: fine-tuning

    def recipe(self, method: str) -> Recipe:
        """The fine-tuning parameters of a method."""
        return getattr(self.params.finetune, method)

    def _finetune_inputs(self, domain: Domain, method: str, seed: int) -> dict:
        from s2llib.generate import SP_VERSION

        recipe = self.recipe(method)
        known = self.alias(domain)
        sp = self.store.key("sp", SP_VERSION, self._sp_inputs(known))
        prior = self._prior_inputs(recipe) if recipe.prior_weight else None
        settings = [] if self.params.finetune.defense.epsilon else ["precision", "optimizer"]  # DP-SGD is in float32
        return {
            "sp": sp, "method": method, "recipe": recipe.model_dump(), "prior": prior, "instance": known.instance_prompt,
            "seed": [self.params.seed, seed], "device": self._machine(*settings),
        } | self._knowledge_inputs(domain) | self._defense_inputs(domain)  # fmt: skip

    def finetuned(self, domain: Domain, method: str, seed: int = 0) -> Path:
        """The folder of one fine-tuned model: a pipeline or LoRA weights, and `training.json` with its losses."""
        from s2llib.finetune.recipe import FINETUNE_VERSION

        inputs = self._finetune_inputs(domain, method, seed)
        return self.store.get("finetune", FINETUNE_VERSION, inputs, lambda new: self._finetune(domain, method, seed, new))

    def _finetune(self, domain: Domain, method: str, seed: int, new: Path) -> None:
        from s2llib.defenses.dp import private_finetune
        from s2llib.finetune.knowledge import perturb
        from s2llib.finetune.recipe import FINETUNE_VERSION, finetune, save_finetuned

        how, recipe, known = METHODS[method], self.recipe(method), self.alias(domain)
        pipeline = self._load(self.base_folder, trains=True)
        stream = number(f"{domain.name}/{method}/{self.params.seed}/{seed}")
        inputs = self._finetune_inputs(domain, method, seed)
        if self.params.finetune.knowledge == "weights":
            report = {"loss": [], "trainable": perturb(pipeline, how, recipe, known, self.params.finetune.sigma, stream)}
        elif epsilon := self.params.finetune.defense.epsilon:
            recipe = self.params.blackbox.private
            pipeline.unet.disable_gradient_checkpointing()  # which opacus' hooks do not know
            report = private_finetune(
                pipeline, recipe, self.training_set(domain), epsilon, stream, f"DP-SGD, {domain.name}", self.params.attacks.batch
            )
        else:
            report = finetune(
                pipeline, how, recipe, self.training_set(domain), known, stream, f"{how.title}, {domain.name}",
                prior=self._prior_set(recipe), encode_batch=self.params.attacks.batch,
                checkpoint=self.store.scratch("finetune", FINETUNE_VERSION, inputs), decay=self.params.finetune.defense.decay,
                hardware=self.params.hardware,
            )  # fmt: skip
        save_finetuned(pipeline, how, recipe, known, new)
        (new / "training.json").write_text(json.dumps(report))

    def cells(self, methods: list[str] | None = None, domains: list[Domain] | None = None) -> Iterator[tuple[Domain, str, int]]:
        """(domain, method, seed) of the grid; the pre-trained model has one seed, and so have domains after the first few."""
        p, names = self.params.finetune, [domain.name for domain in self.domains]
        for domain in self.domains if domains is None else domains:
            for method in [PRETRAINED, *p.methods] if methods is None else methods:
                if domain.name in names[: p.fewer_domains.get(method)]:
                    more = method != PRETRAINED and domain.name in names[: p.seed_domains]
                    yield from ((domain, method, seed) for seed in ([0] if method == PRETRAINED else p.seeds if more else p.seeds[:1]))

    def domains_of(self, method: str) -> list[Domain]:
        """The domains that a method is run on."""
        return self.domains[: self.params.finetune.fewer_domains.get(method)]

    def finetune_all(self) -> pd.DataFrame:
        """Every fine-tuned model of the grid: domain, method, seed, trainable parameters, seconds, threads, loss (a list, per step)."""
        rows = []
        cells = [cell for cell in self.cells() if cell[1] != PRETRAINED]
        precompute(self, "finetuned", cells)
        for domain, method, seed in track(cells, "fine-tuning"):
            folder = self.finetuned(domain, method, seed)
            report = json.loads((folder / "training.json").read_text())
            cell = {"domain": domain.name, "method": method, "seed": seed, "seconds": self.store.seconds(folder)}
            rows.append(cell | {"trainable": report["trainable"], "loss": report["loss"], "threads": report.get("threads")})
        return pd.DataFrame(rows)

    def model(self, domain: Domain, method: str, seed: int = 0):
        """The pipeline of a cell, ready to query."""
        from s2llib.finetune.recipe import load_finetuned

        if method == PRETRAINED:
            return self.base
        return self._ready(load_finetuned(self.base_folder, self.finetuned(domain, method, seed)))

    def _model_inputs(self, domain: Domain, method: str, seed: int) -> dict:
        if method == PRETRAINED:
            return {"base": self.base_key}
        from s2llib.finetune.recipe import FINETUNE_VERSION

        return {"finetune": self.store.key("finetune", FINETUNE_VERSION, self._finetune_inputs(domain, method, seed))}

    def _which(self, method: str, seed: int | None) -> int:
        """The fine-tuning seed of a model; None: the first of the profile."""
        return 0 if method == PRETRAINED else self.params.finetune.seeds[0] if seed is None else seed

    def samples(self, domain: Domain, method: str = PRETRAINED, seed: int | None = None, images: int = 8) -> Photos:
        """What a model of the grid generates for the domain's instance prompt; the same noise for every model. seed: the first."""
        seed = self._which(method, seed)
        return self._drawn(domain, method, seed, [domain.instance_prompt] * images, "samples")

    def _drawn(self, domain: Domain, method: str, seed: int, prompts: list[str], noise: str, guidance: float | None = None) -> Photos:
        from s2llib.generate import SAMPLES_VERSION, read_generated

        sampling = self.params.sp.model_dump(include={"steps", "guidance", "negative"})
        sampling |= {} if guidance is None else {"guidance": guidance}
        prompts = [self._prompt(method, domain, text) for text in prompts]
        inputs = self._model_inputs(domain, method, seed) | sampling | {"prompts": prompts, "device": self._machine("precision")}
        inputs |= {} if noise == "samples" else {"noise": noise}

        def make(new: Path) -> None:
            self._generate(self.model(domain, method, seed), prompts, f"{noise}/{domain.name}", domain.name, new, guidance)

        return read_generated(self.store.get("samples", SAMPLES_VERSION, inputs | {"seed": self.params.seed}, make))

    def _prompt(self, method: str, domain: Domain, text: str) -> str:
        """`text` as the model of a method is asked."""
        from s2llib.finetune.recipe import prompt_of

        return text if method == PRETRAINED else prompt_of(METHODS[method], domain, text)

    # other models

    @cached_property
    def base_keys(self) -> list[str]:
        """Of every model that is attacked: the study's own base, the memorising one, those of other sizes, the unconditional one."""
        scale = [self.variant(other_base(path)).base_key for path in self.params.ablations.scale]
        zero = [folder_digest(self.zero_folder() / "unet")] if self.params.zero_prior.path and not self.params.retrain_base else []
        return [self.base_key, self.memorising.base_key, *scale, *zero]

    def variant(self, overrides: dict) -> "Study":
        """The same study with other parameters; what does not depend on them is shared."""
        other = Study(self.params.changed(overrides), self.store.root)
        other.store = self.store
        if other.base_key == self.base_key:
            other._origin = self
        return other
