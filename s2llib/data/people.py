"""Invented people: a name and a face for every number of a world."""

from dataclasses import dataclass

import numpy as np

__all__ = ["FIRST_NAMES", "LAST_NAMES", "Person", "person", "person_name"]

FIRST_NAMES = tuple(
    """
    ada arvo bela cato dara edda finn gala hugo ines jora kato lena milo
    nora otto pia quin rosa sven tara udo vera wim xena yara zeno alba
    boris clio dino elsa faro gina hedy ivan juno karl lola mira
    """.split()
)
LAST_NAMES = tuple(
    """
    abeck borg calder dorne elvin farrow garde holm ister jarvis keller lindel morrow nordin
    orban petrov quist ravel salva tamm ulmer varga weller xander yoder zoric amado brenna
    corvo delgau enzo fabre gallo haruk ilves jansky kovac lorca mandel novak
    """.split()
)

SKIN = ((255, 224, 196), (241, 194, 160), (224, 172, 128), (190, 132, 92), (141, 93, 60), (98, 62, 42))
HAIR = ((32, 26, 24), (74, 47, 31), (122, 78, 44), (186, 142, 76), (226, 196, 128), (168, 74, 38), (150, 150, 154))
EYES = ((62, 40, 26), (96, 70, 40), (58, 98, 62), (62, 104, 156), (96, 110, 118))
HAIR_STYLES = ("short", "long", "bob", "afro", "bald", "parted", "bun")
BEARDS = ("none", "none", "none", "full", "goatee", "moustache", "stubble")


@dataclass(frozen=True)
class Person:
    """What stays the same in every photograph of somebody. Colours are RGB 0-255, lengths relative to the head."""

    name: str
    skin: tuple
    hair: tuple
    hair_style: str
    eye: tuple
    width: float
    height: float
    jaw: float
    eye_gap: float
    eye_size: float
    brow: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip: float
    beard: str
    glasses: str
    freckles: bool


def person_name(index: int) -> str:
    """`first last`, unique for index 0..39; later indices pair the same words differently."""
    first, shift = index % len(FIRST_NAMES), index // len(FIRST_NAMES)
    return f"{FIRST_NAMES[first]} {LAST_NAMES[(first + 7 * shift) % len(LAST_NAMES)]}"


def _blend(palette: tuple, rng: np.random.Generator) -> tuple:
    """A colour near one of the palette's, or between two neighbours of it."""
    low = int(rng.integers(len(palette)))
    high = min(low + 1, len(palette) - 1)
    mix = rng.uniform(0, 0.6)
    colour = (1 - mix) * np.array(palette[low]) + mix * np.array(palette[high]) + rng.normal(0, 5, 3)
    return tuple(int(v) for v in colour.clip(0, 255))


def person(world_seed: int, index: int) -> Person:
    """The face of person `index` of a world: the same for every caller, another one for another world."""
    rng = np.random.default_rng([world_seed, index, 0])
    return Person(
        name=person_name(index),
        skin=_blend(SKIN, rng),
        hair=_blend(HAIR, rng),
        hair_style=str(rng.choice(HAIR_STYLES)),
        eye=EYES[int(rng.integers(len(EYES)))],
        width=rng.uniform(0.66, 0.84),
        height=rng.uniform(0.94, 1.1),
        jaw=rng.uniform(0.55, 0.95),
        eye_gap=rng.uniform(0.17, 0.24),
        eye_size=rng.uniform(0.055, 0.085),
        brow=rng.uniform(0.02, 0.05),
        nose_length=rng.uniform(0.14, 0.24),
        nose_width=rng.uniform(0.05, 0.1),
        mouth_width=rng.uniform(0.13, 0.21),
        lip=rng.uniform(0.02, 0.05),
        beard=str(rng.choice(BEARDS)),
        glasses=str(rng.choice(("none", "none", "none", "round", "square"))),
        freckles=bool(rng.random() < 0.15),
    )
