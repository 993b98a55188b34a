"""`python -m companion doctor`: what works on this machine, and how to mend what does not."""

import os
import platform
import sys
from importlib import metadata
from typing import NamedTuple

DISTRIBUTION = "llm-from-scratch-companion"
INSTALL = "pip install -r requirements.txt"
ENOUGH_MEMORY = 2e9  # bytes; the largest main notebook needs less


class Row(NamedTuple):
    """One line of the table. `status`: "ok", "FAIL" (chapters cannot run) or "note"."""

    what: str
    status: str
    found: str
    advice: str = ""


def diagnose():
    """All rows of the table, cheap ones first; none of them downloads anything."""
    rows = [_python(), Row("platform", "ok", f"{platform.platform()}, {os.cpu_count()} cores")]
    dependencies = list(_dependencies())
    rows += dependencies
    if all(row.status != "FAIL" for row in dependencies):
        rows += [_tokenizer(), *_assets(), _device(), _memory()]
    return rows


def main():
    """Print the table and the advice.

    Returns:
        bool: whether the main chapters can run.
    """
    rows = diagnose()
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for row in rows:
        print(f"{row.what:{widths[0]}}  {row.status:{widths[1]}}  {row.found}")
    for row in rows:
        if row.advice:
            print(f"\n{row.what}: {row.advice}")
    healthy = all(row.status != "FAIL" for row in rows)
    print("\nThe main chapters can run." if healthy else "\nThe main chapters cannot run yet.")
    return healthy


def _python():
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 10):  # noqa: UP036 - a clone can be run without installing it
        return Row("Python", "FAIL", found, "Install Python 3.10 or newer.")
    return Row("Python", "ok", found)


def _dependencies():
    """A row for each requirement of pyproject.toml that applies to this machine."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in metadata.requires(DISTRIBUTION)]
    except (ModuleNotFoundError, metadata.PackageNotFoundError) as error:
        yield Row("installation", "FAIL", str(error), f"In the repository's folder: {INSTALL}")
        return
    seen = {DISTRIBUTION}
    for requirement in requirements:
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        optional = not needed and any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("bonus", "dev")
        )
        if (needed or optional) and requirement.name not in seen:
            seen.add(requirement.name)  # an extra may name what another one has
            yield _dependency(requirement, "FAIL" if needed else "note")


def _dependency(requirement, status_if_bad):
    allowed = f"needs {requirement.specifier or 'any version'}"
    use = "" if status_if_bad == "FAIL" else " (only for tests and bonus folders)"
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Row(requirement.name, status_if_bad, f"missing, {allowed}{use}", INSTALL)
    if not requirement.specifier.contains(found, prereleases=True):
        return Row(requirement.name, status_if_bad, f"{found}, {allowed}{use}", INSTALL)
    return Row(requirement.name, "ok", f"{found}, {allowed}")


def _tokenizer():
    import tiktoken

    from companion.tokenizer import prepare_tokenizer

    own = os.environ.get("TIKTOKEN_CACHE_DIR")
    try:
        folder = prepare_tokenizer()
        size = tiktoken.get_encoding("gpt2").n_vocab
    except Exception as error:  # whatever it is, the table must tell it
        advice = f"{INSTALL} --force-reinstall"
        if own:
            advice = f"Unset TIKTOKEN_CACHE_DIR (now {own}), so that the installed files are used."
        return Row("tokenizer", "FAIL", f"{type(error).__name__}: {error}", advice)
    return Row("tokenizer", "ok", f"gpt2 verified, {size:,} tokens, in {folder}")


def _assets():
    """A row for each file of the manifest that a chapter looks for in the repository or cache."""
    from companion.assets import AssetError, cache_dir, local_path, manifest

    for name, entry in manifest().items():
        if "asked_for_by" in entry:  # it lies wherever the reader wanted it
            continue
        try:
            path = local_path(name)
        except AssetError as error:
            yield Row(name, "FAIL", "altered or missing", str(error))
            continue
        if path is None:
            found = f"not downloaded ({entry['size']:,} bytes), only for PROFILE=book"
            advice = f"make book-data, or by hand into {cache_dir()}"
            yield Row(name, "note", found, advice)
        else:
            yield Row(name, "ok", f"verified, {path}")


def _device():
    from companion.session import device

    try:
        return Row("device", "ok", str(device()))
    except (ValueError, RuntimeError) as error:
        return Row("device", "FAIL", str(error), "Unset DEVICE, or set it to cpu.")


def _memory():
    import psutil

    free = psutil.virtual_memory().available
    found = f"{free / 1e9:.1f} GB free"
    if free < ENOUGH_MEMORY:
        return Row("memory", "note", found, f"Close programs: {ENOUGH_MEMORY / 1e9:.0f} GB help.")
    return Row("memory", "ok", found)
