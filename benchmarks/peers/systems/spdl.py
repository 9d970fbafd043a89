# mypy: disable-error-code="import-not-found, import-untyped"
"""SPDL: a pipeline of threads over loose files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS, has_ffmpeg
from benchmarks.peers.system import Batch, Loader, Settings, Wish, place
from benchmarks.peers.systems.bare import PlainFiles

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Spdl"]


class Spdl(PlainFiles):
    """`DistributedRandomSampler` and `PipelineBuilder`: decode in threads, aggregate, collate.

    Args:
        decoder: Of `DECODERS`: AudioMDB's own, in a row of its own. None: its own, or the usual.
    """

    distributions = ("spdl-core", "spdl-io")
    modules = ("spdl.pipeline", "spdl.source.utils")
    notes = (
        "nothing is converted; threads decode by spdl.io.load_audio (FFmpeg), which it documents, "
        "or by libsndfile; batches are of the clips that were done first; a pipeline is built "
        "for each epoch"
    )
    dataset_of = "files"

    def __init__(self, decoder: str | None = None) -> None:
        self._decoder = decoder
        self.name = "SPDL, loose files" + ("" if decoder is None else f", {decoder}")
        self.kind = "peer" if decoder is None else "by hand"
        self.takes_part_in = ("decoded", "loader") if decoder is None else ("loader",)
        self.twin = decoder is not None

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """`load_audio`, on paths."""
        paths, decode = self.paths(folder), _decoder("" if has_ffmpeg() else "soundfile")
        return lambda: map(decode, paths)

    def settings(self, cores: int) -> list[Settings]:
        """Threads, with each decoder there is: its own where FFmpeg is, and libsndfile."""
        own = ["", "soundfile"] if has_ffmpeg() else ["soundfile"]
        decoders = own if self._decoder is None else [self._decoder]
        numbers = range(1, 2 * cores + 1)
        return [Settings(threads=n, decoder=decoder) for decoder in decoders for n in numbers]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """A pipeline."""
        return _Pipeline(self.paths(folder), settings, wish)


class _Pipeline(Loader):
    def __init__(self, paths: list[str], settings: Settings, wish: Wish) -> None:
        from spdl.source import DistributedDeterministicSampler, DistributedRandomSampler
        from spdl.source.utils import embed_shuffle

        rank, world_size = place()
        if wish.shuffle:
            random = DistributedRandomSampler(len(paths), rank=rank, world_size=world_size)
            self._source = embed_shuffle(random)
        else:
            self._source = DistributedDeterministicSampler(
                len(paths), rank=rank, world_size=world_size
            )
        self._paths = paths
        self._decode = _decoder(settings.decoder)
        self._threads = settings.threads or 1
        self._batch_size = wish.batch_size

    def __iter__(self) -> Iterator[Batch]:
        from spdl.pipeline import PipelineBuilder

        from benchmarks.peers.batches import pad_rows

        pipeline = (
            PipelineBuilder()
            .add_source(self._source)
            .pipe(self._load, concurrency=self._threads)
            .aggregate(self._batch_size)
            .pipe(pad_rows)
            .add_sink(3)
            .build(num_threads=self._threads)
        )
        with pipeline.auto_stop():
            yield from pipeline

    def _load(self, position: int) -> tuple[str, np.ndarray]:
        path = self._paths[position]
        return Path(path).stem, self._decode(path)


def _decoder(name: str) -> Callable[[str], Any]:
    """From a path to samples."""
    if name:
        decode = DECODERS[name]
        return lambda path: decode(Path(path).read_bytes())
    import spdl.io

    return lambda path: spdl.io.to_numpy(spdl.io.load_audio(path))[0]
