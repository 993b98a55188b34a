"""A corpus as token ids on disk: written, checked, and read in batches.

Shapes: B batch, T tokens in a window (`context_length`), W processes that train (`world_size`).

A folder of shards holds
    train-00000.bin, ...    GPT-2's token ids, 2 bytes each, little-endian, without a header
    val-00000.bin, ...      the same for the text that is held out
    manifest.json           settings, sources, and for each shard its tokens and sha256
Every document ends with `<|endoftext|>` (id 50256), and a document may go on in the next shard. The
manifest is written last: a folder without it is not finished.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import numpy as np

import companion

TOKENIZER, VOCAB_SIZE, END_OF_TEXT = "gpt2", 50257, 50256
DTYPE = np.dtype("<u2")  # two bytes, the lower one first, on every machine
SPLITS = ("train", "val")
MANIFEST = "manifest.json"
FORMAT = {
    "format": "token-shards",
    "version": 1,
    "tokenizer": TOKENIZER,
    "vocab_size": VOCAB_SIZE,
    "dtype": DTYPE.str,
}
MEND = "Copy it again from where it came, or delete the folder and run prepare_text.py again."
ROUNDS = 6  # of the Feistel network in `random_order`; four already look random


class ShardError(RuntimeError):
    """Shards cannot be written or read; the message says which file, why, and what to do."""


# Reading


class TokenBatches:
    """Batches of (inputs, targets) from a folder of shards, in an order that the seed fixes.

    The tokens of a split count as one long row, cut into windows of T; the target of a window's
    last token is the first token of the next window. So a window can hold the end of one document
    and the beginning of another, with `<|endoftext|>` between them. An epoch gives the windows of
    "train" in a random order and the next epoch in another one; "val" is read in its order, in
    every epoch.

    Global batch k of an epoch is the windows k*B*W to (k+1)*B*W of that order, and rank r is given
    the r-th B of them. So one process with batches of 2B learns from the same as two with B.

    Nothing is read at the start but the manifest and the sizes of the shards. The order takes no
    memory either, see `random_order`. What was read stays in the system's cache of files, which
    counts as this process's memory until the system needs it for something else.

    Args:
        folder: what `prepare_text.py` wrote.
        batch_size: B, windows in a batch of this rank.
        context_length: T, tokens in a window.
        seed: a number from 0 on; another one gives another order.
        rank, world_size: which of how many processes this is.
        split: "train" or "val".

    Attributes:
        num_batches: global batches in an epoch; windows that fill no batch are left out.
        position: global batches given so far: all there is to save and restore.

    Raises:
        ShardError: manifest or shards are missing or damaged, or there are too few tokens.
        ValueError: an argument that cannot be.
    """

    def __init__(
        self, folder, batch_size, context_length, seed, rank=0, world_size=1, split="train"
    ):
        for name, value in [
            ("batch_size", batch_size),
            ("context_length", context_length),
            ("world_size", world_size),
        ]:
            if value < 1:
                raise ValueError(f"{name} must be at least 1, but is {value}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie from 0 to {world_size - 1}, but is {rank}.")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, but is {seed}.")
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, but is {split!r}.")
        self.batch_size, self.context_length, self.seed = batch_size, context_length, seed
        self.rank, self.world_size, self.split = rank, world_size, split
        self.shards = open_shards(folder, split)
        self.starts = np.cumsum([0, *map(len, self.shards)])  # of the shards, and the end
        self.num_windows = max(0, int(self.starts[-1]) - 1) // context_length
        self.num_batches = self.num_windows // (batch_size * world_size)
        self.position = 0
        if self.num_batches == 0:
            wanted = batch_size * world_size
            raise ShardError(
                f"{folder} has {self.starts[-1]:,} tokens of {split}, but one batch of {wanted} "
                f"windows of context_length={context_length} needs {wanted * context_length + 1:,}"
                ". Prepare more text, or choose a smaller batch_size or context_length"
                + (" or a larger --val-share." if split == "val" else ".")
            )

    @property
    def position(self):
        return self._position

    @position.setter
    def position(self, batches):
        if not isinstance(batches, Integral) or batches < 0:
            raise ValueError(f"position must be a whole number from 0 on, but is {batches!r}.")
        self._position = int(batches)

    def next(self):
        """The next batch of this rank: inputs and targets, each (B, T), int64 tensors."""
        import torch  # here, because prepare_text.py and its workers do without it

        epoch, batch = divmod(self.position, self.num_batches)
        first = (batch * self.world_size + self.rank) * self.batch_size
        windows = np.arange(first, first + self.batch_size)
        if self.split == "train":
            windows = random_order(windows, self.num_windows, self.seed, epoch)
        rows = np.stack([self._window(int(number)) for number in windows])  # (B, T + 1)
        self.position += 1
        tokens = torch.from_numpy(rows.astype(np.int64))
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()  # (B, T), (B, T)

    def _window(self, number):
        """The tokens of a window and the one after it, (T + 1,), of one shard or several."""
        start = number * self.context_length
        stop = start + self.context_length + 1
        parts = []
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            parts.append(self.shards[shard][start - self.starts[shard] : stop - self.starts[shard]])
            start += len(parts[-1])
            shard += 1
        return np.concatenate(parts)


def random_order(places, count, seed, epoch):
    """The numbers at some places of a random order of 0 to `count` - 1, without making the order.

    A Feistel network permutes the numbers of 2 * `half` bits: each round changes one half of the
    bits by a hash of the other, which can be undone, so that no two numbers become the same. A
    result of `count` or more goes through again, until it is a number that we have. Memory does
    not grow with `count`, any place is found at once, and the order stays the same under other
    versions of NumPy (whose `permutation` promises neither, and takes 8 bytes for each number).

    Args:
        places: (N,) integers, each from 0 to `count` - 1.
        seed, epoch: numbers from 0 on that choose the order.

    Returns:
        (N,) uint64 array.

    Source: Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), section 5 and 4; the
    hash is the end of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    half = np.uint64(max(3, ((count - 1).bit_length() + 1) // 2))  # 64 numbers at the least
    low_bits = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    numbers = np.array(places, dtype=np.uint64)
    outside = np.ones(len(numbers), dtype=bool)
    while outside.any():
        left, right = numbers[outside] >> half, numbers[outside] & low_bits
        for key in keys:
            left, right = right, left ^ (_hash64(right + key) & low_bits)
        numbers[outside] = (left << half) | right
        outside = numbers >= count
    return numbers


def _hash64(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


# Checking


def open_shards(folder, split):
    """The shards of a split as memory-mapped arrays of token ids, their sizes compared.

    Raises:
        ShardError: as `read_manifest`; or a shard is missing or has another size.
    """
    shards = read_manifest(folder)["shards"][split]
    for shard in shards:
        _check_size(Path(folder) / shard["name"], shard["tokens"])
    return [np.memmap(Path(folder) / shard["name"], dtype=DTYPE, mode="r") for shard in shards]


def check_shards(folder):
    """Compare the sha256 of every shard with the manifest; reads everything once.

    Raises:
        ShardError: as `open_shards`; or a shard holds other bytes than were written.
    """
    shards = [shard for split in read_manifest(folder)["shards"].values() for shard in split]
    for shard in companion.progress(shards, "checking shards"):
        path = Path(folder) / shard["name"]
        _check_size(path, shard["tokens"])
        found = sha256_of(path).hexdigest()
        if found != shard["sha256"]:
            raise ShardError(
                f"{path} is damaged: its sha256 should be {shard['sha256']}, but is {found}. {MEND}"
            )


def read_manifest(folder):
    """The manifest of a folder of shards, as a dictionary.

    Raises:
        ShardError: there is none, or it is damaged, or of another format.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ShardError(
            f"There is no {path}: this is no folder of shards, or prepare_text.py has not finished "
            "it. Run prepare_text.py, with the same arguments to finish what it began."
        ) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise ShardError(f"{path} is damaged, it should be JSON: {error}. {MEND}") from error
    if not isinstance(manifest, dict):
        raise ShardError(f"{path} should hold a JSON object, but holds {manifest!r:.40}. {MEND}")
    for key, expected in FORMAT.items():
        if manifest.get(key) != expected:
            raise ShardError(
                f"{path} should have {key} {expected!r}, but has {manifest.get(key)!r}. {MEND}"
            )
    shards = manifest.get("shards")
    if not isinstance(shards, dict) or list(shards) != list(SPLITS):
        raise ShardError(f"{path} should list shards of {' and '.join(SPLITS)}. {MEND}")
    for split in SPLITS:
        for number, shard in enumerate(shards[split]):
            if not _is_entry(shard, split, number):
                expected = f"{shard_name(split, number)!r}, its tokens and sha256"
                raise ShardError(f"{path} should list {expected}, but has {shard!r}. {MEND}")
    return manifest


def _is_entry(shard, split, number):
    return (
        isinstance(shard, dict)
        and shard.get("name") == shard_name(split, number)
        and isinstance(shard.get("tokens"), int)
        and shard["tokens"] > 0
        and isinstance(shard.get("sha256"), str)
    )


def _check_size(path, tokens):
    expected = tokens * DTYPE.itemsize
    found = path.stat().st_size if path.is_file() else None
    if found is None:
        raise ShardError(f"{path} is missing; it should have {expected:,} bytes. {MEND}")
    if found != expected:
        raise ShardError(
            f"{path} is damaged: it should have {expected:,} bytes, but has {found:,}. {MEND}"
        )


def sha256_of(path):
    """The sha256 object of a file's bytes, read piece by piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest


# Writing


class ShardWriter:
    """Appends token ids to the shards of one split, and can go on where an earlier one was.

    A shard has the name `train-00000.bin.part` until it is complete.

    Args:
        folder: where the shards are.
        split: "train" or "val".
        shard_tokens: tokens in each shard but the last.
        state: what `sync()` of an earlier writer returned. Whatever was written after it is
            forgotten.

    Raises:
        ShardError: the disk is full or a file cannot be written; or files of `state` are gone.
    """

    def __init__(self, folder, split, shard_tokens, state=None):
        state = state or {"shards": [], "tokens": 0}
        self.folder, self.split, self.shard_tokens = Path(folder), split, shard_tokens
        self.shards, self.tokens = list(state["shards"]), state["tokens"]
        self.digest, self.file = hashlib.sha256(), None
        for shard in self.shards:
            _check_size(self.folder / shard["name"], shard["tokens"])
        self._set_back()

    def _set_back(self):
        """Shorten the unfinished shard to the state; what came after it will be written over."""
        current, part = self._paths()
        if current.exists():  # it was completed after the state was saved
            os.replace(current, part)
        if self.tokens:
            size, expected = part.stat().st_size if part.exists() else 0, self.tokens * 2
            if size < expected:
                raise ShardError(
                    f"{part} should have {expected:,} bytes or more, but has {size:,}. Delete "
                    f"{self.folder} and begin again."
                )
            os.truncate(part, expected)
            self.digest = sha256_of(part)

    def _paths(self):
        """Final and unfinished name of the current shard."""
        name = shard_name(self.split, len(self.shards))
        return self.folder / name, self.folder / f"{name}.part"

    @property
    def total_tokens(self):
        return sum(shard["tokens"] for shard in self.shards) + self.tokens

    def write(self, ids):
        """Append a (N,) array of token ids."""
        while len(ids):
            room = self.shard_tokens - self.tokens
            self._append(ids[:room].astype(DTYPE).tobytes())
            self.tokens += len(ids[:room])
            ids = ids[room:]
            if self.tokens == self.shard_tokens:
                self.finish_shard()

    def _append(self, data):
        _, part = self._paths()
        self.digest.update(data)
        with advice_on_failure(part):
            if self.file is None:
                # Not buffered: what a full disk did not take would be tried again by close().
                self.file = open(part, "ab" if self.tokens else "wb", buffering=0)  # noqa: SIM115
            rest = memoryview(data)
            while rest:
                rest = rest[self.file.write(rest) :]

    def finish_shard(self):
        """Give the current shard its final name, unless it is empty."""
        self.sync()
        self.close()
        if self.tokens:
            final, part = self._paths()
            with advice_on_failure(final):
                os.replace(part, final)
                sync_folder(self.folder)
            self.shards.append(
                {"name": final.name, "tokens": self.tokens, "sha256": self.digest.hexdigest()}
            )
            self.tokens, self.digest = 0, hashlib.sha256()

    def sync(self):
        """Make sure that all tokens are on the disk; returns the state to go on from."""
        if self.file is not None:
            with advice_on_failure(self.file.name):
                os.fsync(self.file.fileno())
        return {"shards": self.shards, "tokens": self.tokens}

    def close(self):
        if self.file is not None:
            self.file.close()
            self.file = None


def shard_name(split, number):
    return f"{split}-{number:05d}.bin"


def write_json(path, content):
    """Write a file of JSON at once or not at all: under another name, then renamed."""
    unfinished = path.with_name(f"{path.name}.part")
    with advice_on_failure(path):
        with open(unfinished, "w", encoding="utf-8", newline="\n") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)


def sync_folder(folder):
    """Make sure that a new name is on the disk; Windows has no way to ask for it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def advice_on_failure(path):
    """Turn the system's error (disk full, no permission) into one that says how to go on."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"Could not write {path}: {error.strerror or error}. Make room, or make the folder "
            "writable, and run the same command again: it goes on from what was written before."
        ) from error
