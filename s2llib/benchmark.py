"""Benchmarks: what the search for extracted images costs. Not part of the tests.

python -m s2llib.benchmark                       # 5,000 generated and 100,000 training images of 64 pixels
python -m s2llib.benchmark 5000 400 512          # generated images, training images, pixels
"""

import resource
import sys
import time

import torch

from s2llib.attacks.extraction import crowd, nearest

__all__ = ["Drawn", "main"]


class Drawn:
    """Random images that are drawn when they are read: as many as you like, none on disk."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.copies = count, seed, (1,) * count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice) -> "Drawn":
        start, stop, _ = which.indices(self.count)
        return Drawn(stop - start, self.seed + start)

    def batches(self, size: int, batch: int):
        draw = torch.Generator().manual_seed(self.seed)
        for start in range(0, self.count, batch):
            yield torch.rand(min(batch, self.count - start), 3, size, size, generator=draw)


def main() -> None:
    generated, training, size = (int(value) for value in (*sys.argv[1:], *("5000", "100000", "64")[len(sys.argv) - 1 :]))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    drawn, known = Drawn(generated, 0), Drawn(training, 10**9)
    distance, _ = nearest(known, drawn, size)  # the images in training order: the larger set is the one that is held
    crowd(drawn, known, size, [0.1])
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{generated:,} x {training:,} images of {size} pixels: {seconds:.0f} s, smallest distance {distance.min():.3f}")
    print(f"peak memory {peak / 2**20:.2f} GiB, of which {before / 2**20:.2f} GiB before the search")


if __name__ == "__main__":
    main()
