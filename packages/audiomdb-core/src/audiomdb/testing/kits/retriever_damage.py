"""Conformance tests for missing, damaged or replaced datasets, and for the cache limit."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from audiomdb.cache.answers import closing_chunks
from audiomdb.errors import (
    AudioMDBError,
    CacheTooSmallError,
    CorruptShardError,
    MetadataError,
)
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream import SampleStream
from audiomdb.testing.datasets import sample_digest
from audiomdb.testing.kits.conformance import cached_bytes, expect_same
from audiomdb.testing.kits.retriever_base import Make, Original, RetrieverTests, digests_of
from audiomdb.testing.store import Store

__all__ = ["BudgetTests", "DamageTests"]


class DamageTests(RetrieverTests):
    """Tests in which files in the store are missing, damaged or replaced."""

    def test_a_dataset_that_is_not_there_is_an_error_of_its_own(
        self, store: Store, make: Make, original: Original
    ) -> None:
        """Translate the store's "not found" error to `DatasetNotFoundError`."""
        retriever = make()
        with pytest.raises(self.missing_error):
            retriever.open()
        store.fill(original.path)
        assert digests_of(retriever) == original.digests

    def test_a_shard_that_is_not_there_is_an_error_that_names_it(
        self, filled: Store, make: Make, original: Original
    ) -> None:
        """The other shards can still be read."""
        filled.delete(original.shard_path(1))
        reader = make().open()
        first = original.first_of(1)
        expected = self.missing_error
        kinds = expected if isinstance(expected, tuple) else (expected,)
        with pytest.raises((*kinds, CorruptShardError)) as caught:
            reader[first]
        if isinstance(caught.value, AudioMDBError):
            assert "shard_00001" in str(caught.value), "the error does not name the file"
        assert sample_digest(reader[0]) == original.digests[0]
        filled.write(original.shard_path(1), original.shard(1))
        assert sample_digest(reader[first]) == original.digests[first]

    def test_a_flipped_bit_is_never_delivered(
        self, filled: Store, make: Make, original: Original
    ) -> None:
        """The error names the shard, and with a cache also the expected and the actual digest."""
        damaged = original.damaged(2)
        filled.write(original.shard_path(2), damaged)
        retriever = make()
        reader, first = retriever.open(), original.first_of(2)
        with pytest.raises(CorruptShardError, match="shard_00002") as caught:
            reader[first]
        assert sample_digest(reader[0]) == original.digests[0]
        if not self.in_place:
            assert original.metadata.shards[2].sha256 in str(caught.value)
            assert hashlib.sha256(damaged).hexdigest() in str(caught.value)
            tries = retriever.cache_stats.corrupt
            assert tries == 2, "a damaged shard is fetched again, once, before it is given up"
            quarantine = Path(retriever.cache_dir, "quarantine")
            kept = {path.name: path.read_bytes() for path in quarantine.iterdir()}
            assert len(kept) == 1
            expect_same(kept, dict.fromkeys(kept, damaged))

    def test_a_shard_that_was_mended_is_read(
        self, filled: Store, make: Make, original: Original
    ) -> None:
        """A failure is not remembered after the retriever was closed."""
        filled.write(original.shard_path(2), original.damaged(2))
        retriever, first = make(), original.first_of(2)
        with pytest.raises(CorruptShardError):
            retriever.open()[first]
        filled.write(original.shard_path(2), original.shard(2))
        retriever.close()
        assert digests_of(retriever) == original.digests

    @pytest.mark.parametrize("missing_bytes", [1, 4096, 100_000])
    def test_a_shard_that_is_too_short_is_never_opened(
        self, filled: Store, make: Make, original: Original, missing_bytes: int
    ) -> None:
        """Mapping a truncated shard and reading past its end would kill the process."""
        filled.write(original.shard_path(3), original.shard(3)[:-missing_bytes])
        with pytest.raises(CorruptShardError, match="shard_00003"):
            make().open()[original.first_of(3)]

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b'{"format": "another"}', bytes(100)],
        ids=["empty", "cut", "another", "zeros"],
    )
    def test_metadata_that_cannot_be_read_is_an_error_of_its_own(
        self, filled: Store, make: Make, original: Original, content: bytes
    ) -> None:
        """Anything that is not the JSON of a dataset is refused before other files are fetched."""
        filled.write("metadata.json", content)
        retriever = make()
        with pytest.raises(MetadataError):
            retriever.open()
        filled.write("metadata.json", (original.path / "metadata.json").read_bytes())
        assert digests_of(retriever) == original.digests

    def test_columns_that_are_damaged_are_an_error_of_their_own(
        self, filled: Store, make: Make, original: Original
    ) -> None:
        """An index file that does not match the metadata is not used."""
        if not self.in_place and not self.reads_ranges(make()):
            pytest.skip("it gathers the columns from the shards")
        index = bytearray((original.path / "index.bin").read_bytes())
        index[len(index) // 2] ^= 0xFF
        filled.write("index.bin", bytes(index[:-1]))
        with pytest.raises(MetadataError):
            make().open().index["speaker"]

    @pytest.mark.usefixtures("cached")
    def test_shards_of_another_dataset_are_never_mixed_in(
        self, filled: Store, make: Make, original: Original, other: Original
    ) -> None:
        """If the dataset is replaced while it is read, the reader gets old samples or an error."""
        retriever = make()
        assert sample_digest(retriever.open()[0]) == original.digests[0]
        filled.fill(other.path)
        try:
            found = sample_digest(retriever.open()[-1])
        except CorruptShardError as error:
            assert "shard_00003" in str(error)  # noqa: PT017 - either is right
        else:
            assert found == original.digests[-1]

    def test_an_answer_names_the_version_that_its_bytes_are_of(
        self, filled: Store, make: Make, original: Original, other: Original
    ) -> None:
        """If the file is not the one that `validator` names, start over, or give no such name.

        Bytes under the name of the old version would be appended to what there is of that.
        """
        retriever = make()
        if not self.reads_ranges(retriever):
            pytest.skip("it reads no ranges")
        path = original.shard_path(1)
        before = retriever.open_remote(path)
        with closing_chunks(before.chunks):
            pass
        replaced = other.shard(1) + b"longer than before"
        filled.write(path, replaced)
        answer = retriever.open_remote(path, start=1000, validator=before.validator)
        with closing_chunks(answer.chunks):
            found = b"".join(answer.chunks)
        # A store may keep old versions, and still serve the one that is named.
        named = answer.validator is not None and answer.validator == before.validator
        whole = original.shard(1) if named else replaced
        expect_same({path: found}, {path: whole[answer.start :]})

    def test_a_dataset_that_was_replaced_is_seen_when_it_is_opened_again(
        self, filled: Store, make: Make, original: Original, other: Original
    ) -> None:
        """Cached files of the old dataset are not taken for those of the new one."""
        retriever = make()
        assert digests_of(retriever) == original.digests
        retriever.close()
        filled.fill(other.path)
        assert digests_of(retriever) == other.digests


class BudgetTests(RetrieverTests):
    """Tests that the cache stays within `max_cache_bytes` at all times."""

    @pytest.mark.usefixtures("filled", "cached")
    def test_a_budget_that_is_too_small_is_refused_with_the_one_that_would_do(
        self, make: Make, original: Original
    ) -> None:
        """The error names the smallest sufficient budget, with which everything can be read."""
        least = self.least_budget(make)
        with (
            _stream(make(max_cache_bytes=least - 1)) as stream,
            pytest.raises(CacheTooSmallError),
        ):
            next(iter(stream))
        make.close()  # the budget of a cache does not change while it is in use
        with _stream(make(max_cache_bytes=least)) as stream:
            assert sorted(map(sample_digest, stream)) == sorted(original.digests)

    @pytest.mark.usefixtures("filled", "cached")
    @pytest.mark.parametrize("num_threads", [0, 2])
    def test_the_cache_never_outgrows_its_budget(
        self, make: Make, original: Original, tmp_path: Path, num_threads: int
    ) -> None:
        """Checked after every sample of two epochs. `download_shard` must write to `cache_dir`."""
        budget = self.least_budget(make)
        retriever = make(max_cache_bytes=budget, cache_dir=tmp_path / "small")
        found, most = [], 0
        with _stream(retriever, num_threads=num_threads, epochs=2) as stream:
            for sample in stream:
                found.append(sample_digest(sample))
                most = max(most, cached_bytes(tmp_path / "small"))
        assert most <= budget, "files are kept in the cache's directory beside the shards"
        assert sorted(found) == sorted(original.digests * 2)
        assert retriever.cache_stats.evictions > 0, "max_cache_bytes had no effect"

    def least_budget(self, make: Make) -> int:
        """Return the smallest budget for a stream, as named by the error for a smaller one."""
        with (
            _stream(make(max_cache_bytes=1)) as stream,
            pytest.raises(CacheTooSmallError) as caught,
        ):
            next(iter(stream))
        make.close()
        *_, least = re.findall(r"max_cache_bytes=(\d+)", str(caught.value))
        return int(least)


def _stream(retriever: BaseRetriever, **options: Any) -> SampleStream:  # noqa: ANN401
    """Stream stored samples, shuffled over two shards at a time."""
    return SampleStream(retriever, shuffle=True, window=1, decode=False, **options)
