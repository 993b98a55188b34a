"""Make the repository's instruction set from the hand-written tables in `instructions/`.

    python make_instructions.py            # writes companion/data/instructions.json
    python make_instructions.py --check    # says whether the file is what the tables give

A table holds words or sentences; a function below makes the items of one kind of task from it, each
with its answer. TASKS says which answers are written by hand, and which follow from a rule. Each
item then gets a wording from `wordings.tsv`. Where a wording has the place {text}, the text goes
there; where it has not, the text becomes the entry's input.

The list is in the order of the book's split: the first 85 % are for training, the next 10 % for the
test, the rest for validation. Every kind of task is split in these shares. What belongs together (a
word and its opposite, words that rhyme, sentences that are nearly the same, the same sentence in
several kinds of task) is on one side.
"""

import argparse
import hashlib
import json
import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from companion.assets import HERE as COMPANION
from find_near_duplicates import near_duplicates

TABLES = Path(__file__).with_name("instructions")
OUTPUT = COMPANION / "data" / "instructions.json"
ENTRIES_PER_VALIDATION = 20  # 17 of them for training, 2 for the test, 1 for validation
NEARLY_THE_SAME = 0.4  # the similarity from which two texts may not be on different sides
SEED = 7
LOW_NUMBERS = range(1, 21)  # stories for children have few others
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
STARTS = {"The", "My", "We", "A", "His", "Her", "They", "Our", "This", "That", "Their", "Your"}
STARTS |= {"It", "Those", "She", "He", "You"}  # capitals only at the start of a sentence
VOWELS = "aeiou"


class Item(NamedTuple):
    """What a wording is put around: the text, the answer, and what else a wording may name."""

    text: str
    output: str
    group: object = None  # items with the same one stay on one side
    extra: dict = {}  # noqa: RUF012 - never changed


class Task(NamedTuple):
    """A kind of task: the function that makes its items, and where its answers come from."""

    make: object
    answers: str


# Tables, and the order of the split


def read_table(name):
    """The rows of `instructions/<name>.tsv`, as dicts.

    Raises:
        ValueError: a row has another number of cells than the heading; names the line.
    """
    path = TABLES / f"{name}.tsv"
    heading, *lines = path.read_text(encoding="utf-8").splitlines()
    columns = heading.split("\t")
    rows = [line.split("\t") for line in lines]
    for number, row in enumerate(rows, 2):
        if len(row) != len(columns) or not all(cell.strip() for cell in row):
            raise ValueError(
                f"{path.name}, line {number}: {len(columns)} filled cells are needed "
                f"({', '.join(columns)}), but it has {row}. Separate them by tabs."
            )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def in_order_of_split(things, text_of=None, group_of=None):
    """The same things, those for training first, then those for the test, then for validation.

    Args:
        things: list; its length is a multiple of 20, so that the shares come out even.
        text_of: a thing's text, if things with nearly the same text are to stay together.
        group_of: a thing's group, if it has one: stays together, too.

    Raises:
        ValueError: the length is no multiple of 20, or the groups are too large for the shares.
    """
    if len(things) % ENTRIES_PER_VALIDATION:
        raise ValueError(f"{len(things)} items are no multiple of {ENTRIES_PER_VALIDATION}.")
    groups = kept_together(things, text_of, group_of)
    rng, num_validation = random.Random(SEED), len(things) // ENTRIES_PER_VALIDATION
    for _ in range(100):  # until whole groups happen to fill both shares
        left = rng.sample(groups, len(groups))
        validation, test = fill(left, num_validation), fill(left, 2 * num_validation)
        if len(test) == 2 * len(validation) == 2 * num_validation:
            return [thing for group in left for thing in group] + test + validation
    sizes = sorted(map(len, groups), reverse=True)
    raise ValueError(f"Groups of {sizes} cannot be split. Shorten the largest, or add small ones.")


