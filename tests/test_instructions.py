"""The embedded instruction set: its form, its answers, its split, and the script that makes it."""

import difflib
import json
import re
from collections import Counter, defaultdict

import pytest
import tiktoken

import companion
import make_instructions
from companion.notebooks import ROOT
from find_near_duplicates import near_duplicates
from make_instructions import in_order_of_split, read_table

ENTRIES = json.loads(companion.asset("instructions.json").read_text(encoding="utf-8"))
companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
BY_TASK = defaultdict(list)
for _entry in ENTRIES:
    BY_TASK[_entry["task"]].append(_entry)
# The sentence with which the book's prompt begins, as GPT-2's ids.
HEADER = [21106, 318, 281, 12064, 326, 8477, 257, 4876, 13]
HEADER += [19430, 257, 2882, 326, 20431, 32543, 262, 2581, 13]


QUESTION = r"(?P<question>(?:Who|Where|What|Was) .+\?)"


def patterns_of(task):
    """Regular expressions that find what was put into a task's wordings, the longest one first."""
    wordings = [row["wording"] for row in read_table("wordings") if row["task"] == task]
    patterns = []
    for wording in sorted(wordings, key=len, reverse=True):
        pattern = re.escape(wording).replace(r"\{question\}", QUESTION)
        for field in ("text", "which", "word", "small"):
            place = rf"\{{{field}\}}"
            pattern = pattern.replace(place, f"(?P<{field}>[^?]+)", 1)
            pattern = pattern.replace(place, f"(?P={field})")
        patterns.append(pattern)
    return patterns


PATTERNS = {task: patterns_of(task) for task in BY_TASK}


def fields_of(entry):
    """What an entry's wording was put around: at least its text, which may be its input."""
    for pattern in PATTERNS[entry["task"]]:
        match = re.fullmatch(pattern, entry["instruction"])
        if match and ("text" in match.groupdict()) != bool(entry["input"]):
            return {"text": entry["input"], "wording": pattern, **match.groupdict()}
    raise AssertionError(f"no wording of {entry['task']} fits {entry}")


# Form


def test_entries_have_the_books_keys_and_their_task():
    assert 1_400 <= len(ENTRIES) <= 2_000
    for entry in ENTRIES:
        assert list(entry) == ["instruction", "input", "output", "task"]
        assert all(isinstance(value, str) and value == value.strip() for value in entry.values())
        assert entry["instruction"] and entry["output"] and entry["task"]
    assert len(BY_TASK) >= 14
    assert min(len(entries) for entries in BY_TASK.values()) >= 40


def repeated(entries):
    counted = Counter((entry["instruction"].casefold(), entry["input"]) for entry in entries)
    return [prompt for prompt, number in counted.items() if number > 1]


def test_no_prompt_comes_twice():
    assert repeated(ENTRIES) == []
    assert repeated([*ENTRIES, ENTRIES[7]]) != []  # control


@pytest.mark.parametrize("task", BY_TASK)
def test_wordings_vary_and_half_of_the_texts_are_inputs(task):
    wordings = Counter(fields_of(entry)["wording"] for entry in BY_TASK[task])
    assert len(wordings) >= 8
    assert max(wordings.values()) < 0.2 * len(BY_TASK[task])  # none is used for most
    with_input = sum(bool(entry["input"]) for entry in BY_TASK[task])
    assert with_input == len(BY_TASK[task]) / 2


def tokens_of(entry):
    """The tokens of the book's prompt and of the answer."""
    text = f"\n\n### Instruction:\n{entry['instruction']}"
    text += f"\n\n### Input:\n{entry['input']}" if entry["input"] else ""
    prompt = len(HEADER) + len(TOKENIZER.encode(f"{text}\n\n### Response:\n"))
    return prompt, len(TOKENIZER.encode(entry["output"]))


