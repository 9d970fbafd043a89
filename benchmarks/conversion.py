"""Turning a corpus into a dataset, against copying it and against decoding it.

Both sides write to the same file system and both end with everything on the disk: the copy is
followed by a sync, and the writer syncs every shard before it gets its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from audiomdb.converters.files import FolderConverter, ManifestConverter
from benchmarks.bare_decoders import decode_all
from benchmarks.bench import Bench
from benchmarks.corpus import Corpus
from benchmarks.results import Figure
from benchmarks.timing import Case, Comparison

__all__ = ["convert"]


def convert(bench: Bench) -> None:
    """Measure both corpora; time goals are those for clips of speech."""
    for label, corpus, goals, most in (
        ("speech", bench.speech, True, 4.0),
        ("digits", bench.digits, False, 8.0),
    ):
        _against_copying(bench, label, corpus, goals)
        _against_decoding(bench, label, corpus, goals)
        _stored_size(bench, label, corpus, most)


def _against_copying(bench: Bench, label: str, corpus: Corpus, goals: bool) -> None:
    out, settle = _output(bench)
    bench.compare(
        Comparison(
            name=f"convert.header.{label}",
            title=f"{label}: folder or manifest to dataset, headers believed",
            floors=(Case(name="cp -r and sync", run=_copy(corpus, out), before=settle),),
            contenders=(
                Case(name="FolderConverter", run=_folder(corpus, out, "header"), before=settle),
                Case(name="ManifestConverter", run=_manifest(corpus, out, "header"), before=settle),
            ),
            ratio="time",
            goals={"FolderConverter": 1.5, "ManifestConverter": 1.5} if goals else {},
            unit="clips",
            repeatable=False,
        )
    )


def _against_decoding(bench: Bench, label: str, corpus: Corpus, goals: bool) -> None:
    out, settle = _output(bench)

    def decode_in_two_threads() -> float:
        decode_all([path.read_bytes for path in corpus.paths], threads=2)
        return len(corpus.paths)

    bench.compare(
        Comparison(
            name=f"convert.decode.{label}",
            title=f"{label}: folder or manifest to dataset, every clip decoded (the default)",
            floors=(
                Case(name="cp -r and sync", run=_copy(corpus, out), before=settle),
                Case(name="bare decoding, 2 threads", run=decode_in_two_threads, before=settle),
            ),
            contenders=(
                Case(name="FolderConverter", run=_folder(corpus, out, "decode"), before=settle),
                Case(name="ManifestConverter", run=_manifest(corpus, out, "decode"), before=settle),
            ),
            ratio="time",
            goals={"FolderConverter": 1.15, "ManifestConverter": 1.15} if goals else {},
            unit="clips",
            repeatable=False,
        )
    )


def _stored_size(bench: Bench, label: str, corpus: Corpus, most: float) -> None:
    out = bench.fresh("converted")
    report = FolderConverter(corpus.audio, output_dir=out, progress=False).run()
    files = [path for path in out.rglob("*") if path.is_file()]
    stored = sum(path.stat().st_size for path in files)
    allocated = sum(path.stat().st_blocks * 512 for path in files)
    source = sum(path.stat().st_blocks * 512 for path in corpus.paths)
    bench.figure(
        Figure(
            name=f"convert.size.{label}",
            title=f"{label}: bytes of the dataset beyond those of the files",
            value=100 * (stored / corpus.bytes - 1),
            unit="%",
            at_most=most,
            facts={
                "files_mb": corpus.bytes / 1e6,
                "dataset_mb": stored / 1e6,
                "files_on_disk_mb": source / 1e6,
                "dataset_on_disk_mb": allocated / 1e6,
                "shards": report.shards,
            },
        )
    )


def _output(bench: Bench) -> tuple[Path, Callable[[], None]]:
    """Where every case writes, and what makes that place, and the disk, ready for the next."""
    out = bench.fresh("converted")

    def settle() -> None:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()

    return out, settle


def _copy(corpus: Corpus, out: Path) -> Callable[[], float]:
    def run() -> float:
        subprocess.run(["cp", "-r", str(corpus.audio), str(out)], check=True)
        os.sync()
        return len(corpus.paths)

    return run


def _folder(
    corpus: Corpus, out: Path, check_audio: Literal["decode", "header"]
) -> Callable[[], float]:
    def run() -> float:
        converter = FolderConverter(
            corpus.audio, output_dir=out, check_audio=check_audio, progress=False
        )
        return converter.run().samples

    return run


def _manifest(
    corpus: Corpus, out: Path, check_audio: Literal["decode", "header"]
) -> Callable[[], float]:
    def run() -> float:
        converter = ManifestConverter(
            corpus.manifest, output_dir=out, check_audio=check_audio, progress=False
        )
        return converter.run().samples

    return run
