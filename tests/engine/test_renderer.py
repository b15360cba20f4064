"""`Renderer` beside `render`: the same frames, the same refusals."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.renderer import Renderer, render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.kernels.options import Options

CAMERAS = [look_at((0.3 * i, -0.5, -4.0), (0.0, 0.0, 0.0), width=33, height=21) for i in range(2)]


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(80, 3, generator=rng, dtype=torch.float64),
        quats=torch.randn(80, 4, generator=rng, dtype=torch.float64),
        scales=torch.rand(80, 3, generator=rng, dtype=torch.float64) * 0.3,
        opacities=torch.rand(80, generator=rng, dtype=torch.float64),
        sh=torch.randn(80, 4, 3, generator=rng, dtype=torch.float64) * 0.3,
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_exponents_reach_the_backend(scene: Gaussians, backend: str) -> None:
    """Two splats in the place of each, drawn by halves, are that splat."""
    opaque = dataclasses.replace(scene, opacities=3 * scene.opacities)
    whole, halves = torch.ones(80, dtype=torch.float64), torch.full((160,), 0.5, dtype=torch.float64)
    alone = render(opaque, CAMERAS[0], backend=backend, exponents=whole)
    pairs = render(merge([opaque, opaque]), CAMERAS[0], backend=backend, exponents=halves)
    error = (pairs.alpha - alone.alpha).abs()
    assert float(error.max()) < 0.01 and float(error.mean()) < 1e-4  # a pixel may stop between the two of a pair
    assert float((render(scene, CAMERAS[0], backend=backend).alpha - alone.alpha).abs().max()) > 0.1


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_frames_are_those_of_render(scene: Gaussians, backend: str) -> None:
    renderer = Renderer(scene, backend=backend)
    back = torch.tensor([0.2, 0.4, 0.6])
    frames = renderer.render(CAMERAS, background=back)
    for camera, rgb in zip(CAMERAS, frames.rgb, strict=True):
        alone = render(scene, camera, backend=backend, background=back)
        assert rgb.dtype == alone.rgb.dtype and rgb.std() > 0.05
        torch.testing.assert_close(rgb, alone.rgb)
        torch.testing.assert_close(renderer.render(camera, background=back).rgb, alone.rgb)
    each = renderer.render(CAMERAS, background=torch.stack((back, 1 - back)))
    torch.testing.assert_close(each.rgb[0], frames.rgb[0])
    assert not torch.allclose(each.rgb[1], frames.rgb[1])


@pytest.mark.parametrize(
    ("back", "told"),
    [
        (torch.tensor([0.0, math.nan, 0.0]), "NaN or infinity"),
        (torch.rand(1), "background is"),
        (torch.rand(3, 3), "background is"),
        ([0.0, 0.0, 0.0], "background is list"),
    ],
)
def test_backgrounds_that_render_refuses_are_refused(scene: Gaussians, back: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Renderer(scene, backend="cpu").render(CAMERAS, background=back)
    with pytest.raises(ValueError, match=told):
        render(scene, CAMERAS[0], backend="cpu", background=back)


def test_other_refusals(scene: Gaussians) -> None:
    with pytest.raises(ValueError, match="options is a dict"):
        Renderer(scene, backend="cpu", options={})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one size"):
        Renderer(scene, backend="cpu").render([CAMERAS[0], CAMERAS[1].resized(8, 8)])
    with pytest.raises(InputError, match="one size"):
        Renderer(scene, backend="cpu").render([])
    with pytest.raises(ValueError, match="pairs of eyes"):
        Renderer(scene, backend="cpu", stereo=True).render(CAMERAS[0])


def test_sizes_may_change_from_frame_to_frame(scene: Gaussians) -> None:
    renderer = Renderer(scene, backend="cpu", options=Options(depth=False))
    for camera in (CAMERAS[0], CAMERAS[0].resized(50, 40), CAMERAS[0]):
        assert isinstance(camera, Camera)
        frame = renderer.render(camera)
        assert frame.depth is None
        torch.testing.assert_close(frame.rgb, render(scene, camera, backend="cpu").rgb)
