"""Make the repository's preference set from the hand-written replies in `replies.tsv`.

    python make_preferences.py            # writes companion/data/preferences.json
    python make_preferences.py --check    # says whether the file is what the table gives

A row has a scene, who speaks next, a kind reply and a rude one. All of it is written by hand; the
script only joins scene and speaker to a prompt that ends in an open quotation mark, closes the
quotation marks of the replies, and shuffles the pairs. The first 340 are for training, the rest is
held out (dpo.py).
"""

import argparse
import hashlib
import json
import random
import sys
from pathlib import Path

from companion.assets import HERE as COMPANION

TABLE = Path(__file__).with_name("replies.tsv")
OUTPUT = COMPANION / "data" / "preferences.json"
COLUMNS = ["scene", "speaker", "kind", "rude"]
SEED = 7


def read_replies(path=TABLE):
    """The rows of the table, dictionaries with the keys of COLUMNS.

    Raises:
        ValueError: another heading, or a row with another number of filled cells; names the line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    if not rows or rows[0] != COLUMNS:
        raise ValueError(f"{path.name} must begin with the columns {', '.join(COLUMNS)}.")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(COLUMNS) or not all(cell.strip() for cell in row):
            raise ValueError(f"{path.name}, line {number}: 4 filled cells are needed, not {row}.")
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows[1:]]


def pair_of(row):
    """A row as a preference pair: the prompt, the chosen and the rejected answer."""
    return {
        "prompt": f'{row["scene"]} {row["speaker"]}, "',
        "chosen": f'{row["kind"]}"',
        "rejected": f'{row["rude"]}"',
    }


def json_text(pairs):
    """A JSON list with one pair in a line."""
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def make_text():
    """The text of preferences.json."""
    pairs = [pair_of(row) for row in read_replies()]
    random.Random(SEED).shuffle(pairs)
    return json_text(pairs)


def main(arguments=None):
    """The command line; the exit status, 1 where the file is not what the table gives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    content = make_text().encode()
    if parser.parse_args(arguments).check:
        agrees = OUTPUT.exists() and OUTPUT.read_bytes() == content
        print(f"{OUTPUT.name} {'agrees with' if agrees else 'is not what comes from'} the table")
        return 0 if agrees else 1
    OUTPUT.write_bytes(content)
    print(f"size = {len(content)}\nsha256 = {hashlib.sha256(content).hexdigest()!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
