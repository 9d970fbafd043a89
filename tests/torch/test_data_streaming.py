"""The dataset under torch's DataLoader: every sample once, whatever the processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from audiomdb.audio import encode
from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.errors import PlanError, UnknownSchemeError
from audiomdb.retrievers.local import LocalRetriever
from audiomdb.sample import Sample
from audiomdb.shards import DatasetWriter
from tests.torch.clips import keys

CLIPS = 70
NAMES = [f"clip-{i:02d}" for i in range(CLIPS)]

START_METHODS = pytest.mark.parametrize(
    ("start_method", "persistent"), [("fork", True), ("spawn", True), ("forkserver", False)]
)


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> LocalRetriever:
    path = tmp_path_factory.mktemp("data") / "clips"
    with DatasetWriter(path, samples_per_shard=20) as writer:
        for i, name in enumerate(NAMES):
            audio = np.full(50 + 3 * i, (i - 35) / 64, np.float32)
            writer.write(name, {"audio": encode(audio, 8000), "text": name, "note": None})
    return LocalRetriever(path)


def test_the_readmes_loop_runs_as_typed(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, num_threads=4)
    dataloader = DataLoader(dataset, batch_size=32, num_workers=2)
    met: Counter[str] = Counter()
    for batch in dataloader:
        size = len(batch["text"])
        assert batch["audio"].shape == (size, int(batch["audio_lengths"].max()))
        assert batch["audio"].is_shared()
        assert batch["sample_rate"].tolist() == [8000] * size
        assert batch["note"] == [None] * size
        for i, name in enumerate(batch["text"]):
            number = NAMES.index(name)
            length = 50 + 3 * number
            assert batch["audio_lengths"][i] == length
            assert torch.all(batch["audio"][i, :length] == (number - 35) / 64)
            assert torch.all(batch["audio"][i, length:] == 0)
        met.update(batch["__key__"])
    assert met == Counter(NAMES)


def test_a_url_a_folder_and_a_reader_serve_as_the_retriever(retriever: LocalRetriever) -> None:
    path = retriever.path
    for source in (str(path), path, path.as_uri(), retriever.open()):
        dataset = StreamingDataset(source)
        assert keys(DataLoader(dataset, batch_size=32, num_workers=2)) == keys(
            DataLoader(StreamingDataset(retriever), batch_size=32, num_workers=2)
        )
    with pytest.raises(UnknownSchemeError, match=r"reads gopher:// URLs"):
        StreamingDataset("gopher://host/speech")


def test_a_loader_without_workers_gives_the_same_samples(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever)
    assert keys(DataLoader(dataset, batch_size=32)) == NAMES
    assert [sample["__key__"] for sample in dataset] == NAMES


@START_METHODS
def test_every_pass_has_every_sample_once_in_a_new_order(
    retriever: LocalRetriever, start_method: str, persistent: bool
) -> None:
    dataset = StreamingDataset(retriever, 2, shuffle=True)
    loader = DataLoader(
        dataset,
        batch_size=8,
        num_workers=2,
        multiprocessing_context=start_method,
        persistent_workers=persistent,
    )
    orders = [keys(loader) for _ in range(2)]
    assert all(sorted(order) == NAMES for order in orders)
    assert orders[0] != orders[1]
    expected = StreamingDataset(retriever, shuffle=True)
    expected.set_epoch(1)
    # Two workers take turns within the rank's order: batches differ, samples do not.
    alone = [sample["__key__"] for sample in expected]
    of_first_worker = [key for batch in _batches(orders[1])[0::2] for key in batch]
    assert of_first_worker[:30] == alone[0::2][:30]


def _batches(names: list[str]) -> list[list[str]]:
    return [names[i : i + 8] for i in range(0, 64, 8)]


def test_an_early_break_begins_a_new_epoch_and_leaves_no_process(
    retriever: LocalRetriever,
) -> None:
    dataset = StreamingDataset(retriever, shuffle=True)
    for persistent in (False, True):
        loader = DataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=persistent)
        firsts = []
        for _ in range(3):
            for batch in loader:
                firsts.append(tuple(batch["__key__"]))
                break
        assert len(set(firsts)) == 3
        assert sorted(keys(loader)) == NAMES
        del loader
    assert multiprocessing.active_children() == []


def test_descriptors_do_not_grow_from_pass_to_pass(retriever: LocalRetriever) -> None:
    def descriptors() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    loader = DataLoader(StreamingDataset(retriever, 2, shuffle=True), batch_size=8, num_workers=2)
    keys(loader)
    before = descriptors()
    passes = 6
    for _ in range(passes):
        keys(loader)
    # torch's queues close theirs a little later; a leak would be one a pass and worker at least.
    gc.collect()
    assert descriptors() < before + passes


def test_set_epoch_reaches_the_workers(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, shuffle=True)
    loader = DataLoader(dataset, batch_size=8, num_workers=2, persistent_workers=True)
    orders = [keys(loader) for _ in range(3)]
    dataset.set_epoch(1)
    assert keys(loader) == orders[1]
    assert keys(loader) == orders[2]


def test_the_length_of_a_dataset_is_that_of_its_rank(retriever: LocalRetriever) -> None:
    def length(**options: Any) -> int:
        return len(StreamingDataset(retriever, **options))

    assert length() == CLIPS
    assert length(epochs=3) == 3 * CLIPS
    assert [length(rank=rank, world_size=3) for rank in range(3)] == [23, 23, 23]
    uneven = [length(rank=rank, world_size=3, tail="uneven") for rank in range(3)]
    assert uneven in ([24, 23, 23], [23, 24, 23])
    assert length(rank=1, world_size=3, tail="drop") == 23
    assert length(rank=1, world_size=3, tail="pad") == 24
    with pytest.raises(TypeError, match="epochs=None"):
        length(epochs=None)
    # torch warns where more comes than the length says.
    loader = DataLoader(StreamingDataset(retriever), batch_size=8, num_workers=2)
    assert len(loader) == 9
    assert sorted(keys(loader)) == NAMES


def test_samples_are_found_by_position_and_key(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, rank=1, world_size=2)
    assert dataset[3]["__key__"] == NAMES[3]
    assert dataset[NAMES[5]]["audio"].shape == (65,)


def test_whether_a_key_exists_is_asked_without_beginning_a_pass(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, epochs=None)
    before = dataset.state_dict()
    assert NAMES[7] in dataset
    assert "clip-x" not in dataset
    assert dataset[7] not in dataset
    assert dataset.state_dict() == before


def test_arrays_can_become_tensors_without_a_warning(retriever: LocalRetriever) -> None:
    for sample in StreamingDataset(retriever):
        torch.from_numpy(sample["audio"]).mul_(2)
    assert len(list(DataLoader(StreamingDataset(retriever), batch_size=None))) == CLIPS


def count_frames(sample: Sample) -> dict[str, Any]:
    return {"text": sample["text"], "double": np.repeat(sample["audio"], 2)}


def test_processors_run_in_the_workers(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, processor=count_frames)
    (batch,) = DataLoader(dataset, batch_size=CLIPS, num_workers=1)
    assert batch["double_lengths"].tolist() == [2 * (50 + 3 * i) for i in range(CLIPS)]
    assert set(batch) == {"__key__", "text", "double", "double_lengths"}


def test_padded_ranks_mark_what_they_repeat(retriever: LocalRetriever) -> None:
    batches = [
        batch
        for rank in range(3)
        for batch in DataLoader(
            StreamingDataset(retriever, rank=rank, world_size=3, tail="pad"), batch_size=8
        )
    ]
    marks = torch.cat([batch["__mask__"] for batch in batches])
    assert marks.dtype == torch.bool
    assert (len(marks), int(marks.sum())) == (72, CLIPS)


def test_rank_and_world_size_come_from_the_environment(
    retriever: LocalRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = StreamingDataset(retriever)
    met: Counter[str] = Counter()
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert len(dataset) == CLIPS // 2
        met.update(sample["__key__"] for sample in dataset)
    assert met == Counter(NAMES)
    assert len(StreamingDataset(retriever, rank=0, world_size=1)) == CLIPS
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ValueError, match="RANK='first'"):
        iter(dataset)


def test_impossible_options_are_refused_at_once(retriever: LocalRetriever) -> None:
    with pytest.raises(PlanError):
        StreamingDataset(retriever, rank=3, world_size=2)
    with pytest.raises(ValueError, match="give both"):
        StreamingDataset(retriever, rank=3)
    with pytest.raises(ValueError, match="num_threads"):
        StreamingDataset(retriever, -2)


def test_a_dataset_pickles_and_goes_on_where_it_was(retriever: LocalRetriever) -> None:
    dataset = StreamingDataset(retriever, shuffle=True)
    list(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    assert [s["__key__"] for s in copy] == [s["__key__"] for s in dataset]


RANKS = """
    import sys
    import torch.distributed as dist
    import torch.multiprocessing as mp
    from torch.utils.data import DataLoader
    from audiomdb.data.base import StreamingDataset
    from audiomdb.retrievers.local import LocalRetriever

    def train(rank, dataset, store, start_method):
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        loader = DataLoader(
            dataset, batch_size=8, num_workers=1, multiprocessing_context=start_method
        )
        for epoch in range(2):
            mine = [key for batch in loader for key in batch["__key__"]]
            both = [None, None]
            dist.all_gather_object(both, mine)
            if rank == 0:
                print(epoch, *both[0], "|", *both[1], flush=True)
        dist.destroy_process_group()

    if __name__ == "__main__":
        # The ranks are handed one dataset, as launchers do that start functions.
        dataset = StreamingDataset(LocalRetriever(sys.argv[1]), shuffle=True)
        mp.start_processes(train, (dataset, sys.argv[2], sys.argv[3]), 2, start_method="fork")
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_ranks_of_torch_distributed_share_each_epoch(
    retriever: LocalRetriever, tmp_path: Path, start_method: str
) -> None:
    # Workers that are not forked know nothing of the process group, nor is there an environment.
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(RANKS), encoding="utf-8")
    clean = {name: v for name, v in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, str(script), str(retriever.path), str(tmp_path / "store"), start_method],
        capture_output=True,
        text=True,
        timeout=170,
        env=clean,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    epochs = [line.split() for line in done.stdout.splitlines()]
    assert [epoch[0] for epoch in epochs] == ["0", "1"]
    for _, *names in epochs:
        middle = names.index("|")
        assert middle == CLIPS // 2
        assert sorted(names[:middle] + names[middle + 1 :]) == NAMES
    assert epochs[0][1:] != epochs[1][1:]