def kept_together(things, text_of, group_of):
    """Lists of things that belong together."""
    label = list(range(len(things)))  # of each thing's group
    texts = [text_of(thing) for thing in things] if text_of else []
    pairs = [(i, j) for i, j, _ in near_duplicates(texts, NEARLY_THE_SAME)]
    if group_of:
        names = [group_of(thing) for thing in things]
        pairs += [(names.index(name), j) for j, name in enumerate(names)]
    for i, j in pairs:
        old, new = label[j], label[i]
        label = [new if one == old else one for one in label]
    return [[x for x, own in zip(things, label, strict=True) if own == a] for a in set(label)]


def fill(groups, size):
    """Take whole groups out of the list, as long as they hold at most `size` things; the things."""
    taken = []
    for group in list(groups):
        if len(taken) + len(group) <= size:
            groups.remove(group)
            taken += group
    return taken


def split_items(items):
    """Items in the order of the split."""
    return in_order_of_split(items, lambda item: item.text, lambda item: item.group or item.text)


def split_rows(table, text_of):
    """The rows of a table in the order of the split: the same for each kind that uses them."""
    return in_order_of_split(read_table(table), text_of)


# Words


def antonyms():
    items = []
    for row in read_table("antonyms"):
        word, opposite = row["word"], row["opposite"]
        pairs = [(word, opposite), (opposite, word)][: 2 if row["asked"] == "both ways" else 1]
        items += [Item(a, f"The opposite of {a} is {b}.", group=word) for a, b in pairs]
    return split_items(items)


def plurals():
    items = []
    for row in read_table("plurals"):
        noun, plural = row["noun"], row["plural"]
        plural = regular_plural(noun) if plural == "by rule" else plural
        items.append(Item(noun, f"The plural of {noun} is {plural}."))
    return split_items(items)


def regular_plural(noun):
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def past_tenses():
    items = []
    for row in read_table("past_tense"):
        verb, past = row["verb"], row["past"]
        past = regular_past(verb) if past == "by rule" else past
        items.append(Item(verb, f"The past tense of {verb} is {past}."))
    return split_items(items)


def regular_past(verb):
    """With -ed; one vowel before one last consonant doubles it."""
    if verb.endswith("e"):
        return f"{verb}d"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return f"{verb[:-1]}ied"
    has_one_vowel = sum(letter in VOWELS for letter in verb) == 1
    if has_one_vowel and verb[-2] in VOWELS and verb[-1] not in VOWELS + "wxy":
        return f"{verb}{verb[-1]}ed"
    return f"{verb}ed"


def articles():
    rows = read_table("articles")
    return split_items([Item(row["word"], f"{row['article']} {row['word']}") for row in rows])


def compounds():
    rows = [(row["first"], row["second"]) for row in read_table("compounds")]
    return split_items([Item(f"{a} and {b}", f"The new word is {a}{b}.") for a, b in rows])


def spellings():
    rows = read_table("misspellings")
    return split_items(
        [Item(row["wrong"], f"The right spelling is {row['right']}.", row["right"]) for row in rows]
    )


def neutral_words():
    rows = read_table("neutral_words")
    return split_items(
        [Item(row["word"], f"You can say {row['neutral']}.", row["neutral"]) for row in rows]
    )


def kinds_of_thing():
    rows = read_table("things")
    return split_items(
        [Item(row["thing"], f"{capital(row['thing'])} is {row['kind']}.") for row in rows]
    )


