"""Per-sample index columns: built from rows when a shard closes, joined across shards on request.

A numeric column is an array; a missing value makes it float64 with NaN. A text column keeps each
distinct value once and a code per sample, -1 for a missing value. Integers are stored in the
smallest dtype that holds the shard's values, because a stream over millions of clips fetches the
index first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

__all__ = [
    "MAX_TEXT_BYTES",
    "Column",
    "add_up",
    "build_columns",
    "check_column",
    "join_column",
    "narrow",
    "total",
]

Column: TypeAlias = "np.ndarray | dict[str, Any]"

MAX_TEXT_BYTES = 1024
"""A text longer than this keeps its column out of the shard's index, which is read as a whole."""

_EXACT_IN_FLOAT64 = 2**53
_MAX_FLOAT = sys.float_info.max


def build_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Column], dict[str, str]]:
    """Turn rows of scalars into columns.

    Returns:
        The columns by name, and the reason, in words, for each name left out.
    """
    names = sorted({name for row in rows for name in row})
    columns: dict[str, Column] = {}
    left_out: dict[str, str] = {}
    for name in names:
        column = _build([row.get(name) for row in rows])
        if isinstance(column, str):
            left_out[name] = column
        elif column is not None:
            columns[name] = column
    return columns, left_out


def check_column(column: Any, samples: int) -> None:  # noqa: ANN401
    """Check a column that was decoded from the index of a shard.

    Raises:
        ValueError: when it is not one that `build_columns` could make of this many samples.
    """
    codes, values, kinds = column, None, "biuf"
    if isinstance(column, dict):
        codes, values, kinds = column.get("codes"), column.get("values"), "iu"
        if type(values) is not list or not all(type(value) is str for value in values):
            raise ValueError("its values are not a list of text")
    if not isinstance(codes, np.ndarray) or codes.shape != (samples,):
        found = f"{codes.dtype} {codes.shape}" if isinstance(codes, np.ndarray) else repr(codes)
        raise ValueError(f"{found:.80} for {samples} samples")
    if codes.dtype.kind not in kinds or codes.dtype.itemsize > 8:
        raise ValueError(f"its dtype is {codes.dtype}")
    if values is None or not samples:
        return
    if not -1 <= codes.min() <= codes.max() < len(values):
        raise ValueError(f"its codes go from {codes.min()} to {codes.max()}")


def join_column(parts: Iterable[tuple[Column | None, int]]) -> np.ndarray:
    """Join a column's parts, one per shard, each given with the shard's number of samples.

    Returns:
        A writable array over all samples: int64 (uint64 if a part needs it), float64, bool, or
        dtype object holding str, None, and integers that none of these dtypes can hold together.
    """
    pieces = [
        _missing(samples) if part is None else _expand(part) for part, samples in parts if samples
    ]
    if not pieces:
        return np.empty(0)
    dtype = _common_dtype(pieces)
    if dtype is object:
        pieces = [p if p.dtype == object else _as_objects(p) for p in pieces]
    return np.concatenate(pieces, dtype=dtype, casting="unsafe")


def narrow(values: np.ndarray) -> np.ndarray:
    """Return the same integers in the smallest dtype that holds them all."""
    if not len(values):
        return values.astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    for bits in (8, 16, 32):
        if low >= 0 and high < 2**bits:
            return values.astype(f"u{bits // 8}")
        if low >= -(2 ** (bits - 1)) and high < 2 ** (bits - 1):
            return values.astype(f"i{bits // 8}")
    return values


def total(column: Column | None) -> float:
    """Sum a numeric column without its missing and infinite values; 0 for any other column.

    The result is limited to the largest float, because JSON has no infinity.
    """
    if not isinstance(column, np.ndarray):
        return 0.0
    return add_up(value for value in column.tolist() if isfinite(value))


def add_up(numbers: Iterable[float]) -> float:
    """Add finite numbers one by one in order; the result is limited to the largest float.

    Since Python 3.12 the built-in `sum` compensates for rounding errors, so a dataset's bytes would
    depend on the Python version that made it.
    """
    added: float = 0
    for number in numbers:
        added += number
    return max(-_MAX_FLOAT, min(float(added), _MAX_FLOAT))


def _build(values: list[Any]) -> Column | str | None:
    kinds = {type(v) for v in values if v is not None}
    missing = any(v is None for v in values)
    if not kinds:
        return None
    if kinds == {str}:
        return _text(values)
    if kinds == {bool}:
        return _floats(values) if missing else np.array(values, np.bool_)
    if kinds == {int}:
        return _integers(values, missing)
    if kinds <= {int, float}:
        return _floats(values)
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    return f"its values are of several kinds: {found}"


def _text(values: list[str | None]) -> Column | str:
    longest = max(len(v.encode("utf-8", "surrogatepass")) for v in values if v is not None)
    if longest > MAX_TEXT_BYTES:
        return f"it has values of up to {longest} bytes; the index takes up to {MAX_TEXT_BYTES}"
    distinct = {v: code for code, v in enumerate(sorted({v for v in values if v is not None}))}
    codes = np.array([-1 if v is None else distinct[v] for v in values], np.int32)
    return {"codes": narrow(codes), "values": list(distinct)}


def _integers(values: list[int | None], missing: bool) -> Column | str:
    present = [v for v in values if v is not None]
    low, high = min(present), max(present)
    if missing:
        if low >= -_EXACT_IN_FLOAT64 and high <= _EXACT_IN_FLOAT64:
            return _floats(values)
        return "it has missing values beside integers that float64 cannot hold"
    if low >= -(2**63) and high < 2**63:
        return narrow(np.array(values, np.int64))
    if low >= 0 and high < 2**64:
        return np.array(values, np.uint64)
    return "its integers fit neither int64 nor uint64"


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], np.float64)


def _common_dtype(pieces: Sequence[np.ndarray]) -> type[Any]:
    """Return the type of elements that holds the values of all pieces of a column unchanged."""
    dtypes = {piece.dtype for piece in pieces}
    kinds = {dtype.kind for dtype in dtypes}
    if "O" in kinds:
        return object
    if kinds == {"b"}:
        return bool
    # Narrower integers have at most 32 bits, and none is below 0 unless they are signed.
    wide = {dtype for dtype in dtypes if dtype.kind in "iu" and dtype.itemsize == 8}
    whole = [piece for piece in pieces if piece.dtype in wide] if wide else []
    low = min((int(piece.min()) for piece in whole), default=0)
    high = max((int(piece.max()) for piece in whole), default=0)
    if "f" in kinds:
        exact = low >= -_EXACT_IN_FLOAT64 and high <= _EXACT_IN_FLOAT64
        return np.float64 if exact else object
    if high < 2**63:
        return np.int64
    negative = low < 0 or any(dtype.kind == "i" for dtype in dtypes - wide)
    return object if negative else np.uint64


def _missing(samples: int) -> np.ndarray:
    return np.full(samples, np.nan)


def _expand(part: Column) -> np.ndarray:
    if isinstance(part, np.ndarray):
        return part
    table = np.array([*part["values"], None], object)
    return table[part["codes"]]


def _as_objects(numbers: np.ndarray) -> np.ndarray:
    # A column that a shard lacks is joined as NaN; in a text column that means None.
    out = numbers.astype(object)
    if numbers.dtype.kind == "f":
        out[np.isnan(numbers)] = None
    return out
