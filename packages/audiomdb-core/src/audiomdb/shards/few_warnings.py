"""Log the first of many similar warnings: a source may earn one with every sample."""

from __future__ import annotations

from audiomdb.log import logger

__all__ = ["FewWarnings"]

_MOST = 10


class FewWarnings:
    """Warnings of one kind about samples. Not thread-safe."""

    def __init__(self) -> None:
        self._given = 0

    def add(self, key: str, source: str | None, what: object) -> None:
        """Log what is noteworthy about a sample, if it is among the first ten.

        Args:
            key: Key of the sample.
            source: The file that its audio comes from, if any.
            what: Its `str` follows the name of the sample.
        """
        self._given += 1
        if self._given > _MOST:
            return
        logger("shards").warning(
            "%s %s%s",
            f"{source} (sample {key!r})" if source else f"sample {key!r}",
            what,
            "; further ones are counted only" if self._given == _MOST else "",
        )
