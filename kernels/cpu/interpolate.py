"""What a cut shows, on the CPU: each drawn node on its way from its parent.

Reads and writes 44 + 12 k bytes a node. Of nodes that have not arrived it also reads the parent, which siblings share.
"""

import numpy as np
from numba import get_num_threads, prange
from torch import Tensor

from ..lod import Drawn, Nodes
from .compiled import compiled
from .simd import element, most, prefetch, put, take
from .threads import all_cores

f32 = np.float32
_ZERO, _ONE, _TINY = f32(0), f32(1), f32(1e-30)
_AT_ONCE = 256  # rows that a thread takes
_AHEAD = 6  # rows for which memory is asked before they are needed
_LINE = 16  # floats of a cache line


@compiled(inline=True)
def _copy(values, i, k, width, out):
    for c in range(width):
        put(out, k * width + c, element(values, i * width + c))


@compiled(inline=True)
def _lerp(values, i, parent, k, width, t, out):
    rest = _ONE - t
    for c in range(width):
        put(out, k * width + c, t * element(values, i * width + c) + rest * element(values, parent * width + c))


@compiled(inline=True)
def _ask(values, i, width):
    for c in range(0, width, _LINE):
        prefetch(values, i * width + c)


@compiled(inline=True)
def _length(quats, i):
    w, x, y, z = element(quats, i), element(quats, i + 1), element(quats, i + 2), element(quats, i + 3)
    return most(np.sqrt(w * w + x * x + y * y + z * z), _TINY)


@compiled(inline=True)
def _lerp_quats(quats, i, parent, k, t, out):
    i, parent, cosine = 4 * i, 4 * parent, _ZERO
    own, other = _length(quats, i), _length(quats, parent)
    for c in range(4):
        cosine += (element(quats, i + c) / own) * (element(quats, parent + c) / other)
    rest = t - _ONE if cosine < _ZERO else _ONE - t
    for c in range(4):
        put(out, 4 * k + c, t * (element(quats, i + c) / own) + rest * (element(quats, parent + c) / other))


@compiled(parallel=True)
def _interpolate(
    means, quats, scales, opacities, sh, width, counts, parents, ids, t, next_row, threads,
    means_out, quats_out, scales_out, opacities_out, sh_out, exponents_out,
):  # fmt: skip
    for _ in prange(threads):
        begin = take(next_row, _AT_ONCE)
        while begin < len(ids):
            for k in range(begin, min(begin + _AT_ONCE, len(ids))):
                _ask(sh, np.int64(element(ids, min(k + _AHEAD, len(ids) - 1))), width)
                i, share = np.int64(element(ids, k)), element(t, k)
                parent = np.int64(element(parents, i)) if share < _ONE else -1
                if parent < 0:
                    _copy(means, i, k, 3, means_out)
                    _copy(quats, i, k, 4, quats_out)
                    _copy(scales, i, k, 3, scales_out)
                    _copy(sh, i, k, width, sh_out)
                    put(opacities_out, k, element(opacities, i))
                    put(exponents_out, k, _ONE)
                else:
                    _lerp(means, i, parent, k, 3, share, means_out)
                    _lerp_quats(quats, i, parent, k, share, quats_out)
                    _lerp(scales, i, parent, k, 3, share, scales_out)
                    _lerp(sh, i, parent, k, width, share, sh_out)
                    _lerp(opacities, i, parent, k, 1, share, opacities_out)
                    put(exponents_out, k, share + (_ONE - share) / f32(element(counts, parent)))
            begin = take(next_row, _AT_ONCE)


def interpolate(nodes: Nodes, ids: Tensor, t: Tensor, out: Drawn) -> None:
    """As `lod.interpolate`, of checked tensors; `out` has a row for each id."""
    columns = [tensor.detach().numpy().reshape(-1) for tensor in nodes[:5]]
    links = [tensor.numpy() for tensor in (nodes.counts, nodes.parents, ids.contiguous(), t.contiguous())]
    found = [tensor.detach().numpy().reshape(-1) for tensor in out]
    with all_cores():
        next_row = np.zeros(1, dtype=np.int64)
        _interpolate(*columns, nodes.sh.shape[1] * 3, *links, next_row, get_num_threads(), *found)
