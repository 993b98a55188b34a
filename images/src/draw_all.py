"""Redraw the pictures of every chapter, or compare them with what is committed.

python images/src/draw_all.py            writes images/chNN/*.svg, and each JPEG that is out of date
python images/src/draw_all.py --check    writes nothing; exits 1 if a picture is out of date
"""

import argparse
import importlib
from pathlib import Path

import front_page

SOURCES = Path(__file__).resolve().parent
IMAGES = SOURCES.parent


def drawn():
    """Path and text of every picture that has a source."""
    pictures = {}
    for source in sorted([*SOURCES.glob("ch*.py"), *SOURCES.glob("appendix-*.py")]):
        chapter = importlib.import_module(source.stem)
        for name, draw in chapter.DRAWINGS.items():
            folder = source.stem.partition("_")[0]  # ch07_preferences.py draws into ch07/
            pictures[IMAGES / folder / f"{name}.svg"] = draw().svg(chapter.ALT[name])
    return pictures


def differences(pictures):
    """One line for each file that does not agree with its source."""
    lines = []
    for path, svg in pictures.items():
        if not path.exists():
            lines.append(f"missing: {path.relative_to(IMAGES).as_posix()}")
        elif path.read_bytes() != svg.encode():
            lines.append(f"out of date: {path.relative_to(IMAGES).as_posix()}")
    strays = set(IMAGES.rglob("*.svg")) - set(pictures)
    return lines + [
        f"without a source: {path.relative_to(IMAGES).as_posix()}" for path in sorted(strays)
    ]


def main():
    parser = argparse.ArgumentParser(description="Redraw the pictures of every chapter.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on differences")
    pictures = drawn()
    if parser.parse_args().check:
        lines = differences(pictures) + front_page.outdated(IMAGES)
        print("\n".join(lines) or f"{len(pictures)} pictures agree with their sources")
        raise SystemExit(bool(lines))
    for path, svg in pictures.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(svg.encode())
    redrawn = front_page.redraw(IMAGES)
    print(", ".join([f"drew {len(pictures)} pictures", *redrawn]))


if __name__ == "__main__":
    main()
