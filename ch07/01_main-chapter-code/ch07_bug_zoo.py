"""Six pieces of chapter 7, each with one bug: specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.

Shapes: B batch, T tokens, V vocabulary.
"""

import torch


def mask_prompts_1(targets, prompt_lengths, ignore_index):
    """A copy of targets, (B, T), in which only those in the answers count.

    `targets` are ids one token ahead; the first `prompt_lengths[i]` ids of row i are its prompt.
    """
    masked = targets.clone()
    for row, prompt_length in zip(masked, prompt_lengths, strict=True):
        row[:prompt_length] = ignore_index
    return masked


def collate_2(batch, pad_token_id, ignore_index):
    """Inputs and targets, (B, T) each, of lists of ids; surplus padding in the targets is ignored.

    As in the chapter, every row's answer is over at the padding id that comes first.
    """
    longest = max(len(ids) for ids in batch)
    padded = torch.tensor([ids + [pad_token_id] * (longest + 1 - len(ids)) for ids in batch])
    inputs, targets = padded[:, :-1], padded[:, 1:].clone()
    targets[targets == pad_token_id] = ignore_index
    return inputs, targets


def answer_ids_3(token_ids, prompt_length, eos_id):
    """What a model added to a prompt, a list of ids, without the end token and what follows it.

    `token_ids` is the prompt, `prompt_length` ids, and what was generated after it.
    """
    ids = list(token_ids)
    if eos_id in ids:
        ids = ids[: ids.index(eos_id)]
    return ids


def next_ids_4(model, prompts, pad_token_id):
    """The likeliest id after each prompt, a list; all prompts, of any lengths, in one batch.

    Each prompt gets the id that it gets alone.
    """
    longest = max(len(ids) for ids in prompts)
    rows = [ids + [pad_token_id] * (longest - len(ids)) for ids in prompts]
    with torch.no_grad():
        logits = model(torch.tensor(rows))  # (B, T, V)
    return logits[:, -1].argmax(dim=-1).tolist()


def score_5(responses, references):
    """The share of references, from 0 to 1, that the response to them is equal to."""
    pairs = [(r, ref) for r, ref in zip(responses, references, strict=True) if r]
    return sum(r == ref for r, ref in pairs) / max(len(pairs), 1)


def sections_6(entry):
    """The sections of a prompt: the instruction, and the input where there is one."""
    return f"### Instruction:\n{entry['instruction']}\n\n### Input:\n{entry['input']}"
