"""The mini Stable Diffusion: the classes of the real one, small enough to train on a laptop's CPU.

AutoencoderKL (f = 4), a contrastively trained CLIP pair whose text tower is the frozen text encoder, a
cross-attention UNet on 16 x 16 latents, the scaled-linear schedule of Stable Diffusion.
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from s2llib.data.people import FIRST_NAMES, LAST_NAMES
from s2llib.data.portraits import ACCESSORIES, BACKGROUNDS, CLOTHES, COLOURS, EXPRESSIONS
from s2llib.loop import generator, train
from s2llib.models.hardware import autocast
from s2llib.params import world as P

__all__ = ["BARE_PROMPTS", "assemble", "build_tokenizer", "train_clip", "train_unet", "train_vae"]

TOKENS = 24  # longest caption: 21 tokens with the two ends
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# bare prompts of pre-training, so that the templates of every study are prompts the model knows
BARE_PROMPTS = (
    ("a photo of {name}", 0.35),
    ("photo of {name}", 0.25),
    ("face of {name}", 0.15),
    ("the face of {name}", 0.15),
    ("a photo of a person", 0.10),
)
_OTHER_WORDS = "a an the of in and or wearing with background photo face portrait picture person man woman high quality low blurry noise"


def _byte_pair_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one piece: the commonest pair first, ties in alphabetical order.

    (The trainer of the tokenizers library breaks ties differently in every process.)
    """
    pieces, merges = [[*word[:-1], f"{word[-1]}</w>"] for word in words], []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            for i in range(len(word) - 2, -1, -1):
                if (word[i], *word[i + 1 : i + 2]) == best:
                    word[i : i + 2] = ["".join(best)]
    return merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer whose byte-pair vocabulary makes one token of every word of the world; other text still encodes."""
    words = {w for phrase in (*ACCESSORIES, *BACKGROUNDS, *EXPRESSIONS, *COLOURS, *CLOTHES, _OTHER_WORDS) for w in phrase.split()}
    words |= {*FIRST_NAMES, *LAST_NAMES, ","}
    merges = _byte_pair_merges(sorted(words))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges)]
    vocab = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[n, TOKENS] token ids, padded and truncated."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


def _pixels(images: np.ndarray, which: Tensor, augment: bool, draw: torch.Generator) -> Tensor:
    """A batch as [b, 3, h, w] in [-1, 1]; augmented by a flip and a shift of up to 4 pixels."""
    batch = torch.from_numpy(images[which.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
    if augment:
        flip = torch.rand(len(batch), generator=draw) < 0.5
        batch[flip] = batch[flip].flip(-1)
        dx, dy = torch.randint(0, 9, (2,), generator=draw).tolist()
        batch = F.pad(batch, (4, 4, 4, 4), mode="replicate")[..., dy : dy + 64, dx : dx + 64]
    return batch


def train_vae(images: np.ndarray, p: P.VAE, seed: int, augment: bool, checkpoint: Path) -> tuple[AutoencoderKL, list[float]]:
    """An f = 4 autoencoder of [n, 64, 64, 3] uint8 images; its scaling factor gives latents unit variance."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=p.channels,
        down_block_types=["DownEncoderBlock2D"] * len(p.channels),
        up_block_types=["UpDecoderBlock2D"] * len(p.channels),
        layers_per_block=1,
        norm_num_groups=min(16, *p.channels),
        latent_channels=4,
        sample_size=64,
        mid_block_add_attention=False,
    )

    def loss(step: int, draw: torch.Generator) -> Tensor:
        x = _pixels(images, torch.randint(len(images), (p.batch,), generator=draw), augment, draw)
        with autocast(x.device, p.precision):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draw)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        return F.mse_loss(decoded, x) + 0.1 * F.l1_loss(decoded, x) + p.kl * posterior.kl().mean() / x[0].numel()

    losses = train(
        list(vae.parameters()), loss, steps=p.steps, lr=p.lr, seed=seed, cosine=True, warmup=20,
        what="base model: VAE", checkpoint=checkpoint,
    )  # fmt: skip
    vae.eval()
    with torch.no_grad():
        which = torch.randperm(len(images), generator=generator(seed, 0))[:256]
        spread = vae.encode(_pixels(images, which, False, generator(seed))).latent_dist.mode().std().item()
    vae.register_to_config(scaling_factor=1 / spread)
    return vae, losses


