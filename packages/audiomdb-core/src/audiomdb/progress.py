"""Shows how far a long job is: the one place that writes to a terminal on the library's behalf."""

from __future__ import annotations

import os
import sys
import threading
from types import TracebackType
from typing import Any

__all__ = ["Progress", "progress"]

_COLUMNS, _LINES = 80, 24
"""Taken where the terminal does not say how large it is."""


class Progress:
    """Takes account of work done. This one shows nothing; `progress` gives one that may.

    A context manager. `update` may be called from several threads.
    """

    def update(self, n: int = 1) -> None:
        """Say that `n` more are done, in the unit that the job is counted in."""

    def close(self) -> None:
        """Leave the bar as it stands and end its line. May be called twice."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def progress(
    total: int | None,
    *,
    unit: str = "clips",
    description: str = "",
    show: bool | None = None,
) -> Progress:
    """A progress bar on stderr with rate and time left; nothing at all where nobody watches.

        with progress(len(files), description="reading") as bar:
            for file in files:
                bar.update()

    Args:
        total: How much there is to do; None when that is unknown.
        unit: What is counted. "B" is scaled to kB, MB and so on (powers of 1000).
        description: What is being done; stands before the bar.
        show: Whether to show it. None: only when stderr is a terminal.
    """
    if show is None:
        show = sys.stderr is not None and sys.stderr.isatty()
    return _Bar(total, unit, description) if show else Progress()


class _Bar(Progress):
    def __init__(self, total: int | None, unit: str, description: str) -> None:
        scaled = unit == "B"
        known = _terminal_size_is_known()
        self._lock = threading.Lock()
        self._bar = _quiet_tqdm()(
            total=total,
            unit=unit if scaled else f" {unit}",
            unit_scale=scaled,
            desc=description or None,
            file=sys.stderr,
            # A recorded session is often 0 by 0, where tqdm would draw nothing.
            dynamic_ncols=known,
            ncols=None if known else _COLUMNS,
            nrows=None if known else _LINES,
        )

    def update(self, n: int = 1) -> None:
        with self._lock:  # tqdm adds without one, and loses counts between threads
            self._bar.update(n)

    def close(self) -> None:
        self._bar.close()


def _terminal_size_is_known() -> bool:
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (OSError, ValueError):
        return False


def _quiet_tqdm() -> Any:  # noqa: ANN401
    """The class tqdm without its two side effects on the process.

    It starts a monitor thread, after which Python 3.12 warns at every fork, and makes a lock of
    multiprocessing, which starts a helper process where processes are spawned.
    """
    from tqdm import tqdm

    class QuietTqdm(tqdm):  # type: ignore[misc]
        monitor_interval = 0
        _lock = threading.RLock()

    return QuietTqdm
