"""Files that contradict themselves, or repeat a part: an error, and the same one everywhere."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.audio.cutting import Cutters
from audiomdb.audio.flac_frames import _crc8
from audiomdb.errors import AudioError, DamagedAudioError, UnreadableAudioError
from audiomdb.shards.describe import AudioOptions, describe

FILES = Path(__file__).parent.parent / "data" / "audio"
SPEECH = (FILES / "flac/flac_s16_level5_16k_mono.flac").read_bytes()


@pytest.mark.parametrize("overlap", [3000, 9000, 20_000])
@pytest.mark.parametrize("at", [0.6, 0.8, 0.95])
def test_a_flac_with_bytes_repeated_by_a_resumed_download_decodes_unchanged(
    overlap: int, at: float
) -> None:
    # Their frames can take the places of others at the end. If only the one that the seam breaks is
    # repeated, all frames are there.
    seam = round(len(SPEECH) * at)
    repeated = SPEECH[:seam] + SPEECH[seam - overlap :]
    whole, _ = audio.decode(SPEECH)
    for frames in (None, len(whole)):
        try:
            found, _ = audio.decode(memoryview(repeated), frames=frames)
        except DamagedAudioError:
            continue
        assert np.array_equal(found, whole)


def test_a_flac_without_a_rate_is_no_audio() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100), 8000, format="FLAC")
    octets = bytearray(out.getvalue())
    octets[18:21] = bytes((0, 0, octets[20] & 0x0F))  # the rate, 20 bits
    frame = octets.index(b"\xff\xf8", 42)
    octets[frame + 2] &= 0xF0  # the rate is in the header of the file
    octets[frame + 6] = _crc8(bytes(octets[frame : frame + 6]))
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(UnreadableAudioError, match="0 Hz"):
            use(bytes(octets))
    with pytest.raises(AudioError, match=r"'clip'.*0 Hz"):
        describe("clip", {"audio": bytes(octets)}, AudioOptions(), Cutters())


def test_a_flac_of_a_bit_depth_that_no_decoder_reads_is_unreadable_not_damaged() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(100), 8000, format="FLAC", subtype="PCM_24")
    octets = bytearray(out.getvalue())
    packed = int.from_bytes(octets[18:26], "big")
    octets[18:26] = (packed & ~(31 << 36) | 19 << 36).to_bytes(8, "big")
    frame = octets.index(b"\xff\xf8", 42)
    octets[frame + 3] = octets[frame + 3] & 0xF1 | 5 << 1
    octets[frame + 6] = _crc8(bytes(octets[frame : frame + 6]))
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(UnreadableAudioError, match="20 bits per sample: convert it"):
            use(bytes(octets))


def test_a_flac_with_two_headers_is_refused() -> None:
    second = bytearray(SPEECH[4:42])  # the block STREAMINFO
    second[14:17] = (8000 << 4).to_bytes(3, "big")
    doubled = SPEECH[:42] + bytes(second) + SPEECH[42:]
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match="metadata damaged"):
            use(doubled)


def test_an_rf64_with_two_sizes_for_its_samples_is_refused() -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(1000), 8000, format="RF64")
    octets = bytearray(out.getvalue())
    size = octets.index(b"data", 12) + 4
    assert octets[size : size + 4] == b"\xff" * 4
    octets[size : size + 4] = (32).to_bytes(4, "little")
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match="32 bytes and whose ds64 chunk says 2000"):
            use(bytes(octets))


def test_an_rf64_that_was_written_to_a_pipe_is_not_taken_for_empty() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 1000)
    for samples, subtype in ((noise, "PCM_16"), (noise, "PCM_24"), (noise[:0], "PCM_16")):
        out = io.BytesIO()
        soundfile.write(out, samples, 8000, format="RF64", subtype=subtype)
        octets = bytearray(out.getvalue())
        sizes = octets.index(b"ds64") + 8
        octets[sizes : sizes + 24] = bytes(24)
        for use in (audio.decode, audio.check, audio.probe):
            if len(samples):
                with pytest.raises(DamagedAudioError, match="sizes were never filled in"):
                    use(bytes(octets))
            else:
                use(bytes(octets) + b"LIST\x04\0\0\0INFO")


def test_a_chunk_of_64_bit_sizes_counts_only_in_an_rf64() -> None:
    # It is a place holder for sizes beyond 4 GiB, which libsndfile does not look at either.
    out = io.BytesIO()
    soundfile.write(out, np.full(1000, 0.5), 8000, format="WAV")
    octets = bytearray(out.getvalue())
    octets[12:12] = b"ds64" + (28).to_bytes(4, "little") + bytes(28)
    octets[4:8] = (len(octets) - 8).to_bytes(4, "little")
    size = octets.index(b"data", 12) + 4
    for announced in (2000, 0xFFFFFFFF):  # the second, if it was written to a pipe
        octets[size : size + 4] = announced.to_bytes(4, "little")
        assert audio.check(bytes(octets)).frames == 1000
        decoded, _ = audio.decode(bytes(octets))
        assert np.array_equal(decoded, np.full(1000, 0.5))


def silent_wav(path: Path, outer: int, size: int, file_bytes: int) -> None:
    """Write a WAV that takes hardly any of the disk, with these sizes in its header."""
    out = io.BytesIO()
    soundfile.write(out, np.zeros(0), 8000, format="WAV")
    head = bytearray(out.getvalue())
    head[4:8], head[-4:] = outer.to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(head)
    os.truncate(path, file_bytes)


@pytest.mark.parametrize(
    ("outer", "size"), [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000)]
)
def test_a_piped_wav_that_outgrew_its_header_is_not_cut_off(
    outer: int, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    silent_wav(path, outer, size, 2**32 + 1000)
    for use in (audio.check, audio.probe, partial(audio.decode, duration=0.1)):
        with pytest.raises(UnreadableAudioError, match="more than its header can say"):
            use(path)


def test_a_wav_with_the_pipe_size_of_sox_may_have_chunks_after_its_samples(
    tmp_path: Path,
) -> None:
    path = tmp_path / "long.wav"
    whole = 44 + 0x7FFFF000 + 12
    silent_wav(path, whole - 8, 0x7FFFF000, whole - 12)
    with path.open("ab") as file:
        file.write(b"LIST\x04\0\0\0INFO")
    assert audio.probe(path).frames == 0x7FFFF000 // 2


@pytest.mark.parametrize("first", ["shorter", "longer"])
def test_a_wav_with_two_chunks_of_samples_is_refused(first: str) -> None:
    # libsndfile takes the last one.
    out = io.BytesIO()
    soundfile.write(out, np.zeros(1000), 8000, format="WAV")
    octets = bytearray(out.getvalue())
    chunk = b"data" + (500).to_bytes(4, "little") + bytes(500)
    octets[36:36] = chunk if first == "shorter" else b""
    octets += chunk if first == "longer" else b""
    octets += b"LIST\x04\0\0\0INFO"  # without a chunk behind them, libsndfile refuses two
    octets[4:8] = (len(octets) - 8).to_bytes(4, "little")
    for use in (audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match="two data chunks"):
            use(bytes(octets))


@pytest.mark.parametrize("start", [0, 8, 23])
def test_an_au_whose_samples_start_inside_its_header_is_refused(start: int) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(1000), 8000, format="AU")
    octets = bytearray(out.getvalue())
    octets[4:8] = start.to_bytes(4, "big")
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match=f"start at byte {start}"):
            use(bytes(octets))


@pytest.mark.parametrize(
    ("count", "words"),
    [(b"-100", "does not say how long it is"), (b" 999", "1998 bytes of audio, yet 2 more follow")],
)
def test_a_sphere_whose_header_gives_too_few_frames_is_damaged(count: bytes, words: str) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(1000), 8000, format="NIST")
    octets = out.getvalue().replace(b"sample_count -i 1000", b"sample_count -i " + count)
    assert octets != out.getvalue()
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match=words):
            use(octets)


def test_a_sphere_whose_header_gives_numbers_without_end_is_damaged() -> None:
    digits = "9" * 4000
    head = f"NIST_1A\n  16384\nsample_count -i {digits}\nsample_n_bytes -i {digits}\nend_head\n"
    octets = head.encode().ljust(16384) + bytes(100)
    for use in (audio.decode, audio.check, audio.probe):
        with pytest.raises(DamagedAudioError, match="does not say how long it is"):
            use(octets)
