"""Finetuning a GPT to follow instructions (book, chapter 7): prompts, batches, training, scores.

An entry is a dictionary with the texts "instruction", "input" (may be empty) and "output".

Shapes: B batch, T tokens, N targets that count, V vocabulary. Losses are in nats per target.

    python gpt_instruction_finetuning.py --path build/follower.pth
    python gpt_instruction_finetuning.py --path build/follower.pth \\
        --instruction "What is the plural of this word?" --input "fox"
"""

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd
import tiktoken
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

import companion
from gpt import GPTModel
from gpt_fast import swap_parts
from gpt_train import load_checkpoint, save_checkpoint, train_model_simple
from gpt_with_kv_cache import GPTModelWithCache, KVCache
from pocket_model import POCKET_CONFIG, load_pocket, separate_new_tokens

PAD_TOKEN_ID = 50256  # <|endoftext|>
IGNORE_INDEX = -100  # what torch's cross-entropy leaves out
KEYS = ("instruction", "input", "output")
RESPONSE_MARKER = "### Response:"
LONGEST_ANSWER = 40  # tokens that the pocket model may answer with


# Data


def download_and_load_file(file_path, url):
    """The entries of the file at `file_path`; it is fetched first unless there is one.

    Args:
        file_path: where the file is to lie.
        url: an address that companion/assets.toml lists. It or its mirror is fetched and verified;
            nothing that is not listed is.

    Raises:
        AssetError: the file cannot be had; says why, and how to put it there by hand.
        ValueError: the address is not listed, or as `read_instructions`.

    Source: book, section 7.2.
    """
    if not Path(file_path).exists():
        files = companion.assets.manifest()
        names = [name for name, entry in files.items() if url in entry.get("urls", ())]
        if not names:
            raise ValueError(f"assets.toml lists no file at {url}, so it could not be verified.")
        shutil.copyfile(companion.asset(names[0]), file_path)
    return read_instructions(file_path)


def read_instructions(path):
    """The entries of a JSON file, checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8 or no JSON (cut short, say), or as `check_entries`.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise ValueError(f"{path} is not in UTF-8: a byte is {wrong:#x}. Save it anew.") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no complete JSON: {error.msg} in line {error.lineno}. Was it cut short?"
        ) from error
    check_entries(data, path)
    return data


def check_entries(data, where="the data"):
    """Raise a ValueError about the first entry that is not what the module's docstring says."""
    if not isinstance(data, list) or not data:
        kind = "an empty list" if data == [] else f"of type {type(data).__name__}"
        raise ValueError(f"{where} must be a list of entries, but is {kind}.")
    for number, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}, entry {number} must be a dictionary, but is {entry!r}.")
        for key in KEYS:
            if key not in entry:
                raise ValueError(f"{where}, entry {number} has no {key!r}, only {sorted(entry)}.")
            if not isinstance(entry[key], str):
                raise ValueError(
                    f"{where}, entry {number}: {key!r} must be a text, but is {entry[key]!r}."
                )
            if key != "input" and not entry[key].strip():
                raise ValueError(f"{where}, entry {number}: {key!r} must not be empty.")


def split_entries(data, train_frac=0.85, test_frac=0.1):
    """Training, test and validation part of a list, by position; validation is the rest.

    Raises:
        ValueError: a part would be empty.

    Source: book, section 7.2.
    """
    train_end = int(len(data) * train_frac)
    test_end = train_end + int(len(data) * test_frac)
    parts = data[:train_end], data[train_end:test_end], data[test_end:]
    if not all(parts):
        raise ValueError(
            f"{len(data)} entries at {train_frac} and {test_frac} make parts of "
            f"{[len(part) for part in parts]}, but none may be empty."
        )
    return parts


# Prompts


def format_input(entry):
    """The prompt of an entry, in Alpaca's style, without the mark at which the answer begins.

    Source: book, section 7.2.
    """
    instruction_text = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{entry['instruction']}"
    )
    input_text = f"\n\n### Input:\n{entry['input']}" if entry["input"] else ""
    return instruction_text + input_text


def format_prompt(entry):
    """All that a model is given of an entry: the next token is the first of the answer."""
    return f"{format_input(entry)}\n\n{RESPONSE_MARKER}\n"


