"""The plain torch renderer against loops over pixels and splats, finite differences, and what can be said on paper."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import reference
from lyra.kernels.backends import BACKENDS
from lyra.kernels.constants import SH_C0
from lyra.kernels.frames import Rendering
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

SIZES = [(12, 9), (20, 18), (1, 1), (17, 1)]  # one tile of `reference.blend`, four, one pixel, two tiles
INPUTS = ["means", "quats", "scales", "opacities", "colors", "world_to_camera"]


def brute_force(scene, view, background) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """RGB, alpha and depth by the formulas of the conventions, one pixel and one splat after the other, in float64."""
    means, quats, scales, opacities, sh = (tensor.double().numpy() for tensor in scene)
    pose, lens, width, height = view.world_to_camera.numpy(), view.K.numpy(), view.width, view.height
    fx, fy, cx, cy = lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]
    eye = np.linalg.inv(pose)[:3, 3]
    splats = []
    for mean, quat, scale, opacity, coefficients in zip(means, quats, scales, opacities, sh, strict=True):
        x, y, z = pose[:3, :3] @ mean + pose[:3, 3]
        if z <= 0.01:
            continue
        # The rotation that a unit quaternion stands for: v -> q v q*, column by column.
        q = quat / np.linalg.norm(quat)
        rotation = np.stack([rotate(q, axis) for axis in np.eye(3)], axis=1)
        covariance = rotation @ np.diag(scale**2) @ rotation.T
        # tan of half the field of view; what lies further out than 30 % of it past the edge is bent back.
        tan_x, tan_y = 0.5 * width / fx, 0.5 * height / fy
        tx = z * np.clip(x / z, -cx / fx - 0.3 * tan_x, (width - cx) / fx + 0.3 * tan_x)
        ty = z * np.clip(y / z, -cy / fy - 0.3 * tan_y, (height - cy) / fy + 0.3 * tan_y)
        jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
        flat = jacobian @ pose[:3, :3] @ covariance @ pose[:3, :3].T @ jacobian.T + 0.3 * np.eye(2)
        direction = (mean - eye) / np.linalg.norm(mean - eye)
        basis = [harmonic(l, m, direction) for l in range(4) for m in range(-l, l + 1)][: len(coefficients)]
        color = np.maximum(np.array(basis) @ coefficients + 0.5, 0)
        centre = np.array([fx * x / z + cx, fy * y / z + cy])
        splats.append((z, centre, np.linalg.inv(flat), opacity, color))
    splats.sort(key=lambda splat: splat[0])

    rgb, alphas, depths = np.zeros((height, width, 3)), np.zeros((height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            transmittance, total, depth = 1.0, 0.0, 0.0
            color = np.zeros(3)
            for z, centre, conic, opacity, own in splats:
                offset = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(0.99, opacity * math.exp(-0.5 * offset @ conic @ offset))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                color += own * alpha * transmittance
                total += alpha * transmittance
                depth += z * alpha * transmittance
                transmittance *= 1 - alpha
            rgb[row, column] = color + (1 - total) * background.numpy()
            alphas[row, column] = total
            depths[row, column] = depth / total if total > 0 else 0.0
    return rgb, alphas, depths


def rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The vector v turned by the unit quaternion q (wxyz)."""
    return v + 2 * q[0] * np.cross(q[1:], v) + 2 * np.cross(q[1:], np.cross(q[1:], v))


def harmonic(l: int, m: int, direction: np.ndarray) -> float:
    """Real spherical harmonic of degree l and order m from the definition of the associated Legendre functions."""
    x, y, z = direction
    order = abs(m)
    legendre = (
        np.polynomial.legendre.Legendre.basis(l).deriv(order) if order else np.polynomial.legendre.Legendre.basis(l)
    )
    turn = complex(x, y) ** order  # sin(theta)^m e^(i m phi)
    norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - order) / math.factorial(l + order))
    value = (-1) ** order * norm * legendre(z)  # with the phase of Condon and Shortley
    return value if m == 0 else math.sqrt(2) * value * (turn.real if m > 0 else turn.imag)


@pytest.fixture
def smooth() -> dict[str, Tensor]:
    """Four splats over 6x5 pixels, so wide and thin that no alpha is near 1/255 or 0.99, no colour is clamped at 0
    and no pixel stops."""
    generator = torch.Generator().manual_seed(7)
    n = 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = reference.quats_to_rotations(torch.tensor([[1.0, 0.1, -0.2, 0.15]], dtype=torch.float64))[0]
    pose[:3, 3] = torch.tensor((0.1, -0.2, 0.3), dtype=torch.float64)
    means = 0.2 * normal(n, 3)
    means[:, 2] += torch.tensor((2.0, 2.6, 3.3, 4.1))
    return {
        "means": means,
        "quats": normal(n, 4),
        "scales": 1.0 + torch.rand(n, 3, generator=generator, dtype=torch.float64),
        "opacities": 0.3 + 0.4 * torch.rand(n, generator=generator, dtype=torch.float64),
        "colors": 0.1 * normal(n, 16, 3),
        "world_to_camera": pose,
        "K": torch.tensor([[5.0, 0.0, 3.1], [0.0, 5.5, 2.4], [0.0, 0.0, 1.0]], dtype=torch.float64),
    }


