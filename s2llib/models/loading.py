"""Loading one part of a model: every tensor is the file's own, none is drawn at random, left out or read in another meaning."""

import json
import os
import re
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from s2llib.models.hardware import is_out_of_memory
from s2llib.params import ParamsError

__all__ = ["check_part", "load_part", "part_config"]

# what weights may be stored as: of 8-bit floats the plain cast alone, since the scales of others are tensors that no model knows
TYPES = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "BOOL"}
# tensors that a file may hold or lack because nothing that is asked of the part depends on them
EXTRA = {
    # of a whole CLIP pair, whose text tower is asked alone
    "text encoder": r"(text_projection|logit_scale|vision_model|visual_projection)\b",
    # heads, and a text tower: the last hidden states are asked
    "encoder": r"(classifier|cls_classifier|distillation_classifier|lm_head|text_model|text_projection|visual_projection|logit_scale)\b",
}
LACKING = {"encoder": r"pooler\b"}  # which comes after the last hidden states
STRIP = (
    "every name begins with '{prefix}', which a wrapper put there; take it off: python -c \"from safetensors.torch import load_file as r,"
    " save_file as w; f = '{file}'; w({{k.removeprefix('{prefix}'): v for k, v in r(f).items()}}, f, {{'format': 'pt'}})\""
)


def load_part(kind: type, folder: Path | str, key: str, role: str = ""):
    """The model of class `kind` of a folder, or of a name on the hub: in float32, evaluation mode, without gradients.

    key: the parameter that names the folder; role: `text encoder` or `encoder`, for what may be more or less in its file. Raises
    ParamsError, with the mend, unless the file holds exactly the model's tensors, as floating-point numbers.
    """
    return _load(kind, folder, key, role).eval().requires_grad_(False)


def check_part(kind: type, folder: Path, key: str, role: str = "") -> None:
    """Raises ParamsError where `load_part` would; reads the headers of the files alone, once as long as names, sizes and times stay."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    _check_once(kind, folder, key, role, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=256)
def _check_once(kind: type, folder: Path, key: str, role: str, _files: tuple) -> None:
    _load(kind, folder, key, role, device_map="meta")


def _load(kind: type, folder: Path | str, key: str, role: str, **how):
    local = Path(folder).is_dir()
    stored = _stored(Path(folder), key) if local else {}
    _quiet()
    try:
        model, found = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=local, use_safetensors=True, ignore_mismatched_sizes=True,
            output_loading_info=True, **how,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ParamsError(f"{key}: {folder} cannot be loaded as {kind.__name__} ({reason}); copy the model's folder again.") from None
    _check_found(found, stored, f"{key}: {folder}", role)
    return model


def _quiet() -> None:
    """No bars and notes from the libraries, since a study loads hundreds of models: what their reports say is read here."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _check_found(found: dict, stored: dict[str, Path], where: str, role: str) -> None:
    """Raises ParamsError if a loading report lists tensors that are missing, unknown or of another shape."""
    missing = sorted(name for name in found["missing_keys"] if not re.match(LACKING.get(role, "$"), name))
    unknown = sorted(name for name in found["unexpected_keys"] if not re.match(EXTRA.get(role, "$"), name))
    reshaped = sorted(found["mismatched_keys"])
    complaints = [f"{len(missing)} of its model's tensors are missing (such as '{missing[0]}')"] if missing else []
    complaints += [f"{len(unknown)} are of another model (such as '{unknown[0]}')"] if unknown else []
    if reshaped:
        name, has, wants = reshaped[0]
        complaints.append(f"{len(reshaped)} have another shape than its config.json says (such as '{name}', {list(has)} for {list(wants)})")
    if complaints:
        raise ParamsError(f"{where} does not hold the weights of its model: {', '.join(complaints)}; {_mend(missing, unknown, stored)}.")


def _mend(missing: list[str], unknown: list[str], stored: dict[str, Path]) -> str:
    prefixes = {name.removesuffix(other) for name in unknown for other in missing if name.endswith("." + other) or name == other}
    outer = min(prefixes, key=len, default="")
    files = {stored.get(name) for name in unknown}
    if outer and len(files) == 1 and None not in files and all(name.startswith(outer) for name in unknown):
        return STRIP.format(prefix=outer, file=files.pop())
    return "copy the model's folder again, or save this part again with save_pretrained, config.json and weights together"


def _stored(folder: Path, key: str) -> dict[str, Path]:
    """{tensor: its file} of what is loaded from a part's folder; raises ParamsError for files that are damaged, incomplete or quantised."""
    if part_config(folder, key).get("quantization_config"):
        raise ParamsError(f"{key}: {folder} was saved quantised (quantization_config in its config.json); take the model's full weights.")
    found: dict[str, Path] = {}
    for file, listed in _files(folder, key).items():
        try:
            with safe_open(file, "pt") as weights:
                types = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ParamsError(f"{key}: {file} is damaged ({error}); copy the model's folder again.") from None
        if listed and (wrong := sorted(listed ^ set(types))):
            raise ParamsError(f"{key}: {file} and its index do not name the same tensors ('{wrong[0]}'); copy the model's folder again.")
        if whole := sorted(name for name, kind in types.items() if kind not in TYPES):
            raise ParamsError(
                f"{key}: {file} is quantised ({len(whole)} tensors of type {types[whole[0]]}, such as '{whole[0]}'), and would be read as"
                " whole numbers; take the model's full weights."
            )
        found |= dict.fromkeys(types, file)
    return found


def part_config(folder: Path, key: str) -> dict:
    """The config.json of a part's folder; raises ParamsError where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ParamsError(f"{key}: {folder / 'config.json'} is missing or no JSON; copy the model's folder again.")
    return config


def _files(folder: Path, key: str) -> dict[Path, set[str]]:
    """{file: the tensors that an index lists for it; empty without an index} of the weights that the libraries load from a folder."""
    for stem in ("diffusion_pytorch_model", "model"):
        whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if not index.is_file():
            if whole.is_file():
                return {whole: set()}
            continue
        shards: dict[Path, set[str]] = {}
        try:
            for name, shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
                shards.setdefault(folder / os.fspath(shard), set()).add(name)
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ParamsError(f"{key}: {index} is no index of weights; copy the model's folder again.") from None
        for shard in sorted(shards):
            if not shard.is_file():
                raise ParamsError(f"{key}: {folder} lacks {shard.name}, which {index.name} names; copy the model's folder again.")
        if whole.is_file():
            raise ParamsError(f"{key}: {folder} holds its weights twice, as {whole.name} and by {index.name}; remove one of them.")
        return shards
    return {}
