"""The record of a splat (kernels/constants.py) as CPU kernels read it."""

from ..constants import RECORD
from .compiled import compiled
from .simd import element


@compiled()
def read_record(records, i):
    """Mean x y, l0 l1 l2, log2 of opacity, red green blue, depth, extent x y of record i of a flat array."""
    at = i * RECORD
    return (
        (element(records, at), element(records, at + 1)),
        (element(records, at + 2), element(records, at + 3), element(records, at + 4)),
        element(records, at + 5),
        (element(records, at + 6), element(records, at + 7), element(records, at + 8)),
        element(records, at + 9),
        (element(records, at + 10), element(records, at + 11)),
    )
