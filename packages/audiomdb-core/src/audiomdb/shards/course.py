"""What a reader of samples in a known order tells whoever keeps its shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

__all__ = ["Arrival", "Course"]


class Arrival(NamedTuple):
    """How much of a shard is there."""

    there_bytes: int
    """What has arrived, whoever fetches it."""

    total_bytes: int
    """The shard's size."""

    retries: int
    """Transfers that this process has begun again, of all shards."""


class Course(Protocol):
    """The way of one iteration through the shards, epoch after epoch.

    The iteration says which shards it will visit (`begin`), draws tasks in order (`draw`), and
    brackets the work on each by `enter` and `leave`, from any thread. In between, the task's shard
    is open in the reader. A shard that no drawn task and no later one needs is let go of.
    """

    def begin(
        self, order: Sequence[int], following: Sequence[int] = (), *, continues: bool = True
    ) -> None:
        """Begin an epoch, or say in the middle of one what comes from there on.

        Args:
            order: The shards it visits, each once, in the order in which it first needs them. It
                serves fetching ahead and eviction; a task of another shard is no error.
            following: The order of the epoch after it, as far as it is known.
            continues: Whether this iteration reads that one too. Otherwise another is likely to:
                it is a reason to keep shards, and none to fetch them.
        """

    def draw(self, shards: Sequence[int], needed: Collection[int]) -> list[int]:
        """Announce tasks that follow those drawn before.

        Args:
            shards: The shard of each task.
            needed: Shards already visited, or about to be, that later tasks of this epoch need. If
                they are more than the iteration may hold, some are let go of in between.

        Returns:
            For each task the visit it belongs to, for `enter` and `leave`.
        """

    def enter(self, visit: int) -> None:
        """Wait until the shard of a task is open. Tasks never wait for later ones.

        Raises:
            Exception: it cannot be opened, or the course is closed; the task counts as done.
        """

    def leave(self, visit: int) -> None:
        """Say that a task that has entered is done, or has failed."""

    def close(self) -> None:
        """End it: whoever waits is woken with an exception, shards are let go of."""
