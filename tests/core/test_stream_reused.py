"""Memory of decoded clips serves again, and never while anybody holds what is in it."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb import audio
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import SampleStream
from audiomdb.stream.memory import ReusedMemory

CLIPS, RATE = 40, 16_000


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(-1, 12), st.booleans()), max_size=60),
    st.integers(1, 8),
)
def test_no_two_arrays_share_memory_while_they_are_held(
    steps: list[tuple[int, int, bool]], pieces: int
) -> None:
    memory = ReusedMemory(pieces=pieces)
    held: dict[int, np.ndarray] = {}
    for number, (size, dropped, viewed) in enumerate(steps):
        array = memory((size,))
        assert array.shape == (size,)
        assert array.dtype == np.float32
        assert array.flags.writeable
        array[...] = number
        held[number] = array[size // 3 :] if viewed else array  # the array itself is gone then
        del array
        held.pop(dropped, None)
        for written, kept in held.items():
            assert (kept == written).all()


def test_unreferenced_memory_is_reused_if_it_fits() -> None:
    memory = ReusedMemory(pieces=4)

    def place(shape: tuple[int, ...]) -> int:
        return int(memory(shape).__array_interface__["data"][0])

    first = place((1000,))
    assert place((10, 90)) == first
    assert place((600,)) == first
    held = memory((600,))
    assert place((600,)) != first
    del held
    small = memory((100,))  # not in what is so much larger
    assert small.__array_interface__["data"][0] != first


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_reused_memory_keeps_at_most_the_requested_pieces(pieces: int) -> None:
    memory = ReusedMemory(pieces=pieces)
    held = [memory((1000,)) for _ in range(9)]
    ends = [weakref.ref(array.base) for array in held]
    held.clear()
    assert sum(end() is not None for end in ends) == pieces


def test_threads_never_get_the_same_memory() -> None:
    memory, together = ReusedMemory(pieces=16), threading.Barrier(8)

    def use(number: int) -> bool:
        together.wait(300)
        whole = True
        for turn in range(400):
            array = memory((1000 + turn % 7,))
            array.fill(number)
            whole &= bool((array == number).all())
        return whole

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reused") / "clips"
    rng = np.random.default_rng(1)
    with DatasetWriter(path, samples_per_shard=16) as writer:
        for i in range(CLIPS):
            shape = (17_000 + 997 * (i * 7 % CLIPS), *([2] if i % 5 == 0 else []))
            clip = audio.encode(
                rng.uniform(-0.5, 0.5, shape).astype(np.float32), RATE, "flac" if i % 2 else "wav"
            )
            writer.write(f"{i:02d}", {"audio": clip, "sample_rate": RATE})
    return path


def decoded(folder: Path) -> dict[str, np.ndarray]:
    with DatasetReader.open(folder) as reader:
        return {sample["__key__"]: audio.decode(sample["audio"])[0] for sample in reader}


WAYS: list[dict[str, Any]] = [
    {"num_threads": 0},
    {"num_threads": 3},
    {"num_threads": 3, "fields": ["audio"]},
    {"num_threads": 1, "processor": lambda sample: {"audio": sample["audio"], "more": 1}},
]


@pytest.mark.parametrize("how", WAYS, ids=["no threads", "threads", "one field", "processor"])
@pytest.mark.parametrize("hold", [True, False])
def test_samples_are_what_decoding_gives(folder: Path, how: dict[str, Any], hold: bool) -> None:
    expected, held = decoded(folder), []
    with SampleStream(folder, shuffle=True, epochs=4, **how) as stream:
        for sample in stream:
            clip = sample["audio"]
            assert np.array_equal(clip, expected[sample["__key__"]])
            if hold:
                held.append((sample["__key__"], clip[100:]))
            else:
                clip.fill(np.nan)  # it is the caller's, and nobody else's
    assert all(np.array_equal(tail, expected[key][100:]) for key, tail in held)


def test_memory_of_released_clips_is_reused_for_others(folder: Path) -> None:
    with SampleStream(folder, num_threads=0, epochs=3) as stream:
        places = [sample["audio"].__array_interface__["data"][0] for sample in stream]
    assert len(set(places)) < len(places) / 2
