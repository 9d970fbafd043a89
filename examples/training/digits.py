"""A recogniser of spoken digits, trained from a stream. Stopped, it goes on with the next step.

    torchrun --standalone --nproc-per-node 2 digits.py s3://bucket/digits --checkpoint digits.pt

Run again after a crash, on as many processes or on others, it goes on from its last checkpoint:
each sample of each epoch is trained on once, counted from checkpoint to checkpoint. The dataset is
one that convert_digits.py wrote; README.md says how to put it on a server.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.registry import retriever_for

SAMPLE_RATE = 8000
HOP = 80  # a feature frame each 10 ms
WINDOW = 200
FFT = 256
MEL_BINS = 40
HELD_OUT_TAKES = 5

Batch: TypeAlias = dict[str, Any]


class LogMel(nn.Module):
    """Log-mel features, `(batch, MEL_BINS, frames)`, each clip brought to mean 0 and variance 1."""

    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        highest_mel = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
        edges = 700 * (10 ** (torch.linspace(0, highest_mel, MEL_BINS + 2) / 2595) - 1)
        hertz = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
        rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
        self.register_buffer("filters", torch.minimum(rising, falling).clamp(min=0))
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features of `(batch, samples)`, and how many frames are each clip's own."""
        power = audio.square().sum(1, keepdim=True) / lengths[:, None]
        audio = audio / (power + 1e-10).sqrt()
        spectrum = torch.stft(audio, FFT, HOP, WINDOW, self.window, return_complex=True)
        mel = (spectrum.abs().square().transpose(1, 2) @ self.filters + 0.1).log()
        frames = lengths // HOP + 1
        inside = (torch.arange(mel.shape[1], device=mel.device) < frames[:, None])[..., None]
        values = (frames * MEL_BINS)[:, None, None]
        centred = mel - (mel * inside).sum((1, 2), keepdim=True) / values
        variance = (centred.square() * inside).sum((1, 2), keepdim=True) / values
        # Behind a clip's end there is nothing, however long the clips are that it is padded to.
        return (centred / variance.sqrt() * inside).transpose(1, 2), frames


class FrameNorm(nn.LayerNorm):
    """Normalises the channels of each frame by themselves.

    Over a batch, or over time, padding would count too: what becomes of a clip would depend on the
    clips beside it.
    """

    def forward(self, frames: Tensor) -> Tensor:
        """Take and give `(batch, channels, frames)`."""
        return super().forward(frames.transpose(1, 2)).transpose(1, 2)


