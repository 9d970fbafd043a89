"""Frameworks that deal out data among processes themselves: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import NUMBERED, write_numbered

STEPS = 12
"""Steps in a pass by seconds; an epoch has about 18."""

PROGRAM = Path(__file__).parent / "programs" / "frameworks.py"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "clips"
    return write_numbered(path, lambda i: np.full(80, i / 64, np.float32))


def run(framework: str, dataset: Path, out: Path) -> dict[str, Counter[int]]:
    """How often each sample came to one of two processes, for each way to load it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(PROGRAM), framework, str(dataset), str(out)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return {name: Counter(ranks[0][name]) + Counter(ranks[1][name]) for name in ranks[0]}


def test_accelerate_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    found = run("accelerate", dataset, tmp_path)
    assert len(found) == 6
    exact = found.pop("StreamingLoader")
    assert exact == Counter(range(NUMBERED))
    for name, counts in found.items():
        # Accelerate fills up the last batch, or batches, by repeating the first samples.
        assert set(counts) == set(range(NUMBERED)), name
        assert sum(counts.values()) <= 48, name


def test_the_transformers_trainer_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    found = run("transformers", dataset, tmp_path)
    assert found.pop("StreamingLoader") == Counter(2 * [*range(NUMBERED)])
    (plain,) = found.values()
    assert set(plain) == set(range(NUMBERED))
    assert min(plain.values()) >= 2


class _Seen(torch.nn.Module):
    """A model that notes the batches it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.batches: list[list[int]] = []

    def forward(self, number: torch.Tensor) -> dict[str, torch.Tensor]:
        self.batches.append(number.tolist())
        return {"loss": self.layer(number[:, None].float()).square().mean()}


def _numbers(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {"number": torch.tensor([sample["number"] for sample in samples])}


def _by_number(clips: StreamingDataset, **how: Any) -> StreamingLoader:
    return StreamingLoader(clips, batch_size=8, collate_fn=_numbers, **how)


def _by_seconds(clips: StreamingDataset) -> StreamingLoader:
    """Passes of so many steps, as epochs have different numbers of them."""
    how: dict[str, Any] = {"max_batch_seconds": 0.15, "num_buckets": 3, "collate_fn": _numbers}
    lengths = StreamingLoader(clips, **how)
    assert lengths.padding_report(0).steps != lengths.padding_report(1).steps
    return StreamingLoader(clips, steps_per_pass=STEPS, **how)


def _trained(
    dataset: Path,
    out: Path,
    resume: Path | None = None,
    *,
    make: Callable[[StreamingDataset], StreamingLoader] = _by_number,
    **how: Any,
) -> list[list[int]]:
    """Train with the Trainer, with the loader's state beside its checkpoints."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clips = StreamingDataset(LocalRetriever(dataset), shuffle=True, fields=["number"])
    loader = make(clips)

    class LoaderTrainer(Trainer):
        def get_train_dataloader(self) -> Any:
            return loader

    class LoaderState(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ARG002
            text = json.dumps(others["train_dataloader"].state_dict())
            (out / f"checkpoint-{state.global_step}" / "loader.json").write_text(text)

        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ARG002
            if resume is not None:
                state = json.loads((resume / "loader.json").read_text())
                others["train_dataloader"].load_state_dict(state)

    arguments = TrainingArguments(
        str(out),
        save_steps=1,
        ignore_data_skip=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"num_train_epochs": 2, **how},
    )
    model = _Seen()
    trainer = LoaderTrainer(model, arguments, callbacks=[LoaderState()])
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model.batches


def test_the_transformers_trainer_resumes_at_the_next_step(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    whole = _trained(dataset, tmp_path / "whole")
    assert len(whole) == 2 * (NUMBERED // 8)
    for steps in (3, 5):  # within an epoch, and between two
        checkpoint = tmp_path / "whole" / f"checkpoint-{steps}"
        assert _trained(dataset, tmp_path / f"from_{steps}", checkpoint) == whole[steps:]


def test_the_transformers_trainer_resumes_in_a_later_epoch_of_a_pass_without_end(
    dataset: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    how: dict[str, Any] = {"make": partial(_by_number, epochs=None), "max_steps": 12}
    whole = _trained(dataset, tmp_path / "whole", **how)
    assert len(whole) == 12
    checkpoint = tmp_path / "whole" / "checkpoint-8"
    assert _trained(dataset, tmp_path / "later", checkpoint, **how) == whole[8:]


def test_the_transformers_trainer_resumes_passes_by_seconds(varied: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    how: dict[str, Any] = {"make": _by_seconds, "num_train_epochs": 4}
    whole = _trained(varied, tmp_path / "whole", **how)
    assert len(whole) == 4 * STEPS
    for steps in (STEPS - 2, STEPS, 3 * STEPS - 1, 3 * STEPS + 1):
        checkpoint = tmp_path / "whole" / f"checkpoint-{steps}"
        assert _trained(varied, tmp_path / f"from_{steps}", checkpoint, **how) == whole[steps:]


def test_skipping_batches_by_accelerate_is_refused_with_the_way_to_resume(dataset: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    loader = StreamingLoader(StreamingDataset(LocalRetriever(dataset)), batch_size=8)
    with pytest.raises(AttributeError, match="ignore_data_skip=True"):
        accelerate.skip_first_batches(loader, 3)
    assert not hasattr(loader, "drop_last")  # whoever looks for a DataLoader's finds none


def test_lightning_loses_nothing(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    found = run("lightning", dataset, tmp_path)
    assert len(found) == 5
    for name, counts in found.items():
        assert counts == Counter(2 * [*range(NUMBERED)]), name
