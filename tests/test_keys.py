"""Keys that cannot be forgotten: all that an artifact reads is in its key, or stands here with the reason why not."""

import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
from pydantic import BaseModel
from transformers import CLIPConfig, CLIPModel, CLIPTextModel

import s2llib.compute  # noqa: F401  fills the registry
from s2llib import artifact, specs
from s2llib.data.domain import Domain, Photos
from s2llib.lab import Lab
from s2llib.params import Section
from s2llib.studies import blackbox, mixsyn, plan, zero_prior

# parameters that are read while artifacts are made and are in no key, and why
EXCEPTIONS = {
    "attacks.batch": "how many images are in memory at a time: rounds as another batch does, which a test of scores bounds",
    "sp.batch": "as attacks.batch; an image depends on its own noise alone",
    "blackbox.batch": "as sp.batch",
    "hardware.": "what rounds otherwise is in the key by `rounds`; offload, checkpointing and workers change no number beyond that",
    "world.": "of photographs, whose content is in the key: which kind of world they are read from, and where they lie",
    "base.auxiliary": "in the key of the encoder, in `world`, by `auxiliary_inputs`",
}


@pytest.fixture(scope="module")
def lab(pipeline_folder, tmp_path_factory):
    few = {"finetune.methods": ["lora"], "base.path": str(pipeline_folder), "extraction.base": None, "zero_prior.epochs": 1}
    few |= {"blackbox.overfitted.steps": 2, "blackbox.tune.steps": 2, "blackbox.selfsupervised.steps": 2}
    return Lab.open("tiny", few, root=tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def examples(lab, tmp_path_factory):
    """One specification of every type."""
    domain, p = lab.domains[0], lab.params
    judge = tmp_path_factory.mktemp("judge")
    shutil.copytree(lab.base.path / "tokenizer", judge / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(lab.base.path / "text_encoder")
    sides = {"text_config": encoder.config.to_dict(), "vision_config": {"hidden_size": 32, "num_attention_heads": 2, "image_size": 64}}
    CLIPModel(CLIPConfig(**sides | {"projection_dim": 16})).save_pretrained(judge / "clip")
    tuned = plan.tuned(lab, domain, "lora")
    target, privately = blackbox.targets(lab)[0], blackbox.private_models(lab)["clipping, no noise"][0].model
    clip = specs.Judge("a judge", judge)
    real = specs.RealFeatures(tuple(lab.domains), clip, 64)
    drawn = plan.samples(lab, domain, tuned, 2)
    changed = zero_prior.variants(lab, 0)
    shaken = [model for model in changed.values() if not isinstance(model, specs.Base)]
    found = [
        tuned, privately, plan.tuned(lab, domain, "dreambooth", knowledge="weights"), *shaken, shaken[-1].images, plan.sp_set(lab, domain),
        plan.tuning_set(lab, domain, "noise"), plan.perturbed_set(lab, domain), plan.perturbed_set(lab, domain, "gaussian"),
        plan.fine_tuning_set(lab, domain, "name", mixsyn.setting_row(lab, "mixup_p", "lora").defense), plan.scoring(lab, domain, tuned),
        specs.Blind(tuple(lab.domains), 64, 2, True, 0), plan.search(lab, domain, tuned), plan.crowd(lab, domain),
        specs.OtherWays(plan.generations(lab, domain, tuned), domain, 64, 1, 0.1, 2, 2, 2, None), real,
        specs.Judged(drawn, domain.name, ("a", "b"), "a", real, False), blackbox.asked(lab, tuned, ["a photo"], 1)[0],
        specs.Captions(target.members, 64, clip, ("a", "b")), specs.Learnt(tuned, *target.sides, plan.attack_settings(lab)["loss"][0]),
        specs.Captioner("a captioner", target.members, 2, 1e-4, 64, 0, Path("nowhere")),
        specs.Noted(tuned), specs.Retrieved(drawn, clip, ("a", "b"), (0, 1), 64), *blackbox.seen(lab, target)[:1],
        blackbox.inference(lab, target), specs.Soundness(lab.base, target.members[:2], "a photo", "base.path"),
        specs.SelfSupervised(target.members, {}, p.blackbox.selfsupervised, 64, 0), zero_prior.unconditional_model(lab),
    ]  # fmt: skip
    return {type(spec): spec for spec in found}


def other(value):
    """A value of the same kind that stands for something else."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, Path):
        return value / "another"
    if isinstance(value, str):
        return f"another {value}"
    if isinstance(value, Domain):
        return replace(value, digest="other photographs")
    if isinstance(value, Photos):
        return replace(value, captions=tuple(f"another {text}" for text in value.captions))
    if isinstance(value, Section):
        name = next(name for name, each in value if isinstance(each, (int, float)) and not isinstance(each, bool))
        return value.model_copy(update={name: getattr(value, name) + 1})
    if is_dataclass(value):
        name = next(each.name for each in fields(value) if each.compare)
        return replace(value, **{name: other(getattr(value, name))})
    if isinstance(value, tuple):
        return (*value[:-1], other(value[-1])) if value else ("another",)
    if isinstance(value, dict):
        return {**value, "another": "entry"}
    if isinstance(value, list):
        return [*value[:-1], other(value[-1])]
    if value is None:
        return "another"
    raise TypeError(value)


def unnoticed(lab, spec) -> list[str]:
    """The fields of a specification that change nothing in its key."""
    same = artifact.key(lab, spec)
    return [each.name for each in fields(spec) if artifact.key(lab, replace(spec, **{each.name: other(getattr(spec, each.name))})) == same]


TYPES = sorted(artifact.REGISTRY, key=lambda kind: kind.__name__)
CONVENIENCES = {"Captioner": ["at"], "Soundness": ["where"]}  # where a file lies whose content is in the key, how a sentence begins


def test_every_type_has_an_example(examples):
    assert set(examples) - {specs.Base} == set(TYPES)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_field_of_a_specification_is_in_its_key(kind, lab, examples):
    assert unnoticed(lab, examples[kind]) == CONVENIENCES.get(kind.__name__, [])


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_a_field_that_is_taken_out_of_the_key_by_hand_is_noticed(kind, lab, examples, monkeypatch):
    whole = artifact._fields
    for each in fields(kind):
        if each.name not in CONVENIENCES.get(kind.__name__, []):
            cut = lambda lab, value, name=each.name: {k: v for k, v in whole(lab, value).items() if type(value) is not kind or k != name}  # noqa: E731
            monkeypatch.setattr(artifact, "_fields", cut)
            assert each.name in unnoticed(lab, examples[kind])


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_the_name_the_version_and_the_machine_are_in_the_key(kind, lab, examples, monkeypatch):
    spec, a = examples[kind], artifact.REGISTRY[kind]
    before = artifact.key(lab, spec)
    monkeypatch.setitem(artifact.REGISTRY, kind, replace(a, version=a.version + 1))
    newer = artifact.key(lab, spec)
    monkeypatch.setitem(artifact.REGISTRY, kind, replace(a, name=f"{a.name} otherwise"))
    assert len({before, newer, artifact.key(lab, spec)}) == 3
    monkeypatch.setitem(artifact.REGISTRY, kind, a)
    assert artifact.key(lab.at({"hardware.attention": "math"}), spec) != before
    other_precision = artifact.key(lab.at({"hardware.precision": "bfloat16"}), spec)
    assert ("precision" not in a.rounds) or other_precision != before


# what is read while an artifact is made


class Watched:
    """A section of parameters that notes which of its leaves are read."""

    def __init__(self, section: BaseModel, path: str, read: set[str]):
        self.__dict__.update(_section=section, _path=path, _read=read)

    def __getattr__(self, name: str):
        value = getattr(self._section, name)
        if isinstance(value, BaseModel):
            return Watched(value, f"{self._path}{name}.", self._read)
        if callable(value):
            return value
        self._read.add(f"{self._path}{name}")
        return value


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind is not specs.Captioner], ids=lambda kind: kind.__name__)
def test_what_is_read_while_it_is_made_is_in_the_specification(kind, lab, examples, tmp_path, monkeypatch):
    """Beside its specification, an artifact reads no parameter but those of EXCEPTIONS."""
    read: set[str] = set()
    artifact.made(lab, examples[kind])  # what it is made of is there
    monkeypatch.setattr(lab, "params", Watched(lab.params, "", read))
    artifact.REGISTRY[kind].make(lab, examples[kind], tmp_path)
    assert {leaf for leaf in read if not leaf.startswith(tuple(EXCEPTIONS))} == set()
