"""Exact nearest neighbours by blocked matrix products.

faiss's exact index is no option beside them: on one thread and a bank of some thousand patches it takes 0.7 to 0.9 of
their time. Its HNSW graph is faster only on larger banks, where it once missed the neighbour by ten times its distance.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES, ROWS = 1024, 4096  # rows of a block: its distances take 16 MB


def nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean distance to the nearest row of the bank (M, C), and its index: both (Q,) for queries (Q, C).

    Which row is nearest is found from |q|^2 - 2 q b + |b|^2, whose rounding can only confuse rows that are as near; the
    distance is then taken from the difference itself, so that it is exact where it is small, too.
    """
    lengths = bank.square().sum(1)
    index = torch.cat([_nearest_index(part, bank, lengths) for part in queries.split(QUERIES)])
    return torch.linalg.vector_norm(queries - bank[index], dim=1), index


def nearest_several(queries: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `nearest`, for the `count` nearest rows, nearest first: both (Q, count), fewer where the bank holds fewer."""
    count, lengths = min(count, len(bank)), bank.square().sum(1)
    indices = []
    for part in queries.split(QUERIES):
        scores = torch.addmm(lengths, part, bank.T, alpha=-2)
        indices.append(scores.topk(count, largest=False).indices)
    index = torch.cat(indices)
    distances = torch.linalg.vector_norm(queries[:, None] - bank[index], dim=2)
    distances, order = distances.sort(dim=1)
    return distances, index.gather(1, order)


def _nearest_index(queries: Tensor, bank: Tensor, lengths: Tensor) -> Tensor:
    smallest, index = queries.new_full((len(queries),), torch.inf), queries.new_zeros(len(queries), dtype=torch.long)
    for start in range(0, len(bank), ROWS):
        part = slice(start, start + ROWS)
        scores, found = torch.addmm(lengths[part], queries, bank[part].T, alpha=-2).min(1)
        nearer = scores < smallest
        smallest, index = torch.where(nearer, scores, smallest), torch.where(nearer, found + start, index)
    return index
