"""Byte pair encoding, from scratch.

Words used throughout:
    byte    0 to 255; every text is a string of bytes once it is written as UTF-8
    word    a stretch of text that no token crosses, such as " the" (with its blank) or "!!"
    token   a string of bytes with an id: the 256 single bytes, and whatever was merged from them
    merge   a rule "left id, right id -> new id"
    rank    the age of a merge, oldest first; ids are handed out by age, so the new id is the rank

Ids run from 0 to 255 for the bytes, go on with the merged tokens and end with the special ones.
GPT-2 has 256 + 50,000 + 1 = 50,257 of them.

Read this file next to `bpe-from-scratch.ipynb`, or run it: `python bpe.py`.
"""

import hashlib
import heapq
import json
import os
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import regex

FORMAT = "bpe-tokenizer"
FORMAT_VERSION = 1
MAX_CACHED_WORDS = 200_000

# The two files that OpenAI published with GPT-2.
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"

# A tokenizer must not change when a library learns a new alphabet. tiktoken knows Unicode 16;
# the code points below became letters or numbers later (up to Unicode 18). Here, as in tiktoken,
# they are neither.
AFTER_UNICODE_16 = (
    r"\u0558\u058B-\u058C\u088F\u0C5C\u0CDC\u208F\u209D-\u209F\uA7CE-\uA7CF\uA7D2\uA7D4"
    r"\uA7DD-\uA7F1\uAB6C-\uAB6D\U000107BB-\U000107BF\U00010940-\U00010959"
    r"\U00010EC5-\U00010EEE\U00011B0A\U00011DB0-\U00011DF1\U0001246F\U00012475-\U0001247F"
    r"\U00012550-\U00012686\U00016EA0-\U00016ED3\U00016FF2-\U00016FF6\U000187F8-\U000187FF"
    r"\U00018CD6-\U00018CDA\U00018D09-\U000191D2\U0001B123-\U0001B128\U0001B168\U0001D6A6"
    r"\U0001DF1F-\U0001DF24\U0001DF2B-\U0001DFFF\U0001E6C0-\U0001E6FF\U0002B73A-\U0002B73F"
    r"\U0002B81E\U0002CEA2-\U0002CEAD\U000323B0-\U0003FC3F"
)
LETTER = rf"[\p{{L}}--[{AFTER_UNICODE_16}]]"
NUMBER = rf"[\p{{N}}--[{AFTER_UNICODE_16}]]"
SIGN = rf"[[^\s\p{{L}}\p{{N}}]||[{AFTER_UNICODE_16}]]"

# GPT-2's way of cutting a text into words: the first alternative that fits wins.
WORD_PATTERN = regex.compile(
    r"'(?:s|d|m|t|ll|ve|re)"  # the ends of it's, we'd, I'm, don't, we'll, I've, you're
    rf"| ?{LETTER}+"  # letters, with one blank before them
    rf"| ?{NUMBER}+"  # digits, likewise
    rf"| ?{SIGN}+"  # punctuation, emoji and the rest, likewise
    r"|\s+(?!\S)"  # white space; its last character is left for the word that follows
    r"|\s+",
    flags=regex.V1,  # this version of the syntax knows set difference (--) and union (||)
)


def gpt2_byte_order():
    """The byte that each of the ids 0 to 255 stands for.

    GPT-2's files write every token as visible text, so each byte needs a visible character. The
    188 bytes that are printable in Latin-1 stand for themselves; the other 68 (control characters,
    the blank, ...) borrow the characters from U+0100 on, which makes the blank a "Ġ". Ids were
    given in the order of these characters: first the printable bytes, then the rest. Hence "!" is
    id 0 and the blank, byte 32, is id 220.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [byte for byte in range(256) if byte not in printable]


BYTE_ORDER = gpt2_byte_order()  # id -> byte
BYTE_TO_ID = bytes(BYTE_ORDER.index(byte) for byte in range(256))  # byte -> id


def split_words(text):
    """Cut a text into words; joined together they give the text again."""
    return WORD_PATTERN.findall(text)


def byte_ids(word):
    """The ids of a word's bytes: its tokens before any merge."""
    return list(word.encode("utf-8").translate(BYTE_TO_ID))


