"""Time `bpe.py` beside tiktoken and Hugging Face `tokenizers`; print one table.

    python bench/bench_bpe.py                  # a made-up text of 1 MB
    python bench/bench_bpe.py --text FILE      # a text of yours, in UTF-8

Every figure is the best of three runs, each with a tokenizer that has seen nothing yet (its cache
of words is empty), except in the row that says "again". Loading the merges is not counted. The
ratio says how many times as long `bpe.py` takes.
"""

import argparse
import os
import platform
import random
import time
from itertools import accumulate
from pathlib import Path

import tiktoken
import tokenizers

import companion
from bpe import BPETokenizer
from companion.timings import machine

NUM_MERGES = 1_000
TEXT_BYTES = 1_000_000
REPEATS = 3
LIMIT = 20  # a page of Python may take this many times as long as a library in Rust


def made_up_text(num_bytes, num_words=40_000, seed=0):
    """Sentences of made-up words, the r-th word with frequency 1 / (r + 2), as in real languages.

    Common words are short. Real text repeated to fill a megabyte would flatter a word cache.
    """
    rng = random.Random(seed)
    onsets = [*"bcdfghjklmnprstvwz", "br", "ch", "cl", "dr", "gr", "pl", "sh", "st", "th", "tr"]
    rhymes = [*"aeiou", "an", "ar", "ea", "ed", "en", "er", "est", "in", "ing", "on", "or", "ou"]
    words = {}  # a dict keeps the order, a set would not
    while len(words) < num_words:
        syllables = 1 + min(4, int(rng.expovariate(1.0) * (0.3 + len(words) / 15_000)))
        words["".join(rng.choice(onsets) + rng.choice(rhymes) for _ in range(syllables))] = None
        if len(words) % 100 == 0:
            words[str(rng.randrange(3_000))] = None
    words = list(words)
    cum_weights = list(accumulate(1 / (rank + 2) for rank in range(len(words))))

    sentences, size = [], 0
    while size < num_bytes:
        chosen = rng.choices(words, cum_weights=cum_weights, k=rng.randrange(4, 25))
        sentence = ", ".join([" ".join(chosen[:8]), " ".join(chosen[8:])]).strip(", ")
        sentence = sentence.capitalize() + rng.choice("...?!") + rng.choice("  \n")
        sentences.append(sentence)
        size += len(sentence)
    return "".join(sentences)[:num_bytes]


def best_time(make, work):
    """Seconds of the fastest of a few `work(make())`, `make` not counted; and the last result."""
    seconds = []
    for _ in range(REPEATS):
        subject = make()
        start = time.perf_counter()
        result = work(subject)
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def hugging_face(model):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def train_hugging_face(lines, num_threads):
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if num_threads == 1 else "true"
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + NUM_MERGES,
        min_frequency=2,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = hugging_face(tokenizers.models.BPE())
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def bench_training(text):
    """Rows (who, seconds), ours first; and whether both learned to give the same ids."""
    lines = text.splitlines(keepends=True)  # `tokenizers` shares lines out among its threads
    cores = os.cpu_count()
    ours, tokenizer = best_time(
        lambda: text, lambda t: BPETokenizer.train(t, 256 + NUM_MERGES, special_tokens=[])
    )
    one, _ = best_time(lambda: lines, lambda x: train_hugging_face(x, num_threads=1))
    many, theirs = best_time(lambda: lines, lambda x: train_hugging_face(x, num_threads=cores))
    rows = [
        ("bpe.py", ours),
        (f"tokenizers, default ({cores} threads)", many),
        ("tokenizers, 1 thread", one),
    ]
    return rows, tokenizer.encode_ordinary(text) == theirs.encode(text).ids


def bench_encoding(text):
    """Rows as above, with GPT-2's merges; and whether all three give the same ids."""
    files = companion.tokenizer_files()
    vocab_bpe, encoder_json = map(str, files)
    openai = tiktoken.get_encoding("gpt2")
    ours, our_ids = best_time(
        lambda: BPETokenizer.from_gpt2(*files), lambda t: t.encode_ordinary(text)
    )
    warm = BPETokenizer.from_gpt2(*files)
    warm.encode_ordinary(text)
    again, _ = best_time(lambda: warm, lambda t: t.encode_ordinary(text))
    tiktoken_time, tiktoken_ids = best_time(lambda: openai, lambda t: t.encode_ordinary(text))
    hf_time, hf = best_time(
        lambda: hugging_face(tokenizers.models.BPE.from_file(encoder_json, vocab_bpe)),
        lambda t: t.encode(text),
    )
    rows = [
        ("bpe.py", ours),
        ("tiktoken", tiktoken_time),
        ("tokenizers", hf_time),
        ("bpe.py again, words cached", again),
    ]
    return rows, our_ids == tiktoken_ids == hf.ids


def print_table(task, rows, same):
    ours = rows[0][1]
    print(f"| {task} | seconds | ratio |")
    print("|---|---|---|")
    for who, seconds in rows:
        print(f"| {who} | {seconds:.2f} | {ours / seconds:.1f} |")
    ratio = ours / rows[1][1]
    verdict = "met" if ratio <= LIMIT else "NOT met"
    print(f"\nSame ids: {same}. At most {LIMIT} times {rows[1][0]}: {verdict} ({ratio:.1f}).\n")


def main(text_path=None):
    companion.setup()
    if text_path is None:
        text, source = made_up_text(TEXT_BYTES), "made-up words, Zipf-distributed, seed 0"
    else:
        text, source = Path(text_path).read_text(encoding="utf-8"), Path(text_path).name
    num_bytes = len(text.encode("utf-8"))
    print(f"\nMachine: {machine()}, Python {platform.python_version()}")
    print(f"Against: tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}")
    print(f"Text: {num_bytes / 1e6:.2f} MB, {source}\n")
    print_table(f"training, {NUM_MERGES:,} merges", *bench_training(text))
    print_table("encoding, GPT-2's merges", *bench_encoding(text))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--text", metavar="FILE", help="UTF-8 text to use instead of the made-up one"
    )
    main(parser.parse_args().text)