def rhymes():
    """In each family, every word asks for the next one; the wrong choice is of another family."""
    rng = random.Random(SEED)
    families = [row["words"].split(", ") for row in read_table("rhymes")]
    items = []
    for family in families:
        for word, right in pairwise(family):
            wrong = rng.choice(rng.choice([other for other in families if other is not family]))
            choices = rng.sample([right, wrong], 2)
            answer = f"The word {right} rhymes with {word}."
            items.append(Item(" or ".join(choices), answer, family[0], {"word": word}))
    return split_items(items[: len(items) // ENTRIES_PER_VALIDATION * ENTRIES_PER_VALIDATION])


def odd_words_out():
    """Three things of one kind and one of another; no two lists share more than one word."""
    rng = random.Random(SEED)
    kinds = single_words()
    items, seen = [], []
    while len(items) < 60:
        kind, other = rng.sample(list(kinds), 2)
        odd = rng.choice(kinds[other])
        words = rng.sample([*rng.sample(kinds[kind], 3), odd], 4)
        if all(len(set(words) & lists) < 2 for lists in seen):
            seen.append(set(words))
            items.append(Item(", ".join(words), f"The word {odd} does not belong."))
    return split_items(items)


def single_words():
    """{kind: the things that are one word, without their article}."""
    kinds = {}
    for row in read_table("things"):
        word = row["thing"].removeprefix("a ").removeprefix("an ")
        if " " not in word:
            kinds.setdefault(row["kind"], []).append(word)
    return kinds


# Sentences


def capital(text):
    return text[0].upper() + text[1:]


def inside(text):
    """The text as it is written in the middle of a sentence: names keep their capital letter."""
    return text[0].lower() + text[1:] if text.split()[0] in STARTS else text


def statements():
    return split_rows("statements", lambda row: " ".join(row.values()))


def negations():
    items = []
    for row in statements():
        subject, helper, rest = row.values()
        helper_not = "cannot" if helper == "can" else f"{helper} not"
        items.append(Item(f"{subject} {helper} {rest}.", f"{subject} {helper_not} {rest}."))
    return items


def questions():
    items = []
    for row in statements():
        subject, helper, rest = row.values()
        question = f"{capital(helper)} {inside(subject)} {rest}?"
        items.append(Item(f"{subject} {helper} {rest}.", question))
    return items


def passives():
    items = []
    for row in read_table("passive"):
        doer, past, participle, helper, done_to = row.values()
        passive = f"{capital(done_to)} {helper} {participle} by {inside(doer)}."
        items.append(Item(f"{doer} {past} {done_to}.", passive))
    return split_items(items)


def contractions():
    rows = read_table("contractions")
    return split_items(
        [Item(row["sentence"], row["sentence"].replace(row["short"], row["long"])) for row in rows]
    )


def pronouns():
    rows = [row.values() for row in read_table("pronouns")]
    return split_items(
        [Item(f"{subject} {rest}", f"{pronoun} {rest}") for subject, pronoun, rest in rows]
    )


def sentences():
    return [row["sentence"] for row in split_rows("sentences", lambda row: row["sentence"])]


def capital_letters():
    return [Item(sentence.lower().removesuffix("."), sentence) for sentence in sentences()]


def first_or_last_words():
    items = []
    for number, sentence in enumerate(sentences()):
        which, place = alternate(number, ("first", 0), ("last", -1))
        word = sentence.removesuffix(".").split()[place]
        items.append(Item(sentence, f"The {which} word is {word}.", extra={"which": which}))
    return items


def alternate(number, one, other):
    """Two of the one, two of the other: a text inside the instruction for each, and as input."""
    return (one, other)[number // 2 % 2]


def feelings():
    rows = read_table("feelings")
    return split_items([Item(row["sentence"], f"It is {row['feeling']}.") for row in rows])


def completions():
    rows = read_table("familiar")
    return split_items([Item(row["start"], f"{row['start']} {row['end']}.") for row in rows])


# Questions about a sentence


def scenes():
    """The rows of `scenes.tsv`, each with its sentence and the thing with its color."""
    rows = read_table("scenes")
    for row in rows:
        article = "an" if row["color"][0] in VOWELS else "a"
        row["object"] = f"{article} {row['color']} {row['thing']}"
        row["sentence"] = f"{row['who']} {row['past']} {row['object']} {row['place']}."
    return in_order_of_split(rows, lambda row: row["sentence"])


def asked(row, question, answer):
    return Item(row["sentence"], answer, extra={"question": question})


def who():
    return [asked(row, f"Who {row['past']} {row['object']}?", f"{row['who']}.") for row in scenes()]


def where():
    return [
        asked(
            row,
            f"Where did {inside(row['who'])} {row['base']} {row['object']}?",
            f"{capital(row['place'])}.",
        )
        for row in scenes()
    ]


def color():
    return [
        asked(
            row,
            f"What color was the {row['thing']}?",
            f"The {row['thing']} was {row['color']}.",
        )
        for row in scenes()
    ]


def yes_or_no():
    rng = random.Random(SEED)
    items, rows = [], scenes()
    colors = sorted({row["color"] for row in rows})
    for number, row in enumerate(rows):
        wrong = rng.choice([color for color in colors if color != row["color"]])
        color, answer = alternate(number, (row["color"], "Yes."), (wrong, "No."))
        items.append(asked(row, f"Was the {row['thing']} {color}?", answer))
    return items


# Numbers and order, all by rule


def counts():
    """Lists of two to six words, each length as often."""
    rng = random.Random(f"{SEED} counting")
    words = sorted(word for words in single_words().values() for word in words)
    items = []
    for number in range(60):
        length = 2 + number % 5
        items.append(Item(", ".join(rng.sample(words, length)), f"There are {NUMBERS[length]}."))
    return split_items(items)


def comparisons():
    rng = random.Random(SEED)
    pairs = {frozenset(rng.sample(LOW_NUMBERS, 2)): None for _ in range(100)}
    pairs = [rng.sample(sorted(pair), 2) for pair in list(pairs)[:60]]
    rows = in_order_of_split(pairs)
    items = []
    for number, (a, b) in enumerate(rows):
        which, choose = alternate(number, ("bigger", max), ("smaller", min))
        answer = f"The {which} number is {choose(a, b)}."
        items.append(Item(f"{a} or {b}", answer, extra={"which": which}))
    return items


def sorted_numbers():
    rng = random.Random(SEED)
    return split_items(orders(lambda: rng.sample(LOW_NUMBERS, 3)))


def sorted_words():
    """Three words that begin with different letters."""
    rng = random.Random(f"{SEED} sorting")
    words = sorted(word for words in single_words().values() for word in words)
    items = orders(lambda: rng.sample(words, 3), is_good=lambda ws: len({w[0] for w in ws}) == 3)
    return split_items(items)


def orders(draw, is_good=lambda things: True, number=40):
    """Items that ask for an order: no two lists share more than one thing, none is in order."""
    items, seen = [], []
    while len(items) < number:
        things = draw()
        if things == sorted(things) or not is_good(things):
            continue
        if all(len(set(things) & other) < 2 for other in seen):
            seen.append(set(things))
            items.append(Item(", ".join(map(str, things)), ", ".join(map(str, sorted(things)))))
    return items


def units():
    """Any number can be on any side: 2 weeks do not tell how many days 3 weeks are."""
    items = []
    for row in read_table("units"):
        for number in range(int(row["from"]), int(row["to"]) + 1):
            large = f"{number} {row['large'] if number == 1 else row['large plural']}"
            verb = "is" if number == 1 else "are"
            small = row["small plural"]
            answer = f"{large} {verb} {number * int(row['how many'])} {small}."
            items.append(Item(large, answer, extra={"small": small}))
    return in_order_of_split(items)


BY_HAND, BY_RULE = "by hand", "by rule"
MIXED = "by rule, irregular ones by hand"
TASKS = {
    "antonym": Task(antonyms, BY_HAND),
    "plural": Task(plurals, MIXED),
    "past tense": Task(past_tenses, MIXED),
    "a or an": Task(articles, BY_HAND),
    "compound": Task(compounds, BY_HAND),
    "spelling": Task(spellings, BY_HAND),
    "neutral word": Task(neutral_words, BY_HAND),
    "kind of thing": Task(kinds_of_thing, BY_HAND),
    "rhyme": Task(rhymes, BY_HAND),
    "odd word out": Task(odd_words_out, BY_RULE),
    "negation": Task(negations, BY_RULE),
    "question": Task(questions, BY_RULE),
    "passive": Task(passives, BY_HAND),
    "contraction": Task(contractions, BY_HAND),
    "pronoun": Task(pronouns, BY_HAND),
    "capital letters": Task(capital_letters, BY_HAND),
    "first or last word": Task(first_or_last_words, BY_RULE),
    "feeling": Task(feelings, BY_HAND),
    "completion": Task(completions, BY_HAND),
    "who": Task(who, BY_HAND),
    "where": Task(where, BY_HAND),
    "color": Task(color, BY_HAND),
    "yes or no": Task(yes_or_no, BY_RULE),
    "counting": Task(counts, BY_RULE),
    "comparing numbers": Task(comparisons, BY_RULE),
    "sorting numbers": Task(sorted_numbers, BY_RULE),
    "sorting words": Task(sorted_words, BY_RULE),
    "units": Task(units, BY_RULE),
}


# Entries


def wordings():
    """{task: (wordings with a place for the text, wordings without)}."""
    found = {task: ([], []) for task in TASKS}
    for row in read_table("wordings"):
        found[row["task"]]["{text}" not in row["wording"]].append(row["wording"])
    return found


def worded(task, items):
    """One entry for each item; the two forms in turns, their wordings in random rounds."""
    rng = random.Random(f"{SEED} {task}")
    rounds = [[], []]
    entries = []
    for number, item in enumerate(items):
        form = number % 2
        rounds[form] = rounds[form] or rng.sample(*sized(wordings()[task][form]))
        instruction = rounds[form].pop().format(text=item.text, **item.extra)
        text = item.text if form else ""
        entries.append(
            {"instruction": instruction, "input": text, "output": item.output, "task": task}
        )
    return entries


def sized(things):
    return things, len(things)


def make_entries():
    """All entries, in the order of the split; mixed within each of its parts."""
    parts = [[], [], []]
    for name, task in TASKS.items():
        entries = worded(name, task.make())
        share = len(entries) // ENTRIES_PER_VALIDATION
        for part, begin, end in zip(parts, (0, 17, 19), (17, 19, 20), strict=True):
            part += entries[begin * share : end * share]
    for part in parts:
        random.Random(SEED).shuffle(part)
    return [entry for part in parts for entry in part]


def as_json(entries):
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{lines}\n]\n"


def table_of_tasks(entries):
    """The lines of a table in Markdown: the kinds of task, and who made their answers."""
    number = Counter(entry["task"] for entry in entries)
    yield "| task | entries | distinct texts | answers | example |"
    yield "|---|---|---|---|---|"
    for name, task in TASKS.items():
        items = task.make()
        texts = len({(item.text, *item.extra.values()) for item in items})
        example = f"{items[0].text} → {items[0].output}"
        yield f"| {name} | {number[name]} | {texts} | {task.answers} | {example} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    args = parser.parse_args()
    entries = make_entries()
    content = as_json(entries).encode()
    if args.check:
        if not OUTPUT.exists() or OUTPUT.read_bytes() != content:
            print(f"{OUTPUT} is not what the tables give. Run make_instructions.py.")
            return 1
        print(f"{OUTPUT.name} is what the tables give: {len(entries):,} entries.")
        return 0
    OUTPUT.write_bytes(content)
    print("\n".join(table_of_tasks(entries)))
    print(f"\n{len(entries):,} entries, {len(content):,} bytes. The entry in assets.toml:")
    print(f'size = {len(content)}\nsha256 = "{hashlib.sha256(content).hexdigest()}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
