import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load
from lyra.engine.privacy.check import agreement, cameras_around, directions, left_inside
from lyra.engine.privacy.coarse import coarsen
from lyra.engine.privacy.cut import cut, radii, reaching, spread
from lyra.engine.privacy.masks import hidden_by_masks, left_in_masks, project
from lyra.engine.privacy.redact import redact_regions, redact_splats
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.regions import Box, Region, Sphere, bounds, grown, inside
from lyra.kernels.constants import ALPHA_MIN

BOX = Box((-0.5, -0.4, -0.3), (0.5, 0.6, 0.7))
BALL = Sphere((0.1, 0.2, 0.3), 0.5)
REGIONS = pytest.mark.parametrize("region", [BOX, BALL], ids=["box", "sphere"])


def cloud(n: int = 600, *, seed: int = 0, flattest: float = 1.5, sh: int = 4) -> Gaussians:
    """Splats in [-1.5, 1.5], the longest up to 0.3, up to 10^flattest times as long as thick."""
    random = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.rand(n, 3, generator=random) * 3 - 1.5,
        quats=torch.randn(n, 4, generator=random),
        scales=0.3 * 10 ** (-flattest * torch.rand(n, 3, generator=random)),
        opacities=torch.rand(n, generator=random),
        sh=0.5 * torch.randn(n, sh, 3, generator=random),
    )


def points_in(region: Region, count: int) -> Tensor:
    low, high = (torch.tensor(corner, dtype=torch.float64) for corner in bounds(region))
    points = low + (high - low) * torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return points[inside(region, points)]


def most_alpha(scene: Gaussians, points: Tensor) -> Tensor:
    """[n] the most that each splat covers at any of the points, by its formula."""
    found = []
    for i in range(len(scene)):
        offsets = torch.linalg.solve(spread(scene.select([i]))[0], (points - scene.means[i].double()).T)
        found.append(float(scene.opacities[i]) * float((-0.5 * offsets.square().sum(dim=0).amin()).exp()))
    return torch.tensor(found)


@REGIONS
def test_what_reaches_into_a_region_is_what_points_in_it_find(region: Region) -> None:
    scene = cloud(150, flattest=0.6)
    points = points_in(region, 30_000)
    found, named = most_alpha(scene, points), reaching(scene, region)
    assert not (found >= ALPHA_MIN)[~named].any()
    assert (found > 0.6 * ALPHA_MIN)[named & (radii(scene) > 0)].float().mean() > 0.98  # points lie apart
    assert 15 < int(named.sum()) < 100


@REGIONS
def test_cutting_leaves_nothing_inside_and_stays_within_each_splat(region: Region) -> None:
    scene = cloud(flattest=3.0)
    outside = ~inside(region, scene.means.double())
    after, touched = cut(scene, region)
    assert not reaching(after, region)[outside].any()
    assert torch.equal(touched & outside, reaching(scene, region) & outside)
    for name, tensor in scene.tensors().items():
        assert torch.equal(getattr(after, name)[~touched], tensor[~touched])
    # Points on every new ellipsoid lie in the old one.
    old, new = scene.select(touched), after.select(touched)
    shell = radii(new)[:, None, None] * (spread(new) @ directions(200).T)
    points = shell + new.means.double()[:, :, None]
    whitened = torch.linalg.solve(spread(old), points - old.means.double()[:, :, None])
    assert (whitened.norm(dim=1) <= radii(old)[:, None] * (1 + 1e-3)).all()
    assert (new.scales.double().prod(dim=1) > 0.1 * old.scales.double().prod(dim=1)).all()


@pytest.mark.parametrize("flat", [0.0, 1e-9, 1e-4])
def test_flat_splats_and_needles_are_cut_too(flat: float) -> None:
    scene = cloud(200)
    scene.scales[::2, 0] = flat
    scene.scales[1::2, 1:] = flat
    result = redact_regions(scene, [BOX, BALL]).scene
    assert len(result) > 50
    assert not reaching(result, BOX).any() and not reaching(result, BALL).any()


@REGIONS
def test_the_check_passes_what_was_redacted_and_fails_what_was_not(region: Region) -> None:
    scene = cloud()
    redaction = redact_regions(scene, [region])
    left = left_inside(redaction.scene, region, 12)
    assert left.splats == 0 and left.alpha < ALPHA_MIN
    before = left_inside(scene, region, 12)
    assert before.splats == int(reaching(scene, region).sum()) and before.alpha > 0.9
    middle = torch.tensor(bounds(region)).mean(dim=0)
    speck = Gaussians(
        middle[None], torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 1e-4), torch.ones(1), torch.zeros(1, 1, 3)
    )
    assert left_inside(merge([redaction.scene, speck]), region, 12).splats == 1
    speck.scales.fill_(0.1)
    assert left_inside(merge([redaction.scene, speck]), region, 12).alpha > 0.5
    kept = scene.select(~inside(region, scene.means))  # only centres looked at: neighbours reach in
    assert left_inside(kept, region, 12).splats > 10 and left_inside(kept, region, 12).alpha > 0.3


