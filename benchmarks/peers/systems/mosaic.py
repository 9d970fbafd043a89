# mypy: disable-error-code="import-not-found, import-untyped"
"""mosaicml-streaming: MDS shards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS
from benchmarks.peers.system import Batch, Loader, Settings, System, Wish

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["Mosaic", "library"]

_COLUMNS = {"key": "str", "audio": "bytes", "text": "str", "speaker": "str"}
_TINY_SHARD = 50_000


class Mosaic(System):
    """`MDSWriter`, `StreamingDataset(local=...)`, `StreamingDataLoader`."""

    name = "mosaicml-streaming"
    distributions = ("mosaicml-streaming",)
    notes = (
        "no audio type: a bytes column, decoded in `__getitem__`; one process writes, with one "
        "hash (sha1)"
    )

    def prepare(self) -> None:
        """Import it."""
        library()

    def write(self, corpus: Corpus, folder: Path) -> None:
        """One process; its guide has more of them write parts and merges their indexes."""
        MDSWriter = library().MDSWriter  # noqa: N806 (a class)
        with MDSWriter(out=str(folder), columns=_COLUMNS, hashes=["sha1"]) as writer:
            for entry in corpus.entries:
                path = Path(entry["audio_filepath"])
                fields = {"text": entry["text"], "speaker": entry["speaker"]}
                writer.write({"key": path.stem, "audio": path.read_bytes(), **fields})

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Iterate the dataset."""
        dataset = _dataset(folder, shuffle=shuffle)
        return lambda: (sample["audio"] for sample in dataset)

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """`dataset[i]`."""
        dataset = _dataset(folder)
        return lambda position: dataset[position]["audio"]

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """Iterate and decode."""
        dataset, decode = _dataset(folder), DECODERS["soundfile"]
        return lambda: (decode(sample["audio"]) for sample in dataset)

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`StreamingDataLoader`."""
        return _Loader(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """One shard, linked under as many names as it takes."""
        MDSWriter = library().MDSWriter  # noqa: N806 (a class)
        most = min(samples, _TINY_SHARD)
        columns = {"number": "int", "text": "str"}
        with MDSWriter(out=str(folder), columns=columns) as writer:
            for number in range(most):
                writer.write({"number": number, "text": f"number {number}"})
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        (first,) = index["shards"]
        data = folder / first["raw_data"]["basename"]
        for shard in range(1, samples // most):
            name = f"shard.{shard:05d}.mds"
            (folder / name).hardlink_to(data)
            again = {**first, "raw_data": {**first["raw_data"], "basename": name}}
            index["shards"].append(again)
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first sample."""
        return _dataset(folder)[0]

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of an iteration."""
        return next(iter(_dataset(folder, shuffle=True)))


def library() -> Any:  # noqa: ANN401
    """`streaming`, which imports torchvision for its datasets of images, and cannot without.

    PyPI's wheels of torchvision are for CUDA builds of torch. Beside a CPU build an empty module
    takes its place: nothing here looks at images. It also starts faster, to its advantage.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            module = ModuleType(f"torchvision{name}")
            module.__spec__ = ModuleSpec(module.__name__, None)
            vars(module).update(__path__=[], to_tensor=None, VisionDataset=object)
            sys.modules[module.__name__] = module
    return import_module("streaming")


def _dataset(folder: Path, **options: Any) -> Any:  # noqa: ANN401
    return library().StreamingDataset(local=str(folder), batch_size=1, **options)


class _Loader(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        streaming = library()
        decode = DECODERS[settings.decoder]

        class Clips(streaming.StreamingDataset):  # type: ignore[misc,name-defined]
            def __getitem__(self, position: int) -> tuple[str, np.ndarray]:
                sample = super().__getitem__(position)
                return sample["key"], decode(sample["audio"])

        dataset = Clips(local=str(folder), batch_size=wish.batch_size, shuffle=wish.shuffle)
        self._loader = streaming.StreamingDataLoader(
            dataset,
            batch_size=wish.batch_size,
            num_workers=settings.workers,
            collate_fn=_padded,
            persistent_workers=settings.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield Batch(*batch)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


def _padded(clips: list[tuple[str, np.ndarray]]) -> tuple[Any, ...]:
    """As a tuple: its loader counts a batch by its first element."""
    from benchmarks.peers.batches import pad

    batch = pad(clips)
    return batch.audio, batch.lengths, batch.keys
