"""Trains a small text classifier on the corpus of moderation.sql, stops in the middle, and goes on elsewhere.

What it shows, and checks (the exit status says whether all of it held):
  * the loss falls, and held-out posts are classified better than by guessing the most common label;
  * a job that was stopped goes on at another number of ranks, from a checkpoint of a few hundred bytes for the data;
  * over the whole job, no sample was lost, and none was seen more often than there were epochs.

Ranks take turns in this one process: that is the same arithmetic as data-parallel training, without its set-up.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import corpusmill
import corpusmill.torch

LABELS = ["ok", "spam", "scam", "harassment", "hate"]


class Classifier(nn.Module):
    """Means and maxima of word vectors, and two layers. Small enough for any laptop."""

    def __init__(self, tokens: int, width: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width, padding_idx=0)
        self.mix = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, len(LABELS)))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1).bool()
        x = self.embed(input_ids)
        x = x + nn.functional.gelu(self.mix(x.transpose(1, 2)).transpose(1, 2))
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1)
        top = x.masked_fill(~mask, -1e4).amax(1)
        return self.head(torch.cat([mean, top], dim=1))


class Job:
    """A training job: model, optimizer, and one loader for each rank."""

    def __init__(self, plan: corpusmill.Plan, world: int, tokens: int) -> None:
        torch.manual_seed(0)
        self.plan, self.world = plan, world
        self.model = Classifier(tokens)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3)
        self.loaders = [corpusmill.torch.Loader(plan, rank=rank, world=world) for rank in range(world)]

    def save(self, path: Path) -> int:
        """Writes a checkpoint; returns the size of the loader's part of it in bytes. Any rank's state will do."""
        data = self.loaders[0].state_dict()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "data": data}, path)
        return len(repr(data))

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint, whatever the number of ranks was that wrote it."""
        checkpoint = torch.load(path)
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for loader in self.loaders:
            loader.load_state_dict(checkpoint["data"])

    def run(self, steps: int, seen: Counter[int]) -> list[float]:
        """Trains for so many steps, counts each sample that it saw, and returns the loss of each step."""
        self.model.train()
        streams = [iter(loader) for loader in self.loaders]
        losses = []
        for step in range(steps):
            began = time.monotonic()
            batches = [next(stream) for stream in streams]
            rows = sum(len(batch["row_slot"]) for batch in batches)
            self.optimizer.zero_grad()
            total = 0.0
            for batch in batches:
                logits = self.model(batch["input_ids"].long(), batch["attention_mask"])
                loss = nn.functional.cross_entropy(logits, batch["label_id"].long(), reduction="sum") / rows
                loss.backward()
                total += loss.item()
                seen.update(batch["row_slot"].tolist())
            self.optimizer.step()
            losses.append(total)
            if step == 0 or (step + 1) % 50 == 0:
                print(f"  step {batches[0]['step']:4d}  loss {total:.3f}  {rows / (time.monotonic() - began):8,.0f} rows/s")
        return losses


@torch.no_grad()
def evaluate(model: nn.Module, plan: corpusmill.Plan) -> tuple[float, float, int]:
    """Accuracy of the model, accuracy of always guessing the most common label, and the number of posts."""
    model.eval()
    guesses, labels = [], []
    for batch in corpusmill.torch.Loader(plan):
        guesses += model(batch["input_ids"].long(), batch["attention_mask"]).argmax(1).tolist()
        labels += batch["label_id"].tolist()
    right = sum(guess == label for guess, label in zip(guesses, labels, strict=True))
    return right / len(labels), max(Counter(labels).values()) / len(labels), len(labels)


def audit(seen: Counter[int], plan: corpusmill.Plan, epochs: int) -> list[str]:
    """Says what is wrong with the samples that were seen; nothing, if each came once in each epoch."""
    expected = sum(plan.rows.values())
    problems = []
    if len(seen) != expected:
        problems.append(f"{expected - len(seen):,} of {expected:,} samples were never seen")
    wrong = {slot: times for slot, times in seen.items() if times != epochs}
    if wrong:
        problems.append(f"{len(wrong):,} samples were not seen {epochs} times, such as slot {next(iter(wrong.items()))}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("corpusmill-data"), help="the --home that corpusmill ran with")
    parser.add_argument("--corpus", default="mod_text@latest")
    parser.add_argument("--tokens", type=int, default=8000, help="size of the tokenizer's vocabulary")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    arguments = parser.parse_args()

    # The batches are so small that threads inside an operation cost more than they bring, most of all on a busy machine.
    torch.set_num_threads(1)
    warehouse = arguments.home / "warehouse"
    shape = {"warehouse": warehouse, "columns": ["label_id"], "max_length": 128}
    train = corpusmill.Plan(
        arguments.corpus, filter="split = 'train'", seed=42, global_batch=64, epochs=arguments.epochs, **shape
    )
    test = corpusmill.Plan(
        train.sources[0], filter="split = 'test'", shuffle=False, epochs=1, global_batch=256, **shape
    )
    steps, seen = len(train), Counter()
    middle = steps * 2 // 5
    print(f"{train}: {sum(train.rows.values()):,} rows, {steps} steps of 64 in {arguments.epochs} epochs")

    print(f"4 ranks, until step {middle}")
    job = Job(train, world=4, tokens=arguments.tokens)
    losses = job.run(middle, seen)
    size = job.save(arguments.checkpoint)
    del job
    print(f"stopped; the loader's part of {arguments.checkpoint} is {size} bytes")

    print("2 ranks, from the checkpoint to the end")
    job = Job(train, world=2, tokens=arguments.tokens)
    job.load(arguments.checkpoint)
    losses += job.run(steps - middle, seen)

    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    accuracy, guessing, posts = evaluate(job.model, test)
    problems = audit(seen, train, arguments.epochs)
    print(f"loss: {first:.3f} in the first 20 steps, {last:.3f} in the last 20")
    print(f"{posts:,} held-out posts: {accuracy:.1%} right; always guessing the most common label: {guessing:.1%}")
    print("audit: " + ("; ".join(problems) or f"each of {len(seen):,} samples was seen {arguments.epochs} times"))
    if not last < 0.7 * first:
        problems.append("the loss did not fall")
    if not accuracy > guessing:
        problems.append("the model is no better than guessing")
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(
        f"""
What to try next, in {Path.cwd()}:
  corpusmill show mod_text                                       the version, what was dropped and why, its digest
  corpusmill run -c 'SELECT * FROM mod_text.drops'               the rows that are missing, counted by reason
  corpusmill run -c 'SELECT * FROM mod_text.quarantine LIMIT 5'  the posts that moderators disagreed on
  corpusmill verify mod_text                                     reads every byte back and recomputes the digest
  corpusmill export mod_text --format mds --to mds               the same rows for another trainer
  Run moderation.sql again: nothing has changed, so no new version is made. Then change it, and compare the versions:
  corpusmill run -c 'SELECT label, count(*) FROM mod_text VERSION AS OF 0 GROUP BY label'"""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
