"""Trains a Whisper model with the trainer of transformers, on shards that are streamed.

    python whisper_finetune.py digits
    torchrun --standalone --nproc-per-node 2 whisper_finetune.py digits

The model is small and starts from random weights, and tokens are single bytes, so that nothing has
to be downloaded. For a published model, replace `small_whisper` by three calls of `from_pretrained`
(of WhisperForConditionalGeneration, WhisperFeatureExtractor and WhisperTokenizer).

The dataset is any with audio and text, such as what convert_digits.py writes. Features are computed
while it is read, in the loader's worker processes.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    set_seed,
)

from audiomdb.data.base import StreamingDataset
from audiomdb.data.loader import StreamingLoader
from audiomdb.processors.whisper import WhisperCollator, WhisperProcessor
from audiomdb.registry import retriever_for

MARKERS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|translate|>"]
MARKERS += ["<|notimestamps|>"]


def small_whisper(
    seconds: int, longest_text: int
) -> tuple[WhisperForConditionalGeneration, WhisperFeatureExtractor, WhisperTokenizer]:
    """A model of 0.3 million weights, and what belongs to it.

    Published models see 30 s at a time. This one sees less, which is so much faster.
    """
    vocabulary = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), *MARKERS])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], language="en", task="transcribe")
    extractor = WhisperFeatureExtractor(chunk_length=seconds)  # type: ignore[no-untyped-call]
    end = vocabulary["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        num_mel_bins=extractor.feature_size,
        max_source_positions=extractor.nb_max_frames // 2,
        max_target_positions=longest_text,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        decoder_start_token_id=vocabulary["<|startoftranscript|>"],
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return WhisperForConditionalGeneration(config), extractor, tokenizer


class StreamingTrainer(Seq2SeqTrainer):
    """A trainer whose batches come from a loader that has shared them out already.

    Over an iterable dataset the trainer makes a DataLoader of its own, and Accelerate lets one
    process read all of it and hand the others their parts. A `StreamingLoader` it leaves alone:
    each process reads its share of every step, by its rank in torch.distributed, and nothing else.

    Whoever wants the trainer's own DataLoader gives it `StreamingDataset(..., rank=0,
    world_size=1)`: then the dataset does not split, and Accelerate does.
    """

    def __init__(self, *, loader: StreamingLoader, **options: Any) -> None:  # noqa: ANN401
        super().__init__(train_dataset=loader.dataset, **options)
        self.loader = loader

    def get_train_dataloader(self) -> Any:  # noqa: ANN401 (the trainer expects a DataLoader)
        """The loader as it is."""
        return self.loader


def main() -> None:
    """Train as the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="URL or folder of a dataset with audio and text")
    parser.add_argument("--steps", type=int, default=60, help="(%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="samples of a step, over all processes"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--seconds", type=int, default=3, help="what the model sees; clips are not longer"
    )
    parser.add_argument(
        "--output", default="whisper-digits", help="folder for the trained model (%(default)s)"
    )
    parser.add_argument("--cache-dir", help="for shards (the user's cache directory)")
    parser.add_argument("--max-cache-bytes", type=int, help="limit of the cache (the disk's)")
    args = parser.parse_args()

    set_seed(args.seed)
    model, extractor, tokenizer = small_whisper(args.seconds, longest_text=64)
    arguments = Seq2SeqTrainingArguments(
        args.output,
        max_steps=args.steps,
        learning_rate=args.learning_rate,
        warmup_steps=5,
        logging_steps=5,
        seed=args.seed,
        use_cpu=True,
        ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
        ddp_find_unused_parameters=False,
        # Whisper's loss is a mean over the tokens of one process, whatever the trainer asks for;
        # the trainer would multiply it by the number of processes.
        average_tokens_across_devices=False,
        remove_unused_columns=False,  # columns are the collator's business
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    cache = {"cache_dir": args.cache_dir, "max_cache_bytes": args.max_cache_bytes}
    dataset = StreamingDataset(
        retriever_for(args.dataset, **cache),
        shuffle=True,
        seed=args.seed,
        processor=WhisperProcessor(extractor, tokenizer, max_label_tokens=64),
        decode=False,  # the processor decodes, and resamples to the model's rate
        fields=["audio", "text", "sample_rate"],
    )
    with StreamingLoader(
        dataset,
        batch_size=args.batch_size,
        collate_fn=WhisperCollator(model.config.decoder_start_token_id),
    ) as loader:
        trainer = StreamingTrainer(loader=loader, model=model, args=arguments)
        trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
