"""Comparing renderers: the figures, through peers made for the test, and the command."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.bench import peers
from lyra.bench.cli import main
from lyra.bench.peers import PEERS, Comparison, Peer, compare
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.source import open_scene

CPU = torch.device("cpu")


@pytest.fixture
def make_peer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers a peer that draws what Lyra does and adds to it, after spending time by a clock that only it moves."""
    now = {"seconds": 0.0}
    monkeypatch.setattr("time.perf_counter", lambda: now["seconds"])

    def make(name: str, *, seconds: float, error: float = 0.0, log: list[str] | None = None) -> None:
        def prepare(scene: Gaussians, cameras: list[Camera]) -> peers.Draw:
            def draw(i: int) -> torch.Tensor:
                now["seconds"] += seconds
                if log is not None:
                    log.append(f"{name} {i}")
                return render(scene, cameras[i], backend="cpu").rgb + error * (i + 1)

            return draw

        monkeypatch.setitem(PEERS, name, Peer(lambda: None, lambda: CPU, prepare))

    return make


@pytest.fixture
def scene() -> Gaussians:
    return open_scene("procedural:1k")[0]


@pytest.fixture
def cameras() -> list[Camera]:
    return [look_at((x, -1.0, -2.5), (0, -1, 0), width=32, height=24) for x in (0.0, 0.5)]


