"""Loading pipelines: a diffusers folder in, a `StableDiffusionPipeline` in float32 out. Safetensors only."""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from s2llib.models.single_file import attached, mistaken
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
PREDICTIONS = ("epsilon", "v_prediction")
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
    """Raises ParamsError unless the folder is a Stable Diffusion pipeline with safetensors weights."""
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
    for part in PARTS[:3]:
        _check_weights(folder, part)
    if not any((folder / "tokenizer" / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ParamsError(f"base.path: {folder / 'tokenizer'} has no tokenizer.json and no vocab.json; copy the model's folder again.")
    schedule = folder / "scheduler" / "scheduler_config.json"
    try:
        prediction = json.loads(schedule.read_text()).get("prediction_type", "epsilon")
    except (OSError, ValueError):
        raise ParamsError(f"base.path: {schedule} is missing or no JSON; save the pipeline again with save_pretrained.") from None
    if prediction not in PREDICTIONS:
        raise ParamsError(f"base.path: {folder} predicts '{prediction}'; the attacks are defined for {' and '.join(PREDICTIONS)}.")


def _one_file(path: Path) -> str:
    """How a single-file checkpoint becomes a folder."""
    if path.suffix == ".safetensors":
        return ONE_FILE.format(folder=path, stem=path.with_suffix(""))
    return (
        f"A {path.suffix or 'nameless'} file is pickled: convert it only where you trust it. {ONE_FILE.format(folder=path, stem=path.stem)}"
    )


def _check_weights(folder: Path, part: str) -> None:
    """Raises ParamsError unless a part has its config and whole safetensors weights; pickled ones are never loaded."""
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
    for index in at.glob("*.safetensors.index.json"):
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not (at / shard).is_file():
                raise ParamsError(f"base.path: {at} lacks {shard}, which {index.name} names; copy the model's folder again.")
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ParamsError(f"base.path: {path} is damaged ({error}); copy the model's folder again.") from None


def pipeline_class(folder: Path) -> str | None:
    """The class of the pipeline in a folder; None where there is none."""
    try:
        return json.loads((folder / "model_index.json").read_text()).get("_class_name")
    except (OSError, ValueError):
        return None


def check_unconditional(folder: Path) -> None:
    """Raises ParamsError unless the folder is a DDPMPipeline with safetensors weights."""
    if pipeline_class(folder) != "DDPMPipeline" or not list((folder / "unet").glob("*.safetensors")):
        raise ParamsError(f"zero_prior.path: {folder} is no DDPMPipeline with .safetensors weights; save one there, or set it to null.")
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if (prediction := schedule.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise ParamsError(f"zero_prior.path: {folder} predicts '{prediction}'; the attacks are defined for {' and '.join(PREDICTIONS)}.")


def _quiet() -> None:
    """No bars and notes from the libraries: a study loads hundreds of models."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def load_pipeline(folder: Path):
    """The pipeline of a folder, in float32, evaluation mode, no gradients, no network."""
    import torch
    from diffusers import StableDiffusionPipeline

    _quiet()
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
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
