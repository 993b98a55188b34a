"""Chapter 3's figures as the book prints them, found in the stored outputs of our notebooks.

The strict run of the notebooks proves that the stored outputs are what the cells print.
"""

import re

import nbformat
import pytest

from companion.notebooks import ROOT
from conftest import printed_by_section

FOLDER = ROOT / "ch03" / "01_main-chapter-code"


@pytest.fixture(scope="module")
def section():
    """section("3.2"): all that the section's cells print, as it is stored."""
    printed = {}
    for name in ("ch03", "exercise-solutions"):
        printed |= printed_by_section(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    return printed.__getitem__


FIGURES = {
    "3.3.1": [
        "tensor([0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865])",
        "tensor([0.1455, 0.2278, 0.2249, 0.1285, 0.1077, 0.1656])",
        "tensor([0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581])",
        "tensor([0.4419, 0.6515, 0.5683])",
    ],
    "3.3.2": [
        "[0.9995, 0.9544, 0.9422, 0.4753, 0.4576, 0.6310]",
        "[0.2098, 0.2006, 0.1981, 0.1242, 0.1220, 0.1452]",
        "[0.4421, 0.5931, 0.5790]",
        "[0.4419, 0.6515, 0.5683]",
    ],
    "3.4.1": [
        "tensor([0.4306, 1.4551])",
        "keys.shape: torch.Size([6, 2])",
        "values.shape: torch.Size([6, 2])",
        "tensor(1.8524)",
        "tensor([0.1500, 0.2264, 0.2199, 0.1311, 0.0906, 0.1820])",
        "tensor([0.3061, 0.8210])",
    ],
    "3.4.2": [
        "[0.2996, 0.8053]",
        "[0.3061, 0.8210]",
        "[-0.0739,  0.0713]",
        "[-0.0748,  0.0703]",
        "[-0.0749,  0.0702]",
    ],
    "3.5.1": [
        "[0.1921, 0.1646, 0.1652, 0.1550, 0.1721, 0.1510]",
        "[0.5517, 0.4483, 0.0000,",
        "[0.3800, 0.3097, 0.3103, 0.0000,",
        "[[0.2899,   -inf,",
    ],
    "3.5.3": [
        "torch.Size([2, 6, 3])",
        "torch.Size([2, 6, 2])",
        "[[[-0.4519,  0.2216],",
        "[-0.5299, -0.1081]]",
    ],
    "3.6.1": ["torch.Size([2, 6, 4])", "[[[-0.4519,  0.2216,  0.4772,  0.1063],"],
    "3.6.2": [
        "torch.Size([2, 6, 2])",
        "[[[0.3190, 0.4858],",
        "[1.3208, 1.1631, 1.2879]",
        "[1.1631, 2.2150, 1.8424]",
        "[1.2879, 1.8424, 2.0402]",
    ],
    "Exercise 3.2": ["torch.Size([2, 6, 2])"],
    "Exercise 3.3": ["2,360,064"],
}


@pytest.mark.parametrize(
    "number, figure", [(number, figure) for number, all_ in FIGURES.items() for figure in all_]
)
def test_a_section_shows_the_books_figure(section, number, figure):
    assert figure in section(number)


def test_a_figure_is_looked_for_in_its_own_section_only(section):
    """Control of the test above."""
    assert FIGURES["3.4.1"][0] not in section("3.3.1")
    assert FIGURES["3.6.1"][0] not in section("3.6.2")


def test_both_ways_of_masking_and_softmax_agree(section):
    assert section("3.5.1").count("[0.3800, 0.3097, 0.3103, 0.0000,") == 2
    assert section("3.3.1").count("tensor([0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581])") == 2


def test_the_first_row_of_ones_is_dropped_out_as_in_the_book(section):
    """As stored, on Linux x86-64: elsewhere the seed may drop others, and nothing compares it."""
    assert "tensor([[2., 2., 0., 2., 2., 0.]," in section("3.5.2")


def rows_of(text):
    """The rows of numbers in a printed tensor, or in several, in order."""
    rows = re.findall(r"\[( *-?\d\.\d{4}(?:, +-?\d\.\d{4})*)\]", text)
    return [[float(number) for number in row.split(",")] for row in rows]


def test_the_scores_are_symmetric(section):
    start = section("3.3.2").index("tensor([[0.9995")
    scores = rows_of(section("3.3.2")[start:])[:6]
    assert scores == [list(column) for column in zip(*scores, strict=True)]
    weights = rows_of(section("3.3.2")[section("3.3.2").index("tensor([[0.2098") :])[:6]
    assert weights != [list(column) for column in zip(*weights, strict=True)]  # control


@pytest.mark.parametrize("number", ["3.5.3", "3.6.1"])
def test_both_texts_of_the_batch_come_out_the_same(section, number):
    printed = section(number)
    rows = rows_of(printed[printed.index("tensor([[[-0.4519") :])[:12]
    assert rows[:6] == rows[6:]
    assert rows[0] != rows[1]  # control


def test_the_left_half_of_two_heads_is_the_single_head(section):
    def first_text(number):
        return rows_of(section(number)[section(number).index("tensor([[[-0.4519") :])[:6]

    assert [row[:2] for row in first_text("3.6.1")] == first_text("3.5.3")
    assert [row[2:] for row in first_text("3.6.1")] != first_text("3.5.3")  # control


def test_the_outputs_of_exercise_1_are_equal(section):
    rows = rows_of(section("Exercise 3.1"))
    assert len(rows) == 12
    assert rows[:6] == rows[6:]
