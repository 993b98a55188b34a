"""Turn files and folders of text into shards of token ids, in memory that does not grow with them.

    python prepare_text.py stories/ more.txt.gz --out shards --val-share 0.01

A source is a file of UTF-8 text, packed by gzip if its name ends in `.gz`, or a folder, in which
all `.txt` and `.txt.gz` files count. A run that was interrupted goes on when the same command is
given again, and ends with the same bytes as one that was not. `token_shards.py` describes and reads
what is written.

A document is a file, or what stands between lines of a file that are exactly `<|endoftext|>`.
Blank space at its two ends is dropped. Line breaks are read as "\\n", as Python does, and a byte
order mark is left out. A document's tokens are those of the tokenizer for the whole document, then
50256. `<|endoftext|>` elsewhere than on a line of its own is ordinary text.

A document of more than PIECE_CHARS characters is worked on in pieces of at most that many. A piece
ends in front of the last line break in reach, or else the last blank, that follows a visible
character. No word that GPT-2's pattern cuts out crosses such a place (it may begin with blanks, but
has none after a visible character), so no token is changed. Only where PIECE_CHARS characters have
no such place, the cut falls within a word or a stretch of blanks: the tokens beside it can differ
from those of the whole document.

Held out are whole documents, or pieces of those that are longer: of all pieces, counted from 1,
number n goes to "val" if the share times n passes a whole number there, so every hundredth for
0.01. It is a share of the pieces, and only roughly one of the tokens. What is left of a document on
both sides of a held-out piece becomes two documents: no text is joined to what it was not beside.
"""

import argparse
import codecs
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import zlib
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
from filelock import FileLock, Timeout
from tqdm import tqdm

import companion
from token_shards import (
    DTYPE,
    END_OF_TEXT,
    FORMAT,
    MANIFEST,
    SPLITS,
    TOKENIZER,
    ShardError,
    ShardWriter,
    advice_on_failure,
    open_shards,
    read_manifest,
    sha256_of,
    write_json,
)

BLOCK_BYTES = 1 << 16  # read at a time
PIECE_CHARS = 1 << 16  # about 16,000 tokens of English; another value makes other held-out pieces
GROUP_CHARS = 1 << 16  # what a worker is given at a time, or one piece more
GROUPS_PER_WORKER = 2  # that wait or are being worked on
SAVE_EVERY = 1_000_000  # tokens; what a killed run has to do again at most
PROGRESS = "progress.json"
SEPARATOR = re.compile(r"\n<\|endoftext\|>(?=\n)")
SEPARATOR_CHARS = len("\n<|endoftext|>\n")


# Sources


def find_files(sources):
    """Pairs of a name for the manifest and a path, folders in the order of their files' names.

    Raises:
        ShardError: a source does not exist, holds no text file, or a file is given twice.
    """
    found = []
    for source in map(Path, sources):
        if source.is_file():
            found.append((source.name, source))
        elif source.is_dir():
            inside = [path for path in source.rglob("*") if path.name.endswith((".txt", ".txt.gz"))]
            names = sorted((path.relative_to(source).as_posix(), path) for path in inside)
            if not names:
                raise ShardError(
                    f"Nothing to read: the folder {source} has no .txt or .txt.gz file. A file of "
                    "another name counts when it is named itself."
                )
            found += [(f"{source.resolve().name}/{name}", path) for name, path in names]
        else:
            raise ShardError(f"Nothing to read: there is no file or folder {source}.")
    seen = set()
    for _, path in found:
        if path.resolve() in seen:
            raise ShardError(
                f"{path} is given twice: its text would count double, and what is held out of one "
                "copy would be trained on in the other. Name it once."
            )
        seen.add(path.resolve())
    return found


