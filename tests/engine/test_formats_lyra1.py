"""The tensor that Lyra-1 saves: its columns against a scene taken apart here, and what must not be opened."""

import os
import random
import zipfile
from pathlib import Path

import pytest
import torch

from lyra.engine.commands.convert import command as convert
from lyra.engine.formats.registry import about, load, recognise

C0 = 0.28209479177387814


def rows(n: int = 7) -> torch.Tensor:
    """[1, n, 14] as the decoder's activations leave them."""
    rng = torch.Generator().manual_seed(n)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=-1)
    means, rest = torch.randn(n, 3, generator=rng), torch.rand(n, 7, generator=rng) * 0.3
    return torch.cat((means, rest[:, :4], quats, rest[:, 4:]), 1)[None]


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns(tmp_path: Path, dtype: torch.dtype) -> None:
    saved, path = rows().to(dtype), tmp_path / "gaussians_0.ply"
    torch.save(saved, path)
    scene, wide = load(path), saved[0].float()
    assert recognise(path).name == about(path).kind == "tensor of Lyra-1" and about(path).splats == len(scene) == 7
    assert torch.equal(scene.means, wide[:, :3]) and torch.equal(scene.opacities, wide[:, 3])
    assert torch.equal(scene.scales, wide[:, 4:7]) and torch.equal(scene.quats, wide[:, 7:11])
    assert scene.sh_degree == 0
    torch.testing.assert_close(scene.sh[:, 0] * C0 + 0.5, wide[:, 11:])


def test_convert(tmp_path: Path) -> None:
    torch.save(rows()[0], tmp_path / "gaussians_0.ply")  # without the batch
    convert([str(tmp_path / "gaussians_0.ply"), str(tmp_path / "scene.ply")])
    before, after = load(tmp_path / "gaussians_0.ply"), load(tmp_path / "scene.ply")
    for name, tensor in before.tensors().items():
        torch.testing.assert_close(after.tensors()[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modern", [True, False])
def test_nothing_runs(tmp_path: Path, refused, modern: bool) -> None:
    path, target = tmp_path / "gaussians_0.ply", tmp_path / "ran"
    torch.save({"gaussians": Trap(target)}, path, _use_new_zipfile_serialization=modern)
    refused(path, "may run code" if modern else "before 1.6")
    assert not target.exists()
    torch.load(path, weights_only=False)  # the trap does work
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (rows()[..., :13], r"\[1, 7, 13\], expected"),
        (rows().expand(2, 7, 14).contiguous(), r"\[2, 7, 14\], expected"),
        (rows()[:, :0], r"\[1, 0, 14\], expected"),
        (rows().int(), "int32"),
        (rows()[0].to_sparse(), "sparse"),
        (torch.rand(1, 1, 14).expand(1, 10**9, 14), "not contiguous"),
        ({"means": rows()}, "holds a dict"),
    ],
)
def test_other_content(tmp_path: Path, refused, content, pattern: str) -> None:
    torch.save(content, tmp_path / "gaussians_0.ply")
    refused(tmp_path / "gaussians_0.ply", pattern)


def test_compressed_parts(tmp_path: Path, refused) -> None:
    torch.save(torch.zeros(1, 100_000, 14), tmp_path / "whole.ply")
    with (
        zipfile.ZipFile(tmp_path / "whole.ply") as whole,
        zipfile.ZipFile(tmp_path / "small.ply", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    refused(tmp_path / "small.ply", "compressed")


def test_damage(tmp_path: Path, survives) -> None:
    path = tmp_path / "gaussians_0.ply"
    torch.save(rows(70), path)
    loaded, failed = survives(path, random.Random(3).randrange(99))
    assert loaded > 5 and failed > 5
