"""Level of detail: the cut through a hierarchy of Gaussians that fits a budget, and what it shows between two levels.

A cut is found without a heap. View errors are monotone (kernels/gaze.py), so a best-first heap would expand exactly the
nodes with the largest errors, ties in the order of the pool; a histogram of the errors says where these end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import lod_reference as reference
from .backends import choose_backend
from .constants import CLUSTER
from .gaze import Gaze, pack_eye

MOST_NODES = 2**31 - 1  # int32 names them


class Nodes(NamedTuple):
    """The nodes that are resident, of any number of pages and scenes: m float32 rows, a multiple of 256, one device.

    No node has an error above that of its parent or a sphere that leaves its parent's, with the slack that
    kernels/gaze.py names; siblings are neighbours. Unused rows have errors 0, children -1 and parents -1.
    """

    means: Tensor  # [m, 3]
    quats: Tensor  # [m, 4] wxyz
    scales: Tensor  # [m, 3]
    opacities: Tensor  # [m]
    sh: Tensor  # [m, k, 3]
    radii: Tensor  # [m] of a sphere about the mean that holds those of all descendants; 0 for a leaf
    errors: Tensor  # [m] world units, 0 for a leaf
    children: Tensor  # [m] int32, the first child; -1: none, or not resident
    counts: Tensor  # [m] int32, of children, resident or not
    parents: Tensor  # [m] int32, -1 for a root
    cluster_bounds: Tensor  # [m / 256, 4] centre and radius of a sphere that holds those of a cluster's inner nodes
    cluster_errors: Tensor  # [m / 256] the largest of a cluster


class Cut(NamedTuple):
    """What to draw: roots first, then of each expanded node its children, and itself while it fades, as in the pool.

    `cpu` and `reference` give [number] rows. `triton` gives as many as the budget has room for (or as there are roots),
    so that nothing has to wait for the number; those from `number` on have ids of -1.
    """

    ids: Tensor  # [b] int32
    exponents: (
        Tensor  # [b] of the profile (docs/conventions.md): t of children that arrive, 1 - t of their parent, else 1
    )
    errors: Tensor  # [b] view error of the node; 0 for a leaf
    number: Tensor  # [] int32, of nodes to draw
    threshold: Tensor  # [] view error of the first node that did not fit; the floor where all did


class Drawn(NamedTuple):
    """What `gather` gives, a row for each id."""

    means: Tensor  # [b, 3]
    quats: Tensor  # [b, 4]
    scales: Tensor  # [b, 3]
    opacities: Tensor  # [b] above 1 where a node stands for more than it covers
    sh: Tensor  # [b, k, 3]
    exponents: Tensor  # [b] of the profile


def cluster_spheres(means: Tensor, radii: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """`cluster_bounds` and `cluster_errors` of [m, 3], [m] and [m] float32 nodes, computed on one core.

    The last of the ceil(m / 256) clusters may be short.
    """
    from .cpu import spheres

    clusters = -(-len(errors) // CLUSTER)
    bounds, largest = torch.empty(clusters, 4), torch.empty(clusters)
    columns = (tensor.detach().cpu().numpy() for tensor in (means, radii, errors))
    spheres.cluster_spheres(*columns, bounds.numpy(), largest.numpy())
    return bounds.to(means.device), largest.to(means.device)


def cut(
    nodes: Nodes,
    roots: Tensor,  # [s] int32
    eye: Tensor,  # [3] world axes
    *,
    budget: int,
    near: float,
    gaze: Gaze | None = None,
    floor: float = 0.0,
    previous: Tensor | None = None,
    backend: str = "auto",
) -> Cut:
    """The nodes to draw within a budget: one ancestor-or-self of every leaf below the roots, and parents that fade.

    Nodes are expanded in the order of their view errors, ties by index, up to the first whose children do not fit. A
    node without resident children is not expanded, and neither is one with a view error up to `floor`. The view error
    of node i is  errors[i] * w / max(|means[i] - eye| - radii[i], near),  w as in `Gaze`.

    Where not all nodes fit, a sixteenth of the budget is kept for transitions. With F the view error down to which the
    nodes expanded last come to that many children, less one each, a parent p that is expanded below F, none of whose
    children is, fades out while they fade in: its exponent is 1 - t, theirs t = (err(p) - threshold) / (err(p) - s),
    with s the largest of err(p) threshold / F and their own view errors. Nothing moves or turns on the way, and nothing
    changes its place in the depth order.

    Args:
        roots: may be of several scenes; all are drawn, or what they stand for, whatever the budget.
        budget: nodes to draw, at most, those that fade among them; 1 or more.
        near: world units; distances to spheres are not taken to be less. A thousandth of the scene's radius is good.
        gaze: where detail counts; None: everywhere alike.
        floor: view error that nobody sees.
        previous: `Cut.threshold` of the last frame. It is kept, to the bit, where what it expands fits and comes to
            99 % of what may be; where it is less, no more than these 99 % are expanded, so that few nodes change at
            once. It also says where to look, which saves time.
        backend: `triton` (CUDA; nothing waits for the GPU), `cpu` (Numba), `reference` (plain torch), or `auto`.

    Raises:
        ValueError: a shape, a type or a value does not fit, or the backend cannot run here.
        RuntimeError: `cpu` in a process forked after its parent had rendered there.
    """
    _check_nodes(nodes)
    if roots.dim() != 1 or roots.dtype != torch.int32 or roots.device != nodes.means.device:
        raise ValueError(f"roots is {_told(roots)}, expected [s] torch.int32 on {nodes.means.device}")
    if isinstance(budget, bool) or not isinstance(budget, int) or not 1 <= budget <= MOST_NODES:
        raise ValueError(f"budget is {budget!r}, expected a number of splats, 1 to {MOST_NODES}")
    if previous is not None and (previous.dim() or previous.dtype != torch.float32):
        raise ValueError(f"previous is {_told(previous)}, expected the threshold of a cut, [] torch.float32")
    backend = choose_backend(backend, nodes.means.device)
    row = pack_eye(eye, gaze, near, floor).to(nodes.means.device, non_blocking=True)
    arguments = nodes, roots, row, gaze is not None, budget, previous
    if backend == "reference":
        ids, exponents, errors, threshold = reference.cut(*arguments)
    elif backend == "cpu":
        from .cpu import lod as on_cpu

        ids, exponents, errors, threshold = on_cpu.cut(*arguments)
    else:
        from .gpu import lod as on_gpu

        return Cut(*on_gpu.cut(*arguments))
    return Cut(ids, exponents, errors, torch.tensor(len(ids), dtype=torch.int32, device=ids.device), threshold)


def gather(
    nodes: Nodes,
    ids: Tensor,  # [b] int32
    exponents: Tensor,  # [b]
    *,
    out: Drawn | None = None,
    backend: str = "auto",
) -> Drawn:
    """What a cut shows, side by side for a renderer.

    Args:
        ids: as of `Cut`; where they are -1 (`triton` only), rows are zeros, which no renderer draws.
        out: float32 tensors of at least b rows to write to; the result is their first rows.

    Raises:
        ValueError: a shape or a type does not fit, or the backend cannot run here.
        RuntimeError: `cpu` in a process forked after its parent had rendered there.
    """
    _check_nodes(nodes)
    device = nodes.means.device
    if ids.dim() != 1 or ids.dtype != torch.int32 or ids.device != device:
        raise ValueError(f"ids is {_told(ids)}, expected [b] torch.int32 on {device}")
    if exponents.shape != ids.shape or exponents.dtype != torch.float32 or exponents.device != device:
        raise ValueError(f"exponents is {_told(exponents)}, expected {list(ids.shape)} torch.float32 on {device}")
    count, backend = len(ids), choose_backend(backend, device)
    shapes = [[count, *tensor.shape[1:]] for tensor in nodes[:5]] + [[count]]
    if out is None:
        out = Drawn(*(torch.empty(shape, device=device) for shape in shapes))
    for name, tensor, shape in zip(Drawn._fields, out, shapes, strict=True):
        fits = tensor.dim() == len(shape) and len(tensor) >= count and list(tensor.shape[1:]) == shape[1:]
        if not fits or tensor.dtype != torch.float32 or tensor.device != device or not tensor.is_contiguous():
            raise ValueError(f"out.{name} is {_told(tensor)}, expected {shape} or more rows, contiguous float32")
    out = Drawn(*(tensor[:count] for tensor in out))
    if backend == "reference":
        for tensor, values in zip(out, reference.gather(nodes, ids, exponents), strict=True):
            tensor.copy_(values)
    elif backend == "cpu":
        from .cpu import gather as on_cpu

        on_cpu.gather(nodes, ids, exponents, out)
    else:
        from .gpu import gather as on_gpu

        on_gpu.gather(nodes, ids, exponents, out)
    return out


def _check_nodes(nodes: Nodes) -> None:
    m, device = len(nodes.means), nodes.means.device
    clusters = m // CLUSTER
    if not m or m % CLUSTER or m > MOST_NODES:
        raise ValueError(f"nodes has {m} rows, expected a multiple of {CLUSTER}, below 2^31: pad with unused ones")
    rest = {"means": [3], "quats": [4], "scales": [3], "sh": [*nodes.sh.shape[1:2], 3]}
    for name, tensor in nodes._asdict().items():
        shape = {"cluster_bounds": [clusters, 4], "cluster_errors": [clusters]}.get(name, [m, *rest.get(name, [])])
        dtype = torch.int32 if name in ("children", "counts", "parents") else torch.float32
        fits = list(tensor.shape) == shape and tensor.dtype == dtype and tensor.device == device
        if not fits or not tensor.is_contiguous():
            raise ValueError(f"nodes.{name} is {_told(tensor)}, expected {shape} {dtype} on {device}, contiguous")


def _told(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