def train_clip(
    images: np.ndarray,
    captions: list[str],
    bare: list[str],
    tokenizer: CLIPTokenizer,
    p: P.CLIP,
    seed: int,
    augment: bool,
    checkpoint: Path,
) -> tuple[CLIPModel, list[float]]:
    """A CLIP pair by the symmetric contrastive loss; equal texts in a batch count as matches of one another.

    Half of a batch carries its full caption, half the bare one (`a photo of NAME`).
    """
    torch.manual_seed(seed)
    text = {
        "hidden_size": p.width, "intermediate_size": 4 * p.width, "num_hidden_layers": p.text_layers,
        "num_attention_heads": 4, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": p.image_width, "intermediate_size": 4 * p.image_width, "num_hidden_layers": p.image_layers,
        "num_attention_heads": 4, "image_size": 64, "patch_size": p.patch,
    }  # fmt: skip
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=p.width))
    ids = {kind: tokenize(tokenizer, texts) for kind, texts in (("full", captions), ("bare", bare))}

    def loss(step: int, draw: torch.Generator) -> Tensor:
        which = torch.randint(len(images), (p.batch,), generator=draw)
        full = torch.rand(p.batch, 1, generator=draw) < 0.5
        tokens = torch.where(full, ids["full"][which], ids["bare"][which])
        logits = clip(input_ids=tokens, pixel_values=_pixels(images, which, augment, draw)).logits_per_image
        same = (tokens[:, None] == tokens[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    losses = train(
        list(clip.parameters()), loss, steps=p.steps, lr=p.lr, seed=seed, cosine=True, warmup=50,
        what="base model: CLIP", checkpoint=checkpoint,
    )  # fmt: skip
    return clip.eval(), losses


def text_encoder(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of a CLIP pair as the model class that pipelines use."""
    config = CLIPTextConfig(**clip.config.text_config.to_dict())
    tower = CLIPTextModel(config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower.eval()


def new_unet(p: P.UNet, context: int) -> UNet2DConditionModel:
    """A freshly initialised UNet: attention on the two lower resolutions, as cheap as a laptop needs."""
    lower = len(p.channels) - 1
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=p.channels,
        layers_per_block=p.layers,
        cross_attention_dim=context,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * lower,
        up_block_types=["CrossAttnUpBlock2D"] * lower + ["UpBlock2D"],
    )


@torch.no_grad()
def _embed(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    ids = tokenize(tokenizer, texts)
    return torch.cat([encoder(chunk)[0] for chunk in ids.split(256)])


def train_unet(
    z: Tensor, captions: list[str], names: list[str], copies: list[int], encoder: CLIPTextModel, tokenizer: CLIPTokenizer,
    p: P.UNet, seed: int, checkpoint: Path,
) -> tuple[UNet2DConditionModel, list[float]]:  # fmt: skip
    """Denoising pre-training on latents z [n, 4, 16, 16]; an image with c copies is drawn c times an epoch.

    The prompt of each draw is the full caption, a bare prompt, or nothing (params: full_caption, empty_prompt).
    """
    torch.manual_seed(seed)
    unet = new_unet(p, encoder.config.hidden_size)
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    full, empty = _embed(encoder, tokenizer, captions), _embed(encoder, tokenizer, [""])
    people = sorted(set(names))
    bare = torch.stack([_embed(encoder, tokenizer, [text.format(name=n) for n in people]) for text, _ in BARE_PROMPTS])
    weights = torch.tensor([weight for _, weight in BARE_PROMPTS])
    person = torch.tensor([people.index(name) for name in names])
    deck = torch.repeat_interleave(torch.arange(len(z)), torch.tensor(copies))
    per_epoch = -(-len(deck) // p.batch)

    def loss(step: int, draw: torch.Generator) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        order = torch.randperm(len(deck), generator=generator(seed, 1, epoch))
        which = deck[order[place * p.batch : (place + 1) * p.batch]]
        n = len(which)
        kind = torch.rand(n, 1, 1, generator=draw)
        template = torch.multinomial(weights, n, replacement=True, generator=draw)
        c = torch.where(kind < p.full_caption, full[which], bare[template, person[which]])
        c = torch.where(kind >= 1 - p.empty_prompt, empty, c)
        t = torch.randint(0, len(alphas), (n,), generator=draw)
        noise = torch.randn(z[which].shape, generator=draw)
        a = alphas[t].view(-1, 1, 1, 1)
        return F.mse_loss(unet(a.sqrt() * z[which] + (1 - a).sqrt() * noise, t, c).sample, noise)

    losses = train(
        list(unet.parameters()), loss, steps=p.epochs * per_epoch, lr=p.lr, seed=seed, warmup=100, cosine=True,
        what="base model: UNet", checkpoint=checkpoint,
    )  # fmt: skip
    return unet.eval(), losses


def assemble(vae: AutoencoderKL, encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The parts as a pipeline that plain diffusers saves and loads."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
