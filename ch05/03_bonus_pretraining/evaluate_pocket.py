"""Measure the pocket model: what MODEL_CARD.md says of it.

    python evaluate_pocket.py tinystories-valid-sample.txt.gz

Prints nats per token on that text, the fill-in test (`fill_in.tsv`), and samples that nobody chose.
"""

import argparse
import csv
import gzip
from collections import Counter
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F

import companion
from gpt_generate import generate
from gpt_train import text_to_token_ids, token_ids_to_text
from pocket_model import POCKET_CONFIG, load_pocket

FILL_IN = Path(__file__).with_name("fill_in.tsv")
PROMPTS = ("Once upon a time", "The little dog", "Tom and Anna went to", '"I am sorry," said')


@torch.no_grad()
def nats_per_token(model, token_ids, context_length=256, batch_size=8):
    """Mean cross-entropy of every token but the first, in windows that do not overlap.

    Args:
        token_ids: (N,) of a text; what does not fill the last window is left out.
    """
    count = (len(token_ids) - 1) // context_length
    inputs = token_ids[: count * context_length].view(count, context_length)
    targets = token_ids[1 : count * context_length + 1].view(count, context_length)
    total = 0.0
    for rows in torch.arange(count).split(batch_size):
        logits = model(inputs[rows])  # (B, T, V)
        total += F.cross_entropy(
            logits.flatten(0, 1), targets[rows].flatten(), reduction="sum"
        ).item()
    return total / targets.numel()


def read_fill_in():
    """The items of the fill-in test, dictionaries with the keys kind, text, right, wrong."""
    with open(FILL_IN, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@torch.no_grad()
def prefers_right(model, item):
    """Whether the model gives the right word, after the text, a higher probability."""
    tokenizer = tiktoken.get_encoding("gpt2")
    logits = model(text_to_token_ids(item["text"], tokenizer))[0, -1]
    right, wrong = (tokenizer.encode(" " + item[key])[0] for key in ("right", "wrong"))
    return bool(logits[right] > logits[wrong])


def sample(model, prompt, seed):
    """60 tokens after a prompt, at temperature 0.8, as text."""
    tokenizer = tiktoken.get_encoding("gpt2")
    torch.manual_seed(seed)
    ids = text_to_token_ids(prompt, tokenizer)
    ids = generate(model, ids, 60, POCKET_CONFIG["context_length"], temperature=0.8)
    return token_ids_to_text(ids, tokenizer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", help="a text file, plain or .gz")
    path = parser.parse_args().text
    companion.setup()
    model = load_pocket()
    open_text = gzip.open if path.endswith(".gz") else open
    with open_text(path, "rt", encoding="utf-8") as file:
        token_ids = text_to_token_ids(file.read(), tiktoken.get_encoding("gpt2"))[0]
    print(f"{nats_per_token(model, token_ids):.3f} nats per token, {len(token_ids):,} tokens")
    items = read_fill_in()
    right = Counter(item["kind"] for item in items if prefers_right(model, item))
    for kind, count in Counter(item["kind"] for item in items).items():
        print(f"{kind:10} {right[kind]} of {count}")
    print(f"fill-in    {right.total()} of {len(items)}, {right.total() / len(items):.1%}")
    for seed, prompt in enumerate(PROMPTS):
        print(f"\nseed {seed}: {sample(model, prompt, seed)}")


if __name__ == "__main__":
    main()
