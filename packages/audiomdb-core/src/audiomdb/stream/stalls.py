"""Report what a loop waits for if it waits for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from audiomdb.log import logger
from audiomdb.plan.checks import above_zero
from audiomdb.quantities import size
from audiomdb.stream.stats import Cause
from audiomdb.threads import Alarm, wait_for

__all__ = ["Stall", "StallWatcher", "check_stall_after", "log_stall"]

_LOOKS = 4
"""Number of times a watcher looks before it reports."""

_LONGEST_TICK_S = 1.0


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """A long wait and its cause. `str()` gives the logged text.

    Attributes:
        waited_s: Seconds without a sample or batch so far.
        cause: "network": a shard has not arrived yet; "decode" and "process": a sample is being
            decoded or processed; "collate": a batch is being collated; "worker": a worker process
            has not reported anything.
        rank: Rank of the training process.
        world_size: Number of ranks.
        worker: Index of the worker process; None without worker processes.
        dataset: Name of the dataset.
        shard: Folder of the shard.
        key: Key of the sample, if known.
        there_bytes: Bytes of the shard that have arrived.
        total_bytes: Size of the shard.
        bytes_per_s: Speed at which the shard has arrived while it was observed.
        retries: Transfers that this process has restarted, over all shards.
    """

    waited_s: float
    cause: Cause | Literal["worker"]
    rank: int = 0
    world_size: int = 1
    worker: int | None = None
    dataset: str | None = None
    shard: str | None = None
    key: str | None = None
    there_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_s: float | None = None
    retries: int | None = None

    def __str__(self) -> str:
        who = f"rank {self.rank} of {self.world_size}"
        if self.worker is not None:
            who += f", worker {self.worker}"
        return f"{who} has waited {self.waited_s:.1f} s {self._why()}"

    def _why(self) -> str:
        sample = "a sample" if self.key is None else f"sample {self.key!r}"
        place = "" if self.shard is None else f" of {self.shard} in dataset {self.dataset!r}"
        if self.cause == "network":
            return f"for {self.shard} of dataset {self.dataset!r} to arrive{self._progress()}"
        if self.cause == "decode":
            return f"for {sample}{place} to be read and decoded"
        if self.cause == "process":
            return f"for the processor, which is at {sample}{place}"
        if self.cause == "collate":
            return "for collate_fn to make a batch"
        return "for a batch, and nothing is known of the worker that makes it"

    def _progress(self) -> str:
        if self.there_bytes is None or self.total_bytes is None:
            return ""
        text = f": {size(self.there_bytes)} of {size(self.total_bytes)} are there"
        if self.bytes_per_s is not None:
            text += f", {size(self.bytes_per_s)}/s"
        return f"{text}, {self.retries} retries so far"


def check_stall_after(after_s: float | None) -> None:
    """Check the option `stall_after_s`.

    Raises:
        ValueError: it is neither None nor a number above 0.
    """
    if after_s is not None and not above_zero(after_s):
        raise ValueError(f"stall_after_s is {after_s!r}, expected more than 0 seconds, or None")


class StallWatcher:
    """A context manager with a thread that reports long waits.

    It reports a wait after `after_s`, and again whenever its length has doubled.

    Args:
        look: Called several times within `after_s`; returns the present wait, or None.
        after_s: Seconds above 0 after which a wait is reported. None: never.
        speak: Called with the stall, in the watcher's thread.
        each_look: Called with each result of `look`.
    """

    def __init__(
        self,
        look: Callable[[], Stall | None],
        after_s: float | None,
        speak: Callable[[Stall], None],
        *,
        each_look: Callable[[Stall | None], None] | None = None,
    ) -> None:
        self._look = look
        self._after_s = after_s
        self._speak = speak
        self._each_look = each_look
        self._tick_s = _LONGEST_TICK_S
        if after_s is not None:
            self._tick_s = min(after_s / _LOOKS, _LONGEST_TICK_S)
        self._closing = Alarm()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StallWatcher:
        if self._after_s is not None or self._each_look is not None:
            self._thread = threading.Thread(
                target=self._run, name="audiomdb-stream-watcher", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.ring()
        if self._thread is not None:
            wait_for([self._thread])

    def _run(self) -> None:
        try:
            limit, before_s = self._after_s, 0.0
            while not self._closing.rest(self._tick_s):
                stall = self._look()
                if self._each_look is not None:
                    self._each_look(stall)
                waited_s = 0.0 if stall is None else stall.waited_s
                # A loop may wait at every look, so a wait that is over shows only in that the next
                # one is shorter.
                if waited_s < before_s:
                    limit = self._after_s
                before_s = waited_s
                if stall is not None and limit is not None and waited_s >= limit:
                    limit = 2 * waited_s
                    self._speak(stall)
        except Exception:  # noqa: BLE001
            # Watching is optional: the loop continues without it.
            logger("stream").exception("watching for stalls has ended")


def log_stall(call: Callable[[Stall], Any] | None = None) -> Callable[[Stall], None]:
    """Return a function that logs a stall as a warning of `audiomdb.stream`, then calls `call`."""

    def speak(stall: Stall) -> None:
        logger("stream").warning("%s", stall)
        if call is not None:
            call(stall)

    return speak
