"""Fine-tuning a pipeline on images it generated: one denoising loss for every method."""

from pathlib import Path

import torch
import torch.nn.functional as F
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.finetune.methods import Method, adapter, trainable_parameters
from s2llib.loop import train
from s2llib.models.denoiser import Denoiser
from s2llib.models.pipeline import load_pipeline
from s2llib.params import Recipe

__all__ = ["FINETUNE_VERSION", "finetune", "load_finetuned", "save_finetuned"]

FINETUNE_VERSION = 1


class _Prompts:
    """c for a batch of images: embedded once where the text encoder is frozen, else anew in every step."""

    def __init__(self, pipeline, texts: list[str], frozen: bool):
        self.texts = sorted(set(texts))
        self.which = torch.tensor([self.texts.index(text) for text in texts])
        self.encoder, tokenizer = pipeline.text_encoder, pipeline.tokenizer
        length = tokenizer.model_max_length
        self.ids = tokenizer(self.texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
        self.ids = self.ids.to(self.encoder.device)
        with torch.no_grad():
            self.once = self.encoder(self.ids)[0] if frozen else None

    def __call__(self, images: Tensor) -> Tensor:
        """[b, tokens, dim] for the images with these indices."""
        c = self.encoder(self.ids)[0] if self.once is None else self.once
        return c[self.which[images]]


def finetune(
    pipeline, how: Method, recipe: Recipe, images: Photos, instance_prompt: str, seed: int, what: str, prior: Photos | None = None,
    encode_batch: int = 128, checkpoint: Path | None = None,
) -> dict:  # fmt: skip
    """Train `pipeline` in place on `images`; returns {"loss": of every step, "trainable": number of parameters}.

    The loss is the noise-prediction error on each image with its prompt; with `prior` (images of the class with
    their prompts), recipe.prior_weight times the same error on a prior batch is added (DreamBooth's prior
    preservation; MixSyn, equation 6).
    """
    torch.manual_seed(seed)
    denoiser = Denoiser(pipeline, encode_batch)
    parameters = trainable_parameters(pipeline, how, recipe)
    texts = [instance_prompt] * len(images) if how.instance_prompt else list(images.captions)
    batches = [(1.0, denoiser.encode_photos(images), _Prompts(pipeline, texts, frozen=not how.text_encoder))]
    if prior is not None and recipe.prior_weight > 0:
        prompts = _Prompts(pipeline, list(prior.captions), frozen=not how.text_encoder)
        batches.append((recipe.prior_weight, denoiser.encode_photos(prior), prompts))

    def loss(step: int, draw: torch.Generator) -> Tensor:
        return sum(weight * _denoising_loss(denoiser, z0, c, recipe.batch, draw) for weight, z0, c in batches)

    losses = train(parameters, loss, steps=recipe.steps, lr=recipe.lr, warmup=recipe.warmup, seed=seed, what=what, checkpoint=checkpoint)
    pipeline.unet.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    return {"loss": losses, "trainable": sum(p.numel() for p in parameters)}


def _denoising_loss(denoiser: Denoiser, z0: Tensor, prompts: _Prompts, batch: int, draw: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise on a random batch at uniform timesteps (Ho et al. 2020, equation 14).

    A v-prediction model is trained on v = sqrt(a) noise - sqrt(1-a) z0 (Salimans & Ho 2022).
    """
    which = torch.randint(len(z0), (batch,), generator=draw)
    t = torch.randint(0, len(denoiser.a), (batch,), generator=draw).to(z0.device)
    z, a = z0[which.to(z0.device)], denoiser.a[t].view(-1, 1, 1, 1)
    noise = torch.randn(z.shape, generator=draw).to(z)
    target = a.sqrt() * noise - (1 - a).sqrt() * z if denoiser.prediction == "v_prediction" else noise
    return F.mse_loss(denoiser.pipeline.unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, prompts(which)).sample, target)


def save_finetuned(pipeline, how: Method, recipe: Recipe, folder: Path) -> None:
    """A whole pipeline, or LoRA weights that plain diffusers loads with `load_lora_weights` (rank and alpha included)."""
    if not how.lora:
        pipeline.save_pretrained(folder)
        return
    parts = ["unet", "text_encoder"] if how.text_encoder else ["unet"]
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(getattr(pipeline, part)) for part in parts}
    metadata = {f"{part}_lora_adapter_metadata": adapter(part, recipe).to_dict() for part in parts}
    pipeline.save_lora_weights(folder, **layers, **metadata, safe_serialization=True)


def load_finetuned(base: Path, folder: Path):
    """The fine-tuned pipeline; LoRA weights are fused into the base, so that it costs no more to query."""
    if (folder / "model_index.json").is_file():
        return load_pipeline(folder)
    pipeline = load_pipeline(base)
    pipeline.load_lora_weights(folder, local_files_only=True)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline
