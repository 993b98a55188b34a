"""What each choice of chapter 6 is worth: short trainings with one choice changed.

Shapes: B batch, T tokens, C classes.

    python additional_experiments.py                   all rows of the table that are not there yet
    python additional_experiments.py "first token"     one row

The measurements go to results.csv after each training, and the table into the README. Those that
were made with other weights of the pocket model are forgotten.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F

import companion
from gpt import GPTModel
from gpt_class_finetune import CLASSES, PAD_TOKEN_ID, make_classifier, random_split, read_messages
from gpt_cost import machine
from lora import replace_linear_with_lora
from pocket_model import FILE, POCKET_CONFIG, load_pocket

RESULTS = Path(__file__).with_name("results.csv")
README = Path(__file__).with_name("README.md")
TABLE_STARTS, TABLE_ENDS = "<!-- table -->\n\n", "\n\n<!-- end of table -->"
COLUMNS = ("choice", "seed", "trained", "accuracy", "seconds", "weights", "machine")

SEEDS = (123, 124, 125)
BATCH_SIZE, NUM_UPDATES = 8, 120
RANK = ALPHA = 16


@dataclass(frozen=True)
class Choices:
    """How to make a classifier; the defaults are chapter 6's.

    Attributes:
        reads: whose logits decide, a key of READERS.
        padding: "behind" the message, "in front" of it, or "none": each message by itself.
        length: T, to which messages are cut and padded: a number, "longest" for that of the longest
            training message, or "batch" for that of the longest in the batch.
        trains: what is not frozen, a key of TRAINED, or "LoRA".
        is_causal: whether attention hides later tokens.
        is_pretrained: whether to begin with the pocket model's weights, or with random ones.
        learning_rate: AdamW's.
    """

    reads: str = "last"
    padding: str = "behind"
    length: int | str = "longest"
    trains: str = "last block"
    is_causal: bool = True
    is_pretrained: bool = True
    learning_rate: float = 5e-4


CHAPTER = Choices()
EXPERIMENTS = {  # {group: {name: choices}}, in the order of the table
    "all as in the chapter": {"chapter 6": CHAPTER},
    "whose logits decide": {
        "first token": replace(CHAPTER, reads="first"),
        "mean of all tokens": replace(CHAPTER, reads="mean"),
        "last token of the text": replace(CHAPTER, reads="last of text"),
        "mean of the text's tokens": replace(CHAPTER, reads="mean of text"),
    },
    "padding": {
        "in front of the text": replace(CHAPTER, padding="in front"),
        "up to the batch's longest": replace(CHAPTER, length="batch"),
        "none, messages one by one": replace(CHAPTER, padding="none", length="batch"),
    },
    "length in tokens": {
        "cut to 8": replace(CHAPTER, length=8),
        "cut to 16": replace(CHAPTER, length=16),
        "cut to 32": replace(CHAPTER, length=32),
        "padded to 256, the context": replace(CHAPTER, length=256),
    },
    "what is trained": {
        "head": replace(CHAPTER, trains="head", learning_rate=5e-3),
        "two blocks": replace(CHAPTER, trains="two blocks"),
        "all": replace(CHAPTER, trains="all"),
        "LoRA": replace(CHAPTER, trains="LoRA", learning_rate=2e-3),
        "all, from random weights": replace(CHAPTER, trains="all", is_pretrained=False),
    },
    "causal mask off": {
        "last token, no mask": replace(CHAPTER, is_causal=False),
        "first token, no mask": replace(CHAPTER, reads="first", is_causal=False),
    },
}
BY_NAME = {name: choices for group in EXPERIMENTS.values() for name, choices in group.items()}


# What can be chosen


def last_of_text(logits, is_text):
    """(B, T, C) to (B, C): of the last token before the padding behind it."""
    last = (is_text * torch.arange(is_text.shape[1])).argmax(dim=1)  # (B,)
    return logits[torch.arange(len(last)), last]


def mean_of_text(logits, is_text):
    """(B, T, C) to (B, C), without the padding."""
    return (logits * is_text[..., None]).sum(dim=1) / is_text.sum(dim=1, keepdim=True)


READERS = {
    "last": lambda logits, is_text: logits[:, -1],
    "first": lambda logits, is_text: logits[:, 0],
    "mean": lambda logits, is_text: logits.mean(dim=1),
    "last of text": last_of_text,
    "mean of text": mean_of_text,
}
TRAINED = {
    "head": lambda model: [model.out_head],
    "last block": lambda model: [model.out_head, model.final_norm, model.trf_blocks[-1]],
    "two blocks": lambda model: [model.out_head, model.final_norm, *model.trf_blocks[-2:]],
    "all": lambda model: [model],
}


def classifier_by_choices(choices, pretrained=load_pocket, cfg=POCKET_CONFIG):
    """A classifier by `choices`, in training mode; `pretrained()` gives the model to begin with."""
    model = make_classifier(pretrained() if choices.is_pretrained else GPTModel(cfg))
    model.requires_grad_(False)
    if choices.trains == "LoRA":
        replace_linear_with_lora(model, RANK, ALPHA)
    else:
        for part in TRAINED[choices.trains](model):
            part.requires_grad_(True)
    if not choices.is_causal:
        for block in model.trf_blocks:
            block.att.mask.zero_()  # it is 1 where a key lies after the query
    return model.train()


def pad_messages(messages, choices, longest):
    """Lists of ids as (B, T) ids, and (B, T) whether each belongs to the text."""
    lengths = {"longest": longest, "batch": min(max(map(len, messages)), longest)}
    length = lengths.get(choices.length, choices.length)
    ids = torch.full((len(messages), length), PAD_TOKEN_ID)
    is_text = torch.zeros(len(messages), length, dtype=torch.bool)
    for row, text in enumerate(messages):
        text = torch.tensor(text[:length])
        first = length - len(text) if choices.padding == "in front" else 0
        ids[row, first : first + len(text)] = text
        is_text[row, first : first + len(text)] = True
    return ids, is_text


def class_logits(model, messages, choices, longest):
    """(B, C) for lists of ids."""
    batches = [[ids] for ids in messages] if choices.padding == "none" else [messages]
    padded = (pad_messages(batch, choices, longest) for batch in batches)
    return torch.cat([READERS[choices.reads](model(ids), is_text) for ids, is_text in padded])


# One training


def encoded_parts(table):
    """The (messages, labels) to train with and to test with; messages are lists of ids."""
    encode = tiktoken.get_encoding("gpt2").encode
    train, _, test = random_split(table, 0.7, 0.1)
    return [
        (
            [encode(text, disallowed_special=()) for text in part["Text"]],
            torch.tensor([CLASSES.index(label) for label in part["Label"]]),
        )
        for part in (train, test)
    ]


def message_batches(messages, labels, order):
    for places in order.split(BATCH_SIZE):
        yield [messages[place] for place in places], labels[places]


def measure_choices(choices, seed, parts, num_updates=NUM_UPDATES, **model):
    """Train a classifier; the share of the test messages that it gets right, and what it took.

    Returns:
        {"trained": number of parameters, "accuracy", "seconds": of the training}
    """
    (messages, labels), test = parts
    longest = max(map(len, messages))
    torch.manual_seed(seed)
    classifier = classifier_by_choices(choices, **model)
    trained = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=choices.learning_rate, weight_decay=0.1)
    drawn = torch.cat([torch.randperm(len(messages)) for _ in range(num_updates)])
    batches = message_batches(messages, labels, drawn[: num_updates * BATCH_SIZE])

    start = time.perf_counter()
    for batch, targets in companion.progress(list(batches), "training"):
        optimizer.zero_grad()
        F.cross_entropy(class_logits(classifier, batch, choices, longest), targets).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return {
        "trained": sum(p.numel() for p in trained),
        "accuracy": accuracy_of(classifier.eval(), *test, choices, longest),
        "seconds": seconds,
    }


@torch.no_grad()
def accuracy_of(classifier, messages, labels, choices, longest):
    num_right = 0
    for batch, targets in message_batches(messages, labels, torch.arange(len(messages))):
        predicted = class_logits(classifier, batch, choices, longest).argmax(dim=-1)
        num_right += (predicted == targets).sum().item()
    return num_right / len(messages)


# The results


def read_measurements(path):
    """The lines of the file as dictionaries of texts; none where there is no file."""
    if not Path(path).exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_measurements(rows, path):
    unfinished = Path(path).with_suffix(".unfinished")
    with open(unfinished, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def table_of_choices(rows):
    """The README's table, in Markdown."""
    lines = [f"Machine: {'; '.join(sorted({row['machine'] for row in rows}))}", ""]
    lines += ["| choice | trained numbers | test accuracy | lowest to highest | seconds |"]
    lines += ["|---|---|---|---|---|"]
    for group, members in EXPERIMENTS.items():
        finished = [name for name in members if any(row["choice"] == name for row in rows)]
        lines += [f"| **{group}** | | | | |"] if finished else []
        for name in finished:
            of_choice = [row for row in rows if row["choice"] == name]
            accuracies = [float(row["accuracy"]) for row in of_choice]
            seconds = statistics.mean(float(row["seconds"]) for row in of_choice)
            lines.append(
                f"| {name} | {int(of_choice[0]['trained']):,} | {statistics.mean(accuracies):.1%} "
                f"| {min(accuracies):.1%} to {max(accuracies):.1%} | {seconds:.0f} |"
            )
    return "\n".join(lines)


