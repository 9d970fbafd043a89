"""Commands that are stopped, or run out of disk, against a real S3 server: they go on later."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.cli import main
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.testing import FaultProxy
from audiomdb.uploaders.s3 import S3Uploader
from tests.commands import files
from tests.core.disks import mounted_disk

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 0.6 MB. Tests read it only."""
    folder = tmp_path_factory.mktemp("cli-s3") / "speech"
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, samples_per_shard=2) as writer:
        for number in range(8):
            audio = rng.normal(size=70_000).astype(np.float32)
            writer.write(f"clip-{number}", {"audio": audio, "sample_rate": 16_000})
    return folder


@pytest.fixture(autouse=True)
def surroundings(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def url(server: Any, bucket: str, speech: Path) -> str:
    """Where the dataset lies, uploaded by something else than the command line."""
    S3Uploader(bucket, "sets/speech").upload_dir(speech)
    server.requests.clear()
    return f"s3://{bucket}/sets/speech"


def data(number: int) -> str:
    return f"shard_{number:05d}/data.mdb"


ALL = [data(number) for number in range(4)]


def started(*args: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "audiomdb.cli", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*args: str | Path, code: int = 0) -> str:
    with started(*args) as process:
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, err
    return out + err


def fetched(server: Any) -> list[str]:
    """Files of the dataset that were asked for, sorted."""
    asked = [path for method, path in server.requests if method == "GET"]
    return sorted(path.partition("/sets/speech/")[2] for path in asked)


class Stalling:
    """Holds up an answer in its middle, or a request at its end, and notes what was asked."""

    def __init__(self, app: Callable[..., Iterable[bytes]], method: str, file: str) -> None:
        self._app, self._method, self._file = app, method, file
        self.asked: list[tuple[str, str | None]] = []
        self.reached, self.release = threading.Event(), threading.Event()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != self._method:
            return self._app(environ, start)
        file = environ["PATH_INFO"].partition("/sets/speech/")[2]
        self.asked.append((file, environ.get("HTTP_RANGE")))
        if file != self._file or self.reached.is_set():
            return self._app(environ, start)
        if self._method == "PUT":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            self.reached.set()  # only now: a body that is still being sent would be given up
            self.release.wait(DEADLINE_S)
            return self._app(environ, start)
        return self._in_halves(b"".join(self._app(environ, start)))

    def _in_halves(self, body: bytes) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        self.reached.set()
        self.release.wait(DEADLINE_S)
        yield body[len(body) // 2 :]


@pytest.fixture
def stall(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stalling]]:
    made: list[Stalling] = []

    def make(method: str, file: str) -> Stalling:
        made.append(Stalling(server._app, method, file))
        monkeypatch.setattr(server, "_app", made[-1])
        return made[-1]

    yield make
    for stalling in made:
        stalling.release.set()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=lambda sent: sent.name)
def test_a_pull_that_was_stopped_goes_on_where_it_was(
    url: str, speech: Path, stall: Callable[..., Stalling], sent: signal.Signals
) -> None:
    stalling = stall("GET", data(2))
    half = (speech / data(2)).stat().st_size // 2
    with started("pull", url, "copy", "--workers", "2") as process:
        wait_until(stalling.reached.is_set, process)
        wait_until(lambda: (Path("copy") / data(3)).exists(), process)
        wait_until(lambda: part_bytes() > half // 2, process)
        process.send_signal(sent)
        out, err = process.communicate(timeout=DEADLINE_S)  # though the store does not answer
    assert out == ""
    if sent is signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines() == [
            "audiomdb: interrupted",
            "audiomdb: what has arrived is kept: give the same command again to go on",
        ]
    there = part_bytes()
    assert not Path("copy/metadata.json").exists()
    assert not (Path("copy") / data(2)).exists()
    run("ls", "copy", code=1)

    facts = json.loads(run("pull", url, "copy", "--json"))
    assert facts["fetched_shards"] == 1
    assert files(Path("copy")) == files(speech)
    asked = [(file, span) for file, span in stalling.asked if file.startswith("shard")]
    assert sorted(asked[:-1]) == [(file, None) for file in ALL]
    assert asked[-1] == (data(2), f"bytes={there}-")


def part_bytes() -> int:
    parts = Path("copy/.pull").glob("S3Retriever-*/parts/00002-????????????")
    return sum(path.stat().st_size for path in parts)


def test_an_upload_that_was_stopped_goes_on_where_it_was(
    bucket: str, speech: Path, stall: Callable[..., Stalling]
) -> None:
    url = f"s3://{bucket}/sets/speech"
    stalling = stall("PUT", data(2))
    with started("upload", speech, url, "--workers", "1") as process:
        wait_until(stalling.reached.is_set, process)
        process.send_signal(signal.SIGINT)
        stalling.release.set()
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "audiomdb: interrupted",
        "audiomdb: what has arrived is not sent again: give the same command again to go on",
    ]
    assert "no s3://" in run("info", url, code=1)  # no metadata yet, so no dataset
    facts = json.loads(run("upload", speech, url, "--json"))
    assert 0 < facts["sent_files"] < facts["files"]
    sent = [file for file, _ in stalling.asked]
    assert sorted(sent) == sorted(files(speech)), "each file was sent once, over both runs"
    assert sent[-1] == "metadata.json"
    assert "whole: 8 samples" in run("verify", url)


