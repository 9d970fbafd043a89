"""Where the work of a conversion is done, and what processors meet there."""

from __future__ import annotations

import operator
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiomdb.converters._sent_once import SentOnce
from audiomdb.errors import (
    ProcessingError,
)
from audiomdb.machine import usable_cores
from audiomdb.processors.base import BaseProcessor, Processors
from audiomdb.sample import Sample
from audiomdb.shards import DatasetReader
from audiomdb.shards.codec import encode_record
from tests.core.conversions import Listed, digests, frames, rejections, samples


@pytest.mark.parametrize("processor", [None, frames(keep_original=True)], ids=["raw", "processed"])
def test_shards_are_the_same_bytes_however_the_work_is_done(
    tmp_path: Path, processor: BaseProcessor | None
) -> None:
    source = samples(150)
    options: dict[str, Any] = {"samples_per_shard": 60, "processor": processor}
    for workers in (1, 2, 5):
        Listed(source, tmp_path / str(workers) / "set", num_workers=workers, **options).run()
    with ThreadPoolExecutor(3) as threads:
        Listed(source, tmp_path / "threads" / "set", executor=threads, **options).run()
        assert threads.submit(operator.add, 1, 1).result() == 2  # not shut down
    first, *others = (digests(folder) for folder in sorted(tmp_path.iterdir()))
    assert len(others) == 3
    assert all(other == first for other in others)


def test_a_record_travels_with_its_arrays() -> None:
    record = encode_record("a", {"array": np.arange(10_000), "bytes": bytes(10_000)})
    again = pickle.loads(pickle.dumps(record))
    assert again == record
    assert any(isinstance(payload, memoryview) for payload in record.payloads)


def test_work_goes_to_a_pool_of_processes_that_the_caller_owns(tmp_path: Path) -> None:
    import loky

    pool = loky.ProcessPoolExecutor(2)
    try:
        Listed(samples(10), tmp_path / "a" / "set", processor=frames(), executor=pool).run()
        assert pool.submit(operator.add, 1, 1).result() == 2
    finally:
        pool.shutdown(kill_workers=True)
    Listed(samples(10), tmp_path / "b" / "set", processor=frames(), num_workers=1).run()
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_the_workers_of_an_executor_make_a_processor_once(tmp_path: Path) -> None:
    import loky

    made = tmp_path / "made"
    made.mkdir()

    class Tokenizer(BaseProcessor):
        def __setstate__(self, state: dict[str, Any]) -> None:
            import tempfile

            vars(self).update(state)
            tempfile.mkdtemp(dir=made)

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {"letters": len(sample["text"])}

    pool = loky.ProcessPoolExecutor(1)
    try:
        Listed(samples(200), tmp_path / "a" / "set", processor=Tokenizer(), executor=pool).run()
    finally:
        pool.shutdown(kill_workers=True)
    assert len(list(made.iterdir())) == 1
    Listed(samples(200), tmp_path / "b" / "set", processor=Tokenizer(), num_workers=1).run()
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_the_next_conversion_in_an_executor_has_its_own_processor(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for size in (40, 80):
            processor = frames(size)
            out = tmp_path / f"{size}"
            Listed(samples(3), out, processor=processor, executor=pool).run()
            assert DatasetReader.open(out)[0]["feature"].shape[1] == size


def test_a_processor_that_fails_to_unpickle_in_an_executor_ends_the_run(tmp_path: Path) -> None:
    class Lost(BaseProcessor):
        def __setstate__(self, state: dict[str, Any]) -> None:
            raise AttributeError("not to be found here")

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return sample

    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(ProcessingError, match="unpickled by this worker: AttributeError: not to be"),
    ):
        Listed(samples(3), tmp_path, processor=Lost(), executor=pool, on_error="skip").run()


