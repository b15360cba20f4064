"""`rasterization` as a trainer written for gsplat uses it, over `rasterize` and over gsplat's stages in plain torch."""

import gc
import importlib.util
import inspect
import math
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lyra.kernels import rasterize as door
from lyra.kernels.frames import Rendering
from lyra.kernels.gsplat import stages as gsplat
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterization, rasterize

WIDTH, HEIGHT = 29, 19
LENSES = {"pinhole": "pinhole", "orthographic": "ortho", "fisheye": "fisheye"}


def staged_rasterize(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, world_to_camera: Tensor, K: Tensor,
    width: int, height: int, *, features: Tensor | None = None, background: Tensor | None = None,
    mask: Tensor | None = None, options: Options, backend: str, keep_projected: bool,
) -> SimpleNamespace:  # fmt: skip
    """What `rasterize` promises, put together from `kernels.gsplat`: the truth for the door's translation."""
    assert keep_projected and backend in ("auto", "reference")
    batch, n, cameras = means.shape[:-2], means.shape[-2], world_to_camera.shape[-3]
    radii, means2d, depths, conics, shares = gsplat.fully_fused_projection(
        means, None, quats, scales, world_to_camera, K, width, height, eps2d=options.blur, near_plane=options.near,
        far_plane=options.far, radius_clip=options.radius_clip, calc_compensations=options.antialiased,
        camera_model=LENSES[options.lens], opacities=opacities,
    )  # fmt: skip
    opaque = opacities[..., None, :].expand(*batch, cameras, n) * (1.0 if shares is None else shares)
    if colors.dim() == means.dim() + 1:
        directions = means[..., None, :, :] - torch.linalg.inv(world_to_camera)[..., None, :3, 3]
        coefficients = colors[..., None, :, :, :].expand(*batch, cameras, -1, -1, -1)
        degree = math.isqrt(colors.shape[-2]) - 1
        colors = (gsplat.spherical_harmonics(degree, directions, coefficients) + 0.5).clamp(min=0.0)
    else:
        colors = colors[..., None, :, :].expand(*batch, cameras, n, 3)
    layers = [colors, depths[..., None]]
    if features is not None:
        features = features if features.dim() > means.dim() else features[..., None, :, :]
        layers.append(features.expand(*batch, cameras, n, -1))
    columns, rows = -(-width // 16), -(-height // 16)
    _, ids, places = gsplat.isect_tiles(means2d, radii, depths, 16, columns, rows)
    offsets = gsplat.isect_offset_encode(ids, math.prod(batch) * cameras, columns, rows)
    drawn, alpha = gsplat.rasterize_to_pixels(
        means2d, conics, torch.cat(layers, dim=-1), opaque, width, height, 16,
        offsets.reshape(*batch, cameras, rows, columns), places, absgrad=options.absgrad,
    )  # fmt: skip
    if mask is not None:
        drawn, alpha = drawn * mask[..., None], alpha * mask[..., None]
    rgb = drawn[..., :3]
    if background is not None:
        rgb = rgb + (1 - alpha) * background[..., None, None, :]
    some = alpha > 0
    depth = torch.where(some, drawn[..., 3:4] / torch.where(some, alpha, 1.0), 0.0)
    projected = SimpleNamespace(means2d=means2d, conics=conics, depths=depths, opacities=opaque, radii=radii)
    return SimpleNamespace(
        rgb=rgb,
        alpha=alpha[..., 0],
        depth=depth[..., 0] if options.depth else None,
        features=drawn[..., 4:],
        projected=projected,
    )


@pytest.fixture(params=["stages", "reference", "auto"], autouse=True)
def below(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What renders under the door: gsplat's stages in plain torch, or a backend of `rasterize`."""

    def by_reference(*args: Any, options: Options, backend: str, **more: Any) -> Rendering:
        if options.absgrad:
            pytest.skip("the backend reference has no absolute gradients")
        return rasterize(*args, options=options, backend="reference", **more)

    if request.param == "stages":
        monkeypatch.setattr(door, "rasterize", staged_rasterize)
    elif request.param == "reference":
        monkeypatch.setattr(door, "rasterize", by_reference)
    elif importlib.util.find_spec("lyra.kernels.cpu.stages") is None:
        pytest.skip("the backend cpu has no gradients yet")
    return request.param


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _cameras(count: int) -> tuple[Tensor, Tensor]:
    """Cameras side by side that look along z."""
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.4, 0.4, count) if count > 1 else 0.0
    poses[:, 1, 3] = 0.1
    lens = torch.tensor([[24.0, 0.0, 14.0], [0.0, 26.0, 10.0], [0.0, 0.0, 1.0]])
    return poses, lens.repeat(count, 1, 1)


def _splats(n: int, seed: int = 0) -> dict[str, Tensor]:
    """The first four arguments of `rasterization`."""
    means = torch.cat((0.9 * _random(n, 2, seed=seed), 2.5 + _random(n, 1, seed=seed + 1).abs()), dim=1)
    scales = 0.04 + 0.15 * _random(n, 3, seed=seed + 3).abs()
    opacities = (1.0 + _random(n, seed=seed + 4)).sigmoid()
    return {"means": means, "quats": _random(n, 4, seed=seed + 2), "scales": scales, "opacities": opacities}


def _scene() -> dict[str, Tensor]:
    """Twenty splats, of which one is behind and one beside the picture."""
    splats = _splats(20)
    splats["means"][4, 2] = -1.0
    splats["means"][5, 0] = 40.0
    return splats


# The trainer.


def _parameters(n: int) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer]]:
    """As in gsplat's examples: raw values, one Adam each."""
    start = _splats(n, seed=20)
    values = {
        "means": (start["means"], 1e-2),
        "scales": (start["scales"].log(), 2e-2),
        "quats": (start["quats"], 1e-2),
        "opacities": (torch.full((n,), 0.3).logit(), 5e-2),
        "sh0": (0.2 * _random(n, 1, 3, seed=30), 5e-2),
        "shN": (torch.zeros(n, 8, 3), 2e-2),
    }
    parameters = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, (value, _) in values.items()})
    optimizers = {
        name: torch.optim.Adam([{"params": parameters[name], "lr": rate, "name": name}], eps=1e-15)
        for name, (_, rate) in values.items()
    }
    return parameters, optimizers


