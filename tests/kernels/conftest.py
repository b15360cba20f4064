"""For the tests of the kernels: random scenes, poisoned buffers, and comparison away from the cut-offs.

Fixtures that return functions stand in for a helper module: tests are no package, so they cannot import one another.
"""

import importlib
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import reference
from lyra.kernels.constants import ALPHA_MAX, ALPHA_MIN, STOP
from lyra.kernels.frames import Rendering
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize
from lyra.kernels.views import pack_views

PLAIN = Options()
BAND = 1e-3  # relative distance of an alpha to 1/255, or of a transmittance to 1e-4, within which float32 may differ
DEVICES = {"triton": "cuda" if torch.cuda.is_available() else "cpu", "cpu": "cpu", "reference": "cpu"}


class View(NamedTuple):
    """The last four positional arguments of `rasterize`."""

    world_to_camera: Tensor  # [4, 4] float64
    K: Tensor  # [3, 3] float64
    width: int
    height: int


class Scene(NamedTuple):
    """The first five; float32."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor

    def double(self) -> "Scene":
        """The same numbers in float64."""
        return Scene(*(tensor.double() for tensor in self))

    def to(self, device: str) -> "Scene":
        """The same scene on a device."""
        return Scene(*(tensor.to(device) for tensor in self))


def _make_view(width: int, height: int, seed: int = 0) -> View:
    """A camera turned somehow, whose principal point is off the centre and whose pixels are not square.

    It stands near the origin: in float32 a splat at the near plane, a distance d from the origin, is 6e-8 d / 0.01 of
    its depth away from where it should be, and the same number of focal lengths off its pixel.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    rotation = reference.quats_to_rotations(torch.randn(1, 4, generator=generator, dtype=torch.float64))[0]
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = rotation
    pose[:3, 3] = 0.1 * torch.randn(3, generator=generator, dtype=torch.float64)
    side = max(width, height)
    lens = [[0.9 * side, 0.0, 0.48 * width], [0.0, 0.95 * side, 0.53 * height], [0.0, 0.0, 1.0]]
    return View(pose, torch.tensor(lens, dtype=torch.float64), width, height)


def _make_scene(view: View, n: int, sh: int, seed: int = 0) -> Scene:
    """Splats of every kind: in sight, behind, beside and over the camera, near the near plane, needles, huge, tiny.

    Depths keep a relative distance of at least 1e-5, so that float32 and float64 sort them alike.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    step = math.log(60.0) / n
    z = torch.exp(math.log(0.5) + step * (torch.randperm(n, generator=generator) + uniform(0.0, 0.5, n)))
    tangent = torch.tensor((view.width, view.height), dtype=torch.float64) / 2 / view.K.diagonal()[:2]
    slopes = uniform(-1.1, 1.1, n, 2) * tangent
    scales = z[:, None] * torch.exp(uniform(math.log(0.004), math.log(0.12), n, 3))
    opacities = uniform(0.02, 1.0, n)
    kind = torch.arange(n) % 20
    z[kind == 0] *= -1.0  # behind
    slopes[kind == 1] *= 3.0  # beside and over, some of them large enough to reach in
    scales[kind == 1] *= 4.0
    near = kind == 2
    z[near] = torch.where(torch.arange(int(near.sum())) % 2 == 0, 0.0125, 0.0085) * (1 + z[near] / 100)
    scales[near] = 1e-4
    scales[kind == 3, 0] = 0.3 * z[kind == 3].abs()  # needles
    scales[kind == 3, 1:] = 3e-5 * z[kind == 3, None].abs()
    scales[kind == 4] = uniform(0.5, 2.0, int((kind == 4).sum()), 3) * z[kind == 4, None]  # cover everything
    opacities[kind == 4] *= 0.1
    scales[kind == 5] *= 1e-4  # smaller than a pixel
    opacities[kind == 6] = 0.0
    opacities[kind == 7] = 1.0
    scales[kind == 8, 2] = 0.0  # flat
    camera = torch.cat((slopes * z[:, None], z[:, None]), dim=1)
    rotation, translation = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
    means = (camera - translation) @ rotation
    quats = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    quats *= torch.exp(uniform(-3.0, 3.0, n, 1))
    coefficients = 0.4 * torch.randn(n, sh, 3, generator=generator, dtype=torch.float64)
    return Scene(*(tensor.float() for tensor in (means, quats, scales, opacities, coefficients)))


class Truth(NamedTuple):
    """A frame by the reference in float64, and where a float32 backend has to agree with it."""

    projected: reference.Projected
    order: Tensor  # [v] visible splats, nearest first
    alphas: Tensor  # [v, h, w] before the cut at 1/255, clamped to 0.99
    frame: Rendering
    decided: Tensor  # [h, w] bool: no alpha is within BAND of 1/255, no transmittance of the stop


def _row_of(view: View, options: Options = PLAIN) -> Tensor:
    """The view as kernels read it, [40] float64."""
    return pack_views(view.world_to_camera[None], view.K[None], view.width, view.height, options)[0]


def _project_on_cpu(scene: Scene, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Records [n, 12] and keys of what is seen, by the first stage of the backend cpu."""
    from lyra.kernels.cpu import project as projection

    arrays, row = [tensor.numpy() for tensor in scene], _row_of(view).float().numpy()[None]
    records, keys = projection.project(*arrays, row, options=PLAIN)
    return records[0], keys[0]


