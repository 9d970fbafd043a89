"""Every file of the table beside the test files is taken as the table says."""

from __future__ import annotations

import json
import os
import resource
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb import audio
from audiomdb.audio.source import read_file
from audiomdb.errors import AudioError, DamagedAudioError, UnreadableAudioError

FILES = Path(__file__).parent.parent / "data" / "audio"
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in (FILES / "formats.jsonl").read_text().splitlines()
]
GOOD = [row for row in ROWS if row["outcome"] == "ok"]
BAD = [row for row in ROWS if row["outcome"] != "ok"]
ERRORS = {"damaged": DamagedAudioError, "unreadable": UnreadableAudioError}


def by_file(rows: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("row", rows, ids=[row["file"] for row in rows])


@pytest.fixture(params=["all decoders", "only libsndfile"])
def decoders(request: pytest.FixtureRequest) -> Any:
    """Runs a test with whatever is installed, and with libsndfile alone."""
    chosen: AbstractContextManager[None] = nullcontext()
    if request.param == "only libsndfile":
        chosen = audio.only_libsndfile()
    with chosen:
        yield request.param


def read_forward(path: Path) -> np.ndarray:
    """What libsndfile decodes, read without seeking."""

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    with path.open("rb") as stream, Forward(stream) as file:
        blocks = []
        while len(block := file.read(10_000, dtype="float32")):
            blocks.append(block)
        return np.concatenate(blocks)


@by_file(GOOD)
@pytest.mark.usefixtures("decoders")
def test_legal_file_gives_the_frames_rate_and_channels_of_the_table(row: dict[str, Any]) -> None:
    decoded, rate = audio.decode(FILES / row["file"])
    assert len(decoded) == row["frames"]
    assert rate == row["sample_rate"]
    assert decoded.ndim == (1 if row["channels"] == 1 else 2)
    assert decoded.shape[1:] in ((), (row["channels"],))
    assert decoded.dtype == np.float32
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@by_file([row for row in GOOD if row["exact"] and row["frames"] == 30393])
@pytest.mark.usefixtures("decoders")
def test_lossless_file_gives_the_samples_it_was_made_of(row: dict[str, Any]) -> None:
    original = read_forward(FILES / "flac/flac_s16_level5_16k_mono.flac")
    decoded, _ = audio.decode(FILES / row["file"])
    assert np.array_equal(np.rint(decoded * 32768), original * 32768)


@by_file([row for row in GOOD if row["frames"] and "size_0" not in row["file"]])
@pytest.mark.usefixtures("decoders")
def test_every_decoder_gives_the_samples_of_libsndfile(row: dict[str, Any]) -> None:
    decoded, _ = audio.decode(FILES / row["file"])
    assert np.array_equal(decoded, read_forward(FILES / row["file"]))


@by_file(GOOD)
@pytest.mark.usefixtures("decoders")
def test_path_and_every_kind_of_bytes_give_the_same(row: dict[str, Any]) -> None:
    path = FILES / row["file"]
    octets = path.read_bytes()
    expected, rate = audio.decode(path)
    info = audio.probe(path)
    for source in (str(path), octets, bytearray(octets), memoryview(octets)):
        decoded, its_rate = audio.decode(source)
        assert np.array_equal(decoded, expected)
        assert decoded.shape == expected.shape
        assert its_rate == rate
        assert audio.probe(source) == info
        assert audio.check(source).frames == row["frames"]


@by_file(GOOD)
@pytest.mark.usefixtures("decoders")
def test_check_and_probe_tell_the_facts_of_the_table(row: dict[str, Any]) -> None:
    checked = audio.check(FILES / row["file"])
    probed = audio.probe(FILES / row["file"])
    assert checked == audio.AudioInfo(
        row["container"], row["subtype"], row["sample_rate"], row["channels"], row["frames"]
    )
    if "unknown_total" in row["file"]:
        assert probed.frames is None
        assert probed.duration is None
    else:
        assert probed == checked
        assert probed.duration == row["frames"] / row["sample_rate"]


@by_file(BAD)
@pytest.mark.usefixtures("decoders")
@pytest.mark.parametrize("use", [audio.decode, audio.check])
def test_bad_file_raises_an_error_that_names_it(row: dict[str, Any], use: Any) -> None:
    path = FILES / row["file"]
    with pytest.raises(AudioError) as caught:
        use(path)
    assert type(caught.value) is ERRORS[row["outcome"]]
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(AudioError) as by_name:
        use(path.read_bytes(), name="clip 7")
    assert str(by_name.value) == str(caught.value).replace(str(path), "clip 7")


# Those two keep every frame's header; only decoding sees that a checksum is wrong.
IN_FRAMES = ("flac_flipped_bit_middle", "flac_truncated_last_byte")


@by_file([row for row in BAD if not any(name in row["file"] for name in IN_FRAMES)])
def test_probe_finds_damage_that_file_sizes_reveal(row: dict[str, Any]) -> None:
    with pytest.raises(ERRORS[row["outcome"]]):
        audio.probe(FILES / row["file"])


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("broken/git_lfs_pointer.wav", "git lfs pull"),
        ("broken/gzipped.wav", "gzip: decompress"),
        ("broken/html_error_page.mp3", "an HTML page"),
        ("broken/json_error.flac", "JSON"),
        ("broken/text.flac", "plain text"),
        ("broken/zero_bytes.wav", r"empty \(0 bytes\)"),
        ("broken/mp3_only_id3.mp3", "an ID3 tag"),
        ("broken/flac_wrong_magic.flac", "where a FLAC file has `fLaC`"),
        ("broken/random_bytes.wav", "raw"),
        ("broken/wav_zero_channels.wav", "0 channels"),
        ("broken/wav_size_lies_10x.wav", "announces 607860 bytes of audio and holds 60786"),
        ("broken/mp3_truncated_50.mp3", "announces 55 frames and holds 27"),
    ],
)
def test_error_says_what_was_found(file: str, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        audio.decode(FILES / file)


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"\0\0\0\x18ftypM4A " + bytes(40), "MP4"),
        (b"\x1aE\xdf\xa3" + bytes(60), "WebM"),
        (b"\xff\xf1\x50\x80" + bytes(60), "AAC"),
        (b"0&\xb2u\x8ef\xcf\x11" + bytes(60), "WMA"),
        (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (b"\x93NUMPY\x01\0" + bytes(60), "NumPy"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (bytes(1000), "zero bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "PNG"),
        ("Zugriff verweigert: ä".encode(), "plain text"),
        (b"Created by the recording studio on a Monday", "plain text"),
        (b"NIST offers this file elsewhere now, see its page", "plain text"),
    ],
)
def test_files_that_are_not_audio_are_named_by_their_kind(octets: bytes, words: str) -> None:
    with pytest.raises(UnreadableAudioError, match=words):
        audio.decode(octets)


def test_missing_file_folder_and_file_as_folder_are_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"x")
    for path in (tmp_path / "none.wav", tmp_path, file / "b.wav"):
        with pytest.raises(UnreadableAudioError, match=path.name):
            audio.decode(path)


