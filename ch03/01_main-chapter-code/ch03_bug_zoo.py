"""Seven pieces of chapter 3, each with one bug: the specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, T tokens, d_out width of queries, keys and values, H heads, D width of a head.
"""

import torch
import torch.nn as nn


def attend_1(queries, keys, values):
    """Causal attention of one head: (B, T, d_out) -> (B, T, d_out)."""
    num_tokens, width = queries.shape[1:]
    scores = queries @ keys.transpose(1, 2) / width**0.5  # (B, T, T)
    allowed = torch.tril(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    scores = scores.masked_fill(allowed == 0, -torch.inf)
    weights = torch.softmax(scores, dim=-1)
    return weights @ values


def attend_2(queries, keys, values):
    """Causal attention of one head: (B, T, d_out) -> (B, T, d_out)."""
    num_tokens, width = queries.shape[1:]
    scores = queries @ keys.transpose(1, 2) / width**0.5  # (B, T, T)
    is_future = torch.triu(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    scores = scores.masked_fill(is_future == 1, -torch.inf)
    weights = torch.softmax(scores, dim=1)
    return weights @ values


def attend_3(queries, keys, values):
    """Causal attention of one head: (B, T, d_out) -> (B, T, d_out)."""
    num_tokens, width = queries.shape[1:]
    scores = queries @ keys.transpose(1, 2) / width**0.5  # (B, T, T)
    is_future = torch.triu(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    scores = scores.masked_fill(is_future == 1, 0.0)
    weights = torch.softmax(scores, dim=-1)
    return weights @ values


def attend_heads_4(queries, keys, values, num_heads):
    """Causal attention of several heads: (B, T, d_out) -> (B, T, d_out)."""
    batch_size, num_tokens, d_out = queries.shape
    by_head = (batch_size, num_tokens, num_heads, d_out // num_heads)
    queries = queries.view(by_head).transpose(1, 2)  # (B, H, T, D)
    keys = keys.view(by_head).transpose(1, 2)
    values = values.view(by_head).transpose(1, 2)

    scores = queries @ keys.transpose(2, 3) / d_out**0.5  # (B, H, T, T)
    is_future = torch.triu(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    weights = torch.softmax(scores.masked_fill(is_future == 1, -torch.inf), dim=-1)
    context = weights @ values  # (B, H, T, D)
    return context.transpose(1, 2).reshape(batch_size, num_tokens, d_out)


def attend_heads_5(queries, keys, values, num_heads):
    """Causal attention of several heads: (B, T, d_out) -> (B, T, d_out)."""
    batch_size, num_tokens, d_out = queries.shape
    head_dim = d_out // num_heads
    by_head = (batch_size, num_tokens, num_heads, head_dim)
    queries = queries.view(by_head).transpose(1, 2)  # (B, H, T, D)
    keys = keys.view(by_head).transpose(1, 2)
    values = values.view(by_head).transpose(1, 2)

    scores = queries @ keys.transpose(2, 3) / head_dim**0.5  # (B, H, T, T)
    is_future = torch.triu(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    weights = torch.softmax(scores.masked_fill(is_future == 1, -torch.inf), dim=-1)
    context = weights @ values  # (B, H, T, D)
    return context.reshape(batch_size, num_tokens, d_out)


class CausalAttention6(nn.Module):
    """`CausalAttention` without dropout, for texts of up to `context_length` tokens."""

    def __init__(self, d_in, d_out, context_length):
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=False)
        self.W_key = nn.Linear(d_in, d_out, bias=False)
        self.W_value = nn.Linear(d_in, d_out, bias=False)
        future = torch.triu(torch.ones(context_length, context_length), diagonal=1)
        self.register_buffer("mask", future)

    def forward(self, x):
        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5  # (B, T, T)
        weights = torch.softmax(scores.masked_fill(self.mask.bool(), -torch.inf), dim=-1)
        return weights @ values  # (B, T, d_out)


def attend_7(queries, keys, values, dropout):
    """Causal attention of one head, with the layer `dropout` acting on the attention weights."""
    num_tokens, width = queries.shape[1:]
    scores = queries @ keys.transpose(1, 2) / width**0.5  # (B, T, T)
    scores = dropout(scores)
    is_future = torch.triu(torch.ones(num_tokens, num_tokens), diagonal=1)  # (T, T)
    weights = torch.softmax(scores.masked_fill(is_future == 1, -torch.inf), dim=-1)
    return weights @ values