def extract_response(generated_text, input_text):
    """What a model added to `input_text`, without the mark at which the answer begins.

    Raises:
        ValueError: the text does not begin with the prompt.

    Source: book, section 7.5.
    """
    if not generated_text.startswith(input_text):
        raise ValueError(
            f"The text does not begin with the prompt: {generated_text[:40]!r} is not "
            f"{input_text[:40]!r}."
        )
    return generated_text[len(input_text) :].replace(RESPONSE_MARKER, "").strip()


# Batches


class InstructionDataset(Dataset):
    """Prompt and answer of each entry, as one list of ids.

    Args:
        data: list of entries.
        tokenizer: tiktoken's, or one with the same `encode`.

    Attributes:
        data: the entries.
        encoded_texts: a list of ids for each.

    Raises:
        ValueError: as `check_entries`.

    Source: book, section 7.3.
    """

    def __init__(self, data, tokenizer):
        check_entries(data)
        self.data = data
        self.encoded_texts = [
            tokenizer.encode(format_prompt(entry) + entry["output"], disallowed_special=())
            for entry in data
        ]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.encoded_texts[index]


class AnswerDataset(InstructionDataset):
    """The same ids with the length of the prompt before them, (length, ids) (beyond the book)."""

    def __init__(self, data, tokenizer):
        super().__init__(data, tokenizer)
        self.prompt_lengths = [
            len(tokenizer.encode(format_prompt(entry), disallowed_special=())) for entry in data
        ]

    def __getitem__(self, index):
        return self.prompt_lengths[index], self.encoded_texts[index]


def custom_collate_fn(
    batch,
    pad_token_id=PAD_TOKEN_ID,
    ignore_index=IGNORE_INDEX,
    allowed_max_length=None,
    device="cpu",
):
    """Inputs and targets, (B, T) each, of lists of ids of different lengths.

    A target is the id after its input. All rows are padded to the longest. The first padding id
    of a row's targets ends the answer and counts; those after it are `ignore_index`.

    Args:
        batch: list of lists of ids.
        pad_token_id: what rows are filled up with.
        ignore_index: the target that the loss leaves out.
        allowed_max_length: T at most; longer rows are cut, the end of the answer first.
        device: where the tensors are to lie.

    Source: book, section 7.3.
    """
    longest = max(len(ids) for ids in batch)
    rows = [ids + [pad_token_id] * (longest + 1 - len(ids)) for ids in batch]
    padded = torch.tensor(rows)  # (B, T + 1)
    inputs, targets = padded[:, :-1], padded[:, 1:].clone()
    is_padding = targets == pad_token_id
    targets[is_padding & (is_padding.cumsum(dim=1) > 1)] = ignore_index
    inputs, targets = inputs[:, :allowed_max_length], targets[:, :allowed_max_length]
    return inputs.to(device), targets.to(device)


def collate_answers(batch, ignore_index=IGNORE_INDEX, **settings):
    """As `custom_collate_fn`, of (prompt length, ids) pairs: only targets in the answer count.

    Source: book, exercise 7.2.
    """
    inputs, targets = custom_collate_fn(
        [ids for _, ids in batch], ignore_index=ignore_index, **settings
    )
    for row, (prompt_length, _) in zip(targets, batch, strict=True):
        row[: prompt_length - 1] = ignore_index  # the last token of the prompt has the first target
    return inputs, targets


class SimilarLengths(Sampler):
    """Batches of places in a list whose texts have about the same length (beyond the book).

    Less padding is computed. Each time through, other texts come together, in another order.

    Args:
        lengths: of all texts.
        batch_size: B; a last incomplete batch is left out.
    """

    def __init__(self, lengths, batch_size):
        self.lengths, self.batch_size = torch.tensor(lengths), batch_size

    def __len__(self):
        return len(self.lengths) // self.batch_size

    def __iter__(self):
        noise = 4 * torch.rand(len(self.lengths))  # lengths that differ by less may change places
        order = (self.lengths + noise).argsort()
        batches = order.split(self.batch_size)
        full = [batch.tolist() for batch in batches if len(batch) == self.batch_size]
        return iter([full[i] for i in torch.randperm(len(full))])


def create_answer_loaders(parts, tokenizer, batch_size=8, context_length=256, device="cpu"):
    """Loaders of (inputs, targets), (B, T) each, in which only targets in the answers count.

    Args:
        parts: what `split_entries` gives; the first is shuffled, in batches of similar length.

    Raises:
        ValueError: an entry is longer than the context: it would have to be cut.
    """
    loaders = []
    for number, part in enumerate(parts):
        dataset = AnswerDataset(part, tokenizer)
        check_lengths(dataset.encoded_texts, context_length)
        if number == 0:
            lengths = [len(ids) for ids in dataset.encoded_texts]
            batching = {"batch_sampler": SimilarLengths(lengths, batch_size)}
        else:
            batching = {"batch_size": batch_size}
        collate = partial(collate_answers, device=device)
        loaders.append(DataLoader(dataset, collate_fn=collate, **batching))
    return loaders


