"""What the prior has to reach, and whether it does. The mean decides; its interval tells how sure that is."""

from dataclasses import dataclass

from .gaussians import COMPACT
from .metrics import Figure, Scores, mean_of, ratio_of
from .novel_views import COPY, FEW, MANY, SAMPLES, Rows

LEAST_GAIN = 1.0  # dB of the mean of samples above the copy of the nearest view
ENERGY = (0.5, 1.3)  # of single samples, of the truth's
MOST_BELOW_MEAN = 3.5  # dB of single samples below the mean of samples
MOST_BELOW_MANY = 0.5  # dB of the student's 4 steps below the teacher's 32
LEAST_ENERGY_OF_MANY = 0.8  # of the student's 4 steps, of the teacher's 32
COMPACT_SPLATS = (2000, 3000)


@dataclass(frozen=True)
class Bar:
    """One of them."""

    name: str
    wanted: str
    found: Figure
    met: bool


def view_bars(rows: Rows) -> list[Bar]:
    """Of new views; differences are taken scene by scene. Those of a mean of samples only where there is one."""
    few, many = rows[FEW], rows[MANY]
    below = mean_of(many["psnr"] - few["psnr"])
    energy = ratio_of(few["energy"], few["true energy"])
    beside = ratio_of(few["energy"], many["energy"])
    low, high = ENERGY
    wanted = f"<= {MOST_BELOW_MANY:g} dB", f"{low:g} to {high:g}", f">= {LEAST_ENERGY_OF_MANY:g}"
    bars = [
        Bar("4 steps below 32 steps, PSNR", wanted[0], below, below.mean <= MOST_BELOW_MANY),
        Bar("single sample, energy / truth", wanted[1], energy, low <= energy.mean <= high),
        Bar("4 steps, energy / that of 32 steps", wanted[2], beside, beside.mean >= LEAST_ENERGY_OF_MANY),
    ]
    if SAMPLES in rows:
        mean = rows[SAMPLES]["psnr"]
        gain, loss = mean_of(mean - rows[COPY]["psnr"]), mean_of(mean - few["psnr"])
        wanted = f">= {LEAST_GAIN:+g} dB", f"<= {MOST_BELOW_MEAN:g} dB"
        bars += [
            Bar("mean of samples above copy, PSNR", wanted[0], gain, gain.mean >= LEAST_GAIN),
            Bar("single sample below mean of samples, PSNR", wanted[1], loss, loss.mean <= MOST_BELOW_MEAN),
        ]
    return bars


def control_bar(copies: Scores, control: Scores) -> Bar:
    """Of the cameras' hold on new views."""
    above = mean_of(control["permuted"] - copies["psnr"])
    return Bar("permuted poses above copy, PSNR", "<= 0 dB", above, above.mean <= 0)


def splat_bar(scores: Scores) -> Bar:
    """Of the compact set."""
    found, (low, high) = mean_of(scores["splats"]), COMPACT_SPLATS
    return Bar(f"compact set (asked for {COMPACT})", f"{low} to {high} splats", found, low <= found.mean <= high)
