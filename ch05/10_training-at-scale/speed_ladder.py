"""How much each change of `gpt_fast.py` gains: training steps, one change after the other.

Every rung of the ladder is the one below it and one change more. All of them train one model in
turns, so that a busy moment of the machine does not hit one rung alone; the best of several rounds
counts. Run it at a small shape: python speed_ladder.py
"""

import time
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

import companion
from gpt import GELU, LayerNorm
from gpt_fast import FAST_PARTS, GPTFast, swap_parts
from multihead_attention import MultiHeadAttention

# GPT-2's proportions, small: the head is about a third of all. V is odd, as GPT-2's.
SMALL_CONFIG = {
    "vocab_size": 10_001,
    "context_length": 256,
    "emb_dim": 256,
    "n_heads": 4,
    "n_layers": 6,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
SIDES = (1024, 2048, 4096)  # of the square matrices whose product is timed


class Rung(NamedTuple):
    """What is fast in a training step."""

    parts: tuple  # classes of chapters 3 and 4 that are replaced, keys of FAST_PARTS
    is_chunked: bool  # the loss is `GPTFast.loss`, and not that of all logits
    is_fused: bool  # AdamW updates all numbers of a weight in one pass


LADDER = {
    "the book's step": Rung((), False, False),
    "layer norm in one kernel": Rung((LayerNorm,), False, False),
    "GELU in one kernel": Rung((LayerNorm, GELU), False, False),
    "attention in one kernel": Rung((LayerNorm, GELU, MultiHeadAttention), False, False),
    "loss of a chunk at a time": Rung((LayerNorm, GELU, MultiHeadAttention), True, False),
    "AdamW in one kernel": Rung((LayerNorm, GELU, MultiHeadAttention), True, True),
}
TOP = list(LADDER.values())[-1]


def climb(cfg=SMALL_CONFIG, batch_size=2, rounds=5):
    """Seconds of a training step on each rung of `LADDER`, {name: seconds}.

    Args:
        cfg: a configuration with the keys of `GPT_CONFIG_124M`; windows are `context_length` long.
        batch_size: B, windows in a step.
        rounds: how often each rung has its turn; one more comes before, and is not counted.
    """
    return best_of(climbers(*model_and_optimizer(cfg), *random_windows(cfg, batch_size)), rounds)


def climbers(model, optimizer, ids, targets):
    """{name of a rung: a function that times one step of it}."""
    return {
        name: partial(seconds_of_step, model, optimizer, ids, targets, rung)
        for name, rung in LADDER.items()
    }


def model_and_optimizer(cfg):
    """A new model, and AdamW with the book's settings for it."""
    torch.manual_seed(123)
    model = GPTFast(cfg).to(companion.device())
    return model, torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)


def random_windows(cfg, batch_size):
    """(B, T) ids and the ids that follow each, where T is the context's length."""
    shape = (batch_size, cfg["context_length"] + 1)
    ids = torch.randint(cfg["vocab_size"], shape, generator=torch.Generator().manual_seed(0))
    ids = ids.to(companion.device())
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def seconds_of_step(model, optimizer, ids, targets, rung, clip_norm=None):
    """Time one update of a `GPTFast` as on a rung; with gradients clipped if wanted."""
    swap_parts(model, {fast: slow for slow, fast in FAST_PARTS.items()})  # down to the ground
    swap_parts(model, {slow: FAST_PARTS[slow] for slow in rung.parts})
    # What the optimizer keeps is the same either way. None is PyTorch's own choice, as in the book.
    optimizer.param_groups[0]["fused"] = rung.is_fused or None

    def update():
        if rung.is_chunked:
            loss = model.loss(ids, targets)
        else:
            loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()

    return seconds_of(update)


def seconds_of(work):
    """Time a call; a GPU is given work and computes on, so wait until it is done."""
    device = companion.device()
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
    return time.perf_counter() - start


def best_of(timers, rounds):
    """Call functions that return seconds, each once in every round: {name: the least}."""
    best = {name: float("inf") for name in timers}
    for number in range(rounds + 1):
        for name, timer in timers.items():
            seconds = timer()
            if number > 0:  # the first call finds its memory untouched and its code unread
                best[name] = min(best[name], seconds)
    return best


def product_timers():
    """{side of two square matrices: a function that times their product}."""
    timers = {}
    for side in SIDES:
        a, b = torch.rand(2, side, side, device=companion.device())
        out = torch.empty_like(a)
        timers[side] = partial(seconds_of, partial(torch.mm, a, b, out=out))
    return timers


def ceiling(seconds_by_side):
    """The most operations per second of any product of two square matrices."""
    return max(2 * side**3 / seconds for side, seconds in seconds_by_side.items())


def ladder_text(best):
    """What `climb` returns as a table in Markdown."""
    first = before = next(iter(best.values()))
    lines = ["| one change after the other | ms | gain | in all |", "|---|---|---|---|"]
    for name, seconds in best.items():
        gain, in_all = f"{before / seconds - 1:+.0%}", f"{first / seconds:.2f}"
        lines.append(f"| {name} | {1e3 * seconds:,.1f} | {gain} | {in_all} |")
        before = seconds
    return "\n".join(lines)


def main(cfg=SMALL_CONFIG, batch_size=2, rounds=10):
    companion.setup()
    print(f"\nBatch of {batch_size} windows of {cfg['context_length']} tokens, best of {rounds}\n")
    print(ladder_text(climb(cfg, batch_size, rounds)))


if __name__ == "__main__":
    main()
