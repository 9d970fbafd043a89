# ruff: noqa: ARG002, N801, RUF012, SIM115
"""Converters and processors that break what is expected of them, each in one way, under the kit.

The attribute `found_by` of a class names the test that has to fail.
"""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from audiomdb.converters.base import BaseConverter
from audiomdb.processors.base import BaseProcessor
from audiomdb.testing import ConverterConformance, ProcessorConformance

LETTERS = set("abcdefgh")


class Numbers(BaseConverter):
    def __init__(self, output_dir, **options):
        super().__init__(output_dir, **options)

    def sample_iterator(self):
        for number in range(6):
            yield f"n-{number}", {"n": number}


class Converters(ConverterConformance):
    kind: Any

    def make_converter(self, output_dir, **options):
        return self.kind(output_dir, **options)


class TestChangesItsOrder(Converters):
    found_by = "test_the_source_yields_the_same_order_each_time"

    class kind(Numbers):
        def sample_iterator(self):
            pairs = list(super().sample_iterator())
            random.SystemRandom().shuffle(pairs)
            return [*pairs, (uuid.uuid4().hex, {})]


class TestYieldsASet(Converters):
    found_by = "test_another_process_yields_the_same"

    class kind(Numbers):
        def sample_iterator(self):
            pairs = dict(super().sample_iterator())
            return ((key, pairs[key]) for key in set(pairs))


class TestHashesALabel(Converters):
    found_by = "test_another_process_yields_the_same"

    class kind(Numbers):
        def sample_iterator(self):
            for key, sample in super().sample_iterator():
                yield key, {**sample, "label": hash(key) % 1000}


class TestYieldsFieldsOfASet(Converters):
    found_by = "test_another_process_yields_the_same"

    class kind(Numbers):
        def sample_iterator(self):
            for key, sample in super().sample_iterator():
                yield key, {**sample, **dict.fromkeys(LETTERS, 1)}


class TestYieldsOnce(Converters):
    found_by = "test_a_finished_conversion_is_not_done_again"

    class kind(Numbers):
        def sample_iterator(self):
            if not hasattr(self, "pairs"):
                self.pairs = super().sample_iterator()
            return self.pairs


class TestKeepsOptionsToItself(Converters):
    found_by = "test_options_reach_the_base"

    class kind(Numbers):
        def __init__(self, output_dir, **options):
            super().__init__(output_dir)


class TestDropsAnOption(Converters):
    found_by = "test_each_option_of_the_base_reaches_it"

    class kind(Numbers):
        def __init__(self, output_dir, *, on_error="raise", **options):
            super().__init__(output_dir, **options)


class TestHoldsItsFiles(Converters):
    found_by = "test_a_source_that_is_left_early_lets_go_of_what_it_holds"

    class kind(Numbers):
        files: Any = []

        def sample_iterator(self):
            self.files.append(Path("/dev/null").open())
            yield from super().sample_iterator()


class Processors(ProcessorConformance):
    kind: Any

    def make_processor(self, keep_original):
        return self.kind(keep_original)


class TestChangesTheSample(Processors):
    found_by = "test_it_leaves_the_sample_as_it_is"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            audio = sample["audio"]
            if isinstance(audio, np.ndarray):
                audio *= 0.5
            return {"n": 1}


class TestRemembers(Processors):
    found_by = "test_the_result_depends_on_the_sample_alone"

    class kind(BaseProcessor):
        calls = 0

        def process(self, sample, **_kwargs):
            self.calls += 1
            return {"calls": self.calls}


class TestGivesTheSameMemoryTwice(Processors):
    found_by = "test_the_result_depends_on_the_sample_alone"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            shared = self.__dict__.setdefault("_shared", np.zeros(4, np.float32))
            shared[:] = self.load_array(sample["audio"], 16_000)[:4]
            return {"start": shared}


class TestHashesTexts(Processors):
    found_by = "test_another_process_makes_the_same_of_a_sample"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"label": hash(sample["text"]) % 1000}


class TestReturnsFieldsOfASet(Processors):
    found_by = "test_another_process_makes_the_same_of_a_sample"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return dict.fromkeys(LETTERS, 1)


class TestLoadsACopyOfTheArray(Processors):
    found_by = "test_audio_may_be_encoded_or_an_array"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            audio = sample["audio"]
            if isinstance(audio, np.ndarray):
                audio = audio * 1.0  # load_array does not know its rate
            return {"frames": len(self.load_array(audio, 16_000))}


class TestHasNoLastingName(Processors):
    found_by = "test_its_name_is_the_same_in_every_process"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"n": 1}

        def __repr__(self):
            return object.__repr__(self)


class TestReturnsWhatCannotBeStored(Processors):
    found_by = "test_it_makes_fields_that_can_be_stored"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            return {"words": set(sample["text"].split())}


class TestLeavesArraysAsTheyAre(Processors):
    found_by = "test_audio_may_be_encoded_or_an_array"

    class kind(BaseProcessor):
        def process(self, sample, **_kwargs):
            audio = sample["audio"]
            if not isinstance(audio, np.ndarray):
                audio = 0.5 * self.load_array(audio, 16_000)
            return {"audio": audio, "sample_rate": 16_000}
