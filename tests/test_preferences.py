"""The embedded preference set: its form, its split, lengths, and the script that makes it."""

import json
import re
from collections import Counter

import pytest
import tiktoken

import companion
import make_preferences
from dpo import load_preferences
from find_near_duplicates import near_duplicates

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
TRAINING, HELD_OUT = load_preferences()
PAIRS = TRAINING + HELD_OUT
NEARLY_THE_SAME = 0.5


def num_tokens(text):
    return len(TOKENIZER.encode(text))


def test_pairs_have_a_prompt_that_opens_a_reply_and_two_that_close_it():
    assert len(PAIRS) >= 400 and len(HELD_OUT) >= 100
    for pair in PAIRS:
        assert list(pair) == ["prompt", "chosen", "rejected"]
        assert re.fullmatch(r'[A-Z"].+[a-z], "', pair["prompt"])
        assert pair["prompt"].count('"') % 2 == 1
        for key in ("chosen", "rejected"):
            assert re.fullmatch(r'[A-Z][^"]*[.!?]"', pair[key]), pair[key]


def test_pairs_are_short():
    assert max(num_tokens(pair["prompt"]) for pair in PAIRS) <= 32
    assert all(6 <= num_tokens(pair[key]) <= 28 for pair in PAIRS for key in ("chosen", "rejected"))


def differences(pairs):
    """Tokens of the chosen answer less those of the rejected one."""
    return [num_tokens(pair["chosen"]) - num_tokens(pair["rejected"]) for pair in pairs]


@pytest.mark.parametrize("pairs", [TRAINING, HELD_OUT], ids=["training", "held out"])
def test_length_is_not_the_signal(pairs):
    apart = differences(pairs)
    assert abs(sum(apart)) / len(pairs) < 0.75  # tokens, of about 15
    assert max(map(abs, apart)) <= 5
    longer = sum(difference > 0 for difference in apart) / sum(
        difference != 0 for difference in apart
    )
    assert 0.3 < longer < 0.7


def test_no_single_first_word_tells_kind_from_rude():
    """Guess by first words counted in training: on held-out pairs that is far from enough."""
    counts = Counter()
    for pair in TRAINING:
        counts[pair["chosen"].split()[0]] += 1
        counts[pair["rejected"].split()[0]] -= 1
    scores = [
        counts[pair["chosen"].split()[0]] - counts[pair["rejected"].split()[0]] for pair in HELD_OUT
    ]
    assert sum(score > 0 for score in scores) / len(scores) < 0.8


def test_every_text_is_there_once():
    for key in ("prompt", "chosen", "rejected"):
        assert len({pair[key].casefold() for pair in PAIRS}) == len(PAIRS)


def crossing(texts):
    """Near-duplicates with one side in training and the other held out."""
    pairs = near_duplicates(texts, NEARLY_THE_SAME)
    return [(i, j) for i, j, _ in pairs if i < len(TRAINING) <= j]


@pytest.mark.parametrize("keys", [["prompt"], ["chosen"], ["rejected"], ["prompt", "chosen"]])
def test_no_near_duplicates_across_the_split(keys):
    texts = ["\n".join(pair[key] for key in keys) for pair in PAIRS]
    assert crossing(texts) == []
    copied = [*texts[:-1], texts[0].replace("a", "o", 1)]  # control
    assert crossing(copied) == [(0, len(PAIRS) - 1)]


def test_the_script_makes_the_file(capsys, monkeypatch, tmp_path):
    path = companion.asset("preferences.json")
    assert make_preferences.make_text() == path.read_text(encoding="utf-8")
    assert make_preferences.main(["--check"]) == 0
    monkeypatch.setattr(make_preferences, "OUTPUT", tmp_path / "preferences.json")
    assert make_preferences.main(["--check"]) == 1  # control
    assert make_preferences.main([]) == 0
    assert (tmp_path / "preferences.json").read_bytes() == path.read_bytes()
    assert "sha256" in capsys.readouterr().out


def test_a_row_with_a_missing_cell_is_named(tmp_path):
    table = tmp_path / "replies.tsv"
    table.write_text("scene\tspeaker\tkind\trude\na\tb\tc\td\na\tb\t \td\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"replies.tsv, line 3: 4 filled cells"):
        make_preferences.read_replies(table)
    table.write_text("scene\tspeaker\n", encoding="utf-8")
    with pytest.raises(ValueError, match="must begin with the columns scene"):
        make_preferences.read_replies(table)


def test_no_words_that_no_child_should_learn():
    """Rude is enough: replies do not curse or threaten with death."""
    text = json.dumps(PAIRS).casefold()
    found = re.findall(r"\b(?:damn|hell|kill\w*|idiot\w*|fat|fatty|sissy|butcher|starve)\b", text)
    assert found == []
