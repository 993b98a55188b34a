"""Pretraining a GPT (book, chapter 5): losses, evaluation, the training loop, saving.

Shapes: B batch, T tokens, V vocabulary. Losses are in nats per token (natural logarithm).
Run it to train a small model on a short story: python gpt_train.py
"""

import math
import os
from itertools import islice
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F

import companion
from dataloader import create_dataloader_v1
from gpt import GPT_CONFIG_124M, GPTModel, check_config, generate_text_simple

# Small enough to train on a laptop's processor within a minute.
GPT_CONFIG_STORY = {
    **GPT_CONFIG_124M,
    "context_length": 128,
    "emb_dim": 128,
    "n_heads": 4,
    "n_layers": 2,
}


def text_to_token_ids(text, tokenizer):
    """A text as (1, T) ids; `<|endoftext|>` in it counts as one token. Source: section 5.1.1."""
    return torch.tensor(tokenizer.encode(text, allowed_special={"<|endoftext|>"})).unsqueeze(0)


def token_ids_to_text(token_ids, tokenizer):
    """(1, T) ids as a text. Source: book, section 5.1.1."""
    return tokenizer.decode(token_ids.squeeze(0).tolist())


def create_train_val_loaders(text, train_ratio, batch_size, max_length, num_workers=0):
    """Loaders of the first part of a text, shuffled, and of the rest, in its order.

    Args:
        text: the whole text.
        train_ratio: share of its characters to train on, between 0 and 1.
        batch_size: B, windows in a batch; a last training batch of fewer is left out.
        max_length: T, tokens in a window; the next window starts where it ends.
        num_workers: processes that prepare batches; 0 means this one.

    Returns:
        The training loader and the validation loader, both of (inputs, targets), each (B, T).

    Raises:
        ValueError: `train_ratio` is not between 0 and 1, or a part is too short for one batch.

    Source: book, section 5.1.3.
    """
    if not 0 < train_ratio < 1:
        raise ValueError(f"train_ratio must lie between 0 and 1, but is {train_ratio}.")
    split = int(train_ratio * len(text))
    loaders = []
    for name, part, is_training in [
        ("training", text[:split], True),
        ("validation", text[split:], False),
    ]:
        try:
            loader = create_dataloader_v1(
                part,
                batch_size=batch_size,
                max_length=max_length,
                stride=max_length,
                shuffle=is_training,
                drop_last=is_training,
                num_workers=num_workers,
            )
        except ValueError as error:
            raise ValueError(
                f"The {name} part, {len(part):,} of {len(text):,} characters at "
                f"train_ratio={train_ratio}, gives no batch. {error}"
            ) from error
        loaders.append(loader)
    return tuple(loaders)


def calc_loss_batch(input_batch, target_batch, model, device):
    """Mean cross-entropy of one batch, a scalar tensor; inputs and targets are (B, T) ids.

    Source: book, section 5.1.3.
    """
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    logits = model(input_batch)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), target_batch.flatten())  # (B*T, V), (B*T,)


def calc_loss_loader(data_loader, model, device, num_batches=None, loss_of=calc_loss_batch):
    """Mean loss over the first `num_batches` batches, or over all; nan if there are none.

    `loss_of` takes what `calc_loss_batch` takes; chapter 6 has another one. The mode of the model
    is left as it is, and gradients are recorded: `evaluate_model` switches both off.

    Source: book, section 5.1.3.
    """
    if len(data_loader) == 0 or num_batches == 0:
        return math.nan
    losses = [
        loss_of(input_batch, target_batch, model, device).item()
        for input_batch, target_batch in islice(data_loader, num_batches)
    ]
    return sum(losses) / len(losses)


def evaluate_model(model, train_loader, val_loader, device, eval_iter, loss_of=calc_loss_batch):
    """Training and validation loss on `eval_iter` batches each, without dropout.

    `loss_of` is as for `calc_loss_loader`.

    Source: book, section 5.2.
    """
    model.eval()
    with torch.no_grad():
        train_loss = calc_loss_loader(train_loader, model, device, eval_iter, loss_of)
        val_loss = calc_loss_loader(val_loader, model, device, eval_iter, loss_of)
    model.train()
    return train_loss, val_loss


def generate_and_print_sample(model, tokenizer, device, start_context):
    """Print how the model goes on from a text for 50 tokens, on one line.

    Source: book, section 5.2.
    """
    model.eval()
    token_ids = generate_text_simple(
        model=model,
        idx=text_to_token_ids(start_context, tokenizer).to(device),
        max_new_tokens=50,
        context_size=model.pos_emb.weight.shape[0],
    )
    print(token_ids_to_text(token_ids, tokenizer).replace("\n", " "))
    model.train()


