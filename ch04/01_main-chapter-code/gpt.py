"""GPT-2's architecture (book, chapter 4): the parts, the model, and a greedy generator.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector (`emb_dim`).
Run it to see an untrained model write: python gpt.py
"""

import difflib
import math

import tiktoken
import torch
import torch.nn as nn

import companion
from multihead_attention import MultiHeadAttention

GPT_CONFIG_124M = {
    "vocab_size": 50257,  # V, GPT-2's byte pair encoding
    "context_length": 1024,  # the most tokens that the model sees at once
    "emb_dim": 768,  # C
    "n_heads": 12,  # attention heads in a block
    "n_layers": 12,  # blocks
    "drop_rate": 0.1,  # dropout while training
    "qkv_bias": False,  # biases in the projections to queries, keys and values
}


class LayerNorm(nn.Module):
    """Shift and scale each token's vector to mean 0 and variance 1, then by learned numbers.

    The variance is the biased one (divided by C, not C - 1), as in GPT-2.

    Source: book, section 4.2; Ba, Kiros and Hinton 2016.
    """

    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5  # keeps a constant vector from a division by zero
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        """(..., C) -> (..., C)."""
        mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)  # (..., 1)
        return self.scale * (x - mean) / torch.sqrt(variance + self.eps) + self.shift


class GELU(nn.Module):
    """x times the share of a normal distribution below x, by the tanh formula that GPT-2 uses.

    Source: book, section 4.3; Hendrycks and Gimpel 2016.
    """

    def forward(self, x):
        """Any shape, element by element."""
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    """Widen each token's vector four times, bend it, and narrow it again.

    Source: book, section 4.3.
    """

    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(cfg["emb_dim"], 4 * cfg["emb_dim"]),
            GELU(),
            nn.Linear(4 * cfg["emb_dim"], cfg["emb_dim"]),
        )

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        return self.layers(x)


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each normalized before and added to its input.

    Source: book, section 4.5.
    """

    def __init__(self, cfg):
        super().__init__()
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            num_heads=cfg["n_heads"],
            dropout=cfg["drop_rate"],
            qkv_bias=cfg["qkv_bias"],
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_shortcut = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """Token ids in, a score for every possible next token out.

    Args:
        cfg: a dictionary with the keys of `GPT_CONFIG_124M`.

    Raises:
        ValueError: a key is missing, `emb_dim` is not divisible by `n_heads`; in the forward
            pass, ids outside the vocabulary or more of them than the context holds.

    Source: book, section 4.6.
    """

    def __init__(self, cfg):
        super().__init__()
        check_config(cfg)
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, V) logits; those at t score the token at t + 1."""
        check_ids(in_idx, self.tok_emb.num_embeddings, self.pos_emb.num_embeddings)
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)  # (B, T, C) + (T, C)
        x = self.drop_emb(x)
        x = self.trf_blocks(x)
        x = self.final_norm(x)
        return self.out_head(x)  # (B, T, C) -> (B, T, V)


def generate_text_simple(model, idx, max_new_tokens, context_size):
    """Append the likeliest next token, again and again.

    The model is used in the mode it is in: call `model.eval()` first to switch dropout off.

    Args:
        model: a `GPTModel`.
        idx: (B, T) ids of the prompt, at least one.
        max_new_tokens: how many tokens to append.
        context_size: how many of the last tokens the model is given.

    Returns:
        (B, T + max_new_tokens) ids.

    Raises:
        ValueError: `max_new_tokens` below 0, `context_size` below 1, a prompt that is empty or not
            (B, T), or logits that are not numbers.

    Source: book, section 4.7.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, but is {max_new_tokens}.")
    if context_size < 1:
        raise ValueError(f"context_size must be at least 1, but is {context_size}.")
    if idx.dim() != 2 or idx.shape[1] == 0:
        raise ValueError(
            f"The prompt must have the shape (batch, tokens), with a token to go on from, but has "
            f"{tuple(idx.shape)}."
        )
    for _ in range(max_new_tokens):
        with torch.no_grad():
            logits = model(idx[:, -context_size:])[:, -1, :]  # (B, V), of the last position
        if logits.isnan().any():
            raise ValueError("The logits are NaN: the model's weights are damaged or diverged.")
        next_id = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        idx = torch.cat([idx, next_id], dim=1)  # (B, T + 1)
    return idx


def check_config(cfg):
    """Raise a ValueError that names what is missing or does not fit in a configuration."""
    strangers = [key for key in cfg if key not in GPT_CONFIG_124M]
    for key in GPT_CONFIG_124M:
        if key not in cfg:
            nearest = difflib.get_close_matches(key, strangers, n=1, cutoff=0.4)
            meant = f" Is it meant by {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"The configuration has no {key!r}.{meant}")
        if key not in ("drop_rate", "qkv_bias") and cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, but is {cfg[key]}.")
    for key in strangers:  # others are welcome, but hardly one that differs by a letter
        for nearest in difflib.get_close_matches(key, GPT_CONFIG_124M, n=1, cutoff=0.9):
            raise ValueError(f"{key!r} changes nothing: the configuration's key is {nearest!r}.")
    if cfg["emb_dim"] % cfg["n_heads"] != 0:
        raise ValueError(
            f"emb_dim must be divisible by n_heads, but {cfg['emb_dim']} / {cfg['n_heads']} "
            f"leaves {cfg['emb_dim'] % cfg['n_heads']}."
        )


def check_ids(in_idx, vocab_size, context_length):
    """Raise a ValueError unless the ids are (B, T), T fits the context and all have a row."""
    if in_idx.dim() != 2:
        raise ValueError(
            f"The ids must have the shape (batch, tokens), but have {tuple(in_idx.shape)}. A "
            "single sequence needs a batch of one: ids.unsqueeze(0)."
        )
    if in_idx.shape[1] > context_length:
        raise ValueError(
            f"The input has {in_idx.shape[1]} tokens, more than context_length={context_length}."
        )
    # On a GPU, looking at the ids would make the program wait for them.
    if in_idx.device.type == "cpu" and in_idx.numel() > 0:
        smallest, largest = in_idx.aminmax()
        if smallest < 0 or largest >= vocab_size:
            raise ValueError(
                f"The ids run from {smallest} to {largest}, but the vocabulary has the ids 0 to "
                f"{vocab_size - 1}."
            )


def main(cfg=GPT_CONFIG_124M, start_context="Hello, I am", max_new_tokens=10):
    """Let an untrained model go on from a text."""
    torch.manual_seed(123)
    model = GPTModel(cfg)
    model.eval()

    companion.prepare_tokenizer()  # so that GPT-2's tokenizer loads with the network off
    tokenizer = tiktoken.get_encoding("gpt2")
    encoded = tokenizer.encode(start_context)
    encoded_tensor = torch.tensor(encoded).unsqueeze(0)  # (1, T)
    print_banner("IN")
    print("Input text:", start_context)
    print("Encoded input text:", encoded)
    print("encoded_tensor.shape:", encoded_tensor.shape)

    out = generate_text_simple(model, encoded_tensor, max_new_tokens, cfg["context_length"])
    print()
    print_banner("OUT")
    print("Output:", out)
    print("Output length:", len(out[0]))
    print("Output text:", tokenizer.decode(out.squeeze(0).tolist()))


def print_banner(word):
    """A line of 50 signs, the word, and the line again."""
    print(f"\n{'=' * 50}\n{' ' * 22}{word}\n{'=' * 50}\n")


if __name__ == "__main__":
    main()
