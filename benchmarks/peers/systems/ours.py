"""AudioMDB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from benchmarks.peers.system import Batch, Loader, Settings, System, Wish, place

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["AudioMDB", "AudioMDBBySeconds", "AudioMDBInDataLoader"]


class AudioMDB(System):
    """A dataset made by `ManifestConverter`, loaded by `StreamingLoader`.

    Args:
        copy: False reads views into the mapping.
        verify: Check payload checksums when reading encoded bytes.
        check_audio: What the converter looks at.
        audio_format: What it encodes audio in; None keeps the bytes.
        dataset_of: See `System`.
        takes_part_in: See `System`.
        corpora: See `System`.
    """

    kind = "ours"
    distributions: ClassVar[tuple[str, ...]] = ("audiomdb-core", "audiomdb-torch")
    modules = ("audiomdb.converters.files", "audiomdb.shards", "audiomdb.stream")
    notes = (
        "checksums, per-sample index and sync included in writing, which believes headers "
        "(check_audio='header'); decoding checks every clip, reading encoded bytes does not "
        "(verify=False, and shuffled by position, in the order of an EpochPlan). What is called "
        "'everything checked' has the defaults, check_audio='decode' and verify=True, and a "
        "SampleStream shuffles"
    )

    def __init__(
        self,
        name: str = "AudioMDB",
        *,
        copy: bool = True,
        verify: bool = False,
        check_audio: Literal["decode", "header"] = "header",
        audio_format: str | None = None,
        dataset_of: str | None = None,
        takes_part_in: Collection[str] | None = None,
        corpora: Collection[str] | None = None,
    ) -> None:
        self.name = name
        self.dataset_of = dataset_of
        if takes_part_in is not None:
            self.takes_part_in = takes_part_in
        if corpora is not None:
            self.corpora = corpora
        self._reading: dict[str, Any] = {"copy": copy, "verify": verify}
        self._check_audio = check_audio
        self._audio_format = audio_format

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Convert the corpus's manifest."""
        from audiomdb.converters.files import ManifestConverter

        options: dict[str, Any] = {"check_audio": self._check_audio, "progress": False}
        if self._audio_format:
            options["audio_format"] = self._audio_format
        ManifestConverter(corpus.manifest, output_dir=folder, **options).run()

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[Any]]:
        """Scan, or read in the order of a shuffled plan."""
        from audiomdb.shards import DatasetReader
        from audiomdb.stream import SampleStream

        reader = DatasetReader.open(folder)
        if not shuffle:
            return lambda: (sample["audio"] for sample in reader.scan(**self._reading))
        if self._reading["verify"] and self._reading["copy"]:
            stream = SampleStream(reader, shuffle=True, decode=False)
            return lambda: (sample["audio"] for sample in stream)
        from audiomdb.plan import EpochPlan

        plan = EpochPlan(reader.counts, shuffle=True)
        order = plan.positions(0, len(reader)).tolist()
        get = self._get(reader)
        return lambda: map(get, order)

    def random(self, folder: Path) -> Callable[[int], Any]:
        """`DatasetReader.read` by position."""
        from audiomdb.shards import DatasetReader

        return self._get(DatasetReader.open(folder))

    def _get(self, reader: Any) -> Callable[[int], Any]:  # noqa: ANN401
        read, options = reader.read, self._reading
        return lambda position: read(position, **options)["audio"]

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """A stream without threads."""
        from audiomdb.stream import SampleStream

        stream = SampleStream(folder, num_threads=0)
        return lambda: (sample["audio"] for sample in stream)

    def settings(self, cores: int) -> list[Settings]:
        """Threads in the training process; workers are for processors written in Python."""
        return [
            *(Settings(threads=number) for number in range(2 * cores + 1)),
            Settings(workers=1, threads=cores),
            *(Settings(workers=cores, threads=number) for number in range(2)),
        ]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`StreamingLoader`."""
        return _Streaming(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """`DatasetWriter`."""
        from audiomdb.shards import DatasetWriter

        with DatasetWriter(folder, samples_per_shard=max(1, samples // 200)) as writer:
            for number in range(samples):
                fields = {"number": number, "text": f"number {number}"}
                writer.write(f"sample-{number:08d}", fields)

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """`DatasetReader.open`."""
        from audiomdb.shards import DatasetReader

        return DatasetReader.open(folder)[0]

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of a shuffled stream."""
        from audiomdb.stream import SampleStream

        return next(iter(SampleStream(folder, shuffle=True)))


class _Streaming(Loader):
    def __init__(
        self, folder: Path, settings: Settings, wish: Wish, sizes: dict[str, Any] | None = None
    ) -> None:
        from audiomdb.data.base import StreamingDataset
        from audiomdb.data.loader import StreamingLoader
        from audiomdb.retrievers.local import LocalRetriever

        ranks = place()[1]
        tail = "uneven" if ranks == 1 else "pad"  # several ranks need equally many batches
        sizes = sizes or {"batch_size": wish.batch_size * ranks, "tail": tail}
        dataset = StreamingDataset(
            LocalRetriever(folder), num_threads=settings.threads, shuffle=wish.shuffle
        )
        self._loader = StreamingLoader(dataset, num_workers=settings.workers, **sizes)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            audio, lengths, keys = batch["audio"], batch["audio_lengths"], batch["__key__"]
            mask = batch.get("__mask__")
            if mask is not None and not mask.all():  # repeats, which no loss would count
                audio, lengths = audio[mask], lengths[mask]
                keys = [key for key, real in zip(keys, mask.tolist(), strict=True) if real]
            yield Batch(audio, lengths, keys)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


class AudioMDBBySeconds(AudioMDB):
    """Batches of like durations and equal seconds, made by the plan."""

    distributions: ClassVar[tuple[str, ...]] = ()
    notes = "batches of as many seconds as 16 clips have on average, so less padding"

    def __init__(self) -> None:
        super().__init__("AudioMDB, by seconds", dataset_of="audiomdb", takes_part_in=("loader",))

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`StreamingLoader` with `max_batch_seconds`."""
        from audiomdb.shards import DatasetReader

        with DatasetReader.open(folder) as reader:
            seconds = wish.batch_size * reader.metadata.duration / len(reader)
        return _Streaming(folder, settings, wish, {"max_batch_seconds": seconds, "num_buckets": 10})


class AudioMDBInDataLoader(AudioMDB):
    """The same dataset in torch's own `DataLoader`, as one moves an existing training script."""

    distributions: ClassVar[tuple[str, ...]] = ()
    notes = (
        "torch makes the batches: each worker its own. Over several ranks its default leaves out "
        "clips that these cannot share evenly"
    )

    def __init__(self) -> None:
        super().__init__(
            "AudioMDB in torch's DataLoader", dataset_of="audiomdb", takes_part_in=("loader",)
        )

    def settings(self, cores: int) -> list[Settings]:
        """Workers with one thread or two, and none with several."""
        return [
            *(Settings(workers=n, threads=t) for n in range(1, cores + 2) for t in (1, 2)),
            Settings(threads=cores),
        ]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`StreamingDataset` in `DataLoader`."""
        return _InDataLoader(folder, settings, wish)


class _InDataLoader(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        from torch.utils.data import DataLoader

        from audiomdb.data.base import StreamingDataset
        from audiomdb.retrievers.local import LocalRetriever

        dataset = StreamingDataset(
            LocalRetriever(folder), num_threads=settings.threads, shuffle=wish.shuffle
        )
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=wish.batch_size,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield Batch(batch["audio"], batch["audio_lengths"], batch["__key__"])
