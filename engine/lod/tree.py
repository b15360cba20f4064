"""A level-of-detail hierarchy in memory: splats whose inner nodes stand for their children."""

from dataclasses import dataclass

from torch import Tensor

from ..scene.gaussians import Gaussians


@dataclass(frozen=True, eq=False)
class Tree:
    """n nodes. One root, node 0; parents before children, siblings contiguous; leaves have error and radius 0."""

    gaussians: Gaussians  # [n] all nodes; opacity of inner nodes may exceed 1
    children: Tensor  # [n] int32, first child, or -1 for a leaf
    counts: Tensor  # [n] int32, number of children (1..255), 0 for a leaf
    errors: Tensor  # [n] float32, world units; what drawing the node in place of its children costs
    radii: Tensor  # [n] float32, of a sphere about the node's mean that contains the spheres of all its descendants