def _make_truth(
    scene: Scene, view: View, background: Tensor | None = None, options: Options = PLAIN, mask: Tensor | None = None
) -> Truth:
    """Render in float64 and look at every pair of a visible splat and a pixel."""
    double = scene.double()
    projected = reference.project(*double, _row_of(view, options), options)
    order = reference.depth_order([projected])
    y, x = torch.meshgrid(torch.arange(view.height), torch.arange(view.width), indexing="ij")
    offset = torch.stack((x, y), dim=-1).double() + 0.5 - projected.means2d[order][:, None, None]
    dx, dy = offset[..., 0], offset[..., 1]
    xx, xy, yy = (projected.conics[order][:, i, None, None] for i in range(3))
    power = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alphas = (projected.opacities[order][:, None, None] * torch.exp(-power)).clamp(max=ALPHA_MAX)
    transmittance = torch.cumprod(1 - torch.where(alphas < ALPHA_MIN, 0.0, alphas), dim=0)
    before = torch.cat((torch.ones_like(transmittance[:1]), transmittance[:-1]))[: len(order)]
    doubtful = (((alphas / ALPHA_MIN - 1).abs() < BAND) & (before > STOP * (1 - BAND))).any(dim=0)
    doubtful |= ((transmittance / STOP - 1).abs() < BAND).any(dim=0)
    if background is not None:
        background = background.double()
    frame = rasterize(*double, *view, background=background, mask=mask, options=options, backend="reference")
    return Truth(projected, order, alphas, frame, ~doubtful)


def _psnr(frame: Tensor, truth: Tensor) -> float:
    """Decibels for a peak of 1; infinite where both are equal."""
    error = float((frame.double() - truth.double()).square().mean())
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def _check_frame(frame: Rendering, truth: Truth, *, most_undecided: float = 0.06) -> None:
    """The accuracy gate of a float32 backend: DESIGN.md section 5."""
    rgb, alpha, depth = (tensor.cpu() for tensor in frame[:3])
    undecided = 1.0 - float(truth.decided.double().mean())
    assert undecided <= most_undecided, f"{undecided:.1%} of the pixels are at a cut-off: the comparison says little"
    assert torch.isfinite(rgb).all() and torch.isfinite(alpha).all() and torch.isfinite(depth).all()
    assert _psnr(rgb, truth.frame.rgb) >= 60.0
    assert _psnr(alpha, truth.frame.alpha) >= 60.0
    assert float((rgb - truth.frame.rgb).abs().amax(dim=-1)[truth.decided].max()) <= 1e-4
    assert float((alpha - truth.frame.alpha).abs()[truth.decided].max()) <= 1e-4
    seen = truth.decided & (truth.frame.alpha > 0.5)
    torch.testing.assert_close(depth.double()[seen], truth.frame.depth[seen], rtol=1e-3, atol=0.0)


