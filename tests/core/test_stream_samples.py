"""A stream gives each sample once, decoded, in the order of its plan."""

from __future__ import annotations

import gc
import io
import pickle
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiomdb.audio import resample
from audiomdb.errors import PlanError, ProcessingError, UnknownColumnError, UnknownKeyError
from audiomdb.plan import EpochPlan, Tail
from audiomdb.processors.base import BaseProcessor
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader, DatasetWriter
from audiomdb.stream import MASK, Mixture, Part, SampleStream

CLIPS = 90
RATE = 8000


def wave(number: int, channels: int = 1) -> np.ndarray:
    frames = 200 + 7 * number
    tone = 0.5 * np.sin(np.arange(frames) * (0.05 + number / 400))
    audio = tone if channels == 1 else np.stack([tone, -0.5 * tone], axis=1)
    return np.round(audio * 32767) / 32768


def flac(number: int) -> bytes:
    file = io.BytesIO()
    channels = 2 if number % 10 == 9 else 1
    soundfile.write(file, wave(number, channels), RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def key(number: int) -> str:
    return f"clip-{number:03d}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i in range(CLIPS):
            mel = np.full((4, 50 + i), i, np.float32)
            writer.write(key(i), {"audio": flac(i), "text": f"clip {i}", "mel": mel})
    return path


def keys(samples: Iterable[Sample]) -> list[str]:
    return [sample["__key__"] for sample in samples]


def test_without_shuffle_samples_come_in_stored_order(dataset: Path) -> None:
    assert keys(SampleStream(dataset)) == [key(i) for i in range(CLIPS)]


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_samples_come_in_the_order_of_the_plan(dataset: Path, num_threads: int) -> None:
    reader = DatasetReader.open(dataset)
    plan = EpochPlan(reader.counts, seed=5, epoch=0, shuffle=True, window=2)
    stream = SampleStream(reader, shuffle=True, seed=5, window=2, num_threads=num_threads)
    assert keys(stream) == [reader.key(int(at)) for at in plan.positions(0, len(plan))]


def test_a_folder_a_retriever_and_a_reader_are_the_same(dataset: Path) -> None:
    sources: list[Any] = [
        dataset,
        str(dataset),
        LocalRetriever(dataset),
        DatasetReader.open(dataset),
    ]
    orders = [keys(SampleStream(source, shuffle=True, seed=1)) for source in sources]
    assert all(order == orders[0] for order in orders)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 3), (2, 2), (3, 4), (100, 1)])
def test_over_ranks_and_workers_each_sample_comes_once(
    dataset: Path, world_size: int, num_workers: int
) -> None:
    met: Counter[str] = Counter()
    for rank in range(world_size):
        for worker in range(num_workers):
            stream = SampleStream(
                dataset,
                shuffle=True,
                fields=["text"],
                rank=rank,
                world_size=world_size,
                worker=worker,
                num_workers=num_workers,
                tail="uneven",
            )
            found = keys(stream)
            assert len(found) == len(stream)
            met.update(found)
    assert met == Counter(key(i) for i in range(CLIPS))


