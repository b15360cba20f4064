""".ksplat: sections packed here bucket by bucket, decoded one splat at a time, against the reader."""

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
import torch

from lyra.engine.formats.registry import about, load

C0 = 0.28209479177387814
KINDS = {0: ("f", "f", "f"), 1: ("H", "e", "e"), 2: ("H", "e", "B")}  # position, scale and rotation, SH
DEGREES = {0: (), 1: (3,), 2: (3, 5), 3: (3, 5, 7)}


def made(mode: int, degree: int, sizes: list[int], capacity: int, *, seed: int = 1, **fields) -> dict:
    """A section: `sizes` are the splats of each bucket, full ones first."""
    rng = random.Random(seed)
    full = next((i for i, size in enumerate(sizes) if size != capacity), len(sizes))
    centres = [[rng.randrange(-512, 512) / 8 for _ in range(3)] for _ in sizes]
    splats = []
    for bucket, size in enumerate(sizes):
        for _ in range(size):
            position = [rng.randrange(65536) if mode else rng.randrange(-999, 999) / 16 for _ in range(3)]
            scale, quat = [rng.randrange(1, 99) / 64 for _ in range(3)], [rng.randrange(1, 99) / 64 for _ in range(4)]
            harmonics = [rng.randrange(256) / (1 if mode == 2 else 128) for _ in range(3 * sum(DEGREES[degree]))]
            harmonics = [int(v) for v in harmonics] if mode == 2 else harmonics
            splats.append((bucket, position, scale, quat, list(rng.randbytes(4)), harmonics))
    return {
        **{"splats": splats, "room": len(splats), "capacity": capacity, "full": full, "partial": sizes[full:]},
        **{"centres": centres, "centre_size": 12, "side": 5.0, "reach": 32767, "degree": degree},
        **fields,
    }


def packed(mode: int, sections: list[dict], *, low=0.0, high=0.0, version=(0, 1), count=None, room=None) -> bytes:
    position, float_kind, harmonics = KINDS[mode]
    total = sum(len(section["splats"]) for section in sections) if count is None else count
    numbers = *version, room or len(sections), 0, 0, total, mode, low, high
    head = struct.pack("<BB2xIIIIH2x12xff", *numbers).ljust(4096, b"\0")
    body = b""
    for section in sections:
        numbers = len(section["splats"]), section["room"], section["capacity"], len(section["centres"])
        buckets = section["full"], len(section["partial"])
        fields = *numbers, section["side"], section["centre_size"], section["reach"], 0, *buckets, section["degree"]
        head += struct.pack("<IIIIfH2xIIIIH", *fields).ljust(1024, b"\0")
        body += struct.pack(f"<{len(section['partial'])}I", *section["partial"])
        for centre in section["centres"]:
            body += struct.pack("<3f", *centre).ljust(section["centre_size"], b"\0")
        rows = b""
        for _, means, scale, quat, color, sh in section["splats"]:
            rows += struct.pack(f"<3{position}7{float_kind}4B{len(sh)}{harmonics}", *means, *scale, *quat, *color, *sh)
        width = len(rows) // max(1, len(section["splats"]))
        body += rows + bytes(width * (section["room"] - len(section["splats"])))
    return head + body


def check(path: Path, mode: int, sections: list[dict], low: float = -1.5, high: float = 1.5) -> None:
    scene, i = load(path), 0
    degree = max(section["degree"] for section in sections)
    assert (about(path).splats, scene.sh_degree) == (len(scene), degree)
    for tensor in scene.tensors().values():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    for section in sections:
        for bucket, means, scale, quat, color, sh in section["splats"]:
            if mode:
                step, reach = section["side"] / 2 / (section["reach"] or 32767), section["reach"] or 32767
                means = [(u - reach) * step + c for u, c in zip(means, section["centres"][bucket], strict=True)]
            assert scene.means[i].tolist() == pytest.approx(means, rel=1e-6, abs=1e-6)
            assert scene.scales[i].tolist() == scale
            assert scene.quats[i].tolist() == quat
            assert scene.sh[i, 0].tolist() == pytest.approx([(u / 255 - 0.5) / C0 for u in color[:3]], abs=1e-6)
            assert float(scene.opacities[i]) == pytest.approx(color[3] / 255, abs=1e-7)
            if mode == 2:
                sh = [low + u / 255 * (high - low) for u in sh]
            expected = [[], [], []]  # by channel
            for width in DEGREES[section["degree"]]:
                for channel in expected:
                    channel += sh[:width]
                    sh = sh[width:]
            rest = scene.sh[i, 1:].T.tolist()
            for channel, values in zip(expected, rest, strict=True):
                assert values == pytest.approx(channel + [0.0] * (len(values) - len(channel)), abs=1e-6)
            i += 1
    assert i == len(scene)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("mode", KINDS)
def test_every_field(tmp_path: Path, mode: int, degree: int) -> None:
    section = made(mode, degree, [16, 16, 5, 1, 9], 16)
    (tmp_path / "scene.ksplat").write_bytes(packed(mode, [section]))
    check(tmp_path / "scene.ksplat", mode, [section])
    assert about(tmp_path / "scene.ksplat").kind == f".ksplat 0.1, mode {mode}"


