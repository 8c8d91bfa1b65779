"""Whether the parts of a pipeline's folder fit one another, as their configs say, before any weights are read."""

import json
from pathlib import Path

import numpy as np

from s2llib.models.tokens import encoder_config
from s2llib.params import ParamsError

__all__ = ["check_classes", "check_fit", "check_pixels", "check_schedule", "check_timesteps"]

CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
OTHERS = {
    5: "a depth-to-image model's",
    7: "an upscaler's",
    8: "that of an image editor such as InstructPix2Pix",
    9: "an inpainting model's",
}
BETAS = ("beta_schedule", "beta_start", "beta_end")


def check_classes(folder: Path, index: dict, key: str) -> None:
    """Raises ParamsError unless model_index.json names the classes of a Stable Diffusion for its parts."""
    for part, known in CLASSES.items():
        if (name := index[part][-1]) not in known:
            raise ParamsError(f"{key}: the {part} of {folder} is of class {name}; {known[0]} is needed, as in Stable Diffusion 1 and 2.")


def check_fit(folder: Path, key: str) -> None:
    """Raises ParamsError if UNet, VAE and text encoder of a folder do not belong together, or are those of another task."""
    unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
    channels, latents, width = unet.get("in_channels", 4), vae.get("latent_channels", 4), encoder_config(folder).get("hidden_size", 512)
    if channels != latents:
        kind = f", which is {OTHERS[channels]}" if channels in OTHERS else ""
        raise ParamsError(
            f"{key}: the UNet of {folder} takes {channels} channels{kind}, and its VAE's latents have {latents}; a text-to-image model and"
            " its own VAE are needed."
        )
    if unet.get("out_channels", 4) != channels:
        raise ParamsError(
            f"{key}: the UNet of {folder} takes {channels} channels and returns {unet['out_channels']}, a learned variance with the noise;"
            " a model that predicts the noise (or v) alone is needed."
        )
    crossed = unet.get("cross_attention_dim", 1280)
    crossed = set(crossed) if isinstance(crossed, list) else {crossed}
    if crossed != {width} and not unet.get("encoder_hid_dim"):
        raise ParamsError(
            f"{key}: the UNet of {folder} attends to prompts of width {max(crossed)} (cross_attention_dim), its text encoder makes them"
            f" {width} wide (hidden_size); copy both from the same model (Stable Diffusion 1: 768, 2: 1024)."
        )
    if not isinstance(unet.get("sample_size"), int):
        raise ParamsError(
            f"{key}: {folder / 'unet' / 'config.json'} states no sample_size, the edge of its latents; write it there (64 for images of 512"
            " pixels)."
        )


def check_pixels(folder: Path, key: str) -> None:
    """Raises ParamsError unless an unconditional UNet takes colour images of a stated size and predicts as many channels."""
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    channels = [unet.get(name, 3) for name in ("in_channels", "out_channels")]
    if channels != [3, 3] or not isinstance(unet.get("sample_size"), int):
        raise ParamsError(
            f"{key}: the UNet of {folder} takes {channels[0]} channels, returns {channels[1]} and has a sample_size of"
            f" {unet.get('sample_size')}; one that takes and returns the 3 of colour images, and states their edge in pixels, is needed."
        )


def check_schedule(folder: Path, index: dict, key: str) -> None:
    """Raises ParamsError unless a pipeline's scheduler says how noise grows, in a way that the attacks are defined for."""
    import diffusers

    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        prediction = config.get("prediction_type", "epsilon")
    except (OSError, ValueError, AttributeError):
        raise ParamsError(f"{key}: {path} is missing or no JSON; save the pipeline again with save_pretrained.") from None
    if prediction not in ("epsilon", "v_prediction"):
        raise ParamsError(f"{key}: {folder} predicts '{prediction}'; the attacks are defined for epsilon and v_prediction.")
    if lacking := [name for name in BETAS if name not in config and config.get("trained_betas") is None]:
        raise ParamsError(
            f"{key}: {path} states no {lacking[0]}, and a default is not this model's; copy the scheduler that it was trained with (Stable"
            ' Diffusion: "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012).'
        )
    name = index["scheduler"][-1]
    try:
        a = getattr(diffusers, name).from_config(config).alphas_cumprod.double().numpy()
    except Exception as error:  # what a config can be wrong in is without end
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ParamsError(
            f"{key}: the scheduler of {folder}, a {name}, has no cumulative alphas ({reason}), which attacks need; save the pipeline with"
            " the scheduler that it was trained with, such as DDIMScheduler."
        ) from None
    if not (np.isfinite(a).all() and (np.diff(a) < 0).all() and 0.5 < a[0] <= 1 and 0 <= a[-1] < 0.5):
        raise ParamsError(
            f"{key}: the betas of {path} make no noise schedule: its cumulative alphas go from {a[0]:.3g} to {a[-1]:.3g} and must fall from"
            " nearly 1 to nearly 0; copy the scheduler that the model was trained with."
        )


def check_timesteps(folder: Path, asked_by: str, last: int, key: str) -> None:
    """Raises ParamsError if the latest timestep that is asked, by the parameter `asked_by`, lies beyond the schedule of a folder."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    if last >= (steps := len(config.get("trained_betas") or ()) or config.get("num_train_timesteps", 1000)):
        raise ParamsError(f"{asked_by} reaches timestep {last}, but {folder} ({key}) was trained on {steps}, 0 to {steps - 1}; lower it.")
