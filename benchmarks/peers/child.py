"""Runs one job in this process and prints what it found: `python -m benchmarks.peers.child`.

Each job has a process of its own, so that no system inherits another's imports, memory, open files
or page tables, and so that systems may live in different environments.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["MARK", "run"]

MARK = "benchmark result: "
"""Begins the line that holds a job's result; libraries write what they like around it."""

# Peers that ask the network whether they are up to date would have that counted as their start.
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def run(job: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a job, `module:function` in `benchmarks.peers.jobs`."""
    module, name = job.split(":")
    function = getattr(import_module(f"benchmarks.peers.jobs.{module}"), name)
    found: dict[str, Any] = function(**arguments)
    return found


def _use_library(folder: Path) -> None:
    """Take AudioMDB from another checkout, and nothing of it from this one."""
    here = Path(__file__).parents[2] / "packages"
    kept = [path for path in sys.path if not Path(path).is_relative_to(here)]
    sys.path[:] = [*map(str, sorted(folder.glob("packages/*/src"))), *kept]


def main() -> None:
    """Read job and arguments from the command line."""
    from benchmarks.peers.system import NotOfferedError

    os.environ.update(_QUIET)
    if "BENCHMARK_LIBRARY" in os.environ:
        _use_library(Path(os.environ["BENCHMARK_LIBRARY"]))
    warnings.simplefilter("ignore")
    try:
        result = run(sys.argv[1], json.loads(sys.argv[2]))
    except NotOfferedError as error:
        result = {"not_offered": str(error)}
    sys.stdout.flush()
    # A library's own threads and workers may not want to end; what they hold is not our concern.
    os.write(1, f"\n{MARK}{json.dumps(result)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()
