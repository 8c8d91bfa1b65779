"""Procedural portraits: photographs of invented people whose every pixel follows from a seed.

A photograph is drawn from (world seed, person, stream, index). Streams keep the splits apart by construction: no
two splits ever share a random draw, so membership is the only difference between members and iid non-members.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from s2llib.data.people import Person, person

__all__ = ["SIZE", "STREAMS", "STYLES", "portrait"]

SIZE = 64
_SCALE = 4  # drawn at 256 pixels, reduced by box averaging: smooth edges without an image library's filters
STYLES = ("candid", "studio", "street")
STREAMS = {"member": 1, "nonmember": 2, "studio": 3, "street": 4, "auxiliary": 5, "private": 6}

COLOURS = {
    "red": (190, 44, 48),
    "blue": (48, 84, 170),
    "green": (58, 128, 76),
    "yellow": (226, 190, 70),
    "white": (232, 232, 228),
    "black": (40, 40, 46),
    "purple": (116, 66, 146),
    "orange": (222, 122, 48),
}
CLOTHES = ("shirt", "jacket", "sweater", "dress")
EXPRESSIONS = ("smiling", "laughing", "serious", "sad", "surprised")
ACCESSORIES = ("", "", "", "a hat", "a scarf", "a necklace", "earrings")
BACKGROUNDS = ("plain", "striped", "dotted", "checked", "balloon", "cluttered")


@dataclass(frozen=True)
class _Shot:
    """What one photograph draws anew."""

    background: str
    back: tuple
    expression: str
    colour: str
    clothes: str
    accessory: str
    shift: tuple
    tilt: float
    zoom: float
    yaw: float
    light: tuple
    clutter: int
    noise: float


def _shot(rng: np.random.Generator, style: str) -> _Shot:
    spread = {"studio": 0.3, "candid": 1.0, "street": 1.7}[style]
    backgrounds = {"studio": ("plain",), "candid": BACKGROUNDS, "street": ("cluttered", "balloon", "checked")}[style]
    return _Shot(
        background=str(rng.choice(backgrounds)),
        back=tuple(rng.uniform(150, 235, 3)) if style == "studio" else tuple(rng.uniform(30, 235, 3)),
        expression=str(rng.choice(EXPRESSIONS)),
        colour=str(rng.choice(list(COLOURS))),
        clothes=str(rng.choice(CLOTHES)),
        accessory=str(rng.choice(ACCESSORIES)),
        shift=tuple(spread * rng.uniform(-0.07, 0.07, 2)),
        tilt=spread * rng.uniform(-9, 9),
        zoom=1 + spread * rng.uniform(-0.1, 0.1),
        yaw=spread * rng.uniform(-0.06, 0.06),
        light=(rng.uniform(0, 2 * np.pi), spread * rng.uniform(0.04, 0.22), rng.normal(0, 0.03 * spread, 3)),
        clutter=int(rng.integers(3, 7) * (2 if style == "street" else 1)),
        noise=spread * rng.uniform(1.0, 4.0),
    )


def _caption(name: str, shot: _Shot) -> str:
    parts = [f"a photo of {name}", shot.expression, f"in a {shot.colour} {shot.clothes}"]
    if shot.accessory:
        parts.append(f"wearing {shot.accessory}")
    return ", ".join([*parts, f"{shot.background} background"])


def _shade(colour, factor: float) -> tuple:
    return tuple(int(np.clip(v * factor, 0, 255)) for v in colour)


def _background(draw: ImageDraw.ImageDraw, shot: _Shot, rng: np.random.Generator, n: int) -> None:
    other = tuple(int(v) for v in rng.uniform(30, 235, 3))
    draw.rectangle((0, 0, n, n), fill=_shade(shot.back, 1))
    period, phase = rng.uniform(0.12, 0.3) * n, rng.uniform(0, 1)
    cells = range(-1, int(n / period) + 2)
    if shot.background == "striped":
        lean = rng.uniform(-0.8, 0.8) * n
        for i in cells:
            x = (i + phase) * period
            half = period / 2
            draw.polygon([(x, 0), (x + half, 0), (x + half + lean, n), (x + lean, n)], fill=other)
    elif shot.background in ("dotted", "checked"):
        for i in cells:
            for j in cells:
                x, y = (i + phase) * period, (j + phase) * period
                box = (x, y, x + 0.5 * period, y + 0.5 * period)
                draw.ellipse(box, fill=other) if shot.background == "dotted" else draw.rectangle(box, fill=other)
    elif shot.background in ("balloon", "cluttered"):
        for _ in range(shot.clutter):
            (x, y), (w, h) = rng.uniform(-0.1, 1.0, 2) * n, rng.uniform(0.12, 0.45, 2) * n
            fill = tuple(int(v) for v in rng.uniform(20, 240, 3))
            shape = draw.ellipse if shot.background == "balloon" or rng.random() < 0.4 else draw.rectangle
            shape((x, y, x + w, y + h), fill=fill)


def _hair_behind(draw, who: Person, cx, cy, w, h) -> None:
    dark = _shade(who.hair, 0.8)
    if who.hair_style == "afro":
        draw.ellipse((cx - 1.45 * w, cy - 1.5 * h, cx + 1.45 * w, cy + 0.55 * h), fill=who.hair)
    elif who.hair_style in ("long", "bob"):
        end = 1.75 if who.hair_style == "long" else 0.9
        box = (cx - 1.22 * w, cy - 1.12 * h, cx + 1.22 * w, cy + end * h)
        draw.rounded_rectangle(box, radius=0.9 * w, fill=dark)
    elif who.hair_style == "bun":
        draw.ellipse((cx - 0.45 * w, cy - 1.6 * h, cx + 0.45 * w, cy - 0.85 * h), fill=dark)


def _hair_front(draw, who: Person, cx, cy, w, h) -> None:
    if who.hair_style == "bald":
        return
    draw.pieslice((cx - 1.08 * w, cy - 1.14 * h, cx + 1.08 * w, cy + 0.3 * h), 180, 360, fill=who.hair)
    skin = _shade(who.skin, 1)
    if who.hair_style == "parted":
        draw.ellipse((cx - 0.35 * w, cy - 0.82 * h, cx + 1.02 * w, cy + 0.5 * h), fill=skin)
    else:
        draw.ellipse((cx - 0.88 * w, cy - 0.74 * h, cx + 0.88 * w, cy + 0.5 * h), fill=skin)


def _eyes(draw, who: Person, shot: _Shot, cx, cy, w, h) -> None:
    size = who.eye_size * 2 * h * (1.3 if shot.expression == "surprised" else 1)
    flat = 0.45 if shot.expression in ("laughing", "smiling") else 0.7
    for side in (-1, 1):
        x, y = cx + side * who.eye_gap * 2 * h * 0.9, cy - 0.12 * h
        draw.ellipse((x - size, y - flat * size, x + size, y + flat * size), fill=(246, 244, 240))
        iris = 0.62 * size
        draw.ellipse((x - iris, y - min(iris, flat * size), x + iris, y + min(iris, flat * size)), fill=who.eye)
        draw.ellipse((x - 0.28 * size, y - 0.28 * size, x + 0.28 * size, y + 0.28 * size), fill=(14, 12, 12))
        lift = {"surprised": 0.2, "sad": 0.1}.get(shot.expression, 0.12) * h
        slope = {"sad": 0.08, "serious": -0.05}.get(shot.expression, 0) * h
        brow = [(x - side * 1.3 * size, y - lift - size + slope * -1), (x + side * 1.4 * size, y - lift - size + slope)]
        draw.line(brow, fill=_shade(who.hair, 0.7), width=max(2, int(who.brow * 2 * h)))
        if who.glasses != "none":
            ring = 1.55 * size
            box = (x - ring, y - ring, x + ring, y + ring)
            outline = draw.ellipse if who.glasses == "round" else draw.rectangle
            outline(box, outline=(24, 22, 26), width=5)
    if who.glasses != "none":
        draw.line([(cx - 0.1 * h, cy - 0.12 * h), (cx + 0.1 * h, cy - 0.12 * h)], fill=(24, 22, 26), width=5)


def _nose_and_mouth(draw, who: Person, shot: _Shot, cx, cy, w, h) -> None:
    nose, tip = who.nose_width * 2 * h * 0.5, cy + who.nose_length * 2 * h * 0.7
    draw.polygon([(cx, cy - 0.1 * h), (cx - nose, tip), (cx + nose, tip)], fill=_shade(who.skin, 0.82))
    mw, y = who.mouth_width * 2 * h, cy + 0.56 * h
    lip, thick = _shade((who.skin[0], who.skin[1] * 0.55, who.skin[2] * 0.55), 0.85), max(4, int(who.lip * 2 * h))
    if who.beard in ("full", "goatee", "stubble"):
        fill = _shade(who.hair, 1) if who.beard != "stubble" else _shade(who.skin, 0.78)
        wide = 0.5 * w if who.beard == "goatee" else 0.86 * w
        draw.chord((cx - wide, cy - 0.1 * h, cx + wide, cy + 1.02 * h), 20, 160, fill=fill)
    if who.beard in ("full", "goatee", "moustache"):
        draw.ellipse((cx - 1.1 * mw, y - 0.2 * h, cx + 1.1 * mw, y - 0.05 * h), fill=_shade(who.hair, 0.9))
    if shot.expression == "smiling":
        draw.arc((cx - mw, y - 0.5 * mw, cx + mw, y + 0.5 * mw), 15, 165, fill=lip, width=thick)
    elif shot.expression == "laughing":
        draw.chord((cx - mw, y - 0.55 * mw, cx + mw, y + 0.65 * mw), 0, 180, fill=(120, 30, 36))
        draw.chord((cx - 0.8 * mw, y - 0.2 * mw, cx + 0.8 * mw, y + 0.3 * mw), 0, 180, fill=(245, 242, 236))
    elif shot.expression == "sad":
        draw.arc((cx - 0.9 * mw, y, cx + 0.9 * mw, y + mw), 200, 340, fill=lip, width=thick)
    elif shot.expression == "surprised":
        draw.ellipse((cx - 0.4 * mw, y - 0.35 * mw, cx + 0.4 * mw, y + 0.55 * mw), fill=(110, 34, 40))
    else:
        draw.line([(cx - 0.9 * mw, y), (cx + 0.9 * mw, y)], fill=lip, width=thick)


def _clothes(draw, who: Person, shot: _Shot, cx, cy, w, h, n) -> None:
    top, colour = cy + 1.08 * h, COLOURS[shot.colour]
    neck = (cx - 0.38 * w, cy + 0.5 * h, cx + 0.38 * w, top + 0.3 * h)
    body = (cx - 2.1 * w, top, cx + 2.1 * w, top + 2.2 * h)
    draw.rounded_rectangle(body, radius=0.8 * w, fill=colour)
    draw.rectangle(neck, fill=_shade(who.skin, 0.85))
    low = (cx, top + 0.65 * h)
    if shot.clothes == "jacket":
        for side in (-1, 1):
            lapel = [(cx + side * 0.38 * w, top), (cx + side * w, top + 0.1 * h), low]
            draw.polygon(lapel, fill=_shade(colour, 0.65))
        draw.polygon([(cx - 0.38 * w, top), (cx + 0.38 * w, top), low], fill=(230, 230, 226))
    elif shot.clothes == "sweater":
        draw.rounded_rectangle((cx - 0.55 * w, top - 0.1 * h, cx + 0.55 * w, top + 0.16 * h), 8, fill=_shade(colour, 0.75))
    elif shot.clothes == "dress":
        draw.chord((cx - 0.8 * w, top - 0.5 * h, cx + 0.8 * w, top + 0.55 * h), 0, 180, fill=who.skin)
    else:
        draw.polygon([(cx - 0.4 * w, top), (cx + 0.4 * w, top), (cx, top + 0.35 * h)], fill=_shade(who.skin, 0.92))
    if shot.accessory == "a scarf":
        tone = _shade(shot.back[::-1], 0.9)
        draw.rounded_rectangle((cx - 0.75 * w, top - 0.22 * h, cx + 0.75 * w, top + 0.14 * h), 18, fill=tone)
        draw.rectangle((cx + 0.2 * w, top, cx + 0.55 * w, top + 0.9 * h), fill=_shade(tone, 0.85))
    elif shot.accessory == "a necklace":
        draw.arc((cx - 0.6 * w, top - 0.5 * h, cx + 0.6 * w, top + 0.45 * h), 10, 170, fill=(240, 208, 90), width=7)


def _accessory(draw, shot: _Shot, cx, cy, w, h) -> None:
    if shot.accessory == "a hat":
        tone = _shade(shot.back[1:] + shot.back[:1], 0.75)
        draw.rounded_rectangle((cx - 0.95 * w, cy - 1.45 * h, cx + 0.95 * w, cy - 0.62 * h), 24, fill=tone)
        draw.ellipse((cx - 1.5 * w, cy - 0.78 * h, cx + 1.5 * w, cy - 0.5 * h), fill=_shade(tone, 0.8))
    elif shot.accessory == "earrings":
        for side in (-1, 1):
            x, y = cx + side * 1.02 * w, cy + 0.28 * h
            draw.ellipse((x - 9, y, x + 9, y + 18), fill=(240, 208, 90))


def _figure(who: Person, shot: _Shot, n: int) -> Image.Image:
    layer = Image.new("RGBA", (n, n), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    h = 0.27 * n * who.height
    w, cx, cy = h * who.width, 0.5 * n, 0.46 * n
    _hair_behind(draw, who, cx, cy, w, h)
    _clothes(draw, who, shot, cx, cy, w, h, n)
    for side in (-1, 1):
        draw.ellipse((cx + side * w - 0.16 * w, cy - 0.1 * h, cx + side * w + 0.16 * w, cy + 0.3 * h), fill=_shade(who.skin, 0.9))
    draw.ellipse((cx - w, cy - h, cx + w, cy + 0.9 * h), fill=who.skin)
    draw.ellipse((cx - who.jaw * w, cy - 0.2 * h, cx + who.jaw * w, cy + h), fill=who.skin)
    _hair_front(draw, who, cx, cy, w, h)
    fx = cx + shot.yaw * n
    if who.freckles:
        for k in range(6):
            x, y = fx + (k - 2.5) * 0.22 * w, cy + (0.22 + 0.06 * (k % 2)) * h
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_shade(who.skin, 0.7))
    _nose_and_mouth(draw, who, shot, fx, cy, w, h)
    _eyes(draw, who, shot, fx, cy, w, h)
    _accessory(draw, shot, cx, cy, w, h)
    turn = Image.Resampling.BILINEAR
    layer = layer.rotate(shot.tilt, resample=turn, center=(cx, 0.8 * n))
    edge, move = n / shot.zoom, (n - n / shot.zoom) / 2
    dx, dy = shot.shift[0] * n, shot.shift[1] * n
    return layer.transform((n, n), Image.Transform.EXTENT, (move + dx, move + dy, move + edge + dx, move + edge + dy), turn)


def _lit(pixels: np.ndarray, shot: _Shot, rng: np.random.Generator) -> np.ndarray:
    angle, strength, tint = shot.light
    grid = np.linspace(-1, 1, SIZE)
    ramp = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None]
    lit = pixels * (1 + strength * ramp)[..., None] * (1 + tint)
    return (lit + rng.normal(0, shot.noise, pixels.shape)).clip(0, 255).round().astype(np.uint8)


def caption(world_seed: int, who: int, stream: str, index: int) -> str:
    """The caption of `portrait`, which is not drawn."""
    rng = np.random.default_rng([world_seed, who, STREAMS[stream], index])
    return _caption(person(world_seed, who).name, _shot(rng, stream if stream in STYLES else "candid"))


def portrait(world_seed: int, who: int, stream: str, index: int) -> tuple[np.ndarray, str]:
    """Photograph `index` of person `who`: (pixels [64, 64, 3] uint8, full caption).

    stream: one of STREAMS; `studio` and `street` are the shifted styles, every other stream is shot in `candid` style.
    """
    rng = np.random.default_rng([world_seed, who, STREAMS[stream], index])
    face, shot, n = person(world_seed, who), _shot(rng, stream if stream in STYLES else "candid"), SIZE * _SCALE
    canvas = Image.new("RGB", (n, n))
    _background(ImageDraw.Draw(canvas), shot, rng, n)
    figure = _figure(face, shot, n)
    canvas.paste(figure, (0, 0), figure)
    small = np.asarray(canvas.reduce(_SCALE), dtype=np.float64)
    return _lit(small, shot, rng), _caption(face.name, shot)