class Densification:
    """A user of `meta` like gsplat's default strategy: mean screen gradients decide who is cloned, who is dropped."""

    def __init__(self, absgrad: bool, packed: bool) -> None:
        self.absgrad, self.packed = absgrad, packed
        self.gradient: Tensor | None = None
        self.count: Tensor | None = None
        self.size: Tensor | None = None

    def before_backward(self, meta: dict[str, Any]) -> None:
        assert "means2d" in meta
        meta["means2d"].retain_grad()

    def after_backward(self, n: int, meta: dict[str, Any]) -> None:
        for key in ("width", "height", "n_cameras", "radii", "gaussian_ids", "means2d"):
            assert key in meta
        gradient = (meta["means2d"].absgrad if self.absgrad else meta["means2d"].grad).clone()
        gradient[..., 0] *= meta["width"] / 2.0 * meta["n_cameras"]
        gradient[..., 1] *= meta["height"] / 2.0 * meta["n_cameras"]
        if self.gradient is None or self.count is None or self.size is None:
            self.gradient, self.count, self.size = torch.zeros(n), torch.zeros(n), torch.zeros(n)
        if self.packed:
            ids, radii = meta["gaussian_ids"], meta["radii"].max(dim=-1).values
        else:
            seen = (meta["radii"] > 0.0).all(dim=-1)  # [C, N]
            ids, gradient, radii = torch.where(seen)[1], gradient[seen], meta["radii"][seen].max(dim=-1).values
        self.gradient.index_add_(0, ids, gradient.norm(dim=-1))
        self.count.index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        self.size[ids] = torch.maximum(self.size[ids], radii / float(max(meta["width"], meta["height"])))

    @torch.no_grad()
    def refine(
        self, parameters: torch.nn.ParameterDict, optimizers: dict[str, torch.optim.Optimizer]
    ) -> tuple[int, int]:
        """Clone the quarter that moves most, drop the faintest two; the optimisers' state goes along."""
        assert self.gradient is not None and self.count is not None
        mean = self.gradient / self.count.clamp(min=1)
        assert torch.isfinite(mean).all()
        grown = (mean >= mean.quantile(0.75)).nonzero()[:, 0]
        kept = parameters["opacities"].sort().indices[2:]
        rows = torch.cat((kept, grown))
        for name, optimizer in optimizers.items():
            old = parameters[name]
            new = torch.nn.Parameter(old[rows])
            state = optimizer.state.pop(old)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = state[key][rows]
            optimizer.param_groups[0]["params"] = [new]
            optimizer.state[new] = state
            parameters[name] = new
        self.gradient = self.count = self.size = None
        return len(grown), len(kept)


