"""MixSyn's tables and figures: membership and quality of defended models, the adaptive attacker's choice, the images themselves."""

import json
from itertools import product

import numpy as np
import pandas as pd
from torch import Tensor

from s2llib.attacks import TITLES
from s2llib.data.domain import MEMBER, NONMEMBER, Domain
from s2llib.data.worlds import known_names
from s2llib.metrics.bootstrap import Estimate, HierarchicalBootstrap
from s2llib.metrics.quality import kid_estimate, no_brisque
from s2llib.metrics.roc import auc
from s2llib.params import MixSyn, Statistics
from s2llib.report.membership import METRICS, Paired, blind_rows, collect, estimate_row, level_and_change, method_title, protocols
from s2llib.report.paper import MIXSYN
from s2llib.stages.mixsyn import GAUSSIAN, Row
from s2llib.study import PRETRAINED, Study

__all__ = [
    "CONTRADICTIONS", "adaptive_table", "contrast_rows", "figure1", "figure2", "figure3", "measured", "mixsyn_note", "mixsyn_table",
    "printed_adaptive", "printed_contrasts", "printed_mixsyn", "printed_ratios", "ratio_table", "reference_table",
]  # fmt: skip

CLIP_R, ACCURACY, BRISQUE, KID = "CLIP-R (%)", "domain accuracy (%)", "BRISQUE", "KID"
IN_THE_PAPER = (CLIP_R, BRISQUE)
ALIKE, UNAWARE = "models like it", "pre-trained models"  # what the adaptive attacker chose on
PLAIN = ", plain S2L"  # a row's twin on the clean set: not printed, compared with

CONTRADICTIONS = (
    "The paper contradicts itself: its Table 5 (ratio 0.3) repeats the rows of Table 3 (ratio 0.5) under other names, so it is no"
    " independent reference; the pre-trained CLIP-R under PIA is 51.9 in Table 1 and 51.6 elsewhere, though quality cannot depend on the"
    " attack; its text has CLIP-R fall from 49.8 where Table 1 has 51.8; the AUCs of Table 2 are below 0.5, which is leakage with the"
    " other sign; it prints BRISQUE with an upward arrow, though lower is better."
)


def mixsyn_note(study: Study) -> str:
    """What stands under every table."""
    p, why, people, n = study.params.mixsyn, no_brisque(), known_names(study.params.world), len(study.mixsyn_domains)
    text = (
        f"{n} domain{'' if n == 1 else 's'}, one fine-tuning seed. Value [95 % interval] (paired change against the pre-trained model"
        " [interval]); hierarchical bootstrap over domains, then images. By chance one change in forty falls beyond its interval and one in"
        " forty rises. The CSV also has the change against plain S2L by the same method (`delta_s2l`). blind: a classifier on image"
        " features that never queries the model; where it is far from 0.5, an attack may be reading the style and not the membership. An"
        " AUC below 0.5 is leakage too, with the other sign. TPR@1%FPR is computed on scores pooled over domains where a domain has fewer"
        f" than 100 non-members. Quality is that of {p.quality_images} generated images a model, with the same noise for every model, and"
        " does not depend on the attack or protocol: the rows of"
        f" {' and '.join(TITLES[attack] for attack in p.attacks)} show the same value. CLIP-R: share of images whose true prompt is the"
        f" most similar of all people's, by chance {100 / len(people):.3g}; the judge is {_judge(study)}. Domain accuracy: share of images"
        " nearest to the true person's real photographs. KID: unbiased squared MMD of CLIP features against real photographs, lower is"
        " better. BRISQUE: lower is better; made for photographs of several hundred pixels, unreliable at"
        f" {study.image_size}. Where all images agree an interval has no width: a share of 3 / n of all n could still differ (rule of"
        " three)."
    )
    if n == 1:
        text += " One domain: what is said holds for this person only."
    return text + (f" BRISQUE is empty: {why}." if why else "")


def _judge(study: Study) -> str:
    return f"`{study.params.mixsyn.clip}`" if study.params.mixsyn.clip else "the base model's own CLIP pair (the paper's: CLIP ViT-B/32)"


