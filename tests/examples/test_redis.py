"""Redis, with a real server: what the README's retriever lacks, and an example that has it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import DownloadError
from audiomdb.testing import RetrieverConformance, Store, UploaderConformance

redis = pytest.importorskip("redis")


class RedisStore(Store):
    """All of a server, through a client of its own."""

    def __init__(self, port: int) -> None:
        self.endpoint = ("127.0.0.1", port)
        self._key = importlib.import_module("redis_store").redis_key
        self._client = redis.Redis("127.0.0.1", port)
        self._client.flushall()

    def read(self, path: str) -> bytes | None:
        content: bytes | None = self._client.get(self._key(path))
        return content

    def write(self, path: str, content: bytes) -> None:
        # As somebody else would: without the uploader's note of what it is.
        self._client.set(self._key(path), content)
        self._client.delete(f"{self._key(path)}:note")

    def delete(self, path: str) -> None:
        self._client.delete(self._key(path))

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def redis_store(redis_port: int) -> Any:
    store = RedisStore(redis_port)
    yield store
    store.close()


def test_the_readmes_redis_retriever_is_told_of_its_missing_file(
    redis_store: RedisStore, redis_port: int, dataset: Path, tmp_path: Path
) -> None:
    redis_store.fill(dataset)
    readme = importlib.import_module("readme_redis")
    retriever = readme.RedisRetriever("127.0.0.1", redis_port, cache_dir=tmp_path / "cache")
    assert len(retriever) == 12
    with pytest.raises(DownloadError, match=r"there is no data\.mdb in it; it has to write") as e:
        retriever.open()[0]
    assert "RedisRetriever.download_shard(0) returned" in str(e.value)
    retriever.close()
    retriever.redis_client.close()


class TestRedisRetriever(RetrieverConformance):
    @pytest.fixture
    def store(self, redis_store: RedisStore) -> RedisStore:
        return redis_store

    def make_retriever(self, store: Any, endpoint: Any, **options: Any) -> Any:
        assert type(endpoint) is type(store.endpoint)
        return importlib.import_module("redis_store").RedisRetriever(
            *endpoint, timeout_s=2.0, **options
        )


class TestRedisUploader(UploaderConformance):
    @pytest.fixture
    def store(self, redis_store: RedisStore) -> RedisStore:
        return redis_store

    def make_uploader(self, store: Any, endpoint: Any, **options: Any) -> Any:
        assert type(endpoint) is type(store.endpoint)
        return importlib.import_module("redis_store").RedisUploader(
            *endpoint, timeout_s=2.0, **options
        )
