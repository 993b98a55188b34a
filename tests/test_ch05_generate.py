"""Chapter 5's generator: temperature, top-k, end token, streaming and the command line."""

import io
import math
import subprocess
import sys

import pytest
import tiktoken
import torch

import gpt_generate
from gpt import GPTModel, generate_text_simple
from gpt_generate import (
    check_sampling,
    choose_next,
    count_draws,
    generate,
    keep_top_k,
    softmax_with_temperature,
    stream,
    write,
)
from gpt_train import GPT_CONFIG_STORY, save_checkpoint
from gpt_with_kv_cache import GPTModelWithCache

TINY = {
    "vocab_size": 30,
    "context_length": 12,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])  # section 5.3


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GPTModelWithCache(TINY).eval()
    with torch.no_grad():
        model.out_head.weight *= 5  # scores far enough apart for a clear choice
    return model


@pytest.fixture
def prompt():
    return torch.tensor([[3, 1, 4, 1, 5]])


# Probabilities


@pytest.mark.parametrize("temperature", [0.1, 1, 5])
def test_a_temperature_divides_the_logits(temperature):
    weights = [math.exp(logit / temperature) for logit in LOGITS.tolist()]
    expected = torch.tensor([weight / sum(weights) for weight in weights])
    torch.testing.assert_close(softmax_with_temperature(LOGITS, temperature), expected)


def test_a_batch_gets_the_probabilities_of_each_row():
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    both = softmax_with_temperature(rows, 2.0)
    torch.testing.assert_close(both[1], softmax_with_temperature(rows[1], 2.0))
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_the_logits_are_not_divided_by_zero(temperature):
    with pytest.raises(ValueError, match=f"temperature must be above 0, but is {temperature}"):
        softmax_with_temperature(LOGITS, temperature)


def test_the_books_counts_are_drawn():
    counts = count_draws(softmax_with_temperature(LOGITS, 1))
    assert counts == [73, 0, 0, 582, 2, 0, 0, 343, 0]
    assert count_draws(softmax_with_temperature(LOGITS, 0.1))[3] == 985
    assert count_draws(softmax_with_temperature(LOGITS, 5))[6] == 32
    assert sum(counts) == 1000


@pytest.mark.parametrize(
    "probas",
    [
        LOGITS,
        torch.tensor([0.5, 0.4]),
        torch.tensor([1.5, -0.5]),
        torch.tensor([math.nan, 1.0]),
        torch.tensor([[0.5, 0.5]]),
    ],
)
def test_what_is_no_vector_of_probabilities_is_refused(probas):
    with pytest.raises(ValueError, match="vector of numbers from 0 on with the sum 1"):
        count_draws(probas)


def test_the_k_largest_logits_are_kept_in_each_row():
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    kept = keep_top_k(rows, 3)
    assert kept.isfinite().nonzero().tolist() == [[0, 0], [0, 3], [0, 7], [1, 1], [1, 5], [1, 8]]
    assert torch.equal(kept[kept.isfinite()], rows[kept.isfinite()])
    assert torch.equal(keep_top_k(LOGITS, 9), LOGITS)  # control


# Choosing


def test_at_temperature_0_the_likeliest_is_chosen():
    rows = torch.stack([LOGITS, LOGITS.flip(0)])
    assert choose_next(rows).tolist() == [[3], [5]]
    assert choose_next(rows, temperature=5.0, top_k=1).tolist() == [[3], [5]]


def test_only_the_k_likeliest_are_drawn():
    torch.manual_seed(0)
    rows = LOGITS.expand(2000, 9)
    drawn = choose_next(rows, temperature=5.0, top_k=3)
    assert set(drawn.flatten().tolist()) == {0, 3, 7}
    assert set(choose_next(rows, temperature=5.0).flatten().tolist()) == set(range(9))  # control


def test_draws_follow_the_probabilities():
    torch.manual_seed(0)
    drawn = choose_next(LOGITS.expand(20_000, 9), temperature=2.0).flatten()
    shares = torch.bincount(drawn, minlength=9) / 20_000
    torch.testing.assert_close(shares, softmax_with_temperature(LOGITS, 2.0), rtol=0, atol=0.015)


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_temperature_below_0_or_no_number_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature .*{temperature}"):
        choose_next(LOGITS[None], temperature=temperature)


