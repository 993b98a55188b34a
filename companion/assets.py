"""Verified files: embedded in the repository, carried by a package, cached, or downloaded.

`assets.toml` lists them all. A file is used only when its sha256 agrees with that list, and a
download appears under its final name only when it is complete. What arrives before a connection
breaks off is kept, and the next try goes on from there.
"""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS_WITHOUT_A_BYTE = 30  # then a server counts as not answering
CHUNK = 1 << 14  # bytes; a connection that breaks off loses less than this


class AssetError(RuntimeError):
    """A file of the manifest cannot be had; the message says why, and what to do."""


class WrongFileError(ValueError):
    """A server has another file than the one asked for."""


@lru_cache
def manifest():
    """All of `assets.toml`, as {name: entry}."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads((HERE / "assets.toml").read_text(encoding="utf-8"))


def cache_dir():
    """Folder for downloads: `COMPANION_CACHE`, else the system's place for a user's caches."""
    import pooch  # here, because it takes a while to import and embedded files do not need it

    return Path(os.environ.get("COMPANION_CACHE") or pooch.os_cache("llm-from-scratch-companion"))


def sha256_of(path):
    """The file's sha256, in hexadecimal digits, without the whole file in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_verified(path, entry):
    """Whether the file exists with the size and sha256 that the entry names, where it does."""
    if not path.is_file() or entry.get("size", path.stat().st_size) != path.stat().st_size:
        return False
    return "sha256" not in entry or sha256_of(path) == entry["sha256"]


def local_path(name, folder=None):
    """Where a verified copy of `name` lies on this machine, or None: never downloads.

    Args:
        name, folder: as for `asset`.

    Raises:
        AssetError: the manifest has no such name, or an embedded file was altered.
    """
    if name not in manifest():
        raise AssetError(f"No asset is called {name!r}. Known: {', '.join(sorted(manifest()))}.")
    entry = manifest()[name]
    if "path" in entry and "package" not in entry:
        embedded = HERE / entry["path"]
        if not is_verified(embedded, entry):
            raise AssetError(
                f"{embedded} is missing, or not the file that assets.toml lists (sha256 "
                f"{entry['sha256']}). Bring it back with: git checkout -- {embedded}"
            )
        return embedded
    candidates = [_in_package(entry), (folder or cache_dir()) / name]
    return next((path for path in candidates if path and is_verified(path, entry)), None)


def asset(name, folder=None):
    """A verified local path of the manifest's file `name`, downloaded if need be.

    Args:
        name: a table of `assets.toml`, for instance "the-verdict.txt".
        folder: pathlib.Path in which a download is kept instead of the cache.

    Returns:
        pathlib.Path: of the repository, an installed package or the cache.

    Raises:
        AssetError: an unknown name, an altered embedded file, a folder that cannot be written or
            is full, or no mirror that has the file. The message says what to do.
    """
    return local_path(name, folder) or _download(name, manifest()[name], folder)


def _in_package(entry):
    """The copy that an installed package carries, or None."""
    spec = importlib.util.find_spec(entry["package"]) if "package" in entry else None
    return Path(spec.submodule_search_locations[0], entry["path"]) if spec else None


def _download(name, entry, folder):
    """Fetch into a folder for unfinished files, one process at a time, then rename."""
    from filelock import FileLock

    target = (folder or cache_dir()) / name
    unfinished = target.parent / "unfinished"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with FileLock(unfinished / f"{target.name}.lock"):
            if not is_verified(target, entry):  # another process may have finished it meanwhile
                _fetch_first_good(name, entry, unfinished / f"{target.name}.part", target)
    except OSError as error:
        size = f" ({entry['size']:,} bytes)" if "size" in entry else ""
        other = "" if folder else " in the environment variable COMPANION_CACHE"
        raise AssetError(
            f"Could not write {name!r}{size} to the folder {target.parent}: "
            f"{error.strerror or error}. Make room or make the folder writable, or name another "
            f"folder{other}."
        ) from error
    return target


def _fetch_first_good(name, entry, part, target):
    """Try the mirrors in order. `part` holds what is unfinished, and stays for the next call."""
    failures = []
    for url in entry["urls"]:
        try:
            _complete(part, url, entry)
            os.replace(part, target)
            return
        except Exception as error:
            if _is_local(error):
                part.unlink(missing_ok=True)
                raise
            failures.append(f"  {url}\n    {_reason(error)}")
    raise AssetError(_advice(name, entry, failures, part, target))


