"""What the answers to chapter 6's exercises must do: read by `companion.exercises`.

6.1 to 6.3 are the book's exercises, the others this repository's; 6.bug1 to 6.bug9 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens, C classes. Label 1 is spam, label 0 ham.
"""

import copy
import math
from collections import Counter
from itertools import chain

import torch
import torch.nn as nn
import torch.nn.functional as F

from ch03_checks import same
from ch04_checks import TOY, ASpecimen, toy_gpt
from ch05_checks import close
from companion.exercises import Exercise, Function, must
from gpt_class_finetune import (
    calc_accuracy_loader,
    calc_loss_batch,
    evaluate_model,
    make_classifier,
    pad_or_cut,
)


class OddSum(nn.Module):
    """Says spam, at each token, if the ids up to it sum to an odd number.

    In training mode it says the opposite. `seen` lists the ids that it was given, row by row.
    """

    def __init__(self, context_length=8):
        super().__init__()
        self.pos_emb = nn.Embedding(context_length, 1)  # its length is read off as a GPTModel's
        self.seen = []
        self.eval()

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, C) logits."""
        self.seen += in_idx.tolist()
        classes = (in_idx.cumsum(dim=1) + self.training) % 2
        return F.one_hot(classes, 2).float()


def toy_messages(*rows):
    """A batch of so many messages for each number: a list of (ids, labels), (B, T) and (B,).

    Spam is what has the id 0 or 1 in it.
    """
    draw = torch.Generator().manual_seed(len(rows))
    batches = []
    for num_rows in rows:
        ids = torch.randint(TOY["vocab_size"], (num_rows, 5), generator=draw)
        batches.append((ids, (ids <= 1).any(dim=1).long()))
    return batches


def train_for_an_epoch(classifier, batches, optimizer):
    """One update of a classifier per batch."""
    for ids, labels in batches:
        optimizer.zero_grad()
        calc_loss_batch(ids, labels, classifier, "cpu").backward()
        optimizer.step()


# The book's exercises


class WholeContext(Exercise):
    number = "6.1"
    title = "padding to the whole context"
    answer = Function("model, messages, labels, pad_token_id", returns=tuple[float, float])
    hints = (
        "The model's context is `model.pos_emb.weight.shape[0]`. What becomes of a message that is "
        "longer?",
        "The chapter's `pad_or_cut(ids, length, pad_token_id)` makes a list of any length. Do it "
        "for all messages, once with each of the two lengths.",
        "`batch = [(torch.tensor(rows), torch.tensor(labels))]` is a loader of one batch, and "
        "`calc_accuracy_loader(batch, model, 'cpu')` its accuracy.",
    )
    SHORT = ([[2, 2, 1], [1, 4], [2, 1, 1, 3, 2]], [1, 0, 0], 3, 8)
    EVEN = ([[1, 1, 1], [4], [2, 2], [1, 2]], [1, 1, 0, 1], 3, 6)
    LONG = ([[2, 1], [2, 1, 1, 4, 1, 2, 1, 1, 6, 4, 2], [4, 4, 3]], [1, 0, 1], 5, 8)

    def _lengths(self, messages, context_length):
        return min(max(map(len, messages)), context_length), context_length

    def _accuracy(self, messages, labels, pad_token_id, length):
        rows = [pad_or_cut(ids, length, pad_token_id) for ids in messages]
        batch = torch.tensor(rows), torch.tensor(labels)
        return calc_accuracy_loader([batch], OddSum(), "cpu")

    @must(
        "The model must see messages of two lengths: that of the longest message, and its own "
        "context. More tokens than its context it must never see.",
        on=[SHORT, EVEN, LONG],
    )
    def lengths_are_those_two(self, compare, messages, labels, pad_token_id, context_length):
        model = OddSum(context_length)
        compare(model, messages, labels, pad_token_id)
        return set(map(len, model.seen)) == set(self._lengths(messages, context_length))

    @must(
        "At each of the two lengths, the model must see every message once: its beginning, with "
        "padding behind it.",
        on=[SHORT, EVEN, LONG],
    )
    def every_message_is_seen(self, compare, messages, labels, pad_token_id, context_length):
        model = OddSum(context_length)
        compare(model, messages, labels, pad_token_id)
        lengths = self._lengths(messages, context_length)
        expected = [pad_or_cut(ids, n, pad_token_id) for n in lengths for ids in messages]
        return sorted(model.seen) == sorted(expected)

    @must(
        "The first number must be the share of messages whose likeliest class at the last token is "
        "their label, where all are as long as the longest. (The model of this check says spam if "
        "the ids up to a token, padding included, sum to an odd number.)",
        on=[SHORT, EVEN, LONG],
    )
    def first_number_is_for_the_longest(
        self, compare, messages, labels, pad_token_id, context_length
    ):
        found = compare(OddSum(context_length), messages, labels, pad_token_id)[0]
        length, _ = self._lengths(messages, context_length)
        return close(found, self._accuracy(messages, labels, pad_token_id, length))

    @must(
        "The second number must be the same share where all are as long as the context. (The model "
        "of this check says spam if the ids up to a token, padding included, sum to an odd "
        "number.)",
        on=[SHORT, EVEN, LONG],
    )
    def second_number_is_for_the_context(
        self, compare, messages, labels, pad_token_id, context_length
    ):
        found = compare(OddSum(context_length), messages, labels, pad_token_id)[1]
        return close(found, self._accuracy(messages, labels, pad_token_id, context_length))

    @must("Dropout must not act, in whichever mode the model arrives.", on=[True])
    def dropout_is_off(self, compare, training):
        messages, labels, pad_token_id, _ = self.SHORT
        arriving = compare(OddSum().train(training), messages, labels, pad_token_id)
        return close(arriving, compare(OddSum(), messages, labels, pad_token_id))


class TrainItAll(Exercise):
    number = "6.2"
    title = "training the whole model"
    answer = Function("model, batches, val_batches", returns=tuple[float, float])
    hints = (
        "What has to be the same for both, so that the comparison is fair? And what does "
        "`make_classifier` do to the model that it is given?",
        "`torch.manual_seed(123)` and then `make_classifier(copy.deepcopy(model))`, once for each. "
        "To thaw all of a model, go through its `parameters()`, as for freezing.",
        "`classifier.requires_grad_(True)` thaws it. Train in training mode. "
        "`evaluate_model(classifier, batches, val_batches, 'cpu', None)[1]` is the loss on all "
        "validation batches, without dropout.",
    )

    def _data(self):
        return toy_messages(4, 4, 4), toy_messages(3, 3)

    def _expected(self, model, is_whole):
        batches, val_batches = self._data()
        torch.manual_seed(123)
        classifier = make_classifier(copy.deepcopy(model)).train()
        if is_whole:
            classifier.requires_grad_(True)
        train_for_an_epoch(classifier, batches, torch.optim.AdamW(classifier.parameters(), lr=0.01))
        return evaluate_model(classifier, batches, val_batches, "cpu", None)[1]

    @must(
        "The model that is handed over must be left as it was: its weights, its output layer, and "
        "what is frozen."
    )
    def model_is_left_as_it_was(self, compare):
        model = toy_gpt()
        before = copy.deepcopy(model)
        compare(model, *self._data())
        own, twins = dict(model.named_parameters()), dict(before.named_parameters())
        return own.keys() == twins.keys() and all(
            same(own[name], twins[name], atol=0) and own[name].requires_grad for name in own
        )

    @must(
        "The first number must be the validation loss of the book's classifier, of which the last "
        "block, the last normalization and the new output layer are trained: made with seed 123, "
        "trained by AdamW with a learning rate of 0.01 for one pass over the batches."
    )
    def first_number_is_of_the_part(self, compare):
        model = toy_gpt()
        expected = self._expected(model, is_whole=False)
        return close(compare(model, *self._data())[0], expected, atol=1e-4)

    @must(
        "The second number must be the validation loss after training all weights, the two "
        "embedding layers included. All else must be as for the first one: the same weights to "
        "begin with (in the new output layer too), seed, optimizer and batches."
    )
    def second_number_is_of_the_whole(self, compare):
        model = toy_gpt()
        expected = self._expected(model, is_whole=True)
        return close(compare(model, *self._data())[1], expected, atol=1e-4)

    @must("Dropout must act while a model is trained, and not while its loss is taken.", on=[0.5])
    def dropout_acts_in_training_alone(self, compare, drop_rate):
        model = toy_gpt(drop_rate=drop_rate)
        expected = [self._expected(model, is_whole) for is_whole in (False, True)]
        return close(compare(model, *self._data()), expected, atol=1e-4)


class FirstToken(Exercise):
    number = "6.3"
    title = "the first token instead of the last"
    answer = Function("model, batches", returns=tuple[float, float])
    hints = (
        "For the first number, look at `calc_accuracy_loader`: which index has to become another "
        "one? For the second number no model is needed.",
        "By the mask, whoever reads at the first token gives all messages with the same first "
        "token the same label. Which label should it be, to be right as often as possible?",
        "Count pairs over all batches: `counts[first_id][label] += 1`. In each group "
        "`max(...)` messages can be right: their sum, divided by the number of messages.",
    )
    ALIKE = (
        [(torch.tensor([[1, 2, 2], [1, 3, 4]]), torch.tensor([1, 0]))],
        [
            (torch.tensor([[2, 1], [2, 2]]), torch.tensor([0, 0])),
            (torch.tensor([[2, 3]]), torch.tensor([1])),
        ],
    )
    MIXED = (
        [(torch.tensor([[1, 2], [1, 3], [4, 1], [4, 1]]), torch.tensor([1, 1, 1, 0]))],
        [
            (torch.tensor([[3, 1], [5, 1]]), torch.tensor([1, 0])),
            (torch.tensor([[3, 4], [5, 2]]), torch.tensor([0, 1])),
            (torch.tensor([[3, 4]]), torch.tensor([0])),
        ],
        [
            (torch.tensor([[6, 1], [3, 1], [2, 3]]), torch.tensor([1, 0, 0])),
            (torch.tensor([[4, 5]]), torch.tensor([1])),
        ],
    )

    @staticmethod
    def _accuracy(batches):
        right = [(ids[:, 0] % 2 == labels).tolist() for ids, labels in batches]
        return sum(map(sum, right)) / sum(map(len, right))

    @must(
        "The first number must be the share of all messages whose likeliest class at the first "
        "token is their label. (The model of this check says spam if the ids up to a token sum to "
        "an odd number.)",
        on=[*ALIKE, *MIXED],
    )
    def first_number_is_the_accuracy(self, measure, batches):
        return close(measure(OddSum(), batches)[0], self._accuracy(batches))

    @must("Dropout must not act, in whichever mode the model arrives.", on=[True])
    def mode_is_no_matter(self, measure, training):
        batches = self.MIXED[0]
        return close(measure(OddSum().train(training), batches)[0], self._accuracy(batches))

    @must(
        "If all messages begin with the same token, they all get the same label: at best, that of "
        "most of them.",
        on=ALIKE,
    )
    def one_beginning_has_one_label(self, measure, batches):
        labels = torch.cat([labels for _, labels in batches]).tolist()
        expected = max(labels.count(0), labels.count(1)) / len(labels)
        return close(measure(OddSum(), batches)[1], expected)

    @must(
        "The second number must be the share that is right if each group of messages with the same "
        "first token, from all batches together, gets the label of most of them. It does not "
        "depend on the model.",
        on=MIXED,
    )
    def second_number_is_the_best(self, measure, batches):
        pairs = Counter(
            (row[0], label)
            for ids, labels in batches
            for row, label in zip(ids.tolist(), labels.tolist(), strict=True)
        )
        best = {first: max(pairs[first, 0], pairs[first, 1]) for first, _ in pairs}
        return close(measure(OddSum(), batches)[1], sum(best.values()) / pairs.total())


# This repository's exercises


class LastRealToken(Exercise):
    number = "6.4"
    title = "the last token that is no padding"
    answer = Function("ids, logits, pad_token_id", returns=torch.Tensor)
    hints = (
        "`ids != pad_token_id` is True at every token of a message's own. Their *number* tells the "
        "place of the last one only if none of them is the padding id. Which place is wanted?",
        "Number the places, 0 to T - 1, and set those of the padding id to 0. What is the largest "
        "number left in a row? And in a row of nothing but padding?",
        "`places = torch.arange(ids.shape[1]) * (ids != pad_token_id)`, (B, T), and its "
        "`amax(dim=1)` is the place. Pick with `logits[torch.arange(len(ids)), ...]`.",
    )
    FULL = torch.tensor([[5, 3, 7], [2, 2, 4]])
    AT_THE_END = torch.tensor([[5, 3, 9, 9], [4, 9, 9, 9], [6, 5, 8, 9], [1, 2, 3, 4]])
    AMONG_WORDS = torch.tensor([[5, 9, 3, 9, 9], [9, 9, 2, 6, 9], [9, 4, 9, 9, 1], [9, 1, 9, 9, 9]])
    ALONE = torch.tensor([[9, 9, 9, 9], [3, 9, 4, 9], [2, 9, 9, 9]])

    def _picks(self, pick, ids, pad_token_id):
        """Whether the answer gives each row's logits at the last id that is no padding, or at 0."""
        logits = torch.arange(2.0 * ids.numel()).reshape(*ids.shape, 2)  # (B, T, C)
        own = [[t for t, i in enumerate(row) if i != pad_token_id] for row in ids.tolist()]
        expected = torch.stack([logits[b, max(t, default=0)] for b, t in enumerate(own)])
        return same(pick(ids, logits, pad_token_id), expected, atol=0)

    @must("There must be C logits for each message.", on=[(FULL, 3), (FULL, 2), (AT_THE_END, 5)])
    def there_are_logits_for_each_message(self, pick, ids, num_classes):
        logits = torch.zeros(*ids.shape, num_classes)
        return pick(ids, logits, 9).shape == (len(ids), num_classes)

    @must("Without padding, the logits must be the last token's.", on=[(FULL, 9)])
    def without_padding_it_is_the_last(self, pick, ids, pad_token_id):
        return self._picks(pick, ids, pad_token_id)

    @must(
        "Where a message ends with padding, the logits must be those of the last token before it.",
        on=[(AT_THE_END, 9), (torch.tensor([[5, 0, 0], [2, 3, 0]]), 0)],
    )
    def padding_at_the_end_is_left_out(self, pick, ids, pad_token_id):
        return self._picks(pick, ids, pad_token_id)

    @must(
        "A padding id with another token after it is a part of the message. What counts is the "
        "last token that is no padding, however many padding ids stand before it.",
        on=[(AMONG_WORDS, 9), (torch.tensor([[0, 3, 0, 5], [0, 0, 4, 0]]), 0)],
    )
    def padding_ids_among_words_do_not_count(self, pick, ids, pad_token_id):
        return self._picks(pick, ids, pad_token_id)

    @must(
        "A message of nothing but padding must be read at its first token, the only one whose "
        "logits do not depend on how much padding there is.",
        on=[(ALONE, 9), (torch.zeros(2, 3, dtype=torch.long), 0)],
    )
    def nothing_but_padding_is_read_at_its_first(self, pick, ids, pad_token_id):
        return self._picks(pick, ids, pad_token_id)


