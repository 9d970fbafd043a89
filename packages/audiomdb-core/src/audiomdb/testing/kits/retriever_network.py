"""Conformance tests of a retriever on a failing network: no wrong data, little fetched twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from audiomdb.testing.faults import FaultKind
from audiomdb.testing.kits.retriever_base import FILLED, Make, Original, RetrieverTests, digests_of
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.store import Store

__all__ = ["NetworkTests"]

BREAKS = pytest.mark.parametrize("fault", ["close", "reset"])
"""Runs a test with connections that end as if all had been sent, and with an error."""

HTTP = pytest.mark.usefixtures("http")

NOT_MET = "the fault was not met: does it connect through `endpoint`?"


class NetworkTests(RetrieverTests):
    """Tests in which the store is intact but the network fails, or is not to be used."""

    def test_making_a_retriever_asks_for_nothing(self, make: Make, proxy: FaultProxy) -> None:
        """Programs make retrievers before they know whether they will read them."""
        retriever = make(through=proxy)
        repr(retriever)
        assert proxy.stats.connections == 0, "the constructor, or repr, connects to the store"

    @FILLED
    @BREAKS
    def test_a_connection_that_breaks_does_not_reach_the_reader(
        self, make: Make, proxy: FaultProxy, original: Original, fault: FaultKind
    ) -> None:
        """Raise a ConnectionError or TimeoutError if another attempt may help."""
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        proxy.fail(fault, after=original.shard_bytes // 2, times=3)
        assert digests_of(retriever) == original.digests
        assert proxy.stats.faults == 3, "not every connection that broke was tried again"

    @FILLED
    def test_a_broken_download_goes_on_where_it_stopped(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """No byte is fetched twice, though no connection ever lasts for a whole shard.

        Chunks are yielded as they come: what a client collects for a larger one (`iter_content` of
        requests, `read(n)`) is lost when the connection breaks; `read1(n)` returns what there is.
        """
        retriever = make(through=proxy)
        if not self.reads_ranges(retriever):
            pytest.skip("download_shard starts anew; open_remote would go on")
        assert len(retriever) == len(original.samples)
        before = retriever.cache_stats.fetched_bytes
        # A reset would discard what the client has not read yet.
        proxy.fail("close", after=int(0.8 * original.shard_bytes))
        assert digests_of(retriever) == original.digests
        breaks = proxy.stats.faults
        assert breaks >= len(original.metadata.shards), "it does not connect through the endpoint"
        fetched = retriever.cache_stats.fetched_bytes - before
        assert fetched == original.metadata.bytes, "it does not go on at `start`"

    @FILLED
    def test_a_bit_flipped_on_the_way_is_noticed_and_the_shard_fetched_again(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """The retriever trusts sizes and digests, not the network."""
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        proxy.fail("flip", after=original.shard_bytes // 2, times=1)
        assert digests_of(retriever) == original.digests
        assert proxy.stats.faults == 1, NOT_MET

    @FILLED
    def test_a_connection_that_goes_silent_is_given_up(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """Give the client a timeout, and the retriever an argument for it."""
        if not self.gives_up_on_stalls:
            pytest.skip("it waits for ever, or for too long to be tested")
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        proxy.fail("stall", after=original.shard_bytes // 2, times=1)
        assert digests_of(retriever) == original.digests
        assert proxy.stats.faults == 1, NOT_MET

    @FILLED
    def test_a_store_that_cannot_be_reached_is_an_error_and_later_is_not(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """Raised after a few attempts: `DownloadError`, or what a `download_*` method raises."""
        retriever = make(through=proxy)
        proxy.fail("refuse")
        with pytest.raises(self.network_error):
            retriever.open()
        proxy.heal()
        assert digests_of(retriever) == original.digests

    @FILLED
    def test_a_network_that_goes_down_while_reading_is_an_error_and_later_is_not(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """The reader that got the error works again afterwards."""
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        proxy.fail("down", after=int(1.5 * original.shard_bytes))
        with pytest.raises(self.network_error):
            digests_of(retriever)
        proxy.heal()
        assert digests_of(retriever) == original.digests

    def test_a_file_that_changes_on_the_way_is_never_spliced(
        self, filled: Store, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """Resume only the version that `validator` names, and start over if it has changed.

        A damaged shard is repaired while it is fetched: the part fetched before must be dropped.
        """
        damaged = bytearray(original.shard(0))
        damaged[1000] ^= 0xFF
        filled.write(original.shard_path(0), bytes(damaged))
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)

        def mend() -> None:
            filled.write(original.shard_path(0), original.shard(0))

        proxy.fail("close", after=original.shard_bytes // 2, times=1, then=mend)
        assert digests_of(retriever) == original.digests
        assert proxy.stats.faults == 1, NOT_MET
        assert retriever.cache_stats.corrupt == 0, "two versions were put together"

    @FILLED
    @HTTP
    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_a_busy_store_is_asked_again(
        self, make: Make, proxy: FaultProxy, original: Original, status: int
    ) -> None:
        """Raise `DownloadInterruptedError` for errors that the store says are temporary."""
        proxy.fail("status", status=status, times=2)
        assert digests_of(make(through=proxy)) == original.digests
        assert proxy.stats.faults == 2, "it was not asked again for as long as it was busy"

    @FILLED
    @HTTP
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_is_an_error_at_once(
        self, make: Make, proxy: FaultProxy, status: int
    ) -> None:
        """Another attempt would not help; the message should say what may."""
        proxy.fail("status", status=status)
        with pytest.raises(self.network_error):
            make(through=proxy).open()
        asked = proxy.stats.faults
        assert asked <= 2, "a refusal was taken for a failure that passes: raise DownloadError"

    @FILLED
    @HTTP
    def test_a_server_that_ignores_ranges_costs_time_only(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """A response that begins at byte 0 starts the file over, see `RemoteFile.start`."""
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        forget: Callable[[], None] = lambda: proxy.fail("ignore_range")  # noqa: E731
        proxy.fail("reset", after=int(0.8 * original.shard_bytes), times=1, then=forget)
        assert digests_of(retriever) == original.digests

    @FILLED
    @HTTP
    def test_a_body_that_is_short_is_noticed(
        self, make: Make, proxy: FaultProxy, original: Original
    ) -> None:
        """It is noticed even if the server says that the body is complete."""
        retriever = make(through=proxy)
        assert len(retriever) == len(original.samples)
        proxy.fail("short", after=original.shard_bytes // 2, times=1, match="data.mdb")
        assert digests_of(retriever) == original.digests
        assert proxy.stats.faults == 1, NOT_MET
