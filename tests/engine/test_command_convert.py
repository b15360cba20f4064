"""`lyra convert` and `lyra info` as typed, in the process."""

import json
from pathlib import Path

import pytest
import torch

from lyra.engine.cli import COMMANDS, main
from lyra.engine.formats.registry import load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.constants import SH_C0


def made(n: int, degree: int = 0, seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=rng),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng)),
        scales=torch.rand(n, 3, generator=rng) * 0.1 + 1e-3,
        opacities=torch.rand(n, generator=rng) * 0.9 + 0.05,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=rng) * 0.3,
    )


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]):
    """Checks that a command line is refused with code 2 in one line on stderr and nothing on stdout."""

    def check(told: str, *arguments: object) -> None:
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and told in err, err

    return check


def run(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_several_inputs_become_one(tmp_path: Path) -> None:
    a, b = made(5, degree=1), made(7, degree=2, seed=1)
    save(a, tmp_path / "a.ply")
    save(b, tmp_path / "b.ply")
    run("convert", tmp_path / "a.ply", tmp_path / "b.ply", tmp_path / "c.ply")
    both = load(tmp_path / "c.ply")
    assert (len(both), both.sh_degree) == (12, 2)
    torch.testing.assert_close(both.means, torch.cat((a.means, b.means)))
    torch.testing.assert_close(both.sh[:5, :4], a.sh)
    assert not both.sh[:5, 4:].any()
    torch.testing.assert_close(both.sh[5:], b.sh)


def test_crop_and_filter_keep_what_fits(tmp_path: Path) -> None:
    scene = made(400)
    save(scene, tmp_path / "a.ply")
    run(
        "convert", tmp_path / "a.ply", tmp_path / "b.ply", "--crop", "-1,-0.5,0,1,inf,2",
        "--filter", "opacity>=0.2", "--filter", "scale < 0.09", "--filter", "red>0.4",
    )  # fmt: skip
    kept = [
        i
        for i in range(400)
        if -1 <= scene.means[i, 0] <= 1 and -0.5 <= scene.means[i, 1] and 0 <= scene.means[i, 2] <= 2
        and scene.opacities[i] >= 0.2 and max(scene.scales[i]) < 0.09 and 0.5 + SH_C0 * scene.sh[i, 0, 0] > 0.4
    ]  # fmt: skip
    assert 5 < len(kept) < 200
    torch.testing.assert_close(load(tmp_path / "b.ply").means, scene.means[kept])


def test_axes_change_only_on_request(tmp_path: Path) -> None:
    scene = made(6, degree=3)
    save(scene, tmp_path / "a.ply")
    run("convert", tmp_path / "a.ply", tmp_path / "same.ply")
    torch.testing.assert_close(load(tmp_path / "same.ply").means, scene.means)
    run("convert", tmp_path / "a.ply", tmp_path / "b.ply", "--axes", "rdf:rub", "--sh", 1)
    turned = load(tmp_path / "b.ply")
    torch.testing.assert_close(turned.means, scene.means * torch.tensor([1.0, -1, -1]))
    torch.testing.assert_close(turned.sh, scene.sh[:, :4] * torch.tensor([1.0, -1, -1, 1])[:, None])


def test_outputs_are_only_replaced_on_request(tmp_path: Path, refuses) -> None:
    save(made(3), tmp_path / "a.ply")
    (tmp_path / "b.ply").write_bytes(b"mine")
    refuses("is there already", "convert", tmp_path / "a.ply", tmp_path / "b.ply")
    assert (tmp_path / "b.ply").read_bytes() == b"mine"
    run("convert", tmp_path / "a.ply", tmp_path / "b.ply", "--overwrite")
    assert len(load(tmp_path / "b.ply")) == 3
    run("convert", tmp_path / "b.ply", tmp_path / "b.ply", "--overwrite", "--filter", "opacity<2")  # onto itself
    assert len(load(tmp_path / "b.ply")) == 3


def test_the_same_command_gives_the_same_bytes_and_tells_where_from(tmp_path: Path, capsys) -> None:
    save(made(9), tmp_path / "a.ply")
    for name in ("b.ply", "c.ply"):
        run("convert", tmp_path / "a.ply", tmp_path / name, "--sh", 0, "--licence", "CC0-1.0")
    assert (tmp_path / "b.ply").read_bytes() == (tmp_path / "c.ply").read_bytes()
    run("convert", tmp_path / "b.ply", tmp_path / "d.ply")
    capsys.readouterr()
    run("info", tmp_path / "d.ply", "--json")
    provenance = json.loads(capsys.readouterr().out)["provenance"]
    assert provenance["licence"] == "CC0-1.0" and provenance["operations"] == [{"convert": {}}]
    inner = provenance["sources"][0]
    assert inner["name"] == "b.ply" and inner["history"]["operations"] == [{"convert": {"sh": 0}}]
    assert inner["history"]["sources"][0]["name"] == "a.ply"


def test_info_as_json(tmp_path: Path, capsys) -> None:
    scene = made(300, degree=2)
    save(scene, tmp_path / "a.ply")
    run("info", tmp_path / "a.ply", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["splats"], told["sh_degree"], told["format"], told["axes"]) == (300, 2, "3DGS PLY", "rdf")
    assert told["bytes"] == (tmp_path / "a.ply").stat().st_size and told["provenance"] is None
    assert told["bounds"]["min"] == pytest.approx(scene.means.amin(dim=0).tolist())
    assert told["bounds"]["max"] == pytest.approx(scene.means.amax(dim=0).tolist())
    assert told["opacity"]["median"] == pytest.approx(float(scene.opacities.sort().values[150]), abs=1e-6)
    assert sum(told["opacity"]["histogram"]["counts"]) == 300 == sum(told["scale"]["log10_histogram"]["counts"])
    assert told["scale"]["max"] == pytest.approx(float(scene.scales.max()))
    assert told["loss"][".ply"]["position"]["max"] == 0
    assert told["loss"][".ply"]["opacity"]["max"] < 1e-6


def test_info_for_people(tmp_path: Path, capsys) -> None:
    save(made(50, degree=1), tmp_path / "a.ply")
    run("info", tmp_path / "a.ply", "--no-loss")
    told = capsys.readouterr().out
    assert "50 splats, SH 1" in told and "no provenance" in told and "largest loss" not in told
    run("info", tmp_path / "a.ply")
    assert "largest loss" in capsys.readouterr().out


def test_help_lists_the_commands(capsys) -> None:
    run("--help")
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)
    assert main([]) == 2


