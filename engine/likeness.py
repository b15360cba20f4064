"""How alike two pictures are: PSNR, SSIM, MS-SSIM and FLIP. Pictures are [h, w, 3], display-referred (sRGB), 0 to 1."""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

# Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", 2003.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01**2, 0.03**2
LEAST_SIDE = WINDOW << len(SCALES) - 1  # pixels: the coarsest scale holds one window

# Andersson et al., "FLIP: A Difference Evaluator for Alternating Images", 2020; names and values as there.
PIXELS_PER_DEGREE = 0.7 * 3840 / 0.7 * math.pi / 180  # a 4k screen, 0.7 m wide, seen from 0.7 m
CONTRAST = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))  # a, b of each Gaussian: Y, Cx, Cz
Q_C, P_C, P_T = 0.7, 0.4, 0.95
Q_F, FEATURE_WIDTH = 0.5, 0.082  # degrees
D65 = (0.950428545, 1.0, 1.088900371)
TO_XYZ = (
    (10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
    (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
    (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382),
)


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels, for a peak of 1; infinite for equal pictures."""
    error = float((a.double() - b.double()).square().mean())
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """[n] SSIM of pictures [n, 3, h, w], 0 to 1, each side 11 pixels or more; differentiable.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004, with the 11-pixel
    Gaussian window, without the border where it does not fit.
    """
    window = _window(a)
    return _ssim(a.flatten(0, 1), b.flatten(0, 1), window)[1].view(len(a), -1).mean(dim=1)


def ms_ssim(a: Tensor, b: Tensor) -> float | None:
    """The mean over channels of MS-SSIM with the paper's five scales, at most 1; None where a side is below 176."""
    if min(a.shape[:2]) < LEAST_SIDE:
        return None
    x, y = (_planes(picture) for picture in (a, b))
    window = _window(x)
    found = torch.ones(3, dtype=x.dtype)
    for scale, weight in enumerate(SCALES):
        if scale:
            x, y = (avg_pool2d(plane, 2) for plane in (x, y))
        structure, whole = _ssim(x, y, window)
        last = scale == len(SCALES) - 1
        found = found * (whole if last else structure).clamp(min=0) ** weight
    return float(found.mean())


def flip(reference: Tensor, test: Tensor) -> float:
    """The mean of LDR-FLIP over the pixels, 0 for equal pictures to 1, on the paper's screen."""
    opponent = [_opponent(_linear(_planes(picture))) for picture in (reference, test)]
    colors = [_hunt(_lab(_seen(planes))) for planes in opponent]
    greatest = _hyab(*(_hunt(_lab(_primary(i))) for i in (1, 2))) ** Q_C
    by_color = _hyab(*colors) ** Q_C
    knee = P_C * greatest
    spread = P_T + (by_color - knee) / (greatest - knee) * (1 - P_T)
    by_color = torch.where(by_color < knee, P_T / knee * by_color, spread)
    grays = [(planes[:1] + 16) / 116 for planes in opponent]
    by_feature = torch.zeros_like(by_color)
    for kernel in _feature_kernels(by_color.dtype):
        strengths = [_gradient(gray, *kernel).norm(dim=0) for gray in grays]
        by_feature = torch.maximum(by_feature, (strengths[0] - strengths[1]).abs())
    return float((by_color ** (1 - (by_feature / math.sqrt(2)) ** Q_F)).mean())


def _planes(picture: Tensor) -> Tensor:
    """[3, h, w], float32 or more, in range."""
    wide = picture if picture.dtype == torch.float64 else picture.float()
    return wide.detach().cpu().clamp(0, 1).permute(2, 0, 1)


def _window(like: Tensor) -> Tensor:
    offsets = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    return _unit((-offsets.square() / (2 * SIGMA**2)).exp())


def _unit(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _separable(planes: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """Each of [c, h, w] filtered, without the border where a kernel does not fit."""
    found = conv2d(planes[:, None], vertical.view(1, 1, -1, 1))
    return conv2d(found, horizontal.view(1, 1, 1, -1))[:, 0]


def _ssim(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Mean contrast times structure, and mean SSIM, of each plane."""
    mx, my, xx, yy, xy = (_separable(plane, window, window) for plane in (x, y, x * x, y * y, x * y))
    structure = (2 * (xy - mx * my) + K2) / (xx - mx * mx + yy - my * my + K2)
    light = (2 * mx * my + K1) / (mx * mx + my * my + K1)
    return structure.mean(dim=(1, 2)), (structure * light).mean(dim=(1, 2))


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _xyz(linear: Tensor) -> Tensor:
    """Relative to the white of D65."""
    matrix = torch.tensor(TO_XYZ, dtype=linear.dtype) / torch.tensor(D65, dtype=linear.dtype)[:, None]
    return torch.einsum("ij,jhw->ihw", matrix, linear)


def _opponent(linear: Tensor) -> Tensor:
    """YCxCz."""
    x, y, z = _xyz(linear)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def _seen(opponent: Tensor) -> Tensor:
    """What an eye resolves of YCxCz, in linear RGB."""
    widest = max(b for gaussians in CONTRAST for _, b in gaussians)
    radius = math.ceil(3 * math.sqrt(widest / (2 * math.pi**2)) * PIXELS_PER_DEGREE)
    squares = (torch.arange(-radius, radius + 1, dtype=opponent.dtype) / PIXELS_PER_DEGREE).square()
    around = pad(opponent[None], (radius,) * 4, mode="replicate")[0]
    planes = []
    for plane, gaussians in zip(around, CONTRAST, strict=True):
        # A sum of Gaussians, each of which is separable; together they have a sum of 1.
        lines = [(a * math.sqrt(math.pi / b), (-(math.pi**2) / b * squares).exp()) for a, b in gaussians]
        whole = sum(height * line.sum() ** 2 for height, line in lines)
        planes.append(sum(_separable(plane[None], height / whole * line, line)[0] for height, line in lines))
    luma, red, blue = planes
    y = (luma + 16) / 116
    xyz = torch.stack((y + red / 500, y, y - blue / 200)) * torch.tensor(D65, dtype=y.dtype).view(3, 1, 1)
    back = torch.tensor(TO_XYZ, dtype=torch.float64).inverse().to(y.dtype)
    return torch.einsum("ij,jhw->ihw", back, xyz).clamp(0, 1)


def _lab(linear: Tensor) -> Tensor:
    edge = 6 / 29
    xyz = _xyz(linear)
    x, y, z = torch.where(xyz > edge**3, xyz.clamp(min=0) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def _hunt(lab: Tensor) -> Tensor:
    """Colours count less where it is dark."""
    return torch.cat((lab[:1], 0.01 * lab[:1] * lab[1:]))


def _hyab(a: Tensor, b: Tensor) -> Tensor:
    """City block between lightness and colour, [h, w]."""
    return (a[0] - b[0]).abs() + (a[1:] - b[1:]).norm(dim=0)


def _primary(channel: int) -> Tensor:
    return torch.eye(3)[:, channel].view(3, 1, 1)


def _feature_kernels(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Of edges and of points: the line across, and the line along."""
    sigma = 0.5 * FEATURE_WIDTH * PIXELS_PER_DEGREE
    radius = math.ceil(3 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=dtype)
    bell = (-x.square() / (2 * sigma**2)).exp()
    found = []
    for across in (-x * bell, (x.square() / sigma**2 - 1) * bell):
        positive, negative = across.clamp(min=0), across.clamp(max=0)
        found.append((positive / positive.sum() - negative / negative.sum(), _unit(bell)))
    return found


def _gradient(gray: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """[2, h, w] of a gray picture [1, h, w]: across columns and across rows."""
    radius = len(across) // 2
    around = pad(gray[None], (radius,) * 4, mode="replicate")[0]
    return torch.cat((_separable(around, along, across), _separable(around, across, along)))
