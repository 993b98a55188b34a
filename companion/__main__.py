"""Command line: python -m companion {doctor,run,notebooks,timings,tables,book-data,lab}."""

import argparse
import contextlib
import os
import subprocess
import sys

from companion.assets import HERE, AssetError, asset, manifest


def main(arguments=None):
    """Run one command; the exit status, 0 where all went well."""
    parser = argparse.ArgumentParser(prog="python -m companion")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what works on this machine, and how to mend the rest")
    for name, text in (
        ("run", "execute the chapters' main notebooks into build/executed"),
        ("notebooks", "execute all notebooks and store their outputs in place"),
        ("timings", "measure all notebooks and write the figures into the READMEs"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("chapter", nargs="?", help="only this one, for instance ch02")
    commands.add_parser("tables", help="write the measured figures into the READMEs anew")
    commands.add_parser("book-data", help="download the book's own texts")
    commands.add_parser("lab", help="open JupyterLab at the table of contents")
    chosen = parser.parse_args(arguments)
    if chosen.command in ("run", "notebooks", "timings"):
        return _execute(chosen.command, chosen.chapter)
    others = {"doctor": _doctor, "tables": _tables, "book-data": _book_data, "lab": _lab}
    return others[chosen.command]()


def _doctor():
    from companion import doctor

    return 0 if doctor.main() else 1


def _execute(command, chapter):
    from companion import notebooks, timings

    work = {"notebooks": notebooks.store_outputs, "timings": timings.measure}
    try:
        if command == "run":
            return 0 if notebooks.run(notebooks.main_notebooks(chapter)) else 1
        return 0 if work[command](notebooks.all_notebooks(chapter)) else 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The notebooks before this one are done.", file=sys.stderr)
        return 130


def _tables():
    from companion import timings

    timings.write_tables()
    return 0


def _book_data():
    """Fetch every file that is only to be had from the network, but for GPT-2's large weights."""
    status = 0
    for name, entry in manifest().items():
        if "path" not in entry and "asked_for_by" not in entry:
            try:
                print(f"{name}: {asset(name)}")
            except AssetError as error:
                print(error, file=sys.stderr)
                status = 1
    return status


def lab(root, *options):
    """The running JupyterLab over `root`: for this machine alone, asking the network for nothing.

    The settings in `jupyter/` let it show README.md, the table of contents, as a page.
    """
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.default_url=/lab/tree/README.md"]
    settings = os.pathsep.join(
        filter(None, [str(HERE / "jupyter"), os.getenv("JUPYTER_CONFIG_PATH")])
    )
    environment = {**os.environ, "JUPYTER_CONFIG_PATH": settings}
    return subprocess.Popen([*command, *options], env=environment)


def _lab():
    from companion.notebooks import ROOT

    with lab(ROOT) as process, contextlib.suppress(KeyboardInterrupt):
        return process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