def measured(study: Study, rows: list[Row], table: int = 0) -> pd.DataFrame:
    """One of MixSyn's tables, tidy, of the rows given; 0: one that the paper lacks, or has for another ratio."""
    every = rows + [Row(row.title + PLAIN, row.method) for row in rows if row.overrides and row.method in study.params.mixsyn.methods]
    scores, quality, blind = study.mixsyn_scores(every), study.mixsyn_quality(every), study.blind()
    blind, p = blind[blind["domain"].isin([domain.name for domain in study.mixsyn_domains])], study.params
    return mixsyn_table(scores, quality, study.real_features(), p.statistics, reference_table(p.mixsyn, table), blind)


def _beside_twin(value: Estimate, twin: Estimate | None, level: float) -> dict:
    """The change against plain S2L by the same method; nothing without such a twin."""
    if twin is None:
        return {}
    low, high = (value - twin).interval(level)
    return {"delta_s2l": (value - twin).value, "delta_s2l_low": low, "delta_s2l_high": high}


def _membership_rows(scores: pd.DataFrame, p: Statistics) -> list[dict]:
    """AUC and TPR@1%FPR of every method, attack and protocol, with changes against the pre-trained model."""
    rows = []
    for attack, part in scores.groupby("attack", sort=False):
        found = collect(part)
        for protocol, split in protocols(part).items():
            paired = Paired(found, split, p)
            for method in [name for name in found if not name.endswith(PLAIN)]:
                domains = paired.domains(method)
                values, base = (paired.estimates(m, domains) for m in (method, PRETRAINED))
                twin = paired.estimates(method + PLAIN, domains) if method + PLAIN in found else {}
                for metric, title in METRICS.items():
                    row = {"method": method, "attack": attack, "protocol": protocol, "metric": title, "domains": len(domains)}
                    row |= estimate_row(values[metric], None if method == PRETRAINED else base[metric], p.level)
                    rows.append(row | _beside_twin(values[metric], twin.get(metric), p.level))
    return rows


def _quality(found: dict[str, pd.DataFrame], real: dict[str, Tensor], p: Statistics) -> dict[str, Estimate]:
    """{metric: estimate} of one method's images by domain; BRISQUE only where there is any."""
    features = [part.filter(regex=r"^f\d+$").to_numpy(np.float64) for part in found.values()]
    theirs = [real[name].double().numpy() for name in found]
    bootstrap = HierarchicalBootstrap([(len(x), len(y)) for x, y in zip(features, theirs, strict=True)], p.bootstrap, seed=0)
    mean = lambda column, scale=1: bootstrap.mean([scale * part[column].to_numpy() for part in found.values()])  # noqa: E731
    estimates = {CLIP_R: mean("retrieved", 100), ACCURACY: mean("recognised", 100), KID: kid_estimate(bootstrap, features, theirs)}
    return estimates | ({BRISQUE: mean("brisque")} if all(part["brisque"].notna().all() for part in found.values()) else {})


def _quality_rows(quality: pd.DataFrame, real: dict[str, Tensor], p: Statistics) -> list[dict]:
    parts = {method: dict(list(part.groupby("domain", sort=False))) for method, part in quality.groupby("method", sort=False)}
    estimates = {method: _quality(found, real, p) for method, found in parts.items()}
    rows = []
    shown = {method: mine for method, mine in estimates.items() if not method.endswith(PLAIN)}
    for (method, mine), metric in product(shown.items(), (CLIP_R, BRISQUE, ACCURACY, KID)):
        row = {"method": method, "attack": "", "protocol": "", "metric": metric, "domains": len(parts[method])}
        if metric in mine and metric in estimates[PRETRAINED]:
            row |= estimate_row(mine[metric], None if method == PRETRAINED else estimates[PRETRAINED][metric], p.level)
            row |= _beside_twin(mine[metric], estimates.get(method + PLAIN, {}).get(metric), p.level)
        rows.append(row)
    return rows


