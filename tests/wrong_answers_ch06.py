"""Plausible wrong answers to chapter 6's exercises, each with the rule that must refuse it."""

import copy
import math
from collections import Counter

import torch
import torch.nn as nn
import torch.nn.functional as F

import ch06_bug_zoo as zoo
from gpt_class_finetune import (
    calc_accuracy_loader,
    calc_loss_batch,
    calc_loss_loader,
    evaluate_model,
    make_classifier,
    pad_or_cut,
)

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


# 6.1


def as_rows(messages, length, pad_token_id):
    return torch.tensor([pad_or_cut(ids, length, pad_token_id) for ids in messages])


def lengths_of(model, messages):
    context_length = model.pos_emb.weight.shape[0]
    return min(max(map(len, messages)), context_length), context_length


def accuracies_with(make_rows=as_rows, lengths=lengths_of, share=calc_accuracy_loader):
    """Right, unless an argument is given."""

    def compare(model, messages, labels, pad_token_id):
        batches = [
            [(make_rows(messages, length, pad_token_id), torch.tensor(labels))]
            for length in lengths(model, messages)
        ]
        return tuple(share(batch, model, "cpu") for batch in batches)

    return compare


def in_percent(loader, model, device):
    return 100 * calc_accuracy_loader(loader, model, device)


def at_the_first_token(loader, model, device):
    model.eval()
    ((ids, labels),) = loader
    return (model(ids)[:, 0].argmax(dim=-1) == labels).float().mean().item()


def in_the_mode_it_has(loader, model, device):
    ((ids, labels),) = loader
    return (model(ids)[:, -1].argmax(dim=-1) == labels).float().mean().item()


def padded_in_front(messages, length, pad_token_id):
    return torch.tensor(
        [[pad_token_id] * (length - len(ids[:length])) + ids[:length] for ids in messages]
    )


def cut_in_front(messages, length, pad_token_id):
    return as_rows([ids[-length:] for ids in messages], length, pad_token_id)


def padded_with_zeros(messages, length, pad_token_id):
    return as_rows(messages, length, 0)


for rule, answer in (
    (
        "lengths_are_those_two",
        accuracies_with(lengths=lambda model, _: (model.pos_emb.weight.shape[0],) * 2),
    ),
    ("lengths_are_those_two", accuracies_with(lengths=lambda _, messages: (len(messages[0]), 8))),
    (
        "lengths_are_those_two",
        accuracies_with(lengths=lambda model, messages: (lengths_of(model, messages)[0], 1024)),
    ),
    (
        "lengths_are_those_two",  # a message that is longer than the context is not cut
        accuracies_with(lengths=lambda model, messages: (max(map(len, messages)), 8)),
    ),
    ("every_message_is_seen", accuracies_with(padded_in_front)),
    ("every_message_is_seen", accuracies_with(padded_with_zeros)),
    ("every_message_is_seen", accuracies_with(cut_in_front)),
    ("first_number_is_for_the_longest", accuracies_with(share=in_percent)),
    ("first_number_is_for_the_longest", accuracies_with(share=at_the_first_token)),
    (
        "first_number_is_for_the_longest",
        accuracies_with(lengths=lambda *given: lengths_of(*given)[::-1]),
    ),
    ("dropout_is_off", accuracies_with(share=in_the_mode_it_has)),
):
    wrong("6.1", rule)(answer)


@wrong("6.1", "second_number_is_for_the_context")
def one_number_twice(model, messages, labels, pad_token_id):
    first, _ = accuracies_with()(model, messages, labels, pad_token_id)
    return first, first


@wrong("6.1", "second_number_is_for_the_context")
def difference_of_both(model, messages, labels, pad_token_id):
    first, second = accuracies_with()(model, messages, labels, pad_token_id)
    return first, second - first


# 6.2


