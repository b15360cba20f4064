"""The cut against a best-first heap, and what it promises, on random hierarchies and cameras."""

import itertools
import math
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lyra.kernels import lod_reference as reference
from lyra.kernels.constants import CLUSTER, FADING, FAINTEST
from lyra.kernels.cpu import lod_errors
from lyra.kernels.gaze import FLOOR, Gaze, pack_eye
from lyra.kernels.lod import Cut, Drawn, Nodes, cut, gather

SEEDS = range(16)
BUDGETS = (1, 9, 60, 250, 1000)
SHARE_MOVED = (
    0.02  # (0.009 is seen) of the drawn nodes that a camera's step by a thousandth of the scene's radius may change
)


class Case(NamedTuple):
    nodes: Nodes
    roots: Tensor
    eye: Tensor
    gaze: Gaze | None
    near: float

    def cut(self, budget: int, backend: str = "cpu", **options) -> Cut:
        options = {"gaze": self.gaze, "near": self.near} | options
        return cut(self.nodes, self.roots, options.pop("eye", self.eye), budget=budget, backend=backend, **options)

    def row(self, floor: float = 0.0) -> Tensor:
        return pack_eye(self.eye, self.gaze, self.near, floor)

    def errors(self) -> Tensor:
        """[m] float32 view errors."""
        nodes = self.nodes
        return reference.view_errors(nodes.means, nodes.radii, nodes.errors, self.row(), self.gaze is not None)


def make_case(trees: ModuleType, seed: int) -> Case:
    """One to three scenes, every other pool out of order, every fourth with pages missing."""
    size = (1, 12, 300, 900, 1500)[seed % 5]
    scenes = [
        trees.random_tree(size, 10 * seed + k, ties=seed % 3 == 0, place=(0.0, 50.0, 1e4)[k])
        for k in range(1 + seed % 3)
    ]
    nodes, roots = trees.forest(scenes)
    if seed % 2:
        nodes, roots = trees.shuffle_groups(nodes, roots, seed)
    if seed % 4 == 1:
        nodes = trees.drop_children(nodes, roots, 0.1, seed)
    near = 1e-3 * max(float(scene.radii[0]) for scene in scenes) + 1e-6
    return Case(nodes, roots, trees.random_eye(scenes[0], seed), trees.random_gaze(seed), near)


@pytest.fixture(params=SEEDS)
def case(lod_trees: ModuleType, request: pytest.FixtureRequest) -> Case:
    return make_case(lod_trees, request.param)


def same(a: Cut, b: Cut) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_cut_is_that_of_the_heap(lod_trees: ModuleType, case: Case, backend: str) -> None:
    errors = case.errors()
    for budget in BUDGETS:
        found = case.cut(budget, backend)
        floor = float(case.row()[FLOOR])
        drawn, threshold = lod_trees.heap_cut(case.nodes, case.roots, errors, budget, floor)
        if threshold > floor:  # then some of the budget is kept for transitions
            kept = budget - budget // FADING
            drawn, threshold = lod_trees.heap_cut(case.nodes, case.roots, errors, kept, floor)
        standing = lod_trees.standing(case.nodes, found)
        assert len(found.ids) == int(found.number) and len(standing) == len(drawn)
        assert set(standing.tolist()) == drawn
        assert float(found.threshold) == threshold
        assert torch.equal(found.errors, errors[found.ids.long()])


def test_backends_agree_to_the_last_bit(case: Case) -> None:
    for budget in BUDGETS:
        first = case.cut(budget, "reference")
        for previous in (None, *(first.threshold * factor for factor in (1.0, 0.999, 1.02, 3.0))):
            expected, found = (case.cut(budget, backend, previous=previous) for backend in ("reference", "cpu"))
            assert same(found, expected)


def picture(direction: Tensor, width: float) -> Gaze:
    """The gaze of a picture: all inside alike, whatever the direction."""
    up = torch.linalg.cross(direction, direction.roll(1))
    right = torch.linalg.cross(direction, up)
    ways = (way / way.norm() for way in (up, -up, right, -right))
    sides = tuple(tuple((way + width * direction / direction.norm()).tolist()) for way in ways)
    x, y, z = direction.tolist()
    return Gaze((x, y, z), inner=math.pi, outer=math.pi, edge=1.0, behind=1.0, sides=sides)


