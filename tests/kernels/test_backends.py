"""The fast backends as a whole against the reference in float64: every lens, output and option, and all gradients."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lyra.kernels.frames import Rendering
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

FAST = ["cpu", "triton"]
MODES = {
    "pinhole": Options(),
    "orthographic": Options(lens="orthographic"),
    "fisheye": Options(lens="fisheye"),
    "distorted": Options(lens="fisheye", distortion=(0.05, -0.02, 0.004, -0.0005), max_angle=2.0),
    "antialiased": Options(antialiased=True),
    "planes": Options(near=1.2, far=9.0, blur=0.1, radius_clip=1.5),
}
SCENE = ("means", "quats", "scales", "opacities", "colors")
CAMERA = ("world_to_camera", "K")


@pytest.fixture
def make_case(make_view, make_scene) -> Callable[..., tuple]:
    """A view and a scene that fill most of the picture through the lens of `options`."""

    def make(options: Options, size: tuple[int, int], n: int, sh: int = 4, seed: int = 0) -> tuple:
        view = make_view(*size, seed=seed)
        scene = make_scene(view, n, sh, seed=seed)
        if options.lens == "orthographic":
            view.K[:2, :2] /= 8  # pixels a world unit
        if options.lens == "fisheye":
            view.K[:2, :2] /= 2
        return view, scene._replace(scales=(2 * scene.scales).clamp(max=3.0))

    return make


def on(device: str, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", FAST)
def test_frame_agrees_with_the_reference(make_case, make_truth, check_frame, devices, backend: str, mode: str) -> None:
    size, n = ((61, 43), 120) if backend == "cpu" else ((19, 17), 30)
    view, scene = make_case(MODES[mode], size, n, seed=2)
    background = torch.tensor((0.9, 0.1, 0.4))
    truth = make_truth(scene, view, background, options=MODES[mode])
    assert float(truth.frame.alpha.max()) > 0.5
    arguments = {"background": background.to(devices[backend]), "options": MODES[mode], "backend": backend}
    check_frame(rasterize(*on(devices[backend], *scene), *view, **arguments), truth, most_undecided=0.12)


@pytest.mark.parametrize("backend", FAST)
def test_all_outputs_agree_with_the_reference(make_case, make_truth, devices, backend: str) -> None:
    options = Options(median=True, contribution=True, normals=True)
    size, n = ((61, 43), 120) if backend == "cpu" else ((19, 17), 30)
    view, scene = make_case(options, size, n, sh=1, seed=5)
    scene = scene._replace(sh=scene.sh[:, 0].abs())  # plain RGB
    features = torch.randn(n, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(size[1], size[0], dtype=torch.bool)
    mask[4:9, 3:] = False
    truth = make_truth(scene, view, options=options, mask=mask)
    arguments = {"options": options, "mask": mask, "features": features}
    expected = rasterize(*scene.double(), *view, **(arguments | {"features": features.double()}), backend="reference")
    moved = {"options": options, "mask": mask.to(devices[backend]), "features": features.to(devices[backend])}
    frame = rasterize(*on(devices[backend], *scene), *view, **moved, backend=backend)
    for name in ("rgb", "alpha", "features", "normals"):
        ours, theirs = getattr(frame, name).cpu().double(), getattr(expected, name)
        torch.testing.assert_close(ours[truth.decided], theirs[truth.decided], rtol=1e-4, atol=1e-4, msg=name)
    # Where transmittance is close to a half, float32 may take the next splat.
    shown = truth.decided & mask
    median, theirs = frame.median.cpu().double()[shown], expected.median[shown]
    assert float(torch.isclose(median, theirs, rtol=1e-4, atol=1e-6).double().mean()) > 0.98
    assert float((theirs > 0).double().mean()) > 0.2
    assert not frame.alpha.cpu()[~mask].any() and not frame.median.cpu()[~mask].any()
    undecided = float((~truth.decided).sum())
    torch.testing.assert_close(
        frame.contribution.cpu().double(), expected.contribution, rtol=1e-3, atol=0.01 * undecided + 1e-3
    )
    assert float((frame.contribution.cpu().double() - expected.contribution).abs().sum()) < 0.05 * undecided + 0.05


@pytest.mark.parametrize("channels", [1, 5, 513])
@pytest.mark.parametrize("backend", FAST)
def test_features_of_any_number(make_case, devices, backend: str, channels: int) -> None:
    if backend == "triton" and channels == 513 and devices[backend] == "cpu":
        channels = 17  # two passes; the interpreter takes seconds for each
    size, n = ((11, 9), 12) if backend == "cpu" else ((8, 9), 8)
    view, scene = make_case(Options(), size, n)
    features = torch.randn(n, channels, generator=torch.Generator().manual_seed(channels))
    moved = on(devices[backend], *scene)
    frame = rasterize(*moved, *view, features=features.to(devices[backend]), backend=backend)
    ones = rasterize(*moved, *view, features=torch.ones(n, 1, device=devices[backend]), backend=backend)
    expected = rasterize(*scene.double(), *view, features=features.double(), backend="reference")
    assert frame.features.shape == (size[1], size[0], channels)
    torch.testing.assert_close(ones.features[..., 0], frame.alpha, rtol=0, atol=1e-6)
    close = torch.isclose(frame.features.cpu().double(), expected.features, rtol=1e-4, atol=1e-4)
    assert float(close.double().mean()) > 0.99


@pytest.mark.parametrize("backend", FAST)
def test_views_and_scenes_of_a_batch_are_those_of_single_calls(make_view, make_scene, devices, backend: str) -> None:
    size, n = ((70, 40), 25) if backend == "cpu" else ((9, 7), 10)
    views = [make_view(*size, seed=i) for i in range(3)]
    scenes = [make_scene(views[0], n, 1, seed=i).to(devices[backend]) for i in range(2)]
    batch = [torch.stack(tensors) for tensors in zip(*scenes, strict=True)]
    poses = torch.stack([view.world_to_camera for view in views]).expand(2, 3, 4, 4)
    lenses = torch.stack([view.K for view in views])
    arguments = {"options": Options(contribution=True), "backend": backend}
    background = torch.rand(2, 3, 3).to(devices[backend])
    many = torch.randn(2, 3, n, 2).to(devices[backend])
    frame = rasterize(*batch, poses, lenses, *size, background=background, features=many, **arguments)
    assert frame.rgb.shape == (2, 3, size[1], size[0], 3) and frame.contribution.shape == (2, 3, n)
    for i, j in ((0, 0), (1, 2), (0, 1)):
        own = {"background": background[i, j], "features": many[i, j]}
        one = rasterize(*scenes[i], *views[j], **own, **arguments)
        for name in ("rgb", "alpha", "depth", "features", "contribution"):
            assert torch.equal(getattr(frame, name)[i, j], getattr(one, name)), name


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
@pytest.mark.parametrize("backend", FAST)
def test_stereo_agrees_with_the_reference(make_case, psnr, devices, backend: str, lens: str) -> None:
    """Eyes apart and turned outwards: some splats are seen by one of them only."""
    options = Options(lens=lens)  # type: ignore[arg-type]
    size, n = ((61, 43), 120) if backend == "cpu" else ((19, 17), 30)
    view, scene = make_case(options, size, n, seed=7)
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = math.cos(0.15)
    turn[2, 0], turn[0, 2] = math.sin(0.15), -math.sin(0.15)
    left, right = turn @ view.world_to_camera, turn.T @ view.world_to_camera
    left[0, 3] += 0.05
    right[0, 3] -= 0.05
    pair = torch.stack((left, right))
    arguments = {"stereo": True, "options": options}
    frame = rasterize(*on(devices[backend], *scene), pair, view.K, *size, **arguments, backend=backend)
    expected = rasterize(*scene.double(), pair, view.K, *size, **arguments, backend="reference")
    close = torch.isclose(frame.rgb.cpu().double(), expected.rgb, rtol=0, atol=1e-4)
    assert float(close.double().mean()) > 0.95  # the rest lies at a cut-off
    assert psnr(frame.rgb.cpu(), expected.rgb) > 55.0
    again = rasterize(*on(devices[backend], *scene), pair, view.K, *size, **arguments, backend=backend)
    assert torch.equal(frame.rgb, again.rgb) and torch.equal(frame.depth, again.depth)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", FAST)
def test_gradients_agree_with_the_reference(make_case, make_truth, devices, backend: str, mode: str) -> None:
    """All inputs at once, through RGB, alpha, depth and features; pixels at a cut-off have no say."""
    options, device = MODES[mode], devices[backend]
    size, n = ((41, 33), 80) if backend == "cpu" else ((13, 15), 20)
    view, scene = make_case(options, size, n, sh=9, seed=4)
    truth = make_truth(scene, view, options=options)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(size[1], size[0], 8, generator=random, dtype=torch.float64) * truth.decided[..., None]
    inputs = dict(zip((*SCENE, *CAMERA), (*scene.double(), *view[:2]), strict=True))
    inputs |= {"features": torch.randn(n, 3, generator=random).double(), "background": torch.rand(3).double()}

    def gradients(kind: Any, where: str, backend: str) -> tuple[dict[str, Tensor], Rendering]:
        leaves = {
            name: tensor.to(where if name not in CAMERA else "cpu", kind if name not in CAMERA else None)
            for name, tensor in inputs.items()
        }
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        frame = rasterize(**leaves, width=size[0], height=size[1], options=options, backend=backend)
        outputs = torch.cat((frame.rgb, frame.alpha[..., None], frame.depth[..., None], frame.features), dim=-1)
        (outputs * weights.to(outputs)).sum().backward()
        return {name: leaf.grad.cpu().double() for name, leaf in leaves.items()}, frame

    expected, _ = gradients(torch.float64, "cpu", "reference")
    found, _ = gradients(torch.float32, device, backend)
    for name, gradient in expected.items():
        assert float(gradient.norm()) > 1e-3, f"{name} has no gradient: the test says nothing"
        error = float((found[name] - gradient).norm() / gradient.norm())
        assert error <= 1e-3, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("backend", FAST)
def test_gradients_of_several_views_and_of_stereo_add_up(make_case, devices, backend: str) -> None:
    device = devices[backend]
    size, n = ((41, 33), 60) if backend == "cpu" else ((13, 15), 20)
    view, scene = make_case(Options(), size, n, seed=6)
    poses = view.world_to_camera.expand(2, 4, 4).clone()
    poses[1, 0, 3] += 0.1
    weights = torch.randn(2, size[1], size[0], 3, generator=torch.Generator().manual_seed(2)).double()
    for stereo in (False, True):
        grads = []
        for kind, where, name in ((torch.float64, "cpu", "reference"), (torch.float32, device, backend)):
            leaves = [tensor.to(where, kind).clone().requires_grad_() for tensor in scene]
            pose = poses.clone().requires_grad_()
            frame = rasterize(*leaves, pose, view.K, *size, stereo=stereo, backend=name)
            (frame.rgb * weights.to(frame.rgb)).sum().backward()
            grads.append([leaf.grad.cpu().double() for leaf in (*leaves, pose)])
        for name, expected, found in zip((*SCENE, "world_to_camera"), *grads, strict=True):
            error = float((found - expected).norm() / expected.norm())
            assert error <= 1e-2, f"{name}, stereo {stereo}: relative error {error:.2e}"  # cut-offs count here


@pytest.mark.parametrize("backend", FAST)
def test_gradient_agrees_with_finite_differences(devices, backend: str) -> None:
    """Wide splats in a fixed order: no cut-off inside the picture. Within 1 %, for float32 differences are coarse."""
    random = torch.Generator().manual_seed(7)
    inputs = {
        "means": 0.3 * torch.randn(4, 3, generator=random) + torch.tensor((0.1, -0.2, 3.0)),
        "quats": torch.randn(4, 4, generator=random),
        "scales": 1.2 + torch.rand(4, 3, generator=random),
        "opacities": 0.3 + 0.4 * torch.rand(4, generator=random),
        "colors": 0.1 * torch.randn(4, 4, 3, generator=random),
    }
    inputs["means"][:, 2] += 0.3 * torch.arange(4)
    camera = {"world_to_camera": torch.eye(4), "K": torch.tensor([[5.0, 0.0, 3.1], [0.0, 5.5, 2.4], [0.0, 0.0, 1.0]])}
    weights = torch.randn(5, 6, 3, generator=random)

    def loss(values: dict[str, Tensor]) -> Tensor:
        moved = {name: value.to(devices[backend]) for name, value in values.items()}
        frame = rasterize(**moved, **camera, width=6, height=5, backend=backend)
        return (frame.rgb.double().cpu() * weights).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    loss(leaves).backward()
    for name, leaf in leaves.items():
        direction = torch.randn(leaf.shape, generator=random)
        direction = direction / direction.norm()
        step = 0.01 if name != "scales" else 0.03
        ahead, behind = (loss(inputs | {name: inputs[name] + sign * step * direction}) for sign in (1, -1))
        expected = float(ahead - behind) / (2 * step)
        along = float((leaf.grad * direction).sum())
        assert along == pytest.approx(expected, rel=1e-2, abs=2e-4), name


@pytest.mark.parametrize("backend", FAST)
def test_absgrad_sums_what_each_pixel_says(make_case, devices, backend: str) -> None:
    """Against one backward pass a pixel."""
    device, (width, height) = devices[backend], (9, 7)
    view, scene = make_case(Options(), (width, height), 12, seed=3)
    options = Options(absgrad=True)
    leaves = [tensor.to(device).clone().requires_grad_() for tensor in scene]
    frame = rasterize(*leaves, *view, options=options, keep_projected=True, backend=backend)
    frame.projected.means2d.retain_grad()
    frame.rgb.sum().backward()
    expected = torch.zeros(12, 2, dtype=torch.float64)
    total = torch.zeros(12, 2, dtype=torch.float64)
    reference = rasterize(
        *(tensor.double().requires_grad_() for tensor in scene), *view, keep_projected=True, backend="reference"
    )
    for i in range(width * height):
        pixel = reference.rgb.reshape(-1, 3)[i].sum()
        (gradient,) = torch.autograd.grad(pixel, reference.projected.means2d, retain_graph=True)
        expected += gradient.abs()
        total += gradient
    assert float(expected.max()) > 0.01 and not torch.allclose(expected, total.abs())
    torch.testing.assert_close(frame.projected.means2d.absgrad.cpu().double(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(frame.projected.means2d.grad.cpu().double(), total, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", FAST)
def test_gradients_repeat_bit_for_bit(make_case, devices, backend: str) -> None:
    options = Options(deterministic=True)
    size, n = ((70, 40), 200) if backend == "cpu" else ((13, 15), 20)
    view, scene = make_case(options, size, n)
    found = []
    for _ in range(2):
        leaves = [tensor.to(devices[backend]).clone().requires_grad_() for tensor in scene]
        frame = rasterize(*leaves, *view, options=options, backend=backend)
        (frame.rgb.square().sum() + frame.depth.sum()).backward()
        found.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def fit(backend: str, device: str, target: Tensor, views: list, start: list[Tensor]) -> float:
    """PSNR in dB after 200 steps of Adam from `start`, over all views."""
    leaves = [tensor.to(device, torch.float32).clone().requires_grad_() for tensor in start]
    rates = (0.02, 0.02, 0.02, 0.05, 0.05)
    optimizer = torch.optim.Adam([{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates, strict=True)])
    poses, lenses = (torch.stack([view[i] for view in views]) for i in range(2))
    target = target.to(device)

    def render() -> Tensor:
        means, quats, logs, logits, colors = leaves
        scene = means, quats, logs.exp(), logits.sigmoid(), colors
        return rasterize(*scene, poses, lenses, views[0].width, views[0].height, backend=backend).rgb

    for _ in range(200):
        optimizer.zero_grad()
        (render() - target).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return -10 * math.log10(float((render() - target).square().mean()))


@pytest.mark.parametrize("backend", ["cpu", pytest.param("triton", marks=pytest.mark.gpu)], ids=["cpu", "triton"])
def test_a_fit_gets_as_far_as_with_the_reference(make_view, devices, backend: str) -> None:
    random = torch.Generator().manual_seed(5)
    view = make_view(32, 24)
    moved = view.world_to_camera.clone()
    moved[:3, 3] += torch.tensor((0.4, -0.2, 0.1))
    views = [view, view._replace(world_to_camera=moved)]
    camera = torch.rand(40, 3, generator=random) * torch.tensor((2.4, 1.8, 2.0)) + torch.tensor((-1.2, -0.9, 2.0))
    rotation, translation = (part.float() for part in (view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]))
    means = (camera - translation) @ rotation
    made = means, torch.randn(40, 4, generator=random), 0.05 + 0.2 * torch.rand(40, 3, generator=random)
    colors = torch.randn(40, 1, 3, generator=random)
    poses = torch.stack([one.world_to_camera for one in views])
    target = rasterize(*made, torch.full((40,), 0.8), colors, poses, view.K, 32, 24, backend="reference").rgb
    start = [
        means + 0.1 * torch.randn(40, 3, generator=random),
        torch.randn(40, 4, generator=random),
        torch.full((40, 3), math.log(0.15)),
        torch.zeros(40),
        torch.zeros(40, 1, 3),
    ]
    expected = fit("reference", "cpu", target, views, start)
    found = fit(backend, devices[backend], target, views, start)
    print(f"{backend} {found:.2f} dB, reference {expected:.2f} dB")
    assert expected > 22.0
    assert abs(found - expected) <= 0.2
