"""`gpt_with_kv_cache.py`: the tokens of uncached generation, clear errors, weights as they are."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

import gpt_with_kv_cache
from gpt import GPTModel, generate_text_simple
from gpt_with_kv_cache import (
    GPTModelWithCache,
    KVCache,
    generate_batch_cached,
    generate_text_cached,
)

CONTEXT = 24
CFG = {
    "vocab_size": 97,
    "context_length": CONTEXT,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def two_models(seed=0, **changes):
    """A model without a cache and one with, of the same random weights."""
    cfg = {**CFG, **changes}
    torch.manual_seed(seed)
    model = GPTModel(cfg).eval()
    cached = GPTModelWithCache(cfg).eval()
    cached.load_state_dict(model.state_dict())
    return model, cached


def random_ids(*shape, seed=0):
    return torch.randint(97, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def models():
    return two_models()


# --- the same tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "qkv_bias"), [(0, False), (1, True)])
def test_200_tokens_within_the_context_equal_those_without_a_cache(seed, qkv_bias):
    model, cached = two_models(seed, context_length=256, qkv_bias=qkv_bias)
    prompts = random_ids(2, 5, seed=seed)

    ids = generate_text_cached(cached, prompts, 220, context_size=256)

    assert torch.equal(ids, generate_text_simple(model, prompts, 220, context_size=256))
    other = two_models(seed + 100, context_length=256, qkv_bias=qkv_bias)[0]
    assert not torch.equal(ids[:, :25], generate_text_simple(other, prompts, 20, context_size=256))


@pytest.mark.parametrize("context_size", [1, 7, CONTEXT])
@pytest.mark.parametrize("seed", range(2))
def test_200_tokens_across_the_window_equal_those_without_a_cache(seed, context_size):
    model, cached = two_models(seed)
    prompts = random_ids(3, min(5, context_size), seed=seed)

    ids = generate_text_cached(cached, prompts, 210, context_size)

    assert torch.equal(ids, generate_text_simple(model, prompts, 210, context_size))
    narrower = generate_text_simple(model, prompts, 40, max(1, context_size - 1))
    assert context_size == 1 or not torch.equal(ids[:, : narrower.shape[1]], narrower)


def test_keys_of_a_window_that_slid_cannot_be_kept(models):
    """The reason for computing the window again: dropping the oldest key gives other logits."""
    model, cached = models
    text = random_ids(1, CONTEXT + 1)
    cache = KVCache(CFG)
    cached.fill(text[:, :CONTEXT], cache=cache)
    cache.memory[..., :-1, :] = cache.memory[..., 1:, :].clone()
    cache.lengths = [CONTEXT - 1]

    shifted = cached.extend(text[:, -1:], cache)

    right = model(text[:, 1:])[:, -1]
    torch.testing.assert_close(cached.fill(text[:, 1:]), right)
    assert (shifted - right).abs().max() > 0.01


@pytest.mark.parametrize("lengths", [(3, CONTEXT, 1, 17), (5, 6), (24, 23, 22), (2, 2, 9)])
def test_prompts_of_different_lengths_get_the_tokens_they_get_alone(models, lengths):
    """Rows reach the window at different steps, and leave the cache one after the other."""
    model, cached = models
    prompts = [random_ids(length, seed=length) for length in lengths]

    sequences = generate_batch_cached(cached, prompts, 60, CONTEXT)

    for prompt, sequence in zip(prompts, sequences, strict=True):
        alone = generate_text_simple(model, prompt[None], 60, CONTEXT)[0]
        assert torch.equal(sequence, alone)
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    blind = generate_text_simple(model, padded, 60, CONTEXT)[:, -60:]  # takes padding for text
    assert any(not torch.equal(b, s[-60:]) for b, s in zip(blind, sequences, strict=True))


def test_padding_is_not_seen(models):
    _, cached = models
    prompts = random_ids(2, 9)
    changed = prompts.clone()
    changed[0, 4:] = random_ids(5, seed=1)
    cache = KVCache(CFG, batch_size=2)

    def filled_and_extended(prompts, lengths):
        filled = cached.fill(prompts, lengths, cache)
        return torch.stack([filled, cached.extend(random_ids(2, 1, seed=2), cache)])

    seen_short = [filled_and_extended(p, [4, 9]) for p in (prompts, changed)]
    torch.testing.assert_close(*seen_short)
    seen_whole = [filled_and_extended(p, [9, 9]) for p in (prompts, changed)]
    assert not torch.allclose(*seen_whole)


def test_logits_equal_those_of_the_chapters_model(models):
    model, cached = models
    text = random_ids(2, 12)
    cache = KVCache(CFG, batch_size=2)

    logits = [cached.fill(text[:, :5], cache=cache)]
    logits += [cached.extend(text[:, i, None], cache) for i in range(5, 12)]

    expected = model(text)[:, 4:]
    torch.testing.assert_close(torch.stack(logits, dim=1), expected, atol=1e-5, rtol=1e-5)
    assert (expected[:, 1:] - expected[:, :-1]).abs().max() > 0.1
    torch.testing.assert_close(cached(text), model(text))


def test_a_cache_that_is_used_again_remembers_nothing(models):
    model, cached = models
    cache = KVCache(CFG, batch_size=3)
    address = cache.memory.data_ptr()
    first, second = random_ids(3, 8), random_ids(2, 4, seed=1)

    generate_text_cached(cached, first, 10, CONTEXT, cache)
    ids = generate_text_cached(cached, second, 30, CONTEXT, cache)

    assert torch.equal(ids, generate_text_simple(model, second, 30, CONTEXT))
    assert cache.memory.data_ptr() == address
    assert cache.memory.any()
    cache.reset()
    assert cache.lengths == [] and not cache.memory.any()


def test_no_new_tokens_is_the_prompt(models):
    prompts = random_ids(2, 4)
    assert torch.equal(generate_text_cached(models[1], prompts, 0, CONTEXT), prompts)
    assert generate_text_cached(models[1], prompts, 1, CONTEXT).shape == (2, 5)


def test_dropout_is_never_applied():
    model, cached = two_models(drop_rate=0.5)
    cached.train()
    prompts = random_ids(1, 4)
    expected = generate_text_simple(model, prompts, 15, CONTEXT)
    assert torch.equal(generate_text_cached(cached, prompts, 15, CONTEXT), expected)
    assert not torch.equal(generate_text_simple(model.train(), prompts, 15, CONTEXT), expected)


# --- the weights -------------------------------------------------------------------------------


def test_the_state_dictionary_has_the_names_shapes_and_numbers_of_the_chapters_model(models):
    model, cached = models
    ours, theirs = cached.state_dict(), model.state_dict()

    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    GPTModel(CFG).load_state_dict(ours)  # and back
    assert not torch.equal(ours["out_head.weight"], GPTModel(CFG).out_head.weight)


def test_weights_are_kept_once(models):
    """Queries, keys and values are thirds of one matrix, and no second copy of them."""
    cached = models[1]
    for block, (joined, _) in zip(cached.trf_blocks, cached.qkv, strict=True):
        thirds = [block.att.W_query, block.att.W_key, block.att.W_value]
        owners = {third.weight.untyped_storage().data_ptr() for third in thirds}
        assert owners == {joined.untyped_storage().data_ptr()}
        assert block.att.out_proj.weight.untyped_storage().data_ptr() not in owners


@pytest.mark.parametrize(
    "change",
    [
        lambda m, state: m.load_state_dict(state),
        lambda m, state: m.load_state_dict(state, assign=True),
        lambda m, state: m.to(torch.float64).to(torch.float32).load_state_dict(state),
    ],
    ids=["loaded", "assigned", "moved and loaded"],
)
def test_weights_that_change_are_seen(change):
    _, cached = two_models(0, qkv_bias=True)
    other, _ = two_models(1, qkv_bias=True)
    prompts = random_ids(1, 4)
    before = generate_text_cached(cached, prompts, 15, CONTEXT)

    change(cached, copy.deepcopy(other.state_dict()))

    after = generate_text_cached(cached, prompts, 15, CONTEXT)
    assert torch.equal(after, generate_text_simple(other, prompts, 15, CONTEXT))
    assert not torch.equal(after, before)


def test_a_copy_of_the_model_has_weights_of_its_own(models):
    model, cached = models
    twin = copy.deepcopy(cached)
    with torch.no_grad():
        twin.trf_blocks[0].att.W_value.weight.zero_()
    text = random_ids(1, 6)
    torch.testing.assert_close(cached.fill(text), model(text)[:, -1])
    assert not torch.allclose(twin.fill(text), cached.fill(text))


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": -1}, r"at least 0, but is -1"),
        ({"prompts": []}, r"0 prompts, but at least 1"),
        ({"prompts": [random_ids(0)]}, r"Prompt 0 has 0 tokens.*1 to context_size=24"),
        ({"prompts": [random_ids(3), random_ids(25)]}, r"Prompt 1 has 25 tokens.*context_size=24"),
        ({"prompts": [random_ids(1, 3)]}, r"1 dimension, but its shape is \(1, 3\)"),
        ({"prompts": [torch.tensor([5, 97])]}, r"run from 5 to 97.*0 to 96"),
        ({"context_size": 25}, r"1 to the model's context_length=24, but is 25"),
        ({"context_size": 0}, r"but is 0"),
        ({"cache": KVCache(CFG, 1)}, r"2 sequences, but the cache has room for 1"),
        ({"cache": KVCache(CFG, 2, 9)}, r"13 tokens .*the cache has 9 slots"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_with_both_numbers(models, arguments, message):
    good = {
        "prompts": [random_ids(3), random_ids(8)],
        "max_new_tokens": 5,
        "context_size": CONTEXT,
        "cache": KVCache(CFG, 2),
    }
    assert len(generate_batch_cached(models[1], **good)) == 2
    with pytest.raises(ValueError, match=message):
        generate_batch_cached(models[1], **{**good, **arguments})


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        (random_ids(2, 0), None, r"shape \(2, 0\)"),
        (random_ids(2, 25), None, r"25 tokens.*context_length=24"),
        (random_ids(2, 11), None, r"11 tokens.*10 slots"),
        (random_ids(3, 5), None, r"3 sequences.*room for 2"),
        (random_ids(2, 5), [5], r"2 prompts, but 1 lengths"),
        (random_ids(2, 5), [0, 5], r"0 to 5.*1 to 5"),
        (random_ids(2, 5), [6, 5], r"5 to 6.*1 to 5"),
        (random_ids(5), None, r"shape \(batch, tokens\).*\(5,\)"),
    ],
)
def test_prompts_that_do_not_fit_are_refused_with_both_numbers(models, ids, lengths, message):
    cache = KVCache(CFG, batch_size=2, num_slots=10)
    assert models[1].fill(random_ids(2, 5), [4, 5], cache).shape == (2, 97)
    with pytest.raises(ValueError, match=message):
        models[1].fill(ids, lengths, cache)


def test_an_extension_that_does_not_fit_is_refused_with_both_numbers(models):
    cached, cache = models[1], KVCache(CFG, batch_size=2, num_slots=6)
    with pytest.raises(ValueError, match=r"0 sequences.*at least 1"):
        cached.extend(random_ids(2, 1), cache)
    cached.fill(random_ids(2, 5), cache=cache)
    with pytest.raises(ValueError, match=r"2 sequences.*\(2, 1\).*\(1, 1\)"):
        cached.extend(random_ids(1, 1), cache)
    assert cached.extend(random_ids(2, 1), cache).shape == (2, 97)
    with pytest.raises(ValueError, match=r"6 tokens.*6 slots"):
        cached.extend(random_ids(2, 1), cache)


@pytest.mark.parametrize(("batch_size", "num_slots"), [(0, 5), (1, 0), (1, 25)])
def test_a_cache_without_room_or_beyond_the_model_is_refused(batch_size, num_slots):
    assert KVCache(CFG, 1, CONTEXT).num_slots == CONTEXT
    match = f"batch_size={batch_size} and num_slots={num_slots}"
    with pytest.raises(ValueError, match=match):
        KVCache(CFG, batch_size, num_slots)


def test_damaged_weights_are_reported_and_leave_nothing_in_the_cache():
    model, cached = two_models()
    prompts, cache = random_ids(2, 4), KVCache(CFG, batch_size=2)
    good = copy.deepcopy(cached.state_dict())
    with torch.no_grad():
        cached.trf_blocks[1].att.W_value.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        generate_text_cached(cached, prompts, 5, CONTEXT, cache)
    cached.load_state_dict(good)
    ids = generate_text_cached(cached, prompts, 5, CONTEXT, cache)
    assert torch.equal(ids, generate_text_simple(model, prompts, 5, CONTEXT))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_layers": 0}, "n_layers must be at least 1, but is 0"), ({"emb_dim": 30}, "30 / 4")],
)
def test_a_configuration_that_makes_no_model_is_refused(change, message):
    GPTModelWithCache(CFG)
    with pytest.raises(ValueError, match=message):
        GPTModelWithCache({**CFG, **change})


# --- the script and the table ------------------------------------------------------------------


def test_the_script_compares_the_ids(capsys):
    gpt_with_kv_cache.main(CFG, num_prompt_tokens=4, max_new_tokens=30)
    assert "same ids: True" in capsys.readouterr().out


def test_the_benchmark_asserts_that_all_three_write_the_same(capsys, monkeypatch):
    """At toy size, where its seconds mean nothing."""
    pytest.importorskip("transformers")
    path = Path(__file__).parent.parent / "bench" / "bench_generate.py"
    spec = importlib.util.spec_from_file_location("bench_generate", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    monkeypatch.setattr(bench, "MATRIX_SIDE", 64)

    bench.main(15, cfg=CFG)

    assert capsys.readouterr().out.count("Same ids: True.") == 2
    model = two_models()[0]
    theirs = bench.hugging_face_copy(model, CFG)
    text = random_ids(1, 9)
    torch.testing.assert_close(theirs(text).logits, model(text), atol=1e-5, rtol=1e-5)
    embeddings = (97 + CONTEXT) * 32 * 4
    read = sum(parameter.nbytes for parameter in model.parameters()) - embeddings + 2 * 32 * 4
    assert bench.bytes_per_token(model) == read
