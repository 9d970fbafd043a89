"""Samples that are left out because they fail, and what is not left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import encode
from audiomdb.errors import CorruptRecordError, CorruptShardError
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import BySeconds, LoadOptions, Mixture, Part, SampleStream, StepStream

BAD = 13


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 2000).astype(np.float32)
    with DatasetWriter(tmp_path / "d", samples_per_shard=10) as writer:
        for number in range(40):
            writer.write(f"{number:02d}", {"audio": encode(noise, 8000), "number": number})
    return tmp_path / "d"


def damage(dataset: Path, *, head: bool) -> None:
    """Flip bits of the audio or of the small fields of one sample."""
    with DatasetReader.open(dataset) as reader:
        index = reader.shard(BAD // 10).index
        place = BAD % 10
        at = int(index.head_offset[place]) + 14 if head else int(index.payload_offset[place]) + 900
    path = dataset / f"shard_{BAD // 10:05d}" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def refuse(sample: Sample) -> Sample:
    if sample["number"] == BAD:
        raise RuntimeError("no alignment")
    return sample


def unreachable(sample: Sample) -> Sample:
    if sample["number"] == BAD:
        raise RuntimeError("no answer") from ConnectionError("the server is away")
    return sample


def numbers(samples: Any) -> list[int]:
    return [sample["number"] for sample in samples]


@pytest.mark.parametrize("num_threads", [0, 2])
@pytest.mark.parametrize("head", [False, True])
def test_damaged_samples_are_left_out_and_named(
    dataset: Path, head: bool, num_threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    damage(dataset, head=head)
    options: dict[str, Any] = {"num_threads": num_threads, "on_error": "skip"}
    with pytest.raises(CorruptRecordError):
        list(SampleStream(dataset, num_threads=num_threads))
    assert numbers(SampleStream(dataset, **options)) == [n for n in range(40) if n != BAD]
    assert "left out (1 so far)" in caplog.text
    assert f"'{BAD}'" in caplog.text or f"record {BAD % 10}" in caplog.text
    steps = [numbers(step.samples) for step in StepStream(dataset, 4, **options).read()]
    assert [len(step) for step in steps] == [3 if n == BAD // 4 else 4 for n in range(10)]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_samples_that_a_processor_refuses_are_left_out(
    dataset: Path, num_threads: int, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"num_threads": num_threads, "processor": refuse}
    stream = SampleStream(dataset, on_error="skip", **options)
    assert numbers(stream) == [n for n in range(40) if n != BAD]
    assert "RuntimeError: no alignment (while processing" in caplog.text
    with pytest.raises(RuntimeError, match="no alignment"):
        stream[BAD]


def test_what_is_not_about_the_sample_is_raised(dataset: Path) -> None:
    with pytest.raises(RuntimeError, match="no answer"):
        list(SampleStream(dataset, processor=unreachable, on_error="skip"))
    (dataset / "shard_00001" / "data.mdb").write_bytes(b"")
    with pytest.raises(CorruptShardError, match="shard_00001"):
        list(SampleStream(dataset, on_error="skip"))


def test_a_processor_that_refuses_everything_is_not_obeyed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(sample: Sample) -> Sample:  # noqa: ARG001
        raise KeyError("speaker")

    with DatasetWriter(tmp_path / "d") as writer:
        for number in range(150):
            writer.write(f"{number:03d}", {"number": number})
    stream = SampleStream(tmp_path / "d", processor=broken, on_error="skip", num_threads=0)
    with pytest.raises(KeyError) as caught:
        list(stream)
    assert any("after 100 samples in a row" in note for note in caught.value.__notes__)
    named = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(named) == 10 + 9
    with pytest.raises(KeyError) as caught:
        next(StepStream(tmp_path / "d", 4, processor=broken, on_error="skip", num_threads=0).read())
    assert any("all other samples of its batch" in note for note in caught.value.__notes__)


def test_any_number_of_samples_may_be_left_out_between_others(tmp_path: Path) -> None:
    def odd(sample: Sample) -> Sample:
        if sample["number"] % 2 == 0:
            raise KeyError("speaker")
        return sample

    with DatasetWriter(tmp_path / "d") as writer:
        for number in range(250):
            writer.write(f"{number:03d}", {"number": number})
    stream = SampleStream(tmp_path / "d", processor=odd, on_error="skip", num_threads=0)
    assert numbers(stream) == [*range(1, 250, 2)]


def test_a_resumed_run_leaves_out_the_same(dataset: Path) -> None:
    def stream() -> SampleStream:
        return SampleStream(dataset, shuffle=True, seed=2, processor=refuse, on_error="skip")

    whole = numbers(stream())
    assert sorted(whole) == [n for n in range(40) if n != BAD]
    for received in (1, 20, 38):
        broken_off = stream()
        samples = iter(broken_off)
        assert numbers(next(samples) for _ in range(received)) == whole[:received]
        resumed = stream()
        resumed.load_state_dict(broken_off.state_dict())
        assert numbers(resumed) == whole[received:]


def test_all_ranks_have_as_many_batches_by_seconds_and_in_mixtures(dataset: Path) -> None:
    load = LoadOptions(processor=refuse, on_error="skip")
    for what in (Part(dataset, load=load), Mixture([Part(dataset, load=load), Part(dataset)])):
        by_rank = [
            list(StepStream(what, BySeconds(2.0, slots=2), rank=rank, world_size=2).read())
            for rank in range(2)
        ]
        assert len(by_rank[0]) == len(by_rank[1]) > 1
        read = sorted(n for steps in by_rank for step in steps for n in numbers(step.samples))
        whole = [*range(40)] * (2 if isinstance(what, Mixture) else 1)
        whole.remove(BAD)
        assert read == sorted(whole)
        if isinstance(what, Mixture):
            by_one = {s["__source__"] for steps in by_rank for step in steps for s in step.samples}
            assert by_one == {0, 1}


def test_another_word_for_skipping_is_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="on_error is 'ignore', expected 'raise' or 'skip'"):
        SampleStream(dataset, on_error="ignore")  # type: ignore[arg-type]
