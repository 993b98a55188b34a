"""Causal multi-head attention in many ways that give the same numbers (beyond the book).

Each class takes the arguments of the chapter's `MultiHeadAttention` and has a method that copies
the weights of one, so all of them can be held to the same test: equal outputs, equal gradients.
`VARIANTS` lists them; the notebook, the tests and bench/bench_attention.py loop over it.

Shapes: B batch, T tokens, d_in and d_out widths of input and output, H heads, D width of a head;
Q queries and K keys of one block of tokens.
"""

import functools
import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint

from multihead_attention import (
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    check_dropout,
    check_input,
    check_num_heads,
)


class ChapterLayers(nn.Module):
    """The chapter's layers, around an `attend` that each subclass writes in its own way.

    Layers, their names and the order in which they are made are those of `MultiHeadAttention`, so
    the same seed gives the same weights. Masks, where a subclass needs one, are its own.

    Args:
        d_in, d_out, context_length, dropout, num_heads, qkv_bias: as for `MultiHeadAttention`.

    Raises:
        ValueError: as `MultiHeadAttention`.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_dropout(dropout)
        self.num_heads = num_heads
        self.head_dim = width_of_a_head(d_out, num_heads)
        self.context_length = context_length
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.W_query.in_features, self.context_length)
        queries = split_heads(self.W_query(x), self.num_heads)  # (B, H, T, D)
        keys = split_heads(self.W_key(x), self.num_heads)  # (B, H, T, D)
        values = split_heads(self.W_value(x), self.num_heads)  # (B, H, T, D)
        context = self.attend(queries, keys, values)  # (B, H, T, D)
        return self.out_proj(join_heads(context))  # (B, T, d_out)

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        raise NotImplementedError

    def copy_weights(self, chapter):
        """Take over the weights of a `MultiHeadAttention` of the same sizes."""
        self.load_state_dict(dict(chapter.named_parameters()))


class ChapterLayersAndMask(ChapterLayers):
    """The same with a stored mask, `future`: (T, T) bool, True where the key lies after the query.

    It is not persistent, so a state dict holds the weights alone.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__(d_in, d_out, context_length, dropout, num_heads, qkv_bias)
        self.register_buffer("future", future_mask(context_length), persistent=False)


def width_of_a_head(d_out, num_heads):
    """D; a ValueError that names both numbers unless H divides `d_out`."""
    check_num_heads(num_heads)
    if d_out % num_heads != 0:
        raise ValueError(
            f"d_out must be divisible by num_heads, but {d_out} / {num_heads} leaves "
            f"{d_out % num_heads}."
        )
    return d_out // num_heads


def split_heads(x, num_heads):
    """(B, T, d_out) -> (B, H, T, D)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x):
    """(B, H, T, D) -> (B, T, d_out)."""
    return x.transpose(1, 2).flatten(start_dim=2)


def future_mask(num_tokens, device=None):
    """(T, T) bool, True where the key lies after the query."""
    return torch.ones(num_tokens, num_tokens, dtype=torch.bool, device=device).triu(diagonal=1)


# The projections, otherwise


class WrapperWithProjection(nn.Module):
    """The chapter's wrapper, H modules of one head each, followed by an output projection."""

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        head_dim = width_of_a_head(d_out, num_heads)
        self.wrapper = MultiHeadAttentionWrapper(
            d_in, head_dim, context_length, dropout, num_heads, qkv_bias
        )
        self.out_proj = nn.Linear(d_out, d_out)

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        return self.out_proj(self.wrapper(x))

    def copy_weights(self, chapter):
        """Head h gets rows h * D to (h + 1) * D of each projection: that is what heads are."""
        self.out_proj.load_state_dict(chapter.out_proj.state_dict())
        for name in ("W_query", "W_key", "W_value"):
            whole = getattr(chapter, name).state_dict()  # weight (d_out, d_in), bias (d_out,)
            parts = {key: tensor.chunk(chapter.num_heads) for key, tensor in whole.items()}
            for h, head in enumerate(self.wrapper.heads):
                getattr(head, name).load_state_dict({key: parts[key][h] for key in parts})


