"""The third thing that `rasterization` returns: what gsplat tells of each splat, packed or not, and its tile lists."""

import math
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from .stages import isect_offset_encode, isect_tiles

LISTS = ("tiles_per_gauss", "isect_ids", "flatten_ids", "isect_offsets")


class Projected(Protocol):
    """Of `Rendering.projected`, what is read here. B batches of any dimensions, C cameras, N splats."""

    @property
    def means2d(self) -> Tensor: ...  # [*B, C, N, 2]
    @property
    def conics(self) -> Tensor: ...  # [*B, C, N, 3]
    @property
    def depths(self) -> Tensor: ...  # [*B, C, N]
    @property
    def opacities(self) -> Tensor: ...  # [*B, C, N]
    @property
    def radii(self) -> Tensor: ...  # [*B, C, N, 2] int32


class Meta(dict[str, Any]):
    """A dict whose lists of tiles are made when they are first asked for: Lyra blends by lists of another kind."""

    def __missing__(self, key: str) -> Tensor:
        if key not in LISTS:
            raise KeyError(key)
        columns, rows, size = self["tile_width"], self["tile_height"], self["tile_size"]
        cameras, images = self["n_cameras"], self["n_batches"] * self["n_cameras"]
        packed = self["gaussian_ids"] is not None
        splats = self["means2d"].detach(), self["radii"], self["depths"].detach()
        image_ids = self["batch_ids"] * cameras + self["camera_ids"] if packed else None
        counts, ids, places = isect_tiles(
            *splats, size, columns, rows, packed=packed, n_images=images, image_ids=image_ids
        )
        offsets = isect_offset_encode(ids, images, columns, rows).reshape(*self.batch, cameras, rows, columns)
        self.update(zip(LISTS, (counts, ids, places, offsets), strict=True))
        return self[key]

    def __init__(self, batch: tuple[int, ...], entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.batch = batch

    def __contains__(self, key: object) -> bool:
        return key in LISTS or super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of any dict."""
        return self[key] if key in self else default

    # What goes through all of it makes the lists.

    def __iter__(self) -> Iterator[str]:
        return super(Meta, self._whole()).__iter__()

    def __len__(self) -> int:
        return super(Meta, self._whole()).__len__()

    def keys(self) -> Any:
        """As of any dict."""
        return super(Meta, self._whole()).keys()

    def values(self) -> Any:
        """As of any dict."""
        return super(Meta, self._whole()).values()

    def items(self) -> Any:
        """As of any dict."""
        return super(Meta, self._whole()).items()

    def copy(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self.items())

    def _whole(self) -> "Meta":
        self[LISTS[0]]
        return self


def make_meta(projected: Projected, packed: bool, tile_size: int, width: int, height: int) -> Meta:
    """Everything but the lists; if `packed`, only rows of what is visible (which waits for a GPU), and their ids."""
    *batch, cameras, n = projected.depths.shape
    splats = {name: getattr(projected, name) for name in ("radii", "means2d", "depths", "conics", "opacities")}
    ids = {"batch_ids": None, "camera_ids": None, "gaussian_ids": None}
    if packed:
        visible = (projected.radii > 0).all(dim=-1)
        found = visible.reshape(math.prod(batch), cameras, n).nonzero().unbind(dim=-1)
        ids = dict(zip(ids, found, strict=True))
        rows = visible.flatten().nonzero()[:, 0]
        splats = {name: tensor.flatten(0, len(batch) + 1)[rows] for name, tensor in splats.items()}
        _follow(splats["means2d"], projected.means2d, rows)
    fixed = {
        "tile_width": -(-width // tile_size),
        "tile_height": -(-height // tile_size),
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "n_batches": math.prod(batch),
        "n_cameras": cameras,
    }
    return Meta(tuple(batch), {**ids, **splats, **fixed})


def _follow(packed: Tensor, whole: Tensor, rows: Tensor) -> None:
    """Give `packed` its rows of the gradient of `whole`, which the picture is made of, as if it were in between.

    The hook is held by the graph and must hold neither tensor, or none of the three would ever be freed.
    """
    if not whole.requires_grad:
        return
    packed.whole = whole  # type: ignore[attr-defined]
    target = weakref.ref(packed)

    def on_gradient(gradient: Tensor) -> None:
        packed = target()
        if packed is None:
            return
        if packed.retains_grad:
            packed.grad = gradient.reshape(-1, 2)[rows]
        absolute = getattr(packed.whole, "absgrad", None)  # type: ignore[attr-defined]
        if absolute is not None:
            packed.absgrad = absolute.reshape(-1, 2)[rows]  # type: ignore[attr-defined]

    whole.register_hook(on_gradient)
