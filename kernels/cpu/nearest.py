"""Nearest points by a k-d tree on the CPU: one core builds it, queries are shared by the cores.

The tree is an order of the points: the middle of a range is a node, what lies below and above it along the node's axis
is on its left and right. Of points at the same distance the one that is found first counts, always the same.
"""

import numpy as np
from numba import prange

from .compiled import compiled

DEPTH = 64  # of the stacks, at least: ranges halve


@compiled()
def _select(points, order, axis, low, high, middle):
    """Reorder a range, low to high, so that its middle is in its place along the axis (Hoare's quickselect)."""
    high -= 1
    while low < high:
        pivot = points[order[(low + high) // 2], axis]
        i, j = low, high
        while i <= j:
            while points[order[i], axis] < pivot:
                i += 1
            while points[order[j], axis] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i, j = i + 1, j - 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return


@compiled()
def plant(
    points,  # [n, 3]
    # read and written:
    order,  # [n] int64, the points in any order
    # out:
    axes_out,  # [n] int8, by place in the order
    # scratch:
    lows,  # [DEPTH] int64
    highs,  # [DEPTH] int64
):
    """Build a tree."""
    lows[0], highs[0] = 0, len(order)
    top = 1
    while top > 0:
        top -= 1
        low, high = lows[top], highs[top]
        if high - low < 1:
            continue
        widest, axis = -1.0, 0
        for k in range(3):
            least = most = points[order[low], k]
            for place in range(low + 1, high):
                value = points[order[place], k]
                least, most = min(least, value), max(most, value)
            if most - least > widest:
                widest, axis = most - least, k
        middle = (low + high) // 2
        _select(points, order, axis, low, high, middle)
        axes_out[middle] = axis
        lows[top], highs[top] = low, middle
        lows[top + 1], highs[top + 1] = middle + 1, high
        top += 2


@compiled()
def _nearest(points, order, axes, families, owners, x, y, z, lows, highs, gaps):
    """The point nearest to x, y, z whose owner's family is larger than one, or -1; without owners, of all points.

    The last three are scratch [DEPTH].
    """
    best, found = np.inf, -1
    lows[0], highs[0], gaps[0] = 0, len(order), 0.0
    top = 1
    while top > 0:
        top -= 1
        low, high = lows[top], highs[top]
        if low >= high or gaps[top] >= best:
            continue
        middle = (low + high) // 2
        point, axis = order[middle], axes[middle]
        if len(owners) == 0 or families[owners[point]] > 1:
            dx, dy, dz = points[point, 0] - x, points[point, 1] - y, points[point, 2] - z
            square = dx * dx + dy * dy + dz * dz
            if square < best:
                best, found = square, point
        off = (x if axis == 0 else (y if axis == 1 else z)) - points[point, axis]
        below = off < 0.0
        lows[top], highs[top], gaps[top] = (middle + 1 if below else low), (high if below else middle), off * off
        lows[top + 1], highs[top + 1], gaps[top + 1] = (low if below else middle + 1), (middle if below else high), 0.0
        top += 2
    return found


@compiled(parallel=True)
def nearest(
    # tree:
    points,  # [n, 3] float64, one at least
    order,  # [n] int64
    axes,  # [n] int8
    # queries:
    places,  # [m, 3] float64
    # out:
    found_out,  # [m] int64
):
    """The point nearest to each place."""
    none = np.empty(0, dtype=np.int64)
    for chunk in prange((len(places) + 255) // 256):
        lows, highs = np.empty(DEPTH, dtype=np.int64), np.empty(DEPTH, dtype=np.int64)
        gaps = np.empty(DEPTH, dtype=np.float64)
        for i in range(chunk * 256, min(chunk * 256 + 256, len(places))):
            x, y, z = places[i, 0], places[i, 1], places[i, 2]
            found_out[i] = _nearest(points, order, axes, none, none, x, y, z, lows, highs, gaps)


@compiled()
def adopt(
    # tree:
    points,  # [n, 3] float64
    order,  # [n] int64
    axes,  # [n] int8
    # families:
    places,  # [m, 3] float64, of their heads
    # read and written:
    owners,  # [n] int64, the family of each point
    families,  # [m] int64, how many points each has
    # scratch:
    lows,  # [DEPTH] int64
    highs,  # [DEPTH] int64
    gaps,  # [DEPTH] float64
):
    """Give each family without a point, in turn, the nearest of those that are not alone in theirs, if there is one."""
    spare = len(owners)
    for i in range(len(families)):
        spare -= min(families[i], 1)
    for i in range(len(families)):
        if families[i] == 0 and spare > 0:
            x, y, z = places[i, 0], places[i, 1], places[i, 2]
            child = _nearest(points, order, axes, families, owners, x, y, z, lows, highs, gaps)
            families[owners[child]] -= 1
            owners[child], families[i] = i, 1
            spare -= 1
