"""The protocol by which an iteration announces its shard order to the store of its shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Arrival", "Course"]


class Arrival(NamedTuple):
    """How much of a shard has been downloaded."""

    there_bytes: int
    """Bytes that have arrived, whichever process fetches them."""

    total_bytes: int
    """Size of the shard in bytes."""

    retries: int
    """Transfers that this process has retried, over all shards."""


class Course(Protocol):
    """The path of one iteration through the shards, epoch after epoch.

    The iteration announces the shards it will visit (`begin`), draws tasks in order (`draw`), and
    brackets the work on each task with `enter` and `leave`, from any thread. In between, the task's
    shard is open in the reader. A shard is released once no drawn or later task needs it.
    """

    def begin(
        self, order: Sequence[int], following: Sequence[int] = (), *, continues: bool = True
    ) -> None:
        """Begin an epoch, or announce the remaining order in the middle of one.

        Args:
            order: The shards to visit, each once, in the order in which they are first needed. It
                guides prefetching and eviction; a task of a shard not listed is not an error.
            following: The order of the next epoch, as far as it is known.
            continues: Whether this iteration reads the next epoch too. Otherwise another iteration
                probably will, so that its shards are worth keeping, but not worth fetching.
        """

    def draw(self, shards: Sequence[int], needed: Collection[int]) -> list[int]:
        """Announce the next tasks, in order.

        Args:
            shards: The shard of each task.
            needed: Shards already visited, or about to be, that later tasks of this epoch need. If
                there are more than the iteration may hold, some are released in between.

        Returns:
            The visit that each task belongs to, for `enter` and `leave`.
        """

    def enter(self, visit: int) -> None:
        """Wait until the shard of a task is open. A task never waits for a later one.

        Raises:
            Exception: when the shard cannot be opened, or the course is closed; the task then
                counts as done.
        """

    def leave(self, visit: int) -> None:
        """Report that a task that has entered is done or has failed."""

    def close(self) -> None:
        """End the course: waiting threads raise an exception, and the shards are released."""
