"""Convert the values of a sample to MessagePack types, and collect its large values as payloads."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any, TypeAlias

import numpy as np
from msgspec.msgpack import Ext

from audiomdb.errors import UnsupportedValueError
from audiomdb.shards.checksum import crc32
from audiomdb.shards.dtypes import encode_dtype
from audiomdb.shards.layout import ALIGNMENT, INLINE_BYTES

__all__ = [
    "INLINE_ARRAY",
    "INLINE_SCALAR",
    "MAX_DEPTH",
    "PAYLOAD_ARRAY",
    "PAYLOAD_BYTES",
    "REF",
    "Buffer",
    "Packer",
]

Buffer: TypeAlias = "bytes | bytearray | memoryview"

PAYLOAD_BYTES, PAYLOAD_ARRAY, INLINE_ARRAY, INLINE_SCALAR = 1, 2, 3, 4
"""Codes of the extension types, which `codec` documents."""

REF = Struct("<QQI")
"""Reference to a payload: offset within the record's payloads, length, CRC-32."""

MAX_DEPTH = 64
"""Containers around a value, that of the sample included."""

_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1


class Packer:
    """Converts the values of one sample to MessagePack types, and collects its payloads.

    Args:
        key: Key of the sample, for error messages.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self.payloads: list[Buffer] = []
        """Buffers to write consecutively, with padding so that each payload is aligned."""

        self.size = 0
        """Total size of `payloads` in bytes."""

    def name(self, field: object, path: str) -> str:
        """Check the name of a field of the mapping at `path`, and return it as a plain str.

        Raises:
            UnsupportedValueError: when the name is not a str.
        """
        if not isinstance(field, str):
            where = f" in {path!r}" if path else ""
            raise self._refusal(
                f"has the field name {field!r} ({type(field).__name__}){where}, expected str"
            )
        return str.__str__(field)  # not str(), which gives another text for an enum

    def pack(self, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401
        """Convert the value at `path`, which is nested in `depth` containers.

        Raises:
            UnsupportedValueError: when the value cannot be stored; names key and path.
        """
        kind = type(value)
        if kind is str or kind is float or value is None or kind is bool:
            return value
        if kind is int:
            return self._int(value, path)
        if kind is bytes or isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(value)
        if isinstance(value, np.ndarray):
            return self._array(value, path, INLINE_ARRAY)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, np.generic):
            return self._array(np.asarray(value), path, INLINE_SCALAR)
        if isinstance(value, Mapping | list | tuple):
            return self._container(value, path, depth)
        if isinstance(value, int):
            return self._int(int(value), path)
        if isinstance(value, float):
            return float(value)
        if hasattr(value, "__array__"):
            return self._array(self._as_array(value, path), path, INLINE_ARRAY)
        raise self._refusal(
            f"holds {kind.__module__}.{kind.__qualname__} in {path!r}; store bytes, text, numbers, "
            "lists, dicts or NumPy arrays"
        )

    def _int(self, value: int, path: str) -> int:
        if not _MIN_INT <= value <= _MAX_INT:
            raise self._refusal(f"holds {value} in {path!r}, outside -2^63 .. 2^64-1")
        return value

    def _bytes(self, value: Buffer) -> Any:  # noqa: ANN401
        if isinstance(value, memoryview):
            if not value.c_contiguous:
                value = value.tobytes()
            elif value.format != "B" or value.ndim != 1:
                value = value.cast("B")
        if len(value) <= INLINE_BYTES:
            return bytes(value)
        return Ext(PAYLOAD_BYTES, self._payload(value))

    def _container(self, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401
        if depth >= MAX_DEPTH:
            raise self._refusal(f"nests more than {MAX_DEPTH} containers in {path[:80]!r}")
        if isinstance(value, Mapping):
            return {
                self.name(k, path): self.pack(v, f"{path}.{k}", depth + 1) for k, v in value.items()
            }
        return [self.pack(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]

    def _as_array(self, value: Any, path: str) -> np.ndarray:  # noqa: ANN401
        try:
            return np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as exc:
            raise self._refusal(f"holds in {path!r} what NumPy cannot take: {exc}") from exc

    def _array(self, array: np.ndarray, path: str, inline_code: int) -> Any:  # noqa: ANN401
        header = self._dtype_header(array, path)
        flat = np.asarray(array, order="C")
        if flat.nbytes <= INLINE_BYTES:
            return Ext(inline_code, header + flat.tobytes())
        elements = flat.reshape(-1).view(np.uint8).data
        return Ext(PAYLOAD_ARRAY, self._payload(elements) + header)

    def _dtype_header(self, array: np.ndarray, path: str) -> bytes:
        dtype = array.dtype
        if isinstance(array, np.ma.MaskedArray):
            raise self._refusal(f"holds a masked array in {path!r}; store data and mask apart")
        if dtype.hasobject or dtype.char == "T":
            raise self._refusal(
                f"holds an array of dtype {dtype} in {path!r}; store a list, or a fixed-size dtype"
            )
        if dtype.kind == "V" and dtype.names is None and dtype.type is not np.void:
            raise self._refusal(
                f"holds an array of dtype {dtype} in {path!r}, which NumPy alone cannot read back; "
                "store a view of it as unsigned integers"
            )
        try:
            header = encode_dtype(dtype, array.shape)
        except ValueError as exc:
            raise self._refusal(f"holds dtype {dtype} in {path!r}: {exc}") from exc
        return len(header).to_bytes(2, "little") + header

    def _payload(self, data: Buffer) -> bytes:
        gap = -self.size % ALIGNMENT
        if gap:
            self.payloads.append(bytes(gap))
            self.size += gap
        ref = REF.pack(self.size, len(data), crc32(data))
        self.payloads.append(data)
        self.size += len(data)
        return ref

    def _refusal(self, what: str) -> UnsupportedValueError:
        return UnsupportedValueError(f"sample {self._key!r} {what}")
