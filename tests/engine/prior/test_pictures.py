"""Pictures: what is read is what was drawn, and what cannot be used is refused in one line."""

import io
import math
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lyra.engine.errors import InputError
from lyra.engine.prior.data.pictures import picture_size, read_picture

WIDTH, HEIGHT = 40, 24


@pytest.fixture
def drawn() -> np.ndarray:
    """[h, w, 4] uint8: no two corners alike, alpha a ramp."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = (x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x + y) * 4, x * 255 // (WIDTH - 1))
    return np.stack(planes, -1).astype(np.uint8)


def one_line(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_picture(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600 and message.startswith(str(path))


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_rgb_is_exact_where_the_file_is(tmp_path: Path, drawn: np.ndarray, name: str) -> None:
    Image.fromarray(drawn[..., :3]).save(tmp_path / name, lossless=True)
    picture = read_picture(tmp_path / name)
    assert torch.equal((picture.rgb * 255).round().byte(), torch.from_numpy(drawn[..., :3]))
    assert picture.alpha.shape == (HEIGHT, WIDTH) and bool((picture.alpha == 1).all())
    assert picture.focal is None and picture.rgb.dtype == torch.float32


def test_straight_alpha_comes_on_black(tmp_path: Path, drawn: np.ndarray) -> None:
    Image.fromarray(drawn).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    alpha = torch.from_numpy(drawn[..., 3].copy()).float() / 255
    assert torch.equal(picture.alpha, alpha)
    torch.testing.assert_close(picture.rgb, torch.from_numpy(drawn[..., :3].copy()).float() / 255 * alpha[..., None])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_other_modes_mean_what_they_show(tmp_path: Path, drawn: np.ndarray, mode: str) -> None:
    image = Image.fromarray(drawn if mode == "LA" else drawn[..., :3]).convert(mode)
    image.save(tmp_path / "a.png")
    rgba = torch.from_numpy(np.array(image.convert("RGBA"))).float() / 255
    picture = read_picture(tmp_path / "a.png")
    torch.testing.assert_close(picture.rgb, rgba[..., :3] * rgba[..., 3:])
    assert torch.equal(picture.alpha, rgba[..., 3])


def test_transparent_colour_of_a_palette(tmp_path: Path) -> None:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 20, HEIGHT))
    image.save(tmp_path / "a.png", transparency=0)
    picture = read_picture(tmp_path / "a.png")
    assert bool((picture.alpha[:, :20] == 0).all()) and bool((picture.rgb[:, :20] == 0).all())
    assert (picture.rgb[0, 30] * 255).round().tolist() == [200, 100, 50]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture(tmp_path: Path, drawn: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(drawn[..., :3]).save(tmp_path / "a.png", exif=exif)
    # EXIF 2.32, 4.6.4: where the first row and the first column of the stored pixels lie in the upright picture.
    upright = {
        1: drawn, 2: drawn[:, ::-1], 3: drawn[::-1, ::-1], 4: drawn[::-1],
        5: drawn.swapaxes(0, 1), 6: np.rot90(drawn, -1), 7: drawn[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(drawn),
    }[orientation]  # fmt: skip
    rgb = (read_picture(tmp_path / "a.png").rgb * 255).round().byte().numpy()
    assert np.array_equal(rgb, upright[..., :3])
    if orientation == 1:
        assert picture_size(tmp_path / "a.png") == (WIDTH, HEIGHT)
    else:
        with pytest.raises(InputError, match=f"orientation {orientation}.*: turn the pixels"):
            picture_size(tmp_path / "a.png")


def test_focal_length_of_film(tmp_path: Path, drawn: np.ndarray) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray(drawn[..., :3]).save(tmp_path / "a.jpg", exif=exif)
    focal = read_picture(tmp_path / "a.jpg").focal
    assert focal == pytest.approx(28 * math.hypot(WIDTH, HEIGHT) / math.hypot(36, 24))
    exif.get_ifd(0x8769)[0xA405] = 0  # unknown
    Image.fromarray(drawn[..., :3]).save(tmp_path / "b.jpg", exif=exif)
    assert read_picture(tmp_path / "b.jpg").focal is None


def test_colour_profile_is_applied(tmp_path: Path, drawn: np.ndarray) -> None:
    """A profile whose red is sRGB's green and the other way round swaps the channels."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tXYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tXYZ", b"gXYZ", 1)
    for name, profile, order in (("s.png", srgb, [0, 1, 2]), ("t.png", swapped, [1, 0, 2])):
        Image.fromarray(drawn[..., :3]).save(tmp_path / name, icc_profile=profile)
        rgb = (read_picture(tmp_path / name).rgb * 255).numpy()
        assert np.abs(rgb - drawn[..., order]).max() <= 1.5, name
    Image.fromarray(drawn[..., :3]).save(tmp_path / "d.png", icc_profile=b"no profile at all")
    assert np.array_equal((read_picture(tmp_path / "d.png").rgb * 255).round().numpy(), drawn[..., :3])


