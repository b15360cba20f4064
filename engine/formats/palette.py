"""Few values for many: a codebook of numbers and a palette of vectors, by k-means. The same in, the same out.

A codebook starts from quantiles and an even grid, and Lloyd's rounds move its numbers; in every round those that would
be missed least go where the error is largest. A palette is fitted in two levels: a coarse k-means makes cells, each
gets entries in proportion to its squared error (the optimum in many dimensions), and a vector is compared with the
entries of its own cell, in the last rounds with those of the nearest cells too. What is few enough is kept as it is.
Source of the rounds: S. Lloyd, Least squares quantization in PCM, IEEE Transactions on Information Theory 28, 1982.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .format import blocks

CODES = 256  # numbers in a codebook
VALUES = 1 << 20  # quantiles that a codebook is fitted to
ROUNDS = 256  # of a codebook
CELL = 256  # entries of a palette that share a cell, on average
SAMPLE = 1 << 19  # vectors that a palette is fitted to; eight for each of 65,536 entries
COARSE_SAMPLE = 64  # vectors that a cell is fitted to
COARSE_ROUNDS = (1,) * 10
FINE_ROUNDS = (1, 1, 1, 1, 1, 4, 4)  # cells that are searched in each round
REACH = 4  # cells that are searched at the end
SCORES = 1 << 22  # distances held at a time
LIMIT = 1e15  # of a vector's components; the square is a float32 still

Rows = Callable[[slice | Tensor], Tensor]  # places -> float32 vectors [b, d] on the CPU


def codebook(values: np.ndarray, size: int = CODES) -> np.ndarray:
    """[size] float32, ascending: numbers with a small mean squared distance to their nearest of the finite `values`.

    Up to `size` different values are kept as they are; the last is repeated where there are fewer.
    """
    values = values.astype(np.float32).ravel()
    values.sort()
    fresh = np.append(True, values[1:] != values[:-1])
    if (count := int(fresh.sum())) <= size:
        return np.append(values[fresh], np.repeat(values[-1], size - count))
    values = values[np.arange(VALUES) * (len(values) - 1) // (VALUES - 1)] if len(values) > VALUES else values
    middle = float(values[len(values) // 2])
    sums, squares = np.zeros(len(values) + 1), np.zeros(len(values) + 1)
    np.cumsum(values - np.float64(middle), out=sums[1:])
    np.cumsum(np.square(values - np.float64(middle)), out=squares[1:])
    picks = np.linspace(0, len(values) - 1, size - size // 2).astype(int)
    book = np.sort(np.append(values[picks], np.linspace(float(values[0]), float(values[-1]), size // 2))) - middle
    best, least = book, np.inf
    for _ in range(ROUNDS):
        ends = np.searchsorted(values, (book[1:] + book[:-1]) / 2 + middle)
        ends = np.concatenate([[0], ends, [len(values)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        book = np.where(counts > 0, means, book)
        errors = np.where(counts > 0, np.diff(squares[ends]) - means * np.diff(sums[ends]), 0).clip(min=0)
        if errors.sum() < least:
            best, least = book, errors.sum()
        book = _moved(book, counts, errors)
    return (best + middle).astype(np.float32)


def _moved(book: np.ndarray, counts: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """The book with the numbers that are missed least put where the errors are largest, one in sixteen at most."""
    pairs = counts[:-1] * counts[1:] / np.maximum(counts[:-1] + counts[1:], 1)
    losses = np.append(pairs * np.square(np.diff(book)), np.inf)  # of leaving the values of number i to number i + 1
    losses[:-1][counts[1:] == 0] = np.inf
    losses[counts == 0] = 0
    leaving, splitting = losses.argsort(kind="stable"), (-errors).argsort(kind="stable")
    book = book.copy()
    taken: set[int] = set()
    for i, j in zip(leaving[: len(book) // 16], splitting, strict=False):
        if losses[i] >= errors[j] / 2 or taken & {i, i + 1, j}:  # a cell in two halves keeps a quarter of its error
            continue
        spread = np.sqrt(errors[j] / counts[j]) * 0.87  # centres of the halves of an even cell
        book[i], book[j] = book[j] - spread, book[j] + spread
        taken |= {i, i + 1, j}
    return np.sort(book)


def codes(book: np.ndarray, values: np.ndarray) -> np.ndarray:
    """uint8 index of the nearest number of an ascending codebook, in the shape of `values`."""
    book = book.astype(np.float64)
    return np.searchsorted((book[1:] + book[:-1]) / 2, values.astype(np.float64)).astype(np.uint8)


def palette(count: int, rows: Rows, size: int) -> tuple[Tensor, Tensor]:
    """A palette for `count` vectors, of `size` entries or of as many as differ.

    Returns:
        entries: [m, d] float32, m <= size.
        labels: [count] int32, for each vector an entry near it, the nearest as a rule.
    """
    kept = _distinct(count, rows, size)
    if kept is not None:
        return kept
    places = torch.arange(0, count * SAMPLE, count) // SAMPLE if count > SAMPLE else slice(0, count)
    entries, cells = _fit(rows(places).clamp(-LIMIT, LIMIT), size)
    labels = torch.empty(count, dtype=torch.int32)
    for part in blocks(count):
        vectors = rows(part).clamp(-LIMIT, LIMIT)
        home = _nearest(vectors, cells.centres)[0]
        labels[part] = _search(vectors, home, entries, cells, REACH)[0].int()
    return entries, labels


def _distinct(count: int, rows: Rows, size: int) -> tuple[Tensor, Tensor] | None:
    """The vectors themselves, in order of appearance, where at most `size` differ."""
    keys = torch.empty(count, dtype=torch.int64)
    for part in blocks(count):
        bits = (rows(part) + 0.0).contiguous().view(torch.int32).long()  # + 0.0 makes one zero of two
        factors = torch.randint(1 << 62, bits.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 + 1
        keys[part] = (bits * factors).sum(dim=1)
    distinct, first, labels = np.unique(keys.numpy(), return_index=True, return_inverse=True)
    if len(distinct) > size:
        return None
    rank = np.empty(len(first), dtype=np.int32)
    rank[first.argsort()] = np.arange(len(first), dtype=np.int32)
    entries, numbers = rows(torch.from_numpy(np.sort(first))), torch.from_numpy(rank[labels])
    same = all(torch.equal(rows(part) + 0.0, entries[numbers[part]] + 0.0) for part in blocks(count))
    return (entries, numbers) if same else None  # two vectors with one key


@dataclass(frozen=True)
class _Cells:
    """Groups of entries that are searched together."""

    centres: Tensor  # [c, d]
    near: Tensor  # [c, <= REACH] cells by distance, each itself first
    first: Tensor  # [c + 1] the entries of cell i are first[i] to first[i + 1] - 1

    def home(self) -> Tensor:
        """[m] the cell of each entry."""
        return torch.repeat_interleave(torch.arange(len(self.centres)), self.first.diff())


def _fit(vectors: Tensor, size: int) -> tuple[Tensor, _Cells]:
    """Entries, [size, d], for vectors that number at least as many, and their cells."""
    vectors = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))]
    centres = _coarse(vectors[: COARSE_SAMPLE * max(1, size // CELL)], max(1, size // CELL))
    home, errors = _nearest(vectors, centres)
    counts = torch.bincount(home, minlength=len(centres))
    centres, home = centres[counts > 0], ((counts > 0).cumsum(0) - 1)[home]
    counts = counts[counts > 0]
    shares = _shares(torch.bincount(home, weights=errors.double()), counts, size)
    distances = torch.cdist(centres, centres).fill_diagonal_(-1)
    near = distances.topk(min(REACH, len(centres)), largest=False).indices
    cells = _Cells(centres, near, torch.cat([shares.new_zeros(1), shares.cumsum(0)]))
    members = home.argsort(stable=True).split(counts.tolist())  # at random within a cell
    start = torch.cat([own[:share] for own, share in zip(members, shares.tolist(), strict=True)])
    return _lloyd(vectors, home, vectors[start], cells, FINE_ROUNDS), cells


def _coarse(vectors: Tensor, size: int) -> Tensor:
    """[size, d] centres, by plain k-means: one cell."""
    one = _Cells(vectors[:1], torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0, size]))
    home = torch.zeros(len(vectors), dtype=torch.int64)
    return _lloyd(vectors, home, vectors[:size], one, COARSE_ROUNDS)


def _lloyd(vectors: Tensor, home: Tensor, entries: Tensor, cells: _Cells, rounds: tuple[int, ...]) -> Tensor:
    """Entries moved to the mean of their vectors, round by round; one that has none takes a badly served vector."""
    for reach in rounds:
        labels, errors = _search(vectors, home, entries, cells, reach)
        counts = torch.bincount(labels, minlength=len(entries))
        sums = torch.zeros(entries.shape, dtype=torch.float64)
        for part in blocks(len(vectors)):
            sums.index_add_(0, labels[part], vectors[part].double())
        empty = (counts == 0).nonzero()[:, 0]
        entries = (sums / counts.clamp(min=1)[:, None]).float()
        if len(empty):
            worst = errors.argsort(descending=True, stable=True)
            worst = worst[home[worst].argsort(stable=True)]  # by cell, then by error
            owner = cells.home()[empty]
            rank = torch.arange(len(empty)) - torch.searchsorted(owner, owner)
            entries[empty] = vectors[worst[torch.searchsorted(home[worst], owner) + rank]]
    return entries


def _shares(weights: Tensor, room: Tensor, total: int) -> Tensor:
    """Whole numbers in proportion to the weights, each from 1 to its room, that sum to `total`."""
    shares = torch.ones_like(room)
    while (left := total - int(shares.sum())) > 0:
        wanted = torch.where(shares < room, weights, 0)
        if not (wanted > 0).any():
            wanted = (shares < room).double()
        more = (wanted * (left / wanted.sum())).floor().long()
        if not more.any():
            more[wanted.argsort(descending=True, stable=True)[:left]] = 1
        shares = torch.minimum(shares + more, room)
    return shares


def _search(vectors: Tensor, home: Tensor, entries: Tensor, cells: _Cells, reach: int) -> tuple[Tensor, Tensor]:
    """For each vector the nearest entry among those of the cells next to its own, and the squared distance."""
    labels, errors = torch.empty(len(vectors), dtype=torch.int64), torch.empty(len(vectors))
    counts, first = torch.bincount(home, minlength=len(cells.centres)).tolist(), cells.first.tolist()
    for near, members in zip(cells.near[:, :reach].tolist(), home.argsort(stable=True).split(counts), strict=True):
        choice = torch.cat([torch.arange(first[cell], first[cell + 1]) for cell in near])
        found, errors[members] = _nearest(vectors[members], entries[choice])
        labels[members] = choice[found]
    return labels, errors


def _nearest(vectors: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """[n] index of the nearest entry, and the squared distance to it."""
    labels, errors = torch.empty(len(vectors), dtype=torch.int64), torch.empty(len(vectors))
    halves, step = entries.square().sum(dim=1) / 2, max(1, SCORES // len(entries))
    for start in range(0, len(vectors), step):
        some = vectors[start : start + step]
        scores = torch.addmm(halves, some, entries.T, alpha=-1)  # (|v - e|^2 - |v|^2) / 2
        found = torch.from_numpy(scores.numpy().argmin(axis=1))  # ten times as fast as torch's
        labels[start : start + step] = found
        errors[start : start + step] = (some - entries[found]).square().sum(dim=1)
    return labels, errors