@pytest.mark.parametrize(
    ("packed", "absgrad", "mode"), [(False, False, "classic"), (True, True, "antialiased"), (True, False, "classic")]
)
def test_training(packed: bool, absgrad: bool, mode: str) -> None:
    """A loop as gsplat's users write it learns the pictures of another scene, and can densify on the way."""
    viewmats, Ks = _cameras(3)
    truth = _splats(12)
    with torch.no_grad():
        pictures = rasterization(
            **truth, colors=_random(12, 3, seed=8).sigmoid(), viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT
        )[0]
    parameters, optimizers = _parameters(16)
    strategy = Densification(absgrad, packed)
    losses = []
    for step in range(18):
        camera = slice(0, 2) if step % 3 == 0 else slice(step % 3, step % 3 + 1)
        renders, alphas, info = rasterization(
            means=parameters["means"],
            quats=parameters["quats"],
            scales=torch.exp(parameters["scales"]),
            opacities=torch.sigmoid(parameters["opacities"]),
            colors=torch.cat([parameters["sh0"], parameters["shN"]], 1),
            viewmats=viewmats[camera],
            Ks=Ks[camera],
            width=WIDTH,
            height=HEIGHT,
            sh_degree=min(step // 6, 2),
            packed=packed,
            absgrad=absgrad,
            rasterize_mode=mode,
            render_mode="RGB+ED",
            backgrounds=torch.zeros(len(viewmats[camera]), 3),
        )
        assert renders.shape == (len(viewmats[camera]), HEIGHT, WIDTH, 4) and alphas.shape == (*renders.shape[:-1], 1)
        strategy.before_backward(info)
        loss = (renders[..., :3] - pictures[camera]).abs().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        strategy.after_backward(len(parameters["means"]), info)
        if step == 8:
            assert strategy.refine(parameters, optimizers) == (4, 14)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    assert len(parameters["means"]) == 18
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), losses


# The translation.


def test_packed_and_full_agree(below: str) -> None:
    """Picture, meta and screen gradients, one packed and the other not; lists of both blend to the same picture."""
    absgrad = below != "reference"
    viewmats, Ks = _cameras(3)
    colors, weights = _random(20, 3, seed=8), _random(3, HEIGHT, WIDTH, 3, seed=9)
    answers = []
    for packed in (False, True):
        splats = {name: t.requires_grad_() for name, t in _scene().items()}
        picture, alphas, meta = rasterization(
            **splats, colors=colors, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, packed=packed,
            absgrad=absgrad, tile_size=8,
        )  # fmt: skip
        meta["means2d"].retain_grad()
        loss = (picture * weights).sum() + meta["means2d"].square().sum() * 1e-3  # on the screen position itself too
        loss.backward()
        again = gsplat.rasterize_to_pixels(
            meta["means2d"], meta["conics"],
            colors[meta["gaussian_ids"]] if packed else colors.expand(3, 20, 3), meta["opacities"], WIDTH, HEIGHT,
            meta["tile_size"], meta["isect_offsets"], meta["flatten_ids"], packed=packed,
        )  # fmt: skip
        torch.testing.assert_close(again[0], picture, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again[1], alphas, rtol=1e-4, atol=1e-4)
        assert meta["isect_offsets"].shape == (3, meta["tile_height"], meta["tile_width"]) == (3, 3, 4)
        answers.append((picture, meta, {name: t.grad for name, t in splats.items()}))
    (full_picture, full, full_grads), (picture, meta, grads) = answers
    torch.testing.assert_close(picture, full_picture)
    assert full["batch_ids"] is full["camera_ids"] is full["gaussian_ids"] is None
    ids = meta["camera_ids"], meta["gaussian_ids"]
    assert not meta["batch_ids"].any() and all(i.dtype == torch.int64 for i in ids)
    seen = (full["radii"] > 0).all(dim=-1)
    assert 0 < len(ids[0]) == seen.sum() < 60 and not seen[:, [4, 5]].any()
    for name in ("radii", "means2d", "depths", "conics", "opacities", "tiles_per_gauss"):
        torch.testing.assert_close(meta[name], full[name][ids])
    assert torch.equal(meta["isect_ids"], full["isect_ids"])
    for name in ("grad", "absgrad") if absgrad else ("grad",):
        torch.testing.assert_close(getattr(meta["means2d"], name), getattr(full["means2d"], name)[ids])
    if absgrad:
        assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() - 0.1).all()
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, full_grads[name])


