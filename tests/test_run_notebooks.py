"""`make run` and `make notebooks` on small notebooks of the test's own."""

import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from companion import notebooks
from companion.__main__ import main


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository; the function adds a chapter whose notebook has these code cells."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "EXECUTED", tmp_path / "build" / "executed")

    def add(chapter, *sources):
        folder = tmp_path / chapter / "01_main-chapter-code"
        folder.mkdir(parents=True)
        cells = [new_markdown_cell("# A chapter"), *map(new_code_cell, sources)]
        nbformat.write(new_notebook(cells=cells), folder / f"{chapter}.ipynb")
        return folder / f"{chapter}.ipynb"

    return add


def table_row(printed, chapter):
    return next(line for line in printed.splitlines() if line.startswith(f"{chapter}"))


@pytest.mark.notebook  # starts kernels
def test_all_chapters_run_and_the_failing_cell_is_named(repository, capsys):
    repository("ch02", "1 + 1", "raise ValueError('no such luck')", "3")
    good = repository("ch03", "print('hello')", "block = bytes(200_000_000); len(block)")
    repository("ch04", "import os; os._exit(3)")
    assert main(["run"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED in cell [2]: ValueError: no such luck" in table_row(printed, "ch02")
    assert table_row(printed, "ch03").endswith("ok")
    assert "FAILED: DeadKernelError" in table_row(printed, "ch04")

    copy = nbformat.read(notebooks.EXECUTED / "ch03" / good.parent.name / good.name, 4)
    assert copy.cells[1].outputs[0].text == "hello\n"
    assert not nbformat.read(good, 4).cells[1].outputs  # the original is not touched


@pytest.mark.notebook  # starts kernels
def test_one_chapter_runs_alone_and_the_status_is_zero(repository, capsys):
    repository("ch02", "raise ValueError")
    repository("ch03", "import numpy; block = numpy.ones(30_000_000); import time; time.sleep(0.5)")
    assert main(["run", "ch03"]) == 0
    _, cells, _, megabytes, unit, result = table_row(capsys.readouterr().out, "ch03").split()
    assert (cells, unit, result) == ("1", "MB", "ok")
    assert float(megabytes) > 240  # the array's own 240 MB are in it


def test_an_unknown_chapter_lists_the_known_ones(repository, capsys):
    repository("ch02", "1")
    assert main(["run", "ch99"]) == 2
    assert "CH=ch99. There are: ch02" in capsys.readouterr().err


@pytest.mark.notebook  # starts kernels
def test_stored_outputs_are_real_and_metadata_is_normalized(repository):
    path = repository("ch02", "import os; os.environ['PROFILE']", "print('a'); print('b')")
    before = nbformat.read(path, 4)
    before.metadata["widgets"] = {"big": "state"}
    before.cells[1].metadata.update(tags=["kept"], collapsed=True)
    nbformat.write(before, path)

    assert main(["notebooks"]) == 0
    after = nbformat.read(path, 4)
    assert after.cells[1].outputs[0].data["text/plain"] == "'pocket'"
    assert [output.text for output in after.cells[2].outputs] == ["a\nb\n"]
    assert [cell.execution_count for cell in after.cells[1:]] == [1, 2]
    assert after.metadata.keys() == {"kernelspec", "language_info"}
    assert after.metadata.language_info == {"name": "python"}
    assert after.cells[1].metadata == {"tags": ["kept"]}


@pytest.mark.notebook  # starts kernels
def test_one_changed_digit_in_a_stored_output_is_found(tmp_path):
    """The very notebook that passes in the strict run fails with one digit changed."""
    path = notebooks.ROOT / "ch02" / "01_main-chapter-code" / "dataloader.ipynb"
    notebook = nbformat.read(path, 4)
    printed = next(cell for cell in notebook.cells if "print(inputs)" in cell.source).outputs[0]
    printed.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), printed.text, count=1)
    nbformat.write(notebook, tmp_path / path.name)
    strict = [
        "--nbval",
        "--nbval-current-env",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--rootdir={tmp_path}",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *strict, path.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "1 failed" in result.stdout
    assert "Cell outputs differ" in result.stdout or "mismatch" in result.stdout


@pytest.mark.notebook  # starts kernels
def test_a_notebook_that_fails_is_left_as_it_was(repository, capsys):
    path = repository("ch02", "print('new')", "raise ValueError('broken')")
    before = path.read_bytes()
    assert main(["notebooks", "ch02"]) == 1
    assert path.read_bytes() == before
    assert [path.name for path in path.parent.iterdir()] == ["ch02.ipynb"]
    assert "broken" in capsys.readouterr().err
