"""LISTINGS.md says where the code of each section is."""

import json

import pytest

import listings

SCRIPT = '''
SIZE = 3


def double(x):
    """Twice.

    Source: book, sections 2.1 and 2.2.1.
    """


def helper(x):
    """Shown in no section."""


def _private(x):
    """Source: book, section 2.1."""
'''
HOME = "[double.py:5](ch02/01_main-chapter-code/double.py#L5)"
NOTEBOOK = "[ch02.ipynb](ch02/01_main-chapter-code/ch02.ipynb)"


def cells(*sources):
    """A notebook's text: a source that starts with `#` is Markdown, and code is counted from 1."""
    made, count = [], 0
    for source in sources:
        is_code = not source.startswith("#")
        count += is_code
        code = {"cell_type": "code", "execution_count": count}
        made.append({**(code if is_code else {"cell_type": "markdown"}), "source": source})
    return json.dumps({"cells": made})


@pytest.fixture
def root(tmp_path):
    """A repository with one chapter, whose notebook does not exist yet."""
    folder = tmp_path / "ch02" / "01_main-chapter-code"
    folder.mkdir(parents=True)
    (folder / "double.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "README.md").write_text("| 2 Text | code |\n", encoding="utf-8")
    return tmp_path


def table(root):
    return [line for line in listings.page(root).splitlines() if line.startswith("| 2")]


def test_the_page_agrees_with_the_notebooks_and_scripts():
    stored = (listings.ROOT / listings.PAGE).read_text(encoding="utf-8")
    assert stored == listings.page(), "LISTINGS.md is out of date: make listings"
    for known in ("2.6 Data sampling", "3.6.2 Implementing", "[gpt.py:", "D.4 The modified"):
        assert known in stored  # control


def test_a_script_alone_is_listed_by_the_sections_that_it_names(root):
    assert "## Chapter 2: Text" in listings.page(root)
    assert table(root) == [f"| 2.1 |  | `double` {HOME} |", f"| 2.2.1 |  | `double` {HOME} |"]


def test_a_section_lists_its_cells_and_what_only_the_notebook_has(root):
    notebook = cells(
        *("x = 0", "## 2.1 First", "SIZE = 3", "OWN = 1\n\ndef step(x): pass"),
        *("### Why?", "def double(x): pass\n\ndef aside(x): pass", "## Summary", "x = 1"),
    )
    path = root / "ch02" / "01_main-chapter-code" / "ch02.ipynb"
    path.write_text(notebook, encoding="utf-8")
    size = "`SIZE` [2], [double.py:2](ch02/01_main-chapter-code/double.py#L2)"
    first = f"{size}<br>`step` [3]<br>`double` [4], {HOME}"
    assert table(root)[0] == f"| 2.1 First | {NOTEBOOK} [2] to [4] | {first} |"


def test_a_line_that_moved_is_seen(root):
    before = table(root)
    script = root / "ch02" / "01_main-chapter-code" / "double.py"
    script.write_text("\n" + SCRIPT, encoding="utf-8")
    assert (
        table(root)
        == [row.replace("double.py:5", "double.py:6").replace("#L5", "#L6") for row in before]
        != before
    )
