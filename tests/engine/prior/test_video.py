"""Video: the right frames, upright, with their times, from files written here."""

import gc
import random
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.prior.data.video import read_video

WIDTH, HEIGHT, RATE = 48, 32, 10


def numbered(i: int) -> np.ndarray:
    """[h, w, 3] uint8: a picture whose grey level tells its number, darker to the right and below."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grey = 4 * i + 60 - 60 * (x > WIDTH // 2) + 30 * (y < HEIGHT // 2)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, -1)


def write(path: Path, count: int, codec: str = "ffv1", prepare: Callable = lambda stream: None, **options: str) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        prepare(stream)
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(i), format="rgb24")))
        container.mux(stream.encode())
    return path


def shown(rgb: torch.Tensor) -> torch.Tensor:
    """The numbers of the pictures, not rounded: from the corner below on the right."""
    return (rgb[:, -4:, -4:].mean((1, 2, 3)) * 255) / 4


@pytest.fixture(scope="module")
def long_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 frames with a key frame every 12 and frames that are stored out of order."""
    return write(tmp_path_factory.mktemp("video") / "a.mp4", 48, "libx264", g="12", bf="2", crf="1")


def test_lossless_frames_are_exact(tmp_path: Path) -> None:
    rgb, seconds = read_video(write(tmp_path / "a.mkv", 9), 3)
    assert torch.equal((rgb * 255).round().byte(), torch.from_numpy(np.stack([numbered(i) for i in (0, 4, 8)])))
    assert rgb.dtype == torch.float32 and seconds.tolist() == pytest.approx([0.0, 0.4, 0.8])


@pytest.mark.parametrize(
    "count, start, end, expected",
    [
        (1, 0.0, None, [0]),
        (2, 0.0, None, [0, 47]),
        (5, 0.0, None, [0, 12, 24, 35, 47]),
        (48, 0.0, None, list(range(48))),
        (4, 1.35, 2.95, [14, 19, 24, 29]),
        (1, 3.0, None, [30]),
    ],
)
def test_frames_are_spread_evenly(
    long_one: Path, count: int, start: float, end: float | None, expected: list[int]
) -> None:
    rgb, seconds = read_video(long_one, count, start=start, end=end)
    assert rgb.shape == (count, HEIGHT, WIDTH, 3)
    assert seconds.tolist() == pytest.approx([i / RATE for i in expected])
    torch.testing.assert_close(shown(rgb), torch.tensor(expected).float(), atol=0.4, rtol=0)


def test_only_what_is_needed_is_decoded(long_one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, decoded = av.open, 0

    class Counting:
        def __init__(self, container: av.container.InputContainer) -> None:
            self.container = container

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *error: object) -> None:
            self.container.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

        def decode(self, stream: av.VideoStream):
            nonlocal decoded
            for frame in self.container.decode(stream):
                decoded += 1
                yield frame

    monkeypatch.setattr(av, "open", lambda *args, **options: Counting(opened(*args, **options)))
    read_video(long_one, 2)
    assert 2 < decoded <= 1 + 12


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_matrix_turns_frames(tmp_path: Path, degrees: int, flip: bool) -> None:
    def turn(stream: av.VideoStream) -> None:
        stream.set_display_rotation(degrees, hflip=flip)

    rgb, _ = read_video(write(tmp_path / "a.mp4", 2, "libx264", turn, crf="1"), 1)
    upright = np.rot90(numbered(0), degrees // 90)  # counter-clockwise, then flipped
    upright = upright[:, ::-1] if flip else upright
    assert rgb.shape[1:] == upright.shape
    assert np.abs(rgb[0].numpy() * 255 - upright).mean() < 4


def test_frames_are_scaled_down_never_up(long_one: Path) -> None:
    small, _ = read_video(long_one, 2, longest=24)
    assert small.shape == (2, 16, 24, 3)
    whole, _ = read_video(long_one, 2, longest=1000)
    assert whole.shape == (2, HEIGHT, WIDTH, 3)
    means = whole.reshape(2, 16, 2, 24, 2, 3).mean((2, 4))
    assert float((small - means).abs().mean()) < 0.01


def test_pixels_become_square(tmp_path: Path) -> None:
    def stretch(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = 2

    rgb, _ = read_video(write(tmp_path / "a.mp4", 2, "libx264", stretch), 1)
    assert rgb.shape == (1, HEIGHT, 2 * WIDTH, 3)


def refused(path: Path, pattern: str, count: int = 2, **options: float | None) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_video(path, count, **options)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


def test_what_cannot_be_read(tmp_path: Path, long_one: Path) -> None:
    refused(tmp_path / "absent.mp4", "no such file")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nsecret.ts\n" * 9)  # a list that would open other files
    refused(tmp_path / "text.mp4", "no video or damaged.*: give a video such as MP4")
    (tmp_path / "cut.mp4").write_bytes(long_one.read_bytes()[:600])
    refused(tmp_path / "cut.mp4", "no video or damaged")
    refused(long_one, "48 frames in 4.7 s, 49 asked for", count=49)
    refused(long_one, "0 frames in that span", start=99.0)
    for wrong in ({"count": 0}, {"start": -1.0}, {"start": 2.0, "end": 1.0}, {"longest": 0}, {"start": float("nan")}):
        refused(long_one, "given: give a count", **wrong)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(tmp_path / "a.mp4", "holds no video")


def test_too_much_for_memory_is_refused(long_one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lyra.engine.prior.data.video.MOST_BYTES", 1 << 17)
    refused(long_one, "48 frames of 48x32 do not fit", count=48)
    assert len(read_video(long_one, 48, longest=12)[0]) == 48


def test_damage_never_shows_more_than_one_line(tmp_path: Path, long_one: Path) -> None:
    whole, rng, path, failed = long_one.read_bytes(), random.Random(5), tmp_path / "a.mp4", 0
    for case in range(40):
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] if case % 2 else whole[:place] + rng.randbytes(4) + whole[place + 4 :])
        try:
            rgb, _ = read_video(path, 3)
            assert rgb.shape[0] == 3 and 0 <= float(rgb.min()) and float(rgb.max()) <= 1
        except InputError as error:
            failed += 1
            assert "\n" not in str(error) and str(error).startswith(str(path))
    assert failed


def test_without_pyav_the_cure_is_told(long_one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    refused(long_one, r"needs PyAV: pip install 'lyra-gs\[prior\]'")


def test_frames_are_not_kept(long_one: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        read_video(long_one, 24)
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) <= 2
    finally:
        gc.enable()