def test_prompts_and_answers_are_short():
    lengths = [tokens_of(entry) for entry in ENTRIES]
    assert max(prompt + answer for prompt, answer in lengths) <= 120
    assert all(1 <= answer <= 15 for _, answer in lengths)
    assert sum(tokens_of({**ENTRIES[0], "input": "a b " * 60})) > 120  # control


# Answers. Rules and lists of this file's own, where a rule can check them.

PLURALS = """mouse/mice foot/feet tooth/teeth goose/geese man/men woman/women child/children
leaf/leaves wolf/wolves knife/knives shelf/shelves loaf/loaves potato/potatoes tomato/tomatoes
sheep/sheep"""
PASTS = """go/went run/ran eat/ate see/saw come/came sit/sat give/gave take/took make/made
find/found fly/flew swim/swam sing/sang sleep/slept tell/told say/said fall/fell buy/bought
bring/brought write/wrote draw/drew drink/drank ride/rode hide/hid catch/caught build/built
grow/grew lose/lost break/broke wake/woke stop/stopped hop/hopped hug/hugged clap/clapped
drop/dropped pat/patted skip/skipped trip/tripped beg/begged nod/nodded grab/grabbed plan/planned"""
PLURALS, PASTS = (dict(x.split("/") for x in text.split()) for text in (PLURALS, PASTS))
WHOLE = {"can't": "cannot", "won't": "will not", "n't": " not", "'m": " am", "'re": " are"}
WHOLE |= {"'ll": " will", "'ve": " have"}
PER_UNIT = {("week", "days"): 7, ("hour", "minutes"): 60, ("minute", "seconds"): 60}
PER_UNIT |= {("day", "hours"): 24, ("year", "months"): 12, ("foot", "inches"): 12}
PER_UNIT |= {("yard", "feet"): 3, ("meter", "centimeters"): 100, ("dollar", "cents"): 100}
PER_UNIT |= {("nickel", "cents"): 5, ("dime", "cents"): 10}
HE = "Tom Ben Jack Peter Dad Grandpa grandfather king boy prince brother father uncle Leo son man"
SHE = "Lily Anna Emma Sara Lucy Mom Grandma queen girl aunt princess sister mother woman nurse"
THEY = "twins ducks firefighters farmers monkeys bees puppies parents stars pirates children horses"
PRONOUN_OF = dict.fromkeys(f"{HE} knight Hill Green".split(), "He")
PRONOUN_OF |= dict.fromkeys(f"{SHE} witch Rose Wood Brown".split(), "She")
PRONOUN_OF |= dict.fromkeys(f"{THEY} neighbors".split(), "They")
NAMES = {"Tom", "Lily", "Ben", "Anna", "Mia", "Peter", "Emma", "Jack", "Leo", "Amy", "Max", "I"}
NAMES |= {"Monday", "Sunday", "Friday", "Uncle"}


def pairs_in(table):
    """The hand-written pairs, where no rule knows better."""
    return [tuple(row.values())[:2] for row in read_table(table)]


def kinds():
    """{thing, with its article and without: its kind}."""
    things = dict(pairs_in("things"))
    return things | {thing.split(" ", 1)[-1]: kind for thing, kind in things.items()}


def is_antonym(text, output):
    both_ways = {
        row["opposite"]: row["word"] for row in read_table("antonyms") if "both" in row["asked"]
    }
    opposites = both_ways | dict(pairs_in("antonyms"))
    return output == f"The opposite of {text} is {opposites[text]}."


def plural_of(noun):
    regular = re.sub(r"(?<=s|x)$|(?<=ch|sh)$", "e", re.sub(r"(?<![aeiou])y$", "ie", noun)) + "s"
    return PLURALS.get(noun, regular)


def past_of(verb):
    regular = re.sub(r"(?<![aeiou])y$", "i", verb).removesuffix("e") + "ed"
    return PASTS.get(verb, regular)


def with_article(word):
    return ("an " if re.match(r"hour|[aeio]|um|un(?!i)", word) else "a ") + word


