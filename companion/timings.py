"""What every notebook takes: measured into timings.csv, and shown in the READMEs' tables.

Between the comments `<!-- timings -->` and `<!-- end of timings -->` the figures of a README are
written here. The first two columns of a table of files, and its order, are the README's own.
"""

import contextlib
import csv
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from companion import notebooks
from companion.notebooks import Run

STORE = Path("companion", "timings.csv")
COUNTING = Path(__file__).parent / "counting"  # the folder of sitecustomize.py
EXAMPLE = "ch02/01_main-chapter-code/ch02.ipynb"

MEASURED_UNDER = {"PROFILE": "pocket", "DEVICE": "cpu"}

FILE_TABLE = re.compile(r"^\| (?:File|Folder) \|.*\n\|[-|]+\|\n(?:\|.*\n)+", flags=re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")

WORDS = {
    "README.md": {
        "sums": "Run one after the other, the {count} notebooks take {seconds}, need at most "
        "{peak} of memory, and download {bytes} bytes.",
        "summary": "Each notebook",
        "header": ["Chapter", "Notebook", "Time", "Peak memory", "Bytes downloaded", "Machine"],
    },
    "README.zh-CN.md": {
        "sums": "依次运行 {count} 个笔记本，共需 {seconds}，内存最多占用 {peak}，"
        "下载 {bytes} 字节。",
        "summary": "每个笔记本",
        "header": ["章节", "笔记本", "时间", "内存峰值", "下载字节数", "机器"],
    },
}


class Timing(NamedTuple):
    """A row of timings.csv. `downloaded` is bytes."""

    notebook: str
    cells: int
    seconds: float
    peak_mb: int
    downloaded: int
    machine: str


# Measuring


def measure(paths):
    """Run each notebook, and store and show what it took before the next one starts.

    Returns:
        bool: whether all of them ran to the end. One that fails keeps its earlier row.
    """
    failed = []
    for path in paths:
        with tempfile.TemporaryDirectory() as folder, _counting(Path(folder, "received")) as count:
            run = notebooks.execute(path)
            downloaded = count()
        print("  ".join([*run.columns(), f"{downloaded:,} bytes", run.result]), flush=True)
        if run.result != "ok":
            failed.append(run)
            continue
        seconds = round(run.seconds, 1)
        row = Timing(run.notebook, run.cells, seconds, run.peak_mb, downloaded, machine())
        store({**stored(), row.notebook: row})
        write_tables()
    for run in failed:
        print(f"{run.notebook}: {run.result}. Its row is as it was.", file=sys.stderr)
    return not failed


@contextlib.contextmanager
def _counting(path):
    """The settings to measure under; yields a function that says how many bytes have come."""
    path.touch()
    before = dict(os.environ)
    python_path = os.pathsep.join(filter(None, [str(COUNTING), before.get("PYTHONPATH")]))
    os.environ.update(MEASURED_UNDER, PYTHONPATH=python_path, COMPANION_RECEIVED=str(path))
    os.environ.pop("OMP_NUM_THREADS", None)  # all cores of the CPU that is named
    try:
        yield lambda: sum(map(int, path.read_text().split()))
    finally:
        os.environ.clear()
        os.environ.update(before)


def machine():
    """The CPU's model and its number of cores."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text(), flags=re.M)
        name = models[0].strip() if models else name
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True).stdout.strip() or name
    return f"{name}, {os.cpu_count()} cores"


def stored():
    """{notebook: Timing} of the notebooks that exist and were measured, in the book's order."""
    path = notebooks.ROOT / STORE
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = {
            row["notebook"]: Timing(
                row["notebook"],
                int(row["cells"]),
                float(row["seconds"]),
                int(row["peak_mb"]),
                int(row["downloaded"]),
                row["machine"],
            )
            for row in csv.DictReader(file)
        }
    return {name: rows[name] for name in notebook_names() if name in rows}


def store(timings):
    """Write timings.csv, all of it or nothing."""
    path = notebooks.ROOT / STORE
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Timing._fields)
        writer.writerows(timings[name] for name in notebook_names() if name in timings)
    os.replace(unfinished, path)


def notebook_names():
    """The paths of all notebooks, from the root, in the book's order."""
    return [path.relative_to(notebooks.ROOT).as_posix() for path in notebooks.all_notebooks()]