def test_meta_is_a_dict() -> None:
    """gsplat's keys, seen whichever way a dict is looked at; lists are made when asked for."""
    viewmats, Ks = _cameras(2)
    options = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    keys = {
        "batch_ids", "camera_ids", "gaussian_ids", "radii", "means2d", "depths", "conics", "opacities", "tile_width",
        "tile_height", "tiles_per_gauss", "isect_ids", "flatten_ids", "isect_offsets", "width", "height", "tile_size",
        "n_batches", "n_cameras",
    }  # fmt: skip

    def make() -> dict[str, Any]:
        return rasterization(**_scene(), colors=_random(20, 3), **options)[2]

    lists = ("tiles_per_gauss", "isect_ids", "flatten_ids", "isect_offsets")
    meta = make()
    assert isinstance(meta, dict) and all(name in meta for name in lists) and not any(map(meta.__dict__.get, lists))
    assert not any(dict.__contains__(meta, name) for name in lists)
    assert set(make().keys()) == set(make()) == set(dict(make().items())) == {**make()}.keys() == keys
    assert set(dict(make())) == set(make().copy()) == keys and len(make()) == len(make().values()) == len(keys)
    assert meta.get("isect_ids") is meta["isect_ids"] and meta.get("other", 3) == 3
    with pytest.raises(KeyError):
        meta["other"]
    meta["other"] = 4
    assert meta["other"] == 4 and (meta["n_batches"], meta["n_cameras"]) == (1, 2)


@pytest.mark.parametrize("packed", [False, True])
def test_no_graph_is_left_behind(packed: bool, below: str) -> None:
    """Dropping the answer frees it: the hook that gives packed rows their gradient holds nothing."""
    viewmats, Ks = _cameras(1)
    splats = {name: t.requires_grad_() for name, t in _scene().items()}

    def train() -> weakref.ref:
        def probe(gradient: Tensor) -> None:
            """Lives as long as the graph."""

        moved = splats["means"] * 1.0
        moved.register_hook(probe)
        picture, _, meta = rasterization(
            moved, splats["quats"], splats["scales"], splats["opacities"], colors=_random(20, 3), viewmats=viewmats,
            Ks=Ks, width=WIDTH, height=HEIGHT, packed=packed, absgrad=below != "reference",
        )  # fmt: skip
        meta["means2d"].retain_grad()
        picture.sum().backward()
        return weakref.ref(probe)

    gc.collect()
    gc.disable()
    try:
        left = train()() is not None
    finally:
        gc.enable()
    assert not left


def test_render_modes() -> None:
    """Depth is the last channel, D is ED times alpha; a background has no depth; D and ED need no colours."""
    viewmats, Ks = _cameras(2)
    colors, backgrounds = _random(20, 3).sigmoid(), torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.0, 0.5]])
    frames = {}
    alphas = torch.empty(0)
    for mode in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        given = colors if "RGB" in mode else None
        frames[mode], alphas, _ = rasterization(
            **_scene(), colors=given, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, backgrounds=backgrounds,
            render_mode=mode,
        )  # fmt: skip
    assert [frame.shape[-1] for frame in frames.values()] == [3, 1, 1, 4, 4]
    torch.testing.assert_close(frames["RGB+D"], torch.cat((frames["RGB"], frames["D"]), dim=-1))
    torch.testing.assert_close(frames["RGB+ED"], torch.cat((frames["RGB"], frames["ED"]), dim=-1))
    torch.testing.assert_close(frames["D"], frames["ED"] * alphas)
    assert not frames["ED"][alphas == 0].any() and (alphas == 0).any()
    ones, _, _ = rasterization(
        **_scene(), colors=torch.ones(20, 3), viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT
    )
    torch.testing.assert_close(ones, alphas.expand(-1, -1, -1, 3))
    empty = (alphas == 0)[..., 0]
    assert torch.equal(frames["RGB"][empty], backgrounds[:, None, None].expand_as(frames["RGB"])[empty])
    with pytest.raises(ValueError, match="colors is None with render_mode='RGB'"):
        rasterization(**_scene(), colors=None, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("per_camera", [False, True])
def test_channels(channels: int, per_camera: bool) -> None:
    """Any number of channels is blended channel by channel, background and gradients too."""
    viewmats, Ks = _cameras(2)
    shape = (2, 20, channels) if per_camera else (20, channels)
    colors, backgrounds = _random(*shape).requires_grad_(), _random(2, channels, seed=1).requires_grad_()
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    picture, _, _ = rasterization(**_scene(), colors=colors, backgrounds=backgrounds, **camera)
    expected = []
    for channel in range(channels):
        one = colors[..., channel : channel + 1].expand(*shape[:-1], 3)
        behind = backgrounds[:, channel : channel + 1].expand(2, 3)
        expected.append(rasterization(**_scene(), colors=one, backgrounds=behind, **camera)[0][..., :1])
    weights = _random(*picture.shape, seed=3)
    torch.testing.assert_close(picture, torch.cat(expected, dim=-1))
    mine = torch.autograd.grad((picture * weights).sum(), (colors, backgrounds))
    theirs = torch.autograd.grad((torch.cat(expected, dim=-1) * weights).sum(), (colors, backgrounds))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 4])
