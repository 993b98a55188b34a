"""New special tokens for GPT-2's tokenizer, and new rows for them in a model.

Shapes: V vocabulary, N new tokens, C width of a token's vector.
"""

from itertools import permutations

import tiktoken
import torch
import torch.nn as nn

NOISE = 0.01  # of the new rows, in standard deviations of the old ones


def extend_encoding(encoding, new_tokens):
    """A tokenizer with more special tokens, whose ids follow the last one there is.

    Args:
        encoding: a `tiktoken.Encoding`; it stays as it is.
        new_tokens: list of N texts.

    Returns:
        A `tiktoken.Encoding`. It encodes all other text as before, and a new token's text to one
        id, if `allowed_special` names it.

    Raises:
        TypeError: `new_tokens` is a text, or holds something else than texts.
        ValueError: it is empty; a token is empty, given twice, a token already, or begins with
            another special token.
    """
    check_new_tokens(encoding, new_tokens)
    ids = range(encoding.n_vocab, encoding.n_vocab + len(new_tokens))
    return tiktoken.Encoding(  # tiktoken's own way: there is no method to add a token
        name=f"{encoding.name}+{len(new_tokens)}",
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens={**encoding._special_tokens, **dict(zip(new_tokens, ids, strict=True))},
    )


def check_new_tokens(encoding, new_tokens):
    """Raise an error that names the first token that cannot be added, and why."""
    if isinstance(new_tokens, str) or not all(isinstance(token, str) for token in new_tokens):
        raise TypeError(f"new_tokens must be a list of texts, but is {new_tokens!r}.")
    if not new_tokens:
        raise ValueError("new_tokens must hold at least one text, but is empty.")
    for token in new_tokens:
        if not token:
            raise ValueError(f"A token must have a character at least: {new_tokens!r}.")
        if new_tokens.count(token) > 1:
            raise ValueError(f"{token!r} is given {new_tokens.count(token)} times.")
        known = encoding._special_tokens.get(token, encoding._mergeable_ranks.get(token.encode()))
        if known is not None:
            raise ValueError(f"{token!r} is a token already, with the id {known}.")
    for one, other in permutations([*encoding._special_tokens, *new_tokens], 2):
        if other.startswith(one):  # tiktoken finds the shorter one, and never the longer
            raise ValueError(f"{other!r} begins with {one!r}, another special token: rename one.")


def grow_vocabulary(model, num_new, seed=123):
    """Give a model's token embedding and output head a row for each of `num_new` new tokens.

    Old rows stay as they are. New ones are near the mean of the old, which makes a new token's
    logit nearly the mean of the old tokens' logits, so that it takes hardly any probability from
    them. If the head is the embedding itself (tied), it still is; if the two are equal, they
    still are.

    An optimizer made before holds the old tables: make it afterwards.

    Args:
        model: a `GPTModel`.
        num_new: N.
        seed: of the noise that makes the new rows differ.

    Raises:
        ValueError: `num_new` is below 1, or the two tables have different numbers of rows.

    Source: Hewitt 2021, Initializing New Word Embeddings for Pretrained Language Models.
    """
    num_rows, num_logits = len(model.tok_emb.weight), len(model.out_head.weight)
    if num_new < 1:
        raise ValueError(f"num_new must be at least 1, but is {num_new}.")
    if num_rows != num_logits:
        raise ValueError(f"tok_emb has {num_rows:,} rows, but out_head has {num_logits:,}.")
    is_tied = model.out_head.weight is model.tok_emb.weight
    model.tok_emb.weight = with_new_rows(model.tok_emb.weight, num_new, seed)
    model.out_head.weight = (
        model.tok_emb.weight if is_tied else with_new_rows(model.out_head.weight, num_new, seed)
    )
    model.tok_emb.num_embeddings = model.out_head.out_features = num_rows + num_new


@torch.no_grad()
def with_new_rows(table, num_new, seed):
    """(V, C) -> (V + N, C), a parameter like the old one; new rows near the mean of the old."""
    mean, spread = table.mean(dim=0), table.std(dim=0, unbiased=False)  # (C,)
    generator = torch.Generator().manual_seed(seed)  # the same numbers on every device
    noise = torch.randn(num_new, table.shape[1], generator=generator).to(table)
    rows = mean + NOISE * spread * noise  # (N, C)
    return nn.Parameter(torch.cat([table, rows]), requires_grad=table.requires_grad)


def add_tokens(model, encoding, new_tokens):
    """Both at once: the extended tokenizer, for a model that has grown to its size.

    Raises:
        TypeError, ValueError: as `extend_encoding`; or the model's vocabulary has not the
            tokenizer's size. The model is unchanged then.
    """
    num_rows = model.tok_emb.num_embeddings
    if num_rows != encoding.n_vocab:
        raise ValueError(
            f"The model has rows for {num_rows:,} tokens, but the tokenizer has "
            f"{encoding.n_vocab:,}: a new token's id and its row would not meet."
        )
    extended = extend_encoding(encoding, new_tokens)
    grow_vocabulary(model, len(new_tokens))
    return extended
