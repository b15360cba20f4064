"""The least time that each stage can take, forth and back: bytes over bandwidth, instructions over issue rate.

Pure functions from what a frame did (`Work`), how a renderer is built (`Design`) and what a machine can do (`Machine`)
to bytes and seconds. Within a stage all limits are taken to overlap perfectly; stages follow one another. Emission of
tile entries is taken to be fused with projection, and the records that blending gathers to come from the cache.
"""

import math
from dataclasses import dataclass, replace

SORT_EFFICIENCY = (
    0.65  # of the bandwidth that a radix sort reaches (OneSweep, arXiv 2206.01784: 29.4 Gkey/s on an A100)
)
DIGIT = 8  # bits that one pass of a radix sort settles


@dataclass(frozen=True)
class Machine:
    """What a device can do in a second at most."""

    name: str
    bandwidth: float  # bytes of main memory
    lanes: float  # instructions, counted for each float32 lane
    exponentials: float = math.inf  # special functions, a lane
    loads: float = math.inf  # load instructions of a whole warp


@dataclass(frozen=True)
class Work:
    """What one frame did."""

    splats: int
    visible: int
    pairs: int  # entries sorted by tile
    splat_pixels: int  # times a splat was evaluated at a pixel
    pixels: int
    reached: int = 0  # visible splats to which a gradient came


@dataclass(frozen=True)
class Design:
    """What a renderer reads, writes and executes."""

    culling: int = 12  # bytes read of every splat, seen or not: its centre
    geometry: int = 32  # bytes read of a visible one: rotation, scales, opacity
    color: int = 192  # bytes read of a visible one: 12 a coefficient in float32
    record: int = 48  # bytes written for a visible one
    depth_bits: int = 32  # of the keys by which visible splats are sorted; 0: that is left to the sort of pairs
    pair_bits: int = 16  # of the keys by which pairs are sorted, as many as have to be
    pair_bytes: int = 2  # of such a key as stored
    tile: int = 128  # pixels for which one warp blends
    loads: int = 4  # load instructions a splat and warp: a record in 16-byte loads, and its id
    instructions: float = 21.0  # a splat and pixel
    output: int = 20  # bytes written a pixel: RGB, alpha, depth
    gradient_input: int = 28  # bytes read a pixel on the way back: RGB and alpha as drawn, the gradient by RGB
    gradient_instructions: float = 55.0  # a splat and pixel on the way back, of RGB, as lyra.bench.budgets counts them


@dataclass(frozen=True)
class Bound:
    """The least that a stage can cost."""

    bytes: float
    instructions: float
    seconds: float


LYRA = Design()
# On a CPU: what the arithmetic itself takes, rows hoisted. The way back takes 18 more: 6 multiply-adds for the channels
# in place of 3; 7 for what lies behind, the gradient of the power and its clamp; 8 for that gradient's six moments.
LYRA_SIMD = replace(LYRA, instructions=12.5, gradient_instructions=30.5, loads=0)


def frame_bounds(machine: Machine, work: Work, design: Design) -> dict[str, Bound]:
    """The bound of each of `STAGES`."""
    projected = work.splats * design.culling + work.visible * (design.geometry + design.color + design.record)
    by_depth = radix_bytes(work.visible, math.ceil(design.depth_bits / 8), design.depth_bits)
    by_tile = radix_bytes(work.pairs, design.pair_bytes, design.pair_bits)
    return {
        "project": _moved(machine, projected),
        "sort": _moved(machine, by_depth, SORT_EFFICIENCY),
        "bin": _moved(machine, by_tile, SORT_EFFICIENCY),
        "blend": _walked(machine, work, design, work.pixels * design.output, design.instructions, 1),
    }


def gradient_bounds(machine: Machine, work: Work, design: Design) -> dict[str, Bound]:
    """The bound of each of `GRADIENT_STAGES`, for a loss that looks at RGB alone, and gradients of the scene alone.

    Gradients are dense: a row for every splat, seen or not. Blending walks the forward's splat-pixels again, reads the
    pixels once, and writes each splat's record of sums once, as if no two tiles shared a splat; on a GPU it adds them
    by atomics, more often, whose rate has no bound here. Two special functions a splat and pixel: the exponential, and
    the reciprocal that undoes the splat's share of the light. Projection reads that record of all splats, and its own
    inputs and outputs of those that a gradient reached, and writes as much for every splat as the scene holds of it.
    """
    scene = design.culling + design.geometry + design.color
    walked = work.pixels * design.gradient_input + work.splats * design.record
    projected = work.splats * (design.record + scene) + work.reached * (design.record + scene)
    return {
        "blend backward": _walked(machine, work, design, walked, design.gradient_instructions, 2),
        "project backward": _moved(machine, projected),
    }


def radix_bytes(items: int, key_bytes: int, bits: int, value_bytes: int = 4) -> int:
    """Bytes that a radix sort of keys with 4-byte values moves: one pass to count, then one read and write a digit."""
    return items * (key_bytes + math.ceil(bits / DIGIT) * 2 * (key_bytes + value_bytes)) if bits else 0


def _moved(machine: Machine, size: float, efficiency: float = 1.0) -> Bound:
    return Bound(size, 0.0, size / (efficiency * machine.bandwidth))


def _walked(machine: Machine, work: Work, design: Design, size: int, each: float, special: int) -> Bound:
    """Of `size` bytes; `each` instructions and `special` functions a splat and pixel."""
    instructions = work.splat_pixels * each
    limits = (
        size / machine.bandwidth,
        instructions / machine.lanes,
        work.splat_pixels * special / machine.exponentials,
        work.splat_pixels / design.tile * design.loads / machine.loads,
    )
    return Bound(size, instructions, max(limits))


def _gpu(name: str, terabytes: float, multiprocessors: int, gigahertz: float) -> Machine:
    """Four warps of 32 lanes issue, 16 special functions and one warp's load start in a clock of a multiprocessor."""
    clocks = multiprocessors * gigahertz * 1e9
    return Machine(name, terabytes * 1e12, 128 * clocks, 16 * clocks, clocks)


# Keys are parts of the names that torch reports. Bandwidth, multiprocessors and boost clock are NVIDIA's own: the data
# sheets of A100 80GB SXM, L40S, H100 SXM5 and H200, and the whitepapers of the Ada and RTX Blackwell architectures.
GPUS = {
    "A100-SXM4-80GB": _gpu("A100 SXM", 2.039, 108, 1.410),
    "L40S": _gpu("L40S", 0.864, 142, 2.520),
    "RTX 4090": _gpu("RTX 4090", 1.008, 128, 2.520),
    "H100 80GB HBM3": _gpu("H100 SXM", 3.35, 132, 1.755),
    "H200": _gpu("H200", 4.8, 132, 1.755),
    "RTX 5090": _gpu("RTX 5090", 1.792, 170, 2.407),
    "RTX PRO 6000": _gpu("RTX PRO 6000", 1.792, 188, 2.617),
}


def gpu_machine(reported: str) -> Machine | None:
    """The machine that torch calls `reported`; None when it is not in the table."""
    return next((machine for part, machine in GPUS.items() if part in reported), None)
