"""What must hold on an NVIDIA GPU as well: the same numbers, and nothing left on the CPU."""

import pytest
import torch

import companion
from multihead_attention import CausalAttention, MultiHeadAttention, MultiHeadAttentionWrapper

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine"),
]


def test_the_gpu_is_chosen_without_asking(monkeypatch):
    monkeypatch.delenv("DEVICE", raising=False)
    assert companion.device().type == "cuda"
    monkeypatch.setenv("DEVICE", "cpu")
    assert companion.device().type == "cpu"  # control


@pytest.mark.parametrize("kind", [CausalAttention, MultiHeadAttentionWrapper, MultiHeadAttention])
def test_attention_gives_the_same_numbers_on_the_gpu(kind):
    torch.manual_seed(0)
    heads = {} if kind is CausalAttention else {"num_heads": 4}
    attention = kind(64, 64, context_length=32, dropout=0.0, **heads)
    x = torch.randn(2, 32, 64)
    on_cpu = attention(x)
    on_gpu = attention.to("cuda")(x.to("cuda"))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(on_gpu.cpu(), on_cpu + 1e-2)  # control
