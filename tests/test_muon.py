"""Muon: PyTorch's own, but in the precision of the parameters."""

import pytest
import torch

from muon import Muon, orthogonalize

SHAPES = [(8, 32), (32, 8), (8, 8), (8, 32)]


@pytest.mark.parametrize("shape", [(3, 8, 32), (3, 32, 8)])
def test_singular_vectors_stay_and_values_become_about_one(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalize(matrices)
    core = u.mT @ result @ vh.mT  # diagonal if the vectors are the same
    values = core.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-3, rtol=0)
    assert values.min() > 0.65 and values.max() < 1.25
    assert s.max() / s.min() > 2  # control


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon since 2.9")
def test_updates_are_those_of_torch():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    begin = [p.detach().clone() for p in ours]
    reference = torch.optim.Muon(theirs, lr=0.01, adjust_lr_fn="match_rms_adamw")
    optimizer = Muon(ours, lr=0.01)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    for p, q, first in zip(ours, theirs, begin, strict=True):
        torch.testing.assert_close(p, q, atol=2e-3, rtol=0)  # theirs has 8 bits of mantissa
        assert (p - first).abs().max() > 0.01  # control


def test_a_parameter_without_a_gradient_stays():
    used, unused = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    used.grad = torch.eye(2)
    Muon([used, unused], lr=0.1).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))  # control