class Confusion(Exercise):
    number = "6.5"
    title = "confusion matrix, precision and recall"
    answer = Function("labels, predictions", returns=tuple[list[list[int]], float, float])
    hints = (
        "`matrix[label][prediction] += 1` for each message. Which two of the four numbers are "
        "messages that were predicted to be spam? Which two are spam?",
        "Precision and recall have the same numerator: spam that was found. One divides it by a "
        "column of the matrix, the other by a row.",
        "`precision = found / predicted if predicted else math.nan`, where `predicted` is "
        "`matrix[0][1] + matrix[1][1]`. Recall divides by `sum(matrix[1])`.",
    )
    CASES = (
        ([0, 0, 0, 1, 1], [0, 1, 0, 1, 0]),
        ([1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 1]),
        ([0, 1], [0, 1]),
        ([0, 1, 1], [1, 0, 0]),
    )

    @must(
        "The matrix must be [[ham taken for ham, ham taken for spam], [spam taken for ham, spam "
        "taken for spam]], four numbers of messages.",
        on=CASES,
    )
    def matrix_counts_the_four_cases(self, judge, labels, predictions):
        counts = Counter(zip(labels, predictions, strict=True))
        return judge(labels, predictions)[0] == [[counts[i, j] for j in (0, 1)] for i in (0, 1)]

    @must(
        "The precision must be the share of spam among the messages that were predicted to be "
        "spam.",
        on=CASES,
    )
    def precision_is_a_share_of_the_predicted(self, judge, labels, predictions):
        among = [label for label, p in zip(labels, predictions, strict=True) if p == 1]
        return close(judge(labels, predictions)[1], sum(among) / len(among))

    @must("The recall must be the share of the spam that was predicted to be spam.", on=CASES)
    def recall_is_a_share_of_the_spam(self, judge, labels, predictions):
        among = [p for label, p in zip(labels, predictions, strict=True) if label == 1]
        return close(judge(labels, predictions)[2], sum(among) / len(among))

    @must(
        "If nothing is predicted to be spam, there is nothing whose share could be taken: the "
        "precision must be nan. The recall is 0, as there is spam.",
        on=[([0, 1, 1], [0, 0, 0]), ([1], [0])],
    )
    def without_predicted_spam_precision_is_nan(self, judge, labels, predictions):
        _, precision, recall = judge(labels, predictions)
        return math.isnan(precision) and recall == 0

    @must(
        "If there is no spam, the recall must be nan, and the precision 0 if something is "
        "predicted to be spam all the same.",
        on=[([0, 0, 0], [0, 1, 1]), ([0], [1])],
    )
    def without_spam_recall_is_nan(self, judge, labels, predictions):
        _, precision, recall = judge(labels, predictions)
        return precision == 0 and math.isnan(recall)