def test_repr_of_datasets_and_loaders_names_what_they_read(retriever: LocalRetriever) -> None:
    streaming = StreamingDataset(retriever)
    assert repr(streaming) == f"<StreamingDataset of {retriever!r}>"
    assert repr(StreamingLoader(streaming, 4)) == f"<StreamingLoader of {streaming!r}>"


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_lambdas_for_samples_reach_workers(retriever: LocalRetriever, start_method: str) -> None:
    """Forkserver is what Python 3.14 starts workers by."""
    shift = 1
    dataset = StreamingDataset(
        retriever,
        where=lambda columns: columns["frames"] >= 200,
        processor=lambda sample: {"frames": sample["frames"] + shift},
    )
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context=start_method)
    frames = sorted(int(number) for batch in loader for number in batch["frames"])
    assert frames == [50 + 3 * i + shift for i in range(CLIPS) if 50 + 3 * i >= 200]


def test_lambdas_for_batches_and_stalls_reach_workers(retriever: LocalRetriever) -> None:
    how: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": "spawn"}
    dataset = StreamingDataset(
        retriever, batch_size=CLIPS, collate_fn=lambda samples: len(samples), on_stall=lambda _: 0
    )
    assert list(DataLoader(dataset, batch_size=None, **how)) == [CLIPS]
    with StreamingLoader(dataset, collate_fn=lambda samples: -len(samples), **how) as loader:
        assert list(loader) == [-CLIPS]


def test_a_filter_reads_the_index_once_for_all_passes_and_workers(
    retriever: LocalRetriever, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"

    def where(columns: Any) -> Any:
        with calls.open("a", encoding="ascii") as file:
            file.write("called\n")
        return columns["frames"] >= 200

    dataset = StreamingDataset(retriever, shuffle=True, where=where)
    kept = len(dataset)
    assert 0 < kept < CLIPS
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        assert sum(1 for _ in loader) == kept
    assert sum(1 for _ in StreamingLoader(dataset, 1)) == kept
    assert calls.read_text(encoding="ascii") == "called\n"
