"""A GPT as a classifier of text messages (book, chapter 6): data, head, training, use.

Shapes: B batch, T tokens, C classes. Label 1 is spam; label 0 is ham, which is a message that is no
spam. Losses are in nats per message.

    python gpt_class_finetune.py --path build/classifier.pth
    python gpt_class_finetune.py --path build/classifier.pth --message "You have won a prize"
"""

import argparse
import math
import shutil
import sys
import tempfile
import time
import zipfile
from functools import partial
from itertools import islice
from pathlib import Path

import pandas as pd
import tiktoken
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import companion
import gpt_train
from gpt import GPTModel
from gpt_fast import swap_parts
from gpt_train import check_loss, load_checkpoint, save_checkpoint
from pocket_model import POCKET_CONFIG, lend_rows, load_pocket, met_tokens, separate_new_tokens

CLASSES = ("ham", "spam")  # a label is the place of its class here
COLUMNS = ["Label", "Text"]
PAD_TOKEN_ID = 50256  # <|endoftext|>


# Data


def download_and_unzip_spam_data(url, zip_path, extracted_path, data_file_path):
    """Put the SMS Spam Collection at `data_file_path`, unless there is such a file.

    Args:
        url: an address of the zip file that companion/assets.toml lists. It or its mirror is
            fetched and verified; nothing that is not listed is.
        zip_path: where the zip file is to lie.
        extracted_path: the folder to unpack it in.
        data_file_path: what to call the file with the messages then.

    Raises:
        AssetError: the zip file cannot be had; says why, and how to put it there by hand.
        ValueError: the address is not listed, or the zip file holds something else.

    Source: book, section 6.2.
    """
    data_file_path = Path(data_file_path)
    if data_file_path.exists():
        print(f"{data_file_path} is there already.")
        return
    files = companion.assets.manifest()
    names = [name for name, entry in files.items() if url in entry.get("urls", ())]
    if not names:
        raise ValueError(f"assets.toml lists no file at {url}, so it could not be verified.")
    shutil.copyfile(companion.asset(names[0]), zip_path)
    Path(extracted_path).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(zip_path) as packed:
        unpacked = Path(packed.extract("SMSSpamCollection", extracted_path))
    if not companion.assets.is_verified(unpacked, files["SMSSpamCollection.tsv"]):
        unpacked.unlink()
        raise ValueError(f"{zip_path} holds other messages, not the SMS Spam Collection.")
    unpacked.replace(data_file_path)


def read_messages(path):
    """A table with the columns Label, "ham" or "spam", and Text, of a file of tab-separated lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, has other columns, another label or a message without text.

    Source: book, section 6.2.
    """
    try:
        table = pd.read_csv(path, sep="\t", header=None, keep_default_na=False)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise ValueError(f"{path} is not in UTF-8: a byte is {wrong:#x}. Save it anew.") from error
    if table.shape[1] != 2:
        raise ValueError(
            f"{path} must have two columns, label and text, with a tab between, but has "
            f"{table.shape[1]}."
        )
    table.columns = COLUMNS
    if [cell.lower() for cell in table.iloc[0]] == ["label", "text"]:  # a header line
        table = table[1:].reset_index(drop=True)
    check_column(table["Label"], lambda label: label in CLASSES, "must be ham or spam", path)
    check_column(table["Text"], lambda text: text.strip() != "", "must not be empty", path)
    return table


def check_column(column, is_right, rule, path):
    """Raise a ValueError about the first cell that is not right."""
    for number, cell in enumerate(column, start=1):
        if not is_right(cell):
            raise ValueError(f"{path}, message {number}: {column.name} {rule}, but is {cell!r}.")


def create_balanced_dataset(df):
    """As many ham messages as there are spam ones, drawn at random with seed 123, then all spam.

    Raises:
        ValueError: a class is missing, or there is more spam than ham.

    Source: book, section 6.2.
    """
    spam, ham = df[df["Label"] == "spam"], df[df["Label"] == "ham"]
    if not 0 < len(spam) <= len(ham):
        raise ValueError(
            f"There are {len(spam)} spam and {len(ham)} ham messages. Ham is cut down to the "
            "number of spam, so both must be there, and at least as much ham."
        )
    return pd.concat([ham.sample(len(spam), random_state=123), spam])