class FusedProjection(nn.Module):
    """One linear layer of 3 * d_out columns computes queries, keys and values together."""

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_dropout(dropout)
        self.num_heads = num_heads
        self.head_dim = width_of_a_head(d_out, num_heads)
        self.W_qkv = nn.Linear(d_in, 3 * d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("future", future_mask(context_length), persistent=False)

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.W_qkv.in_features, len(self.future))
        num_tokens = x.shape[1]
        qkv = self.W_qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # (B, T, 3, H, D)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each

        scores = queries @ keys.transpose(2, 3)  # (B, H, T, T)
        scores.masked_fill_(self.future[:num_tokens, :num_tokens], -torch.inf)
        weights = torch.softmax(scores / self.head_dim**0.5, dim=-1)
        return self.out_proj(join_heads(self.dropout(weights) @ values))

    def copy_weights(self, chapter):
        """The rows of the three projections, one below the other."""
        layers = (chapter.W_query, chapter.W_key, chapter.W_value)
        stacked = {
            name: torch.cat([layer.state_dict()[name] for layer in layers])
            for name in chapter.W_query.state_dict()
        }
        self.W_qkv.load_state_dict(stacked)
        self.out_proj.load_state_dict(chapter.out_proj.state_dict())


class EinsumAttention(ChapterLayersAndMask):
    """Every product as an einsum: no transpose, no view, the letters say what is summed.

    b batch, h head, d position within a head, q query token, k key token, i input, o output.
    """

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.W_query.in_features, self.context_length)
        num_tokens = x.shape[1]
        queries, keys, values = map(
            functools.partial(self.project, x), (self.W_query, self.W_key, self.W_value)
        )
        scores = torch.einsum("bhqd,bhkd->bhqk", queries, keys) / self.head_dim**0.5
        scores = scores.masked_fill(self.future[:num_tokens, :num_tokens], -torch.inf)
        weights = self.dropout(scores.softmax(dim=-1))
        context = torch.einsum("bhqk,bhkd->bhqd", weights, values)
        by_head = self.out_proj.weight.unflatten(1, (self.num_heads, self.head_dim))  # (o, H, D)
        return torch.einsum("bhqd,ohd->bqo", context, by_head) + self.out_proj.bias

    def project(self, x, layer):
        """(B, T, d_in) -> (B, H, T, D)."""
        heads = (self.num_heads, self.head_dim)
        projected = torch.einsum("bti,hdi->bhtd", x, layer.weight.unflatten(0, heads))
        return projected if layer.bias is None else projected + layer.bias.view(*heads)[:, None]


# The weights, otherwise


class LoopOverHeads(ChapterLayersAndMask):
    """One head after the other: what the four-dimensional product does, written out."""

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        num_tokens = queries.shape[2]
        future = self.future[:num_tokens, :num_tokens]
        contexts = []
        for h in range(self.num_heads):
            scores = queries[:, h] @ keys[:, h].transpose(1, 2) / self.head_dim**0.5  # (B, T, T)
            weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
            contexts.append(self.dropout(weights) @ values[:, h])  # (B, T, D)
        return torch.stack(contexts, dim=1)


