"""Python programs run apart, for what only a fresh process can show: start, memory, cold reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Finished",
    "Memory",
    "anonymous_bytes",
    "family",
    "family_memory",
    "free_port",
    "run_python",
]

_ROOT = Path(__file__).parents[1]
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a program that was run.

    Attributes:
        wall_s: Seconds from start to end.
        result: Its last line of output, parsed as JSON; None without output.
        peak_bytes: Highest resident memory of the process and its children together, taken as
            the sum of each one's own peak; files that they map count.
        peak_anonymous_bytes: Highest sum seen of their memory without mapped files.
    """

    wall_s: float
    result: Any
    peak_bytes: int
    peak_anonymous_bytes: int


def run_python(code: str, *arguments: str, watch: bool = False) -> Finished:
    """Run a program and wait for it.

    Args:
        code: The program; `benchmarks` can be imported in it.
        arguments: Its `sys.argv[1:]`.
        watch: Follow the memory of it and its children (Linux; costs processor time).

    Raises:
        RuntimeError: with what it wrote to stderr, when it failed.
    """
    # An installed package has its bytecode, so a checkout may keep it too.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peaks: dict[int, int] = {}
    anonymous = 0
    while watch and process.poll() is None:
        now = {pid: _memory(pid) for pid in family(process.pid)}
        peaks.update((pid, max(peak, peaks.get(pid, 0))) for pid, (peak, _) in now.items())
        anonymous = max(anonymous, sum(current for _, current in now.values()))
        time.sleep(_POLL_S)
    out, err = process.communicate()
    wall_s = time.perf_counter() - start
    if process.returncode != 0:
        raise RuntimeError(f"a program of the benchmark failed:\n{err}")
    lines = out.splitlines()
    result = json.loads(lines[-1]) if lines else None
    return Finished(wall_s, result, sum(peaks.values()), anonymous)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, for a process that is going to."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        for task in tasks:
            try:
                found += map(int, task.read_text(encoding="ascii").split())
            except OSError:
                continue
    return found


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process and its descendants; a page that several map is divided among them.

    Attributes:
        total_bytes: All of it (PSS).
        anonymous_bytes: Of that, what belongs to no file.
        file_bytes: Of that, pages of files, which the system may take back.
        shared_bytes: Of that, shared memory.
        processes: How many there are.
    """

    total_bytes: int
    anonymous_bytes: int
    file_bytes: int
    shared_bytes: int
    processes: int


def family_memory(pid: int) -> Memory:
    """Look at a process and its descendants. Linux; takes some milliseconds for each."""
    sums = dict.fromkeys(("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"), 0)
    found = family(pid)
    for each in found:
        try:
            text = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0]) * 1024
    total, anonymous, file, shared = sums.values()
    return Memory(total, anonymous, file, shared, len(found))


def anonymous_bytes() -> int:
    """Memory of this process that belongs to no file."""
    return _memory(os.getpid())[1]


def _memory(pid: int) -> tuple[int, int]:
    """Peak resident memory and present anonymous memory, in bytes; zeros once it has ended."""
    fields = {"VmHWM": 0, "RssAnon": 0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, value = line.partition(":")
        if name in fields:
            fields[name] = int(value.split()[0]) * 1024
    return fields["VmHWM"], fields["RssAnon"]
