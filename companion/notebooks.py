"""Execute notebooks: the chapters' main ones into build/executed, or all of them in place."""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXECUTED = ROOT / "build" / "executed"
SECONDS_BETWEEN_MEMORY_SAMPLES = 0.05

# The kernel warns at each start that its loopback connection is not encrypted.
QUIET_KERNEL = ["--IPKernelApp.log_level=ERROR"]

# Stored outputs are made, and tested, under these settings.
STORED_UNDER = {"PROFILE": "pocket", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def main_notebooks(chapter=None):
    """Paths of the notebooks that a reader follows, one a chapter, in the book's order.

    Raises:
        ValueError: `chapter` is given and has no main notebook.
    """
    found = sorted(ROOT.glob("ch[0-9][0-9]/01_main-chapter-code/ch[0-9][0-9].ipynb"))
    return _of_chapter(found, chapter)


def all_notebooks(chapter=None):
    """Paths of every notebook of the repository, in the book's order.

    Raises:
        ValueError: `chapter` is given and has no notebook.
    """
    chapters, appendices = ROOT.glob("ch[0-9][0-9]/*/*.ipynb"), ROOT.glob("appendix-*/*/*.ipynb")
    return _of_chapter([*sorted(chapters), *sorted(appendices)], chapter)


def _of_chapter(paths, chapter):
    if chapter is None:
        return paths
    chosen = [path for path in paths if path.relative_to(ROOT).parts[0] == chapter]
    if not chosen:
        known = sorted({path.relative_to(ROOT).parts[0] for path in paths})
        raise ValueError(f"No notebook for CH={chapter}. There are: {', '.join(known)}.")
    return chosen


class Run(NamedTuple):
    """One execution of a notebook: its path in the repository, and what it took."""

    notebook: str
    cells: int
    seconds: float
    peak_mb: int
    result: str = "ok"

    def columns(self):
        """The texts of its row in the table."""
        return self.notebook, str(self.cells), f"{self.seconds:.1f}", f"{self.peak_mb:,} MB"


def run(paths):
    """Execute the notebooks into build/executed, one after the other, and print a table.

    Returns:
        bool: whether all of them ran to the end. One that fails does not stop the others.
    """
    runs = [execute(path) for path in paths]
    print()
    print("\n".join(table(runs)))
    print(f"\nExecuted copies: {EXECUTED.relative_to(ROOT)}{os.sep}")
    return all(one.result == "ok" for one in runs)


def table(runs):
    """The lines of the table that `run` prints."""
    rows = [("notebook", "cells", "seconds", "peak memory", "result")]
    rows += [(*one.columns(), one.result) for one in runs]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for name, *numbers, result in rows:
        columns = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *columns, result])


def execute(path):
    """Execute one notebook in a fresh kernel, into build/executed; its `Run`."""
    import papermill

    relative = path.relative_to(ROOT)
    target = EXECUTED / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    result, start = "ok", time.perf_counter()
    with _PeakMemory() as memory:
        try:
            papermill.execute_notebook(
                str(path),
                str(target),
                cwd=str(path.parent),
                kernel_name="python3",
                progress_bar={"desc": path.name, "file": sys.stderr},
                extra_arguments=QUIET_KERNEL,
            )
        except papermill.PapermillExecutionError as error:
            result = f"FAILED in cell [{error.exec_count}]: {error.ename}: {error.evalue}"
        except Exception as error:  # a dead kernel, a damaged file: the other notebooks still run
            result = f"FAILED: {type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    code_cells = sum(cell["cell_type"] == "code" for cell in cells)
    return Run(relative.as_posix(), code_cells, seconds, round(memory.peak / 1e6), result)


class _PeakMemory:
    """Largest resident memory of all child processes together, sampled while the block runs."""

    def __enter__(self):
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._done.set()
        self._thread.join()

    def _sample(self):
        this = psutil.Process()
        while not self._done.wait(SECONDS_BETWEEN_MEMORY_SAMPLES):
            total = 0
            for child in this.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it ended in between
                    total += child.memory_info().rss
            self.peak = max(self.peak, total)


def store_outputs(paths):
    """Execute the notebooks afresh and store their outputs in place.

    Returns:
        bool: whether all of them ran to the end. One that fails is left as it was.
    """
    import nbclient
    import nbformat

    ok = True
    os.environ.update(STORED_UNDER)
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        client = nbclient.NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=QUIET_KERNEL,
            resources={"metadata": {"path": str(path.parent)}},
        )
        try:
            client.execute()
        except nbclient.exceptions.CellExecutionError as error:
            print(f"{path.relative_to(ROOT)}: FAILED, left as it was\n{error}", file=sys.stderr)
            ok = False
            continue
        normalize(notebook)
        unfinished = path.with_suffix(".unfinished")
        nbformat.write(notebook, unfinished)
        os.replace(unfinished, path)
        print(f"{path.relative_to(ROOT)}: stored")
    return ok


def normalize(notebook):
    """Reduce metadata to what is the same on every machine, so that diffs stay small."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
