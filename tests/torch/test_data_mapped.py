"""A dataset by number, for samplers."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.data.mapped import MapView
from audiomdb.errors import CorruptRecordError, PlanError, UnknownColumnError, UnknownKeyError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from tests.core.caches import CopyRetriever
from tests.torch.clips import keys

CLIPS = 50
NAMES = [f"{i:02d}" for i in range(CLIPS)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i, name in enumerate(NAMES):
            audio = np.full(800 + 80 * i, i / 64, np.float32)
            fields = {"audio": audio, "sample_rate": 8000, "text": name, "speaker": i % 3}
            writer.write(name, fields)
    return path


@pytest.fixture(scope="module")
def view(path: Path) -> MapView:
    return StreamingDataset(LocalRetriever(path), shuffle=True).as_map()


def test_numbers_and_keys_give_samples_in_stored_order(view: MapView) -> None:
    assert len(view) == CLIPS
    assert [view[i]["text"] for i in range(CLIPS)] == NAMES
    assert view[-1]["text"] == "49"
    assert view["07"]["speaker"] == 1
    assert view[np.int64(3)]["text"] == "03"
    for number in (CLIPS, -CLIPS - 1):
        with pytest.raises(IndexError, match=f"sample {number} is outside of 50"):
            view[number]
    with pytest.raises(UnknownKeyError):
        view["99"]
    assert "07" in view
    assert "99" not in view
    assert view[7] not in view


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_distributed_sampler_gives_every_sample_once(view: MapView, num_workers: int) -> None:
    found: Counter[str] = Counter()
    for rank in range(2):
        sampler: DistributedSampler[Any] = DistributedSampler(view, 2, rank, seed=1)
        found.update(keys(DataLoader(view, 8, sampler=sampler, num_workers=num_workers)))
    assert found == Counter(NAMES)


def test_batches_keep_the_order_of_the_sampler(view: MapView) -> None:
    numbers = [[30, 2, 49, 2], [0, 41]]
    loader = DataLoader(view, batch_sampler=numbers)
    assert [batch["__key__"] for batch in loader] == [["30", "02", "49", "02"], ["00", "41"]]
    random = BatchSampler(RandomSampler(view), 16, drop_last=False)
    assert sorted(keys(DataLoader(view, batch_sampler=random))) == NAMES


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_map_view_reaches_workers_of_every_start_method(view: MapView, start_method: str) -> None:
    loader = DataLoader(view, 10, num_workers=2, multiprocessing_context=start_method)
    assert keys(loader) == NAMES
    assert len(pickle.loads(pickle.dumps(view))) == CLIPS


def test_a_map_view_applies_filters_to_samples_and_columns(path: Path) -> None:
    dataset = StreamingDataset(
        LocalRetriever(path), min_duration=0.2, where=lambda index: index["speaker"] == 0
    )
    view = dataset.as_map()
    kept = [i for i in range(10, CLIPS) if i % 3 == 0]
    assert len(view) == len(kept)
    assert [view[i]["text"] for i in range(len(view))] == [NAMES[i] for i in kept]
    assert view.column("frames").tolist() == [800 + 80 * i for i in kept]
    assert view.durations.tolist() == pytest.approx([0.1 + 0.01 * i for i in kept])
    assert view["01"]["text"] == "01"
    with pytest.raises(UnknownColumnError):
        view.column("mood")


def test_columns_of_a_map_view_belong_to_the_caller(view: MapView) -> None:
    frames, durations = view.column("frames"), view.durations
    expected = frames.tolist(), durations.tolist()
    frames[::-1].sort()
    durations[:] = 0
    assert (view.column("frames").tolist(), view.durations.tolist()) == expected


def test_a_map_view_numbers_several_datasets_consecutively(path: Path) -> None:
    one = StreamingDataset(LocalRetriever(path), fields=["text"])
    other = StreamingDataset(LocalRetriever(path), fields=["speaker"], max_duration=0.105)
    view = CombinedDataset([one, other]).as_map()
    assert len(view) == CLIPS + 1
    assert dict(view[CLIPS]) == {"__key__": "00", "speaker": 0, "__source__": 1}
    assert len(view.durations) == CLIPS + 1


def test_a_dataset_without_any_audio_has_no_durations(path: Path, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "texts") as writer:
        writer.write("a", {"text": "no clip"})
    clips, texts = (StreamingDataset(LocalRetriever(one)) for one in (path, tmp_path / "texts"))
    both = CombinedDataset([clips, texts])
    assert np.isnan(both.as_map().durations).tolist() == [False] * CLIPS + [True]
    with pytest.raises(PlanError, match="sample 'a' of dataset 'texts' lasts nan s"):
        next(iter(StreamingLoader(both, max_batch_seconds=8.0)))


def test_windows_change_with_the_epoch_in_kept_workers_too(path: Path) -> None:
    view = StreamingDataset(LocalRetriever(path), seconds=0.05, seed=2).as_map()

    def offsets(loader: DataLoader[Any]) -> list[float]:
        return [offset for batch in loader for offset in batch["crop_offset"].tolist()]

    kept = DataLoader(view, 10, num_workers=2, persistent_workers=True)
    alone = DataLoader(view, 7)
    first = offsets(kept)
    assert first == offsets(alone) == offsets(kept)
    view.set_epoch(1)
    assert offsets(kept) == offsets(alone) != first
    streamed = StreamingDataset(LocalRetriever(path), seconds=0.05, seed=2)
    streamed.set_epoch(1)
    assert [sample["crop_offset"] for sample in streamed] == offsets(alone)


def test_an_impossible_epoch_is_refused_by_set_epoch(path: Path) -> None:
    dataset = StreamingDataset(LocalRetriever(path), shuffle=True, seconds=0.05)
    loader, view = StreamingLoader(dataset, 10), dataset.as_map()
    for one in (dataset, loader, view):
        for wrong in (-1, 2**32, "2", 2.0, None):
            with pytest.raises(
                PlanError, match="epoch must be a whole number from 0 to 4294967295"
            ):
                one.set_epoch(wrong)  # type: ignore[arg-type]
        one.set_epoch(np.int64(2))  # type: ignore[arg-type]
    assert [batch["__key__"] for batch in loader] == [
        batch["__key__"] for batch in DataLoader(dataset, 10)
    ]
    assert (loader.state_dict()["epoch"], dataset.state_dict()["epoch"]) == (3, 3)


def test_a_map_view_names_samples_that_cannot_be_read(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy")
    offset = DatasetReader.open(path).shard(1).index.payload_offset[3]
    with (tmp_path / "copy" / "shard_00001" / "data.mdb").open("r+b") as file:
        file.seek(offset + 40)
        file.write(b"damage")
    view = StreamingDataset(LocalRetriever(tmp_path / "copy")).as_map()
    with pytest.raises(CorruptRecordError, match="'23'"):
        keys(DataLoader(view, 8))
    assert view[22]["text"] == "22"


def test_a_cache_that_does_not_hold_the_dataset_serves_a_sampler(
    path: Path, tmp_path: Path
) -> None:
    sizes = [file.stat().st_size for file in path.glob("shard_*/data.mdb")]
    budget = sum(sizes) - min(sizes) + 90_000  # two of three shards, and the cache's own notes
    retriever = CopyRetriever(path, cache_dir=tmp_path, max_cache_bytes=budget)
    view = StreamingDataset(retriever).as_map()
    sampler = RandomSampler(view, generator=torch.Generator().manual_seed(1))
    assert sorted(keys(DataLoader(view, 10, sampler=sampler))) == NAMES
    assert retriever.cache_stats.evictions
    retriever.close()
