"""Set up what every row about remote datasets uses: contenders, a network, a place for results."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.testing import ProxyProcess
from benchmarks.bare_decoders import decoder
from benchmarks.bench import Bench
from benchmarks.corpus import Corpus
from benchmarks.remote_cell import Cell, show
from benchmarks.remote_network import BUCKET, Store
from benchmarks.remote_reader import Task
from benchmarks.results import append_row

__all__ = [
    "BARE",
    "OURS",
    "PEERS",
    "Contender",
    "Reader",
    "Remote",
    "Uploaded",
    "failure",
    "failures",
    "whole",
]

SHARD_BYTES = 1_500_000
"""Size of a shard, with which the 1500 clips of the large corpus fill about 160 shards."""

LARGE_SHARD_BYTES = 64 << 20
LATENCY_S = 0.03
BYTES_PER_SECOND = 25e6
_ROOT = Path(__file__).parents[1]
_WRITE = """
import importlib, json, sys
from pathlib import Path
adapter, entries, folder, shard_bytes = sys.argv[1:]
entries = json.loads(Path(entries).read_text(encoding="utf-8"))
importlib.import_module(adapter).write(entries, Path(folder), int(shard_bytes))
"""
_RAISED = re.compile(r"[\w.]+(Error|Exception|Timeout)\b")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A library that reads.

    Attributes:
        name: Its name in tables.
        adapter: Module with the function `read`; for peers, also `write`.
        ours: Whether it runs in this environment.
    """

    name: str
    adapter: str
    ours: bool = False


OURS = Contender(name="AudioMDB", adapter="benchmarks.remote_audiomdb", ours=True)
BARE = Contender(name="bare boto3", adapter="benchmarks.remote_bare", ours=True)
PEERS = (
    Contender(name="mosaicml-streaming", adapter="benchmarks.remote_peers.mosaic"),
    Contender(name="litdata", adapter="benchmarks.remote_peers.lit"),
)


@dataclass(frozen=True)
class Uploaded:
    """A dataset in the store.

    Attributes:
        prefix: Prefix of the dataset in the bucket.
        sizes: Bytes of each file by its path in the dataset.
        folder: Folder of the dataset on this machine.
    """

    prefix: str
    sizes: dict[str, int]
    folder: Path

    @property
    def shards(self) -> list[str]:
        """The files that hold samples."""
        kinds = ("data.mdb", ".mds", ".bin")
        others = ("index.bin",)
        return [n for n in self.sizes if n.endswith(kinds) and not n.endswith(others)]

    @property
    def bytes(self) -> int:
        """Total size of all shards in bytes."""
        return sum(self.sizes[name] for name in self.shards)


