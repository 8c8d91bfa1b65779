"""What was read of what a user gives: captions by source, what was left out, and prompts that are longer than a model reads."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from s2llib.data.captions import TEMPLATE
from s2llib.data.domain import MEMBER, PUBLIC
from s2llib.data.folders import Found
from s2llib.params import ParamsError

__all__ = ["Reading", "caption_sources", "check_own_captions", "check_prompts", "cut_prompts", "prompts_made_same"]


@dataclass(frozen=True)
class Reading:
    """left_out: (file or folder, reason), in order; captions: {split: {source: number of images}}.

    Sources: `.txt file`, `.caption file`, `metadata.jsonl: text` and the like, `template` where an image has none of its own.
    """

    left_out: tuple[tuple[Path, str], ...] = ()
    captions: dict[str, dict[str, int]] = field(default_factory=dict)


def caption_sources(found: Iterable[Found]) -> dict[str, dict[str, int]]:
    """{split: {source: number of images}}."""
    counts: dict = defaultdict(Counter)
    for one in found:
        counts[one.split][one.caption.source] += 1
    return {split: dict(sorted(sources.items())) for split, sources in sorted(counts.items())}


def check_own_captions(found: list[Found], key: str) -> None:
    """Raises ParamsError unless as large a share of the members has captions of their own as of the others, in every domain.

    Else whether a template stands for the caption would tell members from non-members. key: the parameter that has captions used.
    """
    if problem := next((one.caption.problem for one in found if one.caption.problem), ""):
        raise ParamsError(problem)
    if not any(one.caption.text for one in found):
        raise ParamsError(f"{key}: no image has a caption of its own; put a .txt beside each, or drop {key}.")
    counts: dict = defaultdict(Counter)
    for one in found:
        counts[one.domain, one.split][one.caption.source == TEMPLATE] += 1
    for (domain, split), here in counts.items():
        members = counts.get((domain, MEMBER))
        if split in (MEMBER, PUBLIC) or not members or here[False] * members.total() == members[False] * here.total():
            continue
        raise ParamsError(
            f"{key}: of '{domain}', {members[False]} of {members.total()} {MEMBER} images have captions of their own and {here[False]} of"
            f" {here.total()} {split} images, so that the template alone would tell them apart; put a .txt beside each, or drop {key}."
        )


# prompts that are cut


def cut_prompts(tokenizer, length: int, texts: Iterable[str]) -> list[str]:
    """Those of these prompts of which the text encoder reads the first `length` tokens alone (the two ends counted), each once."""
    different = list(dict.fromkeys(texts))
    return [text for text, ids in zip(different, _ids(tokenizer, different), strict=True) if len(ids) > length]


def prompts_made_same(tokenizer, length: int, texts: Iterable[str]) -> list[list[str]]:
    """Groups of different prompts that are the same to the model, at least one of them because it is cut."""
    groups: dict = defaultdict(list)
    different = list(dict.fromkeys(texts))
    for text, ids in zip(different, _ids(tokenizer, different), strict=True):
        groups[tuple(ids if len(ids) <= length else [*ids[: length - 1], ids[-1]])].append((text, len(ids) > length))
    return [[text for text, _ in group] for group in groups.values() if len(group) > 1 and any(cut for _, cut in group)]


def _ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, verbose=False).input_ids if texts else []


def check_prompts(tokenizer, length: int, asked: dict[str, list[str]]) -> None:
    """Raises ParamsError where all the different prompts of one kind are the same to the model because they are cut.

    asked: {parameter: its prompts}.
    """
    for key, texts in asked.items():
        same = prompts_made_same(tokenizer, length, texts)
        if same and len(same[0]) == len(set(texts)):
            raise ParamsError(
                f"{key}: its {len(same[0])} different prompts, such as '{_short(same[0][0])}', are the same in the {length} tokens that the"
                " text encoder reads; shorten them, so that what differs stands there."
            )


def _short(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."
