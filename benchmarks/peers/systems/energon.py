# mypy: disable-error-code="import-not-found, untyped-decorator, misc"
"""Megatron-Energon: tar files with an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.system import (
    Batch,
    Loader,
    Settings,
    System,
    Wish,
    place,
)
from benchmarks.peers.systems.webdataset import write_tar

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus

__all__ = ["Energon"]

_DATASET = """\
__module__: megatron.energon
__class__: CrudeWebdataset
"""


class Energon(System):
    """`energon prepare` over webdataset's shards, `get_train_dataset`, `get_savable_loader`."""

    name = "energon"
    distributions = ("megatron-energon",)
    exact_epochs = False
    modules = ("webdataset", "megatron.energon", "megatron.energon.flavors")
    notes = (
        "a crude dataset, decoded by soundfile in its task encoder; shuffle buffer of 1000; its "
        "loop has no epochs, a pass is as many batches as one would have"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """Webdataset's shards and, as `energon prepare` does, an index of them."""
        from megatron.energon.flavors import BaseWebdatasetFactory

        write_tar(corpus, folder)
        BaseWebdatasetFactory.prepare_dataset(
            folder,
            [path.name for path in sorted(folder.glob("*.tar"))],
            split_parts_ratio=[("train", 1), ("val", 0), ("test", 0)],
            shuffle_seed=None,
            workers=os.cpu_count() or 1,
        )
        (folder / ".nv-meta" / "dataset.yaml").write_text(_DATASET, encoding="utf-8")

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Its loader without batches, audio left as bytes; in order, that of its validation."""
        from megatron.energon import get_loader

        loader = get_loader(_dataset(folder, Settings(), None, shuffle=shuffle))
        if not shuffle:
            return lambda: (sample["audio"] for sample in loader)
        count = _samples(folder)

        def read() -> Iterator[bytes]:
            samples = iter(loader)
            for _ in range(count):
                yield next(samples)["audio"]

        return read

    def decoded(self, folder: Path) -> Callable[[], Iterable[Any]]:
        """The same, decoded."""
        clips, decode = self.raw(folder, shuffle=False), DECODERS["soundfile"]
        return lambda: map(decode, clips())

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`get_savable_loader`."""
        return _Loader(folder, settings, wish)


def _samples(folder: Path) -> int:
    import json

    found = json.loads((folder / ".nv-meta" / ".info.json").read_text(encoding="utf-8"))
    return sum(found["shard_counts"].values())


def _dataset(folder: Path, settings: Settings, batch_size: int | None, *, shuffle: bool) -> Any:  # noqa: ANN401
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_train_dataset,
        get_val_dataset,
        stateless,
    )

    from benchmarks.peers.batches import pad

    decode = DECODERS[settings.decoder] if settings.decoder else None

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        audio = next(sample[name] for name in ("flac", "wav", "opus", "mp3") if name in sample)
        return {**{name: sample[name] for name in sample if name.startswith("__")}, "audio": audio}

    class Encoder(DefaultTaskEncoder):
        decoder = None
        cookers = (Cooker(cook),)

        @stateless
        def encode_sample(self, sample: dict[str, Any]) -> dict[str, Any]:
            # Behind the shuffle buffer, which would hold decoded audio otherwise.
            return {**sample, "audio": decode(sample["audio"])} if decode else sample

        @stateless
        def batch(self, samples: list[dict[str, Any]]) -> Any:  # noqa: ANN401
            return pad([(sample["__key__"], sample["audio"]) for sample in samples])

    rank, world_size = place()
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "worker_config": WorkerConfig(
            rank=rank, world_size=world_size, num_workers=settings.workers
        ),
        "task_encoder": Encoder(),
    }
    if not shuffle:
        return get_val_dataset(folder, split_part="train", **options)
    return get_train_dataset(
        folder, shuffle_buffer_size=1000, max_samples_per_sequence=100, **options
    )


class _Loader(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        from megatron.energon import get_savable_loader

        self._batches = -(-_samples(folder) // (wish.batch_size * place()[1]))
        dataset = _dataset(folder, settings, wish.batch_size, shuffle=wish.shuffle)
        self._loader = get_savable_loader(dataset)
        self._shuffle = wish.shuffle
        self._running: Iterator[Batch] | None = None
        self._taken = 0

    def __iter__(self) -> Iterator[Batch]:
        if not self._shuffle:
            yield from self._loader
            return
        if self._running is None:
            self._running = iter(self._loader)
        while self._taken < self._batches:
            self._taken += 1
            yield next(self._running)
        self._taken = 0

    def state(self) -> Any:  # noqa: ANN401
        return self._taken, self._loader.save_state_rank()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._taken, own = state
        self._loader.restore_state_rank(own)