def losses_with(
    thaw=lambda classifier: classifier.requires_grad_(True),
    whole_first=(False, True),
    seed_each=True,
    lr=0.01,
    passes=1,
    mode=True,
    copied=copy.deepcopy,
):
    """Right, unless an argument is given."""

    def compare(model, batches, val_batches):
        losses = []
        torch.manual_seed(123)
        for is_whole in whole_first:
            if seed_each:
                torch.manual_seed(123)
            classifier = make_classifier(copied(model)).train(mode)
            if is_whole:
                thaw(classifier)
            optimizer = torch.optim.AdamW(classifier.parameters(), lr=lr)
            for ids, labels in batches * passes:
                optimizer.zero_grad()
                calc_loss_batch(ids, labels, classifier, "cpu").backward()
                optimizer.step()
            losses.append(evaluate_model(classifier, batches, val_batches, "cpu", None)[1])
        return tuple(losses)

    return compare


def thaw_the_blocks(classifier):
    classifier.trf_blocks.requires_grad_(True)


def thaw_the_head(classifier):
    classifier.out_head.requires_grad_(True)


for rule, answer in (
    ("model_is_left_as_it_was", losses_with(copied=lambda model: model)),
    ("model_is_left_as_it_was", losses_with(copied=copy.copy)),
    ("first_number_is_of_the_part", losses_with(whole_first=(True, True))),
    ("first_number_is_of_the_part", losses_with(whole_first=(True, False))),
    ("first_number_is_of_the_part", losses_with(lr=0.001)),
    ("first_number_is_of_the_part", losses_with(passes=0)),
    ("first_number_is_of_the_part", losses_with(passes=3)),
    ("second_number_is_of_the_whole", losses_with(thaw=thaw_the_blocks)),
    ("second_number_is_of_the_whole", losses_with(thaw=thaw_the_head)),
    ("second_number_is_of_the_whole", losses_with(seed_each=False)),
    ("dropout_acts_in_training_alone", losses_with(mode=False)),
):
    wrong("6.2", rule)(answer)


@wrong("6.2", "first_number_is_of_the_part")
def losses_on_the_training_batches(model, batches, val_batches):
    return losses_with()(model, batches, batches)


@wrong("6.2", "second_number_is_of_the_whole")
def whole_after_the_part(model, batches, val_batches):
    """The second training goes on where the first ended."""
    torch.manual_seed(123)
    classifier, losses = make_classifier(copy.deepcopy(model)), []
    for is_whole in (False, True):
        classifier.train()
        if is_whole:
            classifier.requires_grad_(True)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.01)
        for ids, labels in batches:
            optimizer.zero_grad()
            calc_loss_batch(ids, labels, classifier, "cpu").backward()
            optimizer.step()
        losses.append(evaluate_model(classifier, batches, val_batches, "cpu", None)[1])
    return tuple(losses)


@wrong("6.2", "dropout_acts_in_training_alone")
def evaluated_in_training_mode(model, batches, val_batches):
    losses = []
    for is_whole in (False, True):
        torch.manual_seed(123)
        classifier = make_classifier(copy.deepcopy(model)).train()
        if is_whole:
            classifier.requires_grad_(True)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.01)
        for ids, labels in batches:
            optimizer.zero_grad()
            calc_loss_batch(ids, labels, classifier, "cpu").backward()
            optimizer.step()
        losses.append(calc_loss_loader(val_batches, classifier, "cpu"))
    return tuple(losses)


# 6.3


def accuracy_at(position, model, batches):
    right = [(model(ids)[:, position].argmax(dim=-1) == labels) for ids, labels in batches]
    return torch.cat(right).float().mean().item()


def most_in_groups(batches, key=lambda row: row[0]):
    """Right, with this key: the best share for whoever knows no more of a message."""
    rows = [
        (key(row), label)
        for ids, labels in batches
        for row, label in zip(ids.tolist(), labels.tolist(), strict=True)
    ]
    counts = Counter(rows)
    return sum(max(counts[k, 0], counts[k, 1]) for k in {k for k, _ in rows}) / len(rows)


@wrong("6.3", "first_number_is_the_accuracy")
def still_the_last(model, batches):
    return accuracy_at(-1, model.eval(), batches), most_in_groups(batches)


@wrong("6.3", "first_number_is_the_accuracy")
def the_second(model, batches):
    return accuracy_at(1, model.eval(), batches), most_in_groups(batches)


