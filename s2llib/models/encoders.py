"""Image encoders of the black-box attack: pixels [n, 3, h, w] in [0, 1] become features [n, tokens, channels]."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy.fft import dctn
from torch import Tensor, nn

from s2llib.loop import train
from s2llib.models.denoiser import Denoiser
from s2llib.models.finite import finite
from s2llib.models.loading import check_part, load_part, part_config
from s2llib.params import Encoder, ParamsError, resolved

__all__ = [
    "CLIP_MOMENTS",
    "SimCLR",
    "check_encoder",
    "clip_tokens",
    "contrastive_loss",
    "dct_tokens",
    "load_selfsupervised",
    "no_weights",
    "normalised",
    "save_selfsupervised",
    "train_selfsupervised",
    "transformers_tokens",
    "vae_tokens",
]

# where the encoders of the paper profile come from
HUB = {
    "deit": "facebook/deit-base-distilled-patch16-224",
    "vit": "google/vit-base-patch16-224",
    "beit": "microsoft/beit-base-patch16-224",
    "dinov2": "facebook/dinov2-base",
    "clip-vit": "openai/clip-vit-base-patch32",
}
# mean and standard deviation of the pixels that OpenAI trained CLIP on
CLIP_MOMENTS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BLOCK, KEPT = 8, 16  # blocks of the cosine transform, and how many of its coefficients


def _tokens(maps: Tensor) -> Tensor:
    """[n, h w, channels] of feature maps [n, channels, h, w]."""
    return maps.flatten(2).transpose(1, 2)


def dct_tokens(x: Tensor) -> Tensor:
    """Lowest coefficients of the cosine transform of 8 x 8 pixel blocks: a token for a block, a channel for each colour and coefficient."""
    n, colours, h, w = x.shape
    h, w = h // BLOCK * BLOCK, w // BLOCK * BLOCK
    blocks = x[..., :h, :w].reshape(n, colours, h // BLOCK, BLOCK, w // BLOCK, BLOCK).permute(0, 2, 4, 1, 3, 5)
    coefficients = dctn(blocks.double().numpy(), axes=(-2, -1), norm="ortho")
    order = np.argsort([u + v + 1e-3 * u for u in range(BLOCK) for v in range(BLOCK)], kind="stable")[:KEPT]
    kept = coefficients.reshape(*coefficients.shape[:-2], BLOCK * BLOCK)[..., order]
    return torch.from_numpy(kept).reshape(n, (h // BLOCK) * (w // BLOCK), colours * KEPT)


def vae_tokens(pipeline, x: Tensor, batch: int) -> Tensor:
    """Latents of a pipeline's autoencoder: a token for each place, a channel for each latent channel."""
    return _tokens(Denoiser(pipeline, batch).encode(x)).cpu()


@torch.no_grad()
def clip_tokens(folder: Path, x: Tensor, batch: int) -> Tensor:
    """Last hidden states of the image tower of a base model's CLIP pair."""
    from transformers import CLIPModel

    tower = load_part(CLIPModel, folder / "clip", "base.path").vision_model
    return finite(torch.cat([tower(pixel_values=some * 2 - 1).last_hidden_state for some in x.split(batch)]), "Features by clip/")