def is_mended(text, output):
    known = [right for _, right in pairs_in("misspellings")]
    (nearest,) = difflib.get_close_matches(text, known, 1)
    return text not in known and output == f"The right spelling is {nearest}."


def is_neutral(text, output):
    neutral = dict(pairs_in("neutral_words"))[text]
    return output == f"You can say {neutral}." and not re.search(r"man\b|lady|mistress", neutral)


def is_rhyme(text, output, word):
    families = [row["words"].split(", ") for row in read_table("rhymes")]
    (family,) = (family for family in families if word in family)
    right = [choice for choice in text.split(" or ") if choice in family]
    return [output] == [f"The word {choice} rhymes with {word}." for choice in right]


def is_odd(text, output):
    kind = {word: kinds()[word] for word in text.split(", ")}
    odd = [word for word in kind if list(kind.values()).count(kind[word]) == 1]
    return [output] == [f"The word {word} does not belong." for word in odd]


def is_negation(text, output):
    helper = re.search(r"\b(is|are|was|were|will|can) ?not ", output)
    return helper and output.replace(helper[0], f"{helper[1]} ", 1) == text


def is_question(text, output):
    same_words = sorted(re.findall(r"\w+", text.lower())) == sorted(
        re.findall(r"\w+", output.lower())
    )
    return same_words and re.fullmatch(
        r"(Is|Are|Was|Were|Can|Will) ([a-z]|[A-Z]\w+ ).*\w\?", output
    )


def is_passive(text, output):
    done_to, helper, doer = re.fullmatch(r"(.+) (was|were) .+ by (.+)\.", output).groups()
    is_many = done_to.split(" of ")[0].endswith("s")
    starts = text.lower().startswith(f"{doer} ".lower())
    ends = text.lower().endswith(f" {done_to}.".lower())
    return starts and ends and helper == ("were" if is_many else "was")


def without_apostrophe(sentence):
    for short, whole in WHOLE.items():
        sentence = sentence.replace(short, whole)
    return sentence


def is_pronoun(text, output):
    pronoun, rest = output.split(" ", 1)
    subject = text.removesuffix(f" {rest}")
    expected = "They" if " and " in subject else PRONOUN_OF.get(subject.split()[-1], "It")
    return subject != text and pronoun == expected


def is_capitalized(text, output):
    later = output[:-1].split()[1:]
    names_only = all((word in NAMES) == (word != word.lower()) for word in later)
    missed = [word for word in later if word.capitalize() in NAMES and word not in NAMES]
    return output.lower() == f"{text}." and output[0].isupper() and names_only and not missed


def is_first_or_last(text, output, which):
    word = text[:-1].split(" ")[{"first": 0, "last": -1}[which]]
    return output == f"The {which} word is {word}."


def is_who(text, output, question):
    done = question.removeprefix("Who ").removesuffix("?")
    return text.startswith(f"{output[:-1]} {done} ")


def is_where(text, output, question):
    """The place is what follows the thing, the last word of the question."""
    thing = question.split(" ")[-1][:-1]
    return output.lower() == text[text.index(f" {thing} ") + len(thing) + 2 :].lower()


def is_color(text, output, question):
    thing = question.removeprefix("What color was the ").removesuffix("?")
    color = re.search(rf"an? (\w+) {thing} ", text)[1]
    return output == f"The {thing} was {color}."


def is_yes_or_no(text, output, question):
    thing, color = re.fullmatch(r"Was the (.+) (\w+)\?", question).groups()
    assert f" {thing} " in text
    return output == ("Yes." if f" {color} {thing} " in text else "No.")


def is_compared(text, output, which):
    choose = {"bigger": max, "smaller": min}[which]
    return output == f"The {which} number is {choose(map(int, text.split(' or ')))}."