def test_the_gaze_of_a_picture_agrees_to_the_last_bit(case: Case) -> None:
    """Beside what is seen, and looking at it; and where a cluster has one weight, every node of it has that."""
    nodes, kinds = case.nodes, set()
    middle, radius = nodes.means[case.roots[0]], float(nodes.radii[case.roots[0]]) + 1e-3
    directions = torch.tensor([[1.0, 0.2, -0.3], [-0.4, 1.0, 0.1], [0.1, -0.7, -1.0]])
    for direction, width, away in itertools.product(directions, (0.3, 1.0, 5.0), (-2.0, 0.0, 0.7)):
        seen = case._replace(eye=middle + away * radius * direction, gaze=picture(direction, width))
        for budget in (60, 1000):
            expected, found = (seen.cut(budget, backend) for backend in ("reference", "cpu"))
            assert same(found, expected)
        row = seen.row()
        x, y, z = (nodes.means - row[:3]).unbind(dim=-1)
        weights = reference.gaze_weight(x, y, z, (x * x + y * y + z * z).double().sqrt().float(), nodes.radii, row)
        for cluster, bounds in enumerate(nodes.cluster_bounds.numpy()):
            own = slice(cluster * CLUSTER, (cluster + 1) * CLUSTER)
            even = float(lod_errors._even_weight(*bounds, row.numpy()))
            kinds.add(even)
            assert even == 0 or bool((weights[own][nodes.errors[own] > 0] == even).all())
    assert len(kinds) > 1


def test_every_leaf_is_covered_once_within_the_budget(lod_trees: ModuleType, case: Case) -> None:
    for budget in BUDGETS:
        for floor in (0.0, 0.05):
            found = case.cut(budget, floor=floor)
            lod_trees.covered(case.nodes, case.roots, found)
            assert len(found.ids) <= max(budget, len(case.roots))
            all_fit = float(found.threshold) == float(case.row(floor)[FLOOR])
            standing = lod_trees.standing(case.nodes, found).long()
            assert all_fit or len(standing) > budget - budget // FADING - lod_trees.largest_group(case.nodes)
            errors = case.errors()[standing][case.nodes.children[standing] >= 0]
            assert float(errors.amax() if len(errors) else 0.0) <= max(float(found.threshold), floor)


def test_the_order_is_that_of_the_pool(lod_trees: ModuleType, case: Case) -> None:
    found, nodes = case.cut(1000), case.nodes
    standing = lod_trees.standing(nodes, found)
    parents = nodes.parents[standing.long()]
    own = int((parents < 0).sum())
    places = parents.long() * len(nodes.means) + standing.long()
    assert not (parents[:own] >= 0).any() and bool((places[own:].diff() > 0).all())
    fading = (~torch.isin(found.ids, standing)).nonzero()[:, 0]  # each after the last of its children
    assert torch.equal(nodes.parents[found.ids[fading - 1].long()], found.ids[fading])


def test_more_budget_never_means_more_error(lod_trees: ModuleType, case: Case) -> None:
    cuts = [case.cut(budget) for budget in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)]
    errors, drawn = case.errors(), [lod_trees.standing(case.nodes, found).long() for found in cuts]
    for (less, before), (more, after) in itertools.pairwise(zip(cuts, drawn, strict=True)):
        assert float(errors[after].max()) <= float(errors[before].max())
        assert float(more.threshold) <= float(less.threshold) and len(after) >= len(before)


def test_exponents_are_their_formula(lod_trees: ModuleType) -> None:
    """Group by group, in float64; and how many fade is what was kept for them, where no group is large."""
    faded = 0
    for case in (make_case(lod_trees, seed) for seed in SEEDS):
        errors, counts, children = case.errors().double(), case.nodes.counts.tolist(), case.nodes.children.tolist()
        for budget in BUDGETS:
            found, reserve = case.cut(budget), budget // FADING
            threshold, floor = float(found.threshold), float(case.row()[FLOOR])
            _, fading = lod_trees.heap_cut(case.nodes, case.roots, errors, budget - 2 * reserve, floor)
            standing = set(lod_trees.standing(case.nodes, found).tolist())
            exponents = dict(zip(found.ids.tolist(), found.exponents.tolist(), strict=True))
            groups = {int(case.nodes.parents[i]) for i in standing}
            for i in groups - {-1}:
                group, above = range(children[i], children[i] + counts[i]), float(errors[i])
                t, slack = 1.0, 1e-6
                if above < fading and len(group) > 1 and standing.issuperset(group):
                    start = max(above * threshold / fading, *(float(errors[child]) for child in group))
                    if above > start:
                        t = min(max((above - threshold) / (above - start), FAINTEST), 1.0)
                        slack = 1e-6 + 3e-7 * above / (above - start)
                found_t = [exponents[child] for child in group if child in standing]
                assert found_t == pytest.approx([t] * len(found_t), abs=slack)
                faded += i in exponents
            assert len(exponents) - len(standing) <= reserve
    assert faded > 50


