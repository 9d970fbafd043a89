# mypy: disable-error-code="import-not-found, import-untyped"
"""webdataset: tar files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.system import SHARD_BYTES, Batch, Loader, Settings, System, Wish, place

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["WebDataset", "write_tar"]

_BUFFER = 1000
"""Of `shuffle`, as in its README."""


class WebDataset(System):
    """`ShardWriter`, `WebDataset(...).shuffle(1000)`, `WebLoader`."""

    name = "webdataset"
    distributions = ("webdataset",)
    modules = ("webdataset",)
    notes = (
        "shards are the unit of splitting, so there are at least four of them, however small the "
        "corpus; shuffles in a buffer of 1000 samples"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Tar files of 64 MiB, and smaller for a small corpus."""
        write_tar(corpus, folder)

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Iterate, audio left as bytes."""
        dataset = _dataset(folder, shuffle=shuffle)
        return lambda: (_audio(sample) for sample in dataset)

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """Iterate and decode."""
        dataset, decode = _dataset(folder, shuffle=False), DECODERS["soundfile"]
        return lambda: (decode(_audio(sample)) for sample in dataset)

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`WebLoader` over a dataset that batches in the workers."""
        return _Loader(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """One shard of up to 10,000 samples, linked under as many names as it takes."""
        import webdataset

        folder.mkdir(parents=True, exist_ok=True)
        most = min(samples, 10_000)
        first = folder / "shard-000000.tar"
        with webdataset.TarWriter(str(first)) as writer:
            for number in range(most):
                fields = {"txt": f"number {number}", "cls": number}
                writer.write({"__key__": f"sample-{number:08d}", **fields})
        for shard in range(1, samples // most):
            (folder / f"shard-{shard:06d}.tar").hardlink_to(first)

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of an iteration: there is no index to open."""
        return next(iter(_dataset(folder, shuffle=False)))

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The same, shuffled in its buffer."""
        return next(iter(_dataset(folder, shuffle=True)))


def write_tar(corpus: Corpus, folder: Path) -> None:
    """Shards whose samples have audio, text and speaker."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / "shard-%06d.tar")
    size = min(SHARD_BYTES, max(1, corpus.bytes // 4))
    with webdataset.ShardWriter(pattern, maxsize=size, verbose=0) as writer:
        for entry in corpus.entries:
            path = Path(entry["audio_filepath"])
            writer.write(
                {
                    "__key__": path.stem,
                    path.suffix[1:]: path.read_bytes(),
                    "txt": entry["text"],
                    "speaker.txt": entry["speaker"],
                }
            )


def _dataset(folder: Path, *, shuffle: bool) -> Any:  # noqa: ANN401
    import webdataset

    warnings.filterwarnings("ignore", module="webdataset")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    options = {} if place()[1] == 1 else {"nodesplitter": webdataset.split_by_node}
    dataset = webdataset.WebDataset(urls, shardshuffle=100 if shuffle else False, **options)
    return dataset.shuffle(_BUFFER) if shuffle else dataset


def _audio(sample: dict[str, Any]) -> bytes:
    for suffix in ("flac", "wav", "opus", "mp3"):
        if suffix in sample:
            data: bytes = sample[suffix]
            return data
    raise KeyError("no audio in a sample")


class _Loader(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        import webdataset

        from benchmarks.peers.batches import pad

        decode = DECODERS[settings.decoder]

        def named(sample: dict[str, Any]) -> tuple[str, np.ndarray]:
            return sample["__key__"], decode(_audio(sample))

        dataset = _dataset(folder, shuffle=wish.shuffle).map(named)
        dataset = dataset.batched(wish.batch_size, pad)
        self._loader = webdataset.WebLoader(
            dataset,
            batch_size=None,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)
