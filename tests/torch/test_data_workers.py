"""A loader's worker processes, its device and its ways with samples."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from audiomdb.data import making
from audiomdb.data.base import StreamingDataset
from audiomdb.data.collate import pad_collate
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import UnknownKeyError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from tests.torch.clips import CLIPS, NAMES, by_batch, left_behind

WAYS = pytest.mark.parametrize(
    ("num_workers", "device"), [(0, None), (0, "cpu"), (2, None), (2, "cpu")]
)


def loader(retriever: LocalRetriever, **how: Any) -> StreamingLoader:
    options = {name: how.pop(name) for name in list(how) if name in ("seconds", "join")}
    options |= {"processor": how.pop("processor")} if "processor" in how else {}
    dataset = StreamingDataset(retriever, 2, shuffle=True, seed=3, **options)
    return StreamingLoader(dataset, 10, **how)


@WAYS
def test_threads_and_workers_give_the_same_batches(
    retriever: LocalRetriever, num_workers: int, device: str | None
) -> None:
    expected = list(loader(retriever, epochs=2))
    with loader(retriever, epochs=2, num_workers=num_workers, device=device) as mine:
        batches = list(mine)
    assert by_batch(batches) == by_batch(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert torch.equal(batch["audio"], other["audio"])
    assert left_behind() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_moved(retriever: LocalRetriever, num_workers: int) -> None:
    with loader(retriever, num_workers=num_workers, device="meta") as mine:
        batches = list(mine)
    assert {batch["audio"].device.type for batch in batches} == {"meta"}
    assert by_batch(batches) == by_batch(loader(retriever))


@WAYS
def test_the_state_counts_what_the_loop_has_received(
    retriever: LocalRetriever, num_workers: int, device: str | None
) -> None:
    def place(mine: StreamingLoader) -> tuple[int, int]:
        return mine.state_dict()["epoch"], mine.state_dict()["next_step"]

    with loader(retriever, num_workers=num_workers, device=device) as mine:
        places = [place(mine), *(place(mine) for _ in mine)]
    assert places == [*((0, step) for step in range(7)), (1, 0)]


@WAYS
def test_a_loop_may_be_left_and_begun_again(
    retriever: LocalRetriever, num_workers: int, device: str | None
) -> None:
    expected = by_batch(loader(retriever, epochs=4))
    with loader(retriever, num_workers=num_workers, device=device) as mine:
        assert by_batch(islice(mine, 2)) == expected[:2]
        assert by_batch(islice(mine, 3)) == expected[7:10]
        state = mine.state_dict()
        assert by_batch(mine) == expected[14:21]
        mine.load_state_dict(state)
        assert by_batch(mine) == expected[10:14]
    assert left_behind() == []


def note_process(sample: Sample) -> Sample:
    return {**sample, "process": os.getpid()}


def workers_of(batches: Any) -> set[int]:
    return {number for batch in batches for number in batch["process"].tolist()}


@pytest.mark.parametrize("persistent", [True, False])
def test_persistent_workers_are_kept(retriever: LocalRetriever, persistent: bool) -> None:
    with loader(
        retriever, num_workers=2, processor=note_process, persistent_workers=persistent
    ) as mine:
        first, second = workers_of(mine), workers_of(mine)
        side_by_side = workers_of(batch for batch, _ in zip(mine, mine, strict=True))
    assert len(first) == 2
    assert (first == second) == persistent
    assert len(side_by_side) == 2
    assert left_behind() == []


def test_passes_side_by_side_are_different_epochs(retriever: LocalRetriever) -> None:
    expected = by_batch(loader(retriever, epochs=2))
    with loader(retriever, num_workers=2) as mine:
        pairs = list(zip(mine, mine, strict=True))
        third = by_batch(mine)
    assert by_batch(one for one, _ in pairs) == expected[:7]
    assert by_batch(other for _, other in pairs) == expected[7:]
    assert third == by_batch(loader(retriever, epochs=3))[14:]


def test_a_loader_that_is_dropped_leaves_no_process(retriever: LocalRetriever) -> None:
    mine = loader(retriever, num_workers=2)
    next(iter(mine))
    del mine
    assert left_behind() == []


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_pass_of_a_closed_loader_raises_an_error_that_says_so(
    retriever: LocalRetriever, device: str | None
) -> None:
    mine = loader(retriever, num_workers=1, device=device)
    running = iter(mine)
    next(running)
    mine.close()
    with pytest.raises(RuntimeError, match="closed in the middle of a pass"):
        list(running)
    assert len(list(mine)) == 7
    mine.close()
    assert left_behind() == []


def stop_after(batch: list[str], over: Path, sample: Sample) -> Sample:
    while sample["text"] not in batch:
        time.sleep(0.01)
        if over.exists():
            os._exit(0)
    return sample


def test_closing_a_loader_ends_a_pass_waiting_for_a_worker(
    retriever: LocalRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(loader(retriever, num_workers=0)))["text"]
    stopping = functools.partial(stop_after, first, tmp_path / "over")
    mine = loader(retriever, num_workers=1, device="cpu", processor=stopping)
    running = iter(mine)
    next(running)
    end = making._end

    def end_soon(steps: Any) -> None:
        (tmp_path / "over").touch()  # or else torch waits for the worker for 5 s
        end(steps)

    monkeypatch.setattr(making, "_end", end_soon)
    mine.close()
    with pytest.raises(RuntimeError, match="closed in the middle of a pass"):
        list(running)


def test_a_loader_whose_workers_are_kept_can_be_copied(retriever: LocalRetriever) -> None:
    with loader(retriever, num_workers=1) as mine:
        next(iter(mine))
        with pickle.loads(pickle.dumps(mine)) as copy:
            assert by_batch(copy) == by_batch(mine)


def spoil(sample: Sample) -> Sample:
    if sample["text"] == "41":
        raise RuntimeError("spoilt")
    return note_process(sample)


@WAYS
def test_a_failure_starts_new_workers(
    retriever: LocalRetriever, num_workers: int, device: str | None
) -> None:
    expected = by_batch(loader(retriever, epochs=2))
    met: list[Any] = []
    with loader(retriever, num_workers=num_workers, device=device, processor=spoil) as mine:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="spoilt"):
                met.extend(mine)
        before, state = workers_of(met), mine.state_dict()
        following = state["next_step"] + 1
        mine.load_state_dict({**state, "next_step": following})
        rest = list(mine)
    assert by_batch(rest) == expected[7 + following :]
    assert num_workers == 0 or not workers_of(rest) & before
    assert left_behind() == []


def test_a_processor_determines_the_default_number_of_workers(
    retriever: LocalRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loader(retriever).num_workers == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert loader(retriever, processor=note_process).num_workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader(retriever, processor=note_process).num_workers == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert loader(retriever, processor=note_process).num_workers == 1
    for spawn in ("spawn", multiprocessing.get_context("spawn")):
        # A function without a name, which not every start method can hand over.
        how = {"processor": lambda sample: sample, "multiprocessing_context": spawn}
        assert loader(retriever, **how).num_workers == 0


def test_a_loader_uses_the_datasets_collate_fn_or_its_own(retriever: LocalRetriever) -> None:
    masked = functools.partial(pad_collate, masks=True)
    batch = next(iter(loader(retriever, collate_fn=masked)))
    assert batch["audio_mask"].sum(1).tolist() == batch["audio_lengths"].tolist()
    dataset = StreamingDataset(retriever, batch_size=10, collate_fn=len)
    assert list(StreamingLoader(dataset)) == [10] * 7


@pytest.mark.parametrize("num_workers", [0, 2])
def test_windows_do_not_depend_on_workers(retriever: LocalRetriever, num_workers: int) -> None:
    with loader(retriever, seconds=0.05, epochs=2, num_workers=num_workers) as mine:
        batches = list(mine)
    found = [
        (key, offset)
        for batch in batches
        for key, offset in zip(batch["__key__"], batch["crop_offset"].tolist(), strict=True)
    ]
    dataset = StreamingDataset(retriever, shuffle=True, seed=3, seconds=0.05, epochs=2)
    assert found == [(sample["__key__"], sample["crop_offset"]) for sample in dataset]
    assert {batch["audio"].shape for batch in batches} == {(10, 400)}
    offsets = dict(found[:CLIPS])
    assert sum(offsets[key] != offset for key, offset in found[CLIPS:]) > CLIPS / 2


def test_batches_by_seconds_count_windows(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, shuffle=True, seconds=0.05, short_clips="pad")
    sizes = [len(batch["__key__"]) for batch in StreamingLoader(dataset, max_batch_seconds=0.5)]
    assert max(sizes) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_joined_columns_come_in_batches(retriever: LocalRetriever, num_workers: int) -> None:
    table = {name: {"text": f"better {name}", "grade": int(name)} for name in NAMES}
    with loader(retriever, join=table, num_workers=num_workers) as mine:
        for batch in mine:
            assert batch["text"] == [f"better {key}" for key in batch["__key__"]]
            assert batch["grade"].tolist() == [int(key) for key in batch["__key__"]]
    del table["41"]
    with (
        loader(retriever, join=table, num_workers=num_workers) as mine,
        pytest.raises(UnknownKeyError, match="no row for sample '41'"),
    ):
        list(mine)


def test_what_does_not_fit_is_refused(retriever: LocalRetriever) -> None:
    with pytest.raises(ValueError, match="prefetch_factor must be a whole number from 1 on, not 0"):
        loader(retriever, prefetch_factor=0)
    with pytest.raises(ValueError, match="seconds is 0"):
        loader(retriever, seconds=0)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="no CUDA device"):
            next(iter(loader(retriever, pin_memory=True)))
    assert pickle.loads(pickle.dumps(loader(retriever).dataset)).num_threads == 2


def test_a_framework_that_sets_the_epoch_does_not_undo_a_loaded_state(
    retriever: LocalRetriever,
) -> None:
    expected = by_batch(loader(retriever, epochs=2))
    first = loader(retriever)
    assert by_batch(islice(first, 3)) == expected[:3]
    later = loader(retriever)
    later.load_state_dict(first.state_dict())
    later.set_epoch(0)
    assert by_batch(later) == expected[3:7]
    later.set_epoch(0)
    assert by_batch(later) == expected[:7]
    later.load_state_dict(first.state_dict())
    later.set_epoch(1)
    assert by_batch(later) == expected[7:]
    dataset = StreamingDataset(retriever, shuffle=True, seed=3)
    samples = [sample["__key__"] for sample in dataset]
    taken = StreamingDataset(retriever, shuffle=True, seed=3)
    list(islice(taken, 30))
    for _ in range(2):
        dataset.load_state_dict(taken.state_dict())
        dataset.set_epoch(0)
        assert [sample["__key__"] for sample in dataset] == samples[30:]
    dataset.set_epoch(0)
    assert [sample["__key__"] for sample in dataset] == samples
