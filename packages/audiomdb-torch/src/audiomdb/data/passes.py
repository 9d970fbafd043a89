"""Keep count of the passes over a loader: where each begins and ends, and how far the last came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from audiomdb.log import logger
from audiomdb.plan import PlanState
from audiomdb.plan.checks import whole_number

__all__ = ["Passes", "Progress", "Span", "log_discarded"]

_FIRST = "first_epoch"
"""Key in a state for the epoch with which its pass began; absent if that is the state's epoch."""

_DONE = "steps_done"
"""Key in a state for the steps of its pass that came before; absent at the start of a pass."""


class Span(NamedTuple):
    """What is left of a pass."""

    start: PlanState
    epochs: int | None
    """Number of epochs, of which that of `start` is one; None: no limit."""

    steps: int | None
    """Number of steps; None: no limit."""


class Progress(msgspec.Struct):
    """A pass, and how far its loop has come. Passes may run side by side, each with its own."""

    first: int
    """Epoch with which the pass began."""

    at: PlanState
    """Place of the next step."""

    done: int = 0
    """Number of steps before that, in this pass."""

    def move(self, following: PlanState) -> None:
        """Count a step, and move on to the place of the next one."""
        self.at = following
        self.done += 1


class Passes:
    """The passes over a loader: each of some epochs or some steps, or without end.

    States hold where their pass began and not where it ends, so that a resumed pass has the length
    that the loader's options give it now.

    Args:
        epochs: Epochs in a pass; None: no limit.
        steps: Steps in a pass; None: no limit.
    """

    def __init__(self, epochs: int | None, steps: int | None) -> None:
        self.epochs = epochs
        self.steps = steps
        self._last: Progress | None = None
        """The pass that was begun last, or the next one if it was set or loaded since."""

        self._begun = False
        self._loaded = False

    @property
    def untouched(self) -> bool:
        """Whether no pass has been begun, set or loaded."""
        return self._last is None

    @property
    def first_epoch(self) -> int:
        """First epoch of the pass begun last, or of the next one if it was set or loaded since."""
        return 0 if self._last is None else self._last.first

    def begin(self) -> Progress:
        """Begin the next pass, which counts as begun even if no step of it is taken."""
        self._last = self._next(self._touched)
        self._begun, self._loaded = True, False
        return self._last

    def span(self, progress: Progress) -> Span:
        """Return what is left of a pass."""
        at = progress.at
        epochs = None if self.epochs is None else progress.first + self.epochs - at.epoch
        return Span(at, epochs, None if self.steps is None else self.steps - progress.done)

    def set(self, at: PlanState) -> PlanState | None:
        """Make the next pass begin at the start of an epoch, or resume it from a loaded state.

        Args:
            at: The start of the pass. A loaded state from within this pass is kept.

        Returns:
            The loaded state that was discarded, if any.
        """
        loaded = self._last if self._loaded else None
        if loaded is not None and self._includes(at.epoch, loaded.at.epoch):
            if self.epochs is not None:
                loaded.first = at.epoch
            return None
        self._last = Progress(at.epoch, at)
        self._begun = self._loaded = False
        return None if loaded is None else loaded.at

    def read(self, state: Mapping[str, Any]) -> Progress:
        """Return the pass of a state, and how far it had come.

        Raises:
            PlanError: it is no state of a loader.
        """
        at = PlanState.from_dict(state)
        first = whole_number(f"{_FIRST} of the state", state.get(_FIRST, at.epoch))
        done = whole_number(f"{_DONE} of the state", state.get(_DONE, 0))
        if self.epochs is None or not self._includes(first, at.epoch):
            first = at.epoch
        if self.steps is None or done >= self.steps:
            done = 0
        return Progress(first, at, done)

    def load(self, progress: Progress) -> None:
        """Make the next pass the rest of this one."""
        self._last = progress
        self._begun, self._loaded = False, True

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last step taken, and how far its pass has come."""
        progress = self._touched
        state = progress.at.to_dict()
        epoch = progress.at.epoch
        if self.epochs is not None and progress.first < epoch < progress.first + self.epochs:
            state[_FIRST] = progress.first
        if self.steps is not None and 0 < progress.done < self.steps:
            state[_DONE] = progress.done
        return state

    @property
    def _touched(self) -> Progress:
        assert self._last is not None, "no pass has been begun, set or loaded"
        return self._last

    def _next(self, last: Progress) -> Progress:
        if not self._begun:
            return last
        at = last.at
        if self.epochs is not None:
            at = at.at(last.first + self.epochs, 0)
        elif self.steps is None and (at.next_step or at.chapter or not last.done):
            at = at.at(at.epoch + 1, 0)  # an epoch that was begun does not come again
        return Progress(at.epoch, at)

    def _includes(self, first: int, epoch: int) -> bool:
        """Whether a pass that begins with epoch `first` includes an epoch."""
        return first <= epoch and (self.epochs is None or epoch < first + self.epochs)


def log_discarded(epoch: int, begins: int) -> None:
    """Warn that a loaded state is not resumed because another epoch was set.

    Args:
        epoch: Epoch of the state.
        begins: First epoch of the pass that was set.
    """
    logger("stream").warning(
        "the loaded state, of epoch %d, is discarded: set_epoch() has made the next pass begin "
        "with epoch %d, and the state is not from within that pass",
        epoch,
        begins,
    )
