"""What a cut shows, in Triton: each drawn node on its way from its parent.

`blend_nodes_kernel`, one lane a node, does all but the colours; `blend_colors_kernel` goes over their coefficients in
memory order. 88 bytes and 24 k a node, and half of that more where it has not arrived.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..lod import Drawn, Nodes

BLOCK = 128  # nodes, or coefficients, a program
LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _ends(k, mask, ids, t, parents):
    """Node and parent of rows of the cut, how far between, whether the row is used and whether the parent counts."""
    i, share = tl.load(ids + k, mask=mask, other=-1).to(tl.int64), tl.load(t + k, mask=mask, other=1.0)
    used = i >= 0
    parent = tl.load(parents + i, mask=used & (share < 1.0), other=-1).to(tl.int64)
    share = tl.where(parent >= 0, share, 1.0)
    return i, parent, share, used, parent >= 0


@triton.jit
def _lerp(values, at, from_, share, used, moving):
    """0 where a row is unused."""
    own, other = tl.load(values + at, mask=used, other=0.0), tl.load(values + from_, mask=moving, other=0.0)
    return tl.where(moving, share * own + (1.0 - share) * other, own)


@triton.jit
def _load_quats(quats, i, mask):
    at = quats + i * 4
    w, x = tl.load(at, mask=mask, other=0.0), tl.load(at + 1, mask=mask, other=0.0)
    y, z = tl.load(at + 2, mask=mask, other=0.0), tl.load(at + 3, mask=mask, other=0.0)
    return (w, x, y, z), tl.maximum(tl.sqrt(w * w + x * x + y * y + z * z), 1e-30)


@triton.jit
def blend_nodes_kernel(
    means, quats, scales, opacities, counts, parents, ids, t,  # of the pool [m, ...]; [b] [b]
    # out:
    means_out, quats_out, scales_out, opacities_out, exponents_out,  # [b, ...]
    b,
    BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k < b
    i, parent, share, used, moving = _ends(k, mask, ids, t, parents)
    for axis in tl.static_range(3):
        at, from_ = i * 3 + axis, parent * 3 + axis
        tl.store(means_out + k * 3 + axis, _lerp(means, at, from_, share, used, moving), mask=mask)
        tl.store(scales_out + k * 3 + axis, _lerp(scales, at, from_, share, used, moving), mask=mask)
    own, length = _load_quats(quats, i, used)
    other, distance = _load_quats(quats, parent, moving)
    cosine = own[0] * other[0] + own[1] * other[1] + own[2] * other[2] + own[3] * other[3]
    rest = tl.where(cosine < 0.0, share - 1.0, 1.0 - share)
    for axis in tl.static_range(4):
        turned = share * (own[axis] / length) + rest * (other[axis] / distance)
        tl.store(quats_out + k * 4 + axis, tl.where(moving, turned, own[axis]), mask=mask)
    tl.store(opacities_out + k, _lerp(opacities, i, parent, share, used, moving), mask=mask)
    siblings = tl.load(counts + parent, mask=moving, other=1).to(tl.float32)
    tl.store(exponents_out + k, tl.where(moving, share + (1.0 - share) / siblings, 1.0), mask=mask)


@triton.jit
def blend_colors_kernel(
    sh, parents, ids, t,  # [m, WIDTH] [m] [b] [b]
    # out:
    sh_out,  # [b, WIDTH]
    numbers,  # b * WIDTH
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask, column = k < numbers, k % WIDTH
    i, parent, share, used, moving = _ends(k // WIDTH, mask, ids, t, parents)
    color = _lerp(sh, i * WIDTH + column, parent * WIDTH + column, share, used, moving)
    tl.store(sh_out + k, color, mask=mask)


def interpolate(nodes: Nodes, ids: Tensor, t: Tensor, out: Drawn) -> None:
    """As `lod.interpolate`, of checked tensors; `out` has a row for each id."""
    b, width = len(ids), nodes.sh.shape[1] * 3
    links = nodes.parents, ids.contiguous(), t.contiguous()
    if b == 0:
        return
    blend_nodes_kernel[(triton.cdiv(b, BLOCK),)](
        nodes.means, nodes.quats, nodes.scales, nodes.opacities, nodes.counts, *links,
        out.means, out.quats, out.scales, out.opacities, out.exponents, b, BLOCK=BLOCK, **LAUNCH,
    )  # fmt: skip
    numbers = b * width
    blend_colors_kernel[(triton.cdiv(numbers, 4 * BLOCK),)](
        nodes.sh, *links, out.sh, numbers, WIDTH=width, BLOCK=4 * BLOCK, **LAUNCH
    )
