"""Streamed SOG: small trees written here over SOGs whose splats are known, and a real one against its parts."""

import copy
import json
import random
import resource
import time
import zipfile
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.format import About, Reading
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians

COUNTS = {"0_0": 40, "0_1": 30, "1_0": 20}
BOUND = {"min": [0, 0, 0], "max": [1, 1, 1]}


def made(n: int, degree: int, seed: int) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=generator),
        quats=torch.randn(n, 4, generator=generator),
        scales=torch.rand(n, 3, generator=generator),
        opacities=torch.rand(n, generator=generator),
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=generator),
    )


def span(file: int, offset: int, count: int) -> dict[str, int]:
    return {"file": file, "offset": offset, "count": count}


def index() -> dict:
    """Two levels in three files; the first has its ranges in an order of its own."""
    return {
        "version": 1,
        "asset": {"generator": "by hand"},
        "count": 90,
        "counts": [70, 20],
        "lodLevels": 2,
        "filenames": ["0_0/meta.json", "1_0/meta.json", "0_1/meta.json"],
        "tree": {
            "bound": BOUND,
            "children": [
                {"bound": BOUND, "lods": {"0": span(2, 0, 25), "1": span(1, 0, 12)}},
                {
                    "bound": BOUND,
                    "children": [
                        {"bound": BOUND, "lods": {"0": span(0, 10, 30)}},
                        {"bound": BOUND, "lods": {"1": span(1, 12, 8), "0": span(0, 0, 10)}, "errors": [0, 0.5]},
                        {"bound": BOUND, "lods": {"0": span(2, 25, 5)}},
                    ],
                },
            ],
        },
    }


def write(folder: Path, raw: dict | str, degree: int = 1) -> Path:
    """The index, and its files unless they are there."""
    folder.mkdir(exist_ok=True)
    for seed, (name, count) in enumerate(COUNTS.items()):
        if not (folder / name).exists():
            save(made(count, degree, seed), folder / name / "meta.json")
    (folder / "lod-meta.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return folder


def same(scene: Gaussians, *parts: Gaussians) -> None:
    for name, tensor in scene.tensors().items():
        assert tensor.dtype == torch.float32 and tensor.is_contiguous()
        assert torch.equal(tensor, torch.cat([part.tensors()[name] for part in parts])), name


def test_levels_in_tree_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "scene", index())
    a, b, c = (load(folder / name) for name in ("0_0", "0_1", "1_0"))
    for path in (folder, folder / "lod-meta.json"):
        assert about(path) == About("streamed SOG", 70, levels=2)
        same(load(path), *(b.select(slice(25)), a.select(slice(10, 40)), a.select(slice(10)), b.select(slice(25, 30))))
        same(load(path, Reading(level=1)), c)
    for level in (2, -1):
        with pytest.raises(InputError, match=f"level {level} is out of range, it has 2: give 0 to 1"):
            load(folder, Reading(level=level))


def test_an_older_index_and_one_with_an_environment(tmp_path: Path) -> None:
    raw = {key: value for key, value in index().items() if key in ("lodLevels", "filenames", "tree")}
    folder = write(tmp_path / "scene", raw | {"environment": None})
    assert about(folder) == About("streamed SOG", 70, levels=2)
    save(made(9, 0, 7), folder / "env" / "meta.json")
    plain = {level: load(folder, Reading(level=level)) for level in (0, 1)}
    write(folder, index() | {"environment": "env/meta.json"})
    assert about(folder) == About("streamed SOG", 79, levels=2)
    environment = load(folder / "env")
    for level, scene in plain.items():  # fewer SH than the rest: zeros
        both = load(folder, Reading(level=level))
        same(both.select(slice(len(scene))), scene)
        assert torch.equal(both.means[len(scene) :], environment.means)
        assert torch.equal(both.sh[len(scene) :, :1], environment.sh) and not both.sh[len(scene) :, 1:].any()


def test_files_may_be_bundles_in_deep_folders(tmp_path: Path) -> None:
    raw = index() | {"filenames": ["0_0/meta.json", "a/b/c.sog", "0_1"]}
    folder = write(tmp_path / "scene", raw)
    (folder / "a" / "b").mkdir(parents=True)
    save(made(20, 1, 2), folder / "a" / "b" / "c.sog")
    same(load(folder, Reading(level=1)), load(folder / "1_0"))
    assert len(load(folder)) == 70


