"""What cannot be meant is refused where it is given, and the message says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.errors import PlanError, UnknownColumnError
from audiomdb.plan import Tail
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import BySeconds, LoadOptions, Part, SampleStream, StepStream
from audiomdb.uploaders.local import LocalUploader
from tests.core.conversions import Listed, clip

CLIPS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=5) as writer:
        for i in range(CLIPS):
            writer.write(f"clip-{i:02d}", {"audio": clip(i), "text": f"clip {i}"})
    return path


@pytest.mark.parametrize("make", [SampleStream, partial(StepStream, batch_size=4)])
@pytest.mark.parametrize("wrong", ["", [], False])
def test_no_value_but_none_leaves_rank_and_worker_out(
    dataset: Path, make: Callable[..., object], wrong: Any
) -> None:
    for which, several in (("rank", "world_size"), ("worker", "num_workers")):
        with pytest.raises(PlanError, match=f"{which} must be a whole number"):
            make(dataset, **{which: wrong, several: 2})
    with pytest.raises(PlanError, match="tail must be one of"):
        make(dataset, tail=wrong)


BOOLS: dict[str, Callable[[Path, Any], object]] = {
    "shuffle": lambda folder, given: Part(folder, shuffle=given),
    "decode": lambda _, given: LoadOptions(decode=given),
    "mono": lambda _, given: LoadOptions(mono=given),
    "progress": lambda folder, given: LocalUploader(folder, progress=given),
}


@pytest.mark.parametrize("name", BOOLS)
def test_a_bool_may_be_numpys_but_no_text_or_number(name: str, tmp_path: Path) -> None:
    for right in (False, np.True_, np.bool_(0)):
        BOOLS[name](tmp_path, right)
    wrong: Any
    for wrong in ("false", "no", 0, 1, []):
        with pytest.raises(TypeError, match=f"{name} is .*, expected True or False"):
            BOOLS[name](tmp_path, wrong)


def test_mono_may_be_numpys_bool_at_conversion_too(tmp_path: Path) -> None:
    for mono in (True, np.True_):
        with DatasetWriter(tmp_path / "out", mono=mono) as writer:  # type: ignore[arg-type]
            writer.write("a", {"audio": clip(1)})
    Listed([("a", {"audio": clip(1)})], tmp_path / "out", mono=np.True_).run()


def test_a_field_that_no_sample_has_is_refused(dataset: Path) -> None:
    reader = DatasetReader.open(dataset)
    text = "no sample of dataset 'clips' has a field 'txet'; there are 'audio', .* 'text'"
    for fields in (["txet"], ["text", "txet"], {"txet", "__key__"}):
        with pytest.raises(UnknownColumnError, match=text):
            reader.read(0, fields=fields)
        with pytest.raises(UnknownColumnError, match=text):
            next(reader.scan(fields=fields))
    assert reader.read(0, fields=["text", "__key__", "text"]).keys() == {"__key__", "text"}


def test_a_field_that_only_other_samples_have_is_left_out(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "some") as writer:
        writer.write("a", {"text": "a"})
        writer.write("b", {"note": "b"})
    reader = DatasetReader.open(tmp_path / "some")
    assert reader.read("a", fields=["note"]) == {"__key__": "a"}
    assert [sample.get("note") for sample in reader.scan(fields=["note"])] == [None, "b"]


@pytest.mark.parametrize("tail", ["uneven", "drop", "pad"])
@pytest.mark.parametrize("world_size", [1, 5])
def test_a_state_beyond_its_epoch_is_refused(dataset: Path, tail: Tail, world_size: int) -> None:
    def stream(rank: int) -> SampleStream:
        return SampleStream(dataset, rank=rank, world_size=world_size, tail=tail)

    last = stream(world_size - 1)
    each = max(len(stream(rank)) for rank in range(world_size))
    state = last.state_dict()
    last.load_state_dict({**state, "next_step": each})
    assert list(last) == []
    for other in (last, SampleStream(dataset, tail=tail)):
        with pytest.raises(PlanError, match=f"sample 1000 of an epoch of {each}"):
            other.load_state_dict({**state, "next_step": 1000})


@pytest.mark.parametrize("batch_size", [4, BySeconds(1.0)])
def test_a_step_beyond_its_epoch_is_refused(dataset: Path, batch_size: Any) -> None:
    stream = StepStream(dataset, batch_size)
    steps = stream.steps
    assert list(stream.read(stream.state(0, steps))) == []
    with pytest.raises(PlanError, match=f"step 1000 of {steps}"):
        next(stream.read(stream.state(0, 1000)))
    if isinstance(batch_size, BySeconds):
        with pytest.raises(PlanError, match="chapter 9 of 1"):
            next(stream.read(stream.state(0, 0, chapter=9)))
