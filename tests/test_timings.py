"""The READMEs' times and memory: what is measured, and that no README says anything else."""

import os
import re
import runpy
import socket
import ssl
import subprocess
import sys
import threading
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from companion import notebooks, timings
from companion.__main__ import main
from companion.notebooks import ROOT, all_notebooks
from companion.timings import COUNTING, Timing

MACHINE = "A CPU, 2 cores"
STORY = "ch02/01_main/ch02.ipynb"
BONUS = "ch02/02_bonus/bonus.ipynb"
MEASURED = {
    STORY: Timing(STORY, 66, 14.1, 1542, 0, MACHINE),
    BONUS: Timing(BONUS, 9, 3.8, 300, 1000, MACHINE),
}
PAGES = {
    "README.md": "# Top\n\n<!-- timings -->\n<!-- end of timings -->\n\nEnd\n",
    "ch02/README.md": """# Chapter

| Folder | What it holds |
|---|---|
| [01_main](01_main/README.md) | the chapter |
| [02_bonus](02_bonus/README.md) | more |
""",
    "ch02/01_main/README.md": """# Main

| File | Open it to | CPU time |
|---|---|---|
| [ch02.ipynb](ch02.ipynb) | follow `a\\|b` | 99 s |
| [script.py](script.py) | read | |

Below.

| File | Open it to |
|---|---|
| [ch02.ipynb](ch02.ipynb) | another table |
""",
    "ch02/03_none/README.md": "| File | Open it to |\n|---|---|\n| [a.py](a.py) | read |\n",
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two notebooks, of one cell each, and four READMEs."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "EXECUTED", tmp_path / "build" / "executed")
    (tmp_path / "companion").mkdir()
    for name in MEASURED:
        add_notebook(tmp_path / name, "1 + 1")
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def add_notebook(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)


def text_of(root, name):
    return (root / name).read_text(encoding="utf-8")


# This repository


def stale(measured):
    """READMEs that show something else than these timings."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, text in timings.pages(measured)
        if path.read_text(encoding="utf-8") != text
    ]


def test_every_notebook_was_measured():
    wanted = {path.relative_to(ROOT).as_posix() for path in all_notebooks()}
    assert wanted - timings.stored().keys() == set(), "make timings (CH=ch02: of one chapter)"


def test_the_readmes_show_what_was_measured():
    measured = timings.stored()
    assert stale(measured) == [], "make tables"
    name, timing = next(iter(measured.items()))  # control
    slower = {**measured, name: timing._replace(seconds=timing.seconds + 100)}
    assert {"README.md", "README.zh-CN.md"} < set(stale(slower))


def test_every_notebook_is_in_the_table_of_its_folder():
    pages = {path.parent: text for path, text in timings.pages(timings.stored())}
    for path in all_notebooks():
        block = re.search(r"<!-- timings -->.*<!-- end of timings -->", pages[path.parent], re.S)
        assert f"]({path.name})" in block[0], path


def test_the_pocket_profile_downloads_nothing():
    assert {name for name, timing in timings.stored().items() if timing.downloaded} == set()


# The tables


def test_tables_get_their_figures_and_keep_their_words(repository):
    timings.store(MEASURED)
    timings.write_tables()
    main_page = text_of(repository, "ch02/01_main/README.md")
    assert "| [ch02.ipynb](ch02.ipynb) | follow `a\\|b` | 14 s | 1,542 MB |\n" in main_page
    assert "| [script.py](script.py) | read | | |\n" in main_page
    assert f"on: {MACHINE}. Downloaded: 0 bytes.\n\n<!-- end of timings -->\n\nBelow." in main_page
    assert main_page.endswith("| [ch02.ipynb](ch02.ipynb) | another table |\n")
    assert "99 s" not in main_page and "CPU time" not in main_page


def test_a_folders_row_has_the_sum_of_seconds_and_the_largest_memory(repository):
    add_notebook(repository / "ch02/02_bonus/more.ipynb", "2")
    more = MEASURED[STORY]._replace(notebook="ch02/02_bonus/more.ipynb")
    timings.store({**MEASURED, more.notebook: more})
    timings.write_tables()
    chapter = text_of(repository, "ch02/README.md")
    assert "| [01_main](01_main/README.md) | the chapter | 14 s | 1,542 MB |\n" in chapter
    assert "| [02_bonus](02_bonus/README.md) | more | 18 s | 1,542 MB |\n" in chapter


def test_the_front_page_has_a_row_for_each_notebook(repository):
    timings.store(MEASURED)
    timings.write_tables()
    page = text_of(repository, "README.md")
    assert "the 2 notebooks take 18 s, need at most 1,542 MB of memory, and download 1,000" in page
    assert f"| ch02 | [bonus.ipynb]({BONUS}) | 4 s | 300 MB | 1,000 | {MACHINE} |\n" in page
    assert page.startswith("# Top\n") and page.endswith("\n\nEnd\n")


def test_long_times_are_told_in_minutes(repository):
    timings.store({**MEASURED, STORY: MEASURED[STORY]._replace(seconds=119.4)})
    timings.write_tables()
    assert "| the chapter | 119 s |" in text_of(repository, "ch02/README.md")
    assert "the 2 notebooks take 2 min, need" in text_of(repository, "README.md")


def test_writing_twice_changes_nothing_and_other_pages_stay(repository):
    timings.store(MEASURED)
    timings.write_tables()
    once = {name: text_of(repository, name) for name in PAGES}
    timings.write_tables()
    assert {name: text_of(repository, name) for name in PAGES} == once
    assert once["ch02/03_none/README.md"] == PAGES["ch02/03_none/README.md"]
    assert once["ch02/README.md"] != PAGES["ch02/README.md"]  # control


def test_a_notebook_without_a_row_is_said_to_be_missing_and_a_row_without_one_goes(repository):
    timings.store({STORY: MEASURED[STORY], "ch09/old.ipynb": MEASURED[BONUS]})
    assert timings.stored() == {STORY: MEASURED[STORY]}
    timings.write_tables()
    chapter = text_of(repository, "ch02/README.md")
    assert "| [02_bonus](02_bonus/README.md) | more | not yet | not yet |\n" in chapter


# Measuring


@pytest.mark.notebook  # starts kernels
def test_a_chapter_is_measured_and_what_fails_keeps_its_row(repository, capsys):
    source = "import os, time; time.sleep(1.2); block = b'x' * 150_000_000; time.sleep(0.3)"
    settings = "assert os.environ['PROFILE'] == 'pocket' and 'OMP_NUM_THREADS' not in os.environ"
    add_notebook(repository / STORY, f"{source}\n{settings}")
    add_notebook(repository / BONUS, "raise ValueError('no such luck')")
    add_notebook(repository / "ch03" / "01_main" / "ch03.ipynb", "raise ValueError('not asked')")
    old = MEASURED[STORY]._replace(seconds=0.5)
    timings.store({STORY: old, BONUS: MEASURED[BONUS]})
    before = dict(os.environ)

    assert main(["timings", "ch02"]) == 1
    assert dict(os.environ) == before
    measured = timings.stored()
    assert measured.keys() == {STORY, BONUS}
    assert measured[BONUS] == MEASURED[BONUS]
    new = measured[STORY]
    assert (new.cells, new.downloaded, new.machine) == (1, 0, timings.machine())
    assert 1.5 < new.seconds < 60 and 150 < new.peak_mb < 1000
    assert f"{new.peak_mb:,} MB |" in text_of(repository, "ch02/01_main/README.md")
    assert "ValueError: no such luck. Its row is as it was." in capsys.readouterr().err


def test_an_interruption_keeps_what_was_measured_before(repository, monkeypatch, capsys):
    def execute(path):
        if path.name == "bonus.ipynb":
            raise KeyboardInterrupt
        return notebooks.Run(STORY, 1, 2.0, 50)

    monkeypatch.setattr(notebooks, "execute", execute)
    before = dict(os.environ)
    assert main(["timings"]) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert list(timings.stored()) == [STORY]
    assert "| 2 s | 50 MB |" in text_of(repository, "ch02/01_main/README.md")
    assert dict(os.environ) == before


def test_the_machine_is_named_by_its_cpu_and_cores():
    assert re.fullmatch(rf"\S.*, {os.cpu_count()} cores", timings.machine())


# Counting what is received

CLIENT = """
import socket, ssl, subprocess, sys
import sitecustomize
if {everything}:
    sitecustomize.count_into({file!r}, lambda connection: True)
{work}
"""
FETCH = "import requests; assert len(requests.get({url!r}).content) == 100_000"
ANONYMOUS = "aNULL:@SECLEVEL=0"  # TLS without a certificate, for this test alone
FETCH_ENCRYPTED = """
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.set_ciphers({ciphers!r})
with context.wrap_socket(socket.create_connection(("127.0.0.1", {port}))) as connection:
    while connection.recv(8) != b"end":
        pass
"""


def received(work, tmp_path, everything=True):
    """Bytes counted while another Python works: from everywhere, or from other machines only."""
    file = tmp_path / "received"
    code = CLIENT.format(everything=everything, file=str(file), work=work)
    environment = {**os.environ, "PYTHONPATH": str(COUNTING)}
    if not everything:
        environment["COMPANION_RECEIVED"] = str(file)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return sum(map(int, file.read_text().split()))


def test_a_download_is_counted_with_its_headers(server, tmp_path):
    server.content = bytes(100_000)
    work = FETCH.format(url=f"{server}/good/file.bin")
    assert 100_000 < received(work, tmp_path) < 101_000


def test_what_comes_from_this_machine_is_no_download(server, tmp_path):
    server.content = bytes(100_000)
    work = FETCH.format(url=f"{server}/good/file.bin")
    assert received(work, tmp_path, everything=False) == 0


def test_what_was_encrypted_is_counted_once(tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ANONYMOUS)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with context.wrap_socket(listening.accept()[0], server_side=True) as connection:
                for piece in (b"12345678", b"12345678", b"end"):
                    connection.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        port = listening.getsockname()[1]
        assert received(FETCH_ENCRYPTED.format(ciphers=ANONYMOUS, port=port), tmp_path) == 19


def test_a_python_that_the_notebook_starts_is_counted_too(tmp_path):
    """Every Python that inherits the variables counts; it writes down a line for each piece."""
    file = tmp_path / "received"
    file.write_text("")
    inner = "import socket; print(socket.socket.recv.__wrapped__)"
    work = f"subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    assert received(work, tmp_path, everything=False) == 0
    plain = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True)
    assert "has no attribute '__wrapped__'" in plain.stderr  # control


@pytest.mark.parametrize(
    "family, address, expected",
    [
        (socket.AF_INET, "192.0.2.7", True),
        (socket.AF_INET6, "2001:db8::7", True),
        (socket.AF_INET6, "fe80::7%eth0", True),
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET6, "::1", False),
        (socket.AF_INET6, "::ffff:127.0.0.1", False),
        ("a socket in the file system", "", False),
    ],
)
def test_far_is_what_does_not_go_through_loopback(family, address, expected):
    is_far = runpy.run_path(str(COUNTING / "sitecustomize.py"))["is_far"]
    connection = SimpleNamespace(family=family, getsockname=lambda: (address, 1234))
    assert is_far(connection) == expected
