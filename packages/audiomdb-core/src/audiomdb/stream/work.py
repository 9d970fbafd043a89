"""The samples of an iteration: tasks in, in order, decoded samples out."""

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
"""With `tail="pad"`, whether a sample counts: False where it is repeated to fill up."""

Task: TypeAlias = "tuple[int, bool, int, int, Row | None]"
"""Position of a sample, whether it counts, the visit to a shard that it belongs to, its epoch, and
where its audio goes, if that is known."""


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
        reading: Where from.
        follower: Told when a sample is at work.
        tasks: Drawn a little ahead.
        num_threads: Beside the consumer's.
        marked: Whether samples get a field that says whether they count.
        at_least: See `in_order` for this and `watch`.
        watch: The same.
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
