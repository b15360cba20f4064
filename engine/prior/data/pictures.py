"""Pictures from files: JPEG, PNG and WebP as sRGB with alpha, upright, or one line that says why not."""

import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from ...errors import InputError
from ...files import cause, read_bytes

FORMATS = ("JPEG", "PNG", "WEBP")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
LEAST_SIDE, MOST_SIDE, MOST_PIXELS = 16, 16384, 100_000_000
LARGEST_FILE = 1 << 29  # bytes

EXIF_BLOCK, FOCAL_IN_35MM, ORIENTATION = 0x8769, 0xA405, 0x0112  # EXIF 2.32
FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm
PNG_SIGN, PNG_DEPTH = b"\x89PNG\r\n\x1a\n", 24  # the byte of IHDR that counts bits


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, upright."""

    rgb: Tensor  # [h, w, 3] float32, display-referred (sRGB), 0 to 1, on black where alpha is below 1
    alpha: Tensor  # [h, w] float32, 0 to 1
    focal: float | None  # pixels, where the file tells it


def read_picture(path: Path) -> Picture:
    """Reads one picture: turned as its EXIF says, in sRGB where it carries another colour profile.

    The focal length is that of EXIF's 35 mm film with the same diagonal (CIPA DCG-001).

    Raises:
        InputError: no such file, no JPEG, PNG or WebP, damaged, CMYK, more than 8 bits a channel, an animation, or a
            size that is not 16 to 16384 a side and at most 100 Mpx.
    """
    data = _bytes(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd EXIF and palettes; what is wrong ends in an error
        image = _opened(data, path)
        try:
            focal = _focal(image)
            profile = image.info.get("icc_profile")
            image = ImageOps.exif_transpose(image)
            image.load()
            alpha = image.convert("RGBA").getchannel("A")
            image = _in_srgb(image.convert(_plain(image)), profile)
        except Exception as error:  # decoders raise all kinds of them
            raise _damaged(path, error) from None
    coverage = torch.from_numpy(np.asarray(alpha, np.float32) / 255)
    colour = torch.from_numpy(np.asarray(image, np.float32) / 255)
    return Picture(colour * coverage[..., None], coverage, focal)


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as its pixels are stored, from its first bytes.

    Raises:
        InputError: as `read_picture`, as far as the head of the file tells; or EXIF turns it, so that a pose that comes
            with it may mean either way.
    """
    data = _bytes(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _opened(data, path)
        try:
            turned = image.getexif().get(ORIENTATION, 1)
        except Exception as error:
            raise _damaged(path, error) from None
    if turned not in (0, 1):
        raise InputError(f"{path}: has a pose, but its EXIF turns it (orientation {turned}): turn the pixels instead")
    return image.size


def read_channel(path: Path) -> Tensor:
    """The first channel as it is stored, [h, w] uint8, for pictures that hold no colours.

    Raises:
        InputError: as `read_picture`.
    """
    image = _opened(_bytes(path), path)
    try:
        return torch.from_numpy(np.array(image.getchannel(0)))
    except Exception as error:
        raise _damaged(path, error) from None


def _bytes(path: Path) -> bytes:
    data = read_bytes(path, LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise InputError(f"{path}: is longer than {LARGEST_FILE >> 20} MiB: give a smaller picture")
    return data


def _opened(data: bytes, path: Path) -> Image.Image:
    """The picture, not decoded yet, of a kind and a size that can be used."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # an MPO: a phone's JPEG
    except Image.DecompressionBombError:
        raise InputError(f"{path}: has more than {MOST_PIXELS} pixels: give a smaller picture") from None
    except Image.UnidentifiedImageError:
        told = f"its first bytes are {data[:8].hex(' ')}"
        raise InputError(f"{path}: is no JPEG, PNG or WebP, {told}: convert it to one of them") from None
    except Exception as error:
        raise _damaged(path, error) from None
    width, height = image.size
    if frames > 1:
        raise InputError(f"{path}: is an animation of {frames} frames: give a single picture, or a video")
    if min(width, height) < LEAST_SIDE:
        raise InputError(f"{path}: is {width}x{height} pixels: give one of at least {LEAST_SIDE} a side")
    if max(width, height) > MOST_SIDE or width * height > MOST_PIXELS:
        limits = f"at most {MOST_SIDE} a side and {MOST_PIXELS // 1_000_000} Mpx"
        raise InputError(f"{path}: is {width}x{height} pixels: give one of {limits}")
    if data.startswith(PNG_SIGN) and data[PNG_DEPTH] > 8:  # which the decoder would cut down without a word
        raise InputError(f"{path}: has {data[PNG_DEPTH]} bits a channel: save it with 8")
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise InputError(f"{path}: holds {image.mode} colours: save it as RGB")
    return image


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: is damaged or cut short ({cause(error)}): fetch or export it again")


def _plain(image: Image.Image) -> str:
    """The mode without alpha that a colour profile of the file would speak of."""
    return "L" if image.mode in ("1", "L", "LA") else "RGB"


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """As RGB; from the file's own colour profile, if it has one that fits and Pillow was built to read it."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        wanted = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        moved = ImageCms.profileToProfile(image, given, wanted, renderingIntent=intent, outputMode="RGB")
    except (ImportError, OSError, ValueError, TypeError, ImageCms.PyCMSError):  # none, damaged, or of other colours
        moved = None
    return image.convert("RGB") if moved is None else moved


def _focal(image: Image.Image) -> float | None:
    """In pixels; None where EXIF says nothing, or 0, which means unknown."""
    try:
        film = float(image.getexif().get_ifd(EXIF_BLOCK).get(FOCAL_IN_35MM, 0))
    except (TypeError, ValueError, SyntaxError, KeyError, OSError, struct.error, ZeroDivisionError):
        return None
    return film * math.hypot(*image.size) / FILM_DIAGONAL if 1 <= film <= 10_000 else None
