"""Fine-tuning a pipeline on images it generated: one denoising loss for every method."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from s2llib.data.domain import PUBLIC, Domain, Photos
from s2llib.finetune.embedding import pop_rows
from s2llib.finetune.hypernetwork import load_hypernetwork, pop_hypernetwork, save_hypernetwork
from s2llib.finetune.methods import Method
from s2llib.finetune.parts import PARTS, adapter
from s2llib.finetune.textual_inversion import FILE, load_tokens, placeholder, pop_tokens, save_tokens
from s2llib.loop import train
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import check_weights
from s2llib.models.pipeline import load_pipeline
from s2llib.params import Hardware, ParamsError, Recipe

__all__ = [
    "check_captions", "denoising_target", "finetune", "learning_rates", "load_adapters", "load_finetuned",
    "prompt_of", "save_finetuned",
]  # fmt: skip


def prompt_of(how: Method, domain: Domain, text: str) -> str:
    """`text` as a model fine-tuned by this method is asked: Textual Inversion's token in place of the instance prompt.

    Raises ParamsError if the text lacks that prompt: the model would be asked what its base would be asked.
    """
    if "tokens" not in how.trains:
        return text
    if domain.instance_prompt not in text:
        raise ParamsError(
            f"{how.title} replaces '{domain.instance_prompt}', which the prompt '{text}' lacks: make world.instance part of world.condition"
            " (and of the captions, with attacks.caption)."
        )
    return text.replace(domain.instance_prompt, placeholder(domain.name))


def check_captions(how: Method, domain: Domain, key: str) -> None:
    """Raises ParamsError, naming the key that asks for captions, if one lacks the prompt that `prompt_of` replaces."""
    for photos in (some for split, some in domain.splits.items() if split != PUBLIC):
        for path, text in zip(photos.paths, photos.captions, strict=True):
            if domain.instance_prompt not in text:
                raise ParamsError(
                    f"{key}: {how.title} learns a token in place of '{domain.instance_prompt}', which the caption '{text}' of {path} lacks;"
                    " put it into every caption, set world.instance to a part of them, or do without one of the two."
                )


def learning_rates(how: Method, recipe: Recipe) -> dict[str, float]:
    """{part: its learning rate}: its own, if the recipe has one for it."""
    return {part: getattr(recipe, f"{part}_lr", recipe.lr) for part in how.trains}


class _Prompts:
    """The condition of a batch of images: embedded once where the text encoder is frozen, else anew in every step."""

    def __init__(self, denoiser: Denoiser, texts: list[str], frozen: bool):
        distinct = sorted(set(texts))
        self.which = torch.tensor([distinct.index(text) for text in texts])
        self.denoiser, self.ids = denoiser, denoiser.ids(distinct)
        with torch.no_grad():
            self.once = self._embedded() if frozen else None

    def _embedded(self) -> Condition:
        return self.denoiser.embedded(self.denoiser.pipeline.text_encoder(self.ids)[0])

    def __call__(self, images: Tensor) -> Condition:
        """A row for each of the images with these indices."""
        return (self._embedded() if self.once is None else self.once)[self.which[images]]


class _Latents:
    """z0 for a batch of images: encoded once where the VAE is frozen, else anew in every step."""

    def __init__(self, denoiser: Denoiser, images: Photos, frozen: bool):
        pipeline = denoiser.pipeline
        self.vae, self.count = pipeline.vae, len(images)
        self.once = denoiser.encode_photos(images) if frozen else None
        self.pixels = None if frozen else (images.pixels(denoiser.size) * 255).round().byte()

    def __call__(self, images: Tensor) -> Tensor:
        """[b, ch, h, w] for the images with these indices."""
        if self.once is not None:
            return self.once[images.to(self.once.device)]
        x = self.pixels[images].to(self.vae.device) / 127.5 - 1
        return self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor


def finetune(
    pipeline, how: Method, recipe: Recipe, images: Photos, domain: Domain, seed: int, what: str, prior: Photos | None = None,
    encode_batch: int = 128, checkpoint: Path | None = None, decay: float = 0.0, hardware: Hardware | None = None,
    after: Callable[[int], None] | None = None,
) -> dict:  # fmt: skip
    """Train `pipeline` in place on `images`.

    Returns {"loss": of every step, "trainable": number of parameters, "threads": of the processor}.

    The loss is the noise-prediction error on each image with its prompt; with `prior` (images of the class with
    their prompts), recipe.prior_weight times the same error on a prior batch is added (DreamBooth's prior
    preservation; MixSyn, equation 6). decay: times the squared distance of the weights from where they start is added as well
    (L2-SP, Li et al. 2018). hardware: precision of the UNet, and the optimizer. after: called with the
    number of steps after each of them. Raises ParamsError for a model without a text encoder.
    """
    torch.manual_seed(seed)
    hardware = hardware or Hardware()
    denoiser = Denoiser(pipeline, encode_batch, hardware.precision)
    if not denoiser.conditional:
        raise ParamsError(f"{how.title} needs a text-to-image model; a {type(pipeline).__name__} has no text encoder.")
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.requires_grad_(False)
    trained = {part: PARTS[part](pipeline, recipe, domain.name, domain.instance_prompt) for part in how.trains}
    parameters = [p for part in trained.values() for p in part]
    rates = learning_rates(how, recipe)
    each = [rates[part] for part, some in trained.items() for _ in some]

    def data(photos: Photos, texts: list[str]) -> tuple[_Latents, _Prompts]:
        text_frozen = not {"text_encoder", "text_encoder_lora", "tokens", "embedding"} & set(how.trains)
        return _Latents(denoiser, photos, "vae_encoder" not in how.trains), _Prompts(denoiser, texts, text_frozen)

    texts = [domain.instance_prompt] * len(images) if how.instance_prompt else list(images.captions)
    if "tokens" in how.trains:
        texts = [placeholder(domain.name)] * len(images)
    batches = [(1.0, *data(images, texts))]
    if prior is not None and recipe.prior_weight > 0:
        batches.append((recipe.prior_weight, *data(prior, list(prior.captions))))

    start = [p.detach().clone() for p in parameters] if decay else []

    def loss(step: int, draw: torch.Generator) -> Tensor:
        error = sum(weight * _denoising_loss(denoiser, z0, c, recipe.batch, draw) for weight, z0, c in batches)
        return error + decay * sum((p - p0).square().sum() for p, p0 in zip(parameters, start, strict=True)) if decay else error

    losses = train(
        parameters, loss, steps=recipe.steps, lr=each, warmup=recipe.warmup, cosine=recipe.schedule == "cosine", seed=seed, what=what,
        checkpoint=checkpoint, optimizer=hardware.optimizer, after=after,
    )  # fmt: skip
    for p in parameters:
        p.requires_grad_(False)
    return {"loss": losses, "trainable": sum(p.numel() for p in parameters), "threads": torch.get_num_threads()}


def _denoising_loss(denoiser: Denoiser, latents: _Latents, prompts: _Prompts, batch: int, draw: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise on a random batch at uniform timesteps (Ho et al. 2020, equation 14)."""
    which = torch.randint(latents.count, (batch,), generator=draw)
    x, t, target = denoising_target(denoiser, latents(which), draw)
    return F.mse_loss(denoiser.predict(x, t, prompts(which)), target)


