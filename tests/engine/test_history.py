"""Undoing and doing again against the scenes that were there."""

from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load
from lyra.engine.scene.edit import Delete, Merge, Operation, Recolor, ScaleOpacity, apply
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.history import History
from lyra.engine.scene.regions import Sphere

STEPS: list[Operation] = [
    ScaleOpacity(0.5),
    Delete(Sphere((0.0, 0.0, 0.0), 0.8)),
    Recolor(offset=(0.1, 0.0, 0.0)),
    Delete(Sphere((1.0, 0.0, 0.0), 0.8)),
]


def some_scene() -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=rng) * 2 - 1  # noqa: E731
    return Gaussians(draw(50, 3), draw(50, 4), draw(50, 3).abs(), draw(50).abs(), draw(50, 4, 3))


def test_undo_and_redo_walk_over_the_same_states() -> None:
    history = History(some_scene(), load)
    states = [history.scene, *(history.do(step) for step in STEPS)]
    assert len({len(state) for state in states}) == 3 and history.operations == tuple(STEPS)
    for state in states[-2::-1]:
        assert history.undo() is state and history.scene is state
    assert (history.undoable, history.redoable, history.operations) == (0, 4, ())
    for i, state in enumerate(states[1:], 1):
        assert history.redo() is state and history.operations == tuple(STEPS[:i])
    assert (history.undoable, history.redoable) == (4, 0)


def test_a_new_operation_forgets_what_was_undone() -> None:
    history = History(some_scene(), load)
    for step in STEPS[:3]:
        history.do(step)
    history.undo()
    history.undo()
    history.do(STEPS[3])
    assert history.operations == (STEPS[0], STEPS[3]) and history.redoable == 0
    with pytest.raises(InputError, match="undo something first"):
        history.redo()
    replayed = apply(some_scene(), history.operations, load)
    assert torch.equal(replayed.means, history.scene.means) and torch.equal(replayed.sh, history.scene.sh)


def test_old_states_are_forgotten_but_not_what_was_done() -> None:
    history = History(some_scene(), load, limit=2)
    states = [history.do(step) for step in STEPS]
    assert history.undoable == 2
    history.undo()
    assert history.undo() is states[1]
    with pytest.raises(InputError, match="nothing to undo: at most 2 operations are kept"):
        history.undo()
    assert history.operations == tuple(STEPS[:2])


def test_an_operation_that_fails_changes_nothing(tmp_path: Path) -> None:
    history = History(some_scene(), load)
    state = history.do(STEPS[0])
    history.do(STEPS[1])
    history.undo()
    with pytest.raises(InputError, match="no such file"):
        history.do(Merge(tmp_path / "none.ply"))
    assert history.scene is state and history.operations == (STEPS[0],)
    assert (history.undoable, history.redoable) == (1, 1)


def test_states_share_what_does_not_change() -> None:
    history = History(some_scene(), load)
    first = history.scene
    for factor in (0.9, 0.8, 0.7):
        history.do(ScaleOpacity(factor))
    assert history.scene.sh is first.sh and history.scene.means is first.means
