"""The view of a diffusion model that every attack uses: latents, prompts, noise predictions, and what they cost."""

import torch
from torch import Tensor

from s2llib.data.domain import Photos

__all__ = ["Denoiser"]


class Denoiser:
    """eps(z, t, c) of a `StableDiffusionPipeline`, in float32, in batches, with a count of UNet evaluations.

    a: [T] cumulative alphas, read from the pipeline's scheduler. evaluations: UNet evaluations so far, one per image
    and timestep. prediction: `epsilon` or `v_prediction`; `check_folder` admits no other.
    """

    def __init__(self, pipeline, batch: int = 128):
        self.pipeline, self.batch = pipeline, batch
        self.device = pipeline.unet.device
        self.a = pipeline.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.prediction = pipeline.scheduler.config.prediction_type
        self.evaluations = 0

    @property
    def size(self) -> int:
        """Edge of the images in pixels."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """z0 [n, ch, h, w] of pixels [n, 3, H, W] in [0, 1]: the posterior's mode times the VAE's scaling factor."""
        vae = self.pipeline.vae
        chunks = (pixels.to(self.device) * 2 - 1).split(self.batch)
        return torch.cat([vae.encode(x).latent_dist.mode() for x in chunks]) * vae.config.scaling_factor

    def encode_photos(self, photos: Photos) -> Tensor:
        """z0 of image files, a batch in memory at a time."""
        return torch.cat([self.encode(pixels) for pixels in photos.batches(self.size, self.batch)])

    @torch.no_grad()
    def prompts(self, texts: list[str]) -> Tensor:
        """c [n, tokens, dim]: last hidden states of the text encoder."""
        tokenizer = self.pipeline.tokenizer
        texts = self.pipeline.maybe_convert_prompt(texts, tokenizer)
        ids = tokenizer(
            texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids  # fmt: skip
        return torch.cat([self.pipeline.text_encoder(chunk)[0] for chunk in ids.to(self.device).split(self.batch)])

    @torch.no_grad()
    def eps(self, z: Tensor, t: int | Tensor, c: Tensor) -> Tensor:
        """Predicted noise, like z [n, ch, h, w]. t: a timestep or [n] of them; c: [n or 1, tokens, dim]."""
        n = len(z)
        t = torch.as_tensor(t, device=z.device).expand(n)
        c = c.expand(n, -1, -1)
        parts = zip(z.split(self.batch), t.split(self.batch), c.split(self.batch), strict=True)
        predicted = torch.cat([self.pipeline.unet(*part).sample for part in parts])
        self.evaluations += n
        if self.prediction == "v_prediction":
            a = self.a[t].view(-1, 1, 1, 1)
            return a.sqrt() * predicted + (1 - a).sqrt() * z
        return predicted
