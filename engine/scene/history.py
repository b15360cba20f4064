"""A scene under edit, step by step: what was done can be undone and done again."""

from collections import deque

from ..errors import InputError
from .edit import Load, Operation, edited
from .gaussians import Gaussians

LIMIT = 20  # states kept: of a million splats of degree 3, at worst 236 MB each


class History:
    """A scene, the operations that led to it, and the states that they left.

    States share the tensors that an operation does not change.
    """

    def __init__(self, scene: Gaussians, load: Load, *, limit: int = LIMIT) -> None:
        """Begin with a scene.

        Args:
            load: reads files to merge.
            limit: how many operations can be undone; older states are forgotten.
        """
        self.scene = scene
        self._load = load
        self._done: list[Operation] = []
        self._before: deque[Gaussians] = deque(maxlen=limit)
        self._undone: list[tuple[Operation, Gaussians]] = []

    @property
    def operations(self) -> tuple[Operation, ...]:
        """All that led from the first scene to this one, those too that can no longer be undone."""
        return tuple(self._done)

    @property
    def undoable(self) -> int:
        """How many operations can be undone."""
        return len(self._before)

    @property
    def redoable(self) -> int:
        """How many operations can be done again."""
        return len(self._undone)

    def do(self, operation: Operation) -> Gaussians:
        """The scene after one more operation; what was undone before is forgotten.

        Raises:
            InputError: as `edit.edited`; then nothing changes.
        """
        self._step(operation, edited(self.scene, operation, self._load))
        self._undone.clear()
        return self.scene

    def undo(self) -> Gaussians:
        """The scene before the last operation.

        Raises:
            InputError: there is none, or it is forgotten.
        """
        if not self._before:
            raise InputError(f"nothing to undo: at most {self._before.maxlen} operations are kept")
        self._undone.append((self._done.pop(), self.scene))
        self.scene = self._before.pop()
        return self.scene

    def redo(self) -> Gaussians:
        """The scene after the operation that was undone last.

        Raises:
            InputError: nothing was undone since the last operation.
        """
        if not self._undone:
            raise InputError("nothing to do again: undo something first")
        self._step(*self._undone.pop())
        return self.scene

    def _step(self, operation: Operation, scene: Gaussians) -> None:
        self._before.append(self.scene)
        self._done.append(operation)
        self.scene = scene
