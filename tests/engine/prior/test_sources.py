"""Sources of clips: what they give is seen from where they say."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import save
from lyra.engine.prior.clips import LEAST_ALPHA, Clips
from lyra.engine.prior.data.captures import Captures, neighbours
from lyra.engine.prior.data.folders import Capture, read_capture
from lyra.engine.prior.data.gaussian_scenes import LEAST_SEEN, GaussianScenes, Wandering, open_scenes
from lyra.engine.prior.data.mixture import Mixture
from lyra.engine.prior.data.resampling import area, lens_of, nearest
from lyra.engine.scene.camera import look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import frame_scene
from lyra.kernels.constants import SH_C0

SIDE = 200  # of the pictures of the capture
SIZE = 40, 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(a: Clips, b: Clips) -> bool:
    return all(torch.equal(tensor, b.tensors()[name]) for name, tensor in a.tensors().items())


def plausible(clips: Clips, count: int, views: int, size: tuple[int, int]) -> None:
    assert clips.times.shape == (count, views) and clips.size == size
    for name, tensor in clips.tensors().items():
        assert tensor.dtype == torch.float32 and bool(torch.isfinite(tensor).all()), name
    for name in ("rgb", "alpha", "times"):
        assert 0 <= float(clips.tensors()[name].min()) and float(clips.tensors()[name].max()) <= 1, name
    assert bool((clips.rgb <= clips.alpha[:, :, None] + 0.02).all()) and bool((clips.depth >= 0).all())
    turned = clips.world_to_camera[..., :3, :3]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)


# Resampling


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    images = torch.rand(2, 12, 20, generator=generator())
    box, size = (1.5, 0.25, 19.0, 11.5), (7, 9)
    fine = images.repeat_interleave(8, -1).repeat_interleave(8, -2)[..., 2:92, 12:152]  # eighths of pixels
    wanted = torch.nn.functional.adaptive_avg_pool2d(fine.repeat_interleave(7, -1), (9, 7))
    torch.testing.assert_close(area(images, box, size), wanted)
    assert torch.equal(area(images, (0, 0, 20, 12), (20, 12)), images)


def test_intrinsics_follow_the_box() -> None:
    """A ramp tells where each new pixel lies in the old picture, and so does the new lens."""
    ramp = (torch.arange(30) + 0.5).expand(20, 30)
    box, size = (3.5, 2.0, 27.5, 18.0), (12, 4)
    K = torch.tensor([[25.0, 0, 14], [0, 24, 9], [0, 0, 1]])
    seen = (ramp - K[0, 2]) / K[0, 0]
    new = lens_of(K, box, size)
    wanted = (torch.arange(12) + 0.5 - new[0, 2]) / new[0, 0]
    torch.testing.assert_close(area(seen, box, size)[0], wanted)
    assert float((nearest(seen, box, size)[0] - wanted).abs().max()) <= 0.5 / 25 + 1e-6
    assert new[1].tolist() == [0, 24 * 4 / 16, (9 - 2) * 4 / 16]


# Scenes of Gaussians


@pytest.fixture(scope="module")
def ball() -> Gaussians:
    """The sphere of the fixtures in flat, solid splats that lie close together."""
    count = 3000
    z = 1 - (torch.arange(count) + 0.5) * 2 / count
    angle = torch.arange(count) * math.pi * (3 - math.sqrt(5))
    means = torch.stack(((1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z), -1)
    quats = torch.stack((1 + z, -means[:, 1], means[:, 0], torch.zeros(count)), -1)  # turns z to the outside
    scales = torch.tensor([0.035, 0.035, 0.001]).repeat(count, 1)
    return Gaussians(means, quats, scales, torch.full((count,), 0.98), (0.4 * means / SH_C0)[:, None])


@pytest.fixture(scope="module")
def ball_scenes(ball: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> GaussianScenes:
    folder = tmp_path_factory.mktemp("scenes")
    save(ball, folder / "ball.ply")
    (folder / "README.md").write_text("no scene")
    np.savez(folder / "arrays.npz", values=np.zeros(3))  # begins as a bundled SOG does
    return open_scenes(folder)


def test_scenes_are_rendered_where_cameras_stand(ball_scenes: GaussianScenes, shows_sphere: Callable) -> None:
    clips = ball_scenes.clips(4, 3, SIZE, generator())
    plausible(clips, 4, 3, SIZE)
    assert float(clips.alpha.mean((2, 3)).min()) >= LEAST_SEEN
    shows_sphere(clips, off=0.03, colour=0.03)
    assert clips.times.tolist() == [[0.0, 0.5, 1.0]] * 4


def test_paths_are_as_long_as_they_are_asked_to_be(ball_scenes: GaussianScenes) -> None:
    far = replace(ball_scenes, wandering=Wandering(baseline=(0.4, 0.5)))
    clips = far.clips(6, 2, (32, 32), generator(1))
    pose = clips.world_to_camera.double()
    eyes = -torch.einsum("bvji,bvj->bvi", pose[..., :3, :3], pose[..., :3, 3])
    for scene in range(6):
        depth = clips.depth[scene, 0]
        reach = float((eyes[scene, 1] - eyes[scene, 0]).norm() / depth[depth > 0].median())
        assert 0.37 <= reach <= 0.53
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    assert float((pose[..., 0, :3] @ up).abs().max()) < 1e-6  # nobody holds the camera askew
    assert bool((pose[..., 1, :3] @ up < 0).all())


def test_scenes_repeat_by_their_seed(ball_scenes: GaussianScenes) -> None:
    first = ball_scenes.clips(2, 2, (16, 16), generator(5))
    assert same(first, ball_scenes.clips(2, 2, (16, 16), generator(5)))
    assert not same(first, ball_scenes.clips(2, 2, (16, 16), generator(6)))


def test_an_eye_does_not_stand_among_splats(ball: Gaussians) -> None:
    """A lone splat that floats wherever most eyes stand is never right before one of them."""
    rng = generator(2)
    dust = torch.randn(60, 3, generator=rng)
    dust = dust / dust.norm(dim=1, keepdim=True) * (1.5 + 1.5 * torch.rand(60, 1, generator=rng))
    cloud = Gaussians(dust, ball.quats[:60], torch.full((60, 3), 0.05), ball.opacities[:60], ball.sh[:60])
    both = Gaussians(**{name: torch.cat((t, cloud.tensors()[name])) for name, t in ball.tensors().items()})
    framing = frame_scene(both)
    clips = GaussianScenes((both,), (framing,)).clips(8, 2, (24, 24), generator(3))
    for scene in range(8):
        depth = clips.depth[scene]
        middle = depth[0][depth[0] > 0].median()
        assert float(((depth > 0) & (depth < 0.15 * middle)).float().mean()) <= 0.03


def test_folders_without_scenes(tmp_path: Path, ball: Gaussians) -> None:
    (tmp_path / "a.txt").write_text("nothing")
    for path, pattern in ((tmp_path, "holds no scene of Gaussians"), (tmp_path / "absent.ply", "no such file")):
        with pytest.raises(InputError, match=pattern) as caught:
            open_scenes(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError, match="up 'q' is unknown"):
        open_scenes(tmp_path, up="q")
    clear = replace(ball, opacities=torch.full_like(ball.opacities, 0.001))
    with pytest.raises(InputError, match="shows nothing"):
        GaussianScenes((clear,), (frame_scene(ball),)).clips(1, 1, (16, 16), generator())


# Captures


@pytest.fixture(scope="module")
def spheres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sphere")


@pytest.fixture
def sphere_capture(spheres: Path, seen_sphere: Callable) -> Capture:
    """A folder as of NeRF-Synthetic, with depth, on a ring round the sphere."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    frames, fov = [], 0.8
    for i in range(8):
        eye = (3 * math.sin(i * 0.4), -0.5, -3 * math.cos(i * 0.4))
        camera = look_at(eye, (0, 0, 0), fov=fov, width=SIDE, height=SIDE)
        view = seen_sphere([[camera]])
        rgba = torch.cat((view.rgb[0, 0], view.alpha[0])).permute(1, 2, 0)
        Image.fromarray((rgba * 255).round().byte().numpy()).save(spheres / f"r_{i}.png")
        level = torch.where(view.depth > 0, (1 - view.depth / 8) * 255, 0.0)[0, 0]
        Image.fromarray(level.round().byte().numpy()).save(spheres / f"r_{i}_depth_0001.png")
        pose = (torch.linalg.inv(camera.world_to_camera) @ flip).tolist()
        frames.append({"file_path": f"./r_{i}", "transform_matrix": pose})
    (spheres / "transforms_train.json").write_text(json.dumps({"camera_angle_x": fov, "frames": frames}))
    return read_capture(spheres)