class Threshold(Exercise):
    number = "6.6"
    title = "a threshold that spares ham"
    answer = Function("probabilities, labels, max_share", returns=float)
    hints = (
        "The higher the threshold, the less is flagged. So look for the lowest one at which no "
        "more ham is flagged than allowed. Which thresholds are worth a try?",
        "What is flagged changes only at a probability that some message has. So try these, and "
        "0. The largest of them flags nothing, so one at least will do.",
        "`share = sum(p > t for p in ham) / len(ham)` is what threshold t would do to the ham. "
        "Take the smallest t of `[0.0, *probabilities]` with `share <= max_share`.",
    )
    CASES = (
        ([0.1, 0.2, 0.3, 0.6, 0.55, 0.8, 0.9], [0, 0, 0, 0, 1, 1, 1], 0.25),
        ([0.1, 0.2, 0.3, 0.6, 0.55, 0.8, 0.9], [0, 0, 0, 0, 1, 1, 1], 0.0),
        ([0.9, 0.7, 0.8, 0.6, 0.95, 0.2], [0, 1, 1, 0, 1, 1], 0.3),
        ([0.7, 0.7, 0.7, 0.1, 0.7, 0.8, 0.75], [0, 0, 0, 0, 1, 1, 0], 0.5),
        ([i / 16 for i in range(16)], [0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1], 0.25),
        ([1.0, 0.4, 0.9], [0, 0, 1], 0.1),
        ([0.3, 0.02, 0.05], [0, 1, 0], 1.0),
    )

    @staticmethod
    def _flagged(probabilities, labels, label, threshold):
        """Share of the messages with this label that are flagged."""
        own = [p for p, of in zip(probabilities, labels, strict=True) if of == label]
        return sum(p > threshold for p in own) / len(own)

    @must("The threshold must be a number from 0 to 1.", on=CASES)
    def threshold_is_a_probability(self, choose, probabilities, labels, max_share):
        return 0 <= choose(probabilities, labels, max_share) <= 1

    @must(
        "Of the ham, at most the share `max_share` may have a probability above the threshold.",
        on=CASES,
    )
    def ham_is_spared(self, choose, probabilities, labels, max_share):
        threshold = choose(probabilities, labels, max_share)
        return self._flagged(probabilities, labels, 0, threshold) <= max_share

    @must(
        "As much spam as possible must have a probability above the threshold: here a lower one "
        "would flag more of it, and still no more ham than allowed.",
        on=CASES,
    )
    def as_much_spam_as_possible_is_flagged(self, choose, probabilities, labels, max_share):
        found = self._flagged(probabilities, labels, 1, choose(probabilities, labels, max_share))
        return found == max(
            self._flagged(probabilities, labels, 1, threshold)
            for threshold in (0, *probabilities)
            if self._flagged(probabilities, labels, 0, threshold) <= max_share
        )


