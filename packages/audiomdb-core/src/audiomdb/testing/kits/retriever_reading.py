"""Conformance tests of a retriever reading an intact dataset over an intact network."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from audiomdb.cache import CacheOptions
from audiomdb.cache.answers import closing_chunks
from audiomdb.errors import AudioMDBError, CacheTooSmallError, UnknownKeyError
from audiomdb.signatures import signature_of
from audiomdb.stream import SampleStream
from audiomdb.testing.datasets import sample_digest
from audiomdb.testing.kits.conformance import Held, expect_same
from audiomdb.testing.kits.retriever_base import FILLED, Make, Original, RetrieverTests, digests_of
from audiomdb.testing.store import Store

__all__ = ["ReadingTests"]


class ReadingTests(RetrieverTests):
    """Tests in which neither the dataset nor the network fails."""

    @FILLED
    def test_it_says_what_the_dataset_says_of_itself(self, make: Make, original: Original) -> None:
        """On failure: `download_metadata` or `open_remote("metadata.json")` gave another file."""
        retriever = make()
        expect_same(
            {"metadata.json": msgspec.json.encode(retriever.metadata)},
            {"metadata.json": msgspec.json.encode(original.metadata)},
        )
        assert len(retriever) == len(original.samples)

    @FILLED
    def test_every_sample_is_the_original(self, make: Make, original: Original) -> None:
        """Samples come in the stored order, with each field bit for bit equal."""
        assert digests_of(make()) == original.digests

    @FILLED
    def test_samples_are_read_by_position_and_by_key(self, make: Make, original: Original) -> None:
        """Positions may count from the end, and come in any order."""
        reader = make().open()
        for position in (7, 0, -1, 4, 7):
            assert sample_digest(reader[position]) == original.digests[position]
        assert sample_digest(reader["clip-00005"]) == original.digests[5]
        with pytest.raises(UnknownKeyError):
            reader["no such clip"]

    @FILLED
    def test_columns_are_the_originals(self, make: Make, original: Original) -> None:
        """On failure: `index.bin` is another file, or was gathered wrongly from the shards."""
        index = make().open().index
        assert list(index) == list(original.columns)
        for name, column in original.columns.items():
            np.testing.assert_array_equal(index[name], column)

    @FILLED
    def test_a_shuffled_stream_gives_what_the_local_one_gives(
        self, make: Make, original: Original
    ) -> None:
        """Both give decoded samples in the same order for two epochs, with threads and prefetch."""
        with SampleStream(make(), shuffle=True, num_threads=2, epochs=2) as stream:
            found = [sample_digest(sample) for sample in stream]
        with SampleStream(original.path, shuffle=True, epochs=2) as stream:
            assert found == [sample_digest(sample) for sample in stream]

    @FILLED
    def test_several_threads_may_read_at_once(self, make: Make, original: Original) -> None:
        """`download_shard` and `open_remote` are called from several threads."""
        retriever = make()
        retriever.open()
        together = threading.Barrier(4)

        def read(_: int) -> list[str]:
            together.wait()
            return digests_of(retriever)

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(4))) == [original.digests] * 4
        if not self.in_place:
            fetched = retriever.cache_stats.fetched_shards
            assert fetched == len(original.metadata.shards), "a shard was fetched twice"

    def test_threads_that_fetch_many_shards_at_once_get_the_right_ones(
        self, store: Store, make: Make, many: Original
    ) -> None:
        """Calls that run at the same time share no folder, and no attribute that they set.

        There are more than ten shards: also on failure, look at how their names are made.
        """
        store.fill(many.path)
        retriever = make()
        reader = retriever.open()
        together = threading.Barrier(4)

        def read(first: int) -> list[str]:
            together.wait()
            return [sample_digest(reader[place]) for place in range(first, len(reader), 4)]

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, range(4)))
        assert found == [many.digests[first::4] for first in range(4)], "samples of other shards"
        if not self.in_place:
            wrong = retriever.cache_stats.corrupt
            assert wrong == 0, "what arrived for some shards was not theirs: is it thread-safe?"

    @pytest.mark.usefixtures("cached")
    def test_each_option_of_the_cache_reaches_it(self, make: Make) -> None:
        """Pass `**options` on, and also those options that the constructor names itself."""
        options = make(max_cache_bytes=12_345_678, prefetch=2, workers=3)._where.options
        assert options == CacheOptions(max_bytes=12_345_678, prefetch=2, workers=3)

    @pytest.mark.usefixtures("filled", "cached")
    def test_what_was_read_before_is_not_fetched_again(
        self,
        make: Make,
        original: Original,
    ) -> None:
        """Retrievers made with equal arguments share a cache.

        On failure: the arguments have no names that last, or `__init__` does not pass `cache_dir`
        on to the base class.
        """
        first = make()
        assert digests_of(first) == original.digests
        first.close()
        second = make()
        assert digests_of(second) == original.digests
        assert second.cache_dir == first.cache_dir, "equal arguments name two caches"
        assert second.cache_stats.fetched_shards == 0, "shards in the cache were fetched again"

    @FILLED
    def test_it_can_be_used_again_after_it_was_closed(self, make: Make, original: Original) -> None:
        """`close` releases the dataset, not what is needed to open it again."""
        retriever = make()
        assert digests_of(retriever) == original.digests
        retriever.close()
        retriever.close()
        assert digests_of(retriever) == original.digests

    @FILLED
    def test_a_view_outlives_the_retriever(self, make: Make, original: Original) -> None:
        """The result of `read(copy=False)` stays valid."""
        retriever = make()
        sample = retriever.open().read(0, copy=False)
        retriever.close()
        del retriever
        gc.collect()
        expect_same({"0": bytes(sample["payload"])}, {"0": original.samples[0]["payload"]})

    @FILLED
    def test_it_pickles_as_its_arguments(self, make: Make, original: Original) -> None:
        """It pickles while open too, and the copy uses the same cache."""
        retriever = make()
        assert len(retriever) == len(original.samples)
        copy = ForkingPickler.loads(ForkingPickler.dumps(retriever))
        assert type(copy) is type(retriever)
        assert digests_of(copy) == original.digests
        if not self.in_place:
            assert copy.cache_dir == retriever.cache_dir
        copy.close()

    @FILLED
    def test_a_piece_is_the_bytes_that_were_asked_for(self, make: Make, original: Original) -> None:
        """`stop` is the first byte not needed; `size` is always that of the whole file.

        Only files that lack 8 MiB or more are requested in pieces, so this asks for some itself.
        """
        retriever: Any = make()
        if "stop" not in signature_of(retriever.open_remote).parameters:
            pytest.skip("its open_remote takes no stop")
        content, path = original.shard(1), original.shard_path(1)
        whole, middle = len(content), len(content) // 2
        answer = retriever.open_remote(path)
        with closing_chunks(answer.chunks):
            expect_same({path: b"".join(answer.chunks)}, {path: content})
        validator = answer.validator
        for start, stop in [
            *((0, 1), (0, middle), (1, 2), (middle, middle + 1), (middle, whole - 1)),
            *((whole - 2, whole - 1), (middle, None), (0, None)),
        ]:
            answer = retriever.open_remote(path, start=start, stop=stop, validator=validator)
            with closing_chunks(answer.chunks):
                found = b"".join(answer.chunks)
            asked = f"start={start}, stop={stop}"
            assert answer.start in (start, 0), f"{asked}: it begins where nobody asked"
            assert answer.size in (whole, None), f"{asked}: size is that of the whole file"
            assert answer.validator == validator, f"{asked}: the file has not changed"
            needed = content[answer.start : stop]
            # More may come if the store cannot end there.
            expect_same({asked: found[: len(needed)]}, {asked: needed})
            # The rest, too, is what the file has there.
            there = content[answer.start : answer.start + len(found)]
            expect_same({asked: found}, {asked: there})

    def test_a_url_leads_to_the_same_dataset(
        self, filled: Store, original: Original, tmp_path: Path
    ) -> None:
        """The scheme is registered, and `from_url` understands it and passes options on."""
        url = self.url_of(filled, filled.endpoint)
        if url is None:
            pytest.skip("it has no URL")
        from audiomdb.registry import retriever_for

        if self.in_place:
            options: dict[str, Any] = {}
        else:
            options = {"cache_dir": tmp_path / "cache"}
            small = retriever_for(url, **options, max_cache_bytes=1)
            with SampleStream(small) as stream, pytest.raises(CacheTooSmallError):
                next(iter(stream))
            small.close()
        retriever = retriever_for(url, **options)
        assert digests_of(retriever) == original.digests
        retriever.close()

    def test_a_url_that_leads_nowhere_says_so(self, store: Store, tmp_path: Path) -> None:
        """The error is one of the library, not of the store's client."""
        url = self.url_of(store, store.endpoint)
        if url is None:
            pytest.skip("it has no URL")
        from audiomdb.registry import retriever_for

        options = {} if self.in_place else {"cache_dir": tmp_path / "cache"}
        retriever = retriever_for(url, **options)
        with pytest.raises(AudioMDBError):
            retriever.open()
        retriever.close()

    @FILLED
    def test_closing_leaves_no_descriptor_and_no_thread_behind(
        self, make: Make, original: Original
    ) -> None:
        """Connections belong to the retriever: they close with it, if not on `close`."""

        def use() -> None:
            retriever = make()
            with SampleStream(retriever, shuffle=True, num_threads=2) as stream:
                next(iter(stream))
            assert digests_of(retriever) == original.digests
            retriever.close()

        use()  # opens what stays open for the life of the process
        make.close()
        held = Held()
        for _ in range(3):
            use()
            make.close()
        assert held.is_given_back(), held
