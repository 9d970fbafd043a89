"""Results as JSON lines: everything raw, so that tables can be made again and differently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.clock import Reading
from benchmarks.timing import Measured

__all__ = ["Figure", "Results", "Row", "append_row", "new_file", "newest", "read_results"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that is not a duration to be compared: a size, a share, a peak.

    Attributes:
        name: Stable identifier, dotted.
        title: What it is, for the table.
        value: The number.
        unit: Unit of the number.
        at_most: Limit that the number should not exceed.
        facts: More numbers that explain it.
    """

    name: str
    title: str
    value: float
    unit: str
    at_most: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.at_most is None else self.value <= self.at_most


Row: TypeAlias = "Measured | Figure"


@dataclass(frozen=True, slots=True)
class Results:
    """One run: its first line (machine, versions, sizes) and its rows in order."""

    run: Mapping[str, Any]
    rows: list[Row]


def new_file(folder: Path) -> Path:
    """Where the results of a run that begins now go, named by the time; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.jsonl"


def append_row(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Add one line; what was measured before an interruption stays."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, **content}) + "\n")


def read_results(path: Path) -> Results:
    """Read a file of results back."""
    run: Mapping[str, Any] = {}
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        kind = content.pop("kind")
        if kind == "run":
            run = content
        elif kind == "measured":
            content["rounds"] = [
                {case: Reading(**timing) for case, timing in timings.items()}
                for timings in content["rounds"]
            ]
            rows.append(Measured(**content))
        else:
            rows.append(Figure(**content))
    return Results(run, rows)


def newest(folder: Path) -> list[Path]:
    """The file of the last run; none before the first one."""
    return sorted(folder.glob("*.jsonl"))[-1:]


def as_content(row: Row) -> tuple[str, dict[str, Any]]:
    """Kind and content of a row, for `append_row`."""
    return ("measured" if isinstance(row, Measured) else "figure"), asdict(row)
