"""Interleaved timing: every round runs every case once, and ratios are taken within a round.

What a machine does to one case of a round (another program, a clock that drops, a disk that is
busy) it mostly does to its neighbours too, so a ratio of neighbours says more than two medians.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from benchmarks.clock import Reading, now

__all__ = ["Case", "Comparison", "Measured", "Spread", "measure"]

_LONGEST = 3
"""Repeating stops where the slowest case takes this many times as long as asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to do a piece of work. A peer is added to a comparison as one more of these.

    Attributes:
        name: Its name in tables.
        run: Does all of the work once and returns the amount, so that cases that do unequal work
            are found.
        before: Called before each run, off the clock (empty a folder, drop the page cache).
    """

    name: str
    run: Callable[[], float]
    before: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Cases that do the same work, against floors.

    Attributes:
        name: Stable identifier, dotted.
        title: What is done, for the table.
        floors: Cases that nothing can beat by much. The slowest of a round is the floor.
        contenders: Cases that are measured against the floors.
        ratio: "speed": floor's time over the contender's, higher is better. "time": the inverse.
        goals: Contender to the ratio it should reach (at least for speed, at most for time).
        unit: Unit of the amount of work.
        repeatable: Whether a run may be repeated within one timing to make it long enough.
    """

    name: str
    title: str
    floors: tuple[Case, ...]
    contenders: tuple[Case, ...]
    ratio: Literal["speed", "time"] = "speed"
    goals: Mapping[str, float] = field(default_factory=dict)
    unit: str = "bytes"
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A comparison that was run, as plain data.

    Attributes:
        name, title, ratio, goals, unit: As in `Comparison`.
        floors: Names of the floors.
        contenders: Names of the contenders.
        amount: Work done in one pass, in `unit`.
        passes: How often each timing repeated it; timings are those of one pass.
        rounds: For every round, each case's timing by name.
    """

    name: str
    title: str
    ratio: Literal["speed", "time"]
    goals: Mapping[str, float]
    unit: str
    floors: Sequence[str]
    contenders: Sequence[str]
    amount: float
    passes: int
    rounds: Sequence[Mapping[str, Reading]]

    def wall(self, case: str) -> Spread:
        """Seconds of a case."""
        return Spread.of([timings[case].wall_s for timings in self.rounds])

    def ratio_of(self, contender: str) -> Spread:
        """A contender's ratio to the floor by the clock, taken round by round."""
        return self._ratio(contender, lambda timing: timing.wall_s)

    def cpu_ratio_of(self, contender: str) -> Spread:
        """The same by processor time, which other programs disturb less and waiting does not."""
        return self._ratio(contender, lambda timing: timing.cpu_s)

    def met(self, contender: str) -> bool | None:
        """Whether the median ratio reaches the goal; None without one."""
        goal = self.goals.get(contender)
        if goal is None:
            return None
        reached = self.ratio_of(contender).median
        return reached <= goal if self.ratio == "time" else reached >= goal

    def _ratio(self, contender: str, seconds: Callable[[Reading], float]) -> Spread:
        ratios = []
        for timings in self.rounds:
            floor = max(seconds(timings[name]) for name in self.floors)
            pair = (seconds(timings[contender]), floor)
            over, under = pair if self.ratio == "time" else pair[::-1]
            ratios.append(over / under if under > 0 else math.nan)
        return Spread.of(ratios)


def measure(comparison: Comparison, *, rounds: int, shortest_s: float) -> Measured:
    """Run a comparison.

    Args:
        comparison: What to run.
        rounds: Rounds that count; one before them does not.
        shortest_s: Repeatable work is repeated until it takes as long, within limits.

    Raises:
        RuntimeError: when two cases report different amounts of work.
    """
    cases = [*comparison.floors, *comparison.contenders]
    amount, passes = _warm_up(comparison, cases, shortest_s)
    found = []
    for number in range(rounds):
        # Each case follows each other one in some round: none always inherits the same caches.
        turn = number % len(cases)
        order = [*cases[turn:], *cases[:turn]]
        timings = {case.name: _timed(case, passes)[0] for case in order}
        found.append({case.name: timings[case.name] for case in cases})
    return Measured(
        name=comparison.name,
        title=comparison.title,
        ratio=comparison.ratio,
        goals=comparison.goals,
        unit=comparison.unit,
        floors=[case.name for case in comparison.floors],
        contenders=[case.name for case in comparison.contenders],
        amount=amount,
        passes=passes,
        rounds=found,
    )


def _warm_up(comparison: Comparison, cases: Sequence[Case], shortest_s: float) -> tuple[float, int]:
    first = {case.name: _timed(case, 1) for case in cases}
    amounts = {name: amount for name, (_, amount) in first.items()}
    if len({round(amount, 3) for amount in amounts.values()}) != 1:
        raise RuntimeError(f"{comparison.name}: cases did different amounts of work: {amounts}")
    passes = 1
    if comparison.repeatable:
        seconds = [max(timing.wall_s, 1e-6) for timing, _ in first.values()]
        # Long enough for the fastest, unless that takes the slowest out of all proportion.
        wanted = min(shortest_s / min(seconds), _LONGEST * shortest_s / max(seconds))
        passes = max(1, math.ceil(wanted))
    return next(iter(amounts.values())), passes


def _timed(case: Case, passes: int) -> tuple[Reading, float]:
    if case.before is not None:
        case.before()
    gc.collect()
    amount = 0.0
    begin = now()
    for _ in range(passes):
        amount = case.run()
    took = now().since(begin)
    return Reading(took.wall_s / passes, took.cpu_s / passes), amount