def test_first_picture_of_a_phone_counts(tmp_path: Path, drawn: np.ndarray) -> None:
    first = Image.fromarray(drawn[..., :3])
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))], quality=95)
    rgb = read_picture(tmp_path / "a.jpg").rgb * 255
    assert rgb.shape == (HEIGHT, WIDTH, 3) and float((rgb - torch.from_numpy(drawn[..., :3].copy())).abs().mean()) < 4


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, channels: int) -> bytes:
    """A black PNG by hand; one too large to decode has no pixels."""
    rows = b"\0" * (height * (1 + width * channels * depth // 8)) if width * height < 1e6 else b""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "data, pattern",
    [
        (b"", "empty"),
        (b"hello, this is no picture", "no JPEG, PNG or WebP, its first bytes are 68 65.*: convert"),
        (png(32, 32, 16, 2, 3), "16 bits a channel: save it with 8"),
        (png(32, 32, 16, 6, 4), "16 bits a channel"),
        (png(32, 32, 16, 0, 1), "16 bits a channel"),
        (png(1, 1, 8, 2, 3), "1x1 pixels: give one of at least 16"),
        (png(2000, 15, 8, 2, 3), "2000x15 pixels"),
        (png(20_000, 20, 8, 2, 3), "20000x20 pixels: give one of at most 16384"),
        (png(10_001, 10_000, 8, 2, 3), "10001x10000 pixels.*100 Mpx"),
        (png(100_000, 100_000, 8, 2, 3), "more than 100000000 pixels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used(tmp_path: Path, data: bytes, pattern: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    one_line(tmp_path / "a.png", pattern)


def test_places_without_a_picture(tmp_path: Path) -> None:
    one_line(tmp_path / "absent.png", "no such file")
    one_line(tmp_path, "not a regular file")


def test_cmyk_and_animations(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32)).save(tmp_path / "a.jpg")
    one_line(tmp_path / "a.jpg", "CMYK colours: save it as RGB")
    frames = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 200)]
    for name in ("a.png", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        one_line(tmp_path / name, "animation of 2 frames")
    frames[0].save(tmp_path / "a.gif")
    one_line(tmp_path / "a.gif", "no JPEG, PNG or WebP")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damage_never_shows_more_than_one_line(tmp_path: Path, drawn: np.ndarray, kind: str) -> None:
    stream, rng, path = io.BytesIO(), random.Random(kind), tmp_path / "a"
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    Image.fromarray(drawn).convert("RGB").save(stream, kind, exif=exif)
    whole, refused = stream.getvalue(), 0
    path.write_bytes(whole[: len(whole) // 2])
    one_line(path, "damaged or cut short|no JPEG")
    for _ in range(100):
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] + rng.randbytes(2) + whole[place + 2 :])
        try:
            picture = read_picture(path)
            assert 0 <= float(picture.rgb.min()) and float(picture.rgb.max()) <= 1
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(path))
    assert refused
