"""The writer of SOG: its files taken apart with Pillow, decoded one splat at a time, against the scene it was given."""

import dataclasses
import io
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lyra.engine.errors import InputError
from lyra.engine.formats import sog_writer
from lyra.engine.formats.format import Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.morton import morton_order

FILES = ["means_l.webp", "means_u.webp", "quats.webp", "scales.webp", "sh0.webp"]
SH_FILES = ["shN_centroids.webp", "shN_labels.webp"]


def made(n: int, degree: int = 0, seed: int = 0) -> Gaussians:
    """Splats at random, each kind of value over a wide range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(
        means=normal(n, 3) * (2 * normal(n, 1)).exp(),
        quats=normal(n, 4) * (3 * normal(n, 1)).exp(),
        scales=(normal(n, 3) - 4).exp(),
        opacities=torch.rand(n, generator=generator),
        sh=normal(n, (degree + 1) ** 2, 3) * 0.3,
    )


def taken_apart(path: Path) -> tuple[dict, dict[str, list[list[int]]]]:
    """meta.json and the texels of each image."""
    if path.suffix == ".sog":
        with zipfile.ZipFile(path) as archive:
            assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            parts = {name: archive.read(name) for name in archive.namelist()}
    else:
        parts = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    meta = json.loads(parts.pop("meta.json"))
    texels = {}
    for name, data in parts.items():
        assert data[12:16] in (b"VP8L", b"VP8X")
        texels[name] = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).reshape(-1, 4).tolist()
    return meta, texels


def least(book: list[float], value: float) -> float:
    return min(abs(number - value) for number in book)


def check(scene: Gaussians, path: Path, *, palette: bool = True) -> None:
    """Every splat of a scene in the order of the file, within what each field can hold."""
    meta, texels = taken_apart(path)
    n, k = len(scene), scene.sh.shape[1] - 1
    assert meta["version"] == 2 and meta["count"] == n
    assert sorted(texels) == sorted(FILES + SH_FILES * bool(k)) and ("shN" in meta) == bool(k)
    for i in range(n):
        for axis in range(3):
            position, scale = float(scene.means[i, axis]), float(scene.scales[i, axis])
            low, high = meta["means"]["mins"][axis], meta["means"]["maxs"][axis]
            log = low + (high - low) * (texels[FILES[0]][i][axis] + 256 * texels[FILES[1]][i][axis]) / 65535
            exact = math.copysign(math.log1p(abs(position)), position)
            assert abs(log - exact) <= 0.5001 * (high - low) / 65535 + 1e-6 * abs(exact)
            book = meta["scales"]["codebook"]
            log = math.log(max(scale, 1.1754943508222875e-38))
            assert abs(book[texels["scales.webp"][i][axis]] - log) <= least(book, log) + 1e-5
            book, color = meta["sh0"]["codebook"], float(scene.sh[i, 0, axis])
            assert abs(book[texels["sh0.webp"][i][axis]] - color) <= least(book, color) + 1e-6
        assert abs(texels["sh0.webp"][i][3] / 255 - float(scene.opacities[i])) <= 0.5001 / 255
        quat = scene.quats[i].tolist()
        largest = texels["quats.webp"][i][3] - 252
        assert abs(quat[largest]) == max(map(abs, quat))
        length = math.copysign(math.hypot(*quat), quat.pop(largest))
        stored = [(u / 255 * 2 - 1) / math.sqrt(2) for u in texels["quats.webp"][i][:3]]
        assert max(abs(u - v / length) for u, v in zip(stored, quat, strict=True)) <= 0.5001 * math.sqrt(2) / 255
    if k and palette:  # as many entries as splats, so only the codebook rounds
        book = meta["shN"]["codebook"]
        assert meta["shN"]["bands"] == {3: 1, 8: 2, 15: 3}[k] and meta["shN"]["count"] <= n
        for i in range(n):
            label = texels[SH_FILES[1]][i][0] + 256 * texels[SH_FILES[1]][i][1]
            for j in range(k):
                texel = texels[SH_FILES[0]][label // 64 * 64 * k + label % 64 * k + j]
                for channel in range(3):
                    value = float(scene.sh[i, 1 + j, channel])
                    assert abs(book[texel[channel]] - value) <= least(book, value) + 1e-6


def in_file_order(scene: Gaussians) -> Gaussians:
    return scene.select(morton_order(scene.means))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 17])
def test_every_field_at_every_degree(tmp_path: Path, n: int, degree: int) -> None:
    scene = made(n, degree)
    save(scene, tmp_path / "scene.sog")
    check(in_file_order(scene), tmp_path / "scene.sog")


@pytest.mark.parametrize(("n", "degree"), [(255, 0), (256, 1), (257, 2)])
def test_every_field_of_more(tmp_path: Path, n: int, degree: int) -> None:
    scene = made(n, degree)
    save(scene, tmp_path / "folder" / "meta.json")
    check(in_file_order(scene), tmp_path / "folder" / "meta.json")
    assert len(load(tmp_path / "folder")) == n


def test_a_few_thousand_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = made(3000, 3)
    save(scene, tmp_path / "whole.sog")
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 700)
    save(scene, tmp_path / "blocks.sog")
    assert (tmp_path / "whole.sog").read_bytes() == (tmp_path / "blocks.sog").read_bytes()
    scene, read = in_file_order(scene), load(tmp_path / "whole.sog")
    span = torch.stack(scene.means.aminmax(dim=0)).abs().log1p().amax()
    assert ((read.means - scene.means).abs() <= (1 + scene.means.abs()) * 1.1 * span / 65535).all()
    assert (read.scales.log() - scene.scales.log()).square().mean().sqrt() < 0.015
    assert (read.opacities - scene.opacities).abs().max() < 0.502 / 255
    turns = (torch.nn.functional.normalize(scene.quats) * read.quats).sum(dim=1).abs()
    assert (2 * turns.clamp(max=1).acos()).max() < math.radians(1.11)
    assert (read.sh[:, 0] - scene.sh[:, 0]).square().mean().sqrt() < 0.005
    spread = scene.sh[:, 1:].square().sum(dim=(1, 2)).mean()  # noise without structure: 2048 entries for 3000
    assert (read.sh - scene.sh)[:, 1:].square().sum(dim=(1, 2)).mean() < 0.4 * spread


def test_extreme_values(tmp_path: Path) -> None:
    scene = made(40, 1)
    scene.means[:6] = torch.tensor(
        [[1e6, -1e6, 0], [0, 0, 0], [1e-7, -1e-7, 3], [0, 5, 0], [-3e38, 3e38, 1], [1, 1, 1]]
    )
    scene.scales[:5] = torch.tensor([[0, 0, 0], [1e-38, 1e-44, 1], [1e20, 3e38, 1e-20], [1, 1, 1], [0.5, 0, 2]])
    scene.opacities[:3] = torch.tensor([0.0, 1.0, 1e-9])
    scene.quats[:5] = torch.tensor([[1e-15, 0, 0, 0], [0, 0, -1e15, 1], [1, -1, 1, -1], [0, 0, 0, 2], [-1, 0, 0, 0.0]])
    scene.sh[0, 0], scene.sh[1, 1] = 3e38, -1e10
    save(scene, tmp_path / "scene.sog")
    check(in_file_order(scene), tmp_path / "scene.sog")
    assert torch.isfinite(load(tmp_path / "scene.sog").sh).all()


def test_a_flat_and_an_identical_scene(tmp_path: Path) -> None:
    flat = made(300, 1)
    flat.means[:, 1] = -2.5
    for scene in (flat, Gaussians(*(tensor[:1].expand(2000, *tensor.shape[1:]) for tensor in flat.tensors().values()))):
        save(scene, tmp_path / "scene.sog")
        read = load(tmp_path / "scene.sog")
        assert (read.means[:, 1] + 2.5).abs().max() < 1e-6
    assert taken_apart(tmp_path / "scene.sog")[0]["shN"]["count"] == 1
    assert (read.sh == scene.sh).all() and (read.scales / scene.scales - 1).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types(tmp_path: Path, dtype: torch.dtype) -> None:
    scene = made(60, 2).to(dtype=dtype)
    save(scene, tmp_path / "scene.sog")
    save(scene.to(dtype=torch.float32), tmp_path / "float.sog")
    assert (tmp_path / "scene.sog").read_bytes() == (tmp_path / "float.sog").read_bytes()


def test_gradients_do_no_harm(tmp_path: Path) -> None:
    scene = Gaussians(**{name: tensor.requires_grad_() for name, tensor in made(20, 1).tensors().items()})
    save(scene, tmp_path / "scene.sog")
    assert len(load(tmp_path / "scene.sog")) == 20


def test_what_was_read_loses_nothing_more(tmp_path: Path) -> None:
    save(made(3000, 2), tmp_path / "first.sog")
    once = load(tmp_path / "first.sog")
    save(once, tmp_path / "second.sog")
    once, twice = in_file_order(once), load(tmp_path / "second.sog")
    assert torch.equal(once.opacities, twice.opacities) and torch.equal(once.sh, twice.sh)
    assert (once.scales / twice.scales - 1).abs().max() < 1e-6
    assert ((once.means - twice.means).abs() <= 1e-5 * (1 + once.means.abs())).all()
    turns = torch.minimum((once.quats - twice.quats).abs().amax(dim=1), (once.quats + twice.quats).abs().amax(dim=1))
    assert turns.max() < 0.006 and turns.median() < 1e-6  # components that are nearly equal may change places


@pytest.mark.parametrize("name", ["st-peter.sog", "playbot/5_0"])
def test_real_scenes_lose_nothing(shared: Path, tmp_path: Path, name: str) -> None:
    scene = load(shared / "scenes" / name)
    save(scene, tmp_path / "scene.sog")
    scene, read = in_file_order(scene), load(tmp_path / "scene.sog")
    assert torch.equal(scene.opacities, read.opacities) and torch.equal(scene.sh, read.sh)
    assert (scene.scales / read.scales - 1).abs().max() < 1e-6
    assert ((scene.means - read.means).abs() <= 1e-5 * (1 + scene.means.abs())).all()


def test_a_folder_holds_what_a_bundle_holds(tmp_path: Path) -> None:
    scene, writing = made(1500, 1), Writing(note='{"a": [1, "\\u00fc"]}', antialiased=True)
    save(scene, tmp_path / "scene.sog", writing)
    save(scene, tmp_path / "new" / "meta.json", writing)
    with zipfile.ZipFile(tmp_path / "scene.sog") as archive:
        assert archive.namelist() == [*FILES, *SH_FILES, "meta.json"]
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "new" / name).read_bytes()
    assert {file.name for file in (tmp_path / "new").iterdir()} == {*FILES, *SH_FILES, "meta.json"}
    for path in (tmp_path / "scene.sog", tmp_path / "new", tmp_path / "new" / "meta.json"):
        told = about(path)
        assert (told.kind, told.splats, told.levels, told.antialiased) == ("SOG version 2", 1500, 1, True)
        assert told.note == writing.note
    save(scene, tmp_path / "scene.sog")
    assert (about(tmp_path / "scene.sog").antialiased, about(tmp_path / "scene.sog").note) == (False, None)


def test_a_folder_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "meta.json"
    save(made(300, 1), path)
    (path.parent / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    def broken(*_) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of luck"):
        patch.setattr(sog_writer, "palette", broken)
        save(made(200, 2, seed=1), path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before

    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), path.exists(), replace(a, b))[2])
    save(made(200, 0, seed=1), path)
    assert sorted(order[:-1]) == sorted(FILES) and order[-1] == "meta.json"
    assert len(load(path.parent)) == 200 and load(path.parent).sh_degree == 0
    assert (path.parent / "notes.txt").read_text() == "mine"


def test_a_folder_cut_short_is_no_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "meta.json"
    save(made(30), path)
    replace = os.replace

    def full(source: str, target: str) -> None:
        if Path(target).name == "quats.webp":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="quats.webp: No space left on device"):
        save(made(40, seed=1), path)
    with pytest.raises(InputError, match="a folder without a meta.json is no scene"):
        load(path.parent)
    assert not [file for file in path.parent.iterdir() if file.suffix == ".tmp"]


def test_refused_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = made(3)
    (tmp_path / "taken" / "meta.json").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, pattern in {
        "scene-meta.json": "named by its meta.json, give .*/meta.json$",
        "lod-meta.json": "streamed SOG is read but not written, give a name that ends in .*.sog, meta.json",
        "no/such/meta.json": "No such file or directory, give a folder that can be made",
        "no/scene.sog": "No such file or directory",
        "taken/meta.json": "is a folder",
        "file/meta.json": "File exists, give a folder that can be made|Not a directory",
    }.items():
        with pytest.raises(InputError, match=pattern) as caught:
            save(scene, tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)
    monkeypatch.setattr(sog_writer, "SIDE_LIMIT", 16)
    save(made(256), tmp_path / "scene.sog")
    with pytest.raises(InputError, match="scene.sog: 257 splats are more than a SOG holds"):
        save(made(257), tmp_path / "scene.sog")
    assert len(load(tmp_path / "scene.sog")) == 256


def test_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    save(made(100, 1), tmp_path / "scene.sog", dataclasses.replace(Writing(), progress=lambda *at: told.append(at)))
    assert told == sorted(told) and len(told) > 5 and told[-1] == (100, 100)


def test_sizes() -> None:
    """As splat-transform 3.7.0 chooses them, but for fewer than 1024 splats, where it halves the palette."""
    assert [sog_writer.image_size(n) for n in (1, 16, 17, 133618, 500000)] == [
        (4, 4), (4, 4), (8, 4), (368, 364), (708, 708),
    ]  # fmt: skip
    sizes = {1: 1024, 1024: 1024, 2047: 1024, 2048: 2048, 31000: 16384, 65535: 32768, 65536: 65536, 10**7: 65536}
    assert {n: sog_writer.palette_size(n) for n in sizes} == sizes


def test_morton_order() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randint(8, (200, 3), generator=generator).float()
    means[:2] = torch.tensor([[0, 0, 0], [7, 7, 7]])

    def code(point: list[float]) -> int:
        steps = [int(value / 7 * (2**21 - 1)) for value in point]
        return sum((steps[axis] >> bit & 1) << (3 * bit + axis) for bit in range(21) for axis in range(3))

    expected = sorted(range(200), key=lambda i: code(means[i].tolist()))
    assert morton_order(means).tolist() == expected
    assert morton_order(torch.ones(5, 3)).tolist() == [0, 1, 2, 3, 4]
    assert morton_order(torch.tensor([[3e38, 0, 0], [-3e38, 0, 0]])).tolist() == [1, 0]
