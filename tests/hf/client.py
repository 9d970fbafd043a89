"""Runs code against the stand-in for the Hub, in a process of its own.

The Hub's clients read their settings when they are imported, and other tests have imported them by
then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

__all__ = ["Client", "failure", "run"]

PRELUDE = """
import contextlib, json, sys
import audiomdb.cache.retry
from audiomdb.retrievers.hf import HFRetriever

audiomdb.cache.retry.FIRST_WAIT_S = 1e-6
options = json.loads(sys.argv[2])
repo_id = options.pop("repo_id", "user/digits")
with contextlib.closing(HFRetriever(repo_id, cache_dir=sys.argv[1], **options)) as retriever:
"""


def run(hub: Any, cache: Path, code: str, **options: Any) -> str:
    """Run code with a `retriever`; what it printed."""
    program = PRELUDE + textwrap.indent(textwrap.dedent(code), "    ")
    return str(hub.run(program, cache, json.dumps(options)))


def failure(hub: Any, cache: Path, code: str = "retriever.open()[0]", **options: Any) -> str:
    """As `run`, for code that must fail; the line of the traceback with the error."""
    program = PRELUDE + textwrap.indent(textwrap.dedent(code), "    ")
    lines = str(hub.failure(program, cache, json.dumps(options))).strip().splitlines()
    return next((line for line in reversed(lines) if line.startswith("audiomdb.")), lines[-1])


class Client:
    """A process that runs pieces of code one after the other, with the Hub at `url`."""

    def __init__(self, url: str, home: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self._environment = {**inherited, **settings}
        self._process = self.start("client.py", stderr=subprocess.DEVNULL)

    def start(self, program: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a program of the folder "programs", with pipes to it and from it."""
        path = Path(__file__).parent / "programs" / program
        command = [sys.executable, str(path), *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
        return subprocess.Popen(command, env=self._environment, text=True, **pipes)

    def run(self, code: str, arguments: list[str]) -> tuple[str, str | None]:
        """What the code printed, and the traceback it ended with."""
        assert self._process.stdin
        assert self._process.stdout
        job = json.dumps({"code": textwrap.dedent(code), "arguments": arguments})
        self._process.stdin.write(job + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["printed"], answer["error"]

    def close(self) -> None:
        self._process.communicate()
