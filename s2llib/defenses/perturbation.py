"""Perturbing images so that a diffusion model learns little from them: ASPL and FSMG of Anti-DreamBooth (Van Le et al. 2023).

Images come and go as 8-bit pixels. In between they are pixels in [-1, 1], of which radius and step are given; the gradient runs
through the VAE's encoder (posterior mode) and the UNet.
"""

import torch
from torch import Tensor

from s2llib.defenses.surrogate import Surrogate
from s2llib.loop import generator
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import finite
from s2llib.models.hardware import in_batches
from s2llib.params import ParamsError
from s2llib.progress import track
from s2llib.store import number

__all__ = ["ascend", "aspl", "denoising_errors", "fsmg", "gaussian", "pgd", "project", "to_8bit", "to_signed"]


def to_signed(images: Tensor) -> Tensor:
    """Pixels in [-1, 1] of 8-bit images [n, 3, h, w]; raises ParamsError for anything else."""
    if images.dtype != torch.uint8:
        raise ParamsError(
            f"The images to perturb reach from {images.min().item():g} to {images.max().item():g} ({images.dtype}) where 8-bit pixels, 0 to"
            " 255, are declared; give (x * 255).round().byte() of pixels in [0, 1]."
        )
    return images / 127.5 - 1


def _check_range(x: Tensor) -> None:
    if x.min() < -1 or x.max() > 1:
        raise ParamsError(
            f"The images to perturb reach from {x.min().item():g} to {x.max().item():g} where [-1, 1] is declared; scale them first."
        )


def to_8bit(x: Tensor, clean: Tensor) -> Tensor:
    """8-bit images of perturbed pixels x in [-1, 1], rounded towards the clean 8-bit ones: saved, they are still in the ball."""
    levels = (x - to_signed(clean)) * 127.5
    return (clean + (levels + levels.sign() * 1e-4).trunc()).clamp(0, 255).byte()  # 1e-4: whole levels stay whole in float32


def project(x: Tensor, clean: Tensor, radius: float, norm: str) -> Tensor:
    """The images x moved into the ball of this radius around the clean ones, then into [-1, 1]."""
    delta = x - clean
    if norm == "linf":
        delta = delta.clamp(-radius, radius)
    else:
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = delta * (radius / length.clamp(min=1e-12)).clamp(max=1)
    return (clean + delta).clamp(-1, 1)


