"""Plausible wrong answers to chapter 5's exercises, each with the rule that must refuse it."""

import copy
import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import ch05_bug_zoo as zoo
from dataloader import create_dataloader_v1
from gpt import GPTModel, TransformerBlock
from gpt_generate import count_draws, generate, keep_top_k, softmax_with_temperature
from gpt_train import (
    calc_loss_batch,
    calc_loss_loader,
    create_train_val_loaders,
    evaluate_model,
    load_checkpoint,
)

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


def mean(numbers):
    return sum(numbers) / len(numbers)


def train(model, batches, optimizer):
    """Right: the losses of one pass."""
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# 5.1

LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


def draws(token=6, temperatures=(1, 0.1, 5)):
    return [count_draws(softmax_with_temperature(LOGITS, t))[token] for t in temperatures]


def shares(token=6, temperatures=(1, 0.1, 5)):
    return [softmax_with_temperature(LOGITS, t)[token].item() for t in temperatures]


wrong("5.1", "there_is_one_for_each_temperature")((draws()[-1:], shares()[-1:]))
wrong("5.1", "there_is_one_for_each_temperature")(
    (
        count_draws(softmax_with_temperature(LOGITS, 5)),
        softmax_with_temperature(LOGITS, 5).tolist(),
    )
)
wrong("5.1", "probability_is_that_of_the_softmax")((draws(), [n / 1000 for n in draws()]))
wrong("5.1", "probability_is_that_of_the_softmax")((draws(), [100 * p for p in shares()]))
wrong("5.1", "probability_is_that_of_the_softmax")((draws(7), shares(7)))
wrong("5.1", "probability_is_that_of_the_softmax")(
    (draws(temperatures=(0.1, 1, 5)), shares(temperatures=(0.1, 1, 5)))
)
wrong("5.1", "count_is_that_of_the_draws")(([round(1000 * p) for p in shares()], shares()))
wrong("5.1", "count_is_that_of_the_draws")((draws(8), shares()))

# 5.2


def entropy_of(logits, temperature, top_k):
    if temperature == 0:
        return 0.0
    logits = logits if top_k is None else keep_top_k(logits, top_k)
    return torch.special.entr(softmax_with_temperature(logits, temperature)).sum().item()


wrong("5.2", "equal_scores_leave_all_choices")(entropy_of)


@wrong("5.2", "equal_scores_leave_all_choices")
def two_to_the_power_of_nats(logits, temperature, top_k):
    return 2 ** entropy_of(logits, temperature, top_k)


@wrong("5.2", "cold_leaves_one_choice")
def zero_taken_as_not_given(logits, temperature, top_k):
    return math.exp(entropy_of(logits, temperature or 1.0, top_k))


@wrong("5.2", "cold_leaves_one_choice")
def tokens_that_are_left(logits, temperature, top_k):
    return float(top_k or len(logits))


@wrong("5.2", "the_likeliest_alone_is_one_choice")
def zero_times_infinity(logits, temperature, top_k):
    if temperature == 0:
        return 1.0
    p = softmax_with_temperature(keep_top_k(logits, top_k or len(logits)), temperature)
    return math.exp(-(p * p.log()).sum())


@wrong("5.2", "the_likeliest_alone_is_one_choice")
def top_k_left_out(logits, temperature, top_k):
    return math.exp(entropy_of(logits, temperature, None))


@wrong("5.2", "number_is_the_power_of_the_entropy")
def zeros_of_top_k_alone_left_out(logits, temperature, top_k):
    if temperature == 0:
        return 1.0
    logits = logits.topk(top_k or len(logits)).values
    p = softmax_with_temperature(logits, temperature)
    return math.exp(-(p * p.log()).sum())


@wrong("5.2", "number_is_the_power_of_the_entropy")
def multiplied(logits, temperature, top_k):
    return math.exp(entropy_of(logits * temperature**2, temperature, top_k))


@wrong("5.2", "number_is_the_power_of_the_entropy")
def not_summing_to_one(logits, temperature, top_k):
    if temperature == 0:
        return 1.0
    p = softmax_with_temperature(logits, temperature)
    p = p.topk(top_k or len(p)).values
    p = p / p.sum() if len(p) == 1 else p
    return torch.special.entr(p).sum().exp().item()


# 5.3

wrong("5.3", "each_sets_one_argument")(({"top_k": 1}, {"temperature": 0.0}))
wrong("5.3", "each_sets_one_argument")(({"temperature": 0.0, "top_k": 1}, {"top_k": 1}))
wrong("5.3", "each_sets_one_argument")(({"seed": 123}, {"top_k": 1}))
wrong("5.3", "temperature_alone_is_enough")(({"temperature": 0.01}, {"top_k": 1}))
wrong("5.3", "temperature_alone_is_enough")(({"temperature": 1.0}, {"top_k": 1}))
wrong("5.3", "top_k_alone_is_enough")(({"temperature": 0.0}, {"top_k": 2}))
wrong("5.3", "top_k_alone_is_enough")(({"temperature": 0.0}, {"top_k": None}))

# 5.4


def restored(path):
    """Right: model and optimizer."""
    checkpoint = load_checkpoint(path)
    model = GPTModel(checkpoint["config"])
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    return model, optimizer


@wrong("5.4", "each_batch_has_a_loss")
def mean_of_the_losses(path, batches):
    model, optimizer = restored(path)
    return [mean(train(model, batches, optimizer))]


@wrong("5.4", "first_loss_is_that_of_the_saved_model")
def weights_left_in_the_file(path, batches):
    model = GPTModel(load_checkpoint(path)["config"])
    return train(model, batches, torch.optim.AdamW(model.parameters()))


@wrong("5.4", "first_loss_is_that_of_the_saved_model")
def losses_of_a_second_pass(path, batches):
    model, optimizer = restored(path)
    train(model, batches, optimizer)
    return train(model, batches, optimizer)


@wrong("5.4", "first_loss_is_that_of_the_saved_model")
def losses_after_the_update(path, batches):
    model, optimizer = restored(path)
    losses = []
    for batch in batches:
        train(model, [batch], optimizer)
        losses.append(calc_loss_batch(*batch, model, "cpu").item())
    return losses