class AddedMask(ChapterLayers):
    """A mask of 0 and minus infinity is added; the queries are scaled, not the scores.

    There are T * D numbers in the queries of a head and T * T in its scores.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__(d_in, d_out, context_length, dropout, num_heads, qkv_bias)
        self.register_buffer("added", additive_mask(context_length), persistent=False)

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        num_tokens = queries.shape[2]
        scores = (queries / self.head_dim**0.5) @ keys.transpose(2, 3)  # (B, H, T, T)
        scores = scores + self.added[:num_tokens, :num_tokens]
        return self.dropout(scores.softmax(dim=-1)) @ values


def additive_mask(num_tokens):
    """(T, T) float: minus infinity where the key lies after the query, 0 elsewhere."""
    return torch.zeros(num_tokens, num_tokens).masked_fill(future_mask(num_tokens), -torch.inf)


class OneCallForScores(AddedMask):
    """`torch.baddbmm` multiplies, scales and adds the mask in one pass over the scores.

    It takes three-dimensional tensors, so batch and heads become one dimension.
    """

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        num_tokens = queries.shape[2]
        q, k, v = (x.flatten(end_dim=1) for x in (queries, keys, values))  # (B * H, T, D)
        scores = torch.baddbmm(
            self.added[:num_tokens, :num_tokens],
            q,
            k.transpose(1, 2),
            alpha=self.head_dim**-0.5,
        )  # (B * H, T, T)
        context = torch.bmm(self.dropout(scores.softmax(dim=-1)), v)
        return context.view_as(queries)


# PyTorch's own


class SDPACausal(ChapterLayers):
    """`F.scaled_dot_product_attention` with its own causal mask: no mask is stored at all."""

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        dropout = self.dropout.p if self.training else 0.0  # the function knows no modes
        return F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True
        )


class SDPAWithMask(ChapterLayers):
    """The same function with an explicit mask, which may be any; here True means "may look"."""

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__(d_in, d_out, context_length, dropout, num_heads, qkv_bias)
        self.register_buffer("visible", ~future_mask(context_length), persistent=False)

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        num_tokens = queries.shape[2]
        dropout = self.dropout.p if self.training else 0.0
        visible = self.visible[:num_tokens, :num_tokens]
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=visible, dropout_p=dropout
        )


class TorchMultiHead(nn.Module):
    """`nn.MultiheadAttention`, which can also return the attention weights.

    Raises:
        ValueError: as `MultiHeadAttention`; or `d_in` and `d_out` differ, which it cannot do.
    """

    need_weights = True

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_dropout(dropout)
        width_of_a_head(d_out, num_heads)
        if d_in != d_out:
            raise ValueError(
                f"nn.MultiheadAttention has one width for input and output, but d_in is {d_in} "
                f"and d_out is {d_out}."
            )
        # bias=False would take the bias off the output projection too, which the chapter has.
        self.attention = nn.MultiheadAttention(d_out, num_heads, dropout, batch_first=True)
        self.attention.in_proj_bias.requires_grad_(qkv_bias)  # zeros that stay zeros
        self.register_buffer("future", future_mask(context_length), persistent=False)

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.attention.embed_dim, len(self.future))
        num_tokens = x.shape[1]
        output, _ = self.attention(
            *(x, x, x),
            attn_mask=self.future[:num_tokens, :num_tokens],
            need_weights=self.need_weights,
            average_attn_weights=False,
            is_causal=not self.need_weights,  # says that the mask is the causal one
        )
        return output

    def copy_weights(self, chapter):
        """Its projections are fused, as in `FusedProjection`."""
        layers = (chapter.W_query, chapter.W_key, chapter.W_value)
        state = {"in_proj_weight": torch.cat([layer.weight.detach() for layer in layers])}
        if chapter.W_query.bias is None:
            state["in_proj_bias"] = torch.zeros_like(self.attention.in_proj_bias)
        else:
            state["in_proj_bias"] = torch.cat([layer.bias.detach() for layer in layers])
        state |= {f"out_proj.{name}": x for name, x in chapter.out_proj.state_dict().items()}
        self.attention.load_state_dict(state)


class TorchMultiHeadNoWeights(TorchMultiHead):
    """The same module, not asked for the weights: it then calls `scaled_dot_product_attention`."""

    need_weights = False


class FlexAttention(ChapterLayers):
    """`flex_attention`: the mask is a Python function, and blocks that it hides are skipped.

    Uncompiled, as here, it computes the whole matrix of scores: right, but it saves nothing.
    On the CPU it has no backward pass (a NotImplementedError says so).

    Raises:
        ValueError: as `MultiHeadAttention`; or `dropout` is not 0, which it does not have.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__(d_in, d_out, context_length, dropout, num_heads, qkv_bias)
        if dropout:
            raise ValueError(f"flex_attention has no dropout: it must be 0, but is {dropout}.")

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        block_mask = causal_block_mask(queries.shape[2], queries.device)
        with warnings.catch_warnings():  # it warns that it is not compiled, which we know
            warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
            return flex_attention(queries, keys, values, block_mask=block_mask)


