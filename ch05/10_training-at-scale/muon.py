"""Muon in the precision of its parameters.

`torch.optim.Muon` makes its updates orthogonal in bfloat16, the fast type of a GPU. A processor
without instructions for it computes in bfloat16 some fifty times slower than in float32, and then
an update takes longer than all the rest of a step. This one computes in float32 there, and takes
all matrices of one shape together.

Source: Jordan et al. (2024), kellerjordan.github.io/posts/muon; of the length of an update, which
is AdamW's: Liu et al., "Muon is Scalable for LLM Training" (2025), section 2.2.
"""

import math

import torch

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # Jordan et al.: they lift small singular values fastest


def orthogonalize(matrices, steps=5):
    """(M, R, C) -> (M, R, C): singular vectors stay, singular values become about 1.

    Each step (Newton-Schulz) puts a polynomial in the place of every singular value s,
    a s + b s^3 + c s^5, by products of matrices alone. Afterwards they are between 0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    x = x.mT if is_tall else x  # the square products below are then the small ones
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.mT  # (M, R, R)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, of which each update keeps the directions but not their lengths; for matrices.

    Args:
        params: two-dimensional parameters, or groups of them.
        lr: learning rate, on AdamW's scale.
        weight_decay: how much of lr * weight is taken away in a step.
        momentum: share of the old average in the new one.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.1, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        """One update; a closure, which would give the loss anew, is not called."""
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape, p.device), []).append(p)
            for (shape, _), parameters in by_shape.items():
                updates = orthogonalize(
                    torch.stack([self.averaged(p, group["momentum"]) for p in parameters])
                )
                length = 0.2 * math.sqrt(max(shape))  # numbers of AdamW's size
                for p, update in zip(parameters, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * length)

    def averaged(self, p, momentum):
        """The gradient as the average will see it in the next step (Nesterov's momentum)."""
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)
