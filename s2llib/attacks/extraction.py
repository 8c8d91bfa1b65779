"""Data extraction: (k, l2, delta)-eidetic memorisation (Carlini et al. 2023, Definition 2; Shake-to-Leak, Definition 3.1).

A training image x is extracted if some generated image lies within RMS pixel distance delta of x, and at most k training
images, x and its copies included, lie within delta of x. Distances are exact: pixels are 8-bit, so sums of squares are
integers, which float64 holds without rounding. The search goes block by block: memory does not grow with the sets.
"""

import math
from collections.abc import Iterator

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from s2llib.data.domain import Photos
from s2llib.params import ParamsError

__all__ = ["agreeing", "aligned", "both_ways", "candidates", "crowd", "eidetic", "nearest", "nearest_aligned", "rms"]

HELD = 2**30  # bytes of 8-bit pixels that are held for one pass over the other set
BLOCK = 2**28  # bytes of any other tensor of the search, but for one value per image


def rms(x: Tensor, y: Tensor) -> Tensor:
    """[n, m] RMS distance in [0, 1] of uint8 images [n, tiles, d] and [m, tiles, d]; of several tiles, the largest distance.

    One tile: the l2 distance of Definition 2. Several: Carlini et al.'s guard against false matches of uniform backgrounds.
    Raises ValueError for images of different size.
    """
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"images of {x[0].numel()} and of {y[0].numel()} values cannot be compared; bring them to one size first")
    x, y = x.double().transpose(0, 1), y.double().transpose(0, 1)
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :] - 2 * x @ y.transpose(1, 2)
    return (squares.amax(0) / x.shape[2]).sqrt() / 255


