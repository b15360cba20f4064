"""PLY, compressed PLY and glTF against foreign readers, writers and Khronos' validator."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.formats.format import Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.transform import transform

pytestmark = pytest.mark.oracle
C0 = 0.28209479177387814
GSPLY = """
import gsply, numpy, sys
d = gsply.plyread(sys.argv[1])
rest = d.shN.reshape(len(d.means), -1) if d.shN is not None else numpy.zeros((len(d.means), 0))
numpy.savez(sys.argv[2], means=d.means, scales=d.scales, quats=d.quats, opacities=d.opacities, sh0=d.sh0, rest=rest)
gsply.plywrite(sys.argv[3], d, compressed=sys.argv[3].endswith(".compressed.ply"))
"""
VALIDATE = """
import {createRequire} from "module"; import fs from "fs"; import path from "path";
const validator = createRequire(process.cwd() + "/")("gltf-validator"), file = process.argv[1];
const beside = async uri => new Uint8Array(fs.readFileSync(path.join(path.dirname(file), decodeURIComponent(uri))));
const bytes = new Uint8Array(fs.readFileSync(file));
console.log(JSON.stringify(await validator.validateBytes(bytes, {externalResourceFunction: beside})));
"""


def gsply(oracles: ModuleType, source: Path, target: Path) -> dict[str, torch.Tensor]:
    """What gsply reads, [n, ...] as in a .ply; it writes the same to `target`."""
    out = target.with_suffix(".npz")
    oracles.python(("gsply==0.4.6",), GSPLY, source, out, target)
    return {name: torch.from_numpy(values).float() for name, values in np.load(out).items()}


def scene_of(n: int, k: int) -> Gaussians:
    """Splats with harmonics that fit -4..4, in no order."""
    numbers = torch.randn(n, 11 + 3 * k, generator=torch.Generator().manual_seed(n + k))
    means, quats, scales, opacities, sh = numbers.split([3, 4, 3, 1, 3 * k], dim=1)
    return Gaussians(
        means, quats, (scales - 4).exp(), (opacities[:, 0] * 2).sigmoid(), sh.reshape(n, k, 3).clamp(-4, 4)
    )


def matched(scene: Gaussians, like: Gaussians) -> Gaussians:
    """The splats of `scene` in the order of `like`."""
    index = torch.cdist(like.means.double(), scene.means.double()).argmin(dim=1)
    assert sorted(index.tolist()) == list(range(len(scene)))
    return scene.select(index)


def check(
    found: Gaussians, wanted: Gaussians, means: float, scales: float, turn: float, alpha: float, sh: float
) -> None:
    """Every number within so much; turns in radians, scales in ln."""
    assert len(found) == len(wanted) and found.sh.shape == wanted.sh.shape
    assert float((found.means - wanted.means).abs().max()) <= means
    assert float((found.scales.log() - wanted.scales.log()).abs().max()) <= scales
    assert float((found.opacities - wanted.opacities).abs().max()) <= alpha
    assert float((found.sh - wanted.sh).abs().max()) <= sh
    quats = [torch.nn.functional.normalize(scene.quats.double(), dim=1) for scene in (found, wanted)]
    assert float(2 * (quats[0] * quats[1]).sum(dim=1).abs().clamp(max=1).acos().max()) <= turn


EXACT = {"means": 1e-6, "scales": 1e-5, "turn": 1e-3, "alpha": 1e-6, "sh": 1e-6}
# Half of each quantum for chunks as wide as the whole scene; between two decoders one step of harmonics.
QUANTA = {"means": 5e-3, "scales": 5e-3, "turn": 4.5e-3, "alpha": 2.1e-3, "sh": 1 / 32 + 1e-3}


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("antialiased", [False, True])
def test_splat_transform_and_ply(oracles: ModuleType, tmp_path: Path, k: int, antialiased: bool) -> None:
    """It reads ours and writes what we read back, the mark included."""
    scene = scene_of(700, k)
    save(scene, tmp_path / "ours.ply", Writing(antialiased=antialiased, note='{"a": "b"}'))
    oracles.splat_transform(tmp_path / "ours.ply", tmp_path / "theirs.ply")
    check(load(tmp_path / "theirs.ply"), scene, **EXACT)
    assert about(tmp_path / "theirs.ply").antialiased == antialiased


@pytest.mark.parametrize("k", [1, 4, 9, 16])
def test_splat_transform_and_compressed_ply(oracles: ModuleType, tmp_path: Path, k: int) -> None:
    """It reads ours as we do, to the last bit but for rounding, and what it writes is no nearer to the scene."""
    scene = scene_of(700, k)
    save(scene, tmp_path / "ours.compressed.ply", Writing(antialiased=True, note='{"a": "b"}'))
    oracles.splat_transform(tmp_path / "ours.compressed.ply", tmp_path / "read.ply")
    ours, read = load(tmp_path / "ours.compressed.ply"), load(tmp_path / "read.ply")
    check(read, ours, means=1e-6, scales=1e-5, turn=1e-3, alpha=2.1e-3, sh=1e-5)
    assert about(tmp_path / "read.ply").antialiased
    save(scene, tmp_path / "scene.ply")
    oracles.splat_transform(tmp_path / "scene.ply", tmp_path / "theirs.compressed.ply")
    theirs = matched(load(tmp_path / "theirs.compressed.ply"), scene)
    check(theirs, scene, **QUANTA)
    ours = matched(ours, scene)
    check(ours, scene, **QUANTA)
    for name in ("means", "opacities", "sh"):
        errors = [float((each.tensors()[name] - scene.tensors()[name]).abs().mean()) for each in (ours, theirs)]
        assert errors[0] <= 1.02 * errors[1], name


@pytest.mark.parametrize("k", [1, 4, 16])
def test_splat_transform_writes_glb(oracles: ModuleType, tmp_path: Path, k: int) -> None:
    """It turns .ply (y down) by half a turn about z for glTF: harmonics turn along."""
    scene = scene_of(700, k)
    save(scene, tmp_path / "ours.ply")
    oracles.splat_transform(tmp_path / "ours.ply", tmp_path / "theirs.glb")
    turned = transform(scene, torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    check(load(tmp_path / "theirs.glb"), turned, means=1e-6, scales=1e-5, turn=1e-3, alpha=1e-6, sh=1e-5)


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("ending", [".ply", ".compressed.ply"])
def test_gsply(oracles, tmp_path: Path, k: int, ending: str) -> None:
    """It reads ours as we do, and we read what it writes."""
    scene = scene_of(700, k)
    save(scene, tmp_path / f"ours{ending}", Writing(antialiased=True, note='{"a": "b"}'))
    ours = load(tmp_path / f"ours{ending}")
    read = gsply(oracles, tmp_path / f"ours{ending}", tmp_path / f"theirs{ending}")
    torch.testing.assert_close(read["means"], ours.means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(read["scales"], ours.scales.log(), rtol=1e-5, atol=1e-5)
    exact = ending == ".ply"
    torch.testing.assert_close(read["opacities"].sigmoid(), ours.opacities, rtol=0, atol=1e-6 if exact else 2.1e-3)
    torch.testing.assert_close(read["sh0"], ours.sh[:, 0], rtol=0, atol=1e-5)
    rest = read["rest"].reshape(len(scene), k - 1, 3) if k > 1 else ours.sh[:, 1:]
    torch.testing.assert_close(rest, ours.sh[:, 1:], rtol=0, atol=1e-5 if exact else 1 / 32)
    quats = torch.nn.functional.normalize(read["quats"], dim=1)
    units = torch.nn.functional.normalize(ours.quats, dim=1)
    torch.testing.assert_close((quats * units).sum(dim=1).abs(), torch.ones(len(scene)), rtol=0, atol=1e-5)
    theirs = load(tmp_path / f"theirs{ending}")
    if exact:
        check(theirs, ours, **EXACT)
    else:
        check(matched(theirs, ours), ours, **{name: 2 * value for name, value in QUANTA.items()})


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
@pytest.mark.parametrize("k", [1, 16])
def test_khronos_validator(oracles: ModuleType, tmp_path: Path, ending: str, k: int) -> None:
    """No complaint but that it does not know the extension; its attributes pass as those of an application."""
    path = tmp_path / f"a scene{ending}"
    save(scene_of(300, k), path, Writing(antialiased=True, note='{"a": "b"}'))
    path.write_bytes(path.read_bytes().replace(b"KHR_gaussian_splatting:", b"_HR_GAUSSIAN_SPLATTING_"))
    report = json.loads(oracles.node(("gltf-validator@2.0.0-dev.3.10",), VALIDATE, path))
    assert [message["code"] for message in report["issues"]["messages"]] == ["UNSUPPORTED_EXTENSION"]
    assert report["info"]["totalVertexCount"] == 300
