"""Direct preference optimization (DPO): learn from pairs of answers which of them is preferred.

A pair is a dictionary with the keys prompt, chosen and rejected. The policy is the model that
learns; the reference is a frozen copy of what it was before.

Shapes: B pairs, R = 2B rows of a batch (the chosen answers, then the rejected ones), T tokens of
the longest row, N tokens of all answers in the batch, V vocabulary. Log-probabilities are natural.

    python dpo.py                              # tunes the pocket model on the embedded pairs
    python dpo.py --path ../../build/kind.pth  # and saves it

Source: Rafailov et al., "Direct Preference Optimization", 2023. Beyond the book.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import tiktoken
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

import companion
from gpt_train import save_checkpoint
from pocket_model import POCKET_CONFIG, load_pocket

KEYS = ("prompt", "chosen", "rejected")
PAD_TOKEN_ID = 50256  # <|endoftext|>
NUM_TRAINING = 340  # of the embedded pairs; the other 100 are held out


# Data


def load_preferences():
    """The embedded pairs: those for training, and those held out. Two lists of dictionaries."""
    pairs = json.loads(companion.asset("preferences.json").read_text(encoding="utf-8"))
    return pairs[:NUM_TRAINING], pairs[NUM_TRAINING:]


class PreferenceDataset(Dataset):
    """Preference pairs as ids. An item is (prompt, chosen, rejected), three lists of ids.

    Prompt and answers are encoded by themselves, so both answers follow the same prompt ids. Where
    an answer is to end with `<|endoftext|>`, its text ends so.

    Args:
        pairs: list of dictionaries with the keys prompt, chosen and rejected.
        tokenizer: tiktoken's.
        context_length: the most tokens that a prompt and an answer may have together.

    Raises:
        ValueError: there are no pairs, a key is missing, a text is empty or none, both answers are
            the same, or a pair is too long; names the pair.
    """

    def __init__(self, pairs, tokenizer, context_length):
        if not pairs:
            raise ValueError("There are no preference pairs.")
        self.items = []
        for number, pair in enumerate(pairs):
            check_pair(pair, number)
            ids = [tokenizer.encode(pair[key], allowed_special="all") for key in KEYS]
            longest = len(ids[0]) + max(len(ids[1]), len(ids[2]))
            if longest > context_length:
                raise ValueError(
                    f"Pair {number} has {longest} tokens, prompt and longer answer, but the "
                    f"context holds {context_length}. Shorten it or leave it out."
                )
            self.items.append(ids)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def check_pair(pair, number):
    """Raise a ValueError that says what is wrong with a pair, if anything is."""
    missing = [key for key in KEYS if key not in pair]
    if missing:
        raise ValueError(
            f"Pair {number} has no {' and no '.join(map(repr, missing))}, only "
            f"{', '.join(map(repr, pair)) or 'nothing'}."
        )
    for key in KEYS:
        if not isinstance(pair[key], str) or not pair[key].strip():
            raise ValueError(f"Pair {number}: {key!r} must be a text, but is {pair[key]!r}.")
    if pair["chosen"].strip() == pair["rejected"].strip():
        raise ValueError(
            f"Pair {number}: chosen and rejected are both {pair['chosen']!r}, so there is nothing "
            "to prefer."
        )


def collate_pairs(items, pad_token_id=PAD_TOKEN_ID):
    """A batch of B items of a `PreferenceDataset`.

    Padding is on the right. It is no answer, and a model that cannot see the future does not see
    it from any answer.

    Returns:
        ids (R, T), and is_answer (R, T), True at the tokens of an answer.
    """
    rows = [(prompt, chosen) for prompt, chosen, _ in items]
    rows += [(prompt, rejected) for prompt, _, rejected in items]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), pad_token_id)  # (R, T)
    is_answer = torch.zeros(len(rows), length, dtype=torch.bool)  # (R, T)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        is_answer[row, len(prompt) : end] = True
    return ids, is_answer


# Log-probabilities and the loss


def answer_logits(model, ids, is_answer):
    """Logits (N, V) from which the N answer tokens of ids (R, T) are predicted.

    The head is the largest part of a small model's work, so a hook hands it the positions that are
    followed by an answer token, and no others.
    """
    is_wanted = is_answer[:, 1:]  # (R, T - 1): the token at t is predicted at t - 1
    hook = model.out_head.register_forward_pre_hook(lambda head, args: (args[0][is_wanted],))
    try:
        return model(ids[:, :-1])  # (N, V)
    finally:
        hook.remove()


def sequence_logprobs(model, ids, is_answer):
    """How likely each row's answer is, given its prompt: log-probabilities (R,), sums over tokens.

    Args:
        model: a `GPTModel`.
        ids, is_answer: (R, T), see `collate_pairs`.

    Source: Rafailov et al. 2023, section 4.
    """
    return sum_by_row(answer_logits(model, ids, is_answer), ids, is_answer)


def sum_by_row(logits, ids, is_answer):
    """Log-probabilities (R,) of the answers in ids (R, T), by the logits (N, V) of their tokens."""
    targets = ids[:, 1:][is_answer[:, 1:]]  # (N,)
    logprobs = -F.cross_entropy(logits, targets, reduction="none")  # (N,)
    row = is_answer[:, 1:].nonzero()[:, 0]  # (N,) the row that each token is in
    return torch.zeros(len(ids), device=ids.device).index_add(0, row, logprobs)  # (R,)


def reward_margins(policy_logprobs, reference_logprobs, beta):
    """By how much each pair's chosen answer has the higher implicit reward, (B,).

    The implicit reward of an answer is beta * (its log-probability by the policy - by the
    reference).

    Args:
        policy_logprobs, reference_logprobs: (R,), the chosen answers' before the rejected ones'.
        beta: above 0. The larger, the more a change of the policy counts, and the less of it is
            needed.

    Raises:
        ValueError: beta is not above 0, the shapes differ, or the rows are no pairs.

    Source: Rafailov et al. 2023, equation 7.
    """
    shapes = tuple(policy_logprobs.shape), tuple(reference_logprobs.shape)
    if not beta > 0:
        raise ValueError(f"beta must be above 0, but is {beta}.")
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[0][0] % 2:
        raise ValueError(f"Two vectors of an even length are needed, but the shapes are {shapes}.")
    chosen, rejected = (beta * (policy_logprobs - reference_logprobs)).chunk(2)  # (B,) each
    return chosen - rejected


def dpo_loss(margins):
    """Mean of -log sigmoid(margin), a scalar: log 2 where policy and reference agree.

    Source: Rafailov et al. 2023, equation 7.
    """
    return -F.logsigmoid(margins).mean()


# Training


def frozen_copy(model):
    """A copy that does not learn, in evaluation mode: the reference."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def batches(dataset, order, batch_size):
    """Yield the places of a batch's pairs (B,), ids (R, T) and is_answer (R, T)."""
    for places in order.split(batch_size):
        yield places, *collate_pairs([dataset[place] for place in places.tolist()])


