"""Conversions that are run again: what is kept, compared and refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audiomdb.errors import (
    OptionsChangedError,
    SourceChangedError,
)
from audiomdb.sample import Sample
from tests.core.conversions import Listed, digests, frames, samples


def test_an_error_of_the_source_keeps_what_is_finished(tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[str, Sample]]:
        yield from samples(25)
        raise ConnectionError("the server is gone")

    out = tmp_path / "out"
    with pytest.raises(ConnectionError, match="the server is gone") as caught:
        Listed(breaking(), out, samples_per_shard=10).run()
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        assert note.startswith(f"2 finished shards are kept in {out}: the same conversion goes on")
    assert sorted(path.name for path in out.iterdir()) == ["shard_00000", "shard_00001"]
    report = Listed(samples(25), out, samples_per_shard=10).run()
    assert (report.samples, report.reused_shards) == (25, 2)


def test_a_second_run_compares_and_rewrites_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Listed(samples(25), out, samples_per_shard=10).run()
    before = digests(out)
    made = {path: path.stat().st_mtime_ns for path in out.glob("shard_*/data.mdb")}
    report = Listed(samples(25), out, samples_per_shard=10).run()
    assert report.reused_shards == 3
    assert digests(out) == before
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_a_shard_that_was_deleted_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Listed(samples(25), out, samples_per_shard=10).run()
    before = digests(out)
    for path in (out / "shard_00001").iterdir():
        path.unlink()
    (out / "shard_00001").rmdir()
    assert Listed(samples(25), out, samples_per_shard=10).run().reused_shards == 2
    assert digests(out) == before


def test_another_order_or_other_samples_are_refused_by_shard(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = samples(25)
    Listed(source, out, samples_per_shard=10).run()
    swapped = [*source[:12], source[13], source[12], *source[14:]]
    for changed in (swapped, source[:22], source[:5], samples(40)):
        with pytest.raises(SourceChangedError, match=r"shard_0000[0-2] was finished by an earlier"):
            Listed(changed, out, samples_per_shard=10).run()
    assert Listed(source, out, samples_per_shard=10).run().reused_shards == 3


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({}, {"samples_per_shard": 5}, "samples_per_shard=5"),
        ({}, {"max_shard_bytes": 10**6}, "max_shard_bytes=1000000"),
        ({}, {"map_size": 2**20}, "map_size=1048576"),
        ({}, {"audio_format": "flac"}, "audio_format='flac'"),
        ({}, {"sample_rate": 16000}, "sample_rate=16000"),
        ({}, {"mono": True}, "mono=True"),
        ({"mono": True}, {"mono": False}, "made with mono=True"),
        ({}, {"check_audio": "header"}, "check_audio='header'"),
        ({}, {"processor": frames(), "num_workers": 1}, r"processors=\['Frames"),
        ({"processor": frames(40)}, {"processor": frames(80)}, "size=80"),
    ],
)
def test_changed_options_are_refused_by_name(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], named: str
) -> None:
    options: dict[str, Any] = {"samples_per_shard": 10, "num_workers": 1}
    Listed(samples(12), tmp_path / "out", **{**options, **first}).run()
    with pytest.raises(OptionsChangedError, match=named):
        Listed(samples(12), tmp_path / "out", **{**options, **first, **second}).run()


def test_workers_progress_and_errors_may_change_between_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Listed(samples(12), out, samples_per_shard=5, num_workers=1).run()
    report = Listed(samples(12), out, samples_per_shard=5, num_workers=3, on_error="skip").run()
    assert report.reused_shards == 3


def test_a_resumed_run_shows_how_far_it_has_looked_through_finished_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        Listed(samples(12), tmp_path / "out", samples_per_shard=5, progress=True).run()
    assert "opening" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [5, 10, 12, 20, 22])
def test_a_smaller_limit_is_refused_without_blaming_the_source(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    source = samples(25)
    Listed(source, out, samples_per_shard=10).run()
    with pytest.raises(OptionsChangedError, match=f"limit={limit} ends before what an earlier run"):
        Listed(source, out, samples_per_shard=10, limit=limit).run()
    changed = [("other", source[0][1]), *source[1:]]
    if limit > 10:
        with pytest.raises(SourceChangedError, match=r"shard_00000 was finished by an earlier"):
            Listed(changed, out, samples_per_shard=10, limit=limit).run()
    assert Listed(source, out, samples_per_shard=10, limit=25).run().reused_shards == 3


def test_a_larger_limit_continues_the_conversion(tmp_path: Path) -> None:
    out = tmp_path / "out"
    Listed(samples(25), out, samples_per_shard=10, limit=7).run()
    with pytest.raises(SourceChangedError, match="as it is after a run with a smaller limit"):
        Listed(samples(25), out, samples_per_shard=10, limit=10).run()
    shutil.rmtree(out / "shard_00000")
    Listed(samples(25), out, samples_per_shard=10, limit=10).run()
    report = Listed(samples(25), out, samples_per_shard=10, limit=20).run()
    assert (report.samples, report.reused_shards) == (20, 1)
