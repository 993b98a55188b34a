"""setup(), profile, device, doctor: what every notebook and every newcomer meets first."""

import hashlib
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version

import pytest
import pytest_socket
import torch

import companion
from companion import AssetError, assets, doctor


def python(code, **environment):
    """Run code in a fresh interpreter with these environment variables."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


TOKENIZE = "import tiktoken; print(tiktoken.get_encoding('gpt2').encode('Hello'))"


@pytest.mark.filterwarnings("ignore:A test tried to use")
def test_the_network_is_blocked_in_tests():
    with pytest.raises(pytest_socket.SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # control: loopback is not
        socket.create_connection(listener.getsockname(), timeout=1).close()


def test_setup_prints_versions_and_device(empty_cache, capsys):
    companion.setup()
    line = capsys.readouterr().out
    assert f"torch {version('torch')}" in line
    assert f"tiktoken {version('tiktoken')}" in line
    assert "device" in line


def test_after_setup_tiktoken_needs_no_network(empty_cache):
    """A proxy that nobody answers stands for a network that is off."""
    dead = {"HTTPS_PROXY": "http://127.0.0.1:9", "TIKTOKEN_CACHE_DIR": ""}
    cache = {"COMPANION_CACHE": str(empty_cache), **dead}
    ready = python("import companion; companion.setup(); " + TOKENIZE, **cache)
    assert ready.stdout.endswith("[15496]\n"), ready.stderr
    # Control: without setup() the same line asks the network.
    other = {**dead, "TIKTOKEN_CACHE_DIR": str(empty_cache / "empty")}
    assert "ProxyError" in python(TOKENIZE, **other).stderr


# 64 MB are taken, given back, and taken again: how many pages come from the system the second time?
PAGE_FAULTS = """
import resource
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.empty(2**26, np.uint8).fill(1)
before = faults()
np.empty(2**26, np.uint8).fill(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_after_setup_freed_memory_is_taken_again():
    setting = {"NUMPY_MADVISE_HUGEPAGE": "0"}  # else numpy asks for pages of 2 MB
    keep = "from companion.session import keep_freed_memory; keep_freed_memory()"
    kept = python(keep + PAGE_FAULTS, **setting)
    assert int(kept.stdout) < 100, kept.stderr
    assert int(python(PAGE_FAULTS, **setting).stdout) > 900  # control: 1,024 pages of up to 64 kB


def test_a_folder_that_the_user_chose_is_left_alone(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "mine"))
    companion.prepare_tokenizer()
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path / "mine")
    assert not empty_cache.exists()


def test_a_damaged_tokenizer_file_is_replaced(empty_cache):
    folder = empty_cache / "tiktoken"
    companion.prepare_tokenizer()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 2
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    os.environ.pop("TIKTOKEN_CACHE_DIR")
    companion.prepare_tokenizer()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_damaged_package_is_told(empty_cache, monkeypatch):
    entry = {**assets.manifest()["vocab.bpe"], "sha256": hashlib.sha256(b"").hexdigest()}
    entry["urls"] = ["http://127.0.0.1:9/vocab.bpe"]
    listed = {**assets.manifest(), "vocab.bpe": entry}
    monkeypatch.setattr("companion.assets.manifest", lambda: listed)
    monkeypatch.setattr("companion.tokenizer.manifest", lambda: listed)
    with pytest.raises(AssetError, match=r"vocab\.bpe"):
        companion.prepare_tokenizer()


def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file" / "below"))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    with pytest.raises(AssetError, match="COMPANION_CACHE"):
        companion.prepare_tokenizer()


@pytest.mark.parametrize(
    "value, expected", [("", "pocket"), ("pocket", "pocket"), ("book", "book")]
)
def test_the_profile_is_read_from_the_environment(value, expected, monkeypatch):
    monkeypatch.setenv("PROFILE", value)
    assert companion.profile() == expected


def test_an_unknown_profile_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("PROFILE", "big")
    with pytest.raises(ValueError, match="pocket, book, but is 'big'"):
        companion.profile()


def test_cuda_is_chosen_where_there_is_one_and_mps_only_when_asked_for(monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert companion.device().type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert companion.device().type == "cuda"
    monkeypatch.setenv("DEVICE", "mps")
    assert companion.device().type == "mps"


def test_a_device_that_is_unknown_or_absent_is_told(monkeypatch):
    monkeypatch.setenv("DEVICE", "gpu")
    with pytest.raises(ValueError, match="cpu, cuda, mps, but is 'gpu'"):
        companion.device()
    monkeypatch.setenv("DEVICE", "mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="DEVICE=mps is not available"):
        companion.device()


def test_the_doctor_finds_this_installation_healthy(empty_cache, capsys):
    assert doctor.main()
    told = capsys.readouterr().out
    for name in ("Python", "platform", "torch", "tiktoken", "tokenizer", "device", "memory"):
        assert f"\n{name} " in f"\n{told}"
    assert "FAIL" not in told
    assert "The main chapters can run." in told


def test_the_doctor_fails_on_a_missing_or_too_old_dependency(empty_cache, monkeypatch, capsys):
    requirements = ["no-such-package>=1", "torch>=99", "numpy>=1"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: requirements)
    assert not doctor.main()
    told = capsys.readouterr().out
    assert "missing, needs >=1" in told
    assert f"{version('torch')}, needs >=99" in told
    assert doctor.INSTALL in told
    assert "numpy            ok" in told  # control


def test_the_doctor_tells_of_a_tokenizer_folder_without_the_files(tmp_path, monkeypatch, capsys):
    """A fresh interpreter, because tiktoken keeps what it has once loaded."""
    environment = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    code = "import sys; from companion import doctor; sys.exit(not doctor.main())"
    result = python(code, **environment)
    assert result.returncode == 1
    assert "Unset TIKTOKEN_CACHE_DIR" in result.stdout


def test_the_doctors_exit_status_is_that_of_its_command(monkeypatch):
    from companion.__main__ import main

    monkeypatch.setattr(doctor, "main", lambda: False)
    assert main(["doctor"]) == 1
    monkeypatch.setattr(doctor, "main", lambda: True)
    assert main(["doctor"]) == 0


def test_book_data_tells_every_file_that_could_not_be_had(empty_cache, monkeypatch, capsys):
    from companion.__main__ import main

    verdict = {**assets.manifest()["the-verdict.txt"], "urls": ["http://127.0.0.1:9/x"]}
    monkeypatch.setattr("companion.__main__.manifest", lambda: {"the-verdict.txt": verdict})
    monkeypatch.setattr("companion.assets.manifest", lambda: {"the-verdict.txt": verdict})
    assert main(["book-data"]) == 1
    assert "could not be reached" in capsys.readouterr().err


def test_book_data_is_content_with_what_is_there(book_cache, capsys):
    from companion.__main__ import main

    assert main(["book-data"]) == 0
    told = capsys.readouterr().out
    assert str(book_cache / "the-verdict.txt") in told
    assert "124M/model.safetensors" in assets.manifest()  # control: left out, it is large
    assert "124M" not in told