def is_unit(text, output, small):
    number, large = text.split()
    large_one = {"feet": "foot"}.get(large, large.removesuffix("s"))
    verb = "is" if number == "1" else "are"
    has_right_form = (large == large_one) == (number == "1")
    answer = f"{text} {verb} {int(number) * PER_UNIT[large_one, small]} {small}."
    return has_right_form and output == answer


CHECKS = {
    "antonym": is_antonym,
    "plural": lambda text, output: output == f"The plural of {text} is {plural_of(text)}.",
    "past tense": lambda text, output: output == f"The past tense of {text} is {past_of(text)}.",
    "a or an": lambda text, output: output == with_article(text),
    "compound": lambda text, output: output == f"The new word is {text.replace(' and ', '')}.",
    "spelling": is_mended,
    "neutral word": is_neutral,
    "kind of thing": lambda text, output: output.lower() == f"{text} is {kinds()[text]}.",
    "rhyme": is_rhyme,
    "odd word out": is_odd,
    "negation": is_negation,
    "question": is_question,
    "passive": is_passive,
    "contraction": lambda text, output: output == without_apostrophe(text) != text,
    "pronoun": is_pronoun,
    "capital letters": is_capitalized,
    "first or last word": is_first_or_last,
    "feeling": lambda text, output: output == f"It is {dict(pairs_in('feelings'))[text]}.",
    "completion": lambda text, output: output == f"{text} {dict(pairs_in('familiar'))[text]}.",
    "who": is_who,
    "where": is_where,
    "color": is_color,
    "yes or no": is_yes_or_no,
    "counting": lambda text, output: (
        output == f"There are {['two', 'three', 'four', 'five', 'six'][text.count(',') - 1]}."
    ),
    "comparing numbers": is_compared,
    "sorting numbers": lambda text, output: output.split(", ") == sorted(text.split(", "), key=int),
    "sorting words": lambda text, output: output.split(", ") == sorted(text.split(", ")),
    "units": is_unit,
}


def is_right(entry):
    fields = fields_of(entry)
    del fields["wording"]
    return bool(CHECKS[entry["task"]](output=entry["output"], **fields))


@pytest.mark.parametrize("task", BY_TASK)
def test_answers_are_right(task):
    assert [entry for entry in BY_TASK[task] if not is_right(entry)] == []


@pytest.mark.parametrize("task", BY_TASK)
def test_the_answer_of_another_entry_is_found_wrong(task):
    """The control of the test above: each answer is exchanged for the next one that differs."""
    entries = BY_TASK[task]
    exchanged = 0
    for entry, following in zip(entries, [*entries[1:], entries[0]], strict=True):
        if following["output"] != entry["output"]:
            exchanged += 1
            assert not is_right({**entry, "output": following["output"]})
    assert exchanged > len(entries) / 4


# The split: by position, as the book's

TEST_FROM = int(0.85 * len(ENTRIES))
VALIDATION_FROM = TEST_FROM + int(0.1 * len(ENTRIES))


def part_of(position):
    return (position >= TEST_FROM) + (position >= VALIDATION_FROM)


def shares(entries):
    """{task: how many of its entries are for training, test, validation}."""
    counted = defaultdict(lambda: [0, 0, 0])
    for position, entry in enumerate(entries):
        counted[entry["task"]][part_of(position)] += 1
    return counted


def test_every_task_is_split_in_the_books_shares():
    for train, test, validation in shares(ENTRIES).values():
        assert train == 17 * validation and test == 2 * validation > 0
    assert any(17 * v != t for t, _, v in shares(sorted(ENTRIES, key=str)).values())  # control


def content_of(entry):
    """What its answer depends on, without the wording: what must not stand on two sides."""
    fields = fields_of(entry)
    if entry["task"] == "antonym":
        return " ".join(sorted(re.findall(r"(\w+) is (\w+)\.", entry["output"])[0]))
    if entry["task"] == "rhyme":
        return fields["word"]
    if entry["task"] in ("units", "comparing numbers", "sorting numbers"):
        return str(sorted(re.findall(r"\w+", fields["text"])))
    return fields["text"].lower().removesuffix(".")


