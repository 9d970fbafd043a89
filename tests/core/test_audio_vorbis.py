"""Windows of Ogg Vorbis are slices of the whole, wherever its pages begin, and cost little."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb import audio
from audiomdb.audio.cutting import Cutter
from audiomdb.audio.ogg_pages import CONTINUED, FIRST, LAST, Page, made, pages
from audiomdb.errors import DamagedAudioError
from tests.core.decoded import count_decoded

SERIAL = 7
HEADERS = 3
KINDS = [
    # Rate in Hz, channels, compression from 0 (best) to 1: with one block size or two.
    (8_000, 1, 1.0),
    (11_025, 2, 0.5),
    (16_000, 1, 0.6),
    (16_000, 6, 0.6),
    (44_100, 1, 0.0),
    (44_100, 2, 1.0),
    (96_000, 2, 0.3),
    (192_000, 1, 0.6),
]

Pages = list[dict[str, Any]]


@cache
def stream(rate: int, channels: int, compression: float, seconds: float) -> bytes:
    """Noise that changes its loudness ten times a second, so that short blocks are used too."""
    noise = np.random.default_rng(0)
    steps = int(10 * seconds)
    samples = noise.uniform(-0.5, 0.5, (steps, rate // 10, channels))
    samples *= noise.uniform(0, 1, (steps, 1, 1)) ** 6
    out = io.BytesIO()
    samples = samples.reshape(-1, channels)[:-17]
    options = {"format": "OGG", "subtype": "VORBIS", "compression_level": compression}
    with soundfile.SoundFile(out, "w", rate, channels, **options) as file:
        for part in np.array_split(samples, steps):  # libvorbis may crash if it gets all at once
            file.write(part)
    return out.getvalue()


def packets(octets: bytes) -> Iterator[bytes]:
    packet = b""
    for page in pages(memoryview(octets)):
        assert isinstance(page, Page)
        position = page.body
        for length in octets[page.table : page.body]:
            packet += octets[position : position + length]
            position += length
            if length < 255:
                yield packet
                packet = b""


def positions(audio_packets: Sequence[bytes], identification: bytes) -> Iterator[int]:
    """Yield the granule position after each packet."""
    exponents = identification[28]
    sizes = (1 << (exponents & 15), 1 << (exponents >> 4))
    total, last = 0, None
    for packet in audio_packets:
        size = sizes[packet[0] >> 1 & 1]
        total += 0 if last is None else (last + size) // 4
        last = size
        yield total


def paged(octets: bytes, sizes: Sequence[int]) -> Pages:
    """Lay a stream out anew, in pages of these numbers of segments, again and again."""
    found = list(packets(octets))
    frames = audio.probe(octets).frames
    assert frames is not None
    result: Pages = []
    for start, stop, lengths in (
        (0, 1, [255]),
        (1, HEADERS, [255]),
        (HEADERS, len(found), sizes),
    ):
        ends = [0] * (stop - start)
        if start == HEADERS:
            ends = list(positions(found[start:], found[0]))
            ends[-1] = frames
        segments = [
            (packet[at : at + 255], end if at + 255 > len(packet) else -1)
            for packet, end in zip(found[start:stop], ends, strict=True)
            for at in range(0, len(packet) + 1, 255)
        ]
        for count in itertools.cycle(lengths):
            here, segments = segments[:count], segments[count:]
            before = result[-1]["table"] if result else b"\0"
            result.append(
                {
                    "flags": CONTINUED if before.endswith(b"\xff") else 0,
                    "granule": max(end for _, end in here),
                    "table": bytes(len(octets) for octets, _ in here),
                    "body": b"".join(octets for octets, _ in here),
                }
            )
            if not segments:
                break
    result[0]["flags"] |= FIRST
    result[-1]["flags"] |= LAST
    return result


def joined(layout: Pages) -> bytes:
    return b"".join(
        made(serial=SERIAL, sequence=number, **page) for number, page in enumerate(layout)
    )


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    sizes=st.none() | st.lists(st.sampled_from([1, 2, 3, 7, 40, 255]), min_size=1, max_size=4),
    windows=st.lists(st.tuples(st.floats(0, 0.999), st.floats(0, 1.1)), min_size=1, max_size=6),
)
def test_any_window_of_any_stream_is_a_slice_of_the_whole(
    kind: tuple[int, int, float],
    sizes: list[int] | None,
    windows: list[tuple[float, float]],
) -> None:
    octets = stream(*kind, 250_000 / kind[0])  # so long that most windows are cut out
    whole, rate = audio.decode(octets)
    if sizes is not None:
        octets = joined(paged(octets, sizes))
    with Cutter(octets) as cutter:
        for where, size in windows:
            start = int(where * len(whole))
            count = int(size**4 * len(whole))
            for cut in (
                cutter.cut,
                lambda offset, s: audio.decode(octets, offset=offset, duration=s),
            ):
                part, its_rate = cut(start / rate, count / rate)
                assert its_rate == rate
                assert np.array_equal(part, whole[start : start + count])
                assert part.shape == whole[start : start + count].shape


def test_windows_on_page_borders_are_slices_of_the_whole() -> None:
    octets = stream(16_000, 1, 0.6, 20)
    whole, _ = audio.decode(octets)
    with Cutter(octets) as cutter:
        for page in pages(memoryview(octets)):
            assert isinstance(page, Page)
            place = min(page.granule, len(whole) - 1)
            for start, count in ((place, 0), (place, 1), (max(0, place - 700), 700)):
                part, _ = cutter.cut(start / 16_000, count / 16_000)
                assert np.array_equal(part, whole[start : start + count])
                part, _ = audio.decode(octets, offset=start / 16_000, duration=count / 16_000)
                assert np.array_equal(part, whole[start : start + count])


def test_windows_of_vorbis_with_long_blocks_first_are_exact() -> None:
    octets = stream(16_000, 1, 0.6, 20)
    whole, _ = audio.decode(octets)
    layout = paged(octets, [255])
    # The two modes of 41 bits each are the end of the setup, but for one bit (section 4.2.4).
    headers = next(page for page in layout[1:] if page["body"])
    setup = int.from_bytes(headers["body"], "little")
    at = setup.bit_length() - 1 - 82
    modes = setup >> at & (1 << 82) - 1
    swapped = modes >> 41 | (modes & (1 << 41) - 1) << 41
    assert swapped != modes
    setup ^= (modes ^ swapped) << at
    headers["body"] = setup.to_bytes(len(headers["body"]), "little")
    for page in layout[2:]:
        body, position, starts = bytearray(page["body"]), 0, not page["flags"] & CONTINUED
        for length in page["table"]:
            if starts:
                body[position] ^= 2
            position, starts = position + length, length < 255
        page["body"] = bytes(body)
    octets = joined(layout)
    assert np.array_equal(audio.decode(octets)[0], whole)
    for start in range(70_000, 310_000, 7_001):
        part, _ = audio.decode(octets, offset=start / 16_000, duration=0.05)
        assert np.array_equal(part, whole[start : start + 800])


@pytest.mark.parametrize("sizes", [None, [3], [255], [1, 40]], ids=str)
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2)])
def test_little_but_the_window_is_decoded(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int] | None, rate: int, channels: int
) -> None:
    octets = stream(rate, channels, 0.6, 60)
    if sizes is not None:
        octets = joined(paged(octets, sizes))
    whole, _ = audio.decode(octets)
    decoded = count_decoded(monkeypatch)
    part, _ = audio.decode(octets, offset=40, duration=1)
    assert np.array_equal(part, whole[40 * rate : 41 * rate])
    assert rate <= sum(decoded) < 10 * rate


def shifted(layout: Pages) -> None:
    for page in layout[2:]:
        page["granule"] += 1000 if page["granule"] >= 0 else 0


def wrong_in_the_middle(layout: Pages) -> None:
    layout[len(layout) // 2]["granule"] += 64


def none_in_the_middle(layout: Pages) -> None:
    layout[len(layout) // 2]["granule"] = -1


def trimmed_by_a_second(layout: Pages) -> None:
    layout[-1]["granule"] -= 16_000


def empty_last_page(layout: Pages) -> None:
    layout[-1]["flags"] &= ~LAST
    layout.append({"flags": LAST, "granule": layout[-1]["granule"], "table": b"", "body": b""})


def empty_page_in_the_middle(layout: Pages) -> None:
    layout.insert(len(layout) // 2, {"flags": 0, "granule": -1, "table": b"", "body": b""})


def audio_behind_the_headers(layout: Pages) -> None:
    headers, page = layout[1:3]
    page["table"] = headers["table"] + page["table"]
    page["body"] = headers["body"] + page["body"]
    del layout[1]


def continuing_nothing(layout: Pages) -> None:
    layout[len(layout) // 2]["flags"] |= CONTINUED


def empty_packet(layout: Pages) -> None:
    page = layout[len(layout) // 2]
    page["table"] += b"\0"


def empty_packet_at_the_end(layout: Pages) -> None:
    layout[-1]["table"] += b"\0"


def packet_of_no_audio(layout: Pages) -> None:
    page = layout[len(layout) // 2]
    page["table"], page["body"] = page["table"] + b"\4", page["body"] + b"\1abc"


def packet_marked_as_no_audio(layout: Pages) -> None:
    page = layout[len(layout) // 2]
    page["body"] = bytes((page["body"][0] | 1,)) + page["body"][1:]


def twice_its_middle(layout: Pages) -> None:
    middle = len(layout) // 2
    layout[middle:middle] = [dict(page) for page in layout[middle - 3 : middle]]


@pytest.mark.parametrize(
    "edit",
    [
        shifted,
        wrong_in_the_middle,
        none_in_the_middle,
        trimmed_by_a_second,
        empty_last_page,
        empty_page_in_the_middle,
        audio_behind_the_headers,
        continuing_nothing,
        empty_packet,
        empty_packet_at_the_end,
        packet_of_no_audio,
        packet_marked_as_no_audio,
        twice_its_middle,
    ],
)
def test_windows_of_an_edited_stream_equal_decoding_from_its_start(
    edit: Callable[[Pages], None],
) -> None:
    # Pages that end with a packet, so that packets can be added.
    sizes = [len(packet) // 255 + 1 for packet in packets(stream(16_000, 1, 0.6, 8))][HEADERS:]
    layout = paged(stream(16_000, 1, 0.6, 8), sizes)
    edit(layout)
    octets = joined(layout)
    with soundfile.SoundFile(io.BytesIO(octets)) as file:
        whole = np.concatenate(list(file.blocks(1000, dtype="float32")))
    assert len(whole) > 100_000
    for start in range(1000, len(whole) - 500, 9_001):
        part, rate = audio.decode(octets, offset=start / 16_000, duration=500 / 16_000)
        assert np.array_equal(part, whole[start : start + 500])
    assert rate == 16_000


def test_windows_after_a_premature_last_page_are_refused() -> None:
    layout = paged(stream(16_000, 1, 0.6, 8), [5])
    layout[len(layout) // 2]["flags"] |= LAST
    for offset in (0.0, 7.0):
        with pytest.raises(DamagedAudioError, match=r"decodes? to"):
            audio.decode(joined(layout), offset=offset)


def test_damage_anywhere_is_found_by_a_window_elsewhere() -> None:
    octets = stream(16_000, 1, 0.6, 8)
    for place in (0.3, 0.9):
        damaged = bytearray(octets)
        damaged[int(place * len(octets))] ^= 1
        with pytest.raises(DamagedAudioError, match="fails its checksum"):
            audio.decode(bytes(damaged), offset=5, duration=0.5)
