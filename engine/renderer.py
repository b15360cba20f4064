"""Scene and camera in, frame out: once by `render`, again and again by a `Renderer`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import autograd, lod
from ..kernels.arguments import check_finite, expand
from ..kernels.backends import BACKENDS, best_backend, why_unavailable
from ..kernels.frames import Rendering, Span, no_span
from ..kernels.gaze import Gaze
from ..kernels.options import Options
from ..kernels.profile import make_profiles
from ..kernels.rasterize import rasterize
from ..kernels.views import ROW, pack_views
from .cache import PageCache
from .errors import InputError
from .lod.detail import Detail
from .lod.tree import Tree
from .lod.view import eye_of, gaze_of
from .scene.camera import Camera
from .scene.gaussians import Gaussians

PLAIN = Options()


def resolve_backend(name: str) -> str:
    """The backend that `name` (auto, triton, cpu, reference) stands for on this machine.

    Raises:
        InputError: no such backend, or it cannot run here.
    """
    if name == "auto":
        return best_backend()
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown: give auto, {', '.join(BACKENDS)}")
    reason = why_unavailable(name)
    if reason:
        raise InputError(f"backend {name!r} cannot run here: {reason}")
    return name


def backend_device(backend: str) -> torch.device:
    """Where a scene has to live for a backend."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    backend: str = "auto",
    exponents: Tensor | None = None,
    background: Tensor | None = None,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    options: Options = PLAIN,
    span: Span = no_span,
) -> Rendering:
    """Render one frame; see `lyra.kernels.rasterize.rasterize` for what goes in and what comes back.

    The scene should already live on the backend's device (`gaussians.to(backend_device(...))`).
    """
    return rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
        camera.world_to_camera,
        camera.K,
        camera.width,
        camera.height,
        exponents=exponents,
        features=features,
        background=background,
        mask=mask,
        options=options,
        backend=backend,
        span=span,
    )


class Drawn(NamedTuple):
    """What a frame shows."""

    scene: autograd.Scene
    exponents: Tensor | None = None  # [n] of a level of detail


class Renderer:
    """Renders one scene again and again, and never waits for the GPU.

    On a GPU a frame is one CUDA graph, captured when a number of cameras and their size is first seen. Its tensors are
    overwritten by the next frame of that kind: clone what you keep. The graph has room for a fixed number of tile
    entries; a frame that wants more is right, but slow, and a later one finds 1.5 times what it wanted.

    A level-of-detail tree, or a cache of the pages of .lyra files, is drawn with as many splats as the budget allows,
    chosen anew for every frame (docs/lod.md).
    """

    def __init__(
        self,
        scene: Gaussians | Tree | PageCache,
        *,
        budget: int | None = None,
        backend: str = "auto",
        options: Options = PLAIN,
        stereo: bool = False,
    ) -> None:
        """Take the scene to the backend's device.

        Args:
            scene: a cache has to be on the backend's device, and stays the caller's to close.
            budget: splats that a frame draws, at most; for trees and caches, and for these only.
            stereo: cameras come in pairs of eyes, which share one sort and their colours.

        Raises:
            InputError: no such backend, or it cannot run here; a budget that is missing, not wanted, or below 1.
            ValueError: options of another type.
        """
        if not isinstance(options, Options):
            raise ValueError(f"options is a {type(options).__name__}, expected Options")
        self.backend = resolve_backend(backend)
        self.options, self.stereo = options, stereo
        device = backend_device(self.backend)
        self.detail: Detail | None = None
        if isinstance(scene, Gaussians):
            if budget is not None:
                raise InputError(f"budget {budget} is for a tree: build one with lyra.engine.lod.build, or give none")
            dtype = scene.means.dtype if self.backend == "reference" else torch.float32
            scene = scene.to(device)
            columns = (tensor.to(dtype).contiguous() for tensor in scene.tensors().values())
            self.drawn = Drawn(autograd.Scene(*columns))
        else:
            if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
                raise InputError(f"budget is {budget!r}: give the number of splats to draw, 1 or more")
            self.detail = Detail(scene, budget=budget, backend=self.backend, device=device)
            self.drawn = _drawn(self.detail.room)
        self._frames: dict[tuple[int, int, int], _Frame] = {}

    def render(
        self,
        cameras: Camera | Sequence[Camera],
        *,
        background: Tensor | None = None,
        gaze: Gaze | None = None,
        predicted_eye: Tensor | None = None,
        span: Span = no_span,
    ) -> Rendering:
        """One frame; of several cameras of one size, with a leading axis.

        Args:
            background: RGB [3] or [cameras, 3] on the CPU; black when None.
            gaze: where detail counts, for trees and caches; None: in the picture, if cameras look the same way.
            predicted_eye: [3] where the eye will be soon, for caches: pages for it are loaded ahead.

        Raises:
            InputError: the cameras differ in size, or there is none.
            ValueError: stereo, and not pairs of cameras, or the background is no finite [3] or [cameras, 3].
        """
        many = [cameras] if isinstance(cameras, Camera) else list(cameras)
        sizes = sorted({(camera.width, camera.height) for camera in many})
        if len(sizes) != 1:
            raise InputError(f"cameras have sizes {sizes}, expected one size for all")
        (width, height), eyes = sizes[0], 2 if self.stereo else 1
        if len(many) % eyes:
            raise ValueError(f"{len(many)} cameras, expected pairs of eyes for stereo")
        poses = torch.stack([camera.world_to_camera for camera in many])
        lenses = torch.stack([camera.K for camera in many])
        rows = pack_views(poses, lenses, width, height, self.options, eyes)
        back = expand("background", torch.zeros(3) if background is None else background, (len(many), 3))
        check_finite("background", back)
        if self.detail is not None:
            if gaze is None and self.options.lens == "pinhole":
                gaze = gaze_of(many)
            self.drawn = _drawn(self.detail.draw(eye_of(many), gaze, predicted_eye, span))
        key = (len(many), width, height)
        if key not in self._frames:
            self._frames[key] = _Frame(self, *key)
        frame = self._frames[key].draw(self.drawn, rows, back, span)
        return _first(frame) if isinstance(cameras, Camera) else frame


