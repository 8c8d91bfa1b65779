"""Whether a model that somebody else made does what its files say: asked once, of two images, before anything is computed."""

import torch
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.loop import generator
from s2llib.models.condition import Condition
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import check_weights, finite
from s2llib.models.hardware import autocast
from s2llib.params import ParamsError

__all__ = ["check_outputs", "explained"]

LEVELS = (0.08, 0.04, 0.02)  # cumulative alphas at which noise and v are far apart, and the image can still be seen


def check_outputs(pipeline, photos: Photos, prompt: str, precision: str, where: str) -> None:
    """Raises ParamsError if a model's weights or outputs are no numbers, or if it predicts other than its scheduler says.

    photos: a few, of which one is encoded, denoised and decoded in `precision` too, as generation does;
    where: how a sentence begins that names the model. Costs 3 UNet evaluations per image, and one more.
    """
    denoiser = Denoiser(pipeline, batch=1)
    try:
        check_weights(pipeline)
        z0, c = denoiser.encode_photos(photos), denoiser.prompts([prompt])
        noise, v = explained(denoiser, z0, c)
        if denoiser.conditional:
            _check_generation(denoiser, z0[:1], c, precision)
    except ParamsError as error:
        raise ParamsError(f"{where}: {error}") from None
    if wrong := _other_reading(denoiser.prediction, noise, v):
        raise ParamsError(
            f"{where}: scheduler/scheduler_config.json says that the model predicts '{denoiser.prediction}', but what it predicts of noised"
            f" images is {'the noise' if wrong == 'epsilon' else 'v'} (share explained at large timesteps: noise {noise:.2f}, v {v:.2f}),"
            f' so that every score would be wrong; write "prediction_type": "{wrong}" there.'
        )


@torch.no_grad()
def _check_generation(denoiser: Denoiser, z: Tensor, c: Condition, precision: str) -> None:
    """One latent through UNet, at a middle timestep, and VAE decoder as images are drawn; raises ParamsError."""
    pipeline, t = denoiser.pipeline, torch.tensor([denoiser.timesteps // 2], device=z.device)
    with autocast(z.device, precision):
        predicted = pipeline.unet(z, t, **c.tensors).sample
        decoded = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    finite(predicted, "Predictions of the UNet", pipeline, precision)
    finite(decoded, "Images that the VAE decodes", pipeline, precision)


def explained(denoiser: Denoiser, z0: Tensor, c: Condition) -> tuple[float, float]:
    """Shares of the noise and of v that the network's raw output explains at large timesteps: 1, all of it; below 0, worse than none.

    z0: [n, ch, h, w]; c: one row. An epsilon model explains nearly all of the noise there, and v, which is then nearly -z0, not
    at all; of a v-prediction model the reverse is true (Salimans & Ho 2022, with v = sqrt(a) noise - sqrt(1-a) z0).
    """
    errors, sizes = torch.zeros(2), torch.zeros(2)
    for level in LEVELS:
        t = int((denoiser.pipeline.scheduler.alphas_cumprod - level).abs().argmin())
        (alpha, sigma), noise = denoiser.levels(t), torch.randn(z0.shape, generator=generator(t)).to(z0)
        v, output = alpha * noise - sigma * z0, denoiser.raw(denoiser.join(z0, noise, t), t, c)
        errors += torch.stack([(output - target).square().mean() for target in (noise, v)]).cpu()
        sizes += torch.stack([target.square().mean() for target in (noise, v)]).cpu()
    return tuple((1 - errors / sizes).tolist())


def _other_reading(says: str, noise: float, v: float) -> str:
    """The other prediction type where it is clearly the network's; empty where it is not, as with a network that learnt nothing."""
    if says == "v_prediction" and noise > 0.8 and v < 0:
        return "epsilon"
    return "v_prediction" if says == "epsilon" and v > 0.3 and noise < 0 else ""
