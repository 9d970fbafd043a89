"""Batches on a device ahead of use. Without a GPU, torch's `meta` device shows what was moved."""

from __future__ import annotations

import gc
import sys
import threading
from collections import UserDict, namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from audiomdb.data.base import StreamingDataset
from audiomdb.data.device import DeviceMover, made_ahead, map_tensors
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from audiomdb.testing.kits.conformance import wait_until
from tests.torch.clips import left_behind

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

Pair = namedtuple("Pair", ["audio", "text"])  # noqa: PYI024 (what users have)


class Fields(dict[str, Any]):
    """A mapping of its own kind."""


def batch() -> dict[str, Any]:
    return {
        "audio": torch.arange(6.0).view(2, 3),
        "text": ["a", None],
        "nested": {"labels": [torch.ones(2), (torch.zeros(1), 3)]},
        "pair": Pair(torch.ones(1), "x"),
        "fields": Fields(mel=torch.ones(2)),
        "packed": pack_sequence([torch.ones(2), torch.ones(1)]),
        "number": 7,
    }


def devices(value: Any) -> set[str]:
    found: set[str] = set()

    def note(tensor: Any) -> Any:
        found.add((tensor.data if isinstance(tensor, PackedSequence) else tensor).device.type)
        return tensor

    map_tensors(value, note)
    return found


def test_only_tensors_are_moved_to_the_device() -> None:
    mover = DeviceMover("meta")
    moved = mover.finish(mover.begin(batch()))
    assert devices(moved) == {"meta"}
    assert moved["audio"].shape == (2, 3)
    assert (moved["text"], moved["number"]) == (["a", None], 7)
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].text == "x"
    assert isinstance(moved["fields"], Fields)
    assert isinstance(moved["packed"], PackedSequence)
    assert moved["nested"]["labels"][1][1] == 3


def test_a_mapping_that_cannot_be_made_anew_becomes_a_dict() -> None:
    class Fixed(dict[str, Any]):
        def __init__(self) -> None:
            super().__init__(a=torch.ones(1))

    assert type(map_tensors(Fixed(), lambda tensor: tensor + 1)) is dict
    proxy = map_tensors(MappingProxyType({"a": torch.ones(1)}), lambda tensor: tensor + 1)
    assert proxy["a"] == 2


class Encoding(UserDict[str, Any]):
    """A mapping that moves itself, as transformers has them."""

    def to(self, device: Any) -> Encoding:
        return Encoding({name: tensor.to(device) for name, tensor in self.data.items()})


def test_objects_with_a_to_method_are_moved_once_as_a_whole() -> None:
    encoding, moved = Encoding(ids=torch.ones(2)), []

    def move(value: Any) -> Any:
        moved.append(value)
        return value.to("meta")

    found = map_tensors({"text": "a", "tokens": encoding}, move)
    assert found["tokens"]["ids"].device.type == "meta"
    assert len(moved) == 1
    assert moved[0] is encoding


def test_without_a_device_a_batch_stays_where_it_is() -> None:
    mover, mine = DeviceMover(None), batch()
    assert mover.finish(mover.begin(mine)) is mine


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_pinning_without_a_device_to_copy_to_is_refused() -> None:
    with pytest.raises(RuntimeError, match="there is no CUDA device"):
        DeviceMover("cpu", pin_memory=True)


@cuda
def test_copies_to_cuda_are_whole_when_work_begins() -> None:
    mover = DeviceMover("cuda")
    size = 1 << 22
    total = torch.zeros((), device="cuda")
    made = made_ahead(iter(torch.full((size,), float(i)) for i in range(30)), mover.begin)
    for begun in made:
        value = mover.finish(begun)
        assert value.device.type == "cuda"
        total += value.sum()
        del value  # its memory may go to a later copy only when the sum is done
    assert total.item() == size * sum(range(30))


@cuda
def test_every_tensor_of_a_batch_is_moved_to_cuda() -> None:
    mover = DeviceMover("cuda")
    moved = mover.finish(mover.begin(batch()))
    assert devices(moved) == {"cuda"}
    assert moved["audio"].sum().item() == 15


