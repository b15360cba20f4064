"""Numbers for the nodes of a hierarchy: parents before children, siblings side by side, a subtree in one run; and the
spheres that hold a node's descendants. On the CPU; a node's walk is on one core."""

import math

import numpy as np
from numba import prange

from .compiled import compiled


@compiled()
def number_nodes(
    parts,  # [p] int64 members of the merged nodes, which come after their members
    starts,  # [m + 1] int64
    leaves,  # the first merged node's number; the last is the root
    # out:
    sizes,  # [n] int64 of the subtrees
    places,  # [n] int64 new numbers
    children_out,  # [n] int32 by new numbers: first child, or -1
    counts_out,  # [n] int32
):
    """New numbers of the nodes; the root gets 0."""
    n = len(sizes)
    for i in range(n):
        sizes[i] = 1
        if i >= leaves:
            for k in range(starts[i - leaves], starts[i - leaves + 1]):
                sizes[i] += sizes[parts[k]]
    # While a node waits for its number's children, `children_out` at its new place says where they go.
    places[n - 1] = 0
    children_out[0] = 1
    for i in range(n - 1, -1, -1):
        place = places[i]
        if i < leaves:
            children_out[place], counts_out[place] = -1, 0
            continue
        start, stop = starts[i - leaves], starts[i - leaves + 1]
        first = children_out[place]
        counts_out[place] = stop - start
        below = first + stop - start
        for k in range(start, stop):
            child = parts[k]
            places[child] = first + k - start
            children_out[places[child]] = below
            below += sizes[child] - 1


@compiled()
def enclose(means, children, counts, slack, radii_out):
    """Radii [n] of spheres about the means [n, 3] that hold those of the children, and `slack` more; 0 for leaves."""
    for i in range(len(means) - 1, -1, -1):
        radius = 0.0
        for child in range(children[i], children[i] + counts[i]):
            x = np.float64(means[child, 0]) - np.float64(means[i, 0])
            y = np.float64(means[child, 1]) - np.float64(means[i, 1])
            z = np.float64(means[child, 2]) - np.float64(means[i, 2])
            radius = max(radius, math.sqrt(x * x + y * y + z * z) + radii_out[child] + slack)
        radii_out[i] = radius


@compiled(parallel=True)
def gather_rows(leaf_rows, rows, order, rows_out):
    """Rows [n, k] in an order [n] int64; the first of them lie in one array, the others in another."""
    leaves = len(leaf_rows)
    for i in prange(len(order)):
        own = leaf_rows[order[i]] if order[i] < leaves else rows[order[i] - leaves]
        for k in range(len(own)):
            rows_out[i, k] = own[k]
