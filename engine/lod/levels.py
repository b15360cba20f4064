"""A hierarchy of levels of detail that someone else has made: their splats stay, only who stands for whom is new."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...kernels.cpu import nearest
from ...kernels.cpu.threads import all_cores
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from .build import DEFAULTS, BuildOptions, grow, numbered
from .growing import Groups, Growing
from .tree import MOST_CHILDREN, Tree


def tree_of_levels(
    levels: Sequence[Gaussians], options: BuildOptions = DEFAULTS, *, progress: Progress = no_progress
) -> Tree:
    """The hierarchy of a scene that has levels already.

    A splat's parent is the nearest one of the next coarser level. A coarse splat that is nobody's nearest gets the
    nearest splat of those that have siblings; one for which none is left is dropped. More than 255 children get
    merged splats between. Above the coarsest level, splats are merged. Errors are those of `build_tree`.

    Args:
        levels: finite splats of at least one level, the finest first, all on the CPU in float32; a level should be
            coarser than that before it.
        options: for what is above the coarsest level.
        progress: told of splats of all levels.

    Returns:
        As `build_tree`; the leaves are the splats of the finest level.
    """
    k = max(level.sh.shape[1] for level in levels)
    finest, *coarser = (_with_harmonics(level, k) for level in levels)
    growing = Growing(finest, given=sum(map(len, coarser)))
    active, done, total = np.arange(growing.count), len(finest), sum(map(len, levels))
    progress(done, total)
    for level in coarser:
        owners, kept = _families(growing.means[active], level.means.double().numpy())
        while (bins := np.bincount(owners, minlength=len(kept))).max() > MOST_CHILDREN:
            active, owners = _thinned(growing, active, owners, bins)
        order = owners.argsort(kind="stable")
        active = growing.give(level.select(torch.from_numpy(kept)), Groups(active[order], np.cumsum([0, *bins])))
        progress(done := done + len(level), total)
    grow(growing, active, dataclasses.replace(options, views=0))
    return numbered(growing)[0]


def _with_harmonics(scene: Gaussians, k: int) -> Gaussians:
    more: Tensor = scene.sh.new_zeros(len(scene), k - scene.sh.shape[1], 3)
    return dataclasses.replace(scene, sh=torch.cat((scene.sh, more), dim=1))


def _families(fine: np.ndarray, coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The family [n] of each fine splat, and the coarse splat [m] of each family; every family has somebody."""
    owners = np.empty(len(fine), np.int64)
    with all_cores():
        nearest.nearest(coarse, *_planted(coarse), fine, owners)
    families = np.bincount(owners, minlength=len(coarse))
    nearest.adopt(fine, *_planted(fine), coarse, owners, families, *_stacks(), np.empty(nearest.DEPTH))
    kept = np.flatnonzero(families)
    return np.searchsorted(kept, owners), kept


def _planted(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order, axes = np.arange(len(points)), np.empty(len(points), np.int8)
    nearest.plant(points, order, axes, *_stacks())
    return order, axes


def _stacks() -> tuple[np.ndarray, np.ndarray]:
    return np.empty(nearest.DEPTH, np.int64), np.empty(nearest.DEPTH, np.int64)


def _thinned(
    growing: Growing, active: np.ndarray, owners: np.ndarray, bins: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of families that are too large, neighbours merged, as many as a node may have."""
    crowded = np.flatnonzero(bins[owners] > MOST_CHILDREN)
    crowded = crowded[morton_order(torch.from_numpy(growing.means[active[crowded]])).numpy()]
    crowded = crowded[owners[crowded].argsort(kind="stable")]
    family = owners[crowded]
    begins = np.concatenate(([True], family[1:] != family[:-1]))
    first = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    begins |= (np.arange(len(crowded)) - first) % MOST_CHILDREN == 0
    starts = np.append(np.flatnonzero(begins), len(crowded))
    several = np.diff(starts) > 1
    member = np.repeat(several, np.diff(starts))
    groups = Groups(active[crowded[member]], np.concatenate(([0], np.cumsum(np.diff(starts)[several]))))
    heads = growing.merge(groups)
    gone = np.zeros(len(active), bool)
    gone[crowded[member]] = True
    return (
        np.concatenate((active[~gone], heads)),
        np.concatenate((owners[~gone], family[starts[:-1][several]])),
    )