def test_view_errors_are_their_formula(case: Case) -> None:
    """In float64 and with arcs: the nearest direction to a sphere is its centre's, less asin(radius / distance)."""
    nodes = case.nodes
    towards = nodes.means.double() - case.eye.double()
    distance, radii = towards.norm(dim=1), nodes.radii.double()
    weight = torch.ones_like(distance)
    if case.gaze is not None:
        gaze = case.gaze
        direction = torch.tensor(gaze.direction, dtype=torch.float64)
        direction /= direction.norm()
        away = torch.atan2(torch.linalg.cross(towards, direction.expand_as(towards)).norm(dim=1), towards @ direction)
        away = (away - (radii / distance).clamp(max=1).asin()).clamp(min=0)
        cos = torch.where(distance <= radii, 1.0, away.cos())
        high, low = math.cos(gaze.inner), math.cos(gaze.outer)
        near = gaze.edge + (1 - gaze.edge) * (cos - low) / (high - low)
        far = gaze.behind + (gaze.edge - gaze.behind) * (cos + 1) / (low + 1) if low > -1 else near
        weight = torch.where(cos >= high, 1.0, torch.where(cos >= low, near, far))
        side = torch.ones_like(weight)
        for normal in gaze.sides:  # the angle above the plane of the sphere's highest point
            height = (towards @ torch.tensor(normal, dtype=torch.float64) / math.hypot(*normal) / distance).asin()
            above = (height + (radii / distance).clamp(max=1).asin()).clamp(max=0)
            ramp = (1 + (1 - gaze.beyond) * above.sin() / math.sin(gaze.margin)).clamp(min=gaze.beyond)
            side = torch.minimum(side, torch.where(distance <= radii, 1.0, ramp))
        weight = weight * side
    expected = nodes.errors.double() * weight / (distance - radii).clamp(min=case.near)
    # Where the eye is next to a surface, float32 knows the distance to it to some 3e-7 of that to the centre only.
    inner = nodes.errors > 0
    sure = inner & ((distance - radii).abs() > 1e-3 * distance)
    assert sure.sum() >= 0.8 * inner.sum() - 1
    torch.testing.assert_close(case.errors()[sure].double(), expected[sure], rtol=1e-3, atol=0)
    assert not case.errors()[~inner].any()


@pytest.mark.parametrize("seed", range(18))
def test_no_child_has_more_error_than_its_parent(lod_trees: ModuleType, seed: int) -> None:
    """The eye at surfaces of spheres, in and beside the cone of a gaze: there float32 is at its worst."""
    tree = lod_trees.random_tree(600, seed, place=(0.0, 10.0, 1e4)[seed % 3])
    nodes, _ = lod_trees.forest([tree])
    generator = torch.Generator().manual_seed(seed)
    parents = nodes.parents.long()
    linked = (parents >= 0) & (nodes.errors > 0)
    for _ in range(12):
        node = int(torch.randint(len(tree), (1,), generator=generator))
        direction = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        reach = float(torch.rand(1, generator=generator)) * 3e-6
        eye = nodes.means[node] + direction * (float(nodes.radii[node]) + reach * float(tree.radii[0]))
        x, y, z = torch.randn(3, generator=generator).tolist()
        steep = Gaze((x, y, z), inner=0.05, outer=0.1, edge=0.3, behind=0.02)
        for gaze in (None, Gaze((x, y, z)), steep):
            row = pack_eye(eye, gaze, 1e-3 * float(tree.radii[0]), 0.0)
            errors = reference.view_errors(nodes.means, nodes.radii, nodes.errors, row, gaze is not None)
            assert bool((errors[parents[linked]] > errors[linked]).all())


def test_a_threshold_that_still_fills_the_budget_is_kept(lod_trees: ModuleType) -> None:
    """Where it does not, the cut is that of no threshold, or as little more as fills it."""
    kept = over = under = 0
    for case in (make_case(lod_trees, seed) for seed in (2, 3, 4, 7, 9, 13)):
        errors, gains, floor = case.errors(), case.nodes.counts - 1, case.row()[FLOOR]
        able = (case.nodes.children >= 0) & (errors > floor)
        for budget in (60, 400, 700):
            plain, room = case.cut(budget), budget - budget // FADING
            for factor in (0.5, 0.995, 1.0, 1.005, 1.05):
                last = torch.maximum(plain.threshold * factor, floor)
                count = len(case.roots) + int(gains[able & (errors > last)].sum())
                found = case.cut(budget, previous=last)
                drawn = lod_trees.standing(case.nodes, found)
                if 0.99 * room <= count <= room:
                    assert len(drawn) == count and torch.equal(found.threshold, last)
                    kept += 1
                elif count > room:
                    assert same(found, plain)
                    over += 1
                else:
                    enough = max(math.ceil(0.99 * room), len(case.roots))
                    expected, threshold = lod_trees.heap_cut(case.nodes, case.roots, errors, enough, float(floor))
                    assert set(drawn.tolist()) == expected and float(found.threshold) == threshold
                    under += 1
    assert kept > 10 and over > 10 and under > 10