class Reader:
    """A reading process, see `remote_reader`.

    Args:
        task: What it does.
        python: Interpreter of the environment.
        limit_s: Seconds without a result after which it counts as hanging.
    """

    def __init__(self, task: Task, python: str, limit_s: float) -> None:
        self._limit_s = limit_s
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.remote_reader", json.dumps(asdict(task))],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._hear, daemon=True),
            threading.Thread(target=self._overhear, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def ready(self) -> None:
        """Wait until its imports are done; if they fail, the failure is its result."""
        event = self._next()
        if event["event"] != "ready":
            self._events.put(event)

    def go(self) -> None:
        """Have it read the next epoch."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Its next event: "epoch", "error" or "end"; "hang" and "died" are added by this class."""
        return self._next()

    def close(self) -> None:
        """End it, and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _next(self) -> dict[str, Any]:
        try:
            event = self._events.get(timeout=self._limit_s)
        except queue.Empty:
            return {"event": "hang", "message": f"nothing happened for {self._limit_s:.0f} s"}
        if event is None:
            self._threads[1].join(1.0)
            return {"event": "died", "message": "".join(self._errors[-20:])}
        return event

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # What libraries print goes there too.
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    self._events.put(event)
        self._events.put(None)

    def _overhear(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)
            del self._errors[:-100]


class Remote:
    """The surroundings of one run.

    Args:
        bench: Sizes, corpora, folders.
        store: A running server.
        proxy: The network before it.
        contenders: The libraries to measure, AudioMDB first.
        peers_python: Interpreter of the peers' environment.
        results: File that cells are appended to.
    """

    def __init__(
        self,
        bench: Bench,
        store: Store,
        proxy: ProxyProcess,
        contenders: Sequence[Contender],
        peers_python: str,
        results: Path,
    ) -> None:
        self.bench = bench
        self.store = store
        self.proxy = proxy
        self.contenders = contenders
        self._peers_python = peers_python
        self._results = results
        self._uploaded: dict[tuple[str, int], Uploaded] = {}
        self._caches = 0

    @property
    def rounds(self) -> int:
        """Number of rounds of measurements by the clock."""
        return self.bench.sizes.rounds

    @property
    def corpus(self) -> Corpus:
        """Clips of speech."""
        return self.bench.speech

    @cached_property
    def expected(self) -> Path:
        """File with the crc32 of each clip's float32 samples, by key."""
        from zlib import crc32

        decode = decoder()
        path = self.bench.fresh("expected.json")
        sums = {clip.stem: crc32(decode(clip.read_bytes()).data) for clip in self.corpus.paths}
        path.write_text(json.dumps(sums), encoding="utf-8")
        return path

    def dataset(self, who: Contender, shard_bytes: int = SHARD_BYTES) -> Uploaded:
        """The corpus in a contender's format, in the store; made and uploaded when first needed."""
        if who is BARE:
            who = OURS
        wanted = (who.name, shard_bytes)
        if wanted not in self._uploaded:
            folder = self._write(who, shard_bytes)
            prefix = f"{who.name}-{shard_bytes}"
            self._uploaded[wanted] = Uploaded(prefix, self.store.upload(folder, prefix), folder)
        return self._uploaded[wanted]

    def cache(self) -> Path:
        """A new, empty folder; the last one is deleted."""
        shutil.rmtree(self.bench.work / "made" / f"remote-cache-{self._caches}", ignore_errors=True)
        # Another name each time: what a killed process leaves in shared memory is about the folder.
        self._caches += 1
        return self.bench.fresh(f"remote-cache-{self._caches}")

    def task(self, who: Contender, dataset: Uploaded, cache: Path, **options: Any) -> Task:  # noqa: ANN401
        """The task of a contender's process."""
        # What SampleStream mixes unless told otherwise: five shards.
        mixed = {} if who.ours else {"mixed": 5 * len(self.corpus.entries) // len(dataset.shards)}
        given = {**mixed, **options.pop("options", {})}
        return Task(
            adapter=who.adapter,
            url=self.proxy.url,
            bucket=BUCKET,
            prefix=dataset.prefix,
            cache=str(cache),
            options=given,
            **options,
        )

    @contextlib.contextmanager
    def reading(
        self, who: Contender, *tasks: Task, limit_s: float = 300.0
    ) -> Iterator[list[Reader]]:
        """Start processes that are ready to read, and end them with the `with` block."""
        python = sys.executable if who.ours else self._peers_python
        readers = [Reader(task, python, limit_s) for task in tasks]
        try:
            for reader in readers:
                reader.ready()
            yield readers
        finally:
            for reader in readers:
                reader.close()

    def narrow(self, bytes_per_second: float | None = BYTES_PER_SECOND) -> None:
        """Set the network to its usual latency and bandwidth, and reset its counts."""
        self.proxy.heal()
        self.proxy.latency_s = LATENCY_S
        self.proxy.bytes_per_second = bytes_per_second
        self.proxy.reset_stats()

    def quiet(self) -> int:
        """Wait until loaders no longer fetch, and return the bytes that have passed so far."""
        passed = -1
        while (now := self.proxy.stats.answer_bytes) != passed:
            passed = now
            time.sleep(0.5)
        return now

    def keep(self, cell: Cell) -> None:
        """Keep and show a figure."""
        append_row(self._results, "cell", asdict(cell))
        print(show(cell), flush=True)

    def _write(self, who: Contender, shard_bytes: int) -> Path:
        folder = self.bench.fresh(f"remote-{who.name}-{shard_bytes}")
        if who.ours:
            with DatasetWriter(folder, max_shard_bytes=shard_bytes) as writer:
                for entry in self.corpus.entries:
                    path = Path(entry["audio_filepath"])
                    named = {"text": entry["text"], "speaker": entry["speaker"]}
                    writer.write(path.stem, {"audio": path, **named})
            with DatasetReader.open(folder) as reader:
                assert len(reader) == len(self.corpus.entries)
            return folder
        entries = self.bench.fresh("entries.json")
        entries.write_text(json.dumps(self.corpus.entries), encoding="utf-8")
        given = [who.adapter, str(entries), str(folder), str(shard_bytes)]
        program = [self._peers_python, "-c", _WRITE, *given]
        done = subprocess.run(program, cwd=_ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError(f"{who.name} could not write its dataset:\n{done.stderr[-2000:]}")
        return folder


def failure(event: dict[str, Any]) -> str:
    """Describe an event that is not a result in a few words."""
    kind = event.get("type", event["event"])
    lines = str(event.get("message", "")).strip().splitlines() or [""]
    # Of a traceback, what was raised; loaders put one into the message.
    raised = [line for line in lines if _RAISED.match(line)] if len(lines) > 1 else lines
    message = raised[-1] if raised else lines[-1]
    return f"{kind}: {message[:160]}"


def failures(events: Sequence[dict[str, Any]]) -> str:
    """Say how many of several runs failed and how the first did; empty if none failed."""
    failed = [event for event in events if event["event"] != "epoch"]
    return f"{len(failed)} of {len(events)} failed: {failure(failed[0])}" if failed else ""


def whole(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of the runs that were completed."""
    return [event for event in events if event["event"] == "epoch"]
