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
    it read through `make_retriever`, and damage the store or the network. Class attributes declare
    what a retriever does not support; see `audiomdb.testing.kits.retriever_base`.
    """
