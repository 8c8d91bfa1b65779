"""MixSyn's tables and figures: membership and quality of defended models, the adaptive attacker's choice, the images themselves."""

import json

import numpy as np
import pandas as pd
from torch import Tensor

from s2llib.attacks import TITLES
from s2llib.compute.images import photos
from s2llib.compute.models import image_size
from s2llib.compute.quality import real_features
from s2llib.data.domain import Domain
from s2llib.finetune.methods import PRETRAINED
from s2llib.lab import Lab
from s2llib.metrics.images import mean_sample
from s2llib.metrics.quality import kid, kid_sample, no_brisque
from s2llib.params import Defense, MixSyn, Statistics
from s2llib.report.estimate import METRICS, Entry, Mean, Measure, estimated, family_note, measures, protocols, share
from s2llib.report.estimate import change as moved
from s2llib.report.membership import INTERVALS, blind_entries, level_and_change, method_title
from s2llib.report.paper import MIXSYN
from s2llib.specs import Images
from s2llib.studies import mixsyn, s2l
from s2llib.studies.mixsyn import GAUSSIAN, Row
from s2llib.studies.plan import fine_tuning_set, perturbed_set, samples, sp_set, tuned
from s2llib.studies.quality import real

__all__ = [
    "CONTRADICTIONS", "adaptive_table", "contrast_table", "figure1", "figure2", "figure3", "measured", "mixsyn_note", "mixsyn_table",
    "printed_adaptive", "printed_contrasts", "printed_mixsyn", "printed_ratios", "ratio_table", "reference_table",
]  # fmt: skip

AUC = METRICS["auc"]
CLIP_R, ACCURACY, BRISQUE, KID = "CLIP-R (%)", "domain accuracy (%)", "BRISQUE", "KID"
IN_THE_PAPER = (CLIP_R, BRISQUE)
ALIKE, UNAWARE = "models like it", "pre-trained models"  # what the adaptive attacker chose on
GENERATED = "generated"  # images, as of `kid_sample`
Measures = dict[tuple[str, str, str], dict[str, Measure]]  # {(attack, protocol, metric): {method: measure}}

CONTRADICTIONS = (
    "The paper contradicts itself: its Table 5 (ratio 0.3) repeats the rows of Table 3 (ratio 0.5) under other names, so it is no"
    " independent reference; the pre-trained CLIP-R under PIA is 51.9 in Table 1 and 51.6 elsewhere, though quality cannot depend on the"
    " attack; its text has CLIP-R fall from 49.8 where Table 1 has 51.8; the AUCs of Table 2 are below 0.5, which is leakage with the"
    " other sign; it prints BRISQUE with an upward arrow, though lower is better."
)


def mixsyn_note(lab: Lab, table: pd.DataFrame) -> str:
    """What stands under a table."""
    p, why, n = lab.params.mixsyn, no_brisque(), len(mixsyn.mixsyn_domains(lab))
    judge = f"`{p.clip}`" if p.clip else "the base model's own CLIP pair (the paper's: CLIP ViT-B/32)"
    text = (
        f"{n} domain{'' if n == 1 else 's'}, one fine-tuning seed. {INTERVALS} {family_note(table)} The CSV also has the change against"
        " plain S2L by the same method (`delta_s2l`), with p adjusted among those. blind: a classifier on image features that never"
        " queries the model; where it is far from 0.5, an attack may be reading the style and not the membership. An AUC below 0.5 is"
        f" leakage too, with the other sign. Quality is that of {p.quality_images} generated images a model, with the same noise for every"
        " model, and does not depend on the attack or protocol: the rows of"
        f" {' and '.join(TITLES[attack] for attack in p.attacks)} show the same value. CLIP-R: share of images whose true prompt is the"
        f" most similar of all people's, by chance {100 / len(lab.names):.3g}; the judge is {judge}. Domain accuracy: share of images"
        " nearest to the true person's real photographs. KID: unbiased squared MMD of CLIP features against real photographs, lower is"
        " better. BRISQUE: lower is better; made for photographs of several hundred pixels, unreliable at"
        f" {image_size(lab, lab.base)}. Where all images agree the interval holds what that leaves possible (rule of three)."
    )
    if n == 1:
        text += " One domain: what is said holds for this person only."
    text += f" BRISQUE is empty: {why}." if why else ""
    return f"{text} {CONTRADICTIONS}" if table["paper"].notna().any() else text