def read_texts(path):
    """Yield the text of a file in parts of bounded length.

    Raises:
        ShardError: it is not UTF-8, or not a complete gzip file; the message names the place.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    offset = 0
    with open(path, "rb") as raw:
        is_packed = Path(path).suffix == ".gz"
        file = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if is_packed else raw
        while True:
            try:
                block = file.read(BLOCK_BYTES)
                text = decoder.decode(block, final=not block)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ShardError(
                    f"{path} is not a complete gzip file: {error}. Get it again, or name it without"
                    " .gz if it is not packed."
                ) from error
            except UnicodeDecodeError as error:
                # The decoder had kept the beginning of a character from the block before.
                place = offset + len(block) - len(error.object) + error.start
                raise ShardError(
                    f"{path} is not UTF-8: {error.reason} at byte offset {place:,}"
                    f"{' of the unpacked text' if is_packed else ''} (byte "
                    f"0x{error.object[error.start]:02x}). Convert it, for instance: iconv -f "
                    "latin1 -t utf-8, or leave it out."
                ) from error
            yield text if offset else text.removeprefix("\ufeff")
            if not block:
                return
            offset += len(block)


def describe(files):
    """Read every file once: what the manifest says of each, a list of dictionaries.

    So a fault in the last file is told before hours of work on the first ones, and a run that goes
    on knows whether its sources are still the same.

    Raises:
        ShardError: as `read_texts`.
    """
    described = []
    for name, path in companion.progress(files, "checking text"):
        documents = pieces = characters = 0
        for text, ends in pieces_of(read_texts(path)):
            documents, pieces, characters = documents + ends, pieces + 1, characters + len(text)
        described.append(
            {
                "name": name,
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path).hexdigest(),
                "documents": documents,
                "pieces": pieces,
                "characters": characters,
            }
        )
    return described


def require_text(described, val_share):
    """Raise a ShardError if there is nothing to train on, or nothing is held out."""
    pieces = sum(file["pieces"] for file in described)
    if pieces == 0:
        names = ", ".join(file["name"] for file in described[:3])
        more = f" and {len(described) - 3} more" if len(described) > 3 else ""
        raise ShardError(f"Nothing to read: there is no text in {names}{more}.")
    if val_share and pieces * val_share < 1:
        raise ShardError(
            f"A val_share of {val_share} of {pieces} pieces of text (documents, or parts of long "
            "ones) is less than one: nothing would be held out. Choose a larger share, or 0, or "
            "give more text."
        )


# Documents and pieces


def pieces_of(texts, limit=PIECE_CHARS):
    """Yield (piece, whether its document ends with it) from consecutive parts of a file's text.

    Args:
        texts: strings; how the text is divided between them makes no difference.
        limit: characters in a piece at most.
    """
    held = None  # a piece is given when it is known whether anything but blanks follows
    for text, ends in _raw_pieces(texts, limit):
        if held is None:
            text = text.lstrip()
        if ends:
            text = text.rstrip()
        if text:
            if held is not None:
                yield held, False
            held = text
        if ends and held is not None:
            yield held, True
            held = None


def _raw_pieces(texts, limit):
    """As `pieces_of`, but with blank space at the ends of documents, and with empty ones."""
    rest = "\n"  # so that a separator on the first line has a line break before it
    for text in texts:
        *documents, rest = SEPARATOR.split(rest + text)
        for document in documents:
            yield from _cut(document, limit)
        # The next text may complete a separator, so that the document ends sooner than `rest`.
        while len(rest) > limit + SEPARATOR_CHARS:
            at = place_to_cut(rest, limit)
            yield rest[:at], False
            rest = rest[at:]
    for document in SEPARATOR.split(rest + "\n"):
        yield from _cut(document, limit)


def _cut(document, limit):
    while len(document) > limit:
        at = place_to_cut(document, limit)
        yield document[:at], False
        document = document[at:]
    yield document, True


def place_to_cut(text, limit):
    """Where to end a piece of at most `limit` characters; see the top of this file."""
    for mark in "\n", " ":
        at = text.rfind(mark, 1, limit + 1)
        while at != -1:
            if not text[at - 1].isspace():
                return at
            at = text.rfind(mark, 1, at)
    return limit


def held_out(number, val_share):
    """Whether the piece of this number, counted from 0 over all files, is for validation."""
    return int((number + 1) * val_share) > int(number * val_share)


class Place(NamedTuple):
    """How far the sources have been worked on."""

    file: int = 0
    piece: int = 0  # the next one in this file
    number: int = 0  # of the same piece, counted over all files
    characters: int = 0  # in all pieces before


def groups_of(paths, place, val_share):
    """Yield (pieces from `place` on, the place after them), a piece being (text, split, ends)."""
    group, first, before = [], place, place
    for file in range(first.file, len(paths)):
        pieces = pieces_of(read_texts(paths[file]))
        done = first.piece if file == first.file else 0  # read again, but not tokenized
        for piece, (text, ends) in islice(enumerate(pieces), done, None):
            is_held, next_is_held = (held_out(place.number + i, val_share) for i in (0, 1))
            group.append((text, "val" if is_held else "train", ends or is_held != next_is_held))
            place = Place(file, piece + 1, place.number + 1, place.characters + len(text))
            if place.characters - before.characters >= GROUP_CHARS:
                yield group, place
                group, before = [], place
    if group:
        yield group, place


# Tokens, by as many processes as wanted


@functools.cache
def gpt2_tokenizer():
    companion.prepare_tokenizer()
    return tiktoken.get_encoding(TOKENIZER)


def encode_group(group):
    """Token ids of a group of pieces: {"train": (N,) array, "val": (M,) array}."""
    ids = {split: [] for split in SPLITS}
    for text, split, ends in group:
        ids[split] += gpt2_tokenizer().encode_ordinary(text)
        if ends:
            ids[split].append(END_OF_TEXT)
    return {split: np.array(ids[split], dtype=DTYPE) for split in SPLITS}


def encode_in_order(groups, workers):
    """Yield (tokens, place) for each (group, place), in their order.

    One worker is this process itself. More are processes of their own, and no more than
    GROUPS_PER_WORKER groups for each are read ahead.

    Raises:
        ShardError: a worker was killed.
    """
    if workers == 1:
        for group, place in groups:
            yield encode_group(group), place
        return
    # "spawn" works on every system, and beside threads; a fork would copy whatever is open here.
    context = multiprocessing.get_context("spawn")
    waiting = deque()
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        try:
            for group, place in groups:
                waiting.append((pool.submit(encode_group, group), place))
                if len(waiting) > GROUPS_PER_WORKER * workers:
                    future, place_after = waiting.popleft()
                    yield future.result(), place_after
            for future, place_after in waiting:
                yield future.result(), place_after
        except BrokenProcessPool as error:
            raise ShardError(
                f"One of {workers} worker processes ended without an answer: it was killed, "
                "perhaps for lack of memory. Run the same command again, it goes on from what was "
                "written; fewer --workers need less memory."
            ) from error


def start_worker():
    """Leave Ctrl-C to the main process, and end with it, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


