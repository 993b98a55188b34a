"""Chapter 5's training loop with warm-up, cosine decay and gradient clipping (book, appendix D).

A step is one update of the weights, counted from 0. Losses are in nats per token.
Run it to train a small model on a short story: python gpt_train_refined.py
"""

import math

import tiktoken
import torch

import companion
from dataloader import require_at_least_one
from gpt import GPTModel
from gpt_train import (
    GPT_CONFIG_STORY,
    calc_loss_batch,
    check_loss,
    create_train_val_loaders,
    evaluate_model,
    generate_and_print_sample,
)


def scheduled_lr(step, total_steps, warmup_steps, initial_lr, peak_lr, min_lr):
    """The learning rate of one step: a line up to the peak, then half a cosine down.

    Args:
        step: from 0 to `total_steps` - 1.
        total_steps: batches times epochs.
        warmup_steps: steps before the one that has the peak; with 0 the first step has it.
        initial_lr: rate of step 0, if there is a warm-up.
        peak_lr: the highest rate.
        min_lr: what the cosine falls to; the last step stays a little above it.

    Raises:
        ValueError: `step` lies outside the training, the warm-up is negative or leaves no step
            after it, or `initial_lr` or `min_lr` lies below 0 or above the peak.

    Source: book, sections D.1 and D.2; the cosine is that of Loshchilov and Hutter, "SGDR"
    (arXiv:1608.03983), equation 5, for a single cycle.
    """
    check_schedule(total_steps, warmup_steps, initial_lr, peak_lr, min_lr)
    if not 0 <= step < total_steps:
        raise ValueError(f"step must lie between 0 and {total_steps - 1}, but is {step}.")
    if step < warmup_steps:
        return initial_lr + step * (peak_lr - initial_lr) / warmup_steps
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 at the peak
    return min_lr + (peak_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def check_schedule(total_steps, warmup_steps, initial_lr, peak_lr, min_lr):
    """Raise a ValueError that names the first setting which makes no schedule."""
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps must be at least 0 and below the {total_steps} steps of the training, "
            f"but is {warmup_steps}."
        )
    for name, rate in [("initial_lr", initial_lr), ("min_lr", min_lr)]:
        if not 0 <= rate <= peak_lr:
            raise ValueError(
                f"{name} must lie between 0 and the peak (the optimizer's own lr), {peak_lr}, "
                f"but is {rate}."
            )


def set_lr(optimizer, lr):
    """Give all parameters of an optimizer the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def find_highest_gradient(model):
    """The largest gradient entry of all parameters, sign included, as a 0-D tensor.

    Parameters without a gradient are left out.

    Raises:
        ValueError: no parameter has a gradient.

    Source: book, section D.3.
    """
    gradients = [param.grad for param in model.parameters() if param.grad is not None]
    if not gradients:
        raise ValueError("No parameter has a gradient: call backward() on a loss first.")
    return torch.stack([gradient.max() for gradient in gradients]).max()


def train_model(
    model,
    train_loader,
    val_loader,
    optimizer,
    device,
    n_epochs,
    eval_freq,
    eval_iter,
    start_context,
    tokenizer,
    warmup_steps,
    initial_lr=3e-05,
    min_lr=1e-6,
):
    """Train as `train_model_simple` does, with warm-up, cosine decay and gradient clipping.

    The peak of the learning rate is the optimizer's own `lr` at the start. The optimizer is left
    with the last rate, so set its `lr` again before another training. Gradients are clipped to a
    norm of 1 from step `warmup_steps` on.

    Args:
        model: a `GPTModel` on `device`.
        train_loader, val_loader: loaders of (inputs, targets), each (B, T).
        optimizer: of the model's parameters; all of them get the same rate.
        n_epochs: how often to go through `train_loader`.
        eval_freq: updates from one evaluation to the next.
        eval_iter: batches of each loader that an evaluation looks at.
        start_context: what the sample after each epoch goes on from.
        warmup_steps, initial_lr, min_lr: as for `scheduled_lr`.

    Returns:
        Training losses, validation losses and tokens seen, each a list with an item per
        evaluation, and the learning rates, a list with an item per step.

    Raises:
        ValueError: `n_epochs` is below 1, the schedule is none (see `scheduled_lr`), or the loss
            is no longer a number; the message names step and batch.

    Source: book, section D.4.
    """
    require_at_least_one(n_epochs=n_epochs)
    total_steps, peak_lr = len(train_loader) * n_epochs, optimizer.param_groups[0]["lr"]
    train_losses, val_losses, track_tokens_seen, track_lrs = [], [], [], []
    tokens_seen, global_step = 0, -1
    for epoch in range(n_epochs):
        model.train()
        for input_batch, target_batch in companion.progress(train_loader, f"epoch {epoch + 1}"):
            optimizer.zero_grad()
            global_step += 1
            lr = scheduled_lr(global_step, total_steps, warmup_steps, initial_lr, peak_lr, min_lr)
            set_lr(optimizer, lr)
            track_lrs.append(lr)
            loss = calc_loss_batch(input_batch, target_batch, model, device)
            check_loss(loss, global_step, len(train_loader))
            loss.backward()
            if global_step >= warmup_steps:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            tokens_seen += input_batch.numel()
            if global_step % eval_freq == 0:
                losses = evaluate_model(model, train_loader, val_loader, device, eval_iter)
                train_losses.append(losses[0])
                val_losses.append(losses[1])
                track_tokens_seen.append(tokens_seen)
                print(
                    f"Ep {epoch + 1} (Step {global_step:06d}): "
                    f"Train loss {losses[0]:.3f}, Val loss {losses[1]:.3f}"
                )
        generate_and_print_sample(model, tokenizer, device, start_context)
    return train_losses, val_losses, track_tokens_seen, track_lrs


def main(cfg=GPT_CONFIG_STORY, n_epochs=10, peak_lr=0.005):
    """Train on the repository's story, a fifth of the steps warming up."""
    companion.setup()
    device = companion.device()
    text = companion.asset("the-next-word.txt").read_text(encoding="utf-8")
    torch.manual_seed(123)
    model = GPTModel(cfg).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, weight_decay=0.1)
    loaders = create_train_val_loaders(text, 0.9, batch_size=2, max_length=cfg["context_length"])
    return train_model(
        model,
        *loaders,
        optimizer,
        device,
        n_epochs=n_epochs,
        eval_freq=5,
        eval_iter=5,
        start_context="She knows the",
        tokenizer=tiktoken.get_encoding("gpt2"),
        warmup_steps=int(0.2 * len(loaders[0]) * n_epochs),
        initial_lr=1e-5,
        min_lr=1e-5,
    )


if __name__ == "__main__":
    main()
