"""Time training steps: the book's, the tuned trainer's and those of `transformers`; two tables.

    python bench/bench_train.py               # GPT-2 small, batch 2 x 256, float32, CPU
    python bench/bench_train.py --rounds 3    # sooner

All start from the same random weights, with an output matrix of its own, and without dropout, and
must compute the same loss. Each takes its turn in every round, and its best round counts. A step is
a forward and a backward pass and AdamW's update. The tuned trainer and `transformers` also clip the
gradients to the norm 1 and use the fused AdamW: the trainer always does, and so does the `Trainer`
of `transformers` if it is told nothing else. Its GPT-2 runs with PyTorch's attention, first with
GPT-2's own activation, `gelu_new`, which is written in Python, then with the same function as one
kernel, `gelu_pytorch_tanh`.

The ceiling is the fastest product of two square matrices in the same rounds. The share of it counts
6 operations for each token and each parameter that is a factor of a product: all but the two
embeddings, of which a step only picks rows.

Training frees hundreds of megabytes in every step and asks for them again in the next. So there are
two processes, one which keeps freed memory as `companion.setup()` and the trainer have it (see
`companion.session.keep_freed_memory`) and one which does not, and all but the steps between the
book's and the tuned one are timed in both. Together they need about 13 GB.
"""

import argparse
import multiprocessing
from functools import partial

import torch
import torch.nn.functional as F
import transformers
from transformers.activations import ACT2FN

import companion
from bench.bench_generate import hugging_face_copy, verdict
from companion.session import keep_freed_memory
from companion.timings import machine
from gpt import GPT_CONFIG_124M, GPTModel
from speed_ladder import (
    LADDER,
    SIDES,
    TOP,
    best_of,
    ceiling,
    climbers,
    ladder_text,
    model_and_optimizer,
    product_timers,
    random_windows,
    seconds_of,
    seconds_of_step,
)

CONFIG = {**GPT_CONFIG_124M, "context_length": 256, "drop_rate": 0.0}
BATCH_SIZE, ROUNDS, CLIP_NORM = 2, 8, 1.0
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
THEIRS = [f"transformers, {activation}" for activation in ACTIVATIONS]
BOOK, OURS, KEPT = next(iter(LADDER)), "tuned trainer", ", freed memory kept"
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
AT_LEAST_THEIRS, AT_LEAST_CEILING = 1.2, 0.8


def their_loss(theirs, ids, targets):
    return F.cross_entropy(theirs(ids).logits.flatten(0, 1), targets.flatten())


def seconds_of_their_step(theirs, optimizer, ids, targets, activation):
    """Time one update of a `GPT2LMHeadModel`."""
    for block in theirs.transformer.h:
        block.mlp.act = ACT2FN[activation]

    def update():
        loss = their_loss(theirs, ids, targets)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), CLIP_NORM)
        optimizer.step()

    return seconds_of(update)


def timers_of(cfg, batch_size):
    """What is timed: {name: a function that returns seconds}, and the products by their sides."""
    model, optimizer = model_and_optimizer(cfg)
    settings = {"attn_implementation": "sdpa", "use_cache": False, **NO_DROPOUT}
    theirs = hugging_face_copy(model, cfg, **settings).train()
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=4e-4, weight_decay=0.1, fused=True)
    ids, targets = random_windows(cfg, batch_size)
    with torch.no_grad():
        losses = torch.stack([model.loss(ids, targets), their_loss(theirs, ids, targets)])
    assert losses.max() - losses.min() < 1e-4, f"The losses differ: {losses.tolist()}."

    timers = climbers(model, optimizer, ids, targets)
    timers[OURS] = partial(seconds_of_step, model, optimizer, ids, targets, TOP, CLIP_NORM)
    for name, activation in zip(THEIRS, ACTIVATIONS, strict=True):
        timers[name] = partial(
            seconds_of_their_step, theirs, their_optimizer, ids, targets, activation
        )
    return {**timers, **product_timers()}


