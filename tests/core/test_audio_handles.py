"""What libsndfile reads and writes: files in memory, and streams where there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audiomdb.audio import decode, encode, only_libsndfile

FORMATS = ["flac", "wav", "opus", "vorbis", "mp3"]


def noise(frames: int = 12_000) -> np.ndarray:
    return np.random.default_rng(3).uniform(-0.5, 0.5, frames).astype(np.float32)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_system_without_files_in_memory_decodes_and_encodes_the_same(
    audio_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(noise(), 16_000, audio_format)
    with only_libsndfile():
        whole, _ = decode(data)
        window, _ = decode(data, offset=0.1, duration=0.2)
        monkeypatch.delattr(os, "memfd_create", raising=False)
        assert encode(noise(), 16_000, audio_format) == data
        assert np.array_equal(decode(data)[0], whole)
        assert np.array_equal(decode(data, offset=0.1, duration=0.2)[0], window)


def test_decoding_leaves_no_descriptor_behind() -> None:
    clips = [encode(noise(), 16_000, audio_format) for audio_format in FORMATS]
    damaged = [clip[: len(clip) // 2] for clip in clips]

    def run() -> None:
        for clip in [*clips, *damaged, b"no audio at all"]:
            try:
                decode(clip, duration=0.1)
                encode(decode(clip)[0], 16_000)
            except Exception:  # noqa: BLE001, S110 (only what it leaves behind matters here)
                pass

    run()
    before = len(list(Path("/dev/fd").iterdir()))
    run()
    assert len(list(Path("/dev/fd").iterdir())) == before


INTERRUPTED = """
import signal
import sys

import numpy as np

from audiomdb.audio import decode, encode

samples = np.random.default_rng(0).uniform(-0.5, 0.5, 48_000)
clip = encode(samples, 16_000, "opus")
work = {
    "decoding": lambda: decode(clip)[0].tobytes(),
    "encoding": lambda: encode(samples, 16_000, "opus"),
}[sys.argv[1]]
expected = work()
signal.signal(signal.SIGVTALRM, signal.default_int_handler)
for _ in range(60):
    # A timer of the process's own time: the signal arrives in the middle of the work.
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.004)
    try:
        while True:
            assert work() == expected
    except KeyboardInterrupt:
        pass
print("interrupted 60 times")
"""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="streams are read through callbacks")
@pytest.mark.parametrize("work", ["decoding", "encoding"])
def test_ctrl_c_is_never_lost_nor_taken_for_damage(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, work],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted 60 times\n", "")


FORKED = """
import io
import os
import signal
import threading

import numpy as np
import soundfile

from audiomdb.audio import decode, encode

clip = encode(np.zeros(48_000, np.float32), 16_000, "opus")
decode(clip)
opening, forked = threading.Event(), threading.Event()

class Slow(io.BytesIO):
    def readinto(self, target):
        opening.set()
        forked.wait(60)
        return super().readinto(target)

thread = threading.Thread(target=lambda: soundfile.SoundFile(Slow(clip)).close())
thread.start()
assert opening.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(20)
    decode(clip)
    encode(np.zeros(48_000, np.float32), 16_000, "opus")
    os._exit(7)
forked.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_forked_while_a_thread_opens_a_clip_can_open_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["7"]
