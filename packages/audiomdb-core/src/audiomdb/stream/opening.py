"""From a URL or a path to a stream of samples, in one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterable
from typing import Any

from audiomdb.errors import UnknownOptionError
from audiomdb.plan import Tail
from audiomdb.registry import option_names, refuse_option, retriever_class, retriever_for
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.stream.loading import Processing
from audiomdb.stream.samples import SampleStream
from audiomdb.stream.sources import Where

__all__ = ["open_dataset"]


def open_dataset(
    source: str | os.PathLike[str] | BaseRetriever,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    max_cache_bytes: int | None = None,
    prefetch: int | None = None,
    workers: int | None = None,
    num_threads: int = 4,
    shuffle: bool = False,
    seed: int = 0,
    window: int = 4,
    min_duration: float | None = None,
    max_duration: float | None = None,
    where: Where | None = None,
    partitions: int = 1,
    rank: int | None = None,
    world_size: int = 1,
    worker: int | None = None,
    num_workers: int = 1,
    tail: Tail | None = None,
    fields: Collection[str] | None = None,
    decode: bool = True,
    sample_rate: int | None = None,
    mono: bool = False,
    processor: Processing | None = None,
    epochs: int | None = 1,
    **backend: Any,  # noqa: ANN401
) -> SampleStream:
    """Stream a dataset from wherever it lies.

        with open_dataset("s3://my-bucket/datasets/digits", max_cache_bytes=10**9) as digits:
            print(len(digits), digits["3_theo_0"]["text"])
            for sample in digits:
                print(sample["audio"].shape)

    Nothing is read or connected to before the first use. Closing the stream closes what was opened
    for it; the cache stays for the next time.

    What has no option here is said by a `Part`, which `SampleStream` takes in place of a retriever:
    `Part(retriever_for(url), load=LoadOptions(crop=Crop(2.0)))` for random windows, `join=` for
    columns of another table.

    Args:
        source: A URL (`s3://bucket/prefix`, `hf://datasets/user/repo@revision/subdir`,
            `file:///folder`, or of another scheme that an installed package registers), a folder,
            or a retriever, which stays its owner's.
        cache_dir: Directory for caches, see `BaseRetriever`. Has no effect on a folder, which is
            read in place; the same goes for the next three.
        max_cache_bytes: Limit of this dataset's cache. None: no limit but the disk's.
        prefetch: Shards to download ahead. None: the retriever's default.
        workers: Downloads at once, over all processes of the machine. None: as before.
        num_threads: Threads that read, decode and process; see `SampleStream` for this and all
            that follow.
        shuffle: False keeps the stored order.
        seed: Of the shuffle.
        window: Shards that samples are mixed over.
        min_duration: Seconds; shorter clips are left out.
        max_duration: Seconds; longer ones are.
        where: What else is left out.
        partitions: Groups of shards read side by side.
        rank: Which of `world_size` processes this is.
        world_size: Processes that share each epoch.
        worker: Which of `num_workers` this is.
        num_workers: Workers of the rank, which share its samples.
        tail: What becomes of samples that ranks cannot share evenly. None: one rank keeps all,
            several get equally many.
        fields: Only these fields. None: all.
        decode: Turn audio into float32 arrays.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: Applied last.
        epochs: Epochs in one iteration. None: it never ends.
        backend: What else the retriever of the URL takes, such as `endpoint_url` for S3.

    Raises:
        UnknownSchemeError: no installed package opens such URLs; says what to install.
        InvalidURLError: the URL leads nowhere.
        BackendError: the package that opens such URLs cannot be used.
        UnknownOptionError: neither the stream nor the retriever takes an option of this name, or
            an option for a retriever is given beside one that is made already.
        ValueError: an option is out of range.
    """
    caching = {
        "cache_dir": cache_dir,
        "max_cache_bytes": max_cache_bytes,
        "prefetch": prefetch,
        "workers": workers,
    }
    asked = {**{name: value for name, value in caching.items() if value is not None}, **backend}
    if isinstance(source, BaseRetriever):
        retriever = source
        _refuse_all(retriever, asked)
    else:
        _refuse_unknown(retriever_class(source), backend)
        retriever = retriever_for(source, **asked)
    stream = SampleStream(
        retriever,
        num_threads=num_threads,
        shuffle=shuffle,
        seed=seed,
        window=window,
        min_duration=min_duration,
        max_duration=max_duration,
        where=where,
        partitions=partitions,
        rank=rank,
        world_size=world_size,
        worker=worker,
        num_workers=num_workers,
        tail=tail,
        fields=fields,
        decode=decode,
        sample_rate=sample_rate,
        mono=mono,
        processor=processor,
        epochs=epochs,
    )
    if retriever is not source:
        stream._own = retriever
    return stream


def _refuse_all(retriever: BaseRetriever, asked: Iterable[str]) -> None:
    for name in asked:
        raise UnknownOptionError(
            f"open_dataset() takes no option {name!r} beside a retriever, which is made already: "
            f"give it to {type(retriever).__name__}(), or give open_dataset() a URL"
        )


def _refuse_unknown(kind: type[BaseRetriever], backend: Iterable[str]) -> None:
    """Refuse what neither takes, with the names of both: `shufle` is meant for the stream."""
    known = option_names(kind)
    for name in backend:
        if name not in known:
            own = inspect.signature(open_dataset).parameters.keys() - {"source", "backend"}
            raise refuse_option(name, f"open_dataset(), with a {kind.__name__},", known | own)
