"""From text to batches of next-token examples (book, section 2.6).

Shapes: B batch, T tokens in a window (`max_length`). Ids are GPT-2's, int64.
"""

import tiktoken
import torch
from torch.utils.data import DataLoader, Dataset

import companion

companion.prepare_tokenizer()  # so that GPT-2's tokenizer loads with the network off


class GPTDatasetV1(Dataset):
    """Windows of `max_length` tokens, each with the same window one token later.

    Args:
        txt: the text; `<|endoftext|>` in it counts as one token.
        tokenizer: tiktoken's, or one with the same `encode`.
        max_length: T, tokens in a window.
        stride: tokens from the start of one window to the start of the next.

    Attributes:
        input_ids, target_ids: lists of (T,) tensors; target t is input t + 1.

    Raises:
        TypeError: `txt` is not a str.
        ValueError: `max_length` or `stride` is below 1, or `txt` has no more than `max_length`
            tokens: the last target would lie beyond its end.

    Source: book, section 2.6.
    """

    def __init__(self, txt, tokenizer, max_length, stride):
        if not isinstance(txt, str):
            raise TypeError(f"txt must be a str, but is of type {type(txt).__name__}.")
        require_at_least_one(max_length=max_length, stride=stride)

        token_ids = tokenizer.encode(txt, allowed_special={"<|endoftext|>"})
        if len(token_ids) <= max_length:
            raise ValueError(
                f"The text has {len(token_ids)} tokens, but one window of max_length={max_length} "
                f"and its target need {max_length + 1}. Use a longer text or a smaller max_length."
            )

        self.input_ids = []
        self.target_ids = []
        for start in range(0, len(token_ids) - max_length, stride):
            end = start + max_length
            self.input_ids.append(torch.tensor(token_ids[start:end]))  # (T,)
            self.target_ids.append(torch.tensor(token_ids[start + 1 : end + 1]))  # (T,)

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


def create_dataloader_v1(
    txt, batch_size=4, max_length=256, stride=128, shuffle=True, drop_last=True, num_workers=0
):
    """Loader of (inputs, targets), each (B, T), over the windows of `txt` in GPT-2's tokens.

    Args:
        txt, max_length, stride: as for `GPTDatasetV1`.
        batch_size: B, windows in a batch.
        shuffle: draw the windows in a new order in each epoch.
        drop_last: leave out a last batch of fewer than B windows.
        num_workers: processes that prepare batches; 0 means this one.

    Raises:
        TypeError, ValueError: as `GPTDatasetV1`; or `batch_size` is below 1, or no batch is left.

    Source: book, section 2.6.
    """
    require_at_least_one(batch_size=batch_size)
    tokenizer = tiktoken.get_encoding("gpt2")
    dataset = GPTDatasetV1(txt, tokenizer, max_length, stride)
    if drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"No batch is left: the text gives {len(dataset)} windows, fewer than "
            f"batch_size={batch_size}, and drop_last=True leaves out an incomplete batch. Use a "
            "longer text, a smaller batch_size, max_length or stride, or drop_last=False."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
    )


def require_at_least_one(**settings):
    """Raise a ValueError that names the first setting below 1 and its value."""
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}.")


def main(txt, batch_size=8, max_length=4):
    """Print the first batch of `txt`, as ids and as text."""
    tokenizer = tiktoken.get_encoding("gpt2")
    loader = create_dataloader_v1(
        txt, batch_size=batch_size, max_length=max_length, stride=max_length, shuffle=False
    )
    inputs, targets = next(iter(loader))
    print(f"{len(loader)} batches; the first, inputs of shape {tuple(inputs.shape)}:")
    for input_row, target_row in zip(inputs.tolist(), targets.tolist(), strict=True):
        print(f"{tokenizer.decode(input_row)!r} -> {tokenizer.decode(target_row)!r}")


if __name__ == "__main__":
    companion.setup()
    main(companion.asset("the-next-word.txt").read_text(encoding="utf-8"))
