import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lyra.engine.cli import main
from lyra.engine.commands import redact as command
from lyra.engine.formats import ply, registry
from lyra.engine.formats.format import Format, Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.privacy.check import left_inside
from lyra.engine.privacy.cut import reaching
from lyra.engine.renderer import render
from lyra.engine.scene.camera import look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.provenance import Source, provenance_of, read_note, write_note
from lyra.engine.scene.regions import Box

REGION = Box((-0.4, -0.4, -0.4), (0.4, 0.4, 0.4))
TEXT = "box: -0.4,-0.4,-0.4,0.4,0.4,0.4"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    scene = Gaussians(
        torch.rand(500, 3, generator=random) * 2 - 1,
        torch.randn(500, 4, generator=random),
        0.02 + 0.08 * torch.rand(500, 3, generator=random),
        0.1 + 0.9 * torch.rand(500, generator=random),
        torch.rand(500, 4, 3, generator=random),
    )
    path = tmp_path / "anna.ply"
    old = Source("anna-raw.ply", 10, "ab" * 32)
    note = write_note(provenance_of([old], [{"convert": {}}], licence="CC-BY-4.0", consent="asked"))
    save(scene, path, Writing(note=note))
    return path


def run(*arguments: object) -> int:
    return main(["redact", *map(str, arguments)])


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """What stderr was told, on one line."""
    return lambda: " ".join(capsys.readouterr().err.split())


def test_regions_are_emptied_and_the_provenance_tells_no_more_than_that(source: Path, tmp_path: Path, said) -> None:
    target = tmp_path / "out.ply"
    assert run(source, target, "--region", TEXT, "--region", "sphere: 0.9,0.9,0.9,0.2", "--views", 6) == 0
    assert "nothing is left in 2 region(s)" in said()
    before, after = load(source), load(target)
    assert reaching(before, REGION).sum() > 20 and not reaching(after, REGION).any()
    assert len(after) < len(before)
    note = about(target).note
    assert note is not None and "anna" not in note and "sha256" not in note and "0.4" not in note
    provenance = read_note(note)
    assert provenance is not None and provenance.sources == () and provenance.licence == "CC-BY-4.0"
    assert provenance.consent == "asked" and provenance.operations == ({"redact": {"mode": "remove", "by": "regions"}},)


