"""Compare the ways of writing multi-head attention in `mha_variants.py`; print one table.

    python bench/bench_attention.py              # the table, at GPT-2 small's width and heads
    python bench/bench_attention.py --lengths    # some variants over 128 to 4,096 tokens (3 GB)
    python bench/bench_attention.py --resident   # memory as the system sees it (Linux)
    python bench/bench_attention.py --all        # the three of them

With --save, what was measured is stored for the notebook, and shown in its README.

Times are the best of several rounds; in each round every variant has its turn, so that a busy
moment of the machine does not hit one variant alone. First calls, and so compiling, are not
counted. "Training" is a forward and a backward pass, gradients of weights and input included.

Memory is the peak of what torch allocates for tensors during the call, above what was there before:
on the CPU as `torch.profiler` records it, on a GPU as `torch.cuda` does. It is the same in every
run. What a process really holds is more: kernels need space for themselves, and the allocator keeps
what was freed for later. `--resident` measures that, one fresh process for each variant.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import companion
from companion import timings
from mha_variants import (
    VARIANTS,
    from_chapter,
    input_gradient_of,
    largest_difference,
    output_of,
)
from multihead_attention import MultiHeadAttention

FOLDER = Path(__file__).parent.parent / "ch03" / "02_bonus_efficient-multihead-attention"
STORED = FOLDER / "measurements.json"
README = FOLDER / "README.md"
REFERENCE = next(iter(VARIANTS))
TOLERANCE = 1e-5
WIDTH, NUM_HEADS = 768, 12  # GPT-2 small
TABLE_BATCH, TABLE_TOKENS, TABLE_ROUNDS = 2, 1024, 5
LENGTHS_BATCH, LENGTHS, LENGTHS_ROUNDS = 1, (128, 256, 512, 1024, 2048, 4096), 3
OVER_LENGTHS = (
    REFERENCE,
    "SDPA, is_causal",
    "SDPA, mask",
    "FlexAttention, compiled",
    "query blocks",
    "tiles, online softmax",
)


def forward(module, x):
    with torch.no_grad():
        module(x)


def training(module, x):
    module.zero_grad(set_to_none=True)
    module(x.detach().requires_grad_()).square().mean().backward()


TASKS = {"forward": forward, "training": training}
COMPARED = {"forward": output_of, "training": input_gradient_of}


def chapter_and_input(batch_size, num_tokens, device):
    torch.manual_seed(123)
    chapter = MultiHeadAttention(WIDTH, WIDTH, num_tokens, dropout=0.0, num_heads=NUM_HEADS)
    return chapter.to(device), torch.randn(batch_size, num_tokens, WIDTH, device=device)


def measure(names, batch_size, num_tokens, rounds, device):
    """One dict for each variant: name, difference, and for each task seconds and bytes.

    A task that a variant cannot do here has None, and `reasons` says why.
    """
    chapter, x = chapter_and_input(batch_size, num_tokens, device)
    modules = {name: from_chapter(VARIANTS[name], chapter) for name in names}
    expected = {task: compare(chapter, x) for task, compare in COMPARED.items()}

    rows = {}
    for name, module in modules.items():
        rows[name] = {"variant": name, "difference": None, "reasons": {}}
        for task, compare in COMPARED.items():
            try:
                difference = largest_difference(compare(module, x), expected[task])
                memory = peak_memory(TASKS[task], module, x)
            except RuntimeError as error:  # NotImplementedError is one of them
                reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
                rows[name]["reasons"][task] = f"{type(error).__name__}: {reason}"
                memory = None
            else:
                rows[name]["difference"] = max(rows[name]["difference"] or 0.0, difference)
            rows[name][task] = {"seconds": None, "bytes": memory}
        print(f"  checked: {name}, {num_tokens} tokens", file=sys.stderr)

    for _ in range(rounds):
        for name, module in modules.items():
            for task, work in TASKS.items():
                if task not in rows[name]["reasons"]:
                    before = rows[name][task]["seconds"] or float("inf")
                    rows[name][task]["seconds"] = min(before, seconds(work, module, x))
    return list(rows.values())


def seconds(work, module, x):
    synchronize(x.device)
    start = time.perf_counter()
    work(module, x)
    synchronize(x.device)
    return time.perf_counter() - start


def synchronize(device):
    """A GPU is given work and computes on: wait until it is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak_memory(work, module, x):
    """Bytes that tensors need at most during the call; None where nothing counts them."""
    module.zero_grad(set_to_none=True)
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work(module, x)
        return torch.cuda.max_memory_allocated() - before
    if x.device.type != "cpu":
        return None
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        nothing_on_stderr(),
        torch.profiler.profile(activities=activities, profile_memory=True) as profile,
    ):
        work(module, x)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    allocated = peak = 0
    for event in sorted(changes, key=lambda event: event["ts"]):
        allocated += event["args"]["Bytes"]  # below zero where memory is freed
        peak = max(peak, allocated)
    return peak


