"""Chapter 4's figures as the book prints them, in the stored outputs and from `python gpt.py`.

The strict run of the notebooks proves that the stored outputs are what the cells print; the
figures that depend on dropout are as stored on Linux x86-64.
"""

import nbformat
import pytest

from companion.notebooks import ROOT
from conftest import printed_by_section

FOLDER = ROOT / "ch04" / "01_main-chapter-code"


@pytest.fixture(scope="module")
def section():
    """section("4.2"): all that the section's cells print, as it is stored."""
    printed = {}
    for name in ("ch04", "exercise-solutions"):
        printed |= printed_by_section(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    return printed.__getitem__


FIGURES = {
    "4.1": [
        "[6109, 3626, 6100,  345]",
        "[6109, 1110, 6622,  257]",
        "torch.Size([2, 4, 50257])",
        "[[[-1.2034,  0.3201, -0.7130,",
    ],
    "4.2": [
        "[0.2260, 0.3470, 0.0000, 0.2216, 0.0000, 0.0000]",
        "[[0.1324],\n        [0.2170]]",
        "[[0.0231],\n        [0.0398]]",
        "[ 0.6159,  1.4126, -0.8719,  0.5872, -0.8719, -0.8719]",
    ],
    "4.3": ["torch.Size([2, 3, 768])"],
    "4.4": [
        "layers.0.0.weight has gradient mean of 0.00020174",
        "layers.4.0.weight has gradient mean of 0.00504965",
        "layers.0.0.weight has gradient mean of 0.22169",
        "layers.4.0.weight has gradient mean of 1.32585",
    ],
    "4.5": ["Input shape: torch.Size([2, 4, 768])", "Output shape: torch.Size([2, 4, 768])"],
    "4.6": [
        "[[[ 0.3613,  0.4222, -0.0711,",
        "163,009,536",
        "124,412,160",
        "Token embedding layer shape: torch.Size([50257, 768])",
        "Output layer shape: torch.Size([50257, 768])",
        "621.83 MB",
    ],
    "4.7": [
        "encoded: [15496, 11, 314, 716]",
        "[[15496,    11,   314,   716, 27018, 24086, 47843, 30961, 42348,  7267]]",
        "Output length: 10",
        "Hello, I am Featureiman Byeswickattribute argue",
    ],
    "Exercise 4.1": ["feed-forward network: 4,722,432", "attention:            2,360,064"],
    "Exercise 4.2": ["406,212,608", "354,749,440", "1549.58 MB", "1,637,792,000"],
    "Exercise 4.3": ["drop_emb: 0.1", "att.dropout: 0.2", "drop_shortcut: 0.3"],
}


@pytest.mark.parametrize(
    "number, figure", [(number, figure) for number, all_ in FIGURES.items() for figure in all_]
)
def test_a_section_shows_the_books_figure(section, number, figure):
    assert figure in section(number)


def test_a_figure_is_looked_for_in_its_own_section_only(section):
    """Control of the test above."""
    assert FIGURES["4.2"][0] not in section("4.3")
    assert FIGURES["4.7"][2] not in section("4.6")


def test_the_means_after_normalizing_are_zero_and_the_variances_one(section):
    assert section("4.2").count("[[0.1324],\n        [0.2170]]") == 1  # before
    assert section("4.2").count("[[0.0000],\n        [0.0000]]") == 2
    assert section("4.2").count("[[1.0000],\n        [1.0000]]") == 3


SCRIPT_OUTPUT = """
==================================================
                      IN
==================================================

Input text: Hello, I am
Encoded input text: [15496, 11, 314, 716]
encoded_tensor.shape: torch.Size([1, 4])


==================================================
                      OUT
==================================================

Output: tensor([[15496,    11,   314,   716, 27018, 24086, 47843, 30961, 42348,  7267,
         49706, 43231, 47062, 34657]])
Output length: 14
Output text: Hello, I am Featureiman Byeswickattribute argue logger Normandy Compton analogous
"""


def test_the_script_prints_what_the_books_does(capsys):
    import gpt

    gpt.main()
    assert capsys.readouterr().out == SCRIPT_OUTPUT
