"""Memory of a conversion: bounded means that four times the corpus takes no more of it."""

from __future__ import annotations

import sys

from benchmarks.bench import Bench
from benchmarks.corpus import Corpus, CorpusSpec
from benchmarks.processes import Finished, run_python
from benchmarks.results import Figure

__all__ = ["memory"]

_CONVERT = """
import json, sys
from audiomdb.converters.files import ManifestConverter
# So that the small corpus fills several shards too and both runs are in their steady state.
options = {"max_shard_bytes": 8 * 1024 * 1024, "progress": False}
report = ManifestConverter(sys.argv[1], output_dir=sys.argv[2], **options).run()
print(json.dumps(report.samples))
"""


def memory(bench: Bench) -> None:
    """Convert a corpus and one of four times its size, each in a process of its own."""
    if sys.platform != "linux":
        return
    most = bench.sizes.utterances
    small = bench.corpus(CorpusSpec("utterances", max(1, most // 4)))
    large = bench.speech
    before, after = _peak(bench, small), _peak(bench, large)
    megabyte = 1024 * 1024
    bench.figure(
        Figure(
            name="memory.convert",
            title="peak memory of converting a corpus, over that for a quarter of it",
            value=(after.peak_bytes - before.peak_bytes) / megabyte,
            unit="MiB",
            at_most=32,
            facts={
                "peak_mib": after.peak_bytes / megabyte,
                "peak_quarter_mib": before.peak_bytes / megabyte,
                "anonymous_mib": after.peak_anonymous_bytes / megabyte,
                "anonymous_quarter_mib": before.peak_anonymous_bytes / megabyte,
                "corpus_mib": large.bytes / megabyte,
                "corpus_quarter_mib": small.bytes / megabyte,
            },
        )
    )


def _peak(bench: Bench, corpus: Corpus) -> Finished:
    out = bench.fresh("converted")
    return run_python(_CONVERT, str(corpus.manifest), str(out), watch=True)
