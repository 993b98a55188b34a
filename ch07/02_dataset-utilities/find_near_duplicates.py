"""Find texts that are nearly the same: the same sentence twice, or with a word changed.

    python find_near_duplicates.py ../../companion/data/instructions.json --threshold 0.8
    python find_near_duplicates.py stories.txt

Each text is taken as the set of its shingles, the pieces of SHINGLE characters that it holds; case
and the amount of blank space do not count. The similarity of two texts is Jaccard's: the shingles
that both have, over those that either has. 1 means the same shingles.

Comparing all pairs would take hours for 50,000 texts. Three bounds leave few to compare, and none
of them loses a pair:

1. Two sets with a similarity of at least t share at least t times the larger one's size. So if
   each keeps only its rarest shingles, 1 - t of them and one more, the two still share one.
2. For the same reason the smaller set has at least t times the size of the larger one.
3. A set's shingles, spread over SIGNATURE_BITS bits, make a signature. Two signatures
   differ in no more bits than the sets do in shingles.

Shapes: N texts, M shingles of all texts together, P pairs.
"""

import argparse
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import companion

SHINGLE = 5  # characters
KEYS = ("instruction", "input", "output")
PAIRS_AT_ONCE = 250_000  # bounds the memory
SIGNATURE_BITS = 1024
WORDS_FIRST = 4  # of 64 bits of the signatures: enough to tell most texts apart
BITS_IN_16 = np.array([bin(n).count("1") for n in range(1 << 16)], dtype=np.uint8)


class InputError(ValueError):
    """A file that cannot be searched; the message says why, and what to do."""


# The texts of a file