@pytest.mark.parametrize(("tail", "each"), [("drop", CLIPS // 7), ("pad", -(-CLIPS // 7))])
def test_ranks_get_equal_counts_where_asked(dataset: Path, tail: Tail, each: int) -> None:
    ranks = [
        list(
            SampleStream(
                dataset, fields=[], shuffle=True, rank=rank, world_size=7, tail=tail, num_threads=2
            )
        )
        for rank in range(7)
    ]
    assert {len(samples) for samples in ranks} == {each}
    counted = [sample for samples in ranks for sample in samples if sample.get(MASK, True)]
    assert len(set(keys(counted))) == len(counted) == (CLIPS if tail == "pad" else 7 * each)
    assert all((MASK in sample) == (tail == "pad") for sample in counted)


def test_every_iteration_is_a_new_epoch(dataset: Path) -> None:
    stream = SampleStream(dataset, shuffle=True, fields=[])
    orders = [keys(stream) for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == [key(i) for i in range(CLIPS)] for order in orders)
    stream.set_epoch(1)
    assert keys(stream) == orders[1]
    assert keys(stream) == orders[2]


def test_leaving_an_epoch_early_does_not_repeat_it(dataset: Path) -> None:
    stream = SampleStream(dataset, shuffle=True, fields=[])
    first = keys(islice(stream, 10))
    second = keys(stream)
    assert second[:10] != first
    assert len(second) == CLIPS


def test_several_epochs_follow_without_a_break(dataset: Path) -> None:
    one = SampleStream(dataset, shuffle=True, fields=[])
    three = SampleStream(dataset, shuffle=True, fields=[], epochs=3)
    assert len(three) == 3 * CLIPS
    assert keys(three) == [name for _ in range(3) for name in keys(one)]
    one.set_epoch(3)
    assert keys(islice(three, CLIPS)) == keys(one)


def test_without_a_number_of_epochs_it_never_ends(dataset: Path) -> None:
    stream = SampleStream(dataset, shuffle=True, fields=[], epochs=None)
    found = keys(islice(stream, 5 * CLIPS + 1))
    assert len(found) == 5 * CLIPS + 1
    assert set(Counter(found[: 5 * CLIPS]).values()) == {5}
    with pytest.raises(TypeError, match="epochs=None"):
        len(stream)


def test_an_iteration_after_an_endless_one_starts_with_the_next_epoch(dataset: Path) -> None:
    whole = SampleStream(dataset, shuffle=True, fields=[])
    epochs = [keys(whole) for _ in range(5)]
    stream = SampleStream(dataset, shuffle=True, fields=[], epochs=None)
    assert keys(islice(stream, 2 * CLIPS + 1))[-1:] == epochs[2][:1]
    assert keys(islice(stream, CLIPS)) == epochs[3]
    assert keys(islice(stream, 3)) == epochs[4][:3]
    stream.set_epoch(1)
    assert keys(islice(stream, CLIPS)) == epochs[1]
    stream.load_state_dict(stream.state_dict())
    assert keys(islice(stream, 3)) == epochs[2][:3]


def test_an_endless_stream_of_nothing_ends(dataset: Path, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "empty"):
        pass
    assert list(SampleStream(tmp_path / "empty", epochs=None)) == []
    late = SampleStream(dataset, rank=99, world_size=100, epochs=None, fields=[])
    assert len(keys(islice(late, 3))) in (0, 3)


def test_decoded_audio_is_what_was_encoded(dataset: Path) -> None:
    for i, sample in enumerate(SampleStream(dataset)):
        channels = 2 if i % 10 == 9 else 1
        assert sample["audio"].dtype == np.float32
        np.testing.assert_array_equal(sample["audio"], wave(i, channels).astype(np.float32))
        assert (sample["sample_rate"], sample["frames"]) == (RATE, 200 + 7 * i)
        assert sample["channels"] == channels


def test_audio_can_be_resampled_and_mixed_to_mono(dataset: Path) -> None:
    sample = SampleStream(dataset, sample_rate=2 * RATE, mono=True)[key(19)]
    mono = wave(19, 2).astype(np.float32).mean(axis=1)
    np.testing.assert_allclose(sample["audio"], resample(mono, RATE, 2 * RATE), atol=1e-6)
    assert sample["sample_rate"] == 2 * RATE
    assert sample["frames"] == len(sample["audio"])
    assert sample["channels"] == 1


def test_without_decoding_audio_stays_as_it_was_stored(dataset: Path) -> None:
    samples = list(SampleStream(dataset, decode=False))
    assert [sample["audio"] for sample in samples] == [flac(i) for i in range(CLIPS)]
    assert type(samples[0]["audio"]) is bytes


def test_stored_arrays_are_decoded_too(tmp_path: Path) -> None:
    audio = np.arange(-50, 50, dtype=np.int16) * 300
    with DatasetWriter(tmp_path / "arrays") as writer:
        writer.write("mono", {"audio": audio, "sample_rate": RATE})
        writer.write("stereo", {"audio": np.stack([audio, -audio], 1), "sample_rate": RATE})
    stream = SampleStream(tmp_path / "arrays")
    np.testing.assert_array_equal(stream["mono"]["audio"], audio.astype(np.float32) / 32768)
    assert stream["stereo"]["audio"].shape == (100, 2)
    mixed = SampleStream(tmp_path / "arrays", mono=True, sample_rate=2 * RATE)["stereo"]
    assert mixed["audio"].shape == (200,)
    assert (mixed["sample_rate"], mixed["channels"], mixed["frames"]) == (2 * RATE, 1, 200)


@pytest.mark.parametrize("decode", [True, False])
def test_samples_own_all_their_memory(dataset: Path, decode: bool) -> None:
    for sample in SampleStream(dataset, decode=decode):
        for value in sample.values():
            assert not isinstance(value, memoryview)
            if isinstance(value, np.ndarray):
                value += 1  # neither read-only nor the file's
    again = SampleStream(dataset, decode=decode)[key(3)]
    assert again["mel"][0, 0] == 3


def test_only_the_fields_asked_for_come(dataset: Path) -> None:
    def fields(*names: str, **options: Any) -> set[str]:
        return set(SampleStream(dataset, fields=names, **options)[0]) - {"__key__"}

    assert fields("text") == {"text"}
    assert fields("audio") == {"audio"}
    assert fields("audio", decode=False) == {"audio"}
    assert fields("audio", "channels") == {"audio", "channels"}
    with pytest.raises(UnknownColumnError, match=r"has a field 'txet'; there are 'audio', "):
        fields("audio", "txet")
    with pytest.raises(TypeError, match="'text'"):
        SampleStream(dataset, fields="text")


def test_a_sample_without_audio_has_no_more_fields_than_others(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "some") as writer:
        for audio in (wave(0).astype(np.float32), None):
            writer.write(f"{audio is None}", {"audio": audio, "sample_rate": RATE, "n": 1})
    for fields in (["audio"], ["audio", "n"]):
        stream = SampleStream(tmp_path / "some", fields=fields)
        assert [set(sample) for sample in stream] == [{"__key__", *fields}] * 2


def test_samples_are_found_by_position_and_key(dataset: Path) -> None:
    stream = SampleStream(dataset, shuffle=True)
    assert stream[4]["__key__"] == key(4)
    assert stream[-1]["__key__"] == key(CLIPS - 1)
    np.testing.assert_array_equal(stream[key(7)]["audio"], wave(7).astype(np.float32))
    assert stream[-CLIPS]["__key__"] == key(0)
    for outside in (CLIPS, -CLIPS - 1):
        with pytest.raises(IndexError, match=f"position {outside} is outside of {CLIPS} samples"):
            stream[outside]
    with pytest.raises(UnknownKeyError, match="clip-xyz"):
        stream["clip-xyz"]


def test_whether_a_key_exists_is_asked_without_reading_a_sample(dataset: Path) -> None:
    several = Mixture([Part(dataset), Part(dataset)])
    for source in (dataset, several):
        stream = SampleStream(source, epochs=None)
        before = stream.state_dict()
        assert key(7) in stream
        assert "clip-x" not in stream
        for other in (0, None, {"__key__": key(7)}):
            assert other not in stream
        assert stream.state_dict() == before


class Loudness(BaseProcessor):
    def process(self, sample: Sample, **kwargs: Any) -> dict[str, Any]:
        audio = self.load_array(sample["audio"], kwargs["sample_rate"])
        return {"peak": float(np.abs(audio).max()), "rate": kwargs["sample_rate"]}


def test_a_processor_sees_decoded_audio_and_its_rate(dataset: Path) -> None:
    samples = list(SampleStream(dataset, processor=Loudness(), sample_rate=4000))
    assert keys(samples) == [key(i) for i in range(CLIPS)]
    assert set(samples[0]) == {"__key__", "peak", "rate"}
    assert samples[0]["rate"] == 4000
    kept = SampleStream(dataset, processor=[Loudness(keep_original=True)])[1]
    assert kept["rate"] == RATE
    assert kept["text"] == "clip 1"


def test_a_processor_can_read_encoded_audio_itself(dataset: Path) -> None:
    def length(sample: Sample) -> dict[str, Any]:
        return {"size": len(sample["audio"])}

    sample = SampleStream(dataset, processor=length, decode=False)[5]
    assert sample == {"__key__": key(5), "size": len(flac(5))}


def test_a_processor_has_to_return_a_dict(dataset: Path) -> None:
    stream = SampleStream(dataset, processor=lambda sample: sample["text"])
    with pytest.raises(ProcessingError, match=r"shard_00000: sample 'clip-000'.*returned str"):
        next(iter(stream))
    with pytest.raises(TypeError, match="Loudness"):
        next(iter(SampleStream(dataset, processor=Loudness)))  # type: ignore[arg-type]


def test_a_processor_cannot_change_the_key(dataset: Path) -> None:
    stream = SampleStream(dataset, processor=lambda sample: {**sample, "__key__": "mine"})
    with pytest.raises(ProcessingError, match=r"shard_00000: sample 'clip-000'.*calls .* 'mine'"):
        next(iter(stream))


def test_a_stream_pickles_with_its_place(dataset: Path) -> None:
    stream = SampleStream(LocalRetriever(dataset), shuffle=True, fields=[])
    list(stream)
    copy = pickle.loads(pickle.dumps(stream))
    assert keys(copy) == keys(stream)


def test_iterations_run_side_by_side(dataset: Path) -> None:
    stream = SampleStream(dataset, shuffle=True, num_threads=2)
    pairs = list(zip(stream, stream, strict=True))
    assert len({first["__key__"] for first, _ in pairs}) == CLIPS
    assert len({second["__key__"] for _, second in pairs}) == CLIPS


def test_closing_a_stream_ends_its_iterations_and_not_itself(dataset: Path) -> None:
    with SampleStream(dataset) as stream:
        running = iter(stream)
        next(running)
    assert list(running) == []
    assert len(list(stream)) == CLIPS


def test_a_dataset_of_the_caller_is_not_closed(dataset: Path) -> None:
    retriever = LocalRetriever(dataset)
    reader = retriever.open()
    with SampleStream(retriever) as stream:
        list(islice(stream, 3))
    assert retriever.open() is reader


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rank": 2, "world_size": 2}, PlanError),
        ({"worker": -1}, PlanError),
        ({"tail": "even"}, PlanError),
        ({"window": -1}, PlanError),
        ({"num_threads": -1}, PlanError),
        ({"num_threads": 1.5}, PlanError),
        ({"num_threads": "4"}, PlanError),
        ({"epochs": 0}, PlanError),
        ({"epochs": 1.5}, PlanError),
        ({"sample_rate": 0}, ValueError),
        ({"sample_rate": 16000, "decode": False}, ValueError),
        ({"mono": True, "decode": False}, ValueError),
    ],
)
def test_impossible_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        SampleStream("nowhere", **options)


def test_descriptors_do_not_grow(dataset: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    def epoch() -> None:
        with SampleStream(dataset, shuffle=True, num_threads=2) as stream:
            list(islice(stream, 30))

    epoch()
    gc.collect()  # of what tests before this one have left
    before = descriptors()
    for _ in range(10):
        epoch()
    assert descriptors() == before