def random_split(df, train_frac, validation_frac):
    """Training, validation and test part of a table, shuffled with seed 123; the test is the rest.

    Args:
        df: a table with the column Label.
        train_frac, validation_frac: shares of its rows.

    Raises:
        ValueError: the shares leave nothing for the test, or a part lacks a label of the table.

    Source: book, section 6.2.
    """
    if not (train_frac > 0 and validation_frac > 0 and train_frac + validation_frac < 1):
        raise ValueError(
            "train_frac and validation_frac must be above 0 and leave a rest for the test, but are "
            f"{train_frac} and {validation_frac}."
        )
    df = df.sample(frac=1, random_state=123).reset_index(drop=True)
    train_end = int(len(df) * train_frac)
    val_end = train_end + int(len(df) * validation_frac)
    parts = df[:train_end], df[train_end:val_end], df[val_end:]
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        missing = set(df["Label"]) - set(part["Label"])
        if missing:
            raise ValueError(
                f"The {name} part has {len(part)} of {len(df)} messages and none with the label "
                f"{missing.pop()!r}. Use more messages or other shares."
            )
    return parts


class SpamDataset(Dataset):
    """Messages as ids of equal length, with their labels.

    Args:
        csv_file: a CSV file with the columns Text and Label, 0 or 1.
        tokenizer: tiktoken's, or one with the same `encode`.
        max_length: T, tokens of each message: longer ones are cut, shorter ones filled up. As many
            as the longest has, if not given.
        pad_token_id: what they are filled up with.

    Attributes:
        data: the table.
        encoded_texts: list of lists of T ids.
        max_length: T.

    Raises:
        ValueError: the file is not UTF-8, lacks a column, or has another label or an empty message.

    Source: book, section 6.3.
    """

    def __init__(self, csv_file, tokenizer, max_length=None, pad_token_id=PAD_TOKEN_ID):
        try:
            self.data = pd.read_csv(csv_file, keep_default_na=False)
        except UnicodeDecodeError as error:
            raise ValueError(f"{csv_file} is not in UTF-8. Save it anew.") from error
        missing = set(COLUMNS) - set(self.data.columns)
        if missing:
            raise ValueError(
                f"{csv_file} must have the columns Text and Label, but has only "
                f"{', '.join(self.data.columns)}."
            )
        check_column(self.data["Label"], lambda label: label in (0, 1), "must be 0 or 1", csv_file)
        texts = self.data["Text"].astype(str)
        check_column(texts, lambda text: text.strip() != "", "must not be empty", csv_file)

        encoded = [tokenizer.encode(text, disallowed_special=()) for text in texts]
        self.max_length = max(map(len, encoded)) if max_length is None else max_length
        self.encoded_texts = [pad_or_cut(ids, self.max_length, pad_token_id) for ids in encoded]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        label = self.data["Label"].iloc[index]
        return torch.tensor(self.encoded_texts[index]), torch.tensor(label, dtype=torch.long)


def pad_or_cut(ids, length, pad_token_id=PAD_TOKEN_ID):
    """A list of `length` ids: the first ones, or all of them and then `pad_token_id`."""
    return ids[:length] + [pad_token_id] * (length - len(ids))


def check_fits(dataset, context_length, pad_token_id=PAD_TOKEN_ID):
    """Raise a ValueError about the first message of a `SpamDataset` that the model cannot hold."""
    for text, ids in zip(dataset.data["Text"], dataset.encoded_texts, strict=True):
        num_own = sum(i != pad_token_id for i in ids)
        if num_own > context_length:
            raise ValueError(
                f"A message has {num_own} tokens, more than the {context_length} of the model's "
                f"context. Shorten it, or cut all with max_length. It is {text[:40]!r}..."
            )


def create_spam_loaders(parts, folder, batch_size=8, max_length=None):
    """Loaders of (ids, labels), (B, T) and (B,), of the parts that `random_split` gives.

    The parts are written to `folder` as train.csv, validation.csv and test.csv, with 0 and 1 as
    labels. All have the length of the longest training message, or `max_length`. The training
    loader shuffles, and leaves out a last incomplete batch.

    Source: book, sections 6.2 and 6.3.
    """
    tokenizer = tiktoken.get_encoding("gpt2")
    loaders = []
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        path = folder / f"{name}.csv"
        part.assign(Label=part["Label"].map(CLASSES.index)).to_csv(path, index=False)
        dataset = SpamDataset(path, tokenizer, max_length)
        max_length = dataset.max_length  # the training part comes first
        is_training = name == "train"
        loaders.append(DataLoader(dataset, batch_size, shuffle=is_training, drop_last=is_training))
    return loaders