def check_lengths(encoded_texts, context_length):
    """Raise a ValueError that names the first text that is longer than the context."""
    for number, ids in enumerate(encoded_texts):
        if len(ids) > context_length:
            raise ValueError(
                f"Entry {number} has {len(ids)} tokens, more than the {context_length} of the "
                "model's context. Shorten it, leave it out, or let the collate function cut it: "
                f"allowed_max_length={context_length}."
            )


# Loss and training


def calc_answer_loss(input_batch, target_batch, model, device, ignore_index=IGNORE_INDEX):
    """The loss of chapter 5 over the N targets that count, a scalar tensor (beyond the book).

    The output layer, most of the work in a small model, computes these N rows only.

    Raises:
        ValueError: no target counts.
    """
    input_batch, target_batch = input_batch.to(device), target_batch.to(device)
    counts = target_batch != ignore_index  # (B, T)
    if not counts.any():
        raise ValueError(
            f"All {target_batch.numel()} targets are {ignore_index}: there is nothing to learn. "
            "Were the answers cut off?"
        )
    select = model.out_head.register_forward_pre_hook(lambda _, inputs: (inputs[0][counts],))
    try:
        logits = model(input_batch)  # (N, V)
    finally:
        select.remove()
    return F.cross_entropy(logits, target_batch[counts])


def finetune(model, train_loader, val_loader, num_epochs, learning_rate, start_context, device):
    """Train all blocks with chapter 5's loop; the rate falls to 0 in a straight line.

    The table of tokens is left alone. Of most words the instructions know nothing: AdamW would push
    each of them down a bit at every step, and the model could soon answer with no other words than
    those of the training part.

    Returns:
        What `train_model_simple` returns.
    """
    model.tok_emb.weight.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.1, fused=True)
    num_steps = num_epochs * len(train_loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / num_steps)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return train_model_simple(
        model,
        train_loader,
        val_loader,
        optimizer,
        device,
        num_epochs,
        eval_freq=50,
        eval_iter=5,
        start_context=start_context,
        tokenizer=tiktoken.get_encoding("gpt2"),
        loss_of=calc_answer_loss,
    )


# Answers