def put_into_readme(table, path):
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(TABLE_STARTS)
    _, after = rest.split(TABLE_ENDS)
    path.write_text(f"{before}{TABLE_STARTS}{table}{TABLE_ENDS}{after}", encoding="utf-8")


def main(names, results=RESULTS, readme=README):
    """Measure what is not in the file of results yet, and write the README's table."""
    companion.setup()
    parts = encoded_parts(read_messages(companion.asset("messages.tsv")))
    weights = companion.assets.manifest()[FILE]["sha256"][:8]  # `asset` verifies it
    rows = [row for row in read_measurements(results) if row["weights"] == weights]
    finished = {(row["choice"], int(row["seed"])) for row in rows}
    for seed in SEEDS:
        for name in names:
            if (name, seed) in finished:
                continue
            found = measure_choices(BY_NAME[name], seed, parts)
            rows.append(
                {
                    "choice": name,
                    "seed": seed,
                    "trained": found["trained"],
                    "accuracy": f"{found['accuracy']:.4f}",
                    "seconds": f"{found['seconds']:.1f}",
                    "weights": weights,
                    "machine": machine(),
                }
            )
            write_measurements(rows, results)
            print(f"{name}, seed {seed}: {rows[-1]['accuracy']}, {rows[-1]['seconds']} s")
    put_into_readme(table_of_choices(rows), readme)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("choice", nargs="*", metavar="CHOICE", help=f"of: {', '.join(BY_NAME)}")
    chosen = parser.parse_args().choice
    unknown = [name for name in chosen if name not in BY_NAME]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of: {', '.join(BY_NAME)}")
    try:
        main(chosen or list(BY_NAME))
    except companion.AssetError as error:
        sys.exit(f"additional_experiments.py: {error}")
