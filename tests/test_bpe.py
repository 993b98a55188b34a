"""`bpe.py`: the same ids as tiktoken, the same merges as two other trainers, clear errors."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tiktoken

import bpe
import companion
from bpe import BPETokenizer

END = "<|endoftext|>"
LOREM = (
    "A river is not its water. The water leaves, the river stays; the river is the way the water "
    "goes. She said it's the river's own way, they've said they'll go there, we'd rather wait. "
    "In 1999 and in 2001 the water was high: 12 feet, then 120 feet!\n\n"
    "\tÜber Brücken, 川は水ではない。"
)
SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "äöüßéèêñçøåłżšđ",
    "αβγδεζηθικλμνξοπρςστυφχψω",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "אבגדהוזחטיךכלםמןנסעףפץצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "अआइईउऊएऐओऔकखगघङचछजझञटठडढण्ािीुू",
    "กขคฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผะัาำิี",
    "一二三四五六七八九十人大小中国日本語学生你好世界",
    "あいうえおかきくけこアイウエオカキクケコ",
    "가나다라마바사아자차카타파하한국어",
    "𐌀𐌁𐌂𐌃𝔞𝔟𝔠𝕏𝒜",
]
PIECES = [
    *SCRIPTS,
    "\u0300\u0301\u0308\u0327\u0489\u20dd\ufe0f\u200d",  # marks that combine, joiners
    " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000\u200b\ufeff",
    "0123456789٠١٢٣四½²Ⅷ①",
    "'’`\"",
    ".,;:!?-–—_/\\|()[]{}<>@#$%^&*+=~§€£¥©™",
    "😀😂🥲👍🏽👩‍💻🏳️‍🌈🇩🇪🇯🇵❤️",
    "\x00\x01\x07\x1b\x7f\x80\x9f\ufffd\uffff",
]
WHOLES = [
    *["'s", "'d", "'m", "'t", "'ll", "'ve", "'re", "'S", "'LL", "’s", "I'm", "don't", "''s", " 't"],
    *[" ", "  ", "     ", "\n\n", "\r\n", "\t\t", " \n ", "\xa0\xa0"],
    *["def f(x):\n    return x**2  # why\n", "for (int i=0;i<n;++i){", '{"k": [1, 2.5e-3]}'],
    *["https://example.org/a?b=c&d=%20", "<|end", "|>", "<|startoftext|>", "hello", " world"],
]


@pytest.fixture(scope="module")
def reference():
    companion.setup()
    return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def gpt2():
    return BPETokenizer.from_gpt2(*companion.tokenizer_files())


@pytest.fixture(scope="module")
def small():
    return BPETokenizer.train(LOREM, vocab_size=280)


def any_code_point(rng):
    code = rng.randrange(0x110000 - 0x800)
    return chr(code if code < 0xD800 else code + 0x800)  # surrogates left out


def random_text(rng):
    """A few stretches, each from one script or class of signs, or anything at all."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.6:
            parts.append("".join(rng.choices(rng.choice(PIECES), k=rng.randrange(1, 9))))
        elif kind < 0.9:
            parts.append(rng.choice(WHOLES))
        else:
            parts.append("".join(any_code_point(rng) for _ in range(rng.randrange(1, 5))))
    return "".join(parts)