# The bug zoo


class BugSplit(ASpecimen):
    number = "6.bug1"
    title = "a test that anyone passes"
    answer = Function(
        "labels, train_frac, validation_frac", returns=tuple[list[int], list[int], list[int]]
    )
    hints = (
        "Print the labels of the three parts. In which order do the messages come?",
        "`create_balanced_dataset` lists all ham, then all spam. Whoever cuts such a list gets "
        "parts of one class.",
        "Mix the places before cutting: `torch.randperm(len(labels)).tolist()`, with a seed before "
        "it, so that the parts are the same tomorrow.",
    )
    CASES = ((1000, 1000, 0.7, 0.1), (2000, 1000, 0.5, 0.3))

    def _parts(self, split, num_ham, num_spam, train_frac, validation_frac):
        """The answer's parts of a list with all ham first."""
        return split([0] * num_ham + [1] * num_spam, train_frac, validation_frac)

    @must("Every message must be in one of the parts, and in one only.", on=CASES)
    def every_message_is_in_one_part(self, split, num_ham, num_spam, train_frac, validation_frac):
        parts = self._parts(split, num_ham, num_spam, train_frac, validation_frac)
        return sorted(chain(*parts)) == list(range(num_ham + num_spam))

    @must(
        "The first part must have `train_frac` of the messages, the second `validation_frac`, and "
        "the third the rest.",
        on=CASES,
    )
    def parts_have_their_sizes(self, split, num_ham, num_spam, train_frac, validation_frac):
        parts = self._parts(split, num_ham, num_spam, train_frac, validation_frac)
        num_train, num_val = (
            int((num_ham + num_spam) * fraction) for fraction in (train_frac, validation_frac)
        )
        sizes = [num_train, num_val, num_ham + num_spam - num_train - num_val]
        return list(map(len, parts)) == sizes

    @must(
        "Each part must have about the share of spam that the whole list has, though all ham comes "
        "first in it. (This check allows for a difference of 0.15.)",
        on=CASES,
    )
    def parts_have_both_classes(self, split, num_ham, num_spam, train_frac, validation_frac):
        parts = self._parts(split, num_ham, num_spam, train_frac, validation_frac)
        share = num_spam / (num_ham + num_spam)
        found = [sum(place >= num_ham for place in part) / len(part) for part in parts]
        return all(abs(of_part - share) < 0.15 for of_part in found)