def test_the_same_input_gives_the_same_cut(case: Case) -> None:
    for previous in (None, torch.tensor(0.3)):
        first, again = (case.cut(250, previous=previous) for _ in range(2))
        assert same(first, again)
    # A still camera: but for equal errors, not all of which fit, the threshold of a frame gives that frame again.
    first = case.cut(250)
    second = case.cut(250, previous=first.threshold)
    assert same(second, first) or int((case.errors() == first.threshold).sum()) > 1
    assert same(case.cut(250, previous=second.threshold), second)


def test_a_small_step_changes_few_nodes(lod_trees: ModuleType) -> None:
    worst = 0.0
    for seed in range(6):
        tree = lod_trees.random_tree(6000, seed)
        nodes, roots = lod_trees.forest([tree])
        radius = float(tree.radii[0])
        generator = torch.Generator().manual_seed(seed)
        eye = nodes.means[0] + radius * 0.5 * torch.randn(3, generator=generator)
        step = 1e-3 * radius * torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        last = None
        cuts = []
        for k in range(4):
            found = cut(nodes, roots, eye + k * step, budget=1000, near=1e-3 * radius, previous=last)
            cuts.append(set(lod_trees.standing(nodes, found).tolist()))
            last = found.threshold
        for before, after in itertools.pairwise(cuts):
            worst = max(worst, len(after - before) / len(after))
    assert worst <= SHARE_MOVED


def test_roots_are_drawn_whatever_the_budget(lod_trees: ModuleType) -> None:
    nodes, roots = lod_trees.forest([lod_trees.random_tree(50, seed) for seed in range(5)])
    for backend in ("cpu", "reference"):
        found = cut(nodes, roots, torch.zeros(3), budget=3, near=0.01, backend=backend)
        assert torch.equal(found.ids, roots) and (found.exponents == 1).all()


def test_what_is_not_resident_is_not_expanded(lod_trees: ModuleType) -> None:
    nodes, roots = lod_trees.forest([lod_trees.random_tree(900, 5)])
    sparse = lod_trees.drop_children(nodes, roots, 0.2, 0)
    assert (sparse.children >= 0).sum() < (nodes.children >= 0).sum()
    found = cut(sparse, roots, nodes.means[0], budget=10**6, near=1e-3)
    ids = lod_trees.standing(sparse, found).long()
    waiting = ids[sparse.counts[ids] > 0]
    assert len(waiting) and (sparse.children[ids] < 0).all() and torch.isin(waiting, found.ids[found.errors > 0]).all()


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_what_a_cut_shows_is_gathered(lod_trees: ModuleType, sh: int) -> None:
    """Into given buffers, and no further."""
    nodes, roots = lod_trees.forest([lod_trees.random_tree(500, sh, sh=sh), lod_trees.random_tree(200, 7 + sh, sh=sh)])
    found = cut(nodes, roots, nodes.means[3], budget=300, near=0.1)
    count, ids = len(found.ids), found.ids.long()
    assert (found.exponents < 1).sum() > 10 < (found.exponents == 1).sum()
    expected = Drawn(*(column[ids] for column in nodes[:5]), found.exponents)
    for backend in ("cpu", "reference"):
        out = Drawn(*(torch.full((count + 9, *tensor.shape[1:]), torch.nan) for tensor in expected))
        drawn = gather(nodes, found.ids, found.exponents, out=out, backend=backend)
        for given, rows, values in zip(out, drawn, expected, strict=True):
            assert rows.data_ptr() == given.data_ptr() and torch.equal(rows, values)
            assert given[count:].isnan().all()
        fresh = gather(nodes, found.ids, found.exponents, backend=backend)
        assert all(torch.equal(a, b) for a, b in zip(fresh, expected, strict=True))
    with pytest.raises(ValueError, match=rf"out.scales is \[3, 3\] torch.float32 on cpu, expected \[{count}, 3\]"):
        gather(nodes, found.ids, found.exponents, out=out._replace(scales=torch.zeros(3, 3)))
    with pytest.raises(ValueError, match=rf"exponents is \[3\] torch.float32 on cpu, expected \[{count}\]"):
        gather(nodes, found.ids, torch.ones(3))
