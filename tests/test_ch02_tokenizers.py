"""Chapter 2's word-level tokenizers: properties, and clear errors."""

import pytest

import companion
from simple_tokenizer import (
    END_OF_TEXT,
    UNKNOWN,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    build_vocab,
    split_text,
)


@pytest.fixture(scope="module")
def story():
    return companion.asset("the-next-word.txt").read_text(encoding="utf-8")


@pytest.fixture
def vocab():
    return build_vocab(split_text("the cat, the dog -- and (of course) a bird: one; two!"))


def test_splitting_loses_white_space_only(story):
    assert "".join(split_text(story)) == "".join(story.split())
    assert "".join(split_text(story)) != story  # control


@pytest.mark.parametrize("mark", [*",.:;?_!\"()'", "--"])
def test_a_punctuation_mark_is_a_token_of_its_own(mark):
    assert split_text(f"left{mark}right") == ["left", mark, "right"]


def test_a_single_hyphen_stays_inside_its_word():
    assert split_text("half-way") == ["half-way"]


def test_ids_follow_the_sorted_order_of_the_tokens(vocab):
    assert list(vocab) == sorted(vocab)
    assert list(vocab.values()) == list(range(len(vocab)))


@pytest.mark.parametrize("tokenizer_class", [SimpleTokenizerV1, SimpleTokenizerV2])
def test_encoding_what_was_decoded_gives_the_same_ids(tokenizer_class, story):
    vocab = build_vocab([*split_text(story), END_OF_TEXT, UNKNOWN])
    tokenizer = tokenizer_class(vocab)
    ids = tokenizer.encode(story)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert tokenizer.encode(tokenizer.decode(ids[1:])) != ids  # control


def test_only_v2_joins_colons_and_semicolons(vocab):
    words = ["bird", ":", "one", ";"]
    ids = [vocab[word] for word in words]
    assert SimpleTokenizerV1(vocab).decode(ids) == "bird : one ;"
    assert SimpleTokenizerV2({**vocab, UNKNOWN: len(vocab)}).decode(ids) == "bird: one;"


def test_an_unknown_word_is_a_key_error_that_names_it_and_the_way_out(vocab):
    with pytest.raises(KeyError) as error:
        SimpleTokenizerV1(vocab).encode("the zebra")
    assert "'zebra'" in str(error.value)
    assert f"{len(vocab)}" in str(error.value)
    assert "SimpleTokenizerV2" in str(error.value)


def test_v2_reads_an_unknown_word_as_unk(vocab):
    tokenizer = SimpleTokenizerV2({**vocab, UNKNOWN: len(vocab)})
    assert tokenizer.decode(tokenizer.encode("the zebra")) == f"the {UNKNOWN}"


def test_v2_refuses_a_vocabulary_without_unk(vocab):
    with pytest.raises(ValueError, match="unk"):
        SimpleTokenizerV2(vocab)


@pytest.mark.parametrize("bad_id", [-1, 10_000])
@pytest.mark.parametrize("tokenizer_class", [SimpleTokenizerV1, SimpleTokenizerV2])
def test_an_id_out_of_range_is_named_with_the_range(tokenizer_class, bad_id, vocab):
    vocab = {**vocab, UNKNOWN: len(vocab)}
    with pytest.raises(KeyError) as error:
        tokenizer_class(vocab).decode([0, bad_id])
    assert str(bad_id) in str(error.value)
    assert f"0 to {len(vocab) - 1}" in str(error.value)


@pytest.mark.parametrize("not_text", [None, 7, b"bytes", ["a", "list"]])
def test_what_is_not_a_str_is_refused(not_text, vocab):
    with pytest.raises(TypeError, match=type(not_text).__name__):
        SimpleTokenizerV1(vocab).encode(not_text)


def test_an_empty_text_has_no_tokens(vocab):
    tokenizer = SimpleTokenizerV1(vocab)
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
