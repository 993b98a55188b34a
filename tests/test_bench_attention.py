"""bench_attention.py: what it counts as memory, and that the README shows what it stored."""

import copy
import importlib.util
import json

import pytest
import torch

from companion.notebooks import ROOT
from mha_variants import VARIANTS, from_chapter
from multihead_attention import MultiHeadAttention


@pytest.fixture(scope="module")
def bench():
    path = ROOT / "bench" / "bench_attention.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_what_was_stored(bench):
    stored = json.loads(bench.STORED.read_text(encoding="utf-8"))
    readme = bench.README.read_text(encoding="utf-8")
    for name, (_, text_of) in bench.TABLES.items():
        assert text_of(stored[name]) in readme
    assert [row["variant"] for row in stored["table"]["rows"]] == list(VARIANTS)
    assert max(bench.differences(stored)) <= bench.TOLERANCE

    changed = copy.deepcopy(stored)
    changed["table"]["rows"][1]["forward"]["seconds"] *= 2
    assert bench.table_text(changed["table"]) not in readme


def test_storing_replaces_the_tables_and_keeps_the_rest(bench, tmp_path, monkeypatch):
    stored = json.loads(bench.STORED.read_text(encoding="utf-8"))
    monkeypatch.setattr(bench, "STORED", tmp_path / "measurements.json")
    monkeypatch.setattr(bench, "README", tmp_path / "README.md")
    blocks = [f"<!-- {name} -->\n\nold\n\n<!-- end of {name} -->\n" for name in bench.TABLES]
    bench.README.write_text("before\n" + "between\n".join(blocks) + "after\n", encoding="utf-8")
    for name in bench.TABLES:  # one at a time, as after a run without --all
        bench.save({name: stored[name]})
    once = bench.README.read_text(encoding="utf-8")
    bench.save(stored)

    assert bench.README.read_text(encoding="utf-8") == once
    assert "old" not in once
    assert once.startswith("before\n<!-- table -->") and once.endswith("after\n")
    assert once.count("between\n") == len(bench.TABLES) - 1
    assert json.loads(bench.STORED.read_text(encoding="utf-8")) == stored


@pytest.fixture
def attention_and_input():
    torch.manual_seed(123)
    attention = MultiHeadAttention(24, 24, context_length=40, dropout=0.0, num_heads=8)
    return attention, torch.randn(2, 40, 24)


def test_peak_memory_counts_every_matrix_of_scores(bench, attention_and_input):
    """The chapter's class holds two to four at a time; PyTorch's function holds none."""
    attention, x = attention_and_input
    matrix = 2 * 8 * 40 * 40 * 4  # bytes: batch, heads, queries, keys, float32
    sdpa = from_chapter(VARIANTS["SDPA, is_causal"], attention)

    assert 2 * matrix <= bench.peak_memory(bench.forward, attention, x) < 4.5 * matrix
    assert bench.peak_memory(bench.forward, sdpa, x) < matrix


def test_peak_memory_forgets_what_was_freed(bench, attention_and_input):
    """One tensor after the other takes the memory of one; all at once, that of all."""
    attention, x = attention_and_input

    def one_by_one(module, x):
        for _ in range(5):
            torch.zeros(1000)

    def all_at_once(module, x):
        return [torch.zeros(1000) for _ in range(5)]

    assert bench.peak_memory(one_by_one, attention, x) == 4000
    assert bench.peak_memory(all_at_once, attention, x) == 20000


def test_what_a_variant_cannot_do_becomes_a_dash_with_its_reason(bench, monkeypatch):
    class Refuses(VARIANTS["SDPA, is_causal"]):
        def attend(self, queries, keys, values):
            if queries.requires_grad:
                raise NotImplementedError("No gradients. Ever.")
            return super().attend(queries, keys, values)

    monkeypatch.setattr(bench, "WIDTH", 24)
    variants = {bench.REFERENCE: MultiHeadAttention, "refuses": Refuses}
    monkeypatch.setattr(bench, "VARIANTS", variants)
    rows = bench.measure(variants, 2, 40, rounds=1, device=torch.device("cpu"))
    text = bench.table_text({"machine": "m", "input": "i", "rows": rows})

    assert [row["difference"] < 1e-5 for row in rows] == [True, True]
    refuses = next(line for line in text.splitlines() if line.startswith("| refuses"))
    assert refuses.count("–") == 2  # its time and its memory in training
    assert "– refuses, training: NotImplementedError: No gradients." in text
    assert rows[0]["reasons"] == {}
