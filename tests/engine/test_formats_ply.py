"""3DGS .ply: files written here byte by byte, what comes back, and what is refused."""

import math
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats import format
from lyra.engine.formats.format import Reading, Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians

BASE = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
BASE += ["rot_0", "rot_1", "rot_2", "rot_3"]
REST = [f"f_rest_{i}" for i in range(45)]
ENDS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def value(row: int, name: str) -> float:
    """A known number for every cell, exact in float32."""
    if name.startswith("f_rest_"):
        return row + int(name[7:]) / 64
    return row / 4 - 0.5 + (BASE.index(name) if name in BASE else 77) / 32


def ply(names, n=3, *, kind="binary_little_endian", types=None, newline="\n", extra="", tail="", body=b"") -> bytes:
    """A .ply with known numbers in the columns given; `extra` goes before the vertex element, `tail` after it."""
    types = types or {}
    properties = "".join(f"property {types.get(name, 'float')} {name}\n" for name in names)
    header = f"ply\nformat {kind} 1.0\n{extra}element vertex {n}\n{properties}{tail}end_header\n".replace("\n", newline)
    for row in range(n):
        for i, name in enumerate(names):
            if kind == "ascii":
                body += f"{value(row, name)!r}{' ' if i + 1 < len(names) else newline}".encode()
            else:
                body += struct.pack(ENDS[kind] + {"double": "d"}.get(types.get(name, ""), "f"), value(row, name))
    return header.encode() + body


def check(scene: Gaussians, n: int, k: int) -> None:
    """Every number of the file is where it belongs, activated."""
    assert (len(scene), scene.sh.shape[1]) == (n, k + 1)
    for tensor in scene.tensors().values():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.device.type == "cpu"
    for i in range(n):
        cell = {name: value(i, name) for name in BASE}
        assert scene.means[i].tolist() == [cell["x"], cell["y"], cell["z"]]
        assert scene.quats[i].tolist() == [cell[f"rot_{j}"] for j in range(4)]
        assert scene.scales[i].tolist() == pytest.approx([math.exp(cell[f"scale_{j}"]) for j in range(3)], rel=1e-6)
        assert float(scene.opacities[i]) == pytest.approx(1 / (1 + math.exp(-cell["opacity"])), rel=1e-6)
        assert scene.sh[i, 0].tolist() == [cell[f"f_dc_{c}"] for c in range(3)]
        for j in range(k):
            assert scene.sh[i, 1 + j].tolist() == [value(i, f"f_rest_{c * k + j}") for c in range(3)]


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("k", [0, 3, 8, 15])
def test_every_degree_and_encoding(tmp_path: Path, k: int, kind: str) -> None:
    names = [*BASE, *(f"f_rest_{i}" for i in range(3 * k))]
    (tmp_path / "scene.ply").write_bytes(ply(names, kind=kind))
    check(load(tmp_path / "scene.ply"), 3, k)


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    names = [*reversed(BASE), "nx", *(f"f_rest_{i}" for i in reversed(range(24))), "segment"]
    types = {"x": "double", "scale_1": "double", "f_rest_3": "double", "nx": "double"}
    (tmp_path / "scene.bin").write_bytes(ply(names, 5, types=types))
    check(load(tmp_path / "scene.bin"), 5, 8)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_header_lines_may_end_and_comment_as_they_like(tmp_path: Path, newline: str) -> None:
    extra = "comment façade, element vertex 9\nobj_info 1\n"
    (tmp_path / "scene.ply").write_bytes(ply(BASE, extra=extra, newline=newline))
    check(load(tmp_path / "scene.ply"), 3, 0)


def test_other_elements_are_stepped_over(tmp_path: Path) -> None:
    extra, tail = "element camera 2\nproperty double f\n", "element face 1\nproperty list uchar int vertex_indices\n"
    (tmp_path / "scene.ply").write_bytes(ply(BASE, extra=extra, tail=tail, body=struct.pack("<2d", 1, 2)))
    check(load(tmp_path / "scene.ply"), 3, 0)