@wrong("5.4", "losses_are_those_without_interruption")
def optimizer_left_in_the_file(path, batches):
    model, _ = restored(path)
    return train(model, batches, torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1))


@wrong("5.4", "losses_are_those_without_interruption")
def learning_rate_of_its_own(path, batches):
    model, optimizer = restored(path)
    optimizer.param_groups[0]["lr"] = 0.0005
    return train(model, batches, optimizer)


@wrong("5.4", "losses_are_those_without_interruption")
def optimizer_of_another_model(path, batches):
    _, optimizer = restored(path)
    model, _ = restored(path)
    return train(model, batches, optimizer)


@wrong("5.4", "losses_are_those_without_interruption")
def gradients_added_up(path, batches):
    model, optimizer = restored(path)
    return zoo.train_epoch_3(model, batches, optimizer)


@wrong("5.4", "losses_are_those_without_interruption")
def without_updates(path, batches):
    model, _ = restored(path)
    return [calc_loss_batch(*batch, model, "cpu").item() for batch in batches]


@wrong("5.4", "dropout_acts")
def in_evaluation_mode(path, batches):
    model, optimizer = restored(path)
    return train(model.eval(), batches, optimizer)


# 5.5


def both_losses(model, text, train_ratio, batch_size, eval_iter=None):
    """Right, where `eval_iter` is None."""
    length = model.pos_emb.weight.shape[0]
    loaders = create_train_val_loaders(text, train_ratio, batch_size, length)
    return evaluate_model(model, *loaders, "cpu", eval_iter)


@wrong("5.5", "first_number_is_the_training_loss")
def the_other_way_round(model, text, train_ratio, batch_size):
    return both_losses(model, text, train_ratio, batch_size)[::-1]


@wrong("5.5", "first_number_is_the_training_loss")
def one_batch_alone(model, text, train_ratio, batch_size):
    return both_losses(model, text, train_ratio, batch_size, eval_iter=1)


@wrong("5.5", "first_number_is_the_training_loss")
def of_the_whole_text(model, text, train_ratio, batch_size):
    loader = create_dataloader_v1(text, batch_size, 8, 8)
    model.eval()
    with torch.no_grad():
        loss = calc_loss_loader(loader, model, "cpu")
    return loss, loss


@wrong("5.5", "first_number_is_the_training_loss")
def windows_of_four(model, text, train_ratio, batch_size):
    loaders = create_train_val_loaders(text, train_ratio, batch_size, 4)
    return evaluate_model(model, *loaders, "cpu", None)


@wrong("5.5", "first_number_is_the_training_loss")
def ratio_by_heart(model, text, train_ratio, batch_size):
    return both_losses(model, text, 0.75, batch_size)


@wrong("5.5", "second_number_is_the_validation_loss")
def validated_on_the_whole_text(model, text, train_ratio, batch_size):
    losses = both_losses(model, text, train_ratio, batch_size)
    return losses[0], of_the_whole_text(model, text, train_ratio, batch_size)[1]


@wrong("5.5", "second_number_is_the_validation_loss")
def validated_on_one_batch(model, text, train_ratio, batch_size):
    first, _ = both_losses(model, text, train_ratio, batch_size)
    return first, both_losses(model, text, train_ratio, batch_size, eval_iter=1)[1]


@wrong("5.5", "dropout_is_off")
def in_the_mode_it_came_in(model, text, train_ratio, batch_size):
    loaders = create_train_val_loaders(text, train_ratio, batch_size, 8)
    with torch.no_grad():
        return tuple(calc_loss_loader(loader, model, "cpu") for loader in loaders)


@wrong("5.5", "no_gradients_are_recorded")
def with_gradients(model, text, train_ratio, batch_size):
    loaders = create_train_val_loaders(text, train_ratio, batch_size, 8)
    return tuple(calc_loss_loader(loader, model.eval(), "cpu") for loader in loaders)


# 5.6


def compared(cfgs, batches, val_batches, seed_each=True, lr=0.01, passes=1, mode=True):
    """Right, unless an argument is given."""
    losses = []
    torch.manual_seed(123)
    for cfg in cfgs:
        if seed_each:
            torch.manual_seed(123)
        model = GPTModel(cfg).train(mode)
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
        for _ in range(passes):
            train(model, batches, optimizer)
        losses.append(evaluate_model(model, batches, val_batches, "cpu", None)[1])
    return losses


@wrong("5.6", "each_configuration_has_a_loss")
def the_last_alone(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches)[-1:]


@wrong("5.6", "each_configuration_has_a_loss")
def both_losses_of_each(cfgs, batches, val_batches):
    return [loss for loss in compared(cfgs, batches, val_batches) for _ in range(2)]


@wrong("5.6", "order_makes_no_difference")
def seeded_once(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches, seed_each=False)


@wrong("5.6", "order_makes_no_difference")
def sorted_losses(cfgs, batches, val_batches):
    return sorted(compared(cfgs, batches, val_batches))


@wrong("5.6", "loss_is_that_of_one_pass")
def untrained(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches, passes=0)


@wrong("5.6", "loss_is_that_of_one_pass")
def three_passes(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches, passes=3)


@wrong("5.6", "loss_is_that_of_one_pass")
def learning_rate_not_passed_on(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches, lr=0.001)


@wrong("5.6", "loss_is_that_of_one_pass")
def loss_on_the_training_data(cfgs, batches, val_batches):
    return compared(cfgs, batches, batches)


@wrong("5.6", "dropout_acts_in_training_alone")
def trained_in_evaluation_mode(cfgs, batches, val_batches):
    return compared(cfgs, batches, val_batches, mode=False)


@wrong("5.6", "dropout_acts_in_training_alone")
def evaluated_in_training_mode(cfgs, batches, val_batches):
    losses = []
    for cfg in cfgs:
        torch.manual_seed(123)
        model = GPTModel(cfg)
        train(model, batches, torch.optim.AdamW(model.parameters(), lr=0.01))
        losses.append(calc_loss_loader(val_batches, model, "cpu"))
    return losses


