"""Stage 7 of a study: the defence of MixSyn, its tables, its baselines, and the attacker who knows it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from s2llib.data.domain import Domain, Photos
from s2llib.finetune.methods import PRETRAINED, method
from s2llib.params import ParamsError, resolved
from s2llib.progress import track
from s2llib.scale import precompute
from s2llib.stages.priors import BASE_WEIGHTS
from s2llib.stages.quality import QualityStage
from s2llib.store import number

__all__ = ["ADVERSARIAL", "AGAIN", "CLEAN", "GAUSSIAN", "MixSynStage", "Row"]

PERTURBED_VERSION = 1
MIXED_VERSION = 1

CLEAN, ADVERSARIAL, GAUSSIAN = "clean SP set", "adversarial", "gaussian"
AGAIN = ", then S2L"


@dataclass(frozen=True)
class Row:
    """A row of a table: a model for every domain. overrides: what its study has otherwise; method: how it is fine-tuned."""

    title: str
    method: str
    overrides: dict = field(default_factory=dict)
    mixing: str = ""
    ratio: float | None = None


def _adversarial(overrides: dict) -> dict:
    return {"finetune.defense": overrides["finetune.defense"] | {"images": ADVERSARIAL}}


def _levels(photos: Photos, size: int) -> Tensor:
    """8-bit pixels [n, 3, size, size] of image files."""
    return torch.cat([(x * 255).round().byte() for x in photos.batches(size, 64)])


class MixSynStage(QualityStage):
    """What `Study` knows about fine-tuning on a mix of clean and perturbed SP images."""

    def check_mixsyn(self) -> None:
        """Refuse what cannot run: raises ParamsError."""
        from s2llib.defenses.dp import check_epsilons

        p, tuning = self.params.mixsyn, self.params.finetune
        for key, names in (("methods", p.methods), ("parts", p.parts), ("judged_method", [p.judged_method])):
            for name in names:
                method(name, f"mixsyn.{key}")
        if p.judged_method not in BASE_WEIGHTS:
            raise ParamsError(
                f"mixsyn.judged_method is '{p.judged_method}'; it must be one of {', '.join(BASE_WEIGHTS)}, whose model is a base again."
            )
        if missing := [name for name in p.attacks if name not in self.params.attacks.names]:
            raise ParamsError(f"mixsyn.attacks names '{missing[0]}', which attacks.names lacks; add it there, or leave it out here.")
        if tuning.defense.images != "clean" and tuning.knowledge != "name":
            raise ParamsError(
                f"finetune.defense.images is '{tuning.defense.images}' but finetune.knowledge is '{tuning.knowledge}': only SP images of"
                " the name are perturbed; set one of them back."
            )
        if tuning.defense.epsilon and tuning.methods != ["lora"]:
            raise ParamsError(
                f"finetune.defense.epsilon is {tuning.defense.epsilon:g} and finetune.methods is {', '.join(tuning.methods)}: only a LoRA"
                " is fine-tuned with DP-SGD; set finetune.methods to [lora], or epsilon to null."
            )
        if tuning.defense.epsilon:
            check_epsilons(
                [tuning.defense.epsilon], self.params.blackbox.private, self.params.sp.images,
                "finetune.defense.epsilon, with the recipe of blackbox.private",
            )  # fmt: skip

    def check_defense(self) -> None:
        """Raises ParamsError if no CLIP pair can judge generated images, or a guarantee is out of reach; asked before any compute."""
        from s2llib.defenses.dp import check_epsilons
        from s2llib.metrics.clip import check_clip
        from s2llib.models.pipeline import base_folder

        p = self.params.mixsyn
        self.check_asked([*p.methods, *p.parts])
        hub = p.clip and re.fullmatch(r"([\w.-]+)/[\w.-]+", p.clip)
        if p.clip and not resolved(p.clip).is_dir() and not (hub and not resolved(hub[1]).is_dir()):
            raise ParamsError(f"mixsyn.clip: there is no folder {p.clip}; save a CLIP model there, or name one on the hub.")
        if p.clip:
            check_clip(self.judge)
        check_epsilons(
            [p.epsilon], self.params.blackbox.private, self.params.sp.images, "mixsyn.epsilon, with the recipe of blackbox.private"
        )
        folder = base_folder(self.params)  # as it is named: a LoRA is not fused for a check
        if not (p.clip or not folder or (folder / "clip").is_dir()):
            raise ParamsError(
                f"mixsyn.clip names no CLIP model and {folder} has none in clip/, which CLIP-R precision needs; set it to one,"
                " such as openai/clip-vit-base-patch32."
            )

    def no_defense(self) -> str:
        """Why the defence cannot be judged here; empty if it can."""
        try:
            self.check_defense()
        except ParamsError as error:
            return str(error)
        return ""

    @property
    def mixsyn_domains(self) -> list[Domain]:
        """The domains of MixSyn's tables."""
        return self.domains[: self.params.mixsyn.domains]

    @property
    def calibration_domains(self) -> list[Domain]:
        """Further domains, which only the adaptive attacker looks at."""
        p = self.params.mixsyn
        return self.domains[p.domains : p.domains + p.calibration]

    # what is fine-tuned on

    @property
    def _mixes(self) -> bool:
        """Whether fine-tuning is on another set than plain S2L's; at ratio 0 it is not."""
        p = self.params.finetune.defense
        return p.images != "clean" and p.ratio > 0

    def training_set(self, domain: Domain) -> Photos:
        """What a model is fine-tuned on: the attacker's images, or a defender's mix of them with perturbed ones."""
        return self.mixed_set(domain) if self._mixes else self.tuning_set(domain)

    def _defense_inputs(self, domain: Domain) -> dict:
        """What a defended model depends on beside what plain S2L's does."""
        from s2llib.defenses.dp import PRIVATE_VERSION

        p = self.params.finetune.defense
        mixed = {"mixed": self.store.key("mixed", MIXED_VERSION, self._mixed_inputs(domain))} if self._mixes else {}
        private = {
            "epsilon": p.epsilon,
            "private": [PRIVATE_VERSION, self.params.blackbox.private.model_dump(exclude={"epsilons", "looks"})],
        }
        return mixed | ({"decay": p.decay} if p.decay else {}) | (private if p.epsilon else {})

    def _mixed_inputs(self, domain: Domain) -> dict:
        p = self.params.finetune.defense
        how = {} if p.ratio == 1 else {"mixing": p.mixing} | ({"contiguous": p.contiguous} if p.mixing == "pixels" else {})
        return {"perturbed": self._perturbed_key(domain, p.images), "ratio": p.ratio, "seed": self.params.seed} | how

    def mixed_set(self, domain: Domain) -> Photos:
        """The SP set, mixed with its perturbed twin as finetune.defense says."""
        from s2llib.generate import read_generated

        make = lambda new: self._mix(domain, new)  # noqa: E731
        return read_generated(self.store.get("mixed", MIXED_VERSION, self._mixed_inputs(domain), make))

    def _mix(self, domain: Domain, new: Path) -> None:
        from s2llib.defenses.mixsyn import mix

        p, sets = self.params.finetune.defense, (self.sp_set(domain), self.perturbed_set(domain, self.params.finetune.defense.images))
        clean, perturbed = (_levels(photos, self.image_size) for photos in sets)
        stream = number(f"mix/{domain.name}") + self.params.seed
        self._write(new, mix(clean, perturbed, p.mixing, p.ratio, p.contiguous, stream), domain)

    def _write(self, new: Path, images: Tensor, domain: Domain) -> None:
        from s2llib.generate import write_generated

        write_generated(new, images.permute(0, 2, 3, 1).numpy(), list(self.sp_set(domain).captions), domain.name)

    def _perturbed_inputs(self, domain: Domain, images: str) -> dict:
        from s2llib.generate import SP_VERSION

        p = self.params.mixsyn.perturbation
        if images == GAUSSIAN:
            return {"noise": GAUSSIAN, "like": self._perturbed_key(domain, ADVERSARIAL), "seed": self.params.seed}
        prior = p.surrogate.prior_weight and p.algorithm == "aspl"
        return {
            "sp": self.store.key("sp", SP_VERSION, self._sp_inputs(domain)), "base": self.base_key, "instance": domain.instance_prompt,
            "perturbation": p.model_dump(exclude={"group"} | ({"surrogate"} if p.algorithm == "fsmg" else set())),
            "prior": self._prior_inputs(p.surrogate) if prior else None, "seed": self.params.seed,
            "device": self._machine("precision", "optimizer"),
        }  # fmt: skip

    def _perturbed_key(self, domain: Domain, images: str) -> str:
        return self.store.key("perturbed", PERTURBED_VERSION, self._perturbed_inputs(domain, images))

    def perturbed_set(self, domain: Domain, images: str = ADVERSARIAL) -> Photos:
        """The SP set with every image perturbed: adversarially, or (`gaussian`) by Gaussian noise of the same size."""
        from s2llib.generate import read_generated

        make = lambda new: (self._noise if images == GAUSSIAN else self._perturb)(domain, new)  # noqa: E731
        return read_generated(self.store.get("perturbed", PERTURBED_VERSION, self._perturbed_inputs(domain, images), make))

    def _noise(self, domain: Domain, new: Path) -> None:
        from s2llib.defenses.perturbation import gaussian

        clean, perturbed = (_levels(photos, self.image_size) for photos in (self.sp_set(domain), self.perturbed_set(domain)))
        self._write(new, gaussian(clean, perturbed, number(f"gaussian/{domain.name}") + self.params.seed), domain)

    def _perturb(self, domain: Domain, new: Path) -> None:
        from s2llib.defenses.perturbation import aspl, fsmg
        from s2llib.defenses.surrogate import Surrogate

        p, stream = self.params.mixsyn.perturbation, number(f"perturbation/{domain.name}") + self.params.seed
        prior = self._prior_set(p.surrogate) if p.algorithm == "aspl" else None
        pipeline, hardware = self._load(self.base_folder, trains=True), self.params.hardware
        surrogate = Surrogate(pipeline, p.surrogate, domain, stream, prior, self.params.attacks.batch, hardware)
        settings = p.model_dump(include={"rounds", "steps", "radius", "norm", "step", "draws", "group"}) | {"seed": stream}
        images = _levels(self.sp_set(domain), self.image_size)
        if p.algorithm == "fsmg":
            perturbed = fsmg(surrogate, images, **settings)
        else:
            steps = p.surrogate.model_dump(include={"clean_steps", "perturbed_steps"})
            perturbed = aspl(surrogate, images, **settings, **steps)
        if p.rounds and perturbed.equal(images):
            raise ParamsError(
                f"mixsyn.perturbation: a radius of {p.radius:g} ({p.norm}) is less than one grey level in every pixel, so that nothing is"
                " left of the perturbation in 8 bits; raise it."
            )
        self._write(new, perturbed, domain)

    # the rows of the tables

    def _row(self, title: str, method: str, images: str, mixing: str, ratio: float) -> Row:
        """Ratio 0 is plain S2L, ratio 1 the fully perturbed set however it is mixed: the same cells under every title."""
        contiguous = self.params.mixsyn.contiguous and mixing == "pixels" and ratio < 1
        defense = {"images": images, "mixing": mixing if ratio < 1 else "images", "ratio": ratio, "contiguous": contiguous}
        return Row(title, method, {"finetune.defense": defense} if ratio else {}, mixing, ratio)

    def setting_row(self, name: str, method: str, title: str = "", images: str = ADVERSARIAL) -> Row:
        """A defence of the paper: `full`, `mixup_i` or `mixup_p`."""
        p = self.params.mixsyn
        own, mixing, ratio = {
            "full": ("fully perturbed SP set", "images", 1.0),
            "mixup_i": (f"Mixup-I {p.mixup_i:g}", "images", p.mixup_i),
            "mixup_p": (f"Mixup-P {p.mixup_p:g}", "pixels", p.mixup_p),
        }[name]
        return self._row(title or own, method, images, mixing, ratio)

    def mixsyn_rows(self, table: int) -> list[Row]:
        """The fine-tuned rows of MixSyn's Table 1 to 5, called by their methods."""
        p = self.params.mixsyn
        if table == 1:
            return [Row(name, name) for name in p.methods]
        if table == 5:
            return [self._row(name, name, ADVERSARIAL, "images", p.mixup_parts) for name in p.parts]
        return [self.setting_row({2: "full", 3: "mixup_i", 4: "mixup_p"}[table], name, name) for name in p.methods]

    def mixsyn_titles(self) -> dict[int, str]:
        """{table: what its models were fine-tuned on}."""
        p = self.params.mixsyn
        mixes = [f"Mixup-I ratio {p.mixup_i:g}", f"Mixup-P ratio {p.mixup_p:g}", f"Mixup-I ratio {p.mixup_parts:g}, part fine-tuned"]
        return dict(enumerate([CLEAN, "fully perturbed SP set", *mixes], 1))

    def ratio_rows(self) -> list[Row]:
        """The rows of Figure 4."""
        p, kinds = self.params.mixsyn, {"Mixup-I": "images", "Mixup-P": "pixels"}
        return [
            self._row(f"{name} {ratio:g}", p.judged_method, ADVERSARIAL, mixing, ratio)
            for name, mixing in kinds.items()
            for ratio in p.ratios
        ]

    def baseline_rows(self) -> list[Row]:
        """What the defence is compared with, and the defence. A further baseline is one more row: its title and its overrides."""
        p, name = self.params.mixsyn, self.params.mixsyn.judged_method
        rows = [Row(CLEAN, name)]
        if not self._lacking([domain.name for domain in self.mixsyn_domains], self.params.finetune.public_images):
            rows.append(Row("real public photographs", name, {"finetune.knowledge": "public"}))
        rows += [
            self.setting_row("full", name, "Gaussian noise, all images", GAUSSIAN),
            self.setting_row("mixup_i", name, f"Gaussian noise, Mixup-I {p.mixup_i:g}", GAUSSIAN),
            Row("weight decay towards the base", name, {"finetune.defense.decay": p.decay}),
            Row(f"DP-SGD (LoRA), epsilon {p.epsilon:g}", "lora", {"finetune.defense.epsilon": p.epsilon, "finetune.methods": ["lora"]}),
        ]
        return rows + [self.setting_row(setting, name) for setting in ("full", "mixup_i", "mixup_p")]

    def gaussian_pairs(self) -> list[tuple[str, str]]:
        """(adversarial, Gaussian): titles of baseline rows that differ in nothing but the noise."""
        rows = self.baseline_rows()
        noisy = [row for row in rows if row.title.startswith("Gaussian noise")]
        return [(row.title, other.title) for other in noisy for row in rows if row.overrides == _adversarial(other.overrides)]

    def again_pairs(self) -> list[tuple[str, str]]:
        """(of, against): the defence against the pre-trained model, S2L on top of it against both."""
        titles = [row.title for row in self.judged_rows()[1:]]
        return [pair for title in titles for pair in ((title, PRETRAINED), (title + AGAIN, title), (title + AGAIN, PRETRAINED))]

    def judged_rows(self) -> list[Row]:
        """Plain S2L and the defences that the adaptive attacker and extraction turn to."""
        name = self.params.mixsyn.judged_method
        return [Row(CLEAN, name), *(self.setting_row(setting, name) for setting in self.params.mixsyn.judged)]

    def defended(self, row: Row, attacks: list[str] | None = None) -> "MixSynStage":
        """The study whose fine-tuning is a row's; attacks: those it is scored by, if not all."""
        alike = {"finetune.seeds": [self._seed]} | ({"attacks.names": attacks} if attacks else {})
        return self.variant(row.overrides | alike) if row.overrides else self

    # membership inference and quality

    def mixsyn_scores(self, rows: list[Row]) -> pd.DataFrame:
        """Membership scores of the pre-trained model and of each row, at the calibrated settings.

        Columns as `membership`, method: title.
        """
        attacks, parts = self.params.mixsyn.attacks, [self.scores(domain, PRETRAINED) for domain in self.mixsyn_domains]
        for row in track(rows, "defended models"):
            study, cells = self.defended(row, attacks), [(domain, row.method, self._seed) for domain in self.mixsyn_domains]
            precompute(study, "scores", cells)
            parts += [study.scores(*cell).assign(method=row.title) for cell in track(cells, row.title)]
        found = pd.concat(parts, ignore_index=True)
        return found[found["attack"].isin(attacks)]

    def mixsyn_quality(self, rows: list[Row]) -> pd.DataFrame:
        """Quality of what the pre-trained model and each row generate, a line per image: columns as `quality`, method: title."""
        self.check_defense()
        parts = [self.quality(domain, PRETRAINED) for domain in self.mixsyn_domains]
        for row in track(rows, "quality"):
            study, cells = self.defended(row), [(domain, row.method, self._seed) for domain in self.mixsyn_domains]
            precompute(study, "quality", cells)
            parts += [study.quality(*cell).assign(method=row.title) for cell in track(cells, row.title)]
        return pd.concat(parts, ignore_index=True)

    # the attacker who knows the defence

    def no_adaptive(self) -> str:
        """Why there can be no adaptive attacker here; empty if there can."""
        if self.calibration_domains:
            return ""
        return (
            f"mixsyn.domains is {self.params.mixsyn.domains} and world.domains has {len(self.domains)}: none is left for the adaptive"
            " attacker to choose on; lower mixsyn.domains."
        )

    def mixsyn_adaptive(self) -> pd.DataFrame:
        """iid scores of the pre-trained model and the judged rows at every setting of the sweep; column `calibration`: of further domains.

        Other columns as `membership`, method: title.
        """
        parts = []
        for row in track([Row(PRETRAINED, PRETRAINED), *self.judged_rows()], "adaptive attacker"):
            study, seed = self.defended(row), 0 if row.method == PRETRAINED else self._seed
            for calibration, domains in enumerate((self.mixsyn_domains, self.calibration_domains)):
                cells = [(domain, row.method, seed) for domain in domains]
                precompute(study, "sweep_scores", cells)
                parts += [
                    study.sweep_scores(*cell).assign(method=row.title, calibration=bool(calibration)) for cell in track(cells, row.title)
                ]
        return pd.concat(parts, ignore_index=True)

    def mixsyn_again(self) -> pd.DataFrame:
        """Membership scores before, after each judged row, and after S2L on top of it; columns as `membership`, method: title."""
        rows, parts = self.judged_rows(), []
        for row in track(rows[1:], "S2L on top of the defence"):
            for domain in track(self.mixsyn_domains, row.title):
                again = self._on_top(row, domain).scores(domain, row.method, self._seed)
                parts.append(again.assign(method=row.title + AGAIN))
        found = pd.concat([self.mixsyn_scores(rows), *parts], ignore_index=True)
        return found[found["attack"].isin(self.params.mixsyn.attacks)]

    def _on_top(self, row: Row, domain: Domain) -> "MixSynStage":
        """The study of plain S2L whose base model is a row's defended one."""
        from s2llib.study import other_base

        folder = self.defended(row).finetuned(domain, row.method, self._seed)
        return self.variant(other_base(str(folder)) | {"finetune.seeds": [self._seed], "attacks.names": self.params.mixsyn.attacks})

    def mixsyn_extraction(self) -> pd.DataFrame:
        """Columns as `extraction`; method: title of the judged row."""
        domains = self.domains[: self.params.mixsyn.extraction_domains]
        parts = [self.extraction([PRETRAINED], domains)]
        for row in track(self.judged_rows(), "extraction"):
            study, cells = self.defended(row), [(domain, row.method, self._seed) for domain in domains]
            precompute(study, "extracted", cells)
            parts += [study.extracted(*cell).assign(method=row.title) for cell in track(cells, row.title)]
        return pd.concat(parts, ignore_index=True)
