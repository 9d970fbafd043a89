"""Datasets in Redis: the founding README's retriever, completed, and an uploader to go with it.

A file to copy and change. Redis keeps everything in memory, and no value longer than 512 MiB, so
this is for small datasets that many machines read.

    RedisUploader("cache.example.org").upload_dir("digits")
    retriever = RedisRetriever("cache.example.org", max_cache_bytes=1_000_000_000)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from audiomdb.errors import (
    AudioMDBError,
    DatasetNotFoundError,
    DownloadError,
    DownloadInterruptedError,
    UploadError,
)
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.uploaders.base import BaseUploader

__all__ = ["RedisRetriever", "RedisUploader", "redis_key"]

_TIMEOUT_S = 20.0


class RedisRetriever(BaseRetriever):
    """Reads a dataset whose files are values of Redis, through a cache on a local disk.

    Args:
        redis_host: Name or address of the server.
        redis_port: Its port.
        timeout_s: Seconds without an answer after which a connection counts as broken.
        kwargs: Of `BaseRetriever`.
    """

    def __init__(
        self,
        redis_host: str,
        redis_port: int = 6379,
        *,
        timeout_s: float = _TIMEOUT_S,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.redis_client: Any = redis.Redis(  # its annotations say too many things at once
            redis_host,
            redis_port,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # the base tries again, for as long as it makes sense
        )
        super().__init__(**kwargs)

    def download_metadata(self) -> Path:
        """Write metadata.json."""
        metadata = self._get("metadata.json")
        local_path = Path(self.cache_dir, "metadata.json")
        local_path.write_bytes(metadata)
        return local_path

    def download_shard(self, shard_id: int) -> Path:
        """Write a shard's data.mdb, which is all that is needed of it."""
        shard_name = f"shard_{shard_id:05d}"
        shard_data = self._get(f"{shard_name}/data.mdb")
        shard_dir = Path(self.cache_dir, shard_name)
        shard_dir.mkdir()
        (shard_dir / "data.mdb").write_bytes(shard_data)
        return shard_dir

    def close(self) -> None:
        """Let go of the dataset and of the connections."""
        super().close()
        self.redis_client.close()

    def _get(self, rel_path: str) -> bytes:
        key = redis_key(rel_path)
        with _translated(f"read {key}", DownloadError, DownloadInterruptedError):
            value: bytes | None = self.redis_client.get(key)
        if value is None:
            raise DatasetNotFoundError(f"Redis has no {key}, the dataset's {rel_path}")
        return value


class RedisUploader(BaseUploader):
    """Uploads a dataset into Redis, each file beside its size and sha256.

    Args:
        redis_host: Name or address of the server.
        redis_port: Its port.
        timeout_s: Seconds without an answer after which a connection counts as broken.
        kwargs: Of `BaseUploader`.
    """

    def __init__(
        self,
        redis_host: str,
        redis_port: int = 6379,
        *,
        timeout_s: float = _TIMEOUT_S,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        self.redis_client: Any = redis.Redis(  # its annotations say too many things at once
            redis_host,
            redis_port,
            socket_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=3),
        )
        super().__init__(**kwargs)

    def upload_file(self, full_path: str, rel_path: str) -> None:
        """Set a file and what is known of it, both or neither."""
        content, key = Path(full_path).read_bytes(), redis_key(rel_path)
        note = json.dumps([len(content), self.sha256(full_path)])
        with _translated(f"write {key}", UploadError, UploadError):
            self.redis_client.mset({key: content, f"{key}:note": note})

    def stat(self, rel_path: str) -> tuple[int, str | None] | None:
        """Size of a value, and its sha256 unless it was set by somebody else since."""
        key = redis_key(rel_path)
        with _translated(f"look at {key}", UploadError, UploadError):
            there, size, note = (
                self.redis_client.pipeline().exists(key).strlen(key).get(f"{key}:note").execute()
            )
        noted_size, sha256 = json.loads(note) if note else (None, None)
        return (size, sha256 if noted_size == size else None) if there else None


def redis_key(rel_path: str) -> str:
    """Where a file of a dataset is kept."""
    if rel_path == "metadata.json":
        return "audiomdb:metadata"
    folder, _, name = rel_path.partition("/")
    if folder.startswith("shard_") and name == "data.mdb":
        return f"audiomdb:shard:{int(folder.removeprefix('shard_'))}"
    return f"audiomdb:file:{rel_path}"


@contextmanager
def _translated(
    doing: str, kind: type[AudioMDBError], broken: type[AudioMDBError]
) -> Iterator[None]:
    """Raise what the client raises as errors of the library: `broken` where the network failed."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as exc:
        raise broken(f"cannot {doing}: {exc}") from exc
    except redis.RedisError as exc:
        raise kind(f"cannot {doing}: {exc}") from exc
