"""Chapter 4's model equals GPT-2 as `transformers` has it, and its parts those of PyTorch."""

import pytest
import torch

from gpt import GELU, GPT_CONFIG_124M, GPTModel, LayerNorm, generate_text_simple

transformers = pytest.importorskip("transformers")

TINY = {
    "vocab_size": 97,
    "context_length": 24,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.1,
    "qkv_bias": True,  # GPT-2 has them
}
OF_124M = {**GPT_CONFIG_124M, "qkv_bias": True}


def reference(cfg):
    """GPT-2 by `transformers`, every parameter random: also the biases, which start as zeros."""
    config = transformers.GPT2Config(
        vocab_size=cfg["vocab_size"],
        n_positions=cfg["context_length"],
        n_embd=cfg["emb_dim"],
        n_layer=cfg["n_layers"],
        n_head=cfg["n_heads"],
        bos_token_id=0,
        eos_token_id=None,  # generation must not stop early
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model


def in_our_names(state, n_layers):
    """GPT-2's state dict in the names and shapes of `GPTModel`.

    `transformers` keeps queries, keys and values in one matrix, and every matrix of a block as
    (inputs, outputs), where `nn.Linear` has (outputs, inputs).
    """
    ours = {
        "tok_emb.weight": state["transformer.wte.weight"],
        "pos_emb.weight": state["transformer.wpe.weight"],
        "final_norm.scale": state["transformer.ln_f.weight"],
        "final_norm.shift": state["transformer.ln_f.bias"],
        "out_head.weight": state["lm_head.weight"],
    }
    linear = {"att.out_proj": "attn.c_proj", "ff.layers.0": "mlp.c_fc", "ff.layers.2": "mlp.c_proj"}
    for block in range(n_layers):
        here, there = f"trf_blocks.{block}", f"transformer.h.{block}"
        for our_norm, their_norm in {"norm1": "ln_1", "norm2": "ln_2"}.items():
            ours[f"{here}.{our_norm}.scale"] = state[f"{there}.{their_norm}.weight"]
            ours[f"{here}.{our_norm}.shift"] = state[f"{there}.{their_norm}.bias"]
        for our_layer, their_layer in linear.items():
            ours[f"{here}.{our_layer}.weight"] = state[f"{there}.{their_layer}.weight"].T
            ours[f"{here}.{our_layer}.bias"] = state[f"{there}.{their_layer}.bias"]
        weights = state[f"{there}.attn.c_attn.weight"].T.chunk(3)
        biases = state[f"{there}.attn.c_attn.bias"].chunk(3)
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            ours[f"{here}.att.W_{part}.weight"] = weight
            ours[f"{here}.att.W_{part}.bias"] = bias
    return ours


def with_weights_of(theirs, cfg):
    ours = GPTModel(cfg).eval()
    state = in_our_names(theirs.state_dict(), cfg["n_layers"])
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(name.endswith("att.mask") for name in missing)
    return ours


def random_ids(cfg, batch_size, num_tokens):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(cfg["vocab_size"], (batch_size, num_tokens), generator=generator)


@pytest.fixture(scope="module")
def theirs():
    return reference(TINY)


@pytest.fixture
def ours(theirs):
    return with_weights_of(theirs, TINY)


@torch.no_grad()
def largest_difference(ours, theirs, ids):
    return (ours(ids) - theirs(ids).logits).abs().max().item()


@pytest.mark.parametrize("num_tokens", [1, 7, 24])
def test_the_logits_are_those_of_transformers(ours, theirs, num_tokens):
    ids = random_ids(TINY, 3, num_tokens)
    assert largest_difference(ours, theirs, ids) < 1e-5
    assert theirs(ids).logits.std() > 0.1  # control: they are not all about zero


def test_every_parameter_takes_part_in_the_logits(ours, theirs):
    """The control of the test above: no parameter can be wrong without moving the logits.

    Except the bias of the keys. It adds the same number to all scores of a query, and the softmax
    does not see that.
    """
    ids = random_ids(TINY, 3, 24)
    unseen = []
    for name, parameter in ours.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        if largest_difference(ours, theirs, ids) < 1e-3:
            unseen.append(name)
        parameter.data.copy_(before)
    assert unseen == [f"trf_blocks.{block}.att.W_key.bias" for block in range(TINY["n_layers"])]
    assert largest_difference(ours, theirs, ids) < 1e-5


def test_the_gradients_are_those_of_transformers(ours, theirs):
    """Also of the loss, which `transformers` computes by itself from the unshifted ids."""
    ids = random_ids(TINY, 3, 24)
    our_loss = torch.nn.functional.cross_entropy(
        ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    their_loss = theirs(ids, labels=ids).loss
    torch.testing.assert_close(our_loss, their_loss, atol=1e-5, rtol=0)

    theirs.zero_grad()
    our_loss.backward()
    their_loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    gradients["lm_head.weight"] = gradients["transformer.wte.weight"]  # one matrix, used twice
    wanted = in_our_names(gradients, TINY["n_layers"])
    of_both_uses = ours.tok_emb.weight.grad + ours.out_head.weight.grad
    for name, parameter in ours.named_parameters():
        gradient = of_both_uses if name in ("tok_emb.weight", "out_head.weight") else parameter.grad
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours.tok_emb.weight.grad, wanted["tok_emb.weight"])  # control


@torch.no_grad()
def greedy(ours, theirs, cfg, prompt, max_new_tokens):
    """Both continuations of a prompt."""
    our_ids = generate_text_simple(ours, prompt, max_new_tokens, cfg["context_length"])
    their_ids = theirs.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=0,
    )
    return our_ids, their_ids