@cuda
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_gives_whole_batches_on_cuda(tmp_path: Path, num_workers: int) -> None:
    with DatasetWriter(tmp_path / "clips") as writer:
        for i in range(40):
            audio = np.full(100_000 + i, i / 64, np.float32)
            writer.write(f"{i:02d}", {"audio": audio, "sample_rate": 8000})
    dataset = StreamingDataset(LocalRetriever(tmp_path / "clips"), shuffle=True)
    with StreamingLoader(
        dataset, 4, num_workers=num_workers, device="cuda", epochs=3, persistent_workers=False
    ) as loader:
        sums = [
            (key, total)
            for batch in loader
            for key, total in zip(batch["__key__"], batch["audio"].double().sum(1), strict=True)
        ]
    assert len(sums) == 120
    for key, total in sums:
        assert total.item() == pytest.approx((100_000 + int(key)) * int(key) / 64)


def test_items_are_made_in_a_thread_and_come_in_order() -> None:
    makers = set()

    def prepare(number: int) -> int:
        makers.add(threading.current_thread().name)
        return -number

    assert list(made_ahead(iter(range(100)), prepare)) == [-n for n in range(100)]
    assert makers == {"audiomdb-stream-batches"}
    assert left_behind() == []


def test_no_more_is_made_ahead_than_asked_for() -> None:
    made: list[int] = []
    drawn = threading.Semaphore(0)

    def source() -> Iterator[int]:
        for number in range(100):
            drawn.release()
            yield number

    def prepare(number: int) -> int:
        made.append(number)
        return number

    items = made_ahead(source(), prepare, depth=3)
    assert next(items) == 0
    # One was taken, three are ready, and another has been drawn.
    for _ in range(5):
        assert drawn.acquire(timeout=300)
    items.close()
    assert made == [0, 1, 2, 3]
    assert left_behind() == []


@pytest.mark.parametrize("where", ["source", "prepare"])
def test_an_error_of_made_ahead_is_raised_unchanged_in_its_place(where: str) -> None:
    error = ZeroDivisionError("mine")

    def source() -> Iterator[int]:
        for number in range(10):
            if where == "source" and number == 4:
                raise error
            yield number

    def prepare(number: int) -> int:
        if where == "prepare" and number == 4:
            raise error
        return number

    got: list[int] = []
    with pytest.raises(ZeroDivisionError) as caught:
        got.extend(made_ahead(source(), prepare))
    assert caught.value is error
    assert got == [0, 1, 2, 3]
    assert left_behind() == []


def test_leaving_early_closes_the_source_and_ends_a_wait() -> None:
    released, closed = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        try:
            yield 0
            released.wait()
            yield 1
        finally:
            closed.set()

    items = made_ahead(source(), lambda number: number, interrupt=released.set)
    assert next(items) == 0
    items.close()
    assert closed.is_set()
    assert left_behind() == []


def test_a_dropped_iterator_leaves_no_thread() -> None:
    items = made_ahead(iter(range(1000)), lambda number: number)
    assert next(items) == 0
    del items
    assert left_behind() == []


def test_a_pass_collected_in_a_thread_being_joined_ends_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatasetWriter(tmp_path / "numbers") as writer:
        for number in range(20):
            writer.write(f"{number}", {"number": number})
    forgotten, collected = threading.Event(), threading.Event()
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    def then_collect(sample: Sample) -> Sample:
        if threading.current_thread().name == "audiomdb-stream-0" and not collected.is_set():
            forgotten.wait()
            gc.collect()
            collected.set()
        return sample

    dataset = StreamingDataset(
        LocalRetriever(tmp_path / "numbers"), num_threads=1, processor=then_collect
    )
    batches = iter(StreamingLoader(dataset, batch_size=1, num_workers=0, device="cpu"))
    next(batches)
    circle: list[object] = [batches]
    circle.append(circle)
    del batches, circle
    forgotten.set()
    assert collected.wait(60)
    assert wait_until(lambda: left_behind() == [])
    assert complaints == []
