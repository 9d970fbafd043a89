"""Where figures come from: the machine, and the versions of everything that takes part."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_machine", "origin"]

_DISTRIBUTIONS = (
    *("audiomdb-core", "lmdb", "miniaudio", "msgspec", "numpy", "soundfile", "soxr"),
    "zlib-ng",
)


def describe_machine(work: Path) -> dict[str, Any]:
    """Facts as plain data.

    Args:
        work: The folder that files are written to; its file system matters.
    """
    return {
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "file_system": _file_system(work),
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
        "commit": _commit(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def origin(run: Mapping[str, Any], versions: Mapping[str, str | None]) -> Iterator[str]:
    """Sentences about where the figures of a page come from.

    Args:
        run: The first line of its results; `parts` of it are runs that the others are from.
        versions: Of what took part, by name.
    """
    known = ", ".join(f"{name} {found}" for name, found in sorted(versions.items()) if found)
    yield (
        f"{run['cpu']}, {run['cores']} cores, {run['memory_gib']} GiB, {run['system']}, "
        f"{run['file_system']}; Python {run['python']}, AudioMDB at {run['commit']}; {known}."
    )
    parts = [part for part in run.get("parts", ()) if part["commit"] != run["commit"]]
    if parts:
        commits = ", ".join(sorted({part["commit"] for part in parts}))
        rounds = max(part["sizes"]["rounds"] for part in parts)
        yield f"Some measurements were made at {commits}, in up to {rounds} rounds."


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(work: Path) -> str:
    """Type of the mount that `work` lies on, where the system tells."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    mounts = {fields[1]: fields[2] for fields in map(str.split, lines)}
    place = work.resolve()
    return next((mounts[str(p)] for p in (place, *place.parents) if str(p) in mounts), "unknown")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of this checkout, with a plus sign where files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "--short", "HEAD")
        return head + ("+" if git("status", "--porcelain") else "") if head else None
    except OSError:
        return None
