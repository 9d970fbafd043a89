from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan.bits import Purpose, random_order, random_words

MASK = 2**64 - 1


def philox(counter: int, key: tuple[int, int]) -> list[int]:
    """Philox4x64-10 as its authors publish it, in plain Python."""
    c = [counter >> shift & MASK for shift in (0, 64, 128, 192)]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
        c = [(p1 >> 64) ^ c[1] ^ k0, p1 & MASK, (p0 >> 64) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c


def test_the_reference_gives_the_authors_known_answer() -> None:
    assert philox(0, (0, 0)) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@pytest.mark.parametrize(
    ("seed", "epoch", "purpose", "number", "key_1"),
    [
        (0, 0, Purpose.SHARD_ORDER, 0, 0x00000000_00_000000),
        (7, 3, Purpose.SAMPLE_ORDER, 5, 0x00000003_01_000005),
        (MASK, 2**32 - 1, Purpose.SAMPLE_ORDER, 2**24 - 1, 0xFFFFFFFF_01_FFFFFF),
    ],
)
def test_words_are_philox_under_the_documented_key(
    seed: int, epoch: int, purpose: Purpose, number: int, key_1: int
) -> None:
    words = random_words(seed, epoch, purpose, number, stop=12)
    assert words.tolist() == [word for c in (1, 2, 3) for word in philox(c, (seed, key_1))]


def test_words_are_frozen() -> None:
    words = random_words(7, 3, Purpose.SAMPLE_ORDER, 5, stop=6)
    assert words.dtype == np.uint64
    assert words.tolist() == [
        0x2913800ABD4E4B0F,
        0x1D59C67DAB6E5C00,
        0xB2B8B37EAF0909E4,
        0x20F5893233EA6159,
        0x138A29F5B63E4285,
        0x4A77623BAA823F10,
    ]


def test_orders_are_frozen() -> None:
    order = random_order(7, 3, Purpose.SHARD_ORDER, 12)
    assert order.tolist() == [7, 0, 8, 6, 11, 3, 4, 10, 2, 1, 9, 5]


@given(st.integers(0, 60), st.integers(0, 60))
def test_any_stretch_of_a_stream_equals_the_slice_of_all_of_it(start: int, length: int) -> None:
    everything = random_words(1, 2, Purpose.SAMPLE_ORDER, 3, stop=120)
    stretch = random_words(1, 2, Purpose.SAMPLE_ORDER, 3, start=start, stop=start + length)
    assert stretch.tolist() == everything[start : start + length].tolist()


@given(st.integers(0, MASK), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_an_order_holds_every_number_once(seed: int, epoch: int, size: int) -> None:
    order = random_order(seed, epoch, Purpose.SHARD_ORDER, size)
    assert sorted(order.tolist()) == list(range(size))


@pytest.mark.parametrize(
    ("seed", "epoch", "number"), [(-1, 0, 0), (2**64, 0, 0), (0, 2**32, 0), (0, 0, 2**24)]
)
def test_a_key_that_does_not_fit_is_refused(seed: int, epoch: int, number: int) -> None:
    with pytest.raises(PlanError, match="nearest legal value"):
        random_words(seed, epoch, Purpose.SAMPLE_ORDER, number, stop=1)
