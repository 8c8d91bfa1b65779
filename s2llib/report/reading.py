"""What was read: the model's parts, the images, their captions, and what was left out or cut, in Markdown."""

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from PIL import Image

from s2llib.data.domain import Domain, Photos
from s2llib.data.files import shown
from s2llib.data.reading import cut_prompts, prompts_made_same
from s2llib.data.worlds import domain_names, reading
from s2llib.lab import Lab
from s2llib.models.base import base_tokenizer, content
from s2llib.models.lora import lora_files
from s2llib.models.pipeline import PARTS, base_folder
from s2llib.params import Params, resolved
from s2llib.studies.prompts import asked_prompts

__all__ = ["MOST", "model_parts", "stored_precision", "what_was_read"]

MOST = 20  # entries of a list on a screen; a report has them all
DIGITS = 12  # of a digest
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8", "F8_E5M2": "float8"}


def what_was_read(lab: Lab, most: int | None = MOST) -> str:
    """Model, images, captions and prompts of a study, and whatever of them is not used. most: entries of a list; None: all."""
    p = lab.params
    parts = [_model(p), _images(lab, most)]
    if p.world.kind == "folder":
        found = reading(p.world)
        parts += [_left_out(found.left_out, most), _captions(p, found.captions), _cut(lab, most)]
    return "\n\n".join(part for part in parts if part)


def _some(entries: list[str], most: int | None) -> str:
    """A list, and how much longer it is."""
    shown = entries[:most]
    return ", ".join(shown) + (f" and {len(entries) - len(shown):,} more" if len(entries) > len(shown) else "")


def _table(head: tuple[str, ...], rows: Iterable[tuple]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows))


# the model


def _model(p: Params) -> str:
    folder = base_folder(p)
    if not folder:
        return "**Model**: trained here, on members of this world alone."
    source = f"{p.base.hub} of the hub, revision {folder.name[:DIGITS]}" if p.base.hub else f"{folder}"
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    says = f"**Model**: {source}; it predicts {schedule.get('prediction_type', 'epsilon')}{_fused(p)}."
    return f"{says}\n\n{_table(('part', 'class', 'weights', 'SHA-256'), model_parts(folder))}"


def _fused(p: Params) -> str:
    """The LoRA that lies on top of the model, its scale and its digest; empty without one."""
    if not p.base.lora:
        return ""
    files = lora_files(resolved(p.base.lora)).values()
    named = ", ".join(f"{path} (SHA-256 {content(path)[:DIGITS]})" for path in files)
    return f"; on top of it lies the LoRA {named} at a scale of {p.base.lora_scale:g}"


def model_parts(folder: Path) -> list[tuple[str, str, str, str]]:
    """(part, class, precision of its stored weights, first digits of the digest that enters every key) of a pipeline's folder."""
    classes = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    there = [part for part in (*PARTS, "clip") if (folder / part).is_dir()]
    named = {part: classes.get(part, [None, "CLIPModel"])[1] for part in there}
    return [(part, named[part], stored_precision(folder / part), content(folder / part)[:DIGITS]) for part in there]


def stored_precision(folder: Path) -> str:
    """Of the weights in a part's safetensors, as they lie on disk; empty where there are none. All are read into float32."""
    found = set()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        found |= {FLOATS[entry["dtype"]] for name, entry in header.items() if name != "__metadata__" and entry["dtype"] in FLOATS}
    return ", ".join(sorted(found))


# the images


def _images(lab: Lab, most: int | None) -> str:
    world = lab.params.world
    if world.kind == "portraits":
        counts = f"{world.members} members, {world.nonmembers} non-members and {world.shifted} of each shifted set"
        return f"**Images**: drawn here, of {len(domain_names(world))} people, {counts} each."
    rows = [(domain.name, split, len(photos), _sizes(photos)) for domain in lab.domains for split, photos in _splits(domain)]
    table = _table(("subject", "split", "images", "pixels"), rows[:most])
    rest = f"\n\nand {len(rows) - most:,} more lines, of {sum(row[2] for row in rows[most:]):,} images" if most and len(rows) > most else ""
    return f"**Images**: {sum(row[2] for row in rows):,} of {len(lab.domains)} subjects\n\n{table}{rest}"


def _splits(domain: Domain) -> list[tuple[str, Photos]]:
    return list(domain.splits.items())


def _sizes(photos: Photos) -> str:
    """The smallest and the largest, by area."""
    sizes = []
    for path in photos.paths:
        with Image.open(path) as image:
            sizes.append(image.size)
    low, high = (f"{w} x {h}" for w, h in (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max)))
    return low if low == high else f"{low} to {high}"


def _left_out(files: tuple[tuple[Path, str], ...], most: int | None) -> str:
    """Files that are not used, by reason."""
    if not files:
        return "**Left out**: nothing."
    by_reason = groupby(sorted(files, key=lambda pair: pair[1]), key=lambda pair: pair[1])
    grouped = {reason: [shown(path) for path, _ in some] for reason, some in by_reason}
    lines = [f"- {reason} ({len(names):,}): {_some(names, most)}" for reason, names in grouped.items()]
    return "\n".join([f"**Left out**: {len(files):,} files", "", *lines])


# captions and prompts


def _captions(p: Params, captions: dict[str, dict[str, int]]) -> str:
    """Where captions came from, and whether anything asks for them."""
    used = {"attacks": p.attacks.caption, "extraction": p.extraction.prompts == "captions"}
    by = " and ".join(name for name, uses in used.items() if uses)
    lines = [f"- {split}: {', '.join(f'{count:,} {source}' for source, count in found.items())}" for split, found in captions.items()]
    says = f"used by {by}" if by else f"not used (attacks.caption is false): every image is asked about as '{p.world.condition}'"
    return "\n".join([f"**Captions**: {says}", *(["", *lines] if lines else [])])


def _cut(lab: Lab, most: int | None) -> str:
    """Prompts that are longer than what the text encoder reads, and those that become one another by it."""
    texts = list(dict.fromkeys(text for some in asked_prompts(lab.params).values() for text in some))
    tokenizer, length = base_tokenizer(lab.params), _encoder_length(lab.params)
    if not (cut := cut_prompts(tokenizer, length, texts)):
        return f"**Prompts**: all {len(texts):,} are read whole."
    says = f"**Prompts**: {len(cut):,} of {len(texts):,} are cut to the first {length} tokens: {_some([repr(text) for text in cut], most)}."
    same = [" = ".join(map(repr, group)) for group in prompts_made_same(tokenizer, length, texts)]
    return says + (f" **Different prompts that the model cannot tell apart**: {_some(same, most)}." if same else "")


def _encoder_length(p: Params) -> int:
    """Tokens that the text encoder reads, its two ends included."""
    folder = base_folder(p)
    config = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    return config.get("max_position_embeddings", 77)  # 77: what transformers' CLIP has where a config says nothing
