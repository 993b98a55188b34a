"""Every entry of ERRATA.md names a test or a notebook's heading that exists."""

import ast
import json
import re

import pytest

from companion.notebooks import ROOT

ENTRY = re.compile(r"^- \*\*(.+?): .+?(?=^- |^## |\Z)", flags=re.M | re.S)
SECTION = r"(?:\d|[A-E])(?:\.\d+)+|Exercise (?:\d|[A-E])\.\d+"
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def functions_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def headings_in(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return set(re.findall(r"^#+ (.+)$", text, flags=re.M))


def link_faults(text, target, root):
    """What is wrong with one link: `test_name` to its file, or "name.ipynb: heading"."""
    path = root / target
    if not path.is_file():
        yield f"no file: {target}"
    elif path.suffix == ".py" and text.strip("`") not in functions_in(path):
        yield f"{target} has no {text}"
    elif path.suffix == ".ipynb":
        name, _, heading = text.partition(": ")
        if name != path.name or heading not in headings_in(path):
            yield f"{target} has no heading {heading!r}"


def errata_faults(text, root=ROOT):
    """What is wrong with a page of errata."""
    for entry in ENTRY.finditer(text):
        if not re.fullmatch(SECTION, entry[1]):
            yield f"{entry[1]} is no section"
        shown_by = entry[0].partition("Shown by")[2]
        links = LINK.findall(" ".join(shown_by.split()))
        if not links:
            yield f"{entry[1]} is shown by nothing"
        for link in links:
            yield from link_faults(*link, root)


def test_every_entry_is_shown_by_something_that_exists():
    text = (ROOT / "ERRATA.md").read_text(encoding="utf-8")
    assert list(errata_faults(text)) == []
    assert len(ENTRY.findall(text)) == len(re.findall(r"^- ", text, flags=re.M)) > 30


@pytest.mark.parametrize(
    "entry, fault",
    [
        ("- **2.3: A.** B.\n  Shown by [`test_right`](t.py).", None),
        ("- **Exercise 3.2: A.** B.\n  Shown by\n  [n.ipynb: Why\n  so?](n.ipynb).", None),
        ("- **2.3: A.** B.", "2.3 is shown by nothing"),
        ("- **Two: A.** B.\n  Shown by [`test_right`](t.py).", "Two is no section"),
        ("- **2.3: A.** B.\n  Shown by [`test_wrong`](t.py).", "t.py has no `test_wrong`"),
        ("- **2.3: A.** B.\n  Shown by [`test_right`](u.py).", "no file: u.py"),
        ("- **2.3: A.** B.\n  Shown by [n.ipynb: Why?](n.ipynb).", "n.ipynb has no heading 'Why?'"),
    ],
)
def test_an_entry_that_leads_nowhere_is_found(entry, fault, tmp_path):
    (tmp_path / "t.py").write_text("def test_right():\n    pass\n")
    cell = {"cell_type": "markdown", "source": "### Why so?\n\ntext"}
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert list(errata_faults(entry, tmp_path)) == ([fault] if fault else [])
