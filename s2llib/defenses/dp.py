"""Fine-tuning with DP-SGD (Abadi et al. 2016) on the parameters of a LoRA, through opacus."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.finetune.parts import PARTS
from s2llib.finetune.recipe import denoising_target
from s2llib.loop import check_loss, check_trained, generator
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.models.hardware import is_out_of_memory
from s2llib.params import ParamsError, PrivateLoRA
from s2llib.progress import track

__all__ = ["check_epsilons", "noise_multiplier", "private_finetune", "spent_epsilon"]


def check_epsilons(epsilons: list[float], recipe: PrivateLoRA, images: int, key: str) -> None:
    """Raises ParamsError, naming the key, if no amount of noise gives one of the guarantees that are asked for, or if one means nothing.

    A delta of 1 / images or more allows a whole image to be given away.
    """
    if recipe.delta >= 1 / images:
        raise ParamsError(
            f"{key}: delta is {recipe.delta:g} where {images} images are protected, which promises nothing; set it below {1 / images:g}."
        )
    for epsilon in epsilons:
        try:
            noise_multiplier(epsilon, recipe)
        except ValueError as error:
            raise ParamsError(
                f"{key}: epsilon {epsilon:g} at delta {recipe.delta:g} in {recipe.steps} steps is out of reach"
                f" ({str(error).rstrip('.')}); raise epsilon or delta."
            ) from None


def noise_multiplier(epsilon: float | None, recipe: PrivateLoRA) -> float:
    """The smallest noise, in units of the clipping norm, with which the recipe is (epsilon, delta)-private; None: 0, no privacy."""
    from opacus.accountants.utils import get_noise_multiplier

    if epsilon is None:
        return 0.0
    with warnings.catch_warnings():  # the bound may be loose for a large epsilon; it is a bound
        warnings.filterwarnings("ignore", message="Optimal order")
        return get_noise_multiplier(
            target_epsilon=epsilon, target_delta=recipe.delta, sample_rate=recipe.share, steps=recipe.steps, accountant="rdp",
            epsilon_tolerance=epsilon / 1000,
        )  # fmt: skip


def spent_epsilon(noise: float, recipe: PrivateLoRA) -> float:
    """Epsilon of a finished training by opacus' accountant (Renyi DP); infinite without noise."""
    from opacus.accountants import RDPAccountant

    if noise == 0:
        return float("inf")
    accountant = RDPAccountant()
    accountant.history = [(noise, recipe.share, recipe.steps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        return accountant.get_epsilon(recipe.delta)


def private_finetune(pipeline, recipe: PrivateLoRA, images: Photos, epsilon: float | None, seed: int, what: str, batch: int = 128) -> dict:
    """Train a LoRA on the UNet in place, each image with its caption, and protect every image by (epsilon, delta)-DP.

    In each step every image takes part with probability recipe.share; its gradient is the mean over recipe.draws draws of timestep and
    noise, cut to norm recipe.clip; Gaussian noise of noise_multiplier x clip is added to the sum. Adjacent sets are one with and one
    without a photograph; how many there are counts as known. The noise is that of PyTorch's generator, which is no cryptographic one.

    Returns {"trainable", "threads", "clip", "delta", "noise multiplier", "epsilon"}: neither losses nor gradients' norms, which are
    computed from the photographs without noise, and would tell of them what the guarantee does not cover.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    torch.manual_seed(seed)
    denoiser, noise = Denoiser(pipeline, batch), noise_multiplier(epsilon, recipe)
    z0, c = denoiser.encode_photos(images), denoiser.prompts(list(images.captions))
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.requires_grad_(False)
    parameters = PARTS["unet_lora"](pipeline, recipe, "", "")
    unet = GradSampleModule(pipeline.unet.train(), loss_reduction="mean", strict=False)
    optimizer = DPOptimizer(
        torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0), noise_multiplier=noise, max_grad_norm=recipe.clip,
        expected_batch_size=max(1, round(recipe.share * len(images))), generator=_on(pipeline.unet.device, seed),
    )  # fmt: skip
    losses = []
    for step in track(range(recipe.steps), what):
        draw = generator(seed, step, 2)
        which = (torch.rand(len(images), generator=draw) < recipe.share).nonzero()[:, 0].repeat_interleave(recipe.draws)
        optimizer.zero_grad(set_to_none=True)
        if len(which):
            x, t, target = denoising_target(denoiser, z0[which], draw)
            try:
                losses.append(_backward(unet, parameters, (x, t, c[which], target), max(1, batch // recipe.draws) * recipe.draws))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise ParamsError(f"{what}: a step does not fit in memory; lower attacks.batch or blackbox.private.share.") from error
            check_loss(losses, recipe.lr, what)
        for p in parameters:
            p.grad_sample = _per_image(p.grad_sample, p, recipe.draws)
        optimizer.step()
    check_trained(parameters, recipe.lr, what)
    unet.remove_hooks()
    for p in parameters:
        p.requires_grad_(False)
        for name in ("grad_sample", "summed_grad"):
            if hasattr(p, name):
                delattr(p, name)
    pipeline.unet.eval()
    return {
        "trainable": sum(p.numel() for p in parameters),
        "threads": torch.get_num_threads(),
        "clip": recipe.clip,
        "delta": recipe.delta,
        "noise multiplier": noise,
        "epsilon": spent_epsilon(noise, recipe) if noise else None,
    }


def _backward(unet, parameters: list[Tensor], batch: tuple[Tensor | Condition, ...], at_once: int) -> float:
    """Leave each sample's gradient in `grad_sample`, so many samples in memory at once; returns their mean loss."""
    parts, total = [[] for _ in parameters], 0.0
    for x, t, c, target in zip(*(some.split(at_once) for some in batch), strict=True):
        loss = F.mse_loss(unet(x, t, **c.tensors).sample, target)
        loss.backward()
        total += loss.item() * len(x)
        for part, p in zip(parts, parameters, strict=True):
            part.append(p.grad_sample)
            p.grad_sample = None
    for part, p in zip(parts, parameters, strict=True):
        p.grad_sample = part[0] if len(part) == 1 else torch.cat(part)
        part.clear()
    return total / len(batch[0])


def _on(device: torch.device, seed: int) -> torch.Generator:
    """The generator of the noise, which opacus draws where the parameters are."""
    drawn = generator(seed, 1)
    return drawn if device.type == "cpu" else torch.Generator(device).manual_seed(drawn.initial_seed())


def _per_image(samples: Tensor | None, p: Tensor, draws: int) -> Tensor:
    """[images, ...] mean gradients of [images x draws, ...] ones; none of no image."""
    if samples is None:
        return torch.zeros(0, *p.shape, device=p.device)
    return samples.view(-1, draws, *p.shape).mean(1)
