"""Short trainings, each with one setting of the pocket model's recipe changed: what is it worth?

    python pocket_experiments.py build/pocket/shards --out experiments.csv

Those of one setting have 115,000 tokens, those of the model's width 250,000. One that was
cut short goes on. The file gets a line for each measurement of the loss on the text held out.
"""

import argparse
import csv
import sys
from pathlib import Path

from checkpoints import CheckpointError
from companion.session import keep_freed_memory
from token_shards import ShardError
from train_config import ConfigError, config_of, tomllib
from trainer import Processes, TrainingError, begin_or_go_on, build_model

RECIPE = Path(__file__).with_name("pocket.toml")
SHORT = {
    "optimizer.warmup_steps": 20,
    "run.checkpoint_every": 50,
    "run.keep": 1,
}
ADAMW = {"optimizer.name": "adamw", "optimizer.muon_learning_rate": 0.0}

# The name of an experiment says what is not as in BASE, a first guess; then its tokens.
BASE = {"data.batch_size": 8}
EXPERIMENTS = {
    "base": (115_000, {}),
    "another seed": (115_000, {"run.seed": 124, "data.seed": 124}),
    "width 64": (250_000, {"model.emb_dim": 64, "model.n_heads": 1}),
    "width 128": (250_000, {"model.emb_dim": 128, "model.n_heads": 2}),
    "width 256": (250_000, {}),
    "width 384": (250_000, {"model.emb_dim": 384, "model.n_heads": 6}),
    "exact loss": (115_000, {"model.sampled_ids": 0}),
    "AdamW, rate 0.002": (115_000, {**ADAMW, "optimizer.learning_rate": 0.002}),
    "AdamW, rate 0.004": (115_000, {**ADAMW, "optimizer.learning_rate": 0.004}),
    "Muon, rate 0.003": (115_000, {"optimizer.muon_learning_rate": 0.003}),
    "Muon, rate 0.012": (115_000, {"optimizer.muon_learning_rate": 0.012}),
    "dropout 0.1": (115_000, {"model.drop_rate": 0.1}),
    "2 layers": (115_000, {"model.n_layers": 2}),
    "6 layers": (115_000, {"model.n_layers": 6}),
    "batch of 4": (115_000, {"data.batch_size": 4}),
    "batch of 16": (115_000, {"data.batch_size": 16}),
}
COLUMNS = ("experiment", "parameters", "step", "tokens", "val_loss", "seconds")


def configure(shards, out, tokens, changes):
    """The `TrainConfig` of a short run by the recipe with other settings, {"section.name": value}.

    Raises:
        ConfigError: a setting cannot be.
    """
    tables = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    folders = {"data.folder": str(shards), "run.out": str(out)}
    for name, value in {**SHORT, **folders, **BASE, **changes}.items():
        section, key = name.split(".")
        tables[section][key] = value
    quarter = tokens // (4 * tables["data"]["batch_size"] * tables["model"]["context_length"])
    tables["run"] |= {"steps": 4 * quarter, "eval_every": quarter}
    return config_of(tables, RECIPE)


def measurements(name, cfg):
    """Rows of COLUMNS: the losses that the log of a run holds."""
    parameters = sum(p.numel() for p in build_model(cfg.model, cfg.run.seed).parameters())
    seconds = 0.0
    with open(Path(cfg.run.out) / "log.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            tokens_of_step = cfg.data.batch_size * cfg.model.context_length
            seconds += tokens_of_step / float(row["tokens_per_second"])
            if row["val_loss"]:
                loss = f"{float(row['val_loss']):.4f}"
                yield name, parameters, int(row["step"]), row["tokens"], loss, round(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards", help="what pocket_data.py wrote")
    parser.add_argument("--out", required=True, metavar="FILE", help="the table, as CSV")
    args = parser.parse_args()
    keep_freed_memory()
    rows = []
    try:
        for number, (name, (tokens, changes)) in enumerate(EXPERIMENTS.items()):
            out = Path(args.shards).with_name("experiments") / f"{number:02}"
            cfg = configure(args.shards, out, tokens, changes)
            print(f"{name}:", flush=True)
            begin_or_go_on(cfg, Processes(), resume=True)
            of_run = list(measurements(name, cfg))
            if not of_run or of_run[-1][2] < cfg.run.steps:  # Ctrl-C ends a run as it should be
                return 130
            rows += of_run
    except (CheckpointError, ConfigError, ShardError, TrainingError) as error:
        print(f"pocket_experiments.py: {error}", file=sys.stderr)
        return 1
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
