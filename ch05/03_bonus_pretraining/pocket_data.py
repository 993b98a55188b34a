"""Mix a folder of text files into the token shards that the pocket model learns from.

    python pocket_data.py FOLDER --out build/pocket/shards

Each file counts as often as REPEATS says; one with "valid" in its name is held out. The ids are
those of a smaller vocabulary, the NUM_IDS tokens that are used most. Lines with any other token are
left out. Beside the shards, `vocabulary.npy` has GPT-2's id of each, and `corpus.csv` says what was
taken of each file.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from prepare_text import find_files, prepare
from token_shards import (
    END_OF_TEXT,
    FORMAT,
    MANIFEST,
    SPLITS,
    VOCAB_SIZE,
    ShardError,
    ShardWriter,
    open_shards,
    read_manifest,
    write_json,
)

# The text that is nearest to what the model is to write counts most. Others count once.
REPEATS = {
    "tinystories-train-sample.txt.gz": 8,
    "storybooks-en.txt.gz": 2,
    "childrens-simple.txt.gz": 1,
    "childrens-classics.txt.gz": 0,  # its long sentences and old words are another language
}
NUM_IDS = 16_384  # the vocab_size in pocket.toml; half of the computing is its output layer
VOCABULARY = "vocabulary.npy"
REPORT = "corpus.csv"
COLUMNS = ("file", "tokens", "tokens_kept", "repeats")
LINE_BREAKS = (198, 628)  # the tokens "\n" and "\n\n"


def choose_vocabulary(texts):
    """GPT-2's ids that get an id of their own, in ascending order.

    Args:
        texts: pairs of (N,) token ids and how often they are learned from.
    """
    uses = sum(repeats * np.bincount(ids, minlength=VOCAB_SIZE) for ids, repeats in texts)
    uses[[END_OF_TEXT, *LINE_BREAKS]] = uses.max()  # without them no text could be cut into lines
    most_used = np.argsort(-uses, kind="stable")[:NUM_IDS]
    return np.sort(most_used[uses[most_used] > 0])


def drop_lines_with_rare_tokens(ids, is_kept):
    """(N,) ids without the lines that hold one which is not kept; breaks belong to the line before.

    Args:
        is_kept: (VOCAB_SIZE,) booleans; true for line breaks and the end of a text.
    """
    is_break = np.isin(ids, [*LINE_BREAKS, END_OF_TEXT])
    ends = is_break & ~np.append(is_break[1:], False)  # of several breaks, the last one
    line = np.cumsum(ends) - ends  # the number of each token's line
    is_good = np.ones(line[-1] + 1, dtype=bool)
    is_good[line[~is_kept[ids]]] = False
    is_good = is_good[line] | (ids == END_OF_TEXT)  # documents keep their ends
    return ids[is_good]


def mix(files, folder):
    """Write shards in the small vocabulary, and the vocabulary, into `folder`.

    Args:
        files: pairs of a name and a (N,) array of GPT-2's ids.

    Returns:
        Rows of COLUMNS, one for each file; repeats are 0 for one that is held out or not used.
    """
    train = [(name, ids, REPEATS.get(name, 1)) for name, ids in files if "valid" not in name]
    vocabulary = choose_vocabulary([(ids, repeats) for _, ids, repeats in train])
    is_kept = np.zeros(VOCAB_SIZE, dtype=bool)
    is_kept[vocabulary] = True
    new_id = np.cumsum(is_kept) - 1  # the place of an id among those that are kept
    writers = {split: ShardWriter(folder, split, shard_tokens=10_000_000) for split in SPLITS}
    report = []
    for name, ids in files:
        kept = drop_lines_with_rare_tokens(ids, is_kept)
        repeats = REPEATS.get(name, 1)
        if "valid" in name:
            repeats = 0
            writers["val"].write(new_id[kept])
        for _ in range(repeats):
            writers["train"].write(new_id[kept])
        report.append((name, len(ids), len(kept), repeats))
    for writer in writers.values():
        writer.finish_shard()
    np.save(folder / VOCABULARY, vocabulary.astype(np.int32))
    with open(folder / REPORT, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *report])
    shards = {split: writer.shards for split, writer in writers.items()}
    write_json(folder / MANIFEST, {**FORMAT, "shards": shards, "ids": VOCABULARY})
    return report


def tokenize(corpus, folder):
    """Pairs of name and (N,) ids of every text file in a folder; the work is done only once.

    Raises:
        ShardError: as `prepare` does.
    """
    files = []
    for _, path in find_files([corpus]):
        prepare([path], folder / path.name)
        files.append((path.name, np.concatenate(open_shards(folder / path.name, "train"))))
    return files


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus", metavar="FOLDER", help="with .txt and .txt.gz files")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the shards go")
    args = parser.parse_args()
    out = Path(args.out)
    try:
        if (out / MANIFEST).exists():
            read_manifest(out)
            print(f"{out} has its shards already. To mix them anew, delete it.")
            return 0
        files = tokenize(args.corpus, out.with_name(f"{out.name}-of-files"))
        out.mkdir(parents=True, exist_ok=True)
        report = mix(files, out)
    except ShardError as error:
        print(f"pocket_data.py: {error}", file=sys.stderr)
        return 1
    for name, tokens, kept, repeats in report:
        use = f"learned from {repeats} times" if "valid" not in name else "held out"
        print(f"{name:36} {tokens:>10,} tokens, {kept / tokens:.1%} kept, {use}")
    print(f"{len(np.load(out / VOCABULARY)):,} ids")
    return 0


if __name__ == "__main__":
    sys.exit(main())
