"""What does not fit is refused at the door: behind it, kernels index memory without looking."""

import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels.backends import BACKENDS
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

N = 100


def arguments(**changes: object) -> dict[str, object]:
    random = torch.Generator().manual_seed(0)
    return {
        "means": torch.rand(N, 3, generator=random) - 0.5,
        "quats": torch.randn(N, 4, generator=random),
        "scales": torch.rand(N, 3, generator=random) * 0.05 + 0.01,
        "opacities": torch.rand(N, generator=random),
        "colors": torch.randn(N, 4, 3, generator=random),
        "world_to_camera": torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]),
        "K": torch.tensor([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]),
        "width": 32,
        "height": 24,
        **changes,
    }


def few(n: int, **changes: object) -> dict[str, object]:
    """The first splats in a small picture."""
    given = arguments(width=16, height=8, K=torch.tensor([[15.0, 0, 8], [0, 15, 4], [0, 0, 1]]))
    first = {name: value[:n] for name, value in given.items() if isinstance(value, Tensor) and len(value) == N}
    return {**given, **first, **changes}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("opacities", torch.rand(10 * N)),
        ("opacities", torch.rand(N // 10)),
        ("opacities", torch.rand(N, 1)),
        ("means", torch.rand(N, 2)),
        ("means", torch.rand(N, 3).numpy()),
        ("quats", torch.rand(N, 3)),
        ("quats", torch.rand(1, 4)),
        ("scales", torch.rand(N, 1)),
        ("scales", torch.rand(N, 3).double()),
        ("scales", torch.ones(N, 3, dtype=torch.int32)),
        ("colors", torch.rand(2, 4, 3)),
        ("colors", torch.rand(N, 0, 3)),
        ("colors", torch.rand(N, 5, 3)),
        ("colors", torch.rand(N, 25, 3)),
        ("colors", torch.rand(N, 4, 1)),
        ("colors", torch.rand(N, 4)),
        ("background", torch.rand(1)),
        ("background", torch.rand(2)),
        ("background", torch.tensor(0.5)),
        ("background", [0.0, 0.0, 0.0]),
        ("background", torch.tensor([0.0, math.nan, 0.0])),
        ("K", torch.eye(2)),
        ("K", torch.zeros(3, 3)),
        ("K", torch.tensor([[-30.0, 0, 16], [0, 30, 12], [0, 0, 1]])),
        ("world_to_camera", torch.eye(3)),
        ("world_to_camera", torch.full((4, 4), math.nan)),
        ("width", 0),
        ("width", 64.0),
        ("width", True),
        ("world_to_camera", torch.eye(4).expand(0, 4, 4)),
        ("means", torch.rand(0, N, 3)),
        ("height", 16385),
        ("height", -3),
        ("backend", "vulkan"),
    ],
)
def test_what_does_not_fit_is_named(backend: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        rasterize(**arguments(**{"backend": backend, name: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_number_of_splats_is_that_of_the_means(backend: str) -> None:
    with pytest.raises(ValueError, match=r"quats has shape \[100, 4\], expected \[1000, 4\]"):
        rasterize(**arguments(means=torch.rand(10 * N, 3), backend=backend))  # type: ignore[arg-type]


def test_a_scene_on_the_wrong_device_is_refused() -> None:
    away = arguments(backend="cpu")
    for name in ("means", "quats", "scales", "opacities", "colors"):
        tensor = away[name]
        assert isinstance(tensor, Tensor)
        away[name] = tensor.to("meta")
    with pytest.raises(ValueError, match="'cpu' cannot read a scene on meta"):
        rasterize(**away)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["means", "colors", "world_to_camera", "K", "background"])
def test_gradients_are_not_lost_in_silence(backend: str, name: str) -> None:
    wanted = arguments(background=torch.rand(3))
    tensor = wanted[name]
    assert isinstance(tensor, Tensor)
    tensor.requires_grad_()
    with torch.no_grad():
        assert not rasterize(**wanted, backend=backend).rgb.requires_grad  # type: ignore[arg-type]
    rasterize(**wanted, backend=backend).rgb.sum().backward()  # type: ignore[arg-type]
    assert tensor.grad is not None
    assert torch.isfinite(tensor.grad).all() and tensor.grad.any()


@pytest.mark.parametrize("name", ["means", "world_to_camera", "background", "features"])
def test_gradients_and_a_capacity_exclude_each_other(name: str) -> None:
    wanted = arguments(backend="triton", capacity=1000, background=torch.rand(3), features=torch.rand(N, 2))
    tensor = wanted[name]
    assert isinstance(tensor, Tensor)
    with pytest.raises(ValueError, match="capacity is 1000, expected None where gradients are wanted"):
        rasterize(**(wanted | {name: tensor.requires_grad_()}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("features", torch.rand(N), r"features has shape \[100\], expected \[100\] and a number of channels"),
        ("features", torch.rand(3, N, 2), r"features has shape \[3, 100, 2\], expected \[1, n, N\] at its end"),
        ("mask", torch.ones(24, 32), "mask is torch.float32"),
        ("mask", torch.ones(32, 24, dtype=torch.bool), r"mask is \[32, 24\]"),
        ("stereo", True, "1 views, expected pairs of eyes"),
        ("options", {"lens": "fisheye"}, "options is .*, expected lyra.kernels.options.Options"),
        ("world_to_camera", torch.eye(4).expand(2, 3, 4, 4), r"world_to_camera has shape \[2, 3, 4, 4\]"),
        ("K", torch.eye(3).expand(2, 3, 3), r"K is \[2, 3, 3\]"),
    ],
)
def test_what_does_not_fit_the_views_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rasterize(**arguments(**{name: value}), backend="reference")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_scene_is_the_background(backend: str) -> None:
    empty = {name: torch.zeros(0, *shape) for name, shape in (("means", (3,)), ("quats", (4,)), ("scales", (3,)))}
    color = torch.tensor([0.1, 0.2, 0.3])
    nothing = arguments(**empty, opacities=torch.zeros(0), colors=torch.zeros(0, 1, 3), background=color)
    frame = rasterize(**nothing, backend=backend)  # type: ignore[arg-type]
    torch.testing.assert_close(frame.rgb, color.expand(24, 32, 3))
    assert frame.alpha.abs().max() == 0
    assert frame.depth.abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_and_double_tensors_give_the_same_frame(backend: str) -> None:
    plain = arguments(backend=backend)
    expected = rasterize(**plain)  # type: ignore[arg-type]
    strided = dict(plain)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        tensor = plain[name]
        assert isinstance(tensor, Tensor)
        strided[name] = torch.stack((tensor, torch.full_like(tensor, math.nan)), dim=-1)[..., 0]
        assert not strided[name].is_contiguous()  # type: ignore[attr-defined]
    torch.testing.assert_close(rasterize(**strided).rgb, expected.rgb, rtol=0, atol=0)  # type: ignore[arg-type]
    double = {name: value.double() if isinstance(value, Tensor) else value for name, value in plain.items()}
    torch.testing.assert_close(rasterize(**double).rgb.float(), expected.rgb, rtol=0, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which stands in for the GPU in Triton's interpreter
@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("size", [1e6, 1e12, 1.28e17, 1e25, 1e37])
def test_a_needle_of_absurd_size_stays_inside_the_buffers(backend: str, size: float) -> None:
    """Its edges, in pixels, are beyond what an integer holds."""
    half = math.atan2(2, 1) / 2
    scene = {
        "means": torch.tensor([[1.5 * size, 1.5 * size, 1.0]]),
        "quats": torch.tensor([[math.cos(half), 0, 0, math.sin(half)]]),
        "scales": torch.tensor([[size, 1e-5, 1e-5]]),
        "opacities": torch.tensor([0.99]),
        "colors": torch.ones(1, 1, 3),
    }
    lens = torch.tensor([[100.0, 0, 16], [0, 100, 12], [0, 0, 1]])
    frame = rasterize(**scene, world_to_camera=torch.eye(4), K=lens, width=32, height=24, backend=backend)
    assert torch.isfinite(frame.rgb).all()
    assert frame.rgb.abs().max() < 10


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize(("size", "length"), [(1e9, 1.0), (50.0, 1e-15), (50.0, 1e15)])
def test_what_the_conventions_call_safe_is_drawn(backend: str, size: float, length: float) -> None:
    """Standard deviations in pixels, and lengths of quaternions."""
    scene = {
        "means": torch.tensor([[0.0, 0.0, 1.0]]),
        "quats": torch.tensor([[0.9, 0.1, 0.3, 0.2]]) * length,
        "scales": torch.tensor([[size / 100, size / 130, size / 170]]),
        "opacities": torch.tensor([0.7]),
        "colors": torch.ones(1, 1, 3),
    }
    view = {"world_to_camera": torch.eye(4), "K": torch.tensor([[100.0, 0, 16], [0, 100, 12], [0, 0, 1]])}
    frame = rasterize(**scene, **view, width=32, height=24, backend=backend)
    exact = {name: tensor.double() for name, tensor in (scene | view).items()}
    expected = rasterize(**exact, width=32, height=24, backend="reference")  # type: ignore[arg-type]
    assert expected.alpha.min() > 0.1
    torch.testing.assert_close(frame.rgb.double(), expected.rgb, rtol=0, atol=1e-5)


def test_frames_of_several_threads_are_those_of_one() -> None:
    expected = rasterize(**arguments(backend="cpu")).rgb  # type: ignore[arg-type]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.equal(rasterize(**arguments(backend="cpu")).rgb, expected):  # type: ignore[arg-type]
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


FORKED = """
import os, sys, torch
from lyra.kernels.rasterize import rasterize
def frame():
    one, pose, lens = torch.ones(1, 3), torch.eye(4), torch.tensor([[30.0, 0, 8], [0, 30, 8], [0, 0, 1]])
    scene = one * torch.tensor([0.0, 0, 3]), torch.ones(1, 4), one * 0.1, torch.ones(1), torch.ones(1, 1, 3)
    return rasterize(*scene, pose, lens, 16, 16, backend="cpu").rgb.sum()
if sys.argv[1] == "used":
    frame()
child = os.fork()
if child == 0:
    try:
        os._exit(0 if frame() > 0 else 3)
    except RuntimeError as error:
        os._exit(7 if "spawn" in str(error) else 4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("parent", ["used", "fresh"])
def test_a_forked_child_renders_or_says_why_not(parent: str) -> None:
    """In GNU OpenMP's own way it would be killed, and a pool of such children would hang."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, parent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in ((0, 7) if parent == "used" else (0,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes_of_any_integer_kind(backend: str) -> None:
    plain = rasterize(**arguments(backend=backend))  # type: ignore[arg-type]
    other = rasterize(**arguments(backend=backend, width=torch.tensor(32), height=np.int16(24)))  # type: ignore[arg-type]
    assert torch.equal(plain.rgb, other.rgb)


@pytest.mark.parametrize("backend", BACKENDS)
def test_eyes_that_look_apart_are_refused(backend: str) -> None:
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="opposite directions"):
        rasterize(**arguments(backend=backend, world_to_camera=torch.stack((torch.eye(4), back)), stereo=True))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow", "ignore:divide by zero")  # in the interpreter
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_is_culled_and_leaves_gradients_alone(backend: str) -> None:
    given = few(24, backend=backend, options=Options(normals=True))
    for i, (name, value) in enumerate(
        [
            ("means", math.nan), ("means", -math.inf), ("quats", math.nan), ("quats", math.inf), ("quats", 0.0),
            ("scales", math.nan), ("scales", math.inf), ("opacities", math.nan), ("opacities", math.inf),
        ]
    ):  # fmt: skip
        tensor = given[name]
        assert isinstance(tensor, Tensor)
        tensor[i] = value
    names = ("means", "quats", "scales", "opacities", "colors", "world_to_camera", "K")
    grads = {}
    for count in (0, 9):  # with the bad splats, and without
        leaves = {
            name: (tensor[count:] if len(tensor) == 24 else tensor).clone().requires_grad_()
            for name, tensor in given.items()
            if isinstance(tensor, Tensor)
        }
        frame = rasterize(**{**given, **leaves})  # type: ignore[arg-type]
        (frame.rgb.square().sum() + frame.normals.square().sum() + frame.alpha.sum()).backward()
        grads[count] = {name: leaves[name].grad for name in names}
    for name in names:
        with_them, without = grads[0][name], grads[9][name]
        if len(with_them) == 24:
            assert not with_them[:9].any()
            with_them = with_them[9:]
        torch.testing.assert_close(with_them, without, rtol=1e-4, atol=1e-5)
    assert grads[0]["world_to_camera"].abs().max() > 0


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_a_second_derivative_is_refused_and_never_lost(backend: str) -> None:
    features = torch.rand(5, 2, requires_grad=True)
    frame = rasterize(**few(5, backend=backend, features=features))  # type: ignore[arg-type]
    (first,) = torch.autograd.grad(frame.features.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
