"""What it costs before the first sample: importing, and opening a dataset of very many samples."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from audiomdb.shards import DatasetWriter
from benchmarks.bench import Bench
from benchmarks.processes import run_python
from benchmarks.results import Figure
from benchmarks.timing import Case, Comparison

__all__ = ["start"]

_FLOOR = "import numpy, lmdb, soundfile"
_MEMORY = """
import json, pathlib
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
fields = dict(line.split(":", 1) for line in lines)
print(json.dumps({"rss_kib": int(fields["VmRSS"].split()[0]), "modules": len(sys.modules)}))
"""
_FIRST_SAMPLE = """
import json, sys, time
from audiomdb.shards import DatasetReader
start = time.perf_counter()
reader = DatasetReader.open(sys.argv[1])
opened = time.perf_counter()
first = reader[0]
read = time.perf_counter()
reader.index["number"]
end = time.perf_counter()
times = {"open_s": opened - start, "first_s": read - start, "index_s": end - read}
print(json.dumps(times))
"""


def start(bench: Bench) -> None:
    """Measure imports, then opening."""
    _imports(bench)
    _open_large(bench)


def _imports(bench: Bench) -> None:
    everything = "\n".join(f"import {name}" for name in core_modules())

    def program(code: str) -> Callable[[], float]:
        def run() -> float:
            run_python(code)
            return 1

        return run

    bench.compare(
        Comparison(
            name="open.import",
            title="a new Python that imports all of audiomdb-core",
            floors=(Case(name=_FLOOR, run=program(_FLOOR)),),
            contenders=(Case(name="AudioMDB", run=program(everything)),),
            ratio="time",
            goals={"AudioMDB": 1.3},
            unit="",
            repeatable=False,
        )
    )
    if sys.platform == "linux":
        floor = run_python("import sys\n" + _FLOOR + _MEMORY).result
        ours = run_python("import sys\n" + everything + _MEMORY).result
        bench.figure(
            Figure(
                name="open.memory",
                title="resident memory of that Python",
                value=ours["rss_kib"] / 1024,
                unit="MiB",
                at_most=60,
                facts={
                    "floor_mib": floor["rss_kib"] / 1024,
                    "modules": ours["modules"],
                    "floor_modules": floor["modules"],
                },
            )
        )


def core_modules() -> list[str]:
    """Import names of all modules of core but the conformance kit, which needs pytest."""
    import audiomdb.errors

    root = Path(audiomdb.errors.__file__).parent
    names = [path.relative_to(root).with_suffix("").parts for path in root.rglob("*.py")]
    return sorted(
        ".".join(("audiomdb", *(name[:-1] if name[-1] == "__init__" else name)))
        for name in names
        if name[0] != "testing" and name[-1] != "__main__"
    )


def _open_large(bench: Bench) -> None:
    folder = bench.fresh("tiny")
    samples, shards = bench.sizes.tiny, bench.sizes.tiny_shards
    began, cpu = time.perf_counter(), time.process_time()
    with DatasetWriter(folder, samples_per_shard=samples // shards) as writer:
        for number in range(samples):
            writer.write(f"sample-{number:08d}", {"number": number, "text": f"number {number}"})
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    bench.figure(
        Figure(
            name="open.writing",
            title=f"writing {samples} samples of a number and a short text, {shards} shards",
            value=wall_s,
            unit="s",
            facts={
                "us_a_sample": wall_s / samples * 1e6,
                "cpu_us_a_sample": cpu_s / samples * 1e6,
                "bytes_a_sample": size / samples,
            },
        )
    )
    runs = [run_python(_FIRST_SAMPLE, os.fspath(folder)).result for _ in range(bench.sizes.rounds)]
    runs.sort(key=lambda run: float(run["first_s"]))
    middle = runs[len(runs) // 2]
    bench.figure(
        Figure(
            name="open.first",
            title=f"opening those {samples} samples and reading the first",
            value=middle["first_s"],
            unit="s",
            at_most=0.2,
            facts={
                "slowest_s": runs[-1]["first_s"],
                "open_alone_s": middle["open_s"],
                "index_column_s": middle["index_s"],
            },
        )
    )
