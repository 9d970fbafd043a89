"""The kit for retrievers."""

from __future__ import annotations

from audiomdb.testing.kits.retriever_damage import BudgetTests, DamageTests
from audiomdb.testing.kits.retriever_network import NetworkTests
from audiomdb.testing.kits.retriever_processes import ProcessTests
from audiomdb.testing.kits.retriever_reading import ReadingTests

__all__ = ["RetrieverConformance"]


class RetrieverConformance(ReadingTests, DamageTests, BudgetTests, NetworkTests, ProcessTests):
    """What every retriever does. To be subclassed in a test module, once for each retriever.

        class TestMyRetriever(RetrieverConformance):
            @pytest.fixture
            def store(self, my_server):
                return MyStore(my_server, uuid4().hex)    # an `audiomdb.testing.Store`

            def make_retriever(self, store, endpoint, **options):
                return MyRetriever(endpoint, store.name, timeout_s=2.0, **options)

    `store` is an empty place, a new one for each test. The tests put a small dataset into it, have
    it read through `make_retriever`, and spoil the place or the way to it. Class attributes say
    what cannot be expected of a retriever; see `audiomdb.testing.kits.retriever_base`.
    """
