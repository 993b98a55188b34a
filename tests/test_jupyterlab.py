"""JupyterLab as `make lab` starts it, in headless Chromium."""

import json
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
    shutil.copytree(ROOT / "ch02", root / "ch02")
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

    page.goto(f"{server['url']}lab/tree/{relative}?token={server['token']}")
    shown = page.locator(".jp-OutputArea-output", has_text="torch.Size([8, 4, 256])")
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_function("document.body.innerText.includes('Python 3 (ipykernel) | Idle')")
    assert shown.count() == 0  # control
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).click()
    shown.wait_for()
    assert page.locator(".jp-OutputArea-output", has_text="Error").count() == 0
