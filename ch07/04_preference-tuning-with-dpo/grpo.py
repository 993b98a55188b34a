"""Group relative policy optimization (GRPO) on a task that a program can check: sorting digits.

A text is a question, such as 7 3 9 3, then =, then the answer, 3 3 7 9. The model samples several
answers to each question, and learns from which of them were better than the others.

Shapes: P questions, G answers to each (a group), R = P * G rows, A tokens of an answer, T tokens of
a text, C width of a vector, V vocabulary (ten digits and =).

    python grpo.py              # warms a model up, then trains it by its own answers
    python grpo.py --shuffled   # the control: the same rewards, given to other answers

Source: Shao et al., "DeepSeekMath", 2024, section 4.1. Beyond the book.
"""

import argparse

import torch
from torch import nn

import companion
from dpo import dpo_loss
from gpt import GPTModel

NUM_DIGITS = 5  # A
EQUALS = 10  # the id of =; a digit is its own id
SORT_CONFIG = {
    "vocab_size": 11,
    "context_length": 2 * NUM_DIGITS + 1,
    "emb_dim": 48,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
CLIP = 0.2  # how far a probability may move, as a share, before an answer stops to count


# The task


def draw_questions(num_questions):
    """Random digits and =, (P, A + 1)."""
    digits = torch.randint(10, (num_questions, NUM_DIGITS))
    return torch.cat([digits, torch.full((num_questions, 1), EQUALS)], dim=1)


def solve(questions):
    """The right answers (P, A)."""
    return questions[:, :NUM_DIGITS].sort(dim=1).values


def is_right(questions, answers):
    """The reward: 1 for a right answer, 0 for any other; (R,) float for (R, A + 1) and (R, A)."""
    return (answers == solve(questions)).all(dim=1).float()


# The policy


def answer_logprobs(model, questions, answers):
    """Log-probability of each token of each answer, (R, A).

    Args:
        questions: (R, A + 1) ids that end in =.
        answers: (R, A) ids.
    """
    ids = torch.cat([questions, answers], dim=1)  # (R, T)
    logits = model(ids[:, :-1])[:, -answers.shape[1] :]  # (R, A, V): those that predict answers
    return logits.log_softmax(dim=-1).gather(2, answers[..., None])[..., 0]  # (R, A)


@torch.no_grad()
def sample_answers(model, questions):
    """Draw an answer to each question, (R, A), each token by the model's own probabilities."""
    ids = questions
    for _ in range(NUM_DIGITS):
        probas = model(ids)[:, -1].softmax(dim=-1)  # (R, V)
        ids = torch.cat([ids, torch.multinomial(probas, num_samples=1)], dim=1)
    return ids[:, questions.shape[1] :]


def show_solutions(model, num_steps=30, batch_size=64, learning_rate=0.003):
    """Show the model right answers for a short time, as a pretrained model has seen some before."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in range(num_steps):
        questions = draw_questions(batch_size)
        loss = -answer_logprobs(model, questions, solve(questions)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# A reward that is learned


def make_reward_model():
    """A GPT whose head gives one number for a position: the score of the text up to there."""
    model = GPTModel(SORT_CONFIG)
    model.out_head = nn.Linear(SORT_CONFIG["emb_dim"], 1, bias=False)
    return model


def score(reward_model, questions, answers):
    """Scores (R,) of answers (R, A): the number at the last position, which has seen all."""
    return reward_model(torch.cat([questions, answers], dim=1))[:, -1, 0]


def draw_preferences(num_pairs):
    """Questions, right answers and wrong ones: the right answer with two digits exchanged.

    Returns:
        (B, A + 1), (B, A) and (B, A). Questions whose two digits happen to be equal are left out,
        so B may be less than `num_pairs`.
    """
    questions = draw_questions(num_pairs)
    chosen = solve(questions)
    first = torch.randint(NUM_DIGITS - 1, (num_pairs, 1))
    rejected = chosen.scatter(1, first, chosen.gather(1, first + 1))
    rejected = rejected.scatter(1, first + 1, chosen.gather(1, first))
    differ = (chosen != rejected).any(dim=1)
    return questions[differ], chosen[differ], rejected[differ]


def train_reward_model(reward_model, num_steps=100, num_pairs=64, learning_rate=0.003):
    """Train by pairs, and yield the loss of each step: -log sigmoid of the difference of scores.

    Source: Bradley and Terry 1952; Christiano et al., "Deep Reinforcement Learning from Human
    Preferences", 2017, section 2.2.3.
    """
    optimizer = torch.optim.AdamW(reward_model.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in range(num_steps):
        questions, chosen, rejected = draw_preferences(num_pairs)
        margins = score(reward_model, questions, chosen) - score(reward_model, questions, rejected)
        loss = dpo_loss(margins)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


# GRPO


def group_advantages(rewards):
    """How much better each answer is than its group, in standard deviations; (P, G) -> (P, G).

    A group of equal rewards teaches nothing: its advantages are 0.

    Raises:
        ValueError: the rewards are no (P, G), or a group has one answer only.

    Source: Shao et al. 2024, section 4.1.2.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            "The rewards must have the shape (questions, answers), with at least 2 answers to "
            f"compare, but have {tuple(rewards.shape)}."
        )
    centered = rewards - rewards.mean(dim=1, keepdim=True)
    return centered / (rewards.std(dim=1, keepdim=True, unbiased=False) + 1e-4)


