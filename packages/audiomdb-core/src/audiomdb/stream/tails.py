"""What becomes of samples that cannot be shared evenly, where nobody says; and saying so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from audiomdb.plan import Tail

__all__ = ["say_dropped", "say_empty", "say_unread", "tail_of_samples"]


def tail_of_samples(tail: Tail | None, world_size: int) -> Tail:
    """Return what becomes of samples that ranks cannot share evenly.

    Unless it is said, one rank alone loses nothing, and several get equally many: training in
    lockstep hangs when one of them ends before the others.
    """
    if tail is not None:
        return tail
    return "uneven" if world_size == 1 else "drop"


def say_dropped(dropped: int, total: int, why: str, *, asked_for: bool) -> None:
    """Log, with `audiomdb.stream`, how many samples an epoch does without.

    Args:
        dropped: So many; none are not worth a word.
        total: Of so many.
        why: What they do not fit.
        asked_for: Whether the caller chose to drop them: then it is no warning.
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
    """Log a warning where filters leave none of the samples: nothing else would show it.

    Args:
        taking_part: Samples of an epoch.
        samples: All there are.
        names: Of the datasets.
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
    """Log a warning where a mixture has nothing of some datasets that do have samples.

    Args:
        names: Of these datasets.
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