def test_captures_are_cut_where_they_say(sphere_capture: Capture, shows_sphere: Callable) -> None:
    clips = Captures((sphere_capture,)).clips(6, 3, SIZE, generator())
    plausible(clips, 6, 3, SIZE)
    shows_sphere(clips, off=0.03, colour=0.02)
    assert bool((clips.times[:, 0] == 0).all()) and bool((clips.times[:, -1] == 1).all())
    assert bool((clips.times.diff(dim=1) > 0).all())
    small = Captures((sphere_capture,), longest=60).clips(6, 3, SIZE, generator())
    shows_sphere(small, off=0.03, colour=0.02)
    assert len(clips.K[:, 0, 0, 2].unique()) > 3 and len(clips.K[:, 0, 0, 0].unique()) > 3  # crops differ


def test_captures_without_depth_say_so(sphere_capture: Capture) -> None:
    clips = Captures((replace(sphere_capture, depths=None),)).clips(2, 2, SIZE, generator())
    assert bool((clips.depth == 0).all()) and float(clips.alpha.max()) == 1


def test_captures_repeat_by_their_seed(sphere_capture: Capture) -> None:
    source = Captures((sphere_capture,))
    first = source.clips(3, 2, SIZE, generator(5))
    assert same(first, source.clips(3, 2, SIZE, generator(5)))
    assert not same(first, source.clips(3, 2, SIZE, generator(6)))