def batches_by_length(dataset, batch_size=8, pad_token_id=PAD_TOKEN_ID):
    """[(ids, labels), ...] of a `SpamDataset`, from short to long messages, for `LastTextToken`.

    In a batch of messages of similar length nearly nothing is padding that has to be computed.
    `DataLoader(batches, batch_size=None, shuffle=True)` gives them in another order each time.
    """
    ids = torch.tensor(dataset.encoded_texts)  # (N, T)
    labels = torch.tensor(dataset.data["Label"].to_numpy())
    order = (ids != pad_token_id).sum(dim=1).argsort(stable=True)
    return [(ids[rows], labels[rows]) for rows in order.split(batch_size)]


# Model


def make_classifier(model, num_classes=2):
    """Give a `GPTModel` a new output layer with C logits, and freeze all of it but that, the last
    block and the last normalization. Changes the model.

    Source: book, section 6.5.
    """
    for parameter in model.parameters():
        parameter.requires_grad = False
    # After freezing: a new layer's weights are to be trained.
    model.out_head = nn.Linear(model.out_head.in_features, num_classes)
    for module in (model.trf_blocks[-1], model.final_norm):
        for parameter in module.parameters():
            parameter.requires_grad = True
    return model


class LastTextToken(nn.Module):
    """A classifier that is read at the last token that is no padding, (B, T) -> (B, 1, C).

    By the causal mask nothing behind that token can reach it. So columns of padding alone are left
    out, and a message's logits are the same for any padding. With one row of logits per message,
    the functions below work as for a classifier that is read at the last token.

    Args:
        gpt: what `make_classifier` gives.
        pad_token_id: the padding, which must not occur within a message.
    """

    def __init__(self, gpt, pad_token_id=PAD_TOKEN_ID):
        super().__init__()
        self.gpt, self.pad_token_id = gpt, pad_token_id

    @property
    def pos_emb(self):
        """As a `GPTModel` has it: its length is the context's."""
        return self.gpt.pos_emb

    def forward(self, in_idx):
        num_own = (in_idx != self.pad_token_id).sum(dim=1).clamp(min=1)  # (B,)
        logits = self.gpt(in_idx[:, : num_own.max()])  # (B, longest, C)
        rows = torch.arange(len(in_idx), device=in_idx.device)
        return logits[rows, num_own - 1].unsqueeze(1)  # (B, 1, C)


# Loss, accuracy, training


def calc_loss_batch(input_batch, target_batch, model, device):
    """Mean cross-entropy of a batch's labels (B,) with the last token's logits, a scalar tensor.

    Source: book, section 6.6.
    """
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    logits = model(input_batch)[:, -1, :]  # (B, C)
    return F.cross_entropy(logits, target_batch)


# As in chapter 5, with the loss above.
calc_loss_loader = partial(gpt_train.calc_loss_loader, loss_of=calc_loss_batch)
evaluate_model = partial(gpt_train.evaluate_model, loss_of=calc_loss_batch)


@torch.no_grad()
def calc_accuracy_loader(data_loader, model, device, num_batches=None):
    """Share of messages whose likeliest class is their label; nan without messages.

    The model is left in evaluation mode.

    Source: book, section 6.6.
    """
    model.eval()
    num_right = num_seen = 0
    for input_batch, target_batch in islice(data_loader, num_batches):
        labels = model(input_batch.to(device))[:, -1, :].argmax(dim=-1)  # (B,)
        num_right += (labels == target_batch.to(device)).sum().item()
        num_seen += len(target_batch)
    return num_right / num_seen if num_seen else math.nan


def train_classifier_simple(
    model, train_loader, val_loader, optimizer, device, num_epochs, eval_freq, eval_iter
):
    """Train, evaluate the loss after every `eval_freq` updates, the accuracy after every epoch.

    Steps are counted from 0, and step 0 is evaluated after its update.

    Args:
        model: a classifier on `device`.
        train_loader, val_loader: loaders of (ids, labels), (B, T) and (B,).
        optimizer: of its parameters.
        num_epochs: how often to go through `train_loader`.
        eval_freq: updates from one evaluation to the next.
        eval_iter: batches of each loader that an evaluation looks at.

    Returns:
        Training losses, validation losses, training accuracies, validation accuracies, each a list,
        and the number of examples seen.

    Raises:
        ValueError: the loss is no longer a number; the message names step and batch.

    Source: book, section 6.7.
    """
    train_losses, val_losses, train_accs, val_accs = [], [], [], []
    examples_seen, global_step = 0, -1
    for epoch in range(num_epochs):
        model.train()
        for input_batch, target_batch in companion.progress(train_loader, f"epoch {epoch + 1}"):
            optimizer.zero_grad()
            loss = calc_loss_batch(input_batch, target_batch, model, device)
            global_step += 1
            check_loss(loss, global_step, len(train_loader))
            loss.backward()
            optimizer.step()
            examples_seen += len(input_batch)

            if global_step % eval_freq == 0:
                losses = evaluate_model(model, train_loader, val_loader, device, eval_iter)
                train_losses.append(losses[0])
                val_losses.append(losses[1])
                print(
                    f"Ep {epoch + 1} (Step {global_step:06d}): "
                    f"Train loss {losses[0]:.3f}, Val loss {losses[1]:.3f}"
                )
        train_accs.append(calc_accuracy_loader(train_loader, model, device, eval_iter))
        val_accs.append(calc_accuracy_loader(val_loader, model, device, eval_iter))
        print(f"Training accuracy: {train_accs[-1]:.2%} | Validation accuracy: {val_accs[-1]:.2%}")
    return train_losses, val_losses, train_accs, val_accs, examples_seen