# 5.7


def in_bits(loss, num_tokens, text, per=None):
    return loss * num_tokens / math.log(2) / (per or len(text.encode("utf-8")))


@wrong("5.7", "perplexity_is_a_number_of_tokens")
def power_of_two(loss, num_tokens, text):
    return 2**loss, in_bits(loss, num_tokens, text)


@wrong("5.7", "perplexity_is_a_number_of_tokens")
def power_of_the_sum(loss, num_tokens, text):
    return math.exp(min(loss * num_tokens, 700)), in_bits(loss, num_tokens, text)


@wrong("5.7", "an_even_bet_costs_a_bit")
def in_nats(loss, num_tokens, text):
    return math.exp(loss), loss * num_tokens / len(text.encode("utf-8"))


@wrong("5.7", "an_even_bet_costs_a_bit")
def multiplied_by_the_logarithm(loss, num_tokens, text):
    return math.exp(loss), loss * math.log(2) * num_tokens / len(text.encode("utf-8"))


@wrong("5.7", "bits_are_shared_among_the_bytes")
def bits_per_token(loss, num_tokens, text):
    return math.exp(loss), loss / math.log(2)


@wrong("5.7", "bits_are_shared_among_the_bytes")
def turned_upside_down(loss, num_tokens, text):
    return math.exp(loss), loss / math.log(2) * len(text.encode("utf-8")) / num_tokens


@wrong("5.7", "bytes_are_those_of_utf8")
def bits_per_character(loss, num_tokens, text):
    return math.exp(loss), in_bits(loss, num_tokens, text, per=len(text))


@wrong("5.7", "bytes_are_those_of_utf8")
def bytes_of_utf16(loss, num_tokens, text):
    is_ascii = text.isascii()
    return math.exp(loss), in_bits(
        loss, num_tokens, text, per=len(text.encode("ascii" if is_ascii else "utf-16"))
    )


# 5.8


def losses_and_sizes(model, batches):
    with torch.no_grad():
        return [
            (calc_loss_batch(inputs, targets, model, "cpu").item(), targets.shape)
            for inputs, targets in batches
        ]


@wrong("5.8", "even_batches_give_the_chapters_loss")
def sum_of_the_means(model, batches):
    return sum(loss for loss, _ in losses_and_sizes(model, batches))


@wrong("5.8", "even_batches_give_the_chapters_loss")
def summed_per_text(model, batches):
    parts = losses_and_sizes(model, batches)
    return sum(loss * shape.numel() for loss, shape in parts) / sum(s[0] for _, s in parts)


@wrong("5.8", "every_token_counts_the_same")
def mean_of_the_means(model, batches):
    return calc_loss_loader(batches, model, "cpu")


@wrong("5.8", "every_token_counts_the_same")
def last_batch_left_out(model, batches):
    sizes = {targets.shape for _, targets in batches}
    return calc_loss_loader(batches if len(sizes) == 1 else batches[:-1], model, "cpu")


@wrong("5.8", "long_texts_count_by_their_tokens")
def every_text_the_same(model, batches):
    parts = losses_and_sizes(model, batches)
    return sum(loss * shape[0] for loss, shape in parts) / sum(shape[0] for _, shape in parts)


@wrong("5.8", "long_texts_count_by_their_tokens")
def length_of_the_first(model, batches):
    parts = losses_and_sizes(model, batches)
    length = parts[0][1][1]
    return sum(loss * shape[0] * length for loss, shape in parts) / sum(
        shape.numel() for _, shape in parts
    )


# 5.9


def spans(ids):
    return [ids[i:j] for i in range(len(ids)) for j in range(i + 1, len(ids) + 1)]


def longest_of(found):
    return max(found, key=len, default=[])


@wrong("5.9", "nothing_in_common_is_an_empty_list")
def compared_as_text(written, source):
    text = "".join(map(str, source))
    return longest_of([span for span in spans(written) if "".join(map(str, span)) in text])


@wrong("5.9", "nothing_in_common_is_an_empty_list")
def the_whole_text_at_worst(written, source):
    return longest_of([span for span in spans(written) if span in spans(source)]) or written


@wrong("5.9", "span_stands_in_both")
def common_ids(written, source):
    return [token for token in written if token in source]


@wrong("5.9", "span_stands_in_both")
def with_gaps(written, source):
    if not written or not source:
        return []
    if written[0] == source[0]:
        return [written[0], *with_gaps(written[1:], source[1:])]
    return longest_of([with_gaps(written[1:], source), with_gaps(written, source[1:])])


@wrong("5.9", "span_stands_in_both")
def without_order(written, source):
    known = [sorted(span) for span in spans(source)]
    return longest_of([span for span in spans(written) if sorted(span) in known])


@wrong("5.9", "span_is_the_longest")
def the_beginning_alone(written, source):
    found = spans(source)
    return longest_of([written[:n] for n in range(1, len(written) + 1) if written[:n] in found])


@wrong("5.9", "span_is_the_longest")
def at_equal_places(written, source):
    best, run = [], []
    for ours, theirs in zip(written, source, strict=False):
        run = [*run, ours] if ours == theirs else []
        best = longest_of([best, run])
    return best


@wrong("5.9", "span_is_the_longest")
def the_first_found(written, source):
    for i in range(len(written)):
        found = [written[i:j] for j in range(i + 1, len(written) + 1)]
        if written[i] in source:
            return longest_of([span for span in found if span in spans(source)])
    return []


@wrong("5.9", "span_is_the_longest")
def last_id_forgotten(written, source):
    return longest_of([span for span in spans(written) if span in spans(source[:-1])])


@wrong("5.9", "span_is_the_longest")
def single_ids_left_out(written, source):
    return longest_of([s for s in spans(written) if len(s) > 1 and s in spans(source)])


# 5.10


