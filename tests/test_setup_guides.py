"""The set-up guides: their commands fit the repository, and the check tells what is missing."""

import json
import os
import re
import subprocess
import sys
import venv

import pytest

from companion.notebooks import ROOT

FOLDER = ROOT / "appendix-A" / "02_installing-python-libraries"
CHECK = FOLDER / "python_environment_check.py"
CONTAINER = ROOT / ".devcontainer"
NAMING_TORCH = [
    *("README.md", "README.zh-CN.md", ".binder/requirements.txt", ".github/workflows/tests.yml"),
    *(".devcontainer/devcontainer.json", f"{FOLDER.relative_to(ROOT).as_posix()}/README.md"),
]


def other_torches(text):
    """Versions of torch that the text pins and requirements.txt does not."""
    pinned = re.search(r"^torch==([\d.]+)$", (ROOT / "requirements.txt").read_text(), flags=re.M)
    return set(re.findall(r"\btorch==(\d+(?:\.\d+)*)", text)) - {pinned[1]}


@pytest.mark.parametrize("name", NAMING_TORCH)
def test_the_torch_that_is_named_is_the_one_that_is_tested(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "torch==" in text
    assert other_torches(text) == set()


def test_another_torch_is_found():
    assert other_torches("pip install torch==2.1.0, torch==2.13.0+cpu torch==2.13.0.") == {"2.1.0"}


def test_the_dev_container_is_built_here_and_asks_for_no_gpu():
    text = (CONTAINER / "devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(text)
    dockerfile = (CONTAINER / settings["build"]["dockerfile"]).read_text(encoding="utf-8")
    assert f"useradd --create-home --shell /bin/bash {settings['remoteUser']}" in dockerfile
    assert "whl/cpu" in settings["postCreateCommand"]
    assert not re.search(r"gpu|cuda|nvidia", (text + dockerfile).replace("whl/cpu", ""), re.I)


def run_check(python, folder):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([python, CHECK], cwd=folder, env=clean, capture_output=True, text=True)


def test_the_check_is_the_doctors_table_from_any_folder(tmp_path):
    result = run_check(sys.executable, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^torch +ok ", result.stdout, flags=re.M)
    assert result.stdout.endswith("The main chapters can run.\n")


def test_the_check_says_what_to_do_before_anything_is_installed(tmp_path):
    venv.create(tmp_path / "bare", symlinks=os.name != "nt")
    [python] = [*(tmp_path / "bare").glob("bin/python"), *(tmp_path / "bare").glob("*/python.exe")]
    result = run_check(python, tmp_path)
    assert result.returncode == 1
    assert result.stderr == ""
    assert "pip install -r requirements.txt" in result.stdout
    assert result.stdout.endswith("The main chapters cannot run yet.\n")
