"""Every sample once, over all ranks and workers, whatever the mode and the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest

from audiomdb.plan import EpochPlan, MixPlan, SecondsPlan, StepPlan, Tail

SIZES = (1, 7, 100, 1500)
RANKS = (1, 2, 3, 4)
WORKERS = (1, 2, 3)  # none is one: the process itself
STEP = 24


def counts(size: int) -> list[int]:
    """Shards of different sizes, empty ones among them, of so many samples."""
    shards: list[int] = []
    while size > 0:
        shards.append(min(size, 1 + (7 * len(shards)) % 90))
        size -= shards[-1]
    return [*shards[:1], 0, *shards[1:], 0]


def single(size: int, **how: Any) -> EpochPlan:
    return EpochPlan(counts(size), **how)


def mixed(size: int, **how: Any) -> MixPlan:
    return MixPlan([counts(size), counts(3)], **how)


def nested(size: int, **how: Any) -> MixPlan:
    within = MixPlan([counts(5), counts(size)], interleave="ordered", shuffle=how["shuffle"])
    return MixPlan([counts(2), within], interleave=None, **how)


def weighted(size: int, **how: Any) -> MixPlan:
    return MixPlan([counts(size), counts(3)], weights=[1, 2], stop="first", **how)


ORDERS: dict[str, Callable[..., EpochPlan | MixPlan]] = {
    "single": single,
    "mixed": mixed,
    "nested": nested,
    "weighted": weighted,
}
MODES = pytest.mark.parametrize(
    ("order", "shuffle", "partitions"), list(product(ORDERS, (False, True), (1, 3)))
)


def plans(order: str, shuffle: bool, partitions: int) -> Iterator[EpochPlan | MixPlan]:
    for size in SIZES:
        how = {"shuffle": shuffle, "partitions": partitions, "seed": 1, "epoch": 2, "window": 2}
        yield ORDERS[order](size, **how)


def whole(plan: EpochPlan | MixPlan) -> list[int]:
    return sorted(plan.positions(0, len(plan)).tolist())


@MODES
def test_samples_dealt_to_workers(order: str, shuffle: bool, partitions: int) -> None:
    tails: tuple[Tail, ...] = ("uneven", "drop", "pad")
    for plan in plans(order, shuffle, partitions):
        expected = whole(plan)
        for tail, ranks, workers in product(tails, RANKS, WORKERS):
            met: list[int] = []
            sizes = []
            for rank in range(ranks):
                sizes.append(0)
                for worker in range(workers):
                    mine = plan.for_rank(rank, ranks, worker, workers, tail)
                    positions, mask = mine.positions(0, len(mine))
                    met += positions[mask].tolist()
                    sizes[-1] += len(positions)
            if tail == "drop":
                assert len(met) == len(expected) // ranks * ranks
                expected_once = set(expected) if order != "weighted" else None
                assert expected_once is None or len(set(met)) == len(met)
                assert set(met) <= set(expected)
            else:
                assert sorted(met) == expected
            assert tail == "uneven" or len(set(sizes)) == 1
            assert max(sizes) - min(sizes) <= 1


@MODES
def test_steps_of_a_number_of_samples(order: str, shuffle: bool, partitions: int) -> None:
    tails: tuple[Tail, ...] = ("uneven", "drop", "pad")
    for plan, tail in product(plans(order, shuffle, partitions), tails):
        steps = StepPlan(plan, STEP, tail)
        expected = whole(plan)
        alone = [steps.step(number) for number in range(steps.steps)]
        met = sorted(int(at) for step in alone for at in step.positions[step.mask])
        if tail == "drop":
            assert len(expected) - len(met) == steps.dropped == len(expected) % STEP
            assert order == "weighted" or len(set(met)) == len(met)
        else:
            assert met == expected
        for ranks, workers in product(RANKS, WORKERS):
            made = {
                number: [steps.step(number, rank, ranks) for rank in range(ranks)]
                for worker in range(workers)
                for number in range(worker, steps.steps, workers)
            }
            assert sorted(made) == list(range(steps.steps))
            for number, parts in made.items():
                together = np.concatenate([part.positions for part in parts])
                assert np.array_equal(together, alone[number].positions)
                assert tail == "uneven" or len({len(part.positions) for part in parts}) == 1


@MODES
def test_steps_by_seconds(order: str, shuffle: bool, partitions: int) -> None:
    for plan in plans(order, shuffle, partitions):
        total = sum(int(one.sum()) for one in plan.datasets)
        durations = 0.5 + (np.arange(total) * 7919 % 1000) / 100
        steps = SecondsPlan(plan, durations, max_batch_seconds=40, slots=12, chapter=4, max_age=3)
        alone = {
            (chapter, number): steps.step(chapter, number)
            for chapter in range(steps.chapters)
            for number in range(steps.steps(chapter))
        }
        met = [int(at) for step in alone.values() for s in step for at in s.positions[s.mask]]
        assert sorted(met) == whole(plan)
        # Workers take whole steps in turn, as above.
        for ranks in RANKS:
            for place, slots in alone.items():
                parts = [steps.step(*place, rank, ranks) for rank in range(ranks)]
                assert {len(part) for part in parts} == {12 // ranks}
                together = [slot for part in parts for slot in part]
                assert all(
                    np.array_equal(here.positions, there.positions)
                    for here, there in zip(together, slots, strict=True)
                )
