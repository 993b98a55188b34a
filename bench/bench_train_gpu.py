"""Time training steps on an NVIDIA GPU in bf16: tokens/s, and the share of the GPU's ceiling.

    python bench/bench_train_gpu.py                   # GPT-2 small, batch 16 x 1,024
    python bench/bench_train_gpu.py --batch-size 4    # where memory is short

What is timed is a step as `trainer.py` makes it with `name = "fast"` and `precision = "bf16"`:
PyTorch's attention kernel, the loss of a chunk at a time, gradients clipped to the norm 1, fused
AdamW; once as it is and once with `compile = true`. Each takes its turn in every round, and its
best round counts.

The ceiling is the fastest product of two square matrices of bf16 numbers in the same rounds. As in
bench_train.py, the share counts 6 operations for each token and each parameter that is a factor of
a product. (Attention's own products are left out. At 1,024 tokens they would add about a tenth.)
"""

import argparse
import sys
from functools import partial

import torch

import companion
from bench.bench_generate import verdict
from bench.bench_train import CLIP_NORM, numbers_of_parameters
from gpt import GPT_CONFIG_124M
from gpt_fast import GPTFast
from speed_ladder import best_of, ceiling, random_windows, seconds_of
from trainer import LossModel

CONFIG = {**GPT_CONFIG_124M, "drop_rate": 0.0}
BATCH_SIZE, ROUNDS, SIDES = 16, 20, (4096, 8192, 16384)
KINDS = {"bf16": False, "bf16, compiled": True}  # whether torch.compile is used
AT_LEAST_CEILING = 0.45


def step_timer(cfg, batch_size, is_compiled):
    """A function that times one update of a new model."""
    torch.manual_seed(123)
    device = companion.device()
    model = GPTFast(cfg).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1, fused=True)
    ids, targets = random_windows(cfg, batch_size)
    loss_model = LossModel(model)
    if is_compiled:
        loss_model.compile()

    def update():
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_model(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    return partial(seconds_of, update)


def product_timer(side):
    """A function that times the product of two square matrices of bf16 numbers."""
    a, b = torch.rand(2, side, side, device=companion.device()).bfloat16()
    return partial(seconds_of, partial(torch.mm, a, b, out=torch.empty_like(a)))


def main(rounds=ROUNDS, batch_size=BATCH_SIZE, cfg=CONFIG, sides=SIDES, kinds=KINDS):
    companion.setup()
    is_gpu = companion.device().type == "cuda"
    print(f"\nMachine: {torch.cuda.get_device_name() if is_gpu else companion.device()}")
    print(f"Software: torch {torch.__version__}")
    timers = {name: step_timer(cfg, batch_size, compiled) for name, compiled in kinds.items()}
    best = best_of({**timers, **{side: product_timer(side) for side in sides}}, rounds)

    total, factors = numbers_of_parameters(cfg)
    most = ceiling({side: best[side] for side in sides})
    num_tokens = batch_size * cfg["context_length"]
    print(f"Model: {total:,} parameters; {factors:,} of them are factors of products")
    print(f"Batch: {batch_size} x {cfg['context_length']} tokens; best of {rounds} rounds")
    print(f"Fastest product of two bf16 matrices: {most / 1e12:.1f} TFLOP/s\n")
    print(table({name: best[name] for name in kinds}, num_tokens, 6 * factors * num_tokens / most))


def table(seconds, num_tokens, least):
    """Seconds of a step by name, and the least that it can take, as a table in Markdown."""
    lines = ["| training | tokens/s | share of the ceiling |", "|---|---|---|"]
    for name, step in seconds.items():
        lines.append(f"| {name} | {num_tokens / step:,.0f} | {least / step:.0%} |")
    share = least / min(seconds.values())
    met = verdict(share >= AT_LEAST_CEILING)
    return "\n".join([*lines, "", f"At least {AT_LEAST_CEILING:.0%} of the ceiling: {met}"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each; the best counts")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="texts in a step")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_train_gpu.py needs an NVIDIA GPU. bench_train.py is for processors.")
    main(arguments.rounds, arguments.batch_size)
