"""Results of passes over the index of datasets, shared by the streams of the same datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.plan import Selection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Findings", "Found"]


class Found:
    """Selections and durations of datasets, computed from their index.

    Pickled without the durations, which would be 8 bytes a sample.

    Args:
        fingerprint: Fingerprint of the datasets, as in `Reading.fingerprint`.
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
    """Holder of `Found` that several streams share, so that it is computed once for all.

    Forked processes inherit it. If other datasets have taken the place of those it was computed
    for, it is discarded.
    """

    def __init__(self) -> None:
        self._found = Found()

    def about(self, fingerprint: str) -> Found:
        """Return what has been computed for the datasets with this fingerprint."""
        found = self._found
        if found.fingerprint != fingerprint:
            found = self._found = Found(fingerprint)
        return found