def train_model_simple(
    model,
    train_loader,
    val_loader,
    optimizer,
    device,
    num_epochs,
    eval_freq,
    eval_iter,
    start_context,
    tokenizer,
    loss_of=calc_loss_batch,
):
    """Train, evaluate after every `eval_freq` updates, and write a sample after every epoch.

    Steps are counted from 0, and step 0 is evaluated after its update.

    Args:
        model: a `GPTModel` on `device`.
        train_loader, val_loader: loaders of (inputs, targets), each (B, T).
        optimizer: of the model's parameters.
        num_epochs: how often to go through `train_loader`.
        eval_freq: updates from one evaluation to the next.
        eval_iter: batches of each loader that an evaluation looks at.
        start_context: what the samples go on from.
        loss_of: as for `calc_loss_loader`; chapter 7 has another one.

    Returns:
        Training losses, validation losses and tokens seen, each a list with an item per evaluation.

    Raises:
        ValueError: the loss is no longer a number; the message names step and batch.

    Source: book, section 5.2.
    """
    train_losses, val_losses, track_tokens_seen = [], [], []
    tokens_seen, global_step = 0, -1
    for epoch in range(num_epochs):
        model.train()
        for input_batch, target_batch in companion.progress(train_loader, f"epoch {epoch + 1}"):
            optimizer.zero_grad()  # else the gradients of all batches so far would add up
            loss = loss_of(input_batch, target_batch, model, device)
            global_step += 1
            check_loss(loss, global_step, len(train_loader))
            loss.backward()
            optimizer.step()
            tokens_seen += input_batch.numel()

            if global_step % eval_freq == 0:
                train_loss, val_loss = evaluate_model(
                    model, train_loader, val_loader, device, eval_iter, loss_of
                )
                train_losses.append(train_loss)
                val_losses.append(val_loss)
                track_tokens_seen.append(tokens_seen)
                print(
                    f"Ep {epoch + 1} (Step {global_step:06d}): "
                    f"Train loss {train_loss:.3f}, Val loss {val_loss:.3f}"
                )
        generate_and_print_sample(model, tokenizer, device, start_context)
    return train_losses, val_losses, track_tokens_seen


def check_loss(loss, step, batches_per_epoch):
    """Raise a ValueError that says where, if a loss is infinite or not a number."""
    if not torch.isfinite(loss):
        epoch, batch = divmod(step, batches_per_epoch)
        raise ValueError(
            f"The loss is {loss.item()} at step {step}, batch {batch + 1} of {batches_per_epoch} "
            f"in epoch {epoch + 1}. Training stopped before this update. Try a lower learning "
            "rate, or clip the gradients."
        )


def plot_losses(epochs_seen, tokens_seen, train_losses, val_losses):
    """Draw both losses over epochs, with the tokens seen on a second axis; returns the figure.

    Source: book, section 5.2.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot(epochs_seen, train_losses, label="training loss")
    axes.plot(epochs_seen, val_losses, "--", label="validation loss")
    axes.set_xlabel("epochs")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    token_axes = axes.twiny()
    token_axes.plot(tokens_seen, train_losses, alpha=0)  # unseen: it gives the axis its range
    token_axes.set_xlabel("tokens seen")
    figure.tight_layout()
    return figure


def save_checkpoint(path, model, cfg, optimizer=None):
    """Write model, configuration and optimizer to a file, at once or not at all.

    The file is written under another name beside `path`, and takes its place when it is complete.

    Raises:
        OSError: the file could not be written; what was at `path` before is still there.

    Source: book, section 5.4.
    """
    checkpoint = {
        "config": dict(cfg),
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer and optimizer.state_dict(),
    }
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except Exception as error:
        kept = "the file that was there is as it was" if path.exists() else "no file was written"
        # torch reports a full disk as a RuntimeError, which says nothing about the disk.
        raise OSError(f"Could not save {path}: {error} ({kept}).") from error
    finally:  # after Ctrl-C, too
        unfinished.unlink(missing_ok=True)


def load_checkpoint(path, cfg=None):
    """What `save_checkpoint` wrote: a dictionary of config, model and optimizer state, on the CPU.

    Args:
        path: the file.
        cfg: the configuration that it must have; whichever it has, if not given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a checkpoint, or one of another configuration.

    Source: book, section 5.4.
    """
    try:
        # Anything but tensors and plain values is refused: a pickle can run any code.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no checkpoint {path}.") from error
    except Exception as error:  # what a damaged file leads to is not specified
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error
    wanted = {"config", "model_state_dict", "optimizer_state_dict"}
    if not isinstance(checkpoint, dict) or not wanted <= checkpoint.keys():
        raise ValueError(
            f"{path} was not written by save_checkpoint: it must hold {', '.join(sorted(wanted))}."
        )
    check_config(checkpoint["config"])
    different = [
        f"{key} is {checkpoint['config'][key]} in the checkpoint, but {cfg[key]} is asked for"
        for key in (cfg or {})
        if key in GPT_CONFIG_124M and key != "drop_rate" and checkpoint["config"][key] != cfg[key]
    ]
    if different:
        raise ValueError(f"{path} is of another configuration: {'; '.join(different)}.")
    return checkpoint


def main(cfg=GPT_CONFIG_STORY, num_epochs=10, learning_rate=0.005, path=None):
    """Train on the repository's story, and save a checkpoint where a path is given."""
    companion.setup()
    device = companion.device()
    text = companion.asset("the-next-word.txt").read_text(encoding="utf-8")
    torch.manual_seed(123)
    model = GPTModel(cfg).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1)
    loaders = create_train_val_loaders(text, 0.9, batch_size=2, max_length=cfg["context_length"])
    losses = train_model_simple(
        model,
        *loaders,
        optimizer,
        device,
        num_epochs=num_epochs,
        eval_freq=5,
        eval_iter=5,
        start_context="She knows the",
        tokenizer=tiktoken.get_encoding("gpt2"),
    )
    if path is not None:
        save_checkpoint(path, model, cfg, optimizer)
    return losses


if __name__ == "__main__":
    main()
