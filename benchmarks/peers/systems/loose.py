"""Loaders written by hand: over loose files with workers, and over py-lmdb with threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.system import Batch, Loader, Settings, System, Wish, place
from benchmarks.peers.systems.bare import BareLmdb, PlainFiles

if TYPE_CHECKING:
    import lmdb
    import numpy as np

__all__ = ["ByHandOverLmdb", "LooseFiles"]


class LooseFiles(PlainFiles):
    """A map-style Dataset that opens a file for each clip, in `DataLoader` workers.

    Args:
        decoder: Of `DECODERS`. AudioMDB's own has a row of its own.
    """

    kind = "by hand"
    distributions = ("torch", "soundfile", "torchdata")
    notes = "nothing is converted; a file system offers no more than reading by name"
    dataset_of = "files"

    def __init__(self, decoder: str = "soundfile") -> None:
        self._decoder = decoder
        usual = decoder == "soundfile"
        self.name = "torch Dataset, loose files" + ("" if usual else f", {decoder}")
        self.takes_part_in = ("raw", "decoded", "loader") if usual else ("loader",)
        self.twin = not usual

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """soundfile, on paths."""
        import soundfile

        paths = self.paths(folder)
        return lambda: (soundfile.read(path, dtype="float32")[0] for path in paths)

    def settings(self, cores: int) -> list[Settings]:
        """Worker processes."""
        return [replace(each, decoder=self._decoder) for each in System.settings(self, cores)]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`DataLoader` with workers that stay."""
        return _Workers(self.paths(folder), settings, wish)


class _Workers(Loader):
    def __init__(self, paths: list[str], settings: Settings, wish: Wish) -> None:
        from torch.utils.data import Dataset
        from torch.utils.data.distributed import DistributedSampler

        from benchmarks.peers.batches import data_loader, pad

        decode = DECODERS[settings.decoder]

        class Clips(Dataset[Any]):
            def __len__(self) -> int:
                return len(paths)

            def __getitem__(self, position: int) -> tuple[str, np.ndarray]:
                path = paths[position]
                return Path(path).stem, decode(Path(path).read_bytes())

        clips = Clips()
        rank, world_size = place()
        sampler: DistributedSampler[Any] | None = None
        if world_size > 1:
            sampler = DistributedSampler(clips, world_size, rank, shuffle=wish.shuffle)
        self._loader = data_loader(
            clips,
            stateful=wish.stateful,
            batch_size=wish.batch_size,
            shuffle=wish.shuffle if sampler is None else None,
            sampler=sampler,
            num_workers=settings.workers,
            collate_fn=pad,
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


class ByHandOverLmdb(BareLmdb):
    """What an expert would write: py-lmdb, a pool of threads, batches padded in the loop.

    An upper bound for a loader that also has shards, checks, ranks and a state.
    """

    name = "py-lmdb and threads"
    kind = "by hand"
    distributions = ("lmdb", "torch")
    notes = "dr_flac in threads; no shards, no checks, no ranks, no state"
    dataset_of = "lmdb"
    takes_part_in = ("loader",)
    splits = False

    def settings(self, cores: int) -> list[Settings]:
        """Threads."""
        return [Settings(threads=n, decoder="dr_flac") for n in range(1, 2 * cores + 1)]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Batches from a pool of threads."""
        return _Threads(self.open(folder), settings, wish)


class _Threads(Loader):
    def __init__(self, environment: lmdb.Environment, settings: Settings, wish: Wish) -> None:
        self._environment = environment
        with environment.begin() as transaction:
            self._keys = list(transaction.cursor().iternext(values=False))
        self._threads = settings.threads
        self._decode = DECODERS[settings.decoder]
        self._wish = wish

    def __iter__(self) -> Iterator[Batch]:
        import torch

        from benchmarks.peers.batches import pad_rows

        keys, size = self._keys, self._wish.batch_size
        order = torch.randperm(len(keys)) if self._wish.shuffle else torch.arange(len(keys))
        ahead = iter([keys[i] for i in order.tolist()])

        def load(key: bytes) -> tuple[str, np.ndarray]:
            with self._environment.begin(buffers=True) as transaction:
                return key.decode(), self._decode(transaction.get(key, b""))  # type: ignore[arg-type]

        waiting: deque[Future[tuple[str, np.ndarray]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            waiting.extend(pool.submit(load, key) for key in islice(ahead, 3 * size))
            batch = []
            while waiting:
                batch.append(waiting.popleft().result())
                waiting.extend(pool.submit(load, key) for key in islice(ahead, 1))
                if len(batch) == size or not waiting:
                    yield pad_rows(batch)
                    batch = []
