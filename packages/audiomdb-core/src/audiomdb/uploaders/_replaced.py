"""Say which files are left of datasets that another has replaced, as pure functions of bytes.

While a dataset is replaced, its `metadata.json` is kept at the destination in a note. Once the new
dataset is there, the note says which files only the old one had, even to a later upload.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from audiomdb.errors import FormatVersionError, MetadataError
from audiomdb.shards.metadata import Metadata, data_files, parse_metadata

__all__ = ["NOTE_FILE", "left_over", "with_another"]

NOTE_FILE = ".replaced.json"
"""Name of the note: a JSON list of the metadata of each dataset that was replaced."""


def with_another(note: bytes | None, metadata: bytes) -> bytes | None:
    """Return the note with another dataset added; None if there is nothing to add.

    Args:
        note: The note that is there, if there is one.
        metadata: The dataset's `metadata.json`. One that cannot be read is not added.
    """
    known, added = _datasets(note), _dataset(metadata)
    if added is None or added in known:
        return None
    return msgspec.json.encode([*known, added])


def left_over(note: bytes, ours: Collection[str]) -> dict[str, set[tuple[int, str]]]:
    """Return the files that the datasets of a note have and the new one does not.

    Args:
        note: The note.
        ours: Paths of the new dataset's files.

    Returns:
        By path: size and sha256 (hex) of each version; empty for files that metadata does not
        describe. The lock file of a shard comes after its data.
    """
    files: dict[str, set[tuple[int, str]]] = {}
    for metadata in _datasets(note):
        for path, version in data_files(metadata).items():
            files.setdefault(path, set()).update(() if version is None else (version,))
    return {path: versions for path, versions in files.items() if path not in ours}


def _datasets(note: bytes | None) -> list[Metadata]:
    try:
        documents = msgspec.json.decode(note or b"[]", type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # then nothing is deleted
        return []
    return [found for document in documents if (found := _dataset(bytes(document))) is not None]


def _dataset(metadata: bytes) -> Metadata | None:
    try:
        return parse_metadata(metadata, NOTE_FILE)
    except (MetadataError, FormatVersionError):
        return None
