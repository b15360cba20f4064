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
    """Splats to be merged, or those that a given splat stands for."""

    parts: np.ndarray  # [p] int64 members, group by group; two or more each, of a given splat one or more
    starts: np.ndarray  # [g + 1] int64

    def __len__(self) -> int:
        return len(self.starts) - 1


class Growing:
    """Leaves first, then what stands for them; `count` splats so far. The leaves' harmonics stay where they are."""

    def __init__(
        self, gaussians: Gaussians, weights: np.ndarray | None = None, errors: np.ndarray | None = None, given: int = 0
    ) -> None:
        """Begin with the leaves.

        Args:
            gaussians: n finite splats on the CPU, float32.
            weights: [n] how much each splat's errors count, 0 to 1; all alike when None.
            errors: [n] that leaves stand for already; none when None.
            given: splats that will be given, not merged.
        """
        n = len(gaussians)
        room, harmonics = 2 * (n + given), gaussians.sh.shape[1] * 3
        self.leaves, self.count = n, 0
        self.means = np.empty((room, 3))
        self.covariances, self.inks = np.empty((room, 6)), np.empty(room)
        self.scales, self.quats = np.empty((room, 3), np.float32), np.empty((room, 4), np.float32)
        self.opacities = np.empty(room, np.float32)
        self.leaf_sh = np.ascontiguousarray(gaussians.sh.reshape(n, harmonics).numpy())
        self.sh = np.empty((room - n, harmonics), np.float32)  # of all but the leaves
        self.colors = np.empty((room, field_error.CHANNELS), np.float32)
        self.sizes = np.empty(room, np.float32)  # diameters, wider where opacity is above 1
        self.weights, self.errors = np.ones(room, np.float32), np.zeros(room, np.float32)
        self._put(gaussians, self.leaf_sh)
        if weights is not None:
            self.weights[:n] = weights
        if errors is not None:
            self.errors[:n] = errors
        extent = float(np.ptp(self.means[:n], axis=0).max()) if n else 0.0
        self._least = np.float32(LEAST_ERROR * max(extent, 1e-30))
        self._parts: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def give(self, gaussians: Gaussians, groups: Groups) -> np.ndarray:
        """Append splats that stand for some groups; returns their numbers."""
        sh = self.sh[self.count - self.leaves :][: len(gaussians)]
        sh[:] = gaussians.sh.reshape(len(gaussians), -1).numpy()
        self._put(gaussians, sh)
        return self._settle(groups)

    def merge(self, groups: Groups) -> np.ndarray:
        """Append the splats of some groups; returns their numbers."""
        first, stop = self.count, self.count + len(groups)
        with all_cores():
            merge.merge_groups(
                groups.parts, groups.starts, first, self.means, self.covariances, self.inks,
                self.scales, self.quats, self.opacities, self.leaf_sh, self.sh,
            )  # fmt: skip
        self.count = stop
        self._look(slice(first, stop), self.sh[first - self.leaves : stop - self.leaves])
        return self._settle(groups)

    def finish(self) -> Groups:
        """The members of every splat that is no leaf, in their order. What only merging needs is let go."""
        self.covariances = self.inks = self.colors = self.sizes = self.weights = np.empty(0)
        sizes = np.concatenate([np.zeros(1, np.int64), *self._sizes])
        return Groups(np.concatenate([np.empty(0, np.int64), *self._parts]), np.cumsum(sizes))

    def _put(self, gaussians: Gaussians, sh: np.ndarray) -> None:
        """Append splats as they are, whose harmonics lie in their place already."""
        new = slice(self.count, self.count + len(gaussians))
        self.means[new], self.scales[new] = gaussians.means.numpy(), gaussians.scales.numpy()
        self.quats[new], self.opacities[new] = gaussians.quats.numpy(), gaussians.opacities.numpy()
        with all_cores():
            merge.areas(self.scales[new], self.inks[new])
            merge.covariances(self.quats[new], self.scales[new], self.covariances[new])
        self.inks[new] *= self.opacities[new]
        self.count = new.stop
        self._look(new, sh)

    def _look(self, new: slice, sh: np.ndarray) -> None:
        """Note how splats look and how large they are."""
        self.colors[new] = field_error.channels(sh)
        a, b, c = self.scales[new].T
        self.sizes[new] = 2 * np.maximum(np.maximum(a, b), c) * np.maximum(self.opacities[new], 1)

    def _settle(self, groups: Groups) -> np.ndarray:
        """Weights and errors of the last splats, which stand for these groups; returns their numbers."""
        parts, starts, members = groups.parts, groups.starts, np.diff(groups.starts)
        first, stop = self.count - len(groups), self.count
        for array in (self.weights, self.errors):
            array[first:stop] = np.maximum.reduceat(array[parts], starts[:-1])
        found = np.empty(len(groups))
        with all_cores():
            field_error.group_errors(
                parts, starts, first, self.means, self.covariances, self.opacities, self.colors, self.weights, found
            )
        own = np.sqrt(found / np.maximum(members - 1, 1)).astype(np.float32)  # what each splat that it saves costs
        self.errors[first:stop] = np.maximum(np.maximum(own, self.errors[first:stop] * np.float32(RISE)), self._least)
        self._parts.append(parts)
        self._sizes.append(members)
        return np.arange(first, stop)