@torch.no_grad()
def all_logprobs(model, dataset, batch_size=10):
    """Log-probabilities of all chosen answers and of all rejected ones, (2, number of pairs)."""
    device = model.tok_emb.weight.device
    parts = [
        sequence_logprobs(model, ids.to(device), is_answer.to(device)).view(2, -1)
        for _, ids, is_answer in batches(dataset, torch.arange(len(dataset)), batch_size)
    ]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def evaluate_dpo(policy, reference, dataset, beta, batch_size=10):
    """Measure a policy on pairs.

    Returns:
        dict of numbers: loss; margin, the mean of the reward margins; reward_accuracy, the share
        of pairs with a margin above 0, where a margin of 0 counts as half; accuracy, the share of
        pairs whose chosen answer the policy finds likelier than the rejected one; and divergence,
        the mean of KL(policy || reference) over the tokens of all answers, in nats. There all V
        probabilities are compared: 0 means that the two models agree.
    """
    device, logprobs, divergences = policy.tok_emb.weight.device, [], []
    for _, ids, is_answer in batches(dataset, torch.arange(len(dataset)), batch_size):
        ids, is_answer = ids.to(device), is_answer.to(device)
        both = [answer_logits(model, ids, is_answer) for model in (policy, reference)]  # (N, V)
        logprobs.append([sum_by_row(logits, ids, is_answer).view(2, -1) for logits in both])
        ours, theirs = (logits.log_softmax(dim=-1) for logits in both)
        divergences.append((ours.exp() * (ours - theirs)).sum(dim=-1))  # (N,)
    ours, theirs = (torch.cat(parts, dim=1) for parts in zip(*logprobs, strict=True))
    margins = reward_margins(ours.flatten(), theirs.flatten(), beta)
    return {
        "loss": dpo_loss(margins).item(),
        "margin": margins.mean().item(),
        "reward_accuracy": (margins.sign() / 2 + 0.5).mean().item(),
        "accuracy": (ours[0] > ours[1]).float().mean().item(),
        "divergence": torch.cat(divergences).mean().item(),
    }


