"""Eight pieces of chapter 4, each with one bug: the specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector, L blocks.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt import TransformerBlock


class LayerNorm1(nn.Module):
    """Bring each token's vector to mean 0 and variance 1, then scale and shift it."""

    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        mean = x.mean(dim=0, keepdim=True)
        variance = x.var(dim=0, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + self.eps) + self.shift


class Embeddings2(nn.Module):
    """The entrance of the model: the vector of each token plus the vector of its place."""

    def __init__(self, vocab_size, context_length, emb_dim):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, emb_dim)
        self.pos_emb = nn.Embedding(context_length, emb_dim)

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, C)."""
        positions = torch.arange(in_idx.shape[0])
        return self.tok_emb(in_idx) + self.pos_emb(positions)


class TransformerBlock3(TransformerBlock):
    """A transformer block: attention, then a feed-forward network, each with a shortcut."""

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        shortcut = x
        x = self.norm1(x)
        x = self.att(x)
        x = self.drop_shortcut(x)
        x = x + shortcut

        x = self.norm2(x)
        x = self.ff(x)
        x = self.drop_shortcut(x)
        return x + shortcut


def masks_4(num_tokens, windows):
    """A mask for each block, (L, T, T): True where a score is hidden.

    Every block hides the future. A block whose window is a number also hides all but the last
    that many tokens; one whose window is None sees the whole past.
    """
    places = torch.arange(num_tokens)
    distance = places[:, None] - places[None, :]  # (T, T), how far back a key lies
    hidden = distance < 0
    masks = []
    for window in windows:
        if window is not None:
            hidden |= distance >= window
        masks.append(hidden)
    return torch.stack(masks)


class Stack5(nn.Module):
    """The `n_layers` transformer blocks of a model, one after the other."""

    def __init__(self, cfg):
        super().__init__()
        self.blocks = nn.ModuleList([TransformerBlock(cfg)] * cfg["n_layers"])

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        for block in self.blocks:
            x = block(x)
        return x


def loss_6(logits, targets):
    """Mean of -log(probability of the right token): logits (B, T, V), targets (B, T)."""
    probabilities = torch.softmax(logits, dim=-1)
    return F.cross_entropy(probabilities.flatten(0, 1), targets.flatten())


def write_7(model, idx, max_new_tokens, context_size):
    """Append the likeliest next token again and again: (B, T) -> (B, T + max_new_tokens).

    The model sees the last `context_size` tokens, no more.
    """
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, :context_size])[:, -1, :]  # (B, V)
        next_id = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        idx = torch.cat([idx, next_id], dim=1)
    return idx


def write_8(model, idx, max_new_tokens, context_size):
    """Append the likeliest next token again and again: (B, T) -> (B, T + max_new_tokens).

    The same prompt always gives the same text, in whichever mode the model arrives: for use amid
    training too. Afterwards the model is in that mode again.
    """
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])[:, -1, :]  # (B, V)
        next_id = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        idx = torch.cat([idx, next_id], dim=1)
    return idx