def nucleus(logits, top_p, is_out, unsort=True):
    """Right, where `is_out` tells it from the sums and the probabilities, in order."""
    ordered, places = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=-1)
    out = is_out(probabilities.cumsum(dim=-1), probabilities)
    out = out.scatter(-1, places, out) if unsort else out
    return logits.masked_fill(out, -torch.inf)


@wrong("5.10", "logits_stay_or_go")
def probabilities_returned(logits, top_p):
    return nucleus(logits, top_p, lambda sums, p: sums - p >= top_p).softmax(dim=-1)


@wrong("5.10", "logits_stay_or_go")
def zeros_for_the_others(logits, top_p):
    kept = nucleus(logits, top_p, lambda sums, p: sums - p >= top_p)
    return kept.masked_fill(kept == -torch.inf, 0.0)


@wrong("5.10", "logits_stay_or_go")
def returned_in_order(logits, top_p):
    return nucleus(logits, top_p, lambda sums, p: sums - p >= top_p).sort(descending=True).values


@wrong("5.10", "the_likeliest_is_always_kept")
def not_above_top_p(logits, top_p):
    return nucleus(logits, top_p, lambda sums, p: sums > top_p)


@wrong("5.10", "the_likeliest_is_always_kept")
def left_in_sorted_order(logits, top_p):
    return nucleus(logits, top_p, lambda sums, p: sums - p >= top_p, unsort=False)


@wrong("5.10", "all_are_kept_at_one")
def one_always_goes(logits, top_p):
    kept = nucleus(logits, top_p, lambda sums, p: sums - p >= top_p)
    return kept.masked_fill(logits == logits.min(dim=-1, keepdim=True).values, -torch.inf)


@wrong("5.10", "all_are_kept_at_one")
def half_of_them_at_most(logits, top_p):
    kept = nucleus(logits, top_p, lambda sums, p: sums - p >= top_p)
    return kept.masked_fill(keep_top_k(logits, 2) == -torch.inf, -torch.inf)


@wrong("5.10", "as_few_as_possible_are_kept")
def one_too_many(logits, top_p):
    return nucleus(logits, top_p, lambda sums, p: sums - 2 * p >= top_p)


@wrong("5.10", "as_few_as_possible_are_kept")
def likely_ones(logits, top_p):
    p = logits.softmax(dim=-1)
    p = p / p.max(dim=-1, keepdim=True).values
    return logits.masked_fill(p < 1 - top_p, -torch.inf)


@wrong("5.10", "as_few_as_possible_are_kept")
def first_row_for_all(logits, top_p):
    sums = logits[:1].sort(descending=True).values.softmax(dim=-1).cumsum(dim=-1)
    needed = min(int((sums < top_p).sum()) + 1, logits.shape[-1])
    return keep_top_k(logits, needed)


@wrong("5.10", "as_few_as_possible_are_kept")
def everything(logits, top_p):
    return logits


# 5.11


def accumulated(model, optimizer, batches, weight):
    """Right, where `weight` gives each batch its share of the tokens."""
    optimizer.zero_grad()
    total = 0.0
    for inputs, targets in batches:
        loss = calc_loss_batch(inputs, targets, model, "cpu") * weight(targets)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def share_in(batches):
    num_tokens = sum(targets.numel() for _, targets in batches)
    return lambda targets: targets.numel() / num_tokens


@wrong("5.11", "there_is_one_update")
def an_update_per_batch(model, optimizer, batches):
    return mean(train(model, batches, optimizer))


@wrong("5.11", "there_is_one_update")
def no_update(model, optimizer, batches):
    return calc_loss_loader(batches, model, "cpu")


@wrong("5.11", "even_batches_are_as_one")
def added_up(model, optimizer, batches):
    return accumulated(model, optimizer, batches, lambda targets: 1.0)


@wrong("5.11", "even_batches_are_as_one")
def gradients_of_the_last_batch(model, optimizer, batches):
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
    optimizer.step()
    return loss.item()


@wrong("5.11", "even_batches_are_as_one")
def gradients_taken_away(model, optimizer, batches):
    for inputs, targets in batches:
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


@wrong("5.11", "older_gradients_do_not_count")
def never_set_to_zero(model, optimizer, batches):
    for inputs, targets in batches:
        loss = calc_loss_batch(inputs, targets, model, "cpu") * share_in(batches)(targets)
        loss.backward()
    optimizer.step()
    return loss.item()


@wrong("5.11", "older_gradients_do_not_count")
def set_to_zero_afterwards(model, optimizer, batches):
    for inputs, targets in batches:
        loss = calc_loss_batch(inputs, targets, model, "cpu") * share_in(batches)(targets)
        loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


@wrong("5.11", "uneven_batches_are_as_one")
def divided_by_the_batches(model, optimizer, batches):
    return accumulated(model, optimizer, batches, lambda targets: 1 / len(batches))


@wrong("5.11", "uneven_batches_are_as_one")
def divided_by_the_first_batch(model, optimizer, batches):
    num_tokens = batches[0][1].numel() * len(batches)
    return accumulated(model, optimizer, batches, lambda targets: targets.numel() / num_tokens)


@wrong("5.11", "loss_is_the_mean_over_all_tokens")
def loss_of_the_last_batch(model, optimizer, batches):
    accumulated(model, optimizer, batches, share_in(batches))
    return calc_loss_batch(*batches[-1], model, "cpu").item()


@wrong("5.11", "loss_is_the_mean_over_all_tokens")
def loss_after_the_update(model, optimizer, batches):
    accumulated(model, optimizer, batches, share_in(batches))
    return mean([calc_loss_batch(*batch, model, "cpu").item() for batch in batches])


@wrong("5.11", "batches_go_through_one_by_one")
def joined(model, optimizer, batches):
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return train(model, [(inputs, targets)], optimizer)[0]


# 5.12