def test_invalid_splats_are_dropped_with_a_warning(tmp_path: Path) -> None:
    data = ply(BASE)
    (tmp_path / "scene.ply").write_bytes(data[: -56 * 2] + struct.pack("<f", math.nan) + data[-56 * 2 + 4 :])
    with pytest.warns(UserWarning, match="dropped 1 of 3"):
        assert load(tmp_path / "scene.ply").means[:, 0].tolist() == [value(0, "x"), value(2, "x")]


def test_a_double_beyond_float_is_dropped_too(tmp_path: Path) -> None:
    data = ply(["y", "z", *BASE[3:], "x"], types={"x": "double"})
    (tmp_path / "scene.ply").write_bytes(data[:-8] + struct.pack("<d", 1e300))
    with pytest.warns(UserWarning, match="dropped 1 of 3"):
        assert len(load(tmp_path / "scene.ply")) == 2


def random_scene(n: int, k: int, dtype: torch.dtype = torch.float32) -> Gaussians:
    generator = torch.Generator().manual_seed(n + k)
    numbers = torch.randn(n, 11 + 3 * k, generator=generator, dtype=dtype)
    means, quats, scales, opacities, sh = numbers.split([3, 4, 3, 1, 3 * k], dim=1)
    return Gaussians(means, quats, scales.exp(), opacities[:, 0].sigmoid(), sh.reshape(n, k, 3))


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(tmp_path: Path, k: int, dtype: torch.dtype) -> None:
    scene = random_scene(63, k, dtype)
    save(scene, str(tmp_path / "scene.ply"))
    back = load(str(tmp_path / "scene.ply"))
    for name, tensor in scene.tensors().items():
        torch.testing.assert_close(back.tensors()[name], tensor.float(), rtol=1e-5, atol=1e-7)
    for name in ("means", "quats", "sh"):
        assert torch.equal(back.tensors()[name], scene.tensors()[name].float())


@pytest.mark.parametrize("n", [1, 2])
def test_a_scene_of_one_splat_is_the_callers_own(tmp_path: Path, n: int) -> None:
    """Not a view of the file's read-only pages."""
    save(random_scene(n, 1), tmp_path / "one.ply")
    scene = load(tmp_path / "one.ply")
    for tensor in scene.tensors().values():
        tensor.add_(1.0)
    assert len(load(tmp_path / "one.ply")) == n


def test_written_bytes(tmp_path: Path) -> None:
    scene = Gaussians(
        means=torch.tensor([[1.0, 2.0, 3.0]]),
        quats=torch.tensor([[0.5, -0.5, 0.25, 4.0]]),
        scales=torch.tensor([[1.0, math.e, 0.0]]),
        opacities=torch.tensor([0.75]),
        sh=torch.arange(12.0).view(1, 4, 3),
    )
    save(scene, tmp_path / "scene.ply")
    names = ["x", "y", "z", "nx", "ny", "nz", *BASE[3:6], *(f"f_rest_{i}" for i in range(9)), *BASE[6:]]
    header, body = (tmp_path / "scene.ply").read_bytes().split(b"end_header\n")
    assert header.decode().split() == [
        *("ply", "format", "binary_little_endian", "1.0", "element", "vertex", "1"),
        *(word for name in names for word in ("property", "float", name)),
    ]
    row = struct.unpack("<26f", body)
    assert row[:18] == (1, 2, 3, 0, 0, 0, 0, 1, 2, 3, 6, 9, 4, 7, 10, 5, 8, 11)
    assert row[18:21] == pytest.approx((math.log(3), 0, 1), abs=1e-6)
    assert -90 < row[21] < -80
    assert row[22:] == (0.5, -0.5, 0.25, 4.0)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 2000])
def test_blocks_of_any_size_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    scene, told = random_scene(n, 4), []
    save(scene, tmp_path / "whole.ply")
    monkeypatch.setattr(format, "BLOCK", 100)
    save(scene, tmp_path / "parts.ply", Writing(progress=lambda done, total: told.append((done, total))))
    assert (tmp_path / "parts.ply").read_bytes() == (tmp_path / "whole.ply").read_bytes()
    back = load(tmp_path / "parts.ply", Reading(progress=lambda done, total: told.append((done, total))))
    assert torch.equal(back.means, scene.means) and torch.equal(back.sh, scene.sh)
    assert told == 2 * [(min(done, n), n) for done in range(100, n + 100, 100)]


