"""What the launchers of lyra.kernels launch: tiny frames in Triton's interpreter, every launch written down.

The costs of kernels are measured on these launches, so that no table has to repeat the types, sizes and warps that the
launchers give. Nothing here loads Triton before it is used: whether kernels are interpreted is decided when they load.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

WIDTH, HEIGHT, SPLATS = 8, 16, 3
ROOM = 2048  # entries, so that lists may be cut up
KNOBS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")  # options of a launch that no kernel has for itself
NUM_WARPS = 4  # of a launch that does not say

_KINDS = {"float": "fp", "int": "i", "uint": "u"}  # torch's names and Triton's


@dataclass(frozen=True)
class Launch:
    """One kernel as it was launched, all that its machine code depends on."""

    module: str  # in which the kernel is defined
    name: str
    signature: tuple[tuple[str, str], ...]  # argument and type, as Triton writes it, in order
    constexprs: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # pointers that are divisible by 16
    num_warps: int
    fused: bool  # whether multiply-adds may be
    maxnreg: int | None = None  # registers a thread at the most; None: as the compiler likes

    @property
    def facts(self) -> dict[str, Any]:
        """Types and constexpr values by name; what tells two launches of a kernel apart."""
        return {**dict(self.signature), **dict(self.constexprs)}


@contextmanager
def recording() -> Iterator[dict[Launch, None]]:
    """The launches that happen inside, each kind once, in order; kernels must have been loaded interpreted."""
    from triton.runtime import interpreter

    found: dict[Launch, None] = {}
    kernels: Any = interpreter.InterpretedFunction
    run = kernels.run

    def recorded(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        found.setdefault(_launch(kernel.fn, arguments, options))
        return run(kernel, *arguments, grid=grid, warmup=warmup, **options)

    kernels.run = recorded
    try:
        yield found
    finally:
        kernels.run = run


def record() -> list[Launch]:
    """Every kind of launch that the package makes."""
    with recording() as found:
        for run in RUNS:
            run()
    return list(found)


def _launch(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    knobs = {name: options[name] for name in KNOBS if name in options}
    given = {name: value for name, value in options.items() if name not in KNOBS}
    values = inspect.signature(function).bind(*arguments, **given)
    values.apply_defaults()
    annotations = inspect.get_annotations(function)
    signature, constexprs, aligned = [], [], []
    for name, value in values.arguments.items():
        if value is None or "constexpr" in str(annotations.get(name, "")):
            signature.append((name, "constexpr"))
            constexprs.append((name, value))
            continue
        signature.append((name, _kind(value)))
        if hasattr(value, "data_ptr") and value.data_ptr() % 16 == 0:
            aligned.append(name)
    return Launch(
        module=function.__module__,
        name=function.__name__,
        signature=tuple(signature),
        constexprs=tuple(constexprs),
        aligned=tuple(aligned),
        num_warps=knobs.get("num_warps", NUM_WARPS),
        fused=knobs.get("enable_fp_fusion", False),
        maxnreg=knobs.get("maxnreg"),
    )


def _kind(value: Any) -> str:
    """The type of an argument as Triton writes it; of a number, that of any such number and not of this one alone."""
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    if isinstance(value, float):
        return "fp32"
    name = str(value.dtype).removeprefix("torch.")
    if name == "bool":
        return "*i1"
    letters = name.rstrip("0123456789")
    return f"*{_KINDS.get(letters, letters[:2])}{name.removeprefix(letters)}"


def _frame(
    *,
    coefficients: int = 16,
    views: int = 1,
    channels: int = 0,
    capacity: int | None = None,
    backward: bool = False,
    stereo: bool = False,
    profiled: bool = False,
    **options: Any,
) -> None:
    """One frame through every stage, and back if asked for; `options` are those of `Options`.

    Args:
        coefficients: of spherical harmonics; 0 for RGB.
        capacity: room in the lists; much room is what lets long lists be cut up.
        profiled: whether splats have the profiles of a level of detail.
    """
    import torch

    from ..kernels.options import Options
    from ..kernels.rasterize import rasterize

    random = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    means = torch.cat((uniform(SPLATS, 2) - 0.5, uniform(SPLATS, 1) + 2.0), dim=1)
    colors = uniform(SPLATS, coefficients, 3) if coefficients else uniform(SPLATS, 3)
    scene = means, uniform(SPLATS, 4) - 0.5, 0.2 * uniform(SPLATS, 3), uniform(SPLATS), colors
    lens = torch.tensor([[30.0, 0.0, WIDTH / 2], [0.0, 30.0, HEIGHT / 2], [0.0, 0.0, 1.0]])
    features = uniform(SPLATS, channels) if channels else None
    exponents = 0.1 + 0.9 * uniform(SPLATS) if profiled else None
    for tensor in scene:
        tensor.requires_grad_(backward)
    frame = rasterize(
        *scene, torch.eye(4).repeat(views, 1, 1), lens, WIDTH, HEIGHT, exponents=exponents, features=features,
        stereo=stereo, options=Options(**options), capacity=capacity, backend="triton",
    )  # fmt: skip
    if backward:
        outputs = [tensor for tensor in (frame.rgb, frame.depth, frame.features) if tensor is not None]
        torch.stack([tensor.sum() for tensor in outputs]).sum().backward()


def _frame_of_many_tiles() -> None:
    """As if the picture had more tiles than 16 bits name."""
    import torch

    from ..kernels.gpu import sort

    narrow = sort.macro_key_type
    sort.macro_key_type = lambda tiles: torch.int32
    try:
        _frame(coefficients=0, depth=False, capacity=ROOM)
    finally:
        sort.macro_key_type = narrow


def _level_of_detail(*, coefficients: int, kept: bool, gazed: bool) -> None:
    """A root and two leaves, cut and gathered, with and without the threshold of a last frame."""
    import torch

    from ..kernels.constants import CLUSTER
    from ..kernels.gaze import Gaze
    from ..kernels.lod import Nodes, cluster_spheres, cut, gather

    rows, links = torch.zeros(CLUSTER, 4), torch.full((CLUSTER,), -1, dtype=torch.int32)
    errors, children, counts = rows[:, 0].clone(), links.clone(), torch.zeros_like(links)
    errors[0], children[0], counts[0] = 1.0, 1, 2
    parents = links.clone()
    parents[1:3] = 0
    means, radii, sh = rows[:, :3].clone(), errors.clone(), torch.zeros(CLUSTER, coefficients, 3)
    spheres = cluster_spheres(means, radii, errors)
    nodes = Nodes(
        means, rows, means.clone(), errors.clone(), sh, radii, errors.clone(), children, counts, parents, *spheres
    )
    gaze = Gaze((0.0, 0.0, 1.0)) if gazed else None
    roots, threshold = torch.zeros(1, dtype=torch.int32), torch.ones(()) if kept else None
    found = cut(nodes, roots, torch.ones(3), budget=2, near=0.1, gaze=gaze, previous=threshold, backend="triton")
    gather(nodes, found.ids, found.exponents, backend="triton")


RUNS: tuple[Callable[[], None], ...] = (
    partial(_frame, capacity=ROOM),
    partial(_frame, capacity=ROOM, depth=False),
    partial(_frame, capacity=ROOM, precision="fast"),
    partial(_frame, capacity=ROOM, precision="fast", depth=False),
    partial(_frame, capacity=ROOM, precision="half"),
    partial(_frame, capacity=ROOM, precision="half", depth=False),
    partial(_frame, capacity=ROOM, depth=False, stereo=True, views=2, lens="fisheye", antialiased=True),
    partial(_frame, capacity=ROOM, depth=False, coefficients=0, lens="orthographic", channels=8),
    partial(_frame, capacity=ROOM, profiled=True, channels=8),
    partial(_frame, capacity=ROOM, profiled=True, precision="fast"),
    partial(_frame, backward=True, absgrad=True, channels=8, capacity=None),
    partial(_frame, backward=True, depth=False),
    partial(_frame, backward=True, deterministic=True, coefficients=0),
    _frame_of_many_tiles,
    partial(_level_of_detail, coefficients=16, kept=False, gazed=False),
    partial(_level_of_detail, coefficients=4, kept=True, gazed=True),
)
