"""From a scene to its hierarchy, without training: merge until one splat is left, then number the nodes."""

from dataclasses import dataclass

import numpy as np
import torch

from ...kernels.cpu import numbering
from ...kernels.cpu.threads import all_cores
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians
from .grouping import pairs, voxels
from .growing import Growing
from .tree import Tree
from .visibility import visibility

SLACK = 3e-6  # of the root's radius that each sphere adds to its children's: more than rounding can take away


@dataclass(frozen=True)
class BuildOptions:
    """How a hierarchy is built."""

    quality: bool = False
    """Merge pairs by what they cost instead of cells of a grid, and count what can be seen more than what cannot."""
    views: int = 40
    """Pictures, for `quality`, that tell what can be seen; 0: everything counts alike."""
    chunk: int = 1 << 20
    """Splats that are built together; of larger scenes, each chunk, and then a tree above them."""


DEFAULTS = BuildOptions()


def build_tree(gaussians: Gaussians, options: BuildOptions = DEFAULTS, *, progress: Progress = no_progress) -> Tree:
    """The hierarchy of a scene, whose leaves are its splats, all of them, in memory and whole, however large it is.

    Args:
        gaussians: finite, on any device, opacities of at most 1.
        progress: told how many splats are settled, of how many.

    Returns:
        The tree, on the CPU in float32; the same for the same scene and options, on any number of cores.
    """
    leaves = gaussians.to(device="cpu", dtype=torch.float32)
    weights = visibility(leaves, options.views) if options.quality and options.views else None
    growing = Growing(leaves, weights)
    del leaves
    grow(growing, np.arange(growing.count), options, progress)
    return numbered(growing)[0]


def grow(growing: Growing, active: np.ndarray, options: BuildOptions, progress: Progress = no_progress) -> None:
    """Merge some splats, of ascending numbers, until one is left."""
    done, total = 0, len(active)
    for groups in (pairs if options.quality else voxels)(growing, active):
        done += len(groups.parts) - len(groups)
        progress(min(done, total), total)


def numbered(growing: Growing) -> tuple[Tree, np.ndarray]:
    """The tree of what grew to one splat, and the nodes [leaves] int64 of its leaves; they have no errors there."""
    n, members = growing.count, growing.finish()
    sizes, places = np.empty(n, np.int64), np.empty(n, np.int64)
    children, counts = np.empty(n, np.int32), np.empty(n, np.int32)
    numbering.number_nodes(members.parts, members.starts, growing.leaves, sizes, places, children, counts)
    order = np.empty(n, np.int64)
    order[places] = np.arange(n)
    means = growing.means.take(order, axis=0).astype(np.float32)
    sh = np.empty((n, growing.leaf_sh.shape[1]), np.float32)
    with all_cores():
        numbering.gather_rows(growing.leaf_sh, growing.sh, order, sh)
    growing.errors[: growing.leaves] = 0
    tree = Tree(
        gaussians=Gaussians(
            means=torch.from_numpy(means),
            quats=torch.from_numpy(growing.quats.take(order, axis=0)),
            scales=torch.from_numpy(growing.scales.take(order, axis=0)),
            opacities=torch.from_numpy(growing.opacities.take(order, axis=0)),
            sh=torch.from_numpy(sh.reshape(n, -1, 3)),
        ),
        children=torch.from_numpy(children),
        counts=torch.from_numpy(counts),
        errors=torch.from_numpy(growing.errors.take(order, axis=0)),
        radii=torch.from_numpy(enclosing_radii(means, children, counts)),
    )
    return tree, places[: growing.leaves]


def enclosing_radii(means: np.ndarray, children: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Radii [n] float32 of spheres about the means [n, 3], each around those of its children, with room to spare."""
    radii = np.empty(len(means), np.float64)
    slack = 0.0
    for _ in range(2):  # the root's radius, to measure the slack by, takes a first look
        numbering.enclose(means, children, counts, slack, radii)
        slack = SLACK * radii[0]
    return radii.astype(np.float32)
