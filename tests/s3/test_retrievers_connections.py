"""What clients keep: their connections, as far as the store does, and little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import DatasetWriter
from audiomdb.stream import SampleStream
from audiomdb.testing import FaultProxy, MemoryServer, MemoryStore

SHARDS = 16

FORKED_LATE = Path(__file__).parents[1] / "core" / "programs" / "forked_late.py"


@pytest.mark.usefixtures("server")  # credentials
@pytest.mark.parametrize("workers", [1, 3])
def test_connections_are_used_again(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "d"
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, samples_per_shard=1) as writer:
        for number in range(SHARDS):
            writer.write(f"clip-{number:02d}", {"blob": rng.bytes(50_000)})
    # Like S3, and unlike the server of the other tests, it does not hang up after each answer.
    with MemoryServer() as store, FaultProxy(store.url()) as proxy:
        MemoryStore(store, "bucket/d").fill(folder)
        retriever = S3Retriever(
            "bucket",
            "d",
            endpoint_url=proxy.url,
            addressing_style="path",
            cache_dir=tmp_path / "cache",
            prefetch=4,
            workers=workers,
        )
        assert len(list(SampleStream(retriever))) == SHARDS
        retriever.close()
        assert len(store.requests) == SHARDS + 1
        assert 1 <= proxy.stats.connections <= workers + 1  # one more for the metadata


@pytest.mark.usefixtures("server")  # credentials
def test_one_more_dataset_that_is_open_takes_little_memory(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d") as writer:
        writer.write("clip", {"number": 1})
    code = """
import sys, tracemalloc
from audiomdb.retrievers.s3 import S3Retriever

url, cache = sys.argv[1:]
def opened(number):
    retriever = S3Retriever("bucket", "d", endpoint_url=url, cache_dir=f"{cache}/{number}")
    assert retriever.open()[0]["number"] == 1
    return retriever

kept = [opened(0)]
tracemalloc.start()
kept += [opened(number) for number in range(1, 9)]
print(tracemalloc.get_traced_memory()[0] / 8)
"""
    with MemoryServer() as store:
        MemoryStore(store, "bucket/d").fill(tmp_path / "d")
        command = [sys.executable, "-c", code, store.url(), str(tmp_path / "cache")]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(printed) < 2_000_000  # of which a description of S3 alone takes 12


@pytest.mark.parametrize("url", ["http://localhost:9", None])
def test_a_process_forked_while_a_thread_imports_the_client_can_import_it(url: str | None) -> None:
    before = "from audiomdb._s3 import ClientOptions, ProcessClient"
    work = (
        f"ProcessClient(ClientOptions(endpoint_url={url!r}, region_name='x', anonymous=True)).get()"
    )
    for name in ("botocore", "boto3"):
        command = [sys.executable, str(FORKED_LATE), name, before, work]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        assert found.stdout.split() == ["7"]
