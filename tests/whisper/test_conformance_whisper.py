"""The processor for Whisper passes the kit."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from audiomdb.processors.whisper import WhisperProcessor
from audiomdb.testing import ProcessorConformance

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


@cache
def parts() -> tuple[Any, Any]:
    """Bytes are the tokenizer's only tokens, so that it needs no file from anywhere."""
    tokens = [*sorted(ByteLevel.alphabet()), *SPECIAL]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], language="en", task="transcribe")
    return WhisperFeatureExtractor(), tokenizer


class TestWhisperProcessor(ProcessorConformance):
    @pytest.fixture(autouse=True, params=["float32", "float16"])
    def options(self, request: Any) -> None:
        self.dtype = request.param

    def make_processor(self, keep_original: bool) -> WhisperProcessor:
        return WhisperProcessor(*parts(), dtype=self.dtype, keep_original=keep_original)
