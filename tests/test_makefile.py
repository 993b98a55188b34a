"""When `make` installs, and when it does not. A stand-in for Python only writes down its calls."""

import shutil
import stat
import subprocess
import sys

import pytest

from companion.notebooks import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")

STAND_IN = """#!/bin/sh
case "$*" in
  "-V") echo "Python {version}" ;;
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "venv {version}" >> calls ;;
  *"pip install"*) echo "install" >> calls ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for version in ("3.11", "3.12"):
        python = tmp_path / f"python{version}"
        python.write_text(STAND_IN.format(version=version))
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def calls_of(checkout, *arguments):
    """What `make setup` called, and forget it."""
    result = subprocess.run(
        ["make", "setup", *arguments], cwd=checkout, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    calls = checkout / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return lines


def test_the_first_call_installs_and_the_second_does_not(checkout):
    assert calls_of(checkout, "PYTHON=./python3.11") == ["venv 3.11", "install"]
    assert calls_of(checkout) == []


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_changed_file_installs_again_and_a_touched_one_does_not(checkout, name):
    calls_of(checkout, "PYTHON=./python3.11")
    (checkout / name).touch()
    assert calls_of(checkout) == []
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert calls_of(checkout) == ["install"]


def test_another_interpreter_makes_a_new_environment(checkout):
    calls_of(checkout, "PYTHON=./python3.11")
    assert calls_of(checkout, "PYTHON=./python3.11") == []
    assert calls_of(checkout, "PYTHON=./python3.12") == ["venv 3.12", "install"]
    assert calls_of(checkout) == []  # what is there is kept, when none is named


@pytest.mark.parametrize("version, accepted", [((3, 9, 1), False), ((3, 10, 0), True)])
def test_an_interpreter_too_old_is_refused_with_its_version(checkout, version, accepted):
    """The stand-in runs the Makefile's own check, in a Python that says it is this version."""
    number = ".".join(map(str, version))
    pretend = f"import sys; sys.version_info, sys.version = {version}, '{number}';"
    python = checkout / "python-of-old"
    text = STAND_IN.format(version=number)
    python.write_text(
        text.replace("case", f'[ "$1" = -c ] && exec {sys.executable} -c "{pretend} $2"\ncase', 1)
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["make", "setup", "PYTHON=./python-of-old"], cwd=checkout, capture_output=True, text=True
    )
    assert (result.returncode == 0) == accepted
    assert (checkout / ".venv").exists() == accepted
    assert accepted or "is needed, but ./python-of-old is 3.9.1" in result.stderr
