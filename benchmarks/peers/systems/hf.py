# mypy: disable-error-code="import-not-found, import-untyped"
"""Hugging Face datasets: Arrow files that are mapped, and Parquet files that are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS, has_ffmpeg
from benchmarks.peers.system import Batch, Loader, Settings, System, Wish, place

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["HFArrow", "HFParquet"]

_PARQUET_FILES = 8
"""At least one for each worker that is tried: files are the unit of splitting."""


class HFArrow(System):
    """`Dataset.from_generator`, `save_to_disk`, `load_from_disk`, torch's `DataLoader`."""

    name = "datasets, arrow"
    distributions = ("datasets", "pyarrow")
    modules = ("datasets",)
    notes = (
        "documented decoding is torchcodec's; Audio(decode=False) and soundfile were faster. "
        "Writing goes through its cache and is then saved"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Through a cache beside the folder that is deleted afterwards, off the path of readers."""
        cache = folder.with_name(folder.name + ".cache")
        _generated(corpus, cache).save_to_disk(str(folder))
        _remove(cache)

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Iterate, audio left as bytes; shuffled by `Dataset.shuffle`."""
        dataset = _loaded(folder)
        if shuffle:
            dataset = dataset.shuffle(seed=0)
        return lambda: (sample["audio"]["bytes"] for sample in dataset)

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """`dataset[i]`."""
        dataset = _loaded(folder)
        return lambda position: dataset[position]["audio"]["bytes"]

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """Iterate and decode."""
        dataset, decode = _loaded(folder), DECODERS["soundfile"]
        return lambda: (decode(sample["audio"]["bytes"]) for sample in dataset)

    def settings(self, cores: int) -> list[Settings]:
        """With its documented decoder too."""
        documented = [Settings(workers=cores, decoder="torchcodec")] if has_ffmpeg() else []
        return [*super().settings(cores), *documented]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Map-style, in `DataLoader`."""
        return _Mapped(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """A table at once."""
        import datasets

        datasets.Dataset(_tiny(range(samples))).save_to_disk(str(folder))

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """`load_from_disk`."""
        import datasets

        return datasets.load_from_disk(str(folder))[0]

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first by a sampler of torch's, as its loader has it."""
        import datasets
        from torch.utils.data import RandomSampler

        dataset = datasets.load_from_disk(str(folder))
        return dataset[next(iter(RandomSampler(dataset)))]


class HFParquet(HFArrow):
    """`to_parquet`, `load_dataset("parquet", streaming=True)`, `shuffle(buffer_size=1000)`."""

    name = "datasets, parquet streaming"
    notes = (
        "documented decoding is torchcodec's; Audio(decode=False) and soundfile were faster. The "
        "5 s that it sleeps at the end of each shuffled pass are switched off"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Several files, since files are what workers share."""
        cache = folder.with_name(folder.name + ".cache")
        dataset = _generated(corpus, cache)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(_PARQUET_FILES):
            part = dataset.shard(_PARQUET_FILES, number, contiguous=True)
            part.to_parquet(str(folder / f"part-{number:05d}.parquet"))
        _remove(cache)

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Iterate, audio left as bytes."""
        dataset = _streamed(folder, shuffle=shuffle)
        return lambda: (sample["audio"]["bytes"] for sample in dataset)

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """A stream has none."""
        return System.random(self, folder)

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """Iterate and decode."""
        dataset, decode = _streamed(folder, shuffle=False), DECODERS["soundfile"]
        return lambda: (decode(sample["audio"]["bytes"]) for sample in dataset)

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Iterable, in `DataLoader`."""
        return _Streamed(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """Files of up to 50,000."""
        from pyarrow import parquet

        folder.mkdir(parents=True, exist_ok=True)
        most = min(samples, 50_000)
        for first in range(0, samples, most):
            table = _tiny(range(first, first + most))
            parquet.write_table(table, folder / f"part-{first // most:05d}.parquet")

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of an iteration."""
        return next(iter(_files(folder)))

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The same, shuffled in its buffer."""
        return next(iter(_files(folder).shuffle(seed=0, buffer_size=1000)))


def _tiny(numbers: range) -> Any:  # noqa: ANN401
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    column = pa.array(np.arange(numbers.start, numbers.stop))
    text = compute.binary_join_element_wise("number", column.cast(pa.string()), " ")
    return pa.table({"number": column, "text": text})


def _generated(corpus: Corpus, cache: Path) -> Any:  # noqa: ANN401
    import datasets

    datasets.disable_progress_bars()
    text = datasets.Value("string")
    # As `Audio` stores it: that itself asks for torchcodec, thus for FFmpeg, when it encodes.
    audio = {"bytes": datasets.Value("binary"), "path": text}
    dataset = datasets.Dataset.from_generator(
        _samples,
        gen_kwargs={"entries": corpus.entries},
        features=datasets.Features({"key": text, "audio": audio, "text": text, "speaker": text}),
        cache_dir=str(cache),
    )
    return dataset.cast_column("audio", datasets.Audio(decode=False))


def _samples(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        path = Path(entry["audio_filepath"])
        audio = {"bytes": path.read_bytes(), "path": path.name}
        fields = {"text": entry["text"], "speaker": entry["speaker"]}
        yield {"key": path.stem, "audio": audio, **fields}


def _remove(cache: Path) -> None:
    import shutil

    shutil.rmtree(cache, ignore_errors=True)


def _loaded(folder: Path) -> Any:  # noqa: ANN401
    import datasets

    dataset = datasets.load_from_disk(str(folder))
    return dataset.cast_column("audio", datasets.Audio(decode=False))


def _streamed(folder: Path, *, shuffle: bool) -> Any:  # noqa: ANN401
    import datasets

    # It waits for threads of pyarrow to end; they have. That would be most of a short epoch.
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    dataset = _files(folder).cast_column("audio", datasets.Audio(decode=False))
    return dataset.shuffle(seed=0, buffer_size=1000) if shuffle else dataset


def _files(folder: Path) -> Any:  # noqa: ANN401
    import datasets

    files = sorted(map(str, folder.glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


class _Mapped(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        from torch.utils.data.distributed import DistributedSampler

        from benchmarks.peers.batches import data_loader

        dataset = _loaded(folder)
        rank, world_size = place()
        sampler: DistributedSampler[Any] | None = None
        if world_size > 1:
            sampler = DistributedSampler(dataset, world_size, rank, shuffle=wish.shuffle)
        self._loader = data_loader(
            dataset,
            stateful=wish.stateful,
            batch_size=wish.batch_size,
            shuffle=wish.shuffle if sampler is None else None,
            sampler=sampler,
            num_workers=settings.workers,
            collate_fn=_Collate(settings.decoder),
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


class _Streamed(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        from datasets.distributed import split_dataset_by_node

        from benchmarks.peers.batches import data_loader

        self._dataset = _streamed(folder, shuffle=wish.shuffle)
        rank, world_size = place()
        if world_size > 1:
            self._dataset = split_dataset_by_node(self._dataset, rank, world_size)
        self._epoch = 0
        self._loader = data_loader(
            self._dataset,
            stateful=wish.stateful,
            batch_size=wish.batch_size,
            num_workers=settings.workers,
            collate_fn=_Collate(settings.decoder),
        )

    def __iter__(self) -> Iterator[Batch]:
        self._dataset.set_epoch(self._epoch)
        self._epoch += 1
        return iter(self._loader)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


class _Collate:
    """Decoding happens here because a mapped dataset gives bytes, and a map would store arrays."""

    def __init__(self, decoder: str) -> None:
        self._decode = DECODERS[decoder]

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        from benchmarks.peers.batches import pad

        return pad([(sample["key"], self._decode(sample["audio"]["bytes"])) for sample in samples])
