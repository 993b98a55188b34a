"""Prints what works on this machine, and how to mend the rest (book, exercises A.1 and A.2).

The table is that of `python -m companion doctor`. It runs from any folder, and before anything is
installed.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main():
    """Exit status: 0 where the main chapters can run, else 1."""
    return subprocess.run([sys.executable, "-m", "companion", "doctor"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
