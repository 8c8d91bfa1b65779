"""What a network is conditioned on, whatever its family: a prompt's hidden states, and whatever else it takes."""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Condition"]


@dataclass(frozen=True)
class Condition:
    """tensors: {argument of the network: [n, ...]}, a row for each image, or one row for all of them; rows: n."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: int = 1

    @classmethod
    def of(cls, **tensors: Tensor) -> "Condition":
        """The condition of these tensors, each [n, ...]."""
        return cls(tensors, len(next(iter(tensors.values()))))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, which: Tensor | slice) -> "Condition":
        """The rows of these indices."""
        rows = len(range(self.rows)[which]) if isinstance(which, slice) else len(which)
        return Condition({name: each[which] for name, each in self.tensors.items()}, rows)

    def expand(self, n: int) -> "Condition":
        """n rows of one, or the n that there are."""
        return Condition({name: each.expand(n, *each.shape[1:]) for name, each in self.tensors.items()}, n)

    def split(self, size: int) -> "list[Condition]":
        """So many rows at a time."""
        return [self[start : start + size] for start in range(0, self.rows, size)]
