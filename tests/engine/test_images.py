import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lyra.engine.cli import main
from lyra.engine.errors import InputError
from lyra.engine.privacy.images import strip

SECRETS = (b"SECRET", b"Canon", b"SN12345", b"2024:05:06")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(0)
    channels = {"L": 0, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = random.integers(0, 256, (40, 56, channels) if channels else (40, 56)).astype(np.uint8)
    return Image.fromarray(np.kron(pixels, np.ones((2, 2, 1) if channels else (2, 2), np.uint8)), mode)


def told(orientation: int) -> Image.Exif:
    """EXIF with camera, serial number, time and place."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0132], exif[0x0112] = "Canon", "SECRET 5D", "2024:05:06 07:08:09", orientation
    exif.get_ifd(0x8769)[0xA431] = "SN12345"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    return exif


def encoded(kind: str, orientation: int = 6, image: Image.Image | None = None, **options) -> bytes:
    stream = io.BytesIO()
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "SECRET")
        text.add_text("Comment", "SECRET" * 50, zip=True)
        text.add_itxt("XML:com.adobe.xmp", "SECRET")
        text.add(b"tIME", struct.pack(">H5B", 2024, 5, 6, 7, 8, 9))
        text.add(b"prVt", b"SECRET")
        options |= {"pnginfo": text}
    if kind == "JPEG":
        options |= {"comment": b"SECRET"}
    if kind != "PNG":
        options |= {"xmp": b"<x:xmpmeta>SECRET</x:xmpmeta>"}
    (image or picture()).save(stream, kind, exif=told(orientation), icc_profile=PROFILE, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def with_extras(jpeg: bytes) -> bytes:
    """What phones add: JFXX and JFIF thumbnails, maker segments, and pictures after the end."""
    thumbnail = b"JFIF\0\1\2\0\0\1\0\1\2\2" + b"SECRET------"
    parts = [
        (0xE0, thumbnail),
        (0xE0, b"JFXX\0\x10SECRET"),
        (0xE2, b"FPXR\0SECRET"),
        (0xED, b"SECRET"),
        (0xEB, b"SECRET"),
    ]
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(part) + 2) + part for marker, part in parts)
    return jpeg[:2] + added + b"\xff\xff" + jpeg[2:].removeprefix(b"\xff") + b"SECRET" + jpeg


JPEGS = {
    "plain": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "restarts": encoded("JPEG", restart_marker_blocks=2),
    "grey": encoded("JPEG", image=picture("L")),
    "cmyk": encoded("JPEG", image=picture("CMYK")),  # with Adobe's segment, without which it decodes differently
    "upright": encoded("JPEG", orientation=1),
    "phone": with_extras(encoded("JPEG", orientation=8)),
}
OTHERS = {
    "png": encoded("PNG"),
    "png with alpha": encoded("PNG", image=picture("RGBA")),
    "png of 256 colours": encoded("PNG", image=picture().quantize(256), transparency=3),
    "webp": encoded("WEBP", orientation=3),
    "webp without loss": encoded("WEBP", image=picture("RGBA"), lossless=True),
    "webp upright": encoded("WEBP", orientation=1),
}


@pytest.mark.parametrize("data", [*JPEGS.values(), *OTHERS.values()], ids=[*JPEGS, *OTHERS])
def test_nothing_is_told_and_no_pixel_changes(data: bytes) -> None:
    assert any(secret in data for secret in SECRETS)
    stripped, ending = strip(data)
    assert not any(secret in stripped for secret in SECRETS)
    assert np.array_equal(pixels(stripped), pixels(data))
    with Image.open(io.BytesIO(stripped)) as after, Image.open(io.BytesIO(data)) as before:
        assert after.format == before.format and after.mode == before.mode
        assert ending == {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}[before.format]
        turned = before.getexif()[0x0112]
        assert dict(after.getexif()) == ({} if turned == 1 else {0x0112: turned})
        assert not {"icc_profile", "comment", "xmp", "XML:com.adobe.xmp", "Author", "Comment"} & {*after.info}
    assert strip(stripped) == (stripped, ending)


def test_only_listed_parts_of_a_jpeg_are_left() -> None:
    stripped, _ = strip(JPEGS["phone"])
    assert stripped.count(b"\xff\xd9") == 1 and stripped.endswith(b"\xff\xd9")
    assert stripped[2:20] == b"\xff\xe0\x00\x10JFIF\0\1\2\0\0\1\0\1\0\0"
    for marker in (0xE2, 0xEB, 0xED, 0xFE):
        assert bytes((0xFF, marker)) not in stripped


def test_what_a_png_needs_for_its_colours_stays() -> None:
    data = encoded("PNG")
    gamma = b"gAMA" + struct.pack(">I", 45455)
    chunk = struct.pack(">I", 4) + gamma + struct.pack(">I", zlib.crc32(gamma))
    stripped, _ = strip(data[:33] + chunk + data[33:] + b"SECRET")
    assert chunk in stripped and b"iCCP" not in stripped and stripped.endswith(b"IEND\xaeB`\x82")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is no JPEG, PNG or WebP"),
        (b"GIF89a" + bytes(30), "is no JPEG, PNG or WebP, its first bytes are 47 49 46"),
        (JPEGS["plain"][:300], "ends too early"),
        (JPEGS["plain"][:-40], "ends too early"),
        (b"\xff\xd8\xff\xd9", "holds no picture"),
        (JPEGS["plain"][:20] + b"x" + JPEGS["plain"][20:], "byte 20 is no JPEG marker"),
        (OTHERS["png"][:200], "ends too early"),
        (OTHERS["png"].replace(b"Author", b"author"), "fails its checksum"),
        (OTHERS["webp"][:200], "ends too early"),
    ],
)
def test_damaged_files_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        strip(data)
    assert "\n" not in str(caught.value)


def test_animations_are_refused() -> None:
    stream = io.BytesIO()
    picture().save(stream, "WEBP", save_all=True, append_images=[picture("L").convert("RGB")])
    with pytest.raises(InputError, match="is an animation: give single pictures"):
        strip(stream.getvalue())


@pytest.mark.parametrize("data", [JPEGS["phone"], OTHERS["png"], OTHERS["webp"]], ids=["jpeg", "png", "webp"])
def test_hostile_files_end_in_one_line_and_never_carry_more(data: bytes) -> None:
    rng = random.Random(1)
    refused = 0
    for _ in range(400):
        place = rng.randrange(min(len(data), 900))
        damaged = data[:place] + rng.randbytes(rng.randrange(1, 5)) + data[place + rng.randrange(4) :]
        try:
            stripped, _ = strip(damaged)
            assert len(stripped) <= len(damaged) + 64
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 200
            refused += 1
    assert 50 < refused


def test_the_command_copies_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "b").mkdir(parents=True)
    (source / "IMG_20240506.JPG").write_bytes(JPEGS["plain"])
    (source / "b" / "x.png").write_bytes(OTHERS["png"])
    (source / ".DS_Store").write_bytes(b"SECRET")
    assert main(["strip", str(source), str(target)]) == 0
    assert "wrote 2 images" in capsys.readouterr().err
    assert (target / "IMG_20240506.JPG").read_bytes() == strip(JPEGS["plain"])[0]
    assert (target / "b" / "x.png").read_bytes() == strip(OTHERS["png"])[0]
    assert sorted(path.name for path in target.rglob("*")) == ["IMG_20240506.JPG", "b", "x.png"]
    assert main(["strip", str(source), str(tmp_path / "numbered"), "--rename"]) == 0
    assert sorted(path.name for path in (tmp_path / "numbered").iterdir()) == ["000001.jpg", "000002.png"]


def test_the_command_leaves_out_what_it_cannot_strip_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (source / "b.jpg").write_bytes(JPEGS["plain"])
    (source / "c.txt").write_bytes(b"notes")
    assert main(["strip", str(source), str(target)]) == 2
    said = capsys.readouterr().err
    assert "a.heic: is no JPEG, PNG or WebP" in said and "2 of 3 were left out" in said
    assert [path.name for path in target.iterdir()] == ["b.jpg"]
    assert main(["strip", str(source / "b.jpg"), str(source), "--overwrite"]) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert (source / "b.jpg").read_bytes() == JPEGS["plain"]
    assert main(["strip", str(source / "b.jpg"), str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["strip", str(source)]) == 2
    assert main(["strip", str(tmp_path / "none"), str(target)]) == 2
    assert "no such file" in capsys.readouterr().err
