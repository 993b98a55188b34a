"""GRPO on sorting digits: the task, sampling, advantages, the loss, and that it learns."""

import copy
import math

import pytest
import torch

import grpo
from gpt import GPTModel


def sorter(seed=0):
    torch.manual_seed(seed)
    return GPTModel(grpo.SORT_CONFIG).eval()


# The task and the policy


def test_solutions_are_right_and_others_are_not():
    torch.manual_seed(0)
    questions = grpo.draw_questions(50)
    assert questions.shape == (50, grpo.NUM_DIGITS + 1) and (questions[:, -1] == grpo.EQUALS).all()
    answers = grpo.solve(questions)
    assert grpo.is_right(questions, answers).tolist() == [1.0] * 50
    answers[0, 0] += 1
    assert grpo.is_right(questions, answers).tolist() == [0.0] + [1.0] * 49


def test_log_probabilities_are_those_of_each_token_after_what_stands_before_it():
    model = sorter()
    questions = grpo.draw_questions(3)
    answers = grpo.solve(questions)
    logprobs = grpo.answer_logprobs(model, questions, answers)
    for row in range(3):
        text = questions[row].tolist()
        for place, token in enumerate(answers[row].tolist()):
            expected = model(torch.tensor([text]))[0, -1].log_softmax(dim=-1)[token]
            torch.testing.assert_close(logprobs[row, place], expected)
            text.append(token)


def test_answers_are_drawn_as_often_as_the_model_says():
    model = sorter()
    question = torch.tensor([[3, 1, 2, 5, 4, grpo.EQUALS]])
    torch.manual_seed(0)
    first = grpo.sample_answers(model, question.expand(4000, -1))[:, 0]
    shares = torch.bincount(first, minlength=11) / 4000
    probas = model(question)[0, -1].softmax(dim=-1).detach()
    torch.testing.assert_close(shares, probas, atol=0.03, rtol=0)


# Rewards, advantages and the loss


def test_advantages_are_standard_deviations_from_the_groups_mean():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    by_hand = torch.tensor([[1.0, -1, -1, 1], [-(3**-0.5)] * 3 + [3**0.5], [0.0] * 4])
    torch.testing.assert_close(grpo.group_advantages(rewards), by_hand, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2, 2)])
def test_groups_that_cannot_be_compared_are_refused(shape):
    with pytest.raises(ValueError, match=r"at least 2 answers to compare, but have \("):
        grpo.group_advantages(torch.zeros(shape))


def test_the_first_step_is_the_plain_policy_gradient():
    logprobs = torch.randn(3, 5, requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5])
    grpo.grpo_loss(logprobs, logprobs.detach(), advantages).backward()
    torch.testing.assert_close(logprobs.grad, -advantages[:, None].expand(3, 5) / 15)


@pytest.mark.parametrize(
    ("ratio", "advantage", "is_pushed"),
    [(1.1, 1.0, True), (1.3, 1.0, False), (0.7, 1.0, True), (0.7, -1.0, False), (1.3, -1.0, True)],
)
def test_a_token_that_moved_far_in_its_direction_is_left_alone(ratio, advantage, is_pushed):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    grpo.grpo_loss(logprobs, torch.zeros(1, 1), torch.tensor([advantage])).backward()
    assert bool(logprobs.grad) == is_pushed


def test_pairs_for_the_reward_model_differ_in_the_order_of_two_neighbors():
    torch.manual_seed(0)
    questions, chosen, rejected = grpo.draw_preferences(200)
    assert 100 < len(questions) < 200  # equal neighbors are left out
    assert (grpo.is_right(questions, chosen) == 1).all()
    assert (grpo.is_right(questions, rejected) == 0).all()
    assert torch.equal(rejected.sort(dim=1).values, chosen)
    assert ((chosen != rejected).sum(dim=1) == 2).all()


@pytest.mark.slow
def test_a_reward_model_learns_what_is_preferred():
    torch.manual_seed(1)
    model = grpo.make_reward_model()
    questions, chosen, rejected = grpo.draw_preferences(300)

    def agreement():
        with torch.no_grad():
            margins = grpo.score(model, questions, chosen) - grpo.score(model, questions, rejected)
        return (margins > 0).float().mean().item()

    assert 0.2 < agreement() < 0.8  # control
    assert list(grpo.train_reward_model(model))[-1] < math.log(2) / 2
    assert agreement() > 0.9


@pytest.mark.slow
def test_rewards_teach_and_shuffled_rewards_do_not():
    start = sorter(seed=1)
    grpo.show_solutions(start)
    at_first = grpo.share_right(start)
    assert 0.01 < at_first < 0.5
    shares = []
    for reward in (grpo.is_right, grpo.shuffled_is_right):
        torch.manual_seed(1)
        model = copy.deepcopy(start)
        for _ in grpo.train_grpo(model, reward, num_steps=60):
            pass
        shares.append(grpo.share_right(model))
    assert shares[0] > at_first + 0.2
    assert shares[1] < at_first + 0.1
