"""A LoRA on top of a base: which layers its file changes and how, whoever trained it, and the base with it fused.

W becomes W + scale * alpha / rank * up @ down. Layers are found by their names with `_` for every dot, which is what kohya's names are; so
every tensor of a file is used, or the file is refused. (diffusers' own loader leaves out what it does not know with a warning, and takes
one alpha for all attention layers of a kohya file.)
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from s2llib.models.single_file import LORA, header, is_lora, kind_of, pickled_in, tensors_in
from s2llib.params import ParamsError

__all__ = ["Change", "check_lora", "fuse", "lora_files", "read_lora"]

PARTS = ("unet", "text_encoder")
PREFIXES = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "unet.": "unet", "text_encoder.": "text_encoder"}
TENSOR = re.compile(r"(?P<layer>.+?)[._](?:lora[._]|lora_linear_layer\.)(?P<role>down|up|A|B)\.weight|(?P<scaled>.+)\.(?P<alpha>alpha)")
ROLES = {"A": "down", "B": "up"}
OLD = (  # names of diffusers before 0.18
    (r"self_attn_to_([qkv])$", r"self_attn_\1_proj"), (r"self_attn_to_out$", "self_attn_out_proj"),
    (r"_processor_to_", "_to_"), (r"_to_out$", "_to_out_0"),
)  # fmt: skip
OTHERS = {  # what is not W + up @ down, by what its tensors' names hold
    r"dora_scale|lora_magnitude_vector": "a DoRA", r"\.hada_": "a LoHa (LyCORIS)", r"\.lokr_": "a LoKr (LyCORIS)",
    r"\.on_input$": "an IA3 (LyCORIS)", r"[._]oft_": "an OFT (LyCORIS)", r"\.[ab][12]\.weight$": "a GLoRA (LyCORIS)",
    r"\.lora_mid\.": "a LoCon with a Tucker decomposition (LyCORIS)", r"\.diff(_b)?$": "a difference of full weights (LyCORIS)",
    r"\.[wb]_norm$": "a LyCORIS with norm layers",
}  # fmt: skip
FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # by the width of the prompt's embedding
FOREIGN = {
    "SDXL": ("lora_te2_", "text_encoder_2."),
    "FLUX, Stable Diffusion 3 or another transformer": (
        "transformer.", "lora_transformer_", "diffusion_model.", "lora_te3_", "lora_unet_double_blocks_", "lora_unet_joint_blocks_",
    ),
}  # fmt: skip
PEFT_ALPHA = 8  # of a LoraConfig that says none


@dataclass(frozen=True)
class Change:
    """What is added to the weights of a layer: factor * up @ down, [out, rank] and [rank, in] (a convolution's with its kernel)."""

    part: str
    layer: str
    up: Tensor
    down: Tensor
    factor: float


def lora_files(given: Path) -> dict[str, Path]:
    """{part, or empty where the tensors' names say it: file} of a LoRA, a file or a trainer's folder. Raises ParamsError."""
    if given.is_file():
        return {"": given}
    if not given.is_dir():
        raise ParamsError(f"base.lora: {given} does not exist; name a file or a folder (one on the hub: download it first).")
    if found := tensors_in(given):
        if len(found) > 1:
            shown = ", ".join(path.name for path in found[:4]) + (", ..." if len(found) > 4 else "")
            raise ParamsError(f"base.lora: {given} holds several files of weights ({shown}); name one, such as base.lora={found[0]}.")
        return {"": found[0]}
    if (given / "model_index.json").is_file():
        raise ParamsError(f"base.lora: {given} is a whole pipeline, no LoRA; name it as base.path.")
    if found := {part: path for part in PARTS for path in tensors_in(given / part) if (given / part / "adapter_config.json").is_file()}:
        return found  # as peft's own DreamBooth script saves them
    if found := pickled_in(given):
        header(found[0])  # which refuses it
    if found := [path for path in sorted(given.glob("*")) if path.is_dir() and is_lora(path)]:
        raise ParamsError(f"base.lora: {given} holds no .safetensors file itself; name one of its folders, such as base.lora={found[-1]}.")
    raise ParamsError(f"base.lora: {given} holds no .safetensors file; name the folder or the file that the trainer wrote.")


def layers_of(unet: nn.Module, text_encoder: nn.Module) -> dict[tuple[str, str], nn.Module]:
    """{(part, name with _ for dots): layer that a LoRA can change}."""
    return {
        (part, _flat(name)): layer
        for part, module in zip(PARTS, (unet, text_encoder), strict=True)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def _flat(name: str) -> str:
    return name.replace(".", "_").removeprefix("text_model_")  # which transformers 5 no longer has


def read_lora(files: dict[str, Path], layers: dict[tuple[str, str], nn.Module]) -> list[Change]:
    """What each file's tensors change of a base's layers (`layers_of`). Raises ParamsError unless all of them are used."""
    changes = [change for part, path in files.items() for change in _read(path, part, layers)]
    if not any(change.up.any() and change.down.any() for change in changes):
        shown = ", ".join(map(str, files.values()))
        raise ParamsError(f"base.lora: {shown} changes nothing: up @ down is 0 in every layer, as before any training; name another.")
    return changes


def _read(path: Path, part: str, layers: dict[tuple[str, str], nn.Module]) -> list[Change]:
    shapes, metadata = header(path)
    refuse = lambda text: ParamsError(f"base.lora: {path} {text}")  # noqa: E731
    if reason := _not_for(shapes, next(layer for (_, name), layer in layers.items() if name.endswith("attn2_to_k")).in_features):
        raise refuse(reason)
    config = _config(path, metadata, any("base_model.model." in name for name in shapes))
    found: dict[tuple[str, str], dict] = {}
    for name, tensor in load_file(path).items():
        match = TENSOR.fullmatch(name)
        own = match and (match["layer"] or match["scaled"])
        where = _where(own, part, layers) if own else None
        if not where:
            raise refuse(f"holds {name}, which is for no layer of the base; name the base that it was trained on.")
        if not tensor.float().isfinite().all():
            raise refuse(f"holds values that are no numbers, in {name}; its training diverged: take an earlier checkpoint.")
        role = match["alpha"] or ROLES.get(match["role"], match["role"])
        if role in (parts := found.setdefault(where, {"name": own})):
            raise refuse(f"holds {name} twice, under two names; save it again with its trainer.")
        parts[role] = tensor.float()
    return [_change(where, parts, config, layers[where], refuse) for where, parts in found.items()]


def _not_for(shapes: dict[str, tuple[int, ...]], width: int) -> str:
    """Why a file is not for a base whose prompts' embeddings are `width` wide, or is no LoRA at all; empty if it may be one."""
    if (kind := kind_of(shapes)) != LORA:
        return f"is {kind}, no LoRA; name one." if kind else f"is no LoRA (its first tensor is {next(iter(shapes), None)}); name one."
    for pattern, kind in OTHERS.items():
        if any(re.search(pattern, name) for name in shapes):
            return (
                f"is {kind}, which is not supported; merge it into its base with the tool that trained it, save that as a diffusers folder,"
                " and name it as base.path."
            )
    if own := [name for name in shapes if name.startswith("bundle_emb")]:
        return (
            f"brings embeddings of its own ({own[0]}), which are not supported; load both with the tool that trained them, save that as a"
            " diffusers folder, and name it as base.path."
        )
    for family, marks in FOREIGN.items():
        if name := next((name for name in shapes if name.startswith(marks)), None):
            return f"seems to be made for {family} (it holds {name}); a LoRA of Stable Diffusion 1 or 2 and its base are needed."
    for name, shape in shapes.items():
        asked = re.search(r"attn2[._](processor[._])?to_[kv]|self_attn[._](to_)?[qkv]", name) and re.search(
            r"down\.weight|_A\.weight", name
        )
        if asked and len(shape) == 2 and shape[1] != width and shape[1] in FAMILIES:
            return (
                f"seems to be made for {FAMILIES[shape[1]]}, whose prompts are {shape[1]} wide, where those of the base are {width} wide;"
                " name the base that it was trained on."
            )
    return ""


def _where(own: str, part: str, layers: dict[tuple[str, str], nn.Module]) -> tuple[str, str] | None:
    """The layer that a name in a LoRA's file means; part: where the name does not say it."""
    for prefix, named in PREFIXES.items():
        if own.startswith(prefix):
            own, part = own.removeprefix(prefix), named
    flat = _flat(own.removeprefix("base_model.model."))
    for pattern, now in OLD:
        flat = re.sub(pattern, now, flat)
    return next(((each, flat) for each in ([part] if part else PARTS) if (each, flat) in layers), None)


def _config(path: Path, metadata: dict[str, str], peft: bool) -> dict:
    """The LoraConfig that a file was trained with, or empty: beside it (peft), or in its metadata (diffusers)."""
    beside, own = path.with_name("adapter_config.json"), metadata.get("lora_adapter_metadata")
    peft = not own and (peft or path.stem == "adapter_model")
    if peft and not beside.is_file():
        raise ParamsError(f"base.lora: {path} needs peft's adapter_config.json beside it, which says its alpha; copy the whole folder.")
    source = beside if peft else path
    try:
        config = dict(json.loads(beside.read_text(encoding="utf-8") if peft else own or "{}"))
    except (OSError, ValueError, TypeError):
        raise ParamsError(f"base.lora: {source} says its alpha in what is no JSON; copy it again.") from None
    for name, value in config.items():
        kept = {"peft_type": ("LORA",), "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal")}.get(name.split(".")[-1])
        if kept and value not in kept:  # PiSSA, OLoRA and others change the base's weights too
            raise ParamsError(f"base.lora: {source} says {name} {value!r}, which is not supported; save the merged model, as base.path.")
    return config


def _factor(config: dict, part: str, name: str, rank: int) -> float:
    """alpha / rank as a LoraConfig says it of a layer; alpha is the rank where there is none, as trainers' loaders have it."""
    from peft.utils.other import get_pattern_key

    own = {key.removeprefix(f"{part}."): value for key, value in config.items() if key.startswith(f"{part}.")} or config
    if not own:
        return 1.0
    patterns, name = own.get("alpha_pattern") or {}, name.removeprefix(f"{part}.").removeprefix("base_model.model.")
    alpha = patterns.get(get_pattern_key(patterns, name), own.get("lora_alpha", PEFT_ALPHA))
    return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _change(where: tuple[str, str], parts: dict, config: dict, layer: nn.Module, refuse) -> Change:
    name, up, down = parts["name"], parts.get("up"), parts.get("down")
    if up is None or down is None:
        raise refuse(f"has only {' and '.join(sorted(set(parts) - {'name'}))} of {name}, where up and down belong together; copy it again.")
    rank, given = down.shape[0], _bare((up.shape[0], *down.shape[1:]))
    if min(up.ndim, down.ndim) < 2 or up.shape[1] != rank or up[0, 0].numel() != 1 or given != _bare(layer.weight.shape):
        wide = " x ".join(map(str, given))
        raise refuse(
            f"changes a layer of {wide}, {name}, which is {' x '.join(map(str, _bare(layer.weight.shape)))} in the base; name the base that"
            " it was trained on."
        )
    factor = parts["alpha"].item() / rank if "alpha" in parts else _factor(config, where[0], name, rank)
    return Change(*where, up, down, factor)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A weight's shape; a convolution of one pixel is a linear layer."""
    return tuple(shape[:2]) if all(n == 1 for n in shape[2:]) else tuple(shape)


def check_lora(given: Path, base: Path) -> None:
    """Raises ParamsError unless a LoRA fits the base in a folder, of which only the configs are read."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(base / "unet"))
        text_encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(base / "text_encoder"))
    read_lora(lora_files(given), layers_of(unet, text_encoder))


@torch.no_grad()
def fuse(pipeline, given: Path, scale: float) -> None:
    """Put a LoRA into the weights of a pipeline's UNet and text encoder."""
    layers = layers_of(pipeline.unet, pipeline.text_encoder)
    for change in read_lora(lora_files(given), layers):
        weight = layers[change.part, change.layer].weight
        weight += scale * change.factor * (change.up.flatten(1) @ change.down.flatten(1)).view_as(weight)