def test_the_greedy_tokens_are_those_of_transformers(ours, theirs):
    prompt = random_ids(TINY, 4, 4)
    our_ids, their_ids = greedy(ours, theirs, TINY, prompt, max_new_tokens=20)
    assert torch.equal(our_ids, their_ids)
    others, _ = greedy(GPTModel(TINY).eval(), theirs, TINY, prompt, max_new_tokens=20)
    assert not torch.equal(our_ids, others)  # control: other weights write something else
    assert len(our_ids[:, 4:].unique()) > 4  # control: not one token forever


@pytest.mark.slow
def test_124m_agrees_with_transformers_in_logits_and_greedy_tokens():
    theirs = reference(OF_124M)
    ours = with_weights_of(theirs, OF_124M)
    ids = random_ids(OF_124M, 2, 32)
    assert largest_difference(ours, theirs, ids) < 1e-5
    our_ids, their_ids = greedy(ours, theirs, OF_124M, ids[:, :4], max_new_tokens=8)
    assert torch.equal(our_ids, their_ids)
    with torch.no_grad():
        ours.trf_blocks[11].norm2.shift += 0.5
    assert largest_difference(ours, theirs, ids) > 1e-3  # control


# The parts


def values_and_gradients(layer, x):
    """The output, and the gradients of a loss of it by the input and by each parameter."""
    x = x.clone().requires_grad_()
    y = layer(x)
    parameters = list(layer.parameters()) if isinstance(layer, torch.nn.Module) else []
    weights = torch.linspace(-1, 2, y.numel()).view_as(y)
    return [y, *torch.autograd.grad((weights * y).sum(), [x, *parameters])]


def test_layer_norm_is_pytorchs():
    torch.manual_seed(0)
    scale, shift, x = torch.randn(12), torch.randn(12), 3 * torch.randn(2, 5, 12) + 1
    ours, theirs = LayerNorm(12), torch.nn.LayerNorm(12)
    ours.load_state_dict({"scale": scale, "shift": shift})
    theirs.load_state_dict({"weight": scale, "bias": shift})
    wanted = values_and_gradients(theirs, x)
    for got, want in zip(values_and_gradients(ours, x), wanted, strict=True):
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)

    unbiased = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + ours.eps).sqrt()
    assert not torch.allclose(scale * unbiased + shift, wanted[0], atol=1e-2)  # control


def test_layer_norm_takes_vectors_without_variance():
    """Such a vector tells only its mean, which is taken away; the shift is left."""
    constant = torch.full((1, 2, 12), 7.0)
    assert torch.equal(LayerNorm(12)(constant), torch.zeros(1, 2, 12))
    broken = LayerNorm(12)
    broken.eps = 0.0
    assert broken(constant).isnan().all()  # control


def test_gelu_is_pytorchs_tanh_formula():
    x = torch.cat([torch.linspace(-6, 6, 301), torch.tensor([-50.0, 0.0, 50.0])])
    theirs = [
        values_and_gradients(lambda x, kind=kind: torch.nn.functional.gelu(x, approximate=kind), x)
        for kind in ("tanh", "none")
    ]
    for got, want in zip(values_and_gradients(GELU(), x), theirs[0], strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(GELU()(x), theirs[1][0], atol=1e-4)  # control: the exact GELU differs
