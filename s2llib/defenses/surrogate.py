"""The model that stands for whoever fine-tunes on the images: its loss is what a perturbation raises."""

import torch
from torch import Tensor

from s2llib.data.domain import Domain, Photos
from s2llib.finetune.parts import PARTS
from s2llib.finetune.recipe import denoising_target
from s2llib.loop import generator, train
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.params import Hardware
from s2llib.params import Surrogate as Settings

__all__ = ["Surrogate", "walk"]

KINDS = {"full": ("unet", "text_encoder"), "lora": ("unet_lora", "text_encoder_lora")}


def walk(n: int, batch: int, step: int, seed: int) -> Tensor:
    """[batch] indices of one step: through all n images in a drawn order, then in another one, and never back to the start."""
    places = range(step * batch, (step + 1) * batch)
    orders = {turn: torch.randperm(n, generator=generator(seed, turn)) for turn in {place // n for place in places}}
    return torch.stack([orders[place // n][place % n] for place in places])


class Surrogate:
    """A pipeline whose UNet and text encoder, or adapters on them, train a few DreamBooth steps at a time.

    Between its trainings nothing in it carries a gradient. prior: images of the class with their prompts, weighted by p.prior_weight.
    """

    def __init__(
        self, pipeline, p: Settings, domain: Domain, seed: int, prior: Photos | None = None, encode_batch: int = 128,
        hardware: Hardware | None = None,
    ):  # fmt: skip
        torch.manual_seed(seed)  # of the adapters' first values
        for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
            part.requires_grad_(False)
        self.hardware = hardware or Hardware()
        self.denoiser = Denoiser(pipeline, encode_batch, self.hardware.precision)
        self.p, self.seed, self.prompt = p, seed, domain.instance_prompt
        self.parameters = [q for part in KINDS[p.kind] for q in PARTS[part](pipeline, p, domain.name, self.prompt)]
        self._trainable(False)
        self.prior = (self.denoiser.encode_photos(prior), list(prior.captions)) if prior is not None and p.prior_weight else None

    def _trainable(self, flag: bool) -> None:
        for q in self.parameters:
            q.requires_grad_(flag)

    def condition(self) -> Condition:
        """That of the instance prompt, one row."""
        return self.denoiser.prompts([self.prompt])

    def state(self) -> list[Tensor]:
        """A copy of what trains."""
        return [q.detach().clone() for q in self.parameters]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Back to an earlier `state`."""
        for q, before in zip(self.parameters, state, strict=True):
            q.copy_(before)

    def train(self, x: Tensor, steps: int, turn: int, seed: int) -> list[float]:
        """So many steps of denoising on images x [n, 3, h, w] in [-1, 1]; returns the losses.

        turn: how many such trainings came before, so that the batches walk on through the images. Of many images only those are encoded
        that these steps see.
        """
        if steps == 0:
            return []
        own = torch.stack([walk(len(x), self.p.batch, turn * steps + step, self.seed) for step in range(steps)])
        seen = own.unique() if len(x) > self.denoiser.batch else torch.arange(len(x))
        z, place = self.denoiser.encode((x[seen] + 1) / 2), torch.searchsorted(seen, own)
        sets = [(1.0, z, [self.prompt] * len(z))] + ([(self.p.prior_weight, *self.prior)] if self.prior else [])

        def loss(step: int, draw: torch.Generator) -> Tensor:
            chosen = [place[step], *(walk(len(z), self.p.batch, turn * steps + step, self.seed) for _, z, _ in sets[1:])]
            return sum(weight * self._error(z[i], [texts[j] for j in i], draw) for (weight, z, texts), i in zip(sets, chosen, strict=True))

        self._trainable(True)
        losses = train(self.parameters, loss, steps=steps, lr=self.p.lr, seed=seed, what="surrogate", optimizer=self.hardware.optimizer)
        self._trainable(False)
        for q in self.parameters:
            q.grad = None
        return losses

    def _error(self, z: Tensor, texts: list[str], draw: torch.Generator) -> Tensor:
        """Mean squared error of the predicted noise of latents z with their prompts, gradients through the text encoder too."""
        zt, t, target = denoising_target(self.denoiser, z, draw)
        return (self.denoiser.predict(zt, t, self._embedded(texts)) - target).square().mean()

    def _embedded(self, texts: list[str]) -> Condition:
        distinct = sorted(set(texts))
        c = self.denoiser.embedded(self.denoiser.pipeline.text_encoder(self.denoiser.ids(distinct))[0])
        return c[torch.tensor([distinct.index(text) for text in texts])]
