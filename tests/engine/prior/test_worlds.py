"""Procedural worlds: intersections against marching, pictures against geometry, and what splits hold."""

import dataclasses
import math

import pytest
import torch
from torch import Generator, Tensor

from lyra.engine.errors import InputError
from lyra.engine.prior.clips import unit_of
from lyra.engine.prior.worlds import hits, paths, shapes, textures
from lyra.engine.prior.worlds.record import FAR, Worlds
from lyra.engine.prior.worlds.scenes import WorldOptions
from lyra.engine.prior.worlds.source import WorldSource
from lyra.engine.prior.worlds.trace import trace

STILL = WorldOptions(moving=0.0)


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def implicit(kind: int, p: Tensor) -> Tensor:
    """Below 0 inside of a unit shape, for [.., 3]; written independently of the intersections."""
    x, y, z = p.unbind(-1)
    radius = torch.hypot(x, z)
    return {
        shapes.ELLIPSOID: lambda: p.norm(dim=-1) - 1,
        shapes.BOX: lambda: p.abs().amax(-1) - 1,
        shapes.CONE: lambda: torch.maximum(radius - (y + 1) / 2, y - 1),
        shapes.CYLINDER: lambda: torch.maximum(radius - 1, y.abs() - 1),
    }[kind]()


def eyes(world_to_camera: Tensor) -> Tensor:
    return -(world_to_camera[..., :3, :3].mT @ world_to_camera[..., :3, 3:])[..., 0]


def seen(depth: Tensor, world_to_camera: Tensor, K: Tensor) -> Tensor:
    """The world points [b, v, h, w, 3] in the middle of pixels, in float64."""
    h, w = depth.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1).double()
    rays = pixels @ torch.linalg.inv(K.double()).mT[:, :, None]
    pose = torch.linalg.inv(world_to_camera.double())[:, :, None, None]
    points = rays * depth.double()[..., None]
    return (pose[..., :3, :3] @ points[..., None])[..., 0] + pose[..., :3, 3]


def occupied(worlds: Worlds, times: Tensor, points: Tensor) -> Tensor:
    """Whether points [b, v, .., 3] are inside of an object, by the implicit functions."""
    things = hits.frames(worlds.objects, times)
    found = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for b, v, o in torch.cartesian_prod(*(torch.arange(n) for n in things.to_unit.shape[:3])).tolist():
        if (kind := int(things.kind[b, o])) >= 0:
            unit = (points[b, v] - things.centre[b, v, o]) @ things.to_unit[b, v, o].double().mT
            found[b, v] |= implicit(kind, unit) < 0
    return found


@pytest.mark.parametrize("kind", range(len(shapes.KINDS)))
def test_rays_are_inside_where_marching_says_so(kind: int) -> None:
    g = seeded(kind)
    o = torch.randn(400, 3, generator=g, dtype=torch.float64)
    o = 3 * o / o.norm(dim=-1, keepdim=True)
    d = 1.2 * torch.randn(400, 3, generator=g, dtype=torch.float64) - o
    d = d / d.norm(dim=-1, keepdim=True)
    t = torch.linspace(0, 6, 6001, dtype=torch.float64)
    within = implicit(kind, o[:, None] + t[:, None] * d[:, None]) < 0
    met = within.any(1)
    assert 80 < met.sum() < 390
    low, high = shapes.inside(kind, shapes.parts(o.T.float()), shapes.parts(d.T.float()))
    assert (low <= high)[met].all() and (high - low)[~met].amax() < 2e-3
    first, last = t[within.int().argmax(1)], t[6000 - within.flip(1).int().argmax(1)]
    assert (low - first)[met].abs().amax() < 2e-3 and (high - last)[met].abs().amax() < 2e-3


@pytest.mark.parametrize("kind", range(len(shapes.KINDS)))
def test_normals_are_gradients(kind: int) -> None:
    o = torch.nn.functional.normalize(torch.randn(300, 3, generator=seeded(kind)), dim=-1) * 4
    d = torch.randn(300, 3, generator=seeded(9)) * 0.4 - o
    low, high = shapes.inside(kind, shapes.parts(o.T), shapes.parts(d.T))
    p = (o + low[:, None] * d)[low < high].requires_grad_()
    assert implicit(kind, p).abs().amax() < 1e-4
    (expected,) = torch.autograd.grad(implicit(kind, p).sum(), p)
    found = torch.stack(shapes.normal(torch.tensor(kind), shapes.parts(p.detach().T)), -1)
    cosine = torch.cosine_similarity(found, expected, dim=-1)
    assert len(p) > 100 and (cosine > 0.999).float().mean() > 0.99  # the rest is at edges


