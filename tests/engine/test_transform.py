"""Turned, mirrored, scaled and moved scenes against colours, covariances and pictures of the scene as it was."""

import math

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.axes import axes_change
from lyra.engine.scene.camera import look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.transform import axis_angle, rotate_sh, rotation_quat, transform
from lyra.kernels.rasterize import rasterize
from lyra.kernels.reference import quats_to_rotations, sh_colors

MIRROR = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))


def some_scene(n: int = 60, degree: int = 3) -> Gaussians:
    rng = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    return Gaussians(
        means=draw(n, 3),
        quats=draw(n, 4),
        scales=0.05 + 0.2 * draw(n, 3).abs(),
        opacities=torch.rand(n, generator=rng, dtype=torch.float64),
        sh=0.4 * draw(n, (degree + 1) ** 2, 3),
    )


def some_rotation(seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return quats_to_rotations(torch.randn(4, generator=rng, dtype=torch.float64))


def covariances(scene: Gaussians) -> torch.Tensor:
    half = quats_to_rotations(scene.quats) * scene.scales[:, None, :]
    return half @ half.transpose(1, 2)


TURNS = {
    "any": some_rotation(1),
    "half turn": torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)),
    "quarter": axis_angle(torch.tensor([0.0, 0.0, 3.0]), math.pi / 2),
    "mirror": MIRROR,
    "turned mirror": some_rotation(2) @ MIRROR,
    "to OpenGL": axes_change("rdf", "rub"),
    "to Unity": axes_change("rdf", "ruf"),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_part_of_a_splat_follows(name: str, degree: int) -> None:
    scene, turn = some_scene(degree=degree), TURNS[name]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = 1.7 * turn, torch.tensor([3.0, -2.0, 0.5])
    turned = transform(scene, matrix)
    torch.testing.assert_close(turned.means, scene.means @ (1.7 * turn).T + matrix[:3, 3])
    torch.testing.assert_close(covariances(turned), 1.7**2 * turn @ covariances(scene) @ turn.T)
    directions = torch.randn(len(scene), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(sh_colors(turned.sh, directions @ turn.T), sh_colors(scene.sh, directions))
    assert turned.opacities is scene.opacities


@pytest.mark.parametrize("name", ["any", "quarter", "to OpenGL"])
def test_the_turned_camera_sees_the_same_picture(name: str) -> None:
    scene, turn = some_scene(), TURNS[name]
    camera = look_at((0.5, -1.0, -6.0), (0.0, 0.0, 0.0), width=64, height=48)
    pose = camera.world_to_camera.clone()
    pose[:3, :3] = pose[:3, :3] @ turn.T
    frames = [
        rasterize(*[t.float() for t in s.tensors().values()], p, camera.K, 64, 48, backend="cpu").rgb
        for s, p in ((scene, camera.world_to_camera), (transform(scene, turn), pose))
    ]
    assert frames[0].std() > 0.05
    torch.testing.assert_close(frames[0], frames[1], atol=2e-5, rtol=0)


def test_there_and_back() -> None:
    scene, turn = some_scene(), TURNS["turned mirror"]
    back = transform(transform(scene, turn), turn.T)
    torch.testing.assert_close(back.means, scene.means)
    torch.testing.assert_close(back.sh, scene.sh)
    torch.testing.assert_close(covariances(back), covariances(scene))


def test_a_shift_shares_what_it_leaves() -> None:
    scene = some_scene()
    moved = transform(scene, torch.tensor([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert moved.sh is scene.sh and moved.quats is scene.quats
    torch.testing.assert_close(moved.means - scene.means, torch.tensor([[5.0, 0, 0]]).double().expand(60, 3))


def test_float32_scenes_stay_float32() -> None:
    scene = some_scene().to(dtype=torch.float32)
    assert {tensor.dtype for tensor in transform(scene, TURNS["any"]).tensors().values()} == {torch.float32}


def test_coefficients_of_constant_colour_never_turn() -> None:
    sh = some_scene(degree=0).sh
    assert torch.equal(rotate_sh(sh, TURNS["any"]), sh)


@pytest.mark.parametrize("seed", range(20))
def test_quaternions_of_rotations(seed: int) -> None:
    rotation = some_rotation(seed)
    quat = rotation_quat(rotation)
    assert float(quat[0]) >= 0 and float(quat.norm()) == pytest.approx(1)
    torch.testing.assert_close(quats_to_rotations(quat), rotation)


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        (torch.diag(torch.tensor([1.0, 2.0, 1.0])), "cannot follow a shear"),
        (torch.zeros(3, 3), "cannot follow a shear"),
        (torch.full((4, 4), math.nan), "finite"),
        (torch.eye(5), r"shape \[5, 5\]"),
        (torch.ones(4, 4), "last row"),
    ],
)
def test_what_splats_cannot_follow_is_refused(matrix: torch.Tensor, told: str) -> None:
    with pytest.raises(InputError, match=told):
        transform(some_scene(2), matrix)


@pytest.mark.parametrize("name", ["", "rd", "rdx", "rld", "rdff", "rrd"])
def test_unknown_axes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="axes"):
        axes_change(name, "rdf")


def test_axes() -> None:
    point = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert (axes_change("rdf", "rub") @ point).tolist() == [1, -2, -3]
    assert (axes_change("rdf", "luf") @ point).tolist() == [-1, -2, 3]
    assert (axes_change("frd", "rdf") @ point).tolist() == [2, 3, 1]  # x forward, y right, z down


def test_an_axis_without_direction_is_refused() -> None:
    with pytest.raises(InputError, match="rotation axis"):
        axis_angle(torch.zeros(3), 1.0)
