"""Textual Inversion (Gal et al. 2023) as Shake-to-Leak varies it: trainable copies of a prompt's own tokens."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from s2llib.params import ParamsError

__all__ = ["add_tokens", "check_tokens", "load_tokens", "placeholder", "pop_tokens", "save_tokens"]

FILE = "learned_embeds.safetensors"


def placeholder(name: str) -> str:
    """The token that stands for a domain's prompt."""
    return f"<{name.lower().replace(' ', '-')}>"


class _Extended(nn.Module):
    """An embedding table with trainable rows for the ids from `first` on; the table itself is not touched."""

    def __init__(self, table: nn.Embedding, rows: Tensor, first: int):
        super().__init__()
        self.table, self.rows, self.first = table, nn.Parameter(rows), first

    def forward(self, ids: Tensor) -> Tensor:
        new = F.embedding((ids - self.first).clamp(min=0), self.rows)
        return torch.where((ids >= self.first)[..., None], new, self.table(ids.clamp(max=self.first - 1)))


def check_tokens(tokenizer, name: str, prompt: str, extra: int) -> None:
    """Raises ParamsError if `extra` leaves no token of `prompt` or more than are read, or if the placeholder is already a word."""
    own, most = len(tokenizer(prompt, add_special_tokens=False).input_ids), tokenizer.model_max_length - 4  # start, end, "a", a comma
    if not 0 < own + extra <= most:
        raise ParamsError(f"extra is {extra} but '{prompt}' has {own} tokens; set it between {1 - own} and {most - own}.")
    if (token := placeholder(name)) in tokenizer.get_vocab():
        raise ParamsError(
            f"The placeholder {token} is already in the base model's vocabulary; take a base without it or rename the domain."
        )


def add_tokens(pipeline, name: str, prompt: str, extra: int) -> list[Tensor]:
    """Make `placeholder(name)` a prompt of its own: trainable copies of the tokens of `prompt`.

    extra < 0: without the first -extra of them; extra > 0: that many new tokens in front, which start as the mean of
    the table. Returns the trainable rows [tokens, dim] in a list; raises ParamsError as `check_tokens`.
    """
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    check_tokens(tokenizer, name, prompt, extra)
    table, token = encoder.get_input_embeddings(), placeholder(name)
    own = tokenizer(prompt, add_special_tokens=False).input_ids
    rows = table.weight.detach()[own[max(0, -extra) :]]
    rows = torch.cat([table.weight.detach().mean(0).expand(max(0, extra), -1), rows])
    first = len(tokenizer)
    tokenizer.add_tokens([token, *(f"{token}_{i}" for i in range(1, len(rows)))])
    encoder.set_input_embeddings(_Extended(table, rows.clone(), first))
    return [encoder.get_input_embeddings().rows]


def pop_tokens(pipeline) -> Tensor:
    """Take the trained rows [tokens, dim] off again and put the plain table back."""
    extended = pipeline.text_encoder.get_input_embeddings()
    pipeline.text_encoder.set_input_embeddings(extended.table)
    return extended.rows.detach().cpu().contiguous()


def save_tokens(rows: Tensor, name: str, folder: Path) -> None:
    """Write what plain diffusers' `load_textual_inversion(folder, weight_name=FILE)` reads."""
    save_file({placeholder(name): rows}, folder / FILE)


def load_tokens(pipeline, folder: Path) -> None:
    """Add the tokens that `save_tokens` wrote to a pipeline."""
    pipeline.load_textual_inversion(str(folder), weight_name=FILE, local_files_only=True, use_safetensors=True)