def test_as_many_cameras_as_splats(n: int) -> None:
    """Colours [C, N, 3] are not taken for harmonics [N, K, 3]."""
    viewmats, Ks = _cameras(n)
    splats = _splats(n)
    splats["means"][:, :2] *= 0.2
    colors = _random(n, n, 3)
    camera = {"width": WIDTH, "height": HEIGHT}
    picture, _, _ = rasterization(**splats, colors=colors, viewmats=viewmats, Ks=Ks, **camera)
    assert picture.any()
    for i in range(n):
        alone = rasterization(**splats, colors=colors[i], viewmats=viewmats[i : i + 1], Ks=Ks[i : i + 1], **camera)[0]
        torch.testing.assert_close(picture[i], alone[0])


def test_harmonics() -> None:
    """Bands above `sh_degree` are there but unused; each camera may have its own; degree 4; gsplat 1.6's layout."""
    viewmats, Ks = _cameras(2)
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    colors = 0.3 * _random(20, 25, 3)
    eyes = torch.linalg.inv(viewmats)[:, None, :3, 3]
    directions = _scene()["means"] - eyes
    for degree in range(5):
        given = colors.clone().requires_grad_()
        picture, _, _ = rasterization(**_scene(), colors=given, sh_degree=degree, **camera)
        shaded = gsplat.spherical_harmonics(degree, directions, colors.expand(2, 20, 25, 3)) + 0.5
        expected, _, _ = rasterization(**_scene(), colors=shaded.clamp(min=0.0), **camera)
        torch.testing.assert_close(picture, expected, rtol=1e-4, atol=1e-5)
        own = colors.expand(2, 20, 25, 3)
        each, _, _ = rasterization(**_scene(), colors=own, sh_degree=degree, **camera)
        torch.testing.assert_close(picture, each, rtol=1e-4, atol=1e-5)
        picture.sum().backward()
        assert given.grad is not None and given.grad.shape == (20, 25, 3)
        assert given.grad[:, : (degree + 1) ** 2].any() and not given.grad[:, (degree + 1) ** 2 :].any()
    two, _, _ = rasterization(**_scene(), colors=colors[..., :2], sh_degree=1, **camera)
    three, _, _ = rasterization(**_scene(), colors=colors, sh_degree=1, **camera)
    torch.testing.assert_close(two, three[..., :2], rtol=1e-4, atol=1e-5)
    twice = {name: t.expand(2, *t.shape) for name, t in _scene().items()}
    both = {
        "viewmats": viewmats.expand(2, -1, -1, -1),
        "Ks": Ks.expand(2, -1, -1, -1),
        "width": WIDTH,
        "height": HEIGHT,
    }
    shared, _, meta = rasterization(**twice, colors=colors, sh_degree=1, **both)
    torch.testing.assert_close(shared, three.expand(2, -1, -1, -1, -1))
    assert (meta["n_batches"], meta["n_cameras"]) == (2, 2) and int(meta["batch_ids"].max()) == 1
    with pytest.raises(ValueError, match=r"colors has shape \[20, 4, 3\], expected .* with K of 9 or more"):
        rasterization(**_scene(), colors=colors[:, :4], sh_degree=2, **camera)