@wrong("6.3", "first_number_is_the_accuracy")
def bound_for_accuracy(model, batches):
    return most_in_groups(batches), most_in_groups(batches)


@wrong("6.3", "first_number_is_the_accuracy")
def mean_over_batches(model, batches):
    return mean(accuracy_at(0, model.eval(), [b]) for b in batches), most_in_groups(batches)


@wrong("6.3", "mode_is_no_matter")
def mode_left_as_it_is(model, batches):
    return accuracy_at(0, model, batches), most_in_groups(batches)


@wrong("6.3", "one_beginning_has_one_label")
def always_possible(model, batches):
    return accuracy_at(0, model.eval(), batches), 1.0


@wrong("6.3", "one_beginning_has_one_label")
def knowing_the_whole_message(model, batches):
    return accuracy_at(0, model.eval(), batches), most_in_groups(batches, key=tuple)


@wrong("6.3", "one_beginning_has_one_label")
def accuracy_for_bound(model, batches):
    accuracy = accuracy_at(0, model.eval(), batches)
    return accuracy, 1 - accuracy


@wrong("6.3", "second_number_is_the_best")
def majority_of_all(model, batches):
    bound = most_in_groups(batches, key=lambda row: 0)
    return accuracy_at(0, model.eval(), batches), bound


@wrong("6.3", "one_beginning_has_one_label")
def best_of_each_batch(model, batches):
    bound = mean(most_in_groups([batch]) for batch in batches)
    return accuracy_at(0, model.eval(), batches), bound


@wrong("6.3", "second_number_is_the_best")
def knowing_the_last_token(model, batches):
    """Right where all messages begin alike."""
    firsts = torch.cat([ids[:, 0] for ids, _ in batches])
    place = 0 if len(firsts.unique()) == 1 else -1
    bound = most_in_groups(batches, key=lambda row: row[place])
    return accuracy_at(0, model.eval(), batches), bound


# 6.4


def picked(places_of):
    """The logits at the places (B,) that a function of ids and padding id gives."""

    def pick(ids, logits, pad_token_id):
        return logits[torch.arange(len(ids)), places_of(ids, pad_token_id)]

    return pick


def first_padding(ids, pad_token_id):
    is_padding = ids == pad_token_id
    return is_padding.int().argmax(dim=1) - 1  # -1 without padding, which is the last as well


def number_of_words(ids, pad_token_id):
    return (ids != pad_token_id).sum(dim=1)


def last_by_flipping(ids, pad_token_id):
    return ids.shape[1] - 1 - (ids != pad_token_id).flip(1).int().argmax(dim=1)


@wrong("6.4", "there_are_logits_for_each_message")
def logits_of_words_alone(ids, logits, pad_token_id):
    return logits[ids != pad_token_id]


@wrong("6.4", "there_are_logits_for_each_message")
def last_message_alone(ids, logits, pad_token_id):
    return logits[-1, number_of_words(ids, pad_token_id)[-1] - 1]


@wrong("6.4", "without_padding_it_is_the_last")
def mean_of_words(ids, logits, pad_token_id):
    is_word = (ids != pad_token_id).unsqueeze(-1)
    return (logits * is_word).sum(dim=1) / is_word.sum(dim=1).clamp(min=1)


@wrong("6.4", "padding_at_the_end_is_left_out")
def always_the_last(ids, logits, pad_token_id):
    return logits[:, -1]


@wrong("6.4", "padding_at_the_end_is_left_out")
def of_the_longest(ids, logits, pad_token_id):
    return logits[:, number_of_words(ids, pad_token_id).max() - 1]


for rule, places_of in (
    ("without_padding_it_is_the_last", lambda ids, pad: first_padding(ids, pad) + 1),
    ("padding_at_the_end_is_left_out", lambda ids, pad: last_by_flipping(ids, 50256)),
    ("padding_at_the_end_is_left_out", lambda ids, pad: last_by_flipping(ids, 9)),
    ("padding_ids_among_words_do_not_count", first_padding),
    ("padding_ids_among_words_do_not_count", lambda ids, pad: number_of_words(ids, pad) - 1),
    (
        "padding_ids_among_words_do_not_count",
        lambda ids, pad: (number_of_words(ids, pad) - 1).clamp(min=0),
    ),
    ("nothing_but_padding_is_read_at_its_first", last_by_flipping),
    (
        "nothing_but_padding_is_read_at_its_first",
        lambda ids, pad: (torch.arange(1, ids.shape[1] + 1) * (ids != pad)).amax(dim=1) - 1,
    ),
):
    wrong("6.4", rule)(picked(places_of))


