"""Measure memory and speed of `prepare_text.py` over the size of its corpus; print one table.

    python bench/bench_prepare_text.py               # 1 and 100 MB of text, a few minutes
    python bench/bench_prepare_text.py --large 10    # 10 MB instead of 100, sooner

The text is the repository's story, again and again with other numbers in it, in one file in a
temporary folder. Memory is the peak of the sum over the main process and its children, of what each
has in physical memory, looked at every 10 ms (pages that processes share count for each of them).
Seconds are those of the whole command, its start and its check of the sources included.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import psutil
import tiktoken

import companion
import prepare_text
from companion.timings import machine
from token_shards import read_manifest

SMALL_MB, LARGE_MB = 1, 100
WORKERS = (1, 2)
LIMIT = 1.1  # the large corpus may need this many times the memory of the small one
SECONDS_BETWEEN_LOOKS = 0.01


def write_text(path, num_bytes):
    """A file of numbered stories, each a document, of `num_bytes` ASCII characters."""
    story = companion.asset("the-next-word.txt").read_text(encoding="utf-8")
    paragraphs = story.encode("ascii", "ignore").decode().split("\n\n")
    size = 0
    with open(path, "w", encoding="ascii", newline="\n") as file:
        for number in count():
            text = "\n\n".join(f"{number * 7919 + i}. {p}" for i, p in enumerate(paragraphs))
            text = f"{text}\n<|endoftext|>\n"[: num_bytes - size]
            size += file.write(text)
            if size == num_bytes:
                return


def peak_memory(command):
    """Run a command: (peak bytes of it and its children, seconds).

    Raises:
        CalledProcessError: it failed.
    """
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        family = [process]
        try:
            family += process.children(recursive=True)
        except psutil.NoSuchProcess:  # it has just ended
            break
        peak = max(peak, sum(resident(member) for member in family))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak, time.perf_counter() - start


def resident(process):
    """Bytes that a process has in physical memory; none if it has ended meanwhile."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def measure(megabytes, workers):
    """One row: size, workers, peak memory in bytes, seconds, tokens."""
    with tempfile.TemporaryDirectory() as folder:
        text, shards = Path(folder, "text.txt"), Path(folder, "shards")
        write_text(text, megabytes * 1_000_000)
        command = [sys.executable, prepare_text.__file__, str(text), "--out", str(shards)]
        peak, seconds = peak_memory([*command, "--workers", str(workers)])
        entries = read_manifest(shards)["shards"]["train"]
    return {
        "megabytes": megabytes,
        "workers": workers,
        "peak": peak,
        "seconds": seconds,
        "tokens": sum(entry["tokens"] for entry in entries),
    }


def main(large_mb=LARGE_MB):
    companion.setup()
    print(f"\nMachine: {machine()}, tiktoken {tiktoken.__version__}\n")
    print("| text | workers | peak memory | seconds | tokens per second |")
    print("|---|---|---|---|---|")
    verdicts = []
    for workers in WORKERS:
        rows = [measure(megabytes, workers) for megabytes in (SMALL_MB, large_mb)]
        for row in rows:
            print(
                f"| {row['megabytes']} MB | {workers} | {row['peak'] / 1e6:.0f} MB | "
                f"{row['seconds']:.1f} | {row['tokens'] / row['seconds']:,.0f} |"
            )
        ratio = rows[1]["peak"] / rows[0]["peak"]
        verdict = "met" if ratio <= LIMIT else "NOT met"
        verdicts.append(
            f"{workers} {'worker' if workers == 1 else 'workers'} {verdict} ({ratio:.2f})"
        )
    print(f"\nAt most {LIMIT} times the memory for {large_mb} MB: {', '.join(verdicts)}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=LARGE_MB, metavar="MB", help="larger corpus")
    main(parser.parse_args().large)
