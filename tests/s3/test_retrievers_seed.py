"""The README's own retriever for S3 runs as it is typed, under DataLoader workers of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audiomdb.shards import DatasetWriter
from audiomdb.stream import SampleStream
from audiomdb.uploaders.s3 import S3Uploader
from tests.s3.programs.readme_retriever import CustomS3Retriever

pytest.importorskip("torch")

PROGRAM = Path(__file__).parent / "programs" / "seed_retriever.py"


@pytest.mark.parametrize("start_method", ["none", "fork", "spawn", "forkserver"])
def test_the_readmes_retriever_runs_as_typed(
    start_method: str,
    server: Any,
    bucket: str,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    S3Uploader(bucket, "datasets/speech", endpoint_url=server.url).upload_dir(str(dataset))
    server.requests.clear()
    command = [sys.executable, PROGRAM, server.url, bucket, "datasets/speech", start_method]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    first, second = json.loads(result.stdout)
    assert sorted(first) == sorted(second) == [f"clip-{i}" for i in range(6)]
    fetched = [
        path for method, path in server.requests if (method, path[-8:]) == ("GET", "data.mdb")
    ]
    assert len(fetched) == 3


def test_retrievers_on_different_prefixes_get_separate_caches(
    server: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    retrievers = {}
    for name in ("speech", "music"):
        # Files, keys and sizes are the same, so whoever mixed them up would notice it late.
        with DatasetWriter(tmp_path / name, samples_per_shard=2) as writer:
            for number in range(6):
                writer.write(f"clip-{number}", {"text": f"{name} {number}".rjust(8)})
        prefix = f"datasets/{name}"
        S3Uploader(bucket, prefix, endpoint_url=server.url).upload_dir(str(tmp_path / name))
        retrievers[name] = CustomS3Retriever(bucket, prefix, endpoint_url=server.url)
    streams = [iter(SampleStream(retriever)) for retriever in retrievers.values()]
    texts = [(one["text"].split(), other["text"].split()) for one, other in zip(*streams)]  # noqa: B905
    assert texts == [(["speech", str(i)], ["music", str(i)]) for i in range(6)]
    directories = {Path(retriever.cache_dir) for retriever in retrievers.values()}
    assert len(directories) == 2
    assert {folder.parent for folder in directories} == {tmp_path / "cache" / "audiomdb"}
    assert all((folder / "shards").is_dir() for folder in directories)
    for retriever in retrievers.values():
        retriever.close()
