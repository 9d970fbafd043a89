"""Choose what happens to samples that cannot be shared evenly, and log what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiomdb.plan import Tail

__all__ = ["say_dropped", "say_empty", "say_unread", "tail_of_samples"]


def tail_of_samples(tail: Tail | None, world_size: int) -> Tail:
    """Return what happens to samples that ranks cannot share evenly.

    By default, a single rank keeps all samples, and several ranks get the same number: synchronous
    training hangs if one rank ends before the others.
    """
    if tail is not None:
        return tail
    return "uneven" if world_size == 1 else "drop"


def say_dropped(dropped: int, total: int, why: str, *, asked_for: bool) -> None:
    """Log the number of samples that each epoch drops, to the logger `audiomdb.stream`.

    Args:
        dropped: Number of dropped samples. Nothing is logged if it is 0.
        total: Number of samples of the epoch.
        why: The reason, for the message.
        asked_for: Whether the caller chose to drop them; otherwise the message is a warning.
    """
    if not dropped:
        return
    import logging

    logging.getLogger("audiomdb.stream").log(
        logging.INFO if asked_for else logging.WARNING,
        "tail='drop' leaves %d of %d samples out of each epoch, since %s; tail='pad' repeats some "
        "instead, tail='uneven' keeps each once",
        dropped,
        total,
        why,
    )


def say_empty(taking_part: int, samples: int, names: str) -> None:
    """Log a warning if filters exclude all samples, since nothing else would show it.

    Args:
        taking_part: Samples of an epoch.
        samples: All samples of the datasets.
        names: Names of the datasets.
    """
    if samples and not taking_part:
        import logging

        logging.getLogger("audiomdb.stream").warning(
            "min_duration, max_duration and where leave none of the %d samples of %s: every epoch "
            "is empty. What came out of a CSV file is text, numbers included",
            samples,
            names,
        )


def say_unread(names: Sequence[str], total: int) -> None:
    """Log a warning if a mixture reads nothing from datasets that do have samples.

    Args:
        names: Names of these datasets.
        total: Samples of an epoch.
    """
    if names and total:
        import logging

        logging.getLogger("audiomdb.stream").warning(
            "no epoch, of %d samples, has any of %s: filters leave none, or the weight is so small "
            "that the first turn would come after the last sample; give a larger weight, or stop=",
            total,
            ", ".join(names),
        )
