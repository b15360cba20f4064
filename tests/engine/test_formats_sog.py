"""SOG version 2: small scenes encoded here texel by texel, decoded one splat at a time, against the reader."""

import io
import json
import math
import random
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from lyra.engine.formats.format import About, Reading
from lyra.engine.formats.registry import about, load

N = 50
COEFFICIENTS = {1: 3, 2: 8, 3: 15}
ENTRIES = 330  # of the palette: six rows, and labels of two bytes
Texels = list[tuple[int, ...]]


def image(texels: Texels, width: int, height: int, *, mode: str = "RGBA", kind: str = "WEBP") -> bytes:
    """A lossless image that keeps the colour of transparent texels; what is missing is filled up."""
    texels = texels + [texels[-1]] * (width * height - len(texels))
    picture = Image.new(mode, (width, height))
    picture.putdata([texel[: len(mode)] for texel in texels])
    stream = io.BytesIO()
    picture.save(stream, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def made(bands: int = 0, *, mode: str = "RGB", kind: str = "WEBP", n: int = N) -> tuple[dict, dict[str, bytes], dict]:
    """meta.json, the images, and the raw texels of a scene."""
    rng = random.Random(bands)
    raw: dict = {name: [tuple(rng.randrange(256) for _ in range(4)) for _ in range(n)] for name in ("l", "u", "s", "c")}
    raw["c"][0] = (10, 20, 30, 0)  # transparent, and yet its colour counts
    raw["c"][1] = (10, 20, 30, 255)
    raw["q"] = [(*(rng.randrange(64, 192) for _ in range(3)), 252 + i % 4) for i in range(n)]
    meta = {
        "version": 2,
        "count": n,
        "means": {"mins": [-2.0, -1.0, 0.5], "maxs": [1.0, 3.0, 0.75], "files": ["a.webp", "b.webp"]},
        "scales": {"codebook": [-8 + i / 64 for i in range(256)], "files": ["c.webp"]},
        "quats": {"files": ["d.webp"]},
        "sh0": {"codebook": [(i - 100) / 50 for i in range(256)], "files": ["e.webp"]},
        "future": {"ignored": True},
    }
    width, height = 8, -(-n // 8)
    images = {
        "a.webp": image(raw["l"], width, height, mode=mode, kind=kind),
        "b.webp": image(raw["u"], width, height, mode=mode, kind=kind),
        "c.webp": image(raw["s"], width, height, mode=mode, kind=kind),
        "d.webp": image(raw["q"], width, height, kind=kind),
        "e.webp": image(raw["c"], width, height, kind=kind),
    }
    if bands:
        k = COEFFICIENTS[bands]
        raw["p"] = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(6 * 64 * k)]
        raw["i"] = [rng.randrange(ENTRIES) for _ in range(n)]
        raw["i"][0] = ENTRIES - 1
        labels = [(label & 255, label >> 8, 0, 255) for label in raw["i"]]
        images["f.webp"] = image(raw["p"], 64 * k, 6, mode="RGB", kind=kind)
        images["g.webp"] = image(labels, width, height, mode="RGB", kind=kind)
        codebook = [(i - 128) / 40 for i in range(256)]
        meta["shN"] = {"count": ENTRIES, "bands": bands, "codebook": codebook, "files": ["f.webp", "g.webp"]}
    return meta, images, raw


def write_folder(folder: Path, meta: dict, images: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return folder


def write_bundle(path: Path, meta: dict, images: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**images, "meta.json": json.dumps(meta).encode()}.items():
            archive.writestr(name, data)
    return path


def check(scene, meta: dict, raw: dict) -> None:
    """Every splat, decoded here with Python's own numbers."""
    assert len(scene) == meta["count"]
    for tensor in scene.tensors().values():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    for i in range(meta["count"]):
        for axis in range(3):
            low, high = meta["means"]["mins"][axis], meta["means"]["maxs"][axis]
            log = low + (high - low) * (raw["l"][i][axis] + 256 * raw["u"][i][axis]) / 65535
            position = math.copysign(math.exp(abs(log)) - 1, log)
            assert float(scene.means[i, axis]) == pytest.approx(position, rel=1e-5, abs=1e-6)
            scale = math.exp(meta["scales"]["codebook"][raw["s"][i][axis]])
            assert float(scene.scales[i, axis]) == pytest.approx(scale, rel=1e-5)
            assert float(scene.sh[i, 0, axis]) == pytest.approx(meta["sh0"]["codebook"][raw["c"][i][axis]], abs=1e-6)
        assert float(scene.opacities[i]) == pytest.approx(raw["c"][i][3] / 255, abs=1e-6)
        quat = [(u / 255 * 2 - 1) / math.sqrt(2) for u in raw["q"][i][:3]]
        quat.insert(raw["q"][i][3] - 252, math.sqrt(1 - sum(v * v for v in quat)))
        assert scene.quats[i].tolist() == pytest.approx(quat, abs=1e-5)
    if "shN" in meta:
        k = COEFFICIENTS[meta["shN"]["bands"]]
        assert scene.sh.shape[1] == k + 1
        for i, label in enumerate(raw["i"]):
            for j in range(k):
                texel = raw["p"][(label // 64) * 64 * k + (label % 64) * k + j]
                expected = [meta["shN"]["codebook"][u] for u in texel]
                assert scene.sh[i, 1 + j].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bands", [0, 1, 2, 3])
def test_every_field(tmp_path: Path, bands: int) -> None:
    meta, images, raw = made(bands)
    check(load(write_folder(tmp_path / "folder", meta, images)), meta, raw)
    check(load(tmp_path / "folder" / "meta.json"), meta, raw)
    check(load(write_bundle(tmp_path / "scene.sog", meta, images)), meta, raw)


def test_other_containers_and_images(tmp_path: Path) -> None:
    meta, images, raw = made(1)
    check(load(write_bundle(tmp_path / "scene.zip", meta, images, zipfile.ZIP_DEFLATED)), meta, raw)
    meta, images, raw = made(1, mode="RGBA", kind="PNG")
    check(load(write_folder(tmp_path / "png", meta, images)), meta, raw)


def test_an_image_without_alpha_is_opaque(tmp_path: Path) -> None:
    meta, images, raw = made()
    raw["q"] = [(*texel[:3], 255) for texel in raw["q"]]
    raw["c"] = [(*texel[:3], 255) for texel in raw["c"]]
    images["d.webp"] = image(raw["q"], 8, 7, mode="RGB")
    images["e.webp"] = image(raw["c"], 8, 7, mode="RGB")
    check(load(write_folder(tmp_path / "folder", meta, images)), meta, raw)


def test_a_short_codebook_drops_what_it_lacks(tmp_path: Path) -> None:
    meta, images, raw = made()
    meta["scales"]["codebook"] = meta["scales"]["codebook"][:250]
    lost = sum(max(texel[:3]) >= 250 for texel in raw["s"])
    assert 0 < lost < N
    with pytest.warns(UserWarning, match=f"dropped {lost} of {N}"):
        assert len(load(write_folder(tmp_path / "folder", meta, images))) == N - lost


def test_what_meta_says_beside_the_splats(tmp_path: Path) -> None:
    meta, images, _ = made()
    assert about(write_folder(tmp_path / "folder", meta, images)) == About("SOG version 2", N)
    for change in ({"antialias": True}, {"model": "antialiased"}):
        assert about(write_folder(tmp_path / "folder", meta | change, images)).antialiased
    for change in ({"antialias": False}, {"antialias": "no"}, {"model": "2dgs"}, {"model": ["antialiased"]}):
        assert not about(write_folder(tmp_path / "folder", meta | change, images)).antialiased
    told = about(write_folder(tmp_path / "folder", meta | {"lyra": {"a": "b\nc", "d": [1.5]}}, images))
    assert told.note == '{"a": "b\\nc", "d": [1.5]}'
    assert about(write_folder(tmp_path / "folder", meta | {"lyra": "text"}, images)).note is None


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta, images, raw = made(1)
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 16)
    folder = write_folder(tmp_path / "folder", meta, images)
    check(load(folder, Reading(progress=lambda *at: told.append(at))), meta, raw)
    assert told == [(16, N), (32, N), (48, N), (50, N)]


def test_the_index_of_a_streamed_sog_under_another_name(tmp_path: Path, refused) -> None:
    (tmp_path / "scene.json").write_text(json.dumps({"lodLevels": 1, "filenames": ["1_0/meta.json"], "tree": {}}))
    refused(tmp_path / "scene.json", "the index of a streamed SOG, name it lod-meta.json")


CHANGES = {
    "version 1": ({"version": None}, "SOG version 1 or older|SOG version None, only 2 is read"),
    "version 3": ({"version": 3}, "SOG version 3, only 2 is read: convert it with splat-transform"),
    "count text": ({"count": "50"}, "count 50 is not a positive integer"),
    "count zero": ({"count": 0}, "count 0 is not a positive integer"),
    "count absurd": ({"count": 10**12}, "a.webp has .* bytes, far too few for the count"),
    "count above": ({"count": 57}, "a.webp has 8x7 texels, expected 57 splats"),
    "no means": ({"means": None}, "meta.json does not fit SOG"),
    "mins": ({"means": {"mins": [0, 1], "maxs": [1, 1, 1], "files": ["a.webp", "b.webp"]}}, "2 numbers where 3 belong"),
    "one file": ({"means": {"mins": [0] * 3, "maxs": [1] * 3, "files": ["a.webp"]}}, "names fewer than 2 images"),
    "outside": ({"quats": {"files": ["../d.webp"]}}, "is not a plain file name"),
    "absolute": ({"quats": {"files": ["/etc/passwd"]}}, "is not a plain file name"),
    "absent": ({"quats": {"files": ["z.webp"]}}, "z.webp"),
    "long codebook": ({"scales": {"codebook": [0] * 257, "files": ["c.webp"]}}, "a codebook of 257 numbers"),
    "bands": ({"shN": {"count": 1, "bands": 4, "codebook": [0], "files": ["f.webp", "g.webp"]}}, "bands 4 is not 1"),
    "palette": ({"shN": {"count": 65537, "bands": 1, "codebook": [0], "files": ["f", "g"]}}, "65537 is above 65536"),
    "narrow": (
        {"shN": {"count": 9, "bands": 3, "codebook": [0], "files": ["f.webp", "g.webp"]}},
        "192x6 texels, 9 entr",
    ),
    "label": ({"shN": {"count": 329, "bands": 1, "codebook": [0], "files": ["f.webp", "g.webp"]}}, "entry 329 of 329"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("bundled", [False, True])
def test_refused_meta(tmp_path: Path, refused, name: str, bundled: bool) -> None:
    change, pattern = CHANGES[name]
    meta, images, _ = made(1)
    meta.update(change)
    path = tmp_path / "scene.sog"
    tracemalloc.start()
    refused(write_bundle(path, meta, images) if bundled else write_folder(path, meta, images), pattern)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def claimed(width: int, height: int) -> bytes:
    """The head of a lossless WebP that claims a size, and nothing after it."""
    body = b"VP8L" + struct.pack("<IBI", 14, 0x2F, (width - 1) | (height - 1) << 14) + bytes(9)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


IMAGES = {
    "garbage": ("a.webp", b"no image at all", "a.webp is not a readable image"),
    "empty": ("a.webp", b"", "a.webp"),
    "truncated": ("c.webp", made()[1]["c.webp"][:-60], "c.webp is not a readable image|c.webp is a damaged image"),
    "other size": ("c.webp", image([(1, 2, 3)], 4, 14, mode="RGB"), "4x14 texels, expected 8x7 for 50 splats"),
    "bomb": ("a.webp", claimed(9600, 9600), "9600x9600 texels, expected 50 splats"),
    "huge bomb": ("a.webp", claimed(16383, 16383), "a.webp is not a readable image"),
    "tag": ("d.webp", image([(1, 2, 3, 17)], 8, 7), "d.webp has alpha 17, below 252"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_refused_images(tmp_path: Path, refused, name: str) -> None:
    file, data, pattern = IMAGES[name]
    meta, images, _ = made()
    images[file] = data
    bundle = write_bundle(tmp_path / "scene.sog", meta, images)
    refused(bundle, pattern)


def test_refused_containers(tmp_path: Path, refused) -> None:
    meta, images, _ = made()
    bundle = write_bundle(tmp_path / "scene.sog", meta, images)
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[: len(whole) // 2])
    refused(bundle, "not a readable .sog archive .*fetch or export it again")
    place = whole.index(images["c.webp"]) + 30
    bundle.write_bytes(whole[:place] + b"12345678" + whole[place + 8 :])
    refused(bundle, "not a readable .sog archive .*CRC")
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(bundle, "no meta.json at the root of the archive")
    folder = write_folder(tmp_path / "folder", meta, images)
    for text, pattern in [("{", "not JSON"), ('{"a":' * 100_000, "not JSON"), ("{}", "SOG version 1 or older")]:
        (folder / "meta.json").write_text(text)
        refused(folder, pattern)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, refused) -> None:
    meta, images, _ = made()
    images["a.webp"] = bytes(40 << 20)
    bundle = write_bundle(tmp_path / "scene.sog", meta, images, zipfile.ZIP_DEFLATED)
    del images
    tracemalloc.start()
    refused(bundle, "a.webp is far larger than the archive")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_damaged_bundle(tmp_path: Path, survives) -> None:
    loaded, failed = survives(write_bundle(tmp_path / "scene.sog", *made(1)[:2]), 3)
    assert loaded + failed == 60 and failed > 10


def test_damaged_folder(tmp_path: Path, survives) -> None:
    loaded, failed = survives(write_folder(tmp_path / "folder", *made(1)[:2]), 4)
    assert loaded > 20 and failed > 100


@pytest.mark.parametrize(
    ("name", "n", "degree"), [("st-peter.sog", 133618, 0), ("playbot/0_0", 500000, 2), ("playbot/6_0", 1873, 2)]
)
def test_real_scenes(shared: Path, name: str, n: int, degree: int) -> None:
    scene = load(shared / "scenes" / name)
    assert (len(scene), scene.sh_degree) == (n, degree)
    assert float((scene.quats.norm(dim=1) - 1).abs().max()) < 1e-5
    assert float((scene.means[1:] - scene.means[:-1]).norm(dim=1).median()) < 0.1  # Morton order: neighbours are near
    assert 0.1 < float(scene.opacities.mean()) < 0.95


def test_levels_of_a_real_scene_show_one_thing(shared: Path, tmp_path: Path) -> None:
    """The bounds in lod-meta.json, written by another program, hold for the decoded centres."""
    folder = shared / "scenes" / "playbot"
    bound = json.loads((folder / "lod-meta.json").read_text())["tree"]["bound"]
    for level in ("3_0", "5_0"):
        shutil.copytree(folder / level, tmp_path / level)
        scene = load(tmp_path / level)
        reach = 3 * scene.scales.max()
        assert (scene.means >= torch.tensor(bound["min"]) - reach).all()
        assert (scene.means <= torch.tensor(bound["max"]) + reach).all()
        middle = (scene.means.amin(0) + scene.means.amax(0)) / 2
        assert middle.tolist() == pytest.approx([(a + b) / 2 for a, b in zip(*bound.values(), strict=True)], abs=0.1)
