"""Several datasets as one under torch's DataLoader and the own loader."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.plan import MixPlan
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetReader, DatasetWriter
from tests.core.plans import located
from tests.torch.clips import keys

SIZES = {"speech": 60, "music": 25, "noise": 7}
KEYS = [f"{name}-{i:02d}" for name, size in SIZES.items() for i in range(size)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, size in SIZES.items():
        folders[name] = tmp_path_factory.mktemp("data") / name
        with DatasetWriter(folders[name], name=name, samples_per_shard=8) as writer:
            for i in range(size):
                audio = np.full(80 + i, i / 100, np.float32)
                fields: dict[str, Any] = {"audio": audio, "sample_rate": 8000}
                if name == "speech":
                    fields |= {"text": f"clip {i}", "pitch": i / 2}
                if name == "music":
                    fields["mel"] = np.full((3, i + 1), i, np.float32)
                writer.write(f"{name}-{i:02d}", fields)
    return folders


def datasets(folders: dict[str, Path], **how: Any) -> list[StreamingDataset]:
    return [StreamingDataset(LocalRetriever(folders[name]), 0, **how) for name in SIZES]


def test_the_readmes_loop_runs_as_typed(folders: dict[str, Path]) -> None:
    speech, music, noise = datasets(folders)
    combined = CombinedDataset([speech, music, noise], shuffle="pseudo")
    dataloader = DataLoader(combined, batch_size=32)
    batches = list(dataloader)
    assert [len(batch["__key__"]) for batch in batches] == [32, 32, 28]
    assert sorted(keys(batches)) == sorted(KEYS)
    assert keys(batches) != KEYS
    names = list(SIZES)
    for batch in batches:
        sources = batch["__source__"]
        assert isinstance(sources, torch.Tensor)
        assert [names[source] for source in sources] == [
            key.split("-")[0] for key in batch["__key__"]
        ]
        assert len(set(sources.tolist())) > 1
        # What only some of them have is missing in the others.
        assert [text is None for text in batch["text"]] == [source > 0 for source in sources]
        assert [pitch is None for pitch in batch["pitch"]] == [source > 0 for source in sources]
        assert torch.equal(batch["mel_lengths"][:, 1] > 0, sources == 1)


@pytest.mark.parametrize("shuffle", ["pseudo", "ordered", None])
def test_the_three_modes_are_those_of_the_plan(folders: dict[str, Path], shuffle: Any) -> None:
    combined = CombinedDataset(datasets(folders, shuffle=True, window=1), shuffle, seed=3)
    readers = [DatasetReader.open(folder) for folder in folders.values()]
    for epoch in range(2):
        plan = MixPlan(
            [reader.counts for reader in readers],
            interleave=shuffle,
            seed=3,
            epoch=epoch,
            shuffle=True,
            window=1,
        )
        places = zip(*located(plan, plan.positions(0, len(plan))), strict=True)
        expected = [readers[source].key(int(place)) for source, place in places]
        assert [sample["__key__"] for sample in combined] == expected
    assert len(combined) == len(KEYS)
    combined.set_epoch(1)
    assert [sample["__key__"] for sample in combined] == expected


def test_an_ordered_combination_keeps_proportions_everywhere(folders: dict[str, Path]) -> None:
    sources = [sample["__source__"] for sample in CombinedDataset(datasets(folders), "ordered")]
    for end in range(1, len(sources)):
        met = Counter(sources[:end])
        for source, size in enumerate(SIZES.values()):
            assert abs(met[source] - end * size / len(KEYS)) <= 1


def test_an_unmixed_combination_reads_one_dataset_after_the_other(folders: dict[str, Path]) -> None:
    assert keys(DataLoader(CombinedDataset(datasets(folders), None), batch_size=8)) == KEYS


WORLDS = [(1, 3), (2, 2), (3, 1), (4, 0)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize(("ranks", "workers"), WORLDS)
def test_ranks_and_workers_lose_and_repeat_nothing(
    folders: dict[str, Path], ranks: int, workers: int
) -> None:
    for shuffle in ("pseudo", None) if workers else ("pseudo", "ordered", None):
        met: list[str] = []
        for rank in range(ranks):
            combined = CombinedDataset(
                datasets(folders, shuffle=True),
                shuffle,
                rank=rank,
                world_size=ranks,
                tail="uneven",
            )
            met += keys(DataLoader(combined, batch_size=8, num_workers=workers))
        assert sorted(met) == sorted(KEYS)


def test_a_combination_works_with_spawned_workers_and_new_epochs(folders: dict[str, Path]) -> None:
    combined = CombinedDataset(datasets(folders, shuffle=True))
    loader = DataLoader(
        combined,
        batch_size=8,
        num_workers=2,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    orders = [keys(loader) for _ in range(2)]
    assert all(sorted(order) == sorted(KEYS) for order in orders)
    assert orders[0] != orders[1]


def tree(folders: dict[str, Path], **how: Any) -> CombinedDataset:
    speech, music, noise = datasets(folders, shuffle=True)
    within = CombinedDataset([music, noise], "ordered", weights=[3, 1], stop=20)
    return CombinedDataset([speech, within], **{"weights": [2, 1], "stop": "first", **how})


def test_a_combination_may_be_combined(folders: dict[str, Path]) -> None:
    combined = tree(folders)
    met = Counter(sample["__source__"] for sample in combined)
    assert len(combined) == sum(met.values()) == 59  # the 20th of the one within ends it
    assert (met[0], met[1] + met[2]) == (39, 20)
    assert met[1] == 15
    assert combined[60]["__key__"] == "music-00"
    assert combined["noise-02"]["__source__"] == 2
    copy = pickle.loads(pickle.dumps(combined))
    assert [one["__key__"] for one in copy] == [one["__key__"] for one in combined]


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (3, 2), (4, 1)])
def test_streaming_loader_gives_a_combination_the_same_steps_in_every_world(
    folders: dict[str, Path], ranks: int, workers: int
) -> None:
    def steps(ranks: int, workers: int) -> list[list[str]]:
        parts = []
        for rank in range(ranks):
            combined = tree(folders, rank=rank, world_size=ranks)
            loader = StreamingLoader(
                combined, 12, tail="pad", partitions=2, num_workers=workers, epochs=2
            )
            parts.append([batch["__key__"] for batch in loader])
            assert len(loader) == len(parts[-1]) == 10
        return [[key for part in step for key in part] for step in zip(*parts, strict=True)]

    assert steps(ranks, workers) == steps(1, 0)


def test_a_combination_resumes_where_it_stopped(folders: dict[str, Path]) -> None:
    expected = [one["__key__"] for one in tree(folders, epochs=3)]
    got: list[str] = []
    state = None
    for wanted in (5, 54, 70, 48):
        combined = tree(folders, epochs=None)
        if state is not None:
            combined.load_state_dict(state)
            assert combined.state_dict() == state
        got += [one["__key__"] for one in itertools.islice(combined, wanted)]
        state = json.loads(json.dumps(combined.state_dict()))
        assert len(json.dumps(state)) < 1000
    assert got == expected
    with pytest.raises(PlanError, match="stop was 'first' and is 'last'"):
        tree(folders, stop="last").load_state_dict(state or {})


def test_batches_of_a_combination_equal_those_of_its_loader(folders: dict[str, Path]) -> None:
    combined = tree(folders, batch_size=12, tail="pad")
    assert len(combined) == 5
    expected = [batch["__key__"] for batch in StreamingLoader(tree(folders), 12, tail="pad")]
    assert [batch["__key__"] for batch in DataLoader(combined, batch_size=None)] == expected


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rank": 0, "world_size": 2}, r"dataset 1 .* rank and world_size \(0, 2\)"),
        ({"batch_size": 4}, "batch_size 4, but .* give batch_size to CombinedDataset"),
        ({"tail": "pad"}, "tail 'pad'"),
        ({"epochs": 2}, "epochs 2"),
        ({"epochs": None}, "epochs None"),
        ({"partitions": 2}, "partitions 2"),
    ],
)
def test_options_reserved_for_the_combination_are_refused_on_its_parts(
    folders: dict[str, Path], option: dict[str, Any], message: str
) -> None:
    speech = StreamingDataset(LocalRetriever(folders["speech"]))
    other = StreamingDataset(LocalRetriever(folders["music"]), **option)
    with pytest.raises(ValueError, match=message):
        CombinedDataset([speech, other])


def test_impossible_combinations_are_refused(folders: dict[str, Path]) -> None:
    speech = StreamingDataset(LocalRetriever(folders["speech"]))
    with pytest.raises(ValueError, match="datasets is empty"):
        CombinedDataset([])
    with pytest.raises(TypeError, match="dataset 0 is LocalRetriever, expected a StreamingDataset"):
        CombinedDataset([LocalRetriever(folders["speech"])])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="datasets is StreamingDataset, expected a list"):
        CombinedDataset(speech)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="2 weights for 1 datasets"):
        CombinedDataset([speech], weights=[1, 2])
    with pytest.raises(PlanError, match="stop=9 needs weights"):
        CombinedDataset([speech], stop=9)
    with pytest.raises(PlanError, match=r"shuffle is .*, expected one of"):
        CombinedDataset([speech], "random")  # type: ignore[arg-type]


def test_crops_are_drawn_by_the_combinations_seed(folders: dict[str, Path]) -> None:
    def offsets(own: int, seed: int, *, nested: bool) -> list[float]:
        parts: list[Any] = datasets(folders, seconds=0.005, seed=own)
        if nested:
            parts = [parts[0], CombinedDataset(parts[1:], seed=own)]
        return [one["crop_offset"] for one in CombinedDataset(parts, None, seed=seed)]

    for nested in (False, True):
        expected = offsets(0, 5, nested=nested)
        assert len(set(expected)) > 10
        assert offsets(7, 5, nested=nested) == expected
        assert offsets(0, 6, nested=nested) != expected
    first, second, *_ = datasets(folders, seconds=0.005, seed=5)
    together = offsets(0, 5, nested=False)
    alone = [one["crop_offset"] for one in first]
    assert together[: len(first)] == alone
    after = together[len(first) : len(first) + len(second)]
    assert after != [one["crop_offset"] for one in second]  # or they would be cut as the first is
