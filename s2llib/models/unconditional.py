"""A small unconditional diffusion model on pixels (DDPM, Ho et al. 2020), for Shake-to-Leak's study without prior knowledge."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from s2llib.loop import generator, train
from s2llib.models.finite import eight_bit
from s2llib.models.loading import load_part
from s2llib.models.pipeline import check_unconditional
from s2llib.params import ZeroPrior

__all__ = ["load_unconditional", "new_unconditional", "sample_unconditional", "train_unconditional"]


def new_unconditional(p: ZeroPrior, seed: int) -> DDPMPipeline:
    """A freshly initialised model on images of p.size pixels: attention on the lowest resolution."""
    torch.manual_seed(seed)
    lower = len(p.channels) - 1
    unet = UNet2DModel(
        sample_size=p.size,
        block_out_channels=p.channels,
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=16,
        down_block_types=["DownBlock2D"] * lower + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * lower,
    )
    return DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear"))


def train_unconditional(
    pipeline: DDPMPipeline, x: Tensor, *, steps: int, batch: int, lr: float, seed: int, what: str, cosine: bool = False,
    checkpoint: Path | None = None,
) -> list[float]:  # fmt: skip
    """Train in place on images x [n, 3, h, w] in [-1, 1] with the noise-prediction loss; every image once an epoch, in random order."""
    unet, a, per_epoch = pipeline.unet.requires_grad_(True), pipeline.scheduler.alphas_cumprod, -(-len(x) // batch)

    def loss(step: int, draw: torch.Generator) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        which = torch.randperm(len(x), generator=generator(seed, epoch, 1))[place * batch : (place + 1) * batch]
        t = torch.randint(0, len(a), (len(which),), generator=draw)
        noise, at = torch.randn(x[which].shape, generator=draw), a[t].view(-1, 1, 1, 1)
        z = (at.sqrt() * x[which] + (1 - at).sqrt() * noise).to(unet.device)
        return F.mse_loss(unet(z, t.to(unet.device)).sample, noise.to(unet.device))

    losses = train(
        list(unet.parameters()), loss, steps=steps, lr=lr, seed=seed, what=what, cosine=cosine, warmup=100 if cosine else 0,
        checkpoint=checkpoint,
    )  # fmt: skip
    unet.eval().requires_grad_(False)
    return losses


def sample_unconditional(pipeline: DDPMPipeline, count: int, steps: int, seed: int, batch: int = 128) -> np.ndarray:
    """Images drawn by DDIM: [count, h, w, 3] uint8; image i depends on (seed, i) alone."""
    ddim, images = DDIMPipeline(pipeline.unet, DDIMScheduler.from_config(pipeline.scheduler.config)), []
    ddim.set_progress_bar_config(disable=True)
    for start in range(0, count, batch):
        draws = [generator(seed, i) for i in range(start, min(start + batch, count))]
        drawn = ddim(batch_size=len(draws), generator=draws, num_inference_steps=steps, output_type="np").images
        images.append(eight_bit(drawn, pipeline))
    return np.concatenate(images)


def load_unconditional(folder: Path) -> DDPMPipeline:
    """The pipeline of a folder, in float32, evaluation mode, no gradients, no network."""
    check_unconditional(folder)
    unet = load_part(UNet2DModel, folder / "unet", "zero_prior.path")
    return DDPMPipeline.from_pretrained(folder, unet=unet, local_files_only=True)
