"""Read, check and write `metadata.json`, which is written last and makes a folder a dataset."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from audiomdb.errors import (
    DatasetNotFoundError,
    FormatVersionError,
    MetadataError,
    UnknownColumnError,
)
from audiomdb.lazy import cached_property
from audiomdb.quantities import counted, duration
from audiomdb.sample import KEY
from audiomdb.shards.files import write_atomically
from audiomdb.shards.layout import (
    ALIGNMENT,
    DATA_FILE,
    FORMAT_NAME,
    FORMAT_VERSION,
    INDEX_FILE,
    LOCK_FILE,
    METADATA_FILE,
    REJECTED_FILE,
    shard_number,
)
from audiomdb.urls import folder_path

__all__ = [
    "MOST_METADATA_BYTES",
    "Feature",
    "IndexEntry",
    "Metadata",
    "ShardEntry",
    "data_files",
    "metadata_bytes",
    "parse_metadata",
    "read_metadata",
    "write_metadata",
]

MOST_METADATA_BYTES = 1 << 30
"""A larger file is not metadata. A shard takes 290 bytes and the length of two keys, so this is
three times what a million shards need. An endless answer is refused before it fills the memory."""

_SHOWN = 60

_MOST_BYTES = 2**56
"""Largest size of all shards together that is believed: 72 PB. Arithmetic with the numbers of
samples and bytes then stays within 64 bits."""

_SAMPLE_BYTES = 5
"""Least size of a sample in the index of its shard: a byte in each of five tables."""


class Feature(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False):
    """The types of one field's values over all samples.

    Attributes:
        types: Sorted names of the types that occur: "array", "bool", "bytes", "dict", "float",
            "int", "list", "null", "scalar", "str".
        dtype: NumPy's name of the dtype, if all arrays have the same.
        shape: Shape of the arrays, with None for a length that varies; None if the number of axes
            varies.
    """

    types: tuple[str, ...]
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None


class ShardEntry(msgspec.Struct, frozen=True):
    """The entry of one shard in `metadata.json`.

    Attributes:
        path: Folder, relative to the dataset.
        samples: Number of samples.
        bytes: Size of its data.mdb.
        sha256: Hex digest of its data.mdb.
        duration: Seconds of audio, as measured during conversion.
        first_key: Smallest key, "" for an empty shard.
        last_key: Largest key, "" for an empty shard.
        index_offset: Offset of the shard's index in data.mdb.
        index_bytes: Size of the index.
    """

    path: str
    samples: int
    bytes: int
    sha256: str
    duration: float
    first_key: str
    last_key: str
    index_offset: int
    index_bytes: int


class IndexEntry(msgspec.Struct, frozen=True):
    """The entry of the file that holds every shard's index, in shard order."""

    path: str
    bytes: int
    sha256: str