def _chunk(size: int, tiles: int) -> int:
    """Images at a time, so that neither their pixels nor the distances of two chunks take more than a block in float64."""
    return max(1, min(BLOCK // (8 * 3 * size * size), math.isqrt(BLOCK // (8 * tiles * tiles))))


def _blocks(photos: Photos, size: int, tiles: int, at_once: int) -> Iterator[Tensor]:
    """uint8 [n, tiles * tiles, d] of so many images at a time."""
    if size % tiles:
        raise ParamsError(
            f"Images of {size} x {size} pixels cannot be cut into {tiles} x {tiles} tiles; set extraction.tiles to a divisor."
        )
    edge = size // tiles
    for start in range(0, len(photos), at_once):
        part = photos[start : start + at_once]
        block = torch.empty(len(part), tiles * tiles, 3 * edge * edge, dtype=torch.uint8)
        filled = 0
        for pixels in part.batches(size, _chunk(size, tiles)):
            x = (pixels * 255).round().byte().unfold(2, edge, edge).unfold(3, edge, edge)
            block[filled : filled + len(x)] = x.permute(0, 2, 3, 1, 4, 5).reshape(len(x), tiles * tiles, -1)
            filled += len(x)
        yield block


def _pairs(
    photos: Photos, others: Photos, size: int, tiles: int, device: torch.device | str
) -> Iterator[tuple[slice, slice, Tensor]]:  # fmt: skip
    """(some photos, some others, [n, m] their RMS distances), until every pair was seen."""
    chunk, first = _chunk(size, tiles), 0
    for held in _blocks(photos, size, tiles, max(1, HELD // (3 * size * size))):
        start = 0
        for y in _blocks(others, size, tiles, chunk):
            for i in range(0, len(held), chunk):
                x = held[i : i + chunk]
                columns = slice(start, start + len(y))
                yield slice(first + i, first + i + len(x)), columns, rms(x.to(device), y.to(device)).cpu()
            start += len(y)
        first += len(held)


def both_ways(
    photos: Photos, others: Photos, size: int, tiles: int = 1, device: torch.device | str = "cpu"
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:  # fmt: skip
    """`nearest` of the photos among the others, and of the others among the photos, in one search."""
    best = [torch.full((len(side),), torch.inf, dtype=torch.float64) for side in (photos, others)]
    which = [torch.zeros(len(side), dtype=torch.long) for side in (photos, others)]
    for rows, columns, distances in _pairs(photos, others, size, tiles, device):
        for side, (here, there) in enumerate(((rows, columns), (columns, rows))):
            distance, index = distances.min(1 - side)
            which[side][here] = torch.where(distance < best[side][here], index + there.start, which[side][here])
            best[side][here] = torch.minimum(best[side][here], distance)
    return (best[0], which[0]), (best[1], which[1])


def nearest(photos: Photos, others: Photos, size: int, tiles: int = 1, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Each photo's RMS distance to the nearest of the others, and which that is: [n], [n]; infinite if there are none."""
    return both_ways(photos, others, size, tiles, device)[0]


def crowd(
    photos: Photos, training: Photos, size: int, deltas: list[float], tiles: int = 1, device: torch.device | str = "cpu"
) -> Tensor:  # fmt: skip
    """[deltas, n] training images, copies counted, within each delta of each photo (a training image counts itself)."""
    counts, copies = torch.zeros(len(deltas), len(photos), dtype=torch.long), torch.tensor(training.copies)
    for rows, columns, distances in _pairs(photos, training, size, tiles, device):
        for i, delta in enumerate(deltas):
            counts[i, rows] += (distances <= delta).long() @ copies[columns]
    return counts


def eidetic(distance: Tensor, crowded: Tensor, k: int, delta: float) -> Tensor:
    """[n] of bool: which training images are (k, l2, delta)-eidetically memorised.

    distance: of each to its nearest generated image; crowded: training images within this delta of each (`crowd`).
    """
    return (distance <= delta) & (crowded <= k)


# options: the steps of the released pipeline, and Carlini et al.'s filter for an attacker without the training images


def candidates(photos: Tensor, generated: Tensor, most: int) -> Tensor:
    """[n, most]: the generated images most similar to each photo by the cosine of their image features [n, d] and [m, d].

    S2L's released code compares pixels of such candidates alone; what the features miss, it misses.
    """
    similarity = torch.nn.functional.normalize(photos, dim=1) @ torch.nn.functional.normalize(generated, dim=1).T
    return similarity.topk(min(most, len(generated)), dim=1).indices


def aligned(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`image` [h, w, 3] in [0, 1] moved, turned and scaled onto `target` by their SIFT keypoints (Lowe 2004; RANSAC).

    The image itself where fewer than four keypoints agree, as on the plain and blurred.
    """
    from skimage.color import rgb2gray
    from skimage.feature import SIFT, match_descriptors
    from skimage.measure import ransac
    from skimage.transform import SimilarityTransform, warp

    keypoints, descriptors = [], []
    for picture in (image, target):
        sift = SIFT()
        try:
            sift.detect_and_extract(rgb2gray(picture))
        except RuntimeError:  # no keypoints at all
            return image
        keypoints.append(sift.keypoints[:, ::-1])
        descriptors.append(sift.descriptors)
    pairs = match_descriptors(*descriptors, max_ratio=0.8, cross_check=True)
    if len(pairs) < 4:
        return image
    points = keypoints[0][pairs[:, 0]], keypoints[1][pairs[:, 1]]
    move, inliers = ransac(points, SimilarityTransform, min_samples=2, residual_threshold=2, max_trials=200, rng=0)
    if not move or inliers.sum() < 4:
        return image
    return warp(image, move.inverse, mode="edge")


def nearest_aligned(photos: Tensor, generated: Tensor, which: Tensor) -> Tensor:
    """[n] RMS distance of each photo [n, 3, h, w] to the nearest of its candidates [n, most], each as it is or SIFT-aligned."""
    pictures, targets = (x.permute(0, 2, 3, 1).numpy() for x in (generated, photos))
    distance = lambda x, y: float(np.sqrt(np.mean((x - y) ** 2)))  # noqa: E731
    return torch.tensor(
        [
            min(distance(x, target) for i in some for x in (pictures[i], aligned(pictures[i], target)))
            for target, some in zip(targets, which.tolist(), strict=True)
        ],
        dtype=torch.float64,
    )


def agreeing(
    generated: Photos, size: int, delta: float, clique: int, tiles: int = 1, device: torch.device | str = "cpu"
) -> Tensor:  # fmt: skip
    """[n] of bool: the generated images that lie in a clique of at least so many within delta of one another.

    Carlini et al. 2023, section 4.2: a memorised image comes out again and again, so an attacker who has no training image keeps
    the generations that agree.
    """
    near = nx.Graph()
    near.add_nodes_from(range(len(generated)))
    for rows, columns, distances in _pairs(generated, generated, size, tiles, device):
        pairs = (distances <= delta).nonzero() + torch.tensor([rows.start, columns.start])
        near.add_edges_from((i, j) for i, j in pairs.tolist() if i < j)
    crowded = nx.k_core(near, clique - 1)  # a member of such a clique has that many neighbours in it
    kept = torch.zeros(len(generated), dtype=torch.bool)
    for some in nx.find_cliques(crowded):
        kept[some] |= len(some) >= clique
    return kept