def mixsyn_table(
    scores: pd.DataFrame, quality: pd.DataFrame, real: dict[str, Tensor], p: Statistics, table: int, blind: pd.DataFrame
) -> pd.DataFrame:
    """One of MixSyn's tables, tidy; 0: one that the paper lacks. blind: of `Study.blind`, on the same domains.

    Metrics that the paper prints for each attack stand once for each, with its values: those of membership beside the shifted
    protocols, which is what it measured.
    """
    rows, attacks = [], list(scores["attack"].unique())
    for row in _quality_rows(quality, real, p):
        rows += [row | {"attack": attack} for attack in attacks] if row["metric"] in IN_THE_PAPER else [row]
    rows = _membership_rows(scores, p) + blind_rows(blind, p) + rows
    paper = [None if row["protocol"] == "iid" else _reference(table, row["method"], row["attack"], row["metric"]) for row in rows]
    columns = ["method", "attack", "protocol", "metric", "value", "low", "high", "delta", "delta_low", "delta_high"]
    columns += ["delta_s2l", "delta_s2l_low", "delta_s2l_high", "domains"]
    return pd.DataFrame(rows).reindex(columns=columns).assign(seeds=1, paper=pd.Series(paper, dtype=float))


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


def contrast_rows(scores: pd.DataFrame, pairs: list[tuple[str, str]], p: Statistics) -> pd.DataFrame:
    """Tidy: how far the AUC of one model lies above another's, on the same domains, images and resamples."""
    rows = []
    for attack, part in scores.groupby("attack", sort=False):
        found = collect(part)
        for protocol, split in protocols(part).items():
            paired = Paired(found, split, p)
            for of, against in pairs:
                domains = paired.domains(of)
                first, second = (paired.estimates(method, domains, ("auc",))["auc"] for method in (of, against))
                row = {"of": of, "against": against, "attack": attack, "protocol": protocol, "metric": "AUC difference"}
                rows.append(row | estimate_row(first - second, None, p.level) | {"domains": len(domains), "seeds": 1})
    return pd.DataFrame(rows)


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
    where = {row.title: row for row in rows}
    table = pd.DataFrame(_membership_rows(scores, p))
    mine = table[(table["metric"] == METRICS["auc"]) & (table["method"] != PRETRAINED)]
    found = [where[title] for title in mine["method"]]
    tables = {("images", 0.5): 3, ("pixels", 0.3): 4} | {
        (mixing, ratio): n for mixing in ("images", "pixels") for ratio, n in ((0, 1), (1, 2))
    }
    paper = [
        None if protocol == "iid" else _reference(tables.get((row.mixing, row.ratio), 0), row.method, attack, "AUC")
        for row, attack, protocol in zip(found, mine["attack"], mine["protocol"], strict=True)
    ]
    first = {"mixing": ["Mixup-I" if row.mixing == "images" else "Mixup-P" for row in found], "ratio": [row.ratio for row in found]}
    rest = mine.assign(method=[row.method for row in found], seeds=1, paper=pd.Series(paper, mine.index, dtype=float))
    return pd.concat([pd.DataFrame(first, index=mine.index), rest], axis=1).reset_index(drop=True)


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
        (sides,) = collect(part).values()
        means[attack, setting] = np.mean([auc(sides[MEMBER][name][0], sides[NONMEMBER][name][0]) for name in sides[MEMBER]])
    attack, setting = max(means, key=lambda key: abs(means[key] - 0.5))
    sign = 1 if means[attack, setting] >= 0.5 else -1
    return attack, setting, sign, float(0.5 + abs(means[attack, setting] - 0.5))


