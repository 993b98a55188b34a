"""LoRA: finetuning by low-rank updates beside frozen weights (book, appendix E).

Shapes: R rank, far below the width of the layers. Source: Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models" (2021); book, section E.4.
"""

import math

import torch
from torch import nn


class LoRALayer(nn.Module):
    """The update of a linear layer, as a product of two thin matrices: alpha / rank * x A B.

    The update is zero at first, because B is.

    Args:
        in_dim, out_dim: widths of the layer that it is an update of.
        rank: R; of all updates, those of at most this rank can be reached.
        alpha: how strong the update is; with alpha = 2 * rank it counts twice.

    Attributes:
        A: (in_dim, R), drawn between plus and minus 1 / sqrt(R). PyTorch takes the second dimension
            for the number of inputs; the library peft, which has A the other way round, draws
            between plus and minus 1 / sqrt(in_dim).
        B: (R, out_dim), zeros.

    Raises:
        ValueError: `rank` is below 1.

    Source: book, section E.4. The printed chapter leaves the division by the rank out, which is the
    paper's: with alpha = rank = 16 its update is 16 times this one.
    """

    def __init__(self, in_dim, out_dim, rank, alpha):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, but is {rank}.")
        self.A = nn.Parameter(torch.empty(in_dim, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.rank, self.alpha = rank, alpha

    def forward(self, x):
        """(..., in_dim) to (..., out_dim)."""
        return self.alpha / self.rank * (x @ self.A @ self.B)


class LinearWithLoRA(nn.Module):
    """A linear layer and its update, added up.

    Attributes:
        linear: the layer itself, an `nn.Linear`, whose weights are left as they are.
        lora: its `LoRALayer`.

    Source: book, section E.4.
    """

    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear
        # A layer is asked for its widths: attention checks its input by them.
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.lora = LoRALayer(self.in_features, self.out_features, rank, alpha)

    def forward(self, x):
        """(..., in_features) to (..., out_features)."""
        return self.linear(x) + self.lora(x)


def replace_linear_with_lora(model, rank, alpha):
    """Put every `nn.Linear` of a model, the output head too, into a `LinearWithLoRA`; in place.

    Freeze the model first, so that the updates are all that is trained, and move it to its device
    afterwards: the updates are made on the CPU.

    Source: book, section E.4.
    """
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, LinearWithLoRA(module, rank, alpha))
        elif not isinstance(module, LinearWithLoRA):  # it has its update already
            replace_linear_with_lora(module, rank, alpha)


@torch.no_grad()
def merge_lora(model):
    """Add every update to the weights that it belongs to, and leave linear layers alone; in place.

    The model computes the same as before, up to rounding, and as fast as one without updates.
    """
    for name, module in model.named_children():
        if isinstance(module, LinearWithLoRA):
            lora = module.lora
            module.linear.weight += lora.alpha / lora.rank * (lora.A @ lora.B).T  # (out, in)
            setattr(model, name, module.linear)
        else:
            merge_lora(module)