def grpo_loss(logprobs, old_logprobs, advantages):
    """Minus the mean gain of better answers, where no token's probability counts beyond CLIP.

    Args:
        logprobs: (R, A) of the answers' tokens, by the model as it is.
        old_logprobs: (R, A) by the model that drew them.
        advantages: (R,).

    Source: Shao et al. 2024, equation 3, without its penalty for distance from a reference.
    """
    ratio = (logprobs - old_logprobs).exp()  # (R, A), 1 before the first step
    gain = torch.min(
        ratio * advantages[:, None], ratio.clamp(1 - CLIP, 1 + CLIP) * advantages[:, None]
    )
    return -gain.mean()


def train_grpo(
    model, reward=is_right, num_steps=100, num_questions=32, group_size=8, learning_rate=0.001
):
    """Train a model by its own answers, and yield the mean reward `is_right` of each step.

    Args:
        model: the policy; it is changed.
        reward: function of questions (R, A + 1) and answers (R, A) that gives rewards (R,).
        num_steps: each draws answers, then learns from them twice.
        num_questions, group_size: P and G.
        learning_rate: of AdamW.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in range(num_steps):
        questions = draw_questions(num_questions).repeat_interleave(group_size, dim=0)  # (R, A + 1)
        answers = sample_answers(model, questions)  # (R, A)
        rewards = reward(questions, answers)  # (R,)
        advantages = group_advantages(rewards.view(num_questions, group_size)).flatten()
        with torch.no_grad():
            old_logprobs = answer_logprobs(model, questions, answers)
        for _ in range(2):
            loss = grpo_loss(answer_logprobs(model, questions, answers), old_logprobs, advantages)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield is_right(questions, answers).mean().item()


def shuffled_is_right(questions, answers):
    """The control: the same rewards, given to other answers at random."""
    rewards = is_right(questions, answers)
    return rewards[torch.randperm(len(rewards))]


@torch.no_grad()
def share_right(model, num_questions=500):
    """The share of new questions that a sampled answer is right for."""
    questions = draw_questions(num_questions)
    return is_right(questions, sample_answers(model, questions)).mean().item()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shuffled", action="store_true", help="give rewards to other answers")
    reward = shuffled_is_right if parser.parse_args(arguments).shuffled else is_right
    companion.setup()
    torch.manual_seed(123)
    model = GPTModel(SORT_CONFIG)
    show_solutions(model)
    for step, mean_reward in enumerate(train_grpo(model, reward), 1):
        if step == 1 or step % 20 == 0:
            print(f"step {step:3}: {mean_reward:.0%} of the sampled answers are right")
    print(f"on new questions: {share_right(model):.0%}")


if __name__ == "__main__":
    main()