def one_splat(
    n: int = 1, *, opacity: float = 0.6, backend: str = "reference", color=(0.2, 0.5, 0.9), **options
) -> Rendering:
    """n equal round splats at depth 4, 4.1, ... whose centre is that of pixel (4, 3) in a picture of 9x7."""
    gray = (torch.tensor(color) - 0.5) / SH_C0
    means = torch.tensor([[0.0, 0.0, 4.0 + 0.1 * i] for i in range(n)]).reshape(n, 3)
    quats, scales = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(n, 1), torch.full((n, 3), 0.5)
    lens = torch.tensor([[20.0, 0.0, 4.5], [0.0, 20.0, 3.5], [0.0, 0.0, 1.0]])
    sh = gray.expand(n, 1, 3).contiguous()
    scene = (means, quats, scales, torch.full((n,), opacity), sh)
    return rasterize(*scene, torch.eye(4), lens, 9, 7, backend=backend, **options)


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_renders_what_loops_over_pixels_and_splats_render(make_view, make_scene, size, sh) -> None:
    view = make_view(*size, seed=sh)
    scene = make_scene(view, 40, sh, seed=sh)
    background = torch.tensor((0.1, 0.7, 0.3), dtype=torch.float64)
    frame = rasterize(*scene.double(), *view, background=background, backend="reference")
    rgb, alpha, depth = (torch.from_numpy(array) for array in brute_force(scene, view, background))
    assert float(alpha.max()) > 0.3  # something is seen
    torch.testing.assert_close(frame.rgb, rgb, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(frame.alpha, alpha, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(frame.depth, depth, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", INPUTS)
def test_gradient_agrees_with_finite_differences(smooth: dict[str, Tensor], name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    rgb_weights = torch.randn(5, 6, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)

    def loss(value: Tensor) -> Tensor:
        frame = rasterize(*{**smooth, name: value}.values(), 6, 5, backend="reference")
        return (frame.rgb * rgb_weights).sum() + (frame.alpha * weights[0]).sum() + (frame.depth * weights[1]).sum()

    value = smooth[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(value), value)
    step = 1e-5
    expected = torch.zeros_like(gradient)
    for i in range(gradient.numel()):
        change = torch.zeros(gradient.numel(), dtype=torch.float64)
        change[i] = step
        change = change.reshape(gradient.shape)
        expected.view(-1)[i] = (loss(smooth[name] + change) - loss(smooth[name] - change)) / (2 * step)
    assert float(expected.abs().max()) > 1e-2
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)


def test_spherical_harmonics_are_orthonormal_on_the_sphere() -> None:
    z, weights = np.polynomial.legendre.leggauss(8)  # exact with 16 meridians for products of degree 6
    phi = 2 * math.pi * np.arange(16) / 16
    rim = np.sqrt(1 - z**2)
    grid = np.stack((np.outer(rim, np.cos(phi)), np.outer(rim, np.sin(phi)), np.outer(z, np.ones(16))), axis=-1)
    area = torch.from_numpy(np.repeat(weights * 2 * math.pi / 16, 16))
    basis = reference.sh_basis(torch.from_numpy(grid.reshape(-1, 3)), 16)
    torch.testing.assert_close((basis * area[:, None]).T @ basis, torch.eye(16).double(), rtol=0.0, atol=1e-12)


def test_spherical_harmonics_have_the_signs_of_their_definition() -> None:
    directions = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)).double())
    expected = [[harmonic(l, m, d) for l in range(4) for m in range(-l, l + 1)] for d in directions.numpy()]
    torch.testing.assert_close(reference.sh_basis(directions, 16), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_splat_has_its_own_colour_at_its_centre_and_a_gaussian_around(devices, backend: str) -> None:
    with torch.device(devices[backend]):
        frame = one_splat(backend=backend)
    rgb, alpha, depth = (tensor.cpu().double() for tensor in frame[:3])
    variance = (20 * 0.5 / 4) ** 2 + 0.3
    for dx, dy in ((0, 0), (1, 0), (0, -2), (3, 2)):
        expected = 0.6 * math.exp(-(dx * dx + dy * dy) / (2 * variance))
        assert float(alpha[3 + dy, 4 + dx]) == pytest.approx(expected, abs=1e-5)
        assert rgb[3 + dy, 4 + dx].tolist() == pytest.approx([c * expected for c in (0.2, 0.5, 0.9)], abs=1e-5)
    assert depth.flatten().tolist() == pytest.approx([4.0] * 63, rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opacity, counted", [(1.0, 1), (0.9, 3), (0.5, 13)])
def test_a_pixel_stops_before_the_splat_that_would_darken_it(devices, backend, opacity, counted) -> None:
    """0.99, then 0.0001 would be left and that is too little; 0.1^4 and 0.5^14 are the first powers below 1e-4.

    0.1^4 is 1e-4 itself but for rounding, so the opacity is a little larger.
    """
    with torch.device(devices[backend]):
        frame = one_splat(20, opacity=min(opacity + 1e-4, 1.0), backend=backend)
    left = (1 - min(opacity + 1e-4, 0.99)) ** counted
    assert float(frame.alpha[3, 4]) == pytest.approx(1 - left, abs=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_background_fills_what_is_left(devices, backend: str) -> None:
    with torch.device(devices[backend]):
        background = torch.tensor((0.25, 0.5, 1.0))
        black, frame = one_splat(backend=backend), one_splat(backend=backend, background=background)
    expected = black.rgb + (1 - black.alpha[..., None]) * background
    torch.testing.assert_close(frame.rgb, expected, rtol=0.0, atol=1e-6)
    assert torch.equal(frame.alpha, black.alpha) and torch.equal(frame.depth, black.depth)
    assert not torch.allclose(frame.rgb, black.rgb, atol=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("why", ["no splat at all", "all behind", "all beside", "all transparent"])
def test_without_a_visible_splat_the_background_is_all(make_view, make_scene, devices, backend: str, why: str) -> None:
    view = make_view(37, 29)
    scene = make_scene(view, 40, 4)
    camera = scene.means.double() @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
    if why == "no splat at all":
        scene = type(scene)(*(tensor[:0] for tensor in scene))
    elif why == "all behind":
        camera[:, 2] = -camera[:, 2].abs()
    elif why == "all beside":
        camera = camera + torch.tensor((1e5, 0.0, 0.0), dtype=torch.float64)
        camera[:, 2] = camera[:, 2].abs()
    else:
        scene = scene._replace(opacities=scene.opacities * 0.0039)
    means = (camera - view.world_to_camera[:3, 3]) @ view.world_to_camera[:3, :3]
    scene = scene._replace(means=means[: len(scene.quats)].float()).to(devices[backend])
    background = torch.tensor((0.25, 0.5, 1.0), device=devices[backend])
    frame = rasterize(*scene, *view, background=background, backend=backend)
    assert torch.equal(frame.rgb, background.expand(29, 37, 3))
    assert not frame.alpha.any() and not frame.depth.any()
    assert frame.counts.visible == 0 and frame.counts.pairs == 0


def test_a_backend_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'vulkan' is unknown: give auto, triton, cpu, reference"):
        one_splat(backend="vulkan")


def test_depth_order_is_by_depth_then_by_index(make_view, make_scene, row_of) -> None:
    view = make_view(17, 13)
    scene = make_scene(view, 60, 1)
    twice = type(scene)(*(torch.cat((tensor, tensor)) for tensor in scene))
    projected = reference.project(*twice.double(), row_of(view), Options())
    order = reference.depth_order([projected])
    pairs = [(float(projected.depths[i]), int(i)) for i in order]
    assert pairs == sorted(pairs) and len(pairs) == int(projected.visible.sum()) > 40


def test_extents_are_where_alpha_falls_to_its_least(make_view, make_scene, row_of) -> None:
    """The box round the contour of alpha 1/255, followed in 4096 directions."""
    view = make_view(101, 67)
    projected = reference.project(*make_scene(view, 200, 1).double(), row_of(view), Options())
    angle = torch.arange(4096, dtype=torch.float64) * (2 * math.pi / 4096)
    x, y = torch.cos(angle), torch.sin(angle)
    for i in projected.visible.nonzero().flatten().tolist():
        xx, xy, yy = projected.conics[i]
        if float((xx + yy).square() / (xx * yy - xy * xy)) > 1e3:
            continue  # a needle's tips lie between the directions
        radius = torch.sqrt(2 * torch.log(255 * projected.opacities[i]) / (xx * x * x + 2 * xy * x * y + yy * y * y))
        box = torch.stack(((radius * x).max(), (radius * y).max()))
        torch.testing.assert_close(projected.extents[i], box, rtol=1e-3, atol=0.0)
