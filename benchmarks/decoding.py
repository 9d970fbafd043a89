"""Samples as training sees them, float32 arrays, against decoding bytes that lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from audiomdb.audio import decoders
from audiomdb.shards import DatasetReader
from audiomdb.stream import SampleStream
from benchmarks.bare_decoders import decode_all, decoder_name
from benchmarks.bench import Bench
from benchmarks.timing import Case, Comparison

__all__ = ["decode_samples"]


def decode_samples(bench: Bench) -> None:
    """Measure both corpora, with one thread and with two. Goals are those for clips of speech."""
    if decoders()["FLAC"] != decoder_name():
        raise RuntimeError(f"the floor decodes with {decoder_name()}, AudioMDB with {decoders()}")
    for label, corpus, goals in (("speech", bench.speech, True), ("digits", bench.digits, False)):
        in_memory = [path.read_bytes() for path in corpus.paths]
        with DatasetReader.open(bench.dataset(corpus)) as reader:
            for threads in (1, 2):
                contenders = [
                    Case(name="SampleStream", run=_stream(reader, threads)),
                    Case(name="SampleStream, shuffled", run=_stream(reader, threads, shuffle=True)),
                ]
                if threads == 1:
                    in_place = Case(name="SampleStream without threads", run=_stream(reader, 0))
                    contenders.append(in_place)
                bench.compare(
                    Comparison(
                        name=f"decode.{threads}.{label}",
                        title=f"{label}: all samples as float32, {threads} decoding",
                        floors=(
                            Case(
                                name=f"bare {decoder_name()} from memory",
                                run=_bare(in_memory, threads),
                            ),
                        ),
                        contenders=tuple(contenders),
                        goals={"SampleStream": 0.95} if goals else {},
                        unit="frames",
                    )
                )


def _bare(in_memory: list[bytes], threads: int) -> Callable[[], float]:
    clips = [partial(bytes, data) for data in in_memory]  # which copies nothing
    return lambda: decode_all(clips, threads)


def _stream(reader: DatasetReader, threads: int, shuffle: bool = False) -> Callable[[], float]:
    def run() -> float:
        with SampleStream(reader, num_threads=threads, shuffle=shuffle) as stream:
            return sum(len(sample["audio"]) for sample in stream)

    return run
