"""The least that fetches a dataset: `get_object` of its files in turn, by four threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3

from benchmarks.remote_reader import Batch, Task

__all__ = ["read"]

_THREADS = 4


def read(task: Task) -> Iterator[Iterable[Batch]]:
    """One epoch, of an empty batch for each object. What comes is thrown away."""
    yield _fetch(task, boto3.session.Session().client("s3", endpoint_url=task.url))


def _fetch(task: Task, client: Any) -> Iterator[Batch]:  # noqa: ANN401
    def fetch(name: str) -> None:
        body = client.get_object(Bucket=task.bucket, Key=f"{task.prefix}/{name}")["Body"]
        for _ in body.iter_chunks(1 << 18):
            pass

    for name in task.options.get("before", ()):
        fetch(name)  # what says which others there are
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(fetch, task.options["names"]):
            yield []
