"""Batches whose audio was decoded where it lies."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiomdb.audio import encode
from audiomdb.data.base import CombinedDataset, StreamingDataset
from audiomdb.data.collate import pad_collate
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.shards import DatasetWriter

CLIPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    rng = np.random.default_rng(0)
    with DatasetWriter(path, samples_per_shard=16) as writer:
        for i in range(CLIPS):
            audio = rng.uniform(-0.5, 0.5, 300 + 17 * (i * 7 % CLIPS)).astype(np.float32)
            clip = encode(audio, 8000, "flac" if i % 2 else "wav")
            writer.write(f"{i:02d}", {"audio": clip, "sample_rate": 8000})
    return path


def loader(folder: Path, **how: Any) -> StreamingLoader:
    dataset = StreamingDataset(LocalRetriever(folder), shuffle=True, seed=5)
    return StreamingLoader(dataset, 8, **{"tail": "uneven", **how})


def copied(samples: Any) -> Any:
    """Batches as `pad_collate` makes them of samples whose memory is their own."""
    return pad_collate([{**sample, "audio": sample["audio"].copy()} for sample in samples])


def assert_same(one: list[Any], other: list[Any]) -> None:
    for batch, wanted in zip(one, other, strict=True):
        assert batch.keys() == wanted.keys()
        assert batch["__key__"] == wanted["__key__"]
        assert torch.equal(batch["audio"], wanted["audio"])
        assert torch.equal(batch["audio_lengths"], wanted["audio_lengths"])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_decoded_in_place_equal_copied_ones(workers: int, folder: Path) -> None:
    wanted = list(loader(folder, collate_fn=copied, epochs=3))
    with loader(folder, num_workers=workers, epochs=3) as streamed:
        # All of them are held, so none may serve another.
        assert_same(list(streamed), wanted)
    # None is held, so that each serves others; and what lies behind a clip is zero all the same.
    with loader(folder, num_workers=workers, epochs=3) as streamed:
        for batch, other in zip(streamed, wanted, strict=True):
            assert_same([batch], [other])
            batch["audio"].fill_(torch.nan)


def test_unreferenced_batch_memory_is_reused(folder: Path) -> None:
    batches = loader(folder, epochs=40)  # more than are made ahead
    places = [batch["audio"].data_ptr() for batch in batches]
    assert len(set(places)) < len(places)


def test_a_row_of_a_batch_is_safe_when_the_batch_is_gone(folder: Path) -> None:
    rows, copies = [], []
    for batch in loader(folder, epochs=2):
        rows.append(batch["audio"][3])
        copies.append(rows[-1].clone())
    assert all(map(torch.equal, rows, copies))


def test_samples_for_a_custom_collate_function_own_their_memory(folder: Path) -> None:
    samples = [sample for batch in loader(folder, collate_fn=list) for sample in batch]
    assert all(sample["audio"].base is None for sample in samples)


def test_in_place_batches_work_with_masks_and_mixtures(folder: Path) -> None:
    datasets = [StreamingDataset(LocalRetriever(folder), shuffle=True) for _ in range(2)]
    masked = partial(pad_collate, masks=True)
    combined = CombinedDataset(datasets, shuffle="pseudo", seed=2)
    found = list(StreamingLoader(combined, 10, collate_fn=masked))
    for batch in found:
        counted = batch["audio_mask"].sum(1)
        assert torch.equal(counted, batch["audio_lengths"])
        assert not batch["audio"][~batch["audio_mask"]].any()
    assert sum(len(batch["__key__"]) for batch in found) == 2 * CLIPS


def test_rows_of_a_foreign_array_are_copied() -> None:
    whole = np.ones((2, 5), np.float32)
    batch = pad_collate([{"audio": whole[0]}, {"audio": whole[1, :3]}])
    whole[:] = 7
    assert batch["audio"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
