"""LoRA: the update, where it goes, what is trained, and the same as the library peft."""

import copy

import pytest
import torch
from torch import nn

from gpt import GPT_CONFIG_124M, GPTModel
from lora import LinearWithLoRA, LoRALayer, merge_lora, replace_linear_with_lora

TOY = {**GPT_CONFIG_124M, "vocab_size": 50, "context_length": 8, "emb_dim": 8, "n_heads": 2}
TOY |= {"n_layers": 2, "drop_rate": 0.0}


def toy_model(rank=None):
    """A small GPT; with a rank, one whose updates are not zero any more."""
    torch.manual_seed(0)
    model = GPTModel(TOY).eval()
    if rank:
        replace_linear_with_lora(model, rank, alpha=2 * rank)
        for name, parameter in model.named_parameters():
            if name.endswith("lora.B"):
                nn.init.normal_(parameter, std=0.1)
    return model


IDS = torch.randint(50, (3, 8), generator=torch.manual_seed(1))


def test_the_update_by_hand():
    layer = LoRALayer(2, 3, rank=1, alpha=4)
    with torch.no_grad():
        layer.A.copy_(torch.tensor([[1.0], [2.0]]))
        layer.B.copy_(torch.tensor([[1.0, 0.0, -1.0]]))
    # 4 / 1 * (3 * 1 + 5 * 2) = 52
    assert layer(torch.tensor([3.0, 5.0])).tolist() == [52.0, 0.0, -52.0]
    layer.rank = 2  # the same matrices count half as much at a rank twice as high
    assert layer(torch.tensor([3.0, 5.0])).tolist() == [26.0, 0.0, -26.0]


def test_a_new_update_changes_nothing():
    model, plain = toy_model(), toy_model()
    replace_linear_with_lora(model, rank=2, alpha=2)
    with torch.no_grad():
        assert torch.equal(model(IDS), plain(IDS))
        assert not torch.allclose(toy_model(rank=2)(IDS), plain(IDS), atol=1e-3)  # control


def test_every_linear_layer_gets_one_update():
    model = toy_model()
    names = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    replace_linear_with_lora(model, rank=2, alpha=2)
    replace_linear_with_lora(model, rank=2, alpha=2)  # a second time adds none
    wrapped = {name for name, module in model.named_modules() if isinstance(module, LinearWithLoRA)}
    assert wrapped == names and len(names) == 2 * 6 + 1
    assert "trf_blocks.1.ff.layers.2.lora.A" in model.state_dict()
    assert "trf_blocks.0.att.W_query.linear.weight" in model.state_dict()


def test_only_updates_are_trained():
    model = toy_model()
    for parameter in model.parameters():
        parameter.requires_grad = False
    replace_linear_with_lora(model, rank=2, alpha=2)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # A has no gradient before B is different from zero
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
        optimizer.step()
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {name for name in before if ".lora." in name}


def test_merged_weights_give_the_same_logits():
    model = toy_model(rank=3)
    with torch.no_grad():
        before = model(IDS)
        merge_lora(model)
        torch.testing.assert_close(model(IDS), before, atol=1e-5, rtol=1e-5)
    assert model.state_dict().keys() == toy_model().state_dict().keys()


def test_a_rank_that_cannot_be_is_told():
    with pytest.raises(ValueError, match="rank must be at least 1, but is 0"):
        LoRALayer(5, 3, rank=0, alpha=1)


@pytest.fixture
def both():
    """A model with our updates, the same with peft's, and the names of the layers that have one."""
    peft = pytest.importorskip("peft")
    ours, theirs = toy_model(rank=3), toy_model()
    names = [name for name, module in theirs.named_modules() if isinstance(module, nn.Linear)]
    config = peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=names)
    theirs = peft.inject_adapter_in_model(config, theirs).eval()
    with torch.no_grad():
        for name in names:
            update, layer = ours.get_submodule(name).lora, theirs.get_submodule(name)
            layer.lora_A["default"].weight.copy_(update.A.T)  # (R, in): nn.Linear's way round
            layer.lora_B["default"].weight.copy_(update.B.T)
    return ours, theirs, names


def test_it_computes_what_peft_does(both):
    ours, theirs, names = both
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS), atol=1e-6, rtol=1e-5)
        theirs.get_submodule(names[-1]).lora_B["default"].weight.zero_()  # control
        assert not torch.allclose(ours(IDS), theirs(IDS), atol=1e-3)


def test_its_gradients_are_those_of_peft(both):
    ours, theirs, names = both
    for model in (ours, theirs):
        nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
    for name in names:
        update, layer = ours.get_submodule(name).lora, theirs.get_submodule(name)
        for matrix, other in [(update.A, layer.lora_A), (update.B, layer.lora_B)]:
            wanted = other["default"].weight.grad.T
            torch.testing.assert_close(matrix.grad, wanted, atol=1e-6, rtol=1e-4)
            assert wanted.abs().max() > 1e-4  # control


def test_merged_weights_are_those_of_peft(both):
    ours, theirs, names = both
    before = {name: ours.get_submodule(name).linear.weight.clone() for name in names}
    merge_lora(ours)
    for name in names:
        layer = theirs.get_submodule(name)
        layer.merge()
        merged = ours.get_submodule(name).weight
        torch.testing.assert_close(merged, layer.base_layer.weight, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(merged, before[name], atol=1e-3)  # control


@pytest.mark.parametrize("rank", [1, 4, 25])
def test_a_is_drawn_between_plus_and_minus_one_over_the_root_of_the_rank(rank):
    torch.manual_seed(0)
    drawn = LoRALayer(400, 3, rank, alpha=1).A.abs().max().item()
    assert 0.95 / rank**0.5 < drawn <= 1 / rank**0.5


def test_the_books_numbers_of_parameters():
    def trained(model):
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    with torch.device("meta"):
        model = GPTModel({**GPT_CONFIG_124M, "qkv_bias": True})
        model.out_head = nn.Linear(768, 2)
        assert trained(model) == 124_441_346
        for parameter in model.parameters():
            parameter.requires_grad = False
        assert trained(model) == 0
        replace_linear_with_lora(model, rank=16, alpha=16)
        assert trained(model) == 2_666_528
