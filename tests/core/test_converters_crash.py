"""Conversions that are killed, interrupted, out of space or out of memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from audiomdb.shards import verify_dataset
from tests.core.conversions import digests
from tests.core.disks import mounted_disk

DEADLINE_S = 60

# As a reader would type it: no main guard, classes at the top level.
SCRIPT = """
import io, os, sys, time, wave
from pathlib import Path
import numpy as np
from audiomdb.converters.base import BaseConverter
from audiomdb.processors.base import BaseProcessor

class Frames(BaseProcessor):
    def process(self, sample, **kwargs):
        Path(PIDS, str(os.getpid())).touch()
        array = self.load_array(sample["audio"], 8000)
        return {"frames_of_audio": array.reshape(-1, 80), "text": sample["text"]}

class Generated(BaseConverter):
    def sample_iterator(self):
        rng = np.random.default_rng(0)
        file = io.BytesIO()
        with wave.open(file, "wb") as clip:
            clip.setparams((1, 2, 8000, 0, "NONE", ""))
            clip.writeframes(bytes(1600))
        # One header for all: a wave file's finalizer is Python, and there Ctrl-C would be lost.
        header = file.getvalue()[:-1600]
        for i in range(COUNT):
            time.sleep(PAUSE_S)
            frames = rng.integers(-9000, 9000, 800, np.int16).tobytes()
            yield f"clip-{i:05d}", {"audio": header + frames, "text": f"number {i}"}

converter = Generated(output_dir=OUT, samples_per_shard=40, processor=PROCESSOR, num_workers=2)
"""


def script(
    tmp_path: Path,
    out: Path,
    *,
    count: int,
    processor: str = "None",
    before: str = "",
    pause_s: float = 0.0,
) -> Path:
    pids = tmp_path / "pids"
    pids.mkdir(exist_ok=True)
    constants = f"COUNT, OUT, PIDS = {count}, {str(out)!r}, {str(pids)!r}\nPAUSE_S = {pause_s}\n"
    path = tmp_path / "convert.py"
    text = SCRIPT.replace("PROCESSOR", processor)
    path.write_text(f"{before}\n{constants}{text}print(converter.run())\n")
    return path


def run(path: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=check, timeout=DEADLINE_S
    )


@contextmanager
def started(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    """Whether the condition came true before the process ended."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if process.poll() is not None:
            return condition()
        assert time.monotonic() < end, "nothing happens"
    return True


def alive(pid: int) -> bool:
    try:
        status: str = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return False
    return status != "zombie"


