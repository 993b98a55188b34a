"""`mha_variants.py`: every variant gives the chapter's outputs and gradients, and learns alike.

The compiled FlexAttention is left out, because compiling takes long and needs a C++ compiler;
bench/bench_attention.py compares it.
"""

import math

import pytest
import torch
from torch import nn

import mha_variants
from mha_variants import VARIANTS, from_chapter, input_gradient_of, output_of
from multihead_attention import MultiHeadAttention

TESTED = [name for name in VARIANTS if name != "FlexAttention, compiled"]
CONTEXT_LENGTH = 40
SQUARE_ONLY = {"nn.MultiheadAttention", "nn.MultiheadAttention, weights"}
NO_DROPOUT = {"FlexAttention"}
TIGHT = {torch.float32: 1e-5, torch.float64: 1e-12}

every_variant = pytest.mark.parametrize("name", TESTED)


def chapter_class(d_in=24, d_out=24, num_heads=4, dropout=0.0, qkv_bias=True, dtype=torch.float64):
    """A `MultiHeadAttention` whose weights are large enough for attention to be uneven."""
    torch.manual_seed(123)
    chapter = MultiHeadAttention(d_in, d_out, CONTEXT_LENGTH, dropout, num_heads, qkv_bias)
    with torch.no_grad():
        for parameter in chapter.parameters():
            parameter.mul_(3)
    return chapter.to(dtype)


def tokens(num_tokens=CONTEXT_LENGTH, d_in=24, batch_size=2, dtype=torch.float64):
    torch.manual_seed(456)
    return torch.randn(batch_size, num_tokens, d_in, dtype=dtype)


def build(name, chapter):
    """The variant with the chapter's weights, its blocks small enough for several to be needed."""
    variant = VARIANTS[name]
    if hasattr(variant, "block_size"):
        variant = type(variant.__name__, (variant,), {"block_size": 16})
    return from_chapter(variant, chapter)


def same(actual, expected):
    tolerance = TIGHT[expected.dtype]
    return torch.allclose(actual, expected, rtol=tolerance, atol=tolerance)


def input_gradient_or_skip(module, x):
    """Skip the test where this PyTorch has no backward pass for FlexAttention on this machine."""
    try:
        return input_gradient_of(module, x)
    except NotImplementedError as error:
        assert isinstance(module, mha_variants.FlexAttention)
        pytest.skip(str(error))


# The same numbers


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("qkv_bias", [False, True], ids=["no_bias", "bias"])
def test_outputs_are_the_chapters(name, dtype, qkv_bias):
    chapter = chapter_class(qkv_bias=qkv_bias, dtype=dtype)
    x = tokens(dtype=dtype)

    assert same(output_of(build(name, chapter), x), output_of(chapter, x))


@every_variant
@pytest.mark.parametrize("num_tokens", [1, 2, 16, 17, 33])
def test_outputs_are_the_chapters_for_every_length(name, num_tokens):
    """Among them a block (16 tokens) that is just full, and one that has a single token."""
    chapter = chapter_class()
    x = tokens(num_tokens)

    assert same(output_of(build(name, chapter), x), output_of(chapter, x))


@every_variant
@pytest.mark.parametrize(("d_in", "d_out", "num_heads"), [(24, 24, 1), (24, 24, 24), (5, 12, 3)])
def test_outputs_are_the_chapters_for_other_sizes(name, d_in, d_out, num_heads):
    if name in SQUARE_ONLY and d_in != d_out:
        pytest.skip("nn.MultiheadAttention has one width for input and output")
    chapter = chapter_class(d_in, d_out, num_heads)
    x = tokens(d_in=d_in)

    assert same(output_of(build(name, chapter), x), output_of(chapter, x))


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_input_gradients_are_the_chapters(name, dtype):
    chapter = chapter_class(dtype=dtype)
    x = tokens(dtype=dtype)
    expected = input_gradient_of(chapter, x)

    gradient = input_gradient_or_skip(build(name, chapter), x)

    scale = expected.abs().max()
    assert same(gradient / scale, expected / scale)


@every_variant
@pytest.mark.parametrize("qkv_bias", [False, True], ids=["no_bias", "bias"])
def test_a_training_step_changes_all_alike(name, qkv_bias):
    """Equal outputs after a step: the gradients of the weights are equal too."""
    chapter = chapter_class(qkv_bias=qkv_bias)
    module, x = build(name, chapter), tokens()
    input_gradient_or_skip(module, x)
    before = output_of(chapter, x)
    for trained in (chapter, module):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        trained(x).square().mean().backward()
        optimizer.step()

    assert same(output_of(module, x), output_of(chapter, x))
    assert not same(output_of(chapter, x), before)


