"""The prompts that the models of a study are asked with or trained on, by the parameter that says so."""

from collections.abc import Sequence

from s2llib.data.domain import PUBLIC
from s2llib.data.worlds import domain_names, read_world
from s2llib.params import Params

__all__ = ["asked_prompts", "caption_key", "private_prompts", "reworded"]


def asked_prompts(p: Params) -> dict[str, list[str]]:
    """{parameter: its prompts about the attacked domains}; captions only where they are used, and of one's own folders."""
    names, sp = domain_names(p.world), p.sp
    suffix = [sp.suffix] if sp.suffix else []
    attributes = [max(group, key=len) for group in p.finetune.attributes]
    texts = [template.text.format(name=name) for template in sp.templates for name in names]
    found = {
        "world.instance": [p.world.instance.format(name=name) for name in names],
        "world.condition": [p.world.condition.format(name=name) for name in names],
        "sp.templates": [", ".join([text, *suffix]) for text in texts],
        "finetune.attributes": [", ".join([text, *attributes, *suffix]) for text in texts],
        "sp.negative": [sp.negative] if sp.negative else [],
    }
    key = caption_key(p)
    if key and p.world.kind == "folder":
        world = read_world(p.world)
        for name in names:
            found[f"{key} ('{name}')"] = [text for split, some in world[name].items() if split != PUBLIC for text in some.captions]
    return found


def caption_key(p: Params) -> str:
    """The parameter that has each image's own caption used; empty if none has."""
    return "attacks.caption" if p.attacks.caption else "extraction.prompts" if p.extraction.prompts == "captions" else ""


def reworded(caption: str, template: str) -> str:
    """A caption "a photo of NAME, and so on" in another wording: {name} is what follows "of", {rest} the other phrases."""
    opening, comma, rest = caption.partition(",")
    return template.format(name=opening.split(" of ", 1)[-1], rest=comma + rest)


def private_prompts(captions: Sequence[str], wordings: dict[str, str]) -> dict[str, list[str]]:
    """{parameter: its prompts} of the black-box attack, captions in their own words and in others."""
    return {"blackbox": list(captions)} | {
        f"blackbox.wordings '{title}'": [reworded(text, template) for text in captions] for title, template in wordings.items()
    }