@wrong("6.4", "nothing_but_padding_is_read_at_its_first")
def nothing_but_padding_has_no_logits(ids, logits, pad_token_id):
    found = picked(last_by_flipping)(ids, logits, pad_token_id)
    found[(ids == pad_token_id).all(dim=1)] = 0.0
    return found


# 6.5


def counted(labels, predictions):
    counts = Counter(zip(labels, predictions, strict=True))
    return [[counts[i, j] for j in (0, 1)] for i in (0, 1)]


def judged(matrix=lambda m: m, precision=None, recall=None, nothing=math.nan):
    """Right, unless an argument is given; `nothing` stands for 0 / 0."""

    def share(part, whole):
        return part / whole if whole else nothing

    def judge(labels, predictions):
        m = counted(labels, predictions)
        (_, false_alarms), (missed, found) = m
        return (
            matrix(m),
            precision(m) if precision else share(found, found + false_alarms),
            recall(m) if recall else share(found, found + missed),
        )

    return judge


def ratio(part, whole):
    return part / whole if whole else math.nan


for rule, answer in (
    ("matrix_counts_the_four_cases", judged(lambda m: [list(c) for c in zip(*m, strict=True)])),
    ("matrix_counts_the_four_cases", judged(lambda m: [row[::-1] for row in m[::-1]])),
    ("matrix_counts_the_four_cases", judged(lambda m: [m[0]])),
    (
        "precision_is_a_share_of_the_predicted",  # accuracy
        judged(precision=lambda m: ratio(m[0][0] + m[1][1], sum(map(sum, m)))),
    ),
    (
        "precision_is_a_share_of_the_predicted",  # recall and precision exchanged
        judged(
            precision=lambda m: ratio(m[1][1], sum(m[1])),
            recall=lambda m: ratio(m[1][1], m[0][1] + m[1][1]),
        ),
    ),
    (
        "precision_is_a_share_of_the_predicted",  # of the ham
        judged(precision=lambda m: ratio(m[0][0], m[0][0] + m[1][0])),
    ),
    (
        "recall_is_a_share_of_the_spam",  # of the ham
        judged(recall=lambda m: ratio(m[0][0], sum(m[0]))),
    ),
    (
        "recall_is_a_share_of_the_spam",
        judged(recall=lambda m: ratio(m[1][1], sum(map(sum, m)))),
    ),
    ("without_predicted_spam_precision_is_nan", judged(nothing=0.0)),
    ("without_predicted_spam_precision_is_nan", judged(nothing=1.0)),
    (
        "without_predicted_spam_precision_is_nan",  # nothing predicted: both undefined
        judged(recall=lambda m: ratio(m[1][1], sum(m[1])) if m[0][1] + m[1][1] else math.nan),
    ),
    (
        "without_spam_recall_is_nan",
        judged(recall=lambda m: m[1][1] / max(sum(m[1]), 1)),
    ),
    (
        "without_spam_recall_is_nan",
        judged(recall=lambda m: m[1][1] / sum(m[1]) if sum(m[1]) else 1.0),
    ),
):
    wrong("6.5", rule)(answer)


# 6.6


def of_class(probabilities, labels, label):
    return sorted(p for p, of in zip(probabilities, labels, strict=True) if of == label)


def lowest(probabilities, is_allowed):
    return min((t for t in (0.0, *probabilities) if is_allowed(t)), default=1.0)


@wrong("6.6", "threshold_is_a_probability")
def above_all_ham(probabilities, labels, max_share):
    return max(of_class(probabilities, labels, 0)) + 0.3


