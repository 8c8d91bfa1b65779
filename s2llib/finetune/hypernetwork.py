"""Hypernetworks as the Stable Diffusion field uses the word: small residual MLPs on the cross-attention context."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["add_hypernetwork", "load_hypernetwork", "pop_hypernetwork", "save_hypernetwork"]

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh, "linear": nn.Identity}


class Hypernetwork(nn.Module):
    """x + down(activation(up(x))); the identity at first, since `down` starts at zero."""

    def __init__(self, width: int, hidden: int, activation: str):
        super().__init__()
        self.up, self.activation, self.down = nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Linear(hidden, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.activation(self.up(x)))


def _projections(unet: nn.Module) -> dict[str, nn.Linear]:
    """{name: key and value projections of every cross-attention layer}."""
    return {name: module for name, module in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}


def _before(projection: nn.Linear, arguments: tuple) -> tuple:
    return (projection.hypernetwork(arguments[0]),)


def add_hypernetwork(unet: nn.Module, hidden: int, activation: str) -> list[Tensor]:
    """Put one hypernetwork in front of the keys and one in front of the values of every cross-attention layer.

    Returns their parameters; raises ValueError if the UNet already has one.
    """
    parameters = []
    for projection in _projections(unet).values():
        if hasattr(projection, "hypernetwork"):
            raise ValueError("The UNet already has a hypernetwork; take it off with pop_hypernetwork first.")
        network = Hypernetwork(projection.in_features, hidden, activation).to(projection.weight)
        projection.hypernetwork = network
        projection.hypernetwork_hook = projection.register_forward_pre_hook(_before)
        parameters += network.parameters()
    return parameters


def pop_hypernetwork(unet: nn.Module) -> dict[str, Tensor]:
    """Take the hypernetworks off again; returns their tensors by the projection's name."""
    tensors = {}
    for name, projection in _projections(unet).items():
        tensors |= {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in projection.hypernetwork.state_dict().items()}
        projection.hypernetwork_hook.remove()
        del projection.hypernetwork, projection.hypernetwork_hook
    return tensors


def save_hypernetwork(tensors: dict[str, Tensor], hidden: int, activation: str, folder: Path) -> None:
    """`hypernetwork.safetensors` and its `hypernetwork.json`."""
    save_file(tensors, folder / "hypernetwork.safetensors")
    (folder / "hypernetwork.json").write_text(json.dumps({"hidden": hidden, "activation": activation}))


def load_hypernetwork(pipeline, folder: Path) -> None:
    """Put a saved hypernetwork onto a pipeline; raises ValueError if it was trained for another UNet."""
    tensors = load_file(folder / "hypernetwork.safetensors")
    wanted, given = set(_projections(pipeline.unet)), {name.rsplit(".", 2)[0] for name in tensors}
    widths = {name: tensors[f"{name}.up.weight"].shape[1] for name in given}
    if wanted != given or any(layer.in_features != widths[name] for name, layer in _projections(pipeline.unet).items()):
        raise ValueError(f"{folder} holds a hypernetwork of another UNet: its cross-attention layers are not this pipeline's.")
    add_hypernetwork(pipeline.unet, **json.loads((folder / "hypernetwork.json").read_text()))
    for name, projection in _projections(pipeline.unet).items():
        state = {key: tensors[f"{name}.{key}"] for key in projection.hypernetwork.state_dict()}
        projection.hypernetwork.load_state_dict(state)
        projection.hypernetwork.requires_grad_(False)
