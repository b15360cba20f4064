import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.gaussians import Gaussians, base_colors, drop_invalid, limit_sh, merge
from lyra.kernels.reference import sh_colors


def scene(n: int = 5, k: int = 4, **changes: torch.Tensor) -> Gaussians:
    tensors = {
        "means": torch.arange(3.0 * n).reshape(n, 3),
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        "scales": torch.full((n, 3), 0.1),
        "opacities": torch.full((n,), 0.5),
        "sh": torch.zeros(n, k, 3),
    }
    return Gaussians(**{**tensors, **changes})


@pytest.mark.parametrize(("k", "degree"), [(1, 0), (4, 1), (9, 2), (16, 3)])
def test_degree_follows_the_number_of_coefficients(k: int, degree: int) -> None:
    assert scene(k=k).sh_degree == degree


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quats": torch.zeros(5, 3)}, r"quats has shape \[5, 3\], expected \[5, 4\]"),
        ({"opacities": torch.zeros(5, 1)}, r"opacities has shape \[5, 1\], expected \[5\]"),
        ({"scales": torch.zeros(4, 3)}, r"scales has shape \[4, 3\], expected \[5, 3\]"),
        ({"means": torch.tensor(1.0)}, r"means has shape \[\], expected \[..., n, 3\]"),
        ({"sh": torch.zeros(5, 5, 3)}, r"sh has shape \[5, 5, 3\], expected \[5, k, 3\] with k in"),
        ({"sh": torch.zeros(5, 3)}, r"sh has shape \[5, 3\]"),
        ({"means": torch.zeros(5, 3).expand(2, 5, 3)}, r"quats has shape \[5, 4\], expected \[2, 5, 4\]"),
        ({"scales": torch.zeros(5, 3).double()}, "scales is torch.float64, expected one float type"),
        ({"means": torch.zeros(5, 3, dtype=torch.int32)}, "means is torch.int32"),
        ({"quats": torch.zeros(5, 4, device="meta")}, "quats is on meta"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scene(**changes)


def test_invalid_splats_are_counted_and_dropped() -> None:
    bad = scene(n=9)
    bad.means[0, 1] = torch.nan
    bad.quats[2] = 0
    bad.scales[3, 2] = -0.1
    bad.opacities[5] = torch.inf
    bad.sh[7, 3, 2] = -torch.inf
    bad.opacities[8] = -0.5
    with pytest.warns(UserWarning, match="dropped 6 of 9 splats"):
        kept = drop_invalid(bad)
    assert torch.equal(kept.means, bad.means[[1, 4, 6]])
    assert torch.equal(kept.sh, bad.sh[[1, 4, 6]])


def test_a_valid_scene_passes_untouched() -> None:
    good = scene()
    assert drop_invalid(good) is good


@pytest.mark.parametrize("n", [0, 3])
def test_an_empty_scene_is_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"no valid splats among {n}"):
        drop_invalid(scene(n=n, means=torch.full((n, 3), torch.nan)))


def test_select_and_to_keep_all_tensors_together() -> None:
    picked = scene().select(torch.tensor([True, False, True, False, False])).to(dtype=torch.float64)
    assert len(picked) == 2
    assert picked.means.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert {tensor.dtype for tensor in picked.tensors().values()} == {torch.float64}


def random_scene(n: int, k: int, seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    return scene(
        n,
        k,
        means=torch.randn(n, 3, generator=rng),
        opacities=torch.rand(n, generator=rng),
        sh=torch.randn(n, k, 3, generator=rng),
    )


def test_merging_keeps_all_splats_in_order_and_fills_up_harmonics() -> None:
    parts = [random_scene(3, 4), random_scene(0, 1, 1), random_scene(5, 16, 2), random_scene(2, 1, 3)]
    merged = merge(parts)
    assert (len(merged), merged.sh_degree) == (10, 3)
    for name in ("means", "quats", "scales", "opacities"):
        assert torch.equal(getattr(merged, name), torch.cat([getattr(part, name) for part in parts]))
    assert torch.equal(merged.sh[:3, :4], parts[0].sh) and not merged.sh[:3, 4:].any()
    assert torch.equal(merged.sh[3:8], parts[2].sh)
    assert torch.equal(merged.sh[8:, :1], parts[3].sh) and not merged.sh[8:, 1:].any()


def test_a_merged_scene_is_of_the_first_type_and_one_scene_stays_itself() -> None:
    alone = random_scene(3, 4)
    assert merge([alone]) is alone
    mixed = merge([alone.to(dtype=torch.float64), alone])
    assert {tensor.dtype for tensor in mixed.tensors().values()} == {torch.float64}
    assert torch.equal(mixed.means[3:].float(), alone.means)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_are_cut_to_a_degree(degree: int) -> None:
    full = random_scene(4, 16)
    cut = limit_sh(full, degree)
    assert cut.sh_degree == degree and cut.sh.is_contiguous()
    assert torch.equal(cut.sh, full.sh[:, : (degree + 1) ** 2])
    assert cut.means is full.means
    low = random_scene(4, 4)
    assert (limit_sh(low, degree) is low) == (degree >= 1)


def test_base_colors_are_those_of_degree_0() -> None:
    some = random_scene(6, 1)
    directions = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(base_colors(some).clamp(min=0), sh_colors(some.sh, directions))