# The whole


def prepare(sources, folder, val_share=0.0, shard_tokens=10_000_000, workers=2):
    """Write the shards and the manifest of some sources, or go on where an earlier run ended.

    Args:
        sources: files and folders of text.
        folder: where the shards go; made if it does not exist.
        val_share: share of the documents that is held out, from 0 to below 1.
        shard_tokens: tokens in each shard but the last; a token takes two bytes.
        workers: processes that tokenize. The shards are the same for any number.

    Returns:
        The manifest, a dictionary.

    Raises:
        ShardError: nothing to read, text that is not UTF-8, an output folder of other settings or
            in use, a full disk, a killed worker; the message says what to do.
        ValueError: an argument that cannot be.
    """
    check_arguments(val_share, shard_tokens, workers)
    files = find_files(sources)
    described = describe(files)
    require_text(described, val_share)
    settings = {
        **FORMAT,
        "val_share": float(val_share),
        "shard_tokens": shard_tokens,
        "sources_sha256": hashlib.sha256(json.dumps(described).encode()).hexdigest(),
    }
    folder = Path(folder)
    with claim(folder):
        if (folder / MANIFEST).exists():
            require_same_settings(folder / MANIFEST, read_manifest(folder), settings)
        else:
            shards = write_shards([path for _, path in files], folder, settings, described, workers)
            manifest = {**settings, "shards": shards, "sources": described}
            write_json(folder / MANIFEST, manifest)
        (folder / PROGRESS).unlink(missing_ok=True)
        for split in SPLITS:
            open_shards(folder, split)
        return read_manifest(folder)


