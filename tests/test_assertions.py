"""Assertions that fail say so soon, whatever they compare."""

from __future__ import annotations

import random
import re

import pytest


@pytest.fixture(autouse=True)
def on_a_ci_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")


def test_large_values_that_differ_are_not_compared_line_by_line() -> None:
    first, second = ([{"shard": random.Random(seed).randbytes(10**6)}] for seed in (1, 2))
    with pytest.raises(AssertionError) as caught:
        assert first == second
    told = str(caught.value)
    assert "At index 0 diff" in told
    assert len(told) < 2000


def test_small_values_that_differ_are_shown_whole() -> None:
    with pytest.raises(AssertionError) as caught:
        assert [*range(100, 160)] == [*range(100, 161)]
    shown = re.findall(r"^ +(\d+),$", str(caught.value), re.MULTILINE)
    assert shown == [str(number) for number in range(100, 160)]