def _complete(part, url, entry):
    """Make `part` the whole file, from wherever it ends now.

    Raises:
        WrongFileError: the server has other bytes.
        requests.RequestException: a try has brought no byte.
    """
    import requests

    is_mixed = _size(part) > 0  # its beginning may be another mirror's
    while True:
        before = _size(part)
        try:
            wanted = _receive(part, url, entry)
        except requests.RequestException:
            if _size(part) <= before:
                raise
            continue
        if is_verified(part, wanted):
            return
        part.unlink()
        if not is_mixed:
            raise WrongFileError("the server sent other bytes (wrong sha256)")
        is_mixed = False  # once more, all of it from here


def _receive(part, url, entry):
    """Append to `part` what one connection brings; returns the size and sha256 it should have."""
    import requests
    from tqdm import tqdm

    from companion.session import shows_progress

    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=SECONDS_WITHOUT_A_BYTE) as answer:
        if answer.status_code == 416 and start:  # the file ends before that: begin again
            part.unlink()
            return _receive(part, url, entry)
        answer.raise_for_status()
        if answer.status_code != 206:  # a server that cannot send a part sends all of it
            start = 0
        wanted = _wanted(answer, entry, start)
        size = wanted.get("size")
        _check_room(part.parent, (size or 0) - start)
        bar = {"total": size, "initial": start, "unit": "B", "unit_scale": True, "leave": False}
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=part.stem, disable=not shows_progress(), **bar) as progress,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
    return wanted


def _wanted(answer, entry, start):
    """The sha256 of the file, and its size if known; `start` bytes of it are there already.

    Raises:
        WrongFileError: nobody says what the sha256 is, or the server's file has another size.
    """
    vouching = entry if "sha256" in entry else _hubs_own(answer)
    wanted = {key: vouching[key] for key in ("sha256", "size") if key in vouching}
    if "Content-Length" in answer.headers:
        announced = start + int(answer.headers["Content-Length"])
        if announced != wanted.setdefault("size", announced):
            raise WrongFileError(
                f"the server's file has {announced:,} bytes instead of {wanted['size']:,}"
            )
    return wanted


def _hubs_own(answer):
    """Size and sha256 as Hugging Face's hub names them, in the first of its redirections."""
    for step in [*answer.history, answer]:
        sha256 = step.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", sha256) and "X-Linked-Size" in step.headers:
            return {"sha256": sha256, "size": int(step.headers["X-Linked-Size"])}
    raise WrongFileError(
        "assets.toml lists no sha256 of this file, and the server names none either (in the "
        "headers X-Linked-Etag and X-Linked-Size), so that the file could not be verified"
    )


def _check_room(folder, num_bytes):
    """Raise the OSError of a full disk now rather than in the middle of a long download."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        full = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, f"{full}, {num_bytes:,} bytes are needed, {free:,} are free")


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _is_local(error):
    """Whether the fault is this machine's (disk, rights): then no other mirror can help."""
    import requests

    return isinstance(error, OSError) and not isinstance(error, requests.RequestException)


def _reason(error):
    """One line on why a mirror failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        return f"the server did not answer within {SECONDS_WITHOUT_A_BYTE} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.ConnectionError):
        return "the server could not be reached (is the network on?)"
    if isinstance(error, WrongFileError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _advice(name, entry, failures, part, target):
    lines = [f"Could not download {name!r}: {entry['what']}.", *failures]
    if _size(part):
        lines.append(f"What has come so far is kept ({_size(part):,} bytes): try again to go on.")
    if target.exists():
        lines.append(f"What lies at {target} is not that file.")
    size = f" ({entry['size']:,} bytes)" if "size" in entry else ""
    lines.append(f"By hand: save the file{size} as {target}")
    if "sha256" in entry:
        lines.append(f"  Its sha256 must be {entry['sha256']}.")
    if "meanwhile" in entry:
        lines.append(f"Meanwhile {entry['meanwhile']}, which needs no network, serves instead.")
        lines.append("  Unset PROFILE, or set PROFILE=pocket, to use it.")
    return "\n".join(lines)