class BugPadding(ASpecimen):
    number = "6.bug2"
    title = "a message that depends on its neighbors"
    answer = Function("messages, batch_size, max_length, pad_token_id", returns=list[torch.Tensor])
    hints = (
        "Print both batches. What has changed for the message?",
        "The classifier reads at the last place of a row. Which place that is must not depend on "
        "the other messages.",
        "All rows must have the length `max_length`, in every batch.",
    )
    CASES = (
        ([[5, 3], [4, 1, 2, 6], [2]], 2, 6, 9),
        ([[5, 3, 7, 1, 2, 6], [4], [8, 8, 8]], 1, 4, 0),
        ([[1, 2, 3], [4, 5, 6]], 2, 3, 9),
    )

    @must("There must be `batch_size` messages in a batch, but for the last one.", on=CASES)
    def batches_have_their_size(self, cut, messages, batch_size, max_length, pad_token_id):
        sizes = [len(batch) for batch in cut(messages, batch_size, max_length, pad_token_id)]
        return sizes == [
            len(messages[i : i + batch_size]) for i in range(0, len(messages), batch_size)
        ]

    @must(
        "The first message must become the same ids beside whichever others. (Here its batches "
        "were made with all of the messages, and with the first one alone.)",
        on=CASES,
    )
    def neighbors_do_not_matter(self, cut, messages, batch_size, max_length, pad_token_id):
        beside, alone = (
            cut(some, batch_size, max_length, pad_token_id) for some in (messages, messages[:1])
        )
        return torch.equal(beside[0][0], alone[0][0])

    @must(
        "Each row must be a message's first `max_length` ids, with padding behind them if there "
        "are fewer.",
        on=CASES,
    )
    def rows_are_the_messages(self, cut, messages, batch_size, max_length, pad_token_id):
        batches = cut(messages, batch_size, max_length, pad_token_id)
        rows = [row for batch in batches for row in batch.tolist()]
        return rows == [pad_or_cut(ids, max_length, pad_token_id) for ids in messages]


