"""The pocket model's card says what its files say, and what a measurement finds."""

import csv
import gzip
import hashlib
import math
import platform
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiktoken
import torch
from safetensors.torch import load_file

import companion
from companion.assets import manifest
from evaluate_pocket import PROMPTS, nats_per_token, prefers_right, read_fill_in, sample
from gpt_train import text_to_token_ids
from pocket_experiments import EXPERIMENTS
from pocket_model import FILE, POCKET_CONFIG, load_pocket

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "ch05" / "03_bonus_pretraining"
CARD = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
HELD_OUT = ROOT.parent / "shared" / "data" / "pretrain" / "tinystories-valid-sample.txt.gz"
HELD_OUT_SHA256 = "5265e01cc64b5a8a5ef7854be0ea45ba56b40498fbc214506d9bf27b6676fa1a"
TOKENIZER = tiktoken.get_encoding("gpt2")
# In words of ours, of the kind that it has read
STORY = (
    "Once upon a time there was a small duck named Bob. Bob lived near a big lake with his mom. "
    'One day he saw a red boat on the water. "Can I play with you?" asked Bob. The boat did not '
    "say a word. Bob was sad, but his mom gave him a big hug and they went home to eat."
)


def rows_of(name):
    with open(FOLDER / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stated(pattern):
    """What the card says: the numbers in the groups of the only match."""
    (found,) = re.findall(pattern, CARD)
    return [float(x.replace(",", "")) for x in ([found] if isinstance(found, str) else found)]


def training_rows():
    """A line of the card for every 400 steps, and the last."""
    rows = rows_of("training.csv")
    for row in rows:
        if int(row["step"]) % 400 == 0 or row is rows[-1]:
            millions = int(row["tokens"]) / 1e6
            yield (
                f"| {int(row['step']):,} | {millions:.1f} | {float(row['train_loss']):.2f} "
                f"| {float(row['val_loss']):.2f} |"
            )


def corpus_rows():
    """What the card says of each file that was read: how much was kept, how often, which share."""
    corpus = rows_of("corpus.csv")
    used = {row["file"]: int(row["tokens_kept"]) * int(row["repeats"]) for row in corpus}
    for row in corpus:
        if used[row["file"]]:
            yield (
                f"| {row['file'].removesuffix('.txt.gz')} | {int(row['tokens']):,} "
                f"| {int(row['tokens_kept']):,} | {row['repeats']} "
                f"| {used[row['file']] / sum(used.values()):.0%} |"
            )


def experiment_rows():
    """A line of the card for the end of each experiment."""
    ends = {row["experiment"]: row for row in rows_of("experiments.csv")}
    for name, row in ends.items():
        yield f"| {name} | {int(row['tokens']):,} | {float(row['val_loss']):.2f} |"


@pytest.fixture(scope="module")
def model():
    return load_pocket()


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(123)
    model = load_pocket()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.mark.parametrize("expected", [training_rows, corpus_rows, experiment_rows])
def test_tables_say_what_the_files_say(expected):
    rows = list(expected())
    assert len(rows) >= 3
    at = [CARD.find(row) for row in rows]
    assert -1 not in at, [row for row, place in zip(rows, at, strict=True) if place < 0]
    assert at == sorted(at)
    assert f"{rows[0][:-3]}99 |" not in CARD  # control


def test_the_experiments_are_all_there():
    ends = {row["experiment"]: float(row["val_loss"]) for row in rows_of("experiments.csv")}
    assert list(ends) == list(EXPERIMENTS)
    noise = abs(ends["base"] - ends["another seed"])
    assert stated(r"The seed alone moves the loss by ([\d.]+)\. ") == [round(noise, 2)]


def test_sizes_and_hash():
    entry = manifest()[FILE]
    data = companion.asset(FILE).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    assert len(data) <= 30_000_000
    assert stated(r"a file of ([\d.]+) MB") == [round(len(data) / 1e6, 1)]
    stored = load_file(companion.asset(FILE))
    count = sum(tensor.numel() for name, tensor in stored.items() if name != "vocabulary")
    assert stated(r"([\d,]+) trained parameters") == [count - POCKET_CONFIG["emb_dim"]]


def test_a_story_in_words_of_ours_costs_few_nats(model, untrained):
    ids = text_to_token_ids(STORY, TOKENIZER)[0]
    whole = len(ids) - 1
    assert nats_per_token(model, ids, whole) < 2.6
    assert nats_per_token(untrained, ids, whole) > 0.9 * math.log(50257)  # control
    words = STORY.split()
    order = torch.randperm(len(words), generator=torch.manual_seed(0)).tolist()
    shuffled = text_to_token_ids(" ".join(words[i] for i in order), TOKENIZER)[0]
    assert nats_per_token(model, shuffled, len(shuffled) - 1) > 4.6  # control


def test_fill_in_beats_a_guess(model, untrained):
    items = read_fill_in()
    assert len(items) >= 100
    right = Counter(item["kind"] for item in items if prefers_right(model, item))
    assert stated(r"\*\*(\d+) of (\d+)\*\*") == [right.total(), len(items)]
    for kind, count in Counter(item["kind"] for item in items).items():
        assert f"{kind} {right[kind]} of {count}" in CARD
    assert right.total() >= 0.75 * len(items)
    by_chance = sum(prefers_right(untrained, item) for item in items)
    assert 0.3 * len(items) < by_chance < 0.7 * len(items)  # control


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="other platforms draw other random numbers",
)
def test_samples_are_those_of_their_seeds(model):
    for seed, prompt in enumerate(PROMPTS):
        quoted = "\n".join(f"> {line}".rstrip() for line in sample(model, prompt, seed).split("\n"))
        assert f"Seed {seed}:\n\n{quoted}\n" in CARD
    assert sample(model, PROMPTS[0], 5) not in CARD.replace("> ", "")  # control


@pytest.fixture(scope="module")
def held_out_ids():
    if not HELD_OUT.exists():
        pytest.skip(f"{HELD_OUT.name} is not on this machine; the card says where it is from")
    assert hashlib.sha256(HELD_OUT.read_bytes()).hexdigest() == HELD_OUT_SHA256
    return text_to_token_ids(gzip.decompress(HELD_OUT.read_bytes()).decode(), TOKENIZER)[0]


@pytest.mark.slow
@pytest.mark.training  # three minutes on one core
def test_loss_on_the_held_out_text(model, held_out_ids):
    loss = nats_per_token(model, held_out_ids)
    assert stated(r"\*\*([\d.]+) nats per token\*\*") == [round(loss, 2)]
    assert loss <= 2.6


@pytest.mark.slow
def test_loss_on_a_sample_of_the_held_out_text(model, untrained, held_out_ids):
    """Every 16th window: their mean lies within three standard errors of what the card says."""
    windows = held_out_ids[: len(held_out_ids) // 257 * 257].view(-1, 257)[::16]
    losses = torch.tensor([nats_per_token(model, ids) for ids in windows])
    margin = 3 * losses.std() / math.sqrt(len(losses))
    (loss,) = stated(r"\*\*([\d.]+) nats per token\*\*")
    assert abs(losses.mean() - loss) < margin < 0.5
    assert nats_per_token(untrained, windows[0]) - loss > margin  # control
