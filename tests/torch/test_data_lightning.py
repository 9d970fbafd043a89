"""Lightning over batches by seconds: passes of one length, each validated, and exact resuming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever
from tests.torch.clips import NUMBERED

lightning = pytest.importorskip("pytorch_lightning")

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning_fabric")

STEPS, PASSES = 12, 4
"""Steps in a pass; an epoch has about 18."""


@pytest.fixture(scope="module")
def clips(varied: Path) -> StreamingDataset:
    return StreamingDataset(LocalRetriever(varied), shuffle=True, fields=["number"])


def numbers(samples: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    return torch.tensor([sample["number"] for sample in samples])


def by_seconds(clips: StreamingDataset, **how: Any) -> StreamingLoader:
    return StreamingLoader(clips, max_batch_seconds=0.15, num_buckets=3, collate_fn=numbers, **how)


class Run(NamedTuple):
    """What a run was trained on, after how many steps it validated, and its last learning rate."""

    batches: list[list[int]]
    validated: list[int]
    rate: float


def fitted(clips: StreamingDataset, out: Path, given: Path | None = None) -> Run:
    """Train, with a checkpoint after every third step and after every pass."""
    from pytorch_lightning.callbacks import ModelCheckpoint

    run = Run([], [], 0.0)

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            run.batches.append(batch.tolist())
            loss: torch.Tensor = self.layer(batch[:, None].float()).square().mean()
            return loss

        def validation_step(self, _: Any) -> None:
            run.validated.append(self.global_step)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 1.0)
            halved = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": halved}}

    trainer = lightning.Trainer(
        default_root_dir=out,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=PASSES,
        callbacks=[
            ModelCheckpoint(out, "within-{step}", every_n_train_steps=3, save_top_k=-1),
            ModelCheckpoint(out, "after-{step}", save_on_train_epoch_end=True, save_top_k=-1),
        ],
    )
    validation = StreamingLoader(clips, NUMBERED, collate_fn=numbers)
    training = by_seconds(clips, steps_per_pass=STEPS)
    trainer.fit(Module(), training, validation, ckpt_path=given, weights_only=False)
    (optimizer,) = trainer.optimizers
    return run._replace(rate=optimizer.param_groups[0]["lr"])


def test_passes_by_seconds_have_one_length_and_resume_within_and_between(
    clips: StreamingDataset, tmp_path: Path
) -> None:
    lengths = by_seconds(clips)
    assert lengths.padding_report(0).steps != lengths.padding_report(1).steps
    endless = islice(by_seconds(clips, epochs=None), PASSES * STEPS)
    expected = [batch.tolist() for batch in endless]
    whole = fitted(clips, tmp_path)
    assert whole.batches == expected
    assert whole.validated == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert whole.rate == 0.5**PASSES
    for name, steps in [("within", 3), ("within", 21), ("after", STEPS), ("after", 3 * STEPS)]:
        later = fitted(clips, tmp_path / f"from-{steps}", tmp_path / f"{name}-step={steps}.ckpt")
        assert later.batches == expected[steps:]
        assert later.validated == [at for at in whole.validated if at > steps]
        assert later.rate == whole.rate