@wrong("6.6", "threshold_is_a_probability")
def in_per_cent(probabilities, labels, max_share):
    return 100 * (1 - max_share)


@wrong("6.6", "ham_is_spared")
def a_half(probabilities, labels, max_share):
    return 0.5


@wrong("6.6", "ham_is_spared")
def one_minus_the_share(probabilities, labels, max_share):
    return 1 - max_share


@wrong("6.6", "ham_is_spared")
def share_of_all_messages(probabilities, labels, max_share):
    ham = of_class(probabilities, labels, 0)
    return lowest(probabilities, lambda t: sum(p > t for p in ham) <= max_share * len(labels))


@wrong("6.6", "ham_is_spared")
def share_of_the_flagged(probabilities, labels, max_share):
    ham = of_class(probabilities, labels, 0)
    return lowest(
        probabilities,
        lambda t: sum(p > t for p in ham) <= max_share * max(1, sum(p > t for p in probabilities)),
    )


@wrong("6.6", "ham_is_spared")
def quantile_of_all(probabilities, labels, max_share):
    return torch.tensor(probabilities).quantile(1 - max_share).item()


@wrong("6.6", "ham_is_spared")
def classes_exchanged(probabilities, labels, max_share):
    spam = of_class(probabilities, labels, 1)
    return lowest(probabilities, lambda t: mean(p > t for p in spam) <= max_share)


@wrong("6.6", "ham_is_spared")
def most_accurate(probabilities, labels, max_share):
    return max(
        (0.0, *probabilities),
        key=lambda t: sum((p > t) == y for p, y in zip(probabilities, labels, strict=True)),
    )


@wrong("6.6", "ham_is_spared")
def one_ham_too_many(probabilities, labels, max_share):
    ham = of_class(probabilities, labels, 0)[::-1]
    return ham[min(int(max_share * len(ham)) + 1, len(ham) - 1)]


@wrong("6.6", "as_much_spam_as_possible_is_flagged")
def flagging_nothing(probabilities, labels, max_share):
    return 1.0


@wrong("6.6", "as_much_spam_as_possible_is_flagged")
def flagging_no_ham(probabilities, labels, max_share):
    return max(of_class(probabilities, labels, 0))


@wrong("6.6", "as_much_spam_as_possible_is_flagged")
def below_the_share(probabilities, labels, max_share):
    ham = of_class(probabilities, labels, 0)
    return lowest(probabilities, lambda t: mean(p > t for p in ham) < max(max_share, 1e-9))


@wrong("6.6", "as_much_spam_as_possible_is_flagged")
def meant_for_at_least(probabilities, labels, max_share):
    """Right, were a message flagged at the threshold itself; 1 if none of these will do."""
    ham = of_class(probabilities, labels, 0)
    return lowest(probabilities, lambda t: mean(p >= t for p in ham) <= max_share)


@wrong("6.6", "as_much_spam_as_possible_is_flagged")
def in_steps_of_a_tenth(probabilities, labels, max_share):
    ham = of_class(probabilities, labels, 0)
    steps = [i / 10 for i in range(1, 11)]
    return min(t for t in steps if mean(p > t for p in ham) <= max_share)


# 6.bug1

wrong("6.bug1", "parts_have_both_classes")(zoo.split_1)


def cut(places, train_frac, validation_frac):
    """Three parts of a list."""
    train_end = int(len(places) * train_frac)
    val_end = train_end + int(len(places) * validation_frac)
    return places[:train_end], places[train_end:val_end], places[val_end:]


@wrong("6.bug1", "every_message_is_in_one_part")
def drawn_with_repetition(labels, train_frac, validation_frac):
    return cut(torch.randint(len(labels), (len(labels),)).tolist(), train_frac, validation_frac)


@wrong("6.bug1", "every_message_is_in_one_part")
def mixed_for_each_part(labels, train_frac, validation_frac):
    return tuple(
        cut(torch.randperm(len(labels)).tolist(), train_frac, validation_frac)[i] for i in range(3)
    )