# what is measured of each model


def _membership(scores: pd.DataFrame, metrics: tuple[str, ...] = ("auc", "tpr")) -> Measures:
    """AUC and TPR@1%FPR of every method by attack and protocol."""
    found: Measures = {}
    for attack, part in scores.groupby("attack", sort=False):
        for protocol, split in protocols(part).items():
            for method, each in measures(part, split, metrics=metrics).items():
                for metric, measure in each.items():
                    found.setdefault((attack, protocol, metric), {})[method] = measure
    return found


def _quality(quality: pd.DataFrame, real: dict[str, Tensor]) -> Measures:
    """Of every method, whatever the attack; BRISQUE is NaN where it was not measured. real: {domain: CLIP features}."""
    found: Measures = {("", "", metric): {} for metric in (CLIP_R, BRISQUE, ACCURACY, KID)}
    for method, part in quality.groupby("method", sort=False):
        each = dict(list(part.groupby("domain", sort=False)))
        column = lambda name, each=each: {domain: some[name].to_numpy(float) for domain, some in each.items()}  # noqa: E731
        for metric, name in ((CLIP_R, "retrieved"), (ACCURACY, "recognised")):
            found["", "", metric][method] = share({domain: x[None] for domain, x in column(name).items()}, name=GENERATED)
        found["", "", BRISQUE][method] = _brisque(column("brisque"))
        features = {domain: some.filter(regex=r"^f\d+$").to_numpy(float) for domain, some in each.items()}
        found["", "", KID][method] = _kid(features, {domain: real[domain].double().numpy() for domain in each})
    return found


def _brisque(values: dict[str, np.ndarray]) -> Mean:
    return Mean({domain: np.array([x.mean()]) for domain, x in values.items()}, lambda domain: mean_sample(values[domain], GENERATED))


