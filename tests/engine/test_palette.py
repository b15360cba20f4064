"""Codebooks against the optimum by dynamic programming, palettes against plain k-means and brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.engine.formats import palette as module
from lyra.engine.formats.palette import codebook, codes, palette


def optimum(values: np.ndarray, size: int) -> float:
    """The least sum of squared distances to `size` numbers: values of one number are neighbours once sorted."""
    values = np.sort(values.astype(np.float64))
    n = len(values)
    sums = np.append(0, values.cumsum())
    squares = np.append(0, np.square(values).cumsum())
    cost = np.full((n + 1, n + 1), np.inf)
    for start in range(n):
        stop = np.arange(start + 1, n + 1)
        cost[start, stop] = squares[stop] - squares[start] - np.square(sums[stop] - sums[start]) / (stop - start)
    best = np.append(0, np.full(n, np.inf))
    for _ in range(size):
        best = (best[:, None] + cost).min(axis=0)
    return best[n]


def error(values: np.ndarray, book: np.ndarray) -> float:
    return float(np.square(values.astype(np.float64)[:, None] - book).min(axis=1).sum())


RANDOM = np.random.default_rng(1)
VALUES = {
    "normal": RANDOM.normal(size=500),
    "even": RANDOM.random(500),
    "heavy": RANDOM.standard_cauchy(500),
    "spread": np.exp(2 * RANDOM.normal(size=500)),
    "two scales": np.append(1e-3 * RANDOM.normal(size=490), 100 * RANDOM.normal(size=10)),
    "far off": 1000 + RANDOM.normal(size=500),
    "one far": np.append(RANDOM.normal(size=499), -87.3),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_codebook_is_near_the_optimum(name: str) -> None:
    values = VALUES[name].astype(np.float32)
    book = codebook(values, 32)
    assert book.dtype == np.float32 and book.shape == (32,) and (np.diff(book) >= 0).all()
    assert error(values, book) < 1.2 * optimum(values, 32)


def test_a_codebook_of_quantiles_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RANDOM.normal(size=50_000).astype(np.float32)
    whole = error(values, codebook(values, 64))
    monkeypatch.setattr(module, "VALUES", 5000)
    assert error(values, codebook(values, 64)) < 1.1 * whole


def test_few_numbers_are_kept() -> None:
    values = np.array([[3.5, -1, 3.5], [0.1, 3.5, -1]], dtype=np.float32)
    assert codebook(values, 5).tolist() == [-1, np.float32(0.1), 3.5, 3.5, 3.5]
    many = RANDOM.permutation(np.repeat(RANDOM.normal(size=256).astype(np.float32), 3))
    book = codebook(many)
    assert (book[codes(book, many)] == many).all()
    neighbours = np.array([1, np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32)
    book = codebook(neighbours)
    assert (book[codes(book, neighbours)] == neighbours).all()


def test_extreme_numbers() -> None:
    values = np.linspace(-3e38, 3e38, 1000, dtype=np.float32)
    assert error(values, codebook(values)) / 1000 < (6e38 / 256) ** 2 / 12 * 1.1
    assert codebook(np.zeros((1, 3), np.float32)).tolist() == [0] * 256


def test_codes_are_the_nearest() -> None:
    book = np.sort(RANDOM.normal(size=256)).astype(np.float32)
    values = np.append(2 * RANDOM.normal(size=(500, 3)), [[-1e30, 1e30, 0]], axis=0).astype(np.float32)
    nearest = np.abs(values[..., None].astype(np.float64) - book).min(axis=-1)
    found = codes(book, values)
    assert found.dtype == np.uint8 and found.shape == values.shape
    assert (np.abs(values.astype(np.float64) - book[found]) == nearest).all()


def colours(count: int, seed: int = 0) -> Tensor:
    """Vectors as SH are: a few independent directions of different strength, and noise."""
    generator = torch.Generator().manual_seed(seed)
    strength = 0.8 ** torch.arange(9)
    mixed = (torch.randn(count, 9, generator=generator) * strength) @ torch.randn(9, 9, generator=generator)
    return mixed * torch.rand(count, 1, generator=generator)


def mean_error(vectors: Tensor, entries: Tensor, labels: Tensor) -> float:
    return float((vectors.double() - entries[labels.long()].double()).square().sum(dim=1).mean())


def plain_k_means(vectors: Tensor, size: int, rounds: int = 12) -> float:
    """Lloyd's algorithm, every distance computed."""
    entries = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))[:size]].double()
    for _ in range(rounds):
        labels = torch.cdist(vectors.double(), entries).argmin(dim=1)
        counts = torch.bincount(labels, minlength=size)
        sums = torch.zeros_like(entries).index_add_(0, labels, vectors.double())
        entries = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], entries)
    return mean_error(vectors, entries, torch.cdist(vectors.double(), entries).argmin(dim=1))