def test_a_folder_with_both_is_a_plain_scene(tmp_path: Path) -> None:
    folder = write(tmp_path / "scene", index())
    save(made(5, 0, 0), folder / "meta.json")
    assert about(folder).kind == "SOG version 2" and len(load(folder)) == 5
    assert about(folder / "lod-meta.json").kind == "streamed SOG"


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    folder = write(tmp_path / "scene", index())
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 16)
    load(folder, Reading(progress=lambda *at: told.append(at)))
    assert told == sorted(told) and told[-1] == (70, 70) and len(told) == 6


def changed(path: str, value: object) -> dict:
    """The index with one place of it replaced, such as tree/children/0."""
    raw = copy.deepcopy(index())
    *way, last = path.split("/")
    place = raw
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = value
    return raw


LEAF = "tree/children/0/lods/0"
CASES: dict[str, tuple[dict | str, str]] = {
    "no json": ("{", "lod-meta.json is not JSON"),
    "deep json": ('{"a":' * 100_000, "lod-meta.json is not JSON"),
    "version": (changed("version", 2), "streamed SOG version 2, only 1 is read"),
    "no tree": ({"lodLevels": 1, "filenames": []}, r"does not fit streamed SOG \(no 'tree'\)"),
    "tree is text": (changed("tree", "leaf"), "does not fit streamed SOG"),
    "child is null": (changed("tree/children/0", None), "does not fit streamed SOG"),
    "children is a number": (changed("tree/children", 5), "does not fit streamed SOG"),
    "lods is a list": (changed("tree/children/0/lods", [1]), "does not fit streamed SOG"),
    "range is a list": (changed(LEAF, [1]), "does not fit streamed SOG"),
    "no levels": (changed("lodLevels", 0), "lodLevels 0 is not a positive integer"),
    "levels true": (changed("lodLevels", True), "lodLevels True is not a positive integer"),
    "many levels": (changed("lodLevels", 10**9), "lodLevels 1000000000 is above 64"),
    "level beyond": (changed("tree/children/0/lods", {"2": span(0, 0, 1)}), "level '2' of 2"),
    "level negative": (changed("tree/children/0/lods", {"-1": span(0, 0, 1)}), "level '-1' of 2"),
    "level padded": (changed("tree/children/0/lods", {"00": span(0, 0, 1)}), "level '00' of 2"),
    "empty level": (changed("lodLevels", 3) | {"counts": None}, "level 2 is empty"),
    "counts": (changed("counts", [71, 20]), "level 0 has 70 splats where counts says 71"),
    "counts short": (changed("counts", [70]), "counts .70. for 2 levels"),
    "file beyond": (changed(LEAF, span(3, 0, 25)), "file 3 of 3"),
    "file negative": (changed(LEAF, span(-1, 0, 25)), "file -1 is not a non-negative integer"),
    "file true": (changed(LEAF, {"file": True, "offset": 0, "count": 1}), "file True is not"),
    "offset negative": (changed(LEAF, span(2, -5, 25)), "offset -5 is not a non-negative integer"),
    "count negative": (changed(LEAF, span(2, 0, -25)), "count -25 is not a non-negative integer"),
    "count float": (changed(LEAF, {"file": 2, "offset": 0, "count": 2.5}), "count 2.5 is not"),
    "twice": (changed(LEAF, span(2, 0, 26)), "level 0 names splat 25 of 0_1/meta.json twice"),
    "same name": (changed("filenames", ["0_0/meta.json"] * 3), "a file is named twice"),
    "many files": (changed("filenames", [f"{i}/meta.json" for i in range(5000)]), "5000 files, more than 4096"),
    "name is a number": (changed("filenames/0", 5), "'5' leads out of the folder or is no file name"),
    "environment is a number": (changed("environment", 5), "'5' leads out of the folder or is no file name"),
}
for name in ("../x/meta.json", "/etc/passwd", "a/../../b", "C:/x", "a\\..\\b", "a//b", "", "./a", "a\0b", "a\nb"):
    CASES[f"outside {name!r}"] = (changed("filenames/1", name), "leads out of the folder or is no file name")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("streamed") / "scene", index())


