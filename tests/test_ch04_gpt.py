"""Chapter 4's GPT: what it computes, what its parts are called, and its answers to bad input."""

import pytest
import torch

from gpt import (
    GPT_CONFIG_124M,
    FeedForward,
    GPTModel,
    MultiHeadAttention,
    TransformerBlock,
    generate_text_simple,
    main,
)

TINY = {
    "vocab_size": 50,
    "context_length": 8,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPTModel(TINY).eval()


@pytest.fixture
def ids():
    return torch.randint(50, (3, 8), generator=torch.Generator().manual_seed(1))


# The model


@pytest.mark.parametrize("batch_size, num_tokens", [(1, 1), (3, 5), (2, 8)])
def test_there_is_a_score_for_every_next_token_at_every_position(
    model, ids, batch_size, num_tokens
):
    assert model(ids[:batch_size, :num_tokens]).shape == (batch_size, num_tokens, 50)


@pytest.mark.parametrize("changed", [1, 4, 7])
def test_a_later_token_never_changes_an_earlier_score(model, ids, changed):
    other = ids.clone()
    other[:, changed] = (other[:, changed] + 1) % 50
    before, after = model(ids), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    for position in range(changed, 8):  # control: all from there on move
        assert not torch.allclose(before[:, position], after[:, position])


def test_the_scores_of_a_beginning_do_not_depend_on_what_follows(model, ids):
    torch.testing.assert_close(model(ids)[:, :3], model(ids[:, :3]))
    assert not torch.allclose(model(ids)[:, 1:4], model(ids[:, 1:4]))  # control: positions count


def test_texts_of_a_batch_do_not_touch_each_other(model, ids):
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]))
    assert not torch.allclose(model(ids)[1:2], model(ids[:1]))  # control


def test_dropout_acts_in_training_only(model, ids):
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.allclose(model(ids), model(ids))  # control


