"""What a cut shows, in Triton: the columns of its nodes, side by side.

`gather_nodes_kernel`, one lane a node, does all but the colours; `gather_colors_kernel` goes over their coefficients in
memory order. Reads and writes 92 and 24 k bytes a node.
"""

import triton
import triton.language as tl
from torch import Tensor

from ..lod import Drawn, Nodes

BLOCK = 128  # nodes, or coefficients, a program
LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _copy(values, values_out, i, k, used, mask, WIDTH: tl.constexpr):
    """Zeros where a row is unused."""
    for axis in tl.static_range(WIDTH):
        value = tl.load(values + i * WIDTH + axis, mask=used, other=0.0)
        tl.store(values_out + k * WIDTH + axis, value, mask=mask)


@triton.jit
def gather_nodes_kernel(
    means, quats, scales, opacities, ids, exponents,  # of the pool [m, ...]; [b] [b]
    # out:
    means_out, quats_out, scales_out, opacities_out, exponents_out,  # [b, ...]
    b,
    BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k < b
    i = tl.load(ids + k, mask=mask, other=-1).to(tl.int64)
    used = i >= 0
    _copy(means, means_out, i, k, used, mask, 3)
    _copy(quats, quats_out, i, k, used, mask, 4)
    _copy(scales, scales_out, i, k, used, mask, 3)
    _copy(opacities, opacities_out, i, k, used, mask, 1)
    tl.store(exponents_out + k, tl.load(exponents + k, mask=mask, other=1.0), mask=mask)


@triton.jit
def gather_colors_kernel(
    sh, ids,  # [m, WIDTH] [b]
    # out:
    sh_out,  # [b, WIDTH]
    numbers,  # b * WIDTH
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k < numbers
    i = tl.load(ids + k // WIDTH, mask=mask, other=-1).to(tl.int64)
    tl.store(sh_out + k, tl.load(sh + i * WIDTH + k % WIDTH, mask=i >= 0, other=0.0), mask=mask)


def gather(nodes: Nodes, ids: Tensor, exponents: Tensor, out: Drawn) -> None:
    """As `lod.gather`, of checked tensors; `out` has a row for each id."""
    b, width, ids = len(ids), nodes.sh.shape[1] * 3, ids.contiguous()
    if b == 0:
        return
    gather_nodes_kernel[(triton.cdiv(b, BLOCK),)](
        nodes.means, nodes.quats, nodes.scales, nodes.opacities, ids, exponents.contiguous(),
        out.means, out.quats, out.scales, out.opacities, out.exponents, b, BLOCK=BLOCK, **LAUNCH,
    )  # fmt: skip
    numbers = b * width
    gather_colors_kernel[(triton.cdiv(numbers, 4 * BLOCK),)](
        nodes.sh, ids, out.sh, numbers, WIDTH=width, BLOCK=4 * BLOCK, **LAUNCH
    )