def test_rays_and_geometry_agree_where_a_splat_only_just_reaches_in() -> None:
    alone = cloud(1).select([0])
    alone.quats[:], alone.scales[:], alone.opacities[:] = torch.tensor([1.0, 0, 0, 0]), 0.1, 1.0
    reach = 0.1 * math.sqrt(2 * math.log(255))
    for gap, expected in ((-0.05, 1), (0.01, 0)):
        alone.means[:] = torch.tensor([0.5 + reach + gap, 0.1, 0.2])
        left = left_inside(alone, BOX, 48)
        assert left.splats == expected and (left.alpha >= ALPHA_MIN) == bool(expected)


def test_pictures_agree_where_nothing_changed_and_the_comparison_can_fail() -> None:
    scene = cloud()
    scene.scales.mul_(0.3)
    redaction = redact_regions(scene, [BALL])
    cameras = cameras_around(BALL, 4)
    same = agreement(scene, redaction, cameras, backend="cpu")
    assert same.psnr >= 60.0 and 0.02 < same.share < 0.98
    lit = redaction.scene.sh.clone()
    lit[:, 0] += 0.1
    spoiled = type(redaction)(
        Gaussians(*list(redaction.scene.tensors().values())[:4], lit), redaction.changed, redaction.added
    )
    assert agreement(scene, spoiled, cameras, backend="cpu").psnr < 50.0


@pytest.mark.parametrize(
    "name, region, border, beyond",
    [
        ("guitar.compressed.ply", Box((-0.25, -1.25, -0.6), (0.25, -0.75, 0.95)), 44.0, 0.2),
        ("playbot/0_0", Box((-0.45, -1.2, -0.45), (0.45, -0.62, 0.45)), 60.0, 0.0),
    ],
)
def test_real_scenes_agree_outside(shared: Path, name: str, region: Box, border: float, beyond: float) -> None:
    """60 dB where no changed splat is seen; by the region's outline, from the border given here on."""
    scene = load(shared / "scenes" / name)
    redaction = redact_regions(scene, [region])
    cameras = [camera.resized(128, 128) for camera in cameras_around(region, 4)]
    assert agreement(scene, redaction, cameras, backend="cpu").psnr >= 60.0
    assert left_inside(redaction.scene, region, 4).splats == 0
    side = max(high - low for low, high in zip(region.low, region.high, strict=True))
    pictures = [(render(scene, c).rgb, render(redaction.scene, c).rgb, c) for c in cameras]
    for length, least in ((0.0, border), (beyond * side, 60.0)):
        error = torch.cat([(old - new)[misses(grown(region, length), c)] for old, new, c in pictures])
        assert -10 * math.log10(float(error.square().mean()) + 1e-12) >= least
        assert error.numel() > 1000


def misses(box: Region, camera: Camera) -> Tensor:
    """[h, w] whether the ray of a pixel passes a box by."""
    rows, columns = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    flat = torch.stack((columns - camera.cx, rows - camera.cy, torch.full_like(rows, camera.fx)), dim=-1).double()
    rays = flat @ camera.world_to_camera[:3, :3]
    low, high = ((torch.tensor(c, dtype=torch.float64) - camera.position) / rays for c in bounds(box))
    return torch.minimum(low, high).amax(dim=-1) > torch.maximum(low, high).amin(dim=-1)


def test_blurring_keeps_nothing_but_averages() -> None:
    """Scenes with the same colours and sizes in each cell, but other places, shapes and details, blur to the same."""
    low, high = torch.tensor([0.0, 0, 0]), torch.tensor([1.0, 1, 0.5])
    random = torch.Generator().manual_seed(3)
    cells = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(2), indexing="ij"), -1)
    corners = cells.reshape(-1, 3).repeat_interleave(5, dim=0) / 4
    one, other = (
        Gaussians(
            corners + 0.25 * torch.rand(160, 3, generator=random),
            torch.randn(160, 4, generator=random),
            torch.full((160, 3), 0.03),
            torch.full((160,), 0.7),
            torch.cat((corners[:, None], torch.randn(160, 3, 3, generator=random)), dim=1),
        )
        for _ in range(2)
    )
    blurred, again = coarsen(one, low, high, 4), coarsen(other, low, high, 4)
    assert len(blurred) == 32
    for name, tensor in blurred.tensors().items():
        torch.testing.assert_close(tensor, getattr(again, name), rtol=1e-5, atol=1e-6)
    assert (blurred.scales == 0.125).all() and (blurred.sh[:, 1:] == 0).all()
    covered = 1 - math.exp(-5 * 0.7 * 2 * math.pi * 0.03**2 / 0.25**2)
    torch.testing.assert_close(blurred.opacities, torch.full((32,), covered))


