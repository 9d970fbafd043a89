# mypy: disable-error-code="import-not-found, import-untyped"
"""litdata: optimized chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.decoders import DECODERS, has_ffmpeg
from benchmarks.peers.system import Batch, Loader, Settings, System, Wish

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["LitData"]

_TINY_CHUNK = 50_000


class LitData(System):
    """`optimize` with `Audio(path=...)`, `StreamingDataset`, `StreamingDataLoader`."""

    name = "litdata"
    distributions = ("litdata",)
    modules = ("litdata",)
    notes = (
        "documented decoding is torchcodec's; bytes and soundfile were faster. Its question to "
        "PyPI, whether it is up to date, is switched off"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """`optimize`, chunks of 64 MB, as many workers as cores (its default)."""
        from litdata import optimize

        optimize(
            fn=_sample,
            inputs=corpus.entries,
            output_dir=str(folder),
            chunk_bytes="64MB",
            num_workers=os.cpu_count(),
            verbose=False,
        )

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """Iterate the dataset, audio left as bytes."""
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

    def settings(self, cores: int) -> list[Settings]:
        """With its documented decoder too."""
        documented = [Settings(workers=cores, decoder="torchcodec")] if has_ffmpeg() else []
        return [*super().settings(cores), *documented]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """`StreamingDataLoader`; `transform` decodes."""
        return _Loader(folder, settings, wish)

    def write_tiny(self, folder: Path, samples: int) -> None:
        """One chunk, linked under as many names as it takes."""
        from litdata import optimize

        most = min(samples, _TINY_CHUNK)
        optimize(
            fn=_tiny,
            inputs=list(range(most)),
            output_dir=str(folder),
            chunk_size=most,
            num_workers=1,
            verbose=False,
        )
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        (first,) = index["chunks"]
        data = folder / first["filename"]
        for chunk in range(1, samples // most):
            name = f"chunk-0-{chunk}.bin"
            (folder / name).hardlink_to(data)
            index["chunks"].append({**first, "filename": name})
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first sample."""
        from litdata import StreamingDataset

        return StreamingDataset(str(folder))[0]

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of an iteration."""
        from litdata import StreamingDataset

        return next(iter(StreamingDataset(str(folder), shuffle=True)))


def _sample(entry: dict[str, Any]) -> dict[str, Any]:
    from litdata import Audio

    path = Path(entry["audio_filepath"])
    return {
        "key": path.stem,
        "audio": Audio(path=str(path)),
        "text": entry["text"],
        "speaker": entry["speaker"],
    }


def _tiny(number: int) -> dict[str, Any]:
    return {"number": number, "text": f"number {number}"}


def _dataset(folder: Path, **options: Any) -> Any:  # noqa: ANN401
    from litdata import StreamingDataset
    from litdata.streaming.serializers import AudioSerializer

    as_bytes = {"audio": AudioSerializer(decode="bytes")}
    return StreamingDataset(str(folder), serializers=as_bytes, **options)


class _Loader(Loader):
    def __init__(self, folder: Path, settings: Settings, wish: Wish) -> None:
        from litdata import StreamingDataLoader

        from benchmarks.peers.batches import pad

        decode = DECODERS[settings.decoder]

        def named(sample: dict[str, Any]) -> tuple[str, np.ndarray]:
            return sample["key"], decode(sample["audio"])

        dataset = _dataset(folder, shuffle=wish.shuffle, transform=named)
        self._loader = StreamingDataLoader(
            dataset,
            batch_size=wish.batch_size,
            num_workers=settings.workers,
            collate_fn=pad,
            persistent_workers=settings.workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)