def texts_of_file(path, keys=KEYS):
    """The texts of a JSON list of objects or strings, or the lines of any other file.

    Args:
        path: `.json`, or text with one entry in a line, such as `.tsv` or `.txt`.
        keys: of an object, the values to join into its text.

    Returns:
        list of str. Blank lines of a text file are left out.

    Raises:
        InputError: no such file, no UTF-8, JSON cut short, no list, no entries, or an entry that
            lacks a key or has something else than text there.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}). Convert it first.") from error
    if Path(path).suffix != ".json":
        texts = [line for line in text.splitlines() if line.strip()]
    else:
        texts = [_text_of(entry, i, keys, path) for i, entry in enumerate(_json_list(text, path))]
    if not texts:
        raise InputError(f"{path} has no entries.")
    return texts


def _json_list(text, path):
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON: {error.msg} in line {error.lineno}. "
            "Was the file cut short? Get it again."
        ) from error
    if not isinstance(entries, list):
        raise InputError(f"{path} must hold a JSON list, not a {type(entries).__name__}.")
    return entries


def _text_of(entry, number, keys, path):
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, dict):
        raise InputError(
            f"Entry {number} of {path} must be an object or text, not {type(entry).__name__}."
        )
    missing = [key for key in keys if key not in entry]
    if missing:
        raise InputError(
            f"Entry {number} of {path} has no {' and no '.join(map(repr, missing))}, only "
            f"{', '.join(map(repr, entry)) or 'nothing'}. Name the keys to compare with --keys."
        )
    for key in keys:
        if not isinstance(entry[key], str):
            raise InputError(
                f"Entry {number} of {path}: {key!r} must be text, but is {entry[key]!r}."
            )
    return "\n".join(entry[key] for key in keys)


# Shingles


def shingles_of(texts):
    """Each text's distinct shingles, as numbers in ascending order; rare shingles have small ones.

    A number is how common the shingle is, on a coarse scale of 64 steps, and 57 bits of a hash of
    its characters. That two shingles meet in one number is next to impossible.

    Returns:
        list of N arrays of uint64.
    """
    normal = [re.sub(r"\s+", " ", f" {text.casefold()} ").ljust(SHINGLE) for text in texts]
    ends = np.cumsum([0] + [len(text) for text in normal])
    characters = np.frombuffer("".join(normal).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    multipliers = np.random.default_rng(0).integers(1 << 63, size=SHINGLE, dtype=np.uint64) * 2 + 1
    numbers = np.zeros(len(characters) - SHINGLE + 1, dtype=np.uint64)
    for place, multiplier in enumerate(multipliers):
        numbers += characters[place : place + len(numbers)].astype(np.uint64) * multiplier

    bucket_bits = min(22, len(numbers).bit_length())  # uses are counted for many shingles at once
    bucket = (numbers >> np.uint64(64 - bucket_bits)).astype(np.int64)
    uses = np.bincount(bucket)
    step = np.minimum(63, 4 * np.log2(np.maximum(uses, 1))).astype(np.uint64)
    numbers = step[bucket] << np.uint64(57) | numbers >> np.uint64(7)
    spans = companion.progress(list(pairwise(ends.tolist())), "cutting into shingles")
    return [np.unique(numbers[begin : end - SHINGLE + 1]) for begin, end in spans]


def signatures_of(shingles, sizes):
    """(N, SIGNATURE_BITS / 64) uint64: a bit is set if a shingle of the text falls to it.

    Args:
        shingles: (M,) of all texts, one text after the other.
        sizes: (N,) how many each text has.
    """
    bits = np.zeros((len(sizes), SIGNATURE_BITS), dtype=bool)
    bits[np.repeat(np.arange(len(sizes)), sizes), (shingles % SIGNATURE_BITS).astype(int)] = True
    return np.packbits(bits, axis=1).view(np.uint64)


# Pairs


def near_duplicates(texts, threshold):
    """All pairs of texts whose shingles have a Jaccard similarity of at least `threshold`.

    Args:
        texts: list of N strings.
        threshold: above 0, at most 1. The lower, the more there is to compare.

    Returns:
        list of (i, j, similarity) with i < j, sorted by i, then j.

    Raises:
        ValueError: `threshold` is out of range.
        TypeError: an entry is no string; names it.

    Source: Chaudhuri, Ganti, Kaushik, "A Primitive Operator for Similarity Joins in Data Cleaning",
    ICDE 2006 (prefixes); Sandes, Teodoro, Melo, "Bitmap Filter", 2020 (signatures).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, but is {threshold}.")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"Text {number} must be a string, but is {text!r}.")
    if len(texts) < 2:
        return []
    search = _Search(texts, threshold)
    blocks = companion.progress(search.blocks(), "comparing")
    found = [search.pairs_of(begin, end) for begin, end in blocks]
    i, j, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((j, i))
    return list(zip(i[order].tolist(), j[order].tolist(), similarity[order].tolist(), strict=True))


