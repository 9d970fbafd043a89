"""Damage is never taken for audio."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from audiomdb import audio
from audiomdb.audio.ogg_pages import checksum
from audiomdb.errors import AudioError, DamagedAudioError, UnreadableAudioError

FILES = Path(__file__).parent.parent / "data" / "audio"


def speech() -> np.ndarray:
    decoded, _ = audio.decode(FILES / "flac/flac_s16_level5_16k_mono.flac")
    return decoded


def written(container: str, subtype: str, frames: int = 3001) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, speech()[:frames], 16000, format=container, subtype=subtype)
    return out.getvalue()


CLIPS = {
    f"{container} {subtype}": written(container, subtype)
    for container, subtype in [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "ULAW"),
        ("WAV", "IMA_ADPCM"),
        ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AIFF", "FLOAT"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("CAF", "ALAC_16"),
        ("NIST", "PCM_16"),
        ("VOC", "PCM_U8"),
        ("FLAC", "PCM_16"),
        ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
    ]
}


def both_ways() -> list[AbstractContextManager[None]]:
    return [nullcontext(), audio.only_libsndfile()]


@settings(max_examples=200, derandomize=True)
@given(name=st.sampled_from(sorted(CLIPS)), where=st.floats(0, 1, exclude_max=True))
def test_truncation_anywhere_raises_or_leaves_the_audio_whole(name: str, where: float) -> None:
    encoded = CLIPS[name]
    whole, rate = audio.decode(encoded)
    cut = encoded[: int(where * len(encoded))]
    for way in both_ways():
        with way:
            try:
                decoded, its_rate = audio.decode(cut)
            except AudioError:
                continue
        # Only what lies behind the audio was lost, such as a closing chunk.
        assert np.array_equal(decoded, whole)
        assert its_rate == rate


@pytest.mark.parametrize("name", sorted(CLIPS))
@pytest.mark.parametrize("keep", [-1, -2, -3, -40])
def test_a_few_missing_bytes_at_the_end_are_noticed(name: str, keep: int) -> None:
    whole, _ = audio.decode(CLIPS[name])
    for use in (audio.decode, audio.check, audio.probe):
        try:
            result = use(CLIPS[name][:keep])
        except DamagedAudioError:
            continue
        if isinstance(result, tuple):
            assert np.array_equal(result[0], whole)
        else:
            assert result.frames == len(whole)


@settings(max_examples=200, derandomize=True)
@given(
    name=st.sampled_from(["FLAC PCM_16", "FLAC PCM_24"]),
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8
    ),
)
def test_flipped_bits_in_flac_raise_or_change_nothing(
    name: str, flips: list[tuple[float, int]]
) -> None:
    damaged = bytearray(CLIPS[name])
    whole, _ = audio.decode(CLIPS[name])
    for where, bit in flips:
        damaged[int(where * len(damaged))] ^= 1 << bit
    for way in both_ways():
        with way:
            try:
                decoded, _ = audio.decode(bytes(damaged))
            except AudioError:
                continue
        assert np.array_equal(decoded, whole)  # the flips hit comments or the MD5


@settings(max_examples=100, derandomize=True)
@given(
    name=st.sampled_from(["OGG VORBIS", "OGG OPUS"]),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_flipped_bit_in_ogg_raises(name: str, where: float, bit: int) -> None:
    damaged = bytearray(CLIPS[name])
    damaged[int(where * len(damaged))] ^= 1 << bit
    with pytest.raises(AudioError):
        audio.decode(bytes(damaged))


@pytest.mark.parametrize("name", ["OGG VORBIS", "OGG OPUS"])
@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_an_ogg_without_a_marked_last_page_raises(name: str, flags: int) -> None:
    encoded = CLIPS[name]
    at = encoded.rindex(b"OggS")
    page = bytearray(encoded[at:])
    page[5], page[22:26] = flags, bytes(4)
    page[22:26] = checksum(page).to_bytes(4, "little")
    with pytest.raises(AudioError):
        audio.check(encoded[:at] + page)


@settings(max_examples=100, derandomize=True)
@given(
    name=st.sampled_from(sorted(CLIPS)),
    flips=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_headers_give_audio_or_an_audiomdb_error(
    name: str, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(CLIPS[name])
    for place, value in flips:
        damaged[place] = value
    for use in (audio.decode, audio.check, audio.probe):
        message = "clip: "
        try:
            use(bytes(damaged), name="clip")
        except AudioError as error:
            message = str(error)
        assert message.startswith("clip: ")


@settings(max_examples=200)
@given(
    octets=st.binary(max_size=300),
    magic=st.sampled_from(
        [
            b"",
            b"fLaC",
            b"OggS\0\2",
            b"RIFF\x80\0\0\0WAVE",
            b"FORM\0\0\0\x80AIFF",
            b"caff\0\1\0\0",
            b".snd\0\0\0\x18",
            b"NIST_1A\n   1024\n",
            b"Creative Voice File\x1a\x1a\0",
            b"riff",
            b"ID3\4\0\0\0\0\0\0",
            b"\xff\xfb\x90\x44",
        ]
    ),
)
def test_random_bytes_only_ever_raise_an_error(octets: bytes, magic: bytes) -> None:
    for use in (audio.decode, audio.check, audio.probe):
        try:
            use(magic + octets)
        except AudioError:
            continue


@pytest.mark.parametrize("name", ["FLAC PCM_16", "FLAC PCM_24"])
@given(place=st.integers(0, 200) | st.integers(0, 1 << 20), bit=st.integers(0, 7))
@settings(max_examples=150, derandomize=True)
def test_damage_to_a_flac_of_recorded_length_raises_or_changes_nothing(
    name: str, place: int, bit: int
) -> None:
    whole = CLIPS[name]
    expected, rate = audio.decode(whole)
    damaged = bytearray(whole)
    damaged[place % len(whole)] ^= 1 << bit
    for octets in (memoryview(damaged), memoryview(whole)[: len(whole) - 1 - place % 64]):
        for way in both_ways():
            with way:
                try:
                    found, at = audio.decode(octets, frames=len(expected))
                except AudioError:
                    continue
                assert at == rate
                np.testing.assert_array_equal(found, expected)
    with pytest.raises(DamagedAudioError, match="recorded"):
        audio.decode(memoryview(whole), frames=len(expected) - 1)


def plain_wav(dtype: str, channels: int, frames: int = 50) -> bytes:
    """As most programs write it: a header of 44 bytes, and samples."""
    samples = np.arange(frames * channels).astype(dtype).tobytes()
    width = np.dtype(dtype).itemsize
    coding, rate = (1 if dtype == "<i2" else 3), 16_000
    form = (coding, channels, rate, rate * width * channels, width * channels, 8 * width)
    fmt = struct.pack("<8sIHHIIHH", b"WAVEfmt ", 16, *form)
    data = struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(fmt) + len(data)) + fmt + data


def variants(whole: bytes) -> Iterator[bytes]:
    """It, it with each bit of a header of 44 bytes flipped, cut in places, and with more behind."""
    yield whole
    for at in range(44):
        for bit in range(8):
            yield whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
    for size in (0, 11, 43, 44, 45, len(whole) - 1, len(whole) - 4):
        yield whole[:size]
    for tail in (b"\0", b"LIST\4\0\0\0abcd", bytes(100)):
        yield whole + tail


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_wav_of_recorded_length_is_read_as_one_of_unknown_length(
    dtype: str, channels: int
) -> None:
    """Whatever its header says: the shorter way to the samples comes to the same end."""
    whole = plain_wav(dtype, channels)
    assert audio.decode(memoryview(whole), frames=50)[0].shape[0] == 50
    for octets in variants(whole):
        assert outcome(octets) == outcome(memoryview(octets))
    with pytest.raises(DamagedAudioError, match="recorded"):
        audio.decode(memoryview(whole), frames=49)


@pytest.mark.parametrize("dtype", ["<i2", "<f4"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("use", [audio.probe, audio.check])
def test_wav_properties_match_those_of_libsndfile(
    dtype: str, channels: int, use: Callable[[bytes], audio.AudioInfo]
) -> None:
    whole = plain_wav(dtype, channels)
    subtype = {"<i2": "PCM_16", "<f4": "FLOAT"}[dtype]
    assert use(whole) == audio.AudioInfo("WAV", subtype, 16_000, channels, 50)
    for octets in variants(whole):
        found: list[object] = []
        for way in both_ways():
            with way:
                try:
                    found.append(use(octets))
                except AudioError as error:
                    found.append((type(error), str(error)))
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("channels", "rate", "read"),
    [
        (1, 2**31 - 1, True),
        (1, 2**31, False),
        (1, 2**32 - 1, False),
        (1, 0, False),
        (1024, 8000, True),
        (1025, 8000, False),
        (0, 8000, False),
    ],
)
def test_all_decoders_refuse_the_same_wavs(channels: int, rate: int, read: bool) -> None:
    whole = bytearray(plain_wav("<i2", channels))
    whole[24:28] = struct.pack("<I", rate)
    for use in (audio.decode, audio.check, audio.probe, partial(audio.decode, frames=50)):
        for way in both_ways():
            with way, nullcontext() if read else pytest.raises(UnreadableAudioError):
                use(memoryview(whole))


def outcome(octets: bytes | memoryview) -> tuple[object, ...]:
    """What decoding gives: rate, shape and samples, or the error."""
    try:
        found, rate = audio.decode(octets, frames=50)
    except AudioError as error:
        return type(error), str(error)
    return rate, found.shape, found.tobytes()


def test_zero_hole_in_a_flac_is_noticed() -> None:
    damaged = bytearray(CLIPS["FLAC PCM_16"])
    middle = len(damaged) // 2
    damaged[middle : middle + 500] = bytes(500)
    for way in both_ways():
        with way, pytest.raises(DamagedAudioError):
            audio.decode(bytes(damaged))


def test_missing_frame_in_a_flac_is_noticed() -> None:
    # dr_flac steps over the gap without a word and gives fewer frames.
    encoded = written("FLAC", "PCM_16", 30393)
    second = encoded.index(b"\xff\xf8", encoded.index(b"\xff\xf8", 200) + 100)
    for way in both_ways():
        with way, pytest.raises(DamagedAudioError):
            audio.decode(encoded[:second] + encoded[second + 3000 :])


@pytest.mark.parametrize("total", [1, 4096, 8192, 20480, 30392, 30394, 10**6, 2**36 - 1])
def test_lying_total_in_a_flac_header_is_noticed(total: int) -> None:
    encoded = bytearray(written("FLAC", "PCM_16", 30393))
    packed = int.from_bytes(encoded[18:26], "big") >> 36 << 36 | total
    encoded[18:26] = packed.to_bytes(8, "big")
    for way in both_ways():
        with way:
            for use in (audio.decode, audio.check, audio.probe):
                with pytest.raises(DamagedAudioError):
                    use(bytes(encoded))


@pytest.mark.parametrize(("shift", "value", "words"), [(44, 8000, "Hz"), (41, 1, "channels")])
def test_flac_header_that_contradicts_its_frames_is_noticed(
    shift: int, value: int, words: str
) -> None:
    encoded = bytearray(CLIPS["FLAC PCM_16"])
    packed = int.from_bytes(encoded[18:26], "big")
    width = {44: 20, 41: 3}[shift]
    packed = packed & ~(((1 << width) - 1) << shift) | value << shift
    encoded[18:26] = packed.to_bytes(8, "big")
    with pytest.raises(DamagedAudioError, match=words):
        audio.decode(bytes(encoded))


def unknown_total(md5: bool) -> bytes:
    encoded = bytearray(written("FLAC", "PCM_16", 30393))
    encoded[18:26] = (int.from_bytes(encoded[18:26], "big") >> 36 << 36).to_bytes(8, "big")
    if not md5:
        encoded[26:42] = bytes(16)
    return bytes(encoded)


@pytest.mark.parametrize("md5", [True, False])
def test_flac_of_unknown_length_is_read_to_its_end(md5: bool) -> None:
    decoded, _ = audio.decode(unknown_total(md5))
    assert np.array_equal(decoded, speech())
    assert audio.check(unknown_total(md5)).frames == 30393


def test_flac_of_unknown_length_reveals_a_missing_frame_by_its_md5() -> None:
    encoded = unknown_total(md5=True)
    last = encoded.rindex(b"\xff\xf8")
    for use in (audio.decode, audio.check):
        with pytest.raises(DamagedAudioError, match="MD5"):
            use(encoded[:last])


def wav(
    data: bytes, *, riff: int | None = None, size: int | None = None, tail: bytes = b""
) -> bytes:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    head = struct.pack("<4sI", b"data", len(data) if size is None else size)
    body = b"WAVE" + fmt + head + data + tail
    return struct.pack("<4sI", b"RIFF", len(body) if riff is None else riff) + body


DATA = (np.arange(500) * 7).astype("<i2").tobytes()


@pytest.mark.parametrize(
    "encoded",
    [
        wav(DATA, riff=0xFFFFFFFF, size=0xFFFFFFFF),
        wav(DATA, riff=0x7FFFF024, size=0x7FFFF000),
        wav(DATA, riff=0, size=0),
        wav(DATA, riff=0),
        wav(DATA, tail=b"LIST\x04\0\0\0INFO"),
        wav(DATA, tail=b"LIST\x04\0\0\0INFO")[:-3],
        wav(DATA, tail=b"odd \x03\0\0\0abc\0"),
        wav(DATA) + b"garbage" * 100,
        wav(DATA, tail=bytes(4)),
    ],
    ids=["pipe", "sox pipe", "size 0", "RIFF size 0", "list", "list cut", "odd", "tail", "zeros"],
)
def test_unusual_but_legal_wav_is_read_whole(encoded: bytes) -> None:
    for way in both_ways():
        with way:
            decoded, _ = audio.decode(encoded)
            assert np.array_equal(decoded * 32768, np.frombuffer(DATA, "<i2"))
            assert audio.check(encoded).frames == 500


@pytest.mark.parametrize(
    "encoded",
    [
        wav(DATA)[:-1],
        wav(DATA, size=100),
        wav(DATA * 20, riff=136, size=100),
        wav(DATA, size=0),
        wav(b"", riff=0, size=0),
        wav(b"", riff=0xFFFFFFFF, size=0xFFFFFFFF),
        wav(DATA[:-1], riff=0xFFFFFFFF, size=0xFFFFFFFF),
        wav(b"", size=1000),
        wav(DATA)[:30],
        wav(DATA)[:40],
    ],
    ids=[
        "cut", "size too small", "both sizes too small", "size 0, RIFF size not",
        "pipe, no audio", "open, no audio", "half a frame", "header only", "in fmt", "before data",
    ],
)  # fmt: skip
def test_wav_with_wrong_sizes_is_damaged(encoded: bytes) -> None:
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError):
            use(encoded)


def test_wav_without_the_padding_byte_is_read() -> None:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    body = b"WAVE" + fmt + struct.pack("<4sI", b"data", 3) + b"abc" + b"LIST\x04\0\0\0INFO"
    decoded, _ = audio.decode(struct.pack("<4sI", b"RIFF", len(body)) + body)
    assert len(decoded) == 3


def test_check_needs_little_memory_for_a_long_clip() -> None:
    import tracemalloc

    encoded = audio.encode(np.zeros(20_000_000, np.int16), 16000)  # 80 MB decoded
    tracemalloc.start()
    try:
        assert audio.check(encoded).frames == 20_000_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
