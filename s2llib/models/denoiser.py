"""The view of a diffusion model that every attack uses: latents, conditions, noise predictions, and what they cost."""

import torch
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.models.condition import Condition
from s2llib.models.finite import finite
from s2llib.models.hardware import autocast, computes_on, in_batches

__all__ = ["Denoiser", "token_ids"]


def token_ids(pipeline, texts: list[str]) -> Tensor:
    """[n, tokens] ids of prompts, padded and cut to the length that `load_tokenizer` settled; of a token with several vectors, all."""
    tokenizer = pipeline.tokenizer
    texts = pipeline.maybe_convert_prompt(texts, tokenizer)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt").input_ids


class Denoiser:
    """A `StableDiffusionPipeline` as x0 and noise: z = alpha(t) x0 + sigma(t) e, in float32, in batches, with a count of evaluations.

    Raises ParamsError where a latent, a prompt embedding or a prediction is no number.

    Of a `DDPMPipeline` too, an unconditional `UNet2DModel`: z0 is then the image in [-1, 1], and conditions are empty.
    timesteps: how many the model was trained with. evaluations: of the network so far, one per image and timestep. prediction: `epsilon`
    or `v_prediction`; `check_folder` admits no other. batch: halved where memory does not suffice. precision: of `predict`, which trains;
    `split` is always in float32.
    """

    def __init__(self, pipeline, batch: int = 128, precision: str = "float32"):
        self.pipeline, self.batch, self.precision = pipeline, batch, precision
        self.device = computes_on(pipeline)
        a = pipeline.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self._alpha, self._sigma, self.timesteps = a.sqrt(), (1 - a).sqrt(), len(a)
        self.prediction = pipeline.scheduler.config.prediction_type
        self.evaluations = 0
        self.conditional = hasattr(pipeline, "text_encoder")
        self._start: tuple | None = None

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
    def prompts(self, texts: list[str]) -> Condition:
        """What the network is conditioned on for these prompts, a row for each."""
        if not self.conditional:
            return Condition(rows=len(texts))
        return self.embedded(self._batches("Prompt embeddings", lambda some: self.pipeline.text_encoder(some)[0], self.ids(texts)))

    def ids(self, texts: list[str]) -> Tensor:
        """[n, tokens] ids of prompts, where the model computes."""
        return token_ids(self.pipeline, texts).to(self.device)

    @staticmethod
    def embedded(states: Tensor) -> Condition:
        """The condition of the text encoder's hidden states [n, tokens, dim]."""
        return Condition.of(encoder_hidden_states=states)

    # z = alpha(t) x0 + sigma(t) e

    def levels(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t), sigma(t): of images [n, ch, h, w], each [n or 1, 1, 1, 1]."""
        t = torch.as_tensor(t, device=self.device)
        return self._alpha[t].view(-1, 1, 1, 1), self._sigma[t].view(-1, 1, 1, 1)

    def join(self, x0: Tensor, e: Tensor, t: int | Tensor) -> Tensor:
        """z at timestep t [n or one] of clean latents x0 and noise e, like x0 [n, ch, h, w]."""
        alpha, sigma = self.levels(t)
        return alpha * x0 + sigma * e

    def target(self, x0: Tensor, e: Tensor, t: int | Tensor) -> Tensor:
        """What the network was trained to predict of `join(x0, e, t)`: the noise, or v = alpha e - sigma x0 (Salimans & Ho 2022)."""
        alpha, sigma = self.levels(t)
        return alpha * e - sigma * x0 if self.prediction == "v_prediction" else e

    @torch.no_grad()
    def split(self, z: Tensor, t: int | Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """x0 and e that the network sees in z [n, ch, h, w], like z; x0 is not clipped. One evaluation. c: a row an image, or one."""
        (alpha, sigma), predicted = self.levels(t), self.raw(z, t, c)
        if self.prediction == "v_prediction":
            return alpha * z - sigma * predicted, alpha * predicted + sigma * z
        return (z - sigma * predicted) / alpha, predicted

    @torch.no_grad()
    def raw(self, z: Tensor, t: int | Tensor, c: Condition) -> Tensor:
        """What the network returns of z, whatever it predicts; arguments as `split`."""
        n, each = len(z), torch.as_tensor(t, device=z.device).expand(len(z))
        call = lambda z, t, c: self.pipeline.unet(z, t, **c.tensors).sample  # noqa: E731
        predicted = self._batches("Predictions of the UNet", call, z, each, c.expand(n))
        self.evaluations += n
        return predicted

    def eps(self, z: Tensor, t: int | Tensor, c: Condition) -> Tensor:
        """The noise e that the network sees in z, like z. One evaluation."""
        return self.split(z, t, c)[1]

    def start(self, z0: Tensor, c: Condition) -> tuple[Tensor, Tensor]:
        """`split(z0, 0, c)`, kept for the attacks on the same latents and condition: several begin with it."""
        if self._start is None or self._start[0] is not z0 or self._start[1] is not c:
            self._start = z0, c, self.split(z0, 0, c)
        return self._start[2]

    def predict(self, x: Tensor, t: Tensor, c: Condition) -> Tensor:
        """What the network predicts of noised latents x [n, ch, h, w], like x, with gradients, computed in `precision`."""
        with autocast(x.device, self.precision):
            predicted = self.pipeline.unet(x, t, **c.tensors).sample
        return predicted.to(x.dtype)

    def _batches(self, what: str, call, *inputs: Tensor | Condition) -> Tensor:
        found, self.batch = in_batches(call, inputs, self.batch)
        return finite(found, what, self.pipeline)
