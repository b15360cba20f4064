"""What a YAML file under configs/prior says: the networks, the data, and each stage of training."""

from dataclasses import dataclass, field
from pathlib import Path

from ...files import read_bytes
from ...records import read_record
from ...strict_yaml import parse_yaml, within
from ..data.augment import AugmentOptions
from ..denoiser import Planes
from ..network import NetworkOptions


@dataclass(frozen=True)
class Schedule:
    """How a stage is optimised: AdamW with a warm-up, then a cosine down to the final rate."""

    steps: int
    batch: int = 16
    """Scenes a step, of all processes together."""
    rate: float = 1e-3
    final_rate: float = 1e-5
    warmup: int = 200
    decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.999
    """Share that the running mean of the weights keeps at each step."""


@dataclass(frozen=True)
class DistillOptions:
    """Two stages: regression to the teacher's solutions, then consistency along its trajectories."""

    ode: Schedule
    consistency: Schedule
    teacher_steps: int = 8
    """Of Euler's method, for the solutions that the student learns first."""
    bins: int = 16
    """Steps into which consistency cuts the way from noise to pictures."""
    huber: float = 1e-3
    """Where the pseudo-Huber distance turns from a square into a length."""


@dataclass(frozen=True)
class DecoderOptions:
    """The Gaussian decoder and its losses."""

    schedule: Schedule
    network: NetworkOptions
    views: int = 4
    """Views that the decoder sees."""
    held_out: int = 2
    """Views beside them, which it never sees and is compared at."""
    truth: float = 0.5
    """Share of scenes whose input views are true ones at the beginning; none from the middle of training on."""
    ssim: float = 0.2
    depth: float = 0.1
    opacity: float = 0.02
    """Weight of the mean opacity, in the last part of training."""
    scale: float = 1e-3
    normal: float = 0.01
    sparse_from: float = 0.85
    """Part of training after which opacity costs."""
    moving: float = 0.2
    """Share of steps with things that move, each view at its own time."""
    fused: bool = True
    """False keeps views from looking at each other, for the ablation."""


@dataclass(frozen=True)
class DataOptions:
    """Where clips come from, and how much of each."""

    worlds: float = 1.0
    """Weight of procedural worlds."""
    moving: float = 0.2
    """Share of worlds in which things move."""
    scenes: Path | None = None
    """A folder of Gaussian scenes."""
    scenes_weight: float = 1.0
    up: str = "y-"
    """Which way is up in them."""
    captures: tuple[Path, ...] = ()
    """Folders of posed pictures."""
    captures_weight: float = 1.0
    reuse: int = 4
    """How often each clip is used, in steps near each other."""
    augment: AugmentOptions = field(default_factory=lambda: AugmentOptions(light=0.0, blur=0.0, crop=0.0))


@dataclass(frozen=True)
class PriorOptions:
    """A whole prior."""

    name: str
    network: NetworkOptions
    teacher: Schedule
    distill: DistillOptions
    regression: Schedule
    """Of the regression net, the baseline of equal size."""
    decoder: DecoderOptions
    seed: int = 0
    size: tuple[int, int] = (32, 32)
    """Width and height of views, pixels."""
    views: tuple[int, int] = (3, 5)
    """Least and most views of a clip."""
    clean: tuple[int, int] = (1, 3)
    """Least and most of them that are known."""
    planes: Planes = field(default_factory=Planes)
    data: DataOptions = field(default_factory=DataOptions)
    rays: bool = True
    """False takes the Pluecker rays away, for the ablation."""


def read_options(path: Path) -> PriorOptions:
    """The options in a YAML file.

    Raises:
        InputError: it cannot be read or holds something that is no option.
    """
    raw = within(str(path), lambda text: parse_yaml(text, "give lines such as `seed: 0`"), read_bytes(path))
    return within(str(path), lambda value: read_record(PriorOptions, value), raw)