# --- the same as tiktoken --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_ids_equal_tiktoken_on_random_unicode(gpt2, reference, seed):
    rng = random.Random(seed)
    texts = [random_text(rng) for _ in range(100)]

    for text in texts:
        assert gpt2.encode(text) == reference.encode(text), repr(text)

    fewer_merges = BPETokenizer(list(gpt2.merges)[:20_000])
    assert any(fewer_merges.encode(text) != reference.encode(text) for text in texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        " \n \n  x",
        "Hello, world",
        LOREM,
        "tail of blanks   ",
        "I'M SURE it's WE'LL 've''ve",
        "a\u0301e\u0308 \u1112\u1161\u11ab",
        "👩‍👩‍👧‍👦 🇺🇳 1️⃣",
        "\x00\x00 \x7f",
        "if x:\n        return {'a': [1, 2]}\n",
        Path(json.decoder.__file__).read_text(encoding="utf-8"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_ids_equal_tiktoken_on_chosen_texts(gpt2, reference, text):
    assert gpt2.encode(text) == reference.encode(text)
    assert gpt2.encode(text + "x") != reference.encode(text)


@pytest.mark.parametrize(
    ("ours", "theirs", "at_least"),
    [
        (bpe.LETTER, r"\p{L}", 130_000),
        (bpe.NUMBER, r"\p{N}", 1_800),
        (bpe.SIGN, r"[^\s\p{L}\p{N}]", 900_000),
        (r"\s", r"\s", 25),
    ],
)
def test_every_code_point_is_of_the_class_tiktoken_puts_it_in(ours, theirs, at_least):
    """Fails when tiktoken moves to a newer Unicode: then AFTER_UNICODE_16 has to move too."""
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    only_bytes = {bytes([byte]): byte for byte in range(256)}
    probe = tiktoken.Encoding(
        "probe", pat_str=theirs, mergeable_ranks=only_bytes, special_tokens={}
    )

    found = regex.findall(ours, everything, flags=regex.V1)

    assert "".join(found) == probe.decode(probe.encode_ordinary(everything))
    assert at_least <= len(found) < len(everything)


@pytest.mark.parametrize("before", ["a", "1", "!"])
def test_signs_newer_than_unicode_16_are_cut_as_in_tiktoken(reference, before):
    """With these merges, whatever stands before a character sticks to it in the same word."""
    first_bytes = range(0xC2, 0xF5)
    sticky = BPETokenizer([(bpe.BYTE_TO_ID[ord(before)], bpe.BYTE_TO_ID[b]) for b in first_bytes])
    theirs = tiktoken.Encoding(
        "sticky",
        pat_str=reference._pat_str,
        mergeable_ranks={token: token_id for token_id, token in sticky.tokens.items()},
        special_tokens={},
    )
    rng = random.Random(6)
    new_digits = [chr(code) for code in range(0x11DE0, 0x11DEA)]
    new_letters = [chr(code) for code in range(0x323B0, 0x323F0)]
    others = [any_code_point(rng) for _ in range(2_000)] + ["é", "٣", "€"]

    texts = [before + character for character in new_digits + new_letters + others]

    assert [sticky.encode(t) for t in texts] == [theirs.encode(t) for t in texts]
    stuck = [sticky.encode(t)[0] >= 256 for t in texts]
    assert any(stuck) and not all(stuck)


@pytest.mark.parametrize("length", [1_000, 50_000])
def test_a_very_long_word_equals_tiktoken(gpt2, reference, length):
    """Without a heap the longer one would take minutes."""
    word = "".join(random.Random(length).choices("abcdefghij", k=length))

    ids = gpt2.encode(word)

    assert ids == reference.encode(word)
    assert len(ids) < length


def test_joining_by_pair_reaches_every_token_of_gpt2(gpt2):
    """tiktoken looks a pair up by its bytes, we by its two ids. Both agree if this holds."""
    token_ids = range(256, 256 + len(gpt2.merges))

    for token_id in token_ids:
        single_bytes = list(gpt2.tokens[token_id].translate(bpe.BYTE_TO_ID))
        assert bpe.merge_by_rank(single_bytes, gpt2.merges) == [token_id]

    assert len(token_ids) == 50_000
    last = list(gpt2.tokens[token_ids[-1]].translate(bpe.BYTE_TO_ID))
    assert bpe.merge_by_rank(last, {}) == last


def test_every_id_stands_for_the_bytes_tiktoken_has(gpt2, reference):
    ours = [gpt2.decode_bytes([i]) for i in range(gpt2.n_vocab)]

    assert ours == [reference.decode_single_token_bytes(i) for i in range(reference.n_vocab)]
    assert len(set(ours)) == 50_257


def test_byte_order_is_that_of_encoder_json(gpt2):
    """The first 256 ids follow the characters that the file writes for the bytes."""
    _, encoder_json = companion.tokenizer_files()
    file_ids = json.loads(Path(encoder_json).read_text(encoding="utf-8"))
    characters = sorted(token for token in file_ids if len(token) == 1)

    assert [file_ids[character] for character in characters] == list(range(256))
    for character, byte in zip(characters, bpe.BYTE_ORDER, strict=True):
        assert ord(character) == byte or ord(character) >= 256
    assert file_ids["Ġ"] == bpe.BYTE_ORDER.index(ord(" ")) == 220
    assert list(range(256)) != bpe.BYTE_ORDER


@pytest.mark.parametrize("seed", range(5))
def test_random_ids_decode_as_in_tiktoken(gpt2, reference, seed):
    """Most such lists are no valid UTF-8."""
    rng = random.Random(seed)
    lists = [[rng.randrange(50_257) for _ in range(rng.randrange(20))] for _ in range(200)]
    lists += [[rng.randrange(256) for _ in range(rng.randrange(20))] for _ in range(200)]

    decoded = [gpt2.decode(ids) for ids in lists]

    assert decoded == [reference.decode(ids) for ids in lists]
    assert any("\ufffd" in text for text in decoded)


def test_half_a_character_decodes_to_the_replacement_character(gpt2, reference):
    ids = gpt2.encode("é")
    first_byte = list("é".encode()[:1].translate(bpe.BYTE_TO_ID))

    assert gpt2.decode(first_byte) == reference.decode(first_byte) == "\ufffd"
    assert gpt2.decode(ids) == "é"


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\ud83d\ude00", "\udc00\ud83d x"])
def test_surrogates_become_what_tiktoken_makes_of_them(gpt2, reference, text):
    assert gpt2.encode(text) == reference.encode(text)
    assert gpt2.decode(gpt2.encode(text)) != text


# --- special tokens --------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [{END}, "all", {END, "<|unknown|>"}], ids=str)
def test_allowed_special_tokens_become_the_ids_of_tiktoken(gpt2, reference, allowed):
    rng = random.Random(0)
    for _ in range(200):
        text = END.join(random_text(rng) for _ in range(rng.randrange(1, 4)))

        ids = gpt2.encode(text, allowed_special=allowed)

        assert ids == reference.encode(text, allowed_special=allowed), repr(text)
        assert ids.count(50256) == text.count(END)


@pytest.mark.parametrize("allowed", [set(), {"<|unknown|>"}], ids=str)
@pytest.mark.parametrize("tokenizer_name", ["gpt2", "reference"])
def test_a_special_token_that_is_not_allowed_is_refused(request, tokenizer_name, allowed):
    tokenizer = request.getfixturevalue(tokenizer_name)

    with pytest.raises(ValueError, match=r"special token '<\|endoftext\|>'"):
        tokenizer.encode(f"one{END}two", allowed_special=allowed)

    tokenizer.encode("one<|endoftext|two", allowed_special=allowed)


def test_ordinary_encoding_takes_special_tokens_as_plain_text(gpt2, reference):
    text = f"one{END}two {END}"

    ids = gpt2.encode_ordinary(text)

    assert ids == reference.encode_ordinary(text)
    assert 50256 not in ids


def test_of_two_special_tokens_the_longer_one_is_found_first():
    tokenizer = BPETokenizer([], special_tokens=["<a>", "<a><b>"])

    assert tokenizer.encode("<a><b><a>", allowed_special="all") == [257, 256]


def test_special_tokens_get_the_last_ids():
    tokenizer = BPETokenizer.train(LOREM, 270, special_tokens=["<|a|>", "<|b|>"])

    assert tokenizer.special_ids == {"<|a|>": 268, "<|b|>": 269}
    assert tokenizer.n_vocab == 270


def test_a_tokenizer_without_special_tokens_takes_their_names_as_text():
    tokenizer = BPETokenizer([])

    assert len(tokenizer.encode(END)) == len(END)
    assert tokenizer.n_vocab == 256


# --- encoding and decoding -------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer_name", ["gpt2", "small"])
def test_decoding_gives_the_text_back(request, tokenizer_name):
    tokenizer = request.getfixturevalue(tokenizer_name)
    rng = random.Random(1)
    for text in [LOREM, "", *(random_text(rng) for _ in range(300))]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode("river")[:-1]) != "river"


def test_words_join_to_the_text():
    rng = random.Random(2)
    for _ in range(300):
        text = random_text(rng)
        words = bpe.split_words(text)
        assert "".join(words) == text
        assert "" not in words
    assert bpe.split_words("I'll wait  here!!") == ["I", "'ll", " wait", " ", " here", "!!"]


def test_changing_returned_ids_leaves_the_cache_alone(gpt2):
    first = gpt2.encode("river")
    expected = list(first)
    first.append(0)

    assert gpt2.encode("river") == expected
    assert first != expected


def test_the_cache_is_emptied_when_full(monkeypatch, gpt2):
    monkeypatch.setattr(bpe, "MAX_CACHED_WORDS", 3)
    fresh = BPETokenizer(list(gpt2.merges), [END])
    text = "one two three four five six seven"

    assert fresh.encode(text) == gpt2.encode(text)
    assert 0 < len(fresh._word_cache) <= 3


def merge_by_rank_naively(ids, merges):
    """Scan for the oldest merge that applies, apply it everywhere, repeat."""
    while candidates := [merges[pair] for pair in pairwise(ids) if pair in merges]:
        pair = next(pair for pair, new_id in merges.items() if new_id == min(candidates))
        ids = bpe.merge_pair(ids, pair, min(candidates))
    return ids


def test_merging_with_the_heap_equals_scanning_for_the_oldest_merge():
    rng = random.Random(3)
    text = " ".join("".join(rng.choices("ab", k=rng.randrange(1, 30))) for _ in range(100))
    merges = BPETokenizer.train(text, 320).merges
    differs_from_any_order = False
    for _ in range(200):
        ids = bpe.byte_ids("".join(rng.choices("abc", k=rng.randrange(40))))
        assert bpe.merge_by_rank(ids, merges) == merge_by_rank_naively(ids, merges)
        newest_first = ids
        for pair in reversed(merges):
            newest_first = bpe.merge_pair(newest_first, pair, merges[pair])
        differs_from_any_order |= newest_first != bpe.merge_by_rank(ids, merges)
    assert differs_from_any_order


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([], []), ([1], [1]), ([1, 1, 1], [9, 1]), ([1, 1, 1, 1], [9, 9]), ([2, 1, 1, 2], [2, 9, 2])],
)
def test_a_pair_is_merged_from_left_to_right(ids, expected):
    assert bpe.merge_pair(ids, (1, 1), 9) == expected
    assert bpe.merge_pair(ids, (3, 3), 9) == ids


