"""Frames of a video file, evenly spread, with PyAV: only what is needed is decoded, and only what is wanted is held."""

import bisect
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...files import cause, file_size
from .pictures import LEAST_SIDE, MOST_PIXELS, MOST_SIDE

MOST_BYTES = 1 << 33  # of all frames of one reading
HD = 720  # rows from which a video that does not name its colours has those of BT.709
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf"  # none of those that open further files
CURE = "give a video such as MP4, MOV, MKV, WebM or AVI"


def read_video(
    path: Path, count: int, *, start: float = 0.0, end: float | None = None, longest: int | None = None
) -> tuple[Tensor, Tensor]:
    """Evenly spread frames of a video, the first and the last of the span among them.

    Args:
        start: seconds from the first frame of the video.
        end: the same; None for the end of the video.
        longest: pixels of the longer side, to which larger frames are scaled down (area averages).

    Returns:
        rgb [count, h, w, 3] float32, 0 to 1, upright, with square pixels, and seconds [count] float64 from the first
        frame of the video.

    Raises:
        InputError: PyAV is absent, the file cannot be read or decoded, has no video, too few frames in the span, or a
            size out of range; or an argument is.
    """
    if count < 1 or not 0 <= start < (np.inf if end is None else end) or not (longest is None or longest > 0):
        told = f"count {count}, start {start}, end {end}, longest {longest}"
        raise InputError(f"{path}: {told} given: give a count and a length above 0, and an end after a start from 0")
    try:
        import av
        import av.error
    except ImportError:
        raise InputError(f"{path}: reading a video needs PyAV: pip install 'lyra-gs[prior]'") from None
    file_size(path)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path}", options=options) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video: {CURE}")
            return _spread(container, path, count, start, end, longest)
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no video or damaged ({cause(error)}): {CURE}") from None


def _spread(
    container: Any,
    path: Path,
    count: int,
    start: float,
    end: float | None,
    longest: int | None,
) -> tuple[Tensor, Tensor]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    stamps, keys = _index(container, stream, path)
    unit = stream.time_base or Fraction(1)
    seconds = [float((stamp - stamps[0]) * unit) for stamp in stamps]
    first = bisect.bisect_left(seconds, start)
    last = len(stamps) if end is None else bisect.bisect_right(seconds, end)
    if last - first < count:
        span = f"{seconds[-1]:.3g} s" if end is None and not start else "that span"
        raise InputError(f"{path}: has {max(0, last - first)} frames in {span}, {count} asked for: ask for fewer")
    wanted = [first + round(i * (last - first - 1) / max(1, count - 1)) for i in range(count)]
    size = _size(stream, path, count, longest)
    pictures, rgb, matrix = 0, torch.empty(0), None
    for frame in _frames(container, stream, [stamps[w] for w in wanted], keys):
        if not pictures:  # once: a frame asked for its side data lives until the garbage collector comes
            matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        picture = _upright(_scaled(frame, size), matrix)
        if not pictures:
            rgb = torch.empty(count, *picture.shape)
        rgb[pictures] = torch.from_numpy(picture).float().div_(255)
        pictures += 1
    if pictures < count:
        raise InputError(f"{path}: is damaged from {seconds[wanted[pictures]]:.3g} s on: {CURE}")
    return rgb, torch.tensor([seconds[w] for w in wanted], dtype=torch.float64)


def _index(container: Any, stream: Any, path: Path) -> tuple[list[int], list[int]]:
    """When frames are shown, and those from which decoding can begin; read without decoding."""
    packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
    if not packets:
        raise InputError(f"{path}: its video has no frames: {CURE}")
    if any(stamp is None for stamp, _ in packets):
        raise InputError(f"{path}: has frames without a time: write it anew, as with ffmpeg -fflags +genpts -c copy")
    return sorted(stamp for stamp, _ in packets), sorted(stamp for stamp, key in packets if key)


def _size(stream: Any, path: Path, count: int, longest: int | None) -> tuple[int, int]:
    """Width and height to which frames are scaled before they are turned."""
    width, height = stream.codec_context.width, stream.codec_context.height
    limits = f"{LEAST_SIDE} to {MOST_SIDE} a side and at most {MOST_PIXELS // 1_000_000} Mpx"
    if not LEAST_SIDE <= min(width, height) <= max(width, height) <= MOST_SIDE or width * height > MOST_PIXELS:
        raise InputError(f"{path}: is {width}x{height} pixels: give one of {limits}")
    wide = width * float(stream.sample_aspect_ratio or 1)
    ratio = 1.0 if longest is None else min(1.0, longest / max(wide, height))
    size = max(1, round(wide * ratio)), max(1, round(height * ratio))
    if max(size) > MOST_SIDE or count * size[0] * size[1] * 12 > MOST_BYTES:
        told = f"{count} frames of {size[0]}x{size[1]}"
        raise InputError(f"{path}: {told} do not fit in {MOST_BYTES >> 30} GiB: ask for fewer, or smaller ones")
    return size


def _frames(container: Any, stream: Any, wanted: Sequence[int], keys: Sequence[int]) -> Iterator[Any]:
    """The frames shown at these times, in order; jumps ahead where a frame to begin from lies between."""
    container.seek(wanted[0], stream=stream)
    decoded, at = container.decode(stream), None
    for stamp in wanted:
        key = bisect.bisect_right(keys, stamp) - 1
        if at is not None and key >= 0 and keys[key] > at:
            container.seek(keys[key], stream=stream)
            decoded = container.decode(stream)
        for frame in decoded:
            at = frame.pts
            if at is not None and at >= stamp:
                yield frame
                break
        else:
            return


def _scaled(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """[h, w, 3] uint8."""
    unnamed = frame.colorspace == 2  # AVCOL_SPC_UNSPECIFIED
    colours = {"src_colorspace": "ITU709"} if unnamed and frame.height >= HD else {}
    return frame.reformat(*size, format="rgb24", interpolation="AREA", **colours).to_ndarray()


def _upright(picture: np.ndarray, matrix: bytes | None) -> np.ndarray:
    """As a player shows it; of the display matrix x' = a x + c y, y' = b x + d y (libavutil/display.h)."""
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
