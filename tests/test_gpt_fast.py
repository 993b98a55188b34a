"""`gpt_fast.py`: chapter 4's numbers and gradients, in less memory."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import gpt_fast
from gpt import GELU, GPTModel, LayerNorm
from gpt_fast import FAST_PARTS, FastAttention, GPTFast, sampled_cross_entropy, swap_parts
from multihead_attention import MultiHeadAttention

VOCAB, CONTEXT = 97, 24
CFG = {
    "vocab_size": VOCAB,
    "context_length": CONTEXT,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def two_models(seed=0, is_tied=False, **changes):
    """Chapter 4's model and the fast one, of the same random weights; also norms and biases."""
    torch.manual_seed(seed)
    slow = GPTModel({**CFG, **changes})
    for parameter in slow.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    fast = GPTFast({**CFG, **changes})
    fast.load_state_dict(slow.state_dict())
    if is_tied:
        for model in (slow, fast):
            model.out_head.weight = model.tok_emb.weight
    return slow, fast


def random_ids(*shape, seed=0):
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def loss_of(slow, ids, targets):
    return F.cross_entropy(slow(ids).flatten(0, 1), targets.flatten())


def largest_difference_of_gradients(slow, fast):
    pairs = zip(slow.named_parameters(), fast.named_parameters(), strict=True)
    differences = []
    for (name, expected), (same_name, found) in pairs:
        assert name == same_name
        differences.append((expected.grad - found.grad).abs().max())
    return torch.stack(differences).max().item()


# --- the same numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize(("batch_size", "num_tokens"), [(1, 1), (2, CONTEXT), (5, 7)])
def test_the_logits_are_those_of_chapter_4(qkv_bias, batch_size, num_tokens):
    slow, fast = two_models(qkv_bias=qkv_bias)
    ids = random_ids(batch_size, num_tokens)

    torch.testing.assert_close(fast(ids), slow(ids), atol=1e-5, rtol=0)
    fast.trf_blocks[1].norm1.shift.data[0] += 0.01  # control
    assert not torch.allclose(fast(ids), slow(ids), atol=1e-5, rtol=0)


# 48 tokens in chunks that divide them or do not, of one token, and of more than there are.
@pytest.mark.parametrize("chunk", [1, 7, 16, 48, 1000])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_loss_and_all_gradients_are_those_of_chapter_4(monkeypatch, chunk, is_tied, qkv_bias):
    monkeypatch.setitem(gpt_fast.CHUNK_TOKENS, "cpu", chunk)
    slow, fast = two_models(is_tied=is_tied, qkv_bias=qkv_bias)
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    expected, loss = loss_of(slow, ids, targets), fast.loss(ids, targets)
    (expected / 4).backward()  # as where the gradients of four batches are added up
    (loss / 4).backward()

    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert largest_difference_of_gradients(slow, fast) < 1e-6
    if is_tied:  # control: the head's part alone is not the gradient
        assert not torch.allclose(fast.tok_emb.weight.grad[ids[0, 0]], torch.zeros(32))
        hidden = fast.hidden(ids).detach()
        head_only = torch.autograd.grad(
            loss_of(lambda _: hidden @ fast.out_head.weight.t(), ids, targets) / 4,
            fast.out_head.weight,
        )[0]
        assert (head_only - fast.tok_emb.weight.grad).abs().max() > 1e-4


def test_a_second_backward_pass_is_an_error_instead_of_wrong_gradients():
    slow, fast = two_models()
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    loss = fast.loss(ids, targets)
    (3 * loss).backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (3 * loss).backward()
    (3 * loss_of(slow, ids, targets)).backward()  # control: the first pass was right
    assert largest_difference_of_gradients(slow, fast) < 1e-6


def test_the_loss_without_gradients_is_the_same_and_computes_none(monkeypatch):
    _, fast = two_models()
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    with_gradients, products = fast.loss(ids, targets), []
    monkeypatch.setattr(gpt_fast, "add_product", lambda *_: products.append(1))
    with torch.no_grad():
        without = fast.loss(ids, targets)

    assert torch.equal(with_gradients, without) and not without.requires_grad
    assert not products
    fast.loss(ids, targets)  # control
    assert products