# --- training --------------------------------------------------------------------------------


def train_naively(text, num_merges, tie_break=min):
    """Count everything again after each merge."""
    words = [bpe.byte_ids(word) for word in bpe.split_words(text)]
    merges = []
    while len(merges) < num_merges:
        counts = Counter(pair for ids in words for pair in pairwise(ids))
        most = max(counts.values(), default=0)
        if most < 2:
            break
        pair = tie_break(pair for pair, count in counts.items() if count == most)
        words = [bpe.merge_pair(ids, pair, 256 + len(merges)) for ids in words]
        merges.append(pair)
    return merges


@pytest.mark.parametrize("alphabet", ["a", "ab", "abc ", "ab \n'sé"])
def test_training_equals_counting_everything_again(alphabet):
    """Few letters make many ties, and pairs that overlap themselves, as in "aaa"."""
    rng = random.Random(4)
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(2, 120))) for _ in range(40)]
    other_tie_break_differs = False
    for text in texts:
        merges = list(BPETokenizer.train(text, 256 + 30, special_tokens=[]).merges)
        assert merges == train_naively(text, 30), repr(text)
        other_tie_break_differs |= merges != train_naively(text, 30, tie_break=max)
    assert other_tie_break_differs or alphabet == "a"


def test_training_equals_hugging_face_tokenizers():
    tokenizers = pytest.importorskip("tokenizers", reason="Hugging Face tokenizers not installed")
    text = Path(bpe.__file__).read_text(encoding="utf-8") + LOREM
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=256 + 400,
        min_frequency=2,
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)

    ours = BPETokenizer.train(text, 256 + 400, special_tokens=[])

    assert ours.encode(text) == theirs.encode(text).ids
    assert len(ours.merges) == 400
    assert BPETokenizer.train(text, 256 + 399, special_tokens=[]).encode(text) != ours.encode(text)


