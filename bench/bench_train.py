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

How freed memory is handled makes a difference on Linux. By its own choice, glibc returns it to the
system, which has to clear each page before it gives it out again in the next step. With

    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=-1 python bench/bench_train.py

the process keeps it. It then ends up with about as much memory as at its peak, for as long as it
runs.
"""

import argparse
import os
from functools import partial

import torch
import torch.nn.functional as F
import transformers
from transformers.activations import ACT2FN

import companion
from bench.bench_generate import cpu_name, hugging_face_copy, verdict
from gpt import GPT_CONFIG_124M
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
OURS, THEIRS = "tuned trainer", "transformers, {}"
ACTIVATIONS = ("gelu_new", "gelu_pytorch_tanh")
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
AT_LEAST_TRANSFORMERS, AT_LEAST_CEILING = 1.2, 0.8


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


def factors_of_products(model):
    """How many parameters are multiplied with every token: all but the embeddings' rows."""
    embeddings = (model.tok_emb.weight, model.pos_emb.weight)
    return sum(p.numel() for p in model.parameters()) - sum(e.numel() for e in embeddings)


def main(rounds=ROUNDS, threads=None, cfg=CONFIG, batch_size=BATCH_SIZE, sides=SIDES):
    companion.setup()
    if threads is not None:
        torch.set_num_threads(threads)
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
    for activation in ACTIVATIONS:
        timers[THEIRS.format(activation)] = partial(
            seconds_of_their_step, theirs, their_optimizer, ids, targets, activation
        )
    products = product_timers(sides)
    best = best_of({**timers, **products}, rounds)
    most = ceiling({side: best.pop(side) for side in products})
    print(f"\nMachine: {cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    print(f"Software: torch {torch.__version__}, transformers {transformers.__version__}")
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
    is_kept = kept.items() <= os.environ.items()
    print(f"Freed memory: {'kept by the process' if is_kept else 'the allocator decides'}")
    factors = factors_of_products(model)
    print(f"Model: {sum(p.numel() for p in model.parameters()):,} parameters, float32; ", end="")
    print(f"{factors:,} of them are factors of products")
    print(f"Batch: {batch_size} x {cfg['context_length']} tokens; best of {rounds} rounds")
    print(f"Fastest product of two square matrices: {most / 1e9:.1f} GFLOP/s\n")
    print(contenders_text(best, most, factors, ids.numel()))
    print(ladder_text({name: best[name] for name in LADDER}))


def contenders_text(best, most, factors, num_tokens):
    """Seconds of a step by name, and the ceiling in operations per second, as a Markdown table."""
    names = [next(iter(LADDER)), *map(THEIRS.format, ACTIVATIONS), OURS]
    lines = [
        "| training | tokens/s | times the book's | share of the ceiling |",
        "|---|---|---|---|",
    ]
    for name in names:
        share = 6 * factors * num_tokens / best[name] / most
        rate, times = num_tokens / best[name], best[names[0]] / best[name]
        lines.append(f"| {name} | {rate:.0f} | {times:.2f} | {share:.0%} |")
    lines.append("")
    for other in names[1:-1]:
        times = best[other] / best[OURS]
        is_met = verdict(times >= AT_LEAST_TRANSFORMERS)
        lines.append(f"At least {AT_LEAST_TRANSFORMERS} times {other}: {is_met} ({times:.2f}).  ")
    is_met = verdict(share >= AT_LEAST_CEILING)
    lines.append(f"At least {AT_LEAST_CEILING:.0%} of the ceiling: {is_met} ({share:.0%}).")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each; the best counts")
    parser.add_argument("--threads", type=int, help="PyTorch's own choice if not given")
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.threads)
