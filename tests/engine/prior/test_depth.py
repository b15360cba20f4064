"""Depth in a picture's own pixels: upsampled along colours, read from files, told by an ONNX model, aligned."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from lyra.engine.errors import InputError
from lyra.engine.prior.data.resampling import area
from lyra.engine.prior.generation.depth import aligned, completed, fitted, guided, read_depth
from lyra.engine.prior.generation.depth_models import DEVIATION, MEAN, model_depth


@pytest.fixture(scope="module")
def disc() -> tuple[Tensor, Tensor]:
    """A bright disc at inverse depth 2 before a dark ground at 0.5: picture [3, 128, 192] and inverse depth."""
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(192) + 0.5, indexing="ij")
    inside = (x - 90).square() + (y - 60).square() < 40**2
    noise = 0.02 * torch.randn(3, 128, 192, generator=torch.Generator().manual_seed(0))
    picture = torch.where(inside, torch.tensor([0.8, 0.6, 0.3]).view(3, 1, 1), torch.tensor(0.2)) + noise
    return picture, torch.where(inside, 2.0, 0.5)


def lowered(x: Tensor, size: tuple[int, int] = (24, 16)) -> Tensor:
    return area(x, (0.0, 0.0, float(x.shape[-1]), float(x.shape[-2])), size)


def test_guided_upsampling_beats_bilinear_at_edges(disc: tuple[Tensor, Tensor]) -> None:
    picture, inverse = disc
    low = lowered(inverse)
    found = guided(low, torch.ones_like(low), lowered(picture), picture)
    plain = interpolate(low[None, None], (128, 192), mode="bilinear")[0, 0]
    errors = [(x - inverse).abs() for x in (found, plain)]
    assert float(errors[0].mean()) < 0.4 * float(errors[1].mean())
    between = [((x > 0.7) & (x < 1.8)).float().mean() for x in (found, plain)]
    assert between[0] < 0.3 * between[1]  # of depths that are on no surface
    assert float(found.min()) >= float(low.min()) - 1e-5 and float(found.max()) <= float(low.max()) + 1e-5


def test_guided_upsampling_is_what_its_formula_says(disc: tuple[Tensor, Tensor]) -> None:
    """Pixel by pixel, in plain Python."""
    from lyra.engine.prior.generation.depth import ALIKE, NEAR, REACH

    picture, inverse = disc[0][:, 40:80, 60:100], disc[1][40:80, 60:100]
    low, values = lowered(picture, (8, 5)), lowered(inverse, (8, 5))
    found = guided(values, torch.ones(5, 8), low, picture)
    for row, column in ((0, 0), (13, 21), (39, 39), (20, 5)):
        y, x = (row + 0.5) * 5 / 40 - 0.5, (column + 0.5) * 8 / 40 - 0.5
        total = weights = 0.0
        for i in range(round(y) - REACH, round(y) + REACH + 1):
            for j in range(round(x) - REACH, round(x) + REACH + 1):
                k, m = min(max(i, 0), 4), min(max(j, 0), 7)
                unlike = float((low[:, k, m] - picture[:, row, column]).square().sum())
                near = ((i - y) ** 2 + (j - x) ** 2) / NEAR**2
                weight = np.exp(-0.5 * near) * (np.exp(-0.5 * unlike / ALIKE**2) + 1e-6)
                total, weights = total + weight * float(values[k, m]), weights + weight
        assert float(found[row, column]) == pytest.approx(total / weights, rel=1e-4)


def test_unknown_values_are_not_mixed_in(disc: tuple[Tensor, Tensor]) -> None:
    picture, inverse = disc
    known = torch.ones(16, 24)
    known[:8] = 0
    low = torch.where(known > 0, lowered(inverse), 99.0)
    found = guided(low, known, lowered(picture), picture)
    assert bool(found[:48].isnan().all()) and float(found[72:].max()) <= 2.0


def test_depth_is_resized_without_new_depths(disc: tuple[Tensor, Tensor]) -> None:
    picture, inverse = disc
    finer = (1 / inverse).repeat_interleave(3, 0).repeat_interleave(3, 1)
    torch.testing.assert_close(fitted(finer, picture), 1 / inverse)
    coarse = (1 / inverse)[::4, ::4]
    error = (1 / fitted(coarse, picture) - inverse).abs()
    assert float((error > 0.1).float().mean()) < 0.02
    holes = coarse.clone()
    holes[:16] = 0
    assert not bool(fitted(holes, picture)[:50].any())


def test_holes_take_the_guess_in_its_own_unit() -> None:
    guess = torch.linspace(1, 2, 100).view(10, 10)
    depth = 7 * guess
    depth[3:6] = 0
    torch.testing.assert_close(completed(depth, guess), 7 * guess)


def test_alignment_survives_outliers_and_contradiction() -> None:
    random = torch.Generator().manual_seed(0)
    relative = torch.rand(1000, generator=random)
    wanted = 0.7 * relative + 0.2
    inverse = wanted + 0.005 * torch.randn(1000, generator=random)
    inverse[:250] = 3 * torch.rand(250, generator=random)
    slope, offset = aligned(relative, inverse, torch.ones(1000))
    assert slope == pytest.approx(0.7, abs=0.02) and offset == pytest.approx(0.2, abs=0.02)
    weights = torch.ones(1000)
    weights[:250] = 0
    assert aligned(relative, inverse, weights)[0] == pytest.approx(0.7, abs=0.005)
    slope, offset = aligned(relative, 1 - wanted, torch.ones(1000))
    assert slope == pytest.approx(0.7, rel=1e-2)
    assert slope * float(relative.median()) + offset == pytest.approx(float((1 - wanted).median()))


def test_files_of_depth(tmp_path: Path) -> None:
    z = np.array([[1.0, np.nan, 2.0], [0.0, np.inf, -3.0]])
    np.save(tmp_path / "z.npy", z[..., None])
    assert read_depth(tmp_path / "z.npy", 2.0).tolist() == [[2, 0, 4], [0, 0, 0]]
    Image.fromarray(np.array([[1000, 0], [65535, 1]], np.uint16)).save(tmp_path / "z.png")
    torch.testing.assert_close(read_depth(tmp_path / "z.png", 1e-3), torch.tensor([[1.0, 0], [65.535, 0.001]]))


def test_what_is_no_depth_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((4, 4)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "volume.npy", np.ones((4, 4, 4)))
    np.save(tmp_path / "good.npy", np.ones((4, 4)))
    (tmp_path / "text.npy").write_text("hello")
    Image.new("RGB", (8, 8)).save(tmp_path / "rgb.png")
    for name, told in (
        ("zeros.npy", "knows no depth"),
        ("objects.npy", "is no depth"),
        ("volume.npy", r"float64 \[4, 4, 4\]"),
        ("text.npy", "is no depth"),
        ("rgb.png", "holds RGB"),
        ("none.npy", "no such file"),
    ):
        with pytest.raises(InputError, match=told):
            read_depth(tmp_path / name, 1.0)
    with pytest.raises(InputError, match="depth-scale"):
        read_depth(tmp_path / "good.npy", 0.0)


@pytest.fixture
def onnx_model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model that tells the mean of the three normalised channels, [1, h, w]."""

    def write(shape: list[int | str], name: str = "model.onnx", outputs: int = 3) -> Path:
        given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
        told = helper.make_tensor_value_info("depth", TensorProto.FLOAT, None)
        axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
        node = helper.make_node("ReduceMean", ["pixels", "axes"], ["depth"], keepdims=0 if outputs == 3 else 1)
        graph = helper.make_graph([node], "mean", [given], [told], [axes])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 10
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


