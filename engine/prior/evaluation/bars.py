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


def view_bars(rows: Rows, control: Scores) -> list[Bar]:
    """Of new views and of the cameras' hold on them; differences are taken scene by scene."""
    copy, few, many, mean = (rows[name]["psnr"] for name in (COPY, FEW, MANY, SAMPLES))
    gain, below_mean, below_many = mean_of(mean - copy), mean_of(mean - few), mean_of(many - few)
    energy = ratio_of(rows[FEW]["energy"], rows[FEW]["true energy"])
    beside = ratio_of(rows[FEW]["energy"], rows[MANY]["energy"])
    led = mean_of(control["permuted"] - copy)
    low, high = ENERGY
    return [
        Bar("mean of samples above copy, PSNR", f">= {LEAST_GAIN:+g} dB", gain, gain.mean >= LEAST_GAIN),
        Bar("single sample, energy / truth", f"{low:g} to {high:g}", energy, low <= energy.mean <= high),
        Bar(
            "single sample below mean of samples, PSNR",
            f"<= {MOST_BELOW_MEAN:g} dB",
            below_mean,
            below_mean.mean <= MOST_BELOW_MEAN,
        ),
        Bar(
            "4 steps below 32 steps, PSNR",
            f"<= {MOST_BELOW_MANY:g} dB",
            below_many,
            below_many.mean <= MOST_BELOW_MANY,
        ),
        Bar(
            "4 steps, energy / that of 32 steps",
            f">= {LEAST_ENERGY_OF_MANY:g}",
            beside,
            beside.mean >= LEAST_ENERGY_OF_MANY,
        ),
        Bar("permuted poses above copy, PSNR", "<= 0 dB", led, led.mean <= 0),
    ]


def splat_bar(scores: Scores) -> Bar:
    """Of the compact set."""
    found, (low, high) = mean_of(scores["splats"]), COMPACT_SPLATS
    return Bar(f"compact set (asked for {COMPACT})", f"{low} to {high} splats", found, low <= found.mean <= high)
