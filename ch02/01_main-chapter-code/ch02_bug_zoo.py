"""Six pieces of chapter 2, each with one bug: the specimens of bug-zoo.ipynb. Do not import them.

The docstrings say what the code is meant to do. The notebook shows what each does instead.
"""

import tiktoken
import torch
from torch.utils.data import Dataset

import companion

companion.prepare_tokenizer()  # so that GPT-2's tokenizer loads with the network off
gpt2 = tiktoken.get_encoding("gpt2")


def vocab_1(tokens):
    """{token: id} for the distinct tokens, as `build_vocab` makes it."""
    vocab = {}
    for token in tokens:
        if token not in vocab:
            vocab[token] = len(vocab)
    return vocab


def encode_2(text):
    """GPT-2's ids of a text in which `<|endoftext|>` separates documents."""
    return gpt2.encode(text, disallowed_special=())


def decode_3(ids):
    """The text that GPT-2's ids stand for."""
    pieces = [gpt2.decode([token_id]) for token_id in ids]
    return "".join(pieces)


class Windows4(Dataset):
    """Windows of `max_length` tokens and their targets, as in `GPTDatasetV1`."""

    def __init__(self, txt, tokenizer, max_length, stride):
        self.input_ids = []
        self.target_ids = []
        token_ids = torch.tensor(tokenizer.encode(txt))
        for start in range(0, len(token_ids) - max_length, stride):
            window = token_ids[start : start + max_length]
            self.input_ids.append(window)
            self.target_ids.append(window.clone())

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


class Windows5(Dataset):
    """Windows of `max_length` tokens and their targets, as in `GPTDatasetV1`."""

    def __init__(self, txt, tokenizer, max_length, stride):
        token_ids = torch.tensor(tokenizer.encode(txt))
        inputs, targets = token_ids[:-1], token_ids[1:]
        starts = range(0, len(inputs) - max_length, stride)
        self.input_ids = [inputs[start : start + max_length] for start in starts]
        self.target_ids = [targets[start : start + max_length] for start in starts]

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


class Windows6(Dataset):
    """Windows of `max_length` tokens and their targets, as in `GPTDatasetV1`."""

    def __init__(self, txt, tokenizer, max_length, stride):
        self.token_ids = torch.tensor(tokenizer.encode(txt))
        self.max_length = max_length
        self.stride = stride

    def __len__(self):
        return (len(self.token_ids) - 1) // self.max_length

    def __getitem__(self, idx):
        start = idx * self.max_length
        end = start + self.max_length
        return self.token_ids[start:end], self.token_ids[start + 1 : end + 1]
