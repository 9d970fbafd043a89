"""Locate values in an LMDB file by parsing its pages, without opening an LMDB environment.

A finished shard never changes, and LMDB stores a value in consecutive bytes, so each value has one
fixed offset in the file. A reader maps the file and slices it there: it needs no environment or
reader table, and a fork or a second open is safe. Every access is bounds-checked, so that a damaged
file raises an error where LMDB itself would access memory out of bounds.

The page layout is LMDB 0.9's on 64-bit machines (`mdb.c`: MDB_page, MDB_node, MDB_meta, MDB_db),
little endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError  # noqa: N812

import msgspec

from audiomdb.errors import CorruptShardError

__all__ = ["Place", "places"]

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = Struct("<QHHHH")  # page number, padding, flags, lower, upper
_META = Struct("<IIQQ")  # magic, version, map address, map size; then two MDB_db
_DB = Struct("<IHHQQQQQ")  # page size (free db only), flags, depth, 3 counts, entries, root
_META_TAIL = Struct("<QQ")  # last page used, transaction
_NODE = Struct("<HHHH")  # size or page number in three parts, key size
_BRANCH, _LEAF = 0x01, 0x02
_BIGDATA, _SUBDATA = 0x01, 0x02
_NO_PAGE = 2**64 - 1
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 16))
_NUMBER_BYTES = 8
"""Size of the page number that a node holds in place of a large value."""


class Place(msgspec.Struct, frozen=True):
    """A key, and the offset and length of its value in the file."""

    key: bytes
    offset: int
    length: int


def places(file: memoryview, database: bytes | None = None) -> Iterator[Place]:
    """Yield the entries of a database in key order.

    Args:
        file: The whole file.
        database: Name of a named database, or None for the main one, without its entries for the
            named databases.

    Raises:
        CorruptShardError: when a page is damaged, or the named database is missing.
    """
    page_bytes, root = _header(file)
    if database is not None:
        for node in _nodes(file, page_bytes, root):
            if node.key == database and node.flags & _SUBDATA and node.length >= _DB.size:
                root = _DB.unpack_from(file, node.offset)[7]
                break
        else:
            raise CorruptShardError(f"no database {database.decode()!r} in the file")
    for node in _nodes(file, page_bytes, root):
        if not node.flags & _SUBDATA:
            yield Place(node.key, node.offset, node.length)


class _Node(Place, frozen=True):
    flags: int


def _header(file: memoryview) -> tuple[int, int]:
    """Return page size and root page of the main database, from the newer of the two meta pages."""
    first = _meta(file, 0)
    page_bytes = first[0]
    if page_bytes not in _PAGE_SIZES:
        raise CorruptShardError(f"pages of {page_bytes} bytes, expected a power of 2 up to 32768")
    newest = max(first, _meta(file, page_bytes), key=lambda meta: meta[2])
    if newest[0] != page_bytes:
        raise CorruptShardError("the two meta pages disagree on the page size")
    return page_bytes, newest[1]


def _meta(file: memoryview, at: int) -> tuple[int, int, int]:
    """Return page size, root page of the main database and transaction number of a meta page."""
    try:
        magic, version, _, _ = _META.unpack_from(file, at + _PAGE.size)
        free_db = at + _PAGE.size + _META.size
        page_bytes = _DB.unpack_from(file, free_db)[0]
        root = _DB.unpack_from(file, free_db + _DB.size)[7]
        _, transaction = _META_TAIL.unpack_from(file, free_db + 2 * _DB.size)
    except StructError as exc:
        raise CorruptShardError(f"{len(file)} bytes are too short for an LMDB file") from exc
    if magic != _MAGIC or version != _VERSION:
        raise CorruptShardError(
            f"no LMDB 0.9 file: magic {magic:#x} version {version} at {at}, expected "
            f"{_MAGIC:#x} version {_VERSION}"
        )
    return page_bytes, root, transaction


def _nodes(file: memoryview, page_bytes: int, root: int) -> Iterator[_Node]:
    """Yield the entries of the tree under page `root`, in key order."""
    seen: set[int] = set()
    to_visit = [] if root == _NO_PAGE else [root]
    while to_visit:
        page = to_visit.pop()
        if page in seen:  # a crafted tree could contain a cycle
            raise CorruptShardError(f"page {page} occurs twice in the tree of pages")
        seen.add(page)
        start = page * page_bytes
        if start + page_bytes > len(file):
            raise CorruptShardError(f"page {page} lies beyond the file's {len(file)} bytes")
        _, _, flags, lower, _ = _PAGE.unpack_from(file, start)
        if not flags & (_BRANCH | _LEAF) or not _PAGE.size <= lower <= page_bytes or lower % 2:
            raise CorruptShardError(f"page {page} is damaged (flags {flags:#x}, lower {lower})")
        pointers = file[start + _PAGE.size : start + lower].cast("H")
        if any(not _PAGE.size <= at <= page_bytes - _NODE.size for at in pointers):
            raise CorruptShardError(f"page {page} points outside itself")
        # Nodes do not overlap; if they could, the keys of one file could fill any memory.
        room = page_bytes - lower
        for at in pointers:
            room -= _node_bytes(file, start + at, leaf=bool(flags & _LEAF))
            if room < 0:
                raise CorruptShardError(f"page {page} holds more than fits into it")
        if flags & _BRANCH:
            to_visit += [_child(file, start + at) for at in reversed(pointers)]
        else:
            end = start + page_bytes
            yield from (_leaf_node(file, start + at, end, page_bytes) for at in pointers)


def _node_bytes(file: memoryview, at: int, *, leaf: bool) -> int:
    low, high, flags, key_size = _NODE.unpack_from(file, at)
    value = (_NUMBER_BYTES if flags & _BIGDATA else low | high << 16) if leaf else 0
    return int(_NODE.size + key_size + value)


def _child(file: memoryview, at: int) -> int:
    low, middle, high, _ = _NODE.unpack_from(file, at)
    return int(low | middle << 16 | high << 32)


def _leaf_node(file: memoryview, at: int, end: int, page_bytes: int) -> _Node:
    low, high, flags, key_size = _NODE.unpack_from(file, at)
    length = low | high << 16
    key_at = at + _NODE.size
    data = key_at + key_size
    if flags & _BIGDATA:
        number = file[data : data + _NUMBER_BYTES]
        data = int.from_bytes(number, "little") * page_bytes + _PAGE.size
        end = len(file)
    if data + length > end:
        raise CorruptShardError(f"a value of {length} bytes at {data} exceeds its page or the file")
    return _Node(bytes(file[key_at : key_at + key_size]), data, length, flags)