def check_arguments(val_share, shard_tokens, workers):
    """Raise a ValueError that names the first argument that cannot be, and its value."""
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share must be at least 0 and below 1, but is {val_share}.")
    for name, value in [("shard_tokens", shard_tokens), ("workers", workers)]:
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}.")


def claim(folder):
    """Make the folder, and hold it against other runs for as long as the context lasts."""
    with advice_on_failure(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return FileLock(folder / ".lock").acquire(timeout=0)
        except Timeout as error:
            raise ShardError(
                f"Another prepare_text.py is writing to {folder}. Wait for its end, or choose "
                "another folder."
            ) from error


def require_same_settings(path, found, settings):
    """Raise a ShardError if a folder's manifest or progress is that of another corpus."""
    for key, value in settings.items():
        if found.get(key) != value:
            meaning = " (other files, or other text in them)" if key == "sources_sha256" else ""
            raise ShardError(
                f"{path} is of other settings: {key}{meaning} is {found.get(key)!r} there, but "
                f"{value!r} now. Choose another folder, or delete this one to begin again."
            )


def write_shards(paths, folder, settings, described, workers):
    """Tokenize the files into shards, from where an earlier run was; returns their entries."""
    companion.prepare_tokenizer()  # once for all workers
    place, writers = begin_or_resume(folder, settings)
    results = encode_in_order(groups_of(paths, place, settings["val_share"]), workers)
    bar = tqdm(
        desc="tokenizing",
        total=sum(file["characters"] for file in described),
        initial=place.characters,
        unit="char",
        unit_scale=True,
        leave=False,
        disable=None,  # unless there is a terminal to see it
    )
    unsaved = 0
    with bar, closing(results), closing(writers["train"]), closing(writers["val"]):
        for tokens, place in results:
            for split, writer in writers.items():
                writer.write(tokens[split])
                unsaved += len(tokens[split])
            bar.update(place.characters - bar.n)
            if unsaved >= SAVE_EVERY:
                save_progress(folder, settings, place, writers)
                unsaved = 0
        for writer in writers.values():
            writer.finish_shard()
    return {split: writer.shards for split, writer in writers.items()}


def begin_or_resume(folder, settings):
    """The place to go on from, and a writer for each split.

    Raises:
        ShardError: the folder has shards of unknown origin, of other settings, or damaged ones.
    """
    path = folder / PROGRESS
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            place, states, saved_settings = (
                Place(*saved["place"]),
                saved["states"],
                saved["settings"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{path} is damaged: it should be JSON with place, states and settings, but there "
                f"is {type(error).__name__}: {error}. Delete {folder} to begin again."
            ) from error
        require_same_settings(path, saved_settings, settings)
    else:
        strangers = sorted(folder.glob("*.bin*"))
        if strangers:
            raise ShardError(
                f"{folder} holds {strangers[0].name}, but neither {MANIFEST} nor {PROGRESS}, so it "
                "is not known where it comes from. Choose another folder, or delete this one."
            )
        place, states = Place(), dict.fromkeys(SPLITS)
    writers = {
        split: ShardWriter(folder, split, settings["shard_tokens"], states[split])
        for split in SPLITS
    }
    save_progress(folder, settings, place, writers)
    return place, writers


def save_progress(folder, settings, place, writers):
    """Note how far we are, after what was written up to here is on the disk."""
    states = {split: writer.sync() for split, writer in writers.items()}
    write_json(folder / PROGRESS, {"settings": settings, "place": place, "states": states})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="a text file or a folder")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the shards go")
    parser.add_argument(
        "--val-share", type=float, default=0.0, help="share of the documents to hold out"
    )
    parser.add_argument(
        "--shard-tokens", type=int, default=10_000_000, help="tokens in a shard, 2 bytes each"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that tokenize")
    args = parser.parse_args()
    try:
        check_arguments(args.val_share, args.shard_tokens, args.workers)
    except ValueError as error:
        parser.error(str(error))
    manifest = prepare(args.sources, args.out, args.val_share, args.shard_tokens, args.workers)
    for split, shards in manifest["shards"].items():
        tokens = sum(shard["tokens"] for shard in shards)
        print(f"{split}: {tokens:,} tokens in {len(shards)} shards")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on from what was written.")
    except (ShardError, companion.AssetError, OSError) as error:
        sys.exit(str(error))
