"""Eight floats at a time in Numba code: a vector type, its arithmetic, and loads and stores on flat float32 arrays.

LLVM's loop vectoriser gives up on the blend loop (short rows, five accumulators in one buffer), so the loop names its
vectors itself. `Vec8` values exist inside compiled functions only; LLVM maps them to AVX, or to pairs of NEON or SSE
registers. Scalars are broadcast by `splat`, never silently.
"""

import operator
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from .compiled import compiled

LANES = 8
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_FLAGS = ("contract", "nsz", "arcp")  # fused multiply-add; infinities and NaN keep their meaning


class Vec8Type(types.Type):
    """Eight float32."""

    def __init__(self) -> None:
        super().__init__(name="Vec8")


class Mask8Type(types.Type):
    """Eight truth values."""

    def __init__(self) -> None:
        super().__init__(name="Mask8")


vec8, mask8 = Vec8Type(), Mask8Type()


@register_model(Vec8Type)
class _Vec8Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


@register_model(Mask8Type)
class _Mask8Model(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.IntType(1), LANES))


def _binary(operation, emit, result, operand=vec8) -> None:
    """Give `operation` on two vectors the instruction that `emit(builder, a, b)` builds."""

    @intrinsic
    def instruction(typingctx, a, b):
        return result(operand, operand), lambda context, builder, signature, args: emit(builder, *args)

    @overload(operation)
    def implementation(a, b):
        if a is operand and b is operand:
            return lambda a, b: instruction(a, b)


_binary(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS), vec8)
_binary(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS), vec8)
_binary(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS), vec8)
_binary(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS), vec8)
_binary(min, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b), vec8)
_binary(max, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b), vec8)
_binary(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), mask8)
_binary(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), mask8)
_binary(operator.and_, lambda builder, a, b: builder.and_(a, b), mask8, mask8)


def _address(context, builder, array_type, array, index):
    base = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(base, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """Eight neighbours of a flat float32 array from `index`; no bounds check."""

    def emit(context, builder, signature, args):
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return vec8(array, types.intp), emit


@intrinsic
def element(typingctx, array, index):
    """One element of a flat array; no bounds check, and no test for an index below zero as in `array[index]`."""

    def emit(context, builder, signature, args):
        base = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.load(builder.gep(base, [args[1]]))

    return array.dtype(array, types.intp), emit


@intrinsic
def put(typingctx, array, index, value):
    """Write one element of a flat array; no bounds check, and no test for an index below zero."""

    def emit(context, builder, signature, args):
        base = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        builder.store(args[2], builder.gep(base, [args[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), emit


@intrinsic
def take(typingctx, counter, amount):
    """Add to the first element of an int64 array and return what it was, all threads one after another."""

    def emit(context, builder, signature, args):
        base = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", base, args[1], "monotonic")

    return types.int64(counter, types.int64), emit


@intrinsic
def gather(typingctx, array, index, stride):
    """Eight elements of a flat float32 array, `stride` apart, from `index`; no bounds check."""

    def emit(context, builder, signature, args):
        base = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        vector, index = ir.Constant(_FLOATS, ir.Undefined), args[1]
        for lane in range(LANES):
            vector = builder.insert_element(vector, builder.load(builder.gep(base, [index])), ir.IntType(32)(lane))
            index = builder.add(index, args[2])
        return vector

    return vec8(array, types.intp, types.intp), emit


@intrinsic
def store(typingctx, array, index, value):
    """Write eight neighbours of a flat float32 array from `index`; no bounds check."""

    def emit(context, builder, signature, args):
        builder.store(args[2], _address(context, builder, signature.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vec8), emit


@intrinsic
def splat(typingctx, value):
    """One float32 in all lanes."""

    def emit(context, builder, signature, args):
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), lanes)

    return vec8(types.float32), emit


def constant(values: Sequence[float]) -> Any:
    """A function for compiled code that returns these eight floats."""
    lanes = ir.Constant(_FLOATS, [float(value) for value in values])

    @intrinsic
    def lanes_of(typingctx):
        return vec8(), lambda context, builder, signature, args: lanes

    return lanes_of


ramp = constant(range(LANES))  # 0, 1, ... 7


@intrinsic
def where(typingctx, mask, a, b):
    """Lanes of `a` where the mask holds, of `b` elsewhere."""
    return vec8(mask8, vec8, vec8), lambda context, builder, signature, args: builder.select(*args)


@intrinsic
def bits(typingctx, mask):
    """The mask as an integer, lane 0 lowest."""

    def emit(context, builder, signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), ir.IntType(64))

    return types.int64(mask8), emit


def _unary(name: str) -> Any:
    """The function of LLVM by this name, on each lane."""

    @intrinsic
    def of_lanes(typingctx, value):
        def emit(context, builder, signature, args):
            spelled = f"llvm.{name}.v{LANES}f32"  # llvmlite cannot spell the vector's name itself
            function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), spelled)
            return builder.call(function, args)

        return vec8(vec8), emit

    return of_lanes


