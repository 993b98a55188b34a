"""The corpus of the pocket model: which tokens have an id, which lines stay, what is held out."""

import gzip

import numpy as np
import pytest
import tiktoken

import companion
import pocket_data
from token_shards import END_OF_TEXT, TokenBatches, check_shards, open_shards

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")


def encode(text):
    return np.array(TOKENIZER.encode(text, allowed_special="all"))


def test_the_tokens_used_most_have_an_id(monkeypatch):
    monkeypatch.setattr(pocket_data, "NUM_IDS", 5)
    texts = [(np.array([7, 7, 8, 9, 9, 9]), 1), (np.array([8, 8, 5]), 1), (np.array([4] * 9), 0)]
    # 9 three times, 8 three times, 7 twice, 5 once, 4 never: it is not learned from.
    assert pocket_data.choose_vocabulary(texts).tolist() == [8, 9, 198, 628, END_OF_TEXT]
    texts.append((np.array([5]), 3))  # counted as often as it is learned from
    assert pocket_data.choose_vocabulary(texts).tolist() == [5, 8, 198, 628, END_OF_TEXT]


def test_a_small_corpus_has_fewer_ids():
    assert len(pocket_data.choose_vocabulary([(np.array([7, 8]), 1)])) == 2 + 3


def test_lines_with_a_token_that_has_no_id_are_left_out():
    ids = encode("A cat.\n\nA zebra ran.\n\nA dog.<|endoftext|>One zebra<|endoftext|>The cat")
    is_kept = np.ones(50257, dtype=bool)
    is_kept[encode(" zebra")] = False
    kept = pocket_data.drop_lines_with_rare_tokens(ids, is_kept)
    expected = "A cat.\n\nA dog.<|endoftext|><|endoftext|>The cat"
    assert TOKENIZER.decode(kept.tolist()) == expected
    is_kept[:] = True  # control
    assert pocket_data.drop_lines_with_rare_tokens(ids, is_kept).tolist() == ids.tolist()


@pytest.fixture
def corpus(tmp_path):
    """A folder with a text that counts twice, another one, and one that is held out."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    with gzip.open(folder / "twice.txt.gz", "wt", encoding="utf-8") as file:
        file.write("The cat sat.\n" * 20)
    (folder / "once.txt").write_text("The dog ran.\n" * 20, encoding="utf-8")
    (folder / "my-valid-text.txt").write_text("The cat ran.\nA bird flew.\n" * 9, encoding="utf-8")
    return folder


def prepare(corpus, out, monkeypatch, num_ids=16_384):
    monkeypatch.setattr(pocket_data, "REPEATS", {"twice.txt.gz": 2})
    monkeypatch.setattr(pocket_data, "NUM_IDS", num_ids)
    monkeypatch.setattr("sys.argv", ["pocket_data.py", str(corpus), "--out", str(out)])
    return pocket_data.main()


def texts_of(out):
    vocabulary = np.load(out / pocket_data.VOCABULARY)
    ids = {split: np.concatenate(open_shards(out, split)) for split in ("train", "val")}
    return {split: TOKENIZER.decode(vocabulary[x].tolist()) for split, x in ids.items()}


def test_files_count_as_often_as_they_are_to(corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "shards"
    assert prepare(corpus, out, monkeypatch) == 0
    check_shards(out)
    texts = texts_of(out)
    assert texts["train"].count("The cat sat.") == 40
    assert texts["train"].count("The dog ran.") == 20
    assert "learned from 2 times" in capsys.readouterr().out


def test_held_out_text_is_not_learned_from(corpus, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    prepare(corpus, out, monkeypatch)
    texts = texts_of(out)
    assert "ran" in texts["val"] and "cat ran" not in texts["train"]
    # "A bird flew" has tokens that nothing taught: its lines cannot be written.
    assert "bird" not in texts["val"]


def test_the_trainer_can_read_it(corpus, tmp_path, monkeypatch):
    out = tmp_path / "shards"
    prepare(corpus, out, monkeypatch)
    inputs, _ = TokenBatches(out, 2, 8, seed=0).next()
    assert inputs.max() < len(np.load(out / pocket_data.VOCABULARY))


def test_what_is_there_already_is_left_alone(corpus, tmp_path, monkeypatch, capsys):
    out = tmp_path / "shards"
    prepare(corpus, out, monkeypatch)
    before = (out / "manifest.json").stat().st_mtime_ns
    assert prepare(corpus, out, monkeypatch) == 0
    assert "delete it" in capsys.readouterr().out
    assert (out / "manifest.json").stat().st_mtime_ns == before


def test_a_folder_without_text_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    assert prepare(tmp_path / "empty", tmp_path / "shards", monkeypatch) == 1
    assert "has no .txt" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()
