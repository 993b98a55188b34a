"""find_near_duplicates.py: the pairs of a brute-force search, and files that cannot be read."""

import importlib.util
import json
import random

import numpy as np
import pytest

import find_near_duplicates
from companion.notebooks import ROOT
from find_near_duplicates import InputError, near_duplicates, report_lines, texts_of_file

WORDS = [
    "the",
    "a",
    "little",
    "old",
    "cat",
    "dog",
    "bird",
    "king",
    "farmer",
    "saw",
    "found",
    "lost",
]
WORDS += ["red", "blue", "ball", "hat", "house", "under", "near", "garden", "river", "and", "ran"]


def shingles(text):
    text = " ".join(f"[{text.casefold()}]".split()).replace("[", " ").replace("]", " ")
    text = text.replace("  ", " ").ljust(5)
    return {text[i : i + 5] for i in range(len(text) - 4)}


def brute_force(texts, threshold):
    """{(i, j): similarity}, from Python's sets."""
    sets = [shingles(text) for text in texts]
    found = {}
    for j, b in enumerate(sets):
        for i, a in enumerate(sets[:j]):
            similarity = len(a & b) / len(a | b)
            if similarity >= threshold:
                found[i, j] = similarity
    return found


def similar_texts(number, seed=0):
    """Short texts of few words, many of them nearly the same."""
    rng = random.Random(seed)
    texts = []
    for _ in range(number):
        if texts and rng.random() < 0.4:
            words = rng.choice(texts).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.randrange(1, 25))
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7, 0.8, 0.95, 1])
def test_the_pairs_are_those_of_brute_force(threshold):
    texts = similar_texts(200)
    similar = brute_force(texts, threshold - 0.1)
    expected = {pair: s for pair, s in similar.items() if s >= threshold}
    found = near_duplicates(texts, threshold)
    assert [(i, j) for i, j, _ in found] == sorted(expected)
    np.testing.assert_allclose([s for *_, s in found], [expected[i, j] for i, j, _ in found])
    assert 1 < len(expected) < len(similar)  # control: some to find, some nearly so


def test_the_blocks_in_which_it_works_change_nothing(monkeypatch):
    texts = similar_texts(200)
    expected = near_duplicates(texts, 0.5)
    monkeypatch.setattr(find_near_duplicates, "PAIRS_AT_ONCE", 50)
    search = find_near_duplicates._Search(texts, 0.5)
    assert len(search.blocks()) > 10  # control
    assert near_duplicates(texts, 0.5) == expected


def test_the_bounds_leave_few_pairs_to_compare(monkeypatch):
    """Without this the search would be right, and slow."""
    compared = []
    num_shared = find_near_duplicates._Search._num_shared

    def counted(self, low, high):
        compared.append((low, high))
        return num_shared(self, low, high)

    monkeypatch.setattr(find_near_duplicates._Search, "_num_shared", counted)
    texts = similar_texts(200)
    found = len(near_duplicates(texts, 0.8))
    assert 0 < found <= len(compared) < 2 * found
    assert 100 * len(compared) < 200 * 199 / 2  # control: all pairs are many more


def test_a_pair_at_the_threshold_counts():
    """Four characters in common places: 6 shingles in each, 4 of them in both, 4 / 8."""
    texts = ["abcdefgh", "abcdefxy"]
    similarity = brute_force(texts, 0.01)[0, 1]
    assert near_duplicates(texts, similarity) == [(0, 1, similarity)]
    assert near_duplicates(texts, similarity + 1e-6) == []


def test_case_and_blanks_do_not_count_and_words_do():
    texts = ["The cat\tsat.", "the  cat SAT.\n", "The cat ran.", "", "é", "\N{GRINNING FACE}", "É"]
    assert near_duplicates(texts, 0.9) == [(0, 1, 1.0), (4, 6, 1.0)]


@pytest.mark.parametrize("texts", [[], ["one text"]])
def test_fewer_than_two_texts_have_no_pairs(texts):
    assert near_duplicates(texts, 0.5) == []


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_a_threshold_out_of_range_is_told(threshold):
    with pytest.raises(ValueError, match=f"above 0 and at most 1, but is {threshold}"):
        near_duplicates(["a", "b"], threshold)