def converted(block, turn=np.transpose, split=lambda a: np.split(a, 3, axis=-1), **replaced):
    """Right, unless `turn`, `split` or a part of the tree is replaced."""
    attn, mlp = block["attn"], block["mlp"]
    parts = {
        "att.out_proj": attn["c_proj"],
        "ff.layers.0": mlp["c_fc"],
        "ff.layers.2": mlp["c_proj"],
        "norm1": block["ln_1"],
        "norm2": block["ln_2"],
    }
    matrices = split(attn["c_attn"]["w"])
    biases = replaced.get("biases", np.split(attn["c_attn"]["b"], 3))
    for name, w, b in zip(("W_query", "W_key", "W_value"), matrices, biases, strict=True):
        parts[f"att.{name}"] = {"w": w, "b": b}
    parts |= {name.replace("__", "."): part for name, part in replaced.items() if name != "biases"}
    weights = {}
    for name, part in parts.items():
        if "norm" in name:
            weights[f"{name}.scale"], weights[f"{name}.shift"] = part["g"], part["b"]
        else:
            weights[f"{name}.weight"], weights[f"{name}.bias"] = turn(part["w"]), part["b"]
    return {name: torch.tensor(array) for name, array in weights.items()}


@wrong("5.12", "names_are_ours")
def names_left_as_they_were(block):
    return {
        f"{layer}.{kind}": torch.tensor(array)
        for layer, part in {**block["attn"], **block["mlp"]}.items()
        for kind, array in part.items()
    }


@wrong("5.12", "names_are_ours")
def names_of_the_whole_model(block):
    return {f"trf_blocks.0.{name}": tensor for name, tensor in converted(block).items()}


@wrong("5.12", "names_are_ours")
def with_a_mask(block):
    return {**converted(block), "att.mask": torch.ones(8, 8).triu(diagonal=1)}


@wrong("5.12", "names_are_ours")
def norms_left_out(block):
    return {name: tensor for name, tensor in converted(block).items() if "norm" not in name}


@wrong("5.12", "shapes_are_ours")
def nothing_transposed(block):
    return converted(block, turn=np.array)


@wrong("5.12", "shapes_are_ours")
def arrays_instead_of_tensors(block):
    return {name: tensor.numpy() for name, tensor in converted(block).items()}


@wrong("5.12", "shapes_are_ours")
def cut_from_above(block):
    return converted(block, split=lambda a: np.split(a.T, [1, 2]))


@wrong("5.12", "query_key_value_are_in_order")
def key_query_value(block):
    return converted(block, split=lambda a: [np.split(a, 3, axis=-1)[i] for i in (1, 0, 2)])


@wrong("5.12", "query_key_value_are_in_order")
def every_third_column(block):
    return converted(block, split=lambda a: [a[:, i::3] for i in range(3)])


@wrong("5.12", "query_key_value_are_in_order")
def cut_by_reshape(block):
    return converted(block, split=lambda a: a.reshape(3, len(a), len(a)))


@wrong("5.12", "square_matrices_are_transposed")
def transposed_where_shapes_ask_for_it(block):
    return converted(block, turn=lambda w: w if w.shape[0] == w.shape[1] else w.T)


@wrong("5.12", "square_matrices_are_transposed")
def output_projection_forgotten(block):
    c_proj = block["attn"]["c_proj"]
    return converted(block, att__out_proj={"w": c_proj["w"].T, "b": c_proj["b"]})


@wrong("5.12", "square_matrices_are_transposed")
def parts_of_c_attn_not_transposed(block):
    return converted(block, split=lambda a: np.split(a.T, 3))


@wrong("5.12", "biases_are_those_of_their_layers")
def biases_from_right_to_left(block):
    return converted(block, biases=np.split(block["attn"]["c_attn"]["b"], 3)[::-1])


@wrong("5.12", "biases_are_those_of_their_layers")
def biases_of_zero(block):
    zeros = np.zeros_like(block["attn"]["c_proj"]["b"])
    return converted(block, biases=[zeros, zeros, zeros])


@wrong("5.12", "biases_are_those_of_their_layers")
def bias_of_the_other_c_proj(block):
    w, b = block["mlp"]["c_proj"]["w"], block["attn"]["c_proj"]["b"]
    return converted(block, ff__layers__2={"w": w, "b": b})


@wrong("5.12", "output_is_that_of_the_original")
def norms_exchanged(block):
    return converted(block, norm1=block["ln_2"], norm2=block["ln_1"])


@wrong("5.12", "output_is_that_of_the_original")
def scale_and_shift_exchanged(block):
    first, second = ({"g": block[ln]["b"], "b": block[ln]["g"]} for ln in ("ln_1", "ln_2"))
    return converted(block, norm1=first, norm2=second)


@wrong("5.12", "output_is_that_of_the_original")
def reshaped_instead(block):
    w, b = block["mlp"]["c_fc"]["w"], block["mlp"]["c_fc"]["b"]
    return converted(block, ff__layers__0={"w": w.reshape(w.shape[::-1]).T, "b": b})


# 5.bug1

wrong("5.bug1", "targets_come_next")(zoo.windows_1)


def windows(token_ids, max_length):
    """Right: the inputs, and where they begin."""
    starts = range(0, len(token_ids) - max_length, max_length)
    return torch.stack([token_ids[i : i + max_length] for i in starts]), starts


@wrong("5.bug1", "inputs_are_the_windows")
def inputs_shifted_instead(token_ids, max_length):
    inputs, starts = windows(token_ids, max_length)
    return torch.stack([token_ids[i + 1 : i + 1 + max_length] for i in starts]), inputs


@wrong("5.bug1", "inputs_are_the_windows")
def windows_that_overlap(token_ids, max_length):
    starts = range(len(token_ids) - max_length)
    cut = torch.stack([token_ids[i : i + max_length + 1] for i in starts])
    return cut[:, :-1], cut[:, 1:]


@wrong("5.bug1", "targets_have_the_shape_of_inputs")
def last_token_cut_off(token_ids, max_length):
    inputs, _ = windows(token_ids, max_length)
    return inputs, inputs[:, 1:]


@wrong("5.bug1", "targets_come_next")
def rolled(token_ids, max_length):
    inputs, _ = windows(token_ids, max_length)
    return inputs, inputs.roll(-1, dims=1)


