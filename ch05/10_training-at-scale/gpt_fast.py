"""Chapter 4's model, trained faster: same configuration, same parameters, same numbers.

A processor or a GPU multiplies matrices far faster than it moves numbers to and from memory. What
makes training slow beside the products are the many small steps between them, each of which reads
a whole tensor and writes another one. Each class here saves such passes; none changes what is
computed, apart from the last digits. (All of it is beyond the book.)

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector (`emb_dim`), H heads, D width
of a head (C = H * D), N tokens in all (B * T).
"""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from gpt import GELU, GPTModel, LayerNorm, check_ids
from multihead_attention import MultiHeadAttention, check_input

# Tokens whose logits are in memory at once. A GPU needs more to have all its cores at work.
CHUNK_TOKENS = {"cpu": 256, "cuda": 2048}


class FastLayerNorm(LayerNorm):
    """Chapter 4's `LayerNorm` in one pass over x, instead of one for each operation."""

    def forward(self, x):
        """(..., C) -> (..., C)."""
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift, self.eps)


class FastGELU(GELU):
    """Chapter 4's `GELU` in one pass over x, which is all that is kept for the gradient."""

    def forward(self, x):
        """Any shape, element by element."""
        return F.gelu(x, approximate="tanh")


class FastAttention(MultiHeadAttention):
    """Chapter 3's attention, but the (B, H, T, T) scores and weights are never written down.

    PyTorch's kernel computes them tile by tile in the processor's cache, and leaves out the tiles
    that the causal mask hides. (With dropout there is such a kernel on a GPU only; elsewhere
    PyTorch then does what the chapter does.)
    """

    def forward(self, x):
        """(B, T, C) -> (B, T, C)."""
        check_input(x, self.W_query.in_features, len(self.mask))
        queries, keys, values = (
            layer(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # (B, H, T, D)
            for layer in (self.W_query, self.W_key, self.W_value)
        )
        dropout = self.dropout.p if self.training else 0.0  # the function knows no modes
        context = F.scaled_dot_product_attention(
            queries, keys, values, dropout_p=dropout, is_causal=True
        )
        return self.out_proj(context.transpose(1, 2).flatten(2))  # (B, T, H, D) -> (B, T, C)


FAST_PARTS = {LayerNorm: FastLayerNorm, GELU: FastGELU, MultiHeadAttention: FastAttention}


def swap_parts(model, parts=FAST_PARTS):
    """Turn each layer of a slower class into one of the faster class.

    The two differ in `forward` alone. So the layer itself stays, and with it its parameters.
    """
    for layer in model.modules():
        layer.__class__ = parts.get(type(layer), type(layer))


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of the logits hidden @ weight.T, of which few exist at a time.

    The logits are the largest tensor of a training step: V numbers for each token, and as many
    again for the logarithms of the probabilities and for the gradient. Here a chunk of tokens is
    taken to the end before the next begins, in the same memory. That can be done since

        d loss / d logits = (probabilities - one-hot targets) / N

    is known as soon as the probabilities are: the gradients of hidden and weight need not wait
    for the backward pass, which has only to scale them.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, with_gradients):
        """(N, C), (V, C) and (N,) ids -> scalar, float32."""
        num_tokens, vocab_size = len(hidden), len(weight)
        size = min(num_tokens, CHUNK_TOKENS.get(hidden.device.type, 256))  # n, of a chunk
        loss = hidden.new_zeros((), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden)
        # float32 also where the factors have 16 bits: it is a sum over all chunks.
        d_weight = torch.empty_like(weight, dtype=torch.float32) if with_gradients else None
        # Rows of 50,257 numbers begin anywhere in memory; a product writes its result a third
        # faster if each begins at a multiple of 64 bytes. What is added has probability 0.
        width = math.ceil(vocab_size / 16) * 16
        logits = hidden.new_empty(size, width)  # the same memory for every chunk
        logits[:, vocab_size:] = -torch.inf
        for first in range(0, num_tokens, size):
            h, ids = hidden[first : first + size], targets[first : first + size]  # (n, C), (n,)
            rows = torch.arange(len(h), device=h.device)
            logits[: len(h), :vocab_size].addmm_(h, weight.t(), beta=0)  # overwrites
            log_probs = F.log_softmax(logits[: len(h)], dim=-1, dtype=torch.float32)
            loss -= log_probs[rows, ids].sum()
            if with_gradients:
                d_logits = log_probs.exp_()  # in place: the probabilities
                d_logits[rows, ids] -= 1
                d_logits = d_logits[:, :vocab_size].to(h.dtype)
                d_hidden[first : first + size] = d_logits @ weight
                add_product(d_weight, d_logits.t(), h, first > 0)
        if with_gradients:
            ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype))
        return loss / num_tokens

    @staticmethod
    @once_differentiable
    def backward(ctx, d_loss):
        d_hidden, d_weight = ctx.saved_tensors
        scale = d_loss / len(d_hidden)
        # In place, as a second tensor of (V, C) would cost time and memory. A second backward
        # pass is an error, which PyTorch notices.
        return d_hidden.mul_(scale), d_weight.mul_(scale), None, None