def test_an_entry_that_is_no_text_is_told():
    with pytest.raises(TypeError, match="Text 1 must be a string, but is 7"):
        near_duplicates(["a", 7], 0.5)


# Files

GOOD = {"instruction": "Name it.", "input": "", "output": "A cat."}


def test_a_list_of_objects_of_texts_and_lines_are_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([GOOD, "As it is"]), encoding="utf-8")
    assert texts_of_file(path) == ["Name it.\n\nA cat.", "As it is"]
    assert texts_of_file(path, ["output"]) == ["A cat.", "As it is"]
    (tmp_path / "x.tsv").write_bytes("\ufeffham\tHi é\r\n\r\nspam\tWin\n".encode())
    assert texts_of_file(tmp_path / "x.tsv") == ["ham\tHi é", "spam\tWin"]


@pytest.mark.parametrize(
    "content, message",
    [
        (json.dumps([GOOD, GOOD])[:-9], "not valid JSON: .* in line 1. Was the file cut short"),
        (json.dumps([GOOD, {"instruction": "a", "output": "b"}]), "Entry 1 .* has no 'input'"),
        (json.dumps([{}]), "Entry 0 .* only nothing. Name the keys to compare with --keys"),
        (json.dumps([GOOD, {**GOOD, "output": 7}]), "Entry 1 .*'output' must be text, but is 7"),
        (json.dumps([GOOD, 7]), "Entry 1 .* must be an object or text, not int"),
        (json.dumps(GOOD), "must hold a JSON list, not a dict"),
        ("[]", "has no entries"),
        ("", "not valid JSON"),
    ],
)
def test_a_bad_file_is_told(content, message, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        texts_of_file(path)
    path.write_text(json.dumps([GOOD, GOOD]), encoding="utf-8")  # control
    assert len(texts_of_file(path)) == 2


def test_a_missing_file_and_another_encoding_are_told(tmp_path):
    with pytest.raises(InputError, match=r"no\.txt cannot be read: No such file"):
        texts_of_file(tmp_path / "no.txt")
    (tmp_path / "x.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8 \(byte 2\)"):
        texts_of_file(tmp_path / "x.txt")


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["find_near_duplicates.py", *map(str, arguments)])
    return find_near_duplicates.main()


def test_the_command_reports_pairs_and_tells_faults_in_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.txt"
    path.write_text("The cat sat on the mat.\nA dog.\nThe cat sat on a mat.\n", encoding="utf-8")
    assert run(monkeypatch, path, "--threshold", 0.5) == 0
    printed = capsys.readouterr().out
    assert "3 texts, 1 near-duplicate pairs, of 2 texts" in printed
    assert "0 and 2" in printed and "A dog" not in printed
    assert run(monkeypatch, path, "--threshold", 1) == 0
    assert "3 texts, 0 near-duplicate pairs" in capsys.readouterr().out

    assert run(monkeypatch, path, "--threshold", 7) == 1
    assert run(monkeypatch, tmp_path / "no.txt") == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert len(errors.splitlines()) == 2
    assert "threshold must be above 0" in errors and "cannot be read" in errors


def test_a_long_report_shows_the_nearest_pairs():
    texts = ["one text", "one text", "one texts"]
    lines = list(report_lines(texts, near_duplicates(texts, 0.1), most=1))
    assert lines[0] == "3 texts, 3 near-duplicate pairs, of 3 texts"
    assert lines[1].endswith("1.0000  0 and 1")
    assert lines[-1].endswith("and 2 pairs that are less near")


# The benchmark


@pytest.fixture(scope="module")
def bench():
    path = ROOT / "bench" / "bench_near_duplicates.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_compares_with_the_same_pairs(bench):
    texts = bench.made_up_texts(100)
    expected = brute_force(texts, bench.THRESHOLD)
    found = bench.brute_force(texts, bench.THRESHOLD)
    assert {(i, j) for i, j, _ in found} == set(expected)
    assert bench.same_pairs(found, near_duplicates(texts, bench.THRESHOLD))
    assert len(expected) > 1
    assert not bench.same_pairs(found, found[1:])  # control
