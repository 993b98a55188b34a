"""Causal attention, with one head and with several (book, sections 3.5 and 3.6).

Shapes: B batch, T tokens, d_in and d_out widths of input and output, H heads, D width of a head.
"""

import torch
import torch.nn as nn


class CausalAttention(nn.Module):
    """One attention head in which a token sees itself and the tokens before it.

    Args:
        d_in: width of the input vectors.
        d_out: width of queries, keys, values and of the output.
        context_length: the most tokens that an input may have.
        dropout: share of attention weights that is set to zero in training, at least 0, below 1.
        qkv_bias: give the three projections a bias.

    Raises:
        ValueError: `dropout` out of range; in the forward pass, an input that does not fit.

    Source: book, section 3.5.3.
    """

    def __init__(self, d_in, d_out, context_length, dropout, qkv_bias=False):
        super().__init__()
        check_dropout(dropout)
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.dropout = nn.Dropout(dropout)
        future = torch.triu(torch.ones(context_length, context_length), diagonal=1)
        self.register_buffer("mask", future)  # 1 where a key lies after the query

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.W_query.in_features, len(self.mask))
        num_tokens = x.shape[1]
        queries = self.W_query(x)  # (B, T, d_out)
        keys = self.W_key(x)  # (B, T, d_out)
        values = self.W_value(x)  # (B, T, d_out)

        scores = queries @ keys.transpose(1, 2)  # (B, T, T)
        scores.masked_fill_(self.mask[:num_tokens, :num_tokens].bool(), -torch.inf)
        weights = torch.softmax(scores / keys.shape[-1] ** 0.5, dim=-1)  # (B, T, T), rows sum to 1
        return self.dropout(weights) @ values  # (B, T, d_out)


class MultiHeadAttentionWrapper(nn.Module):
    """Several `CausalAttention` heads side by side, their outputs joined: width H * d_out.

    Args:
        d_out: width of each head's output, not of the whole.
        num_heads: H, at least 1.
        d_in, context_length, dropout, qkv_bias: as for `CausalAttention`.

    Source: book, section 3.6.1.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_num_heads(num_heads)
        self.heads = nn.ModuleList(
            CausalAttention(d_in, d_out, context_length, dropout, qkv_bias)
            for _ in range(num_heads)
        )

    def forward(self, x):
        """(B, T, d_in) -> (B, T, H * d_out)."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadAttention(nn.Module):
    """Several causal heads in one: each projection is computed once, then split among the heads.

    Args:
        d_out: width of the whole output; each head has D = d_out / H of it.
        num_heads: H.
        d_in, context_length, dropout, qkv_bias: as for `CausalAttention`.

    Raises:
        ValueError: H does not divide `d_out`, or `dropout` is out of range; in the forward pass,
            an input that does not fit.

    Source: book, section 3.6.2.
    """

    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        check_num_heads(num_heads)
        check_dropout(dropout)
        if d_out % num_heads != 0:
            raise ValueError(
                f"d_out must be divisible by num_heads, but {d_out} / {num_heads} leaves "
                f"{d_out % num_heads}."
            )
        self.d_out = d_out
        self.num_heads = num_heads
        self.head_dim = d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        future = torch.triu(torch.ones(context_length, context_length), diagonal=1)
        self.register_buffer("mask", future)  # 1 where a key lies after the query

    def forward(self, x):
        """(B, T, d_in) -> (B, T, d_out)."""
        check_input(x, self.W_query.in_features, len(self.mask))
        batch_size, num_tokens, _ = x.shape
        by_head = (batch_size, num_tokens, self.num_heads, self.head_dim)
        queries = self.W_query(x).view(by_head).transpose(1, 2)  # (B, H, T, D)
        keys = self.W_key(x).view(by_head).transpose(1, 2)  # (B, H, T, D)
        values = self.W_value(x).view(by_head).transpose(1, 2)  # (B, H, T, D)

        scores = queries @ keys.transpose(2, 3)  # (B, H, T, T)
        scores.masked_fill_(self.mask[:num_tokens, :num_tokens].bool(), -torch.inf)
        weights = torch.softmax(scores / self.head_dim**0.5, dim=-1)  # rows sum to 1
        context = self.dropout(weights) @ values  # (B, H, T, D)

        joined = context.transpose(1, 2).flatten(2)  # (B, T, H, D) -> (B, T, d_out)
        return self.out_proj(joined)


def check_dropout(dropout):
    """Raise a ValueError unless 0 <= dropout < 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, but is {dropout}.")


def check_num_heads(num_heads):
    """Raise a ValueError unless there is at least one head."""
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1, but is {num_heads}.")


def check_input(x, d_in, context_length):
    """Raise a ValueError, with both numbers, unless x is (B, T, d_in) and T <= context_length."""
    if x.dim() != 3:
        raise ValueError(
            f"The input must have 3 dimensions, (batch, tokens, {d_in}), but its shape is "
            f"{tuple(x.shape)}. A single sequence needs a batch of one: x.unsqueeze(0)."
        )
    if x.shape[2] != d_in:
        raise ValueError(f"The input vectors must have d_in={d_in} numbers, but have {x.shape[2]}.")
    if x.shape[1] > context_length:
        raise ValueError(
            f"The input has {x.shape[1]} tokens, more than context_length={context_length}."
        )


def main():
    """Print the output for two copies of the chapter's six tokens."""
    tokens = [[0.43, 0.15, 0.89], [0.55, 0.87, 0.66], [0.57, 0.85, 0.64]]
    tokens += [[0.22, 0.58, 0.33], [0.77, 0.25, 0.10], [0.05, 0.80, 0.55]]
    batch = torch.tensor([tokens, tokens])  # (2, 6, 3)
    torch.manual_seed(123)
    attention = MultiHeadAttention(3, 2, context_length=6, dropout=0.0, num_heads=2)
    output = attention(batch)
    print(output)
    print("shape:", tuple(output.shape))


if __name__ == "__main__":
    main()
