"""Test kits, fault injection and in-memory stores for testing backends, sources and processors.

A third-party package (a store, a source, a processor) tests itself by subclassing a kit:
`RetrieverConformance`, `UploaderConformance`, `ConverterConformance`, `ProcessorConformance`. These
need pytest (`pip install "audiomdb-core[testing]"`); everything else here does not.

`FaultProxy` (in a process of its own: `ProxyProcess`) simulates a network that is slow or fails.
`MemoryServer`, with `MemoryRetriever` and `MemoryUploader`, is a store that costs nothing to start.
`write_dataset` writes a small dataset.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from audiomdb.testing.datasets import sample_digest, write_dataset
from audiomdb.testing.faults import Fault
from audiomdb.testing.memory import MemoryRetriever, MemoryServer, MemoryStore, MemoryUploader
from audiomdb.testing.proxy import FaultProxy
from audiomdb.testing.proxy_process import ProxyProcess
from audiomdb.testing.store import FolderStore, Store
from audiomdb.testing.wire import ProxyStats

if TYPE_CHECKING:
    from audiomdb.testing.kits import (
        ConverterConformance,
        ProcessorConformance,
        RetrieverConformance,
        UploaderConformance,
    )

__all__ = [
    "ConverterConformance",
    "Fault",
    "FaultProxy",
    "FolderStore",
    "MemoryRetriever",
    "MemoryServer",
    "MemoryStore",
    "MemoryUploader",
    "ProcessorConformance",
    "ProxyProcess",
    "ProxyStats",
    "RetrieverConformance",
    "Store",
    "UploaderConformance",
    "sample_digest",
    "write_dataset",
]

_KITS = "audiomdb.testing.kits"


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the kits on first access, because they need pytest."""
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import pytest
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f'{name} needs pytest: pip install "audiomdb-core[testing]"'
        ) from exc
    if _KITS not in sys.modules:
        # Must precede their first import, so that a failed assertion shows its values.
        pytest.register_assert_rewrite(_KITS)
    return getattr(importlib.import_module(_KITS), name)
