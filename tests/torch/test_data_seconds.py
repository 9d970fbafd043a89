"""The loader's batches by seconds."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter
from audiomdb.shards.dataset_index import DatasetIndex
from audiomdb.stream import BySeconds

CLIPS = 240
RATE = 100
ALL = [f"a{i:03d}" for i in range(CLIPS)]


def frames(number: int) -> int:
    return 50 + 37 * number % 350


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = []
    for name, size in (("a", CLIPS), ("b", 60)):
        folders.append(tmp_path_factory.mktemp("data") / name)
        with DatasetWriter(folders[-1], samples_per_shard=30) as writer:
            for i in range(size):
                audio = np.zeros(frames(i), np.float32)
                writer.write(f"{name}{i:03d}", {"audio": audio, "sample_rate": RATE})
    return folders[0], folders[1]


def loader(
    folders: tuple[Path, Path], ranks: int = 1, rank: int = 0, both: bool = False, **how: Any
) -> StreamingLoader:
    place: Any = {"rank": rank, "world_size": ranks}
    if both:
        each = [StreamingDataset(LocalRetriever(one), 0, shuffle=True) for one in folders]
        dataset: Any = CombinedDataset(each, weights=[2, 1], stop="first", seed=1, **place)
    else:
        dataset = StreamingDataset(LocalRetriever(folders[0]), 0, shuffle=True, seed=1, **place)
    how = {"max_batch_seconds": 12.0, "num_buckets": 4, **how}
    return StreamingLoader(dataset, how.pop("batch_size", None), **how)


def counted(batches: Any) -> list[str]:
    return [
        key
        for batch in batches
        for key, counts in zip(batch["__key__"], batch["__mask__"].tolist(), strict=True)
        if counts
    ]


def test_batches_by_seconds_hold_similar_clips_within_the_limit(folders: tuple[Path, Path]) -> None:
    mine = loader(folders)
    batches = list(mine)
    assert len(mine) == len(batches)
    assert sorted(counted(batches)) == ALL
    for batch in batches:
        clips, longest = batch["audio"].shape
        assert clips * longest <= 12.0 * RATE
        assert torch.equal(batch["audio_lengths"].max(), torch.tensor(longest))
    report = mine.padding_report(0)
    assert report.steps == len(batches)
    assert report.samples == CLIPS
    assert report.seconds == pytest.approx(sum(frames(i) for i in range(CLIPS)) / RATE)
    assert report.padded_seconds == pytest.approx(
        sum(batch["audio"].numel() for batch in batches) / RATE
    )
    at_random = DataLoader(mine.dataset, batch_size=6)
    padded = sum(batch["audio"].numel() for batch in at_random) / RATE
    assert report.padded_seconds < 0.8 * padded


def test_a_batch_may_be_limited_in_clips_too(folders: tuple[Path, Path]) -> None:
    batches = list(loader(folders, max_batch_size=5))
    assert sorted(counted(batches)) == ALL
    assert max(len(batch["__key__"]) for batch in batches) == 5


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (2, 2), (4, 0)])
def test_every_rank_has_the_same_steps(
    folders: tuple[Path, Path], ranks: int, workers: int, both: bool
) -> None:
    def run(ranks: int, workers: int = 0) -> list[list[list[str]]]:
        parts = []
        for rank in range(ranks):
            mine = loader(folders, ranks, rank, both, slots=4, num_workers=workers, epochs=2)
            batches = [batch["__key__"] for batch in mine]
            each = mine.batches_per_step
            assert each == 4 // ranks
            assert len(mine) == len(batches)
            parts.append([batches[at : at + each] for at in range(0, len(batches), each)])
        return [[batch for part in step for batch in part] for step in zip(*parts, strict=True)]

    assert run(ranks, workers) == run(1)


@pytest.mark.parametrize("seed", [0, 1])
def test_interruptions_with_other_ranks_and_workers_do_not_show(
    folders: tuple[Path, Path], seed: int
) -> None:
    draw = random.Random(seed)
    expected = iter(loader(folders, both=True, slots=4, partitions=2, epochs=None))
    state: dict[str, Any] | None = None
    for _ in range(12):
        ranks, steps = draw.choice([1, 2, 4]), draw.randint(1, 6)
        workers = draw.choice([0, 0, 2]) if ranks == 1 else 0
        parts, states = [], set()
        for rank in range(ranks):
            # Slots and partitions come from the state.
            how = {"slots": 4, "partitions": 2} if state is None else {}
            mine = loader(folders, ranks, rank, True, num_workers=workers, epochs=None, **how)
            if state is not None:
                mine.load_state_dict(state)
                assert mine.state_dict() == state
            each = mine.batches_per_step
            batches = [batch["__key__"] for batch in islice(mine, steps * each)]
            parts.append([batches[at : at + each] for at in range(0, len(batches), each)])
            states.add(json.dumps(mine.state_dict()))
        got = [batch for step in zip(*parts, strict=True) for part in step for batch in part]
        assert got == [batch["__key__"] for batch in islice(expected, 4 * steps)]
        assert len(states) == 1
        text = states.pop()
        assert len(text) < 1000
        state = json.loads(text)


def test_a_state_taken_within_a_step_resumes_at_its_start(folders: tuple[Path, Path]) -> None:
    mine = loader(folders, slots=3)
    batches = iter(mine)
    next(batches)
    before = mine.state_dict()
    assert before["next_step"] == 0
    next(batches)
    assert mine.state_dict() == before
    next(batches)
    assert mine.state_dict()["next_step"] == 1


def test_the_length_by_seconds_is_that_of_the_current_epoch(folders: tuple[Path, Path]) -> None:
    mine = loader(folders)
    lengths = []
    for _ in range(4):
        batches = list(mine)
        assert len(mine) == len(batches)
        lengths.append(len(batches))
    assert lengths == [mine.padding_report(epoch).steps for epoch in range(4)]
    two = loader(folders, epochs=2)
    assert len(two) == lengths[0] + lengths[1]
    two.set_epoch(1)
    assert len(two) == lengths[2] + lengths[3]
    with pytest.raises(TypeError, match="epochs=None"):
        len(loader(folders, epochs=None))


def test_what_does_not_fit_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"max_batch_seconds=12\.0 beside batch_size=4"):
        loader(folders, batch_size=4)
    with pytest.raises(ValueError, match="need max_batch_seconds"):
        loader(folders, batch_size=4, max_batch_seconds=None)
    with pytest.raises(ValueError, match="give batch_size, or max_batch_seconds"):
        loader(folders, max_batch_seconds=None, num_buckets=32)
    with pytest.raises(PlanError, match=r"slots 3 cannot .* by 2 ranks.*that all of them divide"):
        loader(folders, 2, slots=3)
    with pytest.raises(ValueError, match="tail='pad'"):
        loader(folders, tail="pad")
    with pytest.raises(PlanError, match="only batches by seconds have a report"):
        StreamingLoader(loader(folders).dataset, 4).padding_report()
    state = loader(folders).state_dict()
    with pytest.raises(PlanError, match=r"max_batch_seconds was 12.0 and is 9.0"):
        loader(folders, max_batch_seconds=9.0).load_state_dict(state)
    with pytest.raises(PlanError, match=r"sample 'a\d+' of dataset .* lasts"):
        next(iter(loader(folders, max_batch_seconds=3.0)))


def test_rarer_options_are_given_in_a_by_seconds_object(folders: tuple[Path, Path]) -> None:
    how = BySeconds(12.0, num_buckets=4, increment=10, max_age=4, chapter=6)
    mine = loader(folders, batch_size=how, max_batch_seconds=None, num_buckets=32)
    assert sorted(counted(mine)) == ALL
    assert mine.state_dict()["options"]["chapter"] == 6


def test_the_durations_are_read_once_for_all_passes_and_forked_workers(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, column = tmp_path / "read", DatasetIndex.__getitem__

    def noted(index: DatasetIndex, name: str) -> np.ndarray:
        with read.open("a", encoding="ascii") as file:
            file.write(f"{name}\n")
        return column(index, name)

    monkeypatch.setattr(DatasetIndex, "__getitem__", noted)
    mine = loader(folders, num_workers=2, multiprocessing_context="fork", persistent_workers=False)
    for _ in range(2):
        assert sorted(counted(mine)) == ALL
    assert read.read_text(encoding="ascii") == "duration\n"
    spawned = loader(folders, num_workers=1, multiprocessing_context="spawn")
    with spawned:
        assert sorted(counted(spawned)) == ALL