def crossings(entries, threshold):
    """Pairs of near-duplicate contents on two sides: of one task, or of sentences of any task.

    Where only a number differs, so does the answer: numbers must only not be the same.
    """
    contents = [content_of(entry) for entry in entries]
    found = []
    for i, j, _ in near_duplicates(contents, threshold):
        if any(letter.isdigit() for letter in contents[i]) and contents[i] != contents[j]:
            continue
        is_sentence = min(contents[i].count(" "), contents[j].count(" ")) > 2
        if part_of(i) != part_of(j) and (is_sentence or entries[i]["task"] == entries[j]["task"]):
            found.append((contents[i], contents[j]))
    return found


def test_no_near_duplicate_is_on_two_sides():
    assert crossings(ENTRIES, 0.45) == []
    moved = [*ENTRIES[900:], *ENTRIES[:900]]  # control: elsewhere, sentences are torn apart
    assert len(crossings(moved, 0.45)) > 20


def families_on_two_sides(entries):
    sides = defaultdict(set)
    for position, entry in enumerate(entries):
        if entry["task"] == "rhyme":
            words = re.findall(r"The word (\w+) rhymes with (\w+)", entry["output"])[0]
            for row in read_table("rhymes"):
                if words[0] in row["words"].split(", "):
                    sides[row["words"]].add(part_of(position))
    assert len(sides) > 20
    return [family for family, parts in sides.items() if len(parts) > 1]


def test_words_that_rhyme_are_on_one_side():
    assert families_on_two_sides(ENTRIES) == []
    assert families_on_two_sides([*ENTRIES[900:], *ENTRIES[:900]]) != []  # control


# The script


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["make_instructions.py", *arguments])
    return make_instructions.main()


def test_the_script_makes_the_file_byte_for_byte(monkeypatch, tmp_path, capsys):
    embedded = companion.asset("instructions.json")
    assert run(monkeypatch, "--check") == 0
    monkeypatch.setattr(make_instructions, "OUTPUT", tmp_path / "made.json")
    assert run(monkeypatch) == 0
    assert (tmp_path / "made.json").read_bytes() == embedded.read_bytes()
    assert companion.assets.manifest()["instructions.json"]["sha256"] in capsys.readouterr().out
    with open(tmp_path / "made.json", "a", encoding="utf-8") as file:
        file.write(" ")
    assert run(monkeypatch, "--check") == 1  # control: altered


def test_the_readme_shows_the_table_of_the_script():
    readme = ROOT / "ch07" / "02_dataset-utilities" / "README.md"
    lines = list(make_instructions.table_of_tasks(ENTRIES))
    assert "\n".join(lines) in readme.read_text(encoding="utf-8")
    fewer = "\n".join(make_instructions.table_of_tasks(ENTRIES[1:]))  # control
    assert fewer not in readme.read_text(encoding="utf-8")


def test_a_row_with_a_missing_cell_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(make_instructions, "TABLES", tmp_path)
    (tmp_path / "x.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    assert read_table("x") == [{"a": "1", "b": "2"}]
    for row in ("1", "1\t", "1\t2\t3"):
        (tmp_path / "x.tsv").write_text(f"a\tb\n1\t2\n{row}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"x\.tsv, line 3: 2 filled cells are needed \(a, b\)"):
            read_table("x")


def test_groups_that_cannot_be_split_are_told():
    numbers = list(range(40))
    assert sorted(in_order_of_split(numbers, str, lambda n: n // 2)) == numbers
    with pytest.raises(ValueError, match="39 items are no multiple of 20"):
        in_order_of_split(numbers[1:], str)
    with pytest.raises(ValueError, match=r"Groups of \[20, 20\] cannot be split"):
        in_order_of_split(numbers, str, lambda n: n // 20)
