"""MixSyn: fine-tuning on a mix of clean and perturbed self-generated images; its tables, its baselines, the attacker who knows it.

found = mixsyn.scores(lab, mixsyn.table_rows(lab, 2))
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from s2llib.attacks import swept
from s2llib.data.domain import Domain
from s2llib.defenses.dp import check_epsilons
from s2llib.finetune.methods import BASE_WEIGHTS, PRETRAINED, method
from s2llib.lab import Lab, refuses
from s2llib.params import Defense, ParamsError
from s2llib.specs import Model
from s2llib.studies.cells import Cell, collected
from s2llib.studies.extraction import searched
from s2llib.studies.plan import attack_settings, check_asked, scoring, search, tuned
from s2llib.studies.priors import lacking
from s2llib.studies.quality import check_judge, judged

__all__ = [
    "ADVERSARIAL", "AGAIN", "CLEAN", "GAUSSIAN", "Row", "adaptive", "again", "again_pairs", "baseline_rows", "calibration_domains",
    "check", "extraction", "gaussian_pairs", "judged_rows", "mixsyn_domains", "no_adaptive", "quality", "ratio_rows", "refusal",
    "row_model", "scores", "setting_row", "table_rows", "titles",
]  # fmt: skip

CLEAN, ADVERSARIAL, GAUSSIAN = "clean SP set", "adversarial", "gaussian"
AGAIN = ", then S2L"


@dataclass(frozen=True)
class Row:
    """A row of a table: a model for every domain. method: how it is fine-tuned; defense, knowledge: None: plain S2L's."""

    title: str
    method: str
    defense: Defense | None = None
    knowledge: str | None = None


@refuses
def check_params(lab: Lab) -> None:
    """Refuse what cannot run: raises ParamsError."""
    p, tuning, defense = lab.params.mixsyn, lab.params.finetune, lab.params.finetune.defense
    for key, names in (("methods", p.methods), ("parts", p.parts), ("judged_method", [p.judged_method])):
        for name in names:
            method(name, f"mixsyn.{key}")
    if p.judged_method not in BASE_WEIGHTS:
        raise ParamsError(
            f"mixsyn.judged_method is '{p.judged_method}'; it must be one of {', '.join(BASE_WEIGHTS)}, whose model is a base again."
        )
    if missing := [name for name in p.attacks if name not in lab.params.attacks.names]:
        raise ParamsError(f"mixsyn.attacks names '{missing[0]}', which attacks.names lacks; add it there, or leave it out here.")
    if defense.images != "clean" and tuning.knowledge != "name":
        raise ParamsError(
            f"finetune.defense.images is '{defense.images}' but finetune.knowledge is '{tuning.knowledge}': only SP images of"
            " the name are perturbed; set one of them back."
        )
    if defense.epsilon and tuning.methods != ["lora"]:
        raise ParamsError(
            f"finetune.defense.epsilon is {defense.epsilon:g} and finetune.methods is {', '.join(tuning.methods)}: only a LoRA"
            " is fine-tuned with DP-SGD; set finetune.methods to [lora], or epsilon to null."
        )
    if defense.epsilon:
        key = "finetune.defense.epsilon, with the recipe of blackbox.private"
        check_epsilons([defense.epsilon], lab.params.blackbox.private, lab.params.sp.images, key)


def check(lab: Lab) -> None:
    """Raises ParamsError if no CLIP pair can judge generated images, or a guarantee is out of reach; asked before any compute."""
    p = lab.params
    check_asked(lab, [*p.mixsyn.methods, *p.mixsyn.parts])
    check_judge(lab)
    check_epsilons([p.mixsyn.epsilon], p.blackbox.private, p.sp.images, "mixsyn.epsilon, with the recipe of blackbox.private")


def refusal(lab: Lab) -> str:
    """Why the defence cannot be judged here; empty if it can."""
    try:
        check(lab)
    except ParamsError as error:
        return str(error)
    return ""


def mixsyn_domains(lab: Lab) -> list[Domain]:
    """The domains of MixSyn's tables."""
    return lab.domains[: lab.params.mixsyn.domains]


def calibration_domains(lab: Lab) -> list[Domain]:
    """Further domains, which only the adaptive attacker looks at."""
    p = lab.params.mixsyn
    return lab.domains[p.domains : p.domains + p.calibration]


# the rows of the tables


