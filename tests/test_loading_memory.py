"""Five ways to load a model: the same weights from each, and the memory each is said to take."""

import mmap
import sys

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import loading_memory
from gpt import GPTModel
from loading_memory import (
    CONFIG,
    OURS,
    WAYS,
    load_one_by_one,
    measure_here,
    measure_way,
    write_files,
)

TOY = {
    "vocab_size": 41,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": True,
}
SOME_MB = {**TOY, "vocab_size": 8000, "emb_dim": 384, "n_layers": 4, "context_length": 64}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture
def folder(tmp_path):
    write_files(TOY, tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_model_that_was_saved(way, folder):
    torch.manual_seed(123)
    saved = GPTModel(TOY)
    assert not torch.equal(saved.out_head.weight, saved.tok_emb.weight)  # control
    saved.out_head.weight = saved.tok_emb.weight
    torch.manual_seed(7)
    model, _ = WAYS[way](TOY, folder)
    assert model.state_dict().keys() == saved.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 40, 7]])
    assert torch.equal(model.eval()(ids), saved.eval()(ids))


def test_assigned_parameters_are_the_mapped_tensors_and_copied_ones_are_not(folder):
    for way, is_same in [("assigned", True), ("mapped", False)]:
        model, weights = WAYS[way](TOY, folder)
        for name, tensor in model.state_dict().items():
            assert (tensor.data_ptr() == weights[name].data_ptr()) == is_same


def test_writing_to_an_assigned_parameter_leaves_the_file_alone(folder):
    before = (folder / loading_memory.STATE_DICT).read_bytes()
    model, _ = WAYS["assigned"](TOY, folder)
    with torch.no_grad():
        model.tok_emb.weight.zero_()
    assert (folder / loading_memory.STATE_DICT).read_bytes() == before
    again, _ = WAYS["assigned"](TOY, folder)
    assert again.tok_emb.weight.abs().sum() > 0


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("pos_emb.weight"), r"pos_emb.weight is missing, of the shape \(8, 12\)"),
        (lambda t: t.update(x=torch.ones(3)), r"x is too many, of the shape \(3,\)"),
        (
            lambda t: t.update({"pos_emb.weight": torch.ones(9, 12)}),
            r"pos_emb.weight has the shape \(9, 12\), but must have \(8, 12\)",
        ),
    ],
)
def test_a_file_of_another_model_is_refused_one_by_one(change, message, folder):
    load_one_by_one(TOY, folder)  # control
    tensors = load_file(folder / OURS)
    change(tensors)
    save_file(tensors, folder / OURS)
    with pytest.raises(ValueError, match=message):
        load_one_by_one(TOY, folder)


def test_a_way_that_does_not_exist_lists_those_that_do(folder):
    with pytest.raises(ValueError, match="copied, mapped, assigned, one-by-one, gpt2, but not 'x'"):
        measure_way("x", folder)


def test_a_folder_without_the_files_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"lacks config.json, model.pth.*write_files"):
        measure_way("mapped", tmp_path)


def test_a_process_that_fails_says_why(folder):
    (folder / CONFIG).write_text("{", encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"Loading mapped failed with status 1(.|\n)*JSONDecode"):
        measure_way("mapped", folder)


def test_figures_are_of_the_whole_model(folder):
    """In this process, whose peak says nothing about a loading."""
    model, _ = WAYS["copied"](TOY, folder)
    found = [measure_here(way, folder) for way in ("copied", "gpt2")]
    assert found[0]["model"] == sum(t.numel() * 4 for t in model.state_dict().values())
    assert found[0]["sha256"] == found[1]["sha256"]
    write_files({**TOY, "n_layers": 1}, folder)  # control
    assert measure_here("copied", folder)["sha256"] != found[0]["sha256"]


@linux_only
def test_the_peak_stays_after_the_memory_is_given_back():
    """A mapping of its own goes back at once; a tensor may stay in the allocator's store."""
    before, held = loading_memory.peak_memory(), psutil.Process().memory_info().rss
    size = before - held + 50_000_000
    pages = mmap.mmap(-1, size)
    for at in range(0, size, mmap.PAGESIZE):
        pages[at] = 1  # the system backs a page with memory when it is written
    assert loading_memory.peak_memory() - before > 0.8 * 50_000_000
    pages.close()
    assert loading_memory.peak_memory() - before > 0.8 * 50_000_000
    assert psutil.Process().memory_info().rss - held < size / 2  # control


@linux_only
@pytest.mark.slow
def test_the_ways_take_the_memory_they_are_said_to(tmp_path):
    write_files(SOME_MB, tmp_path)
    found = {way: measure_way(way, tmp_path) for way in WAYS}
    assert len({result["sha256"] for result in found.values()}) == 1
    peaks = {way: result["peak"] / result["model"] for way, result in found.items()}
    files = {way: result["files"] / result["model"] for way, result in found.items()}
    for way, copies, share in [
        ("copied", 2, 0),
        ("mapped", 2, 1),
        ("assigned", 1, 1),
        ("one-by-one", 1.2, 0),
        ("gpt2", 1.2, 0),
    ]:
        assert peaks[way] == pytest.approx(copies, abs=0.15), way
        assert files[way] == pytest.approx(share, abs=0.15), way