class Metadata(msgspec.Struct, frozen=True, dict=True):
    """The contents of `metadata.json`.

    Attributes:
        name: Name of the dataset.
        samples: Number of samples in all shards.
        bytes: Total size of all data.mdb files.
        duration: Seconds of audio.
        features: Features by field name.
        processors: Names of the processors applied during conversion, in order.
        rejected: Number of source samples that could not be stored (see `rejected.jsonl`).
        index: The file of all shards' indexes.
        shards: The shards, in order.
    """

    format: str
    format_version: int
    name: str
    samples: int
    bytes: int
    duration: float
    features: dict[str, Feature]
    processors: tuple[str, ...]
    rejected: int
    index: IndexEntry
    shards: tuple[ShardEntry, ...]

    def __repr__(self) -> str:
        samples, shards = counted(self.samples, "sample"), counted(len(self.shards), "shard")
        return f"<Metadata of {self.name!r}: {samples} in {shards}, {duration(self.duration)}>"

    def check_fields(self, fields: Iterable[str], besides: Collection[str] = (KEY,)) -> None:
        """Refuse a field that no sample has: if it is misspelt, it would be missing silently.

        Args:
            fields: Names of fields.
            besides: Names that samples may have beside their features.

        Raises:
            UnknownColumnError: names the field and those that there are. Never raised for a dataset
                without samples.
        """
        unknown = {name for name in fields if name not in self.features and name not in besides}
        if unknown and self.samples:
            raise UnknownColumnError(
                f"no sample of dataset {self.name!r} has a field {min(map(repr, unknown))}; there "
                f"are {', '.join(map(repr, sorted(self.features)))}"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest over the shards' SHA-256: equal contents have equal fingerprints."""
        import hashlib

        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(bytes.fromhex(shard.sha256))
        return digest.hexdigest()


class _Head(msgspec.Struct):
    """What tells datasets of this format, and of a version that can be read, from others."""

    format: Any = None
    format_version: Any = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_metadata = msgspec.json.Decoder(Metadata).decode


def read_metadata(dataset: str | os.PathLike[str]) -> Metadata:
    """Read and check the metadata of a dataset in a local folder.

    Raises:
        InvalidURLError: when the path is a URL.
        DatasetNotFoundError: when there is none, as after an unfinished conversion.
        FormatVersionError: when a newer library wrote it.
        MetadataError: when it is damaged or contradicts itself.
    """
    return parse_metadata(metadata_bytes(dataset), str(Path(dataset, METADATA_FILE)))


def metadata_bytes(dataset: str | os.PathLike[str]) -> bytes:
    """Return the content of the `metadata.json` in a local folder, for `parse_metadata`.

    Raises:
        InvalidURLError, DatasetNotFoundError, MetadataError: as for `read_metadata`.
    """
    folder = folder_path(dataset, instead="audiomdb.registry.retriever_for takes URLs")
    path = folder / METADATA_FILE
    try:
        facts = path.stat()
        # Neither is read: a pipe, which would keep its reader waiting, nor a device without an end.
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MOST_METADATA_BYTES:
            raise MetadataError(
                f"{path} is no file, or has more than {MOST_METADATA_BYTES} bytes: it is not the "
                "metadata of a dataset"
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as exc:
        hint = "the folder does not exist"
        if folder.is_dir():
            hint = (
                f"the folder has no {METADATA_FILE}, which is written last. If a conversion, "
                "upload or pull into it was stopped, run the same again"
            )
        elif folder.is_file():
            hint = f"that is a file, and a dataset is a folder with {METADATA_FILE}"
        raise DatasetNotFoundError(f"no dataset at {folder}: {hint}") from exc


def parse_metadata(raw: bytes, name: str) -> Metadata:
    """Decode and check metadata; `name` is its name in error messages.

    Raises:
        FormatVersionError, MetadataError: as for `read_metadata`.
    """
    # Only what is asked for is decoded: anything else could take 30 times its size in memory.
    try:
        head = _decode_head(raw)
    except msgspec.ValidationError:
        head = _Head()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MetadataError(f"{name} is not JSON: {exc}") from exc
    if head.format != FORMAT_NAME:
        says = "missing" if head.format is None else repr(head.format)[:_SHOWN]
        raise MetadataError(f"{name} does not describe an AudioMDB dataset ('format' is {says})")
    version = head.format_version
    if not isinstance(version, int) or version < 1:
        raise MetadataError(f"{name}: 'format_version' is {version!r}, expected a number from 1")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{name} has format version {version}; this library reads up to {FORMAT_VERSION}. "
            "Upgrade audiomdb-core."
        )
    try:
        metadata = _decode_metadata(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MetadataError(f"{name}: {exc}") from exc
    _check(metadata, name)
    return metadata


def data_files(metadata: Metadata) -> dict[str, tuple[int, str] | None]:
    """Return the files of a dataset beside its metadata and index, which all datasets have.

    Returns:
        By path: size and sha256 (hex); None for files that metadata does not describe. The lock
        file of a shard comes after its data.
    """
    files: dict[str, tuple[int, str] | None] = {}
    for entry in metadata.shards:
        files[f"{entry.path}/{DATA_FILE}"] = entry.bytes, entry.sha256
        files[f"{entry.path}/{LOCK_FILE}"] = None
    if metadata.rejected:
        files[REJECTED_FILE] = None
    return files


def write_metadata(dataset: Path, metadata: Metadata) -> None:
    """Write `metadata.json` atomically."""
    encoded = msgspec.json.format(msgspec.json.encode(metadata), indent=1)
    write_atomically(dataset / METADATA_FILE, [encoded, b"\n"])


def _check(metadata: Metadata, name: str) -> None:
    for shard in metadata.shards:
        # Metadata may be untrusted: a path of any other form could leave the dataset's folder.
        if shard_number(shard.path) is None:
            raise MetadataError(
                f"{name}: shard path {shard.path!r} is not of the form 'shard_00000'"
            )
        numbers = (shard.samples, shard.bytes, shard.index_offset, shard.index_bytes)
        if (
            min(numbers) < 0
            or shard.index_offset + shard.index_bytes > shard.bytes
            or shard.samples * _SAMPLE_BYTES > shard.index_bytes
        ):
            raise MetadataError(f"{name}: {shard.path} has impossible sizes {numbers}")
        if len(shard.sha256) != 64 or shard.sha256.strip("0123456789abcdef"):
            raise MetadataError(f"{name}: {shard.path} has the sha256 {shard.sha256!r}")
    if len({shard.path for shard in metadata.shards}) != len(metadata.shards):
        raise MetadataError(f"{name} lists a shard twice")
    if metadata.index.path != INDEX_FILE:
        raise MetadataError(
            f"{name} says that its index is {metadata.index.path!r}, not {INDEX_FILE}"
        )
    total = sum(shard.samples for shard in metadata.shards)
    if total != metadata.samples:
        raise MetadataError(
            f"{name} says {metadata.samples} samples, its shards say {total} in all"
        )
    if (shard_bytes := sum(shard.bytes for shard in metadata.shards)) > _MOST_BYTES:
        raise MetadataError(f"{name} says that its shards have {shard_bytes} bytes, which none has")
    sizes = (shard.index_bytes for shard in metadata.shards)
    total = sum(size + -size % ALIGNMENT for size in sizes)
    if total != metadata.index.bytes:
        raise MetadataError(
            f"{name} says that its index has {metadata.index.bytes} bytes, its shards say {total}"
        )
