"""JupyterLab as `make lab` starts it, in headless Chromium."""

import json
import re
import shutil
import time

import nbformat
import pytest

from companion.__main__ import lab
from companion.notebooks import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
SECONDS = 120 * 1000  # in Playwright's milliseconds; a kernel that imports torch may be slow

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def running_lab(tmp_path_factory):
    """Root folder and address of a running JupyterLab, with settings of its own."""
    home = tmp_path_factory.mktemp("home")
    root = tmp_path_factory.mktemp("root")
    for chapter in ("ch02", "ch03", "ch04"):
        shutil.copytree(ROOT / chapter, root / chapter)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    own = {f"JUPYTER_{what}_DIR": str(home / what) for what in ("CONFIG", "DATA", "RUNTIME")}
    own["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    own["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        process = lab(root, "--no-browser", "--ServerApp.port=0", "--allow-root")
    try:
        yield root, server_of(process, home)
    finally:
        process.terminate()
        process.wait(timeout=30)


def server_of(process, home):
    """What JupyterLab writes about itself when it is ready: url, token, ..."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        for path in (home / "RUNTIME").glob("jpserver-*.json"):
            if path.stat().st_size:
                return json.loads(path.read_text())
        time.sleep(0.1)
    pytest.fail("JupyterLab did not start")


@pytest.fixture(scope="module")
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(SECONDS)
        yield page
        browser.close()


def open_notebook(page, server, relative):
    """Alone, `reset` sees to that, and with its kernel ready."""
    page.goto(f"{server['url']}lab/tree/{relative}?token={server['token']}&reset")
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_function("document.body.innerText.includes('Python 3 (ipykernel) | Idle')")


def run_all(page):
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()


def part_of(notebook, *marks):
    """The notebook's code cells in which one of the marks stands, without their outputs."""
    notebook.cells = [
        nbformat.v4.new_code_cell(cell.source)
        for cell in notebook.cells
        if cell.cell_type == "code" and any(mark in cell.source for mark in marks)
    ]
    return notebook


def test_it_listens_on_this_machine_only_and_wants_its_token(running_lab):
    _, server = running_lab
    assert server["hostname"] == "127.0.0.1"
    assert len(server["token"]) >= 32


def test_it_opens_at_the_table_of_contents(running_lab, page):
    _, server = running_lab
    page.goto(f"{server['url']}?token={server['token']}")
    contents = page.locator(".jp-MarkdownViewer h2", has_text="Table of contents")
    contents.wait_for()
    assert page.locator(".jp-MarkdownViewer a", has_text="ch02.ipynb").count() >= 1


def test_all_cells_of_the_loader_notebook_run_and_show_their_output(running_lab, page):
    root, server = running_lab
    relative = "ch02/01_main-chapter-code/dataloader.ipynb"
    notebook = nbformat.read(root / relative, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None  # what is seen below was computed now
    nbformat.write(notebook, root / relative)

    open_notebook(page, server, relative)
    shown = page.locator(".jp-OutputArea-output", has_text="torch.Size([8, 4, 256])")
    assert shown.count() == 0  # control
    run_all(page)
    shown.wait_for()
    assert page.locator(".jp-OutputArea-output", has_text="Error").count() == 0


EXPLORER = ["companion.setup()", "import matplotlib", "words = [", "attn_scores = inputs @"]
EXPLORER += ["attn_weights = torch.softmax(attn_scores, dim=-1)  # (T, T)", "def show_matrices"]
EXPLORER += ["import torch.nn as nn", "def check_dropout", "class MultiHeadAttention("]
EXPLORER += ["num_digits, width =", "def head_weights", "def explore(", "interact(explore"]


def test_the_attention_explorer_draws_anew_what_is_chosen(running_lab, page):
    root, server = running_lab
    chapter = nbformat.read(root / "ch03/01_main-chapter-code/ch03.ipynb", as_version=4)
    nbformat.write(part_of(chapter, *EXPLORER), root / "explorer.ipynb")
    open_notebook(page, server, "explorer.ipynb")
    run_all(page)

    field, picture = page.locator(".widget-text input"), page.locator(".widget-interact img")
    picture.wait_for()
    for choose in (
        lambda: (field.fill("The cat sat on the mat"), field.press("Enter")),
        lambda: page.locator(".widget-checkbox input").click(),
        lambda: page.locator(".widget-slider .noUi-handle").press("ArrowRight"),
    ):
        before = picture.get_attribute("src")
        page.wait_for_timeout(1000)
        assert picture.get_attribute("src") == before  # control: it does not change by itself
        choose()
        page.wait_for_function(
            "(before) => ![before, undefined].includes("
            "document.querySelector('.widget-interact img')?.src)",
            arg=before,
        )
    field.fill("")
    field.press("Enter")
    page.locator(".widget-interact", has_text="There is nothing to look at").wait_for()


TRACER = ["companion.setup()", "import matplotlib", "GPT_CONFIG_124M = {", "import math"]
TRACER += ["class LayerNorm(", "class GELU(", "class FeedForward(", "from multihead_attention"]
TRACER += ["class TransformerBlock(", "import difflib", "def check_config", "def check_ids"]
TRACER += ["class GPTModel(", "trace_shapes(big_model", "expandable(trace)"]


def test_the_shape_tracer_opens_and_closes_by_a_click(running_lab, page):
    root, server = running_lab
    chapter = nbformat.read(root / "ch04/01_main-chapter-code/ch04.ipynb", as_version=4)
    nbformat.write(part_of(chapter, *TRACER), root / "tracer.ipynb")
    open_notebook(page, server, "tracer.ipynb")
    run_all(page)

    blocks = page.locator(".widget-hbox", has_text=re.compile(r"trf_blocks\s"))
    block = page.locator(".widget-hbox", has_text=re.compile(r"trf_blocks\.0\s"))
    blocks.wait_for()
    assert block.count() == 0  # control
    blocks.get_by_role("button").click()
    block.wait_for()
    blocks.get_by_role("button").click()
    block.wait_for(state="detached")
