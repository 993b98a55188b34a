"""New special tokens: the old text, the old rows and the old logits stay; bad tokens are named."""

import pytest
import tiktoken
import torch

import companion
from extended_tokenizer import add_tokens, extend_encoding, grow_vocabulary
from gpt import GPTModel

CHAT = ["<|user|>", "<|assistant|>", "<|end|>"]
CFG = {
    "vocab_size": 53,
    "context_length": 8,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
IDS = torch.tensor([[1, 52, 7, 0, 30], [2, 3, 4, 5, 6]])


@pytest.fixture(scope="module")
def gpt2():
    companion.prepare_tokenizer()
    return tiktoken.get_encoding("gpt2")


def new_model(is_tied, **changes):
    torch.manual_seed(0)
    model = GPTModel({**CFG, **changes}).eval()
    if is_tied:
        model.out_head.weight = model.tok_emb.weight
    return model


def hidden(model, ids):
    """What the head is given, (B, T, C)."""
    seen = []
    hook = model.final_norm.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        model(ids)
    hook.remove()
    return seen[0]


# The tokenizer


def test_each_new_token_is_one_id_after_the_last(gpt2):
    extended = extend_encoding(gpt2, CHAT)
    assert [extended.encode(token, allowed_special="all") for token in CHAT] == [
        [50257],
        [50258],
        [50259],
    ]
    assert (gpt2.n_vocab, extended.n_vocab) == (50257, 50260)
    assert len(gpt2.encode(CHAT[0])) == 5  # control


@pytest.mark.parametrize("text", ["", "Every effort moves you", "<|user> x|", " \n\t é 日本 🙂"])
def test_other_text_is_encoded_as_before(text, gpt2):
    assert extend_encoding(gpt2, CHAT).encode(text) == gpt2.encode(text)


def test_a_text_with_new_tokens_comes_back(gpt2):
    extended = extend_encoding(gpt2, CHAT)
    text = "<|user|>Hi<|endoftext|> you<|end|>"
    ids = extended.encode(text, allowed_special="all")
    assert ids == [50257, *gpt2.encode("Hi"), 50256, *gpt2.encode(" you"), 50259]
    assert extended.decode(ids) == text


def test_a_users_text_cannot_bring_a_special_token_in(gpt2):
    extended = extend_encoding(gpt2, CHAT)
    with pytest.raises(ValueError, match="disallowed special token"):
        extended.encode("<|assistant|>Yes")
    ids = extended.encode("<|assistant|>Yes", disallowed_special=())
    assert ids == gpt2.encode("<|assistant|>Yes")
    assert max(ids) < 50257


def test_an_extended_tokenizer_can_be_extended_again(gpt2):
    twice = extend_encoding(extend_encoding(gpt2, CHAT[:2]), CHAT[2:])
    assert twice._special_tokens == extend_encoding(gpt2, CHAT)._special_tokens


@pytest.mark.parametrize(
    "tokens, error, message",
    [
        ("<|user|>", TypeError, r"list of texts, but is '<\|user\|>'"),
        ([7], TypeError, r"list of texts, but is \[7\]"),
        ([], ValueError, "at least one text"),
        (["<|user|>", ""], ValueError, "a character at least"),
        (["<|user|>", "<|user|>"], ValueError, r"'<\|user\|>' is given 2 times"),
        (["<|endoftext|>"], ValueError, "token already, with the id 50256"),
        ([" effort"], ValueError, "' effort' is a token already, with the id 3626"),
        (["<|a|>", "<|a|>b"], ValueError, r"'<\|a\|>b' begins with '<\|a\|>'"),
        (["<|endoftext|>2"], ValueError, r"begins with '<\|endoftext\|>'"),
        (["<|a"], None, None),  # control
    ],
)
def test_a_token_that_cannot_be_added_is_named(tokens, error, message, gpt2):
    if error is None:
        extend_encoding(gpt2, tokens)
        return
    with pytest.raises(error, match=message):
        extend_encoding(gpt2, tokens)


def test_tiktoken_never_finds_a_token_that_begins_with_another(gpt2):
    """The reason for refusing it."""
    special = {**gpt2._special_tokens, "<|a|>": 50257, "<|a|>b": 50258}
    careless = tiktoken.Encoding(
        "x",
        pat_str=gpt2._pat_str,
        mergeable_ranks=gpt2._mergeable_ranks,
        special_tokens=special,
    )
    assert careless.encode("<|a|>b", allowed_special="all") == [50257, *gpt2.encode("b")]


# The model


@pytest.mark.parametrize("is_tied", [True, False])
def test_all_that_is_old_stays_bit_for_bit(is_tied):
    model = new_model(is_tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = hidden(model, IDS)
    grow_vocabulary(model, 3)
    after = model.state_dict()
    for name in ("tok_emb.weight", "out_head.weight"):
        assert after[name].shape == (56, 16)
        after[name] = after[name][:53]
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert torch.equal(hidden(model, IDS), seen)
    with torch.no_grad():
        model.tok_emb.weight[52] += 1  # control
    assert not torch.equal(hidden(model, IDS), seen)


@pytest.mark.parametrize("is_tied", [True, False])
def test_old_logits_stay_but_for_the_order_of_additions(is_tied):
    model = new_model(is_tied)
    with torch.no_grad():
        before = model(IDS)
        grow_vocabulary(model, 3)
        after = model(IDS)
    assert after.shape == (2, 5, 56)
    torch.testing.assert_close(after[..., :53], before, rtol=1e-6, atol=1e-5)
    assert not torch.allclose(after[..., 3:], before, atol=0.1)  # control


@pytest.mark.parametrize("num_tokens", [1, 5])
def test_where_additions_are_exact_old_logits_stay_bit_for_bit(num_tokens):
    model = new_model(is_tied=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-8, 9, (1, num_tokens, 16), generator=generator).float()
    with torch.no_grad():
        model.out_head.weight.copy_(torch.randint(-8, 9, (53, 16), generator=generator))
        before = model.out_head(x)
        grow_vocabulary(model, 3)
        after = model.out_head(x)
    assert torch.equal(after[..., :53], before)
    assert before.abs().max() > 1  # control


def test_tied_tables_stay_one_and_equal_ones_equal():
    tied, equal, different = new_model(True), new_model(False), new_model(False)
    with torch.no_grad():
        equal.out_head.weight.copy_(equal.tok_emb.weight)
    for model in (tied, equal, different):
        grow_vocabulary(model, 2)
    assert tied.out_head.weight is tied.tok_emb.weight
    assert equal.out_head.weight is not equal.tok_emb.weight
    assert torch.equal(equal.out_head.weight, equal.tok_emb.weight)
    assert not torch.equal(different.out_head.weight, different.tok_emb.weight)  # control


def test_new_tokens_take_about_their_share_of_probability_at_most():
    """Their logits are the mean of the old ones; exp() of a mean is at most the mean of exp()."""
    model = new_model(is_tied=False)
    grow_vocabulary(model, 3)
    with torch.no_grad():
        share = model(IDS).softmax(dim=-1)[..., 53:].sum(dim=-1)
        assert share.max() < 1.05 * 3 / 56
        model.out_head.weight[53:] = torch.randn(3, 16)  # control: as an embedding starts
        assert model(IDS).softmax(dim=-1)[..., 53:].sum(dim=-1).max() > 3 * 3 / 56


def test_new_rows_differ_and_follow_the_seed():
    models = [new_model(True) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        grow_vocabulary(model, 2, seed)
    first, same, other = (model.tok_emb.weight[53:] for model in models)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_type_and_need_of_gradients_stay():
    model = new_model(is_tied=False).to(torch.bfloat16)
    model.tok_emb.weight.requires_grad_(False)
    grow_vocabulary(model, 2)
    assert model.tok_emb.weight.dtype == model.out_head.weight.dtype == torch.bfloat16
    assert not model.tok_emb.weight.requires_grad
    assert model.out_head.weight.requires_grad


def test_new_ids_are_refused_before_and_learned_after():
    model, ids = new_model(is_tied=False), torch.tensor([[1, 53]])
    with pytest.raises(ValueError, match="1 to 53, but the vocabulary has the ids 0 to 52"):
        model(ids)
    grow_vocabulary(model, 1)
    loss = torch.nn.functional.cross_entropy(model(ids)[0], torch.tensor([53, 2]))
    loss.backward()
    for table in (model.tok_emb.weight, model.out_head.weight):
        assert table.grad[53].abs().sum() > 0


def test_a_grown_model_cannot_grow_without_rows_or_with_unequal_tables():
    model = new_model(is_tied=False)
    with pytest.raises(ValueError, match="at least 1, but is 0"):
        grow_vocabulary(model, 0)
    model.out_head = torch.nn.Linear(16, 60, bias=False)
    with pytest.raises(ValueError, match="tok_emb has 53 rows, but out_head has 60"):
        grow_vocabulary(model, 1)
    assert len(model.tok_emb.weight) == 53


# Both at once


def test_tokenizer_and_model_grow_together(gpt2):
    model = new_model(is_tied=True, vocab_size=50257, emb_dim=4)
    extended = add_tokens(model, gpt2, CHAT)
    ids = torch.tensor([extended.encode("<|user|>Hi<|end|>", allowed_special="all")])
    assert model(ids).shape == (1, 3, extended.n_vocab)


def test_a_model_of_another_vocabulary_is_refused(gpt2):
    model = new_model(is_tied=True)
    with pytest.raises(ValueError, match="rows for 53 tokens, but the tokenizer has 50,257"):
        add_tokens(model, gpt2, CHAT)
    assert len(model.tok_emb.weight) == 53


def test_a_bad_token_leaves_the_model_alone(gpt2):
    model = new_model(is_tied=True, vocab_size=50257, emb_dim=4)
    with pytest.raises(ValueError, match="a token already"):
        add_tokens(model, gpt2, [*CHAT, "<|endoftext|>"])
    assert len(model.tok_emb.weight) == 50257
