"""Rules that hold for the whole repository. Each has a control: a broken example that is found."""

import ast
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement

from companion import assets
from companion.notebooks import ROOT, all_notebooks
from conftest import files_below

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOTEBOOKS = {str(path.relative_to(ROOT)): path for path in all_notebooks()}
SCRIPTS = sorted([*ROOT.glob("ch[0-9][0-9]/*/*.py"), *ROOT.glob("appendix-*/*/*.py")])
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IN_READING_ORDER = ["appendix-A", *(f"ch0{n}" for n in range(1, 8)), "appendix-D", "appendix-E"]
LONGEST_CELL = 45  # lines; only a whole class comes near it
KNOWN_TAGS = {"parameters", "nbval-ignore-output"}


def repository_files():
    """Files that git tracks or would add; every file, where this is no git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    names = files_below(ROOT) if listed.returncode else listed.stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def notebook_cells(path, kind):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in cells if c["cell_type"] == kind]


# One home for each class


def definitions(source):
    """{name: syntax tree} of the top-level classes and functions, docstrings left out."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner):
                    inner.body = inner.body[1:] or [ast.Pass()]
            found[node.name] = ast.dump(node)
    return found


def copies_that_differ(notebook_source, homes):
    """Names that the notebook defines otherwise than their home does."""
    shown = definitions(notebook_source)
    return [name for name, tree in shown.items() if name in homes and homes[name] != tree]


REDEFINED = {"ch06": {"calc_loss_batch"}}  # the book gives these names to another function there


@pytest.fixture(scope="module")
def homes():
    """{chapter: {name: tree}} of all scripts; a redefined name is in its own chapter another."""
    everywhere, own = {}, {chapter: {} for chapter in IN_READING_ORDER}
    for script in SCRIPTS:
        chapter = script.relative_to(ROOT).parts[0]
        for name, tree in definitions(script.read_text(encoding="utf-8")).items():
            is_redefined = name in REDEFINED.get(chapter, ())
            if name != "main":
                (own[chapter] if is_redefined else everywhere)[name] = tree
    return {chapter: everywhere | own[chapter] for chapter in own}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_class_in_a_notebook_is_that_of_its_home(name, homes):
    for cell in notebook_cells(NOTEBOOKS[name], "code"):
        assert copies_that_differ(cell["source"], homes[Path(name).parts[0]]) == []


def test_a_copy_that_differs_is_found():
    homes = definitions('def twice(x):\n    """Docs."""\n    return 2 * x  # why')
    assert copies_that_differ("def twice(x):\n    return 2 * x", homes) == []
    assert copies_that_differ("def twice(x):\n    return x * 2", homes) == ["twice"]


def test_the_chapter_shows_every_class_of_its_homes(homes):
    shown = "\n".join(
        cell["source"]
        for cell in notebook_cells(NOTEBOOKS["ch02/01_main-chapter-code/ch02.ipynb"], "code")
    )
    wanted = {"SimpleTokenizerV1", "SimpleTokenizerV2", "GPTDatasetV1", "create_dataloader_v1"}
    assert wanted <= definitions(shown).keys() & homes["ch02"].keys()


def test_a_name_is_defined_in_one_script_only():
    all_names = [
        name
        for script in SCRIPTS
        for name in definitions(script.read_text(encoding="utf-8"))
        if name != "main" and not name.startswith("_")
        if name not in REDEFINED.get(script.relative_to(ROOT).parts[0], ())
    ]
    assert len(set(all_names)) == len(all_names)


def test_script_names_are_unique():
    names = [script.stem for script in SCRIPTS]
    assert len(set(names)) == len(names)


def test_every_script_is_installed_by_both_kinds_of_install():
    build = PYPROJECT["tool"]["hatch"]["build"]
    for script in SCRIPTS:
        folder = script.parent.relative_to(ROOT).as_posix()
        assert folder in build["dev-mode-dirs"]
        assert folder in build["targets"]["wheel"]["sources"]


# Imports point backwards