@contextlib.contextmanager
def nothing_on_stderr():
    """Some builds of the profiler write log lines past Python, straight to the file descriptor."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def resident_memory(name):
    """{task: bytes by which a call raises this process's peak of resident memory}; Linux only."""
    chapter, x = chapter_and_input(TABLE_BATCH, TABLE_TOKENS, torch.device("cpu"))
    module = from_chapter(VARIANTS[name], chapter)
    peaks = {}
    for task, work in TASKS.items():
        try:
            work(module, x)
        except RuntimeError:
            peaks[task] = None
            continue
        module.zero_grad(set_to_none=True)
        ctypes.CDLL(None).malloc_trim(0)  # what the first call has freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
        before = proc_status("VmRSS")
        work(module, x)
        peaks[task] = proc_status("VmHWM") - before
    return peaks


def proc_status(field):
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", status, flags=re.M)[1])


def machine(device):
    """What the figures depend on, as one line."""
    parts = [timings.machine()]
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}", f"on {device}"]
    return ", ".join(parts)


def input_shape(batch_size, num_tokens):
    return f"batch {batch_size}, {num_tokens} tokens, width {WIDTH}, {NUM_HEADS} heads, float32"


def table_text(stored):
    """The table of all variants, as ratios to the chapter's class, in Markdown."""
    rows = stored["rows"]
    reference = rows[0]
    absolute = {
        task: f"{task} {quantity(reference, task, 'seconds')} s and "
        f"{quantity(reference, task, 'bytes')} MB"
        for task in TASKS
    }
    columns = [(what, task) for what in ("seconds", "bytes") for task in TASKS]
    lines = [
        f"Machine: {stored['machine']}  ",
        f"Input: {stored['input']}  ",
        f"{reference['variant']} (1.00): {', '.join(absolute.values())}",
        "",
        "| variant | largest difference | time: forward | time: training | memory: forward "
        "| memory: training |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = [ratio(row[task][what], reference[task][what]) for what, task in columns]
        difference = "–" if row["difference"] is None else f"{row['difference']:.0e}"
        lines.append(f"| {row['variant']} | {difference} | {' | '.join(ratios)} |")
    return "\n".join([*lines, *reasons_text(rows)])


def ratio(value, reference):
    return "–" if value is None or reference is None else f"{value / reference:.2f}"


def quantity(row, task, what):
    """Seconds, or megabytes, as text with three digits or so."""
    value = row[task][what]
    if value is None:
        return "–"
    if what == "bytes":
        return f"{value / 1e6:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def reasons_text(rows):
    """Why there is a dash, each reason once."""
    reasons = {
        f"– {row['variant']}, {task}: {reason}."
        for row in rows
        for task, reason in row["reasons"].items()
    }
    return ["", "  \n".join(sorted(reasons))] if reasons else []


def lengths_text(stored):
    """One table for each task and quantity: variants down, numbers of tokens across."""
    by_length = stored["rows"]  # {number of tokens: rows}
    lines = [f"Machine: {stored['machine']}  ", f"Input: {stored['input']}"]
    for task in TASKS:
        for what, unit in (("seconds", "seconds"), ("bytes", "MB")):
            lines += ["", f"| {task}, {unit} | {' | '.join(by_length)} |"]
            lines.append("|---" * (1 + len(by_length)) + "|")
            for rows in zip(*by_length.values(), strict=True):  # one variant, all lengths
                cells = [quantity(row, task, what) for row in rows]
                lines.append(f"| {rows[0]['variant']} | {' | '.join(cells)} |")
    every_row = [row for rows in by_length.values() for row in rows]
    return "\n".join([*lines, *reasons_text(every_row)])


def measure_table():
    device = companion.device()
    rows = measure(VARIANTS, TABLE_BATCH, TABLE_TOKENS, TABLE_ROUNDS, device)
    shape = input_shape(TABLE_BATCH, f"{TABLE_TOKENS:,}")
    return {"machine": machine(device), "input": shape, "rows": rows}


def measure_lengths(lengths=LENGTHS):
    device = companion.device()
    rows = {
        str(num_tokens): measure(OVER_LENGTHS, LENGTHS_BATCH, num_tokens, LENGTHS_ROUNDS, device)
        for num_tokens in lengths
    }
    shape = input_shape(LENGTHS_BATCH, f"{lengths[0]:,} to {lengths[-1]:,}")
    return {"machine": machine(device), "input": shape, "rows": rows}


def measure_resident():
    """One dict for each variant: name, and for each task the bytes; one fresh process each."""
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("Resident memory is measured through /proc, which only Linux has.")
    rows = []
    for name in VARIANTS:
        command = [sys.executable, __file__, "--resident-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"variant": name, **json.loads(done.stdout.splitlines()[-1])})
    return {
        "machine": machine(torch.device("cpu")),
        "input": input_shape(TABLE_BATCH, f"{TABLE_TOKENS:,}"),
        "rows": rows,
    }


def resident_text(stored):
    lines = [f"Machine: {stored['machine']}  ", f"Input: {stored['input']}", ""]
    lines += ["| resident memory, MB | forward | training |", "|---|---|---|"]
    for row in stored["rows"]:
        cells = ["–" if row[task] is None else f"{row[task] / 1e6:,.0f}" for task in TASKS]
        lines.append(f"| {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def replaced(text, name, new):
    """`text` with what stands between two comments, "name" and "end of name", replaced."""
    before, _, rest = text.partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition(f"<!-- end of {name} -->")
    return f"{before}<!-- {name} -->\n\n{new}\n\n<!-- end of {name} -->{after}"


TABLES = {
    "table": (measure_table, table_text),
    "lengths": (measure_lengths, lengths_text),
    "resident": (measure_resident, resident_text),
}


def save(measured):
    """Store the measurements for the notebook, and put their tables into the README."""
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.exists() else {}
    STORED.write_text(json.dumps({**stored, **measured}, indent=1) + "\n", encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    for name, measurement in measured.items():
        _, text_of = TABLES[name]
        readme = replaced(readme, name, text_of(measurement))
    README.write_text(readme, encoding="utf-8")


def differences(measured):
    """Every difference from the chapter's class that was measured."""
    rows = measured.get("table", {"rows": []})["rows"]
    by_length = measured.get("lengths", {"rows": {}})["rows"]
    found = [row["difference"] for rows in [rows, *by_length.values()] for row in rows]
    return [difference for difference in found if difference is not None]


def main(wanted=("table",), want_saved=False):
    """Measure and print; False if a variant disagrees with the chapter's class."""
    companion.setup()
    measured = {}
    for name in wanted:
        measure_it, text_of = TABLES[name]
        measured[name] = measure_it()
        print(f"\n{text_of(measured[name])}", flush=True)
    if want_saved:
        save(measured)
    found = differences(measured)
    agree = max(found, default=0.0) <= TOLERANCE
    if found:
        print(f"\nOutputs and gradients within {TOLERANCE:.0e} of the chapter's class: {agree}")
    return agree


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--lengths", action="store_true", help="several numbers of tokens")
    what.add_argument("--resident", action="store_true", help="memory as the system sees it")
    what.add_argument("--all", action="store_true", help="the table and these two")
    what.add_argument("--resident-of", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help="store it for the notebook and README")
    chosen = parser.parse_args()
    if chosen.resident_of:
        print(json.dumps(resident_memory(chosen.resident_of)))
        sys.exit()
    wanted = [name for name in TABLES if chosen.all or getattr(chosen, name, False)] or ["table"]
    sys.exit(0 if main(wanted, chosen.save) else 1)
