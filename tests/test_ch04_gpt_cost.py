"""The cost formulas against what PyTorch counts on the model itself."""

import time

import pytest
import torch

from gpt import GPT_CONFIG_124M, GPTModel
from gpt_cost import (
    GPT2_SIZES,
    activation_terms,
    best_seconds,
    counted_activations,
    counted_flops,
    flop_terms,
    forward_speed,
    loss_on_zeros,
    machine,
    main,
    matmul_ceiling,
    memory_terms,
    model_without_memory,
    parameter_terms,
    tied_parameters,
    training_flops,
)

TINY = {
    "vocab_size": 300,
    "context_length": 64,
    "emb_dim": 48,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
every_size = pytest.mark.parametrize("size", GPT2_SIZES)
within_one_percent = {"rel": 0.01}


def total(terms):
    return sum(terms.values())


@every_size
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_parameters_are_exactly_the_models(size, qkv_bias):
    cfg = {**GPT2_SIZES[size], "qkv_bias": qkv_bias}
    counted = sum(p.numel() for p in model_without_memory(cfg).parameters())
    assert total(parameter_terms(cfg)) == counted
    assert total(parameter_terms({**cfg, "qkv_bias": not qkv_bias})) != counted  # control


@pytest.mark.parametrize(
    "size, published",
    [
        ("124M", 124_439_808),
        ("355M", 354_823_168),
        ("774M", 774_030_080),
        ("1558M", 1_557_611_200),
    ],
)
def test_the_sizes_are_named_after_the_tied_models_with_biases(size, published):
    cfg = {**GPT2_SIZES[size], "qkv_bias": True}
    assert tied_parameters(cfg) == published
    assert round(published / 1e6) == int(size[:-1])


def test_tying_saves_the_head():
    assert tied_parameters(GPT_CONFIG_124M) == 124_412_160
    assert total(parameter_terms(GPT_CONFIG_124M)) == 163_009_536


@every_size
def test_the_forward_flops_are_those_that_pytorch_counts(size):
    cfg = GPT2_SIZES[size]
    formula = total(flop_terms(cfg, 1, 1024))
    assert counted_flops(cfg, 1, 1024) == pytest.approx(formula, **within_one_percent)


@pytest.mark.parametrize("batch_size, num_tokens", [(1, 64), (3, 10)])
def test_the_training_flops_are_those_that_pytorch_counts(batch_size, num_tokens):
    counted = counted_flops(TINY, batch_size, num_tokens, training=True)
    assert training_flops(TINY, batch_size, num_tokens) == counted
    assert counted > 2.9 * counted_flops(TINY, batch_size, num_tokens)  # control


@pytest.mark.parametrize("part", flop_terms(TINY, 1, 1))
def test_without_one_of_its_terms_the_formula_is_off(part):
    """The control of the two tests above."""
    terms = flop_terms(TINY, 1, 64)
    counted = counted_flops(TINY, 1, 64)
    assert total(terms) - terms[part] != pytest.approx(counted, **within_one_percent)


@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
@pytest.mark.parametrize("batch_size, num_tokens", [(2, 50), (1, 64)])
def test_the_activations_are_those_that_autograd_saves(drop_rate, batch_size, num_tokens):
    cfg = {**TINY, "drop_rate": drop_rate}
    measured = counted_activations(cfg, batch_size, num_tokens)
    terms = activation_terms(cfg, batch_size, num_tokens)
    assert total(terms) == pytest.approx(measured, **within_one_percent)
    for part, num_bytes in terms.items():  # control: each is needed
        missing = total(terms) - num_bytes
        assert num_bytes == 0 or missing != pytest.approx(measured, rel=0.003), part


def test_the_memory_of_weights_gradients_and_optimizer_is_what_training_holds():
    torch.manual_seed(0)
    model = GPTModel(TINY)
    optimizer = torch.optim.AdamW(model.parameters())
    loss_on_zeros(model, 1, 8).backward()
    optimizer.step()
    terms = memory_terms(TINY, 1, 8)
    assert terms["weights"] == sum(p.nbytes for p in model.parameters())
    assert terms["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert terms["mask buffers"] == sum(b.nbytes for b in model.buffers())
    averages = [
        state[name].nbytes
        for state in optimizer.state.values()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    assert terms["AdamW's two averages"] == sum(averages) > 0


def test_the_fastest_of_several_runs_counts():
    naps = iter([0.2, 0.0, 0.2])
    assert best_seconds(lambda: time.sleep(next(naps)), 3) < 0.1


def test_speeds_are_positive_and_the_forward_pass_is_no_faster_than_it_can_be():
    ceiling = matmul_ceiling(sizes=[512], repeats=5)
    model = GPTModel(TINY)
    speed = forward_speed(model, TINY, 1, 32, repeats=2)
    assert 0 < speed < ceiling  # so small a model spends its time elsewhere


@pytest.mark.slow  # it counts large models
def test_main_prints_a_row_for_each_size_and_names_the_machine(monkeypatch, capsys):
    monkeypatch.setattr("gpt_cost.print_utilization.__defaults__", (TINY, 1, 16))
    main()
    printed = capsys.readouterr().out
    assert all(f"| {size} |" in printed for size in GPT2_SIZES)
    assert "163,009,536 | 124,412,160 | 0.61 GiB" in printed
    assert f"Machine: {machine()}" in printed
