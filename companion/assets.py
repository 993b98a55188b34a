"""Verified files: embedded in the repository, carried by a package, cached, or downloaded.

`assets.toml` lists them all. A file is used only when its sha256 agrees with that list, and a
download appears under its final name only when it is complete.
"""

import hashlib
import importlib.util
import os
import shutil
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS_WITHOUT_A_BYTE = 30  # then a server counts as not answering


class AssetError(RuntimeError):
    """A file of the manifest cannot be had; the message says why, and what to do."""


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


def is_verified(path, entry):
    """Whether the file exists with the size and sha256 that the manifest's entry names."""
    if not path.is_file() or path.stat().st_size != entry["size"]:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def local_path(name):
    """Where a verified copy of `name` lies on this machine, or None: never downloads.

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
    candidates = [_in_package(entry), cache_dir() / name]
    return next((path for path in candidates if path and is_verified(path, entry)), None)


def asset(name):
    """A verified local path of the manifest's file `name`, downloaded if need be.

    Args:
        name: a table of `assets.toml`, for instance "the-verdict.txt".

    Returns:
        pathlib.Path: of the repository, an installed package or the cache.

    Raises:
        AssetError: an unknown name, an altered embedded file, a cache folder that cannot be
            written, or no mirror that has the file. The message says what to do.
    """
    return local_path(name) or _download(name, manifest()[name])


def _in_package(entry):
    """The copy that an installed package carries, or None."""
    spec = importlib.util.find_spec(entry["package"]) if "package" in entry else None
    return Path(spec.submodule_search_locations[0], entry["path"]) if spec else None


def _download(name, entry):
    """Fetch into a folder for unfinished files, one process at a time, then rename."""
    from filelock import FileLock

    target = cache_dir() / name
    unfinished = cache_dir() / "unfinished"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with FileLock(unfinished / f"{name}.lock"):
            if not is_verified(target, entry):  # another process may have finished it meanwhile
                _fetch_first_good(name, entry, unfinished / name, target)
    except OSError as error:
        raise AssetError(
            f"Could not write {name!r} ({entry['size']:,} bytes) to the cache folder "
            f"{cache_dir()}: {error.strerror or error}. Make room or make the folder writable, "
            "or name another folder in the environment variable COMPANION_CACHE."
        ) from error
    return target


def _fetch_first_good(name, entry, folder, target):
    """Try the mirrors in order. `folder` holds whatever is unfinished, and is always removed."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    get = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS_WITHOUT_A_BYTE)
    failures = []
    for url in entry["urls"]:
        shutil.rmtree(folder, ignore_errors=True)  # a killed process may have left something
        try:
            pooch.retrieve(url, f"sha256:{entry['sha256']}", name, folder, downloader=get)
            os.replace(folder / name, target)
            return
        except Exception as error:
            if _is_local(error):
                raise
            failures.append(f"  {url}\n    {_reason(error)}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise AssetError(_advice(name, entry, failures, target))


def _is_local(error):
    """Whether the fault is this machine's (disk, rights): then no other mirror can help."""
    import requests

    return isinstance(error, OSError) and not isinstance(error, requests.RequestException)


def _reason(error):
    """One line on why a mirror failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"the server did not answer within {SECONDS_WITHOUT_A_BYTE} s"
    if "IncompleteRead" in str(error):
        return "the connection broke off before the end of the file"
    if isinstance(error, requests.ConnectionError):
        return "the server could not be reached (is the network on?)"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "the server sent other bytes than assets.toml lists (wrong sha256)"
    return f"{type(error).__name__}: {error}"


def _advice(name, entry, failures, target):
    lines = [f"Could not download {name!r}: {entry['what']}.", *failures]
    lines.append(f"By hand: save the file ({entry['size']:,} bytes) as {target}")
    lines.append(f"  Its sha256 must be {entry['sha256']}.")
    if "meanwhile" in entry:
        lines.append(f"Meanwhile {entry['meanwhile']!r}, which needs no network, serves instead.")
        lines.append("  Unset PROFILE, or set PROFILE=pocket, to use it.")
    return "\n".join(lines)