@pytest.mark.parametrize("name", CASES)
def test_refused_index(files: Path, refused, name: str) -> None:
    raw, pattern = CASES[name]
    refused(write(files, raw) / "lod-meta.json", pattern)


def test_refused_files(files: Path, refused) -> None:
    for raw, pattern in [
        (changed("tree/children/1/children/2/lods/0", span(2, 26, 5)) | {"counts": None}, "26 to 31 of 0_1/meta.json"),
        (changed("filenames/2", "lod-meta.json"), "lod-meta.json: the index of a streamed SOG"),
        (changed("filenames/2", "absent/meta.json"), "absent/meta.json: no such file"),
        (index() | {"environment": "nothing/meta.json"}, "nothing/meta.json: no such file"),
    ]:
        refused(write(files, raw), pattern)


def test_a_deep_tree(files: Path) -> None:
    """As deep as JSON is read at all: no call for each level."""
    tree: dict = {"lods": {"0": span(0, 0, 40), "1": span(1, 0, 20)}}
    for _ in range(400):
        tree = {"children": [tree]}
    raw = {"lodLevels": 2, "filenames": index()["filenames"], "tree": tree}
    assert len(load(write(files, raw))) == 40


def test_many_ranges_are_read_in_time(files: Path) -> None:
    """Forty thousand leaves, as a large city has; and so many overlapping ones are refused as fast."""
    leaves = [{"lods": {"0": span(0, i % 40, int(i < 40)), "1": span(1, 0, int(i == 0))}} for i in range(40_000)]
    raw = {"lodLevels": 2, "filenames": index()["filenames"], "tree": {"children": leaves}}
    start = time.process_time()
    assert len(load(write(files, raw))) == 40
    raw["tree"] = {"children": [{"lods": {"0": span(0, 0, 40)}}] * 40_000}
    with pytest.raises(InputError, match="level 0 names splat 0 of 0_0/meta.json twice"):
        load(write(files, raw))
    assert time.process_time() - start < 10


def test_counts_without_bytes_are_not_allocated(tmp_path: Path, refused) -> None:
    """Two hundred files that claim a million splats each, with images of a few hundred bytes."""
    folder, n = tmp_path / "scene", 1 << 20
    save(made(50, 0, 0), folder.with_name("small.sog"))
    with zipfile.ZipFile(folder.with_name("small.sog")) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["meta.json"] = json.dumps(json.loads(parts["meta.json"]) | {"count": n}).encode()
    for file in range(200):
        (folder / str(file)).mkdir(parents=True)
        for name, data in parts.items():
            (folder / str(file) / name).write_bytes(data)
    leaves = [{"lods": {"0": span(file, 0, n)}} for file in range(200)]
    raw = {"lodLevels": 1, "filenames": [f"{i}/meta.json" for i in range(200)], "tree": {"children": leaves}}
    (folder / "lod-meta.json").write_text(json.dumps(raw))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, "lod-meta.json: 209715200 splats are far too many for the size of its images")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


def test_a_huge_index_is_not_read(tmp_path: Path, refused) -> None:
    with (tmp_path / "lod-meta.json").open("wb") as stream:
        stream.write(b"{")
        stream.truncate((64 << 20) + 1)
    refused(tmp_path, "lod-meta.json: has 67108865 bytes, more than 67108864 are not read")


def test_damaged_index(files: Path, survives) -> None:
    loaded, failed = survives(write(files, index()) / "lod-meta.json", 5)
    assert loaded + failed == 60 and failed > 20


def test_index_of_random_json(files: Path) -> None:
    """Any value in any place of the index ends in a scene or in one line."""
    rng = random.Random(0)
    values = [None, True, -1, 0, 1, 10**30, 1.5, float("inf"), "", "0", "..", [], [[]], {}, {"0": {}}, [None], "x" * 99]
    outcomes = set()
    for _ in range(300):
        raw: dict = index()
        place: dict | list = raw
        while True:
            key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]  # type: ignore[index]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
                break
            place = inner
        place[key] = rng.choice(values)  # type: ignore[index]
        try:
            load(write(files, raw))
            outcomes.add("loaded")
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


def test_a_real_scene(shared: Path) -> None:
    folder = shared / "scenes" / "playbot"
    assert about(folder) == About("streamed SOG", 500_000, levels=7)
    for level in (0, 3, 6):
        same(load(folder, Reading(level=level)), load(folder / f"{level}_0"))
