"""Conformance tests for retrievers."""

from __future__ import annotations

from audiomdb.testing.kits.retriever_damage import BudgetTests, DamageTests
from audiomdb.testing.kits.retriever_network import NetworkTests
from audiomdb.testing.kits.retriever_processes import ProcessTests
from audiomdb.testing.kits.retriever_reading import ReadingTests

__all__ = ["RetrieverConformance"]


class RetrieverConformance(ReadingTests, DamageTests, BudgetTests, NetworkTests, ProcessTests):
    """Tests that every retriever must pass. Subclass it in a test module, once per retriever.

        class TestMyRetriever(RetrieverConformance):
            @pytest.fixture
            def store(self, my_server):
                return MyStore(my_server, uuid4().hex)    # an `audiomdb.testing.Store`

            def make_retriever(self, store, endpoint, **options):
                return MyRetriever(endpoint, store.name, timeout_s=2.0, **options)

    `store` is an empty place, a new one for each test. The tests put a small dataset into it, have
    it read through `make_retriever`, and damage the store or the network. A method
    `url_of(store, endpoint)` returns the dataset's URL, if the class is registered for a scheme.

    Attributes:
        missing_error: Raised for a file that does not exist; by default `DatasetNotFoundError`.
            `download_*` methods may raise other exceptions. A type, or a tuple of types.
        network_error: Raised for a store that cannot be reached, or that refuses access; by
            default `DownloadError`. A type, or a tuple of types.
        in_place: Whether the dataset is read in place, without a cache; by default False.
        gives_up_on_stalls: Whether a retriever notices, within seconds as made here, that a
            connection has gone silent; by default True.
        start_methods: How worker processes may be started; by default "fork" and "spawn", which
            needs the class to be importable.
        longest_test_s: Seconds after which a test that has not ended fails; by default 120.
    """