@pytest.mark.parametrize("mode", KINDS)
def test_sections_of_several_kinds(tmp_path: Path, mode: int) -> None:
    """Degrees, room left over, empty sections and partial buckets, a section of nothing but full ones, odd reaches."""
    sections = [
        made(mode, 1, [8, 8, 8], 8, seed=2),
        made(mode, 0, [3, 0, 2], 256, seed=3, room=9, side=0.25),
        made(mode, 2, [], 256, seed=4),
        made(mode, 2, [7], 256, seed=5, reach=0, side=80.0),
        made(mode, 0, [256, 1], 256, seed=6, reach=1000),
    ]
    (tmp_path / "scene.ksplat").write_bytes(packed(mode, sections, low=-0.5, high=2.0) + b"what follows")
    check(tmp_path / "scene.ksplat", mode, sections, -0.5, 2.0)


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 3000])
def test_sizes(tmp_path: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks end within buckets."""
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 100)
    sections = [made(1, 1, [*[256] * (n // 256), n % 256][: -1 if n % 256 == 0 else None], 256)]
    (tmp_path / "scene.ksplat").write_bytes(packed(1, sections))
    check(tmp_path / "scene.ksplat", 1, sections)


def test_mode_0_may_have_buckets_that_mean_nothing(tmp_path: Path) -> None:
    section = made(0, 1, [4, 3], 4, centre_size=20)
    (tmp_path / "scene.ksplat").write_bytes(packed(0, [section]))
    check(tmp_path / "scene.ksplat", 0, [section])


def test_what_is_not_finite_is_dropped(tmp_path: Path) -> None:
    section = made(1, 1, [5], 256)
    section["splats"][1][2][0] = float("inf")
    section["splats"][3][5][4] = float("nan")
    (tmp_path / "scene.ksplat").write_bytes(packed(1, [section]))
    with pytest.warns(UserWarning, match="dropped 2 of 5"):
        assert len(load(tmp_path / "scene.ksplat")) == 3


SECTION = made(1, 1, [4, 4, 3, 2], 4)
GOOD = packed(1, [SECTION])


def patched(place: int, kind: str, value: int) -> bytes:
    return GOOD[:place] + struct.pack(f"<{kind}", value) + GOOD[place + struct.calcsize(kind) :]


BAD = {
    "text": (b"no scene at all " * 400, "not a scene"),
    "header": (GOOD[:4095], "4095 bytes are less than a header"),
    "major": (packed(1, [SECTION], version=(1, 0)), "version 1.0, only 0.1 and up are read"),
    "minor": (packed(1, [SECTION], version=(0, 0)), "version 0.0, only 0.1 and up are read"),
    "mode": (patched(20, "H", 3), "compression mode 3, only 0, 1 and 2 are known"),
    "degree": (packed(1, [{**SECTION, "degree": 4}]), "section 0 has SH degree 4, only 0 to 3"),
    "no splats": (packed(1, [SECTION], count=0), "holds 0 splats in 1 sections, the scene is empty"),
    "no sections": (packed(1, []), "holds 0 splats in 0 sections"),
    "many sections": (packed(1, [SECTION], room=4_000_000_000), "4000000000 sections need .* bytes of headers"),
    "fewer": (packed(1, [SECTION], count=14), "14 splats in its header, 13 in its sections"),
    "huge": (packed(1, [SECTION], count=4_000_000_000), "4000000000 splats in its header, 13 in its sections"),
    "truncated": (GOOD[:-1], "section 0 is truncated, 13 splats in room for 13 up to byte"),
    "room": (patched(4096 + 4, "I", 4_000_000_000), "section 0 is truncated, 13 splats in room for 4000000000"),
    "little room": (patched(4096 + 4, "I", 12), "section 0 is truncated, 13 splats in room for 12"),
    "capacity": (packed(1, [{**SECTION, "capacity": 3}]), "section 0 has 13 splats and buckets for 11"),
    "full": (packed(1, [{**SECTION, "full": 4_000_000_000}]), "4000000000 full and 2 partial buckets, 4 centres"),
    "centres": (packed(1, [{**SECTION, "centre_size": 16}]), "4 centres of 16 bytes, expected one of 12 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, refused, name: str) -> None:
    data, pattern = BAD[name]
    (tmp_path / "scene.ksplat").write_bytes(data)
    tracemalloc.start()
    refused(tmp_path / "scene.ksplat", pattern)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("mode", KINDS)
def test_damaged_bytes(tmp_path: Path, survives, mode: int) -> None:
    """Most bytes of a small file are unused header; those that are used come first and get half of the damage."""
    (tmp_path / "scene.ksplat").write_bytes(packed(mode, [made(mode, 1, [40, 40, 20], 40), made(mode, 0, [7], 9)]))
    loaded, failed = survives(tmp_path / "scene.ksplat", 6)
    assert loaded > 20 and failed > 5


@pytest.mark.parametrize("mode", KINDS)
def test_every_damaged_header_byte(tmp_path: Path, refused, mode: int) -> None:
    """Each byte of the fields set to 255 in turn: read or refused in a line, never anything else."""
    from lyra.engine.errors import InputError

    whole, outcomes = packed(mode, [made(mode, 1, [4, 4, 3], 4)]), set()
    for place in [*range(44), *range(4096, 4096 + 42)]:
        (tmp_path / "scene.ksplat").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            outcomes.add(len(load(tmp_path / "scene.ksplat")))
        except InputError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {11, "refused"}
