"""What the pocket model learns from the repository's instructions, over three seeds.

A shorter training than the chapter's, one epoch: enough to tell learning from luck.
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

# Kinds of task with the least share of right answers, mean over the seeds, that an epoch must reach
FLOORS = {"color": 0.15, "feeling": 0.3, "who": 0.15, "yes or no": 0.3}


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
        _, responses = instruct_pocket(num_epochs=1, seed=seed)
        tables.append(scores_by_task(test_part, responses))
    return pd.concat(tables).groupby(level=0).mean()


def test_every_kind_reaches_its_floor(trained):
    below = {
        kind: round(trained.loc[kind, "exact match"], 2)
        for kind, floor in FLOORS.items()
        if trained.loc[kind, "exact match"] < floor
    }
    assert below == {}


def test_every_kind_learns_the_form_of_its_answers(trained, untrained):
    gain = (trained["F1"] - untrained["F1"]).drop("all")
    assert gain.min() > 0


def test_the_untrained_model_answers_nothing(untrained):
    """The control: the floors are not reached by luck."""
    assert untrained.loc["all", "exact match"] < 0.02
    assert (untrained["exact match"][list(FLOORS)] < list(FLOORS.values())).all()
