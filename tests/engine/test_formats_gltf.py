"""glTF with KHR_gaussian_splatting: files put together here, what comes back, what is written and what is refused."""

import base64
import copy
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats import format, gltf
from lyra.engine.formats.format import Reading, Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.transform import axis_angle, transform

KHR = "KHR_gaussian_splatting"
TYPES = {"b": 5120, "B": 5121, "h": 5122, "H": 5123, "I": 5125, "f": 5126}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
TOPS = {"b": 127, "B": 255, "h": 32767, "H": 65535}
C0 = 0.28209479177387814


class Asset:
    """A glTF file in the making: JSON, and the bytes of its one buffer."""

    def __init__(self) -> None:
        self.data = b""
        self.json: dict = {"asset": {"version": "2.0"}, "extensionsUsed": [KHR], "scenes": [{"nodes": []}]}
        self.json |= {"nodes": [], "meshes": [], "accessors": [], "bufferViews": []}

    def view(self, data: bytes, **more) -> int:
        self.data += bytes(-len(self.data) % 4)
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)} | more)
        self.data += data
        return len(self.json["bufferViews"]) - 1

    def accessor(
        self, kind: str, rows: list, code: str = "f", normalized: bool = False, pad: int = 0, lead: int = 0
    ) -> int:
        """Rows of numbers as they are stored; `pad` bytes between rows and `lead` before the first."""
        packed = [struct.pack(f"<{WIDTHS[kind]}{code}", *row) for row in rows]
        stride = {"byteStride": len(packed[0]) + pad} if pad else {}
        view = self.view(b"\xee" * lead + (b"\xee" * pad).join(packed), **stride)
        raw = {"bufferView": view, "componentType": TYPES[code], "count": len(rows), "type": kind}
        self.json["accessors"].append(raw)
        if lead:
            raw["byteOffset"] = lead
        if normalized:
            raw["normalized"] = True
        return len(self.json["accessors"]) - 1

    def mesh(self, *primitives: dict) -> int:
        self.json["meshes"].append({"primitives": list(primitives)})
        return len(self.json["meshes"]) - 1

    def node(self, *, root: bool = True, **raw) -> int:
        self.json["nodes"].append(raw)
        if root:
            self.json["scenes"][0]["nodes"].append(len(self.json["nodes"]) - 1)
        return len(self.json["nodes"]) - 1

    def text(self, uri: str | None = None) -> bytes:
        data = {"uri": uri} if uri else {}
        return json.dumps(self.json | {"buffers": [{"byteLength": len(self.data)} | data]}).encode()

    def glb(self) -> bytes:
        told, data = self.text(), self.data + bytes(-len(self.data) % 4)
        told += b" " * (-len(told) % 4)
        head = struct.pack("<4s2I", b"glTF", 2, 28 + len(told) + len(data))
        return head + struct.pack("<I4s", len(told), b"JSON") + told + struct.pack("<I4s", len(data), b"BIN\0") + data

    def embedded(self) -> bytes:
        return self.text("data:application/octet-stream;base64," + base64.b64encode(self.data).decode())


def names(k: int) -> list[str]:
    return [f"{KHR}:SH_DEGREE_{i}_COEF_{j}" for i in range(math.isqrt(k)) for j in range(2 * i + 1)]


def numbers(n: int, k: int, seed: int = 0) -> dict[str, list]:
    """Rows of every attribute, exact in float32: centres, unit quaternions x y z w, scales, opacities, coefficients."""
    rng = np.random.default_rng(seed + 100 * n + k)
    quats = rng.normal(size=(n, 4))
    rows = {"POSITION": rng.normal(size=(n, 3)), f"{KHR}:ROTATION": quats / np.linalg.norm(quats, axis=1)[:, None]}
    rows |= {f"{KHR}:SCALE": rng.uniform(0.01, 1, (n, 3)), f"{KHR}:OPACITY": rng.uniform(size=(n, 1))}
    rows |= {name: rng.normal(size=(n, 3)) for name in names(k)}
    return {name: values.astype(np.float32).tolist() for name, values in rows.items()}


KINDS = {"POSITION": "VEC3", f"{KHR}:ROTATION": "VEC4", f"{KHR}:SCALE": "VEC3", f"{KHR}:OPACITY": "SCALAR"}


def primitive(attributes: dict[str, int], space: str = "srgb_rec709_display", **extension) -> dict:
    told = {"kernel": "ellipse", "colorSpace": space} | extension
    return {"attributes": attributes, "mode": 0, "extensions": {KHR: told}}


def attributes(asset: Asset, rows: dict[str, list], **options) -> dict[str, int]:
    return {name: asset.accessor(KINDS.get(name, "VEC3"), values, **options) for name, values in rows.items()}


def simple(n: int = 3, k: int = 4, **options) -> tuple[Asset, dict[str, list]]:
    """One primitive under one node."""
    asset, rows = Asset(), numbers(n, k)
    asset.node(mesh=asset.mesh(primitive(attributes(asset, rows, **options))))
    return asset, rows


def expected(rows: dict[str, list], k: int) -> Gaussians:
    quats = torch.tensor(rows[f"{KHR}:ROTATION"])
    sh = torch.stack([torch.tensor(rows[name]) if name in rows else torch.zeros(len(quats), 3) for name in names(k)], 1)
    opacities = torch.tensor(rows[f"{KHR}:OPACITY"])[:, 0]
    return Gaussians(
        torch.tensor(rows["POSITION"]), quats[:, [3, 0, 1, 2]], torch.tensor(rows[f"{KHR}:SCALE"]), opacities, sh
    )


