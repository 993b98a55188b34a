"""Time `find_near_duplicates.py` on 50,000 texts, and beside a comparison of all pairs on fewer.

    python bench/bench_near_duplicates.py              # made-up texts
    python bench/bench_near_duplicates.py --file FILE  # a JSON list or lines of yours

All pairs of all texts would take hours, so the ratio is of a part of them. There the two must find
the same pairs. Two sets of made-up texts: "free" ones, of sentences of which one in twenty is
another one with a word changed, and "templates", instructions with few wordings around other words,
which are hard to tell apart and slower.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np

import companion
from companion.timings import machine
from find_near_duplicates import near_duplicates, shingles_of, texts_of_file

NUM_TEXTS = 50_000
NUM_BRUTE_FORCE = 1_000
THRESHOLD = 0.8
LIMIT = 60  # seconds, on two cores


def made_up_words(rng, number=5_000):
    onsets = [*"bcdfghjklmnprstvwz", "br", "ch", "cl", "dr", "gr", "pl", "sh", "st", "th", "tr"]
    rhymes = [*"aeiou", "an", "ar", "ea", "ed", "en", "er", "est", "in", "ing", "on", "or", "ou"]
    return [
        "".join(rng.choice(onsets) + rng.choice(rhymes) for _ in range(rng.randrange(1, 4)))
        for _ in range(number)
    ]


def made_up_texts(number, seed=0):
    """Texts of 5 to 90 words, the r-th word with frequency 1 / (r + 2), as in real languages."""
    rng = random.Random(seed)
    words = made_up_words(rng)
    weights = np.cumsum(1 / (np.arange(len(words)) + 2)).tolist()
    texts = []
    for _ in range(number):
        if texts and rng.random() < 0.05:
            chosen = rng.choice(texts).split()
            chosen[rng.randrange(len(chosen))] = rng.choice(words)
        else:
            chosen = rng.choices(words, cum_weights=weights, k=rng.randrange(5, 90))
        texts.append(" ".join(chosen))
    return texts


def template_texts(number, seed=0):
    """Instructions of 40 wordings, each around five words."""
    rng = random.Random(seed)
    words = made_up_words(rng)
    wordings = [" ".join(rng.choices(words, k=rng.randrange(5, 12))) for _ in range(40)]
    return [f"{rng.choice(wordings)}: {' '.join(rng.choices(words, k=5))}" for _ in range(number)]


def brute_force(texts, threshold):
    """The same as `near_duplicates`, by comparing every text with every other."""
    sets = [set(shingles.tolist()) for shingles in shingles_of(texts)]
    found = []
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[i + 1 :], i + 1):
            shared = len(a & b)
            similarity = shared / (len(a) + len(b) - shared)
            if similarity >= threshold:
                found.append((i, j, similarity))
    return found


def same_pairs(found, expected):
    return len(found) == len(expected) and np.allclose(np.array(found), np.array(expected))


def timed(search, texts):
    """Wall-clock seconds of one search, and what it found."""
    start = time.perf_counter()
    found = search(texts, THRESHOLD)
    return time.perf_counter() - start, found


def main(file=None):
    companion.setup()
    kinds = {"free": made_up_texts(NUM_TEXTS), "templates": template_texts(NUM_TEXTS)}
    if file:
        kinds = {Path(file).name: texts_of_file(file)}
    print(f"\nMachine: {machine()}, numpy {np.__version__}\n")
    few = f"{NUM_BRUTE_FORCE:,} of them"
    print(f"| texts | number | pairs | seconds | {few}, seconds | all pairs, seconds | ratio |")
    print("|---|---|---|---|---|---|---|")
    slowest, are_the_same = 0, True
    for name, texts in kinds.items():
        seconds, pairs = timed(near_duplicates, texts)
        few = texts[:NUM_BRUTE_FORCE]
        (quick, found), (slow, expected) = timed(near_duplicates, few), timed(brute_force, few)
        slowest, are_the_same = max(slowest, seconds), are_the_same and same_pairs(found, expected)
        print(
            f"| {name} | {len(texts):,} | {len(pairs):,} | {seconds:.1f} | {quick:.2f} | "
            f"{slow:.2f} | {slow / quick:.0f} |"
        )
    verdict = "met" if slowest <= LIMIT else "NOT met"
    print(f"\nAt most {LIMIT} s: {verdict}. The same pairs as all pairs: {are_the_same}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", help="a JSON list, or text with one entry in a line")
    main(parser.parse_args().file)
