"""What cannot be meant is refused where it is given, and the message says what was expected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.audio import AudioWindow, decode, encode, resample
from audiomdb.errors import AudioError, PlanError, UnknownColumnError
from audiomdb.plan import Tail
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import (
    BySeconds,
    JoinedColumns,
    LoadOptions,
    Part,
    SampleStream,
    StepStream,
)
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


def test_audio_may_be_what_numpy_takes_for_an_array() -> None:
    tone = np.round(np.sin(np.arange(800) / 9) * 2**14) / 2**15
    assert encode(tone.tolist(), 8000) == encode(tone, 8000)
    assert np.array_equal(resample(tone.tolist(), 8000, 16000), resample(tone, 8000, 16000))
    with pytest.raises(AudioError, match="float or int16, not int64"):
        encode([0, 1], 8000)
    wrong: Any = [[0.0], [0.0, 1.0]]
    for use in (encode, partial(resample, to_rate=16000)):
        with pytest.raises(AudioError, match="audio is what NumPy cannot take: "):
            use(wrong, 8000)


@pytest.mark.parametrize("wrong", ["1", None, [0.5], 10**400, float("nan"), -1])
def test_seconds_of_a_window_are_a_number(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"offset is .*, expected 0 or more seconds"):
        AudioWindow("clip.wav", wrong)
    with pytest.raises(AudioError, match=r"offset must be 0 or more seconds, not "):
        decode(clip(1), offset=wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match=r"duration is .*, expected more than 0 seconds"):
            AudioWindow("clip.wav", 0, wrong)
        with pytest.raises(AudioError, match=r"duration must be 0 or more seconds, not "):
            decode(clip(1), duration=wrong)


def test_names_come_in_a_list() -> None:
    wrong: Any
    for wrong in (True, "text"):
        with pytest.raises(TypeError, match=r"fields is .*, expected a list of names"):
            LoadOptions(fields=wrong)
        with pytest.raises(TypeError, match=r"columns is .*, expected a list of names"):
            JoinedColumns({}, columns=wrong)


def test_a_column_alone_is_no_table() -> None:
    class Series(list[int]):
        """What pandas calls a column."""

        def to_dict(self) -> dict[int, int]:
            return dict(enumerate(self))

    with pytest.raises(TypeError, match="row 0 is int, expected a mapping from column"):
        JoinedColumns(Series([1]))


def test_a_reader_names_what_it_was_asked_for(dataset: Path) -> None:
    reader = DatasetReader.open(dataset)
    wrong: Any = 3
    with pytest.raises(TypeError, match="a key is text, not 3"):
        reader.position(wrong)
    for number in (3, 99, -1):
        with pytest.raises(IndexError, match=f"shard {number} is outside of 3 shards"):
            reader.shard(number)
    for wrong in (slice(0, 2), 0):
        with pytest.raises(TypeError, match=r"index\['duration'\]\[0:2\]"):
            reader.index[wrong]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part("x", window=-5), "window must be a whole number from 0"),
        (lambda: Part("x", min_duration=3, max_duration=2), "min_duration 3 s is above max_dur"),
        (lambda: Part("x", max_duration=float("nan")), "max_duration is nan, expected seconds"),
        (lambda: SampleStream("x", min_duration=float("nan")), "min_duration is nan, expected"),
        (lambda: BySeconds(-1), "max_batch_seconds is -1, expected seconds above 0"),
        (lambda: BySeconds(9, num_buckets=0), "num_buckets must be a whole number from 1"),
        (lambda: BySeconds(9, slots=0), "slots must be a whole number from 1"),
    ],
)
def test_what_a_stream_reads_is_checked_where_it_is_described(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize("mask", [True, [True] * 5, np.ones(CLIPS)])
def test_a_mask_that_does_not_fit_names_where(dataset: Path, mask: Any) -> None:
    for where in (lambda _: mask, np.asarray(mask)):
        with pytest.raises(PlanError, match=r"where gives .* expected one bool for each of the 12"):
            len(SampleStream(dataset, where=where))