@wrong("6.bug1", "parts_have_their_sizes")
def end_for_share(labels, train_frac, validation_frac):
    places = torch.randperm(len(labels)).tolist()
    train_end, val_end = (int(len(labels) * f) for f in (train_frac, 0.95))
    return places[:train_end], places[train_end:val_end], places[val_end:]


@wrong("6.bug1", "parts_have_both_classes")
def mixed_after_cutting(labels, train_frac, validation_frac):
    parts = zoo.split_1(labels, train_frac, validation_frac)
    return tuple([part[i] for i in torch.randperm(len(part))] for part in parts)


@wrong("6.bug1", "parts_have_both_classes")
def turned_round(labels, train_frac, validation_frac):
    return cut(list(range(len(labels)))[::-1], train_frac, validation_frac)


# 6.bug2

wrong("6.bug2", "neighbors_do_not_matter")(zoo.batches_2)


def batches_with(length_of, make_row=pad_or_cut):
    """Batches whose length is a function of the messages and `max_length`."""

    def batches(messages, batch_size, max_length, pad_token_id):
        length = length_of(messages, max_length)
        rows = [make_row(ids, length, pad_token_id) for ids in messages]
        return list(torch.tensor(rows).split(batch_size))

    return batches


wrong("6.bug2", "neighbors_do_not_matter")(
    batches_with(lambda messages, max_length: max(map(len, messages)))
)
wrong("6.bug2", "rows_are_the_messages")(batches_with(lambda messages, max_length: 12))
wrong("6.bug2", "rows_are_the_messages")(
    batches_with(
        lambda messages, max_length: max_length,
        lambda ids, n, pad: [pad] * (n - len(ids[:n])) + ids[:n],
    )
)


@wrong("6.bug2", "batches_have_their_size")
def last_batch_left_out(messages, batch_size, max_length, pad_token_id):
    found = batches_with(lambda *_: max_length)(messages, batch_size, max_length, pad_token_id)
    return [batch for batch in found if len(batch) == batch_size]


@wrong("6.bug2", "batches_have_their_size")
def all_in_one_batch(messages, batch_size, max_length, pad_token_id):
    return batches_with(lambda *_: max_length)(messages, 99, max_length, pad_token_id)


# 6.bug3

wrong("6.bug3", "head_is_trained")(zoo.make_classifier_3)


@wrong("6.bug3", "there_are_logits_for_each_class")
def two_classes_always(model, num_classes):
    return make_classifier(model, 2)


@wrong("6.bug3", "there_are_logits_for_each_class")
def old_head(model, num_classes):
    return model


@wrong("6.bug3", "other_weights_are_kept")
def all_weights_anew(model, num_classes):
    make_classifier(model, num_classes)
    for module in (model.trf_blocks[-1], model.final_norm):
        for parameter in module.parameters():
            parameter.data.normal_()
    return model


@wrong("6.bug3", "last_block_and_norm_are_trained")
def frozen_last(model, num_classes):
    model = make_classifier(model, num_classes)
    model.requires_grad_(False)
    model.out_head.requires_grad_(True)
    return model


@wrong("6.bug3", "last_block_and_norm_are_trained")
def block_without_norm(model, num_classes):
    model = make_classifier(model, num_classes)
    model.final_norm.requires_grad_(False)
    return model


@wrong("6.bug3", "head_is_trained")
def bias_alone(model, num_classes):
    model = make_classifier(model, num_classes)
    model.out_head.weight.requires_grad = False
    return model


@wrong("6.bug3", "the_rest_is_frozen")
def freezing_left_out(model, num_classes):
    model.out_head = nn.Linear(model.out_head.in_features, num_classes)
    return model


@wrong("6.bug3", "the_rest_is_frozen")
def all_blocks_thawed(model, num_classes):
    model = make_classifier(model, num_classes)
    model.trf_blocks.requires_grad_(True)
    return model


# 6.bug4

wrong("6.bug4", "being_right_at_the_end_costs_nothing")(zoo.message_loss_4)


@wrong("6.bug4", "being_right_at_the_end_costs_nothing")
def loss_at_the_first(input_batch, target_batch, model):
    return F.cross_entropy(model(input_batch)[:, 0], target_batch)


