"""The checksum of heads, payloads and indexes: crc32 as in zlib, by the fastest code there is.

The zlib that Python is built with goes through 3 GB/s here, zlib-ng (extra `fast`) through 11. Both
let other threads run meanwhile, and give the same numbers.
"""

from __future__ import annotations

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