@wrong("5.bug1", "targets_come_next")
def shifted_back(token_ids, max_length):
    inputs, starts = windows(token_ids, max_length)
    padded = torch.cat([token_ids[:1], token_ids])
    return inputs, torch.stack([padded[i : i + max_length] for i in starts])


# 5.bug2

wrong("5.bug2", "loss_is_that_of_evaluation_mode")(zoo.evaluate_2)


@wrong("5.bug2", "model_is_back_in_its_mode")
def left_in_evaluation_mode(model, batches):
    return zoo.evaluate_2(model.eval(), batches)


@wrong("5.bug2", "model_is_back_in_its_mode")
def always_back_to_training(model, batches):
    loss = zoo.evaluate_2(model.eval(), batches)
    model.train()
    return loss


@wrong("5.bug2", "loss_is_that_of_evaluation_mode")
def mean_of_ten_tries(model, batches):
    return mean([zoo.evaluate_2(model, batches) for _ in range(10)])


# 5.bug3

wrong("5.bug3", "each_update_uses_its_own_gradient")(zoo.train_epoch_3)


@wrong("5.bug3", "each_update_uses_its_own_gradient")
def zero_once(model, batches, optimizer):
    optimizer.zero_grad()
    return zoo.train_epoch_3(model, batches, optimizer)


@wrong("5.bug3", "each_update_uses_its_own_gradient")
def zero_before_the_step(model, batches, optimizer):
    losses = []
    for batch in batches:
        loss = calc_loss_batch(*batch, model, "cpu")
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return losses


@wrong("5.bug3", "losses_are_those_of_the_batches")
def last_loss_alone(model, batches, optimizer):
    return train(model, batches, optimizer)[-1:]


@wrong("5.bug3", "losses_are_those_of_the_batches")
def losses_one_update_late(model, batches, optimizer):
    losses = []
    for batch in batches:
        train(model, [batch], optimizer)
        losses.append(calc_loss_batch(*batch, model, "cpu").item())
    return losses


# 5.bug4

wrong("5.bug4", "certainty_costs_nothing")(zoo.loss_4)


@wrong("5.bug4", "certainty_costs_nothing")
def viewed_as_rows(logits, targets):
    rows = logits.transpose(1, 2).flatten(0, 1).reshape(-1, logits.shape[-1])
    return F.cross_entropy(rows, targets.flatten())


@wrong("5.bug4", "every_token_has_its_own_scores")
def targets_transposed(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.T.flatten())


@wrong("5.bug4", "the_loss_is_a_number")
def not_reduced(logits, targets):
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


@wrong("5.bug4", "equal_scores_give_the_logarithm")
def summed(logits, targets):
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum")


@wrong("5.bug4", "loss_is_the_cross_entropy")
def first_text_counts_twice(logits, targets):
    weights = torch.ones(len(targets))
    weights[0] = 2.0
    costs = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
    return (costs * weights).sum() / weights.sum()


# 5.bug5

wrong("5.bug5", "low_sharpens_and_high_flattens")(zoo.probabilities_5)


@wrong("5.bug5", "probabilities_sum_to_one")
def divided_afterwards(logits, temperature):
    return torch.softmax(logits, dim=-1) / temperature


@wrong("5.bug5", "at_one_it_is_the_softmax")
def softmax_twice(logits, temperature):
    return torch.softmax(torch.softmax(logits, dim=-1) / temperature, dim=-1)


@wrong("5.bug5", "low_sharpens_and_high_flattens")
def temperature_times_logits(logits, temperature):
    return torch.softmax(logits * temperature, dim=-1)


@wrong("5.bug5", "differences_are_divided")
def divided_by_the_square(logits, temperature):
    return torch.softmax(logits / temperature**2, dim=-1)


@wrong("5.bug5", "differences_are_divided")
def divided_by_the_root(logits, temperature):
    return torch.softmax(logits / math.sqrt(temperature), dim=-1)


# 5.bug6

wrong("5.bug6", "only_the_likeliest_are_drawn")(zoo.draw_6)


def first_past(probabilities, u):
    return (probabilities.cumsum(dim=-1) > u).int().argmax().item()


@wrong("5.bug6", "only_the_likeliest_are_drawn")
def in_another_order(logits, top_k, u):
    return first_past(logits.topk(top_k).values.softmax(dim=-1), u)


@wrong("5.bug6", "shares_are_those_of_the_softmax")
def the_rest_for_the_likeliest(logits, top_k, u):
    probabilities = logits.softmax(dim=-1)
    kept = probabilities.masked_fill(logits < logits.topk(top_k).values[-1], 0.0)
    return first_past(kept, u) if kept.sum() > u else int(logits.argmax())


@wrong("5.bug6", "shares_are_those_of_the_softmax")
def softmax_of_probabilities(logits, top_k, u):
    probabilities = logits.softmax(dim=-1)
    out = logits < logits.topk(top_k).values[-1]
    return first_past(probabilities.masked_fill(out, -torch.inf).softmax(dim=-1), u)


@wrong("5.bug6", "shares_are_those_of_the_softmax")
def always_the_likeliest(logits, top_k, u):
    return int(logits.argmax())


# 5.bug7


def decayed(model, batches, optimizer, num_epochs, rate_of):
    """Right, where `rate_of` tells the learning rate of an update of an epoch."""
    losses = []
    for epoch in range(num_epochs):
        of_epoch = []
        for i, batch in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate_of(epoch, i)
            of_epoch += train(model, [batch], optimizer)
        losses.append(mean(of_epoch))
    return losses


@wrong("5.bug7", "no_rate_is_below_zero")
def as_in_the_zoo(model, batches, optimizer, num_epochs, peak):
    return zoo.train_with_decay_7(model, batches, optimizer, num_epochs, peak)


@wrong("5.bug7", "each_epoch_has_its_updates")
def a_loss_per_update(model, batches, optimizer, num_epochs, peak):
    return zoo.train_with_decay_7(model, batches, optimizer, num_epochs, peak) * len(batches)


