"""Trains the language model of train_fsdp.py with Lightning.

    python train_lightning.py --steps 10
    python train_lightning.py --steps 20        # goes on from step 10

The loader is Lightning's dataloader as it is. It has `state_dict` and `load_state_dict`, so Lightning keeps its position
in each checkpoint and goes on there, whatever the number of devices. The plan has a number of epochs, and Lightning one
epoch: of an endless plan Lightning would fetch a batch ahead, and its checkpoint would be one batch late.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from train_fsdp import LanguageModel, next_token_loss

import corpusmill
import corpusmill.torch


class Model(lightning.LightningModule):
    """The model, its loss, and a record of the rows that it was trained on."""

    def __init__(self, tokens: int, pack: int, seen: Path | None) -> None:
        super().__init__()
        self.model = LanguageModel(tokens, pack)
        self.seen = seen

    def training_step(self, batch: dict[str, Any], index: int) -> torch.Tensor:
        loss, tokens = next_token_loss(self.model(batch), batch)
        if self.seen is not None:
            with self.seen.open("a") as file:
                file.write(json.dumps([batch["step"], batch["row_slot"].tolist()]) + "\n")
        self.log("loss", loss / tokens, prog_bar=True)
        return loss / tokens

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Data(lightning.LightningDataModule):
    """One rank's share of a plan."""

    def __init__(self, plan: corpusmill.Plan) -> None:
        super().__init__()
        self.plan = plan

    def train_dataloader(self) -> corpusmill.torch.Loader:
        fields = ["input_ids", "position_ids", "doc_ids", "loss_mask", "row_slot"]
        return corpusmill.torch.Loader(
            self.plan, rank=self.trainer.global_rank, world=self.trainer.world_size, fields=fields
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("corpusmill-data"), help="the --home that corpusmill ran with")
    parser.add_argument("--corpus", default="mod_text@latest")
    parser.add_argument("--tokens", type=int, default=8000, help="size of the tokenizer's vocabulary")
    parser.add_argument("--pack", type=int, default=256)
    parser.add_argument("--global-batch", type=int, default=16, help="packs a step, over all ranks")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="the step to stop at, counted over all runs")
    parser.add_argument("--checkpoint", type=Path, default=Path("lightning-checkpoint"))
    parser.add_argument("--seen", type=Path, help="a file for the rows of each step, one JSON line each")
    arguments = parser.parse_args()

    lightning.seed_everything(0)
    plan = corpusmill.Plan(
        arguments.corpus, warehouse=arguments.home / "warehouse", filter="split = 'train'", seed=42, ids="int64",
        pack=arguments.pack, global_batch=arguments.global_batch, epochs=arguments.epochs,
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        max_steps=arguments.steps,
        logger=False,
        callbacks=[ModelCheckpoint(arguments.checkpoint, save_last=True, every_n_train_steps=1)],
        # The loader gives each rank its own share already.
        use_distributed_sampler=False,
    )
    last = arguments.checkpoint / "last.ckpt"
    trainer.fit(
        Model(arguments.tokens, arguments.pack, arguments.seen),
        datamodule=Data(plan),
        ckpt_path=last if last.exists() else None,
        # A checkpoint of one's own; it holds more than tensors.
        weights_only=False,
    )
    print(f"stopped before step {trainer.global_step}, loss {trainer.callback_metrics['loss']:.4f}")


if __name__ == "__main__":
    main()