def same(scene: Gaussians, wanted: Gaussians, **tolerance) -> None:
    for name, tensor in wanted.tensors().items():
        found = scene.tensors()[name]
        assert found.dtype == torch.float32 and found.is_contiguous()
        if tolerance:
            torch.testing.assert_close(found, tensor, **tolerance)
        else:
            assert torch.equal(found, tensor), name


@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("container", ["glb", "embedded", "beside"])
def test_every_degree_and_container(tmp_path: Path, k: int, container: str) -> None:
    asset, rows = simple(3, k)
    if container == "beside":
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "a buffer.bin").write_bytes(asset.data + b"beyond the buffer")
        data = asset.text("more/a%20buffer.bin")
    else:
        data = asset.glb() if container == "glb" else asset.embedded()
    (tmp_path / "scene.gltf").write_bytes(data)
    same(load(tmp_path / "scene.gltf"), expected(rows, k))
    told = about(tmp_path / "scene.gltf")
    assert (told.kind, told.splats, told.antialiased, told.note) == (f"glTF with {KHR}", 3, False, None)


def test_told_by_content(tmp_path: Path) -> None:
    asset, rows = simple()
    for data in (asset.glb(), b"\xef\xbb\xbf \n" + asset.embedded()):
        (tmp_path / "scene.bin").write_bytes(data)
        same(load(tmp_path / "scene.bin"), expected(rows, 4))


@pytest.mark.parametrize(("pad", "lead"), [(8, 0), (0, 12), (4, 20)])
def test_strides_and_offsets(tmp_path: Path, pad: int, lead: int) -> None:
    asset, rows = simple(5, 9, pad=pad, lead=lead)
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    same(load(tmp_path / "scene.glb"), expected(rows, 9))


def test_interleaved(tmp_path: Path) -> None:
    """All attributes row by row in one bufferView."""
    asset, rows, n = Asset(), numbers(6, 4), 6
    data = b"".join(struct.pack("<23f", *(v for values in rows.values() for v in values[i])) for i in range(n))
    view, offset, found = asset.view(data, byteStride=92), 0, {}
    for name in rows:
        kind = KINDS.get(name, "VEC3")
        raw = {"bufferView": view, "byteOffset": offset, "componentType": 5126, "count": n, "type": kind}
        asset.json["accessors"].append(raw)
        found[name] = len(asset.json["accessors"]) - 1
        offset += 4 * WIDTHS[kind]
    asset.node(mesh=asset.mesh(primitive(found)))
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    same(load(tmp_path / "scene.glb"), expected(rows, 4))


QUANTISED = [
    *(("POSITION", code, normalized) for code in "bBhH" for normalized in (False, True)),
    (f"{KHR}:ROTATION", "b", True),
    (f"{KHR}:ROTATION", "h", True),
    *((f"{KHR}:SCALE", code, normalized) for code in "BH" for normalized in (False, True)),
    (f"{KHR}:OPACITY", "B", True),
    (f"{KHR}:OPACITY", "H", True),
]


