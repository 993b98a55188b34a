"""Chapter 6's figures as the book prints them: its data, and what does not need GPT-2's weights."""

import nbformat
import pytest

from companion.notebooks import ROOT
from conftest import printed_by_section

NOTEBOOK = ROOT / "ch06" / "01_main-chapter-code" / "ch06.ipynb"

FIGURES = {
    "6.2": [
        "ham     4825\nspam     747",
        "ham     747\nspam    747",
        "training    1045 messages",
        "validation   149 messages",
        "test         300 messages",
    ],
    "6.3": [
        "120\n",
        "one batch: torch.Size([8, 120]) torch.Size([8])",
        "training, validation, test batches: 130 19 38",
    ],
}


@pytest.fixture(scope="module")
def stored():
    return printed_by_section(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.book
def test_the_book_profile_shows_the_books_data(book_cache, monkeypatch, stored):
    """The notebook up to section 6.4, where it would ask for GPT-2's weights."""
    import nbclient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    model = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## 6.4"))
    notebook.cells = notebook.cells[:model]
    monkeypatch.setenv("PROFILE", "book")
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    printed = printed_by_section(notebook)
    for number, figures in FIGURES.items():
        for figure in figures:
            assert figure in printed[number]
            assert figure not in stored[number]  # control: the pocket profile's are others


def test_four_tokens_are_the_books(stored):
    assert "ids: [[5211, 345, 423, 640]]  shape: (1, 4)\noutputs: (1, 4, 2)" in stored["6.5"]
    assert "5211" not in stored["6.4"]  # control
