"""Turn the pocket model's newest checkpoint into the file that `load_pocket` reads.

    python export_pocket.py build/pocket/run build/pocket/shards build/pocket/pocket.safetensors

Prints the lines of companion/assets.toml that vouch for the file. Beside it comes `training.csv`,
the losses of the run.
"""

import argparse
import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from checkpoints import WEIGHTS, CheckpointError, newest_checkpoint
from gpt_fast import GPTFast
from pocket_data import VOCABULARY
from pocket_model import POCKET_CONFIG, TABLE, fit, pack, row_of_rare_tokens
from token_shards import VOCAB_SIZE, ShardError, TokenBatches

RARE_SHARE = 0.002  # of the tokens of a text like those of the corpus


def export(run, shards, path):
    """Write the file; returns its size in bytes and its sha256.

    Raises:
        CheckpointError: the run has no checkpoint that can be read.
        ShardError: the shards are missing or damaged.
    """
    checkpoint, _ = newest_checkpoint(Path(run) / "checkpoints", print)
    if checkpoint is None:
        raise CheckpointError(f"{run} has no checkpoint. Train first: make pocket-model.")
    weights = load_file(checkpoint / WEIGHTS)
    model = GPTFast({**POCKET_CONFIG, "vocab_size": len(weights[TABLE])})
    model.out_head.weight = model.tok_emb.weight
    fit(model, weights)
    batches = TokenBatches(shards, 16, POCKET_CONFIG["context_length"], seed=0)
    with torch.no_grad():
        hidden = model.eval().hidden(batches.next()[0]).flatten(0, 1)  # (N, C)
        logits = model.out_head(hidden)  # (N, K)
    vocabulary = torch.from_numpy(np.load(Path(shards) / VOCABULARY))
    weights[TABLE] = weights[TABLE][: len(vocabulary)]  # a small corpus leaves rows unused
    row = row_of_rare_tokens(hidden, logits, RARE_SHARE, VOCAB_SIZE - len(vocabulary))
    save_file(pack(weights, vocabulary, row), path)
    data = Path(path).read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


def write_history(run, path):
    """A line for each measurement on held-out text, with the mean training loss since the last."""
    with open(Path(run) / "log.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "tokens", "train_loss", "val_loss"])
        losses = []
        for row in rows:
            losses.append(float(row["loss"]))
            if row["val_loss"]:
                mean, val_loss = sum(losses) / len(losses), float(row["val_loss"])
                writer.writerow([row["step"], row["tokens"], f"{mean:.4f}", f"{val_loss:.4f}"])
                losses = []


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("run", "shards", "path"):
        parser.add_argument(name)
    args = parser.parse_args()
    try:
        size, digest = export(args.run, args.shards, args.path)
        write_history(args.run, Path(args.path).with_name("training.csv"))
    except (CheckpointError, ShardError) as error:
        print(f"export_pocket.py: {error}", file=sys.stderr)
        return 1
    print(f'size = {size}\nsha256 = "{digest}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
