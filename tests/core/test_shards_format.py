"""docs/format.md suffices to read a dataset: a reader made from that page alone, without LMDB."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from math import isfinite, prod
from pathlib import Path
from struct import unpack_from
from typing import Any

import numpy as np
import pytest

from audiomdb.shards import DatasetReader, DatasetWriter

GOLDEN = Path(__file__).resolve().parents[1] / "data/golden"


class Message:
    """Decodes MessagePack; extension types are given to `extension`."""

    def __init__(self, data: bytes, extension: Callable[[int, bytes], Any]) -> None:
        self.data, self.at, self.extension = data, 0, extension

    def take(self, size: int) -> bytes:
        self.at += size
        assert self.at <= len(self.data)
        return self.data[self.at - size : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def text(self, size: int) -> str:
        return self.take(size).decode()

    def array(self, size: int) -> list[Any]:
        return [self.value() for _ in range(size)]

    def map(self, size: int) -> dict[str, Any]:
        return {self.value(): self.value() for _ in range(size)}

    def ext(self, size: int) -> Any:
        code = self.number(1, signed=True)
        return self.extension(code, self.take(size))

    def value(self) -> Any:
        first = self.number(1)
        if 0x80 <= first < 0x90:
            return self.map(first - 0x80)
        if 0x90 <= first < 0xA0:
            return self.array(first - 0x90)
        if 0xA0 <= first < 0xC0:
            return self.text(first - 0xA0)
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first == 0xCB:
            return unpack_from(">d", self.take(8))[0]
        if 0xCC <= first < 0xD4:
            return self.number(1 << (first & 3), signed=first >= 0xD0)
        if 0xD4 <= first < 0xD9:
            return self.ext(1 << (first - 0xD4))
        sized: list[tuple[int, Callable[[int], Any], int]] = [
            *((0xC4, self.take, 1), (0xC7, self.ext, 1), (0xD9, self.text, 1)),
            *((0xDC, self.array, 2), (0xDE, self.map, 2)),
        ]
        start, read, width = max(entry for entry in sized if entry[0] <= first)
        return read(self.number(width << (first - start)))


def plain(data: bytes) -> Any:
    message = Message(data, lambda code, _: pytest.fail(f"extension {code}"))
    value = message.value()
    assert message.at == len(data)
    return value


def elements(header: bytes, data: bytes | None) -> np.ndarray:
    """Make an array of a dtype header, followed by its elements unless they are elsewhere."""
    end = 2 + unpack_from("<H", header)[0]
    descr, shape = plain(header[2:end])
    fields = [tuple(field) for field in descr] if isinstance(descr, list) else descr
    data = header[end:] if data is None else data
    assert len(data) == np.dtype(fields).itemsize * prod(shape)
    return np.frombuffer(data, fields).reshape(shape)


def decoded(data: bytes, payloads: bytes) -> dict[str, Any]:
    """Decode the map of a head or an index, given the bytes that *where* counts from."""

    def extension(code: int, content: bytes) -> Any:
        if code in (3, 4):
            array = elements(content, None)
            return array if code == 3 else array[()]
        where, length, crc = unpack_from("<QQI", content)
        payload = payloads[where : where + length]
        assert len(payload) == length
        assert zlib.crc32(payload) == crc
        assert code in (1, 2)
        return payload if code == 1 else elements(content[20:], payload)

    message = Message(data, extension)
    value: dict[str, Any] = message.value()
    assert message.at == len(data)
    return value


def index_of(part: bytes) -> dict[str, Any]:
    magic, crc, size = unpack_from("<8sII", part)
    assert (magic, crc) == (b"AMDBIDX1", zlib.crc32(part[12:]))
    return decoded(part[16 : 16 + size], part[16 + size + -(16 + size) % 16 :])


def shards_of(dataset: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any], bytes]]:
    """Yield the metadata, the index and the bytes of each shard."""
    metadata = json.loads((dataset / "metadata.json").read_bytes())
    whole = (dataset / "index.bin").read_bytes()
    entry = metadata["index"]
    assert (entry["bytes"], entry["sha256"]) == (len(whole), hashlib.sha256(whole).hexdigest())
    at = 0
    for number, shard in enumerate(metadata["shards"]):
        assert shard["path"] == f"shard_{number:05d}"
        data = (dataset / shard["path"] / "data.mdb").read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        part = data[shard["index_offset"] :][: shard["index_bytes"]]
        assert part == whole[at : at + len(part)]
        at += len(part) + -len(part) % 16
        yield shard, index_of(part), data
    assert at == len(whole)


def samples_of(dataset: Path) -> Iterator[dict[str, Any]]:
    for shard, index, data in shards_of(dataset):
        text, ends = index["key_text"].tobytes(), index["key_ends"].tolist()
        keys = [text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
        assert keys == sorted(keys, key=str.encode)
        assert len(keys) == shard["samples"]
        assert (keys[0], keys[-1]) == (shard["first_key"], shard["last_key"])
        places = ("head_offset", "head_bytes", "payload_offset", "payload_bytes")
        for key, *place in zip(keys, *(index[name].tolist() for name in places), strict=True):
            head, payloads = (data[place[i] : place[i] + place[i + 1]] for i in (0, 2))
            assert zlib.crc32(head[4:]) == unpack_from("<I", head)[0]
            sample = decoded(head[12:], payloads)
            assert next(iter(sample.items())) == ("__key__", key)
            yield sample


def columns_of(dataset: Path) -> dict[str, list[Any]]:
    """Return the columns of a dataset, None where a value is missing."""
    shards = list(shards_of(dataset))
    left_out = {name for _, index, _ in shards for name in index["left_out"]}
    names = {name for _, index, _ in shards for name in index["columns"]} - left_out
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for shard, index, _ in shards:
        for name in names:
            column = index["columns"].get(name)
            if isinstance(column, dict):
                values = [*column["values"], None]
                columns[name] += [values[code] for code in column["codes"].tolist()]
            elif column is None:
                columns[name] += [None] * shard["samples"]
            else:
                columns[name] += [None if v != v else v for v in column.tolist()]
        seconds = index["columns"].get("duration", np.zeros(0)).tolist()
        assert shard["duration"] == pytest.approx(sum(filter(isfinite, seconds)), rel=1e-6)
    return columns


def flat(value: Any) -> Any:
    """Make a value comparable, with its types."""
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(name, flat(item)) for name, item in value.items()]
    return [flat(item) for item in value] if isinstance(value, list) else (type(value), value)


def odd_samples(folder: Path) -> Path:
    """Write columns of all kinds, in shards that differ."""
    with DatasetWriter(folder, samples_per_shard=5) as writer:
        for n in range(15):
            sample = {
                "text": "t" * n,
                "whole": n - 7,
                "large": 2**64 - 1 - n,
                "yes": bool(n % 2),
                "perhaps": bool(n % 2) if n % 3 else None,
                "half": np.float32(n / 2),
                "word": f"é{n % 4}" if n % 5 else None,
                "long": "x" * (120 * n),
                "mixed": "word" if n % 2 else n,
                "changing": n if n < 5 else f"{n}",
                "payload": bytes(n * 100),
                "table": np.arange(40 * n).reshape(-1, 2),
                "nested": {"list": [np.arange(n), None, -(2**63), 0.5]},
            }
            writer.write(f"{n * 7 % 15:02d}", sample if n < 10 else sample | {"late": n})
    return folder


@pytest.mark.parametrize("dataset", ["v1", "v1_16k", "odd"])
def test_the_page_is_enough_to_read_all_samples_and_columns(dataset: str, tmp_path: Path) -> None:
    path = odd_samples(tmp_path / "odd") if dataset == "odd" else GOLDEN / dataset
    reader = DatasetReader.open(path)
    found = list(samples_of(path))
    assert [flat(sample) for sample in found] == [flat(dict(sample)) for sample in reader]
    columns = columns_of(path)
    assert {*columns, "__key__"} == {*reader.index}
    for name, values in columns.items():
        theirs = [None if value != value else value for value in reader.index[name].tolist()]
        assert values == theirs, name
    if dataset == "odd":
        assert {"whole", "large", "yes", "perhaps", "half", "word", "changing", "late"} < {*columns}
        assert {"text", "long", "mixed", "payload", "table", "nested"}.isdisjoint(columns)