def unusable(folder: Path) -> list[str]:
    """Names with which something is wrong that is the clip's own."""
    (folder / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(folder / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.wav"))
    names = ["none.wav", "", "loop.wav", "pipe.wav", "socket.wav", "n" * 300 + ".wav"]
    return [str(folder / name) for name in (*names, "null\0.wav", "half\ud800.wav")] + ["/dev/zero"]


def test_path_that_leads_to_no_file_is_unreadable(tmp_path: Path) -> None:
    for path in unusable(tmp_path):
        for use in (audio.decode, audio.check, audio.probe):
            with pytest.raises(UnreadableAudioError) as caught:
                use(path)
            assert str(caught.value).startswith(f"{path}: ")
        with pytest.raises(UnreadableAudioError, match=r"^clip 7: "):
            read_file(path, name="clip 7")


def test_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "clip"
    for size in (0, 1, 100_000):
        path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
        assert read_file(path, name="clip") == path.read_bytes()
        assert len(read_file(path, name="clip")) == size
    (tmp_path / "link").symlink_to(path)
    assert read_file(str(tmp_path / "link"), name="clip") == path.read_bytes()
    # Files of the kernel are regular and say that they are empty.
    proc = Path("/proc/self/cmdline")
    if proc.exists():
        assert read_file(proc, name="clip") == proc.read_bytes()


def test_running_out_of_descriptors_is_not_blamed_on_the_clip() -> None:
    path = FILES / "wav/wav_u8_16k_mono.wav"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for use in (audio.decode, lambda path: read_file(path, name="clip")):
            with pytest.raises(OSError, match="Too many open files"):
                use(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    audio.decode(path)


def test_other_types_than_bytes_and_paths_are_refused() -> None:
    with pytest.raises(TypeError, match="ndarray"):
        audio.decode(np.zeros(10))  # type: ignore[arg-type]
