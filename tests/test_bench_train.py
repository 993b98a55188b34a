"""The benchmarks of training, and speed_ladder.py: what is timed is the same training, each rung
as it says.
"""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import speed_ladder
from gpt import GELU, LayerNorm
from gpt_fast import FAST_PARTS
from multihead_attention import MultiHeadAttention
from speed_ladder import LADDER, best_of, ceiling, climb, ladder_text

CFG = {
    "vocab_size": 97,
    "context_length": 12,
    "emb_dim": 24,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def weights_after_steps(rung, clip_norm=None):
    """The weights after three steps on a rung, as one vector, and the model."""
    model, optimizer = speed_ladder.model_and_optimizer(CFG)
    batch = speed_ladder.random_windows(CFG, batch_size=2)
    for _ in range(3):
        speed_ladder.seconds_of_step(model, optimizer, *batch, rung, clip_norm)
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach(), model


def test_every_rung_learns_the_same():
    expected, _ = weights_after_steps(LADDER["the book's step"])
    for rung in LADDER.values():
        found, model = weights_after_steps(rung)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        kinds = {type(layer) for layer in model.modules()}
        assert {slow for slow, fast in FAST_PARTS.items() if fast in kinds} == set(rung.parts)
        assert not kinds & set(rung.parts)
    unlike, _ = weights_after_steps(rung, clip_norm=0.01)  # control
    assert (unlike - expected).abs().max() > 1e-5


def test_each_rung_is_the_one_below_and_one_change_more():
    rungs = [(set(parts), is_chunked, is_fused) for parts, is_chunked, is_fused in LADDER.values()]
    assert rungs[0] == (set(), False, False)
    assert (
        rungs[-1]
        == ({LayerNorm, GELU, MultiHeadAttention}, True, True)
        == (
            set(FAST_PARTS),
            True,
            True,
        )
    )
    for (parts, *flags), (more_parts, *more_flags) in pairwise(rungs):
        assert parts <= more_parts
        assert len(more_parts - parts) + sum(more_flags) - sum(flags) == 1


def test_climbing_times_every_rung(monkeypatch):
    best = climb(CFG, batch_size=2, rounds=1)
    assert list(best) == list(LADDER)
    assert all(0 < seconds < 10 for seconds in best.values())


def test_the_best_of_the_rounds_counts_without_the_first():
    turns = []
    seconds = {"a": iter([1, 5, 4]), "b": iter([9, 2, 3])}

    def timer(name):
        turns.append(name)
        return next(seconds[name])

    best = best_of({name: lambda name=name: timer(name) for name in seconds}, rounds=2)
    assert best == {"a": 4, "b": 2}
    assert turns == ["a", "b"] * 3  # in turns, not one after the other


def test_the_ceiling_is_that_of_the_fastest_product():
    assert ceiling({100: 1.0, 200: 4.0, 300: 60.0}) == 2 * 200**3 / 4


def test_the_table_tells_gain_and_total():
    text = ladder_text({"first": 0.3, "second": 0.2, "third": 0.1})
    assert text.splitlines()[2:] == [
        "| first | 300.0 | +0% | 1.00 |",
        "| second | 200.0 | +50% | 1.50 |",
        "| third | 100.0 | +100% | 3.00 |",
    ]


@pytest.fixture
def bench():
    pytest.importorskip("transformers")
    from bench import bench_train

    return bench_train


@pytest.mark.slow  # two processes start
def test_the_benchmark_prints_every_contender(bench, capfd):
    """At toy size, where its seconds mean nothing."""
    bench.main(rounds=1, threads=1, cfg=CFG, batch_size=2)
    printed, errors = capfd.readouterr()
    assert not errors  # of the processes neither
    names = [*LADDER, bench.OURS, *bench.THEIRS]
    names += [name + bench.KEPT for name in (bench.BOOK, bench.OURS, *bench.THEIRS)]
    assert [name for name in names if f"\n| {name} | " not in printed] == []
    assert "1 threads" in printed


def test_all_contenders_start_from_the_same_loss(bench, monkeypatch):
    monkeypatch.setattr(speed_ladder, "SIDES", (8, 16))
    timers = bench.timers_of(CFG, batch_size=2)
    assert list(timers) == [*LADDER, bench.OURS, *bench.THEIRS, 8, 16]
    assert all(0 < timer() < 10 for timer in timers.values())

    monkeypatch.setattr(bench, "their_loss", lambda *_: torch.tensor(0.0))  # control
    with pytest.raises(AssertionError, match="The losses differ"):
        bench.timers_of(CFG, batch_size=2)


@pytest.mark.parametrize("keeps_memory", [False, True])
def test_one_worker_keeps_freed_memory_and_the_other_does_not(bench, monkeypatch, keeps_memory):
    calls = []
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: calls.append("keep"))
    monkeypatch.setattr(bench, "timers_of", lambda *_: calls.append("timers"))
    connection = SimpleNamespace(recv=lambda: None)  # the end at once
    bench.serve(connection, keeps_memory, None, CFG, 2)
    assert calls == (["keep", "timers"] if keeps_memory else ["timers"])