@pytest.mark.parametrize("top_k", [0, -1, 10])
def test_a_top_k_outside_the_vocabulary_is_refused_with_both_numbers(top_k):
    with pytest.raises(ValueError, match=f"top_k must be 1 to .*, 9, but is {top_k}"):
        choose_next(LOGITS[None], temperature=1.0, top_k=top_k)
    check_sampling(1.0, 9, 9)  # control


def test_a_logit_that_is_no_number_is_refused():
    logits = LOGITS.clone()
    logits[2] = math.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="NaN"):
            choose_next(logits[None], temperature)


# Generating


def test_without_settings_it_is_the_greedy_text(model, prompt):
    greedy = generate_text_simple(model, prompt, 20, 12)
    assert torch.equal(generate(model, prompt, 20, 12), greedy)
    assert torch.equal(generate(model, prompt, 20, 12, temperature=3.0, top_k=1), greedy)
    torch.manual_seed(1)
    assert not torch.equal(generate(model, prompt, 20, 12, temperature=3.0), greedy)  # control


def test_the_same_seed_gives_the_same_text(model, prompt):
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append(generate(model, prompt, 20, 12, temperature=2.0, top_k=20))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_the_text_ends_before_the_end_token(model, prompt):
    whole = generate(model, prompt, 20, 12)[0].tolist()
    new = whole[5:]
    eos_id = next(token for token in new[3:] if token not in new[:3])
    ended = generate(model, prompt, 20, 12, eos_id=eos_id)[0].tolist()
    assert ended == whole[: 5 + new.index(eos_id)]
    absent = next(token for token in range(30) if token not in new)
    assert generate(model, prompt, 20, 12, eos_id=absent)[0].tolist() == whole  # control


def test_a_batch_goes_on_until_all_texts_have_ended(model):
    prompts = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
    alone = [generate(model, row[None], 20, 12)[0, 5:].tolist() for row in prompts]
    shared = [token for token in alone[0] if token in alone[1]]
    eos_id = next(token for token in shared if alone[0].index(token) != alone[1].index(token))
    ends = [new.index(eos_id) for new in alone]
    together = generate(model, prompts, 20, 12, eos_id=eos_id)[:, 5:].tolist()
    assert len(together[0]) == max(ends)
    for row, new, end in zip(together, alone, ends, strict=True):
        assert row == new[:end] + [eos_id] * (max(ends) - end)


