"""Load the samples of an iteration in order, in threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, TypeAlias

from audiomdb.sample import Sample
from audiomdb.stream.ahead import in_order
from audiomdb.stream.following import Follower
from audiomdb.stream.loading import held_bytes
from audiomdb.stream.reading import Reading

if TYPE_CHECKING:
    from audiomdb.stream.rows import Row
    from audiomdb.stream.watch import Watch

__all__ = ["MASK", "Task", "loaded"]

MASK = "__mask__"
"""Field with `tail="pad"`: whether a sample counts. False for one repeated as padding."""

Task: TypeAlias = "tuple[int, bool, int, int, Row | None]"
"""Position of a sample, whether it counts, its shard visit, its epoch, and the memory for its audio
if that is known."""


def loaded(
    reading: Reading,
    follower: Follower,
    tasks: Iterable[Task],
    *,
    num_threads: int,
    marked: bool,
    at_least: Callable[[], int] = lambda: 0,
    watch: Watch | None = None,
) -> Generator[Sample, None, None]:
    """Yield the samples of tasks, in order.

    Args:
        reading: The datasets to read from.
        follower: Notified before and after each sample is loaded.
        tasks: Drawn ahead of the samples yielded.
        num_threads: Threads besides the consumer's.
        marked: Whether samples get the field `MASK`.
        at_least: See `in_order`.
        watch: See `in_order`.
    """
    load_one = reading.load

    def load(task: Task) -> Sample:
        position, counts, _, epoch, row = task
        sample = load_one(position, epoch, None if row is None else row())
        if marked:
            sample[MASK] = counts
        return sample

    def load_in_turn(task: Task) -> Sample:
        follower.enter(task[0], task[2])
        try:
            return load(task)
        finally:
            follower.leave(task[0], task[2])

    weigh = reading.weigh
    return in_order(
        load_in_turn if follower.active else load,
        tasks,
        num_threads=0 if reading.only_copies else num_threads,
        weigh=lambda task: weigh(task[0]),
        size=held_bytes,
        at_least=at_least,
        before_close=follower.close,
        watch=watch,
    )