def test_training_twice_gives_the_same_merges():
    first, second = (BPETokenizer.train(LOREM, 280) for _ in range(2))

    assert first.merges == second.merges
    assert first.merges != BPETokenizer.train(LOREM[::-1], 280).merges


def test_training_does_not_depend_on_the_hash_seed():
    program = "import bpe, sys; print(list(bpe.BPETokenizer.train(sys.argv[1], 300).merges))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, text],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for text, hash_seed in [(LOREM, "1"), (LOREM, "2"), (LOREM[::-1], "1")]
    ]

    assert outputs[0] == outputs[1]
    assert outputs[0] != outputs[2]


def test_the_worked_example_of_the_notebook_holds():
    """(a, n) occurs 4 times; then (b, an) and (an, a) twice each, and b has the lower id."""
    tokenizer = BPETokenizer.train("banana bandana", 1000, special_tokens=[])

    assert [tokenizer.decode([new_id]) for new_id in tokenizer.merges.values()] == [
        "an",
        "ban",
        "ana",
    ]
    assert [tokenizer.decode([i]) for i in tokenizer.encode("cabana")] == ["c", "a", "ban", "a"]
    assert [tokenizer.decode([i]) for i in tokenizer.encode("ananas")] == ["an", "ana", "s"]


def test_training_stops_when_no_pair_occurs_twice():
    tokenizer = BPETokenizer.train("abab", vocab_size=1000, special_tokens=[])

    assert list(tokenizer.merges) == [(bpe.BYTE_TO_ID[ord("a")], bpe.BYTE_TO_ID[ord("b")])]
    assert BPETokenizer.train("ababab ababab", 1000, special_tokens=[]).n_vocab > 257