def add_product(total, a, b, is_begun):
    """total += a @ b, or total = a @ b at first; in one pass where all have the same type."""
    if total.dtype == a.dtype:
        total.addmm_(a, b, beta=float(is_begun))
    elif is_begun:
        total += a @ b
    else:
        total.copy_(a @ b)


def sampled_cross_entropy(hidden, weight, targets, count):
    """An estimate of the mean cross-entropy of the logits hidden @ weight.T, from few of them.

    The softmax divides by a sum over the whole vocabulary. Here the ids that are some token's
    target give their own terms, and `count` of the others, drawn at random, stand for the rest.
    The sum is right on average, which its logarithm is nearly, and the products are as many times
    smaller as ids are left out.

    Args:
        hidden: (N, C). weight: (V, C). targets: (N,) ids.
        count: S, how many of the ids that are no target; at least 1.

    Returns:
        Scalar. Source: Jean et al., "On Using Very Large Target Vocabulary for Neural Machine
        Translation" (2015).
    """
    present, places = targets.unique(return_inverse=True)  # (P,), and of each target (N,)
    is_absent = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    is_absent[present] = False
    absent = is_absent.nonzero().squeeze(1)  # (V - P,)
    drawn = absent[torch.randperm(len(absent), device=weight.device)[:count]]  # (S,)
    rows = F.embedding(torch.cat([present, drawn]), weight)  # (P + S, C)
    logits = hidden @ rows.t()  # (N, P + S)
    logits[:, len(present) :] += math.log(max(1, len(absent)) / max(1, len(drawn)))
    return F.cross_entropy(logits, places)


class GPTFast(GPTModel):
    """Chapter 4's `GPTModel` of faster parts, and with a `loss` that needs little memory.

    The state dictionary of one loads into the other. With dropout, the two draw other random
    numbers in attention: alike on average, but not number by number.

    Args:
        cfg: a dictionary with the keys of `GPT_CONFIG_124M`.

    Raises:
        ValueError: as `GPTModel`; in `loss`, targets that do not fit the ids.

    Attributes:
        sampled_ids: the count of `sampled_cross_entropy`, for the loss in training mode; 0 for the
            exact loss.
    """

    def __init__(self, cfg):
        super().__init__(cfg)
        self.sampled_ids = 0
        swap_parts(self)

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, V) logits."""
        return self.out_head(self.hidden(in_idx))

    def hidden(self, in_idx):
        """(B, T) ids -> (B, T, C): all of `GPTModel` before the output head."""
        check_ids(in_idx, self.tok_emb.num_embeddings, self.pos_emb.num_embeddings)
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        x = self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))  # (B, T, C) + (T, C)
        return self.final_norm(self.trf_blocks(x))

    def loss(self, in_idx, targets):
        """(B, T) ids and the ids that follow each -> mean cross-entropy in nats, a scalar."""
        if targets.shape != in_idx.shape:
            raise ValueError(
                f"The targets must have the shape of the ids, {tuple(in_idx.shape)}, but have "
                f"{tuple(targets.shape)}."
            )
        if targets.numel() == 0:
            raise ValueError(f"There is no token in ids of the shape {tuple(in_idx.shape)}.")
        check_ids(targets, self.out_head.out_features, self.pos_emb.num_embeddings)
        hidden, weight = self.hidden(in_idx).flatten(0, 1), self.out_head.weight
        device = hidden.device.type
        if self.training and self.sampled_ids:
            return sampled_cross_entropy(hidden, weight, targets.flatten(), self.sampled_ids)
        if torch.is_autocast_enabled(device):  # what a linear layer does there by itself
            dtype = torch.get_autocast_dtype(device)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        return ChunkedCrossEntropy.apply(hidden, weight, targets.flatten(), torch.is_grad_enabled())