def test_neighbours_look_the_same_way(sphere_capture: Capture) -> None:
    for seed in range(20):
        chosen = neighbours(sphere_capture, 3, math.radians(50), generator(seed))
        assert len(set(chosen)) == 3 and chosen == sorted(chosen)
        assert chosen[-1] - chosen[0] <= 4  # views stand 23 degrees apart, so within two to either side
    assert neighbours(sphere_capture, 8, 0.1, generator()) == list(range(8))  # where the turn leaves too few
    with pytest.raises(InputError, match="has 8 views, 9 asked for"):
        neighbours(sphere_capture, 9, 1.0, generator())
    with pytest.raises(InputError, match="no capture given"):
        Captures(())


def test_depth_of_another_size_is_refused(sphere_capture: Capture, tmp_path: Path) -> None:
    Image.new("L", (32, 32)).save(tmp_path / "d.png")
    wrong = replace(sphere_capture, depths=(tmp_path / "d.png",) * 8)
    with pytest.raises(InputError, match="d.png: has 32x32 pixels, its picture 200x200"):
        Captures((wrong,)).clips(1, 1, SIZE, generator())


# Mixtures


class Constant:
    """Clips that are all one number, and count their draws."""

    def __init__(self, value: float) -> None:
        self.value = value

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        drawn = torch.rand(count, generator=generator)
        shape = count, views, size[1], size[0]
        flat = torch.full(shape, self.value)
        eye = torch.eye(4).expand(count, views, 4, 4)
        times = drawn[:, None].expand(count, views)
        return Clips(flat[:, :, None].expand(-1, -1, 3, -1, -1), flat, flat, eye, eye[..., :3, :3], times)


def test_mixture_draws_by_weight() -> None:
    mixture = Mixture([(Constant(0.1), 3.0), (Constant(0.5), 0.0), (Constant(0.9), 1.0)])
    clips = mixture.clips(400, 2, (3, 2), generator())
    assert clips.times.shape == (400, 2) and clips.size == (3, 2)
    found: Tensor = clips.alpha[:, 0, 0, 0]
    assert float((found == 0.1).float().mean()) == pytest.approx(0.75, abs=0.06)
    assert sorted(found.unique().tolist()) == pytest.approx([0.1, 0.9])
    assert len(clips.times[:, 0].unique()) == 400  # nothing is drawn twice
    assert 50 < int((found.diff() != 0).sum()) < 350  # in the order drawn, not source by source
    assert same(clips, mixture.clips(400, 2, (3, 2), generator()))
    for weights in ((-1.0, 2.0), (0.0, 0.0), (math.nan, 1.0), ()):
        with pytest.raises(InputError, match="give finite ones from 0"):
            Mixture([(Constant(0.0), weight) for weight in weights])


# Real ones


def test_chair_agrees_with_itself(shared: Path) -> None:
    """Places that one view sees lie within the outline of every other."""
    chair = read_capture(shared / "data/nerf_synthetic/chair/transforms_test.json")
    clips = Captures((chair,), tightest=1.0).clips(3, 3, (100, 100), generator())
    assert float(clips.alpha.mean()) > 0.1 and bool((clips.depth.flatten(1).amax(1) > 0).all())
    y, x = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1)
    for scene in range(3):
        for a, b in ((0, 1), (0, 2), (2, 0)):
            known = clips.depth[scene, a] > 0
            rays = pixels[known] @ torch.linalg.inv(clips.K[scene, a]).T * clips.depth[scene, a][known][:, None]
            pose = clips.world_to_camera[scene, b] @ torch.linalg.inv(clips.world_to_camera[scene, a])
            seen = (rays @ pose[:3, :3].T + pose[:3, 3]) @ clips.K[scene, b].T
            u, v = (seen[:, :2] / seen[:, 2:]).long().clamp(0, 99).T
            assert float((clips.alpha[scene, b][v, u] > 0.1).float().mean()) > 0.97


def test_real_sources_give_clips(shared: Path) -> None:
    guitar = open_scenes(shared / "scenes/guitar.compressed.ply")
    clips = guitar.clips(1, 2, (32, 32), generator())
    plausible(clips, 1, 2, (32, 32))
    assert float((clips.alpha >= LEAST_ALPHA).float().mean()) > 0.1 and float(clips.rgb.std()) > 0.05
    desk = Captures((read_capture(shared / "data/mydesk"),)).clips(1, 3, (32, 32), generator())
    plausible(desk, 1, 3, (32, 32))
    assert float(desk.alpha.min()) > 0.999 and float(desk.rgb.std()) > 0.05
