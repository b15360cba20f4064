"""What only a GPU can show: frames and gradients of real size, golden frames, no waiting, one graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.engine.formats.registry import load
from lyra.engine.renderer import Renderer, render
from lyra.engine.scene.camera import Camera, load_cameras
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

pytestmark = pytest.mark.gpu
SCENES = {"donut": "scenes/donut.ply", "guitar": "scenes/guitar.compressed.ply", "train-1000": "scenes/train-1000.ply"}


def as_camera(view) -> Camera:
    fx, fy, cx, cy = (float(view.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Camera(view.world_to_camera, fx, fy, cx, cy, view.width, view.height)


@pytest.mark.parametrize("camera", range(3))
@pytest.mark.parametrize("name", SCENES)
def test_golden_frame(shared: Path, psnr, name: str, camera: int) -> None:
    view = load_cameras(shared / "golden" / f"{name}.json")[camera]
    frame = render(load(shared / SCENES[name]).to("cuda"), view, backend="triton")
    with np.load(shared / "golden" / f"{name}.npz") as arrays:
        rgb, alpha, depth = (torch.from_numpy(arrays[f"{key}_{camera}"]).double() for key in ("rgb", "alpha", "depth"))
    assert psnr(frame.rgb.cpu(), rgb) >= 60.0 and psnr(frame.alpha.cpu(), alpha) >= 60.0
    seen = alpha > 0.5
    torch.testing.assert_close(frame.depth.cpu().double()[seen], depth[seen], rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("precision, least", [("parity", 60.0), ("fast", 60.0), ("half", 45.0)])
def test_large_scene_agrees_with_the_cpu(make_view, make_scene, psnr, precision: str, least: float) -> None:
    view, options = make_view(640, 360), Options(precision=precision)  # type: ignore[arg-type]
    scene = make_scene(view, 20_000, 16)
    frame = rasterize(*scene.to("cuda"), *view, options=options, backend="triton")
    again = rasterize(*scene.to("cuda"), *view, options=options, backend="triton")
    expected = rasterize(*scene, *view, backend="cpu")
    assert psnr(frame.rgb.cpu(), expected.rgb) >= least and psnr(frame.alpha.cpu(), expected.alpha) >= least
    assert torch.equal(frame.rgb, again.rgb) and torch.equal(frame.depth, again.depth)


def test_gradients_of_a_large_scene_agree_with_the_cpu(make_view, make_scene) -> None:
    view = make_view(640, 360)
    scene = make_scene(view, 20_000, 16)
    grads = []
    for device, backend in (("cuda", "triton"), ("cpu", "cpu")):
        leaves = [tensor.to(device).clone().requires_grad_() for tensor in scene]
        frame = rasterize(*leaves, *view, backend=backend)
        (frame.rgb.square().sum() + frame.alpha.sum()).backward()
        grads.append([leaf.grad.cpu() for leaf in leaves])
    for name, ours, theirs in zip(("means", "quats", "scales", "opacities", "colors"), *grads, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) <= 1e-2, name


def test_a_renderer_waits_for_nothing_and_repeats_the_frame(make_view, make_scene) -> None:
    view = make_view(640, 360)
    scene = make_scene(view, 20_000, 16)
    expected = rasterize(*scene.to("cuda"), *view, backend="triton")
    renderer = Renderer(Gaussians(*scene), backend="triton")
    camera = as_camera(view)
    first = renderer.render(camera).rgb.clone()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            frame = renderer.render(camera)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, expected.rgb) and torch.equal(frame.rgb, expected.rgb)


def test_a_renderer_without_room_is_right_and_grows(make_view, make_scene) -> None:
    view = make_view(640, 360)
    scene = make_scene(view, 20_000, 4)
    expected = rasterize(*scene.to("cuda"), *view, backend="triton").rgb
    tight = rasterize(*scene.to("cuda"), *view, capacity=1000, backend="triton")
    assert int(tight.counts.pairs) > 1000
    torch.testing.assert_close(tight.rgb, expected, rtol=0, atol=1e-5)