@wrong("5.bug7", "each_epoch_has_its_updates")
def ended_with_the_rate(model, batches, optimizer, num_epochs, peak):
    return zoo.train_with_decay_7(model, batches, optimizer, 1, peak)


@wrong("5.bug7", "first_rate_is_the_peak")
def lowered_before_the_first(model, batches, optimizer, num_epochs, peak):
    n = num_epochs * len(batches)
    return decayed(
        model,
        batches,
        optimizer,
        num_epochs,
        lambda epoch, i: peak * (1 - (epoch * len(batches) + i + 1) / n),
    )


@wrong("5.bug7", "rates_fall_in_a_straight_line")
def held_at_zero(model, batches, optimizer, num_epochs, peak):
    def rate_of(epoch, i):
        return max(0.0, peak * (1 - (epoch * len(batches) + i) / len(batches)))

    return decayed(model, batches, optimizer, num_epochs, rate_of)


@wrong("5.bug7", "rates_fall_in_a_straight_line")
def anew_in_each_epoch(model, batches, optimizer, num_epochs, peak):
    return decayed(
        model, batches, optimizer, num_epochs, lambda epoch, i: peak * (1 - i / len(batches))
    )


@wrong("5.bug7", "rates_fall_in_a_straight_line")
def by_epochs(model, batches, optimizer, num_epochs, peak):
    return decayed(
        model, batches, optimizer, num_epochs, lambda epoch, i: peak * (1 - epoch / num_epochs)
    )


# 5.bug8

wrong("5.bug8", "parts_have_no_token_in_common")(zoo.split_8)


def cut_windows(token_ids, max_length, stride):
    return token_ids.unfold(0, max_length + 1, stride)


@wrong("5.bug8", "windows_are_pieces_of_the_text")
def windows_without_targets(token_ids, max_length, stride, train_ratio):
    num_train = int(train_ratio * len(token_ids))
    parts = token_ids[:num_train], token_ids[num_train:]
    return tuple(cut_windows(part, max_length - 1, stride) for part in parts)


@wrong("5.bug8", "windows_are_pieces_of_the_text")
def tokens_shuffled(token_ids, max_length, stride, train_ratio):
    shuffled = token_ids[torch.randperm(len(token_ids))]
    num_train = int(train_ratio * len(token_ids))
    parts = shuffled[:num_train], shuffled[num_train:]
    return tuple(cut_windows(part, max_length, stride) for part in parts)


@wrong("5.bug8", "parts_have_no_token_in_common")
def windows_in_their_order(token_ids, max_length, stride, train_ratio):
    found = cut_windows(token_ids, max_length, stride)
    num_train = int(train_ratio * len(found))
    return found[:num_train], found[num_train:]


@wrong("5.bug8", "parts_have_no_token_in_common")
def validated_on_everything(token_ids, max_length, stride, train_ratio):
    train_part = token_ids[: int(train_ratio * len(token_ids))]
    return cut_windows(train_part, max_length, stride), cut_windows(token_ids, max_length, stride)


@wrong("5.bug8", "parts_are_cut_like_the_text")
def trained_on_the_end(token_ids, max_length, stride, train_ratio):
    num_val = len(token_ids) - int(train_ratio * len(token_ids))
    val, train_part = token_ids[:num_val], token_ids[num_val:]
    return cut_windows(train_part, max_length, stride), cut_windows(val, max_length, stride)


@wrong("5.bug8", "parts_are_cut_like_the_text")
def without_overlaps(token_ids, max_length, stride, train_ratio):
    num_train = int(train_ratio * len(token_ids))
    parts = token_ids[:num_train], token_ids[num_train:]
    return tuple(cut_windows(part, max_length, max_length + 1) for part in parts)


@wrong("5.bug8", "parts_are_cut_like_the_text")
def with_a_gap_between(token_ids, max_length, stride, train_ratio):
    num_train = int(train_ratio * len(token_ids))
    parts = token_ids[: num_train - 1], token_ids[num_train + 1 :]
    return tuple(cut_windows(part, max_length, stride) for part in parts)


# 5.bug9

wrong("5.bug9", "weights_are_those_of_the_best_epoch")(zoo.keep_best_9)


def best_by(put_away):
    """Right, where `put_away` makes a copy of the weights."""

    def keep_best(model, train_one_epoch, evaluate, num_epochs):
        best_loss, best_weights = math.inf, None
        for _ in range(num_epochs):
            train_one_epoch(model)
            loss = evaluate(model)
            if loss < best_loss:
                best_loss, best_weights = loss, put_away(model)
        return best_loss, best_weights

    return keep_best


wrong("5.bug9", "weights_are_those_of_the_best_epoch")(
    best_by(lambda model: copy.copy(model.state_dict()))
)
wrong("5.bug9", "weights_are_those_of_the_best_epoch")(
    best_by(lambda model: {k: v.detach() for k, v in model.state_dict().items()})
)


@wrong("5.bug9", "weights_are_those_of_the_best_epoch")
def copied_at_the_end(model, train_one_epoch, evaluate, num_epochs):
    loss, weights = zoo.keep_best_9(model, train_one_epoch, evaluate, num_epochs)
    return loss, copy.deepcopy(weights)


@wrong("5.bug9", "loss_is_the_lowest")
def the_last_loss(model, train_one_epoch, evaluate, num_epochs):
    best_by(lambda model: copy.deepcopy(model.state_dict()))(
        model, train_one_epoch, evaluate, num_epochs - 1
    )
    train_one_epoch(model)
    return evaluate(model), copy.deepcopy(model.state_dict())


@wrong("5.bug9", "loss_is_the_lowest")
def the_largest_loss(model, train_one_epoch, evaluate, num_epochs):
    best_loss, best_weights = -1.0, None
    for _ in range(num_epochs):
        train_one_epoch(model)
        loss = evaluate(model)
        if loss > best_loss:
            best_loss, best_weights = loss, copy.deepcopy(model.state_dict())
    return best_loss, best_weights


