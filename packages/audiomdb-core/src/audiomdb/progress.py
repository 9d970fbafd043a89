"""Show the progress of long jobs. Only this module writes progress to a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

from audiomdb.locks import Lock, RLock

__all__ = ["Progress", "is_shown", "progress", "stderr_is_terminal"]

_COLUMNS, _LINES = 80, 24
"""Size used if the terminal does not report one."""


class Progress:
    """A progress display that shows nothing; `progress` returns one that may show a bar.

    It is a context manager. `update` may be called from several threads.
    """

    def update(self, n: int = 1) -> None:
        """Report that `n` more units of the job are done."""

    def close(self) -> None:
        """End the line of the bar, leaving it as it is. May be called several times."""

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
    """Return a progress bar on stderr with rate and time left, by default only on a terminal.

        with progress(len(files), description="reading") as bar:
            for file in files:
                bar.update()

    Args:
        total: Number of units in the job. None: unknown.
        unit: Name of the unit. "B" is scaled to kB, MB and so on (powers of 1000).
        description: Text shown before the bar.
        show: Whether to show the bar. None: only if stderr is a terminal.
    """
    return _Bar(total, unit, description) if is_shown(show) else Progress()


def is_shown(show: bool | None) -> bool:
    """Whether `progress` shows a bar if it is given this `show`."""
    if show is None:
        return stderr_is_terminal()
    return show and sys.stderr is not None


def stderr_is_terminal() -> bool:
    """Whether stderr is a terminal; False if it is closed, or an object that can only write."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


class _Bar(Progress):
    def __init__(self, total: int | None, unit: str, description: str) -> None:
        scaled = unit == "B"
        known = _terminal_size_is_known()
        self._lock = Lock()
        self._bar = _quiet_tqdm()(
            total=total,
            unit=unit if scaled else f" {unit}",
            unit_scale=scaled,
            desc=description or None,
            file=sys.stderr,
            # The terminal of a recorded session often has size 0 by 0, where tqdm draws nothing.
            dynamic_ncols=known,
            ncols=None if known else _COLUMNS,
            nrows=None if known else _LINES,
        )

    def update(self, n: int = 1) -> None:
        with self._lock:  # tqdm uses none here, and loses counts between threads
            self._bar.update(n)

    def close(self) -> None:
        self._bar.close()


def _terminal_size_is_known() -> bool:
    try:
        return min(os.get_terminal_size(sys.stderr.fileno())) > 0
    except (AttributeError, OSError, ValueError):
        return False


def _quiet_tqdm() -> Any:  # noqa: ANN401
    """Return the tqdm class without its two side effects on the process.

    tqdm starts a monitor thread, after which Python 3.12 warns at every fork, and creates a
    multiprocessing lock, which starts a helper process if processes are spawned.
    """
    from tqdm import tqdm

    class QuietTqdm(tqdm):  # type: ignore[misc]
        monitor_interval = 0
        _lock = RLock()

    return QuietTqdm