class Worker:
    """A process that has all timers, and calls one of them when it is told its name.

    Args:
        keeps_memory: whether the process keeps the memory that it frees.
        threads, cfg, batch_size: as for `main`.
    """

    def __init__(self, keeps_memory, threads, cfg, batch_size):
        context = multiprocessing.get_context("spawn")
        self.connection, its_end = context.Pipe()
        arguments = (its_end, keeps_memory, threads, cfg, batch_size)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()

    def timer(self, name):
        """Seconds of one call; an EOFError if the process has ended."""
        self.connection.send(name)
        return self.connection.recv()

    def close(self):
        self.connection.send(None)
        self.process.join()


def serve(connection, keeps_memory, threads, cfg, batch_size):
    """A worker's whole life, until it is told None."""
    if keeps_memory:
        keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    timers = timers_of(cfg, batch_size)
    for name in iter(connection.recv, None):
        connection.send(timers[name]())


def main(rounds=ROUNDS, threads=None, cfg=CONFIG, batch_size=BATCH_SIZE):
    companion.setup()
    threads = threads or torch.get_num_threads()
    print(f"\nMachine: {machine()}, {threads} threads")
    print(f"Software: torch {torch.__version__}, transformers {transformers.__version__}")
    usual, keeping = (Worker(keeps, threads, cfg, batch_size) for keeps in (False, True))
    timers = {name: partial(usual.timer, name) for name in (*LADDER, *THEIRS, OURS, *SIDES)}
    timers |= {name + KEPT: partial(keeping.timer, name) for name in (BOOK, *THEIRS, OURS)}
    best = best_of(timers, rounds)
    usual.close()
    keeping.close()

    total, factors = numbers_of_parameters(cfg)
    most = ceiling({side: best[side] for side in SIDES})
    num_tokens = batch_size * cfg["context_length"]
    print(f"Model: {total:,} parameters, float32; {factors:,} of them are factors of products")
    print(f"Batch: {batch_size} x {cfg['context_length']} tokens; best of {rounds} rounds")
    print(f"Fastest product of two square matrices: {most / 1e9:.1f} GFLOP/s\n")
    print(contenders_text(best, num_tokens, 6 * factors * num_tokens / most), "\n")
    print(ladder_text({name: best[name] for name in LADDER}))


def numbers_of_parameters(cfg):
    """How many there are, and how many are multiplied with every token: no embedding is."""
    with torch.device("meta"):  # sizes without memory
        model = GPTModel(cfg)
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - model.tok_emb.weight.numel() - model.pos_emb.weight.numel()


def contenders_text(best, num_tokens, least):
    """The seconds of a step by name, and the least that it can take, as a table in Markdown."""
    ours, ours_kept = best[OURS], best[OURS + KEPT]
    lines = [
        "| training | tokens/s | times the book's | share of the ceiling |",
        "|---|---|---|---|",
    ]
    for name in [name + kept for kept in ("", KEPT) for name in (BOOK, *THEIRS, OURS)]:
        rate, times = num_tokens / best[name], best[BOOK] / best[name]
        lines.append(f"| {name} | {rate:.0f} | {times:.2f} | {least / best[name]:.0%} |")
    lines += [
        "",
        "| tuned trainer over | neither keeps freed memory | the trainer does | both do |",
    ]
    lines.append("|---|---|---|---|")
    for other in THEIRS:
        times = (best[other] / ours, best[other] / ours_kept, best[other + KEPT] / ours_kept)
        lines.append(f"| {other} | {' | '.join(f'{x:.2f}' for x in times)} |")
    lines.append("")
    for kept, seconds in (("", ours), (KEPT, ours_kept)):
        times, share = best[THEIRS[0]] / seconds, least / seconds
        lines.append(
            f"{OURS}{kept}: at least {AT_LEAST_THEIRS} times {THEIRS[0]}: "
            f"{verdict(times >= AT_LEAST_THEIRS)} ({times:.2f}); at least {AT_LEAST_CEILING:.0%} "
            f"of the ceiling: {verdict(share >= AT_LEAST_CEILING)} ({share:.0%}).  "
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each; the best counts")
    parser.add_argument("--threads", type=int, help="PyTorch's own choice if not given")
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.threads)