def test_extra_signals() -> None:
    """Channels of their own, raw or as harmonics, without background, next to colours of any kind."""
    viewmats, Ks = _cameras(2)
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    signals = _random(2, 20, 2)
    for colors in (_random(20, 3), _random(20, 5), _random(2, 20, 4)):
        picture, _, meta = rasterization(**_scene(), colors=colors, extra_signals=signals, **camera)
        torch.testing.assert_close(picture, rasterization(**_scene(), colors=colors, **camera)[0])
        expected, _, _ = rasterization(**_scene(), colors=signals, **camera)
        torch.testing.assert_close(meta["render_extra_signals"], expected)
    harmonics = 0.3 * _random(20, 4, 2)
    depth, _, meta = rasterization(
        **_scene(), colors=None, render_mode="ED", extra_signals=harmonics, extra_signals_sh_degree=1, **camera
    )
    assert depth.shape[-1] == 1 and meta["render_extra_signals"].shape == (2, HEIGHT, WIDTH, 2)


def test_normals(below: str) -> None:
    """Of splats that are flat along z and face the camera: their weights, towards it."""
    if below == "stages":
        pytest.skip("gsplat's stages make no normals")
    viewmats, Ks = _cameras(2)
    splats = _scene()
    splats["quats"][:] = torch.tensor((1.0, 0.0, 0.0, 0.0))
    splats["scales"][:, 2] = 1e-3
    picture, alphas, meta = rasterization(
        **splats, colors=None, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, render_mode="D",
        return_normals=True, extra_signals=torch.ones(20, 1),
    )  # fmt: skip
    assert picture.shape[-1] == 1
    torch.testing.assert_close(meta["normals"], -alphas * torch.tensor((0.0, 0.0, 1.0)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(meta["render_extra_signals"], alphas)


def test_masks() -> None:
    """Masked tiles show the background, the others what they would have shown."""
    viewmats, Ks = _cameras(2)
    backgrounds = torch.full((2, 3), 0.3)
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT, "tile_size": 8}
    masks = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    colors = _random(20, 3)
    whole, alphas, _ = rasterization(**_scene(), colors=colors, backgrounds=backgrounds, **camera)
    part, part_alphas, _ = rasterization(**_scene(), colors=colors, backgrounds=backgrounds, masks=masks, **camera)
    pixels = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :HEIGHT, :WIDTH, None]
    torch.testing.assert_close(part, torch.where(pixels, whole, 0.3))
    torch.testing.assert_close(part_alphas, torch.where(pixels, alphas, 0.0))
    with pytest.raises(ValueError, match=r"masks is torch.bool \[2, 3, 3\], expected bool \[2, 3, 4\]"):
        rasterization(**_scene(), colors=colors, masks=masks[..., :3], **camera)


def test_covariances() -> None:
    """Instead of quaternions and scales; symmetric splats and flat ones too."""
    viewmats, Ks = _cameras(2)
    splats = _scene()
    splats["scales"][:3] = 0.1
    splats["scales"][3:6, 0] = 0.0
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT, "colors": _random(20, 3)}
    expected, _, _ = rasterization(**splats, **camera)
    covars, _ = gsplat.quat_scale_to_covar_preci(splats["quats"], splats["scales"], compute_preci=False)
    assert covars is not None
    picture, _, _ = rasterization(splats["means"], None, None, splats["opacities"], covars=covars, **camera)
    torch.testing.assert_close(picture, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="covars with gradients is not supported: learn quats and scales"):
        rasterization(**splats, covars=covars.requires_grad_(), **camera)


