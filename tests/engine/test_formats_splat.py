""".splat: rows packed here one by one, what comes back, what is written, and what is refused."""

import math
import random
import struct
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians

C0 = 0.28209479177387814


def made(n: int, seed: int = 1) -> list[tuple]:
    """Rows: six floats, then eight bytes."""
    rng = random.Random(seed)
    floats = [[struct.unpack("<f", struct.pack("<f", rng.uniform(0, 9)))[0] for _ in range(6)] for _ in range(n)]
    return [(*floats[i], *rng.randbytes(4), rng.randrange(129, 256), *rng.randbytes(3)) for i in range(n)]


def packed(rows: list[tuple]) -> bytes:
    return b"".join(struct.pack("<6f8B", *row) for row in rows)


def random_scene(n: int, k: int = 1, dtype: torch.dtype = torch.float32) -> Gaussians:
    generator = torch.Generator().manual_seed(n + k)
    numbers = torch.randn(n, 11 + 3 * k, generator=generator, dtype=torch.float64).to(dtype)
    means, quats, scales, opacities, sh = numbers.split([3, 4, 3, 1, 3 * k], dim=1)
    return Gaussians(means, quats, scales.exp(), opacities[:, 0].sigmoid(), sh.reshape(n, k, 3) / 2)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 3000])
def test_every_field(tmp_path: Path, n: int) -> None:
    rows = made(n)
    (tmp_path / "scene.splat").write_bytes(packed(rows))
    scene = load(tmp_path / "scene.splat")
    assert (len(scene), scene.sh_degree, about(tmp_path / "scene.splat").splats) == (n, 0, n)
    for tensor in scene.tensors().values():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        tensor.add_(0)  # the caller's own, no view of the file
    for i, row in enumerate(rows):
        assert scene.means[i].tolist() == list(row[:3])
        assert scene.scales[i].tolist() == list(row[3:6])
        assert scene.sh[i, 0].tolist() == pytest.approx([(u / 255 - 0.5) / C0 for u in row[6:9]], abs=1e-6)
        assert float(scene.opacities[i]) == pytest.approx(row[9] / 255, abs=1e-7)
        assert scene.quats[i].tolist() == [(u - 128) / 128 for u in row[10:]]


def colors(path: Path) -> list[tuple]:
    return [row[6:10] for row in struct.iter_unpack("<6f8B", path.read_bytes())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("n", [1, 257, 3000])
def test_round_trip(tmp_path: Path, n: int, dtype: torch.dtype) -> None:
    scene = random_scene(n, 4, dtype)
    save(scene, tmp_path / "scene.splat")
    back = load(tmp_path / "scene.splat")
    assert torch.equal(back.means, scene.means.float()) and torch.equal(back.scales, scene.scales.float())
    torch.testing.assert_close(back.opacities, scene.opacities.float(), rtol=0, atol=0.5 / 255 + 1e-6)
    color = scene.sh[:, :1].float().clamp(-0.5 / C0, 0.5 / C0)
    torch.testing.assert_close(back.sh, color, rtol=0, atol=0.5 / 255 / C0 + 1e-6)
    unit = torch.nn.functional.normalize(scene.quats.double(), dim=1)
    torch.testing.assert_close(back.quats.double(), unit.clamp(max=127 / 128), rtol=0, atol=0.5 / 128 + 1e-6)
    cosine = (torch.nn.functional.normalize(back.quats.double(), dim=1) * unit).sum(dim=1)
    assert math.degrees(2 * math.acos(float(cosine.min()))) < 0.9
    again = tmp_path / "again.splat"
    save(back, again)
    if dtype == torch.float32:
        assert colors(again) == colors(tmp_path / "scene.splat")


def test_written_bytes(tmp_path: Path) -> None:
    """By hand; colours and opacities beyond what a byte holds are clamped, a component of 1 too."""
    scene = Gaussians(
        means=torch.tensor([[1.0, -2.0, 1e30], [0.0, 0.0, 0.0]]),
        quats=torch.tensor([[0.0, 3.0, 0.0, -4.0], [1e-15, 0.0, 0.0, 0.0]]),
        scales=torch.tensor([[0.0, 1e-30, 7.0], [1.0, 1.0, 1.0]]),
        opacities=torch.tensor([0.75, 1.0]),
        sh=torch.tensor([[[0.0, 9.0, -9.0]], [[1.0, -1.0, 0.5]]]),
    )
    save(scene, tmp_path / "scene.splat")
    rows = list(struct.iter_unpack("<6f8B", (tmp_path / "scene.splat").read_bytes()))
    assert rows[0][6:] == (128, 255, 0, 191, 128, 205, 128, 26)
    assert rows[0][:6] == pytest.approx((1.0, -2.0, 1e30, 0.0, 1e-30, 7.0), rel=1e-7)
    assert rows[1] == (0, 0, 0, 1, 1, 1, 199, 56, 163, 255, 255, 128, 128, 128)


def test_blocks_are_seamless_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lyra.engine.formats.format import Reading, Writing

    scene, told = random_scene(1000), []
    save(scene, tmp_path / "whole.splat")
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 300)
    save(scene, tmp_path / "pieces.splat", Writing(progress=lambda done, total: told.append((done, total))))
    assert (tmp_path / "pieces.splat").read_bytes() == (tmp_path / "whole.splat").read_bytes()
    back = load(tmp_path / "pieces.splat", Reading(progress=lambda done, total: told.append((done, total))))
    assert torch.equal(back.means, scene.means)
    assert told == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)] * 2