def _kid(features: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> Mean:
    grid = {domain: np.array([kid(x, real[domain])]) for domain, x in features.items()}
    return Mean(grid, lambda domain: kid_sample(features[domain], real[domain]))


def _entries(found: Measures, plain: Measures, twins: dict[str, str]) -> list[Entry]:
    """Changes against the pre-trained model, and (s2l) against plain S2L. twins: {method: its method among the plain}."""
    entries = []
    for (attack, protocol, metric), each in found.items():
        for method, measure in each.items():
            labels = {"method": method, "attack": attack, "protocol": protocol, "metric": metric}
            others = {"s2l": plain[attack, protocol, metric][twins[method]]} if method in twins else {}
            entries.append(Entry(labels, measure, None if method == PRETRAINED else each[PRETRAINED], others=others))
    return entries


# its tables


def measured(lab: Lab, rows: list[Row], table: int = 0) -> pd.DataFrame:
    """One of MixSyn's tables, tidy, of the rows given; 0: one that the paper lacks, or has for another ratio."""
    p, domains, features = lab.params, [domain.name for domain in mixsyn.mixsyn_domains(lab)], real_features(lab, real(lab))
    twins = {row.title: row.method for row in rows if (row.defense or row.knowledge) and row.method in p.mixsyn.methods}
    of = lambda rows: _membership(mixsyn.scores(lab, rows)) | _quality(mixsyn.quality(lab, rows), features)  # noqa: E731
    plain = of([Row(name, name) for name in dict.fromkeys(twins.values())]) if twins else {}
    blind = s2l.blind(lab)
    entries = [*_entries(of(rows), plain, twins), *blind_entries(blind[blind["domain"].isin(domains)])]
    return mixsyn_table(entries, p.statistics, p.mixsyn.attacks, reference_table(p.mixsyn, table))


def mixsyn_table(entries: list[Entry], p: Statistics, attacks: list[str], table: int) -> pd.DataFrame:
    """One of MixSyn's tables, tidy; 0: one that the paper lacks.

    Metrics that the paper prints for each attack stand once for each, with its values: those of membership beside the shifted
    protocols, which is what it measured.
    """
    found = estimated(entries, p)
    printed = (found["attack"] == "") & found["metric"].isin(IN_THE_PAPER)
    every = [found[~printed], *(found[printed].assign(attack=attack) for attack in attacks)]
    rows = pd.concat(every, ignore_index=True)
    paper = [_reference(table, row.method, row.attack, row.metric) if row.protocol != "iid" else None for row in rows.itertuples()]
    rows = rows.assign(paper=pd.Series(paper, dtype=float))
    rows.attrs = found.attrs
    return rows


def reference_table(p: MixSyn, table: int) -> int:
    """The paper's table beside ours; 0 where the profile mixes in another ratio than the paper."""
    same = {3: p.mixup_i == 0.5, 4: p.mixup_p == 0.3, 5: p.mixup_parts == 0.3}
    return table if same.get(table, True) else 0


def _reference(table: int, method: str, attack: str, metric: str) -> float | None:
    return MIXSYN.get((table, method, attack), {}).get(metric)


def _cell(row: pd.Series) -> str:
    if pd.isna(row["value"]):
        text = "not measured"
    else:
        text = level_and_change(row, {CLIP_R: ".1f", ACCURACY: ".1f", BRISQUE: ".1f", KID: ".2f"}.get(row["metric"], ".3f"))
    return text + (f"; paper {row['paper']:g}" if pd.notna(row["paper"]) else "")


def printed_mixsyn(table: pd.DataFrame) -> pd.DataFrame:
    """As the paper prints it, a row per method and attack, in a block per protocol; quality in the first block."""
    cells = table.assign(cell=table.apply(_cell, axis=1), attack=table["attack"].map(lambda name: TITLES.get(name, name)))
    first, attacks = table["protocol"].iloc[0], [name for name in cells["attack"].unique() if name not in ("", "blind")]
    cells["protocol"] = cells["protocol"].where(cells["protocol"] != "", first)
    every = [cells[cells["attack"] == ""].assign(attack=name) for name in attacks]
    shown = pd.concat([cells[cells["attack"] != ""], *every]).assign(method=lambda rows: rows["method"].map(method_title))
    keys = ["protocol", "method", "attack"]
    wide = shown.pivot(index=keys, columns="metric", values="cell").fillna("")
    order = {key: {value: i for i, value in enumerate(dict.fromkeys(shown[key]))} for key in keys}
    wide = wide.sort_index(key=lambda values: values.map(order[values.name]))
    return wide[[*METRICS.values(), CLIP_R, BRISQUE, ACCURACY, KID]].rename_axis(columns=None)


def contrast_table(scores: pd.DataFrame, pairs: list[tuple[str, str]], p: Statistics) -> pd.DataFrame:
    """Tidy: how far the AUC of one model lies above another's, paired by domain."""
    entries = []
    for (attack, protocol, _), each in _membership(scores, ("auc",)).items():
        for of, against in pairs:
            labels = {"of": of, "against": against, "attack": attack, "protocol": protocol, "metric": "AUC difference"}
            entries.append(Entry(labels, moved(each[of], each[against]), null=0.0))
    return estimated(entries, p)


def printed_contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """A row per pair of models, a column per attack and protocol."""
    shown = table.assign(
        pair=[f"{method_title(of)} against {method_title(to)}" for of, to in zip(table["of"], table["against"], strict=True)],
        column=table["attack"].map(TITLES) + ", " + table["protocol"],
        cell=[level_and_change(row, "+.3f") for _, row in table.iterrows()],
    )
    wide = shown.pivot(index="pair", columns="column", values="cell")
    return wide.loc[shown["pair"].unique(), list(shown["column"].unique())].rename_axis(columns=None)


# Figure 4


def ratio_table(scores: pd.DataFrame, rows: list[Row], p: Statistics) -> pd.DataFrame:
    """Tidy AUC against the mixup ratio, for Mixup-I and Mixup-P; the paper's: of Tables 1 to 4."""
    tables = {("images", 0.5): 3, ("pixels", 0.3): 4} | {(mix, ratio): n for mix in ("images", "pixels") for ratio, n in ((0, 1), (1, 2))}
    entries = []
    for (attack, protocol, metric), each in _membership(scores, ("auc",)).items():
        for row in rows:
            mixing, ratio = row.defense.mixing, row.defense.ratio
            labels = {"mixing": "Mixup-I" if mixing == "images" else "Mixup-P", "ratio": ratio, "method": row.method}
            labels |= {"attack": attack, "protocol": protocol, "metric": metric}
            paper = None if protocol == "iid" else _reference(tables.get((mixing, ratio), 0), row.method, attack, metric)
            entries.append(Entry(labels | {"paper": paper}, each[row.title], each[PRETRAINED]))
    return estimated(entries, p).astype({"paper": float})


def printed_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """A row per protocol, attack and strategy, a column per ratio."""
    keys = ["protocol", "attack", "mixing"]
    shown = table.assign(cell=table.apply(_cell, axis=1), attack=table["attack"].map(TITLES))
    return shown.pivot(index=keys, columns="ratio", values="cell").loc[list(dict.fromkeys(zip(*(shown[key] for key in keys), strict=True)))]


# the adaptive attacker


def _choice(calibration: pd.DataFrame) -> tuple[str, str, int, float]:
    """(attack, setting, sign, AUC of its calibration domains) that lies farthest from 0.5 there, with the sign that makes it leak."""
    means = {}
    for (attack, setting), part in calibration.groupby(["attack", "setting"], sort=False):
        (found,) = measures(part, metrics=["auc"]).values()
        means[attack, setting] = float(np.mean(list(found[AUC].by_domain().values())))
    attack, setting = max(means, key=lambda key: abs(means[key] - 0.5))
    sign = 1 if means[attack, setting] >= 0.5 else -1
    return attack, setting, sign, 0.5 + abs(means[attack, setting] - 0.5)


def adaptive_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of an attacker who chooses attack, timestep and sign on other domains (`mixsyn.adaptive`).

    Chosen on models with the same defence, or on pre-trained ones, by somebody who does not know of it. The change is against the
    pre-trained model under the attack that is best there.
    """
    of = lambda method, calibration: scores[(scores["method"] == method) & (scores["calibration"] == calibration)]  # noqa: E731
    choices = {method: _choice(of(method, True)) for method in scores["method"].unique()}

    def chosen(method: str, choice: tuple) -> Measure:
        attack, setting, sign, _ = choice
        part = of(method, False)
        part = part[(part["attack"] == attack) & (part["setting"] == setting)]
        return measures(part.assign(score=sign * part["score"]), metrics=["auc"])[method][AUC]

    base, entries = chosen(PRETRAINED, choices[PRETRAINED]), []
    for method, own in choices.items():
        tested = method != PRETRAINED
        for when, choice in {ALIKE: own, **({UNAWARE: choices[PRETRAINED]} if tested else {})}.items():
            attack, setting, sign, there = choice
            labels = {"chosen on": when, "setting": setting, "sign": sign, "AUC when chosen": there}
            labels |= {"method": method, "attack": attack, "protocol": "iid", "metric": AUC}
            entries.append(Entry(labels, chosen(method, choice), base if tested else None))
    return estimated(entries, p)


def printed_adaptive(table: pd.DataFrame) -> pd.DataFrame:
    """A row per model and attacker: what was chosen, and the AUC on the reported domains."""
    chosen = [
        f"{TITLES[row['attack']]} {', '.join(f'{k} = {v}' for k, v in json.loads(row['setting']).items())}"
        + (", sign turned" if row["sign"] < 0 else "")
        for _, row in table.iterrows()
    ]
    shown = {
        "model": table["method"].map(method_title),
        "chosen on other domains' ...": table["chosen on"],
        "attack, timestep and sign": chosen,
    }
    return pd.DataFrame(shown | {"AUC (iid)": [level_and_change(row) for _, row in table.iterrows()]})


# Figures 1 to 3, of our own images


def _magnified(clean: Tensor, perturbed: Tensor, times: int) -> Tensor:
    """The difference of two sets of images in [0, 1], so many times as strong, around grey."""
    return (0.5 + times * (perturbed - clean)).clamp(0, 1)


def _first(lab: Lab, some: Images, images: int) -> Tensor:
    """Pixels [images, 3, h, w] in [0, 1] of the first of a set."""
    return photos(lab, some)[:images].pixels(image_size(lab, lab.base))


def _defense(lab: Lab, name: str, **more) -> Defense:
    """A defence of the paper."""
    return mixsyn.setting_row(lab, name, lab.params.mixsyn.judged_method).defense.model_copy(update=more)


def _mixed(lab: Lab, domain: Domain, defense: Defense) -> Images:
    return fine_tuning_set(lab, domain, lab.params.finetune.knowledge, defense)


def figure1(lab: Lab, domain: Domain, images: int = 8) -> dict[str, Tensor]:
    """The pipeline: SP images, perturbed, mixed; what the pre-trained, the plainly and the defended fine-tuned model draw."""
    p, method, defense = lab.params.mixsyn, lab.params.mixsyn.judged_method, _defense(lab, "mixup_p")
    models = {"pre-trained draws": lab.base, "after S2L": tuned(lab, domain, method)}
    models["after MixSyn"] = tuned(lab, domain, method, defense=defense)
    sets = {
        "SP images": sp_set(lab, domain),
        "perturbed": perturbed_set(lab, domain),
        f"mixed (Mixup-P {p.mixup_p:g})": _mixed(lab, domain, defense),
        **{label: samples(lab, domain, model, p.quality_images) for label, model in models.items()},
    }
    return {label: _first(lab, some, images) for label, some in sets.items()}


def figure2(lab: Lab, domain: Domain, images: int = 8, times: int = 8) -> dict[str, Tensor]:
    """SP images, the same perturbed, and the perturbation magnified, beside the Gaussian noise of its size."""
    sets = (sp_set(lab, domain), perturbed_set(lab, domain), perturbed_set(lab, domain, GAUSSIAN))
    clean, adversarial, noisy = (_first(lab, some, images) for some in sets)
    return {
        "SP image": clean,
        "perturbed": adversarial,
        f"perturbation x {times}": _magnified(clean, adversarial, times),
        f"Gaussian noise x {times}": _magnified(clean, noisy, times),
    }


def figure3(lab: Lab, domain: Domain, images: int = 8, times: int = 8) -> dict[str, Tensor]:
    """The mixing strategies: by image, by pixel, and by one part of every image; below each what it perturbs, magnified."""
    p, clean, rows = lab.params.mixsyn, _first(lab, sp_set(lab, domain), images), {}
    defenses = {
        f"Mixup-I {p.mixup_i:g}": _defense(lab, "mixup_i"),
        f"Mixup-P {p.mixup_p:g}": _defense(lab, "mixup_p", contiguous=False),
        f"Mixup-P {p.mixup_p:g}, one part": _defense(lab, "mixup_p", contiguous=True),
    }
    for label, defense in defenses.items():
        mixed = _first(lab, _mixed(lab, domain, defense), images)
        rows |= {label: mixed, f"{label}, x {times}": _magnified(clean, mixed, times)}
    return rows