@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_lenses_and_poses(camera_model: str, mode: str) -> None:
    """Gradients of poses and intrinsics by finite differences of a smooth picture, in float64."""
    viewmats, Ks = (t.double() for t in _cameras(1))
    splats = {name: t.double() for name, t in _splats(3).items()}
    splats["scales"], splats["opacities"] = splats["scales"] + 0.3, torch.full((3,), 0.6).double()
    splats["means"][:, :2] *= 0.3
    weights = _random(1, 5, 7, 4).double()
    inside = torch.zeros_like(weights)
    inside[:, 1:4, 2:5] = 1.0  # away from where alphas are cut at 1/255

    def loss(pose: Tensor, K: Tensor, means: Tensor) -> Tensor:
        scale = torch.tensor([[0.25], [0.25], [1.0]], dtype=torch.float64)
        picture, _, _ = rasterization(
            means, splats["quats"], splats["scales"], splats["opacities"], colors=_random(3, 3).double(),
            viewmats=torch.cat((pose, viewmats[:, 3:]), dim=1), Ks=K * scale, width=7, height=5, render_mode="RGB+D",
            camera_model=camera_model, rasterize_mode=mode, packed=False, backend="reference",
        )  # fmt: skip
        return (picture * weights * inside).sum()

    inputs = (viewmats[:, :3].clone(), Ks.clone(), splats["means"].clone())
    assert torch.autograd.gradcheck(loss, tuple(t.requires_grad_() for t in inputs), atol=1e-5, rtol=1e-3)


def test_sparse_gradients() -> None:
    """COO gradients of what was seen, equal to the dense ones, and good for SparseAdam."""
    viewmats, Ks = _cameras(2)
    camera = {
        "viewmats": viewmats,
        "Ks": Ks,
        "width": WIDTH,
        "height": HEIGHT,
        "colors": _random(20, 9, 3),
        "sh_degree": 2,
    }
    grads = []
    for sparse_grad in (False, True):
        splats = {name: t.requires_grad_() for name, t in _scene().items()}
        picture, _, _ = rasterization(**splats, sparse_grad=sparse_grad, **camera)
        picture.square().sum().backward()
        grads.append(splats)
    for name in ("means", "quats", "scales"):
        dense, sparse = (splats[name].grad for splats in grads)
        assert sparse is not None and sparse.is_sparse and sparse._nnz() < 20
        torch.testing.assert_close(sparse.to_dense(), dense)
        before = grads[1][name].detach().clone()
        torch.optim.SparseAdam([grads[1][name]], lr=1e-2).step()
        assert (grads[1][name] != before).any() and torch.equal(grads[1][name][4], before[4])
    assert not grads[1]["opacities"].grad.is_sparse
    with pytest.raises(ValueError, match="sparse_grad needs packed=True"):
        rasterization(**_scene(), sparse_grad=True, packed=False, **camera)


def test_radius_clip() -> None:
    """As in gsplat, against radii rounded up: 2.5 clips what 2 clips."""
    viewmats, Ks = _cameras(1)
    splats = _scene()
    splats["scales"] *= torch.linspace(0.01, 1.0, 20)[:, None]
    camera = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT, "colors": _random(20, 3)}
    radii = {
        clip: rasterization(**splats, radius_clip=clip, packed=False, **camera)[2]["radii"] for clip in (0.0, 2.5, 3.0)
    }
    for clip, kept in radii.items():
        expected = (radii[0.0] > clip).any(dim=-1, keepdim=True) * radii[0.0]
        assert torch.equal(kept, expected)
    assert radii[3.0].any() and len({int((kept > 0).sum()) for kept in radii.values()}) == 3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", ["none", "behind", "no size", "no length", "faint", "opaque", "one pixel"])
