"""What cannot be meant is refused where it is given, and the message says what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiomdb.audio import encode, resample
from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.collate import pad_collate
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import AudioError, PlanError
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
        ({"collate_fn": "pad"}, "collate_fn is 'pad', expected a function"),
        ({"on_stall": 5}, "on_stall is 5, expected a function"),
        ({"on_stall": 0}, "on_stall is 0, expected a function"),
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


@pytest.mark.parametrize("name", ["collate_fn", "on_stall"])
def test_what_is_no_function_is_refused(dataset: StreamingDataset, name: str) -> None:
    wrong: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError, match=f"{name} is 5, expected a function"):
        StreamingDataset(dataset.retriever, **wrong)
    with pytest.raises(TypeError, match=f"{name} is 5, expected a function"):
        CombinedDataset([dataset], **wrong)


def test_an_unknown_device_is_refused(dataset: StreamingDataset) -> None:
    with pytest.raises(RuntimeError, match="cuad"):
        StreamingLoader(dataset, 4, device="cuad")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_named(dataset: StreamingDataset, device: str) -> None:
    with pytest.raises(RuntimeError, match=r"^device is cuda.*, but torch finds no CUDA device"):
        next(iter(StreamingLoader(dataset, 4, device=device)))


def test_samples_of_a_view_are_read_one_by_one(dataset: StreamingDataset) -> None:
    wrong: Any = slice(0, 2)
    with pytest.raises(TypeError, match="one by one"):
        dataset.as_map()[wrong]


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        pad_collate([])


def test_audio_may_be_a_tensor() -> None:
    tone = torch.sin(torch.arange(800) / 9)
    array = tone.numpy()
    assert encode(tone, 8000) == encode(array, 8000)
    assert np.array_equal(resample(tone, 8000, 16000), resample(array, 8000, 16000))
    with pytest.raises(AudioError, match=r"audio is what NumPy cannot take: .*requires grad"):
        encode(tone.requires_grad_(), 8000)