def test_no_gradients_are_kept(model, prompt):
    generate(model, prompt, 2, 12)
    assert model(prompt).grad_fn is not None  # control: the model itself records them
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "idx, max_new_tokens, message",
    [
        (torch.zeros(1, 0, dtype=torch.long), 5, r"\(1, 0\)"),
        (torch.tensor([1, 2]), 5, r"\(2,\)"),
        (torch.tensor([[1, 2]]), -1, "max_new_tokens must be at least 0, but is -1"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_impossible_request_is_refused(model, idx, max_new_tokens, message, is_streamed):
    with pytest.raises(ValueError, match=message):
        if is_streamed:
            list(stream(model, idx, max_new_tokens))
        else:
            generate(model, idx, max_new_tokens, 12)


# Streaming


@pytest.mark.parametrize("temperature, top_k", [(0.0, None), (1.5, None), (1.5, 5)])
@pytest.mark.parametrize("num_prompt_tokens", [1, 5, 12, 20])
def test_a_stream_gives_the_tokens_of_generate_also_when_the_window_slides(
    model, temperature, top_k, num_prompt_tokens
):
    prompt = torch.randint(30, (1, num_prompt_tokens), generator=torch.manual_seed(3))
    torch.manual_seed(4)
    expected = generate(model, prompt, 30, 12, temperature, top_k)[0, num_prompt_tokens:]
    torch.manual_seed(4)
    assert list(stream(model, prompt, 30, temperature, top_k)) == expected.tolist()


def test_a_stream_ends_at_the_end_token(model, prompt):
    new = list(stream(model, prompt, 20))
    assert list(stream(model, prompt, 20, eos_id=new[4])) == new[: new.index(new[4])]


class Telltale(io.StringIO):
    """Standard output that notes what had been asked of the model at each write."""

    def __init__(self, asked):
        super().__init__()
        self.asked, self.seen = asked, []

    def write(self, text):
        self.seen.append((len(self.asked), text))
        return super().write(text)


def test_a_token_is_written_as_soon_as_it_is_chosen(monkeypatch):
    asked = []
    ids = tiktoken.get_encoding("gpt2").encode(" cats and dogs")
    out = Telltale(asked)

    def slow_stream(*_, **__):
        for token_id in ids:
            asked.append(token_id)
            yield token_id

    monkeypatch.setattr(gpt_generate, "stream", slow_stream)
    write(GPTModel(TINY), "I like", 3, out=out)
    assert out.getvalue() == "I like cats and dogs\n"
    written = [(count, text) for count, text in out.seen if text.strip()]
    assert written == [(0, "I like"), (1, " cats"), (2, " and"), (3, " dogs")]


def test_a_character_of_several_tokens_is_written_whole(monkeypatch):
    ids = tiktoken.get_encoding("gpt2").encode(" 猫 and")
    assert len(ids) > 3  # the character alone takes several
    monkeypatch.setattr(gpt_generate, "stream", lambda *_, **__: iter(ids))
    out = io.StringIO()
    write(GPTModel(TINY), "A", 5, out=out)
    assert out.getvalue() == "A 猫 and\n"
    monkeypatch.setattr(gpt_generate, "stream", lambda *_, **__: iter(ids[:2]))
    out = io.StringIO()
    write(GPTModel(TINY), "A", 5, out=out)
    assert out.getvalue().endswith("\N{REPLACEMENT CHARACTER}\n")  # control: half of it


# The command line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    cfg = {**GPT_CONFIG_STORY, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "context_length": 16}
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "story.pth"
    save_checkpoint(path, GPTModel(cfg), cfg)
    return str(path)


def run(capsys, *arguments):
    """Status, standard output and standard error of the command line."""
    status = gpt_generate.main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_same_seed_writes_the_same_text(capsys, checkpoint):
    common = ["--model", checkpoint, "--prompt", "Once", "--temperature", "1", "--top-k", "500"]
    first, again, other = (run(capsys, *common, "--seed", seed) for seed in ("1", "1", "2"))
    assert first == again
    assert first[0] == 0
    assert first[1].startswith("Once")
    assert first[1] != other[1]


def test_the_prompt_may_come_from_standard_input(capsys, checkpoint, monkeypatch):
    _, expected, _ = run(capsys, "--model", checkpoint, "--prompt", "Two\nlines")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two\nlines\n"))
    assert run(capsys, "--model", checkpoint)[1] == expected


def test_the_number_of_new_tokens_is_kept(capsys, checkpoint):
    for number in (0, 3):
        _, out, _ = run(
            capsys, "--model", checkpoint, "--prompt", "Once", "--max-new-tokens", str(number)
        )
        assert len(tiktoken.get_encoding("gpt2").encode(out.removesuffix("\n"))) == 1 + number


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--temperature", "-1"], "temperature must be a number from 0 on, but is -1.0"),
        (["--top-k", "0"], "top_k must be 1 to the size of the vocabulary, 50257, but is 0"),
        (["--top-k", "50258"], "but is 50258"),
        (["--max-new-tokens", "-1"], "max_new_tokens must be at least 0, but is -1"),
        (["--prompt", ""], "The prompt is empty"),
        (["--model", "missing.pth"], "no checkpoint missing.pth"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_written(
    capsys, checkpoint, arguments, message
):
    status, out, err = run(capsys, "--model", checkpoint, "--prompt", "Once", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_it_runs_as_a_script(checkpoint):
    done = subprocess.run(
        [sys.executable, gpt_generate.__file__, "--model", checkpoint, "--max-new-tokens", "2"],
        input="Every effort",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Every effort")
    assert done.stderr == ""
