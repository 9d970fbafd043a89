"""Check the options of a writer, which a converter is given before it makes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import force_setattr

from audiomdb.checks import at_least_one, true_false_or_none
from audiomdb.shards.borders import ShardBorders
from audiomdb.shards.describe import AudioOptions

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["WriterOptions"]


class WriterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a `DatasetWriter` that a converter has too; see there.

    Raises:
        ValueError: an option is out of range.
        AudioError: `audio_format` is unknown, or does not support the rate.
        TypeError: `executor` is no executor, or an option that is a bool is something else.
    """

    samples_per_shard: int | None
    max_shard_bytes: int | None
    map_size: int | None
    check_audio: Literal["decode", "header"]
    audio_format: str | None
    sample_rate: int | None
    mono: bool
    on_error: Literal["raise", "skip"]
    num_workers: int | None
    executor: Executor | None
    progress: bool | None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}, expected 'raise' or 'skip'")
        for name in ("map_size", "num_workers"):
            force_setattr(self, name, at_least_one(name, getattr(self, name)))
        true_false_or_none("progress", self.progress)
        if self.executor is not None:
            _refuse_what_is_no_executor(self.executor)
        self.audio()
        self.borders()

    def audio(self) -> AudioOptions:
        """Return how audio is checked and stored."""
        return AudioOptions(
            check_audio=self.check_audio,
            audio_format=self.audio_format,
            sample_rate=self.sample_rate,
            mono=self.mono,
        )

    def borders(self) -> ShardBorders:
        """Return the borders of the shards of a new dataset."""
        return ShardBorders(self.samples_per_shard, self.max_shard_bytes)


def _refuse_what_is_no_executor(given: object) -> None:
    from concurrent.futures import Executor

    if not isinstance(given, Executor):
        raise TypeError(f"executor is {given!r:.80}, expected a concurrent.futures.Executor")
