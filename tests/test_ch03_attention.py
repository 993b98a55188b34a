"""Chapter 3's attention classes: parity with PyTorch, causality, clear errors."""

import pytest
import torch

from multihead_attention import CausalAttention, MultiHeadAttention, MultiHeadAttentionWrapper, main

WIDTH, HEADS, CONTEXT = 12, 3, 7


def build(kind, **changes):
    """One of the three classes with an output of WIDTH numbers, under a fixed seed."""
    settings = {"d_in": WIDTH, "context_length": CONTEXT, "dropout": 0.0, **changes}
    torch.manual_seed(0)
    if kind is CausalAttention:
        return kind(d_out=WIDTH, **settings)
    if kind is MultiHeadAttentionWrapper:
        return kind(d_out=WIDTH // HEADS, num_heads=HEADS, **settings)
    return kind(**{"d_out": WIDTH, "num_heads": HEADS, **settings})


KINDS = [CausalAttention, MultiHeadAttentionWrapper, MultiHeadAttention]
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def x():
    return torch.randn(2, CONTEXT, WIDTH, generator=torch.Generator().manual_seed(1))


def torch_attention(ours):
    """PyTorch's own multi-head attention with our weights."""
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, bias=True, batch_first=True)
    projections = [ours.W_query, ours.W_key, ours.W_value]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    return theirs


@pytest.mark.parametrize("num_tokens", [1, 4, CONTEXT])
def test_multi_head_attention_equals_pytorchs(x, num_tokens):
    ours = build(MultiHeadAttention, qkv_bias=True)
    x = x[:, :num_tokens].requires_grad_()
    future = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(diagonal=1)
    theirs, _ = torch_attention(ours)(x, x, x, attn_mask=future)
    torch.testing.assert_close(ours(x), theirs, atol=1e-6, rtol=0)

    grad_ours, grad_theirs = (
        torch.autograd.grad(y.square().sum(), x)[0] for y in (ours(x), theirs)
    )
    torch.testing.assert_close(grad_ours, grad_theirs, atol=1e-5, rtol=1e-5)
    unmasked, _ = torch_attention(ours)(x, x, x)
    assert num_tokens == 1 or not torch.allclose(ours(x), unmasked)  # control


@pytest.mark.parametrize("num_tokens", [1, 4, CONTEXT])
def test_multi_head_attention_equals_scaled_dot_product_attention(x, num_tokens):
    ours, x = build(MultiHeadAttention), x[:, :num_tokens]
    heads = [
        layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for layer in (ours.W_query, ours.W_key, ours.W_value)
    ]
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
    theirs = ours.out_proj(theirs.transpose(1, 2).flatten(2))
    torch.testing.assert_close(ours(x), theirs, atol=1e-6, rtol=0)


def test_causal_attention_equals_scaled_dot_product_attention(x):
    ours = build(CausalAttention)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        ours.W_query(x), ours.W_key(x), ours.W_value(x), is_causal=True
    )
    torch.testing.assert_close(ours(x), theirs, atol=1e-6, rtol=0)


def test_the_wrapper_and_the_class_agree_when_they_have_the_same_weights(x):
    one, many = build(MultiHeadAttention), build(MultiHeadAttentionWrapper)
    with torch.no_grad():
        for name in ("W_query", "W_key", "W_value"):
            stacked = torch.cat([getattr(head, name).weight for head in many.heads])
            getattr(one, name).weight.copy_(stacked)
    torch.testing.assert_close(one(x), one.out_proj(many(x)), atol=1e-6, rtol=0)


@every_kind
@pytest.mark.parametrize("changed_token", [1, CONTEXT - 1])
def test_a_later_token_never_changes_an_earlier_output(kind, changed_token, x):
    attention = build(kind)
    changed = x.clone()
    changed[:, changed_token] += 1.0
    before, after = attention(x), attention(changed)
    assert torch.equal(before[:, :changed_token], after[:, :changed_token])
    assert not torch.allclose(before[:, changed_token:], after[:, changed_token:])  # control


@every_kind
def test_texts_of_a_batch_do_not_touch_each_other(kind, x):
    attention = build(kind)
    torch.testing.assert_close(attention(x)[:1], attention(x[:1]))


@every_kind
def test_dropout_acts_in_training_only(kind, x):
    attention = build(kind, dropout=0.5)
    assert not torch.allclose(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    torch.testing.assert_close(attention(x), build(kind)(x))


def test_the_state_dict_has_the_names_that_weights_are_loaded_by():
    assert set(build(MultiHeadAttention, qkv_bias=True).state_dict()) == {
        *(f"W_{part}.{what}" for part in ("query", "key", "value") for what in ("weight", "bias")),
        *("out_proj.weight", "out_proj.bias", "mask"),
    }


@pytest.mark.parametrize("d_out, num_heads", [(10, 3), (2, 4)])
def test_an_indivisible_width_is_refused_with_both_numbers(d_out, num_heads):
    with pytest.raises(ValueError, match=f"{d_out} / {num_heads}"):
        build(MultiHeadAttention, d_out=d_out, num_heads=num_heads)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_zero_heads_are_refused(kind):
    with pytest.raises(ValueError, match="num_heads must be at least 1, but is 0"):
        kind(WIDTH, WIDTH, CONTEXT, 0.0, num_heads=0)


@every_kind
@pytest.mark.parametrize("dropout", [-0.1, 1.0, 5])
def test_a_dropout_out_of_range_is_refused_with_its_value(kind, dropout):
    with pytest.raises(ValueError, match=rf"at least 0 and below 1, but is {dropout}"):
        build(kind, dropout=dropout)


@every_kind
def test_too_many_tokens_are_refused_with_both_numbers(kind):
    with pytest.raises(ValueError, match=f"8 tokens, more than context_length={CONTEXT}"):
        build(kind)(torch.zeros(1, CONTEXT + 1, WIDTH))


@every_kind
def test_another_input_width_is_refused_with_both_numbers(kind):
    with pytest.raises(ValueError, match=f"d_in={WIDTH} numbers, but have 5"):
        build(kind)(torch.zeros(1, 2, 5))


@every_kind
@pytest.mark.parametrize("shape", [(6, WIDTH), (WIDTH,), (1, 1, 6, WIDTH)])
def test_an_input_that_is_no_batch_is_refused_with_the_shape_expected(kind, shape):
    with pytest.raises(ValueError, match=rf"\(batch, tokens, {WIDTH}\)") as error:
        build(kind)(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_main_prints_the_books_first_row(capsys):
    main()
    assert "[[[0.3190, 0.4858]," in capsys.readouterr().out