# Showing


def write_tables():
    """Bring the figures of all READMEs up to date."""
    for path, text in pages(stored()):
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")


def pages(timings):
    """(path, text with these timings) of every README that shows any."""
    for name, words in WORDS.items():
        path = notebooks.ROOT / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            if EXAMPLE in timings:
                text = _with_block(text, "run", example(timings[EXAMPLE]))
            yield path, _with_block(text, "timings", overview(timings, words))
    chapters = notebooks.ROOT.glob("ch*/**/README.md")
    for path in sorted([*chapters, *notebooks.ROOT.glob("appendix-*/**/README.md")]):
        text = _marked(path.read_text(encoding="utf-8"), path.parent)
        block = _block("timings").search(text)
        if block:
            yield path, _with_block(text, "timings", file_table(block[2], path.parent, timings))


def _block(name):
    """What matches the block of this name: its opening comment, its content, its closing one."""
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end of {name} -->\n)", flags=re.S)


def _with_block(text, name, content):
    return _block(name).sub(lambda block: f"{block[1]}\n{content}\n\n{block[3]}", text)


def _marked(text, folder):
    """A README of `folder`; a first table of files that shows a notebook now stands in a block."""
    found = FILE_TABLE.search(text)
    if _block("timings").search(text) or not found:
        return text
    if not any(_notebooks_of(row, folder) for row in found[0].splitlines()):
        return text
    block = f"<!-- timings -->\n{found[0]}<!-- end of timings -->\n"
    return text[: found.start()] + block + text[found.end() :]


def _notebooks_of(row, folder):
    """Notebooks that a table's row is about: the one it links to, or those below that README."""
    link = LINK.search(row)
    path = (folder / link[1]).resolve() if link else folder
    if path.suffix == ".ipynb":
        return [path.relative_to(notebooks.ROOT).as_posix()]
    if path.name == "README.md":
        below = f"{path.parent.relative_to(notebooks.ROOT).as_posix()}/"
        return [name for name in notebook_names() if name.startswith(below)]
    return []


def file_table(block, folder, timings):
    """A README's table of files or folders, with the columns of time and memory anew."""
    header, _, *rows = FILE_TABLE.search(block)[0].splitlines()
    lines = [_row([*_cells(header)[:2], "Time", "Peak memory"]), "|---|---|---|---|"]
    shown = {}
    for row in rows:
        names = _notebooks_of(row, folder)
        shown |= {name: timings[name] for name in names if name in timings}
        lines.append(_row([*_cells(row)[:2], *_figures(names, timings)]))
    if shown:
        downloaded = sum(timing.downloaded for timing in shown.values())
        lines += [
            "",
            "Each notebook was run in a fresh kernel by `make timings`, on: "
            f"{'; '.join(_machines(shown))}. Downloaded: {downloaded:,} bytes.",
        ]
    return "\n".join(lines)


def _cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _row(cells):
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def _figures(names, timings):
    """Time and peak memory of some notebooks run one after the other, as texts."""
    if not names:
        return "", ""
    if not all(name in timings for name in names):
        return "not yet", "not yet"
    seconds = sum(timings[name].seconds for name in names)
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return time, f"{max(timings[name].peak_mb for name in names):,} MB"


def _machines(timings):
    return sorted({timing.machine for timing in timings.values()})


def example(timing):
    """What `make run` prints about a notebook, as a block of code."""
    run = Run(timing.notebook, timing.cells, timing.seconds, timing.peak_mb)
    return "\n".join(["```", *notebooks.table([run]), "```"])


def overview(timings, words):
    """The front page's sums, and its table of all notebooks."""
    seconds, peak = _figures(list(timings), timings)
    sums = {"count": len(timings), "seconds": seconds, "peak": peak}
    sums["bytes"] = f"{sum(timing.downloaded for timing in timings.values()):,}"
    lines = [words["sums"].format(**sums), "", f"<details><summary>{words['summary']}</summary>"]
    lines += ["", _row(words["header"]), "|---|---|---|---|---|---|"]
    for name, timing in timings.items():
        link = f"[{Path(name).name}]({name})"
        figures = (*_figures([name], timings), f"{timing.downloaded:,}", timing.machine)
        lines.append(_row([Path(name).parts[0], link, *figures]))
    return "\n".join([*lines, "", "</details>"])