def test_blur_leaves_only_coarse_splats(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.ply"
    assert run(source, target, "--region", TEXT, "--mode", "blur", "--cells", 2, "--views", 6) == 0
    after = load(target)
    inside = reaching(after, REGION)
    assert 1 <= inside.sum() <= 8
    assert torch.allclose(after.scales[inside], torch.tensor(0.2)) and (after.sh[inside][:, 1:] == 0).all()


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A folder with a ball over a floor, four cameras, and masks of the ball."""
    random = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(300, 3, generator=random), dim=1) * 0.4
    floor = torch.rand(300, 3, generator=random) * 4 - 2
    floor[:, 1] = 1.5
    turns = torch.tensor([1.0, 0, 0, 0]).repeat(600, 1)
    sizes, colors = torch.full((600, 3), 0.08), torch.rand(600, 1, 3, generator=random)
    scene = Gaussians(torch.cat((ball, floor)), turns, sizes, torch.full((600,), 0.9), colors)
    save(scene, tmp_path / "in.ply")
    (tmp_path / "masks").mkdir()
    cameras = []
    for i, eye in enumerate(((0, 0, -4), (4, 0, 0), (0.1, -4, 0), (-3, 1, 3))):
        camera = look_at(eye, (0, 0, 0), fov=0.8, width=64, height=48)
        covered = render(scene.select(slice(300)), camera, backend="cpu").alpha > 0.3
        Image.fromarray((covered.numpy() * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
        cameras.append({field.name: getattr(camera, field.name) for field in dataclasses.fields(camera)})
        cameras[-1]["world_to_camera"] = camera.world_to_camera.tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": cameras}))
    return tmp_path


def test_masks_hide_what_they_show(masked: Path, said) -> None:
    given = masked / "in.ply", masked / "out.ply", "--masks", masked / "masks", "--cameras", masked / "cameras.json"
    assert run(*given) == 0
    assert "what is behind shows now" in said()
    after = load(masked / "out.ply")
    assert not (after.means[:, 1] < 1).any() and len(after) == 300
    assert run(*given, "--overwrite", "--mode", "blur") == 0
    after = load(masked / "out.ply")
    above = after.means[:, 1] < 1
    assert 8 <= above.sum() <= 64 and (after.scales[above] > 0.08).all()


def test_masks_that_do_not_fit_are_refused(masked: Path, said) -> None:
    given = masked / "in.ply", masked / "out.ply", "--masks", masked / "masks", "--cameras", masked / "cameras.json"
    cameras = json.loads((masked / "cameras.json").read_text())["cameras"]
    black = np.zeros((48, 64), np.uint8)
    for i in range(4):
        Image.fromarray(black).save(masked / "masks" / f"{i}.png")
    assert run(*given) == 2 and "all masks are black" in said()
    black[24, 32] = 255  # one pixel of a splat: it draws mostly elsewhere
    Image.fromarray(black).save(masked / "masks" / "0.png")
    assert run(*given) == 2 and "of what the masks cover is drawn by splats that draw mostly outside them" in said()
    (masked / "cameras.json").write_text(json.dumps({"cameras": cameras[:3]}))
    assert run(*given) == 2 and "holds 4 masks for 3 cameras" in said()
    (masked / "cameras.json").write_text(json.dumps({"cameras": [*cameras[:3], {**cameras[3], "width": 65}]}))
    assert run(*given) == 2 and "has 64x48 pixels, its camera 65x48" in said()
    (masked / "masks" / "3.png").write_bytes(b"no image")
    assert run(*given) == 2 and "3.png: no image" in said()
    assert not (masked / "out.ply").exists()


def test_a_format_that_rounds_is_cut_with_a_margin_or_refused(
    source: Path, tmp_path: Path, said, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = 1 / 40

    def rounding(scene: Gaussians, path: Path, writing: Writing) -> None:
        ply.FORMAT.save(dataclasses.replace(scene, means=(scene.means / step).round() * step), path, writing)  # type: ignore

    rounded: Format = dataclasses.replace(ply.FORMAT, save=rounding)
    monkeypatch.setattr(registry, "FORMATS", (rounded,))
    target = tmp_path / "out.ply"
    assert run(source, target, "--region", TEXT, "--views", 2) == 0
    assert "cut 3% of its size outside it" in said() or "cut 10%" in said()
    assert left_inside(load(target), REGION, 2).splats == 0
    before = target.read_bytes()
    step = 1 / 4
    assert run(source, target, "--region", TEXT, "--views", 2, "--overwrite") == 2
    assert "not kept" in said() and target.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_a_failing_check_keeps_nothing(source: Path, tmp_path: Path, said, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hands back the scene as it was is found out."""
    nothing = torch.zeros(500, dtype=torch.bool)
    monkeypatch.setattr(
        command, "redact_regions", lambda scene, regions, cells: command.Redaction(scene, nothing, nothing)
    )
    assert run(source, tmp_path / "out.ply", "--region", TEXT, "--views", 2) == 2
    assert "splats reach back into a region with alpha up to" in said()
    assert not (tmp_path / "out.ply").exists()


@pytest.mark.parametrize(
    "arguments, pattern",
    [
        ((), "neither --region nor --masks given"),
        (("--region", TEXT, "--masks", "m"), "both --region and --masks given"),
        (("--region", TEXT, "--cameras", "c.json"), "--cameras without --masks"),
        (("--masks", "m"), "--masks without --cameras"),
        (("--region", "ball: 1,2,3,4"), "region 'ball: 1,2,3,4': give box"),
        (("--region", "sphere: 1,2,3"), "region 'sphere: 1,2,3': give box"),
        (("--region", "sphere: 1,2,3,-1"), "radius -1.0: give a positive one"),
        (("--region", "box: 1,1,1,0,0,0"), "has no inside"),
        (("--region", "sphere: 9,9,9,1"), "nothing is hidden"),
        (("--region", TEXT, "--views", "0"), "--views 0 is out of range: give 1 to 1000"),
        (("--region", TEXT, "--cells", "99"), "--cells 99 is out of range: give 1 to 64"),
    ],
)
def test_what_cannot_be_used_is_refused(source: Path, tmp_path: Path, said, arguments, pattern: str) -> None:
    assert run(source, tmp_path / "out.ply", *arguments) == 2
    assert pattern in said() and not (tmp_path / "out.ply").exists()
    assert run(source, source, "--region", TEXT, "--overwrite") == 2
    assert "is the input itself" in said()
