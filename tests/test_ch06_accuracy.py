"""How often the finetuned pocket model of chapter 6 is right, over three seeds.

At least 95 of 100 test messages must be, of the repository's and of the book's. Only `-m training`
runs these tests. Each has a control: without an update the accuracy is that of chance.
"""

import pytest

import companion
import gpt_class_finetune as ch06

pytestmark = [pytest.mark.slow, pytest.mark.training]
companion.prepare_tokenizer()
SEEDS = (1, 2, 3)


def accuracy_of(path, seed, **settings):
    """Of the test part; `num_epochs=0` leaves the new head random."""
    _, (_, _, accuracy) = ch06.finetune_pocket(ch06.read_messages(path), seed=seed, **settings)
    return accuracy


@pytest.mark.parametrize("seed", SEEDS)
def test_95_percent_of_the_embedded_messages_are_right(seed):
    assert accuracy_of(companion.asset("messages.tsv"), seed) >= 0.95


@pytest.mark.book
@pytest.mark.parametrize("seed", SEEDS)
def test_95_percent_of_the_books_messages_are_right(sms_collection, seed):
    assert accuracy_of(sms_collection, seed) >= 0.95


def test_without_an_update_it_is_chance():
    """Control of both."""
    assert accuracy_of(companion.asset("messages.tsv"), SEEDS[0], num_epochs=0) < 0.75