def plot_values(epochs_seen, examples_seen, train_values, val_values, label="loss"):
    """Draw both parts' values over epochs, examples seen on a second axis; returns the figure.

    Source: book, section 6.7.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot(epochs_seen, train_values, label=f"training {label}")
    axes.plot(epochs_seen, val_values, "--", label=f"validation {label}")
    axes.set_xlabel("epochs")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    example_axes = axes.twiny()
    example_axes.plot(examples_seen, train_values, alpha=0)  # unseen: it gives the axis its range
    example_axes.set_xlabel("examples seen")
    figure.tight_layout()
    return figure


# Use


@torch.no_grad()
def classify_review(text, model, tokenizer, device, max_length=None, pad_token_id=PAD_TOKEN_ID):
    """Whether a text is "spam" or "not spam".

    Args:
        text: the message.
        model: a classifier.
        max_length: T, to cut or fill up the message to, as in training; else it stays as it is.
        pad_token_id: what it is filled up with.

    Raises:
        ValueError: the text is empty, or longer than the model's context.

    Source: book, section 6.8.
    """
    if not text.strip():
        raise ValueError("The message is empty: there is nothing to classify.")
    model.eval()
    context_length = model.pos_emb.weight.shape[0]
    ids = tokenizer.encode(text, disallowed_special=())
    if max_length is not None:
        ids = pad_or_cut(ids, max_length, pad_token_id)
    if len(ids) > context_length:
        raise ValueError(
            f"The message has {len(ids)} tokens, more than the {context_length} of the model's "
            f"context. To cut it, give max_length={context_length} or less. It is {text[:40]!r}..."
        )
    logits = model(torch.tensor([ids], device=device))[:, -1, :]  # (1, C)
    return "spam" if logits.argmax(dim=-1).item() == CLASSES.index("spam") else "not spam"


def load_classifier(path, cfg=POCKET_CONFIG):
    """A classifier of `finetune_pocket`'s that `save_checkpoint` wrote, on the CPU, for use.

    Args:
        path: the file.
        cfg: the configuration of the model that it was made of.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, of another configuration, or no classifier.

    Source: book, section 6.8.
    """
    weights = load_checkpoint(path, cfg)["model_state_dict"]
    num_classes = len(weights["out_head.weight"])
    if num_classes != len(CLASSES):
        raise ValueError(
            f"{path} holds a model with {num_classes:,} outputs, but a classifier has "
            f"{len(CLASSES)}: {', '.join(CLASSES)}."
        )
    model = make_classifier(GPTModel(cfg))
    model.load_state_dict(weights)
    return LastTextToken(model).eval()


def falling_adamw(gpt, num_updates, block_rate=1e-4, table_rate=1e-2, head_rate=1e-3):
    """AdamW of all parameters of a classifier; its learning rates fall to 0 in so many updates.

    The blocks keep what they know by a small rate. The table of tokens needs a large one: a row
    learns only from the few messages in which its token occurs, and the pocket model has not met
    many tokens of text messages before.

    Args:
        gpt: what `make_classifier` gives, with no parameter frozen.
        num_updates: after which the rates are 0.
        block_rate: the learning rate of blocks, positions and last normalization.
        table_rate: that of the table of tokens, which gets no weight decay.
        head_rate: that of the new output layer.
    """
    table, head = gpt.tok_emb.weight, list(gpt.out_head.parameters())
    apart = {id(parameter) for parameter in (table, *head)}
    groups = [
        {"params": [p for p in gpt.parameters() if id(p) not in apart], "lr": block_rate},
        {"params": [table], "lr": table_rate, "weight_decay": 0.0},
        {"params": head, "lr": head_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_updates)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def hide_tokens(gpt, strange_ids, share=0.15, pad_token_id=PAD_TOKEN_ID):
    """Let a classifier see a part of each message in training only: word dropout. Changes it.

    With few messages it learns single words that gave a class away. With some hidden, others each
    time, it has to look at the rest, too. They are hidden behind tokens that no training message
    has, as new messages will have some.

    Args:
        gpt: the model. Whatever it is given in training mode, each token but the padding is
            replaced with the probability `share`.
        strange_ids: ids to draw the replacements from.

    Source: Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods for text
    classification", section 3.2, who leave the words out.
    """
    strange_ids = torch.tensor(strange_ids)

    def hide(gpt, inputs):
        (ids,) = inputs  # (B, T)
        if not gpt.training:
            return None  # as it is
        is_hidden = (torch.rand(ids.shape) < share).to(ids.device) & (ids != pad_token_id)
        drawn = strange_ids[torch.randint(len(strange_ids), ids.shape)].to(ids.device)
        return torch.where(is_hidden, drawn, ids)

    gpt.register_forward_pre_hook(hide)


def finetune_pocket(table, path=None, seed=123, num_epochs=3):
    """Make a classifier of the pocket model.

    Unlike the book, all of the model is trained, and it is read at the last token of the message.

    Args:
        table: messages, as `read_messages` gives them. They are balanced, and split with seed 123.
        path: where to save the weights, if given.
        seed: of the new head's weights, of the rows of new tokens, of the order in which the
            training shuffles, and of the tokens that it hides.

    Returns:
        The classifier, and its accuracies on the training, validation and test part.

    Raises:
        ValueError: the table cannot be balanced and split, or a message is longer than the context.
    """
    device = companion.device()
    parts = random_split(create_balanced_dataset(table), 0.7, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        loaders = create_spam_loaders(parts, Path(folder))
    check_fits(loaders[0].dataset, POCKET_CONFIG["context_length"])  # the others are cut to it
    torch.manual_seed(seed)
    gpt = load_pocket()
    encoded_texts = loaders[0].dataset.encoded_texts
    separate_new_tokens(gpt, encoded_texts)
    lend_rows(gpt)
    model = LastTextToken(make_classifier(gpt).requires_grad_(True)).to(device)
    swap_parts(gpt)  # chapter 5's faster layers: the same weights and numbers
    all_ids = range(POCKET_CONFIG["vocab_size"])
    hide_tokens(gpt, sorted({*all_ids}.difference(met_tokens(), *encoded_texts)))
    batches = DataLoader(batches_by_length(loaders[0].dataset), batch_size=None, shuffle=True)
    optimizer = falling_adamw(gpt, num_epochs * len(batches))
    start = time.perf_counter()
    train_classifier_simple(
        model, batches, loaders[1], optimizer, device, num_epochs, eval_freq=50, eval_iter=5
    )
    print(f"{time.perf_counter() - start:.0f} seconds")
    accuracies = [calc_accuracy_loader(loader, model, device) for loader in loaders]
    for name, accuracy in zip(("training", "validation", "test"), accuracies, strict=True):
        print(f"{name} accuracy: {accuracy:.2%}")
    if path is not None:
        save_checkpoint(path, gpt, POCKET_CONFIG)
    return model, accuracies


def main(arguments=None):
    """The command line; the exit status, 2 where something cannot be done."""
    parser = argparse.ArgumentParser(description="Train a classifier of messages, or use it.")
    parser.add_argument("--path", help="the classifier's file, written unless there is a message")
    parser.add_argument("--data", help="a file of messages to train on, instead of messages.tsv")
    parser.add_argument("--seed", type=int, default=123, help="of the training (default: 123)")
    parser.add_argument("--message", help="a text to classify")
    options = parser.parse_args(arguments)
    if options.message is not None and options.path is None:
        parser.error("--message needs --path, the file of a classifier that was trained before")
    companion.prepare_tokenizer()
    try:
        if options.message is None:
            companion.setup()
            if options.path is not None:  # a folder that cannot be is told before the training
                Path(options.path).parent.mkdir(parents=True, exist_ok=True)
            table = read_messages(options.data or companion.asset("messages.tsv"))
            finetune_pocket(table, options.path, options.seed)
        else:
            model = load_classifier(options.path)
            print(classify_review(options.message, model, tiktoken.get_encoding("gpt2"), "cpu"))
    except (OSError, ValueError) as error:
        print(f"gpt_class_finetune.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
