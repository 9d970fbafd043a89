"""Choose what happens to samples that cannot be shared evenly, and log what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.log import logger
from audiomdb.quantities import few

if TYPE_CHECKING:
    from audiomdb.plan import Order, Tail
    from audiomdb.stream.reading import Reading

__all__ = ["log_left_out", "tail_of_samples"]


def tail_of_samples(tail: Tail | None, world_size: int) -> Tail:
    """Return what happens to samples that ranks cannot share evenly.

    By default, a single rank keeps all samples, and several ranks get the same number: synchronous
    training hangs if one rank ends before the others.
    """
    if tail is not None:
        return tail
    return "uneven" if world_size == 1 else "drop"


def log_left_out(reading: Reading, plan: Order, dropped: int, why: str, *, asked_for: bool) -> None:
    """Log what no epoch has, to the logger `audiomdb.stream`.

    Warns if filters exclude all samples, since nothing else would show it, if a mixture reads
    nothing from datasets that do have samples, and if filters exclude most of the shards that a
    window is to mix.

    Args:
        reading: The datasets.
        plan: The order of an epoch.
        dropped: Number of its samples that are dropped.
        why: The reason for that.
        asked_for: Whether the caller chose to drop them; otherwise that is a warning too.
    """
    if len(reading) and not len(plan):
        _say(
            "min_duration, max_duration and where leave none of the %d samples of %s: every epoch "
            "is empty. What came out of a CSV file is text, numbers included",
            len(reading),
            reading.names,
        )
    if len(plan) and (unread := reading.unread(plan)):
        _say(
            "no epoch, of %d samples, has any of %s: filters leave none, or the weight is so small "
            "that the first turn would come after the last sample; give a larger weight, or stop=",
            len(plan),
            few(unread),
        )
    if thinned := reading.thinned_out():
        _say(
            "filters keep samples of only %s: the other shards count in the window too, so that "
            "fewer are mixed; raise window, or convert the dataset without what is left out",
            few(thinned),
        )
    if dropped:
        _say(
            "tail='drop' leaves %d of %d samples out of each epoch, since %s; tail='pad' repeats "
            "some instead, tail='uneven' keeps each once",
            dropped,
            len(plan),
            why,
            warns=not asked_for,
        )


def _say(message: str, *values: object, warns: bool = True) -> None:
    log = logger("stream")
    (log.warning if warns else log.info)(message, *values)