@pytest.mark.parametrize("is_tied", [False, True])
def test_50_steps_of_training_have_the_same_losses(is_tied):
    slow, fast = two_models(is_tied=is_tied)
    batches = [random_ids(2, CONTEXT, seed=n) for n in range(5)]
    curves = {}
    for model, loss_function in ((slow, loss_of), (fast, GPTFast.loss)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=model is fast)
        curve = []
        for step in range(50):
            ids = batches[step % len(batches)]
            loss = loss_function(model, ids, ids.roll(-1, dims=1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            curve.append(loss.item())
        curves[model] = torch.tensor(curve)

    assert (curves[slow] - curves[fast]).abs().max() < 1e-3
    assert curves[slow][0] - curves[slow][-1] > 0.3  # control: it is a curve


def test_bf16_autocast_rounds_as_much_as_that_of_chapter_4():
    """Both are compared with float32; the gradients of the parameters stay float32."""
    slow, fast = two_models()
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    loss_of(slow, ids, targets).backward()
    exact = [parameter.grad.clone() for parameter in slow.parameters()]
    distances = []
    for model, loss_function in ((slow, loss_of), (fast, GPTFast.loss)):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_function(model, ids, targets)
        loss.backward()
        found = [parameter.grad for parameter in model.parameters()]
        assert loss.dtype == torch.float32 and {grad.dtype for grad in found} == {torch.float32}
        pairs = zip(found, exact, strict=True)
        distances.append(torch.stack([(a - b).norm() / b.norm() for a, b in pairs]))

    assert distances[1].mean() < 1.2 * distances[0].mean() < 0.01
    assert distances[1].min() > 1e-4  # control: 16 bits were used


@pytest.mark.slow  # of the first compilation
def test_torch_compile_gives_the_same_loss_and_gradients():
    slow, fast = two_models(is_tied=True)
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    expected = loss_of(slow, ids, targets)
    expected.backward()
    loss = torch.compile(fast.loss, backend="aot_eager")(ids, targets)
    loss.backward()

    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert largest_difference_of_gradients(slow, fast) < 1e-6
    slow.zero_grad()  # control
    loss_of(slow, ids, ids).backward()
    assert largest_difference_of_gradients(slow, fast) > 1e-3


# --- less memory -------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest result of any operation has."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_no_tensor_holds_the_logits_of_all_tokens(monkeypatch):
    monkeypatch.setitem(gpt_fast.CHUNK_TOKENS, "cpu", 16)
    slow, fast = two_models(n_layers=1, vocab_size=2000)
    ids, targets = random_ids(5, CONTEXT), random_ids(5, CONTEXT, seed=1)
    with LargestTensor() as of_slow:
        loss_of(slow, ids, targets).backward()
    with LargestTensor() as of_fast:
        fast.loss(ids, targets).backward()

    assert of_fast.size == 2000 * 32  # the head's weight: more than 16 tokens' logits
    assert of_slow.size == 5 * CONTEXT * 2000  # control


def test_attention_never_holds_its_scores():
    torch.manual_seed(0)
    slow = MultiHeadAttention(8, 8, 64, dropout=0.0, num_heads=2)
    fast = FastAttention(8, 8, 64, dropout=0.0, num_heads=2)
    x = torch.randn(1, 64, 8)
    with LargestTensor() as of_slow:
        slow(x).sum().backward()
    with LargestTensor() as of_fast:
        fast(x).sum().backward()

    assert of_fast.size < 2 * 64 * 64 == of_slow.size


# --- the same model ----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights():
    weights = []
    for kind in (GPTModel, GPTFast):
        torch.manual_seed(5)
        weights.append(kind(CFG).state_dict())
    slow, fast = weights
    assert list(slow) == list(fast)
    assert all(torch.equal(slow[name], fast[name]) for name in slow)
    assert slow["out_head.weight"].std() > 0  # control


@pytest.mark.parametrize("kinds", [(GPTModel, GPTFast), (GPTFast, GPTModel)])
def test_a_state_dict_loads_both_ways(kinds):
    torch.manual_seed(0)
    source, target = (kind(CFG) for kind in kinds)
    ids = random_ids(2, 5)
    assert not torch.allclose(source(ids), target(ids), atol=1e-5)  # control
    target.load_state_dict(source.state_dict())  # strict: the same names, no more, no less
    torch.testing.assert_close(source(ids), target(ids), atol=1e-5, rtol=0)


def test_every_layer_that_has_a_faster_class_gets_it():
    model = GPTModel(CFG)
    slow = {LayerNorm: 2 * 3 + 1, GELU: 3, MultiHeadAttention: 3}
    assert {kind: sum(type(m) is kind for m in model.modules()) for kind in slow} == slow
    swap_parts(model, {GELU: FAST_PARTS[GELU]})
    assert {type(m) for m in model.modules()} & {*slow, *FAST_PARTS.values()} == {
        LayerNorm,
        MultiHeadAttention,
        FAST_PARTS[GELU],
    }
    assert not {type(m) for m in GPTFast(CFG).modules()} & set(slow)


# --- dropout -----------------------------------------------------------------------------------


def test_dropout_is_active_in_training_only():
    slow, fast = two_models(drop_rate=0.3)
    ids, targets = random_ids(2, 5), random_ids(2, 5, seed=1)
    assert not torch.equal(fast.train()(ids), fast(ids))
    assert fast.loss(ids, targets) != fast.loss(ids, targets)
    fast.eval(), slow.eval()
    torch.testing.assert_close(fast(ids), slow(ids), atol=1e-5, rtol=0)
    assert fast.loss(ids, targets) == fast.loss(ids, targets)


def test_dropout_scatters_the_outputs_as_in_chapter_4():
    """Mean and spread over many draws, of attention alone and of the whole model."""
    slow, fast = two_models(drop_rate=0.2, n_layers=1)
    x, ids = torch.randn(1, 6, 32), random_ids(1, 6)
    draws = {}
    for name, model in (("slow", slow), ("fast", fast)):
        torch.manual_seed(0)
        attention = model.trf_blocks[0].att(x.expand(4000, -1, -1))
        whole = model(ids.expand(4000, -1))
        draws[name] = [attention, whole]
    for expected, found in zip(draws["slow"], draws["fast"], strict=True):
        error = expected.std(0).mean() / 4000**0.5
        assert (expected.mean(0) - found.mean(0)).abs().mean() < 2 * error
        spread = found.std(0).mean() / expected.std(0).mean()
        assert abs(spread - 1) < 0.02


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "targets", "message"),
    [
        (random_ids(1, CONTEXT + 1), random_ids(1, CONTEXT + 1), "25 tokens, more than .*=24"),
        (random_ids(2, 5), random_ids(2, 4), r"shape of the ids, \(2, 5\), but have \(2, 4\)"),
        (random_ids(2, 5), random_ids(10), r"shape of the ids, \(2, 5\), but have \(10,\)"),
        (random_ids(5), random_ids(5), r"\(batch, tokens\), but have \(5,\)"),
        (random_ids(1, 5), random_ids(1, 5) + VOCAB, "the vocabulary has the ids 0 to 96"),
        (random_ids(1, 5), -random_ids(1, 5) - 1, "the vocabulary has the ids 0 to 96"),
        (random_ids(1, 0), random_ids(1, 0), "no token"),
    ],
)
def test_what_does_not_fit_is_named(ids, targets, message):
    _, fast = two_models()
    with pytest.raises(ValueError, match=message):
        fast.loss(ids, targets)
    assert fast.loss(random_ids(1, 5), random_ids(1, 5)).isfinite()  # control


