# mypy: disable-error-code="import-not-found, import-untyped"
"""lhotse: Shar, and its samplers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.peers.system import (
    Batch,
    Loader,
    Settings,
    System,
    Wish,
    place,
)

if TYPE_CHECKING:
    import numpy as np

    from benchmarks.corpus import Corpus

__all__ = ["LhotseBuckets", "LhotseShar"]

_SHARDS = 8
"""At least, so that workers have something to share."""

_TINY_SHARD = 50_000


class LhotseShar(System):
    """`to_shar`, `from_shar`, `DynamicCutSampler(max_cuts=...)` in an `IterableDatasetWrapper`."""

    name = "lhotse Shar"
    distributions = ("lhotse",)
    modules = ("lhotse",)
    keeps_bytes = False
    notes = (
        "decodes and encodes audio when writing; uncompressed manifests, so that its index works; "
        "samples are drawn in the workers"
    )

    def write(self, corpus: Corpus, folder: Path) -> None:
        """In the corpus's own encoding, by as many jobs as cores."""
        from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

        warnings.simplefilter("ignore")
        folder.mkdir(parents=True, exist_ok=True)
        cuts = []
        for entry in corpus.entries:
            path = Path(entry["audio_filepath"])
            recording = Recording.from_file(path, recording_id=path.stem)
            words = SupervisionSegment(
                path.stem,
                path.stem,
                0,
                recording.duration,
                0,
                entry["text"],
                speaker=entry["speaker"],
            )
            cut = MonoCut(path.stem, 0, recording.duration, 0, [words], recording=recording)
            cuts.append(cut)
        CutSet.from_cuts(cuts).to_shar(
            folder,
            fields={"recording": corpus.paths[0].suffix[1:]},
            shard_size=max(1, min(1000, len(cuts) // _SHARDS)),
            num_jobs=os.cpu_count() or 1,
            compress_jsonl=False,
            create_index=True,
        )
        for leftover in folder.glob("*.jsonl.gz"):
            leftover.unlink()  # of splitting among jobs; its reader would take them for shards

    def raw(self, folder: Path, *, shuffle: bool) -> Callable[[], Iterable[bytes]]:
        """The bytes that a cut carries."""
        cuts = _cuts(folder, shuffle_shards=shuffle)
        return lambda: (cut.recording.sources[0].source for cut in cuts)

    def random(self, folder: Path) -> Callable[[int], bytes]:
        """`cuts[i]`, by its index."""
        cuts = _cuts(folder, indexed=True)
        return lambda position: cuts[position].recording.sources[0].source

    def decoded(self, folder: Path) -> Callable[[], Iterable[np.ndarray]]:
        """`load_audio`."""
        cuts = _cuts(folder)
        return lambda: (cut.load_audio()[0] for cut in cuts)

    def settings(self, cores: int) -> list[Settings]:
        """Its own decoder."""
        return [Settings(workers=each.workers) for each in super().settings(cores)]

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Batches of a number of cuts."""
        return _Loader(folder, settings, wish, {"max_cuts": wish.batch_size})

    def write_tiny(self, folder: Path, samples: int) -> None:
        """One manifest with its index, linked under as many names as it takes."""
        from lhotse import CutSet, MonoCut

        folder.mkdir(parents=True, exist_ok=True)
        most = min(samples, _TINY_SHARD)
        cuts = (MonoCut(f"cut-{n}", 0, 1, 0, custom={"number": n}) for n in range(most))
        CutSet(cuts).to_shar(folder, {}, shard_size=most, compress_jsonl=False, create_index=True)
        for shard in range(1, samples // most):
            for suffix in ("jsonl", "jsonl.idx"):
                name = folder / f"cuts.{shard:06d}.{suffix}"
                name.hardlink_to(folder / f"cuts.000000.{suffix}")

    def open_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first by its index."""
        return _cuts(folder, indexed=True)[0]

    def shuffle_tiny(self, folder: Path) -> Any:  # noqa: ANN401
        """The first of a shuffled iteration."""
        return next(iter(_cuts(folder, indexed=True, shuffle_shards=True)))


class LhotseBuckets(LhotseShar):
    """The same with `DynamicBucketingSampler`: batches of similar lengths and equal seconds."""

    name = "lhotse Shar, buckets"
    dataset_of = "lhotse"
    takes_part_in = ("loader",)
    splits = False  # as the other does
    notes = "batches of as many seconds as 16 clips have on average, so less padding"

    def loader(self, folder: Path, settings: Settings, wish: Wish) -> Loader:
        """Batches of a number of seconds."""
        first = next(iter(_cuts(folder)))
        seconds = wish.batch_size * (8.3 if first.sampling_rate == 16_000 else 0.45)
        return _Loader(folder, settings, wish, {"max_duration": seconds, "num_buckets": 10})


def _cuts(folder: Path, **options: Any) -> Any:  # noqa: ANN401
    from lhotse import CutSet

    warnings.simplefilter("ignore")
    return CutSet.from_shar(in_dir=folder, **options)


class _Loader(Loader):
    def __init__(
        self, folder: Path, settings: Settings, wish: Wish, options: dict[str, Any]
    ) -> None:
        from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
        from lhotse.dataset.dataloading import make_worker_init_fn
        from lhotse.dataset.iterable_dataset import IterableDatasetWrapper

        from benchmarks.peers.batches import data_loader

        rank, world_size = place()
        kind = DynamicBucketingSampler if "max_duration" in options else DynamicCutSampler
        cuts = _cuts(folder, shuffle_shards=wish.shuffle, split_for_dataloading=True, seed=0)
        # The cuts are split over ranks and workers, so each sampler is alone.
        sampler = kind(cuts, shuffle=wish.shuffle, rank=0, world_size=1, **options)
        dataset = IterableDatasetWrapper(_Padding(), sampler, auto_increment_epoch=True)
        self._loader = data_loader(
            dataset,
            stateful=wish.stateful,
            batch_size=None,
            num_workers=settings.workers,
            worker_init_fn=make_worker_init_fn(rank=rank, world_size=world_size),
        )

    def __iter__(self) -> Iterator[Batch]:
        for audio, lengths, keys in self._loader:
            yield Batch(audio, lengths, keys)

    def state(self) -> Any:  # noqa: ANN401
        return self._loader.state_dict()

    def resume(self, state: Any) -> None:  # noqa: ANN401
        self._loader.load_state_dict(state)


class _Padding:
    """What a training dataset of lhotse does, audio alone."""

    def __getitem__(self, cuts: Any) -> tuple[Any, Any, list[str]]:  # noqa: ANN401
        from lhotse.dataset.collation import collate_audio

        audio, lengths = collate_audio(cuts)
        return audio, lengths, [cut.id for cut in cuts]
