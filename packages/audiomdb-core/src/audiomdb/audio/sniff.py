"""Describe files that are not audio, or that are audio in an unsupported format.

Files are recognised by content, never by name: a FLAC called `.wav` is a FLAC.
"""

from __future__ import annotations

__all__ = ["describe"]

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull`"),
    (4, b"ftyp", "MP4 (AAC or video): convert it to FLAC first"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska: convert it to FLAC first"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "WMA (ASF): convert it to FLAC first"),
    (0, b"#!AMR", "AMR speech: convert it to FLAC first"),
    (0, b"MAC ", "Monkey's Audio: convert it to FLAC first"),
    (0, b"wvpk", "WavPack: convert it to FLAC first"),
    (0, b"TTA", "True Audio: convert it to FLAC first"),
    (0, b"DSD ", "DSD: convert it to FLAC first"),
    (0, b"FRM8", "DSDIFF: convert it to FLAC first"),
    (0, b"ajkg", "Shorten: convert it to FLAC first"),
    (8, b"AVI ", "an AVI video: extract its sound to FLAC first"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"FLAC", "bytes that start with `FLAC` where a FLAC file has `fLaC`"),
    (0, b"\x1f\x8b", "gzip: decompress it first"),
    (0, b"BZh", "bzip2: decompress it first"),
    (0, b"\xfd7zXZ", "xz: decompress it first"),
    (0, b"(\xb5/\xfd", "zstd: decompress it first"),
    (0, b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (257, b"ustar", "a tar archive: unpack it first"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x93NUMPY", "a NumPy array: load it and pass the array"),
    (0, b"SIMPLE", "a FITS file"),
)


def describe(head: bytes, size: int) -> str:
    """Describe in one phrase what kind of file starts with these bytes.

    Args:
        head: the first 512 bytes, or all of a shorter file.
        size: size of the whole file in bytes.
    """
    if size == 0:
        return "empty (0 bytes)"
    for position, magic, meaning in _MAGIC:
        if head[position : position + len(magic)] == magic:
            return meaning
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC (ADTS): convert it to FLAC first"
    if not any(head):
        return f"{'zero bytes' if size > len(head) else f'{size} zero bytes'}: was it downloaded?"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, perhaps an error message: look at it and fetch the file again"
    if text.startswith(b"<?xml"):
        return "XML, perhaps an error message: look at it and fetch the file again"
    if text.startswith((b"{", b"[")) and _is_text(head):
        return "JSON, perhaps an error message: look at it and fetch the file again"
    if _is_text(head):
        return "plain text"
    return (
        "bytes without the header of a known audio format; headerless (raw) samples need a WAV "
        "header, since nothing tells their rate and width"
    )


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut off at the end of the 512 bytes.
        text = head.decode("utf-8", "strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return False
    return len(text) * 2 > len(head) and all(c.isprintable() or c in "\t\r\n" for c in text)