def test_speed_and_likeness_are_those_of_the_peer(
    make_peer, scene: Gaussians, cameras: list[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    make_peer("slow", seconds=3.0, error=0.01, log=log)
    make_peer("ours", seconds=2.0, log=log)
    monkeypatch.setattr(peers, "backend_peer", lambda backend: PEERS["ours"])
    told: list[tuple[int, int]] = []
    size = {"rounds": 2, "warmup": 1}
    result = compare(
        "c", scene, cameras, backend="cpu", peer="slow", **size, progress=lambda done, total: told.append((done, total))
    )
    np.testing.assert_allclose(result.milliseconds, [2000.0] * 4)
    np.testing.assert_allclose(result.peer_milliseconds, [3000.0] * 4)
    assert result.speedup == pytest.approx(1.5)
    np.testing.assert_allclose(result.psnr, [40.0, -20 * np.log10(0.02)], atol=1e-4)
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    taken = log[4:]  # after one of each camera
    assert [line.split()[0] for line in taken] == ["slow", "ours", "ours", "slow"] * 2 + ["slow", "ours"]
    assert [int(line.split()[1]) for line in taken[::2]] == [0, 1, 0, 1, 0]
    values = result.to_json()
    assert values["psnr_least"] == pytest.approx(33.98, abs=0.01) and values["frames"] == 4
    assert values["splats"] == 1000 and (values["width"], values["height"]) == (32, 24)


def test_equal_pictures_have_no_finite_psnr(scene: Gaussians, cameras: list[Camera]) -> None:
    result = compare("c", scene, cameras, backend="cpu", peer="cpu", rounds=1, warmup=0)
    assert np.isinf(result.psnr).all() and result.to_json()["psnr_least"] is None
    json.dumps(result.to_json(), allow_nan=False)


def test_the_reference_is_like_the_cpu(scene: Gaussians, cameras: list[Camera]) -> None:
    result = compare("c", scene, cameras[:1], backend="cpu", peer="reference", rounds=1, warmup=0)
    assert 60.0 < float(result.psnr[0]) < np.inf


def test_the_command_compares_and_writes(
    make_peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_peer("slow", seconds=3.0, error=0.01)
    make_peer("ours", seconds=2.0)
    monkeypatch.setattr(peers, "backend_peer", lambda backend: PEERS["ours"])
    data = tmp_path / "c.json"
    arguments = ["--scene", "procedural:1k", "--res", "32x24", "--frames", "2", "--warmup", "0", "--backend", "cpu"]
    assert main([*arguments, "--vs", "slow", "--vs", "ours", "--json", str(data)]) == 0
    first, second = json.loads(data.read_text())["comparisons"]
    assert (first["peer"], second["peer"]) == ("slow", "ours") and second["psnr_least"] is None
    assert first["peer_milliseconds"] == pytest.approx(3000.0) and first["psnr_least"] < 40.1
    assert "slow" in capsys.readouterr().out


def test_the_grid_has_every_resolution_and_distance(tmp_path: Path) -> None:
    data = tmp_path / "c.json"
    arguments = ["--grid", "--scene", "procedural:1k", "--res", "32x24", "--frames", "1", "--warmup", "0"]
    assert main([*arguments, "--backend", "cpu", "--vs", "cpu", "--json", str(data)]) == 0
    names = [c["case"] for c in json.loads(data.read_text())["comparisons"]]
    assert names == [f"procedural:1k 32x24 {distance}" for distance in ("near", "mid", "far")]
    assert main([*arguments, "--backend", "cpu", "--json", str(data), "--image", str(tmp_path / "g.png")]) == 0
    assert len(json.loads(data.read_text())["scenes"]) == 3
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["g-0.png", "g-1.png", "g-2.png"]


@pytest.mark.parametrize("peer", ["gsplat", "gsplat-unpacked", "higs"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run it on")
def test_a_peer_that_needs_a_gpu_is_refused_without_one(peer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--vs", peer]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "needs a CUDA GPU" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vs", "vulkan"], "give gsplat, "),
        (["--vs", "cpu", "--image", "a.png"], "--image does not go with --vs"),
        (["--vs", "cpu", "--dump", "a.npz"], "--dump does not go with --vs"),
        (["--grid", "--cameras", "c.json"], "give one"),
        (["--evidence", "--scene", "procedural"], "--scene does not go with --evidence"),
        (["--evidence", "--grid"], "--grid does not go with --evidence"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.count("\n") == 1 and told.out == ""


class FakeScene:
    """Stands for gsplat's packed scene: takes only what that takes."""

    @classmethod
    def from_gaussian_tensors(cls, means, quats, scales, opacities, colors, sh_degree, sh_compression, *, id):
        assert torch.allclose(quats.norm(dim=1), torch.ones(len(quats)), atol=1e-3) and (scales > 0).all()
        assert opacities.min() >= 0 and opacities.max() <= 1 and colors.shape[1] == (sh_degree + 1) ** 2
        scene = cls()
        scene.gaussians = Gaussians(means, quats, scales, opacities, colors)
        return scene


def draw(scene: Gaussians, viewmat: torch.Tensor, K: torch.Tensor, width: int, height: int) -> torch.Tensor:
    assert viewmat.shape == (4, 4) and K.shape == (3, 3) and viewmat.dtype == K.dtype == torch.float32
    lens = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    return render(scene, Camera(viewmat.double(), *lens, width, height), backend="cpu").rgb


class FakeRenderer:
    """Stands for gsplat's inference renderer."""

    def __init__(self, scene: FakeScene, *, tile_size: int = 8) -> None:
        self.scene = scene

    def render(self, *, viewmat, K, width, height):
        assert not torch.is_grad_enabled()
        rgb = draw(self.scene.gaussians, viewmat, K, width, height)
        frame = torch.cat((rgb, torch.zeros_like(rgb[..., :1])), dim=-1).half()[None]
        return types.SimpleNamespace(frame=frame)


def fake_rasterization(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, *, sh_degree, packed, **rest
):
    assert rest == {} and colors.shape[1] == (sh_degree + 1) ** 2
    rgb = draw(Gaussians(means, quats, scales, opacities, colors), viewmats[0], Ks[0], width, height)
    return rgb[None], None, {}


@pytest.mark.parametrize(("name", "least"), [("gsplat", 100.0), ("gsplat-unpacked", 100.0), ("higs", 60.0)])
def test_gsplat_is_called_by_its_own_signatures(
    name: str, least: float, scene: Gaussians, cameras: list[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {
        "gsplat": {"rasterization": fake_rasterization, "__path__": []},
        "gsplat.scene": {"GaussianInferenceScene": FakeScene},
        "gsplat.experimental": {"__path__": []},
        "gsplat.experimental.render": {"GaussianInferenceRenderer": FakeRenderer},
    }
    for module, members in modules.items():
        fake = types.ModuleType(module)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setitem(PEERS, name, Peer(lambda: None, lambda: CPU, PEERS[name].prepare))
    scene = Gaussians(scene.means, 3 * scene.quats, scene.scales, scene.opacities, scene.sh)
    result = compare("c", scene, cameras, backend="cpu", peer=name, rounds=1, warmup=0)
    assert float(result.psnr.min()) > least


def test_a_gsplat_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(scene: Gaussians, cameras: list[Camera]) -> peers.Draw:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for create in ("ones", "full"):
        original = getattr(torch, create)
        monkeypatch.setattr(torch, create, lambda *a, device=None, original=original, **k: original(*a, **k))
    assert "is not installed" in str(peers._probe("no_such_package_as_this", fails))
    reason = str(peers._probe("json", fails))
    assert "cannot render here" in reason and "no kernel image is available" in reason and "\n" not in reason
    assert peers._probe("json", lambda scene, cameras: lambda i: torch.zeros(1)) is None


def test_a_comparison_of_nothing_alike_still_has_figures() -> None:
    result = Comparison("c", "cpu", "p", 1, 1, 1, np.array([2.0, 4.0]), np.array([1.0, 2.0]), np.array([5.0, 9.0]))
    assert result.speedup == 0.5 and result.to_json()["psnr_median"] == 7.0