class FlexAttentionCompiled(FlexAttention):
    """The same, compiled: the first call takes up to a minute and needs a C++ compiler."""

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        if queries.requires_grad and queries.device.type == "cpu":  # the compiler is less clear
            raise NotImplementedError("FlexAttention does not support backward on CPU.")
        block_mask = causal_block_mask(queries.shape[2], queries.device)
        return compiled_flex_attention()(queries, keys, values, block_mask=block_mask)


@functools.lru_cache(maxsize=8)
def causal_block_mask(num_tokens, device):
    """Which blocks of the (T, T) matrix are hidden as a whole, as `flex_attention` wants it."""
    return create_block_mask(is_visible, None, None, num_tokens, num_tokens, device=device)


def is_visible(batch, head, query, key):
    """Whether a query may look at a key."""
    return query >= key


@functools.cache
def compiled_flex_attention():
    """The compiled function. By default torch.compile would not stick to the fused kernel.

    A call that cannot be compiled would run uncompiled, and so would all calls after it, without
    a word (fullgraph=True: it raises). After a second length it would compile for all lengths,
    into slower code (dynamic=False: each length is compiled for itself).
    """
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


# Without the whole matrix of scores


class QueryBlocks(ChapterLayers):
    """One block of queries at a time, against the keys up to its end.

    The scores to the right of the block are never computed, and in inference only one block's
    scores are in memory. In training autograd keeps the weights of all blocks.
    """

    block_size = 128

    def attend(self, queries, keys, values):
        """Three times (B, H, T, D) -> (B, H, T, D)."""
        blocks = []
        for start in range(0, queries.shape[2], self.block_size):
            end = start + self.block_size
            block = queries[:, :, start:end]
            blocks.append(self.attend_block(block, keys[:, :, :end], values[:, :, :end]))
        return torch.cat(blocks, dim=2)

    def attend_block(self, queries, keys, values):
        """(B, H, Q, D), the last Q of the K tokens in `keys` and `values` -> (B, H, Q, D)."""
        num_queries, num_keys = queries.shape[2], keys.shape[2]
        future = future_mask(num_keys, keys.device)[-num_queries:]  # (Q, K)
        scores = queries @ keys.transpose(2, 3) / self.head_dim**0.5  # (B, H, Q, K)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        return self.dropout(weights) @ values


