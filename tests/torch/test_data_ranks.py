"""Ranks keep step: all of them get equally many batches, whoever makes these."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter
from tests.torch.clips import by_batch

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")

SIZES = [1, 7, 100]


@pytest.fixture(scope="module")
def retrievers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, LocalRetriever]:
    made = {}
    for size in SIZES:
        path = tmp_path_factory.mktemp("data") / f"{size}"
        with DatasetWriter(path, samples_per_shard=30) as writer:
            for i in range(size):
                writer.write(f"{size}-{i:03d}", {"text": f"clip {i}"})
        made[size] = LocalRetriever(path)
    return made


def dataset(retriever: LocalRetriever, rank: int = 0, ranks: int = 1, **how: Any) -> Any:
    return StreamingDataset(retriever, 0, shuffle=True, rank=rank, world_size=ranks, **how)


def combined(retriever: LocalRetriever, rank: int = 0, ranks: int = 1, **how: Any) -> Any:
    parts = [StreamingDataset(retriever, 0, shuffle=True) for _ in range(2)]
    return CombinedDataset(parts, rank=rank, world_size=ranks, **how)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_a_dataloader_gives_all_ranks_equally_many_batches_of_equal_sizes(
    retrievers: dict[int, LocalRetriever], size: int, workers: int, batch_size: int
) -> None:
    for ranks in (1, 2, 3, 4):
        epochs = [
            by_batch(
                DataLoader(dataset(retrievers[size], rank, ranks), batch_size, num_workers=workers)
            )
            for rank in range(ranks)
        ]
        assert all([*map(len, epoch)] == [*map(len, epochs[0])] for epoch in epochs)
        met = [key for epoch in epochs for batch in epoch for key in batch]
        assert len({*met}) == len(met) == size - size % ranks


@pytest.mark.parametrize("make", [dataset, combined])
def test_one_process_alone_has_every_sample_and_no_mask(
    retrievers: dict[int, LocalRetriever], make: Callable[..., Any]
) -> None:
    alone = make(retrievers[7])
    (batch,) = DataLoader(alone, batch_size=14)
    assert len({*batch["__key__"]}) == 7
    assert len(batch["__key__"]) == len(alone)
    assert "__mask__" not in batch
    assert alone.dropped == 0


def test_dropped_counts_the_samples_that_ranks_leave_out(
    retrievers: dict[int, LocalRetriever],
) -> None:
    assert [dataset(retrievers[7], ranks=ranks).dropped for ranks in (2, 3, 4, 8)] == [1, 1, 3, 7]
    assert combined(retrievers[7], ranks=4).dropped == 2
    for tail in ("pad", "uneven"):
        assert dataset(retrievers[7], ranks=4, tail=tail).dropped == 0
    assert dataset(retrievers[7], batch_size=4).dropped == 3
    assert dataset(retrievers[7], batch_size=4, tail="pad").dropped == 0
    one = dataset(retrievers[100])
    assert StreamingLoader(one, 12).dropped == StreamingLoader(one, 12, num_workers=2).dropped == 4
    assert StreamingLoader(one, 12, tail="uneven").dropped == 0
    assert StreamingLoader(combined(retrievers[100]), 12).dropped == 8


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [one for one in caplog.records if one.name == "audiomdb.stream"]
    caplog.clear()
    return [(one.levelname, one.getMessage()) for one in found]


def test_a_dataset_logs_dropped_samples_once_in_one_rank(
    retrievers: dict[int, LocalRetriever], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mine, other = (dataset(retrievers[7], rank, 2) for rank in range(2))
    for _ in range(2):
        list(DataLoader(mine, batch_size=2))
        list(DataLoader(other, batch_size=2))
    ((level, message),) = said(caplog)
    assert level == "WARNING"
    assert message.startswith(
        "tail='drop' leaves 1 of 7 samples out of each epoch, since 2 ranks have equal shares; "
    )
    # Who chose it knows.
    list(dataset(retrievers[7], 0, 2, tail="drop"))
    assert [level for level, _ in said(caplog)] == ["INFO"]
    for evenly in (dataset(retrievers[100], 0, 2), dataset(retrievers[7], 0, 2, tail="pad")):
        list(evenly)
    list(dataset(retrievers[7]))
    assert said(caplog) == []


def test_restarted_workers_do_not_log_dropped_samples_again(
    retrievers: dict[int, LocalRetriever], tmp_path: Path
) -> None:
    log = logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("audiomdb.stream")
    logger.addHandler(log)
    try:
        # Forked, because others have no handler of this process.
        loader = DataLoader(
            dataset(retrievers[7], 0, 2), 2, num_workers=2, multiprocessing_context="fork"
        )
        for _ in range(3):
            list(loader)
    finally:
        logger.removeHandler(log)
        log.close()
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "leaves 1 of 7 samples out" in line


def test_a_loader_says_once_what_is_dropped(
    retrievers: dict[int, LocalRetriever], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for workers in (0, 1):
        with StreamingLoader(dataset(retrievers[100]), 12, num_workers=workers) as loader:
            list(loader)
            list(loader)
        ((level, message),) = said(caplog)
        assert level == "WARNING"
        assert "leaves 4 of 100 samples out of each epoch, since each step has 12; " in message
    list(StreamingLoader(dataset(retrievers[100]), 12, tail="drop"))
    assert [level for level, _ in said(caplog)] == ["INFO"]
    list(StreamingLoader(dataset(retrievers[100], 1, 2), 12))
    list(StreamingLoader(dataset(retrievers[100]), 12, tail="pad"))
    assert said(caplog) == []


def partitions_by(retriever: LocalRetriever, ranks: int, **how: Any) -> int:
    state = dataset(retriever, ranks=ranks, **how).state_dict()
    partitions: int = state["options"]["partitions"]
    return partitions


@pytest.mark.parametrize(
    ("ranks", "environment", "nodes"),
    [
        (12, {"WORLD_SIZE": 12, "GROUP_WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 8}, 2),
        (12, {"WORLD_SIZE": 12, "GROUP_WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 4}, 2),
        (8, {"SLURM_NTASKS": 8, "SLURM_NNODES": 2}, 2),
        (8, {"SLURM_NTASKS": 2, "SLURM_NNODES": 2, "WORLD_SIZE": 8, "GROUP_WORLD_SIZE": 4}, 4),
        (8, {"LOCAL_WORLD_SIZE": 4}, 2),
        (8, {"SLURM_NTASKS": 4, "SLURM_NNODES": 2}, 1),
        (1, {"WORLD_SIZE": 8, "GROUP_WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 4}, 1),
    ],
    ids=str,
)
def test_each_node_has_its_own_partition(
    retrievers: dict[int, LocalRetriever],
    ranks: int,
    environment: dict[str, int],
    nodes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    assert partitions_by(retrievers[100], ranks) == nodes
    assert partitions_by(retrievers[100], ranks, partitions=3) == 3


def test_nodes_that_cannot_have_equally_many_ranks_read_everything(
    retrievers: dict[int, LocalRetriever], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NNODES", "3")
    mine = StreamingLoader(dataset(retrievers[100], 0, 8), 16)
    with pytest.warns(UserWarning, match="1 partitions cannot be shared evenly by 3 nodes"):
        assert len(list(mine)) == 6


def test_an_unknown_number_of_machines_is_warned_about(
    retrievers: dict[int, LocalRetriever],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    assert [partitions_by(retrievers[100], 14, partitions=given) for given in (1, 2)] == [1, 2]
    assert said(caplog) == []
    for _ in range(2):
        assert partitions_by(retrievers[100], 14) == 1
    ((level, message),) = said(caplog)
    assert level == "WARNING"
    assert message.startswith("nothing says how many machines the 14 ranks are on ")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert partitions_by(retrievers[100], 14) == 1
    assert said(caplog) == []


def test_a_state_of_one_rank_resumes_with_two_and_back(
    retrievers: dict[int, LocalRetriever],
) -> None:
    def run(ranks: int, state: Any, each: int | None) -> tuple[list[str], Any]:
        met, states = [], []
        for rank in range(ranks):
            mine = dataset(retrievers[7], rank, ranks)
            if state is not None:
                mine.load_state_dict(state)
            met += [sample["__key__"] for sample in islice(mine, each)]
            states.append(mine.state_dict())
        assert all(state == states[0] for state in states)
        return met, states[0]

    first, state = run(1, None, 2)
    second, state = run(2, state, 1)
    third, state = run(1, state, None)
    assert len({*first, *second, *third}) == 7
    assert (state["epoch"], state["next_step"]) == (1, 0)
    first, state = run(1, state, 4)
    second, state = run(2, state, None)
    assert (len({*first, *second}), state["epoch"], state["next_step"]) == (6, 2, 0)
    assert len({*run(1, state, None)[0]}) == 7


def test_a_state_of_another_tail_is_refused(retrievers: dict[int, LocalRetriever]) -> None:
    state = dataset(retrievers[7], ranks=2, tail="pad").state_dict()
    with pytest.raises(PlanError, match="tail was 'pad' and is None"):
        dataset(retrievers[7]).load_state_dict(state)