@wrong("5.bug9", "every_epoch_is_evaluated")
def evaluated_twice(model, train_one_epoch, evaluate, num_epochs):
    best_loss, best_weights = math.inf, None
    for _ in range(num_epochs):
        train_one_epoch(model)
        if evaluate(model) < best_loss:
            best_loss, best_weights = evaluate(model), copy.deepcopy(model.state_dict())
    return best_loss, best_weights


@wrong("5.bug9", "every_epoch_is_evaluated")
def stopped_early(model, train_one_epoch, evaluate, num_epochs):
    best_loss, best_weights = math.inf, None
    for _ in range(num_epochs):
        train_one_epoch(model)
        loss = evaluate(model)
        if loss >= best_loss:
            break
        best_loss, best_weights = loss, copy.deepcopy(model.state_dict())
    return best_loss, best_weights


# 5.bug10

wrong("5.bug10", "the_model_writes_in_evaluation_mode")(zoo.write_10)


@wrong("5.bug10", "the_model_writes_in_evaluation_mode")
def no_gradients_taken_for_no_dropout(model, idx, max_new_tokens, context_size):
    with torch.no_grad():
        return zoo.write_10(model, idx, max_new_tokens, context_size)


@wrong("5.bug10", "the_model_writes_in_evaluation_mode")
def same_seed_each_time(model, idx, max_new_tokens, context_size):
    torch.default_generator.manual_seed(123)
    return zoo.write_10(model, idx, max_new_tokens, context_size)


@wrong("5.bug10", "the_model_writes_in_evaluation_mode")
def first_token_alone_without_dropout(model, idx, max_new_tokens, context_size):
    was_training = model.training
    model.eval()
    for _ in range(max_new_tokens):
        idx = zoo.write_10(model, idx, 1, context_size)
        model.train(was_training)
    return idx


@wrong("5.bug10", "mode_is_as_before")
def left_in_evaluation_mode_after_writing(model, idx, max_new_tokens, context_size):
    return zoo.write_10(model.eval(), idx, max_new_tokens, context_size)


@wrong("5.bug10", "mode_is_as_before")
def always_back_to_training_after_writing(model, idx, max_new_tokens, context_size):
    ids = zoo.write_10(model.eval(), idx, max_new_tokens, context_size)
    model.train()
    return ids


def written_by(write):
    """Right in all that concerns the mode."""

    def write_without_dropout(model, idx, max_new_tokens, context_size):
        was_training = model.training
        ids = write(model.eval(), idx, max_new_tokens, context_size)
        model.train(was_training)
        return ids

    return write_without_dropout


wrong("5.bug10", "the_prompt_is_continued")(
    written_by(lambda model, idx, *settings: generate(model, idx, *settings)[:, idx.shape[1] :])
)
wrong("5.bug10", "the_last_tokens_are_seen")(
    written_by(lambda model, idx, num, size: generate(model, idx, num, size - 1))
)


@wrong("5.bug10", "the_likeliest_id_is_appended")
@written_by
def counted_on(model, idx, max_new_tokens, context_size):
    """Right for a model that counts: it goes on counting without looking at the logits."""
    for _ in range(max_new_tokens):
        model(idx[:, -context_size:])
        idx = torch.cat([idx, (idx[:, -1:] + 1) % 10], dim=1)
    return idx


# 5.bug11

wrong("5.bug11", "output_is_that_of_the_original")(zoo.load_block_11)


def turned(block, *names):
    """The block, with these of its square matrices transposed."""
    for name in names:
        layer = getattr(block.att, name)
        layer.weight = nn.Parameter(layer.weight.detach().T.contiguous())
    return block


@wrong("5.bug11", "output_is_that_of_the_original")
def projections_turned_instead(tree, cfg):
    return turned(zoo.load_block_11(tree, cfg), "W_query", "W_key", "W_value")


@wrong("5.bug11", "output_is_that_of_the_original")
def all_four_turned(tree, cfg):
    return turned(zoo.load_block_11(tree, cfg), "out_proj", "W_query", "W_key", "W_value")


@wrong("5.bug11", "output_is_that_of_the_original")
def queries_and_keys_exchanged(tree, cfg):
    block = turned(zoo.load_block_11(tree, cfg), "out_proj")
    block.att.W_query, block.att.W_key = block.att.W_key, block.att.W_query
    return block


@wrong("5.bug11", "no_number_is_lost")
def bias_lost(tree, cfg):
    block = turned(zoo.load_block_11(tree, cfg), "out_proj")
    nn.init.zeros_(block.att.out_proj.bias)
    return block


@wrong("5.bug11", "no_number_is_lost")
def not_loaded_at_all(tree, cfg):
    return TransformerBlock(cfg)


# 5.bug12

wrong("5.bug12", "rates_are_those_of_the_schedule")(zoo.train_with_schedule_12)


def scheduled(steps_after):
    """Right, where `steps_after` tells how often the schedule goes on after batch i of n."""

    def train_with_schedule(model, batches, optimizer, scheduler):
        losses = []
        for i, batch in enumerate(batches):
            losses += train(model, [batch], optimizer)
            for _ in range(steps_after(i, len(batches))):
                scheduler.step()
        return losses

    return train_with_schedule


wrong("5.bug12", "rates_are_those_of_the_schedule")(scheduled(lambda i, n: 0))
wrong("5.bug12", "rates_are_those_of_the_schedule")(scheduled(lambda i, n: n * (i == n - 1)))
wrong("5.bug12", "schedule_stands_at_the_next_rate")(scheduled(lambda i, n: int(i < n - 1)))


@wrong("5.bug12", "each_batch_has_its_update")
def scheduled_by_updates_twice(model, batches, optimizer, scheduler):
    losses = []
    for batch in batches:
        train(model, [batch], optimizer)
        losses += train(model, [batch], optimizer)
        scheduler.step()
    return losses


@wrong("5.bug12", "losses_are_those_before_each_update")
def losses_after_the_updates(model, batches, optimizer, scheduler):
    losses = []
    for inputs, targets in batches:
        train(model, [(inputs, targets)], optimizer)
        scheduler.step()
        losses.append(calc_loss_batch(inputs, targets, model, "cpu").item())
    return losses
