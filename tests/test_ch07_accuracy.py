"""What the pocket model learns from the repository's instructions, over three seeds.

Only `-m training` runs these tests. The control is the same model without finetuning.
"""

import pandas as pd
import pytest
import tiktoken

import companion
from gpt_instruction_finetuning import (
    generate_responses,
    instruct_pocket,
    read_instructions,
    scores_by_task,
    split_entries,
)
from pocket_model import load_pocket

pytestmark = [pytest.mark.slow, pytest.mark.training]
SEEDS = (1, 2, 3)

# Kind of task: the least share of right answers and the least F1, means over the seeds. A floor is
# about a tenth below what the seeds reached: one answer of ten is that much.
FLOORS = {
    "a or an": (0.20, 0.35),
    "antonym": (0.00, 0.65),
    "capital letters": (0.00, 0.45),
    "color": (0.70, 0.85),
    "comparing numbers": (0.05, 0.70),
    "completion": (0.00, 0.50),
    "compound": (0.05, 0.70),
    "contraction": (0.30, 0.60),
    "counting": (0.20, 0.65),
    "feeling": (0.85, 0.85),
    "first or last word": (0.25, 0.75),
    "kind of thing": (0.20, 0.70),
    "negation": (0.15, 0.75),
    "neutral word": (0.00, 0.60),
    "odd word out": (0.05, 0.75),
    "passive": (0.10, 0.70),
    "past tense": (0.30, 0.70),
    "plural": (0.10, 0.65),
    "pronoun": (0.10, 0.65),
    "question": (0.00, 0.60),
    "rhyme": (0.25, 0.75),
    "sorting numbers": (0.00, 0.10),
    "sorting words": (0.00, 0.10),
    "spelling": (0.00, 0.65),
    "units": (0.00, 0.20),
    "where": (0.40, 0.70),
    "who": (0.75, 0.75),
    "yes or no": (0.60, 0.60),
    "all": (0.20, 0.65),
}


@pytest.fixture(scope="module")
def test_part():
    companion.prepare_tokenizer()
    return split_entries(read_instructions(companion.asset("instructions.json")))[1]


@pytest.fixture(scope="module")
def untrained(test_part):
    responses = generate_responses(load_pocket(), test_part, tiktoken.get_encoding("gpt2"))
    return scores_by_task(test_part, responses)


@pytest.fixture(scope="module")
def trained(test_part):
    """The mean of the tables of all seeds."""
    tables = []
    for seed in SEEDS:
        _, responses = instruct_pocket(seed=seed)
        tables.append(scores_by_task(test_part, responses))
        print(f"\nseed {seed}\n{tables[-1].round(3).to_string()}")
    return pd.concat(tables).groupby(level=0).mean()


def below_floors(table):
    return {
        kind: table.loc[kind, ["exact match", "F1"]].round(2).tolist()
        for kind, floors in FLOORS.items()
        if (table.loc[kind, ["exact match", "F1"]] < list(floors)).any()
    }


def test_every_kind_reaches_its_floors(trained):
    assert set(FLOORS) == set(trained.index)
    assert below_floors(trained) == {}


def test_every_kind_learns_the_form_of_its_answers(trained, untrained):
    gain = (trained["F1"] - untrained["F1"]).drop("all")
    assert gain.min() > 0


def test_the_untrained_model_reaches_no_floor(untrained):
    """The control: the floors are not reached by luck."""
    assert untrained.loc["all", "exact match"] < 0.02
    assert set(below_floors(untrained)) == set(FLOORS)
