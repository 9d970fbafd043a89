"""A dataset in a bucket that grows: what is sent and pulled, and what open readers see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.retrievers.s3 import S3Retriever
from audiomdb.shards import merge_datasets
from audiomdb.stream import SampleStream
from tests.commands import files, output
from tests.core.conversions import numbered_clips


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """Three shards."""
    return numbered_clips(tmp_path / "first", range(6))


@pytest.fixture
def grown(first: Path, tmp_path: Path) -> Path:
    """The first three shards and two more."""
    second = numbered_clips(tmp_path / "second", range(6, 10))
    merge_datasets([first, second], tmp_path / "grown", name="speech")
    return tmp_path / "grown"


@pytest.fixture
def url(server: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"s3://{bucket}/speech"


def asked(server: Any, method: str, url: str) -> list[str]:
    """Files of the dataset that were sent or asked for since the last time, sorted."""
    requests, place = list(server.requests), f"/{url.removeprefix('s3://')}/"
    server.requests.clear()
    return sorted(path.removeprefix(place) for how, path in requests if how == method)


def test_only_new_shards_are_sent_and_pulled(
    server: Any,
    url: str,
    first: Path,
    grown: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output(capsys, "upload", first, url)
    output(capsys, "pull", url, tmp_path / "mirror")
    server.requests.clear()
    output(capsys, "upload", grown, url, "--replace")
    new = [f"shard_0000{number}/{file}.mdb" for number in (3, 4) for file in ("data", "lock")]
    assert asked(server, "PUT", url) == [".replaced.json", "index.bin", "metadata.json", *new]
    facts = json.loads(output(capsys, "pull", url, tmp_path / "mirror", "--replace", "--json"))
    assert facts["fetched_shards"] == 2
    assert asked(server, "GET", url) == ["metadata.json", new[0], new[2]]
    assert files(tmp_path / "mirror") == files(grown)


def test_readers_of_a_dataset_that_only_grew_go_on_and_new_ones_reuse_the_cache(
    server: Any,
    bucket: str,
    url: str,
    first: Path,
    grown: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output(capsys, "upload", first, url)
    retriever = S3Retriever(bucket, "speech", prefetch=0, cache_dir=tmp_path / "cache")
    with SampleStream(retriever) as stream:
        assert np.all(stream[0]["audio"] == 0)
        output(capsys, "upload", grown, url, "--replace")
        assert [sample["audio"][0] for sample in stream] == list(range(6))
    retriever.close()
    server.requests.clear()
    with SampleStream(retriever) as stream:
        assert [sample["audio"][0] for sample in stream] == list(range(10))
    new = [f"shard_0000{number}/data.mdb" for number in (3, 4)]
    assert [file for file in asked(server, "GET", url) if file.startswith("shard")] == new
    retriever.close()
