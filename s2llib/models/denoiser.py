"""The view of a diffusion model that every attack uses: latents, prompts, noise predictions, and what they cost."""

import torch
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.models.finite import finite
from s2llib.models.hardware import autocast, computes_on, in_batches

__all__ = ["Denoiser", "token_ids"]


def token_ids(pipeline, texts: list[str]) -> Tensor:
    """[n, tokens] ids of prompts, padded and cut to the length that `load_tokenizer` settled; of a token with several vectors, all."""
    tokenizer = pipeline.tokenizer
    texts = pipeline.maybe_convert_prompt(texts, tokenizer)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


class Denoiser:
    """eps(z, t, c) of a `StableDiffusionPipeline`, in float32, in batches, with a count of UNet evaluations.

    Raises ParamsError where a latent, a prompt embedding or a prediction is no number.

    Of a `DDPMPipeline` too, an unconditional `UNet2DModel`: z0 is then the image in [-1, 1], and the prompts are empty.
    a: [T] cumulative alphas, read from the pipeline's scheduler. evaluations: UNet evaluations so far, one per image
    and timestep. prediction: `epsilon` or `v_prediction`; `check_folder` admits no other. batch: halved where memory does not suffice.
    precision: of `predict`, which trains; `eps` is always in float32.
    """

    def __init__(self, pipeline, batch: int = 128, precision: str = "float32"):
        self.pipeline, self.batch, self.precision = pipeline, batch, precision
        self.device = computes_on(pipeline)
        self.a = pipeline.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.prediction = pipeline.scheduler.config.prediction_type
        self.evaluations = 0
        self.conditional = hasattr(pipeline, "text_encoder")

    @property
    def size(self) -> int:
        """Edge of the images in pixels."""
        return self.pipeline.unet.config.sample_size * (self.pipeline.vae_scale_factor if self.conditional else 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """z0 [n, ch, h, w] of pixels [n, 3, H, W] in [0, 1]: the posterior's mode times the VAE's scaling factor."""
        if not self.conditional:
            return pixels.to(self.device) * 2 - 1
        vae = self.pipeline.vae
        encoded = self._batches("Latents", lambda some: vae.encode(some.to(self.device) * 2 - 1).latent_dist.mode(), pixels)
        return encoded * vae.config.scaling_factor

    def encode_photos(self, photos: Photos) -> Tensor:
        """z0 of image files, a batch in memory at a time."""
        return torch.cat([self.encode(pixels) for pixels in photos.batches(self.size, self.batch)])

    @torch.no_grad()
    def prompts(self, texts: list[str]) -> Tensor:
        """c [n, tokens, dim]: last hidden states of the text encoder; [n, 0, 0] without one."""
        if not self.conditional:
            return torch.zeros(len(texts), 0, 0, device=self.device)
        ids = token_ids(self.pipeline, texts).to(self.device)
        return self._batches("Prompt embeddings", lambda some: self.pipeline.text_encoder(some)[0], ids)

    @torch.no_grad()
    def eps(self, z: Tensor, t: int | Tensor, c: Tensor) -> Tensor:
        """Predicted noise, like z [n, ch, h, w]. t: a timestep or [n] of them; c: [n or 1, tokens, dim]."""
        predicted = self.raw(z, t, c)
        if self.prediction == "v_prediction":
            a = self.a[torch.as_tensor(t, device=z.device).expand(len(z))].view(-1, 1, 1, 1)
            return a.sqrt() * predicted + (1 - a).sqrt() * z
        return predicted

    @torch.no_grad()
    def raw(self, z: Tensor, t: int | Tensor, c: Tensor) -> Tensor:
        """What the UNet returns of z, whatever it predicts; arguments as `eps`."""
        n = len(z)
        inputs = (z, torch.as_tensor(t, device=z.device).expand(n)) + ((c.expand(n, -1, -1),) if self.conditional else ())
        predicted = self._batches("Predictions of the UNet", lambda *part: self.pipeline.unet(*part).sample, *inputs)
        self.evaluations += n
        return predicted

    def predict(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        """What the UNet predicts of noised latents x [n, ch, h, w], like x, with gradients, computed in `precision`."""
        with autocast(x.device, self.precision):
            predicted = self.pipeline.unet(x, t, c).sample
        return predicted.to(x.dtype)

    def _batches(self, what: str, call, *inputs: Tensor) -> Tensor:
        found, self.batch = in_batches(call, inputs, self.batch)
        return finite(found, what, self.pipeline)
