"""Loading pipelines: a diffusers folder in, a `StableDiffusionPipeline` in float32 out. Safetensors only."""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from s2llib.models.fit import check_classes, check_fit, check_pixels, check_schedule
from s2llib.models.loading import check_part, load_part
from s2llib.models.single_file import attached, mistaken
from s2llib.models.tokens import encoder_config, load_tokenizer
from s2llib.params import Params, ParamsError, resolved

if TYPE_CHECKING:
    import torch

__all__ = ["base_folder", "check_folder", "check_unconditional", "load_pipeline", "pick_device", "pipeline_class"]

CONVERT = (
    'Where you trust them, convert them once: python -c "from diffusers import StableDiffusionPipeline as P;'
    " P.from_pretrained('{folder}', safety_checker=None).save_pretrained('{folder}-safe')\""
)
ONE_FILE = (
    'Save it as a folder once: python -c "from diffusers import StableDiffusionPipeline as P;'
    " P.from_single_file('{folder}', safety_checker=None).save_pretrained('{stem}')\""
)
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def pick_device(wanted: str) -> "torch.device":
    """`auto` is the GPU where there is one."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ParamsError("device is 'cuda' but no GPU is visible; set device to 'auto' or 'cpu'.")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # SecMI subtracts two close predictions: float32 must mean float32
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def check_folder(folder: Path) -> None:
    """Raises ParamsError unless the folder is a Stable Diffusion pipeline with safetensors weights, whole and of one model."""
    from transformers import CLIPModel

    index = folder / "model_index.json"
    if not index.is_file() and (reason := mistaken(folder)):
        raise ParamsError(f"base.path: {folder} {reason}")
    if folder.is_file():
        raise ParamsError(f"base.path: {folder} is one file; a diffusers folder is needed. {_one_file(folder)}")
    if not index.is_file():
        raise ParamsError(
            f"base.path: {folder} is no diffusers pipeline (it has no model_index.json);"
            " save one there, or name another base.path or a base.hub."
        )
    try:
        parts = json.loads(index.read_text())
    except json.JSONDecodeError:
        raise ParamsError(f"base.path: {index} is not JSON; save the pipeline again with save_pretrained.") from None
    if parts.get("_class_name") != "StableDiffusionPipeline":
        raise ParamsError(f"base.path: {folder} holds a {parts.get('_class_name')}; a StableDiffusionPipeline is needed.")
    if reason := attached(folder):
        raise ParamsError(f"base.path: {folder} {reason}")
    for part in PARTS:
        if not parts.get(part, [None])[0] or not (folder / part).is_dir():
            raise ParamsError(f"base.path: {folder} has no {part}; a Stable Diffusion pipeline needs {', '.join(PARTS)}.")
    check_classes(folder, parts, "base.path")
    for part in PARTS[:3]:
        _check_weights(folder, part)
    if not any((folder / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ParamsError(f"base.path: {folder / 'tokenizer'} has no tokenizer.json and no vocab.json; copy the model's folder again.")
    check_schedule(folder, parts, "base.path")
    for part, kind in _kinds().items():
        check_part(kind, folder / part, "base.path", part.replace("_", " "))
    if (folder / "clip").is_dir():
        check_part(CLIPModel, folder / "clip", "base.path")
    check_fit(folder, "base.path")
    load_tokenizer(folder / "tokenizer", encoder_config(folder), "base.path")


def _kinds() -> dict[str, type]:
    """The class of each part that has weights; a text encoder with a projection is asked for its hidden states alone."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def _one_file(path: Path) -> str:
    """How a single-file checkpoint becomes a folder."""
    if path.suffix == ".safetensors":
        return ONE_FILE.format(folder=path, stem=path.with_suffix(""))
    return (
        f"A {path.suffix or 'nameless'} file is pickled: convert it only where you trust it. {ONE_FILE.format(folder=path, stem=path.stem)}"
    )


def _check_weights(folder: Path, part: str) -> None:
    """Raises ParamsError unless a part has its config and safetensors weights; pickled ones are never loaded."""
    at = folder / part
    if not (at / "config.json").is_file():
        raise ParamsError(f"base.path: {at} has no config.json; copy the model's folder again.")
    weights, whole = list(at.glob("*.safetensors")), {"text_encoder": "model"}.get(part, "diffusion_pytorch_model") + ".safetensors"
    pickled = sorted(path.name for kind in ("*.bin", "*.ckpt", "*.pt", "*.pth") for path in at.glob(kind))
    if not weights and pickled:
        raise ParamsError(
            f"base.path: {at} has no .safetensors weights but pickled ones ({pickled[0]}), which are never loaded: unpickling runs what is"
            f" in them. {CONVERT.format(folder=folder)}"
        )
    if not weights:
        raise ParamsError(
            f"base.path: {at} has no .safetensors weights; copy the model's folder again"
            " (pickled ones of a model on the hub are not fetched)."
        )
    if not ((at / whole).is_file() or (at / f"{whole}.index.json").is_file()):
        raise ParamsError(f"base.path: {at} has {weights[0].name} but no {whole}, which is what is loaded; rename or copy it.")


def pipeline_class(folder: Path) -> str | None:
    """The class of the pipeline in a folder; None where there is none."""
    try:
        return json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        return None


def check_unconditional(folder: Path) -> None:
    """Raises ParamsError unless the folder is a DDPMPipeline with safetensors weights."""
    from diffusers import UNet2DModel

    if pipeline_class(folder) != "DDPMPipeline" or not list((folder / "unet").glob("*.safetensors")):
        raise ParamsError(f"zero_prior.path: {folder} is no DDPMPipeline with .safetensors weights; save one there, or set it to null.")
    check_schedule(folder, json.loads((folder / "model_index.json").read_text()), "zero_prior.path")
    check_part(UNet2DModel, folder / "unet", "zero_prior.path")
    check_pixels(folder, "zero_prior.path")


def load_pipeline(folder: Path):
    """The pipeline of a folder, in float32, evaluation mode, no gradients, no network; raises ParamsError as `load_part`."""
    from diffusers import StableDiffusionPipeline

    parts = {part: load_part(kind, folder / part, "base.path", part.replace("_", " ")) for part, kind in _kinds().items()}
    parts["tokenizer"] = load_tokenizer(folder / "tokenizer", encoder_config(folder), "base.path")
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, **parts, local_files_only=True, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def base_folder(params: Params) -> Path | None:
    """Where a base model that is not trained here lies; downloads it only if `base.hub` asks for that."""
    if params.trains_base:
        return None
    return _downloaded(params.base.hub) if params.base.hub else resolved(params.base.path)


@lru_cache
def _downloaded(name: str) -> Path:
    """The folder of a pipeline of the hub, asked for once in a process."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = [f"{part}/{kind}" for part in PARTS for kind in ("*.json", "*.txt", "*.safetensors")]
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", *wanted], ignore_patterns=["*.fp16.*", "*non_ema*"]))
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ParamsError(f"base.hub: {name} cannot be downloaded ({reason}); check its name and the network.") from None
