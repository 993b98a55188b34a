"""What all tests share: settings of the stored outputs, tiers, the book's texts, a clean tree."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from companion.notebooks import STORED_UNDER

pytest_plugins = ["faulty_server", "toy_runs"]  # their fixtures

ROOT = Path(__file__).resolve().parent
MADE_BY_TOOLS = {".git", ".venv", "build", "__pycache__", ".pytest_cache", ".ruff_cache"}
MADE_BY_TOOLS |= {".ipynb_checkpoints"}

os.environ.update(STORED_UNDER)  # before any kernel starts
# A shell that starts the tests in the background has Ctrl-C ignored in them and in all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def files_below(root):
    """Every file that is not a tool's own, relative to `root`."""
    found = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in MADE_BY_TOOLS]
        found |= {str(Path(folder, name).relative_to(root)) for name in names}
    return found


def printed_by_section(notebook):
    """{"2.3.1", "A.2.3" or "Exercise 2.1": all that the cells below that heading print}."""
    printed, number = {}, "0"
    for cell in notebook.cells:
        headings = re.findall(
            r"^##+ ((?:Exercise )?(?:\d|[A-E]\.)[\d.]*\d)", cell.source, flags=re.M
        )
        if cell.cell_type == "markdown" and headings:
            number = headings[-1]
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            printed[number] = printed.get(number, "") + text + "\n"
    return printed


def pytest_sessionstart(session):
    session.config.files_before = files_below(ROOT)


def pytest_sessionfinish(session):
    """A notebook or test that leaves a file in the repository fails the whole run."""
    left_behind = files_below(ROOT) - session.config.files_before
    if left_behind and not hasattr(session.config, "workerinput"):  # once, not in each worker
        print(f"\nLEFT BEHIND by the tests: {', '.join(sorted(left_behind))}")
        session.exitstatus = 1


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")


def of_the_book(name, beside):
    """Path of a file of the book's, wherever this machine has it; nothing is downloaded."""
    from companion.assets import is_verified, local_path, manifest

    beside = ROOT.parent / "shared" / "data" / beside
    if is_verified(beside, manifest()[name]):
        return beside
    return local_path(name) or pytest.skip(f"{name} is not on this machine: make book-data")


@pytest.fixture(scope="session")
def verdict():
    return of_the_book("the-verdict.txt", "the-verdict.txt")


@pytest.fixture(scope="session")
def sms_collection():
    return of_the_book("SMSSpamCollection.tsv", "sms-spam/SMSSpamCollection.tsv")


@pytest.fixture(scope="session")
def book_instructions():
    return of_the_book("instruction-data.json", "instruction/instruction-data.json")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMPANION_CACHE", str(folder))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    return folder


@pytest.fixture
def book_cache(empty_cache, verdict, sms_collection, book_instructions):
    """A cache folder that holds the book's texts."""
    empty_cache.mkdir()
    shutil.copy(verdict, empty_cache)
    shutil.copy(book_instructions, empty_cache)
    shutil.copy(sms_collection, empty_cache / "SMSSpamCollection.tsv")
    return empty_cache
