from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.errors import PlanError
from audiomdb.plan import EpochPlan, MixPlan, PlanState, SecondsPlan, Selection
from audiomdb.plan.state import plan_id

values = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.integers())
options = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=8), values, max_size=6)
whole = st.integers(0, 2**40)


@given(options, whole, whole, whole)
def test_a_state_comes_back_from_json(
    given_options: dict[str, object], seed: int, epoch: int, step: int
) -> None:
    state = PlanState.of("f" * 64, given_options, seed=seed, epoch=epoch, next_step=step)  # type: ignore[arg-type]
    text = json.dumps(state.to_dict())
    assert len(text) <= 1000
    assert PlanState.from_dict(json.loads(text)) == state
    state.check(PlanState.of("f" * 64, given_options, seed=seed))  # type: ignore[arg-type]


def test_long_options_are_kept_as_their_hash() -> None:
    state = PlanState.of("f", {"weights": list(range(5000))}, seed=0)
    other = PlanState.of("f", {"weights": list(range(5001))}, seed=0)
    assert len(json.dumps(state.to_dict())) < 300
    with pytest.raises(PlanError, match=r"weights was 'sha256:.*' and is 'sha256:"):
        state.check(other)


def test_a_state_that_differs_is_refused_with_the_difference() -> None:
    then = PlanState.of("f", {"window": 4, "batch_size": 64}, seed=1, next_step=5)
    for now, message in [
        (PlanState.of("f", {"window": 4, "batch_size": 32}, seed=1), "batch_size was 64 and is 32"),
        (PlanState.of("f", {"window": 4, "batch_size": 64}, seed=2), "seed was 1 and is 2"),
        (PlanState.of("f", {"batch_size": 64}, seed=1), "window was 4 and is not given"),
        (PlanState.of("g", {"window": 4, "batch_size": 64}, seed=1), "the dataset itself"),
    ]:
        with pytest.raises(PlanError, match=message):
            then.check(now)


COUNTS = [5] * 8
HALF = Selection(COUNTS, np.arange(40) % 2 == 0)


def epoch(**how: Any) -> dict[str, Any]:
    return EpochPlan(COUNTS, **{"shuffle": True, **how}).options


def mixed(**how: Any) -> dict[str, Any]:
    return MixPlan([COUNTS, COUNTS], **{"weights": [1, 2], "shuffle": True, **how}).options


def by_seconds(**how: Any) -> dict[str, Any]:
    given = {"max_batch_seconds": 20, "slots": 1, **how}
    return SecondsPlan(EpochPlan(COUNTS), np.linspace(1, 9, 40), **given).options


@pytest.mark.parametrize(
    ("options_with", "name", "value"),
    [
        (epoch, "shuffle", False),
        (epoch, "window", 2),
        (epoch, "partitions", 2),
        (epoch, "selection", HALF),
        (mixed, "weights", [1, 3]),
        (mixed, "interleave", "ordered"),
        (mixed, "stop", "first"),
        (mixed, "stop", 7),
        (mixed, "shuffle", [True, False]),
        (mixed, "window", [4, 2]),
        (mixed, "partitions", 2),
        (mixed, "selections", [None, HALF]),
        (by_seconds, "max_batch_seconds", 21),
        (by_seconds, "max_batch_size", 3),
        (by_seconds, "slots", 2),
        (by_seconds, "borders", [5.0]),
        (by_seconds, "increment", 3),
        (by_seconds, "max_age", 3),
        (by_seconds, "chapter", 3),
    ],
)
def test_each_option_that_changes_the_order_makes_another_plan(
    options_with: Callable[..., dict[str, Any]], name: str, value: object
) -> None:
    then = PlanState.of("f", options_with(), seed=0)
    now = PlanState.of("f", options_with(**{name: value}), seed=0)
    with pytest.raises(PlanError, match=f"{name} was .* and is "):
        then.check(now)


def test_plan_ids_are_frozen_and_ignore_the_order_of_options() -> None:
    assert plan_id("abc", {"window": 4, "shuffle": True}) == plan_id(
        "abc", {"shuffle": True, "window": 4}
    )
    assert plan_id("abc", {"window": 4, "shuffle": True}) == "73f7108048b544bef6c96c42277e9405"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this AudioMDB reads 1"),
        ({"next_step": -1}, "next_step .* not -1"),
        ({"next_step": "3"}, "next_step must be a whole number"),
        ({"options": 3}, "expected a dict"),
    ],
)
def test_data_that_is_not_a_state_is_refused(change: dict[str, object], message: str) -> None:
    data = {**PlanState.of("f", {}, seed=0).to_dict(), **change}
    with pytest.raises(PlanError, match=message):
        PlanState.from_dict(data)


def test_a_state_that_lacks_something_is_refused() -> None:
    data = PlanState.of("f", {}, seed=0).to_dict()
    del data["epoch"]
    with pytest.raises(PlanError, match="lacks epoch"):
        PlanState.from_dict(data)


def test_options_too_long_for_a_state_are_refused() -> None:
    with pytest.raises(PlanError, match="at most 1000"):
        PlanState.of("f", {f"option_{n}": "x" * 20 for n in range(60)}, seed=0)
