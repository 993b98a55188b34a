"""Chapter 2's dataset and loader: properties, agreement with torch, clear errors."""

import pytest
import tiktoken
import torch

import companion
from dataloader import GPTDatasetV1, create_dataloader_v1, main


@pytest.fixture(scope="module")
def tokenizer():
    return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def story():
    return companion.asset("the-next-word.txt").read_text(encoding="utf-8")


WORDS = " a" * 40  # 40 tokens


@pytest.mark.parametrize("max_length", [1, 4, 7])
@pytest.mark.parametrize("stride", [1, 4, 9])
def test_targets_are_the_inputs_one_token_later(story, tokenizer, max_length, stride):
    dataset = GPTDatasetV1(story[:2000], tokenizer, max_length, stride)
    token_ids = torch.tensor(tokenizer.encode(story[:2000]))
    for index, (inputs, targets) in enumerate(dataset):
        start = index * stride
        assert torch.equal(inputs, token_ids[start : start + max_length])
        assert torch.equal(targets, token_ids[start + 1 : start + 1 + max_length])
    assert not torch.equal(inputs, targets)  # control


@pytest.mark.parametrize("max_length", [1, 4, 7])
@pytest.mark.parametrize("stride", [1, 4, 9])
def test_windows_are_those_of_torch_unfold(story, tokenizer, max_length, stride):
    """An independent reference: torch cuts the same windows out of the same tokens."""
    dataset = GPTDatasetV1(story[:2000], tokenizer, max_length, stride)
    token_ids = torch.tensor(tokenizer.encode(story[:2000]))
    with_target = token_ids.unfold(0, max_length + 1, stride)  # (windows, T + 1)
    assert torch.equal(torch.stack(dataset.input_ids), with_target[:, :-1])
    assert torch.equal(torch.stack(dataset.target_ids), with_target[:, 1:])


def test_stride_of_a_window_uses_each_token_once(story):
    loader = create_dataloader_v1(
        story, batch_size=1, max_length=16, stride=16, shuffle=False, drop_last=False
    )
    seen = torch.cat([inputs.flatten() for inputs, _ in loader]).tolist()
    tokens = tiktoken.get_encoding("gpt2").encode(story)
    assert seen == tokens[: len(seen)]
    assert len(tokens) - len(seen) <= 16


def test_the_shortest_text_gives_one_window(tokenizer):
    assert len(GPTDatasetV1(" a" * 5, tokenizer, max_length=4, stride=1)) == 1


def test_ids_are_int64_of_batch_and_window(story):
    inputs, targets = next(iter(create_dataloader_v1(story, batch_size=3, max_length=5)))
    assert inputs.shape == targets.shape == (3, 5)
    assert inputs.dtype == targets.dtype == torch.int64


def test_shuffling_keeps_the_windows_and_changes_their_order(story):
    def rows(shuffle):
        torch.manual_seed(0)
        loader = create_dataloader_v1(story, 1, 8, 8, shuffle=shuffle)
        return [tuple(inputs[0].tolist()) for inputs, _ in loader]

    assert sorted(rows(True)) == sorted(rows(False))
    assert rows(True) != rows(False)


def test_workers_give_the_same_batches(story):
    def batches(num_workers):
        loader = create_dataloader_v1(story, 8, 32, 32, shuffle=False, num_workers=num_workers)
        return torch.stack([inputs for inputs, _ in loader])

    assert torch.equal(batches(0), batches(1))


def test_drop_last_decides_on_an_incomplete_batch():
    kept = create_dataloader_v1(WORDS, 7, 4, 4, drop_last=False)
    dropped = create_dataloader_v1(WORDS, 7, 4, 4, drop_last=True)
    assert [len(inputs) for inputs, _ in kept] == [7, 2]
    assert [len(inputs) for inputs, _ in dropped] == [7]


def test_end_of_text_is_one_token_in_the_dataset(tokenizer):
    dataset = GPTDatasetV1("one<|endoftext|>two three", tokenizer, max_length=2, stride=1)
    assert dataset.input_ids[0].tolist()[1] == tokenizer.eot_token


def test_the_tokenizer_refuses_a_special_token_that_was_not_allowed(tokenizer):
    with pytest.raises(ValueError, match=r"disallowed special token '<\|endoftext\|>'"):
        tokenizer.encode("one<|endoftext|>two")
    assert tokenizer.encode("one<|endoftext|>two", allowed_special="all")  # control


def test_the_tokenizer_names_an_id_out_of_range(tokenizer):
    with pytest.raises(KeyError, match="50257"):
        tokenizer.decode([50257])


@pytest.mark.parametrize("text, tokens", [("", 0), (" a" * 4, 4)])
def test_a_text_no_longer_than_the_window_is_refused_with_both_numbers(tokenizer, text, tokens):
    with pytest.raises(ValueError, match=rf"{tokens} tokens.*max_length=4"):
        GPTDatasetV1(text, tokenizer, max_length=4, stride=1)


@pytest.mark.parametrize("name", ["max_length", "stride", "batch_size"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_setting_below_one_is_named_with_its_value(name, value):
    settings = {"max_length": 4, "stride": 4, "batch_size": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, but is {value}"):
        create_dataloader_v1(WORDS, **settings)


@pytest.mark.parametrize("not_text", [None, 7, b"bytes", ["a", "list"]])
def test_what_is_not_a_str_is_refused(not_text):
    with pytest.raises(TypeError, match=type(not_text).__name__):
        create_dataloader_v1(not_text)


def test_a_loader_without_a_batch_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"9 windows.*batch_size=10"):
        create_dataloader_v1(WORDS, batch_size=10, max_length=4, stride=4)
    assert len(create_dataloader_v1(WORDS, 10, 4, 4, drop_last=False)) == 1  # control


def test_main_prints_targets_one_token_later(capsys):
    main("one two three four five six seven", batch_size=1, max_length=3)
    assert "'one two three' -> ' two three four'" in capsys.readouterr().out