class BugHead(ASpecimen):
    number = "6.bug3"
    title = "a head that never learns"
    answer = Function("model, num_classes", returns=nn.Module)
    hints = (
        "Print `name` and `requires_grad` for each of `model.named_parameters()`.",
        "A new layer is born to be trained. What happens to it in the next lines?",
        "The loop freezes all that is in the model at that time. Give it the new layer afterwards.",
    )

    def _is_trained(self, make, num_classes, is_meant):
        """Whether all parameters with a name that `is_meant` are to be trained, or else none."""
        model = make(toy_gpt(), num_classes)
        return {p.requires_grad for name, p in model.named_parameters() if is_meant(name)}

    @must("There must be C logits for each token.", on=[2, 5])
    def there_are_logits_for_each_class(self, make, num_classes):
        logits = make(toy_gpt(), num_classes)(torch.tensor([[1, 2, 3]]))
        return logits.shape == (1, 3, num_classes)

    @must("All weights but the output layer's must be what they were.", on=[2])
    def other_weights_are_kept(self, make, num_classes):
        model = toy_gpt()
        before = copy.deepcopy(model.state_dict())
        after = make(model, num_classes).state_dict()
        return all(
            same(after[name], before[name], atol=0) for name in before if "out_head" not in name
        )

    @must("The last block and the last normalization are to be trained.", on=[2])
    def last_block_and_norm_are_trained(self, make, num_classes):
        parts = ("trf_blocks.1.", "final_norm.")
        return self._is_trained(make, num_classes, lambda name: name.startswith(parts)) == {True}

    @must("The new output layer is to be trained: all of its weights.", on=[2, 5])
    def head_is_trained(self, make, num_classes):
        head = "out_head."
        return self._is_trained(make, num_classes, lambda name: name.startswith(head)) == {True}

    @must("The other blocks and the embedding layers are not to be trained.", on=[2])
    def the_rest_is_frozen(self, make, num_classes):
        parts = ("tok_emb.", "pos_emb.", "trf_blocks.0.")
        return self._is_trained(make, num_classes, lambda name: name.startswith(parts)) == {False}