class Recogniser(nn.Module):
    """Three convolutions over time, then an average over each quarter of the clip."""

    def __init__(self, width: int = 64, quarters: int = 4) -> None:
        super().__init__()
        self.features = LogMel()
        self.body = nn.Sequential(
            *self._block(MEL_BINS, width, stride=1),
            *self._block(width, width, stride=2),
            *self._block(width, 2 * width, stride=2),
        )
        self.quarters = quarters
        self.out = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * width * quarters, 10))

    @staticmethod
    def _block(channels: int, width: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv1d(channels, width, 5, stride, padding=2)
        return [convolution, FrameNorm(width), nn.ReLU()]

    def forward(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Scores of the ten digits, `(batch, 10)`, of clips `(batch, samples)`."""
        features, frames = self.features(audio, lengths)
        if self.training:
            features = hide_a_band(features)
        found = self.body(features)
        places = torch.arange(found.shape[2], device=found.device) + 0.5
        at = (places / ((frames - 1) // 4 + 1)[:, None])[:, None]  # 0 to 1 within the clip
        centres = (torch.arange(self.quarters, device=at.device) + 0.5)[:, None] / self.quarters
        weights = (1 - (at - centres).abs() * self.quarters).clamp(min=0) * (at < 1) + 1e-9
        weights = weights / weights.sum(2, keepdim=True)
        averages = torch.einsum("bct,bqt->bcq", found, weights)
        result: Tensor = self.out(averages.flatten(1))
        return result


def hide_a_band(features: Tensor) -> Tensor:
    """Put zeros for up to six neighbouring bins, others in each clip."""
    first = torch.randint(0, MEL_BINS - 6, (len(features), 1))
    last = first + torch.randint(0, 7, (len(features), 1))
    bins = torch.arange(MEL_BINS)
    hidden = (bins >= first) & (bins < last)
    return features.masked_fill(hidden.to(features.device)[..., None], 0)


def disturb(audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Change a batch's speed by up to 15 %, and add some noise."""
    speed = 0.85 + 0.3 * float(torch.rand(()))
    audio = functional.interpolate(audio[:, None], scale_factor=1 / speed, mode="linear")[:, 0]
    lengths = (lengths / speed).long().clamp(1, audio.shape[1])
    level = (audio.square().sum(1, keepdim=True) / lengths[:, None]).sqrt()
    noise = torch.randn_like(audio) * torch.rand(len(audio), 1)
    return audio + 0.1 * level * noise, lengths


def steps_of(loader: StreamingLoader) -> Iterator[list[Batch]]:
    """This process's batches of each step. Two processes have one each, one process has both."""
    batches = iter(loader)
    while step := list(islice(batches, loader.batches_per_step)):
        yield step


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Keep gradients in this process for now."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], seed: int
) -> float:
    """Learn from one step: from the same samples in the same way, whatever the processes."""
    # The mean is over what counts in all processes together, and DistributedDataParallel averages
    # gradients over processes.
    clips = torch.tensor(float(sum(batch["__mask__"].sum() for batch in batches)))
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    if world_size > 1:
        dist.all_reduce(clips)
    optimizer.zero_grad()
    total = torch.zeros(())
    for number, batch in enumerate(batches):
        torch.manual_seed(seed + rank * len(batches) + number)
        # Gradients travel with the last batch of a step.
        more = number + 1 < len(batches)
        with no_sync(model) if more else nullcontext():
            logits = model(*disturb(batch["audio"], batch["audio_lengths"]))
            losses = functional.cross_entropy(logits, batch["digit"], reduction="none")
            loss = (losses * batch["__mask__"]).sum() / clips
            (loss * world_size).backward()
        total += loss.detach()
    optimizer.step()
    if world_size > 1:
        dist.all_reduce(total)
    return float(total)


@torch.inference_mode()
def accuracy(model: nn.Module, loader: StreamingLoader) -> float:
    """The share of digits that are recognised, in per cent, over all processes."""
    model.eval()
    right_of = torch.zeros(2)
    for batch in loader:
        right = model(batch["audio"], batch["audio_lengths"]).argmax(1) == batch["digit"]
        right_of += torch.stack([(right & batch["__mask__"]).sum(), batch["__mask__"].sum()])
    model.train()
    if dist.is_initialized():
        dist.all_reduce(right_of)
    return float(100 * right_of[0] / right_of[1])


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that there is a whole one at any moment."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def note(folder: Path | None, rank: int, step: int, epoch: int, batches: list[Batch]) -> None:
    """Write down which samples a step had."""
    if folder is None:
        return
    keys = [
        key
        for batch in batches
        for key, counts in zip(batch["__key__"], batch["__mask__"].tolist(), strict=True)
        if counts
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"rank-{rank}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "epoch": epoch, "keys": keys}) + "\n")


def train(args: argparse.Namespace, rank: int, world_size: int) -> None:
    """Train from the last checkpoint on, or from the start."""
    cache = {"cache_dir": args.cache_dir, "max_cache_bytes": args.max_cache_bytes}
    retriever = retriever_for(args.dataset, **cache)
    loader = StreamingLoader(
        StreamingDataset(
            retriever,
            shuffle=True,
            seed=args.seed,
            sample_rate=SAMPLE_RATE,
            mono=True,
            where=lambda index: index["take"] >= HELD_OUT_TAKES,
        ),
        max_batch_seconds=args.max_batch_seconds,
        num_buckets=4,
    )
    held_out = StreamingLoader(
        StreamingDataset(
            retriever,
            sample_rate=SAMPLE_RATE,
            mono=True,
            where=lambda index: index["take"] < HELD_OUT_TAKES,
        ),
        max_batch_seconds=60,
        num_buckets=4,
    )
    torch.manual_seed(args.seed)
    recogniser = Recogniser()
    optimizer = torch.optim.AdamW(recogniser.parameters(), args.learning_rate)
    step = 0
    if args.checkpoint.exists():
        checkpoint = torch.load(args.checkpoint, weights_only=True)
        recogniser.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        loader.load_state_dict(checkpoint["loader"])
        step = checkpoint["step"]
        if rank == 0:
            print(f"going on from step {step} on {world_size} process(es)", flush=True)
    model: nn.Module = recogniser if world_size == 1 else DistributedDataParallel(recogniser)

    for epoch in range(loader.state_dict()["epoch"], args.epochs):
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * (1 - epoch / args.epochs)
        for batches in steps_of(loader):
            loss = train_step(model, optimizer, batches, seed=(args.seed << 32) + step * 1024)
            note(args.note_keys, rank, step, epoch, batches)
            step += 1
            if rank == 0 and step % args.save_every == 0:
                state = {
                    "model": recogniser.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                    "step": step,
                }
                save(args.checkpoint, state)
            if rank == 0 and step % 10 == 0:
                print(f"step {step}: loss {loss:.3f}", flush=True)
        right = accuracy(recogniser, held_out)
        if rank == 0:
            print(f"epoch {epoch}: {right:.1f} % of the held out digits are right", flush=True)


def main() -> None:
    """Train as the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="URL or folder of a dataset that convert_digits.py wrote")
    parser.add_argument("--checkpoint", type=Path, required=True, help="file to go on from")
    parser.add_argument("--save-every", type=int, default=20, help="in steps (%(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--max-batch-seconds", type=float, default=4, help="of each process's batch (%(default)s)"
    )
    parser.add_argument("--cache-dir", help="for shards (the user's cache directory)")
    parser.add_argument("--max-cache-bytes", type=int, help="limit of the cache (the disk's)")
    parser.add_argument("--note-keys", type=Path, help="folder in which to note what each step had")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        dist.init_process_group("gloo")
    train(args, rank, world_size)
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
