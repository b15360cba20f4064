"""Our .spz, .splat and .ksplat against other programs, both ways: the reference library, gsply and splat-transform."""

import struct
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lyra.engine.formats.format import Writing
from lyra.engine.formats.registry import load, save
from lyra.engine.scene.gaussians import Gaussians

pytestmark = [pytest.mark.oracle]

REFERENCE = ("@adobe/spz@0.2.2",)  # nianticlabs/spz in WebAssembly
GSPLY = ("gsply==0.4.6",)
SCENES = ("train-1000.ply", "donut.ply")
FIELDS = {"positions": 3, "rotations": 4, "scales": 3, "alphas": 1, "colors": 3, "sh": 0}  # xyzw, ln, logit
JAVASCRIPT = """
import createSpzModule from '@adobe/spz';
import fs from 'fs';
const [task, source, target, version] = process.argv.slice(1);
const spz = await createSpzModule();
const names = ['positions', 'rotations', 'scales', 'alphas', 'colors', 'sh'];
const axes = spz.CoordinateSystem.UNSPECIFIED;
const bytes = fs.readFileSync(source);
if (task == 'read') {
    const cloud = spz.loadSpzFromBuffer(new Uint8Array(bytes), {to: axes});
    const head = Buffer.from(new Int32Array([cloud.numPoints, cloud.shDegree, cloud.antialiased]).buffer);
    fs.writeFileSync(target, Buffer.concat([head, ...names.map(name => Buffer.from(new Uint8Array(cloud[name].buffer,
        cloud[name].byteOffset, cloud[name].byteLength)))]));
} else {
    const [count, degree] = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + 8));
    const widths = [3, 4, 3, 1, 3, 3 * ((degree + 1) ** 2 - 1)];
    const cloud = {numPoints: count, shDegree: degree, antialiased: false, extensions: []};
    let place = bytes.byteOffset + 12;
    names.forEach((name, i) => {
        cloud[name] = new Float32Array(bytes.buffer.slice(place, place + 4 * count * widths[i]));
        place += 4 * count * widths[i];
    });
    const options = {version: Number(version), from: axes, sh1Bits: 8, shRestBits: 8};
    fs.writeFileSync(target, spz.saveSpzToBuffer(cloud, options));
}
"""


def reference_reads(oracles: ModuleType, path: Path) -> tuple[Gaussians, bool]:
    """What the reference makes of an .spz, and whether it is marked as antialiased."""
    raw = path.with_suffix(".raw")
    oracles.node(REFERENCE, JAVASCRIPT, "read", path, raw)
    data = raw.read_bytes()
    n, degree, antialiased = struct.unpack_from("<3i", data)
    widths = [*list(FIELDS.values())[:-1], 3 * ((degree + 1) ** 2 - 1)]
    values = torch.frombuffer(bytearray(data[12:]), dtype=torch.float32).split([n * width for width in widths])
    means, xyzw, logs, logits, colors, rest = (part.view(n, width) for part, width in zip(values, widths, strict=True))
    sh = torch.cat([colors[:, None], rest.view(n, -1, 3)], dim=1)
    return Gaussians(means, xyzw[:, [3, 0, 1, 2]], logs.exp(), logits[:, 0].sigmoid(), sh), bool(antialiased)


def reference_writes(oracles: ModuleType, scene: Gaussians, path: Path, version: int) -> None:
    raw = path.with_suffix(".raw")
    parts = [scene.means, scene.quats[:, [1, 2, 3, 0]], scene.scales.log(), scene.opacities.logit()]
    parts += [scene.sh[:, 0], scene.sh[:, 1:]]
    numbers = b"".join(part.contiguous().numpy().tobytes() for part in parts)
    raw.write_bytes(struct.pack("<3i", len(scene), scene.sh_degree, 0) + numbers)
    oracles.node(REFERENCE, JAVASCRIPT, "write", raw, path, str(version))


