"""Assemble a dataset shard by shard, so that a crash never loses a finished shard.

A shard is written under `.partial/`, synced, and renamed to its final path; `metadata.json` is
written last. The output folder therefore never holds a partial shard or a partial dataset. Each
shard carries a journal of its source; a later run finds the finished shards, compares them with the
source, and continues after them.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from audiomdb.errors import DuplicateKeyError, SourceChangedError
from audiomdb.progress import Progress
from audiomdb.progress import progress as progress_bar
from audiomdb.quantities import size
from audiomdb.shards.columns import build_columns
from audiomdb.shards.completion import complete_dataset
from audiomdb.shards.disk_errors import disk_errors
from audiomdb.shards.features import merge_features
from audiomdb.shards.few_warnings import FewWarnings
from audiomdb.shards.files import sync_data
from audiomdb.shards.finished import (
    FinishedShard,
    Origin,
    check_shard,
    finished_shard,
    look_into,
)
from audiomdb.shards.index import ShardIndex
from audiomdb.shards.journal import Journal, Rejection
from audiomdb.shards.key_set import KeySet
from audiomdb.shards.layout import DATA_FILE, shard_name
from audiomdb.shards.metadata import Feature, Metadata
from audiomdb.shards.output import OutputFolder
from audiomdb.shards.prepare import Prepared, SampleFacts
from audiomdb.shards.shard_reader import ShardReader
from audiomdb.shards.shard_writer import ShardWriter
from audiomdb.shards.source_digest import SourceDigest
from audiomdb.threads import ThreadPool, Work

__all__ = ["DatasetAssembly"]

_HUGE_SHARD_BYTES = 4 * 1024**3


class DatasetAssembly:
    """Writes the shards of one dataset in order, and keeps those that earlier runs finished.

    Must be called from one thread. A second one hashes and publishes finished shards, a third syncs
    the data written so far to the open shard, and others check the shards of earlier runs.

    Args:
        output_dir: Folder of the dataset; created if missing, and locked until `close`.
        name: Name of the dataset.
        options: Everything besides the source samples that a shard's bytes depend on, as plain
            data.
        map_size: See `ShardWriter`.
        duplicates: "raise", or "skip" to reject a key that the dataset already holds.
        workers: Threads that check the shards of earlier runs.
        progress: Whether to show on stderr how many of them are opened and checked; None: only if
            that is a terminal.

    Raises:
        OutputExistsError: when the folder holds something else.
        OutputBusyError: when another process is writing there.
        OutputWriteError: when it cannot be created, or what a killed run left there cannot be
            removed.
        OptionsChangedError: when finished shards were made with other options.
        CorruptShardError: when a finished shard is damaged.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        name: str,
        options: Mapping[str, Any],
        map_size: int | None = None,
        duplicates: Literal["raise", "skip"] = "raise",
        workers: int = 1,
        progress: bool | None = False,
    ) -> None:
        self._dir = output_dir
        self._name = name
        self._options = dict(options)
        self._map_size = map_size
        self._skip_duplicates = duplicates == "skip"
        self._progress = progress
        self._keys = KeySet()
        self._open: _OpenShard | None = None
        with disk_errors(output_dir):
            self._folder = OutputFolder(output_dir)
        self._background = ThreadPool(1, "audiomdb-publish")
        self._checks = ThreadPool(workers, "audiomdb-check")
        # Syncs the open shard as it grows. Otherwise the disk would be idle until a shard is
        # complete, and the end of a conversion would wait for the last shards to be written.
        self._sync = ThreadPool(1, "audiomdb-sync")
        self._shards: dict[int, Work[FinishedShard]] = {}
        self._earlier: dict[int, Origin] = {}
        self._not_finite, self._contradicted = FewWarnings(), FewWarnings()
        self._warned = False
        try:
            self._take_up(self._folder.shards())
        except BaseException:
            self.close()
            raise

    @property
    def finished_shards(self) -> int:
        """Number of finished shards, including those that are still being published."""
        return len(self._shards)

    def is_finished(self, shard: int) -> bool:
        """Whether an earlier run finished this shard."""
        return shard in self._earlier

    def goes_beyond(self, shard: int, samples: int) -> bool:
        """Whether an earlier run got past the first `samples` source samples of this shard."""
        last = max(self._earlier, default=-1)
        return last > shard or (last == shard and self._earlier[last].samples > samples)

    def begin_shard(self, shard: int) -> None:
        """Open a new shard, which no earlier run may have finished."""
        syncs: list[Work[None]] = []
        with disk_errors(self._dir):
            writer = ShardWriter(
                self._folder.stage(shard),
                map_size=self._map_size,
                on_commit=lambda path: syncs.append(self._sync.submit(sync_data, path)),
            )
        self._open = _OpenShard(writer, syncs)

    def add(self, prepared: Prepared) -> None:
        """Add a record to the open shard.

        Raises:
            DuplicateKeyError: when the shard holds the key already, unless duplicates are skipped.
            OutputWriteError: when the disk is full.
        """
        shard, record, facts = self._current, prepared.record, prepared.facts
        try:
            with disk_errors(self._dir):
                shard.writer.add(record)
        except DuplicateKeyError as exc:
            self._reject_duplicate(record.key, facts.source, str(exc))
            return
        shard.stored[record.key] = facts
        if not facts.finite or facts.contradictions:
            self._warn_about(record.key.decode(), facts)

    def add_features(self, features: Mapping[str, Feature]) -> None:
        """Merge the features of some samples into those of the open shard."""
        self._current.features.append(features)

    def reject(self, rejection: Rejection) -> None:
        """Record that a source sample could not be stored."""
        self._current.rejected.append(rejection)

    def end_shard(self, shard: int, source: SourceDigest) -> None:
        """Finish a shard after its last source sample, or compare it if an earlier run finished it.

        Raises:
            SourceChangedError: when an earlier run finished it from different samples.
            DuplicateKeyError: when an earlier shard holds one of its keys.
            OutputWriteError: when the disk is full.
        """
        if shard in self._earlier:
            self._compare(shard, self._earlier[shard], source)
            return
        made = self._current
        self._check_duplicates(made)
        self._finish_shard(made, source)
        self._warn_if_huge(shard, source.samples)
        self._open = None
        self._keys.add(shard, list(made.stored))
        before = shard - 2
        if before in self._shards and not self.is_finished(before):
            with disk_errors(self._dir):  # bounds the backlog, and surfaces its errors early
                self._shards[before].result()
        self._shards[shard] = self._background.submit(self._publish, shard, made.syncs)

    def finish(self, shards: int, processors: Sequence[str] = ()) -> Metadata:
        """Write the index, the rejections and, last, the metadata, which completes the dataset.

        Args:
            shards: Number of shards that the source filled.
            processors: Names of the processors that were applied, for the metadata.

        Raises:
            SourceChangedError: when an earlier run finished shards beyond the source's end.
        """
        beyond = sorted(number for number in self._shards if number >= shards)
        if beyond:
            raise SourceChangedError(
                f"{self._dir / shard_name(beyond[0])} was finished by an earlier run, but the "
                f"source now ends after {shards} shards; convert into another folder"
            )
        self._finish_checks()
        finished = self._results()
        entries = [shard.entry for shard in finished]
        rejected = [r for shard in finished for r in shard.journal.rejected]
        with disk_errors(self._dir):
            return complete_dataset(
                self._folder,
                entries,
                name=self._name,
                features=merge_features(shard.features for shard in finished),
                processors=processors,
                rejected=rejected,
            )

    def journals(self) -> list[Journal]:
        """Return the journals of all shards in order, without the options, which are this run's.

        Waits until the last shard is published.
        """
        return [shard.journal for shard in self._results()]

    def close(self) -> None:
        """Discard the open shard, wait for finished ones, and unlock the folder. Idempotent.

        Shards of earlier runs that have not been checked yet are not checked any more.
        """
        if self._open is not None:
            self._open.writer.close()
            self._open = None
        self._background.shutdown()
        for pool in (self._checks, self._sync):
            pool.shutdown(cancel_futures=True)
        self._shards = {number: work for number, work in self._shards.items() if work.done()}
        self._folder.close()

    @property
    def _current(self) -> _OpenShard:
        assert self._open is not None, "begin_shard comes first"
        return self._open

    def _take_up(self, shards: Sequence[int]) -> None:
        """Open the shards of earlier runs, and begin to check them."""
        with self._bar(len(shards), "opening") as bar:
            for number in shards:
                directory = self._dir / shard_name(number)
                self._earlier[number], keys = look_into(directory, self._options)
                self._keys.add(number, keys)
                bar.update()
        # Not before: the checks would slow the opening, which this thread has to wait for.
        for number in shards:
            self._shards[number] = self._checks.submit(check_shard, self._dir / shard_name(number))

    def _finish_checks(self) -> None:
        checks = [self._shards[number] for number in self._earlier]
        left = [check for check in checks if not check.done()]
        with self._bar(len(left), "checking") as bar:
            for check in left:
                with disk_errors(self._dir):
                    check.result()
                bar.update()

    def _bar(self, shards: int, doing: str) -> Progress:
        if not shards:
            return Progress()
        return progress_bar(shards, unit="shards", description=doing, show=self._progress)

    def _warn_about(self, key: str, facts: SampleFacts) -> None:
        if not facts.finite:
            self._not_finite.add(key, facts.source, "holds NaN or infinite samples")
        for wrong in facts.contradictions:
            self._contradicted.add(key, facts.source, wrong)

    def _results(self) -> list[FinishedShard]:
        with disk_errors(self._dir):
            return [future.result() for _, future in sorted(self._shards.items())]

    def _compare(self, number: int, made_of: Origin, source: SourceDigest) -> None:
        if made_of.digest == source.hexdigest():
            return
        what = "its keys, their order or what they hold differs"
        if made_of.samples != source.samples:
            what = f"it was made of {made_of.samples} samples, now there are {source.samples}"
            if made_of.samples < source.samples:
                what += ", as it is after a run with a smaller limit"
        raise SourceChangedError(
            f"{self._dir / shard_name(number)} was finished by an earlier run and the source has "
            f"changed since: {what}. Delete that folder to have it made again, or convert into "
            "another one"
        )

    def _check_duplicates(self, made: _OpenShard) -> None:
        holders = self._holders(list(made.stored))
        for key in [key for key in made.stored if key in holders]:
            why = f"key {key.decode()!r} occurs twice: {holders[key]} holds it already"
            self._reject_duplicate(key, made.stored[key].source, why)
            made.writer.drop(key)
            del made.stored[key]

    def _reject_duplicate(self, key: bytes, source: str | None, why: str) -> None:
        reason = f"{source}: {why}" if source else why
        if not self._skip_duplicates:
            raise DuplicateKeyError(reason) from None
        self.reject(Rejection.of(key.decode(), source, reason))

    def _holders(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Return which of these keys a shard holds already, with its name."""
        holders: dict[bytes, str] = {}
        for number, suspects in self._keys.maybe(keys).items():
            index = self._index(number)
            for key in suspects:
                if index.find(key.decode()) is not None:
                    holders[key] = shard_name(number)
        return holders

    def _index(self, number: int) -> ShardIndex:
        if not self.is_finished(number):  # it may not be in its place yet
            with disk_errors(self._dir):
                self._shards[number].result()
        return ShardReader(self._dir / shard_name(number)).index

    def _finish_shard(self, made: _OpenShard, source: SourceDigest) -> None:
        stored = made.stored
        columns, left_out = build_columns([stored[key].row for key in sorted(stored)])
        contradictions = Counter(
            wrong.field for facts in stored.values() for wrong in facts.contradictions
        )
        journal = Journal(
            options=self._options,
            samples=source.samples,
            bytes=source.bytes,
            digest=source.hexdigest(),
            rejected=tuple(made.rejected),
            contradictions=dict(sorted(contradictions.items())),
            not_finite=sum(not facts.finite for facts in stored.values()),
        )
        with disk_errors(self._dir):
            made.writer.finish(
                columns=columns,
                left_out=left_out,
                features=msgspec.to_builtins(merge_features(made.features)),
                journal=msgspec.to_builtins(journal),
            )

    def _warn_if_huge(self, shard: int, samples: int) -> None:
        n_bytes = (self._folder.stage(shard) / DATA_FILE).stat().st_size
        if n_bytes > _HUGE_SHARD_BYTES and not self._warned:
            self._warned = True
            warnings.warn(
                f"{shard_name(shard)} has {size(n_bytes)} ({samples} samples): a cache "
                "fetches and evicts whole shards, so smaller ones serve better. Set "
                "samples_per_shard lower, or leave it out and set max_shard_bytes lower, which "
                "counts bytes of the source",
                stacklevel=5,  # the caller of the writer's `write` or `finish`
            )

    def _publish(self, number: int, syncs: Sequence[Work[None]]) -> FinishedShard:
        shard = finished_shard(ShardReader(self._folder.stage(number)))
        # The system reports a failed write only once: a later sync may succeed.
        for sync in syncs:
            sync.result()
        self._folder.publish(number)
        return shard


class _OpenShard(msgspec.Struct, frozen=True):
    writer: ShardWriter
    syncs: list[Work[None]]
    stored: dict[bytes, SampleFacts] = msgspec.field(default_factory=dict)
    features: list[Mapping[str, Feature]] = msgspec.field(default_factory=list)
    rejected: list[Rejection] = msgspec.field(default_factory=list)
