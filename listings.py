"""Writes LISTINGS.md: for each section of the book, its notebook cells and its lines of script.

A section is a heading with the book's number in a main notebook. Its code is what its cells define,
and what a script beside the notebook says to come from it ("Source: book, section 2.6"). What does
not exist yet is left out.

python listings.py       or: make listings
"""

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
PAGE = "LISTINGS.md"

NUMBER = r"(?:\d|[A-E])(?:\.\d+)+"
HEADING = re.compile(rf"^(#+) (?:({NUMBER}) )?(.+)$", flags=re.M)
FENCED = re.compile(r"```.*?```", flags=re.S)
SOURCE = re.compile(rf"Source: (?:book, )?sections? ({NUMBER}(?:(?:, | and ){NUMBER})*)")

INTRODUCTION = """# Listings: where the code of each section is

Each row is a section of the book, with the cells of its notebook by their stored numbers, and with
the classes and functions it builds: the cell that builds one, and the script that is its home. A
name without a script is a step on the way that only the notebook has. A section's cells include
those of its questions ("Why ...?"), which are beyond the book.

Made by `make listings`; a test compares it with the notebooks and scripts.
"""


class Definition(NamedTuple):
    """A class, function or constant at the top level of a script."""

    name: str
    script: Path
    line: int
    sections: tuple


class Section(NamedTuple):
    """A section of a notebook: the counts of its cells, and the names that it defines itself."""

    title: str
    notebook: Path
    cells: list
    names: list


def units(root):
    """Folders of the main code, in the book's order: chapters, then appendices."""
    chapters, appendices = root.glob("ch*/*_main-*"), root.glob("appendix-*/*_main-*")
    return [*sorted(chapters), *sorted(appendices)]


def defined(source):
    """(name, line, docstring) of what a script or cell defines for others to use."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node.lineno, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").isupper():
            yield node.targets[0].id, node.lineno, ""


def definitions(folder):
    """All of the folder's scripts, except what is only for a script's own use."""
    found = []
    for script in sorted(folder.glob("*.py")):
        for name, line, doc in defined(script.read_text(encoding="utf-8")):
            if name != "main" and not name.startswith("_"):
                sources = ", ".join(SOURCE.findall(" ".join(doc.split())))
                found.append(Definition(name, script, line, (*re.findall(NUMBER, sources),)))
    return found


def sections(notebook):
    """A notebook's {number: Section}, and the first cell of each {name: count} that it defines."""
    found, built, current, is_question = {}, {}, None, False
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for level, number, title in HEADING.findall(FENCED.sub("", source)):
                is_question = not number
                if number:
                    current = found[number] = Section(title, notebook, [], [])
                elif len(level) < 3:  # the summary
                    current = None
        elif current:
            current.cells.append(cell["execution_count"])
            for name, _, _ in defined(source):
                built.setdefault(name, cell["execution_count"])
                if not is_question:
                    current.names.append(name)
    return found, built


def is_main(notebook):
    """Whether a reader follows this notebook: ch02.ipynb, code-part1.ipynb, appendix-D.ipynb."""
    return re.fullmatch(r"ch\d\d|code-part\d|appendix-[A-E]", notebook.stem) is not None


def rows(folder, root):
    """One row of the table for each section of a chapter."""
    by_number, cell_of = {}, {}
    for notebook in filter(is_main, sorted(folder.glob("*.ipynb"))):
        found, built = sections(notebook)
        by_number, cell_of = by_number | found, cell_of | built
    scripts = definitions(folder)
    from_scripts = {number for definition in scripts for number in definition.sections}
    for number in sorted({*by_number, *from_scripts}, key=in_order):
        section = by_number.get(number, Section("", None, [], []))
        homes = {d.name: d for d in scripts if d.name in section.names or number in d.sections}
        names = [name for name in section.names if name in homes or not name.isupper()]
        code = [
            entry(name, cell_of.get(name), homes.get(name), root)
            for name in dict.fromkeys([*names, *homes])
        ]
        title = f"{number} {section.title}".strip()
        yield f"| {title} | {cells_of(section, root)} | {'<br>'.join(code)} |"


def in_order(number):
    return [int(part) if part.isdigit() else ord(part) for part in number.split(".")]


def cells_of(section, root):
    if not section.cells:
        return ""
    first, last = section.cells[0], section.cells[-1]
    span = f"[{first}]" if first == last else f"[{first}] to [{last}]"
    return f"[{section.notebook.name}]({section.notebook.relative_to(root).as_posix()}) {span}"


def entry(name, cell, definition, root):
    """A name with its cell and the line of its script, whichever there are."""
    places = [f"[{cell}]"] if cell else []
    if definition:
        target = f"{definition.script.relative_to(root).as_posix()}#L{definition.line}"
        places.append(f"[{definition.script.name}:{definition.line}]({target})")
    return f"`{name}` {', '.join(places)}"


def title_of(unit, root):
    """ "Chapter 2: Working with text data", from the table of contents on the front page."""
    kind, number = ("Chapter ", unit[3:]) if unit.startswith("ch") else ("", f"Appendix {unit[-1]}")
    front_page = (root / "README.md").read_text(encoding="utf-8")
    title = re.search(rf"^\| {number} ([^|]+) \|", front_page, flags=re.M)
    return f"{kind}{number}: {title[1]}"


def page(root=ROOT):
    """The text of LISTINGS.md."""
    parts = [INTRODUCTION]
    for folder in units(root):
        table = list(rows(folder, root))
        if table:
            head = [
                f"## {title_of(folder.parent.name, root)}",
                "",
                "| Section | Cells | Code |",
                "|---|---|---|",
            ]
            parts.append("\n".join([*head, *table, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    (ROOT / PAGE).write_text(page(), encoding="utf-8", newline="\n")