class TiledAttention(QueryBlocks):
    """The idea of FlashAttention: blocks of queries against blocks of keys, one tile at a time.

    A softmax needs the largest score of its row and the sum of all exponentials. The *online*
    softmax keeps both for the keys seen so far; when a tile brings a larger score, what was added
    up before shrinks by the same factor, so that in the end everything is relative to the largest
    of all. No row of weights ever exists as a whole. In training the tiles are not kept either:
    `checkpoint` computes them again in the backward pass.

    FlashAttention does all this in one GPU kernel, with the tiles in fast memory. Here every tile
    costs a turn of a Python loop and ten calls of PyTorch: the smaller the tiles, the slower.
    """

    def attend_block(self, queries, keys, values):
        """(B, H, Q, D), the last Q of the K tokens in `keys` and `values` -> (B, H, Q, D)."""
        if torch.is_grad_enabled():
            return checkpoint(self.online_softmax, queries, keys, values, use_reentrant=False)
        return self.online_softmax(queries, keys, values)

    def online_softmax(self, queries, keys, values):
        """What `attend_block` returns."""
        num_keys = keys.shape[2]
        queries = queries / self.head_dim**0.5
        largest = torch.full_like(queries[..., :1], -torch.inf)  # (B, H, Q, 1), score so far
        total = torch.zeros_like(largest)  # (B, H, Q, 1), sum of the exponentials so far
        context = torch.zeros_like(queries)  # (B, H, Q, D), sum of the values times these
        for start in range(0, num_keys, self.block_size):
            tile = slice(start, start + self.block_size)
            scores = queries @ keys[:, :, tile].transpose(2, 3)  # (B, H, Q, K)
            if tile.stop >= num_keys:  # the last tile is the one on the diagonal
                future = future_mask(scores.shape[-1], keys.device)
                scores = scores.masked_fill(future, -torch.inf)
            # The result does not depend on `largest`, so no gradient has to go through it.
            new_largest = torch.maximum(largest, scores.detach().amax(dim=-1, keepdim=True))
            shrink = torch.exp(largest - new_largest)
            exponentials = torch.exp(scores - new_largest)
            total = total * shrink + exponentials.sum(dim=-1, keepdim=True)
            context = context * shrink + self.dropout(exponentials) @ values[:, :, tile]
            largest = new_largest
        return context / total


VARIANTS = {
    "chapter's class": MultiHeadAttention,
    "chapter's wrapper": WrapperWithProjection,
    "loop over heads": LoopOverHeads,
    "fused qkv": FusedProjection,
    "einsum": EinsumAttention,
    "added mask": AddedMask,
    "baddbmm": OneCallForScores,
    "SDPA, is_causal": SDPACausal,
    "SDPA, mask": SDPAWithMask,
    "nn.MultiheadAttention, weights": TorchMultiHead,
    "nn.MultiheadAttention": TorchMultiHeadNoWeights,
    "FlexAttention": FlexAttention,
    "FlexAttention, compiled": FlexAttentionCompiled,
    "query blocks": QueryBlocks,
    "tiles, online softmax": TiledAttention,
}


def from_chapter(variant, chapter):
    """A module of the class `variant` with sizes, weights, device and mode of a chapter's one.

    Args:
        variant: one of the values of `VARIANTS`.
        chapter: a `MultiHeadAttention`.
    """
    module = variant(
        d_in=chapter.W_query.in_features,
        d_out=chapter.d_out,
        context_length=len(chapter.mask),
        dropout=chapter.dropout.p,
        num_heads=chapter.num_heads,
        qkv_bias=chapter.W_query.bias is not None,
    )
    if isinstance(module, MultiHeadAttention):
        module.load_state_dict(chapter.state_dict())
    else:
        module.copy_weights(chapter)
    return module.to(chapter.out_proj.weight).train(chapter.training)


def output_of(module, x):
    """The module's output for `x`, without gradients."""
    with torch.no_grad():
        return module(x)


def input_gradient_of(module, x):
    """The gradient of half the squared outputs' sum with respect to `x`."""
    x = x.detach().requires_grad_()
    output = module(x)
    return torch.autograd.grad(output, x, grad_outputs=output.detach())[0]


def largest_difference(a, b):
    """Largest absolute difference of two tensors, as a float."""
    return (a - b).abs().max().item()


def main():
    """Print how far each variant's output and gradient are from those of the chapter's class."""
    torch.manual_seed(123)
    chapter = MultiHeadAttention(64, 64, context_length=300, dropout=0.0, num_heads=4)
    x = torch.randn(2, 300, 64)
    print(f"{'':30}    output  gradient")
    for name, variant in VARIANTS.items():
        module = from_chapter(variant, chapter)
        line = f"{name:30}"
        for compute in (output_of, input_gradient_of):
            try:
                line += f"  {largest_difference(compute(module, x), compute(chapter, x)):8.1e}"
            except RuntimeError as error:  # NotImplementedError is one of them
                line += f"  {type(error).__name__}: {str(error).splitlines()[0]}"
        print(line)


if __name__ == "__main__":
    main()