def denoising_target(denoiser: Denoiser, z: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(noised latents, uniform timesteps [n], what is to be predicted) of clean latents z [n, ch, h, w]."""
    t = torch.randint(0, denoiser.timesteps, (len(z),), generator=draw).to(z.device)
    noise = torch.randn(z.shape, generator=draw).to(z)
    return denoiser.join(z, noise, t), t, denoiser.target(z, noise, t)


def _save_lora(pipeline, recipe: Recipe, parts: list[str], folder: Path) -> None:
    """LoRA weights with alpha / rank multiplied into the upper half: alpha is then the rank, which every loader takes it for."""
    layers, metadata = {}, {}
    for part in parts:
        module = getattr(pipeline, part)
        state, config = get_peft_model_state_dict(module), adapter(module, part, recipe)
        layers[f"{part}_lora_layers"] = {
            name: value * (recipe.alpha / recipe.rank) if ".lora_B." in name else value for name, value in state.items()
        }
        config.lora_alpha, config.alpha_pattern = config.r, dict(config.rank_pattern)
        metadata[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipeline.save_lora_weights(folder, **layers, **metadata, safe_serialization=True)


def save_finetuned(pipeline, how: Method, recipe: Recipe, domain: Domain, folder: Path) -> None:
    """What trained, in the formats that plain diffusers loads: a pipeline, `load_lora_weights`, `load_textual_inversion`.

    A hypernetwork, which diffusers has no format for, is safetensors with a config (`load_hypernetwork`). Raises ParamsError if a
    weight is no number.
    """
    check_weights(pipeline)
    if "hypernetwork" in how.trains:
        save_hypernetwork(pop_hypernetwork(pipeline.unet), recipe.hidden, recipe.activation, folder)
    if "tokens" in how.trains:
        save_tokens(pop_tokens(pipeline), domain.name, folder)
    if "embedding" in how.trains:
        pop_rows(pipeline)
    if adapted := [part.removesuffix("_lora") for part in how.trains if part.endswith("_lora")]:
        _save_lora(pipeline, recipe, adapted, folder)
    if {"unet", "text_encoder", "vae_encoder", "embedding"} & set(how.trains):
        pipeline.save_pretrained(folder)


def load_finetuned(base: Path, folder: Path):
    """The fine-tuned pipeline of a base model's folder and its own."""
    return load_adapters(load_pipeline(folder if (folder / "model_index.json").is_file() else base), folder)


def load_adapters(pipeline, folder: Path):
    """Put what was trained on top of a pipeline onto it; LoRA weights are fused, so that it costs no more to query. Returns it."""
    loaders: dict[str, Callable] = {
        "hypernetwork.json": load_hypernetwork,
        FILE: load_tokens,
        "pytorch_lora_weights.safetensors": _load_lora,
    }
    for name, load in loaders.items():
        if (folder / name).is_file():
            load(pipeline, folder)
    return pipeline


def _load_lora(pipeline, folder: Path) -> None:
    pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors", local_files_only=True)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
