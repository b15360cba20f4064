"""How many kernels a frame launches, and that the host waits for none of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from lyra.engine import renderer as rendering
from lyra.engine.renderer import Renderer
from lyra.engine.scene.camera import Camera
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.gpu.composite import CHUNK
from lyra.kernels.lod import cut, gather
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="counts launches in Triton's interpreter")

# What asks a tensor for its values, and so would wait for a GPU: `.item()`, `int()`, `bool()`, sizes found in data.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique2", "aten::equal"}


class Waits(TorchDispatchMode):
    """Counts the operators that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.name().partition(".")[0] in WAITS
        return function(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[tuple[Counter, Waits]]:
    """Launches by kernel, and waits outside of kernels: the interpreter reads its tensors as it likes."""
    from triton.runtime import interpreter

    found: Counter = Counter()
    run, waits = interpreter.InterpretedFunction.run, Waits()

    def counted(kernel, *arguments, **options):
        found[kernel.fn.__name__] += 1
        before = waits.count
        answer = run(kernel, *arguments, **options)
        waits.count = before
        return answer

    interpreter.InterpretedFunction.run = counted
    try:
        with waits:
            yield found, waits
    finally:
        interpreter.InterpretedFunction.run = run


def as_camera(view) -> Camera:
    fx, fy, cx, cy = (float(view.K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Camera(view.world_to_camera, fx, fy, cx, cy, view.width, view.height)


@interpreted
@pytest.mark.parametrize("kind", ["mono", "stereo", "half"])
def test_a_frame_of_a_renderer_waits_for_nothing(make_view, make_scene, monkeypatch, kind: str) -> None:
    monkeypatch.setattr(rendering._Frame, "FIRST", CHUNK)  # programs for all of the room, in the interpreter
    view = make_view(9, 7)
    options = Options(precision="half" if kind == "half" else "parity")
    renderer = Renderer(Gaussians(*make_scene(view, 12, 1)), backend="triton", options=options, stereo=kind == "stereo")
    cameras = [as_camera(view)] * 2 if kind == "stereo" else as_camera(view)
    renderer._frames.clear()
    first = renderer.render(cameras)
    frame = next(iter(renderer._frames.values()))
    with counting() as (launches, waits):
        again = frame.draw(renderer.drawn, frame.rows.clone(), frame.background.clone(), lambda name: torch.no_grad())
    assert waits.count == 0
    expected = ["project_kernel", "count_kernel", "emit_kernel", "mask_kernel", "blend_kernel", "composite_kernel"]
    assert launches == Counter(expected + ["pack_kernel"] * (kind == "half"))
    assert torch.equal(again.rgb.reshape(first.rgb.shape), first.rgb)


@interpreted
def test_without_a_capacity_a_frame_waits_once(make_view, make_scene) -> None:
    view = make_view(9, 7)
    scene = make_scene(view, 12, 1)
    rasterize(*scene, *view, backend="triton")
    with counting() as (launches, waits):
        rasterize(*scene, *view, backend="triton")
    assert waits.count == 1
    assert sum(launches.values()) == 5


@interpreted
def test_waiting_is_noticed() -> None:
    with counting() as (_, waits):
        assert int(torch.ones(3).sum()) == 3
        assert len(torch.ones(3).nonzero()) == 3
    assert waits.count == 2


@interpreted
def test_a_frame_without_room_is_right_and_the_next_finds_room(make_view, make_scene, monkeypatch) -> None:
    view = make_view(66, 9)
    scene = make_scene(view, 20, 1)
    expected = rasterize(*scene, *view, backend="triton")
    monkeypatch.setattr(rendering._Frame, "FIRST", 7)
    renderer = Renderer(Gaussians(*scene), backend="triton")
    first = renderer.render(as_camera(view))
    wanted = int(first.counts.pairs)
    assert wanted > 7
    torch.testing.assert_close(first.rgb, expected.rgb, rtol=0, atol=1e-6)
    torch.testing.assert_close(first.depth, expected.depth, rtol=1e-5, atol=1e-6)
    second = renderer.render(as_camera(view))
    assert next(iter(renderer._frames.values())).capacity == int(1.5 * wanted)
    torch.testing.assert_close(second.rgb, expected.rgb, rtol=0, atol=1e-6)


@interpreted
@pytest.mark.parametrize("kept", [False, True])
def test_a_cut_waits_for_nothing(lod_trees: ModuleType, kept: bool) -> None:
    nodes, roots = lod_trees.forest([lod_trees.random_tree(300, 0)])
    options = {"budget": 60, "near": 0.1, "gaze": lod_trees.random_gaze(1), "backend": "triton"}
    last = cut(nodes, roots, torch.zeros(3), **options).threshold if kept else None
    with counting() as (launches, waits):
        found = cut(nodes, roots, torch.zeros(3), previous=last, **options)
        gather(nodes, found.ids, found.exponents, backend="triton")
    assert waits.count == 0
    digits = {"split_kernel": 5, "choose_kernel": 6, "count_drawn_kernel": 1, "write_drawn_kernel": 1}
    gathers = {"gather_nodes_kernel": 1, "gather_colors_kernel": 1}
    assert launches == Counter({"read_kernel": 1 + kept, "settle_kernel": int(kept), **digits, **gathers})
