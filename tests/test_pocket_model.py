"""The pocket model's file: packing, the row of tokens never met, and faults."""

import pytest
import tiktoken
import torch

import companion
import pocket_model
from gpt import GPTModel
from pocket_model import (
    POCKET_CONFIG,
    fit,
    lend_rows,
    met_tokens,
    pack,
    row_of_rare_tokens,
    separate_new_tokens,
    unpack,
)

companion.prepare_tokenizer()


def test_unpacking_gives_back_what_was_packed():
    weights = {"tok_emb.weight": torch.randn(3, 4), "a": torch.randn(2, 2)}
    rare = torch.randn(4)
    unpacked = unpack(pack(weights, torch.tensor([5, 0, 2]), rare), vocab_size=7)
    table = unpacked["tok_emb.weight"]
    assert table.shape == (7, 4) and table.dtype == torch.float32
    torch.testing.assert_close(table[[5, 0, 2]], weights["tok_emb.weight"], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(table[[1, 3, 4, 6]], rare.expand(4, 4), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(unpacked["a"], weights["a"], atol=2e-3, rtol=1e-3)


def test_new_tokens_get_rows_of_their_own():
    model = pocket_model.load_pocket()
    before = model.tok_emb.weight.detach().clone()
    tokenizer = tiktoken.get_encoding("gpt2")
    ids = tokenizer.encode("The plural and the past tense")
    new_ids = separate_new_tokens(model, [ids, ids[1:]])
    assert [tokenizer.decode([i]) for i in new_ids] == [" tense", " plural"]
    rows = model.tok_emb.weight.detach()
    assert torch.equal(before[new_ids[0]], before[new_ids[1]])  # control: they shared one
    assert not torch.allclose(rows[new_ids[0]], rows[new_ids[1]], atol=0.1)
    assert (rows != before).any(dim=1).nonzero()[:, 0].tolist() == new_ids
    assert separate_new_tokens(model, [tokenizer.encode(" the")]) == []
    assert torch.equal(model.out_head.weight, rows)  # what can be read can be written


def test_tokens_get_the_rows_of_tokens_that_differ_in_capitals_and_spaces_only():
    model = pocket_model.load_pocket()
    before = model.tok_emb.weight.detach().clone()
    lent = lend_rows(model)
    (shouted,), (calm,) = (
        tiktoken.get_encoding("gpt2").encode(word) for word in (" STOP", " stop")
    )
    assert lent[shouted] == calm
    rows = model.tok_emb.weight.detach()
    assert torch.equal(rows[shouted], before[calm])
    assert not torch.equal(before[shouted], before[calm])  # control
    assert set(lent.values()) <= set(met_tokens()) and not set(lent) & set(met_tokens())
    untouched = sorted(set(range(len(rows))) - set(lent))
    assert torch.equal(rows[untouched], before[untouched])


def test_tokens_never_met_have_the_probability_that_was_asked_for():
    torch.manual_seed(0)
    table = torch.randn(50, 8)
    hidden = torch.randn(300, 8) * 0.3 + torch.randn(8)  # a part is the same everywhere
    logits = hidden @ table.T
    row = row_of_rare_tokens(hidden, logits, share=0.002, count=1000)
    all_logits = torch.cat([logits, (hidden @ row)[:, None].expand(-1, 1000)], dim=1)
    share = all_logits.softmax(dim=-1)[:, 50:].sum(dim=-1)
    assert 0.001 < share.median() < 0.004
    # Control: with the mean of the others for a row they have much more.
    naive = torch.cat([logits, (hidden @ table.mean(0))[:, None].expand(-1, 1000)], dim=1)
    assert naive.softmax(dim=-1)[:, 50:].sum(dim=-1).median() > 0.1


def test_another_configuration_names_the_tensor_and_both_shapes():
    small = {**POCKET_CONFIG, "vocab_size": 11, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
    weights = dict(GPTModel(small).named_parameters())
    fit(GPTModel(small), weights)  # control
    with pytest.raises(ValueError, match=r"pos_emb.weight .* \(256, 8\) .* \(100, 8\)"):
        fit(GPTModel({**small, "context_length": 100}), weights)
    with pytest.raises(ValueError, match=r"trf_blocks.1.att.W_key.weight .* None .* \(8, 8\)"):
        fit(GPTModel({**small, "n_layers": 2}), weights)


def test_a_damaged_file_is_told_with_the_way_to_restore_it(tmp_path, monkeypatch):
    damaged = tmp_path / "pocket.safetensors"
    damaged.write_bytes(b"x" * 10)
    entry = {"what": "x", "size": 10, "sha256": "0" * 64, "path": str(damaged)}
    monkeypatch.setattr(companion.assets, "manifest", lambda: {pocket_model.FILE: entry})
    with pytest.raises(companion.AssetError, match="git checkout"):
        pocket_model.load_pocket()
