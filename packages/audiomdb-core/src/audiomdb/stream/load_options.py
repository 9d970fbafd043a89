"""Say how the samples of a dataset are loaded for training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from msgspec.structs import force_setattr

from audiomdb.checks import at_least_one, true_or_false
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import Sample
from audiomdb.stream.crops import Crop
from audiomdb.stream.joined import JoinedColumns
from audiomdb.stream.portable import PortableStruct

__all__ = ["LoadOptions", "OnError", "Processing"]

Processing: TypeAlias = (
    BaseProcessor | Iterable[BaseProcessor] | Callable[[Sample], Mapping[str, Any]]
)
"""One or several processors, or any function from sample to sample."""

OnError: TypeAlias = Literal["raise", "skip"]
"""What happens to a sample that fails."""


class LoadOptions(PortableStruct, frozen=True, kw_only=True):
    """Options for loading stored samples.

    Attributes:
        fields: Fields to load besides the key. None: all. Audio that is not among them is not read.
        decode: Whether to decode audio to a float32 array. False leaves it as it is stored.
        sample_rate: Resample decoded audio to this rate in Hz. None keeps the rate of each clip.
        mono: Average the channels of decoded audio.
        crop: Decode only this window of each clip. The fields `crop_offset` and `crop_seconds` of a
            sample give its window, `frames` is the length of the window, and `duration` remains
            that of the clip.
        join: Columns that are added to each sample, regardless of `fields`.
        processor: Applied last; its result replaces the sample.
        on_error: "skip" leaves out a sample that is damaged, or for which the processor raises an
            exception that is not of its environment (a server, a disk, memory), and logs that.
            Streams do; a sample that is asked for by position or key raises.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or contradicts another.
    """

    fields: Collection[str] | None = None
    decode: bool = True
    sample_rate: int | None = None
    mono: bool = False
    crop: Crop | None = None
    join: JoinedColumns | None = None
    processor: Processing | None = None
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.fields, str) or not isinstance(self.fields, Iterable | None):
            raise TypeError(f"fields is {self.fields!r}, expected a list of names")
        # Each iteration goes through them again, and an iterator would have nothing left.
        if self.fields is not None:
            force_setattr(self, "fields", tuple(self.fields))
        if isinstance(self.processor, Iterator):
            force_setattr(self, "processor", tuple(self.processor))
        for name in ("decode", "mono"):
            force_setattr(self, name, true_or_false(name, getattr(self, name)))
        force_setattr(self, "sample_rate", at_least_one("sample_rate", self.sample_rate))
        if self.crop is not None and not isinstance(self.crop, Crop):
            raise TypeError(f"crop is {self.crop!r}, expected a Crop")
        if self.join is not None and not isinstance(self.join, JoinedColumns):
            raise TypeError(f"join is {self.join!r:.80}, expected a JoinedColumns")
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {self.on_error!r}, expected 'raise' or 'skip'")
        if not self.decode and (self.sample_rate is not None or self.mono):
            raise ValueError("sample_rate and mono change decoded audio; leave decode=True")
        if not self.decode and self.crop is not None:
            seconds = self.crop.seconds
            raise ValueError(f"a crop of {seconds} seconds cuts decoded audio; leave decode=True")
        self.function()

    def function(self) -> Callable[[Sample], Mapping[str, Any]] | None:
        """Return the processor as a function from sample to sample.

        Raises:
            TypeError: it is neither a processor nor a function.
            ValueError: it is an empty list.
        """
        processor = self.processor
        if processor is None:
            return None
        if isinstance(processor, BaseProcessor | Iterable):
            return Processors(processor, sample_rate=self.sample_rate)
        if isinstance(processor, type) or not callable(processor):
            raise TypeError(
                f"processor is {processor!r}, expected an object of a subclass of BaseProcessor, "
                "several of them, or a function from sample to sample"
            )
        return processor
