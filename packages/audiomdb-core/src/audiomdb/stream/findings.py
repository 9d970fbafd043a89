"""What streams find out about the index of their datasets, kept for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.plan import Selection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Findings", "Found"]


class Found:
    """What takes a pass over the index of the datasets. Pickled without the durations.

    Args:
        fingerprint: The datasets that it is about, as `Reading.fingerprint`.
    """

    def __init__(self, fingerprint: str = "") -> None:
        self.fingerprint = fingerprint
        self.selections: dict[int, Selection] = {}
        """The samples that the filters of each part keep, by part number."""
        self.durations: NDArray[np.float64] | None = None
        """See `Reading.durations`; None until they are asked for."""

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "durations": None}


class Findings:
    """What streams of the same datasets share, so that one of them finds it for all.

    Forked processes inherit it. Forgotten when other datasets have taken the place of those that it
    is about.
    """

    def __init__(self) -> None:
        self._found = Found()

    def about(self, fingerprint: str) -> Found:
        """Return what is known of the datasets with this fingerprint."""
        found = self._found
        if found.fingerprint != fingerprint:
            found = self._found = Found(fingerprint)
        return found
