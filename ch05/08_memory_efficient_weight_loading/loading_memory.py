"""Peak memory of five ways to load a model's weights, each measured in a process of its own.

python loading_memory.py                    measures all on GPT-2's small shape, prints a table
python loading_memory.py mapped FOLDER      measures one on the files that `write_files` left there

Memory is physical memory, in bytes. It comes in pages of a few KB. Pages of a mapped file count as
long as they are held, but the system can take them back at any time: they are in the file, too.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gpt import GPT_CONFIG_124M, GPTModel
from gpt_download import (
    in_their_names,
    load_weights_into_gpt,
    params_from_safetensors,
    shape_faults,
    summary,
)

CONFIG, STATE_DICT = "config.json", "model.pth"
OURS, GPT2S = "model.safetensors", "gpt2.safetensors"
TINY = {
    "vocab_size": 8,
    "context_length": 8,
    "emb_dim": 8,
    "n_heads": 1,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": True,
}


def write_files(cfg, folder):
    """Write a random model's weights as a state dict and as safetensors in our and GPT-2's layout.

    The output head is a copy of the token embedding, as in GPT-2, whose file has no head.
    """
    torch.manual_seed(123)
    model = GPTModel(cfg)
    with torch.no_grad():
        model.out_head.weight.copy_(model.tok_emb.weight)
    torch.save(model.state_dict(), folder / STATE_DICT)
    save_file(model.state_dict(), folder / OURS)
    save_file(in_their_names(model), folder / GPT2S)
    (folder / CONFIG).write_text(json.dumps(cfg), encoding="utf-8")


# Five ways. Each returns the model, and what else holds memory when it is done.


def load_copied(cfg, folder):
    """Read the whole file, then copy it into the model."""
    model = GPTModel(cfg)
    weights = torch.load(folder / STATE_DICT, weights_only=True)
    model.load_state_dict(weights)
    return model, weights


def load_mapped(cfg, folder):
    """Map the file, then copy it into the model."""
    model = GPTModel(cfg)
    weights = torch.load(folder / STATE_DICT, weights_only=True, mmap=True)
    model.load_state_dict(weights)
    return model, weights


def load_assigned(cfg, folder):
    """Map the file, and let the mapped tensors be the model's parameters."""
    with torch.device("meta"):  # shapes without memory
        model = GPTModel(cfg)
    weights = torch.load(folder / STATE_DICT, weights_only=True, mmap=True)
    model.load_state_dict(weights, assign=True)
    return model, weights


def load_one_by_one(cfg, folder):
    """Open a safetensors file for each tensor, and copy this one alone into the model.

    Raises:
        ValueError: the file's names or shapes are not the model's; the model is unchanged.
    """
    model = GPTModel(cfg)
    own = model.state_dict()  # the same memory as the model's, under its names
    path = folder / OURS
    with safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
    faults = list(shape_faults({name: tensor.shape for name, tensor in own.items()}, found))
    if faults:
        raise ValueError(f"{path} does not fit the model. {summary(faults)}")
    for name, tensor in own.items():
        with safe_open(path, framework="pt") as file:  # anew: closing lets go of what was read
            tensor.copy_(file.get_tensor(name))
    return model, None


def load_gpt2s(cfg, folder):
    """Map a file in GPT-2's layout, and copy it into the model some rows at a time."""
    model = GPTModel(cfg)
    params = params_from_safetensors(folder / GPT2S)
    load_weights_into_gpt(model, params)
    return model, params


WAYS = {
    "copied": load_copied,
    "mapped": load_mapped,
    "assigned": load_assigned,
    "one-by-one": load_one_by_one,
    "gpt2": load_gpt2s,
}


# Measuring


def peak_memory():
    """The most bytes of physical memory that this process has held so far."""
    if sys.platform == "linux":  # where getrusage begins with the peak of the process before
        return linux_status("VmHWM")
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def linux_status(name):
    """One of the kernel's figures on this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def pages_of_files():
    """Bytes of mapped files in physical memory now; Linux alone tells them apart."""
    return linux_status("RssFile") if sys.platform == "linux" else float("nan")


def measure_here(way, folder):
    """Load by one of `WAYS` and read every weight once. To be called once in a process.

    Returns:
        A dictionary of `model`, the bytes of its tensors; `peak`, the most memory above what was
        held before; `files`, how much of what is held at the end are pages of files; and `sha256`
        of all weights.
    """
    cfg = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    warm_up(way)
    before, files_before = peak_memory(), pages_of_files()
    model, held = WAYS[way](cfg, folder)
    tensors = model.state_dict().values()
    for tensor in tensors:
        tensor.max()  # what is mapped is in memory only now
    peak, files = peak_memory(), pages_of_files()
    del held
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy())
    return {
        "model": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "peak": peak - before,
        "files": files - files_before,
        "sha256": digest.hexdigest(),
    }


def warm_up(way):
    """Load a tiny model in this way, so that what PyTorch reads at the first use is in memory."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_files(TINY, Path(folder))
        WAYS[way](TINY, Path(folder))


def measure_way(way, folder):
    """What `measure_here` returns, from a process of its own.

    Raises:
        ValueError: there is no such way, or the folder lacks the files of `write_files`.
        RuntimeError: the process failed; with what it wrote last.
    """
    folder = Path(folder)
    if way not in WAYS:
        raise ValueError(f"The ways are {', '.join(WAYS)}, but not {way!r}.")
    missing = [name for name in (CONFIG, STATE_DICT, OURS, GPT2S) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}: write_files(cfg, folder) first.")
    command = [sys.executable, __file__, way, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"Loading {way} failed with status {run.returncode}. {run.stderr}")
    return json.loads(run.stdout)


def main(cfg=GPT_CONFIG_124M):
    parser = argparse.ArgumentParser(description="Peak memory of ways to load a model's weights.")
    parser.add_argument("way", nargs="?", choices=WAYS, help="without: all, on GPT-2's small shape")
    parser.add_argument("folder", nargs="?", type=Path, help="where write_files wrote")
    arguments = parser.parse_args()
    if arguments.way:
        if not arguments.folder:
            parser.error("a way needs the folder, too")
        print(json.dumps(measure_here(arguments.way, arguments.folder)))
        return
    print("| way | peak memory | times the model | pages of the file, at the end |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_files({**cfg, "qkv_bias": True}, Path(folder))
        for way in WAYS:
            found = measure_way(way, folder)
            peak, files = found["peak"], found["files"] / found["model"]
            times = peak / found["model"]
            print(f"| `{way}` | {peak / 1e6:,.0f} MB | {times:.2f} | {files:.2f} |", flush=True)


if __name__ == "__main__":
    main()