def _drawn(found: lod.Drawn) -> Drawn:
    *columns, exponents = found
    return Drawn(autograd.Scene(*columns), exponents)


def _first(frame: Rendering) -> Rendering:
    """Without the axis of views."""
    found = {name: field[0] for name, field in frame._asdict().items() if isinstance(field, Tensor)}
    return frame._replace(**found)


class _Frame:
    """What a renderer keeps for one number of views of one size."""

    FIRST = 1 << 16  # entries to begin with, where counting them first would not be worth a wait
    ROOM = 1.5  # capacity over the number of entries that a frame wanted; a sort pays for all of it

    def __init__(self, owner: Renderer, views: int, width: int, height: int) -> None:
        means = owner.drawn.scene.means
        device, dtype = means.device, means.dtype
        self.backend, self.on_gpu, self.drawn = owner.backend, device.type == "cuda", owner.drawn
        self.eyes, self.options, self.size = 2 if owner.stereo else 1, owner.options, (width, height)
        self.rows = torch.zeros(views, ROW, device=device, dtype=dtype)
        self.background = torch.zeros(views, 3, device=device, dtype=dtype)
        self.capacity = self.FIRST if owner.backend == "triton" else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.frame: Rendering | None = None
        self.wanted = torch.zeros((), dtype=torch.int64, pin_memory=self.on_gpu)  # entries of the last frame
        self.count = self.wanted.numpy()  # the same memory
        self.arrived = torch.cuda.Event() if self.on_gpu else None

    def draw(self, drawn: Drawn, rows: Tensor, background: Tensor, span: Span) -> Rendering:
        """A frame of `drawn`, which on a GPU has to lie where it lay before."""
        self._grow()
        self.drawn = drawn
        # From pageable memory these copies are staged by the driver: the host goes on, and may reuse its tensors.
        self.rows.copy_(rows, non_blocking=True)
        self.background.copy_(background, non_blocking=True)
        if self.on_gpu and span is no_span:
            if self.graph is None:
                self._capture()
            self.graph.replay()  # type: ignore[union-attr]
        else:
            self.frame = self._run(span)
        frame = self.frame
        assert frame is not None
        if self.capacity is not None:
            self.wanted.copy_(torch.as_tensor(frame.counts.pairs), non_blocking=True)
            if self.arrived is not None:
                self.arrived.record()
        return frame

    def _run(self, span: Span) -> Rendering:
        scene, exponents = self.drawn
        request = autograd.Request(*self.size, self.options, self.eyes, self.capacity, None, span)
        with torch.no_grad():
            if exponents is not None:
                with span("profile"):
                    opacities, profiles = make_profiles(scene.opacities, exponents, backend=self.backend)
                scene, request = scene._replace(opacities=opacities), replace(request, profiles=profiles)
            stage = autograd.project_scene(self.backend, scene, self.rows, False, request)
            return autograd.blend_scene(self.backend, stage, None, self.background, None, request)

    def _grow(self) -> None:
        """Make room for what an earlier frame wanted, if its count has come back by now."""
        if self.capacity is None or (self.arrived is not None and not self.arrived.query()):
            return
        if int(self.count) > self.capacity:
            self.capacity = int(self.ROOM * int(self.count))
            self.graph = None

    def _capture(self) -> None:
        """Record the frame; the runs before compile its kernels, and say how much room it wants."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            wanted = int(self._run(no_span).counts.pairs)
            self.capacity = max(self.capacity or 0, int(self.ROOM * wanted))
            self._run(no_span)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.frame = self._run(no_span)
