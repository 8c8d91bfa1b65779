"""Training a prompt's own rows of the token embedding table, in place (MixSyn, Table 5: the embedding)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["add_rows", "pop_rows"]


class _Rows(nn.Module):
    """An embedding table of which the rows `ids` train; the table itself is not touched."""

    def __init__(self, table: nn.Embedding, ids: Tensor):
        super().__init__()
        self.table, self.ids, self.rows = table, ids, nn.Parameter(table.weight.detach()[ids].clone())
        self.place = torch.full((table.num_embeddings,), -1, device=ids.device)
        self.place[ids] = torch.arange(len(ids), device=ids.device)

    def forward(self, ids: Tensor) -> Tensor:
        place = self.place[ids]
        return torch.where((place >= 0)[..., None], F.embedding(place.clamp(min=0), self.rows), self.table(ids))


def add_rows(pipeline, prompt: str) -> list[Tensor]:
    """Make the embedding rows of the prompt's own tokens trainable: returns them, [tokens, dim], in a list."""
    encoder = pipeline.text_encoder
    ids = pipeline.tokenizer(prompt, add_special_tokens=False).input_ids
    rows = _Rows(encoder.get_input_embeddings(), torch.tensor(sorted(set(ids)), device=encoder.device))
    encoder.set_input_embeddings(rows)
    return [rows.rows]


@torch.no_grad()
def pop_rows(pipeline) -> None:
    """Write the trained rows into the table and put the plain table back."""
    found = pipeline.text_encoder.get_input_embeddings()
    found.table.weight[found.ids] = found.rows
    pipeline.text_encoder.set_input_embeddings(found.table)
