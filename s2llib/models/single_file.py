"""What a file of weights is, told by its tensors' names: a LoRA, a whole checkpoint, a part of a pipeline, an embedding."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from s2llib.params import ParamsError

__all__ = ["LORA", "attached", "header", "is_lora", "kind_of", "mistaken", "pickled_in", "tensors_in"]

LORA = "a LoRA"
KINDS = (  # the first of them whose mark is in a tensor's name
    ("a whole checkpoint", ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")),
    ("a ControlNet", ("control_model.", "controlnet", "input_hint_block.")),
    ("an IP-Adapter", ("image_proj.", "ip_adapter.")),
    ("a UNet with adapters still attached", (".base_layer.",)),
    (LORA, ("lora_", "_lora.", ".lora.", "lycoris_", ".hada_", ".lokr_", ".oft_", ".on_input")),
    ("a hypernetwork", (".attn2.to_k.up.weight",)),
    ("a VAE", ("decoder.conv_in.", "decoder.mid_block.")),
    ("a UNet", ("down_blocks.", "input_blocks.")),
    ("a text encoder", ("text_model.encoder.", "encoder.layers.")),
)
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
CONVERT = (
    'where you trust it, convert it once: python -c "import torch; from safetensors.torch import save_file;'
    " w = torch.load('{path}', map_location='cpu', weights_only=True); save_file({{k: v.contiguous() for k, v in w.items()}}, '{safe}')\""
)
ATTACHED = (
    "was saved with a LoRA still attached, so that its weights are not those of the model; save it again with pipe.fuse_lora();"
    " pipe.unload_lora_weights(); pipe.save_pretrained('{folder}') after load_lora_weights, or name the base and the LoRA:"
    " --set base.path=BASE --set base.lora=LORA."
)


def header(path: Path, key: str = "base.lora") -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """({tensor's name: shape}, metadata) of a safetensors file, whatever it is called; raises ParamsError. Nothing is unpickled."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = error
    if path.suffix.lower() in PICKLED or (_starts(path) in (b"PK", b"\x80\x02") and path.suffix.lower() != ".zip"):
        how = CONVERT.format(path=path.as_posix(), safe=path.with_suffix(".safetensors").as_posix())
        raise ParamsError(f"{key}: {path} is pickled, and never loaded, since unpickling runs what is in it; {how}")
    raise ParamsError(f"{key}: {path} is damaged or no safetensors file ({reason}); copy or download it again.")


def _starts(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(2)
    except OSError:
        return b""


def tensors_in(folder: Path) -> list[Path]:
    """The safetensors files directly in a folder; hidden ones are a Mac's notes on other files."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() == ".safetensors" and not path.name.startswith("."))


def pickled_in(folder: Path) -> list[Path]:
    """The pickled LoRAs directly in a folder, not a trainer's state beside them."""
    state = ("optimizer", "scheduler", "random_states", "scaler", "training_args")
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICKLED and not path.name.startswith((".", *state)))


def kind_of(shapes: dict[str, tuple[int, ...]]) -> str:
    """What tensors of these names are, such as `a whole checkpoint`; empty if they are none of what is known here."""
    for kind, marks in KINDS:
        if any(mark in name for name in shapes for mark in marks):
            return kind
    flat = shapes and all("." not in name and len(shape) <= 2 for name, shape in shapes.items())
    return "a textual inversion" if flat else ""


def _kind(path: Path) -> str:
    return kind_of(dict.fromkeys(_names(path), ()))


def is_lora(folder: Path) -> bool:
    """Whether a folder is what a trainer of LoRAs leaves: its weights, or peft's adapters of a UNet and a text encoder."""
    named = ("pytorch_lora_weights.bin", "adapter_config.json", "unet/adapter_config.json", "text_encoder/adapter_config.json")
    return any((folder / name).is_file() for name in named) or any(_kind(path) == LORA for path in tensors_in(folder))


def mistaken(path: Path) -> str:
    """Why a file or a folder without model_index.json is no base, if that can be told; else empty."""
    kind = (LORA if is_lora(path) else "") if path.is_dir() else _kind(path)
    if kind == LORA:
        return f"is a LoRA, which needs the base that it was trained on: --set base.path=BASE --set base.lora={path}."
    if kind and kind != "a whole checkpoint":
        return f"is {kind} alone; name the folder of a whole pipeline, the one with model_index.json."
    return ""


def attached(folder: Path) -> str:
    """Why a pipeline that was saved with adapters on its UNet or text encoder is not the model; empty for any other."""
    layers = any(".base_layer." in name for part in ("unet", "text_encoder") for path in tensors_in(folder / part) for name in _names(path))
    return ATTACHED.format(folder=folder.as_posix()) if layers or (folder / "text_encoder" / "adapter_config.json").is_file() else ""


def _names(path: Path) -> list[str]:
    try:
        return list(header(path)[0])
    except ParamsError:  # damaged weights are refused where they are read
        return []
