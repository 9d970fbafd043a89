"""Conformance tests for converters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from audiomdb.converters.base import BaseConverter
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import KEY, Sample, SourceSample
from audiomdb.shards import DatasetReader
from audiomdb.shards.verify import verify_dataset
from audiomdb.testing.kits.conformance import Conformance, Held, expect_same, files_in
from audiomdb.testing.kits.hashing import HASH_SEEDS, digest_in_order, in_process_with
from audiomdb.uploaders.local import LocalUploader

__all__ = ["ConverterConformance"]

_OPTIONS: dict[str, Any] = {
    "audio_format": "flac",
    "check_audio": "header",
    "executor": ThreadPoolExecutor(1),  # no thread begins before there is work
    "limit": 2,
    "map_size": 1 << 24,
    "max_shard_bytes": 100_000,
    "mono": True,
    "num_workers": 3,
    "on_error": "skip",
    "progress": False,
    "sample_rate": 8000,
    "samples_per_shard": 2,
}
"""Options of `BaseConverter`, none at its default; `processor` has a test of its own."""


class ConverterConformance(Conformance):
    """Tests that every converter must pass. Subclass it in a test module, once per converter.

        class TestMyConverter(ConverterConformance):
            def make_converter(self, output_dir, **options):
                return MyConverter("recordings.db", output_dir=output_dir, **options)

    The source needs at least four samples and should be small: it is converted some twenty times.

    Attributes:
        longest_test_s: Seconds after which a test that has not ended fails; by default 120.
    """

    def make_converter(self, output_dir: Path, **options: Any) -> BaseConverter:  # noqa: ANN401
        """Make a converter, of the same source each time. To be defined by the subclass.

        Args:
            output_dir: To be passed on.
            options: Other options of `BaseConverter`, to be passed on.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define make_converter")

    @pytest.fixture
    def pairs(self, tmp_path: Path) -> list[tuple[str, SourceSample]]:
        """The pairs of key and sample that the source yields."""
        pairs = list(self.make_converter(tmp_path / "unused").sample_iterator())
        assert len(pairs) >= 4, "give it a source of at least four samples"
        return pairs

    def test_the_source_yields_keys_and_dicts_of_fields(
        self, pairs: list[tuple[str, SourceSample]]
    ) -> None:
        """Keys are unique, and have 1 to 511 bytes of UTF-8."""
        keys = [key for key, _ in pairs]
        assert all(isinstance(key, str) and 1 <= len(key.encode()) <= 511 for key in keys)
        assert len(set(keys)) == len(keys)
        for key, sample in pairs:
            assert isinstance(sample, Mapping), key
            assert all(isinstance(field, str) for field in sample), key

    def test_the_source_yields_the_same_order_each_time(
        self, pairs: list[tuple[str, SourceSample]], tmp_path: Path
    ) -> None:
        """A resumed conversion iterates over the source again, in another process."""
        again = self.make_converter(tmp_path / "unused").sample_iterator()
        assert [key for key, _ in again] == [key for key, _ in pairs], "other keys, or their order"

    def test_another_process_yields_the_same(
        self, pairs: list[tuple[str, SourceSample]], tmp_path: Path
    ) -> None:
        """Use no `hash` of a text, and sort what comes from a set: both differ between processes.

        It is about keys, values and the order of the fields. Without this, a conversion that was
        interrupted cannot be resumed. Converters need not pickle; one that does not is not tried.
        """
        converter = self.make_converter(tmp_path / "unused")
        try:
            ForkingPickler.dumps(converter)
        except Exception as error:  # noqa: BLE001 - may raise anything
            pytest.skip(f"it does not pickle: {error}")
        expected = [(key, digest_in_order(sample)) for key, sample in pairs]
        for seed in HASH_SEEDS:
            found = in_process_with(seed, _digests_of, converter)
            keys = [key for key, _ in found]
            assert keys == [key for key, _ in pairs], "other keys, or their order"
            other = [pair[0] for pair in found if pair not in expected]
            assert other == [], "these samples have other values, or their fields another order"

    def test_the_dataset_is_whole_and_holds_every_sample(
        self, pairs: list[tuple[str, SourceSample]], tmp_path: Path
    ) -> None:
        """Each has the fields that the source yields, unless it is reported as rejected."""
        report = self.make_converter(tmp_path / "out").run()
        assert list(verify_dataset(tmp_path / "out")) == []
        assert report.samples + report.rejected == len(pairs)
        with DatasetReader.open(tmp_path / "out") as reader:
            stored = {sample[KEY]: sample for sample in reader}
        assert len(stored) == report.samples
        for key, sample in pairs:
            if key in stored:
                assert isinstance(sample, Mapping), key
                assert set(sample) <= set(stored[key]), key

    def test_the_bytes_do_not_depend_on_the_number_of_workers(self, tmp_path: Path) -> None:
        """The order in which samples become ready has no influence either."""
        for workers in (1, 3):
            self.make_converter(
                tmp_path / f"with-{workers}" / "out", num_workers=workers, samples_per_shard=2
            ).run()
        one, three = (files_in(tmp_path / f"with-{workers}" / "out") for workers in (1, 3))
        expect_same(three, one)

    @pytest.mark.parametrize("samples", [2, 3])
    def test_a_conversion_that_broke_off_goes_on_as_if_it_had_not(
        self, tmp_path: Path, samples: int
    ) -> None:
        """After the source failed in the middle, finished shards are kept and no byte differs."""
        options: dict[str, Any] = {"samples_per_shard": 1, "num_workers": 1}
        whole, broken = tmp_path / "whole" / "out", tmp_path / "broken" / "out"
        self.make_converter(whole, **options).run()
        converter = self.make_converter(broken, **options)
        _replace_source(converter, fail_after=samples)
        with pytest.raises(_SourceBrokeError):
            converter.run()
        assert not (broken / "metadata.json").exists()
        report = self.make_converter(broken, **options).run()
        assert report.reused_shards >= 1
        expect_same(files_in(broken), files_in(whole))

    def test_a_finished_conversion_is_not_done_again(self, tmp_path: Path) -> None:
        """Running it again compares, and writes nothing."""
        converter = self.make_converter(tmp_path / "out")
        first = converter.run()
        before = files_in(tmp_path / "out")
        for again in (converter, self.make_converter(tmp_path / "out")):
            report = again.run()
            assert report.reused_shards == report.shards == first.shards
        expect_same(files_in(tmp_path / "out"), before)

    def test_options_reach_the_base(
        self, pairs: list[tuple[str, SourceSample]], tmp_path: Path
    ) -> None:
        """Pass `**kwargs` on: `limit` counts what the source yields."""
        keys = [key for key, _ in islice(pairs, 3)]
        report = self.make_converter(tmp_path / "out", limit=3, samples_per_shard=1).run()
        assert report.samples + report.rejected == 3
        assert report.shards == 3
        with DatasetReader.open(tmp_path / "out") as reader:
            assert sorted(sample[KEY] for sample in reader) == sorted(keys)

    @pytest.mark.parametrize("option", list(_OPTIONS))
    def test_each_option_of_the_base_reaches_it(self, tmp_path: Path, option: str) -> None:
        """Pass `**kwargs` on, and also those options that the constructor names itself."""
        value = _OPTIONS[option]
        converter = self.make_converter(tmp_path / "unused", **{option: value})
        assert converter.base_options[option] == value

    def test_a_processor_sees_every_sample(self, tmp_path: Path) -> None:
        """Pass `processor=` on."""
        processor = _CountFields()
        report = self.make_converter(tmp_path / "out", processor=processor, num_workers=1).run()
        with DatasetReader.open(tmp_path / "out") as reader:
            assert all(sample["field_count"] > 0 for sample in reader)
            assert len(reader) == report.samples

    def test_the_dataset_can_be_named(self, tmp_path: Path) -> None:
        """`dataset_name` belongs to the base class, and so does the name of the output folder."""
        converter = self.make_converter(tmp_path / "out", limit=1)
        assert converter.dataset_name
        assert converter.converter_name
        converter.dataset_name = "another name"
        converter.run()
        with DatasetReader.open(tmp_path / "out") as reader:
            assert reader.metadata.name == "another name"

    def test_the_number_of_samples_is_right_or_unknown(
        self, pairs: list[tuple[str, SourceSample]], tmp_path: Path
    ) -> None:
        """`sample_count` is the total that the progress bar shows."""
        assert self.make_converter(tmp_path / "unused").sample_count() in (None, len(pairs))

    def test_the_dataset_is_uploaded_when_it_is_finished(self, tmp_path: Path) -> None:
        """`run` belongs to the base class."""
        self.make_converter(tmp_path / "out").run(upload=LocalUploader(tmp_path / "copy"))
        expect_same(files_in(tmp_path / "copy"), files_in(tmp_path / "out"))

    def test_a_source_that_is_left_early_lets_go_of_what_it_holds(self, tmp_path: Path) -> None:
        """Close the iterator's files and connections with it, by `with` or `try` and `finally`."""
        self.make_converter(tmp_path / "first", limit=1).run()
        held = Held()
        self.make_converter(tmp_path / "second", limit=1).run()
        assert held.is_given_back(), held


class _SourceBrokeError(Exception):
    """Raised by a source that the kit makes fail."""


class _CountFields(BaseProcessor):
    """A processor that accepts any sample."""

    def __init__(self) -> None:
        super().__init__(keep_original=True)

    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401, ARG002
        """Return the number of fields."""
        return {"field_count": len(sample)}


def _digests_of(converter: BaseConverter) -> list[tuple[str, str]]:
    return [(key, digest_in_order(sample)) for key, sample in converter.sample_iterator()]


def _replace_source(converter: BaseConverter, *, fail_after: int) -> None:
    """Make a converter's source raise after this many samples."""
    source = converter.sample_iterator

    def broken() -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield from islice(source(), fail_after)
        raise _SourceBrokeError

    vars(converter)["sample_iterator"] = broken
