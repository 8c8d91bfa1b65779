"""Stage 5 of a study: what the attacker knows beforehand, and fine-tuning on public domains first."""

import json
from pathlib import Path

import pandas as pd

from s2llib.data.domain import PUBLIC, Domain, Photos
from s2llib.data.folders import check_images
from s2llib.data.worlds import data_version, domain_names, known_names, public_photos, read_world
from s2llib.finetune.knowledge import LEVELS, NAMELESS, alias
from s2llib.finetune.methods import METHODS, PRETRAINED, Method
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.scale import precompute
from s2llib.store import file_digest, number

__all__ = ["TRANSFER", "PriorStage"]

KNOWLEDGE_VERSION = 1
PUBLIC_VERSION = 1

# methods that train the model's own weights: noise on weights is for these
BASE_WEIGHTS = [name for name, how in METHODS.items() if set(how.trains) <= {"unet", "text_encoder", "vae_encoder"}]
PLAIN, PUBLIC_ALONE, PUBLIC_FIRST = TRANSFER = ("S2L", "public photographs alone", "public photographs, then S2L")


class PriorStage:
    """What `Study` knows about prior knowledge and domain transfer."""

    def alias(self, domain: Domain) -> Domain:
        """The domain as the attacker calls it (finetune.knowledge); a wrong name is that of somebody the model was trained on."""
        trained = known_names(self.params.world)[: self.params.base.unet.people]
        return alias(domain, self.params.finetune.knowledge, trained)

    def _knowledge_inputs(self, domain: Domain) -> dict:
        """What a fine-tuned model depends on beside its recipe and the SP set of the name that the attacker uses."""
        p = self.params.finetune
        if p.knowledge == "name":
            return {}
        more = {"weights": {"sigma"}, "attributes": {"attributes"}, "public": {"public_images"}}.get(p.knowledge, set())
        own = {"version": KNOWLEDGE_VERSION, "knowledge": p.knowledge, "domain": domain.name, "digest": domain.digest}
        return own | p.model_dump(include=more)

    def tuning_set(self, domain: Domain) -> Photos:
        """What the attacker fine-tunes on (finetune.knowledge), each image with its prompt."""
        p, known = self.params.finetune, self.alias(domain)
        if p.knowledge == "noise":
            return self._noise_set(known)
        if p.knowledge == "public":
            photos = public_photos(self.params.world, domain.name, p.public_images, self.store)
            return Photos(photos.paths, (known.instance_prompt,) * len(photos), photos.copies)
        return self.sp_set(known, p.attributes if p.knowledge == "attributes" else ())

    def _noise_set(self, known: Domain) -> Photos:
        from s2llib.finetune.knowledge import noise_images
        from s2llib.generate import read_generated, write_generated

        count, seed = self.params.sp.images, self.params.seed
        inputs = {"images": count, "size": self.image_size, "prompt": known.instance_prompt, "seed": seed}

        def make(new: Path) -> None:
            images = noise_images(count, self.image_size, number("noise images") + seed)
            write_generated(new, images, [known.instance_prompt] * count, known.name)

        return read_generated(self.store.get("noise", KNOWLEDGE_VERSION, inputs, make))

    def check_priors(self) -> None:
        """Refuse what cannot run: raises ParamsError."""
        p = self.params
        tokens = [name for name in p.finetune.methods if "tokens" in METHODS[name].trains]
        if p.finetune.knowledge in NAMELESS and tokens:
            raise ParamsError(
                f"finetune.knowledge is '{p.finetune.knowledge}' but {tokens[0]} learns a token in place of the domain's name, which that"
                " attacker does not know; leave it out of finetune.methods."
            )
        if p.finetune.knowledge == "wrong" and self._nobody_else:
            raise ParamsError(
                "finetune.knowledge is 'wrong' but there is one person alone, and no other's name; add people, or set it to name."
            )
        if p.finetune.knowledge == "public" and (lacking := self._lacking(domain_names(p.world), p.finetune.public_images)):
            raise ParamsError(lacking)
        if p.finetune.knowledge == "weights" and (others := set(p.finetune.methods) - set(BASE_WEIGHTS)):
            raise ParamsError(
                f"finetune.knowledge is 'weights' but {min(others)} adds parameters instead of training the model's own; leave in"
                f" finetune.methods only {', '.join(BASE_WEIGHTS)}."
            )
        if p.priors.method not in BASE_WEIGHTS:
            raise ParamsError(f"priors.method is '{p.priors.method}'; it must be one of {', '.join(BASE_WEIGHTS)}.")
        if isinstance(p.priors.public, list):
            self.public_names()
        if p.attacks.names == ["clid"]:
            raise ParamsError("attacks.names holds clid alone, which an unconditional model cannot be asked; add another attack.")
        for key, recipe in (("priors.transfer", p.priors.transfer), ("blackbox.tune", p.blackbox.tune)):
            if recipe.prior_weight:
                raise ParamsError(f"{key}.prior_weight is {recipe.prior_weight:g}, but there are no prior images here; set it to 0.")

    @property
    def _nobody_else(self) -> bool:
        """Whether the model was trained on one person alone, so that no name is another's."""
        return len(known_names(self.params.world)[: self.params.base.unet.people]) < 2

    def public_names(self) -> list[str]:
        """The people whose photographs are public; raises ParamsError if one is unknown or private, or if there are too few."""
        p, known = self.params.priors, known_names(self.params.world)
        private = domain_names(self.params.world)[: p.domains]
        if isinstance(p.public, int):
            others = [name for name in known if name not in private]
            if len(others) < p.public:
                raise ParamsError(
                    f"priors.public is {p.public} but only {len(others)} of the world's {len(known)} people are not private; lower it or"
                    " priors.domains."
                )
            return others[len(others) - p.public :]
        for name in p.public:
            if name not in known:
                raise ParamsError(f"priors.public: unknown domain '{name}'; known: {', '.join(known)}.")
            if name in private:
                raise ParamsError(f"priors.public: '{name}' is also one of the private domains; leave it out, or lower priors.domains.")
        return p.public

    def prior_levels(self) -> list[str]:
        """The levels of prior knowledge that this world has photographs and names for."""
        names = [domain.name for domain in self.prior_domains]
        lacking = {"public": self._lacking(names, self.params.finetune.public_images), "wrong": self._nobody_else}
        return [level for level in self.params.priors.levels if not lacking.get(level)]

    def no_transfer(self) -> str:
        """Why there can be no study of domain transfer in this world; empty if there can."""
        try:
            return self._lacking(self.public_names(), self.params.priors.public_images)
        except ParamsError as error:
            return str(error)

    def _lacking(self, names: list[str], count: int) -> str:
        if self.params.world.kind == "portraits":  # which are drawn as many as are asked for
            return ""
        try:
            for name in names:
                public_photos(self.params.world, name, count, self.store)
        except ParamsError as error:
            return str(error)
        return ""

    def check_public(self) -> None:
        """Raises ParamsError if a public photograph of a folder cannot be read, or is a member or a non-member of another domain."""
        photos = {name: {PUBLIC: splits[PUBLIC]} for name, splits in read_world(self.params.world).items() if PUBLIC in splits}
        check_images(photos)
        attacked = {
            file_digest(path): path for d in self.domains for split, some in d.splits.items() if split != PUBLIC for path in some.paths
        }
        for path in (path for splits in photos.values() for path in splits[PUBLIC].paths):
            if other := attacked.get(file_digest(path)):
                raise ParamsError(f"Prior knowledge: the public photograph {path} is the same image as {other}; remove one of them.")

    @property
    def prior_domains(self) -> list[Domain]:
        """The private domains of these studies."""
        return self.domains[: self.params.priors.domains]

    def _levels(self) -> dict[str, dict]:
        return {LEVELS[level]: {"finetune.knowledge": level, "finetune.seeds": [self._seed]} for level in self.prior_levels()}

    @property
    def _seed(self) -> int:
        """The one fine-tuning seed of these studies."""
        return self.params.finetune.seeds[0]

    def prior_sets(self, domain: Domain) -> dict[str, Photos]:
        """{level: what it fine-tunes on}, for a look; noise on the weights has no images."""
        variants = {title: self.variant(overrides) for title, overrides in self._levels().items()}
        return {title: variant.tuning_set(domain) for title, variant in variants.items() if variant.params.finetune.knowledge != "weights"}

    def prior_knowledge(self) -> pd.DataFrame:
        """iid membership scores before and after fine-tuning with every level of prior knowledge; columns as `ablation`."""
        return self.ablation(self._levels(), self.params.priors.method, self.prior_domains)

    def prior_extraction(self) -> pd.DataFrame:
        """Columns as `extraction`; method: the level of prior knowledge."""
        parts = [self.extraction([PRETRAINED], self.prior_domains)]
        for title, overrides in self._levels().items():
            found = self.variant(overrides).extraction([self.params.priors.method], self.prior_domains)
            parts.append(found.assign(method=title))
        return pd.concat(parts, ignore_index=True)

    # domain transfer

    def public_base(self) -> Path:
        """The base model, its UNet and text encoder fine-tuned on photographs of the public domains, each with its instance prompt."""
        from s2llib.finetune.recipe import FINETUNE_VERSION

        p, names = self.params.priors, self.public_names()
        photos = {name: public_photos(self.params.world, name, p.public_images, self.store) for name in names}
        inputs = {
            "base": self.base_key, "device": self._machine("precision", "optimizer"), "seed": self.params.seed, "names": names,
            "recipe": p.transfer.model_dump(), "images": p.public_images, "world": self.params.world.model_dump(include={"kind", "seed"}),
            "instance": self.params.world.instance, "data": data_version(self.params.world), "finetune": FINETUNE_VERSION,
        }  # fmt: skip
        if self.params.world.kind == "folder":
            inputs["files"] = [file_digest(path) for some in photos.values() for path in some.paths]
        return self.store.get("public_base", PUBLIC_VERSION, inputs, lambda new: self._train_public(photos, inputs, new))

    def _train_public(self, photos: dict[str, Photos], inputs: dict, new: Path) -> None:
        from s2llib.finetune.recipe import finetune

        prompt = self.params.world.instance.format
        parts = [Photos(some.paths, (prompt(name=name),) * len(some), some.copies) for name, some in photos.items()]
        pipeline, public = self._load(self.base_folder, trains=True), Domain("the public domains", {}, "")
        how = Method("public photographs", ("unet", "text_encoder"), instance_prompt=False)
        report = finetune(
            pipeline, how, self.params.priors.transfer, Photos.join(parts), public, number(f"public/{self.params.seed}"),
            "fine-tuning on public photographs", encode_batch=self.params.attacks.batch,
            checkpoint=self.store.scratch("public_base", PUBLIC_VERSION, inputs), hardware=self.params.hardware,
        )  # fmt: skip
        pipeline.save_pretrained(new)
        (new / "training.json").write_text(json.dumps({"public photographs": {"steps": len(report["loss"]), "loss": report["loss"]}}))

    def _transfers(self) -> list[tuple]:
        """(title, study, method, seed) of what is compared with the pre-trained model."""
        from s2llib.study import other_base

        after, method = self.variant(other_base(str(self.public_base()))), self.params.priors.method
        return [(PLAIN, self, method, self._seed), (PUBLIC_ALONE, after, PRETRAINED, 0), (PUBLIC_FIRST, after, method, self._seed)]

    def transfer(self) -> pd.DataFrame:
        """iid membership scores before and after S2L, fine-tuning on public photographs, and both; columns as `ablation`."""
        parts = []
        for title, study, method, seed in self._transfers():
            precompute(study, "iid_scores", [(domain, method, seed) for domain in self.prior_domains])
            for domain in track(self.prior_domains, f"domain transfer, {title}"):
                before, after = self.iid_scores(domain, PRETRAINED), study.iid_scores(domain, method, seed).assign(method=title)
                parts.append(pd.concat([before, after]).assign(value=title, trainable=0))
        return pd.concat(parts, ignore_index=True)

    def transfer_extraction(self) -> pd.DataFrame:
        """Columns as `extraction`; method: what the base model was fine-tuned on."""
        parts = [self.extraction([PRETRAINED], self.prior_domains)]
        for title, study, method, seed in self._transfers():
            precompute(study, "extracted", [(domain, method, seed) for domain in self.prior_domains])
            parts += [study.extracted(domain, method, seed).assign(method=title) for domain in track(self.prior_domains, title)]
        return pd.concat(parts, ignore_index=True)
