"""Conformance tests of a retriever used by several processes, some of which are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiomdb.testing.kits.children import read_in_children, start_child
from audiomdb.testing.kits.conformance import allocated_bytes, wait_until
from audiomdb.testing.kits.retriever_base import FILLED, Make, Original, RetrieverTests, digests_of
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store

__all__ = ["ProcessTests"]

METHODS = pytest.mark.parametrize("start_method", ["fork", "spawn"])


class ProcessTests(RetrieverTests):
    """Tests in which a retriever is sent to other processes, as its constructor arguments."""

    @FILLED
    @METHODS
    def test_processes_that_start_cold_download_each_shard_once(
        self, make: Make, original: Original, start_method: str
    ) -> None:
        """Two processes read at the same time, with the same cache."""
        self.need(start_method)
        results = read_in_children(make(), start_method, 2)
        assert [result.error for result in results] == [None, None]
        assert all(result.digests == original.digests for result in results)
        if not self.in_place:
            fetched = sum(result.fetched_shards for result in results)
            assert fetched == len(original.metadata.shards), "both fetched some shard"

    @FILLED
    @METHODS
    def test_a_retriever_in_use_serves_child_processes_too(
        self, make: Make, original: Original, start_method: str
    ) -> None:
        """A client or connection must not be shared by two processes: create a new one in each."""
        self.need(start_method)
        retriever = make()
        assert digests_of(retriever) == original.digests
        (result,) = read_in_children(retriever, start_method, 1)
        assert result.error is None
        assert result.digests == original.digests
        assert result.fetched_shards == 0, "the child does not use the same cache"
        assert digests_of(retriever) == original.digests

    @pytest.mark.usefixtures("cached")
    def test_what_a_killed_process_left_half_written_is_never_taken_for_whole(
        self, store: Store, make: Make, proxy: FaultProxy, bulky: Original
    ) -> None:
        """One process dies in the middle of a shard; the next one reads everything correctly."""
        store.fill(bulky.path)
        retriever = make(through=proxy)
        assert len(retriever) == len(bulky.samples)
        before = retriever.cache_stats.fetched_bytes
        proxy.fail("stall", after=int(0.8 * bulky.shard_bytes))
        child, results = start_child(retriever, self.start_methods[-1])
        try:
            assert wait_until(lambda: proxy.stats.faults > 0), "the child asked for no shard"
            if self.reads_ranges(retriever):
                # What has passed the proxy may not have been read yet.
                enough = bulky.shard_bytes // 4
                came = wait_until(lambda: allocated_bytes(retriever.cache_dir) > enough)
                assert came, "chunks are to be yielded as they come, not when they are large"
        finally:
            child.kill()
            child.join()
            results.close()
        proxy.heal()
        assert digests_of(retriever) == bulky.digests
        if self.reads_ranges(retriever):
            fetched = retriever.cache_stats.fetched_bytes - before
            less = bulky.metadata.bytes
            assert fetched < less, "it did not go on from the part that the killed process had"
        rooms = [Path(retriever.cache_dir, room) for room in ("parts", "staging")]
        left = [path for room in rooms for path in room.iterdir()]
        assert left == [], "the killed process's files are still there"

    def need(self, start_method: str) -> None:
        """Skip the test if processes cannot be started with this method."""
        if start_method not in self.start_methods:
            pytest.skip(f"start_methods of {type(self).__name__} has no {start_method!r}")
