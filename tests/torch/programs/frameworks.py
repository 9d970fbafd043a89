"""Trains with a framework in each of torchrun's processes, and writes which samples came.

Arguments: the framework, the dataset's folder, the folder for `rank-0.json` and `rank-1.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.retrievers.local import LocalRetriever

EPOCHS = 2


def numbers(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of tensors alone: what Accelerate sends from process to process has to be."""
    counts = [sample.get("__mask__", True) for sample in samples]
    return {
        "number": torch.tensor([sample["number"] for sample in samples]),
        "counts": torch.tensor(counts),
    }


class Noting(torch.nn.Module):
    """A model that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.met: list[int] = []

    def forward(self, number: torch.Tensor, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        self.met += number[counts].tolist()
        return {"loss": self.layer(number[:, None].float()).pow(2).mean()}


def met_in(batches: Iterable[Mapping[str, torch.Tensor]]) -> list[int]:
    return [one for batch in batches for one in batch["number"][batch["counts"]].tolist()]


Cases = dict[str, Callable[[], list[int]]]


def with_accelerate(dataset: Callable[..., StreamingDataset], _: Path) -> Cases:
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader

    accelerator = Accelerator(cpu=True)

    def plain(**how: Any) -> Any:
        return DataLoader(dataset(), batch_size=4, collate_fn=numbers, **how)

    def apart(**how: Any) -> Any:
        """As `dispatch_batches=False` has it."""
        return prepare_data_loader(
            plain(**how), accelerator.device, put_on_device=True, dispatch_batches=False
        )

    def mapped() -> Any:
        view = dataset().as_map()
        return accelerator.prepare(DataLoader(view, batch_size=4, collate_fn=numbers))

    def own() -> Any:
        loader = StreamingLoader(dataset(), 8, tail="pad", collate_fn=numbers)
        prepared = accelerator.prepare(loader)
        assert prepared is loader
        return prepared

    return {
        "plain, sent by the first process": lambda: met_in(accelerator.prepare(plain())),
        "plain, with workers": lambda: met_in(accelerator.prepare(plain(num_workers=2))),
        "plain, read by all": lambda: met_in(apart()),
        "plain, read by all with workers": lambda: met_in(apart(num_workers=2)),
        "map": lambda: met_in(mapped()),
        "StreamingLoader": lambda: met_in(own()),
    }


def with_trainer(dataset: Callable[..., StreamingDataset], out: Path) -> Cases:
    from transformers import Trainer, TrainingArguments

    def arguments() -> TrainingArguments:
        return TrainingArguments(
            str(out / "trainer"),
            per_device_train_batch_size=4,
            num_train_epochs=EPOCHS,
            use_cpu=True,
            ddp_backend="gloo",
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )

    class StreamingTrainer(Trainer):
        def get_train_dataloader(self) -> Any:
            return StreamingLoader(dataset(), 8, tail="pad", collate_fn=numbers)

    def train(kind: type[Trainer], **how: Any) -> list[int]:
        model = Noting()
        kind(model, arguments(), train_dataset=dataset(), data_collator=numbers, **how).train()
        return model.met

    return {
        "plain, sent by the first process": lambda: train(Trainer),
        "StreamingLoader": lambda: train(StreamingTrainer),
    }


def with_lightning(dataset: Callable[..., StreamingDataset], out: Path) -> Cases:
    import pytorch_lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Noting()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss: torch.Tensor = self.model(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.0)

    def fit(loader: Any, **how: Any) -> list[int]:
        module, given = Module(), how.pop("given", None)
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            strategy="ddp",
            devices=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing="callbacks" in how,
            **{"max_epochs": EPOCHS, **how},
        )
        trainer.fit(module, loader, ckpt_path=given, weights_only=False)
        return module.model.met

    def own() -> StreamingLoader:
        return StreamingLoader(dataset(), 8, tail="pad", collate_fn=numbers)

    def resumed() -> list[int]:
        # Stopped in the middle of the first epoch, and gone on with to the end of the second.
        checkpoints = ModelCheckpoint(out, "lightning", every_n_train_steps=3)
        begun = fit(own(), max_steps=3, max_epochs=-1, callbacks=[checkpoints])
        return begun + fit(own(), given=out / "lightning.ckpt")

    def between_epochs() -> list[int]:
        # A checkpoint from there has no state of the loader.
        checkpoints = ModelCheckpoint(out, "between", save_on_train_epoch_end=True)
        begun = fit(own(), max_epochs=1, callbacks=[checkpoints])
        met = begun + fit(own(), given=out / "between.ckpt")
        assert met == fit(own()), "the second epoch has another order than without a stop"
        return met

    def plain(**how: Any) -> Any:
        return DataLoader(dataset(tail="pad"), batch_size=4, collate_fn=numbers, **how)

    return {
        "plain": lambda: fit(plain()),
        "plain, with workers": lambda: fit(plain(num_workers=2)),
        "StreamingLoader": lambda: fit(own()),
        "StreamingLoader, resumed": resumed,
        "StreamingLoader, resumed between epochs": between_epochs,
    }


def main() -> None:
    framework, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    retriever = LocalRetriever(folder)

    def dataset(**how: Any) -> StreamingDataset:
        return StreamingDataset(retriever, 2, shuffle=True, fields=["number"], **how)

    make = {
        "accelerate": with_accelerate,
        "transformers": with_trainer,
        "lightning": with_lightning,
    }[framework]
    found = {name: case() for name, case in make(dataset, out).items()}
    rank = torch.distributed.get_rank()
    (out / f"rank-{rank}.json").write_text(json.dumps(found))
    # The Trainer leaves it to the end of the process, which gloo's threads may then abort.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