# --- a loss of few ids -------------------------------------------------------------------------


def test_a_sampled_loss_of_all_ids_is_the_exact_one():
    _, fast = two_models(is_tied=True)
    ids, targets = random_ids(2, 9), random_ids(2, 9, seed=1)
    fast.loss(ids, targets).backward()
    exact = {name: p.grad.clone() for name, p in fast.named_parameters()}
    fast.zero_grad()
    fast.sampled_ids = VOCAB
    loss = fast.loss(ids, targets)
    loss.backward()
    torch.testing.assert_close(loss, loss_of(fast, ids, targets), atol=1e-5, rtol=0)
    for name, p in fast.named_parameters():
        torch.testing.assert_close(p.grad, exact[name], atol=1e-6, rtol=0)
    fast.sampled_ids = 5  # control
    assert not torch.allclose(fast.loss(ids, targets), loss, atol=1e-5)
    fast.eval()  # an evaluation leaves no id out
    torch.testing.assert_close(fast.loss(ids, targets), loss, atol=1e-5, rtol=0)


def test_a_sampled_loss_is_right_on_average():
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 16), 0.3 * torch.randn(2000, 16)
    targets = torch.randint(100, (40,))
    exact = F.cross_entropy(hidden @ weight.t(), targets)
    estimates = torch.stack(
        [sampled_cross_entropy(hidden, weight, targets, 200) for _ in range(50)]
    )
    assert estimates.std() > 1e-3
    assert (estimates.mean() - exact).abs() < 0.02
    # Control: if the drawn ids did not stand for the rest, the loss would be far too small.
    rows = torch.cat([targets.unique(), torch.arange(100, 300)])
    places = torch.searchsorted(targets.unique(), targets)
    assert F.cross_entropy(hidden @ weight[rows].t(), places) < exact - 1


def test_a_wrong_configuration_is_named():
    with pytest.raises(ValueError, match="32 / 5"):
        GPTFast({**CFG, "n_heads": 5})
    GPTFast({**CFG, "n_heads": 8})  # control


# --- on a GPU ----------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU on this machine")
@pytest.mark.parametrize("is_tied", [False, True])
def test_loss_and_gradients_are_the_same_on_a_gpu(is_tied):
    slow, fast = two_models(is_tied=is_tied)
    ids, targets = random_ids(2, CONTEXT), random_ids(2, CONTEXT, seed=1)
    expected = loss_of(slow, ids, targets)
    expected.backward()
    loss = fast.to("cuda").loss(ids.cuda(), targets.cuda())
    loss.backward()
    fast.cpu()  # and its gradients

    torch.testing.assert_close(loss.cpu(), expected, atol=1e-5, rtol=1e-5)
    assert largest_difference_of_gradients(slow, fast) < 1e-5
    assert max(parameter.grad.abs().max() for parameter in slow.parameters()) > 1e-3  # control
