"""Appendix E: the figures that need no weights of GPT-2, and the numbers in the pictures."""

import re
import runpy

import nbclient
import nbformat
import pytest

from companion.notebooks import ROOT
from conftest import printed_by_section

FOLDER = ROOT / "appendix-E" / "01_main-chapter-code"
NOTEBOOK = FOLDER / "appendix-E.ipynb"


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "images" / "src")
    return runpy.run_path(str(ROOT / "images" / "src" / "appendix-E.py"))


# What is stored


@pytest.fixture(scope="module")
def section():
    """section("E.4"): all that the section's cells print, as it is stored."""
    return printed_by_section(nbformat.read(NOTEBOOK, as_version=4)).__getitem__


def test_the_books_numbers_of_parameters_are_printed(section):
    assert "124,441,346, 0 and 2,666,528 trainable parameters" in section("E.4")
    assert "73 layers with an update, 47 times fewer" in section("E.4")
    assert "2,666,528" not in section("E.3")  # control


def test_a_new_update_leaves_the_accuracies_as_they_were(section):
    """Section E.4 prints them twice: before the training and after it."""
    before = re.findall(r"accuracy: ([\d.]+)%", section("E.3"))
    in_e4 = re.findall(r"(?:Training|Validation|Test) accuracy: ([\d.]+)%\n", section("E.4"))
    assert len(before) == 3
    assert in_e4[:3] == before
    assert in_e4[-3:] != before  # control


def test_merged_weights_were_found_to_give_the_same_logits(section):
    assert "same logits: True\nnames as in a model without LoRA: True" in section("E.4")


# The book's data


@pytest.fixture(scope="module")
def printed(sms_collection, tmp_path_factory):
    """All that the notebook prints before section E.3, under PROFILE=book."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "SMSSpamCollection.tsv").write_bytes(sms_collection.read_bytes())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sources = [cell.source for cell in notebook.cells]
    end = next(i for i, source in enumerate(sources) if source.startswith("## E.3"))
    notebook.cells = notebook.cells[:end]  # what follows needs GPT-2's weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_CACHE", str(cache))
        patch.setenv("PROFILE", "book")
        patch.setenv("DEVICE", "cpu")
        patch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))


@pytest.mark.book
@pytest.mark.parametrize(
    "figure",
    [
        "Input batch dimensions: torch.Size([8, 120])\n",
        "130 training batches\n",
        "19 validation batches\n",
        "38 test batches\n",
    ],
)
def test_the_loaders_are_the_books(printed, section, figure):
    assert figure in printed
    assert figure not in section("E.2")  # control: those of the other messages


# Pictures


def test_the_layer_in_the_picture_computes_what_loras_does(pictures):
    torch, lora = pytest.importorskip("torch"), pytest.importorskip("lora")
    a, b = torch.tensor(pictures["A"]).float(), torch.tensor(pictures["B"]).float()
    layer = lora.LoRALayer(len(a), b.shape[1], pictures["HAND_RANK"], pictures["ALPHA"])
    with torch.no_grad():
        layer.A.copy_(a)
        layer.B.copy_(b)
        update = layer(torch.tensor(pictures["X"]).float())
    assert pictures["through_the_layer"]()[2] == update.tolist()
    assert a.shape[1] == pictures["HAND_RANK"]


def test_numbers_of_updates_in_the_picture_are_the_models(pictures):
    torch, gpt, lora = (pytest.importorskip(name) for name in ("torch", "gpt", "lora"))
    with torch.device("meta"):
        model = gpt.GPTModel({**gpt.GPT_CONFIG_124M, "qkv_bias": True})
        model.out_head = torch.nn.Linear(pictures["WIDTH"], pictures["CLASSES"])
        lora.replace_linear_with_lora(model, pictures["GPT2_RANK"], alpha=16)
    found = {
        name: sum(p.numel() for p in module.lora.parameters())
        for name, module in model.named_modules()
        if isinstance(module, lora.LinearWithLoRA)
    }
    assert found.pop("out_head") == pictures["size"](pictures["HEAD"])
    drawn = {
        f"trf_blocks.{i}.{name}": pictures["size"](layer)
        for i in range(pictures["BLOCKS"])
        for name, layer in pictures["LAYERS"].items()
    }
    assert found == drawn
