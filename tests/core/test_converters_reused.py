"""Sources that fill the same dict, list or buffer for one sample after another."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from audiomdb.errors import SourceError
from audiomdb.processors.base import BaseProcessor
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from tests.core.conversions import Listed, clip, digests, frames

CLIPS = [clip(number) for number in range(4)]


def fresh() -> Iterator[tuple[str, Sample]]:
    for number, data in enumerate(CLIPS):
        yield (
            f"{number}",
            {
                "audio": data,
                "text": f"number {number}",
                "few": bytes([number] * 9),
                "many": bytes([number] * 400),
                "same": bytes([number] * 400),
                "meta": {"number": number, "tags": [number, ({"n": number},)]},
            },
        )


def reused() -> Iterator[tuple[str, Sample]]:
    audio = bytearray(len(CLIPS[0]))
    few, many, inner = bytearray(9), bytearray(400), {"n": 0}
    tags: list[Any] = [0, (inner,)]
    sample: Sample = {"audio": audio, "text": "", "few": few}
    sample.update({"many": memoryview(many), "same": memoryview(many).toreadonly()})
    sample.update({"meta": {"number": 0, "tags": tags}})
    for number, data in enumerate(CLIPS):
        audio[:], few[:], many[:] = data, bytes([number] * 9), bytes([number] * 400)
        sample["text"] = f"number {number}"
        inner["n"] = tags[0] = sample["meta"]["number"] = number
        yield f"{number}", sample


@pytest.mark.parametrize("options", [{}, {"processor": frames(keep_original=True)}])
def test_objects_reused_by_a_source_are_stored_as_they_were(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        Listed(fresh(), folder / "fresh" / "out", num_workers=workers, **options).run()
        Listed(reused(), folder / "reused" / "out", num_workers=workers, **options).run()
        assert digests(folder / "reused") == digests(folder / "fresh")
    with DatasetReader.open(folder / "reused" / "out") as dataset:
        assert [sample["text"] for sample in dataset] == [f"number {n}" for n in range(4)]


def test_subclasses_of_dict_and_list_may_be_reused_too(tmp_path: Path) -> None:
    class Words(list[int]):
        pass

    class Common(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {"most": sample["counts"].most_common(1)}

    def source() -> Iterator[tuple[str, Sample]]:
        counts: Counter[str] = Counter()
        by_name: OrderedDict[str, list[int]] = OrderedDict(numbers=[])
        words = Words()
        for number in range(4):
            counts.clear()
            counts.update("ab" * number + "b")
            by_name["numbers"][:] = words[:] = [number]
            yield f"{number}", {"counts": counts, "by_name": by_name, "words": words}

    common = Common(keep_original=True)
    Listed(source(), tmp_path / "out", processor=common, num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        found = list(dataset)
    assert [sample["most"] for sample in found] == [[["b", number + 1]] for number in range(4)]
    assert [sample["counts"].get("a", 0) for sample in found] == [0, 1, 2, 3]
    assert [sample["by_name"] for sample in found] == [{"numbers": [n]} for n in range(4)]
    assert [sample["words"] for sample in found] == [[0], [1], [2], [3]]


def test_views_of_an_lmdb_transaction_are_copied_in_time(tmp_path: Path) -> None:
    clips = {f"{number:03}": clip(number) for number in range(100)}
    with lmdb.open(str(tmp_path / "lmdb")) as env, env.begin(write=True) as transaction:
        for key, data in clips.items():
            transaction.put(key.encode(), data)

    def source() -> Iterator[tuple[str, Sample]]:
        path = str(tmp_path / "lmdb")
        with lmdb.open(path, readonly=True) as env, env.begin(buffers=True) as transaction:
            for key, view in transaction.cursor():
                yield bytes(key).decode(), {"audio": view}

    Listed(source(), tmp_path / "out").run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert {sample["__key__"]: sample["audio"] for sample in dataset} == clips


@pytest.mark.parametrize("seconds", [0.01, 0.1, 20])
@pytest.mark.parametrize("field", ["audio", "features"])
def test_a_refilled_array_is_refused_by_name(tmp_path: Path, seconds: float, field: str) -> None:
    def source() -> Iterator[tuple[str, Sample]]:
        array = np.zeros(int(16_000 * seconds), np.float32)
        for number in range(3):
            array[:] = number / 10
            yield f"{number}", {field: array, "sample_rate": 16_000}

    with pytest.raises(SourceError, match=f"sample '1' has the array of sample '0'.*'{field}'"):
        Listed(source(), tmp_path / "out").run()


def test_an_array_that_stays_the_same_may_be_in_many_samples(tmp_path: Path) -> None:
    speaker, long = np.arange(300.0), np.arange(1000.0)
    items: list[tuple[str, Sample]] = [
        (f"{n}", {"speaker": speaker, "growing": long[:n], "window": long[n : n + 100], "n": [n]})
        for n in range(100)
    ]
    for n, sample in enumerate(sample for _, sample in items):
        sample["faster"] = long[: 100 * (n % 7 + 1) : n % 7 + 1]
        sample["turned"] = long[:900].reshape(30, 30).T if n % 2 else long[:900].reshape(30, 30)
        sample["type"] = speaker.view(np.int64) if n % 2 else speaker
    Listed(items, tmp_path / "out").run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        for key, sample in items:
            stored = dataset[key]
            assert all(np.array_equal(stored[name], sample[name]) for name in sample), key


def test_new_arrays_at_a_freed_address_are_not_taken_for_refilled(
    tmp_path: Path,
) -> None:
    def source() -> Iterator[tuple[str, Sample]]:
        for number in range(300):
            yield f"{number:03d}", {"array": np.full(5000, number)}

    Listed(source(), tmp_path / "out", num_workers=1).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert [int(sample["array"][0]) for sample in dataset] == list(range(300))
