"""Twelve pieces of chapter 5, each with one bug: specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, T tokens, V vocabulary, N windows.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from gpt import TransformerBlock
from gpt_download import assign
from gpt_generate import generate
from gpt_train import calc_loss_batch


def windows_1(token_ids, max_length):
    """Inputs and targets to train on, (N, T) each, T = max_length: a target is what comes next.

    Each window begins where the one before ends; one that would be incomplete is left out.
    """
    starts = range(0, len(token_ids) - max_length, max_length)
    inputs = [token_ids[i : i + max_length] for i in starts]
    targets = [token_ids[i : i + max_length] for i in starts]
    return torch.stack(inputs), torch.stack(targets)


def evaluate_2(model, batches):
    """Mean loss over the batches, (inputs, targets) each, without dropout.

    For use amid training: afterwards the model is in the mode in which it was.
    """
    with torch.no_grad():
        losses = [calc_loss_batch(inputs, targets, model, "cpu") for inputs, targets in batches]
    return sum(loss.item() for loss in losses) / len(losses)


def train_epoch_3(model, batches, optimizer):
    """Update the model once per batch, along its gradient; returns the batches' losses."""
    losses = []
    for inputs, targets in batches:
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def loss_4(logits, targets):
    """Mean of -log(probability of the right token): logits (B, T, V), targets (B, T)."""
    batch_size, num_tokens, vocab_size = logits.shape
    # PyTorch wants the scores of a token in the second dimension.
    return F.cross_entropy(logits.reshape(batch_size, vocab_size, num_tokens), targets)


def probabilities_5(logits, temperature):
    """Probabilities of logits (V,), sharper below temperature 1 and flatter above it."""
    probabilities = torch.softmax(logits, dim=-1) / temperature
    return probabilities / probabilities.sum()


def draw_6(logits, top_k, u):
    """An id among the `top_k` likeliest of logits (V,), drawn with the help of a random number u.

    With u anywhere from 0 to 1, the id is the first at which the sum of the probabilities, in the
    order of the vocabulary, passes u.
    """
    probabilities = torch.softmax(logits, dim=-1)  # (V,)
    smallest_kept = probabilities.topk(top_k).values[-1]
    probabilities = probabilities.masked_fill(probabilities < smallest_kept, 0.0)
    has_passed = probabilities.cumsum(dim=-1) > u  # (V,)
    return has_passed.int().argmax().item()


def train_with_decay_7(model, batches, optimizer, num_epochs, peak):
    """Train while the learning rate falls in a straight line, from `peak` to 0 at the very end.

    Returns the mean loss of each epoch.
    """
    num_updates = len(batches)
    update = 0
    epoch_losses = []
    for _ in range(num_epochs):
        losses = []
        for inputs, targets in batches:
            for group in optimizer.param_groups:
                group["lr"] = peak * (1 - update / num_updates)
            optimizer.zero_grad()
            loss = calc_loss_batch(inputs, targets, model, "cpu")
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            update += 1
        epoch_losses.append(sum(losses) / len(losses))
    return epoch_losses


def split_8(token_ids, max_length, stride, train_ratio):
    """Windows to train on and windows to validate with, (N, T + 1) each, T = max_length.

    The first `train_ratio` of the tokens is for training, the rest the model must never see. In
    each part, a window begins `stride` tokens after the one before.
    """
    windows = token_ids.unfold(0, max_length + 1, stride)  # (N, T + 1)
    num_train = int(train_ratio * len(windows))
    order = torch.randperm(len(windows))
    return windows[order[:num_train]], windows[order[num_train:]]


def keep_best_9(model, train_one_epoch, evaluate, num_epochs):
    """Train, and keep the best: the lowest loss after an epoch, and the weights that had it.

    `train_one_epoch(model)` changes the model, `evaluate(model)` returns its validation loss.
    """
    best_loss, best_weights = math.inf, None
    for _ in range(num_epochs):
        train_one_epoch(model)
        loss = evaluate(model)
        if loss < best_loss:
            best_loss, best_weights = loss, model.state_dict()
    return best_loss, best_weights


def write_10(model, idx, max_new_tokens, context_size):
    """Append the likeliest next token again and again: (B, T) -> (B, T + max_new_tokens).

    For use amid training: as long as the weights are the same, a prompt always gives the same
    text, and afterwards the model is in the mode in which it was.
    """
    # At temperature 0 nothing is drawn.
    return generate(model, idx, max_new_tokens, context_size, temperature=0.0)


def load_block_11(tree, cfg):
    """A `TransformerBlock` with the weights of a block of GPT-2, and with its output.

    `tree` is one of the blocks that `params_from_safetensors` gives; `cfg` has `qkv_bias` True.
    """
    block = TransformerBlock(cfg)
    qkv = (block.att.W_query, block.att.W_key, block.att.W_value)
    matrices = np.split(tree["attn"]["c_attn"]["w"], 3, axis=-1)
    biases = np.split(tree["attn"]["c_attn"]["b"], 3, axis=-1)
    for layer, w, b in zip(qkv, matrices, biases, strict=True):
        layer.weight, layer.bias = assign(layer.weight, w.T), assign(layer.bias, b)
    for layer, theirs in (
        (block.att.out_proj, tree["attn"]["c_proj"]),
        (block.ff.layers[0], tree["mlp"]["c_fc"]),
        (block.ff.layers[2], tree["mlp"]["c_proj"]),
    ):
        # Where the shapes differ, GPT-2's matrix lies the other way round.
        w = theirs["w"] if theirs["w"].shape == layer.weight.shape else theirs["w"].T
        layer.weight, layer.bias = assign(layer.weight, w), assign(layer.bias, theirs["b"])
    for norm, theirs in ((block.norm1, tree["ln_1"]), (block.norm2, tree["ln_2"])):
        norm.scale, norm.shift = assign(norm.scale, theirs["g"]), assign(norm.shift, theirs["b"])
    return block


def train_with_schedule_12(model, batches, optimizer, scheduler):
    """Update the model once per batch, each time with the schedule's next learning rate.

    `scheduler` is one of `torch.optim.lr_scheduler`; the first update has the rate that is set
    already. Returns the batches' losses.
    """

    def update(inputs, targets):
        optimizer.zero_grad()
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.item()

    losses = []
    for inputs, targets in batches:
        losses.append(update(inputs, targets))
        scheduler.step()  # the rate of the next update
    return losses