def test_a_palette_is_as_good_as_plain_k_means() -> None:
    vectors = colours(8000)
    entries, labels = palette(len(vectors), lambda part: vectors[part], 1024)
    assert entries.shape == (1024, 9) and labels.shape == (8000,) and labels.dtype == torch.int32
    found = mean_error(vectors, entries, labels)
    assert found < 1.03 * plain_k_means(vectors, 1024)
    nearest = torch.cdist(vectors.double(), entries.double()).argmin(dim=1)
    assert found < 1.0001 * mean_error(vectors, entries, nearest)  # four cells: all are searched


def test_a_palette_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELL", 32)
    vectors = colours(8000)
    entries, labels = palette(len(vectors), lambda part: vectors[part], 1024)
    assert mean_error(vectors, entries, labels) < 1.06 * plain_k_means(vectors, 1024)
    again = palette(len(vectors), lambda part: vectors[part], 1024)
    assert torch.equal(entries, again[0]) and torch.equal(labels, again[1])


def test_a_palette_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = colours(20_000)
    whole = mean_error(vectors, *palette(len(vectors), lambda part: vectors[part], 512))
    monkeypatch.setattr(module, "SAMPLE", 10_000)
    sampled = mean_error(vectors, *palette(len(vectors), lambda part: vectors[part], 512))
    assert whole < sampled < 1.1 * whole


def test_few_vectors_are_kept_in_order() -> None:
    vectors = torch.tensor([[2.0, 1], [0.0, 0], [2, 1], [-0.0, 0], [5, 5]])
    entries, labels = palette(5, lambda part: vectors[part], 3)
    assert entries.tolist() == [[2, 1], [0, 0], [5, 5]] and labels.tolist() == [0, 1, 0, 1, 2]
    many = colours(700)[torch.randint(700, (3000,), generator=torch.Generator().manual_seed(0))]
    entries, labels = palette(3000, lambda part: many[part], 1024)
    assert len(entries) <= 700 and torch.equal(entries[labels.long()], many)


def test_vectors_that_are_mostly_one() -> None:
    vectors = torch.cat([torch.full((6000, 9), 0.25), colours(2000)])
    entries, labels = palette(8000, lambda part: vectors[part], 1024)
    assert mean_error(vectors[:6000], entries, labels[:6000]) < 1e-6
    assert mean_error(vectors[6000:], entries, labels[6000:]) < 1.1 * plain_k_means(vectors[6000:], 1023)


def test_huge_vectors_do_no_harm() -> None:
    vectors = colours(3000)
    vectors[7], vectors[8, 0] = 3e38, -1e20
    entries, labels = palette(3000, lambda part: vectors[part], 1024)
    assert torch.isfinite(entries).all() and 0 <= int(labels.min()) and int(labels.max()) < 1024
    assert labels[7] not in labels[9:] and labels[8] not in labels[9:]
    assert mean_error(vectors[9:], entries, labels[9:]) < 2 * plain_k_means(vectors[9:], 1022)


def test_shares() -> None:
    room = torch.tensor([5, 100, 1, 30, 4])
    shares = module._shares(torch.tensor([0.0, 3, 50, 1, 0], dtype=torch.float64), room, 90)
    assert shares.sum() == 90 and (shares >= 1).all() and (shares <= room).all()
    assert shares[2] == 1 and 2.5 < shares[1] / shares[3] < 3.5
    assert module._shares(torch.zeros(5, dtype=torch.float64), room, 140).tolist() == room.tolist()
