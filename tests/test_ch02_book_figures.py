"""Chapter 2's figures as the book prints them, from our notebooks run under PROFILE=book."""

import re

import nbclient
import nbformat
import pytest

from companion.notebooks import ROOT
from conftest import printed_by_section

FOLDER = ROOT / "ch02" / "01_main-chapter-code"
pytestmark = pytest.mark.book


def executed_outputs(name):
    """{section number: all its printed text} of a notebook that is run now."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return printed_by_section(notebook)


@pytest.fixture(scope="module")
def book_run(verdict, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    (cache / verdict.name).write_bytes(verdict.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_CACHE", str(cache))
        patch.setenv("PROFILE", "book")
        patch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        yield {name: executed_outputs(name) for name in ("ch02", "exercise-solutions")}


@pytest.fixture
def section(book_run):
    return lambda number, name="ch02": book_run[name][number]


def test_the_story_has_the_books_length_and_words(section):
    text = section("2.2")
    assert "Total number of characters: 20479" in text
    assert "\n4690\n" in text
    opening = "'I', 'HAD', 'always', 'thought', 'Jack', 'Gisburn', 'rather', 'a', 'cheap', 'genius'"
    assert f"[{opening}," in text


def test_the_vocabulary_is_the_books(section):
    text = section("2.3")
    assert text.startswith("1130\n")
    entries = [("!", 0), ('"', 1), ("'", 2), ("(", 3), (")", 4), (",", 5), ("--", 6), (".", 7)]
    for entry in [*entries, ("A", 11), ("HAD", 44)]:
        assert f"{entry}\n" in text
    assert re.search(r"\('\w+', 50\)\n", text)
    assert not re.search(r", 51\)\n", text)


def test_the_dialogue_line_goes_there_and_back_as_in_the_book(section):
    ids = [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754, 793, 7]
    text = section("2.3")
    assert str(ids) in text
    assert (
        '" It\' s the last he painted, you know," Mrs. Gisburn said with pardonable pride.' in text
    )


def test_the_first_tokenizer_fails_at_hello(section):
    assert "KeyError: 'Hello'" in section("2.3")


def test_the_second_tokenizer_loses_hello_and_palace(section):
    text = section("2.4")
    assert text.startswith("1132\n")
    decoded = "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."
    assert decoded in text


def test_tiktoken_gives_the_books_ids(section):
    ids = [15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554]
    ids += [262, 4252, 18250, 8812, 2114, 1659, 617, 34680, 27271, 13]
    text = section("2.5")
    assert str(ids) in text
    assert "50257" in text


def test_the_windows_hold_the_books_ids(section):
    text = section("2.6")
    assert text.startswith("5145\n")
    assert "x: [290, 4920, 2241, 287]" in text
    assert "y:      [4920, 2241, 287, 257]" in text
    first = "[tensor([[  40,  367, 2885, 1464]]), tensor([[ 367, 2885, 1464, 1807]])]"
    assert first in text
    rows = ["40,   367,  2885,  1464", "1807,  3619,   402,   271", "10899,  2138,   257,  7026"]
    for row in rows:
        assert row in text
    assert re.search(r"Targets:\n tensor\(\[\[ +367, +2885, +1464, +1807\]", text)


def test_the_seeded_embedding_has_the_books_numbers(section):
    text = section("2.7")
    assert "[[ 0.3374, -0.1778, -0.1690]," in text
    assert "tensor([[-0.4015,  0.9666, -1.1481]], grad_fn" in text


def test_the_last_section_has_the_books_shapes(section):
    text = section("2.8")
    assert "Inputs shape:\n torch.Size([8, 4])" in text
    assert text.count("torch.Size([8, 4, 256])") == 2
    assert text.count("torch.Size([4, 256])") == 1


def test_the_exercises_have_the_books_answers(section):
    pieces = section("Exercise 2.1", "exercise-solutions")
    assert "[33901, 86, 343, 86, 220, 959]" in pieces
    assert re.findall(r"'(.*)'\n", pieces)[:6] == ["Ak", "w", "ir", "w", " ", "ier"]
    first_batch = [40, 367, 2885, 1464, 1807, 3619, 402, 271]
    numbers = re.findall(r"\d+", section("Exercise 2.2", "exercise-solutions"))
    assert [int(number) for number in numbers[:8]] == first_batch


def test_the_pocket_profile_shows_other_figures():
    """Control: the assertions above could not pass on the embedded story."""
    notebook = nbformat.read(FOLDER / "ch02.ipynb", as_version=4)
    assert "20479" not in nbformat.writes(notebook)
