"""Encode and decode an array's dtype and shape as a MessagePack list `[descr, shape]`.

`descr` is the same as in NumPy's .npy files, with lists in place of tuples.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from math import prod
from typing import Any

import msgspec
import numpy as np

from audiomdb.errors import CorruptRecordError

__all__ = ["check_text", "encode_dtype", "parse_dtype"]

_NUMBERS = "biufc"

_MOST_WITHOUT_BYTES = 2**16
"""Elements of an array of a dtype such as "V0". It takes no space in a file, whatever its shape,
but NumPy gives some of these dtypes a size."""


def encode_dtype(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Encode the dtype and shape of an array.

    Raises:
        ValueError: when `parse_dtype` would not return the same dtype; the message says why.
    """
    if dtype.isbuiltin == 1 and dtype.kind in _NUMBERS:  # nearly all: no need to try it
        return msgspec.msgpack.encode([dtype.str, shape])
    try:
        header = msgspec.msgpack.encode([np.lib.format.dtype_to_descr(dtype), shape])
        same = parse_dtype(header)[0] == dtype
    except (TypeError, CorruptRecordError) as exc:
        raise ValueError(str(exc)) from exc
    if not same:
        raise ValueError("it has no portable form")
    return header


@lru_cache(maxsize=1024)
def parse_dtype(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Decode the dtype and shape of an array.

    Raises:
        CorruptRecordError: when the header is invalid or its dtype holds Python objects.
    """
    try:
        descr, shape = msgspec.msgpack.decode(header)
        dtype = np.lib.format.descr_to_dtype(_tuples(descr))
        dims = tuple(shape)
        ok = not dtype.hasobject and all(type(n) is int and n >= 0 for n in dims)
        ok = ok and (dtype.itemsize > 0 or prod(dims) <= _MOST_WITHOUT_BYTES)
    except (
        msgspec.DecodeError,
        IndexError,
        OverflowError,
        RecursionError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as exc:
        raise CorruptRecordError(f"dtype header is damaged: {exc}") from exc
    if not ok:
        raise CorruptRecordError(f"dtype {dtype} of shape {dims} is not allowed")
    return dtype, dims


def check_text(array: np.ndarray) -> None:
    """Check the code points of text, which make NumPy raise SystemError later if they are wrong.

    Args:
        array: Array of any dtype; that of a record may have fields with text.

    Raises:
        CorruptRecordError: when one is beyond Unicode.
    """
    dtype = array.dtype
    for name in dtype.names or ():
        check_text(array[name])
    if dtype.kind == "U" and array.size and dtype.itemsize:
        codes = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(dtype.byteorder))
        if (highest := codes.max()) > sys.maxunicode:
            raise CorruptRecordError(f"array {dtype} holds the code point {highest:#x}")


def _tuples(descr: Any) -> Any:  # noqa: ANN401
    # The descr of .npy files has tuples for fields, which MessagePack turned into lists.
    if isinstance(descr, list):
        return [(_title(f[0]), _tuples(f[1]), *map(tuple, f[2:])) for f in descr]
    return descr


def _title(name: Any) -> Any:  # noqa: ANN401
    return tuple(name) if isinstance(name, list) else name