def test_the_threads_of_a_worker_share_no_processor() -> None:
    class Which(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            return {"which": id(self)}

    arrived = pickle.loads(pickle.dumps(SentOnce(Processors(Which()))))
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        pools = (one, other, one, other)
        a, b, *again = (pool.submit(arrived, {"text": ""}).result()["which"] for pool in pools)
    assert a != b
    assert again == [a, b]


def test_views_of_bytes_reach_the_processes_of_any_pool(tmp_path: Path) -> None:
    items = [
        (key, {"audio": memoryview(sample["audio"]), "parts": [memoryview(sample["audio"])[9:]]})
        for key, sample in samples(3)
    ]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        Listed(items, tmp_path / "out", executor=pool).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        for key, sample in items:
            assert dataset[key]["audio"] == sample["audio"]
            assert dataset[key]["parts"] == sample["parts"]


def test_a_damaged_file_is_rejected_where_only_the_workers_see_the_files(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    items = [(f"{key}.wav", {"audio": f"{key}.wav"}) for key, _ in samples(5)]
    for name, (_, sample) in zip([name for name, _ in items], samples(5), strict=True):
        (tmp_path / "theirs" / name).write_bytes(sample["audio"])
    (tmp_path / "theirs" / items[3][0]).write_bytes(b"damaged")
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=os.chdir, initargs=(tmp_path / "theirs",)
    ) as pool:
        report = Listed(items, tmp_path / "out", executor=pool, on_error="skip").run()
    assert (report.samples, report.rejected) == (4, 1)


def test_work_runs_in_threads_or_with_a_processor_in_processes(
    tmp_path: Path,
) -> None:
    class Where(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            import os

            return {"pid": os.getpid(), "parent": os.getppid()}

    seen = {}
    for workers in (1, 2):
        out = tmp_path / str(workers)
        Listed(samples(3), out, processor=Where(), num_workers=workers).run()
        with DatasetReader.open(out) as dataset:
            seen[workers] = dataset[0]
    assert seen[1]["pid"] == os.getpid()
    assert seen[2]["pid"] != os.getpid()
    assert seen[2]["parent"] == os.getpid()


def test_worker_processes_share_the_cores_among_their_inner_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Threads(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            import os

            return {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    Listed(samples(1), tmp_path / "out", processor=Threads(), num_workers=2).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        sample = dataset[0]
    assert int(sample["OMP_NUM_THREADS"]) == max(1, usable_cores() // 2)
    assert sample["MKL_NUM_THREADS"] == "7"  # the user's word stands


def test_a_worker_that_loads_a_large_model_is_not_started_anew(tmp_path: Path) -> None:
    """loky would take it for a leak, if memory has grown by 300 MB when a batch is done."""

    class Model(BaseProcessor):
        seen = 0
        weights: np.ndarray | None = None

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:  # noqa: ARG002
            if not self.seen:
                (tmp_path / "pids" / str(os.getpid())).touch()
            self.seen += 1
            if self.seen > 100 and self.weights is None:
                self.weights = np.ones(5 << 23)
            # A processor that takes its time: loky looks once in a second.
            threading.Event().wait(0.01)
            return {"weight": 1.0}

    (tmp_path / "pids").mkdir()
    Listed(samples(450), tmp_path / "out", processor=Model(), num_workers=2).run()
    assert len(list((tmp_path / "pids").iterdir())) == 2


def test_several_processors_are_merged_and_named_in_metadata(tmp_path: Path) -> None:
    both = [frames(40), frames(40, keep_original=True)]
    Listed(samples(3), tmp_path / "out", processor=both).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset.metadata.processors == (
            "Frames(keep_original=False, size=40)",
            "Frames(keep_original=True, size=40)",
        )
        sample = dataset[0]
    assert sample["feature"].shape == (20, 40)
    assert sample["text"] == "number 0"


def test_the_rate_of_the_conversion_reaches_processors(tmp_path: Path) -> None:
    Listed(samples(2), tmp_path / "out", processor=frames(), sample_rate=16000).run()
    with DatasetReader.open(tmp_path / "out") as dataset:
        assert dataset[0]["feature"].shape == (20, 80)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_processor_is_reported_with_key_and_cause(tmp_path: Path, workers: int) -> None:
    class Fails(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            return {"digit": int(sample["text"][-1]), "label": {"number 1": 1}[sample["text"]]}

    options: dict[str, Any] = {"processor": Fails(), "num_workers": workers}
    with pytest.raises(ProcessingError, match="sample 'clip-0000': KeyError: 'number 0'"):
        Listed(samples(3), tmp_path / "raise", **options).run()
    report = Listed(samples(3), tmp_path / "skip", on_error="skip", **options).run()
    assert (report.samples, report.rejected) == (1, 2)
    assert rejections(tmp_path / "skip")[1]["reason"] == "sample 'clip-0002': KeyError: 'number 2'"


def test_a_processor_that_cannot_travel_is_named_with_a_way_out(tmp_path: Path) -> None:
    class Locked(BaseProcessor):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            with self.lock:
                return {"text": sample["text"]}

    with pytest.raises(ProcessingError, match=r"Locked\(.*cannot be sent.*num_workers=1"):
        Listed(samples(2), tmp_path / "out", processor=Locked(), num_workers=2).run()
    assert (
        Listed(samples(2), tmp_path / "out", processor=Locked(), num_workers=1).run().samples == 2
    )


def test_a_worker_that_is_killed_is_explained(tmp_path: Path) -> None:
    class Killed(BaseProcessor):
        def process(self, sample: Sample, **_: Any) -> dict[str, Any]:
            import os
            import signal

            if sample["text"] == "number 7":
                os.kill(os.getpid(), signal.SIGKILL)
            return dict(sample)

    with pytest.raises(ProcessingError, match=r"Killed\(.*memory has most likely run out"):
        Listed(samples(100), tmp_path / "out", processor=Killed(), num_workers=2).run()