def _row(lab: Lab, title: str, method: str, images: str, mixing: str, ratio: float) -> Row:
    """Ratio 0 is plain S2L, ratio 1 the fully perturbed set however it is mixed: the same models under every title."""
    contiguous = lab.params.mixsyn.contiguous and mixing == "pixels"
    return Row(title, method, Defense(images=images, mixing=mixing, ratio=ratio, contiguous=contiguous))


def setting_row(lab: Lab, name: str, method: str, title: str = "", images: str = ADVERSARIAL) -> Row:
    """A defence of the paper: `full`, `mixup_i` or `mixup_p`."""
    p = lab.params.mixsyn
    own, mixing, ratio = {
        "full": ("fully perturbed SP set", "images", 1.0),
        "mixup_i": (f"Mixup-I {p.mixup_i:g}", "images", p.mixup_i),
        "mixup_p": (f"Mixup-P {p.mixup_p:g}", "pixels", p.mixup_p),
    }[name]
    return _row(lab, title or own, method, images, mixing, ratio)


def table_rows(lab: Lab, table: int) -> list[Row]:
    """The fine-tuned rows of MixSyn's Table 1 to 5, called by their methods."""
    p = lab.params.mixsyn
    if table == 1:
        return [Row(name, name) for name in p.methods]
    if table == 5:
        return [_row(lab, name, name, ADVERSARIAL, "images", p.mixup_parts) for name in p.parts]
    return [setting_row(lab, {2: "full", 3: "mixup_i", 4: "mixup_p"}[table], name, name) for name in p.methods]


def titles(lab: Lab) -> dict[int, str]:
    """{table: what its models were fine-tuned on}."""
    p = lab.params.mixsyn
    mixes = [f"Mixup-I ratio {p.mixup_i:g}", f"Mixup-P ratio {p.mixup_p:g}", f"Mixup-I ratio {p.mixup_parts:g}, part fine-tuned"]
    return dict(enumerate([CLEAN, "fully perturbed SP set", *mixes], 1))


def ratio_rows(lab: Lab) -> list[Row]:
    """The rows of Figure 4."""
    p, kinds = lab.params.mixsyn, {"Mixup-I": "images", "Mixup-P": "pixels"}
    return [
        _row(lab, f"{name} {ratio:g}", p.judged_method, ADVERSARIAL, mixing, ratio) for name, mixing in kinds.items() for ratio in p.ratios
    ]


def baseline_rows(lab: Lab) -> list[Row]:
    """What the defence is compared with, and the defence. A further baseline is one more row."""
    p, name = lab.params.mixsyn, lab.params.mixsyn.judged_method
    rows = [Row(CLEAN, name)]
    if not lacking(lab, [domain.name for domain in mixsyn_domains(lab)], lab.params.finetune.public_images):
        rows.append(Row("real public photographs", name, knowledge="public"))
    rows += [
        setting_row(lab, "full", name, "Gaussian noise, all images", GAUSSIAN),
        setting_row(lab, "mixup_i", name, f"Gaussian noise, Mixup-I {p.mixup_i:g}", GAUSSIAN),
        Row("weight decay towards the base", name, Defense(decay=p.decay)),
        Row(f"DP-SGD (LoRA), epsilon {p.epsilon:g}", "lora", Defense(epsilon=p.epsilon)),
    ]
    return rows + [setting_row(lab, setting, name) for setting in ("full", "mixup_i", "mixup_p")]


def gaussian_pairs(lab: Lab) -> list[tuple[str, str]]:
    """(adversarial, Gaussian): titles of baseline rows that differ in nothing but the noise."""
    rows = [row for row in baseline_rows(lab) if row.defense]
    alike = lambda row: row.defense.model_copy(update={"images": ADVERSARIAL})  # noqa: E731
    noisy = [row for row in rows if row.defense.images == GAUSSIAN]
    return [(row.title, other.title) for other in noisy for row in rows if row.defense == alike(other)]


def again_pairs(lab: Lab) -> list[tuple[str, str]]:
    """(of, against): the defence against the pre-trained model, S2L on top of it against both."""
    found = [row.title for row in judged_rows(lab)[1:]]
    return [pair for title in found for pair in ((title, PRETRAINED), (title + AGAIN, title), (title + AGAIN, PRETRAINED))]


def judged_rows(lab: Lab) -> list[Row]:
    """Plain S2L and the defences that the adaptive attacker and extraction turn to."""
    name = lab.params.mixsyn.judged_method
    return [Row(CLEAN, name), *(setting_row(lab, setting, name) for setting in lab.params.mixsyn.judged)]


def row_model(lab: Lab, row: Row, domain: Domain, base: Model | None = None) -> Model:
    """The model of a row and a domain, by the profile's first fine-tuning seed."""
    return tuned(lab, domain, row.method, base=base, knowledge=row.knowledge, defense=row.defense)