def test_edges(case: str, packed: bool, below: str) -> None:
    """Numbers come out and come back, whatever goes in."""
    n = 0 if case == "none" else 5
    width, height = (1, 1) if case == "one pixel" else (WIDTH, HEIGHT)
    splats = _splats(n)
    changes = {
        "behind": ("means", -1.0), "no size": ("scales", 0.0), "no length": ("quats", 0.0),
        "faint": ("opacities", 0.0), "opaque": ("opacities", 1.0),
    }  # fmt: skip
    if case in changes:
        name, value = changes[case]
        splats[name][...] = value
    inputs = {name: t.requires_grad_() for name, t in splats.items()}
    viewmats, Ks = (t.requires_grad_() for t in _cameras(2))
    colors = torch.zeros(n, 4, 3).requires_grad_()
    picture, alphas, meta = rasterization(
        **inputs, colors=colors, viewmats=viewmats, Ks=Ks, width=width, height=height, sh_degree=1, packed=packed,
        absgrad=below != "reference", render_mode="RGB+ED",
        rasterize_mode="antialiased" if case == "opaque" else "classic",
        backgrounds=torch.full((2, 3), 0.25),
    )  # fmt: skip
    meta["means2d"].retain_grad()
    (picture.sum() + alphas.square().sum()).backward()
    for name, tensor in (*meta.items(), ("picture", picture), ("alphas", alphas)):
        if isinstance(tensor, Tensor):
            assert torch.isfinite(tensor).all(), name
    for name, tensor in {**inputs, "viewmats": viewmats, "Ks": Ks, "colors": colors}.items():
        assert tensor.grad is None or torch.isfinite(tensor.grad).all(), name
    if case in ("none", "behind", "no length", "faint"):
        assert (picture[..., :3] == 0.25).all() and not alphas.any() and not meta["radii"].any()
        assert meta["isect_offsets"].shape == (2, 2, 2) and not len(meta["isect_ids"])
    elif case != "one pixel":
        assert alphas.any() and torch.isfinite(meta["means2d"].grad).all() and meta["means2d"].grad.any()
        assert below == "reference" or meta["means2d"].absgrad.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"distributed": True}, "distributed=True is not supported: give every process its own cameras"),
        ({"with_ut": True}, "with_ut=True is not supported"),
        ({"with_eval3d": True}, "with_eval3d=True is not supported"),
        ({"ut_params": object()}, "ut_params=.* is not supported"),
        ({"rolling_shutter": SimpleNamespace(name="ROLLING_TOP_TO_BOTTOM")}, "rolling_shutter=.* is not supported"),
        ({"viewmats_rs": torch.eye(4)[None]}, r"viewmats_rs=a tensor \[1, 4, 4\] is not supported"),
        ({"tangential_coeffs": torch.zeros(1, 2)}, "tangential_coeffs=.* undistort the pictures first"),
        ({"radial_coeffs": torch.zeros(1, 6)}, "radial_coeffs with camera_model='pinhole' is not supported"),
        ({"radial_coeffs": torch.zeros(1, 6), "camera_model": "fisheye"}, "radial_coeffs holds 1 sets of 6"),
        ({"camera_model": "ftheta"}, "camera_model='ftheta' is not supported: give pinhole, ortho, fisheye"),
        ({"render_mode": "d"}, "render_mode='d' is not supported: give RGB, D, ED"),
        ({"rasterize_mode": "fast"}, "rasterize_mode='fast' is not supported"),
        ({"global_z_order": False}, "global_z_order=False with camera_model='pinhole' is not supported"),
        ({"rays": torch.zeros(1, 1, 1, 6)}, "rays=a tensor .* is not supported"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"colors": torch.zeros(20, 2, 3)}, r"colors has shape \[20, 2, 3\]"),
        ({"backgrounds": torch.zeros(3)}, r"backgrounds has shape \[3\], expected \[1, 3\]"),
        ({"viewmats": torch.eye(4)}, r"viewmats has shape \[4, 4\], expected \['?C'?, 4, 4\]|viewmats has shape"),
        ({"quats": None}, "quats or scales is None"),
        ({"near_plane": -1.0}, "near is -1.0"),
    ],
)
def test_refusals(arguments: dict[str, Any], said: str) -> None:
    """What Lyra does not do it says, and what to do instead."""
    viewmats, Ks = _cameras(1)
    given = {"colors": torch.zeros(20, 3), "viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    with pytest.raises(ValueError, match=said):
        rasterization(**{**_scene(), **given, **arguments})


def test_accepted_and_without_effect() -> None:
    """Arguments that only tune gsplat's kernels, and its name for no rolling shutter."""
    viewmats, Ks = _cameras(1)
    given = {"colors": _random(20, 3), "viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    expected = rasterization(**_scene(), **given)[0]
    tuned = rasterization(
        **_scene(), **given, channel_chunk=1, segmented=True, tile_size=None, with_ut=False, distributed=False,
        rolling_shutter=SimpleNamespace(name="GLOBAL"),
    )[0]  # fmt: skip
    assert torch.equal(tuned, expected)
    names = list(inspect.signature(rasterization).parameters)
    assert names[:36] == [
        "means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height", "near_plane",
        "far_plane", "radius_clip", "eps2d", "sh_degree", "packed", "tile_size", "backgrounds", "render_mode",
        "sparse_grad", "absgrad", "rasterize_mode", "channel_chunk", "distributed", "camera_model", "segmented",
        "covars", "with_ut", "with_eval3d", "radial_coeffs", "tangential_coeffs", "thin_prism_coeffs",
        "ftheta_coeffs", "rolling_shutter", "viewmats_rs", "return_normals", "global_z_order",
    ]  # fmt: skip