class SureAtTheEnd(nn.Module):
    """Sure, at the last token, that a message is spam if its last id is odd, and right about it.

    At the tokens before it is sure of the opposite. With `is_sure=False` it knows nothing at the
    last token.
    """

    def __init__(self, is_sure=True):
        super().__init__()
        self.is_sure = is_sure

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, C) logits."""
        is_spam = (in_idx[:, -1:] % 2).expand(in_idx.shape)
        logits = -100.0 * F.one_hot(is_spam, 2)
        logits[:, -1] *= -1.0 if self.is_sure else 0.0
        return logits


class BugAllTokens(ASpecimen):
    number = "6.bug4"
    title = "a loss that stays"
    answer = Function("input_batch, target_batch, model", returns=torch.Tensor)
    hints = (
        "How many predictions does the loss judge, for a message of T tokens? How many labels are "
        "there?",
        "At its first token, no message is known yet: the mask hides the rest. What should a model "
        "say there, if it is asked for the label?",
        "One label, one prediction: `logits[:, -1, :]`, (B, C), is what the label goes with.",
    )
    BATCH = (torch.tensor([[2, 4, 1], [1, 1, 2], [5, 3, 3]]), torch.tensor([1, 0, 1]))

    @must("The loss must be one number for the whole batch.", on=[BATCH])
    def the_loss_is_one_number(self, loss, ids, labels):
        return loss(ids, labels, SureAtTheEnd()).shape == ()

    @must(
        "A model that is sure at the last token, and right, must have the loss 0, whatever it says "
        "at the tokens before. (The model of this check says the opposite there.)",
        on=[BATCH, (torch.tensor([[3, 2], [2, 3]]), torch.tensor([0, 1]))],
    )
    def being_right_at_the_end_costs_nothing(self, loss, ids, labels):
        return same(loss(ids, labels, SureAtTheEnd()), torch.tensor(0.0))

    @must(
        "A model that knows nothing at the last token must have the loss log(2), whatever it says "
        "at the tokens before.",
        on=[BATCH],
    )
    def knowing_nothing_costs_the_logarithm(self, loss, ids, labels):
        return same(loss(ids, labels, SureAtTheEnd(False)), torch.tensor(math.log(2)))

    @must("The loss must be the mean cross-entropy of the last token's logits.", on=[[2], [1, 4]])
    def loss_is_the_cross_entropy_at_the_end(self, loss, messages_per_batch):
        model = make_classifier(toy_gpt())
        return all(
            same(loss(*batch, model), calc_loss_batch(*batch, model, "cpu"), atol=1e-4)
            for batch in toy_messages(*messages_per_batch)
        )


class BugWrongEnd(ASpecimen):
    number = "6.bug5"
    title = "a verdict at the first word"
    answer = Function("model, ids", returns=torch.Tensor)
    hints = (
        "What do the messages with the same label have in common?",
        "A token sees itself and those before it. How much does the first one see?",
        "The last token sees the whole message. Its place is -1, not 0.",
    )
    IDS = (
        torch.tensor([[1, 2, 2], [1, 2, 3], [4, 1, 1]]),
        torch.tensor([[2, 1], [2, 2]]),
        torch.tensor([[3]]),
    )

    @must("There must be one label for each message.", on=IDS)
    def each_message_has_a_label(self, predict, ids):
        return predict(OddSum(), ids).shape == (len(ids),)

    @must(
        "The label must be the likeliest class at the token that has seen all of the message. (The "
        "model of this check says spam if the ids up to a token sum to an odd number.)",
        on=IDS,
    )
    def all_of_the_message_counts(self, predict, ids):
        return predict(OddSum(), ids).tolist() == (ids.sum(dim=1) % 2).tolist()


class BugDropoutOn(ASpecimen):
    number = "6.bug6"
    title = "an accuracy that is another each time"
    answer = Function("model, batches", returns=float)
    hints = (
        "The model, the messages and the labels are the same in each call. What is left that draws "
        "random numbers?",
        "`torch.no_grad()` spares the gradients; dropout goes on. `model.eval()` switches it off.",
        "And afterwards? Keep `model.training` before, and call `model.train(was_training)` at "
        "the end.",
    )
    BATCHES = (
        (torch.tensor([[1, 2], [2, 2], [3, 3]]), torch.tensor([1, 0, 1])),
        (torch.tensor([[1, 4]]), torch.tensor([1])),
    )

    @must(
        "The accuracy must be that of evaluation mode, in whichever mode the model arrives. (The "
        "model of this check is right about three of four messages in evaluation mode, and about "
        "one in training mode.)",
        on=[True, False],
    )
    def accuracy_is_that_of_evaluation_mode(self, measure, training):
        return close(measure(OddSum().train(training), list(self.BATCHES)), 0.75)

    @must("Afterwards the model must be in the mode in which it was.", on=[True, False])
    def model_keeps_its_mode(self, measure, training):
        model = make_classifier(toy_gpt(drop_rate=0.5)).train(training)
        measure(model, toy_messages(2))
        return all(module.training == training for module in model.modules())


class BugModeLost(ASpecimen):
    number = "6.bug7"
    title = "dropout that ends early"
    answer = Function("model, batches, optimizer, num_epochs", returns=list[float])
    hints = (
        "In which mode is the model when the second epoch begins? Who has switched it?",
        "`calc_accuracy_loader` leaves the model in evaluation mode, as the book's does. So do "
        "many functions that measure something.",
        "`model.train()` belongs at the beginning of every epoch, inside the loop.",
    )

    def _run(self, train, num_epochs):
        """The answer's accuracies, those of evaluation mode, and the mode at every update."""
        model = make_classifier(toy_gpt(drop_rate=0.1))
        batches, modes, expected = toy_messages(3, 3), [], []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def note(*_):
            modes.append(model.training)

        def measure(*_):
            if len(modes) % len(batches) == 0:  # the last update of an epoch
                expected.append(calc_accuracy_loader(batches, copy.deepcopy(model), "cpu"))

        optimizer.register_step_pre_hook(note)
        optimizer.register_step_post_hook(measure)
        return train(model, batches, optimizer, num_epochs), expected, modes

    @must("There must be an update for each batch of each epoch.", on=[1, 3])
    def each_batch_has_an_update(self, train, num_epochs):
        *_, modes = self._run(train, num_epochs)
        return len(modes) == 2 * num_epochs

    @must("Every update must be made in training mode, in all epochs.", on=[1, 2, 3])
    def every_update_has_dropout(self, train, num_epochs):
        *_, modes = self._run(train, num_epochs)
        return all(modes)

    @must(
        "The accuracies must be those after each epoch, without dropout, on all batches.", on=[1, 3]
    )
    def accuracies_are_without_dropout(self, train, num_epochs):
        accuracies, expected, _ = self._run(train, num_epochs)
        return close(accuracies, expected)