def progress_of(out: Path) -> int:
    """Counts everything a conversion makes: it only ever grows while one runs."""
    try:
        shards = len(list(out.glob("shard_*")))
        partial = [path.stat().st_size for path in out.glob(".partial/*/data.mdb")]
    except FileNotFoundError:  # renamed while we looked
        return 0
    return 3 * shards + sum(1 + (size > 30_000) for size in partial)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_script_without_a_main_guard_runs_once(tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    before = f"import multiprocessing\nmultiprocessing.set_start_method({method!r})"
    path = script(tmp_path, out, count=100, processor="Frames()", before=before)
    assert run(path).stdout.count("100 samples") == 1
    pids = [int(pid.name) for pid in (tmp_path / "pids").iterdir()]
    assert pids
    assert not any(map(alive, pids))
    assert verify_dataset(out) == []


def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole" / "set", tmp_path / "killed" / "set"
    run(script(tmp_path, whole, count=400))
    # Slow enough to be killed several times, however late each kill comes.
    path = script(tmp_path, out, count=400, pause_s=0.002)
    moments = random.Random(6)
    kills = 0
    while not (out / "metadata.json").exists():
        goal = progress_of(out) + moments.randint(1, 5)
        with started(path) as process:
            if wait_until(lambda goal=goal: progress_of(out) >= goal, process):  # type: ignore[misc]
                process.kill()
                kills += 1
    assert kills > 3
    run(path)
    assert digests(out) == digests(whole)


def test_workers_of_a_killed_run_end_and_the_next_one_goes_on(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole" / "set", tmp_path / "killed" / "set"
    run(script(tmp_path, whole, count=400, processor="Frames()"))
    for pid in (tmp_path / "pids").iterdir():
        pid.unlink()
    path = script(tmp_path, out, count=400, processor="Frames()")
    with started(path) as process:
        assert wait_until(lambda: (out / "shard_00001").exists(), process)
        process.kill()
    pids = [int(pid.name) for pid in (tmp_path / "pids").iterdir()]
    assert pids
    end = time.monotonic() + DEADLINE_S
    while any(map(alive, pids)):
        assert time.monotonic() < end, "orphaned workers go on"
    kept = len(list(out.glob("shard_*")))
    assert kept >= 2
    assert f"{kept} shards of an earlier run kept" in run(path).stdout
    assert digests(out) == digests(whole)


def test_a_failed_run_ends_its_workers_without_any_process_listing_tool(tmp_path: Path) -> None:
    """As in slim containers, which have neither pgrep nor ps."""
    path = script(tmp_path, tmp_path / "out", count=8, processor="Frames()")
    (tmp_path / "pids").rmdir()
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    assert "pgrep" not in done.stderr


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "terminal"])
def test_ctrl_c_stops_cleanly_and_says_how_to_resume(tmp_path: Path, to_group: bool) -> None:
    out = tmp_path / "out"
    path = script(tmp_path, out, count=1200, processor="Frames()")
    with started(path) as process:
        assert wait_until(lambda: (out / "shard_00001").exists(), process)
        (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=DEADLINE_S)
    said = stderr.decode()
    assert process.returncode == -signal.SIGINT, said
    assert said.rstrip().splitlines()[-1 if sys.version_info < (3, 11) else -2] == (
        "KeyboardInterrupt"
    )
    assert f"kept in {out}: the same conversion goes on from there" in said
    assert "LokyProcess" not in said
    assert "Exception in" not in said, said  # of a thread
    pids = [int(pid.name) for pid in (tmp_path / "pids").iterdir()]
    assert pids
    assert not any(map(alive, pids))
    assert all(entry.name.startswith("shard_") for entry in out.iterdir())
    kept = len(list(out.iterdir()))
    assert f"{kept} shards of an earlier run kept" in run(path).stdout
    assert verify_dataset(out) == []


def test_a_file_size_limit_is_an_error_with_advice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    failed = run(script(tmp_path, out, count=200, before=limit), check=False)
    assert failed.returncode == 1
    assert f"OutputWriteError: cannot write to {out}" in failed.stderr
    assert "make room and run the same conversion again" in failed.stderr
    assert "200 samples" in run(script(tmp_path, out, count=200)).stdout
    assert verify_dataset(out) == []


def test_a_full_disk_keeps_finished_shards_for_the_next_run(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", "600k") as disk:
        out = disk / "set"
        path = script(tmp_path, out, count=600)
        failed = run(path, check=False)
        assert f"OutputWriteError: cannot write to {out}" in failed.stderr
        kept = len(list(out.glob("shard_*")))
        assert 0 < kept < 15
        assert not (out / "metadata.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert f"{kept} shards of an earlier run kept" in run(path).stdout
        assert verify_dataset(out) == []


MEMORY = """
import resource, sys
import numpy as np
from audiomdb.audio import encode
from audiomdb.converters.base import BaseConverter

class Long(BaseConverter):
    def sample_iterator(self):
        audio = encode(np.random.default_rng(0).uniform(-1, 1, 50_000).astype("f4"), 8000, "wav")
        for i in range(int(sys.argv[2])):
            yield f"clip-{i:08d}", {"audio": bytes(bytearray(audio))}

Long(output_dir=sys.argv[1], check_audio="header", max_shard_bytes=8_000_000).run()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak * (1 if sys.platform == "darwin" else 1024))
"""


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "convert.py"
    path.write_text(textwrap.dedent(MEMORY))
    peaks = []
    for clips in (300, 2400):  # 30 and 240 MB
        command = [sys.executable, str(path), str(tmp_path / f"{clips}"), str(clips)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 40_000_000
