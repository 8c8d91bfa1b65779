"""Fine-tuning methods: each says which parameters train and on which prompts; the loop is shared.

An entry of METHODS has a title, whether it adapts with LoRA, whether the text encoder trains, and whether every image
gets DreamBooth's fixed instance prompt or keeps the SP prompt it was generated with.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from s2llib.params import LoRA, ParamsError, Recipe

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor

__all__ = ["METHODS", "Method", "adapter", "method", "trainable_parameters"]


@dataclass(frozen=True)
class Method:
    title: str
    lora: bool
    text_encoder: bool
    instance_prompt: bool


METHODS = {
    "dreambooth": Method("DreamBooth", lora=False, text_encoder=True, instance_prompt=True),
    "lora": Method("LoRA", lora=True, text_encoder=False, instance_prompt=False),
    "dreambooth_lora": Method("DreamBooth+LoRA", lora=True, text_encoder=True, instance_prompt=True),
}
ATTENTION = {"unet": ["to_q", "to_v"], "text_encoder": ["q_proj", "v_proj"]}


def method(name: str) -> Method:
    """The method called `name`; raises ParamsError that lists the known ones."""
    if name not in METHODS:
        raise ParamsError(f"finetune.methods: unknown method '{name}'; known: {', '.join(METHODS)}.")
    return METHODS[name]


def adapter(part: str, recipe: LoRA) -> "LoraConfig":
    """Low-rank adapters on the attention queries and values of the UNet or the text encoder."""
    from peft import LoraConfig

    return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=ATTENTION[part], init_lora_weights="gaussian")


def trainable_parameters(pipeline, how: Method, recipe: Recipe) -> "list[Tensor]":
    """Freeze the pipeline, add adapters if the method wants them, and return what it trains."""
    parts = ["unet", "text_encoder"] if how.text_encoder else ["unet"]
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.requires_grad_(False)
    for part in parts:
        module = getattr(pipeline, part)
        if how.lora:
            module.add_adapter(adapter(part, recipe))
        else:
            module.requires_grad_(True)
    return [p for part in parts for p in getattr(pipeline, part).parameters() if p.requires_grad]
