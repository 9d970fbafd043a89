"""The README's own retriever for S3 runs as it is typed, under DataLoader workers of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audiomdb.uploaders.s3 import S3Uploader

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
