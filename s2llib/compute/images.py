"""Sets of images: generated, of noise, perturbed, mixed; each an image folder with its prompts."""

from pathlib import Path

import torch
from torch import Tensor

from s2llib.artifact import artifact, made
from s2llib.compute.models import image_size, pipeline, trained
from s2llib.data.domain import Domain, Photos
from s2llib.defenses.mixsyn import mix
from s2llib.defenses.perturbation import aspl, fsmg, gaussian
from s2llib.defenses.surrogate import Surrogate
from s2llib.finetune.knowledge import noise_images
from s2llib.generate import read_generated, sample, write_generated
from s2llib.lab import Lab
from s2llib.params import ParamsError
from s2llib.specs import Generated, Images, Mixed, Noised, NoiseImages, Perturbed

__all__ = ["levels", "photos"]


def photos(lab: Lab, images: Images) -> Photos:
    """The images of a specification, made if need be; photographs are themselves."""
    return images if isinstance(images, Photos) else read_generated(made(lab, images))


def levels(lab: Lab, images: Images, size: int) -> Tensor:
    """8-bit pixels [n, 3, size, size]."""
    return torch.cat([(x * 255).round().byte() for x in photos(lab, images).batches(size, 64)])


@artifact(Generated, "generated", 1, rounds=("precision",))
def generate(lab: Lab, spec: Generated, folder: Path) -> None:
    """An image a prompt, with the noise of its place."""
    s, p = spec.sampling, lab.params
    drawn = sample(
        pipeline(lab, spec.model),
        list(spec.prompts),
        spec.seed,
        s.steps,
        s.guidance,
        s.negative,
        p.sp.batch,
        p.hardware.precision,
        s.sampler,
    )
    write_generated(folder, drawn, list(spec.prompts), spec.name)


@artifact(NoiseImages, "noise_images", 1)
def draw_noise(lab: Lab, spec: NoiseImages, folder: Path) -> None:
    """What an attacker without any prior knowledge fine-tunes on."""
    write_generated(folder, noise_images(spec.count, spec.size, spec.seed), [spec.prompt] * spec.count, spec.name)


@artifact(Perturbed, "perturbed", 1, rounds=("precision", "optimizer"))
def perturb(lab: Lab, spec: Perturbed, folder: Path) -> None:
    """Adversarial perturbation (Anti-DreamBooth) against a surrogate that starts as the model."""
    p, subject = spec.how, Domain(spec.images.name, {}, "", spec.instance, spec.instance)
    clean, prior = levels(lab, spec.images, image_size(lab, spec.model)), None if spec.prior is None else photos(lab, spec.prior)
    surrogate = Surrogate(trained(lab, spec.model), p.surrogate, subject, spec.seed, prior, lab.params.attacks.batch, lab.params.hardware)
    settings = p.model_dump(include={"rounds", "steps", "radius", "norm", "step", "draws", "group"}) | {"seed": spec.seed}
    if p.algorithm == "fsmg":
        perturbed = fsmg(surrogate, clean, **settings)
    else:
        perturbed = aspl(surrogate, clean, **settings, **p.surrogate.model_dump(include={"clean_steps", "perturbed_steps"}))
    if p.rounds and perturbed.equal(clean):
        raise ParamsError(
            f"mixsyn.perturbation: a radius of {p.radius:g} ({p.norm}) is less than one grey level in every pixel, so that nothing is"
            " left of the perturbation in 8 bits; raise it."
        )
    _write(folder, perturbed, spec.images)


@artifact(Noised, "noised", 1)
def noise(lab: Lab, spec: Noised, folder: Path) -> None:
    """Gaussian noise of the size of a perturbation: what is left of a defence that knows no model."""
    size = image_size(lab, spec.like.model)
    _write(folder, gaussian(levels(lab, spec.images, size), levels(lab, spec.like, size), spec.seed), spec.images)


@artifact(Mixed, "mixed", 1)
def mix_images(lab: Lab, spec: Mixed, folder: Path) -> None:
    """MixSyn: clean and perturbed images, or pixels, side by side."""
    size = image_size(lab, spec.clean.model)
    clean, perturbed = levels(lab, spec.clean, size), levels(lab, spec.perturbed, size)
    _write(folder, mix(clean, perturbed, spec.mixing, spec.ratio, spec.contiguous, spec.seed), spec.clean)


def _write(folder: Path, images: Tensor, like: Generated) -> None:
    """8-bit images [n, 3, h, w] with the prompts of others."""
    write_generated(folder, images.permute(0, 2, 3, 1).numpy(), list(like.prompts), like.name)