def no_weights(folder: Path) -> str:
    """Why a transformers model cannot be loaded from a folder, with the mend where it is known; empty if it can."""
    if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
        return ""
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        return (
            f"{folder} has no .safetensors weights but pickled ones ({pickled[0]}), which are never loaded; convert them where you trust"
            f" them: python -c \"from transformers import AutoModel as M; M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    return f"{folder} lacks config.json or .safetensors weights; copy the model's folder again"


def check_encoder(name: str, folder: str) -> Path:
    """The folder of a transformers vision model; raises ParamsError that says how to get one."""
    path = resolved(folder)
    if not path.is_dir():
        raise ParamsError(
            f"blackbox.encoder_folders: the encoder '{name}' is not in {path}; get it with `hf download {HUB.get(name, 'ITS/NAME')}"
            f" --local-dir {path}`, or leave it out of blackbox.encoders and encoder_folders."
        )
    if reason := no_weights(path):
        raise ParamsError(f"blackbox.encoder_folders: {reason}; or leave '{name}' out of blackbox.encoders and encoder_folders.")
    check_part(_vision_class(path), path, f"blackbox.encoder_folders.{name}", "encoder")
    return path


def _vision_class(folder: Path) -> type:
    """What a vision model of transformers is loaded as: of a CLIP pair, the image tower alone."""
    from transformers import AutoModel, CLIPVisionModel

    kind = part_config(folder, "blackbox.encoder_folders").get("model_type") or ""
    return CLIPVisionModel if kind.startswith("clip") else AutoModel


@torch.no_grad()
def transformers_tokens(folder: Path, x: Tensor, batch: int) -> Tensor:
    """Last hidden states of a vision model of transformers (ViT, DeiT, BEiT, CLIP, DINOv2): resized and normalised as its folder says."""
    model = load_part(_vision_class(folder), folder, "blackbox.encoder_folders", "encoder")
    listing = folder / "preprocessor_config.json"
    given = json.loads(listing.read_text()) if listing.is_file() else {}
    moments = [given.get(key, [0.5] * 3) for key in ("image_mean", "image_std")]
    size = _edge(given) or model.config.image_size
    tokens = torch.cat([model(pixel_values=normalised(some, size, *moments)).last_hidden_state for some in x.split(batch)])
    return finite(tokens, f"Features by {folder}")


def _edge(listing: dict) -> int | None:
    """The edge in pixels that a preprocessor's listing brings images to; None where it says nothing."""
    for key in ("crop_size", "size"):
        size = listing.get(key)
        if found := size.get("height") or size.get("shortest_edge") if isinstance(size, dict) else size:
            return found
    return None


def normalised(x: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images [n, 3, h, w] in [0, 1], resized to `size` pixels and scaled by the moments of each colour."""
    resized = F.interpolate(x, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


class SimCLR(nn.Module):
    """A small convolutional encoder; maps(x): [n, 2 channels, h/8, w/8], forward: the projection that the contrastive loss compares."""

    def __init__(self, channels: int):
        super().__init__()
        widths, layers = (3, channels, channels, 2 * channels), []
        for inner, outer in pairwise(widths):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GroupNorm(4, outer), nn.ReLU()]
        self.maps = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, 32))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.maps(x).mean((2, 3))), dim=1)

    @torch.no_grad()
    def tokens(self, x: Tensor, batch: int) -> Tensor:
        return torch.cat([_tokens(self.maps(some * 2 - 1)) for some in x.split(batch)])


def _views(x: Tensor, draw: torch.Generator) -> Tensor:
    """A random crop, flip, change of colour and some noise for each image [n, 3, h, w] in [-1, 1]."""
    n, _, h, w = x.shape
    zoom = 0.5 + 0.5 * torch.rand(n, generator=draw)
    flip = torch.randint(0, 2, (n,), generator=draw) * 2 - 1.0
    shift = (torch.rand(n, 2, generator=draw) * 2 - 1) * (1 - zoom[:, None])
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom * flip, zoom, shift
    cropped = F.grid_sample(x, F.affine_grid(theta, (n, 3, h, w), align_corners=False), align_corners=False, padding_mode="reflection")
    gain, bias = (1 + 0.3 * torch.randn(n, 3, 1, 1, generator=draw), 0.15 * torch.randn(n, 3, 1, 1, generator=draw))
    return cropped * gain + bias + 0.03 * torch.randn(x.shape, generator=draw)


def contrastive_loss(a: Tensor, b: Tensor, temperature: float = 0.2) -> Tensor:
    """NT-Xent (Chen et al. 2020, equation 1): two views [n, d] of each image find one another among all others."""
    z, n = torch.cat([a, b]), len(a)
    logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


def train_selfsupervised(x: Tensor, p: Encoder, seed: int, checkpoint: Path) -> tuple[SimCLR, list[float]]:
    """SimCLR (Chen et al. 2020) on images x [n, 3, h, w] in [0, 1], which are in no set of the study."""
    torch.manual_seed(seed)
    model = SimCLR(p.channels)

    def loss(step: int, draw: torch.Generator) -> Tensor:
        some = x[torch.randint(len(x), (p.batch,), generator=draw)] * 2 - 1
        return contrastive_loss(model(_views(some, draw)), model(_views(some, draw)))

    losses = train(
        list(model.parameters()),
        loss,
        steps=p.steps,
        lr=p.lr,
        seed=seed,
        cosine=True,
        what="self-supervised encoder",
        checkpoint=checkpoint,
    )
    return model.eval().requires_grad_(False), losses


def save_selfsupervised(model: SimCLR, folder: Path) -> None:
    save_file(model.state_dict(), folder / "encoder.safetensors")


def load_selfsupervised(folder: Path, channels: int) -> SimCLR:
    model = SimCLR(channels)
    model.load_state_dict(load_file(folder / "encoder.safetensors"))
    return model.eval().requires_grad_(False)