def test_a_model_gets_normalised_pixels_of_its_size(onnx_model, tmp_path: Path) -> None:
    rgb = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1).expand(3, 40, 60)
    wanted = float(((rgb[:, 0, 0] - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).mean())
    (tmp_path / "folder").mkdir()
    for name, given, outputs, shape in (
        ("fixed.onnx", [1, 3, 28, 42], 3, [28, 42]),
        ("free.onnx", [1, 3, "h", "w"], 4, [518, 784]),
        ("folder/model.onnx", [1, 3, "h", 70], 3, [518, 70]),
    ):
        path = onnx_model(given, name, outputs)
        found = model_depth(path.parent if path.parent != tmp_path else path, rgb)
        assert list(found.shape) == shape
        torch.testing.assert_close(found, torch.full(found.shape, wanted), rtol=1e-4, atol=1e-5)


def test_what_is_no_depth_model_is_refused(onnx_model, tmp_path: Path) -> None:
    rgb = torch.zeros(3, 20, 20)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    onnx_model([1, 4, 8, 8], "four.onnx")
    for name, told in (
        ("empty", "holds 0 .onnx files"),
        ("", "holds 2 .onnx files"),
        ("broken.onnx", "is no ONNX model"),
        ("four.onnx", "takes pixels"),
        ("absent.onnx", "no such file"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            model_depth(tmp_path / name, rgb)
        assert "\n" not in str(caught.value)
