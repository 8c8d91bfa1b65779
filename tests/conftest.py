import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPConfig, CLIPModel

from s2llib import Lab
from s2llib.models import mini
from s2llib.models.pipeline import load_pipeline
from s2llib.params import UNet


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    """A Stable Diffusion pipeline with random weights: what attacks and recipes need of a model, without training one."""
    folder = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    tokenizer = mini.build_tokenizer(folder / "words")
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": mini.TOKENS}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=text | {"image_size": 64, "patch_size": 16}, projection_dim=16))
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 8],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        norm_num_groups=4,
        sample_size=64,
    )
    unet = mini.new_unet(UNet(channels=[16, 32, 32]), 32)
    mini.assemble(vae, mini.text_encoder(clip), tokenizer, unet).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def pipeline(pipeline_folder):
    return load_pipeline(pipeline_folder)


@pytest.fixture(scope="session")
def lab():
    """The tiny lab; its artifacts are shared with the notebooks' run."""
    return Lab.open("tiny")
