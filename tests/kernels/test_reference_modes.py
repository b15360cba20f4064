"""Lenses, outputs, batches and stereo of the plain torch renderer against loops, finite differences and paper."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import reference
from lyra.kernels.normals import splat_normals
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize
from lyra.kernels.views import fold_angle

DISTORTED = (0.05, -0.02, 0.004, -0.0005)
MODES = {
    "pinhole": Options(),
    "orthographic": Options(lens="orthographic"),
    "fisheye": Options(lens="fisheye"),
    "distorted": Options(lens="fisheye", distortion=DISTORTED, max_angle=2.0),
    "antialiased": Options(antialiased=True),
    "antialiased fisheye": Options(lens="fisheye", antialiased=True),
    "planes": Options(near=1.2, far=9.0, blur=0.1, radius_clip=1.5),
}


def through(lens: str, distortion, point: np.ndarray, K: np.ndarray) -> np.ndarray:
    """The pixel of a point in camera space, from the definition of the lens."""
    x, y, z = point
    if lens == "pinhole":
        flat = np.array((x / z, y / z))
    elif lens == "orthographic":
        flat = np.array((x, y))
    else:
        theta, phi = math.atan2(math.hypot(x, y), z), math.atan2(y, x)
        k = (1.0, *distortion)
        flat = sum(k[i] * theta ** (2 * i + 1) for i in range(5)) * np.array((math.cos(phi), math.sin(phi)))
    return K[:2, :2].diagonal() * flat + K[:2, 2]


def brute_force(scene, view, options: Options) -> dict[str, np.ndarray]:
    """All outputs, one splat and one pixel after the other; the Jacobian by central differences."""
    means, quats, scales, opacities, colors = (tensor.double() for tensor in scene)
    pose, K = view.world_to_camera.numpy(), view.K.numpy()
    rotations = reference.quats_to_rotations(quats).numpy()
    towards = means - torch.from_numpy(np.linalg.inv(pose)[:3, 3])
    rgb = reference.sh_colors(colors, towards).numpy()
    splats = []
    for i, mean in enumerate(means.numpy()):
        point = pose[:3, :3] @ mean + pose[:3, 3]
        depth = np.linalg.norm(point) if options.lens == "fisheye" else point[2]
        angle = math.atan2(math.hypot(point[0], point[1]), point[2])
        if not options.near < depth < options.far or (options.lens == "fisheye" and angle > options.max_angle):
            continue
        bent = point
        if options.lens == "pinhole":  # the clamp of 3DGS moves the place where the Jacobian is taken
            fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
            low = np.array((-cx / fx - 0.15 * view.width / fx, -cy / fy - 0.15 * view.height / fy))
            high = np.array(
                ((view.width - cx) / fx + 0.15 * view.width / fx, (view.height - cy) / fy + 0.15 * view.height / fy)
            )
            bent = np.append(np.clip(point[:2] / point[2], low, high), 1.0) * point[2]
        step = 1e-5 * np.linalg.norm(point)
        jacobian = np.stack(
            [
                through(options.lens, options.distortion, bent + step * axis, K)
                - through(options.lens, options.distortion, bent - step * axis, K)
                for axis in np.eye(3)
            ],
            axis=1,
        ) / (2 * step)
        factor = jacobian @ pose[:3, :3] @ rotations[i] @ np.diag(scales[i].numpy())
        sharp = factor @ factor.T
        flat = sharp + options.blur * np.eye(2)
        opacity = float(opacities[i])
        if options.antialiased:
            opacity *= math.sqrt(max(np.linalg.det(sharp), 0.0) / np.linalg.det(flat))
        if opacity < 1 / 255:
            continue
        reach = math.sqrt(2 * math.log(255 * opacity)) * np.sqrt(flat.diagonal())
        if options.radius_clip and reach.max() <= options.radius_clip:
            continue
        centre = through(options.lens, options.distortion, point, K)
        splats.append((depth, i, centre, np.linalg.inv(flat), opacity))
    splats.sort(key=lambda splat: splat[:2])

    h, w = view.height, view.width
    out = {name: np.zeros((h, w)) for name in ("alpha", "depth", "median")}
    out |= {"rgb": np.zeros((h, w, 3)), "contribution": np.zeros(len(means))}
    for row in range(h):
        for column in range(w):
            transmittance = 1.0
            for depth, i, centre, conic, opacity in splats:
                offset = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(0.99, opacity * math.exp(-0.5 * offset @ conic @ offset))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                weight = alpha * transmittance
                out["rgb"][row, column] += weight * rgb[i]
                out["alpha"][row, column] += weight
                out["depth"][row, column] += weight * depth
                out["contribution"][i] += weight
                if transmittance > 0.5 >= transmittance - weight:
                    out["median"][row, column] = depth
                transmittance -= weight
    out["depth"] /= np.where(out["alpha"] > 0, out["alpha"], 1.0)
    return out


@pytest.mark.parametrize("mode", MODES)
def test_renders_what_loops_over_pixels_and_splats_render(make_view, make_scene, mode: str) -> None:
    view = make_view(19, 14, seed=3)
    options = MODES[mode]
    if options.lens == "orthographic":
        view.K[:2, :2] /= 6  # pixels a world unit
    if options.lens == "fisheye":
        view.K[:2, :2] /= 2
    scene = make_scene(view, 60, 4, seed=3)
    scene = scene._replace(scales=(4 * scene.scales).clamp(max=1.0))  # central differences of nothing absurd
    wanted = {"median": True, "contribution": True}
    frame = rasterize(*scene.double(), *view, options=type(options)(**vars(options) | wanted), backend="reference")
    expected = brute_force(scene, view, options)
    assert (expected["alpha"] > 0.3).mean() > 0.05 and (expected["median"] > 0).any()
    for name, array in expected.items():
        torch.testing.assert_close(getattr(frame, name), torch.from_numpy(array), rtol=1e-6, atol=1e-6, msg=name)


def test_a_fisheye_sees_behind_itself() -> None:
    """A splat 120 degrees off the axis, to the right, in a circular picture of 260 degrees."""
    angle, focal = math.radians(120), 50 / math.radians(130)
    means = 2.0 * torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]])
    lens = torch.tensor([[focal, 0, 50], [0, focal, 50], [0, 0, 1]])
    scene = means, torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.1), torch.ones(1), torch.ones(1, 3)
    arguments = {"options": Options(lens="fisheye"), "backend": "reference", "keep_projected": True}
    frame = rasterize(*scene, torch.eye(4), lens, 100, 100, **arguments)
    assert frame.projected.means2d[0].tolist() == pytest.approx([50 + 50 * 120 / 130, 50.0], abs=1e-4)
    assert float(frame.alpha[49, 96]) > 0.9
    assert float(frame.depth[49, 96]) == pytest.approx(2.0)
    # Round the axis at this angle lies a circle of radius sin(angle), not of radius angle: it is drawn that much wider.
    conic = frame.projected.conics[0]
    width, height = (float(1 / conic[k] - 0.3) ** 0.5 for k in (0, 2))
    assert width == pytest.approx(focal * 0.1 / 2.0, rel=1e-3)
    assert height == pytest.approx(focal * 0.1 / 2.0 * angle / math.sin(angle), rel=1e-3)


def test_a_distortion_that_folds_back_ends_the_picture() -> None:
    assert fold_angle((0.0, 0.0, 0.0, 0.0)) == math.inf
    assert fold_angle((-0.1, 0.0, 0.0, 0.0)) == pytest.approx(math.sqrt(1 / 0.3), rel=1e-3)


@pytest.mark.parametrize("mode", ["pinhole", "orthographic", "distorted", "antialiased"])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "world_to_camera", "K"])
def test_gradient_agrees_with_finite_differences(mode: str, name: str) -> None:
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = reference.quats_to_rotations(torch.tensor([[1.0, 0.1, -0.2, 0.15]], dtype=torch.float64))[0]
    focal = 2.0 if mode == "orthographic" else 5.0
    inputs = {
        "means": 0.3 * normal(4, 3) + torch.tensor((0.1, -0.2, 3.0)),
        "quats": normal(4, 4),
        "scales": 1.2 + torch.rand(4, 3, generator=generator, dtype=torch.float64),
        "opacities": 0.3 + 0.4 * torch.rand(4, generator=generator, dtype=torch.float64),
        "colors": 0.1 * normal(4, 9, 3),
        "world_to_camera": pose,
        "K": torch.tensor([[focal, 0.0, 3.1], [0.0, focal + 0.5, 2.4], [0.0, 0.0, 1.0]], dtype=torch.float64),
    }
    weights = normal(5, 6, 5)

    def loss(value: Tensor) -> Tensor:
        frame = rasterize(*(inputs | {name: value}).values(), 6, 5, options=MODES[mode], backend="reference")
        return (torch.cat((frame.rgb, frame.alpha[..., None], frame.depth[..., None]), dim=-1) * weights).sum()

    value = inputs[name].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(value), value)
    expected = torch.zeros_like(gradient)
    for i in range(gradient.numel()):
        change = torch.zeros(gradient.numel(), dtype=torch.float64)
        change[i] = 1e-5
        change = change.reshape(gradient.shape)
        expected.view(-1)[i] = (loss(inputs[name] + change) - loss(inputs[name] - change)) / 2e-5
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_features_are_blended_like_colour_and_the_mask_leaves_background(make_view, make_scene) -> None:
    view = make_view(21, 18)
    scene = make_scene(view, 50, 1, seed=2).double()
    colors = torch.rand(50, 3, dtype=torch.float64)
    scene = scene._replace(sh=colors)
    background = torch.tensor((0.2, 0.4, 0.6), dtype=torch.float64)
    mask = torch.zeros(18, 21, dtype=torch.bool)
    mask[3:9, 5:20] = True
    options = Options(contribution=True)
    arguments = {"background": background, "backend": "reference", "options": options}
    whole = rasterize(*scene, *view, features=torch.cat((colors, colors[:, :1] * 2), dim=1), **arguments)
    black = whole.rgb - (1 - whole.alpha[..., None]) * background
    torch.testing.assert_close(whole.features[..., :3], black)
    torch.testing.assert_close(whole.features[..., 3], 2 * black[..., 0])
    part = rasterize(*scene, *view, features=colors, mask=mask, **arguments)
    torch.testing.assert_close(part.rgb, torch.where(mask[..., None], whole.rgb, background))
    torch.testing.assert_close(part.alpha, torch.where(mask, whole.alpha, 0.0))
    torch.testing.assert_close(part.depth, torch.where(mask, whole.depth, 0.0))
    assert float(part.contribution.sum()) == pytest.approx(float(part.alpha.sum()))


def test_normals_face_the_camera_and_are_shortest_axes(make_view, make_scene) -> None:
    view = make_view(15, 12)
    scene = make_scene(view, 30, 1, seed=8).double()
    eye = -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3]
    normals = splat_normals(scene.means, scene.quats, scene.scales, eye[None])[0]
    assert ((normals * (eye - scene.means)).sum(dim=1) >= 0).all()
    turned = (reference.quats_to_rotations(scene.quats).transpose(1, 2) @ normals[..., None])[..., 0].abs()
    distinct = scene.scales.sort(dim=1).values
    distinct = distinct[:, 0] < distinct[:, 1]
    assert torch.equal(turned.argmax(dim=1)[distinct], scene.scales.argmin(dim=1)[distinct])
    torch.testing.assert_close(turned.amax(dim=1), torch.ones(30).double())
    frame = rasterize(*scene, *view, options=Options(normals=True), backend="reference")
    expected = rasterize(*scene, *view, features=normals, backend="reference").features
    torch.testing.assert_close(frame.normals, expected)
    assert frame.features is None


def test_a_batch_is_its_parts(make_view, make_scene) -> None:
    views = [make_view(17, 11, seed=i) for i in range(3)]
    scenes = [make_scene(views[0], 40, 4, seed=i).double() for i in range(2)]
    batch = [torch.stack(tensors) for tensors in zip(*scenes, strict=True)]
    poses = torch.stack([view.world_to_camera for view in views]).expand(2, 3, 4, 4)
    lenses = torch.stack([view.K for view in views])
    background = torch.rand(2, 3, 3, dtype=torch.float64)
    arguments = {"options": Options(median=True, contribution=True), "backend": "reference"}
    frame = rasterize(*batch, poses, lenses, 17, 11, background=background, features=batch[2], **arguments)
    assert frame.rgb.shape == (2, 3, 11, 17, 3) and frame.contribution.shape == (2, 3, 40)
    for i, scene in enumerate(scenes):
        for j, view in enumerate(views):
            one = rasterize(*scene, *view, background=background[i, j], features=scene.scales, **arguments)
            for name in ("rgb", "alpha", "depth", "median", "features", "contribution"):
                torch.testing.assert_close(getattr(frame, name)[i, j], getattr(one, name), msg=name)


def test_a_stereo_pair_shares_colours_and_order_from_its_middle(make_view, make_scene) -> None:
    """Two splats whose order differs between the eyes, and colours that depend on the direction."""
    view = make_view(24, 16)
    pose = torch.eye(4, dtype=torch.float64)
    left, right = pose.clone(), pose.clone()
    left[0, 3], right[0, 3] = 0.3, -0.3
    scene = make_scene(view._replace(world_to_camera=pose), 60, 9, seed=4).double()
    pair = torch.stack((left, right))
    stereo = rasterize(*scene, pair, view.K, 24, 16, stereo=True, backend="reference")
    colors = reference.sh_colors(scene.sh, scene.means)  # seen from the middle, which is the origin
    for i, eye in enumerate(pair):
        flat = rasterize(*scene._replace(sh=colors), eye, view.K, 24, 16, backend="reference")
        torch.testing.assert_close(stereo.rgb[i], flat.rgb)
        own = rasterize(*scene, eye, view.K, 24, 16, backend="reference")
        assert not torch.allclose(own.rgb, flat.rgb, atol=1e-3)
    # Eyes turned outwards sort by the depth of the middle, not by their own.
    turn = torch.tensor(
        [[math.cos(0.4), 0, -math.sin(0.4)], [0, 1, 0], [math.sin(0.4), 0, math.cos(0.4)]], dtype=torch.float64
    )
    left[:3, :3], right[:3, :3] = turn, turn.T
    means = torch.tensor([[-0.5, 0.0, 3.0], [0.5, 0.0, 3.0 + 1e-3]], dtype=torch.float64)
    two = (
        means,
        torch.tensor([[1.0, 0, 0, 0]] * 2).double(),
        torch.full((2, 3), 0.6).double(),
        torch.full((2,), 0.9).double(),
        torch.eye(3)[:2].double(),
    )
    pair = rasterize(*two, torch.stack((left, right)), view.K, 24, 16, stereo=True, backend="reference")
    alone = [rasterize(*two, eye, view.K, 24, 16, backend="reference").rgb for eye in (left, right)]
    assert torch.allclose(pair.rgb[0], alone[0]) != torch.allclose(pair.rgb[1], alone[1])


def test_a_trainer_can_look_at_gradients_in_the_picture_plane(make_view, make_scene) -> None:
    view = make_view(15, 12)
    scene = make_scene(view, 30, 1, seed=8).double()
    scene.means.requires_grad_()
    frame = rasterize(*scene, *view, backend="reference", keep_projected=True)
    frame.projected.means2d.retain_grad()
    frame.rgb.square().sum().backward()
    shown = frame.projected.radii.amax(dim=-1) > 0
    assert 3 < int(shown.sum()) < 30
    assert (frame.projected.means2d.grad[shown].abs().sum(dim=-1) > 0).any()
    assert not frame.projected.means2d.grad[~shown].any()
    assert scene.means.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lens": "cube"}, "lens 'cube' is unknown: give pinhole, orthographic, fisheye"),
        ({"precision": "exact"}, "precision 'exact' is unknown"),
        ({"distortion": (0.1, 0, 0, 0)}, "undistort first"),
        ({"lens": "fisheye", "distortion": (0.1, 0)}, "expected four finite numbers"),
        ({"lens": "fisheye", "max_angle": 4.0}, "max_angle is 4.0: give radians"),
        ({"near": -1.0}, "near is -1.0: give world units"),
        ({"far": 0.001}, "far is 0.001: give world units, more than near"),
        ({"blur": math.nan}, "blur is nan"),
        ({"radius_clip": -2.0}, "radius_clip is -2.0: give pixels"),
    ],
)
def test_options_out_of_range_are_named(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Options(**values)