def adaptive_table(scores: pd.DataFrame, p: Statistics) -> pd.DataFrame:
    """Tidy iid AUC of an attacker who chooses attack, timestep and sign on other domains (`Study.mixsyn_adaptive`).

    Chosen on models with the same defence, or on pre-trained ones, by somebody who does not know of it. The change is against the
    pre-trained model under the attack that is best there.
    """
    of = lambda method, calibration: scores[(scores["method"] == method) & (scores["calibration"] == calibration)]  # noqa: E731
    choices = {method: _choice(of(method, True)) for method in scores["method"].unique()}

    def chosen(method: str, choice: tuple) -> pd.DataFrame:
        attack, setting, sign, _ = choice
        part = of(method, False)
        part = part[(part["attack"] == attack) & (part["setting"] == setting)]
        return part.assign(score=sign * part["score"])

    base, rows = chosen(PRETRAINED, choices[PRETRAINED]), []
    for method in choices:
        for when, choice in ((ALIKE, choices[method]), (UNAWARE, choices[PRETRAINED])):
            pair = pd.concat([base, chosen(method, choice).assign(method="defended")])
            paired = Paired(collect(pair), NONMEMBER, p)
            domains = paired.domains("defended")
            value, before = (paired.estimates(m, domains, ("auc",))["auc"] for m in ("defended", PRETRAINED))
            attack, setting, sign, there = choice
            row = {"chosen on": when, "setting": setting, "sign": sign, "AUC when chosen": there}
            row |= {"method": method, "attack": attack, "protocol": "iid", "metric": "AUC"}
            row |= estimate_row(value, None if method == PRETRAINED else before, p.level)
            rows.append(row | {"domains": len(domains), "seeds": 1})
            if method == PRETRAINED:
                break
    return pd.DataFrame(rows)


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


def _setting(study: Study, name: str, **more) -> Study:
    row = study.setting_row(name, study.params.mixsyn.judged_method)
    return study.variant(row.overrides | {f"finetune.defense.{key}": value for key, value in more.items()})


def figure1(study: Study, domain: Domain, images: int = 8) -> dict[str, Tensor]:
    """The pipeline: SP images, perturbed, mixed; what the pre-trained, the plainly and the defended fine-tuned model draw."""
    p, method = study.params.mixsyn, study.params.mixsyn.judged_method
    mixed = _setting(study, "mixup_p")
    photos = {
        "SP images": study.sp_set(domain),
        "perturbed": study.perturbed_set(domain),
        f"mixed (Mixup-P {p.mixup_p:g})": mixed.training_set(domain),
        "pre-trained draws": study.samples(domain, PRETRAINED, images=p.quality_images),
        "after S2L": study.samples(domain, method, study.params.finetune.seeds[0], p.quality_images),
        "after MixSyn": mixed.samples(domain, method, study.params.finetune.seeds[0], p.quality_images),
    }
    return {label: some[:images].pixels(study.image_size) for label, some in photos.items()}


def figure2(study: Study, domain: Domain, images: int = 8, times: int = 8) -> dict[str, Tensor]:
    """SP images, the same perturbed, and the perturbation magnified, beside the Gaussian noise of its size."""
    sets = (study.sp_set(domain), study.perturbed_set(domain), study.perturbed_set(domain, GAUSSIAN))
    clean, adversarial, noisy = (photos[:images].pixels(study.image_size) for photos in sets)
    return {
        "SP image": clean,
        "perturbed": adversarial,
        f"perturbation x {times}": _magnified(clean, adversarial, times),
        f"Gaussian noise x {times}": _magnified(clean, noisy, times),
    }


def figure3(study: Study, domain: Domain, images: int = 8, times: int = 8) -> dict[str, Tensor]:
    """The mixing strategies: by image, by pixel, and by one part of every image; below each what it perturbs, magnified."""
    p, clean, rows = study.params.mixsyn, study.sp_set(domain)[:images].pixels(study.image_size), {}
    sets = {
        f"Mixup-I {p.mixup_i:g}": _setting(study, "mixup_i"),
        f"Mixup-P {p.mixup_p:g}": _setting(study, "mixup_p", contiguous=False),
        f"Mixup-P {p.mixup_p:g}, one part": _setting(study, "mixup_p", contiguous=True),
    }
    for label, variant in sets.items():
        mixed = variant.training_set(domain)[:images].pixels(study.image_size)
        rows |= {label: mixed, f"{label}, x {times}": _magnified(clean, mixed, times)}
    return rows
