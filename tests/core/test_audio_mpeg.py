"""MP3: a format without a container, whose length decoders guess."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.audio.mpeg_frames import read_frame_header
from audiomdb.audio.mpeg_tags import TagSkipper
from audiomdb.errors import DamagedAudioError

FILES = Path(__file__).parent.parent / "data" / "audio"


def mp3(samples: np.ndarray, rate: int = 16000, **options: Any) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="MP3", **options)
    return out.getvalue()


def noise(seconds: float, level: float = 0.3) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(int(seconds * 16000)) * level
    return samples.astype(np.float32)


def frame_starts(encoded: bytes) -> list[int]:
    starts, position = [], 0
    while (header := read_frame_header(encoded[position : position + 3])) is not None:
        starts.append(position)
        position += header.size
    return starts


def without_tag(encoded: bytes) -> bytes:
    return encoded[frame_starts(encoded)[1] :]


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
def test_frames_of_every_bitrate_are_followed_to_the_end(rate: int) -> None:
    bitrates = set()
    for level in np.linspace(0, 0.999, 40):
        silence = np.zeros(rate // 4, np.float32)
        encoded = mp3(silence, rate, bitrate_mode="CONSTANT", compression_level=level)
        starts = frame_starts(encoded)
        last = read_frame_header(encoded[starts[-1] : starts[-1] + 3])
        assert last is not None
        assert starts[-1] + last.size == len(encoded)
        bitrates |= {encoded[at + 2] >> 4 for at in starts}
    assert len(bitrates) >= 8


@pytest.mark.parametrize(
    ("head", "size", "samples"),
    [
        (b"\xff\xff\xe4", 448, 384),  # MPEG-1 layer I, 448 kbit/s at 48 kHz
        (b"\xff\xff\xe6", 452, 384),  # the same with a padding slot of 4 bytes
        (b"\xff\xf7\x84", 256, 384),  # MPEG-2 layer I, 128 kbit/s at 24 kHz
        (b"\xff\xfd\xe4", 1152, 1152),  # MPEG-1 layer II, 384 kbit/s at 48 kHz
        (b"\xff\xf5\x80", 417, 1152),  # MPEG-2 layer II, 64 kbit/s at 22.05 kHz
    ],
)
def test_frames_of_the_older_layers_have_their_own_sizes(
    head: bytes, size: int, samples: int
) -> None:
    header = read_frame_header(head)
    assert header is not None
    assert (header.size, header.samples) == (size, samples)


def test_true_count_wins_over_a_guess_that_is_too_high() -> None:
    path = FILES / "mp3/mp3_cbr_11025_mono.mp3"
    assert soundfile.info(str(path)).frames == 23726  # what libsndfile announces
    assert audio.probe(path).frames == 23616
    assert len(audio.decode(path)[0]) == 23616


def test_true_count_wins_over_a_guess_that_is_too_low() -> None:
    # Loud first, then silent: the first frames are large, so libsndfile expects few of them.
    samples = np.concatenate([noise(6), np.zeros(6 * 16000, np.float32)])
    tagged = mp3(samples, bitrate_mode="VARIABLE", compression_level=0.5)
    encoded = without_tag(tagged)
    frames = len(frame_starts(encoded)) * 576
    assert soundfile.info(io.BytesIO(encoded)).frames < frames
    assert audio.probe(encoded).frames == frames
    assert audio.check(encoded).frames == frames
    decoded, _ = audio.decode(encoded)
    assert len(decoded) == frames
    with_tag, _ = audio.decode(tagged)
    # The tag lets decoders drop what the encoder added: 1105 samples in front.
    assert np.allclose(decoded[1105 : 1105 + len(with_tag)], with_tag, atol=1e-6)
    for second in (0, 1, 9):
        part, _ = audio.decode(encoded, offset=second, duration=1)
        assert np.array_equal(part, decoded[second * 16000 : (second + 1) * 16000])


def test_missing_frames_are_noticed_by_the_tag() -> None:
    encoded = mp3(noise(2))
    starts = frame_starts(encoded)
    with pytest.raises(DamagedAudioError, match="announces"):
        audio.decode(encoded[: starts[-1]])


def test_cut_inside_a_frame_is_noticed_without_a_tag() -> None:
    encoded = without_tag(mp3(noise(2)))
    with pytest.raises(DamagedAudioError, match="cut off inside frame"):
        audio.decode(encoded[:-5])


@pytest.mark.parametrize("tagged", [True, False])
def test_hole_is_noticed(tagged: bool) -> None:
    encoded = mp3(noise(2))
    encoded = encoded if tagged else without_tag(encoded)
    middle = frame_starts(encoded)[20]
    for damaged in (
        encoded[:middle] + bytes(900) + encoded[middle + 900 :],
        encoded[:middle] + encoded[middle + 100 :],
        encoded[:middle] + b"noise" * 50 + encoded[middle:],
    ):
        with pytest.raises(DamagedAudioError):
            audio.decode(damaged)


@pytest.mark.parametrize("count", [1, 10, 2**32 - 1])
def test_lying_tag_is_noticed_before_anything_is_allocated(count: int) -> None:
    encoded = bytearray(mp3(noise(1)))
    place = max(encoded.find(b"Xing"), encoded.find(b"Info")) + 8
    encoded[place : place + 4] = count.to_bytes(4, "big")
    with pytest.raises(DamagedAudioError, match=f"announces {count} frames"):
        audio.decode(bytes(encoded))


@pytest.mark.parametrize(
    "tail", [b"TAG" + bytes(125), b"APETAGEX" + bytes(60), b"ID3\4\0\0\0\0\0\0", b""]
)
@pytest.mark.parametrize("tagged", [True, False])
def test_tags_behind_the_audio_change_nothing(tail: bytes, tagged: bool) -> None:
    encoded = mp3(noise(1)) if tagged else without_tag(mp3(noise(1)))
    assert np.array_equal(audio.decode(encoded + tail)[0], audio.decode(encoded)[0])


def test_large_tag_in_front_changes_nothing() -> None:
    encoded = mp3(noise(1))
    size = 1 << 20
    head = b"ID3\3\0\0" + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127])
    assert np.array_equal(audio.decode(head + bytes(size) + encoded)[0], audio.decode(encoded)[0])


def test_garbage_behind_a_counted_chain_is_left_alone() -> None:
    encoded = mp3(noise(1))
    assert np.array_equal(audio.decode(encoded + bytes(200))[0], audio.decode(encoded)[0])


def test_unknown_bytes_behind_an_uncounted_chain_are_refused() -> None:
    with pytest.raises(DamagedAudioError, match="breaks at byte"):
        audio.decode(without_tag(mp3(noise(1))) + bytes(200))


def sine(seconds: float) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(seconds * 16000)) / 20)).astype(np.float32)


def ape(*, header: bool) -> bytes:
    item = (3).to_bytes(4, "little") + bytes(4) + b"Title\0one"

    def edge(flags: int) -> bytes:
        fields = (2000, len(item) + 32, 1, flags | header << 31)
        return b"APETAGEX" + b"".join(f.to_bytes(4, "little") for f in fields) + bytes(8)

    return (edge(1 << 29) if header else b"") + item + edge(0)


ID3V1 = b"TAG" + b" " * 125
ID3V2 = b"ID3\3\0\0\0\0\0\x20" + bytes(32)
LYRICS = b"LYRICSBEGIN" + b"IND00002" + b"la" * 20 + b"000059" + b"LYRICS200"
TAGS = {
    "ID3v2": ID3V2,
    "ID3v1": ID3V1,
    "enhanced ID3v1": b"TAG+" + bytes(223) + ID3V1,
    "APE": ape(header=True),
    "APE without a header": ape(header=False),
    "Lyrics3": LYRICS + ID3V1,
    "Lyrics3 v1": b"LYRICSBEGIN" + b"la" * 20 + b"LYRICSEND" + ID3V1,
    "all": ID3V2 + ape(header=True) + LYRICS + ID3V1 + ID3V2,
}
BROKEN_TAGS = {
    "APE that says it is empty": b"APETAGEX" + bytes(60),
    "APE that ends in its footer": b"APETAGEX" + bytes(4),
    "ID3v2 of 256 MB": b"ID3\4\0\0\x7f\x7f\x7f\x7f",
    "half an ID3v1": ID3V1[:50],
    "Lyrics3 without an end": LYRICS[:30],
}


def by_name(tags: dict[str, bytes]) -> Any:
    return pytest.mark.parametrize("tag", tags.values(), ids=tags.keys())


@by_name(TAGS)
@pytest.mark.parametrize("samples", [sine(2), noise(2)], ids=["sine", "noise"])
def test_tags_between_joined_files_change_nothing(tag: bytes, samples: np.ndarray) -> None:
    encoded = without_tag(mp3(samples))
    expected, _ = audio.decode(encoded + encoded)
    joined = encoded + tag + encoded
    assert len(expected) == 2 * len(frame_starts(encoded)) * 576
    decoded, _ = audio.decode(joined)
    assert np.array_equal(decoded, expected)
    assert audio.check(joined).frames == audio.probe(joined).frames == len(expected)
    with audio.only_libsndfile():
        assert np.array_equal(audio.decode(joined)[0], expected)
    for start in (0, 20_000, 33_300, 60_000):  # before, around and behind the tag
        part, _ = audio.decode(joined, offset=start / 16000, duration=0.1)
        assert np.array_equal(part, expected[start : start + 1600])


@by_name(TAGS)
def test_tags_between_joined_files_under_one_frame_count_change_nothing(tag: bytes) -> None:
    first, second = mp3(sine(2)), without_tag(mp3(noise(2)))
    count = len(frame_starts(first + second)) - 1
    place = first.find(b"Xing") + 8
    first = first[:place] + count.to_bytes(4, "big") + first[place + 4 :]
    expected, _ = audio.decode(first + second)
    joined = first + tag + second
    assert np.array_equal(audio.decode(joined)[0], expected)
    assert audio.check(joined).frames == audio.probe(joined).frames == len(expected) > 60_000
    part, _ = audio.decode(joined, offset=3, duration=0.5)
    assert np.array_equal(part, expected[48_000:56_000])


@by_name(TAGS | BROKEN_TAGS)
@pytest.mark.parametrize("use", [audio.decode, audio.check, audio.probe])
def test_file_joined_after_one_with_a_frame_count_is_not_dropped(tag: bytes, use: Any) -> None:
    encoded = mp3(noise(1))
    for more in (encoded, without_tag(encoded), mp3(noise(1), 44100)):
        with pytest.raises(DamagedAudioError, match=r"announces|appended"):
            use(encoded + tag + more)


@by_name(BROKEN_TAGS)
@pytest.mark.parametrize("use", [audio.decode, audio.check, audio.probe])
def test_audio_after_an_unterminated_tag_is_not_dropped(tag: bytes, use: Any) -> None:
    encoded = without_tag(mp3(noise(1)))
    for between in (tag, tag + bytes(9000)):
        with pytest.raises(DamagedAudioError, match="breaks at byte"):
            use(encoded + between + encoded)


@by_name(TAGS | BROKEN_TAGS)
@pytest.mark.parametrize("padding", [0, 100])
def test_any_tag_and_its_padding_may_follow_the_audio(tag: bytes, padding: int) -> None:
    for encoded in (mp3(noise(1)), without_tag(mp3(noise(1)))):
        decoded, _ = audio.decode(encoded + tag + bytes(padding))
        assert np.array_equal(decoded, audio.decode(encoded)[0])


@by_name(TAGS)
def test_tags_between_several_joined_files_change_nothing(tag: bytes) -> None:
    encoded = without_tag(mp3(sine(1)))
    joined = encoded + tag + encoded + tag + encoded
    assert np.array_equal(audio.decode(joined)[0], audio.decode(3 * encoded)[0])


class Searched(bytes):
    """Bytes that count how many of them are searched."""

    def __init__(self, _: bytes) -> None:
        self.searched = 0

    def find(self, marker: Any, start: Any = 0, stop: Any = None) -> int:
        place = super().find(marker, start, stop)
        self.searched += (place if place >= 0 else len(self)) - start
        return place


@pytest.mark.parametrize("last", [b"", ape(header=True)], ids=["no APE", "an APE"])
@pytest.mark.parametrize("tag", [b"ID3\3" + bytes(6), b"LYRICSBEGINLYRICS200"], ids=len)
def test_a_file_of_many_tags_is_searched_once_for_each_marker(tag: bytes, last: bytes) -> None:
    frame = bytes(24)
    octets = Searched((frame + tag) * 500 + frame + last)
    tags = TagSkipper(octets)
    step = len(frame + tag)
    for end in range(step, 500 * step + 1, step):
        assert tags.after(end - len(tag)) == end
    markers = 3  # of APE, and two that end Lyrics3
    assert octets.searched <= markers * len(octets)