def imported_modules(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


# Of a later unit, but free for all: LoRA is used from chapter 6 on, and needs no chapter itself.
FREE_FOR_ALL = {"lora"}


def forward_imports(unit, source, unit_of):
    """Modules of later units that the source imports."""
    place = IN_READING_ORDER.index
    modules = [name for name in imported_modules(source) if name in unit_of.keys() - FREE_FOR_ALL]
    return [name for name in modules if place(unit_of[name]) > place(unit)]


def test_scripts_and_notebooks_import_earlier_chapters_only():
    unit_of = {script.stem: script.relative_to(ROOT).parts[0] for script in SCRIPTS}
    for script in SCRIPTS:
        unit = script.relative_to(ROOT).parts[0]
        assert forward_imports(unit, script.read_text(encoding="utf-8"), unit_of) == []
    for name, path in NOTEBOOKS.items():
        for cell in notebook_cells(path, "code"):
            assert forward_imports(Path(name).parts[0], cell["source"], unit_of) == []


def test_what_is_free_for_all_needs_no_chapter():
    modules = {script.stem: script for script in SCRIPTS}
    for name in FREE_FOR_ALL:
        imported = set(imported_modules(modules[name].read_text(encoding="utf-8")))
        assert imported and imported.isdisjoint(modules)


def test_a_forward_import_is_found():
    unit_of = {"gpt": "ch04", "dataloader": "ch02"}
    assert forward_imports("ch04", "import dataloader, gpt", unit_of) == []
    assert forward_imports("ch02", "from gpt import GPTModel", unit_of) == ["gpt"]


def test_companion_imports_no_chapter():
    chapter_modules = {script.stem for script in SCRIPTS}
    for path in (ROOT / "companion").glob("*.py"):
        imported = set(imported_modules(path.read_text(encoding="utf-8")))
        assert imported.isdisjoint(chapter_modules)
        assert imported  # control: something was read


# Notebooks


def notebook_faults(path):
    """What is wrong with the stored form of a notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook_cells(path, "code") if cell["source"].strip()]
    yield from metadata_faults(notebook["metadata"])
    counts = [cell["execution_count"] for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield "execution counts do not run from 1"
    if not cells[0]["source"].startswith("import companion\n\ncompanion.setup()"):
        yield "does not start with companion.setup()"
    reads_profile = [cell for cell in cells if "companion.profile()" in cell["source"]]
    if any(cell["metadata"].get("tags") != ["parameters"] for cell in reads_profile):
        yield "a cell that reads the profile is not tagged parameters"
    if len(reads_profile) > 1:
        yield "reads the profile more than once"
    for cell, following in itertools.zip_longest(cells, cells[1:]):
        yield from cell_faults(cell, following)


def metadata_faults(metadata):
    if metadata.get("kernelspec", {}).get("name") != "python3":
        yield "kernel is not python3"
    if metadata.get("language_info") != {"name": "python"} or metadata.keys() != {
        "kernelspec",
        "language_info",
    }:
        yield "metadata is not normalized: make notebooks"


def cell_faults(cell, following):
    where = f"cell [{cell['execution_count']}]"
    tags = set(cell["metadata"].get("tags", []))
    if shows_something(cell["source"]) and not cell["outputs"]:
        yield f"{where} stores no output"
    if any(output["output_type"] == "error" for output in cell["outputs"]):
        yield f"{where} stores an error"
    if any(output.get("name") == "stderr" for output in cell["outputs"]):
        yield f"{where} stores a warning"
    if len(cell["source"].splitlines()) > LONGEST_CELL:
        yield f"{where} is longer than {LONGEST_CELL} lines"
    if not tags <= KNOWN_TAGS:
        yield f"{where} has an unknown tag: {tags - KNOWN_TAGS}"
    if "sys.path" in cell["source"] or re.search(r"import \*", cell["source"]):
        yield f"{where} touches sys.path or imports *"
    if cell["source"].rstrip().endswith(";"):  # nbval takes no notice of it, and sees an output
        yield f"{where} ends with a semicolon"
    is_setup = "companion.setup()" in cell["source"]
    is_followed_up = following and "assert" in following["source"]
    if "nbval-ignore-output" in tags and not (is_setup or is_followed_up):
        yield f"{where} is not compared, and no cell after it asserts anything"


def shows_something(source):
    """Whether running the cell must leave an output: it prints, or ends with a value."""
    body = ast.parse(source).body
    calls = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Call)]
    in_functions = {
        call
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        for call in ast.walk(node)
    }
    prints = any(
        getattr(call.func, "id", "") == "print" for call in calls if call not in in_functions
    )
    ends_with_value = (
        body  # empty where all of the cell is a comment, as a hint not yet asked for
        and isinstance(body[-1], ast.Expr)
        and not isinstance(body[-1].value, ast.Call)
        and not source.rstrip().endswith(";")
    )
    return prints or ends_with_value


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_executed_and_normalized(name):
    assert list(notebook_faults(NOTEBOOKS[name])) == []


def stored(cells, metadata=None):
    normal = {"kernelspec": {"name": "python3"}, "language_info": {"name": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata or normal})


def code_cell(source, count, outputs=(), tags=()):
    cell = {"cell_type": "code", "source": source, "metadata": {"tags": list(tags)}}
    return {**cell, "execution_count": count, "outputs": list(outputs)}


SETUP = code_cell("import companion\n\ncompanion.setup()", 1, tags=["nbval-ignore-output"])
PARAMETERS = code_cell("PROFILE = companion.profile()", 2, tags=["parameters"])
TEXT = {"output_type": "stream", "name": "stdout", "text": "1\n"}


@pytest.mark.parametrize(
    "last_cell, fault",
    [
        (code_cell("print(1)", 3, [TEXT]), None),
        (code_cell("x = 1", 3), None),
        (code_cell('# hint("2.1")', 3), None),
        (code_cell("print(1)", 3), "stores no output"),
        (code_cell("1 + 1", 3), "stores no output"),
        (code_cell("f(1);", 3), "ends with a semicolon"),
        (code_cell("print(1)", 7, [TEXT]), "counts"),
        (code_cell("1/0", 3, [{"output_type": "error"}]), "stores an error"),
        (code_cell("print(1)", 3, [{**TEXT, "name": "stderr"}]), "stores a warning"),
        (code_cell("print(1)", 3, [TEXT], ["nbval-ignore-output"]), "asserts"),
        (code_cell("print(1)", 3, [TEXT], ["nbval-ignore"]), "unknown tag"),
        (code_cell("from gpt import *", 3), "imports"),
        (code_cell("x = 1\n" * 46, 3), "longer"),
        (code_cell("x = companion.profile()", 3), "not tagged"),
        (code_cell("x = companion.profile()", 3, tags=["parameters"]), "more than once"),
    ],
)
def test_a_fault_in_a_notebook_is_found(last_cell, fault, tmp_path):
    path = tmp_path / "n.ipynb"
    path.write_text(stored([SETUP, PARAMETERS, last_cell]), encoding="utf-8")
    faults = list(notebook_faults(path))
    assert bool(faults) == bool(fault)
    assert not fault or fault in faults[0]


def test_changed_metadata_is_found():
    assert list(metadata_faults({"kernelspec": {"name": "python3"}, "language_info": {}}))


# Pictures and links


def picture_faults(text):
    """Pictures without alt text, or linked from the network."""
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text):
        if not alt.strip():
            yield f"no alt text: {target}"
        if target.startswith("http"):
            yield f"from the network: {target}"
    for tag in re.findall(r"<img[^>]*>", text):
        if not re.search(r'alt="[^"]+"', tag):
            yield f"no alt text: {tag}"
        if re.search(r'src="http', tag):
            yield f"from the network: {tag}"


def dead_links(text, folder):
    """Relative links and pictures that lead nowhere, seen from `folder`."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        name, _, anchor = unquote(target).partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        page = text
        if name.endswith(".md") and (folder / name).exists():
            page = (folder / name).read_text(encoding="utf-8")
        is_page = not name or name.endswith(".md")
        if not (folder / name).exists() or (is_page and anchor and anchor not in anchors(page)):
            yield target


def anchors(text):
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def pages():
    for path in repository_files():
        if path.suffix == ".md":
            yield path, path.read_text(encoding="utf-8")
        elif path.suffix == ".ipynb":
            yield path, "\n\n".join(c["source"] for c in notebook_cells(path, "markdown"))


def test_pictures_have_alt_text_and_links_lead_somewhere():
    for path, text in pages():
        assert list(picture_faults(text)) == [], path
        assert list(dead_links(text, path.parent)) == [], path


def heading_faults(text):
    """Headings in whose words a `#` is left over."""
    return re.findall(r"^#+ +#.*$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)


def test_headings_have_their_marks_once():
    for path, text in pages():
        assert heading_faults(text) == [], path


def test_a_heading_marked_twice_is_found():
    assert heading_faults("# Why\n\n## C# in a cell\n\n```\n# # code\n```") == []
    assert heading_faults("text\n\n# # Why\n") == ["# # Why"]


def test_both_front_pages_link_to_the_same_files():
    def links(name):
        found = re.findall(r"\]\(([^)\s]+)", (ROOT / name).read_text(encoding="utf-8"))
        return {target for target in found if not target.startswith("README")}

    assert links("README.md") == links("README.zh-CN.md")
    assert len(links("README.md")) > 5  # control


def test_a_bad_picture_or_link_is_found(tmp_path):
    (tmp_path / "a.svg").touch()
    assert list(picture_faults("![a cat](a.svg) <img src='a.svg' alt=\"a cat\">")) == []
    assert len(list(picture_faults('![](a.svg) <img src="a.svg">'))) == 2
    assert len(list(picture_faults("![a](https://example.org/a.svg)"))) == 1
    assert list(dead_links("# Top\n[a](a.svg) [b](#top) [c](https://example.org)", tmp_path)) == []
    assert list(dead_links("[a](b.svg) [b](#bottom)", tmp_path)) == ["b.svg", "#bottom"]
    (tmp_path / "page.md").write_text("```\n# code\n```\n## A heading\n", encoding="utf-8")
    assert list(dead_links("[a](page.md) [b](page.md#a-heading)", tmp_path)) == []
    assert list(dead_links("[a](page.md#code) [b](page.md#b)", tmp_path)) == [
        "page.md#code",
        "page.md#b",
    ]


# Files


def test_no_file_above_one_megabyte_outside_the_manifest():
    listed = {assets.HERE / entry.get("path", "") for entry in assets.manifest().values()}
    large = [path for path in repository_files() if path.stat().st_size > 1_000_000]
    assert [path for path in large if path not in listed] == []
    assert max(path.stat().st_size for path in repository_files()) > 10_000  # control


def test_no_file_names_a_folder_of_somebodys_machine():
    own = [str(ROOT), str(Path.home())]
    for path in repository_files():
        if path.suffix not in {".jpg", ".png", ".safetensors"}:
            text = path.read_text(encoding="utf-8")
            assert not [folder for folder in own if len(folder) > 5 and folder in text], path


def test_a_file_left_behind_is_seen_and_a_tools_cache_is_not(tmp_path):
    before = files_below(tmp_path)
    (tmp_path / "ch02" / "__pycache__").mkdir(parents=True)
    (tmp_path / "ch02" / "__pycache__" / "x.pyc").touch()
    assert files_below(tmp_path) == before
    (tmp_path / "ch02" / "model.pth").touch()
    assert files_below(tmp_path) - before == {str(Path("ch02", "model.pth"))}


def test_requirements_pin_every_dependency_within_its_range():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in lines
    assert lines[-1] == "-e .[dev]"
    pins = [Requirement(line) for line in lines if line[0] not in "#-"]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    project = PYPROJECT["project"]
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    for text in [*project["dependencies"], *extras]:
        wanted = Requirement(text)
        if wanted.name != project["name"]:
            versions = [str(p.specifier)[2:] for p in pins if p.name == wanted.name]
            assert versions, wanted
            assert all(wanted.specifier.contains(version) for version in versions)


# No file may run code by being opened

# It shows what a pickle can do, with one of its own.
OPENS_A_PICKLE = "ch05/02_alternative_weight_loading/weight-loading.ipynb"


def careless_loads(source):
    """The calls of torch.load that do not say weights_only=True."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if "weights_only=True" not in map(ast.unparse, node.keywords)
    ]


def test_only_the_demonstration_opens_a_pickle():
    scripts = [*SCRIPTS, *ROOT.glob("companion/*.py"), *ROOT.glob("bench/*.py")]
    for path in scripts:
        assert careless_loads(path.read_text(encoding="utf-8")) == [], path
    for name, path in NOTEBOOKS.items():
        found = [load for c in notebook_cells(path, "code") for load in careless_loads(c["source"])]
        assert len(found) == (name == OPENS_A_PICKLE), name


def test_a_careless_load_is_found():
    assert careless_loads("model = torch.load(path)") == ["torch.load(path)"]
    assert len(careless_loads("if x:\n    torch.load(path, weights_only=False)")) == 1
    assert careless_loads("torch.load(path, weights_only=True, mmap=True)") == []