def test_no_token_crosses_a_word(small):
    for token_id in range(256, 256 + len(small.merges)):
        assert len(bpe.split_words(small.decode([token_id]))) == 1
    assert len(bpe.split_words("the river")) == 2


def test_special_tokens_in_the_training_text_are_not_learned():
    """Fifty of them count for nothing; the texts on both sides are learned apart."""
    text = "river " + END * 50 + "river "

    special = BPETokenizer.train(text, 1000)
    plain = BPETokenizer.train(text, 1000, special_tokens=[])

    assert special.decode([256 + len(special.merges) - 1]) == "river"
    assert not any("end" in special.decode([i]) for i in special.merges.values())
    assert any("end" in plain.decode([i]) for i in plain.merges.values())


# --- saving and loading ----------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer_name", ["gpt2", "small"])
def test_a_loaded_tokenizer_is_the_saved_one(request, tmp_path, tokenizer_name):
    saved = request.getfixturevalue(tokenizer_name)
    saved.save(tmp_path / "tokenizer.json")

    loaded = BPETokenizer.load(tmp_path / "tokenizer.json")

    assert loaded.merges == saved.merges
    assert loaded.tokens == saved.tokens
    assert loaded.special_ids == saved.special_ids
    text = LOREM + END
    assert loaded.encode(text, allowed_special="all") == saved.encode(text, allowed_special="all")
    assert loaded.merges != BPETokenizer.train(LOREM[::-1], 280).merges


