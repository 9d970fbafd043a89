"""Load the samples of an iteration in order, in threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from audiomdb.plan import Split
from audiomdb.sample import Sample
from audiomdb.stream.ahead import in_order
from audiomdb.stream.following import Follower
from audiomdb.stream.loading import held_bytes
from audiomdb.stream.reading import Reading
from audiomdb.stream.skipping import LeftOut

if TYPE_CHECKING:
    from audiomdb.stream.rows import Row
    from audiomdb.stream.watch import Watch

__all__ = ["MASK", "Task", "loading"]

MASK = "__mask__"
"""Field with `tail="pad"`: whether a sample counts. False for one repeated as padding."""

Task: TypeAlias = "tuple[int, bool, int, int, int, Row | None]"
"""Position of a sample, whether it counts, its shard visit, its epoch, how often the epoch read it
before, and the memory for its audio if that is known."""


@contextmanager
def loading(
    reading: Reading,
    tasks: Callable[[Follower], Iterable[Task]],
    split: Split,
    at_once: Callable[[], Sequence[int]],
    *,
    num_threads: int,
    marked: bool,
    at_least: Callable[[], int] = lambda: 0,
    watch: Watch | None = None,
) -> Generator[Generator[Sample | LeftOut, None, None], None, None]:
    """Load the samples of tasks, in order, within a `with` block, which gets a generator of them.

    In the place of a sample that is left out comes a `LeftOut`.

    Args:
        reading: The datasets to read from.
        tasks: Returns the tasks, which it announces to a `Follower`. They are drawn ahead of the
            samples yielded.
        split: The rank and worker that read.
        at_once: See `Follower`.
        num_threads: Threads besides the consumer's.
        marked: Whether samples get the field `MASK`.
        at_least: See `in_order`.
        watch: See `in_order`.

    Raises:
        CacheTooSmallError: the cache cannot hold the shards that are needed at once.
    """
    follower = Follower(reading, at_once, watch, workers=split.num_workers)
    load_one, weigh = reading.load_or_skip, reading.weigh

    def load(task: Task) -> Sample | LeftOut:
        position, counts, _, epoch, again, row = task
        sample = load_one(position, epoch, again, None if row is None else row())
        if marked and not isinstance(sample, LeftOut):
            sample[MASK] = counts
        return sample

    def load_in_turn(task: Task) -> Sample | LeftOut:
        follower.enter(task[0], task[2])
        try:
            return load(task)
        finally:
            follower.leave(task[0], task[2])

    try:
        samples = in_order(
            load_in_turn if follower.active else load,
            tasks(follower),
            num_threads=0 if reading.only_copies else num_threads,
            weigh=lambda task: weigh(task[0]),
            size=held_bytes,
            at_least=at_least,
            before_close=follower.close,
            watch=watch,
        )
        with closing(samples):
            yield samples
    finally:
        follower.close()
