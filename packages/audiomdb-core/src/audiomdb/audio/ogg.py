"""Check all pages of an Ogg stream, and set its serial number.

Decoders drop a page whose checksum is wrong and continue with the next, so damage is only heard as
a gap; here every page is checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from audiomdb.audio.ogg_pages import FIRST, LAST, Page, fails, made, pages
from audiomdb.audio.structure import Structure
from audiomdb.audio.vorbis import Excerpts

if TYPE_CHECKING:
    from audiomdb.audio.source import Source

__all__ = ["inspect_ogg", "set_serial"]

_VORBIS = b"\x01vorbis"
_CODECS = (_VORBIS, b"OpusHead")
_OTHER_CODECS = {
    b"\x7fFLAC": "Ogg FLAC: convert to native FLAC first (`ffmpeg -i in.ogg -c copy out.flac`)",
    b"Speex   ": "Ogg Speex: convert to FLAC first",
    b"\x80theora": "Ogg video (Theora): extract the sound to FLAC first",
    b"fishead\x00": "Ogg with a Skeleton stream: extract the sound to FLAC first",
}


def inspect_ogg(source: Source) -> Structure:
    """Check that all pages of a single Vorbis or Opus stream are present and undamaged.

    Raises:
        UnreadableAudioError: another codec, or more than one stream.
        DamagedAudioError: a page is missing, cut off or damaged, or the stream has no last page.
    """
    view = source.view()
    found: list[Page] = []
    for page in pages(view):
        previous = found[-1] if found else None
        if isinstance(page, str):
            if previous is not None and previous.flags & LAST:
                break  # bytes after the stream's last page are not part of it
            raise source.damaged(f"Ogg: {page}; fetch the file again")
        if previous is None:
            _check_codec(source, view, page)
        elif page.flags & FIRST:
            raise source.unreadable(
                "Ogg with several streams, chained or side by side: "
                "split it into files of one stream each"
            )
        elif page.serial != previous.serial or page.sequence != previous.sequence + 1:
            raise source.damaged(
                f"Ogg: pages are missing before byte {page.start} (number {page.sequence} "
                f"follows {previous.sequence})"
            )
        if fails(view[page.start : page.stop]):
            raise source.damaged(
                f"Ogg: the page at bytes {page.start} to {page.stop} fails its checksum"
            )
        found.append(page)
    if not found or not found[-1].flags & LAST:
        raise source.damaged(
            "Ogg stream without its last page: the file was cut off, or recording never ended"
        )
    # A decoder that seeks gives other samples. libsndfile's Opus decoder needs long to converge
    # (measured: differences of 2e-3 still 4 s later), so that no shorter stream helps either. Its
    # Vorbis decoder may be at another frame than it says (measured in libsndfile 1.2.2: one seek in
    # seven in a file by FFmpeg, and many of those of a decoder that has decoded something before).
    vorbis = view[found[0].body :][:7] == _VORBIS
    return Structure("OGG", seekable=False, excerpt=Excerpts(view, found) if vorbis else None)


def _check_codec(source: Source, view: memoryview, page: Page) -> None:
    packet = bytes(view[page.body : page.body + 8])
    if packet.startswith(_CODECS):
        return
    for start, advice in _OTHER_CODECS.items():
        if packet.startswith(start):
            raise source.unreadable(advice)
    raise source.unreadable("Ogg with a codec other than Vorbis or Opus: convert to FLAC first")


def set_serial(stream: bytes, serial: int) -> bytes:
    """Return a single Ogg stream with another serial number and new checksums.

    libsndfile chooses a random serial number, so the same audio would be encoded to other bytes.
    """
    view, changed = memoryview(stream), []
    for page in pages(view):
        assert not isinstance(page, str), page
        table, body = view[page.table : page.body], view[page.body : page.stop]
        changed.append(made(page.flags, page.granule, serial, page.sequence, table, body))
    return b"".join(changed)