GOOD = packed(made(4))
BAD = {
    "truncated": (GOOD[:-1], "127 bytes are no whole number of splats of 32 bytes"),
    "empty": (b"", "the file is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:".ljust(128, b"0"), "git lfs pull"),
    "page": (b"<!DOCTYPE html><html lang='en'>".ljust(128), "is a web page"),
    "text": (b"hello world, this is no scene. " * 32, "not a scene"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, refused, name: str) -> None:
    data, pattern = BAD[name]
    (tmp_path / "scene.splat").write_bytes(data)
    refused(tmp_path / "scene.splat", pattern)


def test_a_rotation_of_nothing_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "scene.splat").write_bytes(GOOD[:60] + b"\x80" * 4 + GOOD[64:])
    with pytest.warns(UserWarning, match="dropped 1 of 4"):
        assert len(load(tmp_path / "scene.splat")) == 3


def test_a_ply_by_that_name_is_read_as_what_it_is(tmp_path: Path) -> None:
    save(random_scene(5), tmp_path / "scene.ply")
    (tmp_path / "scene.splat").write_bytes((tmp_path / "scene.ply").read_bytes())
    assert about(tmp_path / "scene.splat").kind == "3DGS PLY"


def test_damaged_bytes(tmp_path: Path, survives) -> None:
    (tmp_path / "scene.splat").write_bytes(packed(made(40)))
    loaded, failed = survives(tmp_path / "scene.splat", 5)
    assert loaded > 20 and failed > 5


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    save(random_scene(4), tmp_path / "scene.splat")
    before = (tmp_path / "scene.splat").read_bytes()
    scene = random_scene(9)
    scene.opacities[0] = 2
    with pytest.raises(InputError, match="opacity 2 is above 1, which .splat cannot hold"):
        save(scene, tmp_path / "scene.splat")
    assert (tmp_path / "scene.splat").read_bytes() == before


def test_fixtures(shared: Path) -> None:
    folder = shared / "scenes" / "format-fixtures"
    scene, other = load(folder / "minimal.splat"), load(folder / "minimal.ksplat")
    assert torch.equal(scene.means, other.means) and torch.equal(scene.sh, other.sh)
    assert scene.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    assert scene.scales.flatten().tolist() == pytest.approx([0.1] * 12)
    assert scene.opacities.tolist() == pytest.approx([230 / 255] * 4)
