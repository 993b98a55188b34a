"""What a notebook or script asks for at its start: tokenizer, profile, device."""

import ctypes
import logging
import os
import platform
import sys
from importlib.metadata import version

from companion.tokenizer import prepare_tokenizer

PROFILES = ("pocket", "book")
DEVICES = ("cpu", "cuda", "mps")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def setup():
    """Make GPT-2's tokenizer available offline and print the versions that figures depend on.

    On Linux, the process also keeps the memory that it has freed, see `keep_freed_memory`.

    Raises:
        AssetError: the tokenizer's files cannot be had.
    """
    prepare_tokenizer()
    keep_freed_memory()
    # On its first use ever, matplotlib may warn that it lists the fonts: noise under a plot.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    print(
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"tiktoken {version('tiktoken')}, device {device()}"
    )


def keep_freed_memory():
    """Let glibc keep freed blocks for the next tensor; does nothing where there is no glibc.

    It gives a block of 32 MB or more back to the system at once, and gets the next one, as large as
    that, a page of 4 kB at a time, each filled with zeros first. The logits of 256 tokens are such
    a block: chapter 5's training spent a third of its time on it. The peak rises by a fifth there.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never shrinks


def profile():
    """The environment variable PROFILE: "pocket" (the default) or "book".

    Raises:
        ValueError: PROFILE is set to something else.
    """
    return _choice("PROFILE", PROFILES) or "pocket"


def device():
    """The torch.device to compute on: `DEVICE` if set, else cuda where there is one, else cpu.

    Apple's mps is used only when asked for, because its results differ in the last digits.

    Raises:
        ValueError: DEVICE names no kind of device.
        RuntimeError: DEVICE names one that this machine, or this build of torch, does not have.
    """
    import torch

    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    wanted = _choice("DEVICE", DEVICES) or ("cuda" if available["cuda"] else "cpu")
    if not available[wanted]:
        have = ", ".join(name for name in DEVICES if available[name])
        raise RuntimeError(f"DEVICE={wanted} is not available here. Available: {have}.")
    return torch.device(wanted)


def progress(iterable, description):
    """The iterable with a progress bar, in a terminal or JupyterLab; nothing where neither looks.

    The bar goes to standard error and disappears at the end.
    """
    from tqdm import tqdm

    return tqdm(iterable, desc=description, leave=False, disable=not shows_progress())


def shows_progress():
    """Whether somebody will see a progress bar: in a terminal or JupyterLab."""
    return sys.stderr.isatty() or has_widgets()


def has_widgets():
    """Whether sliders and the like will be seen: in JupyterLab or VS Code, not in a batch run."""
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ


def _choice(variable, allowed):
    """The variable's value, or None where it is unset or empty."""
    value = os.environ.get(variable) or None
    if value is not None and value not in allowed:
        raise ValueError(f"{variable} must be one of {', '.join(allowed)}, but is {value!r}.")
    return value
