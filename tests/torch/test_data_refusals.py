"""What cannot be meant is refused where it is given, and the message says what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError
from audiomdb.shards import DatasetWriter

CLIPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> StreamingDataset:
    path: Path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path) as writer:
        for i in range(CLIPS):
            writer.write(f"{i:02d}", {"audio": np.zeros(800, np.float32), "sample_rate": 8000})
    return StreamingDataset(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"partitions": 0}, "partitions must be a whole number from 1"),
        ({"tail": ""}, "tail must be one of"),
        ({"pin_memory": "false"}, "pin_memory is 'false', expected True or False"),
        ({"persistent_workers": "no"}, "persistent_workers is 'no', expected True or False"),
    ],
    ids=str,
)
def test_impossible_options_of_a_loader_are_refused(
    dataset: StreamingDataset, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        StreamingLoader(dataset, 4, **wrong)


def test_short_clips_are_checked_without_seconds_too(dataset: StreamingDataset) -> None:
    wrong: Any = "pda"
    with pytest.raises(ValueError, match="short_clips is 'pda', expected 'keep' or 'pad'"):
        StreamingDataset(dataset.retriever, short_clips=wrong)


def test_a_step_beyond_its_epoch_is_refused(dataset: StreamingDataset) -> None:
    loader = StreamingLoader(dataset, 4)
    state = loader.state_dict()
    with pytest.raises(PlanError, match="step 1000 of 3"):
        loader.load_state_dict({**state, "next_step": 1000})
    assert len(list(loader)) == 3
    batches = StreamingDataset(dataset.retriever, batch_size=4)
    with pytest.raises(PlanError, match="step 1000 of 3"):
        batches.load_state_dict({**batches.state_dict(), "next_step": 1000})
    with pytest.raises(PlanError, match="sample 1000 of an epoch of 12"):
        dataset.load_state_dict({**dataset.state_dict(), "next_step": 1000})