def train_dpo(policy, reference, dataset, optimizer, beta=0.1, num_epochs=1, batch_size=10):
    """Train a policy on pairs, and yield the loss after each step.

    What the reference says of a pair never changes, so it is asked once, before the first step.
    Being a generator, it stops where the caller stops, who may measure the policy in between.

    Args:
        policy: the model that learns.
        reference: its `frozen_copy`.
        dataset: a `PreferenceDataset`.
        optimizer: of the policy's parameters.
        beta: see `reward_margins`.
        num_epochs: how often each pair is seen.
        batch_size: B.

    Raises:
        ValueError: the reference shares weights with the policy or has weights that can learn, or
            the loss is no number any more.

    Source: Rafailov et al. 2023, section 4.
    """
    check_reference(policy, reference)
    device = policy.tok_emb.weight.device
    reference_logprobs = all_logprobs(reference, dataset)  # (2, number of pairs)
    for _ in range(num_epochs):
        for places, ids, is_answer in batches(dataset, torch.randperm(len(dataset)), batch_size):
            policy.train()
            logprobs = sequence_logprobs(policy, ids.to(device), is_answer.to(device))  # (R,)
            margins = reward_margins(logprobs, reference_logprobs[:, places].flatten(), beta)
            loss = dpo_loss(margins)
            if not loss.isfinite():
                raise ValueError(f"The loss is {loss.item()}. Use a lower learning rate.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            policy.eval()
            yield loss.item()


def check_reference(policy, reference):
    """Raise a ValueError unless the reference is a model of its own that cannot learn."""
    own = {id(parameter) for parameter in policy.parameters()}
    if any(id(parameter) in own or parameter.requires_grad for parameter in reference.parameters()):
        raise ValueError(
            "The reference shares weights with the policy or could learn, so it would move along, "
            "and no distance from it would mean anything. Use frozen_copy(policy)."
        )


def tune_pocket(policy, training, beta=0.1, learning_rate=2.5e-5, num_epochs=1):
    """Train a policy on pairs; the reference, which is what it was before."""
    reference = frozen_copy(policy)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    for _ in train_dpo(policy, reference, training, optimizer, beta, num_epochs):
        pass
    return reference


def main(arguments=None):
    """The command line; the exit status, 2 where the model could not be saved."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--path", help="where to save the tuned model")
    path = parser.parse_args(arguments).path
    companion.setup()
    if path is not None:  # a folder that cannot be is reported before the training
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            print(f"dpo.py: {error}", file=sys.stderr)
            return 2
    torch.manual_seed(123)
    training, held_out = (
        PreferenceDataset(pairs, tiktoken.get_encoding("gpt2"), POCKET_CONFIG["context_length"])
        for pairs in load_preferences()
    )
    policy = load_pocket().to(companion.device())
    reference = tune_pocket(policy, training)
    before, after = (evaluate_dpo(m, reference, held_out, beta=0.1) for m in (reference, policy))
    print(f"On {len(held_out)} held-out pairs, before and after:")
    for name in before:
        print(f"{name:16} {before[name]:.4f} -> {after[name]:.4f}")
    if path is not None:
        save_checkpoint(path, policy, POCKET_CONFIG)
    return 0


if __name__ == "__main__":
    sys.exit(main())