def test_blur_takes_fine_detail_out_of_pictures() -> None:
    """Above one cycle a cell next to nothing of a picture's spectrum is left."""
    scene = cloud(3000, seed=5, sh=1)
    scene.means.mul_(1 / 3)
    scene.scales.mul_(0.1)
    region = Box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))
    redaction = redact_regions(scene, [region], cells=4)
    camera = look_at((0, 0, -20.0), (0, 0, 0), fov=2 * math.atan(0.1), width=128, height=128)  # 4 world units high

    def fine(picture: Tensor) -> float:
        power = torch.fft.fft2(picture.mean(dim=-1) - picture.mean()).abs().square()
        cycles = torch.fft.fftfreq(128, d=4 / 128).abs()  # a world unit
        high = torch.maximum(cycles[:, None], cycles[None]) > 4
        return float(power[high].sum() / power.sum())

    assert fine(render(scene, camera).rgb) > 0.02
    assert fine(render(redaction.scene, camera).rgb) < 1e-4
    finest = 0.8 / 8
    left = left_inside(redaction.scene, region, 6, finest=finest)
    assert left.splats == 0 and left.alpha == 0.0
    assert left_inside(scene, region, 6, finest=finest).splats > 2000


def head_and_wall() -> tuple[Gaussians, Tensor, list[tuple[Camera, Tensor]]]:
    """A ball of splats, some of them where nobody sees them, before a wall; which are the ball's; cameras and masks."""
    random = torch.Generator().manual_seed(7)
    ball = torch.nn.functional.normalize(torch.randn(800, 3, generator=random), dim=1) * 0.5
    ball[:100] *= 0.4
    wall = torch.cat((torch.rand(3000, 2, generator=random) * 6 - 3, torch.full((3000, 1), 1.5)), dim=1)
    means = torch.cat((ball, wall))
    scene = Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(len(means), 1),
        torch.full((len(means), 3), 0.06),
        torch.full((len(means),), 0.95),
        torch.rand(len(means), 1, 3, generator=random),
    )
    mine = torch.arange(len(means)) < 800
    views = []
    for x, y in ((0, 0), (1.5, 0), (-1.5, 0), (0, 1.2), (0, -1.2)):
        camera = look_at((x, y, -3.0), (0, 0, 0), fov=0.8, width=96, height=96)
        views.append((camera, render(scene.select(mine), camera).alpha > 0.5))
    return scene, mine, views


def test_masks_hide_what_they_show_and_what_is_inside_it() -> None:
    scene, mine, views = head_and_wall()
    hidden = hidden_by_masks(scene, views, backend="cpu")
    assert hidden[mine][:100].all()  # seen by nobody
    assert hidden[mine].float().mean() > 0.97 and hidden[~mine].float().mean() < 0.02
    assert left_in_masks(scene, hidden, views, backend="cpu") < 0.05
    assert left_in_masks(scene, torch.zeros_like(hidden), views, backend="cpu") == 1.0
    redaction = redact_splats(scene, hidden)
    assert torch.equal(redaction.scene.means, scene.means[~hidden]) and not redaction.added.any()
    assert agreement(scene, redaction, [camera for camera, _ in views], backend="cpu").psnr >= 60.0
    empty = [(views[0][0].resized(96, 96), torch.zeros(96, 96, dtype=torch.bool))]
    assert torch.equal(hidden_by_masks(scene, views + empty, backend="cpu"), hidden)


def test_one_mask_hides_only_what_it_sees() -> None:
    scene, mine, views = head_and_wall()
    hidden = hidden_by_masks(scene, views[:1], backend="cpu")
    behind = mine & (scene.means[:, 2] > 0.2) & (scene.means[:, :2].norm(dim=1) < 0.3)
    assert behind.sum() > 20 and not hidden[behind].any() and hidden[mine].any()


def test_points_fall_on_the_pixels_that_show_them() -> None:
    camera = look_at((1.0, -2.0, -3.0), (0.1, 0.2, 0.3), fov=0.7, width=64, height=48)
    dot = cloud(1, sh=1).select([0])
    dot.scales[:], dot.opacities[:] = 1e-4, 1.0
    for place in ((0.12, 0.22, 0.3), (0.6, 0.0, 0.2), (-0.3, 0.5, -0.2)):
        dot.means[:] = torch.tensor(place)
        pixels, visible = project(dot.means, camera)
        brightest = int(render(dot, camera, backend="cpu").alpha.argmax())
        assert visible.all() and pixels.tolist() == [[brightest % 64, brightest // 64]]
    for hidden in ((1.0, -2.0, -3.5), (9.0, 9.0, 0.3)):
        assert not project(torch.tensor([hidden]), camera)[1].any()


def test_nothing_or_everything_hidden_is_refused() -> None:
    scene = cloud(50)
    with pytest.raises(InputError, match="nothing is hidden, no splat lies there"):
        redact_regions(scene, [Sphere((90.0, 0.0, 0.0), 1.0)])
    with pytest.raises(InputError, match="every splat is hidden"):
        redact_regions(scene, [Sphere((0.0, 0.0, 0.0), 90.0)])
    with pytest.raises(InputError, match="0 cells are out of range: give 1 to 64"):
        redact_regions(scene, [BOX], cells=0)