def test_an_interrupt_abandons_a_large_file_being_sent(
    server: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow line its end may be hours away. The system holds some megabytes underway."""
    audio = np.random.default_rng(0).normal(size=16_000_000).astype(np.float32)
    with DatasetWriter(tmp_path / "long") as writer:
        writer.write("clip", {"audio": audio, "sample_rate": 16_000})
    with FaultProxy(server.url, bytes_per_second=8_000_000) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with started("upload", tmp_path / "long", f"s3://{bucket}/long") as process:
            wait_until(lambda: proxy.stats.request_bytes > 1_000_000, process)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert proxy.stats.request_bytes < audio.nbytes // 2
    assert "data.mdb" not in str(server.client().list_objects_v2(Bucket=bucket))


def test_a_second_pull_into_the_same_folder_is_refused(
    url: str, speech: Path, stall: Callable[..., Stalling]
) -> None:
    stalling = stall("GET", data(1))
    with started("pull", url, "copy") as first:
        wait_until(stalling.reached.is_set, first)
        assert "another process is writing to copy" in run("pull", url, "copy", code=1)
        stalling.release.set()
        first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 0
    assert files(Path("copy")) == files(speech)


def test_a_stopped_pull_continues_with_a_smaller_new_version(
    url: str,
    speech: Path,
    tmp_path: Path,
    stall: Callable[..., Stalling],
) -> None:
    stalling = stall("GET", data(1))
    with started("pull", url, "copy", "--workers", "2") as process:
        wait_until(stalling.reached.is_set, process)
        wait_until(lambda: (Path("copy") / data(3)).exists(), process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    stalling.release.set()
    with DatasetWriter(tmp_path / "newer", name="speech", samples_per_shard=2) as writer:
        for number, sample in enumerate(DatasetReader.open(speech)):
            if number < 4:
                writer.write(sample.pop("__key__"), sample)
    S3Uploader(url.split("/")[2], "sets/speech").upload_dir(tmp_path / "newer")
    run("pull", url, "copy")
    assert files(Path("copy")) == files(tmp_path / "newer")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for half the dataset and more."""
    with mounted_disk(tmp_path / "disk", "1400k") as folder:
        yield folder


def test_a_disk_that_is_too_small_is_found_before_the_first_shard(
    server: Any, url: str, small_disk: Path
) -> None:
    message = run("pull", url, small_disk / "copy", code=1)
    assert "bytes are to come and the disk of" in message
    assert fetched(server) == ["metadata.json"]
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_stops_a_pull_that_goes_on_later(
    server: Any,
    url: str,
    speech: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(small_disk)
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**12))
        assert main(["pull", url, str(small_disk / "copy"), "--workers", "1"]) == 1
    message = capsys.readouterr().err
    assert f"the disk of {small_disk / 'copy'} is full; make room for the rest" in message
    assert "give the same command again to go on" in message
    assert not (small_disk / "copy" / "metadata.json").exists()
    whole = [file for file in ALL if (small_disk / "copy" / file).exists()]
    assert whole
    server.requests.clear()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    run("pull", url, small_disk / "copy")
    assert not set(whole) & set(fetched(server))
    assert files(small_disk / "copy") == files(speech)
