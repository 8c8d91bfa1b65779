"""What reading a world's folders left out and where captions came from. A stand-in until `data/worlds.py` tells: it knows of nothing."""

from dataclasses import dataclass, field
from pathlib import Path

from s2llib.params import World

__all__ = ["Reading", "cut_prompts", "reading"]


@dataclass(frozen=True)
class Reading:
    """left_out: files that are not used, each with the reason. captions: {split: {source: how many}}."""

    left_out: tuple[tuple[Path, str], ...] = ()
    captions: dict[str, dict[str, int]] = field(default_factory=dict)


def reading(world: World) -> Reading:
    return Reading()


def cut_prompts(tokenizer, length: int, texts: list[str]) -> list[str]:
    return []
