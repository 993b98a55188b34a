"""Full disks, and processes that load GPT-2's weights at the same time."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from gpt_download import FILE, expected_shapes

TINY = {"n_vocab": 97, "n_ctx": 24, "n_embd": 32, "n_head": 2, "n_layer": 3}
DOWNLOAD = """
import sys
from companion import assets
import gpt_download

assets.manifest = lambda: {{"124M/model.safetensors": {entry!r}}}
gpt_download.SETTINGS["124M"] = {settings!r}
try:
    gpt_download.download_and_load_gpt2("124M", {folder!r})
except assets.AssetError as error:
    sys.exit(str(error))
"""
EXPORT = """
import sys
from gpt import GPTModel
from gpt_download import export_to_transformers

cfg = {{"vocab_size": 50257, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1}}
try:
    export_to_transformers(GPTModel({{**cfg, "drop_rate": 0.0, "qkv_bias": True}}), {folder!r})
except OSError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def weights(server, tmp_path):
    """Random weights on the server, and the manifest's entry for them; their slow URL."""
    wte, wpe = torch.empty(97, 32), torch.empty(24, 32)
    shapes = expected_shapes(wte, wpe, TINY["n_layer"])
    torch.manual_seed(0)
    save_file({name: torch.randn(*shape) for name, shape in shapes.items()}, tmp_path / FILE)
    server.content = (tmp_path / FILE).read_bytes()
    return {
        "what": "GPT-2's weights",
        "size": len(server.content),
        "sha256": hashlib.sha256(server.content).hexdigest(),
        "urls": [f"{server}/slow/{FILE}"],
    }


def start(code, before=(), **values):
    return subprocess.Popen(
        [*before, sys.executable, "-c", textwrap.dedent(code).format(**values)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def small_disk(tmp_path):
    """A folder, and what makes it a disk of so many bytes in a namespace of one's own."""
    if not shutil.which("unshare"):
        pytest.skip("needs Linux's unshare")
    folder = tmp_path / "disk"
    folder.mkdir()

    def before(num_bytes):
        mount = f'mount -t tmpfs -o size={num_bytes} tmpfs {folder} && "$@"; status=$?; '
        show = f"find {folder} -type f -size +0 >&2; exit $status"
        return ["unshare", "-rm", "sh", "-c", mount + show, "sh"]

    if subprocess.run([*before("1M"), "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow mounts in a namespace of one's own")
    return folder, before


@pytest.mark.slow  # it starts processes that load torch
@pytest.mark.parametrize(
    "code, scarce, enough",
    [(DOWNLOAD, "100k", "1M"), (EXPORT, "100k", "9M"), (EXPORT, "3M", "9M")],
    ids=["download", "export of the tokenizer", "export of the weights"],
)
def test_a_full_disk_is_told_and_holds_nothing_half_written(
    code, scarce, enough, small_disk, weights
):
    folder, before = small_disk
    values = {"entry": weights, "settings": TINY, "folder": str(folder / "here")}
    process = start(code, before(scarce), **values)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert os.strerror(errno.ENOSPC) in told
    assert str(folder / "here") in told
    assert FILE not in told.rpartition("another folder")[2]  # what lies on the disk
    process = start(code, before(enough), **values)  # control
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert str(folder / "here") in told
    assert FILE in told


@pytest.mark.slow  # it starts processes that load torch
def test_of_two_processes_one_downloads_and_both_load(weights, server, tmp_path):
    values = {"entry": weights, "settings": TINY, "folder": str(tmp_path / "gpt2")}
    processes = [start(DOWNLOAD, **values) for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert len(server.requests) == 1
    start(DOWNLOAD, **{**values, "folder": str(tmp_path / "other")}).communicate(timeout=120)
    assert len(server.requests) == 2  # control
