"""Write a dataset sample by sample, preparing the samples in parallel workers."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from audiomdb.audio.cutting import Cutters
from audiomdb.errors import ConversionError
from audiomdb.log import logger
from audiomdb.machine import usable_cores
from audiomdb.sample import SourceSample
from audiomdb.shards.assembly import DatasetAssembly
from audiomdb.shards.finished import plain_options
from audiomdb.shards.journal import Journal, Rejection, utf8
from audiomdb.shards.metadata import Metadata
from audiomdb.shards.output import folder_name, output_path
from audiomdb.shards.prepare import PreparedBatch, Process, prepare_batch
from audiomdb.shards.snapshot import Snapshots
from audiomdb.shards.source_digest import SourceDigest, contents
from audiomdb.shards.source_watch import SourceWatch
from audiomdb.shards.writer_options import WriterOptions
from audiomdb.threads import ThreadPool, Work

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = ["DatasetWriter"]

_BATCH_BYTES = 1024 * 1024
_BATCH_SAMPLES = 64
_WAITING_BATCHES = 24
"""Batches that may be queued besides two per worker: the thread that submits them also commits
shards to LMDB, which takes as long as preparing this many."""


class DatasetWriter:
    """Writes samples as a dataset, shard by shard; within a shard they are sorted by key.

        with DatasetWriter("speech") as writer:
            writer.write("clip-0", {"audio": "clip.flac", "text": "hello"})

    The dataset exists once the `with` block ends without an exception. Otherwise finished shards
    are kept: if the same samples are written to the same folder again, these shards are compared
    with them instead of being rewritten. The bytes of the shards depend on samples and options
    only, not on the workers.

    Must be called from one thread. Memory is bounded, except for 12 bytes per key: `write` blocks
    while too many batches are pending. If samples are large, that is more than one batch for each
    worker.

    Args:
        output_dir: Folder of the dataset; missing, empty, or left by an earlier run.
        name: Name of the dataset; the folder's name by default.
        samples_per_shard: Close shards at this number of samples instead of by bytes.
        max_shard_bytes: Close shards before their source bytes exceed this (default 64 MiB), and at
            65,536 samples.
        map_size: Initial LMDB map size in bytes; it grows as needed.
        check_audio: "decode" every clip once, or trust its "header". See `AudioOptions`.
        audio_format: Store audio in this format instead of unchanged.
        sample_rate: Store audio at this rate in Hz.
        mono: Store audio with one channel, the mean of its channels.
        on_error: "raise", or "skip" to list samples that cannot be stored in `rejected.jsonl`.
        process: Applied to every sample; its result is stored.
        process_names: Names of the processors in `process`, for the metadata.
        num_workers: Samples prepared at once; by default the number of usable cores.
        executor: Runs the workers, and is not shut down; by default a thread pool of the writer.
        options: Further options that the result depends on, compared when a run is resumed.
        progress: Whether to show on stderr how many shards of earlier runs are opened and checked;
            None: only if that is a terminal.

    Raises:
        InvalidURLError: when `output_dir` is a URL.
        OutputExistsError: when the folder holds something else.
        OutputBusyError: when another process is writing there.
        OptionsChangedError: when finished shards were made with other options.
        ValueError, TypeError: for an option that is out of range or of the wrong type.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        name: str | None = None,
        samples_per_shard: int | None = None,
        max_shard_bytes: int | None = None,
        map_size: int | None = None,
        check_audio: Literal["decode", "header"] = "decode",
        audio_format: str | None = None,
        sample_rate: int | None = None,
        mono: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        process: Process | None = None,
        process_names: Sequence[str] = (),
        num_workers: int | None = None,
        executor: Executor | None = None,
        options: Mapping[str, Any] | None = None,
        progress: bool | None = False,
    ) -> None:
        how = WriterOptions(
            samples_per_shard=samples_per_shard,
            max_shard_bytes=max_shard_bytes,
            map_size=map_size,
            check_audio=check_audio,
            audio_format=audio_format,
            sample_rate=sample_rate,
            mono=mono,
            on_error=on_error,
            num_workers=num_workers,
            executor=executor,
            progress=progress,
        )
        if isinstance(process_names, str):
            raise TypeError(f"process_names is {process_names!r}, expected a list of names")
        self._audio, self._borders = how.audio(), how.borders()
        self._process, self._process_names = process, tuple(process_names)
        self._skip = on_error == "skip"
        self._cutters = Cutters()
        self._source_files = SourceWatch()
        self._workers = how.num_workers or usable_cores()
        self._under_way = 2 * self._workers + _WAITING_BATCHES
        path = self._output_dir = output_path(output_dir)
        self._assembly = DatasetAssembly(
            path,
            name=utf8(name or folder_name(path)),
            options={
                "samples_per_shard": self._borders.samples_per_shard,
                "max_shard_bytes": self._borders.max_shard_bytes,
                "map_size": how.map_size,
                "check_audio": check_audio,
                "audio_format": audio_format,
                "sample_rate": self._audio.sample_rate,
                # Left out if False: most shards then have the bytes that they had without it.
                **({"mono": True} if self._audio.mono else {}),
                "processors": list(self._process_names),
                **plain_options(options or {}),
            },
            map_size=how.map_size,
            duplicates=on_error,
            workers=min(self._workers, usable_cores()),
            progress=progress,
        )
        self._pool = ThreadPool(self._workers, "audiomdb") if executor is None else None
        self._executor = executor
        # Batches, and in between the calls that begin and end their shards.
        self._pending: deque[Future[PreparedBatch] | Work[PreparedBatch] | partial[None]] = deque()
        self._sizes: deque[int] = deque()  # of the pending batches, in bytes of their samples
        self._stored_bytes = math.inf  # what the last batch came to; not known before the first
        self._batch: list[tuple[str, SourceSample]] = []
        self._batch_bytes = 0
        self._snapshots = Snapshots()
        self._shard = -1
        self._source = SourceDigest()
        self._metadata: Metadata | None = None
        self._closed = False

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and not self._closed:
            self.finish()
        else:
            self._close()

    def write(self, key: str, sample: SourceSample) -> None:
        """Write one sample; an error raised here may concern an earlier sample.

        Args:
            key: Unique in the dataset, 1 to 511 bytes of UTF-8.
            sample: Fields of the sample. `audio` is encoded bytes, a path (read by a worker), or an
                array `(frames,)` or `(frames, channels)` with the rate in `sample_rate`. The dict,
                and dicts, lists, byte arrays and memoryviews in it, may be reused afterwards;
                arrays may not. An error in place of the fields is raised for this sample or, with
                `on_error="skip"`, listed.

        Raises:
            AudioError: for audio that cannot be used; names file or key.
            SampleError: for a sample that cannot be stored.
            SourceError: when an array of the previous sample is passed again with other elements,
                or a file cannot be read for a reason unrelated to it, such as a failing disk.
            SourceChangedError: when an earlier run finished a shard from different samples.
            OutputWriteError: when the disk is full.
            ConversionError: when this writer has been finished or closed.
        """
        self._refuse_if_over()
        if type(key) is not str and isinstance(key, str):
            key = str.__str__(key)  # of a str subclass, such as an enum or NumPy's, the plain str
        found = contents(sample)
        shard = self._borders.place(found.size)
        if shard != self._shard:
            self._turn_to(shard)
        self._source.add(key, found)
        if self._assembly.is_finished(shard):
            return
        self._source_files.see(sample)
        self._batch.append((key, self._snapshots.take(key, sample, found.fields)))
        self._batch_bytes += found.size
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_SAMPLES:
            self._submit()
            self._drain(self._under_way)

    def flush(self) -> None:
        """Wait for all batches submitted so far, and finish the shards that are complete."""
        self._drain(0)

    def finish(self) -> Metadata:
        """Complete the dataset: write pending samples, index and metadata. Idempotent.

        Raises:
            ConversionError: when this writer was closed before, by an error or by `close`.
        """
        if self._metadata is None:
            self._refuse_if_over()
            try:
                self._turn_to(None)
                self._drain(0)
                shards = self._shard + 1
                self._metadata = self._assembly.finish(shards, self._process_names)
            finally:
                self._close()
        return self._metadata

    @property
    def finished_shards(self) -> int:
        """Number of finished shards, including those of earlier runs."""
        return self._assembly.finished_shards

    def ends_short(self) -> bool:
        """Whether an earlier run's shards hold source samples beyond those written so far."""
        return self._assembly.goes_beyond(self._shard, self._source.samples)

    def journals(self) -> list[Journal]:
        """Return the journals of the shards, in order, without options.

        Complete once the dataset is finished.
        """
        return self._assembly.journals()

    def close(self) -> None:
        """Stop without completing the dataset, and log that. Keeps finished shards. Idempotent.

        `finish` completes it, as does the end of a `with` block that raises nothing.
        """
        if self._shard >= 0 and not self._closed:
            logger("shards").warning(
                "the writer of %s was closed without finish(), so there is no dataset. Finished "
                "shards are kept: writing the same samples again continues from there",
                self._output_dir,
            )
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for entry in self._pending:
            if not isinstance(entry, partial):
                entry.cancel()
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._cutters.close()
        self._assembly.close()

    def _refuse_if_over(self) -> None:
        if self._closed:
            how = "closed" if self._metadata is None else "finished"
            raise ConversionError(
                f"the writer of {self._output_dir} was {how} before: make another one. It takes up "
                "the finished shards"
            )

    def _turn_to(self, shard: int | None) -> None:
        if self._shard >= 0:
            self._submit()
            self._pending.append(partial(self._assembly.end_shard, self._shard, self._source))
        if shard is not None:
            self._shard, self._source = shard, SourceDigest()
            if not self._assembly.is_finished(shard):
                self._pending.append(partial(self._assembly.begin_shard, shard))
        self._drain(self._under_way)

    def _submit(self) -> None:
        if self._batch:
            pool: Any = self._pool or self._executor
            work = pool.submit(
                prepare_batch, self._batch, self._audio, self._process, self._skip, self._cutters
            )
            self._pending.append(work)
            self._sizes.append(self._batch_bytes)
            self._batch, self._batch_bytes = [], 0

    def _drain(self, allowed: int) -> None:
        """Store prepared batches in order until at most `allowed` batches are pending."""
        while self._pending:
            entry = self._pending[0]
            if isinstance(entry, partial):
                entry()
            elif not entry.done() and self._may_wait(allowed):
                return
            else:
                batch = entry.result()
                self._stored_bytes = batch.bytes
                self._store(batch)
                self._sizes.popleft()
            self._pending.popleft()

    def _may_wait(self, allowed: int) -> bool:
        """Whether at most `allowed` batches are pending, and are small or one for each worker."""
        batches = len(self._sizes)
        if batches <= self._workers:
            return batches <= allowed
        expected = max(sum(self._sizes), batches * self._stored_bytes)
        return batches <= allowed and expected <= 2 * allowed * _BATCH_BYTES

    def _store(self, batch: PreparedBatch) -> None:
        self._assembly.add_features(batch.features)
        while batch.outcomes:
            outcome = batch.outcomes[0]
            if isinstance(outcome, Rejection):
                self._source_files.refuse_if_gone(outcome)
                self._assembly.reject(outcome)
            else:
                self._source_files.stored(outcome.facts.file)
                self._assembly.add(outcome)
            # After an error, a later call raises it again: what was stored must not come twice.
            del batch.outcomes[0]