@pytest.mark.parametrize(("name", "code", "normalized"), QUANTISED)
def test_component_types(tmp_path: Path, name: str, code: str, normalized: bool) -> None:
    asset, rows = simple(4, 1)
    kind, top = KINDS[name], TOPS[code]
    stored = [[(37 * i + 11 * j) % top for j in range(WIDTHS[kind])] for i in range(2)] + [[top] * WIDTHS[kind]]
    stored.append([-top - 1 if code in "bh" else 0, *[5] * (WIDTHS[kind] - 1)])
    index = asset.accessor(kind, stored, code, normalized, pad=(-struct.calcsize(f"<{WIDTHS[kind]}{code}")) % 4)
    asset.json["meshes"][0]["primitives"][0]["attributes"][name] = index
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    rows[name] = [[max(v / top, -1.0) if normalized else float(v) for v in row] for row in stored]
    same(load(tmp_path / "scene.glb"), expected(rows, 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("code", "BHI")
@pytest.mark.parametrize("based", [True, False])
def test_sparse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, based: bool) -> None:
    """Rows 1, 6 and 7 of nine replaced, of numbers that are there or of zeros; across blocks."""
    monkeypatch.setattr(format, "BLOCK", 7)
    asset, rows = simple(9, 1)
    name, places, values = names(1)[0], [1, 6, 7], [[1.5, 2, 3], [4, 5, 6], [7, 8, 9]]
    raw = asset.json["accessors"][asset.json["meshes"][0]["primitives"][0]["attributes"][name]]
    if not based:
        del raw["bufferView"]
        rows[name] = [[0.0] * 3] * 9
    raw["sparse"] = {
        "count": 3,
        "indices": {"bufferView": asset.view(struct.pack(f"<3{code}", *places)), "componentType": TYPES[code]},
        "values": {"bufferView": asset.view(struct.pack("<9f", *(v for row in values for v in row)))},
    }
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    rows[name] = [values[places.index(i)] if i in places else row for i, row in enumerate(rows[name])]
    same(load(tmp_path / "scene.glb"), expected(rows, 1))


def test_meshes_and_primitives_are_joined_in_tree_order(tmp_path: Path) -> None:
    """Parents before children, primitives in order, triangles and empty ones left out, degrees filled up."""
    asset = Asset()
    parts = [numbers(2, 1, seed=1), numbers(3, 9, seed=2), numbers(1, 4, seed=3)]
    found = [attributes(asset, rows) for rows in parts]
    triangles = {"attributes": {"POSITION": found[0]["POSITION"]}, "mode": 4}
    none = asset.accessor("VEC3", [[0, 0, 0]])
    asset.json["accessors"][none]["count"] = 0
    empty = primitive(found[0] | {"POSITION": none})
    first = asset.mesh(primitive(found[0]), triangles, empty, primitive(found[1]))
    second, other = asset.mesh(primitive(found[2])), asset.mesh(triangles)
    leaf = asset.node(root=False, mesh=second)
    middle = asset.node(root=False, name="nothing to see", children=[leaf])
    asset.node(mesh=first, children=[middle])
    asset.node(mesh=other)
    asset.node(mesh=second)
    asset.json["nodes"].append({"mesh": first})  # in no scene
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    wanted = [expected(parts[i], 9) for i in (0, 1, 2, 2)]
    joined = [torch.cat(tensors) for tensors in zip(*(part.tensors().values() for part in wanted), strict=True)]
    same(load(tmp_path / "scene.glb"), Gaussians(*joined))
    assert about(tmp_path / "scene.glb").splats == 7


def test_without_a_scene_all_roots_count(tmp_path: Path) -> None:
    asset, rows = simple(3, 1)
    del asset.json["scenes"]
    asset.json["nodes"] = [{"children": [2]}, {"mesh": 0}, {"mesh": 0}]
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    assert load(tmp_path / "scene.glb").means[:, 0].tolist() == 2 * [row[0] for row in rows["POSITION"]]


def test_nodes_move_their_splats(tmp_path: Path) -> None:
    """A matrix below a translation, a rotation and a scale, against one matrix put together in plain numbers."""
    asset, rows = simple(40, 16)
    turn = axis_angle(torch.tensor([1.0, 2.0, -0.5]), 0.7)
    inner = torch.eye(4, dtype=torch.float64)
    inner[:3, :3], inner[:3, 3] = 0.5 * turn, torch.tensor([1.0, 2.0, 3.0])
    half = math.sqrt(0.5)
    outer = torch.eye(4, dtype=torch.float64)  # a quarter turn about y: z to x, x to -z; twice as large; moved
    outer[:3] = torch.tensor([[0.0, 0, 2, -1], [0, 2, 0, 0], [-2, 0, 0, 4]])
    asset.json["nodes"] = [
        {"children": [1], "rotation": [0, half, 0, half], "scale": [2, 2, 2], "translation": [-1, 0, 4]},
        {"mesh": 0, "matrix": inner.T.flatten().tolist()},
    ]
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    scene, plain = load(tmp_path / "scene.glb"), expected(rows, 16)
    same(scene, transform(plain, outer @ inner), rtol=1e-4, atol=1e-5)
    matrix = (outer @ inner)[:3].float()
    torch.testing.assert_close(scene.means, plain.means @ matrix[:, :3].T + matrix[:, 3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scene.scales, plain.scales, rtol=1e-5, atol=0)


def test_negative_scales_are_logarithms(tmp_path: Path) -> None:
    """As in drafts of the extension: for the whole file, wherever they are."""
    asset, rows = simple(3, 1)
    other = attributes(asset, rows | {f"{KHR}:SCALE": [[1.0, 2, 3], [0, 0, -0.5], [1, 1, 1]]})
    asset.json["meshes"][0]["primitives"].append(primitive(other))
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    scales = load(tmp_path / "scene.glb").scales
    torch.testing.assert_close(scales[:3], torch.tensor(rows[f"{KHR}:SCALE"]).exp())
    assert scales[4].tolist() == pytest.approx([1, 1, math.exp(-0.5)])


def display(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def test_linear_colours_of_degree_0_are_encoded_exactly(tmp_path: Path) -> None:
    asset, rows = simple(50, 1)
    asset.json["meshes"][0]["primitives"][0]["extensions"][KHR]["colorSpace"] = "lin_rec709_display"
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    wanted = [[(display(max(0.5 + C0 * v, 0.0)) - 0.5) / C0 for v in row] for row in rows[names(1)[0]]]
    torch.testing.assert_close(load(tmp_path / "scene.glb").sh[:, 0], torch.tensor(wanted), rtol=1e-5, atol=1e-5)


def harmonics(d: np.ndarray) -> np.ndarray:
    """[m, 16] of the extension's own formulas at unit directions [m, 3]."""
    x, y, z = d.T
    one, s = np.ones_like(x), (0.4886025119029199, 1.092548430592079, 0.31539156525252, 0.5462742152960395)
    third = (0.5900435899266435, 2.890611442640554, 0.4570457994644657, 0.3731763325901154, 1.445305721320277)
    return np.stack(
        [C0 * one, -s[0] * y, s[0] * z, -s[0] * x]
        + [s[1] * x * y, -s[1] * y * z, s[2] * (2 * z * z - x * x - y * y), -s[1] * x * z, s[3] * (x * x - y * y)]
        + [-third[0] * y * (3 * x * x - y * y), third[1] * x * y * z, -third[2] * y * (4 * z * z - x * x - y * y)]
        + [third[3] * z * (2 * z * z - 3 * x * x - 3 * y * y), -third[2] * x * (4 * z * z - x * x - y * y)]
        + [third[4] * z * (x * x - y * y), -third[0] * x * (x * x - 3 * y * y)],
        axis=1,
    )


@pytest.mark.parametrize("k", [4, 9, 16])
def test_linear_colours_seen_from_anywhere(tmp_path: Path, k: int) -> None:
    """Bright colours that change with direction come within a thousandth of the best that k coefficients can do."""
    asset, rows = simple(20, k)
    for name in names(k):
        rows[name] = [[0.05 * v + (0.4 if name == names(k)[0] else 0) for v in row] for row in rows[name]]
    asset.json["meshes"] = []
    asset.mesh(primitive(attributes(asset, rows), "lin_rec709_display"))
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    directions = np.random.default_rng(1).normal(size=(20_000, 3))
    basis = harmonics(directions / np.linalg.norm(directions, axis=1)[:, None])[:, :k]
    sh = load(tmp_path / "scene.glb").sh.double().numpy()
    for before, after in zip(expected(rows, k).sh.double().numpy(), sh, strict=True):
        linear = basis @ before + 0.5
        wanted = 1.055 * linear ** (1 / 2.4) - 0.055
        best = np.linalg.lstsq(basis, wanted - 0.5, rcond=None)[0]
        error, least = (np.sqrt(np.mean((basis @ found + 0.5 - wanted) ** 2)) for found in (after, best))
        assert least <= error < least + 1e-3 < 0.02


def random_scene(n: int, k: int, dtype: torch.dtype = torch.float32) -> Gaussians:
    table = torch.randn(n, 11 + 3 * k, generator=torch.Generator().manual_seed(n + k), dtype=dtype)
    means, quats, scales, opacities, sh = table.split([3, 4, 3, 1, 3 * k], dim=1)
    return Gaussians(means, quats * 3, scales.exp(), opacities[:, 0].sigmoid(), sh.reshape(n, k, 3))


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
@pytest.mark.parametrize("k", [1, 4, 9, 16])
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 2000])
def test_round_trip_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, k: int, n: int) -> None:
    monkeypatch.setattr(format, "BLOCK", 300)
    scene, told = random_scene(n, k), []
    save(scene, tmp_path / f"scene{ending}", Writing(progress=lambda done, total: told.append((done, total))))
    back = load(tmp_path / f"scene{ending}", Reading(progress=lambda done, total: told.append((done, total))))
    lengths = scene.quats.double().norm(dim=1, keepdim=True)
    same(back, Gaussians(scene.means, (scene.quats / lengths).float(), scene.scales, scene.opacities, scene.sh))
    assert told == 2 * [(min(done, n), n) for done in range(300, n + 300, 300)]


