"""Loggers, one for each room; `logging` is imported when there is something to log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["logger"]


def logger(room: str) -> Logger:
    """Return the logger of a room, such as `audiomdb.cache`."""
    import logging

    return logging.getLogger(f"audiomdb.{room}")
