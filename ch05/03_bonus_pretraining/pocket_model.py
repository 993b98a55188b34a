"""The pocket model: a small GPT that has read children's stories, as a part of this repository.

    from pocket_model import load_pocket
    model = load_pocket()

MODEL_CARD.md says what it learned from and how good it is. Its file holds half-precision weights of
the tokens that it has met, see `pack`.

Shapes: V GPT-2's vocabulary (50,257), K tokens that the model has met, C width of a vector.
"""

from itertools import chain

import tiktoken
import torch
from safetensors.torch import load_file

import companion
from gpt import GPTModel

POCKET_CONFIG = {
    "vocab_size": 50257,
    "context_length": 256,
    "emb_dim": 256,
    "n_heads": 4,
    "n_layers": 4,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
FILE = "pocket.safetensors"
TABLE = "tok_emb.weight"  # the output head is the same tensor


def load_pocket(cfg=POCKET_CONFIG):
    """The pocket model in evaluation mode, on the CPU, in single precision.

    Args:
        cfg: another `drop_rate` than in `POCKET_CONFIG` may be set, for finetuning.

    Raises:
        AssetError: the file is missing or damaged; says how to bring it back.
        ValueError: `cfg` does not fit the weights; names the tensor and both shapes.
    """
    weights = unpack(load_file(companion.asset(FILE)), cfg["vocab_size"])
    model = GPTModel(cfg)
    model.out_head.weight = model.tok_emb.weight
    fit(model, weights)
    return model.eval()


def met_tokens():
    """The ids that the pocket model has met, a sorted list.

    Raises:
        AssetError: as `load_pocket`.
    """
    return load_file(companion.asset(FILE))["vocabulary"].tolist()


def separate_new_tokens(model, encoded_texts):
    """Give each token of some texts that the model has not met a row of its own in its table.

    All such tokens have the same row, so the model can neither tell them apart nor write one of
    them. Each gets that row plus a random one, half as long as those by which other rows differ.

    Args:
        model: what `load_pocket` gives, which is changed.
        encoded_texts: lists of ids.

    Returns:
        The ids of these tokens, a sorted list.

    Raises:
        AssetError: as `load_pocket`.
    """
    met = met_tokens()
    new_ids = sorted(set(chain.from_iterable(encoded_texts)) - set(met))
    table = model.tok_emb.weight  # (V, C)
    with torch.no_grad():
        spread = table[met].std(dim=0)  # (C,)
        table[new_ids] += 0.5 * spread * torch.randn(len(new_ids), len(spread)).to(table.device)
    return new_ids


def lend_rows(model):
    """Let tokens that the model has not met begin with what it knows of their like.

    Each gets the row of a token that was met, if the two differ only in capitals and in the white
    space around them: " STOP" that of " stop". Where several would do, that is the first one in
    GPT-2's vocabulary, which is mostly the commonest.

    It is for a model that reads. One that writes takes both tokens for equally likely, as their
    logits come from the same row.

    Args:
        model: what `load_pocket` gives, which is changed.

    Returns:
        {id: the id whose row it has got}.

    Raises:
        AssetError: as `load_pocket`.
    """
    tokenizer, met, lenders = tiktoken.get_encoding("gpt2"), met_tokens(), {}
    spellings = [tokenizer.decode_single_token_bytes(i) for i in range(POCKET_CONFIG["vocab_size"])]
    spellings = [spelling.strip().lower() for spelling in spellings]
    for token_id in met:
        lenders.setdefault(spellings[token_id], token_id)
    unmet = sorted(set(range(len(spellings))) - set(met))
    lent = {i: lenders[spellings[i]] for i in unmet if spellings[i] in lenders}
    with torch.no_grad():
        model.tok_emb.weight[list(lent)] = model.tok_emb.weight[list(lent.values())]
    return lent


def fit(model, weights):
    """Give a model the weights, {name: tensor}, if each has its shape."""
    own = dict(model.named_parameters())  # a tensor with two names once
    for name in sorted(own.keys() | weights.keys()):
        there, here = (tuple(x[name].shape) if name in x else None for x in (weights, own))
        if there != here:
            raise ValueError(
                f"The configuration does not fit the weights: {name} has the shape {there} in "
                f"{FILE}, but {here} in a model of this configuration. Use POCKET_CONFIG."
            )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def pack(weights, vocabulary, rare_row):
    """What is stored: {name: tensor}, float16, with one row for all tokens never met.

    Args:
        weights: {name: tensor} of the trained model, `tok_emb.weight` (K, C).
        vocabulary: (K,) the GPT-2 id of each row.
        rare_row: (C,) the row of all other ids, see `row_of_rare_tokens`.
    """
    table = torch.cat([weights[TABLE], rare_row[None]])  # (K + 1, C)
    packed = {name: weight.half() for name, weight in (weights | {TABLE: table}).items()}
    return packed | {"vocabulary": vocabulary.to(torch.int32)}


def unpack(packed, vocab_size):
    """The inverse of `pack`: {name: tensor}, float32, `tok_emb.weight` (V, C)."""
    weights = {name: tensor.float() for name, tensor in packed.items() if name != "vocabulary"}
    rows = weights[TABLE]  # (K + 1, C)
    table = rows[-1].repeat(vocab_size, 1)  # (V, C)
    table[packed["vocabulary"].long()] = rows[:-1]
    return weights | {TABLE: table}


def row_of_rare_tokens(hidden, logits, share, count):
    """A row of the table which gives tokens never met a small probability everywhere.

    The logit that would give `count` equal tokens together the probability `share` differs from
    place to place. The row is the least-squares solution of hidden @ row = logit.

    Args:
        hidden: (N, C) inputs of the output head.
        logits: (N, K) of the tokens that were met.

    Returns:
        (C,)
    """
    wanted = logits.logsumexp(dim=-1) + torch.log(torch.tensor(share / count))  # (N,)
    return torch.linalg.lstsq(hidden.double(), wanted.double()[:, None]).solution[:, 0].float()
