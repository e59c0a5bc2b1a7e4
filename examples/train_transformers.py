"""Trains a small BERT to label posts with Hugging Face's Trainer.

    python train_transformers.py --steps 10
    python train_transformers.py --steps 20        # goes on from step 10

The loader stands in for the Trainer's own, which would cut batches that are each rank's share already. A callback keeps
the loader's position beside each checkpoint; `ignore_data_skip` tells the Trainer not to read its way there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

import corpusmill
import corpusmill.torch


class Batches:
    """A loader's batches by the names of the model's arguments."""

    def __init__(self, loader: corpusmill.torch.Loader, device: torch.device, seen: Path | None) -> None:
        self.loader, self.device, self.seen = loader, device, seen
        self.consumed = loader.step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self.loader:
            if self.seen is not None:
                with self.seen.open("a") as file:
                    file.write(json.dumps([batch["step"], batch["row_slot"].tolist()]) + "\n")
            yield {
                "input_ids": batch["input_ids"].to(self.device),
                "attention_mask": batch["attention_mask"].to(self.device),
                "labels": batch["label_id"].long().to(self.device),
            }

    def __len__(self) -> int:
        return len(self.loader)


class CorpusTrainer(Trainer):
    """A Trainer that reads from a plan."""

    def __init__(self, plan: corpusmill.Plan, seen: Path | None, **arguments: Any) -> None:
        super().__init__(**arguments, callbacks=[KeepPosition(self)])
        self.loader = corpusmill.torch.Loader(plan, rank=self.args.process_index, world=self.args.world_size)
        self.seen = seen

    def get_train_dataloader(self) -> Batches:
        return Batches(self.loader, self.args.device, self.seen)


class KeepPosition(TrainerCallback):
    """Writes the loader's position beside each checkpoint."""

    def __init__(self, trainer: CorpusTrainer) -> None:
        self.trainer = trainer

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # The Trainer may have fetched more than it has trained on: a step of it is a step of the plan.
            position = self.trainer.loader.state_dict(step=state.global_step)
            (folder / "loader.json").write_text(json.dumps(position))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("corpusmill-data"), help="the --home that corpusmill ran with")
    parser.add_argument("--corpus", default="mod_text@latest")
    parser.add_argument("--tokens", type=int, default=8000, help="size of the tokenizer's vocabulary")
    parser.add_argument("--labels", type=int, default=5)
    parser.add_argument("--global-batch", type=int, default=32, help="posts a step, over all ranks")
    parser.add_argument("--steps", type=int, default=20, help="the step to stop at, counted over all runs")
    parser.add_argument("--checkpoint", type=Path, default=Path("transformers-checkpoint"))
    parser.add_argument("--seen", type=Path, help="a file for the rows of each step, one JSON line each")
    arguments = parser.parse_args()

    plan = corpusmill.Plan(
        arguments.corpus, warehouse=arguments.home / "warehouse", filter="split = 'train'", seed=42, ids="int64",
        columns=["label_id"], max_length=128, global_batch=arguments.global_batch,
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=arguments.tokens, num_labels=arguments.labels, **shape)
    )
    trainer = CorpusTrainer(
        plan,
        arguments.seen,
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.checkpoint),
            max_steps=arguments.steps,
            save_steps=arguments.steps,
            logging_steps=1,
            learning_rate=1e-3,
            ignore_data_skip=True,
            report_to=[],
            disable_tqdm=True,
        ),
    )
    last = get_last_checkpoint(str(arguments.checkpoint)) if arguments.checkpoint.is_dir() else None
    if last is not None:
        trainer.loader.load_state_dict(json.loads(Path(last, "loader.json").read_text()))
    trainer.train(resume_from_checkpoint=last)
    print(f"stopped before step {trainer.state.global_step}")


if __name__ == "__main__":
    main()