def same(one: Gaussians, other: Gaussians) -> None:
    """To rounding of float32; positions and harmonics exactly."""
    assert torch.equal(one.means, other.means) and torch.equal(one.sh[:, 1:], other.sh[:, 1:])
    torch.testing.assert_close(one.sh[:, 0], other.sh[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(one.scales, other.scales, rtol=2e-6, atol=0)
    torch.testing.assert_close(one.opacities, other.opacities, rtol=0, atol=2e-6)
    units = [torch.nn.functional.normalize(scene.quats, dim=1) for scene in (one, other)]
    torch.testing.assert_close(*units, rtol=0, atol=1e-5)  # theirs take the small w of version 2 from float32


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("name", SCENES)
def test_the_reference_reads_what_we_write(shared: Path, tmp_path: Path, oracles, name: str, version: int) -> None:
    path = tmp_path / "ours.spz"
    save(load(shared / "scenes" / name), path, Writing(spz_version=version, antialiased=version == 3))
    theirs, antialiased = reference_reads(oracles, path)
    same(load(path), theirs)
    assert antialiased == (version == 3)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("name", SCENES)
def test_we_read_what_the_reference_writes(shared: Path, tmp_path: Path, oracles, name: str, version: int) -> None:
    path = tmp_path / "theirs.spz"
    scene = load(shared / "scenes" / name)
    reference_writes(oracles, scene, path, version)
    same(load(path), reference_reads(oracles, path)[0])
    assert float((load(path).means - scene.means).abs().max()) <= 0.51 / 4096  # it always takes 12 fraction bits


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("name", SCENES)
def test_gsply(shared: Path, tmp_path: Path, oracles, name: str, version: int) -> None:
    """It reads ours and writes its own from that; both come back through its .ply."""
    ours, theirs = tmp_path / "ours.spz", tmp_path / "theirs.spz"
    save(load(shared / "scenes" / name), ours, Writing(spz_version=version))
    program = """
import sys, gsply
ours, theirs, version = sys.argv[1:]
for source, target in ((ours, "ours.ply"), (theirs, "theirs.ply")):
    data = gsply.read_spz(source)
    gsply.plywrite(source.replace(".spz", ".ply"), data)
    if source == ours:
        gsply.write_spz(theirs, data, version=int(version))
"""
    oracles.python(GSPLY, program, ours, theirs, str(version))
    for path in (ours, theirs):
        same(load(path), load(path.with_suffix(".ply")))


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("name", SCENES)
def test_splat_transform_reads_ours(shared: Path, tmp_path: Path, oracles, name: str, version: int) -> None:
    path, out = tmp_path / "ours.spz", tmp_path / "theirs.ply"
    save(load(shared / "scenes" / name), path, Writing(spz_version=version))
    oracles.splat_transform(path, out)
    same(load(path), load(out))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("name", SCENES)
def test_we_read_splat_transforms(shared: Path, tmp_path: Path, oracles, name: str, version: int) -> None:
    path, out = tmp_path / "theirs.spz", tmp_path / "theirs.ply"
    oracles.splat_transform("--spz-version", str(version), shared / "scenes" / name, path)
    oracles.splat_transform(path, out)
    same(load(path), load(out))


@pytest.mark.parametrize("name", SCENES)
def test_splat_transform_reads_our_splat(shared: Path, tmp_path: Path, oracles, name: str) -> None:
    """It decodes a rotation's byte u as u / 127.5 - 1, which is up to 1 / 255 off what the format's author does."""
    path, out = tmp_path / "ours.splat", tmp_path / "theirs.ply"
    save(load(shared / "scenes" / name), path)
    oracles.splat_transform(path, out)
    ours, theirs = load(path), load(out)
    assert torch.equal(ours.means, theirs.means)
    torch.testing.assert_close(ours.scales, theirs.scales, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.sh, theirs.sh, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.opacities, theirs.opacities, rtol=0, atol=2e-6)
    units = [torch.nn.functional.normalize(scene.quats, dim=1) for scene in (ours, theirs)]
    torch.testing.assert_close(*units, rtol=0, atol=0.008)


KSPLAT = """
import * as GaussianSplats3D from '@mkkellogg/gaussian-splats-3d';
import fs from 'fs';
const [source, target, raw, mode, degree] = process.argv.slice(1);
const bytes = fs.readFileSync(source);
const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const splats = GaussianSplats3D.PlyParser.parseToUncompressedSplatArray(file, Number(degree));
const generator = GaussianSplats3D.SplatBufferGenerator.getStandardGenerator(1, Number(mode), 0);
const scene = generator.generateFromUncompressedSplatArray(splats);
fs.writeFileSync(target, Buffer.from(scene.bufferData));
const n = scene.getSplatCount(), last = n - 1;
const [means, scales, rotations] = [3, 3, 4].map(width => new Float32Array(n * width));
const sh = new Float32Array(n * [0, 9, 24][degree]), colors = new Uint8Array(n * 4);
scene.fillSplatCenterArray(means, undefined, 0, last, 0);
scene.fillSplatScaleRotationArray(scales, rotations, undefined, 0, last, 0, 0);
scene.fillSplatColorArray(colors, 0, 0, last, 0);
if (degree > 0) scene.fillSphericalHarmonicsArray(sh, Number(degree), undefined, 0, last, 0, Number(mode));
const parts = [means, scales, rotations, Float32Array.from(colors), sh];
fs.writeFileSync(raw, Buffer.concat(parts.map(part => Buffer.from(part.buffer))));
"""


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_author_of_ksplat_reads_the_same(shared: Path, tmp_path: Path, oracles, mode: int, degree: int) -> None:
    """His library writes a real scene and says what it holds (SH as they are stored, so that is asked of mode 0)."""
    path, raw = tmp_path / "scene.ksplat", tmp_path / "scene.raw"
    packages = ("@mkkellogg/gaussian-splats-3d@0.4.7", "three@0.160.1")
    source = shared / "scenes" / "train-1000.ply"
    oracles.node(packages, KSPLAT, source, path, raw, str(mode), str(degree))
    scene = load(path)
    n, k = len(scene), (degree + 1) ** 2 - 1
    assert (n, scene.sh_degree) == (1000, degree)
    widths = [3, 3, 4, 4, 3 * k]
    values = torch.frombuffer(bytearray(raw.read_bytes()), dtype=torch.float32).split([n * width for width in widths])
    means, scales, xyzw, rgba, rest = (part.view(n, width) for part, width in zip(values, widths, strict=True))
    torch.testing.assert_close(scene.means, means, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scene.scales, scales, rtol=1e-6, atol=0)
    units = torch.nn.functional.normalize(scene.quats, dim=1)
    assert float((units * xyzw[:, [3, 0, 1, 2]]).sum(dim=1).abs().min()) > 1 - 1e-6
    torch.testing.assert_close((scene.sh[:, 0] * 0.28209479177387814 + 0.5) * 255, rgba[:, :3], rtol=0, atol=1e-3)
    torch.testing.assert_close(scene.opacities * 255, rgba[:, 3], rtol=0, atol=1e-3)
    if mode == 0:
        assert torch.equal(scene.sh[:, 1:], rest.view(n, k, 3))
    original = load(source)
    original = original.select(torch.cdist(means, original.means).argmin(dim=1))
    low, high = struct.unpack_from("<2f", path.read_bytes(), 36)
    step, bounds = ((high - low) / 255, (low, high)) if mode == 2 else (0.001, (-9, 9))
    torch.testing.assert_close(scene.sh[:, 1:], original.sh[:, 1 : 1 + k].clamp(*bounds), rtol=0, atol=step + 1e-6)


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_splat_transform_reads_the_same_ksplat(tmp_path: Path, oracles, mode: int, degree: int) -> None:
    """Two sections; random bytes where any byte means a number, float16 and float32 from known numbers."""
    generator = torch.Generator().manual_seed(mode)
    path, out, k = tmp_path / "scene.ksplat", tmp_path / "theirs.ply", (degree + 1) ** 2 - 1
    head = struct.pack("<BB2xIIIIH14xff", 0, 1, 2, 2, 143, 143, mode, -2.0, 1.0).ljust(4096, b"\0")
    body, sizes = b"", ([64, 64, 8, 4], [3])
    for partial in sizes:
        n, full = sum(partial), partial.count(64)
        fields = n, n, 64, len(partial), 5.0, 12, 0, 0, full, len(partial) - full, degree
        head += struct.pack("<IIIIfH2xIIIIH", *fields).ljust(1024, b"\0")
        body += struct.pack(f"<{len(partial) - full}I", *partial[full:])
        body += torch.randn(len(partial), 3, generator=generator).numpy().tobytes()
        for _ in range(n):
            numbers = torch.rand(10 + 3 * k, generator=generator) + 0.01
            floats = (numbers if mode == 0 else numbers.half()).numpy()
            position = torch.randint(0, 65536, (3,), generator=generator).tolist()
            body += floats[:3].tobytes() if mode == 0 else struct.pack("<3H", *position)
            body += floats[3:10].tobytes() + bytes(torch.randint(1, 255, (4,), generator=generator).tolist())
            body += bytes((numbers[10:] * 200).int().tolist()) if mode == 2 else floats[10:].tobytes()
    path.write_bytes(head + body)
    oracles.splat_transform(path, out)
    ours, theirs = load(path).tensors(), load(out).tensors()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=2e-6, msg=lambda text, name=name: name + text)