class BugUnbalanced(ASpecimen):
    number = "6.bug8"
    title = "a filter that finds nothing"
    answer = Function("labels, predictions", returns=float)
    hints = (
        "Of which class are most of the messages? Who gets a good mark by always naming it?",
        "Each class should have the same weight, however many messages it has. Which share of the "
        "ham is right, and which of the spam?",
        "The mean of these two shares. It is called balanced accuracy.",
    )

    @must(
        "If all predictions are right, the score must be 1.",
        on=[([0, 1], [0, 1]), ([0, 0, 0, 1], [0, 0, 0, 1])],
    )
    def all_right_is_one(self, score, labels, predictions):
        return close(score(labels, predictions), 1.0)

    @must(
        "If the predictions are the same for all messages, the score must be 0.5, however many "
        "messages a class has.",
        on=[
            ([0, 0, 0, 1], [0, 0, 0, 0]),
            ([0, 0, 0, 1], [1, 1, 1, 1]),
            ([0, 1, 1, 1, 1], [1, 1, 1, 1, 1]),
        ],
    )
    def the_same_for_all_is_a_half(self, score, labels, predictions):
        return close(score(labels, predictions), 0.5)

    @must(
        "The score must be the mean of two shares: of the ham that is right, and of the spam that "
        "is right.",
        on=[
            ([0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]),
            ([1, 1, 1, 0], [0, 0, 1, 0]),
            ([0, 1, 0], [1, 0, 1]),
        ],
    )
    def both_classes_count_the_same(self, score, labels, predictions):
        right = {0: [], 1: []}
        for label, prediction in zip(labels, predictions, strict=True):
            right[label].append(label == prediction)
        shares = [sum(of_class) / len(of_class) for of_class in right.values()]
        return close(score(labels, predictions), sum(shares) / 2)


class BugTestChosen(ASpecimen):
    number = "6.bug9"
    title = "a coin with talent"
    answer = Function("val_accuracy, test_accuracy, num_epochs", returns=tuple[int, float])
    hints = (
        "Of many attempts of pure chance, one is the best. On which messages was it the best?",
        "Who looks at the test messages to choose an epoch, chooses one that happens to suit them. "
        "The accuracy that is reported was then selected, not measured.",
        "Choose by `val_accuracy` alone, and call `test_accuracy` once, for the epoch chosen.",
    )
    CASES = (
        ([0.5, 0.75, 0.6], [0.9, 0.5, 0.7]),
        ([0.6, 0.5, 0.7, 0.7], [0.6, 0.8, 0.4, 0.9]),
        ([0.4], [0.3]),
        ([0.9, 0.9], [0.2, 0.8]),
    )

    def _run(self, choose, val_accuracies, test_accuracies):
        """The answer's choice, and the epochs at which the test messages were looked at."""
        looked_at = []

        def test_accuracy(epoch):
            looked_at.append(epoch)
            return test_accuracies[epoch - 1]

        chosen = choose(lambda epoch: val_accuracies[epoch - 1], test_accuracy, len(val_accuracies))
        return chosen, looked_at

    @must(
        "The epoch must be the one with the best accuracy on the validation messages, the earliest "
        "of equally good ones.",
        on=CASES,
    )
    def epoch_is_the_best_in_validation(self, choose, val_accuracies, test_accuracies):
        (epoch, _), _ = self._run(choose, val_accuracies, test_accuracies)
        return epoch == 1 + val_accuracies.index(max(val_accuracies))

    @must(
        "The accuracy must be that of the chosen epoch on the test messages.",
        on=CASES,
    )
    def accuracy_is_that_of_the_test(self, choose, val_accuracies, test_accuracies):
        (epoch, accuracy), _ = self._run(choose, val_accuracies, test_accuracies)
        return close(accuracy, test_accuracies[epoch - 1])

    @must("The test messages may be looked at once only, when the epoch has been chosen.", on=CASES)
    def test_is_looked_at_once(self, choose, val_accuracies, test_accuracies):
        (epoch, _), looked_at = self._run(choose, val_accuracies, test_accuracies)
        return looked_at == [epoch]
