"""Open a dataset by URL or path as a stream of samples, in one call."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection, Iterable
from typing import Any

from audiomdb.errors import UnknownOptionError
from audiomdb.plan import Tail
from audiomdb.registry import retriever_class, retriever_for
from audiomdb.retrievers.base import BaseRetriever
from audiomdb.signatures import option_names, refuse_option
from audiomdb.stream.load_options import OnError, Processing
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
    on_error: OnError = "raise",
    epochs: int | None = 1,
    **backend: Any,  # noqa: ANN401
) -> SampleStream:
    """Open a dataset from a URL, a folder or a retriever as a `SampleStream`.

        with open_dataset("s3://my-bucket/datasets/digits", max_cache_bytes=10**9) as digits:
            print(len(digits), digits["3_theo_0"]["text"])
            for sample in digits:
                print(sample["audio"].shape)

    Nothing is read and no connection is made before the first use. Closing the stream closes what
    was opened for it; the cache is kept.

    For options that this function lacks, pass a `Part` to `SampleStream`: `Part(url,
    load=LoadOptions(crop=Crop(2.0)))` for random windows, or `join=` for columns of another table.

    Args:
        source: A URL (`s3://bucket/prefix`, `hf://datasets/user/repo@revision/subdir`,
            `file:///folder`, or with another scheme that an installed package registers), a folder,
            or a retriever, which the caller has to close.
        cache_dir: Directory for caches, see `BaseRetriever`. Like the next three options, it has no
            effect on a folder, which is read in place.
        max_cache_bytes: Limit of this dataset's cache. None: limited only by the disk.
        prefetch: Number of shards to download ahead. None: the retriever's default.
        workers: Number of concurrent downloads, over all processes of the machine. None: the
            retriever's default.
        num_threads: Threads that read, decode and process; see `SampleStream` for this and all
            following options.
        shuffle: Whether to shuffle. False keeps the stored order.
        seed: Seed of the shuffle.
        window: Number of shards that samples are mixed over.
        min_duration: Duration in seconds below which clips are left out.
        max_duration: Duration in seconds above which clips are left out.
        where: Selection of samples; those with False are left out.
        partitions: Groups of shards that are read in parallel.
        rank: Rank of this process.
        world_size: Number of processes that share each epoch.
        worker: Index of this worker.
        num_workers: Number of workers of the rank, which share its samples.
        tail: What happens to samples that ranks cannot share evenly. None: a single rank keeps all;
            several ranks get the same number.
        fields: Fields to load besides the key. None: all.
        decode: Whether to decode audio to float32 arrays.
        sample_rate: Resample decoded audio to this rate in Hz.
        mono: Average the channels of decoded audio.
        processor: Applied last to each sample.
        on_error: "skip" leaves out samples that fail; see `LoadOptions`.
        epochs: Epochs in one iteration. None: an iteration never ends.
        backend: Other options of the URL's retriever, such as `endpoint_url` for S3.

    Raises:
        UnknownSchemeError: no installed package opens such URLs; the message says what to install.
        InvalidURLError: the URL does not name a dataset, for example because it lacks a bucket.
        BackendError: the package that opens such URLs cannot be used.
        UnknownOptionError: neither the stream nor the retriever has an option of this name, or an
            option of a retriever is given together with a retriever.
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
        on_error=on_error,
        epochs=epochs,
    )
    if retriever is not source:
        stream.adopt(retriever)
    return stream


def _refuse_all(retriever: BaseRetriever, asked: Iterable[str]) -> None:
    for name in asked:
        raise UnknownOptionError(
            f"open_dataset() takes no option {name!r} beside a retriever, which is made already: "
            f"give it to {type(retriever).__name__}(), or give open_dataset() a URL"
        )


def _refuse_unknown(kind: type[BaseRetriever], backend: Iterable[str]) -> None:
    """Refuse an unknown option, suggesting options of both: `shufle` is meant for the stream."""
    known = option_names(kind)
    for name in backend:
        if name not in known:
            own = inspect.signature(open_dataset).parameters.keys() - {"source", "backend"}
            raise refuse_option(name, f"open_dataset(), with a {kind.__name__},", known | own)
