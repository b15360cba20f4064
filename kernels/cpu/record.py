"""The record of a splat (kernels/constants.py) as CPU kernels read it."""

from .. import constants as c
from .compiled import compiled
from .simd import element, prefetch


@compiled()
def read_record(records, i):
    """Mean x y, l0 l1 l2, log2 of opacity, red green blue, depth, extent x y of record i of a flat array."""
    at = i * c.RECORD
    return (
        (element(records, at + c.MEAN_X), element(records, at + c.MEAN_Y)),
        (element(records, at + c.L0), element(records, at + c.L1), element(records, at + c.L2)),
        element(records, at + c.LOG2_OPACITY),
        (element(records, at + c.RED), element(records, at + c.GREEN), element(records, at + c.BLUE)),
        element(records, at + c.DEPTH),
        (element(records, at + c.EXTENT_X), element(records, at + c.EXTENT_Y)),
    )


@compiled(inline=True)
def prefetch_record(records, i):
    """Ask for the one or two cache lines of record i of a flat array."""
    prefetch(records, i * c.RECORD)
    prefetch(records, i * c.RECORD + c.RECORD - 1)
