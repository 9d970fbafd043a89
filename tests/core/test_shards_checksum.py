"""Checksums are zlib's crc32, whoever computes them."""

from __future__ import annotations

import importlib
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiomdb.shards import checksum


@given(st.binary(max_size=5000))
def test_a_checksum_is_the_crc32_of_zlib(data: bytes) -> None:
    assert checksum.crc32(memoryview(data)) == zlib.crc32(data)


def test_python_computes_them_where_nothing_faster_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faster = checksum.crc32
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "zlib_ng.zlib_ng", None)
        assert importlib.reload(checksum).crc32 is zlib.crc32
    assert importlib.reload(checksum).crc32 is faster