@pytest.mark.parametrize(("split", "size"), [("train", (14, 8)), ("generators", (13, 7))])
def test_depths_end_free_space(split: str, size: tuple[int, int]) -> None:
    """No object is met before the depth; just behind it is one, or the end of the room, the ground or the sky."""
    source = WorldSource(WorldOptions(split, moving=1.0))
    worlds = source.worlds(5, g := seeded(2))
    pose, K, times = source.cameras(worlds, 2, size, g)
    _, depth, _ = trace(worlds, pose, K, times, size, 1)
    point, eye = seen(depth, pose, K), eyes(pose.double())[:, :, None, None]
    steps = torch.linspace(0, 0.999, 800, dtype=torch.float64)[:, None]
    before = eye[..., None, :] + steps * (point - eye)[..., None, :]
    assert not occupied(worlds, times, before).any()
    behind = eye + 1.0005 * (point - eye)
    around = worlds.surround
    low, high = around.low[:, None, None, None], around.high[:, None, None, None]
    beyond = ((behind < low) | (behind > high)).any(-1)
    beyond |= (behind.norm(dim=-1) > around.dome[:, None, None, None]) & around.open[:, None, None, None]
    thing = occupied(worlds, times, behind)
    assert (thing | beyond).float().mean() > 0.995  # a ray may graze something thinner than the step
    assert 0.05 < thing.float().mean() < 0.9


def test_shadows_are_where_something_is_in_the_way() -> None:
    source = WorldSource(STILL)
    worlds = source.worlds(4, g := seeded(3))
    size = (16, 16)
    pose, K, times = source.cameras(worlds, 2, size, g)
    _, depth, _ = trace(worlds, pose, K, times, size, 1)
    points = (0.99 * seen(depth, pose, K) + 0.01 * eyes(pose)[:, :, None, None]).flatten(2, 3)
    lamp = worlds.surround.lamp.double()[:, None, None]
    steps = torch.linspace(0, 1, 1500, dtype=torch.float64)[:, None]
    expected = occupied(worlds, times, points[..., None, :] + steps * (lamp - points)[..., None, :]).any(-1)
    bundles = points.float().unflatten(2, (16, 16)).mT
    found = hits.hidden(hits.frames(worlds.objects, times), bundles, worlds.surround.lamp[:, None, None, :, None])
    assert ((found > 0).flatten(2) == expected).float().mean() > 0.99
    assert 0.05 < expected.float().mean() < 0.6


def test_a_point_keeps_its_colour_from_view_to_view() -> None:
    source, size = WorldSource(STILL), (20, 12)
    worlds = source.worlds(12, g := seeded(4))
    matte = dataclasses.replace(worlds.finishes, shine=torch.zeros_like(worlds.finishes.shine))
    worlds = dataclasses.replace(worlds, finishes=matte)
    pose, K, times = source.cameras(worlds, 2, size, g)
    rgb, depth, _ = trace(worlds, pose, K, times, size, 1)
    points = seen(depth, pose, K)[:, 0].flatten(1, 2)
    there = (points @ pose[:, 1, :3, :3].double().mT) + pose[:, 1, None, :3, 3]
    # View 1 once more for each pixel of view 0, of one pixel with its middle on that point.
    n = points.shape[1]
    moved = K[:, 1, None].repeat(1, n, 1, 1)
    moved[..., :2, 2] = (0.5 - K[:, 1, 0, 0, None, None] * there[..., :2] / there[..., 2:]).float()
    rgb1, depth1, _ = trace(worlds, pose[:, 1:].repeat(1, n, 1, 1), moved, times[:, 1:].repeat(1, n), (1, 1), 1)
    far = there[..., 2]
    same = (depth1[..., 0, 0] - far).abs() < 1e-3 * far
    front = far > 0
    assert same[front].float().mean() > 0.6
    assert (depth1[..., 0, 0] < 1.001 * far)[front].float().mean() > 0.999  # else something is in front of it
    difference = (rgb1[..., 0, 0] - rgb[:, 0].flatten(2).mT).abs().amax(-1)[same & front]
    assert (difference < 0.01).float().mean() > 0.98  # edges of patterns and of shadows
    assert rgb.std() > 0.1