class _Search:
    """Texts in the order of their number of shingles, and an index of each one's rarest shingles.

    A text is called by its rank in that order, and compared with those of lower rank only.
    """

    def __init__(self, texts, threshold):
        self.threshold = threshold
        sets = shingles_of(texts)
        sizes = np.array([len(one) for one in sets])
        self.text_of = np.argsort(sizes, kind="stable")  # rank -> place in `texts`
        self.sizes = sizes[self.text_of]
        self.sets = [sets[place] for place in self.text_of]
        self.signatures = signatures_of(np.concatenate(self.sets), self.sizes)
        self._index_the_rarest()

    def _index_the_rarest(self):
        """Sorted `keys`, shingle and rank in one number; and for each shingle of each text, where
        among the keys the texts of lower rank that are large enough begin and end."""
        num_texts, smallest_partner = len(self.sets), _ceil(self.threshold * self.sizes)
        kept = self.sizes - smallest_partner + 1
        rarest = np.concatenate([one[:k] for one, k in zip(self.sets, kept, strict=True)])
        self.rank = np.repeat(np.arange(num_texts), kept)
        keys = np.unique(rarest, return_inverse=True)[1] * num_texts + self.rank
        lowest = np.searchsorted(self.sizes, smallest_partner)
        self.keys = np.sort(keys)
        self.first = np.searchsorted(self.keys, keys - self.rank + lowest[self.rank])
        self.end = np.searchsorted(self.keys, keys)

    def blocks(self):
        """Ranges of ranks, each with about PAIRS_AT_ONCE candidates."""
        before = np.append(0, np.cumsum(self.end - self.first))
        before = before[np.searchsorted(self.rank, np.arange(len(self.sizes) + 1))]
        block = before[:-1] // PAIRS_AT_ONCE
        cuts = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(block)]
        return list(pairwise(cuts))

    def pairs_of(self, begin, end):
        """Near-duplicates of a range of texts among those of lower rank.

        Returns:
            i, j and similarity, (P,) each; i < j, places in the list of texts.
        """
        pairs = np.unique(self._candidates(begin, end))
        low, high = pairs % len(self.sets), pairs // len(self.sets)
        shared = np.array([self._num_shared(a, b) for a, b in zip(low, high, strict=True)])
        similarity = shared / (self.sizes[low] + self.sizes[high] - shared)
        is_near = similarity >= self.threshold
        i, j = self.text_of[low[is_near]], self.text_of[high[is_near]]
        return np.minimum(i, j), np.maximum(i, j), similarity[is_near]

    def _candidates(self, begin, end):
        """Pairs of texts that share one of their rarest shingles and have similar signatures.

        Returns:
            (P,) high rank times N, plus low rank; a pair comes once for each shingle it shares.
        """
        places = slice(*np.searchsorted(self.rank, [begin, end]))
        count = self.end[places] - self.first[places]
        low = self.keys[_ranges(self.first[places], count)] % len(self.sets)
        high = np.repeat(self.rank[places], count)
        for words in np.split(self.signatures, [WORDS_FIRST], axis=1):
            total = self.sizes[low] + self.sizes[high]
            allowed = total - 2 * _ceil(self.threshold / (1 + self.threshold) * total)
            differing = (words[low] ^ words[high]).view(np.uint16)
            is_allowed = BITS_IN_16[differing].sum(axis=1, dtype=np.int64) <= allowed
            low, high = low[is_allowed], high[is_allowed]
        return high * len(self.sets) + low

    def _num_shared(self, low, high):
        """How many shingles two texts share."""
        both = np.sort(np.concatenate([self.sets[low], self.sets[high]]))
        return np.count_nonzero(both[1:] == both[:-1])


def _ceil(x):
    """The next whole number, where 0.7 * 10 counts as 7: a bound must not cut off an equal pair."""
    return np.ceil(x - 1e-9).astype(np.int64)


def _ranges(starts, lengths):
    """The numbers of all ranges [start, start + length), one after the other."""
    before = np.append(0, np.cumsum(lengths))
    return np.arange(before[-1]) + np.repeat(starts - before[:-1], lengths)


# Report


def report_lines(texts, pairs, most=20):
    """Lines on how many texts and pairs there are, and the nearest pairs."""
    concerned = len({number for i, j, _ in pairs for number in (i, j)})
    yield f"{len(texts):,} texts, {len(pairs):,} near-duplicate pairs, of {concerned:,} texts"
    nearest = sorted(pairs, key=lambda pair: -pair[2])[:most]
    for i, j, similarity in nearest:
        yield f"\n{similarity:.4f}  {i} and {j}"
        yield from (f"  {number:>6}  {' '.join(texts[number].split())}" for number in (i, j))
    if len(pairs) > most:
        yield f"\n... and {len(pairs) - most:,} pairs that are less near"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="a JSON list, or text with one entry in a line")
    parser.add_argument("--threshold", type=float, default=0.8, help="of the similarity (0.8)")
    parser.add_argument(
        "--keys", nargs="+", default=KEYS, help="of JSON objects: what to compare (the book's keys)"
    )
    args = parser.parse_args()
    try:
        texts = texts_of_file(args.file, args.keys)
        pairs = near_duplicates(texts, args.threshold)
    except ValueError as error:
        print(f"find_near_duplicates.py: {error}", file=sys.stderr)
        return 1
    print("\n".join(report_lines(texts, pairs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