def test_extremes_survive(tmp_path: Path) -> None:
    scene = random_scene(4, 1)
    scene.opacities[:] = torch.tensor([0.0, 1.0, 2**-140, 0.5])
    scene.scales[0], scene.means[1], scene.quats[2] = 0, 3e38, torch.tensor([0.0, 1e-15, 0, 0])
    scene.scales[3] = torch.tensor([1e-40, 3e38, 1])
    save(scene, tmp_path / "scene.glb")
    back = load(tmp_path / "scene.glb")
    assert torch.equal(back.opacities, scene.opacities) and torch.equal(back.scales, scene.scales)
    assert torch.equal(back.means, scene.means) and back.quats[2].tolist() == [0, 1, 0, 0]


def parsed(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    magic, version, total, length, kind = struct.unpack("<4s3I4s", data[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON") and length % 4 == 0
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    assert kind == b"BIN\0" and 28 + length + size == len(data)
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def test_written_file(tmp_path: Path) -> None:
    """What viewers without splats need: bounds of the points and colours, linear, in 8 bits."""
    scene = random_scene(30, 4, torch.float64)
    scene.quats.requires_grad_()
    save(scene, tmp_path / "scene.glb", Writing(antialiased=True, note='{"from": "über\n"}'))
    raw, data = parsed(tmp_path / "scene.glb")
    assert raw["asset"] == {
        "version": "2.0",
        "generator": raw["asset"]["generator"],
        "extras": {"lyra": '{"from": "über\n"}', "lyra_antialiased": True},
    }
    assert raw["asset"]["generator"].startswith("Lyra ") and raw["extensionsUsed"] == [KHR]
    part = raw["meshes"][0]["primitives"][0]
    assert part["mode"] == 0 and part["extensions"][KHR]["colorSpace"] == "srgb_rec709_display"
    place = raw["accessors"][part["attributes"]["POSITION"]]
    assert place["min"] == scene.means.float().amin(dim=0).tolist()
    assert place["max"] == scene.means.float().amax(dim=0).tolist()
    color = raw["accessors"][part["attributes"]["COLOR_0"]]
    view = raw["bufferViews"][color["bufferView"]]
    assert (color["componentType"], color["type"], color["normalized"], color["count"]) == (5121, "VEC4", True, 30)
    rgba = np.frombuffer(data, np.uint8, 120, view["byteOffset"]).reshape(30, 4)
    for i in range(30):
        srgb = [min(max(0.5 + C0 * float(v), 0), 1) for v in scene.sh[i, 0]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in srgb]
        assert rgba[i].tolist() == pytest.approx([255 * v for v in (*linear, float(scene.opacities[i]))], abs=0.501)
    told = about(tmp_path / "scene.glb")
    assert (told.antialiased, told.note) == (True, '{"from": "über "}')


def test_buffer_beside_the_text(tmp_path: Path) -> None:
    save(random_scene(5, 1), tmp_path / "my scene.gltf", Writing(note="{}"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["my scene.bin", "my scene.gltf"]
    raw = json.loads((tmp_path / "my scene.gltf").read_text())
    assert raw["buffers"] == [{"byteLength": 5 * (4 * 14 + 4), "uri": "my%20scene.bin"}]
    assert about(tmp_path / "my scene.gltf").note == "{}"


@pytest.mark.parametrize("ending", [".glb", ".gltf"])
def test_a_failed_save_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    save(random_scene(5, 1), tmp_path / f"scene{ending}")
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full(count, progress):
        yield slice(0, 1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lyra.engine.formats.gltf_writer.blocks", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(random_scene(9, 4), tmp_path / f"scene{ending}")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_a_glb_of_more_than_4_gib_is_refused(tmp_path: Path) -> None:
    one = random_scene(1, 16)
    many = Gaussians(**{name: tensor.expand(20_000_000, *tensor.shape[1:]) for name, tensor in one.tensors().items()})
    with pytest.raises(InputError, match=r"a \.glb holds at most 4294967295: give a name that ends in \.gltf"):
        gltf.save(many, tmp_path / "scene.glb", Writing())
    assert list(tmp_path.iterdir()) == []


def changed(*path, to) -> bytes:
    """A good file with one thing in its JSON set, or taken away where `to` is None."""
    asset, _ = simple()
    place = asset.json
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return asset.glb()


def part(*path, to) -> bytes:
    return changed("meshes", 0, "primitives", 0, *path, to=to)


GOOD = simple()[0].glb()
ROTATION, SCALE, OPACITY = f"{KHR}:ROTATION", f"{KHR}:SCALE", f"{KHR}:OPACITY"
FIT = f"does not fit {KHR} "


def nodes(*values: dict) -> bytes:
    asset, _ = simple()
    asset.json["nodes"] = list(values)
    return asset.glb()


def sparse(**more) -> bytes:
    asset, _ = simple(9, 1)
    view, values = asset.view(struct.pack("<3H", 1, 6, 6)), asset.view(bytes(36))
    asset.json["accessors"][4]["sparse"] = {
        "count": 3,
        "indices": {"bufferView": view, "componentType": 5123},
        "values": {"bufferView": values},
    } | more
    return asset.glb()


def instanced(count: int) -> bytes:
    asset, _ = simple(5000, 1)
    asset.json["nodes"] = [{"mesh": 0}] * count
    asset.json["scenes"][0]["nodes"] = list(range(count))
    return asset.glb()


def crowded() -> bytes:
    """A mesh of 2,000 primitives of triangles, placed 1,000 times."""
    asset, _ = simple(3, 1)
    asset.json["meshes"][0]["primitives"] = [{"attributes": {}}] * 2000
    asset.json["nodes"] = [{"mesh": 0}] * 1000
    asset.json["scenes"][0]["nodes"] = list(range(1000))
    return asset.glb()


def with_buffer(uri: str, length: int = 300) -> bytes:
    asset, _ = simple()
    return asset.text(uri).replace(f'"byteLength": {len(asset.data)}'.encode(), f'"byteLength": {length}'.encode())


BAD = {
    "mesh": (part("extensions", to=None), "is a mesh, not a Gaussian scene: needs primitives with KHR_gaussian"),
    "nothing": (nodes({}), "is a glTF scene without splats"),
    "version": (GOOD.replace(b"glTF\2", b"glTF\1"), "glTF version 1, only 2 is read"),
    "asset version": (changed("asset", "version", to="1.0"), "glTF version '1.0', only 2"),
    "no asset": (changed("asset", to=None), FIT),
    "truncated": (GOOD[:-4], "truncated, it says"),
    "longer": (GOOD + b"more", "more than it should be"),
    "head alone": (b"glTF\2\0\0\0", "truncated, a .glb of 8 bytes"),
    "no chunks": (b"glTF" + struct.pack("<2I", 2, 12), "does not begin with JSON"),
    "chunk beyond": (GOOD[:12] + b"\xff\xff\xff\x7f" + GOOD[16:], "truncated within a chunk"),
    "other chunk": (GOOD.replace(b"JSON", b"TEXT"), "does not begin with JSON"),
    "not json": (GOOD.replace(b'{"asset"', b'["asset"'), "not valid JSON"),
    "nan": (GOOD.replace(b'"mode": 0', b'"mod":NaN'), "not valid JSON \\(it holds NaN"),
    "deep": (b'{"asset": {}, "KHR_gaussian_splatting": ' + b"[" * 200_000, "not valid JSON"),
    "wide": (b'{"KHR_gaussian_splatting": [' + b"[]," * 600_000 + b"[]]}", "more than 1048576 values"),
    "long number": (b'{"KHR_gaussian_splatting": ' + b"9" * 100_000 + b"}", "not valid JSON"),
    "infinite": (
        nodes({"mesh": 0, "translation": [0, 0, 1e308 * 10]}).replace(b"Infinity", b"1e999   "),
        "translation",
    ),
    "required": (changed("extensionsRequired", to=["EXT_meshopt_compression"]), "requires EXT_meshopt_compression"),
    "spz": (
        part("extensions", KHR, "extensions", to={"KHR_gaussian_splatting_compression_spz_2": {}}),
        "its splats are compressed with KHR_gaussian_splatting_compression_spz_2",
    ),
    "meshopt": (
        changed("bufferViews", 2, "extensions", to={"EXT_meshopt_compression": {}}),
        "bufferView 2 is compressed",
    ),
    "kernel": (part("extensions", KHR, "kernel", to="cube"), "kernel 'cube' is not ellipse"),
    "colours": (part("extensions", KHR, "colorSpace", to="p3"), "colorSpace 'p3' is neither"),
    "triangles": (part("mode", to=4), "splats in a primitive of mode 4, expected 0"),
    "no rotation": (part("attributes", ROTATION, to=None), f"lacks {ROTATION}"),
    "no position": (part("attributes", "POSITION", to=None), "no 'POSITION'"),
    "no colour": (part("attributes", names(1)[0], to=None), "SH degrees are given in part, SH_DEGREE_0_COEF_0"),
    "part of a degree": (part("attributes", names(4)[2], to=None), "in part, SH_DEGREE_1_COEF_1 is missing"),
    "degree 4": (part("attributes", f"{KHR}:SH_DEGREE_4_COEF_0", to=4), "SH degrees are given in part"),
    "no such accessor": (part("attributes", SCALE, to=99), "accessors 99 is named, there are 8"),
    "named accessor": (part("attributes", SCALE, to="2"), "accessors are named by '2'"),
    "true accessor": (part("attributes", SCALE, to=True), "accessors are named by 'True'"),
    "negative accessor": (part("attributes", SCALE, to=-1), "accessors -1 is named"),
    "kinds": (part("attributes", SCALE, to=1), f"{SCALE} is VEC4 of f4, which the extension has not"),
    "integer colours": (
        changed("accessors", 4, "componentType", to=5123),
        "is VEC3 of u2, which the extension has not",
    ),
    "wide integers": (changed("accessors", 2, "componentType", to=5125), "is VEC3 of u4"),
    "plain bytes": (changed("accessors", 1, "componentType", to=5120), f"{ROTATION} is VEC4 of i1"),
    "odd type": (changed("accessors", 1, "type", to="MAT4"), "accessor 1 has type 'MAT4'"),
    "odd component": (changed("accessors", 1, "componentType", to=5130), "componentType 5130"),
    "huge": (changed("accessors", 0, "count", to=10**12), "1000000000000 rows need 12000000000000 bytes"),
    "huge without bytes": (changed("accessors", 0, "bufferView", to=None), "accessor 0 has no bufferView"),
    "huger": (changed("accessors", 0, "count", to=10**30), "count '1000000000000000000000000000000' is not a whole"),
    "negative": (changed("accessors", 0, "count", to=-3), "count '-3' is not a whole number"),
    "half": (changed("accessors", 0, "count", to=1.5), "count '1.5' is not a whole number"),
    "fewer": (changed("accessors", 3, "count", to=2), f"{OPACITY} has 2 rows, POSITION has 3"),
    "offset": (changed("accessors", 3, "byteOffset", to=1), "3 rows need 12 bytes where bufferView leaves 11"),
    "view beyond": (changed("bufferViews", 7, "byteLength", to=10**9), "bufferView 7 ends at byte"),
    "view before": (changed("bufferViews", 7, "byteOffset", to=-8), "byteOffset '-8' is not a whole number"),
    "narrow": (changed("bufferViews", 7, "byteStride", to=8), "byteStride 8 is below the 12 bytes of a row"),
    "wide rows": (changed("bufferViews", 7, "byteStride", to=256), "byteStride 256 is above 252"),
    "no buffer": (changed("bufferViews", 7, "buffer", to=1), "buffers 1 is named, there are 1"),
    "sparse twice": (sparse(), "indices of a sparse accessor do not ascend below 9"),
    "sparse beyond": (sparse(count=10), "replaces 10 of 9 rows"),
    "sparse short": (sparse(values={"bufferView": 5, "byteOffset": 4}), "rows need|leaves"),
    "shear": (nodes({"mesh": 0, "scale": [1, 2, 1]}), "splats cannot follow a shear"),
    "flat": (nodes({"mesh": 0, "scale": [0, 0, 0]}), "splats cannot follow a shear"),
    "short matrix": (nodes({"mesh": 0, "matrix": [1.0] * 15}), "a node's matrix is"),
    "perspective": (nodes({"mesh": 0, "matrix": [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}), "last row"),
    "long rotation": (nodes({"mesh": 0, "rotation": [1, 1, 1, 1]}), "is not of unit length"),
    "words": (nodes({"mesh": 0, "translation": "123"}), "a node's translation is 123"),
    "cycle": (nodes({"mesh": 0, "children": [1]}, {"children": [0]}), "node 0 has two parents, or is its own"),
    "own child": (nodes({"mesh": 0, "children": [0]}), "node 0 has two parents, or is its own"),
    "two parents": (nodes({"mesh": 0, "children": [1, 1]}, {}), "node 1 has two parents"),
    "no such node": (nodes({"mesh": 0, "children": [7]}), "nodes 7 is named, there are 1"),
    "no such mesh": (nodes({"mesh": 3}), "meshes 3 is named, there are 1"),
    "instancing": (nodes({"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {}}}), "node 0 is instanced"),
    "many instances": (instanced(5000), "more than 4096 primitives with splats"),
    "many triangles": (crowded(), "more than 4096 primitives with splats, or 1048576 of any kind"),
    "heavy instances": (instanced(4000), "20000000 splats unfold from"),
    "no such scene": (changed("scene", to=1), "scenes 1 is named, there are 1"),
    "list": (changed("nodes", to={}), "nodes are named by '0'"),
    "numbers": (changed("nodes", to=[3]), "nodes 0 is not an object"),
}
BUFFERS = {
    "missing": (with_buffer("gone.bin"), "'gone.bin' beside it: no such file"),
    "above": (with_buffer("../secret.bin"), "'../secret.bin' is not the name of a file beside it"),
    "hidden above": (with_buffer("a/%2e%2e/%2E%2E/secret.bin"), "is not the name of a file beside it"),
    "absolute": (with_buffer("/etc/passwd"), "'/etc/passwd' is not the name"),
    "windows": (with_buffer("C:\\\\secret.bin"), "is not the name of a file"),
    "address": (with_buffer("https://example.com/a.bin"), "is not the name of a file beside it"),
    "file address": (with_buffer("file:///etc/passwd"), "is not the name of a file beside it"),
    "linked": (with_buffer("link.bin"), "'link.bin' is not the name of a file beside it"),
    "folder": (with_buffer("folder"), "'folder' beside it: not a regular file"),
    "nul": (with_buffer("a%00b"), "is not the name of a file beside it"),
    "short": (with_buffer("short.bin"), "buffer 0 promises 300 bytes and has 4"),
    "empty": (with_buffer(""), "neither a uri nor the binary chunk"),
    "own text": (with_buffer("scene.gltf", 10**6), "buffer 0 promises 1000000 bytes and has"),
    "text data": (with_buffer("data:text/plain,hello"), "the data of buffer 0 are not in base64"),
    "bad base64": (with_buffer("data:;base64,AAA%"), FIT),
    "short data": (with_buffer("data:;base64,AAAA"), "buffer 0 promises 300 bytes and has 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, refused, name: str) -> None:
    data, pattern = BAD[name]
    (tmp_path / "scene.glb").write_bytes(data)
    refused(tmp_path / "scene.glb", pattern)


@pytest.mark.parametrize("name", BUFFERS)
def test_refused_buffers(tmp_path: Path, refused, name: str) -> None:
    folder = tmp_path / "scene"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "short.bin").write_bytes(b"1234")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    data, pattern = BUFFERS[name]
    (folder / "scene.gltf").write_bytes(data)
    refused(folder / "scene.gltf", pattern)


def test_a_key_twice(tmp_path: Path, refused) -> None:
    data = simple()[0].embedded().replace(b'"mode": 0', b'"mode": 0, "mode": 0')
    (tmp_path / "scene.gltf").write_bytes(data)
    refused(tmp_path / "scene.gltf", "not valid JSON \\(it gives a key twice")


def test_a_sparse_table_larger_than_its_file(tmp_path: Path, refused) -> None:
    """Centres of zeros but for one would unfold without end."""
    asset, _ = simple(3, 1)
    one = {"bufferView": asset.view(struct.pack("<H", 0)), "componentType": 5123}
    values = {"bufferView": asset.view(bytes(16))}
    for raw in asset.json["accessors"]:
        del raw["bufferView"]
        raw |= {"count": 10**11, "sparse": {"count": 1, "indices": one, "values": values}}
    (tmp_path / "scene.glb").write_bytes(asset.glb())
    refused(tmp_path / "scene.glb", "POSITION is sparse alone")


def test_damaged_bytes(tmp_path: Path, survives) -> None:
    asset, _ = simple(40, 4)
    loaded = failed = 0
    for seed, (name, data) in enumerate((("scene.glb", asset.glb()), ("scene.gltf", asset.embedded()))):
        (tmp_path / name).write_bytes(data)
        for more in range(5):
            one, other = survives(tmp_path / name, 10 * seed + more)
            loaded, failed = loaded + one, failed + other
    assert loaded > 50 and failed > 100


def test_strange_json(tmp_path: Path) -> None:
    """Every value of the JSON replaced by every kind of value: read, or refused in one line."""
    asset, _ = simple(2, 1)
    places = []

    def walk(value, path: tuple) -> None:
        places.append(path)
        for key, child in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(child, (*path, key))

    walk(asset.json, ())
    for path in places[1:]:
        for strange in (None, True, -1, 0, 1.5, 1e300, 10**40, "", "x", [], {}, [None], {"": 1}, [[0]], [0, 0, 0]):
            damaged = Asset()
            damaged.json, damaged.data = copy.deepcopy(asset.json), asset.data
            place = damaged.json
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = strange
            (tmp_path / "scene.glb").write_bytes(damaged.glb())
            for door in (load, about):
                try:
                    door(tmp_path / "scene.glb")
                except InputError as error:
                    assert "\n" not in str(error) and str(error).startswith(str(tmp_path))


# Two splats of one degree, written as .glb by splat-transform 3.7.0 from a .ply, which it turns by half a turn about z.
FOREIGN = (
    "eNqtVs1u00AQtriAeAaQqj27ke0kzk9pk5CmNLTUVRIqQamM425SQ/yj3U1piSzlxLknDpyQuHBCFWdEeuUNOCAhcecNkGDGdimURkRJpdje"
    "mfnmm92d2Z10e62VK5Ikfb4mST+uStLdprExIBbnVJDigOxTxh3fI0WipRQiky71KLOEz0DDg54l5gWzPN7xmTuXTuUAE8qEHgjqoRu/z+ku"
    "KW6TtdWG2bX6nDuWZ0Z+wvG6ZEcm3AZGUlSSEQf0gHj+bjRSdkKAnEoD4lK+B1hUtvudDswtUrcPBV2nXleAUS1oZ+Ythz5LIJEcxUG00elE"
    "C0zEU2ctIxNhsS6a0pmCroXyWFfE/umbn9w1rf3tivKkvnpm+inn81NPuaBPH1bVZthmNTPDglU9/z9nqBXLtinnPvuzUrByLqoW23cD36Oe"
    "aB0GULZZVdNR2fewIoA70pKtWjUNh8V14OBsz6fleSWlZfGdy0I81zpAtZLKyirqtZ2zJcRx1QniqhfHzRA8MMy1es5zPHuC9el5em36ZWXI"
    "ebL0LHt0niwzJVmzWlmvNP6hy17m3PTLJMtdJll+JjKsSLhXkys2YI7rCGc/EeGiZk67L1AckE2jWW/VjY0oRtVYNxqmElXrxfd7sWG0KjFe"
    "G4vB1NWiMhoDMDYr1XrrQVQc4zhWzeXanUatZipm1ait4KyyE6DV32h9crQaZW9StAbpgZboQg+Ldu2sN+KGjumLYHlKmUd7kCTa6zkBpwTz"
    "1/NZM7BszB1n3bbJqJ1TCuaug66HAIFbDAnuUbHnw+EntuVCu152uLA8GzkC5j+htohbegANNEBpn5IwDKHZhnMn8F/gdn0D3tJIkl6X4FuG"
    "H6iHH+E7uvnoVfnNt+ZXGJdj27AUYyWwS6UYNyy9+L62+O76y1s/P31ZSN14u3jEyML7hx+WwAbPY8Adj2K/k6XY7xieOYwJT7kU8yHX0SjG"
    "Y5zhaRwp1qGtnMzzJOFGjuPSLwrYzSM="
)


def test_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "scene.glb").write_bytes(zlib.decompress(base64.b64decode(FOREIGN)))
    scene = load(tmp_path / "scene.glb")
    assert scene.means.tolist() == [[-0.5, 1.25, 2], [-3, -0.25, -0.75]]
    assert scene.quats.tolist() == [[-0.5, 3, 2, 1], [1, -0.125, 0.5, -0.25]]
    assert scene.scales.log().flatten().tolist() == pytest.approx([-3, -4, -5, -2.5, -6, -1], abs=1e-6)
    assert scene.opacities.tolist() == [0.25, 0.875]
    eighths = [[-11, -4, 3], [-10, 6, -1], [8, -8, -1], [-6, 10, 3], [4, 11, -5], [-2, -9, 7], [0, 7, -9], [2, -5, 11]]
    torch.testing.assert_close(scene.sh.reshape(8, 3) * 8, torch.tensor(eighths).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["khr_conformance_matrix.glb", "khr_conformance_matrix.gltf"])
def test_conformance_matrix(shared: Path, name: str) -> None:
    """One splat for each way of storing a number, decoded here from the raw bytes. Its scales are those of a draft."""
    path = shared / "scenes" / "format-fixtures" / name
    if name.endswith("glb"):
        raw, data = parsed(path)
    else:
        raw = json.loads(path.read_text())
        data = base64.b64decode(raw["buffers"][0]["uri"].partition(",")[2])
    scene = load(path)
    assert (len(scene), scene.sh_degree, about(path).splats) == (15, 3, 15)
    codes = {number: code for code, number in TYPES.items()}
    for i, node in enumerate(raw["nodes"][:15]):
        primitive = raw["meshes"][node["mesh"]]["primitives"][0]
        values = {}
        for key, index in primitive["attributes"].items():
            told = raw["accessors"][index]
            code, start = codes[told["componentType"]], raw["bufferViews"][told["bufferView"]]["byteOffset"]
            numbers = struct.unpack_from(f"<{WIDTHS[told['type']]}{code}", data, start)
            values[key] = [max(v / TOPS[code], -1) if told.get("normalized") else v for v in numbers]
        assert scene.means[i].tolist() == [1, 2, 3]
        x, y, z, w = values[ROTATION]
        assert scene.quats[i].tolist() == pytest.approx([w, x, y, z], abs=1e-6)
        assert scene.scales[i].tolist() == pytest.approx([math.exp(v) for v in values[SCALE]], rel=1e-6)
        assert float(scene.opacities[i]) == pytest.approx(values[OPACITY][0], abs=1e-7)
        k = sum("SH_DEGREE" in key for key in values)
        assert (scene.sh[i, k:] == 0).all()
        if primitive["extensions"][KHR]["colorSpace"] == "srgb_rec709_display":
            assert scene.sh[i, 0].tolist() == pytest.approx(values[names(1)[0]], abs=1e-7)
        elif k == 1:
            wanted = [(display(0.5 + C0 * v) - 0.5) / C0 for v in values[names(1)[0]]]
            assert scene.sh[i, 0].tolist() == pytest.approx(wanted, abs=1e-5)
        else:  # harmonics of up to 15: half of all directions are black, which no few coefficients hold well
            directions = np.random.default_rng(1).normal(size=(20_000, 3))
            basis = harmonics(directions / np.linalg.norm(directions, axis=1)[:, None])[:, :k]
            linear = np.maximum(basis @ np.array([values[key] for key in names(k)]) + 0.5, 0)
            wanted = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
            best = basis @ np.linalg.lstsq(basis, wanted - 0.5, rcond=None)[0] + 0.5
            found = basis @ scene.sh[i, :k].double().numpy() + 0.5
            error, least = (np.sqrt(np.mean((values - wanted) ** 2)) for values in (found, best))
            assert error < 1.05 * least + 1e-3
