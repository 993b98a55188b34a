"""The embedded text messages of chapter 6: two labels, no near-duplicates, nobody's number."""

import io
import re
from collections import Counter, defaultdict

import pandas
import pytest
import tiktoken

import companion

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
LENGTHS = {"ham": (2, 300), "spam": (20, 300)}  # characters
SAFE_DOMAIN = re.compile(r"(.+\.)?(example\.(com|net|org)|[^.]+\.(example|invalid|test))")
# Ofcom's and NANPA's numbers for drama: a UK mobile, a London line, a US line without area code.
SAFE_NUMBER = re.compile(r"(0|44)7700900\d{3}|(0|44)2079460\d{3}|55501\d\d")


def read_messages(text):
    """[(label, message), ...] of a file's text, header line apart."""
    header, *lines = text.removesuffix("\n").split("\n")
    assert header == "label\ttext"
    messages = [tuple(line.split("\t")) for line in lines]
    assert all(len(message) == 2 for message in messages)
    return messages


@pytest.fixture(scope="module")
def messages():
    return read_messages(companion.asset("messages.tsv").read_bytes().decode("utf-8"))


def normalized(text):
    """Lower case, any number as 0, punctuation as one blank."""
    return " ".join(re.findall(r"\w+", re.sub(r"\d+", "0", text.lower())))


def shingles(text, size=5):
    """The set of the normalized text's pieces of `size` characters."""
    text = normalized(text)
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def near_duplicates(texts, least=0.5):
    """Indices of the texts whose shingles have a Jaccard similarity >= `least` with another's."""
    pieces = [shingles(text) for text in texts]
    holders = defaultdict(list)
    found = set()
    for index, own in enumerate(pieces):
        shared = Counter(other for piece in own for other in holders[piece])
        for other, count in shared.items():
            if count / (len(own) + len(pieces[other]) - count) >= least:
                found |= {index, other}
        for piece in own:
            holders[piece].append(index)
    return found


def unsafe_domains(text):
    """Every word.word that does not end in a domain reserved for examples."""
    names = re.findall(r"(?<!\w)(?:[a-z0-9-]+\.)+[a-z]{2,}", text.lower())
    return [name for name in names if not SAFE_DOMAIN.fullmatch(name)]


def unsafe_numbers(text):
    """Every run of seven digits or more, blanks aside, that is not reserved for fiction."""
    runs = re.findall(r"\d(?:[ ().-]?\d){6,}", text)
    digits = [re.sub(r"\D", "", run) for run in runs]
    return [number for number in digits if not SAFE_NUMBER.fullmatch(number)]


TRIVIAL = {
    "characters": len,
    "digits": lambda text: sum(letter.isdigit() for letter in text),
    "capitals": lambda text: sum(letter.isupper() for letter in text),
    "exclamation marks": lambda text: text.count("!"),
    "links": lambda text: len(re.findall(r"\w\.\w\w", text)),
}


def best_trivial_accuracy(messages):
    """(accuracy, name, n): the best rule of the form 'spam if more than n of them'."""
    best = (0.0, "", 0)
    for name, measure in TRIVIAL.items():
        values = [(measure(text), label == "spam") for label, text in messages]
        for n in range(max(value for value, _ in values)):
            hits = sum((value > n) == is_spam for value, is_spam in values)
            best = max(best, (hits / len(values), name, n))
    return best


def test_a_bad_header_or_a_line_with_two_tabs_is_found():
    for bad in ("text\tlabel\nham\thi\n", "label\ttext\nham\thi\tyou\n", "label\ttext\nham hi\n"):
        with pytest.raises(AssertionError):
            read_messages(bad)
    assert read_messages("label\ttext\nham\thi\n") == [("ham", "hi")]  # control


def test_there_are_enough_messages_and_about_as_many_of_each_kind(messages):
    counts = Counter(label for label, _ in messages)
    assert set(counts) == {"ham", "spam"}
    assert len(messages) >= 2300
    assert 0.45 <= counts["spam"] / len(messages) <= 0.55


def test_no_message_stands_twice(messages):
    texts = [text for _, text in messages]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_texts_are_clean_and_of_fitting_length(messages):
    for label, text in messages:
        assert text == " ".join(text.split()) and text.isprintable(), text
        shortest, longest = LENGTHS[label]
        assert shortest <= len(text) <= longest, text


def test_pandas_reads_the_same_messages(messages):
    """No text starts with a quote, and none is a word for a missing value."""
    frame = pandas.read_csv(companion.asset("messages.tsv"), sep="\t")
    assert list(frame.itertuples(index=False, name=None)) == messages
    lost = pandas.read_csv(io.StringIO("label\ttext\nham\tNone\nham\t'a'\n"), sep="\t")
    assert lost["text"].isna().tolist() == [True, False]  # control


def test_no_message_is_longer_than_110_tokens(messages):
    lengths = [len(ids) for ids in TOKENIZER.encode_batch([text for _, text in messages])]
    assert max(lengths) <= 110
    assert max(lengths) > 60  # control: long ones are there


def test_few_messages_are_near_duplicates(messages):
    texts = [text for _, text in messages]
    assert len(near_duplicates(texts)) < 0.02 * len(texts)


def test_a_near_duplicate_is_found_across_numbers_case_and_a_changed_word(messages):
    texts = [text for _, text in messages if len(text) > 60][:50]
    before = near_duplicates(texts)
    planted = [re.sub(r"\d", "7", text.upper()) for text in texts[:3]]
    planted.append(" ".join(["perhaps", *texts[3].split()[1:]]))
    assert near_duplicates(texts + planted) - before == {0, 1, 2, 3, 50, 51, 52, 53}


def test_openings_vary(messages):
    openings = Counter(" ".join(normalized(text).split()[:2]) for _, text in messages)
    assert openings.most_common(1)[0][1] <= 0.02 * len(messages)


def test_numbers_and_domains_are_nobodys(messages):
    for _, text in messages:
        assert unsafe_domains(text) == [], text
        assert unsafe_numbers(text) == [], text


@pytest.mark.parametrize(
    ("find", "text", "found"),
    [
        (unsafe_domains, "go to win.example, a.example.org or b-c.test/x?y=1", []),
        (
            unsafe_domains,
            "go to notexample.com or win.example.co",
            ["notexample.com", "win.example.co"],
        ),
        (unsafe_numbers, "ring 07700 900123, +44 7700 900123, 020 7946 0123 or 555-0123", []),
        (unsafe_numbers, "ring 07700 800123 or 555-0223", ["07700800123", "5550223"]),
    ],
)
def test_real_numbers_and_domains_are_found(find, text, found):
    assert find(text) == found


def test_no_trivial_rule_reaches_90_percent(messages):
    accuracy, name, n = best_trivial_accuracy(messages)
    assert accuracy < 0.9, f"spam if more than {n} {name}: {accuracy:.3f}"


def test_a_set_that_length_gives_away_is_found(messages):
    easy = [(label, text[:40] if label == "ham" else text * 9) for label, text in messages[:300]]
    assert best_trivial_accuracy(easy)[0] == 1.0