def generate_responses(
    model, entries, tokenizer, cfg=POCKET_CONFIG, max_new_tokens=LONGEST_ANSWER, batch_size=32
):
    """The answer to each entry, a list of texts: always the likeliest token, up to the end token.

    Many at a time, with chapter 4's cache; the same answers as one by one with `generate`.

    Args:
        model: a `GPTModel` of the configuration `cfg`.

    Raises:
        ValueError: a prompt leaves too little of the context for an answer.
    """
    writer = GPTModelWithCache(cfg).to(model.tok_emb.weight.device)
    writer.load_state_dict(model.state_dict())
    writer.eval()
    prompts = [tokenizer.encode(format_prompt(e), disallowed_special=()) for e in entries]
    check_lengths(prompts, cfg["context_length"] - max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = {}
    for start in companion.progress(range(0, len(order), batch_size), "answers"):
        chosen = order[start : start + batch_size]
        new_ids = answer_batch(writer, [prompts[i] for i in chosen], max_new_tokens)
        answers |= {
            i: tokenizer.decode(ids).strip() for i, ids in zip(chosen, new_ids, strict=True)
        }
    return [answers[i] for i in range(len(prompts))]


def answer_batch(model, prompts, max_new_tokens, eos_id=PAD_TOKEN_ID):
    """The new ids after each prompt, up to the end token, by a `GPTModelWithCache`."""
    lengths = [len(ids) for ids in prompts]
    device = model.tok_emb.weight.device
    rows = [ids + [eos_id] * (max(lengths) - len(ids)) for ids in prompts]
    cache = KVCache(model.cfg, len(prompts), max(lengths) + max_new_tokens, device=device)
    logits = model.fill(torch.tensor(rows, device=device), lengths, cache)  # (B, V)
    columns, has_ended = [], torch.zeros(len(prompts), 1, dtype=torch.bool, device=device)
    while len(columns) < max_new_tokens:
        columns.append(logits.argmax(dim=-1, keepdim=True))  # (B, 1)
        has_ended |= columns[-1] == eos_id
        if has_ended.all():
            break
        logits = model.extend(columns[-1], cache)
    answers = torch.cat(columns, dim=1).tolist() if columns else [[] for _ in prompts]
    return [ids[: ids.index(eos_id)] if eos_id in ids else ids for ids in answers]


# Scores


def exact_match(response, reference):
    """1.0 if both texts are the same, but for space around them, else 0.0."""
    return float(response.strip() == reference.strip())


def token_f1(response, reference):
    """How many words two texts share, from 0 to 1, in whatever order; capitals do not matter.

    The harmonic mean of the share of the response's words that are in the reference, and the share
    of the reference's words that are in the response.
    """
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (response, reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def scores_by_task(entries, responses):
    """A table with a row for each kind of task, and one for all: entries, exact match, F1.

    Raises:
        ValueError: there are not as many responses as entries, or none.
    """
    if len(entries) != len(responses) or not entries:
        raise ValueError(f"There are {len(entries)} entries and {len(responses)} responses.")
    table = pd.DataFrame(
        {
            "task": [entry.get("task", "?") for entry in entries],
            "entries": 1,
            "exact match": [
                exact_match(r, e["output"]) for r, e in zip(responses, entries, strict=True)
            ],
            "F1": [token_f1(r, e["output"]) for r, e in zip(responses, entries, strict=True)],
        }
    )
    how = {"entries": "sum", "exact match": "mean", "F1": "mean"}
    by_task = table.groupby("task").agg(how)
    by_task.loc["all"] = table.assign(task="all").groupby("task").agg(how).loc["all"]
    return by_task.astype({"entries": int})


# The whole


def instruct_pocket(path=None, num_epochs=3, learning_rate=1.5e-3, batch_size=16, seed=123):
    """Finetune the pocket model on the repository's instructions.

    Returns:
        The model, and the answers to the test entries, a list of texts.
    """
    device, tokenizer = companion.device(), tiktoken.get_encoding("gpt2")
    parts = split_entries(read_instructions(companion.asset("instructions.json")))
    torch.manual_seed(seed)
    model = load_pocket().to(device)
    loaders = create_answer_loaders(parts, tokenizer, batch_size, device=device)
    separate_new_tokens(model, loaders[0].dataset.encoded_texts)
    swap_parts(model)  # chapter 5's faster layers: the same weights and numbers
    start_context = format_prompt(parts[2][0])
    finetune(model, loaders[0], loaders[2], num_epochs, learning_rate, start_context, device)
    model.eval()
    if path is not None:
        save_checkpoint(path, model, POCKET_CONFIG)
    return model, generate_responses(model, parts[1], tokenizer)


def load_follower(path, cfg=POCKET_CONFIG):
    """A model that `save_checkpoint` wrote, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`.
    """
    weights = load_checkpoint(path, cfg)["model_state_dict"]
    model = GPTModel(cfg)
    model.load_state_dict(weights)
    return model.eval()


def main(arguments=None):
    """The command line; the exit status, 2 where something cannot be done."""
    parser = argparse.ArgumentParser(description="Teach a model to follow instructions, or ask it.")
    parser.add_argument("--path", help="the model's file, written unless there is an instruction")
    parser.add_argument("--instruction", help="what to do")
    parser.add_argument("--input", default="", help="the text to do it with, if it is apart")
    parser.add_argument("--epochs", type=int, default=3, help="times through the training part")
    options = parser.parse_args(arguments)
    if options.instruction is None:
        companion.setup()
        if options.path is not None:  # a folder that cannot be is told before the training
            try:
                Path(options.path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                print(f"gpt_instruction_finetuning.py: {error}", file=sys.stderr)
                return 2
        _, responses = instruct_pocket(options.path, options.epochs)
        test = split_entries(read_instructions(companion.asset("instructions.json")))[1]
        print(scores_by_task(test, responses).round(2).to_string())
        return 0
    if options.path is None:
        parser.error("--instruction needs --path, the file of a model that was trained before")
    companion.prepare_tokenizer()
    entry = {"instruction": options.instruction, "input": options.input, "output": "unknown"}
    try:
        check_entries([entry], "the command line")
        model = load_follower(options.path)
        print(generate_responses(model, [entry], tiktoken.get_encoding("gpt2"))[0])
    except (FileNotFoundError, ValueError) as error:
        print(f"gpt_instruction_finetuning.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