def test_saving_replaces_an_older_file(tmp_path, small):
    path = tmp_path / "tokenizer.json"
    BPETokenizer([]).save(path)

    small.save(path)

    assert BPETokenizer.load(path).n_vocab == small.n_vocab == 280
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.write_text"])
def test_a_failed_save_leaves_the_older_file_and_nothing_else(
    monkeypatch, tmp_path, small, failing
):
    path = tmp_path / "tokenizer.json"
    small.save(path)

    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(failing, disk_full)
        with pytest.raises(OSError, match="No space left"):
            BPETokenizer([]).save(path)

    assert BPETokenizer.load(path).n_vocab == small.n_vocab
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    BPETokenizer([]).save(path)
    assert BPETokenizer.load(path).n_vocab == 256


def test_no_shortened_file_loads(tmp_path, small):
    path = tmp_path / "tokenizer.json"
    small.save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"not complete JSON.*cut short.*Save it again"):
            BPETokenizer.load(path)
    path.write_bytes(content)
    BPETokenizer.load(path)


GOOD_FILE = {
    "format": "bpe-tokenizer",
    "version": 1,
    "special_tokens": [END],
    "merges": [[64, 65], [256, 256]],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"format version 2, this code reads version 1\. .*train and save again"),
        ({"version": None}, "format version None"),
        ({"format": "other"}, "not written by BPETokenizer.save"),
        ({"merges": None}, "no list of merges"),
        ({"merges": {"64 65": 256}}, "no list of merges"),
        ({"merges": [[64, 65], [257, 64]]}, r"merge number 1 is \[257, 64\].* from 0 to 256"),
        ({"merges": [[64, -1]]}, r"merge number 0 is \[64, -1\]"),
        ({"merges": [[64, 65, 66]]}, r"merge number 0 is \[64, 65, 66\]"),
        ({"merges": [[64, "65"]]}, r"merge number 0 is \[64, '65'\]"),
        ({"merges": [[64, 65.0]]}, r"merge number 0 is \[64, 65.0\]"),
        ({"merges": [7]}, "merge number 0 is 7"),
        ({"merges": [[64, 65], [64, 65]]}, "merge number 1 repeats"),
        ({"special_tokens": END}, "list of non-empty strings"),
        ({"special_tokens": None}, "list of non-empty strings"),
        ({"special_tokens": [""]}, "list of non-empty strings"),
        ({"special_tokens": [END, END]}, "differ from each other"),
    ],
    ids=str,
)
def test_a_malformed_file_is_refused(tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**GOOD_FILE, **change}), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        BPETokenizer.load(path)
    assert str(path) in str(caught.value)

    path.write_text(json.dumps(GOOD_FILE), encoding="utf-8")
    assert BPETokenizer.load(path).encode("abab") == [257]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04K\x01.", "not complete JSON"),
        (b"[" * 100_000, "not complete JSON"),
        (b"[]", "not written by BPETokenizer.save"),
        (b'"bpe-tokenizer"', "not written by BPETokenizer.save"),
    ],
    ids=["pickle", "too deep", "list", "string"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        BPETokenizer.load(path)

    path.write_text(json.dumps(GOOD_FILE), encoding="utf-8")
    BPETokenizer.load(path)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1], ids=["vocab.bpe", "encoder.json"])
@pytest.mark.parametrize("damage", ["one byte", "cut short", "empty", "other file"])
def test_a_damaged_gpt2_file_is_refused(tmp_path, which, damage):
    originals = [Path(path) for path in companion.tokenizer_files()]
    data = originals[which].read_bytes()
    middle = len(data) // 2
    damaged = tmp_path / originals[which].name
    damaged.write_bytes(
        {
            "one byte": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut short": data[:middle],
            "empty": b"",
            "other file": originals[1 - which].read_bytes(),
        }[damage]
    )
    paths = list(originals)
    paths[which] = damaged

    expected = [bpe.VOCAB_BPE_SHA256, bpe.ENCODER_JSON_SHA256][which]
    with pytest.raises(ValueError, match=f"damaged.*sha256.*expected {expected}.*Delete it") as e:
        BPETokenizer.from_gpt2(*paths)
    assert str(damaged) in str(e.value)

    damaged.write_bytes(data)
    assert bpe.read_verified(damaged, expected) == data