def merge_pair(ids, pair, new_id):
    """Replace `pair` by `new_id` wherever it occurs in `ids`, from left to right."""
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def learn_merges(word_counts, num_merges):
    """Merge the most frequent pair, again and again.

    Only the words that contain the chosen pair are recounted. The heap holds every pair under the
    count it had when it was pushed. Counts of old pairs only fall, so an entry that turns out to
    be too high goes back with its true count, and the top entry with a true count is the maximum.

    Args:
        word_counts: dict, word -> how often the text has it.
        num_merges: stop after this many, or when no pair occurs twice.

    Returns:
        List of (left id, right id). Of two pairs with equal counts the one with lower ids wins.
    """
    words = [(byte_ids(word), count) for word, count in word_counts.items()]
    pair_counts = Counter()
    words_with = defaultdict(set)  # pair -> positions in `words`
    for w, (ids, count) in enumerate(words):
        for pair in pairwise(ids):
            pair_counts[pair] += count
            words_with[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    merges = []
    while heap and len(merges) < num_merges:
        negative_count, pair = heapq.heappop(heap)
        if pair_counts[pair] < 2:
            continue
        if pair_counts[pair] != -negative_count:
            heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        new_id = 256 + len(merges)
        merges.append(pair)
        new_pairs = apply_merge(pair, new_id, words, pair_counts, words_with)
        for new_pair in new_pairs:
            heapq.heappush(heap, (-pair_counts[new_pair], new_pair))
    return merges


def apply_merge(pair, new_id, words, pair_counts, words_with):
    """Merge `pair` in every word that has it, keep the counts true, return the new pairs."""
    new_pairs = set()
    for w in words_with.pop(pair):
        old_ids, count = words[w]
        new_ids = merge_pair(old_ids, pair, new_id)
        if len(new_ids) == len(old_ids):  # an earlier merge took the pair out of this word
            continue
        words[w] = (new_ids, count)
        for old_pair in pairwise(old_ids):
            pair_counts[old_pair] -= count
        for new_pair in pairwise(new_ids):
            pair_counts[new_pair] += count
            if new_id in new_pair:
                words_with[new_pair].add(w)
                new_pairs.add(new_pair)
    return new_pairs


def merge_by_rank(ids, merges):
    """Apply the merges to one word, the oldest first.

    A heap holds (new id, position) of every pair that can merge. Merging keeps the left position,
    empties the right one and relinks the neighbors, so even a very long word takes n log n steps.

    Args:
        ids: list of ids of the word's bytes.
        merges: dict, (left id, right id) -> new id.

    Returns:
        List of ids.
    """
    end = len(ids)
    ids = [*ids, None]  # the last place stays empty; places -1 and `end` both mean "no neighbor"
    left = list(range(-1, end))
    right = [*range(1, end + 1), end]
    heap = [(merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]
    heapq.heapify(heap)
    while heap:
        new_id, i = heapq.heappop(heap)
        j = right[i]
        if merges.get((ids[i], ids[j])) != new_id:  # this pair is gone
            continue
        ids[i], ids[j] = new_id, None
        right[i] = right[j]
        left[right[i]] = i
        for k in (left[i], i):  # two new pairs: with the left and with the right neighbor
            pair = (ids[k], ids[right[k]])
            if pair in merges:
                heapq.heappush(heap, (merges[pair], k))
    return [token_id for token_id in ids if token_id is not None]


def special_pattern(special_tokens):
    """A pattern that finds the special tokens, the longest first; none of them: no match."""
    by_length = sorted(special_tokens, key=len, reverse=True)
    return regex.compile("(" + ("|".join(map(regex.escape, by_length)) or "(?!)") + ")")


def without_lone_surrogates(text):
    """Half an emoji (a lone surrogate) has no UTF-8 form; like tiktoken, put U+FFFD for it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_text(text):
    if not isinstance(text, str):
        raise TypeError(
            f"expected a str, got {type(text).__name__}: {text!r:.60}. "
            "Turn bytes into text with .decode('utf-8'), join a list with ''.join(...)."
        )


def check_merges(merges):
    """Every rule must join two ids that exist by then, and no two rules the same ones."""
    seen = set()
    for new_id, pair in enumerate(merges, start=256):
        is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not is_pair or not all(type(i) is int and 0 <= i < new_id for i in pair):
            raise ValueError(
                f"merge number {new_id - 256} is {pair!r}, expected two ids from 0 to {new_id - 1}"
            )
        if tuple(pair) in seen:
            raise ValueError(f"merge number {new_id - 256} repeats the pair {pair!r}")
        seen.add(tuple(pair))


def check_special_tokens(special_tokens):
    is_sequence = isinstance(special_tokens, (tuple, list))
    if not is_sequence or not all(isinstance(t, str) and t for t in special_tokens):
        raise ValueError(
            f"special tokens must be a list of non-empty strings, got {special_tokens!r}"
        )
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"special tokens must differ from each other, got {special_tokens!r}")


def read_verified(path, sha256):
    """The bytes of a file, if they are the published ones."""
    data = Path(path).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} ({len(data):,} bytes) is not GPT-2's file, or it is damaged: its sha256 is "
            f"{found}, expected {sha256}. Delete it and take the paths that "
            "`companion.tokenizer_files()` returns."
        )
    return data


class BPETokenizer:
    """Text to token ids and back.

    Make one with `train`, `load` or `from_gpt2`. Like tiktoken's `Encoding` it has `encode`,
    `encode_ordinary`, `decode`, `decode_bytes` and `n_vocab`.

    Attributes:
        merges: dict, (left id, right id) -> new id.
        tokens: dict, id -> bytes; special tokens included.
        special_ids: dict, special token -> id.
    """

    def __init__(self, merges, special_tokens=()):
        check_merges(merges)
        check_special_tokens(special_tokens)
        self.merges = {}
        self.tokens = {i: bytes([byte]) for i, byte in enumerate(BYTE_ORDER)}
        for new_id, (left, right) in enumerate(merges, start=256):
            self.merges[left, right] = new_id
            self.tokens[new_id] = self.tokens[left] + self.tokens[right]
        self.special_ids = {token: len(self.tokens) + i for i, token in enumerate(special_tokens)}
        self.tokens.update({i: token.encode("utf-8") for token, i in self.special_ids.items()})
        self._special_pattern = special_pattern(special_tokens)
        self._word_cache = {}

    @property
    def n_vocab(self):
        """Number of ids; the largest is one less."""
        return len(self.tokens)

    @classmethod
    def train(cls, text, vocab_size, special_tokens=("<|endoftext|>",)):
        """Learn the merges from a text.

        Args:
            text: str to learn from. A special token in it ends a document: it is not learned.
            vocab_size: ids in all: 256 bytes, the merges, the special tokens. A text in which no
                pair is left that occurs twice gives fewer.
            special_tokens: strings that get an id of their own, after all others.

        Raises:
            TypeError: `text` is not a str, or `vocab_size` not an int.
            ValueError: `vocab_size` is too small, or there is no text to learn from.
        """
        check_text(text)
        check_special_tokens(special_tokens)
        if type(vocab_size) is not int:
            raise TypeError(f"vocab_size must be an int, got {vocab_size!r}")
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} special "
                f"tokens need at least {smallest}"
            )
        word_counts = Counter()
        for part in special_pattern(special_tokens).split(without_lone_surrogates(text)):
            if part not in special_tokens:
                word_counts.update(split_words(part))
        if not word_counts:
            raise ValueError(
                f"there is nothing to learn from: the text has {len(text)} characters outside "
                "special tokens. Pass a text in which at least one pair of letters repeats."
            )
        return cls(learn_merges(word_counts, vocab_size - smallest), special_tokens)

    @classmethod
    def from_gpt2(cls, vocab_bpe_path, encoder_json_path):
        """GPT-2's tokenizer, from the two files OpenAI published.

        `vocab.bpe` lists the merges, oldest first, one a line below a version line; `encoder.json`
        gives every token's id. Both spell bytes as described at `gpt2_byte_order`.

        Raises:
            ValueError: a file is damaged or another one (its sha256 differs).
        """
        lines = read_verified(vocab_bpe_path, VOCAB_BPE_SHA256).decode("utf-8").split("\n")
        ids = json.loads(read_verified(encoder_json_path, ENCODER_JSON_SHA256))
        merges = [tuple(ids[token] for token in line.split(" ")) for line in lines[1:-1]]
        return cls(merges, special_tokens=["<|endoftext|>"])

    def encode(self, text, *, allowed_special=frozenset()):
        """Token ids of a text.

        Args:
            text: str.
            allowed_special: the special tokens that may occur in `text` and become their one id:
                a set of them, or "all". Text from strangers should not be able to end a document.

        Raises:
            ValueError: `text` contains a special token that is not allowed.
        """
        check_text(text)
        if isinstance(allowed_special, str):
            if allowed_special != "all":
                raise TypeError(
                    f'allowed_special must be "all" or a set, got the str {allowed_special!r}; '
                    f"write {{{allowed_special!r}}}"
                )
            allowed_special = self.special_ids
        ids = []
        for part in self._special_pattern.split(text):
            if part not in self.special_ids:
                ids.extend(self.encode_ordinary(part))
            elif part in allowed_special:
                ids.append(self.special_ids[part])
            else:
                raise ValueError(
                    f"the text contains the special token {part!r}, which is not allowed here. "
                    f"Pass allowed_special={{{part!r}}} to get its id, or call encode_ordinary "
                    "to treat it as plain text."
                )
        return ids

    def encode_ordinary(self, text):
        """Token ids of a text in which special tokens count as plain text."""
        check_text(text)
        cache = self._word_cache
        ids = []
        for word in split_words(without_lone_surrogates(text)):
            word_ids = cache.get(word)
            if word_ids is None:
                if len(cache) >= MAX_CACHED_WORDS:
                    cache.clear()
                word_ids = cache[word] = merge_by_rank(byte_ids(word), self.merges)
            ids.extend(word_ids)
        return ids

    def decode_bytes(self, ids):
        """The bytes that the ids stand for.

        Raises:
            TypeError: `ids` is not a list of ints.
            ValueError: an id that this tokenizer does not have.
        """
        try:
            return b"".join([self.tokens[token_id] for token_id in ids])
        except KeyError as error:
            raise ValueError(
                f"unknown token id {error.args[0]!r}: this tokenizer has the ints 0 to "
                f"{self.n_vocab - 1}. Were the ids made with another tokenizer, or are they a "
                "tensor that still needs .tolist()?"
            ) from None
        except TypeError:
            raise TypeError(
                f"expected a list of ints, got {type(ids).__name__}: {ids!r:.60}. "
                "Put a single id in brackets, [id]; flatten a batch first."
            ) from None

    def decode(self, ids):
        """The text that the ids stand for; bytes that are no valid UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path):
        """Write the tokenizer as one JSON file; an older file is replaced in one step."""
        path = Path(path)
        content = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "special_tokens": list(self.special_ids),
            "merges": list(self.merges),
        }
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path):
        """Read a tokenizer that `save` wrote.

        Raises:
            ValueError: the file is truncated, not ours, of another version, or inconsistent.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not complete JSON ({error}). Was it cut short? Save it again."
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} was not written by BPETokenizer.save: no format {FORMAT!r}")
        if content.get("version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {content.get('version')!r}, this code reads version "
                f"{FORMAT_VERSION}. Use the bpe.py that wrote it, or train and save again."
            )
        if not isinstance(content.get("merges"), list):
            raise ValueError(f"{path} has no list of merges. Save it again.")
        try:
            return cls(content["merges"], content.get("special_tokens"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}. Save it again.") from error


def main(text="low lower lowest, new newer newest", vocab_size=264):
    """Train on a line of text, then load GPT-2's merges and compare with tiktoken."""
    import tiktoken

    import companion

    companion.setup()

    tokenizer = BPETokenizer.train(text, vocab_size)
    print(f"Learned from {text!r}:")
    for left, right in tokenizer.merges:
        print(f"  {tokenizer.decode([left])!r} + {tokenizer.decode([right])!r}")
    ids = tokenizer.encode("slower")
    print("'slower' becomes", [tokenizer.decode([i]) for i in ids])

    gpt2 = BPETokenizer.from_gpt2(*companion.tokenizer_files())
    sentence = "Hello, do you like tea? <|endoftext|> In the sunlit terraces"
    ids = gpt2.encode(sentence, allowed_special={"<|endoftext|>"})
    theirs = tiktoken.get_encoding("gpt2").encode(sentence, allowed_special={"<|endoftext|>"})
    print(f"GPT-2's merges on {sentence!r}:\n  {ids}\n  tiktoken agrees: {ids == theirs}")


if __name__ == "__main__":
    main()
