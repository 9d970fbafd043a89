"""Starts jobs, each in the environment and the process that it needs, and keeps what they find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from benchmarks.peers.child import MARK
from benchmarks.peers.registry import SYSTEMS
from benchmarks.processes import Memory, family_memory
from benchmarks.results import append_row

__all__ = ["JobError", "Runner", "Started", "result_of"]

_ROOT = Path(__file__).parents[2]
_POLL_S = 0.1


class JobError(RuntimeError):
    """A job ended without a result; the message holds the end of what it wrote."""

    def __init__(self, message: str, *, signalled: str | None = None) -> None:
        super().__init__(message)
        self.signalled = signalled


@dataclass
class Runner:
    """Runs jobs.

    Attributes:
        pythons: Interpreter of each environment of `registry.ENVIRONMENTS` that exists.
        results: File that findings are appended to.
        longest_s: Seconds after which a job is ended.
        library: Folder of another checkout whose AudioMDB is measured, with this benchmark.
    """

    pythons: Mapping[str, str]
    results: Path
    longest_s: float = 600
    library: Path | None = None
    failures: list[str] = field(default_factory=list)

    def offers(self, system: str) -> bool:
        """Whether a system's environment exists."""
        return SYSTEMS[system].environment in self.pythons

    def job(
        self,
        name: str,
        system: str,
        *,
        watch: Callable[[Memory], None] | None = None,
        kill_when: Callable[[], bool] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run one job and return what it found.

        Args:
            name: `module:function`.
            system: Its first argument.
            watch: Called with the memory of the job's processes every 100 ms.
            kill_when: Called every 10 ms; once it is True, the job is killed, and {} is returned.
            given: Its other arguments.

        Raises:
            JobError: it failed, or took too long.
        """
        python = self.pythons[SYSTEMS[system].environment] if system else sys.executable
        arguments = {**({"system": system} if system else {}), **(given or {})}
        command = [python, "-m", "benchmarks.peers.child", name, json.dumps(arguments)]
        with Started(command, self._environment()) as started:
            killed = self._accompany(started.process, watch, kill_when)
            if not killed and not started.ended_within(self.longest_s):
                raise JobError(f"{name} {arguments}: longer than {self.longest_s} s")
        if killed:
            return {}
        found = result_of(started.out)
        if found is not None:
            return found
        code = started.process.returncode
        signalled = signal.Signals(-code).name if code < 0 else None
        raise JobError(f"{name} {arguments}:\n{started.err[-3000:]}", signalled=signalled)

    def keep(self, work: str, content: Mapping[str, Any]) -> None:
        """Append a finding."""
        append_row(self.results, work, content)

    def attempt(self, work: str, about: Mapping[str, Any], call: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Run something and keep what it finds; a failure is kept too, and the run goes on."""
        begin = time.perf_counter()
        try:
            found = call()
        except JobError as error:
            self.failures.append(f"{work} {dict(about)}: {error}")
            self.keep("failure", {"work": work, **about, "error": str(error)[-2000:]})
            print(f"  FAILED {work} {dict(about)}: {str(error)[-400:]}", flush=True)
            return None
        self.keep(work, {**about, "found": found})
        took = time.perf_counter() - begin
        print(f"  {work:8} {_label(about):44} {took:6.1f} s", flush=True)
        return found

    def _accompany(
        self,
        process: subprocess.Popen[bytes],
        watch: Callable[[Memory], None] | None,
        kill_when: Callable[[], bool] | None,
    ) -> bool:
        """Look after a job; whether it is to be killed."""
        end = time.perf_counter() + self.longest_s
        while (watch or kill_when) and process.poll() is None and time.perf_counter() < end:
            if watch is not None:
                watch(family_memory(process.pid))
                time.sleep(_POLL_S)
            if kill_when is not None:
                if kill_when():
                    return True
                time.sleep(_POLL_S / 10)
        return False

    def _environment(self) -> dict[str, str]:
        # An installed package has its bytecode, so a checkout may keep it too.
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        kept["PYTHONPATH"] = str(_ROOT)
        if self.library is not None:
            kept["BENCHMARK_LIBRARY"] = str(self.library)
        return kept


class Started:
    """A program in a session of its own; leaving the context ends it and everything it started.

    Its output goes to files: through a pipe, the end of the program would be no end of its output,
    which workers that it leaves behind hold open too.

    Attributes:
        process: The program.
        out: Its standard output, available after the `with` block.
        err: Its standard error, likewise.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._files = [TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (closed on leaving)
        out, err = self._files
        self.out = self.err = ""
        self.process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        texts = []
        for file in self._files:
            with file:
                file.seek(0)
                texts.append(file.read())
        self.out, self.err = texts

    def ended_within(self, seconds: float) -> bool:
        """Wait for the program's end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def result_of(out: str) -> dict[str, Any] | None:
    """The result that a job printed; None if it did not get that far."""
    for line in reversed(out.splitlines()):
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line[len(MARK) :])
            return found
    return None


def _label(about: Mapping[str, Any]) -> str:
    return " ".join(str(value) for name, value in about.items() if name != "settings")