def test_refusals(tmp_path: Path, refuses) -> None:
    a, b = tmp_path / "a.ply", tmp_path / "b.ply"
    save(made(3), a)
    refuses("no command", "convrt")
    refuses("at least one input", "convert", a)
    refuses("names no format", "convert", a, tmp_path / "b.xyz")
    refuses("no such file", "convert", tmp_path / "none.ply", b)
    refuses("out of range", "convert", a, b, "--sh", 4)
    refuses("--spz-version 7", "convert", a, b, "--spz-version", 7)
    refuses("rdf:rub", "convert", a, b, "--axes", "rdf")
    refuses("axes 'rdq' are unknown", "convert", a, b, "--axes", "rdq:rub")
    refuses("six numbers", "convert", a, b, "--crop", "1,2,3")
    refuses("has no inside", "convert", a, b, "--crop", "1,1,1,0,2,2")
    refuses("filter 'weight>2'", "convert", a, b, "--filter", "weight>2")
    refuses("filter 'x>many'", "convert", a, b, "--filter", "x>many")
    refuses("no splat is left", "convert", a, b, "--filter", "opacity>1")
    refuses("level 1 is out of range", "convert", a, b, "--level", 1)
    refuses("--level -1", "convert", a, b, "--level", -1)
    refuses("lyra convert --help", "convert", a, b, "--nonsense")
    refuses("give a name in a folder", "convert", a, tmp_path / "none" / "b.ply")
    refuses("no such file", "info", tmp_path / "none.ply")
    assert not b.exists() and [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_a_filter_of_what_is_not_a_number_is_refused(tmp_path: Path, refuses) -> None:
    save(made(3), tmp_path / "a.ply")
    refuses("filter 'x>nan'", "convert", tmp_path / "a.ply", tmp_path / "b.ply", "--filter", "x>nan")