@pytest.mark.parametrize("kind", ENDS)
def test_rows_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(format, "BLOCK", 7)
    extra = "element camera 2\nproperty double f\n"
    body = b"1.0\n2.0\n" if kind == "ascii" else struct.pack("<2d", 1, 2)
    (tmp_path / "scene.ply").write_bytes(ply([*BASE, "f_rest_0", *REST[1:9]], 40, kind=kind, extra=extra, body=body))
    check(load(tmp_path / "scene.ply"), 40, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_scene_of_another_float_type_is_left_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    scene = random_scene(5, 4, torch.float32).to(dtype=dtype)
    scene.sh.requires_grad_()
    before = {name: tensor.detach().clone() for name, tensor in scene.tensors().items()}
    save(scene, tmp_path / "scene.ply")
    assert all(torch.equal(tensor, before[name]) for name, tensor in scene.tensors().items())
    assert torch.equal(load(tmp_path / "scene.ply").means, before["means"].float())


NOTES = {
    '{"from": "a.ply"}': '{"from": "a.ply"}',
    '{"a":\n "x\u2028ü\x7f"}\r\nend_header\n1': '{"a":  "x\\u2028\\u00fc\\u007f"}  end_header 1',
    '{"path": "C:\\\\x \\"q\\" \U0001f600"}': '{"path": "C:\\\\x \\"q\\" \\ud83d\\ude00"}',
    '{"nul": "\0\x1b[31m"}': '{"nul": "  [31m"}',
}


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply"])
@pytest.mark.parametrize("note", NOTES)
def test_a_note_is_one_comment(tmp_path: Path, ending: str, note: str) -> None:
    """The same JSON in printable ASCII, whatever it holds; every other line of the header stays."""
    plain, noted = tmp_path / f"plain{ending}", tmp_path / f"noted{ending}"
    save(random_scene(3, 4), plain)
    save(random_scene(3, 4), noted, Writing(note=note))
    lines, others = (file.read_bytes().split(b"end_header\n")[0].split(b"\n") for file in (noted, plain))
    assert lines[2] == f"comment lyra {NOTES[note]}".encode("ascii")
    assert lines[:2] + lines[3:] == others
    assert about(noted).note == NOTES[note] and about(plain).note is None
    assert torch.equal(load(noted).sh, load(plain).sh)


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply"])
def test_long_notes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scene{ending}"
    save(random_scene(2, 1), path, Writing(note="x" * 65536))
    assert about(path).note == "x" * 65536 and len(load(path)) == 2
    with pytest.raises(InputError, match="a note of 65537 bytes, a .ply holds at most 65536: shorten it"):
        save(random_scene(2, 1), path, Writing(note="x" * 65537))
    assert about(path).note == "x" * 65536


@pytest.mark.parametrize("ending", [".ply", ".compressed.ply"])
def test_antialiased_is_marked(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"scene{ending}"
    for antialiased in (False, True):
        save(random_scene(2, 1), path, Writing(antialiased=antialiased))
        header = path.read_bytes().split(b"end_header\n")[0]
        assert (b"\ncomment SplatRenderMode: mip\ncomment antialiased 1\n" in header) == antialiased
        assert about(path).antialiased == antialiased
        assert about(path).splats == 2


COMMENTS = {
    "comment SplatRenderMode: mip\n": True,
    "comment splatrendermode:MIP \n": True,
    "comment antialiased 1\n": True,
    "comment Antialiased 0\n": False,
    "comment antialiased 1\ncomment SplatRenderMode: default\n": False,
    "comment SplatRenderMode: 2dgs\ncomment antialiased 1\ncomment SplatRenderMode: odd\n": True,
    "comment antialiased 10\n": False,
    "obj_info antialiased 1\ncomment\ncomment not antialiased 1\n": False,
}


@pytest.mark.parametrize("extra", COMMENTS)
def test_marks_of_other_trainers(tmp_path: Path, extra: str) -> None:
    (tmp_path / "scene.ply").write_bytes(ply(BASE, extra=extra))
    assert about(tmp_path / "scene.ply").antialiased == COMMENTS[extra]
    check(load(tmp_path / "scene.ply"), 3, 0)


def test_a_foreign_note_is_printable(tmp_path: Path) -> None:
    (tmp_path / "scene.ply").write_bytes(ply(BASE).replace(b"element", b"comment lyra a\x1b[2J\xff\tb\nelement", 1))
    assert about(tmp_path / "scene.ply").note == "a [2J\ufffd b"


def test_extreme_opacities_and_scales_survive(tmp_path: Path) -> None:
    scene = random_scene(4, 1)
    scene.opacities[:] = torch.tensor([0.0, 1.0, 1 - 2**-24, 1e-6])
    scene.scales[0] = 0
    save(scene, tmp_path / "scene.ply")
    row = struct.unpack("<68f", (tmp_path / "scene.ply").read_bytes().split(b"end_header\n")[1])
    assert all(map(math.isfinite, row))
    back = load(tmp_path / "scene.ply")
    assert back.opacities.tolist() == pytest.approx([0.0, 1.0, 1.0, 1e-6], rel=1e-5, abs=1e-8)
    assert float(back.opacities[1]) == 1.0
    assert (back.scales[0] < 1e-37).all()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(random_scene(4, 1), tmp_path / "scene.ply")
    before = (tmp_path / "scene.ply").read_bytes()

    def full(count, progress):
        yield slice(0, 1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lyra.engine.formats.ply.blocks", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(random_scene(9, 4), tmp_path / "scene.ply")
    assert (tmp_path / "scene.ply").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["scene.ply"]


def test_save_refuses(tmp_path: Path) -> None:
    for name in ("scene.obj", "scene", "no/such/folder/scene.ply"):
        with pytest.raises(InputError, match=name):
            save(random_scene(4, 1), tmp_path / name)
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        save(random_scene(4, 1), tmp_path / "folder.ply")
    scene = random_scene(4, 1)
    scene.opacities[2] = 1.5
    with pytest.raises(InputError, match=r"opacity 1\.5 is above 1"):
        save(scene, tmp_path / "scene.ply")
    scene.means[:] = math.nan
    with pytest.raises(InputError, match="no valid splats among 4"):
        save(scene, tmp_path / "scene.ply")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.ply"]


def test_save_leaves_out_invalid_splats(tmp_path: Path) -> None:
    scene = random_scene(4, 1)
    scene.means[1, 2] = math.inf
    with pytest.warns(UserWarning, match="dropped 1 of 4"):
        save(scene, tmp_path / "scene.ply")
    assert torch.equal(load(tmp_path / "scene.ply").means, scene.means[[0, 2, 3]])


FACES = "element face 4\nproperty list uchar int vertex_indices\n"
SCENE = ply([*BASE, *(f"f_rest_{i}" for i in range(9))])
BAD = {
    "mesh": (ply(["x", "y", "z"], tail=FACES), "is a mesh, not a Gaussian scene: needs columns x, y, z, f_dc_0"),
    "points": (ply(["x", "y", "z", "nx"]), "is a point cloud, not a Gaussian scene"),
    "no vertex": (b"ply\nformat ascii 1.0\nelement camera 1\nproperty int a\nend_header\n1\n", "not a Gaussian scene"),
    "2d": (ply([n for n in BASE if n != "scale_2"]), "lacks the columns scale_2"),
    "no quats": (ply(BASE[:-4]), "lacks the columns rot_0, rot_1, rot_2, rot_3"),
    "odd sh": (ply([*BASE, "f_rest_0", "f_rest_1"]), "2 f_rest columns fit no SH degree"),
    "degree 4": (ply([*BASE, *(f"f_rest_{i}" for i in range(72))]), "72 f_rest columns fit no SH degree"),
    "sh gap": (ply([*BASE, *(f"f_rest_{i}" for i in range(1, 10))]), "lacks the columns f_rest_0"),
    "truncated": (SCENE[:-1], "truncated, 3 rows of vertex need"),
    "truncated ascii": (ply(BASE, kind="ascii")[:-60], "not a valid ascii .ply"),
    "cut header": (SCENE[:200], "no end_header"),
    "ply only": (b"ply\n", "no end_header"),
    "plywood": (b"plywood is no scene", "does not begin with a 'ply' line"),
    "empty": (b"", "is empty"),
    "zero splats": (ply(BASE, 0), "has 0 rows"),
    "huge": (SCENE.replace(b"vertex 3", b"vertex 1000000000000"), "truncated, 1000000000000 rows of vertex need"),
    "huge ascii": (ply(BASE, kind="ascii").replace(b"vertex 3", b"vertex 1000000000000"), "truncated"),
    "huge camera": (ply(BASE, kind="ascii", extra="element camera 999999999999\nproperty int a\n"), "truncated"),
    "huge later": (ply(BASE, kind="ascii", tail="element camera 999999999999\nproperty int a\n"), "truncated"),
    "long count": (SCENE.replace(b"vertex 3", b"vertex " + b"9" * 5000), "is not a row count"),
    "negative": (SCENE.replace(b"vertex 3", b"vertex -3"), "is not a row count"),
    "bad type": (SCENE.replace(b"float x", b"quad x"), "not a valid .ply header"),
    "twice": (SCENE.replace(b"float y", b"float x"), "not a valid .ply header"),
    "format": (SCENE.replace(b"binary_little", b"binary_middle"), "not a valid .ply header"),
    "lists": (ply(BASE, extra=FACES), "rows of lists"),
    "spz": (b"\x1f\x8b\x08\x00" + bytes(60), "compressed data is damaged"),
    "web page": (b"<!DOCTYPE html>", "is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, refused, name: str) -> None:
    data, pattern = BAD[name]
    (tmp_path / "scene.ply").write_bytes(data)
    tracemalloc.start()
    refused(tmp_path / "scene.ply", pattern)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_paths_that_are_no_files(tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "none.ply", "no such file")
    refused(tmp_path, "a folder without a meta.json")
    refused(tmp_path / ("long" * 100), "name too long")
    refused(Path("/dev/zero"), "not a regular file")
    refused(tmp_path / "nul\0.ply", "null")
    (tmp_path / "scene.ply").write_bytes(SCENE)

    def deny(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(tmp_path / "scene.ply", "Permission denied, give a file that can be read")


@pytest.mark.parametrize("kind", ENDS)
def test_damaged_bytes(tmp_path: Path, survives, kind: str) -> None:
    (tmp_path / "scene.ply").write_bytes(ply([*BASE, *(f"f_rest_{i}" for i in range(9))], 40, kind=kind))
    loaded, failed = survives(tmp_path / "scene.ply", 1)
    assert loaded > 0 and failed > 10


@pytest.mark.parametrize(("name", "n", "degree"), [("donut.ply", 45624, 0), ("train-1000.ply", 1000, 3)])
def test_real_scenes(shared: Path, name: str, n: int, degree: int) -> None:
    scene = load(shared / "scenes" / name)
    assert (len(scene), scene.sh_degree) == (n, degree)
    assert 0.1 < float(scene.opacities.mean()) < 0.9
    assert 1e-4 < float(scene.scales.median()) < 0.1


def test_ply_and_splat_fixtures_hold_the_same(shared: Path) -> None:
    """antimatter15's .splat holds the same splats (as a multiset) in 8 bits: float centres and scales, rgba, quats."""
    folder = shared / "scenes" / "format-fixtures"
    scene = load(folder / "test-splat.3-points-from-train.ply")
    rows = list(struct.iter_unpack("<6f8B", (folder / "test-splat.3-points-from-train.splat").read_bytes()))
    assert len(rows) == len(scene) == 3
    for row in rows:
        i = int((scene.means - torch.tensor(row[:3])).norm(dim=1).argmin())
        assert scene.means[i].tolist() == pytest.approx(row[:3], rel=1e-6)
        assert scene.scales[i].tolist() == pytest.approx(row[3:6], rel=1e-5)
        color = (0.5 + 0.28209479177387814 * scene.sh[i, 0]).clamp(0, 1) * 255
        assert [*color.tolist(), float(scene.opacities[i]) * 255] == pytest.approx(row[6:10], abs=1)
        quat = scene.quats[i] / scene.quats[i].norm() * 128 + 128
        assert quat.clamp(0, 255).tolist() == pytest.approx(row[10:], abs=1.01)
