"""Processors as users write them pass the kit."""

from __future__ import annotations

from typing import Any

import numpy as np

from audiomdb.processors.base import BaseProcessor
from audiomdb.testing import ProcessorConformance


class Loudness(BaseProcessor):
    """As the base's documentation has it."""

    def process(self, sample: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        audio = self.load_array(sample["audio"], kwargs.get("sample_rate", 16_000))
        return {"loudness": float((audio**2).mean())}


class TestLoudness(ProcessorConformance):
    def make_processor(self, keep_original: bool) -> Loudness:
        return Loudness(keep_original)


class Envelope(BaseProcessor):
    """With options, and the README's way to keep the original."""

    def __init__(self, frames: int = 160, keep_original: bool = False) -> None:
        super().__init__(keep_original)
        self.frames = frames

    def process(self, sample: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        result = sample.copy() if self.keep_original else {}
        audio = self.load_array(sample["audio"], kwargs.get("sample_rate", 16_000))
        whole = len(audio) // self.frames * self.frames
        result["envelope"] = np.abs(audio[:whole]).reshape(-1, self.frames).max(axis=1)
        return result


class TestEnvelope(ProcessorConformance):
    sample_rate = 8_000

    def make_processor(self, keep_original: bool) -> Envelope:
        return Envelope(frames=80, keep_original=keep_original)


class Words(BaseProcessor):
    """Of the text alone."""

    def process(self, sample: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        return {"words": sample["text"].lower().split()}


class TestWords(ProcessorConformance):
    def make_processor(self, keep_original: bool) -> Words:
        return Words(keep_original)

    def make_sample(self, number: int) -> dict[str, Any]:
        return {"text": f"Hello sample {number}"}