@pytest.mark.parametrize(
    ("vocab_size", "special_tokens", "smallest"),
    [(255, [], 256), (0, [], 256), (-1, [], 256), (256, [END], 257), (257, ["<a>", "<b>"], 258)],
)
def test_a_vocabulary_too_small_for_the_bytes_is_refused(vocab_size, special_tokens, smallest):
    message = f"vocab_size is {vocab_size}, .*at least {smallest}"
    with pytest.raises(ValueError, match=message):
        BPETokenizer.train(LOREM, vocab_size, special_tokens=special_tokens)

    assert BPETokenizer.train(LOREM, smallest, special_tokens=special_tokens).merges == {}


@pytest.mark.parametrize("vocab_size", [300.0, "300", None, True])
def test_a_vocabulary_size_that_is_no_int_is_refused(vocab_size):
    with pytest.raises(TypeError, match=f"vocab_size must be an int, got {vocab_size!r}"):
        BPETokenizer.train(LOREM, vocab_size)

    assert BPETokenizer.train(LOREM, 280).n_vocab == 280


@pytest.mark.parametrize("text", ["", END, END * 3])
def test_training_on_nothing_is_refused(text):
    with pytest.raises(ValueError, match=r"nothing to learn from.*Pass a text"):
        BPETokenizer.train(text, 300)

    assert BPETokenizer.train(text + "a", 300).merges == {}


@pytest.mark.parametrize("method", ["encode", "encode_ordinary", "train"])
@pytest.mark.parametrize("text", [b"bytes", None, 7, ["a", "list"]], ids=repr)
def test_what_is_no_text_is_refused(small, method, text):
    arguments = {"vocab_size": 300} if method == "train" else {}
    with pytest.raises(TypeError, match=f"expected a str, got {type(text).__name__}: .*decode"):
        getattr(small, method)(text, **arguments)

    getattr(small, method)("text", **arguments)


def test_a_string_of_allowed_special_tokens_is_refused(small):
    with pytest.raises(TypeError, match=r"\"all\" or a set.*write \{'<\|endoftext\|>'\}"):
        small.encode("text", allowed_special=END)

    small.encode("text", allowed_special={END})


@pytest.mark.parametrize("special_tokens", [END, [7], [""], [END, END], {END: 1}], ids=repr)
def test_special_tokens_that_are_no_list_of_different_strings_are_refused(special_tokens):
    with pytest.raises(ValueError, match="special tokens must"):
        BPETokenizer.train(LOREM, 300, special_tokens=special_tokens)

    BPETokenizer.train(LOREM, 300, special_tokens=[END])


@pytest.mark.parametrize("bad_id", [50_257, -1, 10**9, "a", None])
def test_unknown_ids_are_refused(gpt2, bad_id):
    with pytest.raises(ValueError, match=rf"unknown token id {bad_id!r}: .*0 to 50256\. Were"):
        gpt2.decode([15496, bad_id])

    assert gpt2.decode([15496, 50_256]) == "Hello" + END


@pytest.mark.parametrize("ids", [15496, None, [[15496]]], ids=repr)
def test_ids_that_are_no_list_are_refused(gpt2, ids):
    with pytest.raises(TypeError, match="expected a list of ints, got"):
        gpt2.decode(ids)

    assert gpt2.decode([15496]) == "Hello"


def test_the_demonstration_agrees_with_tiktoken(capsys):
    bpe.main()

    printed = capsys.readouterr().out
    assert "tiktoken agrees: True" in printed
    assert "tiktoken agrees: False" not in printed
