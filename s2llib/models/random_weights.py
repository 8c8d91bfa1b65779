"""The architecture of Stable Diffusion v1 with random weights, at full size or smaller: to measure costs and to test, with no download."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from s2llib.models import mini

__all__ = ["SIZES", "Size", "random_parts", "random_stable_diffusion"]


@dataclass(frozen=True)
class Size:
    """Channels of UNet and VAE, width and layers of the text encoder, its words and tokens, edge of the latents."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    layers: int
    words: int
    tokens: int
    latent: int


SIZES = {
    "full": Size((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, 49408, 77, 64),  # v1-1, v1-4, v1-5
    "small": Size((32, 64, 64, 64), (32, 32, 32, 32), 64, 2, 4096, 24, 16),
}


def random_parts(size: Size, ends: dict[str, int]) -> tuple[AutoencoderKL, CLIPTextModel, UNet2DConditionModel]:
    """VAE, text encoder and UNet as Stable Diffusion v1's configs have them; ends: the tokenizer's special tokens."""
    vae = AutoencoderKL(
        block_out_channels=size.vae,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=8 * size.latent,
        scaling_factor=0.18215,
    )
    text = CLIPTextConfig(
        hidden_size=size.text, intermediate_size=4 * size.text, num_hidden_layers=size.layers, num_attention_heads=size.text // 64,
        vocab_size=size.words, max_position_embeddings=size.tokens, hidden_act="quick_gelu", projection_dim=size.text, **ends,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=size.latent,
        block_out_channels=size.unet,
        layers_per_block=2,
        cross_attention_dim=size.text,
        attention_head_dim=8,
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    )
    return vae, CLIPTextModel(text), unet


def random_stable_diffusion(size: str = "full", seed: int = 0) -> StableDiffusionPipeline:
    """A pipeline in float32 and evaluation mode, with the words of the lab in its tokenizer; `save_pretrained` makes a base model of it."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = mini.build_tokenizer(Path(scratch))
    tokenizer.model_max_length = SIZES[size].tokens
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vae, encoder, unet = random_parts(SIZES[size], ends)
    pipeline = mini.assemble(vae, encoder, tokenizer, unet)
    pipeline.set_progress_bar_config(disable=True)
    for part in (unet, vae, encoder):
        part.eval().requires_grad_(False)
    return pipeline
