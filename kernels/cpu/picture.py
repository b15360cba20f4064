"""From blocks to pictures, on the CPU: a block's two vectors are written as four rows of four pixels."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .chunk import BLOCK_HEIGHT, BLOCK_WIDTH, VECTOR_WIDTH
from .simd import LANES, vec8


def _shuffle(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.VectorType(ir.IntType(32), len(order))(order))


def _rows(builder, left, right):
    """The rows of a block, four floats each."""
    first = [[VECTOR_WIDTH * row + i for i in range(VECTOR_WIDTH)] for row in range(BLOCK_HEIGHT)]
    return [_shuffle(builder, left, right, lanes + [LANES + lane for lane in lanes]) for lanes in first]


def _store_rows(context, builder, array_type, array, index, stride, rows):
    base = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    for row in rows:
        builder.store(row, builder.bitcast(builder.gep(base, [index]), row.type.as_pointer()), align=4)
        index = builder.add(index, stride)


@intrinsic
def store_block(typingctx, array, index, stride, left, right):
    """Write a block to a flat picture of one channel, its first pixel at `index`, rows `stride` apart."""

    def emit(context, builder, signature, args):
        rows = _rows(builder, *args[3:])
        _store_rows(context, builder, signature.args[0], *args[:3], rows)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, vec8, vec8), emit


@intrinsic
def store_rgb_block(typingctx, array, index, stride, red0, red1, green0, green1, blue0, blue1):
    """Write a block to a flat picture of three channels, its first red at `index`, rows `stride` apart."""
    width = BLOCK_WIDTH

    def emit(context, builder, signature, args):
        reds, greens, blues = (_rows(builder, *args[i : i + 2]) for i in (3, 5, 7))
        rows = []
        for red, green, blue in zip(reds, greens, blues, strict=True):
            two = _shuffle(builder, red, green, list(range(2 * width)))
            third = _shuffle(builder, blue, blue, list(range(2 * width)))
            rows.append(_shuffle(builder, two, third, [i + width * k for i in range(width) for k in range(3)]))
        _store_rows(context, builder, signature.args[0], *args[:3], rows)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, *[vec8] * 6), emit
