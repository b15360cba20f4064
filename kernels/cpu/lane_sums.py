"""The sums of the lanes of eight vectors at once, in Numba code (see kernels/cpu/simd.py)."""

from llvmlite import ir
from numba.extending import intrinsic

from .simd import LANES, vec8


def _added_halves(builder, a, b, part: int):
    """In each block of 2 `part` lanes: the halves of a's block added, then those of b's."""
    low, high = [], []
    for block in range(0, LANES, 2 * part):
        for vector in (0, LANES):
            low += [vector + block + lane for lane in range(part)]
            high += [vector + block + part + lane for lane in range(part)]
    words = ir.VectorType(ir.IntType(32), LANES)
    return builder.fadd(builder.shuffle_vector(a, b, words(low)), builder.shuffle_vector(a, b, words(high)))


@intrinsic
def sums(typingctx, a, b, c, d, e, f, g, h):
    """The sum of the lanes of a, of b, ... of h, lane by lane: 7 additions and 14 shuffles, not 24 and 24."""

    def emit(context, builder, signature, args):
        # Each step halves the number of vectors. With the eight in this order their sums come out in order.
        for part in (4, 2, 1):
            half = len(args) // 2
            args = [_added_halves(builder, args[i], args[i + half], part) for i in range(half)]
        return args[0]

    return vec8(vec8, vec8, vec8, vec8, vec8, vec8, vec8, vec8), emit
