"""Base class of converters: subclass it, yield samples, and run it to make a dataset."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from audiomdb.checks import at_least_one
from audiomdb.converters._report import ConversionReport
from audiomdb.converters._sent_once import SentOnce
from audiomdb.converters._workers import explain_lost_workers, worker_processes
from audiomdb.errors import (
    AudioError,
    ConversionError,
    OptionsChangedError,
    ProcessingError,
    SampleError,
    SourceError,
)
from audiomdb.log import logger
from audiomdb.machine import usable_cores
from audiomdb.notes import add_note
from audiomdb.processors._rated import RatedProcessors
from audiomdb.processors.base import BaseProcessor
from audiomdb.progress import is_shown
from audiomdb.progress import progress as progress_bar
from audiomdb.quantities import counted
from audiomdb.sample import SourceSample
from audiomdb.shards.dataset_writer import DatasetWriter
from audiomdb.shards.finished import SOURCE_OPTIONS, plain_options
from audiomdb.shards.output import folder_name, output_path
from audiomdb.shards.prepare import Process, is_passing
from audiomdb.shards.writer_options import WriterOptions

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["BaseConverter", "ConversionReport", "SupportsUpload"]

_C = TypeVar("_C", bound="BaseConverter")


class SupportsUpload(Protocol):
    """Protocol of the object that `run` uploads with; every uploader implements it."""

    def upload_dir(self, local_dir: str) -> object:
        """Publish the dataset in a folder."""


class BaseConverter(ABC):
    """Base class of converters, which turn a source of samples into a dataset.

        class Numbers(BaseConverter):
            def sample_iterator(self):
                for path in sorted(Path("numbers").glob("*.wav")):
                    yield path.stem, {"audio": path, "text": path.stem}

        print(Numbers(output_dir="numbers_lmdb").run())

    A subclass may set attributes before or after `super().__init__(**kwargs)`. The converter stays
    in the process that made it: only processors and options are sent to workers.

    A run that ended early, even by SIGKILL, is resumed by running the same conversion again. The
    source is iterated from its start, and the shards that are already finished are compared with
    it instead of being made again. Their bytes depend on source and options alone.

    Args:
        output_dir: Folder of the dataset; empty, absent, or of an earlier run.
        samples_per_shard: Close shards at this many source samples, instead of by bytes.
        max_shard_bytes: Close shards at this many source bytes (default 64 MiB), or at 65,536
            samples.
        map_size: Initial size of LMDB's memory map in bytes; it grows automatically.
        num_workers: Number of samples processed at once; by default the number of usable cores.
            Without a processor, the work is done in threads. With one, it is done in separate
            processes, or in this process if `num_workers` is 1.
        processor: A `BaseProcessor`, or several, whose results are merged.
        sample_rate: Store all audio at this rate in Hz, and pass it to processors.
        mono: Store all audio with one channel, the mean of its channels.
        audio_format: Store all audio as "flac", "wav", "opus", "vorbis" or "mp3"; by default, the
            format is kept.
        check_audio: "decode" decodes every clip once to find damaged ones; "header" trusts the
            header.
        limit: Stop after this many source samples.
        on_error: "raise" for a sample that cannot be stored; or "skip" it and list it in
            `rejected.jsonl`.
        executor: Executor to do the work in instead, such as Dask's `client.get_executor()`. It is
            not shut down.
        progress: Whether to show progress bars on stderr; None: only if that is a terminal.

    Raises:
        ValueError: for options out of range, and for a URL as `output_dir`.
        TypeError: for a processor that is not a `BaseProcessor`, and other options of the wrong
            type.
    """

    _dataset_name: str | None = None

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        samples_per_shard: int | None = None,
        max_shard_bytes: int | None = None,
        map_size: int | None = None,
        num_workers: int | None = None,
        processor: BaseProcessor | Iterable[BaseProcessor] | None = None,
        sample_rate: int | None = None,
        mono: bool = False,
        audio_format: str | None = None,
        check_audio: Literal["decode", "header"] = "decode",
        limit: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        executor: Executor | None = None,
        progress: bool | None = None,
    ) -> None:
        self.output_dir = output_path(output_dir)
        self.limit = at_least_one("limit", limit)
        self.on_error = on_error
        self.progress = progress
        self._executor = executor
        self._workers = at_least_one("num_workers", num_workers) or usable_cores()
        self._writer_options: dict[str, Any] = {
            "samples_per_shard": samples_per_shard,
            "max_shard_bytes": max_shard_bytes,
            "map_size": map_size,
            "num_workers": self._workers,
            "sample_rate": sample_rate,
            "mono": mono,
            "audio_format": audio_format,
            "check_audio": check_audio,
            "on_error": on_error,
        }
        WriterOptions(**self._writer_options, executor=executor, progress=progress)  # checks them
        self._process = (
            None if processor is None else RatedProcessors(processor, sample_rate=sample_rate)
        )

    @classmethod
    def from_source(  # noqa: PYI019
        cls: type[_C],
        source: str,
        output_dir: str | os.PathLike[str],
        **options: Any,  # noqa: ANN401
    ) -> _C:
        """Make a converter from a command line, see `audiomdb.registry`.

        Override it in a class whose first argument is not the SOURCE of `audiomdb convert NAME
        SOURCE`.

        Args:
            source: The source as the user names it.
            output_dir: Folder of the dataset.
            options: Keyword arguments of the class; their names have been checked.
        """
        subclass: Any = cls
        made: _C = subclass(source, output_dir=output_dir, **options)
        return made

    @abstractmethod
    def sample_iterator(self) -> Iterable[tuple[str, SourceSample]]:
        """Yield every sample of the source: its key, and a dict of its fields.

        Called once for each run, in the thread that runs it. Keys are unique strings of 1 to 511
        bytes of UTF-8, in the same order every time. `audio` is encoded bytes, a path or an
        `AudioWindow` (both read by the workers), or an array `(frames,)` or `(frames, channels)`
        with its rate in Hz under `sample_rate`.

        Samples are processed later. Still, the dict may be reused for the next one, and so may
        dicts, lists, bytearrays and memoryviews in it, such as those of an LMDB transaction,
        because they are copied. NumPy arrays, tensors and other objects are not copied, and must be
        new for each sample.

        An `AudioError` or a `SampleError` may take the place of the dict, to say why the source has
        no such sample. It ends the run or, with `on_error="skip"`, is listed in `rejected.jsonl`.
        An exception raised here ends the run in any case; finished shards are kept.
        """

    @property
    def converter_name(self) -> str:
        """Short name of the kind of source, for messages."""
        return type(self).__name__

    @property
    def dataset_name(self) -> str:
        """Name of the dataset: the one assigned, at any time, or else the name of its folder."""
        return self._dataset_name or folder_name(self.output_dir)

    @dataset_name.setter
    def dataset_name(self, name: str) -> None:
        self._dataset_name = name

    @property
    def base_options(self) -> Mapping[str, Any]:
        """The options of `BaseConverter` that this converter was made with, by name.

        All but `output_dir` and `processor`; a test can see whether a subclass passes them on.
        """
        own = {"limit": self.limit, "progress": self.progress, "executor": self._executor}
        return {**self._writer_options, **own}

    def source_options(self) -> Mapping[str, Any]:
        """Return the options of the subclass that decide what its samples hold, by name.

        They are stored in every shard. A run that finds finished shards made with other options
        fails at once and names the option that differs. Without this method, which returns none by
        default, it only fails at the first sample that differs.

            def source_options(self):
                return {"text_column": self.text_column}

        Values are plain: None, bools, numbers, text, and lists and dicts of these. A subclass of a
        converter that has options adds its own to them. Options that only say where the source is,
        such as a path or a token, do not belong here: samples do not depend on where they are read.
        """
        return {}

    def sample_count(self) -> int | None:
        """Return the number of samples that `sample_iterator` yields, for the progress bar.

        Called only if a bar is shown. None if the number is unknown; it need not be counted beyond
        `limit`.
        """
        return None

    def run(self, upload: SupportsUpload | None = None) -> ConversionReport:
        """Convert the source, and upload the dataset if an uploader is given.

        Args:
            upload: An uploader; its `upload_dir` is called with the finished dataset.

        Raises:
            AudioError: for audio that cannot be used; names file and key.
            SampleError: for a sample that cannot be stored, or a key that occurs twice.
            ProcessingError: when a processor fails, or a worker process is lost. A processor that
                fails with an OSError, MemoryError or ImportError ends the run whatever `on_error`
                is.
            SourceError: when `sample_iterator` yields anything but pairs, or a file cannot be read
                for a reason unrelated to it, such as a failing disk.
            OutputExistsError: when the output folder holds something else.
            OutputBusyError: when another process is writing there.
            OutputWriteError: when the disk is full or cannot be written.
            OptionsChangedError: when finished shards were made with other options.
            SourceChangedError: when finished shards were made of other samples.
        """
        if "_writer_options" not in vars(self):
            raise ConversionError(
                f"{type(self).__name__}.__init__ has to call super().__init__(output_dir=...)"
            )
        if upload is not None and not callable(getattr(upload, "upload_dir", None)):
            raise TypeError(f"upload is {upload!r}, expected an uploader with upload_dir")
        start = time.perf_counter()
        with explain_lost_workers(self._process), contextlib.ExitStack() as stack:
            writer = stack.enter_context(self._writer(stack))
            reused = writer.finished_shards
            try:
                self._write(writer)
                metadata = writer.finish()
            except BaseException as exc:
                for line in self._how_to_go_on(exc, writer.finished_shards):
                    _advise(exc, line)
                raise
            report = ConversionReport.of(
                self.output_dir,
                metadata,
                writer.journals(),
                reused_shards=reused,
                elapsed_s=time.perf_counter() - start,
            )
        if upload is not None:
            upload.upload_dir(str(self.output_dir))
        return report

    def _how_to_go_on(self, exc: BaseException, finished: int) -> Iterator[str]:
        """Yield advice on how to proceed after an error, if the error itself gives none."""
        unfit = isinstance(exc, AudioError | SampleError | ProcessingError)
        if unfit and not is_passing(exc) and self.on_error == "raise":
            yield (
                'on_error="skip" (--on-error skip) leaves out what cannot be stored, and lists it '
                "in rejected.jsonl"
            )
        if finished:
            kept = counted(finished, "finished shard is", "finished shards are")
            yield f"{kept} kept in {self.output_dir}: the same conversion goes on from there"

    def _writer(self, stack: contextlib.ExitStack) -> DatasetWriter:
        executor = self._executor
        process: Process | None = self._process
        if process is not None and executor is not None:
            process = SentOnce(process)
        elif process is not None and self._workers > 1:
            executor, process = stack.enter_context(worker_processes(self._workers, process))
        return DatasetWriter(
            self.output_dir,
            name=self.dataset_name,
            process=process,
            process_names=self._process.names if self._process else (),
            executor=executor,
            options=self._compared_options(),
            progress=self.progress,
            **self._writer_options,
        )

    def _compared_options(self) -> dict[str, Any]:
        # Under a key of their own: a subclass may give an option the name of one of the base's.
        options = self.source_options()
        try:
            plain = plain_options(options)
        except (TypeError, ValueError, OverflowError) as exc:
            raise ConversionError(
                f"{type(self).__name__}.source_options returned {options!r}, expected plain "
                f"values: {exc}"
            ) from exc
        return {SOURCE_OPTIONS: plain} if plain else {}

    def _write(self, writer: DatasetWriter) -> None:
        total = self._total() if is_shown(self.progress) else None
        with (
            contextlib.closing(self._pairs(writer)) as pairs,
            progress_bar(total, description=self.dataset_name, show=self.progress) as bar,
        ):
            given = 0
            for key, sample in islice(pairs, self.limit):
                writer.write(key, sample)
                bar.update()
                given += 1
        if given == self.limit:
            writer.flush()  # raises first if the source has changed
            if writer.ends_short():
                raise OptionsChangedError(
                    f"limit={self.limit} ends before what an earlier run made in "
                    f"{self.output_dir}: its limit was larger, or it had none. Use that one, or "
                    "another output folder"
                )

    def _total(self) -> int | None:
        total = self.sample_count()
        if self.limit is None:
            return total
        return self.limit if total is None else min(total, self.limit)

    def _pairs(self, writer: DatasetWriter) -> Generator[tuple[str, SourceSample]]:
        """Yield what the subclass yields, after checking that it is pairs."""
        source = self.sample_iterator()
        if not isinstance(source, Iterable):
            raise SourceError(
                f"{type(self).__name__}.sample_iterator returned {type(source).__name__}; it has "
                "to yield (key, sample) pairs"
            )
        items = iter(source)
        try:
            for number, item in enumerate(items):
                yield self._pair(number, item)
        except Exception:
            writer.flush()  # keeps a shard whose samples have all arrived
            raise
        finally:
            # A generator holds connections and files until it is closed.
            if isinstance(items, Generator):
                items.close()

    def _pair(self, number: int, item: object) -> tuple[str, SourceSample]:
        if isinstance(item, tuple | list) and len(item) == 2:
            return item[0], item[1]
        raise SourceError(
            f"{type(self).__name__}.sample_iterator yielded {_kind(item)} as item {number}, "
            "expected a pair of a key and a dict of fields"
        )


def _kind(item: object) -> str:
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}"
    return type(item).__name__


def _advise(exc: BaseException, line: str) -> None:
    """Add advice to an exception as a note, or log it on Python 3.10, which shows no notes."""
    if sys.version_info >= (3, 11):
        add_note(exc, line)
    else:
        logger("converters").warning(line)
