"""Spheres round the nodes of clusters, on one core: what a thread that loads pages can do while others draw."""

import math

import numpy as np

from ..constants import CLUSTER
from .compiled import compiled

INFLATED = 1 + 4e-6  # of a radius: float32 must not see a node's sphere poke out


@compiled()
def cluster_spheres(means, radii, errors, bounds_out, largest_out):
    """`kernels.lod.cluster_spheres`; the last cluster may be short."""
    for c in range(len(largest_out)):
        first, last = c * CLUSTER, min((c + 1) * CLUSTER, len(errors))
        largest = np.float32(0)
        for axis in range(3):
            low, high = np.inf, -np.inf
            for i in range(first, last):
                if errors[i] > 0:
                    low = min(low, np.float64(means[i, axis]) - np.float64(radii[i]))
                    high = max(high, np.float64(means[i, axis]) + np.float64(radii[i]))
                    largest = max(largest, errors[i])
            bounds_out[c, axis] = np.float32(0.5 * (low + high) if low <= high else 0.0)
        reach = 0.0  # from where the centre has been rounded to
        for i in range(first, last):
            if errors[i] > 0:
                x = np.float64(means[i, 0]) - np.float64(bounds_out[c, 0])
                y = np.float64(means[i, 1]) - np.float64(bounds_out[c, 1])
                z = np.float64(means[i, 2]) - np.float64(bounds_out[c, 2])
                reach = max(reach, math.sqrt(x * x + y * y + z * z) + np.float64(radii[i]))
        bounds_out[c, 3] = np.float32(reach * INFLATED)
        largest_out[c] = largest