@every_variant
def test_evaluation_ignores_dropout(name):
    if name in NO_DROPOUT:
        pytest.skip("flex_attention has no dropout")
    chapter = chapter_class(dropout=0.5)
    module, x = build(name, chapter), tokens()

    in_training = output_of(module, x)
    module.eval(), chapter.eval()

    assert same(output_of(module, x), output_of(chapter, x))
    assert not same(in_training, output_of(chapter, x))


@every_variant
def test_dropout_is_right_on_average(name):
    """Many random outputs of the first tokens average to the output without dropout."""
    if name in NO_DROPOUT:
        pytest.skip("flex_attention has no dropout")
    chapter = chapter_class(d_in=4, d_out=4, num_heads=2, dropout=0.2)
    module = build(name, chapter)
    x = tokens(3, d_in=4, batch_size=1)
    many = output_of(module, x.expand(20_000, -1, -1))

    expected = output_of(chapter.eval(), x)[0]
    error = many.std(dim=0) / math.sqrt(len(many))  # of the average
    assert ((many.mean(dim=0) - expected).abs() < 5 * error).all()
    assert (error > 0).all()


@every_variant
def test_a_built_module_shares_no_weights_with_the_chapters(name):
    chapter = chapter_class()
    module, x = build(name, chapter), tokens()
    before = output_of(module, x)
    with torch.no_grad():
        for parameter in chapter.parameters():
            parameter.zero_()

    assert torch.equal(output_of(module, x), before)
    assert not same(output_of(chapter, x), before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
@every_variant
def test_the_numbers_on_a_gpu_are_those_of_the_cpu(name):
    """Masks and other buffers included: what stays on the CPU makes this fail."""
    chapter, x = chapter_class(dtype=torch.float32), tokens(dtype=torch.float32)
    expected = [output_of(chapter, x), input_gradient_of(chapter, x)]
    module = build(name, chapter.to("cuda"))
    x = x.to("cuda")

    for actual, wanted in zip(
        [output_of(module, x), input_gradient_of(module, x)], expected, strict=True
    ):
        assert actual.is_cuda
        torch.testing.assert_close(actual.cpu(), wanted, rtol=1e-4, atol=1e-4)


# Causality


@every_variant
def test_a_later_token_changes_no_earlier_output(name):
    module, x = build(name, chapter_class()), tokens()
    changed = x.clone()
    changed[:, 20:] += 1.0

    before, after = output_of(module, x), output_of(module, changed)

    assert same(after[:, :20], before[:, :20])
    assert ((after[:, 20:] - before[:, 20:]).abs().amax(dim=-1) > 1e-3).all()


@every_variant
def test_no_gradient_flows_to_a_later_token(name):
    module, x = build(name, chapter_class()), tokens().requires_grad_()
    input_gradient_or_skip(module, x)
    module(x)[:, 20].sum().backward()

    assert (x.grad[:, 21:] == 0).all()
    assert (x.grad[:, :21].abs().amax(dim=-1) > 0).all()


# Controls: the tests above fail for variants that are wrong


class Uncausal(mha_variants.SDPACausal):
    def attend(self, queries, keys, values):
        return nn.functional.scaled_dot_product_attention(queries, keys, values)


class Unscaled(mha_variants.SDPACausal):
    def attend(self, queries, keys, values):
        return super().attend(queries * self.head_dim**0.5, keys, values)


class SwappedHeads(mha_variants.SDPACausal):
    def attend(self, queries, keys, values):
        return super().attend(queries, keys, values).flip(1)


class NeverShrinks(mha_variants.TiledAttention):
    """Forgets that a larger score makes what was added up before smaller."""

    block_size = 16

    def online_softmax(self, queries, keys, values):
        total, context = 0, 0
        largest = torch.zeros(())
        for start in range(0, keys.shape[2], self.block_size):
            tile = slice(start, start + self.block_size)
            scores = queries @ keys[:, :, tile].transpose(2, 3) / self.head_dim**0.5
            if tile.stop >= keys.shape[2]:
                scores = scores.masked_fill(mha_variants.future_mask(scores.shape[-1]), -torch.inf)
            largest = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
            exponentials = torch.exp(scores - largest)
            total = total + exponentials.sum(dim=-1, keepdim=True)
            context = context + exponentials @ values[:, :, tile]
        return context / total


@pytest.mark.parametrize("broken", [Uncausal, Unscaled, SwappedHeads, NeverShrinks])
def test_a_broken_variant_is_caught(broken):
    chapter, x = chapter_class(), tokens()

    assert not same(output_of(from_chapter(broken, chapter), x), output_of(chapter, x))
    assert same(output_of(build("SDPA, is_causal", chapter), x), output_of(chapter, x))


def test_swapped_projections_are_caught():
    chapter, x = chapter_class(), tokens()
    module = build("SDPA, is_causal", chapter)
    module.W_key, module.W_value = module.W_value, module.W_key

    assert not same(output_of(module, x), output_of(chapter, x))


def test_a_wrong_gradient_is_caught():
    """A variant with the right output that lets no gradient through the scores."""

    class NoGradientThroughScores(mha_variants.SDPACausal):
        def attend(self, queries, keys, values):
            return super().attend(queries.detach(), keys, values)

    chapter, x = chapter_class(), tokens()
    module = from_chapter(NoGradientThroughScores, chapter)

    assert same(output_of(module, x), output_of(chapter, x))
    assert not same(input_gradient_of(module, x), input_gradient_of(chapter, x))


# Each is what its name says


def test_there_are_more_than_ten_and_the_chapters_class_comes_first():
    assert len(VARIANTS) > 10
    assert next(iter(VARIANTS.values())) is MultiHeadAttention
    assert len(set(VARIANTS.values())) == len(VARIANTS)


def test_the_same_seed_gives_the_chapters_weights():
    """For the variants that have the chapter's layers, made in the chapter's order."""
    torch.manual_seed(0)
    chapter = MultiHeadAttention(8, 8, 6, 0.0, 2)
    checked = 0
    for variant in VARIANTS.values():
        if issubclass(variant, mha_variants.ChapterLayers):
            torch.manual_seed(0)
            own = dict(variant(8, 8, 6, 0.0, 2).named_parameters())
            assert own.keys() == dict(chapter.named_parameters()).keys()
            assert all(torch.equal(own[k], v) for k, v in chapter.named_parameters())
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize("name", ["query blocks", "tiles, online softmax"])
def test_no_block_computes_more_scores_than_it_needs(name):
    """The widest row of scores is a block by all keys, or a block by a block."""

    class WidestProduct(torch.utils._python_dispatch.TorchDispatchMode):
        shapes = ()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.bmm.default:
                self.shapes = (*self.shapes, tuple(result.shape[1:]))
            return result

    def products(name):
        module = build(name, chapter_class())
        with WidestProduct() as mode:
            output_of(module, tokens())
        return {shape for shape in mode.shapes if shape[1] != module.head_dim}

    assert (CONTEXT_LENGTH, CONTEXT_LENGTH) in products("chapter's class")
    widest = {"query blocks": {(16, 16), (16, 32), (8, 40)}}.get(name, {(16, 16), (8, 16), (8, 8)})
    assert products(name) == widest


# Bad input


@every_variant
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_out": 25, "d_in": 25}, "25.*4"),
        ({"num_heads": 0}, "num_heads.*0"),
        ({"dropout": 1.0}, r"dropout.*1\.0"),
        ({"dropout": -0.1}, r"dropout.*-0\.1"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(name, change, message):
    good = {"d_in": 24, "d_out": 24, "context_length": 6, "dropout": 0.0, "num_heads": 4}
    with pytest.raises(ValueError, match=message):
        VARIANTS[name](**{**good, **change})

    VARIANTS[name](**good)


@every_variant
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, CONTEXT_LENGTH + 1, 24), f"{CONTEXT_LENGTH + 1}.*{CONTEXT_LENGTH}"),
        ((2, 6, 23), "24.*23"),
        ((6, 24), r"\(6, 24\)"),
    ],
    ids=str,
)
def test_bad_input_is_refused(name, shape, message):
    module = build(name, chapter_class(dtype=torch.float32))
    with pytest.raises(ValueError, match=message):
        output_of(module, torch.randn(shape))

    output_of(module, torch.randn(2, CONTEXT_LENGTH, 24))


@pytest.mark.parametrize("name", sorted(SQUARE_ONLY))
def test_nn_multihead_attention_refuses_two_widths(name):
    with pytest.raises(ValueError, match=r"d_in is 5.*d_out is 12"):
        VARIANTS[name](5, 12, 6, 0.0, 3)

    VARIANTS[name](12, 12, 6, 0.0, 3)


def test_flex_attention_refuses_dropout():
    with pytest.raises(ValueError, match=r"0\.1"):
        VARIANTS["FlexAttention"](24, 24, 6, 0.1, 4)

    VARIANTS["FlexAttention"](24, 24, 6, 0.0, 4)


# The script by itself


def test_the_demonstration_shows_every_variant(capsys, monkeypatch):
    monkeypatch.setattr(mha_variants, "VARIANTS", {name: VARIANTS[name] for name in TESTED})
    mha_variants.main()

    printed = capsys.readouterr().out
    assert all(name in printed for name in TESTED)