def test_both_contenders_learn_the_same(bench):
    """Steps from the same weights, with both activations, lead to the same loss.

    Nearly: the biases of queries, keys and values, which start at 0, are theirs alone.
    """
    batch = speed_ladder.random_windows(CFG, batch_size=2)
    losses = []
    for activation in bench.ACTIVATIONS:
        model, optimizer = speed_ladder.model_and_optimizer(CFG)
        theirs = bench.hugging_face_copy(model, CFG, **bench.NO_DROPOUT).train()
        their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=4e-4, weight_decay=0.1)
        before = bench.their_loss(theirs, *batch).item()
        for _ in range(3):
            bench.seconds_of_their_step(theirs, their_optimizer, *batch, activation)
            speed_ladder.seconds_of_step(
                model, optimizer, *batch, speed_ladder.TOP, bench.CLIP_NORM
            )
        losses.append((model.loss(*batch).item(), bench.their_loss(theirs, *batch).item()))
        assert losses[-1][0] < before - 1e-2  # control: they learn
    torch.testing.assert_close(
        torch.tensor(losses), torch.full((2, 2), losses[0][0]), atol=1e-3, rtol=0
    )


def test_shares_and_verdicts_follow_from_the_seconds(bench):
    """The tuned trainer takes 10 s of 8 s that a step needs at least, or 9 s with memory kept."""
    seconds = {bench.BOOK: 20.0, bench.THEIRS[0]: 12.5, bench.THEIRS[1]: 11.0, bench.OURS: 10.0}
    kept = {bench.BOOK: 19.0, bench.THEIRS[0]: 11.5, bench.THEIRS[1]: 10.5, bench.OURS: 9.0}
    seconds |= {name + bench.KEPT: value for name, value in kept.items()}
    lines = bench.contenders_text(seconds, num_tokens=100, least=8.0).splitlines()
    assert f"| {bench.BOOK} | 5 | 1.00 | 40% |" in lines
    assert "| tuned trainer | 10 | 2.00 | 80% |" in lines
    assert "| tuned trainer, freed memory kept | 11 | 2.22 | 89% |" in lines
    assert "| transformers, gelu_new | 1.25 | 1.39 | 1.28 |" in lines
    assert "| transformers, gelu_pytorch_tanh | 1.10 | 1.22 | 1.17 |" in lines
    assert "gelu_new: met (1.25); at least 80% of the ceiling: met (80%)" in lines[-2]
    assert "gelu_new: met (1.39); at least 80% of the ceiling: met (89%)" in lines[-1]

    text = bench.contenders_text({**seconds, bench.OURS: 10.5}, num_tokens=100, least=8.0)
    assert "gelu_new: NOT met (1.19); at least 80% of the ceiling: NOT met (76%)" in text


def test_parameters_that_are_no_factors_are_the_embeddings(bench):
    model, _ = speed_ladder.model_and_optimizer(CFG)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert bench.numbers_of_parameters(CFG) == (total, total - (97 + 12) * 24)


@pytest.fixture
def gpu_bench():
    pytest.importorskip("transformers")  # as for `bench`, whose counts it uses
    from bench import bench_train_gpu

    return bench_train_gpu


def test_the_benchmark_for_a_gpu_runs_on_a_processor_at_toy_size(gpu_bench, monkeypatch, capsys):
    monkeypatch.setenv("DEVICE", "cpu")
    kinds = {"bf16": False}  # to compile takes long
    gpu_bench.main(rounds=1, batch_size=2, cfg=CFG, sides=(8, 16), kinds=kinds)
    printed = capsys.readouterr().out
    assert "Batch: 2 x 12 tokens" in printed and "\n| bf16 | " in printed


def test_a_step_of_the_benchmark_for_a_gpu_learns_with_16_bits(gpu_bench, monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    losses, kinds, forward = [], set(), gpu_bench.LossModel.forward

    def watched(self, ids, targets):
        loss = forward(self, ids, targets)
        losses.append(loss.item())
        kinds.add(self.model.trf_blocks[0].att(torch.ones(1, 2, CFG["emb_dim"])).dtype)
        return loss

    monkeypatch.setattr(gpu_bench.LossModel, "forward", watched)
    step = gpu_bench.step_timer(CFG, batch_size=2, is_compiled=False)
    assert all(step() > 0 for _ in range(30))
    assert losses[-1] < losses[0] - 0.1
    assert kinds == {torch.bfloat16}


def test_the_share_of_the_gpus_ceiling_follows_from_the_seconds(gpu_bench):
    text = gpu_bench.table({"bf16": 1.0, "bf16, compiled": 0.5}, num_tokens=1000, least=0.25)
    assert "| bf16 | 1,000 | 25% |\n| bf16, compiled | 2,000 | 50% |" in text
    assert text.endswith("At least 45% of the ceiling: met")
    text = gpu_bench.table({"bf16": 1.0}, num_tokens=1000, least=0.44)  # control
    assert text.endswith("At least 45% of the ceiling: NOT met")
