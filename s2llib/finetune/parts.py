"""What can train: every part says how it gets onto a pipeline and which parameters it adds."""

from collections.abc import Callable

from torch import Tensor

from s2llib.finetune.embedding import add_rows
from s2llib.finetune.hypernetwork import add_hypernetwork
from s2llib.finetune.textual_inversion import add_tokens
from s2llib.params import LoRA, Recipe

__all__ = ["PARTS", "adapter"]

ATTENTION = {"unet": ["to_q", "to_v"], "text_encoder": ["q_proj", "v_proj"]}


def adapter(module, part: str, recipe: LoRA):
    """Low-rank adapters on the attention queries and values of the UNet or the text encoder.

    The rank is capped at each layer's width: more would add nothing to that layer. alpha / rank is the same in every layer.
    """
    from peft import LoraConfig

    layers = {name: layer for name, layer in module.named_modules() if name.split(".")[-1] in ATTENTION[part]}
    widths = {name: min(layer.in_features, layer.out_features) for name, layer in layers.items()}
    capped = {name: width for name, width in widths.items() if width < recipe.rank}
    return LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=ATTENTION[part], rank_pattern=capped,
        alpha_pattern={name: recipe.alpha / recipe.rank * rank for name, rank in capped.items()}, init_lora_weights="gaussian",
    )  # fmt: skip


def _all(module) -> list[Tensor]:
    return list(module.requires_grad_(True).parameters())


def _lora(pipeline, part: str, recipe: LoRA) -> list[Tensor]:
    module = getattr(pipeline, part)
    module.add_adapter(adapter(module, part, recipe))
    return [p for p in module.parameters() if p.requires_grad]


def _vae_encoder(pipeline) -> list[Tensor]:
    quant = pipeline.vae.quant_conv
    return _all(pipeline.vae.encoder) + ([] if quant is None else _all(quant))


# part: (pipeline, recipe, domain's name, instance prompt) -> trainable parameters
PARTS: dict[str, Callable[[object, Recipe, str, str], list[Tensor]]] = {
    "unet": lambda pipeline, recipe, name, prompt: _all(pipeline.unet),
    "text_encoder": lambda pipeline, recipe, name, prompt: _all(pipeline.text_encoder),
    "vae_encoder": lambda pipeline, recipe, name, prompt: _vae_encoder(pipeline),
    "unet_lora": lambda pipeline, recipe, name, prompt: _lora(pipeline, "unet", recipe),
    "text_encoder_lora": lambda pipeline, recipe, name, prompt: _lora(pipeline, "text_encoder", recipe),
    "tokens": lambda pipeline, recipe, name, prompt: add_tokens(pipeline, name, prompt, recipe.extra),
    "embedding": lambda pipeline, recipe, name, prompt: add_rows(pipeline, prompt),
    "hypernetwork": lambda pipeline, recipe, name, prompt: add_hypernetwork(pipeline.unet, recipe.hidden, recipe.activation),
}