def test_clips_repeat_and_splits_do_not_meet() -> None:
    made = {
        split: WorldSource(WorldOptions(split, supersampling=1)).clips(3, 2, (8, 8), seeded(5))
        for split in ("train", "validation", "generators")
    }
    again = WorldSource(WorldOptions(supersampling=1)).clips(3, 2, (8, 8), seeded(5))
    for name, tensor in made["train"].tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
    assert (made["train"].rgb - made["validation"].rgb).abs().mean() > 0.05
    streams = [WorldSource(WorldOptions(split))._stream(seeded(5)).initial_seed() for split in made]
    assert [seed % 4 for seed in streams] == [0, 1, 2] and max(streams) < 1 << 32


def test_what_generators_hold_training_never_shows() -> None:
    held, trained = (WorldSource(WorldOptions(split)).worlds(150, seeded(6)) for split in ("generators", "train"))
    dots, crane = textures.FAMILIES.index("dots"), paths.PATHS.index("crane")
    assert (held.objects.kind == shapes.CYLINDER).any(1).all() and (held.finishes.family[:, :-3] == dots).any(1).all()
    assert (held.rig.path == crane).all()
    assert not (trained.objects.kind == shapes.CYLINDER).any() and not (trained.finishes.family == dots).any()
    assert set(trained.rig.path.tolist()) == set(range(len(paths.PATHS))) - {crane}
    assert set(trained.objects.kind.flatten().tolist()) == {-1, shapes.ELLIPSOID, shapes.BOX, shapes.CONE}
    counts = (trained.objects.kind >= 0).sum(1)
    assert counts.min() == 3 and counts.max() == 8


def test_only_time_moves_things() -> None:
    for share in (0.0, 1.0):
        source = WorldSource(WorldOptions(moving=share))
        worlds = source.worlds(6, g := seeded(7))
        pose, K, _ = source.cameras(worlds, 1, (24, 24), g)
        pose, K = pose.repeat(1, 3, 1, 1), K.repeat(1, 3, 1, 1)
        rgb, depth, _ = trace(worlds, pose, K, torch.tensor([[0.0, 1.0, 0.0]]).repeat(6, 1), (24, 24), 1)
        assert torch.equal(rgb[:, 0], rgb[:, 2])
        changed = ((rgb[:, 0] - rgb[:, 1]).abs().amax(1) > 0.02).flatten(1).any(1)
        assert changed.all() if share else not changed.any() and torch.equal(depth[:, 0], depth[:, 1])


def test_more_rays_keep_the_mean_and_the_depth() -> None:
    source = WorldSource()
    worlds = source.worlds(6, g := seeded(8))
    views = source.cameras(worlds, 2, (16, 16), g)
    (few, depth, _), (many, same, _) = (trace(worlds, *views, (16, 16), n) for n in (1, 4))
    assert torch.equal(depth, same)
    assert (few.mean((3, 4)) - many.mean((3, 4))).abs().amax() < 0.03
    assert (few - many).abs().mean() < 0.05 and not torch.equal(few, many)


@pytest.mark.parametrize(("views", "size"), [(4, (32, 32)), (1, (11, 6))])
def test_clips_are_whole(views: int, size: tuple[int, int]) -> None:
    clips = WorldSource().clips(6, views, size, seeded(9))
    assert clips.size == size and all(tensor.isfinite().all() for tensor in clips.tensors().values())
    assert (clips.alpha == 1).all() and clips.depth.min() > 0
    assert clips.rgb.min() >= 0 and clips.rgb.max() <= 1 and clips.rgb.std() > 0.1
    assert clips.times.min() >= 0 and clips.times.max() <= 1
    fov = torch.rad2deg(2 * torch.atan(size[1] / 2 / clips.K[..., 1, 1]))
    assert fov.min() >= 35 and fov.max() <= 75.001
    turned = clips.world_to_camera[..., :3, :3]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)
    assert (turned[..., 1, 1] > 0.5).all()  # y is down