sqrt, floor, ceil = _unary("sqrt"), _unary("floor"), _unary("ceil")


@intrinsic
def exponent(typingctx, value):
    """floor(log2) of each lane, as floats; positive normal numbers only."""

    def emit(context, builder, signature, args):
        words = builder.lshr(builder.bitcast(args[0], _WORDS), _WORDS([23] * LANES))
        return builder.sitofp(builder.sub(words, _WORDS([127] * LANES)), _FLOATS)

    return vec8(vec8), emit


@intrinsic
def mantissa(typingctx, value):
    """Each lane divided by two to its exponent: 1 or more, below 2; positive normal numbers only."""

    def emit(context, builder, signature, args):
        words = builder.and_(builder.bitcast(args[0], _WORDS), _WORDS([0x007FFFFF] * LANES))
        return builder.bitcast(builder.or_(words, _WORDS([0x3F800000] * LANES)), _FLOATS)

    return vec8(vec8), emit


@intrinsic
def ranges_to_bits(typingctx, first, end):
    """Byte i of a word has the bits from `first` of lane i to before `end`, both cut to integers, 0 to 8, in order."""

    def emit(context, builder, signature, args):
        one = _WORDS([1] * LANES)
        low, high = (builder.shl(one, builder.fptosi(lanes, _WORDS)) for lanes in args)
        bytes_ = builder.trunc(builder.sub(high, low), ir.VectorType(ir.IntType(8), LANES))
        return builder.bitcast(bytes_, ir.IntType(64))

    return types.int64(vec8, vec8), emit


@intrinsic
def lowest_bit(typingctx, word):
    """Index of the lowest bit that is set; the word is not 0."""

    def emit(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.int64), emit


@intrinsic
def total(typingctx, value):
    """Sum of the eight lanes, halves first."""

    def emit(context, builder, signature, args):
        lanes, half = args[0], LANES // 2
        while half:
            order = ir.VectorType(ir.IntType(32), half)
            low, high = ([first + i for i in range(half)] for first in (0, half))
            low, high = (builder.shuffle_vector(lanes, lanes, order(part)) for part in (low, high))
            lanes, half = builder.fadd(low, high), half // 2
        return builder.extract_element(lanes, ir.IntType(32)(0))

    return types.float32(vec8), emit


@intrinsic
def prefetch(typingctx, array, index):
    """Ask for the cache line of one element, to be read soon; no bounds check, never faults."""

    def emit(context, builder, signature, args):
        i32 = ir.IntType(32)
        pointer = builder.bitcast(_address(context, builder, signature.args[0], *args), ir.IntType(8).as_pointer())
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        )
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@compiled(inline=True)
def least(a, b):
    """The smaller of two scalars in one instruction; Numba's own `min` also orders NaN, and branches."""
    return a if a < b else b


@compiled(inline=True)
def most(a, b):
    """The larger of two scalars in one instruction."""
    return a if a > b else b