def ascend(x: Tensor, gradient: Tensor, step: float, norm: str) -> Tensor:
    """x a step up the gradient: along its sign (l_inf), or along it, of this length in each image (l2)."""
    if norm == "linf":
        return x + step * gradient.sign()
    return x + step * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def denoising_errors(denoiser: Denoiser, x: Tensor, c: Condition, t: Tensor, noise: Tensor) -> Tensor:
    """[n] noise-prediction errors of images x [n, 3, h, w] in [-1, 1], with gradients: the mean over draws.

    c: one row; t: [draws, n] timesteps; noise: [draws, n, ch, h, w].
    """
    vae = denoiser.pipeline.vae
    z, c = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor, c.expand(len(x))
    errors = []
    for some, drawn in zip(t, noise, strict=True):
        predicted = denoiser.predict(denoiser.join(z, drawn, some), some, c)
        errors.append((predicted - denoiser.target(z, drawn, some)).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


def _draws(denoiser: Denoiser, n: int, draws: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Timesteps [draws, n] and noise [draws, n, ch, h, w] of one step, the same however the images are grouped."""
    unet, draw = denoiser.pipeline.unet, generator(seed, step)
    shape = (draws, n, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    t = torch.randint(denoiser.timesteps, (draws, n), generator=draw)
    return t.to(denoiser.device), torch.randn(shape, generator=draw).to(denoiser.device)


def pgd(
    denoiser: Denoiser, x: Tensor, clean: Tensor, c: Condition, *, steps: int, step: float, radius: float, norm: str, draws: int,
    group: int, seed: int, what: str = "PGD",
) -> Tensor:  # fmt: skip
    """Projected gradient ascent on the denoising loss at random timesteps (Madry et al. 2018), from x, around the clean images.

    x, clean: [n, 3, h, w] in [-1, 1], which may lie in the computer's memory; c: one row. Every step takes all images, `group`
    at a time, fewer where memory does not suffice. Returns pixels like x. Costs steps x draws UNet evaluations per image, forwards and
    backwards.
    """
    _check_range(clean)

    def climbed(x: Tensor, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        part = x.to(denoiser.device, copy=True).requires_grad_(True)
        loss = denoising_errors(denoiser, part, c, t.T, noise.transpose(0, 1)).sum()
        gradient = finite(torch.autograd.grad(loss, part)[0], f"{what}: gradients", denoiser.pipeline, denoiser.precision)
        return project(ascend(part.detach(), gradient, step, norm), clean.to(denoiser.device), radius, norm).to(x.device)

    for i in track(range(steps), what):
        t, noise = _draws(denoiser, len(x), draws, seed, i)
        x, group = in_batches(climbed, (x, clean, t.T, noise.transpose(0, 1)), group)
    return x


def fsmg(surrogate: Surrogate, images: Tensor, *, rounds: int, steps: int, seed: int, **ball) -> Tensor:
    """Fully-trained surrogate model guidance (Anti-DreamBooth, section 4.3): PGD against a fixed model.

    Anti-DreamBooth first trains the surrogate on further images of the person; here it is the model that is handed in.
    images: [n, 3, h, w] uint8, and so is the result. rounds x steps of ascent; ball: radius, norm, step, draws, group of `pgd`.
    """
    clean = to_signed(images)
    x = pgd(surrogate.denoiser, clean, clean, surrogate.condition(), steps=rounds * steps, seed=seed, **ball)
    return to_8bit(x, images)


def aspl(
    surrogate: Surrogate, images: Tensor, *, rounds: int, steps: int, clean_steps: int, perturbed_steps: int, seed: int, **ball
) -> Tensor:  # fmt: skip
    """Alternating surrogate and perturbation learning (Anti-DreamBooth, algorithm 1).

    In each round a copy of the surrogate f trains on the clean images, all images climb its loss by PGD, the copy is discarded, and
    f trains on the perturbed images. Anti-DreamBooth's clean images are further ones of the person; here they are the images that are
    protected, of which there are no others. images: [n, 3, h, w] uint8, and so is the result; ball: as `fsmg`.
    """
    clean = to_signed(images)
    x, stream = clean, lambda i, what: number(f"{seed}/{i}/{what}")
    for i in track(range(rounds), "perturbation"):
        f = surrogate.state()
        surrogate.train(clean, clean_steps, i, stream(i, "clean"))
        x = pgd(surrogate.denoiser, x, clean, surrogate.condition(), steps=steps, seed=stream(i, "pgd"), **ball)
        surrogate.restore(f)
        surrogate.train(x, perturbed_steps, i, stream(i, "perturbed"))
    return to_8bit(x, images)


def gaussian(images: Tensor, perturbed: Tensor, seed: int) -> Tensor:
    """The 8-bit images with Gaussian noise in place of their perturbation: clipped to its largest value, matched in l2 per image.

    Where that norm is near the largest possible, most of the noise is clipped: it is then nearly a random sign in every pixel.
    images, perturbed: [n, 3, h, w] uint8. The noise's scale is found by bisection; rounding is towards the clean image.
    """
    theirs = (perturbed.int() - images.int()).flatten(1).double()
    limit, wanted = theirs.abs().amax(1).view(-1, 1, 1, 1), theirs.norm(dim=1)
    noise = torch.stack([torch.randn(x.shape, generator=generator(seed, i)) for i, x in enumerate(images)]).double()

    def noisy(scale: Tensor) -> Tensor:
        levels = (noise * scale.view(-1, 1, 1, 1)).clamp(-limit, limit).trunc()
        return (images + levels).clamp(0, 255).byte()

    low, high = torch.zeros_like(wanted), torch.full_like(wanted, 1e4)
    for _ in range(60):
        middle = (low + high) / 2
        short = (noisy(middle).double() - images).flatten(1).norm(dim=1) < wanted
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return noisy(low)