# membership inference and quality


def _with_base(rows: list[Row]) -> list[Row]:
    return [Row(PRETRAINED, PRETRAINED), *rows]


def _labels(lab: Lab, row: Row, domain: Domain) -> dict:
    return {"domain": domain.name, "method": row.title, "seed": 0 if row.method == PRETRAINED else lab.params.finetune.seeds[0]}


def score_cells(lab: Lab, rows: list[Row]) -> Iterator[Cell]:
    """The pre-trained model and each row, by the attacks of MixSyn's tables."""
    settings = {name: setting for name, setting in attack_settings(lab).items() if name in lab.params.mixsyn.attacks}
    for row in _with_base(rows):
        for domain in mixsyn_domains(lab):
            yield scoring(lab, domain, row_model(lab, row, domain), settings), _labels(lab, row, domain)


def scores(lab: Lab, rows: list[Row]) -> pd.DataFrame:
    """Membership scores of the pre-trained model and of each row; columns as `s2l.membership`, method: title."""
    return collected(lab, score_cells(lab, rows), "defended models")


def quality_cells(lab: Lab, rows: list[Row]) -> Iterator[Cell]:
    """What the pre-trained model and each row generate, judged."""
    for row in _with_base(rows):
        for domain in mixsyn_domains(lab):
            yield judged(lab, domain, row_model(lab, row, domain)), _labels(lab, row, domain)


def quality(lab: Lab, rows: list[Row]) -> pd.DataFrame:
    """Each image that the pre-trained model and each row generate, judged.

    Columns: domain, method (title), seed, image, retrieved (1: CLIP picks the true prompt among all people's), recognised (1: nearest to
    the true person's real photographs), brisque (empty without its package), f0, f1, ... (CLIP features).
    """
    check(lab)
    return collected(lab, quality_cells(lab, rows), "quality")


# the attacker who knows the defence


def no_adaptive(lab: Lab) -> str:
    """Why there can be no adaptive attacker here; empty if there can."""
    if calibration_domains(lab):
        return ""
    return (
        f"mixsyn.domains is {lab.params.mixsyn.domains} and world.domains has {len(lab.domains)}: none is left for the adaptive"
        " attacker to choose on; lower mixsyn.domains."
    )


def adaptive_cells(lab: Lab) -> Iterator[Cell]:
    """The pre-trained model and the judged rows at every setting of the sweep, on these domains and on further ones."""
    for row in _with_base(judged_rows(lab)):
        for calibration, domains in enumerate((mixsyn_domains(lab), calibration_domains(lab))):
            for domain in domains:
                labels = _labels(lab, row, domain) | {"calibration": bool(calibration)}
                yield scoring(lab, domain, row_model(lab, row, domain), swept(lab.params), shifted=False), labels


def adaptive(lab: Lab) -> pd.DataFrame:
    """iid scores of the pre-trained model and the judged rows at every setting of the sweep; column `calibration`: of further domains.

    Other columns as `s2l.membership`, method: title.
    """
    return collected(lab, adaptive_cells(lab), "adaptive attacker")


def again_cells(lab: Lab) -> Iterator[Cell]:
    """Before, after each judged row, and after plain S2L on top of it."""
    rows = judged_rows(lab)
    yield from score_cells(lab, rows)
    settings = {name: setting for name, setting in attack_settings(lab).items() if name in lab.params.mixsyn.attacks}
    for row in rows[1:]:
        for domain in mixsyn_domains(lab):
            model = tuned(lab, domain, row.method, base=row_model(lab, row, domain))
            yield scoring(lab, domain, model, settings), _labels(lab, row, domain) | {"method": row.title + AGAIN}


def again(lab: Lab) -> pd.DataFrame:
    """Membership scores before, after each judged row, and after S2L on top of it; columns as `s2l.membership`, method: title."""
    return collected(lab, again_cells(lab), "S2L on top of the defence")


def extraction_cells(lab: Lab) -> Iterator[Cell]:
    """The pre-trained model and the judged rows, searched for photographs."""
    for row in _with_base(judged_rows(lab)):
        for domain in lab.domains[: lab.params.mixsyn.extraction_domains]:
            yield search(lab, domain, row_model(lab, row, domain)), _labels(lab, row, domain)


def extraction(lab: Lab) -> pd.DataFrame:
    """Columns as `extraction.extracted`; method: title of the judged row."""
    return searched(lab, extraction_cells(lab))