def _check_records(records: Tensor, visible: Tensor, truth: Truth) -> None:
    """Records and visibility of a float32 projection against the reference in float64; culled ones stay unwritten."""
    from lyra.kernels import constants as c

    projected = truth.projected
    assert torch.equal(visible, projected.visible)
    assert torch.isnan(records[~visible]).all(), "a record of a culled splat was written (or the poison is gone)"
    seen = records[visible].double()
    l0, l1, l2 = seen[:, c.L0], seen[:, c.L1], seen[:, c.L2]
    conics = torch.stack((l0 * l0, l0 * l1, l1 * l1 + l2 * l2), dim=-1) / c.SQRT_HALF_LOG2E**2
    expected = [tensor[visible] for tensor in projected[:6]]
    means2d, true_conics, depths, colors, opacities, extents = expected
    torch.testing.assert_close(seen[:, : c.L0], means2d, rtol=2e-5, atol=2e-4)
    size = true_conics[:, 0::2].amax(dim=1, keepdim=True)  # entries of a needle's conic differ by orders of magnitude
    torch.testing.assert_close(conics / size, true_conics / size, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(torch.exp2(seen[:, c.LOG2_OPACITY]), opacities, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(seen[:, c.RED : c.BLUE + 1], colors, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen[:, c.DEPTH], depths, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[:, c.EXTENT_X :], extents, rtol=1e-4, atol=1e-4)


def _check_lists(ids: Tensor, starts: Tensor, truth: Truth, tile_width: int, tile_height: int) -> float:
    """Tile lists by brute force over all pairs of splat and pixel; returns pairs listed over pairs needed."""
    height, width = truth.decided.shape
    columns, rows = -(-width // tile_width), -(-height // tile_height)
    assert len(starts) == columns * rows + 1
    assert int(starts[0]) == 0 and int(starts[-1]) == len(ids) and bool((starts[1:] >= starts[:-1]).all())
    rank = torch.full((len(truth.projected.visible),), -1)
    rank[truth.order] = torch.arange(len(truth.order))
    needed = 0
    for tile in range(columns * rows):
        top, left = tile // columns * tile_height, tile % columns * tile_width
        alphas = truth.alphas[:, top : top + tile_height, left : left + tile_width].amax(dim=(1, 2))
        listed = ids[int(starts[tile]) : int(starts[tile + 1])].long()
        assert (rank[listed] >= 0).all(), f"tile {tile} lists a splat that is not visible"
        assert (rank[listed].diff() > 0).all(), f"tile {tile} is out of depth order or lists a splat twice"
        missing = set(truth.order[alphas >= ALPHA_MIN * (1 + BAND)].tolist()) - set(listed.tolist())
        assert not missing, f"tile {tile} lacks {sorted(missing)}"
        needed += int((alphas >= ALPHA_MIN).sum())
    return len(ids) / max(needed, 1)


@pytest.fixture
def make_view() -> Callable[..., View]:
    """See `_make_view`."""
    return _make_view


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    """See `_make_scene`."""
    return _make_scene


@pytest.fixture
def row_of() -> Callable[..., Tensor]:
    """See `_row_of`."""
    return _row_of


@pytest.fixture
def project_on_cpu() -> Callable[[Scene, View], tuple[np.ndarray, np.ndarray]]:
    """See `_project_on_cpu`."""
    return _project_on_cpu


@pytest.fixture
def make_truth() -> Callable[..., Truth]:
    """See `_make_truth`."""
    return _make_truth


@pytest.fixture
def check_frame() -> Callable[..., None]:
    """See `_check_frame`."""
    return _check_frame


@pytest.fixture
def check_records() -> Callable[[Tensor, Tensor, Truth], None]:
    """See `_check_records`."""
    return _check_records


@pytest.fixture
def check_lists() -> Callable[[Tensor, Tensor, Truth, int, int], float]:
    """See `_check_lists`."""
    return _check_lists


@pytest.fixture
def psnr() -> Callable[[Tensor, Tensor], float]:
    """See `_psnr`."""
    return _psnr


@pytest.fixture
def devices() -> dict[str, str]:
    """Where the tensors of each backend live on this machine."""
    return DEVICES


@pytest.fixture(scope="session")
def kernel_modules() -> dict[str, types.ModuleType]:
    """Every module of lyra.kernels, by name."""
    folder = Path(reference.__file__).parent
    parts = [path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))]
    names = ["lyra.kernels." + ".".join(part) for part in parts]
    return {name: importlib.import_module(name) for name in names}


class _PoisonedNumpy:
    """numpy whose new buffers hold NaN, or garbage integers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(*args, **options) -> np.ndarray:
        array = np.empty(*args, **options)
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max // 3)
        return array


def _poison_torch(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def poisoned(*args, **options) -> Tensor:
        tensor = create(*args, **options)
        if sys._getframe(1).f_globals.get("__name__", "").startswith("lyra.kernels"):
            tensor.fill_(math.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max // 3)
        return tensor

    return poisoned


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch, kernel_modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """What the launchers of lyra.kernels allocate is full of NaN, so that a result that nobody wrote shows.

    torch is patched where it is and looks who calls. numpy is seen by compiled code too, which must stay as it is;
    so the launchers of kernels/cpu are replaced by copies that see another numpy. Call them through their modules.
    """
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, _poison_torch(getattr(torch, name)))
    for name, module in kernel_modules.items():
        if not name.startswith("lyra.kernels.cpu."):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value.__module__ == name and "np" in value.__code__.co_names:
                seen = {**vars(module), "np": _PoisonedNumpy()}
                copy = types.FunctionType(value.__code__, seen, value.__name__, value.__defaults__, value.__closure__)
                copy.__kwdefaults__ = value.__kwdefaults__
                monkeypatch.setattr(module, attribute, copy)
    yield