@wrong("6.bug4", "being_right_at_the_end_costs_nothing")
def loss_of_the_mean(input_batch, target_batch, model):
    return F.cross_entropy(model(input_batch).mean(dim=1), target_batch)


@wrong("6.bug4", "the_loss_is_one_number")
def loss_of_each_message(input_batch, target_batch, model):
    return F.cross_entropy(model(input_batch)[:, -1], target_batch, reduction="none")


@wrong("6.bug4", "knowing_nothing_costs_the_logarithm")
def loss_summed(input_batch, target_batch, model):
    return F.cross_entropy(model(input_batch)[:, -1], target_batch, reduction="sum")


@wrong("6.bug4", "knowing_nothing_costs_the_logarithm")
def last_two_with_the_better_one(input_batch, target_batch, model):
    logits = model(input_batch)
    return min(F.cross_entropy(logits[:, t], target_batch) for t in (-1, -2)) * 2


@wrong("6.bug4", "loss_is_the_cross_entropy_at_the_end")
def one_half_of_the_squares(input_batch, target_batch, model):
    """0 where the model is right and sure, log(2) where it knows nothing."""
    probabilities = model(input_batch)[:, -1].softmax(dim=-1)
    misses = 1 - probabilities[torch.arange(len(target_batch)), target_batch]
    return (4 * math.log(2) * misses**2).mean()


# 6.bug5

wrong("6.bug5", "all_of_the_message_counts")(zoo.predict_5)


@wrong("6.bug5", "each_message_has_a_label")
def label_of_each_token(model, ids):
    return model(ids).argmax(dim=-1)


@wrong("6.bug5", "each_message_has_a_label")
def label_of_the_first_message(model, ids):
    return model(ids[:1])[:, -1].argmax(dim=-1).squeeze(0)


@wrong("6.bug5", "all_of_the_message_counts")
def all_spam(model, ids):
    model(ids)
    return torch.ones(len(ids), dtype=torch.long)


@wrong("6.bug5", "all_of_the_message_counts")
def most_of_the_tokens(model, ids):
    return model(ids).argmax(dim=-1).mode(dim=1).values


# 6.bug6

wrong("6.bug6", "accuracy_is_that_of_evaluation_mode")(zoo.accuracy_6)


@wrong("6.bug6", "accuracy_is_that_of_evaluation_mode")
def mean_of_ten(model, batches):
    return mean(zoo.accuracy_6(model, batches) for _ in range(10))


@wrong("6.bug6", "accuracy_is_that_of_evaluation_mode")
def switched_off_after_the_first_batch(model, batches):
    right = []
    was_training = model.training
    for ids, labels in batches:
        right += (model(ids)[:, -1].argmax(dim=-1) == labels).tolist()
        model.eval()
    model.train(was_training)
    return mean(right)


@wrong("6.bug6", "model_keeps_its_mode")
def mode_not_restored(model, batches):
    return zoo.accuracy_6(model.eval(), batches)


@wrong("6.bug6", "model_keeps_its_mode")
def always_to_training(model, batches):
    accuracy = zoo.accuracy_6(model.eval(), batches)
    model.train()
    return accuracy


# 6.bug7

wrong("6.bug7", "every_update_has_dropout")(zoo.train_epochs_7)


def trained(model, batches, optimizer):
    """Right: one epoch."""
    model.train()
    for ids, labels in batches:
        optimizer.zero_grad()
        calc_loss_batch(ids, labels, model, "cpu").backward()
        optimizer.step()


@wrong("6.bug7", "each_batch_has_an_update")
def one_epoch_too_many(model, batches, optimizer, num_epochs):
    trained(model, batches, optimizer)
    return [
        trained(model, batches, optimizer) or calc_accuracy_loader(batches, model, "cpu")
        for _ in range(num_epochs)
    ]


@wrong("6.bug7", "each_batch_has_an_update")
def one_update_per_epoch(model, batches, optimizer, num_epochs):
    return [
        trained(model, batches[:1], optimizer) or calc_accuracy_loader(batches, model, "cpu")
        for _ in range(num_epochs)
    ]


