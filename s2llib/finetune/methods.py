"""Fine-tuning methods: each says which parts of the pipeline train and on which prompts; the loop is shared."""

from dataclasses import dataclass

from s2llib.params import ParamsError

__all__ = ["BASE_WEIGHTS", "METHODS", "PRETRAINED", "TRAININGS", "Method", "method"]

PRETRAINED = "pretrained"  # the base model, before any method


@dataclass(frozen=True)
class Method:
    """trains: keys of `s2llib.finetune.parts.PARTS`. instance_prompt: every image gets DreamBooth's fixed prompt, not its own."""

    title: str
    trains: tuple[str, ...]
    instance_prompt: bool


METHODS = {
    "dreambooth": Method("DreamBooth", ("unet", "text_encoder"), instance_prompt=True),
    "lora": Method("LoRA", ("unet_lora",), instance_prompt=False),
    "dreambooth_lora": Method("DreamBooth+LoRA", ("unet_lora", "text_encoder_lora"), instance_prompt=True),
    "textual_inversion": Method("Textual Inversion", ("tokens",), instance_prompt=False),
    "textual_inversion_lora": Method("Textual Inversion+LoRA", ("tokens", "unet_lora"), instance_prompt=False),
    "hypernetwork": Method("Hypernetwork", ("hypernetwork",), instance_prompt=False),
    "hypernetwork_dreambooth": Method("Hypernetwork+DreamBooth", ("unet", "text_encoder", "hypernetwork"), instance_prompt=True),
    "end_to_end": Method("End-to-end", ("unet", "text_encoder", "vae_encoder"), instance_prompt=True),
    # the parts of MixSyn's Table 5
    "denoising_network": Method("Denoising network", ("unet",), instance_prompt=True),
    "image_encoder": Method("Image encoder", ("vae_encoder",), instance_prompt=True),
    "embedding": Method("Embedding", ("embedding",), instance_prompt=True),
}
# and before S2L's domain transfer: every photograph with its own prompt
TRAININGS = METHODS | {"public": Method("public photographs", ("unet", "text_encoder"), instance_prompt=False)}
# methods that train the model's own weights: noise on weights is for these
BASE_WEIGHTS = [name for name, how in METHODS.items() if set(how.trains) <= {"unet", "text_encoder", "vae_encoder"}]


def method(name: str, key: str = "finetune.methods") -> Method:
    """The method called `name` by the parameter `key`; raises ParamsError that lists the known ones."""
    if name not in METHODS:
        raise ParamsError(f"{key}: unknown method '{name}'; known: {', '.join(METHODS)}.")
    return METHODS[name]
