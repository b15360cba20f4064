"""A hierarchy while it grows, from its leaves to its root: splats in arrays with room for those merged from them."""

from dataclasses import dataclass

import numpy as np

from ...kernels.cpu import field_error, merge
from ...kernels.cpu.threads import all_cores
from ..scene.gaussians import Gaussians
from .tree import GROWTH

RISE = GROWTH * (1 + 1e-6)  # rounding takes nothing from it
LEAST_ERROR = 1e-9  # of the scene's extent: also a merge that costs nothing is undone in the end


@dataclass(frozen=True)
class Groups:
    """Splats to be merged."""

    parts: np.ndarray  # [p] int64 members, group by group, two or more each
    starts: np.ndarray  # [g + 1] int64

    def __len__(self) -> int:
        return len(self.starts) - 1


class Growing:
    """Leaves first, then what they were merged to; `count` splats so far."""

    def __init__(self, gaussians: Gaussians, weights: np.ndarray | None = None) -> None:
        """
        Args:
            gaussians: n finite splats on the CPU, float32.
            weights: [n] how much each splat's errors count, 0 to 1; all alike when None.
        """
        n = len(gaussians)
        room, harmonics = 2 * n, gaussians.sh.shape[1] * 3
        self.leaves = self.count = n
        self.means = np.empty((room, 3))
        self.covariances, self.inks = np.empty((room, 6)), np.empty(room)
        self.scales, self.quats = np.empty((room, 3), np.float32), np.empty((room, 4), np.float32)
        self.opacities, self.sh = np.empty(room, np.float32), np.empty((room, harmonics), np.float32)
        self.colors = np.empty((room, field_error.CHANNELS), np.float32)
        self.weights, self.errors = np.ones(room, np.float32), np.zeros(room, np.float32)
        self.means[:n], self.scales[:n] = gaussians.means.numpy(), gaussians.scales.numpy()
        self.quats[:n], self.opacities[:n] = gaussians.quats.numpy(), gaussians.opacities.numpy()
        self.sh[:n] = gaussians.sh.reshape(n, -1).numpy()
        self.colors[:n] = field_error.channels(self.sh[:n])
        if weights is not None:
            self.weights[:n] = weights
        with all_cores():
            merge.areas(self.scales[:n], self.inks)
            merge.covariances(self.quats[:n], self.scales[:n], self.covariances)
        self.inks[:n] *= self.opacities[:n]
        extent = float(np.ptp(self.means[:n], axis=0).max()) if n else 0.0
        self._least = np.float32(LEAST_ERROR * max(extent, 1e-30))
        self._parts: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def sizes(self, ids: np.ndarray) -> np.ndarray:
        """Diameters of splats, wider where opacity is above 1."""
        return 2 * self.scales[ids].max(axis=1) * np.maximum(self.opacities[ids], 1)

    def merge(self, groups: Groups) -> np.ndarray:
        """Append the splats of some groups; returns their numbers."""
        first, stop = self.count, self.count + len(groups)
        parts, starts = groups.parts, groups.starts
        for array in (self.weights, self.errors):
            array[first:stop] = np.maximum.reduceat(array[parts], starts[:-1])
        found = np.empty(len(groups))
        with all_cores():
            merge.merge_groups(
                parts, starts, first, self.means, self.covariances, self.inks,
                self.scales, self.quats, self.opacities, self.sh,
            )  # fmt: skip
            self.colors[first:stop] = field_error.channels(self.sh[first:stop])
            field_error.group_errors(
                parts, starts, first, self.means, self.covariances, self.opacities, self.colors, self.weights, found
            )
        members = np.diff(starts)
        own = np.sqrt(found / (members - 1)).astype(np.float32)  # what each splat that it saves costs
        self.errors[first:stop] = np.maximum(np.maximum(own, self.errors[first:stop] * np.float32(RISE)), self._least)
        self._parts.append(parts)
        self._sizes.append(members)
        self.count = stop
        return np.arange(first, stop)

    def members(self) -> Groups:
        """Of every merged splat, in their order."""
        sizes = np.concatenate([np.zeros(1, np.int64), *self._sizes])
        return Groups(np.concatenate([np.empty(0, np.int64), *self._parts]), np.cumsum(sizes))