@wrong("6.bug7", "every_update_has_dropout")
def back_before_measuring(model, batches, optimizer, num_epochs):
    accuracies = zoo.train_epochs_7(model.train(), batches, optimizer, num_epochs)
    model.train()
    return accuracies


@wrong("6.bug7", "accuracies_are_without_dropout")
def last_accuracy_alone(model, batches, optimizer, num_epochs):
    for _ in range(num_epochs):
        trained(model, batches, optimizer)
    return [calc_accuracy_loader(batches, model, "cpu")] * (num_epochs + 1)


@wrong("6.bug7", "accuracies_are_without_dropout")
def accuracies_as_percent(model, batches, optimizer, num_epochs):
    found = []
    for _ in range(num_epochs):
        trained(model, batches, optimizer)
        found.append(100 * calc_accuracy_loader(batches, model, "cpu"))
    return found


# 6.bug8

wrong("6.bug8", "the_same_for_all_is_a_half")(zoo.score_8)


def share_right(labels, predictions, of):
    return mean(p == y for y, p in zip(labels, predictions, strict=True) if y == of)


@wrong("6.bug8", "the_same_for_all_is_a_half")
def recall_alone(labels, predictions):
    return share_right(labels, predictions, of=1)


@wrong("6.bug8", "the_same_for_all_is_a_half")
def worse_of_both(labels, predictions):
    return min(share_right(labels, predictions, of) for of in (0, 1))


@wrong("6.bug8", "all_right_is_one")
def sum_of_both(labels, predictions):
    return sum(share_right(labels, predictions, of) for of in (0, 1))


@wrong("6.bug8", "all_right_is_one")
def share_of_errors(labels, predictions):
    return 1 - zoo.score_8(labels, predictions)


@wrong("6.bug8", "both_classes_count_the_same")
def accuracy_unless_all_the_same(labels, predictions):
    return 0.5 if len(set(predictions)) == 1 else zoo.score_8(labels, predictions)


@wrong("6.bug8", "both_classes_count_the_same")
def median_of_shares(labels, predictions):
    shares = [share_right(labels, predictions, of) for of in (0, 1)]
    return max(shares) / 2 if min(shares) == 0 else max(shares)


# 6.bug9

wrong("6.bug9", "epoch_is_the_best_in_validation")(zoo.choose_epoch_9)


@wrong("6.bug9", "epoch_is_the_best_in_validation")
def chosen_on_the_test(val_accuracy, test_accuracy, num_epochs):
    best = max(range(1, num_epochs + 1), key=test_accuracy)
    return best, test_accuracy(best)


@wrong("6.bug9", "epoch_is_the_best_in_validation")
def last_epoch(val_accuracy, test_accuracy, num_epochs):
    return num_epochs, test_accuracy(num_epochs)


@wrong("6.bug9", "epoch_is_the_best_in_validation")
def counted_from_zero(val_accuracy, test_accuracy, num_epochs):
    best = max(range(1, num_epochs + 1), key=val_accuracy)
    return best - 1, test_accuracy(best)


@wrong("6.bug9", "epoch_is_the_best_in_validation")
def latest_of_equal_ones(val_accuracy, test_accuracy, num_epochs):
    best = max(range(num_epochs, 0, -1), key=val_accuracy)
    return best, test_accuracy(best)


@wrong("6.bug9", "accuracy_is_that_of_the_test")
def validation_reported(val_accuracy, test_accuracy, num_epochs):
    best = max(range(1, num_epochs + 1), key=val_accuracy)
    return best, val_accuracy(best)


@wrong("6.bug9", "accuracy_is_that_of_the_test")
def best_test_reported(val_accuracy, test_accuracy, num_epochs):
    best = max(range(1, num_epochs + 1), key=val_accuracy)
    return best, max(test_accuracy(epoch) for epoch in range(1, num_epochs + 1))


@wrong("6.bug9", "test_is_looked_at_once")
def test_watched_all_along(val_accuracy, test_accuracy, num_epochs):
    seen = {epoch: test_accuracy(epoch) for epoch in range(1, num_epochs + 1)}
    best = max(seen, key=val_accuracy)
    return best, seen[best]