def test_cameras_keep_to_free_space() -> None:
    for split in ("train", "generators"):
        source = WorldSource(WorldOptions(split, moving=1.0, supersampling=1))
        worlds = source.worlds(120, g := seeded(10))
        rig, around = worlds.rig, worlds.surround
        eye = eyes(source.cameras(worlds, 5, (16, 16), g)[0])
        assert ((eye - rig.base[:, None]).norm(dim=-1) <= 1.001 * paths.ball(rig.distance, rig.reach)[:, None]).all()
        assert ((eye > around.low[:, None]) & (eye < around.high[:, None])).all()
        gap = (eye[:, :, None] - worlds.objects.centre[:, None]).norm(dim=-1) - worlds.objects.scale.norm(dim=-1)[
            :, None
        ]
        assert (gap > 0.25 * rig.distance[:, None, None])[(worlds.objects.kind >= 0)[:, None].expand_as(gap)].all()
        clips = source.clips(120, 5, (16, 16), g)
        middle = clips.depth[:, 0, 4:12, 4:12].flatten(1).amin(1)
        assert (middle > 0.25 * unit_of(clips)).float().mean() > 0.99
        baseline = torch.cdist(eyes(clips.world_to_camera), eyes(clips.world_to_camera)).flatten(1).amax(1)
        share = baseline / unit_of(clips)
        assert 0.1 < share.median() < 0.5 and share.max() < 0.9
        first = (clips.times[:, 0] == 0).float().mean()
        assert first < 0.5  # view 0 is not always where the path begins


def test_the_sky_is_far_and_the_same_in_every_view() -> None:
    worlds = WorldSource(dataclasses.replace(STILL, open=1.0)).worlds(20, seeded(11))
    pose, K, times = WorldSource().cameras(worlds, 2, (16, 16), seeded(11))
    eye = eyes(pose)
    level = torch.eye(4).repeat(20, 2, 1, 1)  # both look along z, from where they are
    level[..., :3, 3] = -eye
    _, depth, _ = trace(worlds, level, K, times, (16, 16), 1)
    sky = seen(depth, level, K)[:, :, 0].norm(dim=-1) / worlds.surround.dome[:, None, None]
    assert ((sky - 1).abs() < 1e-4).float().mean() > 0.7  # the top row, but for what stands in front
    surface = hits.first(
        worlds,
        hits.frames(worlds.objects, times),
        eye[:, :, None, :, None],
        torch.tensor([0.0, -1.0, 0.01])[:, None].expand(20, 2, 1, 3, 1),
    )[1]
    assert (surface == worlds.objects.kind.shape[1] + FAR).float().mean() > 0.95


def test_patterns_mix_two_colours_at_the_stated_size() -> None:
    u, v = torch.rand(2, 20000, generator=seeded(12)) * 40 - 20
    for family, name in enumerate(textures.FAMILIES):
        share, tone = textures.pattern(torch.full(u.shape, family), u, v)
        assert share.min() >= 0 and share.max() <= 1 and tone.min() >= 0 and tone.max() <= 1
        mean = {
            "solid": 0,
            "dots": math.pi * textures.DOT**2,
            "brick": 1 - (1 - textures.MORTAR / 2) * (1 - textures.MORTAR),
        }
        assert share.mean() == pytest.approx(mean.get(name, 0.5), abs=0.03), name
    period = torch.full(u.shape, textures.CHECKER)
    one, two, three = (textures.pattern(period, u + step, v)[0] for step in (0, 1, 2))
    # Whole steps are exact but for the rounding of u itself.
    assert (one == 1 - two).float().mean() > 0.999 and (one == three).float().mean() > 0.999
    a, b = textures.noise(u, v), textures.noise(u + 1e-3, v)
    assert (a - b).abs().max() < 0.02 and a.std() > 0.2  # it has no steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "split 'test' is unknown"),
        ({"objects": (5, 3)}, r"objects \(5, 3\) is no range"),
        ({"moving": 1.5}, "moving 1.5"),
        ({"supersampling": 0}, "supersampling 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WorldOptions(**changes)
