"""A dataset that takes the place of another at the same address is filtered by its own columns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audiomdb import audio
from audiomdb.data.base import StreamingDataset
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter
from audiomdb.stream import BySeconds, SampleStream, StepStream

LONGEST_S, RATE = 0.1, 8_000

Keys = Callable[[], list[str]]


def write(path: Path, short: str) -> None:
    """Twenty clips in four shards; those whose keys end with a digit of `short` are short."""
    shutil.rmtree(path, ignore_errors=True)
    with DatasetWriter(path, samples_per_shard=5) as writer:
        for number in range(20):
            key = f"{number:02d}"
            frames = 400 if key[-1] in short else 4000
            clip = audio.encode(np.zeros(frames, np.float32), RATE, "wav")
            writer.write(key, {"audio": clip, "sample_rate": RATE})


def samples(retriever: LocalRetriever) -> Keys:
    stream = SampleStream(retriever, max_duration=LONGEST_S)
    return lambda: [s["__key__"] for s in stream]


def steps(retriever: LocalRetriever) -> Keys:
    stream = StepStream(retriever, BySeconds(0.5), max_duration=LONGEST_S)
    return lambda: [s["__key__"] for step in stream.read() for s in step.samples]


def dataset(retriever: LocalRetriever) -> Keys:
    dataset = StreamingDataset(retriever, max_duration=LONGEST_S)
    return lambda: [s["__key__"] for s in dataset]


def view(retriever: LocalRetriever) -> Keys:
    view = StreamingDataset(retriever, max_duration=LONGEST_S).as_map()
    return lambda: [view[number]["__key__"] for number in range(len(view))]


@pytest.mark.parametrize("read_by", [samples, steps, dataset, view])
def test_filters_are_applied_anew_to_a_replaced_dataset(
    read_by: Callable[[LocalRetriever], Keys], tmp_path: Path
) -> None:
    path = tmp_path / "clips"
    write(path, short="02468")
    retriever = LocalRetriever(path)
    keys = read_by(retriever)
    assert sorted(keys()) == [f"{n:02d}" for n in range(0, 20, 2)]
    retriever.close()
    write(path, short="13579")
    assert sorted(keys()) == [f"{n:02d}" for n in range(1, 20, 2)]


def test_a_state_belongs_to_the_dataset_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "clips"
    write(path, short="02468")
    retriever = LocalRetriever(path)
    stream = SampleStream(retriever)
    first = stream.state_dict()
    list(stream)
    retriever.close()
    write(path, short="13579")
    state = SampleStream(path).state_dict()
    stream.load_state_dict(state)
    list(stream)
    assert stream.state_dict()["plan_id"] == state["plan_id"] != first["plan_id"]