def test_every_parameter_gets_a_gradient(model, ids):
    model(ids).square().mean().backward()
    assert [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_a_block_with_silent_branches_hands_its_input_through():
    """Both shortcuts: nothing but what attention and feed-forward add changes the input."""
    block, x = TransformerBlock(TINY).eval(), torch.randn(2, 5, 12)
    assert not torch.allclose(block(x), x)  # control
    for layer in (block.att.out_proj, block.ff.layers[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)


def test_the_state_dict_has_the_names_that_weights_are_loaded_by():
    in_block = [
        *("att.W_query.weight", "att.W_key.weight", "att.W_value.weight"),
        *("att.out_proj.weight", "att.out_proj.bias", "att.mask"),
        *("ff.layers.0.weight", "ff.layers.0.bias", "ff.layers.2.weight", "ff.layers.2.bias"),
        *("norm1.scale", "norm1.shift", "norm2.scale", "norm2.shift"),
    ]
    expected = {
        *("tok_emb.weight", "pos_emb.weight", "out_head.weight"),
        *("final_norm.scale", "final_norm.shift"),
        *(f"trf_blocks.{block}.{name}" for block in range(2) for name in in_block),
    }
    assert set(GPTModel(TINY).state_dict()) == expected
    with_biases = set(GPTModel({**TINY, "qkv_bias": True}).state_dict())
    assert with_biases - expected == {
        f"trf_blocks.{block}.att.W_{part}.bias"
        for block in range(2)
        for part in ("query", "key", "value")
    }


# Sizes, counted on the device that has shapes but no numbers


def count(layer):
    return sum(parameter.numel() for parameter in layer.parameters())


@pytest.mark.parametrize(
    "changes, total, tied",
    [
        ({}, 163_009_536, 124_412_160),
        ({"emb_dim": 1024, "n_layers": 24, "n_heads": 16}, 406_212_608, 354_749_440),
        ({"emb_dim": 1600, "n_layers": 48, "n_heads": 25}, 1_637_792_000, None),
    ],
    ids=["124M", "medium", "XL"],
)
def test_the_model_has_the_books_number_of_parameters(changes, total, tied):
    with torch.device("meta"):
        model = GPTModel({**GPT_CONFIG_124M, **changes})
    assert count(model) == total
    assert model.tok_emb.weight.shape == model.out_head.weight.shape
    model.out_head.weight = model.tok_emb.weight
    assert count(model) < total  # control
    assert tied is None or count(model) == tied


def test_feed_forward_and_attention_have_the_books_number_of_parameters():
    with torch.device("meta"):
        block = TransformerBlock(GPT_CONFIG_124M)
    assert isinstance(block.ff, FeedForward) and isinstance(block.att, MultiHeadAttention)
    assert (count(block.ff), count(block.att)) == (4_722_432, 2_360_064)


# Generation


class Recorder(torch.nn.Module):
    """A model whose likeliest next token is always (last token + 1); it notes what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, ids):
        self.seen.append(ids.tolist())
        return torch.nn.functional.one_hot((ids + 1) % 50, 50).float()


def test_generation_appends_the_likeliest_token_in_every_row():
    prompt = torch.tensor([[3, 9], [7, 1]])
    assert generate_text_simple(Recorder(), prompt, 3, context_size=8).tolist() == [
        [3, 9, 10, 11, 12],
        [7, 1, 2, 3, 4],
    ]


def test_generation_hands_the_model_the_last_tokens_only():
    recorder = Recorder()
    generate_text_simple(recorder, torch.tensor([[1, 2, 3]]), 3, context_size=4)
    assert recorder.seen == [[[1, 2, 3]], [[1, 2, 3, 4]], [[2, 3, 4, 5]]]


def test_generation_goes_on_beyond_the_context(model, ids):
    out = generate_text_simple(model, ids, 5, context_size=8)
    assert out.shape == (3, 13)
    for end in range(8, 13):
        assert torch.equal(out[:, end], model(out[:, end - 8 : end])[:, -1].argmax(dim=-1))
    with pytest.raises(ValueError, match="9 tokens"):  # control: uncropped, it cannot
        generate_text_simple(model, ids, 5, context_size=20)


def test_generation_keeps_the_prompt_and_does_not_write_into_it(model, ids):
    prompt = ids[:, :4].clone()
    out = generate_text_simple(model, prompt, 6, context_size=8)
    assert torch.equal(out[:, :4], prompt)
    assert torch.equal(prompt, ids[:, :4])
    assert torch.equal(generate_text_simple(model, prompt, 0, context_size=8), prompt)
    assert not torch.equal(out[:, 4:], prompt[:, -1:].expand(3, 6))  # control: it wrote


def test_generation_gives_each_text_of_a_batch_what_it_gets_alone(model, ids):
    together = generate_text_simple(model, ids[:, :4], 6, context_size=8)
    alone = [generate_text_simple(model, row[None, :4], 6, context_size=8) for row in ids]
    assert torch.equal(together, torch.cat(alone))
    assert len(together[:, 4:].unique(dim=0)) > 1  # control: the texts differ


def test_generation_leaves_the_mode_as_it_is_and_needs_no_gradient(model, ids):
    for training in (True, False):
        model.train(training)
        assert not generate_text_simple(model, ids, 1, context_size=8).requires_grad
        assert model.training == training
    assert model(ids).requires_grad  # control


def test_main_runs_at_toy_size(capsys):
    toy = {**GPT_CONFIG_124M, "emb_dim": 12, "n_heads": 3, "n_layers": 1, "context_length": 8}
    main(toy, start_context="Hello, I am", max_new_tokens=2)
    printed = capsys.readouterr().out
    assert "Encoded input text: [15496, 11, 314, 716]" in printed
    assert "Output length: 6" in printed


# Bad input


@pytest.mark.parametrize("key", TINY)
def test_a_missing_key_is_named(key):
    cfg = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(ValueError, match=rf"no '{key}'\.$"):
        GPTModel(cfg)
    GPTModel(TINY)  # control


@pytest.mark.parametrize(
    "key, misspelt",
    [
        ("n_heads", "num_heads"),
        ("n_layers", "n_layer"),
        ("drop_rate", "dropout_rate"),
        ("emb_dim", "embed_dim"),
        ("context_length", "contextlength"),
        ("vocab_size", "vocabsize"),
    ],
)
def test_of_a_misspelt_key_the_nearest_is_named(key, misspelt):
    cfg = {misspelt if name == key else name: value for name, value in TINY.items()}
    with pytest.raises(ValueError, match=rf"no '{key}'\. Is it meant by '{misspelt}'\?"):
        GPTModel(cfg)


def test_a_key_that_resembles_nothing_is_not_suggested():
    cfg = {name: value for name, value in TINY.items() if name != "n_heads"}
    with pytest.raises(ValueError, match=r"no 'n_heads'\.$"):
        GPTModel({**cfg, "color": "blue"})


@pytest.mark.parametrize("emb_dim, n_heads", [(12, 5), (10, 4)])
def test_an_indivisible_width_is_refused_with_both_names_and_numbers(emb_dim, n_heads):
    with pytest.raises(ValueError, match=f"emb_dim .* n_heads, but {emb_dim} / {n_heads} leaves"):
        GPTModel({**TINY, "emb_dim": emb_dim, "n_heads": n_heads})


@pytest.mark.parametrize("bad_id", [-1, 50, 50256])
def test_an_id_outside_the_vocabulary_is_refused_with_its_value(model, bad_id):
    model(torch.tensor([[0, 49]]))  # control: the first and the last id are fine
    with pytest.raises(ValueError, match=rf"{bad_id}\b.*vocabulary has the ids 0 to 49"):
        model(torch.tensor([[0, bad_id, 49]]))


def test_more_tokens_than_the_context_are_refused_with_both_numbers(model):
    model(torch.zeros(1, 8, dtype=torch.long))  # control
    with pytest.raises(ValueError, match="9 tokens, more than context_length=8"):
        model(torch.zeros(1, 9, dtype=torch.long))


@pytest.mark.parametrize("shape", [(5,), (1, 2, 5)])
def test_ids_that_are_no_batch_are_refused_with_the_shape_expected(model, shape):
    with pytest.raises(ValueError, match=r"\(batch, tokens\)") as error:
        model(torch.zeros(shape, dtype=torch.long))
    assert str(shape) in str(error.value)


def test_fewer_than_no_new_tokens_are_refused(model, ids):
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, but is -1"):
        generate_text_simple(model, ids, -1, context_size=8)


@pytest.mark.parametrize("shape", [(2, 0), (5,), (1, 1, 5)])
@pytest.mark.parametrize("max_new_tokens", [0, 3])
def test_a_prompt_that_is_empty_or_no_batch_is_refused(model, shape, max_new_tokens):
    with pytest.raises(ValueError, match="a token to go on from") as error:
        generate_text_simple(model, torch.zeros(shape, dtype=torch.long), max_new_tokens, 8)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("context_size", [0, -2])
def test_a_context_of_no_tokens_is_refused(model, ids, context_size):
    with pytest.raises(ValueError, match=f"context_size must be at least 1, but is {context_size}"):
        generate_text_simple(model, ids, 1, context_size)


@pytest.mark.parametrize("key", ["n_heads", "n_layers", "emb_dim", "vocab_size"])
def test_a_size_below_one_is_refused_with_its_value(key):
    with pytest.raises(ValueError, match=f"{key} must be at least 1, but is 0"):
        GPTModel({**GPT_CONFIG_124M, key: 0})


def test_a_key_that_is_nearly_one_of_the_configurations_is_refused():
    with pytest.raises(ValueError, match=r"'n_layer' changes nothing.*'n_layers'"):
        GPTModel({**GPT_CONFIG_124M, "n_layer": 2})
    tiny = {"vocab_size": 5, "context_length": 2, "emb_dim": 4, "n_heads": 1, "n_layers": 1}
    GPTModel({**GPT_CONFIG_124M, **tiny, "my_own_note": "any other key is welcome"})  # control


@pytest.mark.parametrize("name", ["trf_blocks.1.ff.layers.2.bias", "final_norm.scale"])
def test_nan_in_the_weights_is_reported_at_generation(model, ids, name):
    generate_text_simple(model, ids, 1, context_size=8)  # control
    with torch.no_grad():
        model.get_parameter(name)[0] = torch.nan
    with pytest.raises(ValueError, match="NaN: the model's weights"):
        generate_text_simple(model, ids, 1, context_size=8)
