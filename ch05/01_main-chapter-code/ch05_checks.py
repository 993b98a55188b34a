"""What the answers to chapter 5's exercises must do: read by `companion.exercises`.

5.1 to 5.6 are the book's exercises, the others this repository's; 5.bug1 to 5.bug12 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector. Losses are in nats per token.
"""

import copy
import math
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from ch02_checks import WORDS
from ch03_checks import same
from ch04_checks import TOY, ASpecimen, BugMode, BugSoftmax, WatchedDropout, toy_gpt
from companion.exercises import Exercise, Function, must
from gpt import GPTModel, TransformerBlock, generate_text_simple
from gpt_generate import count_draws, generate, keep_top_k, softmax_with_temperature
from gpt_train import (
    calc_loss_batch,
    calc_loss_loader,
    create_train_val_loaders,
    evaluate_model,
    save_checkpoint,
)

# Section 5.3's scores for closer, every, effort, forward, inches, moves, pizza, toward, you.
LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])

QUERY_KEY_VALUE = ("att.W_query", "att.W_key", "att.W_value")  # in GPT-2's order

ONE_BLOCK = {**TOY, "n_layers": 1}


def one_block_gpt(**changes):
    """A small model in evaluation mode that heeds its whole input, quick to train."""
    return toy_gpt(**{**ONE_BLOCK, **changes})


def toy_batches(*rows, num_tokens=4):
    """A batch of so many rows for each number: a list of (inputs, targets), (B, T) ids each.

    The ids go up by 1, 2 or 3 from token to token, so that there is something to learn.
    """
    draw = torch.Generator().manual_seed(len(rows))
    batches = []
    for num_rows in rows:
        first = torch.randint(ONE_BLOCK["vocab_size"], (num_rows, 1), generator=draw)
        step = torch.randint(1, 4, (num_rows, 1), generator=draw)
        ids = (first + step * torch.arange(num_tokens + 1)) % ONE_BLOCK["vocab_size"]  # (B, T + 1)
        batches.append((ids[:, :-1], ids[:, 1:]))
    return batches


class TableOfScores(nn.Module):
    """Scores for the next token that depend on the last one alone, all 0 as long as untrained.

    In training mode, 100 is added to the score of the last token itself.
    """

    def __init__(self):
        super().__init__()
        self.scores = nn.Embedding(ONE_BLOCK["vocab_size"], ONE_BLOCK["vocab_size"])
        nn.init.zeros_(self.scores.weight)

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, V) logits."""
        bet = F.one_hot(in_idx, ONE_BLOCK["vocab_size"]) if self.training else 0
        return self.scores(in_idx) + 100.0 * bet


def train_once(model, batches, optimizer):
    """One update per batch; the losses, each before its update."""
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = calc_loss_batch(inputs, targets, model, "cpu")
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def vector_of(model):
    """All parameters of a model in one vector, a copy."""
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def close(ours, theirs, atol=1e-5):
    """Whether numbers, or lists of equally many, are equal but for rounding."""
    return same(torch.tensor(ours), torch.tensor(theirs), atol)


# The book's exercises


class DrawsOfPizza(Exercise):
    number = "5.1"
    title = "how often pizza is drawn"
    answer = tuple[list[int], list[float]]
    hints = (
        "`vocabulary.index('pizza')` is the place of pizza in the logits, and in all that is made "
        "of them.",
        "`softmax_with_temperature(logits, temperature)` gives the probabilities; one of them is "
        "pizza's. No draw is needed for it.",
        "`count_draws(softmax_with_temperature(logits, t))[6]` is the count at temperature t, and "
        "`softmax_with_temperature(logits, t)[6].item()` the probability.",
    )
    TEMPERATURES = (1, 0.1, 5)

    @must("There must be three counts and three probabilities: for temperature 1, 0.1 and 5.")
    def there_is_one_for_each_temperature(self, answer):
        return [len(numbers) for numbers in answer] == [3, 3]

    @must(
        "The probability must be pizza's in the softmax of the logits divided by the temperature: "
        "a number from 0 to 1, exact to four decimals.",
        on=TEMPERATURES,
    )
    def probability_is_that_of_the_softmax(self, answer, temperature):
        expected = softmax_with_temperature(LOGITS, temperature)[6].item()
        return abs(answer[1][self.TEMPERATURES.index(temperature)] - expected) <= 5e-5

    @must(
        "The count must be pizza's among 1,000 draws, as `count_draws` makes them.",
        on=TEMPERATURES,
    )
    def count_is_that_of_the_draws(self, answer, temperature):
        expected = count_draws(softmax_with_temperature(LOGITS, temperature))[6]
        return answer[0][self.TEMPERATURES.index(temperature)] == expected


class ChoicesLeft(Exercise):
    number = "5.2"
    title = "temperature and top-k"
    answer = Function("logits, temperature, top_k", returns=float)
    hints = (
        "First the probabilities that `generate` draws from: `keep_top_k`, unless `top_k` is None, "
        "then `softmax_with_temperature`. Temperature 0 is a case of its own.",
        "`(p * p.log()).sum()` is not a number as soon as one probability is 0. Leave the zeros "
        "out: `p = p[p > 0]`. `torch.special.entr(p)` does that too: it is -p log p, and 0 at 0.",
        "`torch.special.entr(probabilities).sum().exp().item()`, and 1.0 at temperature 0.",
    )

    @must("If all V scores are equal, there must be V choices.", on=[5, 2])
    def equal_scores_leave_all_choices(self, count, vocab_size):
        return close(count(torch.zeros(vocab_size), 1.0, None), float(vocab_size))

    @must("Temperature 0 takes the likeliest token: a single choice.", on=[None, 3])
    def cold_leaves_one_choice(self, count, top_k):
        return close(count(LOGITS, 0.0, top_k), 1.0)

    @must(
        "With `top_k=1` a single choice must be left. (What has the probability 0 adds 0 to the "
        "entropy.)",
        on=[1.0, 5.0],
    )
    def the_likeliest_alone_is_one_choice(self, count, temperature):
        return close(count(LOGITS, temperature, 1), 1.0)

    @must(
        "The number must be exp(entropy), with natural logarithms, of the probabilities that "
        "`generate` draws from.",
        on=[(1.0, None), (5.0, None), (5.0, 3), (0.5, 4), (0.05, None)],
    )
    def number_is_the_power_of_the_entropy(self, count, temperature, top_k):
        logits = LOGITS if top_k is None else keep_top_k(LOGITS, top_k)
        entropy = torch.special.entr(softmax_with_temperature(logits, temperature)).sum()
        return close(count(LOGITS, temperature, top_k), entropy.exp().item(), atol=1e-4)


class CloseCall(nn.Module):
    """After token t it scores t + 1 highest, and t + 2 lower by a millionth."""

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, V) logits."""
        first, second = (F.one_hot((in_idx + step) % 10, 10).float() for step in (1, 2))
        return first + (1 - 1e-6) * second


class SettingsWithoutChance(Exercise):
    number = "5.3"
    title = "the same text every time"
    answer = tuple[dict, dict]
    hints = (
        "Where in `choose_next` is something drawn, and what is done instead?",
        "And if something is drawn: among how many tokens, so that the result is certain?",
        "`{'temperature': ...}` with the number that draws nothing, and `{'top_k': ...}` with the "
        "number that leaves one token.",
    )
    PROMPT = torch.tensor([[1, 2]])

    def _is_always_greedy(self, settings):
        """Whether `generate` writes with these settings, for each of ten seeds, the greedy text."""
        expected = generate_text_simple(CloseCall(), self.PROMPT, 6, 8)
        texts = []
        for seed in range(10):
            torch.manual_seed(seed)
            texts.append(generate(CloseCall(), self.PROMPT, 6, 8, **settings))
        return all(torch.equal(text, expected) for text in texts)

    @must("The first dictionary must set `temperature` alone, the second `top_k` alone.")
    def each_sets_one_argument(self, answer):
        return [list(settings) for settings in answer] == [["temperature"], ["top_k"]]

    @must(
        "With the first dictionary, every seed must give the greedy text, at any `top_k`. (The "
        "model of this check has two tokens that are almost equally likely.)",
        on=[None, 5, 1],
    )
    def temperature_alone_is_enough(self, answer, top_k):
        return self._is_always_greedy({**answer[0], "top_k": top_k})

    @must(
        "With the second dictionary, every seed must give the greedy text, at any temperature. "
        "(The model of this check has two tokens that are almost equally likely.)",
        on=[5.0, 1.0, 0.0],
    )
    def top_k_alone_is_enough(self, answer, temperature):
        return self._is_always_greedy({**answer[1], "temperature": temperature})


class OneMoreEpoch(Exercise):
    number = "5.4"
    title = "one more epoch"
    answer = Function("path, batches", returns=list[float])
    hints = (
        "`load_checkpoint(path)` returns a dictionary. It has what is needed to build the model, "
        "to fill it, and to fill the optimizer.",
        "`GPTModel(checkpoint['config'])`, then its `load_state_dict`. Then an optimizer of this "
        "model's parameters, and the *optimizer's* `load_state_dict`. Only then train.",
        "`optimizer = torch.optim.AdamW(model.parameters())` and "
        "`optimizer.load_state_dict(checkpoint['optimizer_state_dict'])`. For each batch: "
        "`zero_grad`, `calc_loss_batch`, `backward`, `step`, and note `loss.item()`.",
    )

    @contextmanager
    def _checkpoint(self, drop_rate=0.0):
        """A file with a model and its optimizer after two updates; its path, and both of them."""
        model = one_block_gpt(drop_rate=drop_rate).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)
        train_once(model, toy_batches(2, 2), optimizer)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model_and_optimizer.pth")
            save_checkpoint(path, model, {**ONE_BLOCK, "drop_rate": drop_rate}, optimizer)
            yield path, model, optimizer

    def _losses(self, train_on):
        """The losses of the answer, and those of a training that was not interrupted."""
        with self._checkpoint() as (path, model, optimizer):
            resumed = train_on(path, toy_batches(2, 3, 2))
        return resumed, train_once(model, toy_batches(2, 3, 2), optimizer)

    @must("There must be a loss for each of the three batches.")
    def each_batch_has_a_loss(self, train_on):
        return len(self._losses(train_on)[0]) == 3

    @must("The first loss must be that of the saved model, before any further update.")
    def first_loss_is_that_of_the_saved_model(self, train_on):
        resumed, uninterrupted = self._losses(train_on)
        return close(resumed[0], uninterrupted[0])

    @must(
        "From the second batch on, too, the losses must be those of a training that was never "
        "interrupted: the optimizer has to go on with all that it had gathered."
    )
    def losses_are_those_without_interruption(self, train_on):
        return close(*self._losses(train_on))

    @must("Dropout must act: the model has to be in training mode.", on=[0.5])
    def dropout_acts(self, train_on, drop_rate):
        with self._checkpoint(drop_rate) as (path, _, _), WatchedDropout() as dropout:
            train_on(path, toy_batches(2))
        return bool(dropout.calls)


class LossesOfBothParts(Exercise):
    number = "5.5"
    title = "losses on both parts of a text"
    answer = Function("model, text, train_ratio, batch_size", returns=tuple[float, float])
    hints = (
        "Section 5.1.3 has it all: `create_train_val_loaders` cuts the text, and "
        "`calc_loss_loader` takes the mean over the batches. How long may a window be?",
        "`model.pos_emb.weight.shape[0]` is the model's context. In which mode should the model "
        "be, and who needs gradients?",
        "`evaluate_model` switches dropout and gradients off. With `eval_iter=None` it looks at "
        "all batches.",
    )
    CASES = ((0.5, 1), (0.6, 2))  # the training loader leaves no window out

    def _model_and_text(self, drop_rate=0.0):
        """A model with GPT-2's vocabulary and a context of 8, and a text of 81 tokens."""
        words = WORDS.split()
        text = "zero " + " ".join(words[i * i % 10] for i in range(80))
        return one_block_gpt(vocab_size=50257, drop_rate=drop_rate), text

    def _expected(self, model, text, train_ratio, batch_size):
        loaders = create_train_val_loaders(
            text, train_ratio, batch_size, ONE_BLOCK["context_length"]
        )
        return evaluate_model(model, *loaders, "cpu", eval_iter=None)

    @must(
        "The first number must be the mean loss over all batches of the first part of the text, "
        "cut into windows as long as the model's context.",
        on=CASES,
    )
    def first_number_is_the_training_loss(self, evaluate, train_ratio, batch_size):
        case = (*self._model_and_text(), train_ratio, batch_size)
        return close(evaluate(*case)[0], self._expected(*case)[0], atol=1e-4)

    @must(
        "The second number must be the mean loss over all batches of the rest of the text, cut in "
        "the same way.",
        on=CASES,
    )
    def second_number_is_the_validation_loss(self, evaluate, train_ratio, batch_size):
        case = (*self._model_and_text(), train_ratio, batch_size)
        return close(evaluate(*case)[1], self._expected(*case)[1], atol=1e-4)

    @must("Dropout must not act, in whichever mode the model arrives.", on=[True])
    def dropout_is_off(self, evaluate, training):
        model, text = self._model_and_text(drop_rate=0.5)
        expected = self._expected(model, text, 0.5, 1)
        return close(evaluate(model.train(training), text, 0.5, 1), expected, atol=1e-4)

    @must("The losses are right, but gradients were recorded for nothing, which takes memory.")
    def no_gradients_are_recorded(self, evaluate):
        model, text = self._model_and_text()
        recorded = []
        model.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
        evaluate(model, text, 0.5, 1)
        return not any(recorded)


class LargerModels(Exercise):
    number = "5.6"
    title = "larger models"
    answer = Function("cfgs, batches, val_batches", returns=list[float])
    hints = (
        "What must be the same for all models, so that the comparison is fair? What must be new "
        "for each?",
        "Within the loop over the configurations: `torch.manual_seed(123)`, then the model, then "
        "its own optimizer. Section 5.2's inner loop trains it.",
        "`evaluate_model(model, batches, val_batches, 'cpu', None)[1]` is the loss on all "
        "validation batches, without dropout.",
    )

    def _configs(self, widths, drop_rate=0.0):
        return [{**ONE_BLOCK, "emb_dim": width, "drop_rate": drop_rate} for width in widths]

    def _data(self):
        return toy_batches(4, 4, 4), toy_batches(2, 2)

    def _expected(self, cfgs):
        batches, val_batches = self._data()
        losses = []
        for cfg in cfgs:
            torch.manual_seed(123)
            model = GPTModel(cfg)
            train_once(model, batches, torch.optim.AdamW(model.parameters(), lr=0.01))
            losses.append(evaluate_model(model, batches, val_batches, "cpu", None)[1])
        return losses

    @must("There must be a loss for each configuration.", on=[[8], [4, 8, 16]])
    def each_configuration_has_a_loss(self, compare, widths):
        return len(compare(self._configs(widths), *self._data())) == len(widths)

    @must(
        "A model's loss must be the same whichever models come before it. (Here the order of the "
        "configurations was turned round.)",
        on=[[4, 8]],
    )
    def order_makes_no_difference(self, compare, widths):
        cfgs = self._configs(widths)
        there, back = compare(cfgs, *self._data()), compare(cfgs[::-1], *self._data())
        return close(there, back[::-1], atol=1e-4)

    @must(
        "Each must be the validation loss of a model that was built with seed 123 and trained, by "
        "AdamW with a learning rate of 0.01, for one pass over the batches in their order.",
        on=[[4, 8]],
    )
    def loss_is_that_of_one_pass(self, compare, widths):
        cfgs = self._configs(widths)
        return close(compare(cfgs, *self._data()), self._expected(cfgs), atol=1e-4)

    @must("Dropout must act while a model is trained, and not while its loss is taken.", on=[[4]])
    def dropout_acts_in_training_alone(self, compare, widths):
        cfgs = self._configs(widths, drop_rate=0.5)
        return close(compare(cfgs, *self._data()), self._expected(cfgs), atol=1e-4)


# This repository's exercises


class OtherUnits(Exercise):
    number = "5.7"
    title = "perplexity and bits per byte"
    answer = Function("loss, num_tokens, text", returns=tuple[float, float])
    hints = (
        "The loss is a mean of minus natural logarithms. The perplexity takes the logarithm back.",
        "The loss of the whole text is `loss * num_tokens`, in nats. A bit is log(2) nats.",
        "`len(text.encode('utf-8'))` is the number of bytes. Divide the bits of the whole text by "
        "it.",
    )

    @must(
        "The perplexity of the loss log(V) must be V: so many equally likely tokens cost as much.",
        on=[(0.0, 1), (math.log(50257), 50257), (math.log(6), 6)],
    )
    def perplexity_is_a_number_of_tokens(self, convert, loss, equally_likely):
        return math.isclose(convert(loss, 3, "cats")[0], equally_likely, rel_tol=1e-4)

    @must(
        "A token of one byte whose probability is 1/2 costs one bit per byte.",
        on=[(math.log(2), 4, "cats")],
    )
    def an_even_bet_costs_a_bit(self, convert, loss, num_tokens, text):
        return close(convert(loss, num_tokens, text)[1], 1.0)

    @must(
        "The bits of all tokens must be shared among all bytes: at the same loss, a text of longer "
        "tokens costs less per byte.",
        on=[(math.log(2), 2, "cats", 0.5), (math.log(16), 3, "two cats", 1.5)],
    )
    def bits_are_shared_among_the_bytes(self, convert, loss, num_tokens, text, bits_per_byte):
        return close(convert(loss, num_tokens, text)[1], bits_per_byte)

    @must(
        "Bytes are those of the text's UTF-8, where many a character takes more than one.",
        on=[(math.log(4), 6, "über", 2.4), (math.log(2), 3, "猫", 1.0)],
    )
    def bytes_are_those_of_utf8(self, convert, loss, num_tokens, text, bits_per_byte):
        return close(convert(loss, num_tokens, text)[1], bits_per_byte)


class LossOfUnevenBatches(Exercise):
    number = "5.8"
    title = "batches that differ in size"
    answer = Function("model, batches", returns=float)
    hints = (
        "Every token should count the same. In the mean of the batches' means, does a token of a "
        "small batch count as much as one of a large batch?",
        "Add up the loss of all tokens, and count them. `calc_loss_batch` gives the mean of a "
        "batch: times how many?",
        "`total += calc_loss_batch(inputs, targets, model, 'cpu').item() * targets.numel()`",
    )

    def _is_mean_over_tokens(self, mean_loss, batches):
        model, costs = one_block_gpt(), []
        with torch.no_grad():
            for inputs, targets in batches:
                logits = model(inputs).flatten(0, 1)
                costs.append(F.cross_entropy(logits, targets.flatten(), reduction="none"))
        return close(mean_loss(model, batches), torch.cat(costs).mean().item(), atol=1e-4)

    @must(
        "If all batches have the same size, the result must be that of `calc_loss_loader`.",
        on=[[2, 2, 2], [1]],
    )
    def even_batches_give_the_chapters_loss(self, mean_loss, texts_per_batch):
        model, batches = one_block_gpt(), toy_batches(*texts_per_batch)
        expected = calc_loss_loader(batches, model, "cpu")
        return close(mean_loss(model, batches), expected, atol=1e-4)

    @must(
        "Every token must count the same, in a batch of few texts as in one of many.",
        on=[[8, 1], [1, 5, 2]],
    )
    def every_token_counts_the_same(self, mean_loss, texts_per_batch):
        return self._is_mean_over_tokens(mean_loss, toy_batches(*texts_per_batch))

    @must(
        "Every token must count the same, in a batch of short texts as in one of long texts.",
        on=[[7, 2], [3, 8]],
    )
    def long_texts_count_by_their_tokens(self, mean_loss, tokens_per_text):
        batches = [toy_batches(3, num_tokens=length)[0] for length in tokens_per_text]
        return self._is_mean_over_tokens(mean_loss, batches)


class LongestCopy(Exercise):
    number = "5.9"
    title = "how much is copied"
    answer = Function("written, source", returns=list[int])
    hints = (
        "A span of n ids that begins at i is `written[i : i + n]`. Does it stand anywhere in "
        "`source`? Compare lists of ids, not texts.",
        "If a span of n ids stands in `source`, so does every part of it. So try, from each "
        "beginning i, to make the longest span found so far longer by one id.",
        "The spans of n ids in `source`: `{tuple(source[j : j + n]) for j in range(len(source) - "
        "n + 1)}`. For n = 1, 2, ... see whether one of `written` is among them, until none is.",
    )

    @staticmethod
    def _stands_in(span, ids):
        return any(ids[i : i + len(span)] == span for i in range(len(ids) - len(span) + 1))

    def _longest(self, written, source):
        spans = [written[i:j] for i in range(len(written)) for j in range(i + 1, len(written) + 1)]
        return max([len(span) for span in spans if self._stands_in(span, source)], default=0)

    @must(
        "If nothing agrees, there must be no ids.",
        on=[([1, 2], [3, 4]), ([], [5]), ([5], []), ([12], [1, 2])],
    )
    def nothing_in_common_is_an_empty_list(self, longest_copy, written, source):
        return longest_copy(written, source) == []

    @must(
        "The ids must stand side by side, in this order, in both lists.",
        on=[
            ([5, 1, 2, 8, 3], [0, 1, 2, 3, 4]),
            ([3, 2, 1], [1, 2, 3]),
            ([7, 7, 7], [7, 7]),
            ([4, 5], [6, 4, 1, 5]),
        ],
    )
    def span_stands_in_both(self, longest_copy, written, source):
        span = longest_copy(written, source)
        return self._stands_in(span, written) and self._stands_in(span, source)

    @must(
        "No longer span must stand in both.",
        on=[
            ([5, 1, 2, 3, 9], [0, 1, 2, 3, 4]),
            ([1, 2, 9, 1, 2, 3], [1, 2, 3, 1, 2, 5]),
            ([1, 2, 1, 2, 3], [8, 1, 2, 3]),
            ([4, 5, 6], [6, 4, 5, 6]),
            ([9, 1], [1, 2, 3]),
        ],
    )
    def span_is_the_longest(self, longest_copy, written, source):
        return len(longest_copy(written, source)) == self._longest(written, source)


class Nucleus(Exercise):
    number = "5.10"
    title = "top-p sampling"
    answer = Function("logits, top_p", returns=torch.Tensor)
    hints = (
        "`torch.sort(logits, descending=True)` returns the logits in order, and which place each "
        "came from. `cumsum` of their softmax says how much the tokens up to each one sum to.",
        "A token is kept if those *before* it do not reach `top_p` yet. So the likeliest is "
        "always kept, and so is the one that reaches it.",
        "`is_out = cumulated - probabilities >= top_p`, in sorted order. Bring it back by "
        "`is_out.scatter(-1, places, is_out)`, then `logits.masked_fill(..., -torch.inf)`.",
    )
    # Logarithms of probabilities that are easy to add up, in another order in each row.
    ROWS = torch.tensor([[0.05, 0.5, 0.15, 0.3], [0.7, 0.04, 0.2, 0.06]]).log()
    EVEN = torch.tensor([[0.4, 0.1, 0.1, 0.4], [0.1, 0.2, 0.3, 0.4]]).log()

    @must(
        "Every logit must come back as it was, or as minus infinity.",
        on=[(ROWS, 0.6), (ROWS + 3.0, 0.85)],
    )
    def logits_stay_or_go(self, keep, logits, top_p):
        kept = keep(logits.clone(), top_p)
        return kept.shape == logits.shape and bool(((kept == logits) | (kept == -torch.inf)).all())

    @must(
        "The likeliest token must be kept, though it is above `top_p` all alone.",
        on=[(ROWS, 0.1), (ROWS, 0.3)],
    )
    def the_likeliest_is_always_kept(self, keep, logits, top_p):
        kept = keep(logits.clone(), top_p).isfinite()
        return bool(kept.gather(-1, logits.argmax(dim=-1, keepdim=True)).all())

    @must("With `top_p=1.0` all tokens must be kept.", on=[(ROWS, 1.0), (EVEN, 1.0)])
    def all_are_kept_at_one(self, keep, logits, top_p):
        return bool(keep(logits.clone(), top_p).isfinite().all())

    @must(
        "In each row, the likeliest tokens must be kept until their probabilities sum to at least "
        "`top_p`, and no more of them.",
        on=[(ROWS[:1], 0.6), (ROWS[1:], 0.6), (ROWS, 0.85), (ROWS, 0.93), (EVEN, 0.75)],
    )
    def as_few_as_possible_are_kept(self, keep, logits, top_p):
        kept = keep(logits.clone(), top_p).isfinite()
        for row, probabilities in zip(kept, logits.softmax(dim=-1), strict=True):
            ordered = sorted(probabilities.tolist(), reverse=True)
            needed = next(n for n in range(1, 5) if sum(ordered[:n]) >= top_p)
            if row.sum() != needed or probabilities[row].min() < ordered[needed - 1] - 1e-6:
                return False
        return True


class OneUpdate(Exercise):
    number = "5.11"
    title = "one update from many batches"
    answer = Function("model, optimizer, batches", returns=float)
    hints = (
        "`backward` *adds* to the gradients that are there. That is why there is `zero_grad`: how "
        "often should it be called here, and `step`?",
        "The gradients of several `backward` calls are summed. Those of a mean over all tokens "
        "come out if each batch's loss is first multiplied by its share of the tokens.",
        "`loss = calc_loss_batch(...) * targets.numel() / num_tokens`, where `num_tokens` counts "
        "the targets of all batches. The losses, weighted like this, sum to the mean.",
    )

    def _models(self):
        """A model and its optimizer, and the same once more for comparison."""
        models = [one_block_gpt().train()]
        models.append(copy.deepcopy(models[0]))
        # Without a mean over past gradients, so that the size of the gradient shows.
        return [(model, torch.optim.SGD(model.parameters(), lr=0.5)) for model in models]

    def _is_one_large_update(self, update, texts_per_batch, stale=0.0):
        (model, optimizer), (twin, twins_optimizer) = self._models()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, stale)
        batches = toy_batches(*texts_per_batch)
        update(model, optimizer, batches)
        joined = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        train_once(twin, [joined], twins_optimizer)
        return same(vector_of(model), vector_of(twin), atol=1e-4)

    @must("The weights must be updated once, and once only.", on=[[2, 2, 2]])
    def there_is_one_update(self, update, texts_per_batch):
        (model, optimizer), _ = self._models()
        updates = []
        optimizer.register_step_pre_hook(lambda *_: updates.append(1))
        update(model, optimizer, toy_batches(*texts_per_batch))
        return len(updates) == 1

    @must(
        "For batches of the same size, the update must be that of one large batch with the same "
        "texts.",
        on=[[2, 2, 2], [1, 1]],
    )
    def even_batches_are_as_one(self, update, texts_per_batch):
        return self._is_one_large_update(update, texts_per_batch)

    @must("Gradients that were there before must not count.", on=[[2, 2]])
    def older_gradients_do_not_count(self, update, texts_per_batch):
        return self._is_one_large_update(update, texts_per_batch, stale=1.0)

    @must(
        "For batches of different sizes too, the update must be that of one large batch.",
        on=[[4, 1], [1, 2, 5]],
    )
    def uneven_batches_are_as_one(self, update, texts_per_batch):
        return self._is_one_large_update(update, texts_per_batch)

    @must(
        "The function must return the mean loss over all tokens, before the update.",
        on=[[2, 2], [5, 1]],
    )
    def loss_is_the_mean_over_all_tokens(self, update, texts_per_batch):
        (model, optimizer), (twin, _) = self._models()
        batches = toy_batches(*texts_per_batch)
        costs = [
            calc_loss_batch(*batch, twin, "cpu").item() * batch[1].numel() for batch in batches
        ]
        expected = sum(costs) / sum(targets.numel() for _, targets in batches)
        return close(update(model, optimizer, batches), expected, atol=1e-4)

    @must(
        "The update is right, but the batches went through the model together. One by one they "
        "need less memory.",
        on=[[2, 3]],
    )
    def batches_go_through_one_by_one(self, update, texts_per_batch):
        (model, optimizer), _ = self._models()
        seen = []
        model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        update(model, optimizer, toy_batches(*texts_per_batch))
        return seen == texts_per_batch


def block_and_tree(width):
    """A block of random numbers in evaluation mode, its configuration, and GPT-2's tree for it."""
    cfg = {**ONE_BLOCK, "emb_dim": width, "qkv_bias": True}
    block = TransformerBlock(cfg).eval()
    for parameter in block.parameters():  # the norms too, which would all be 0 and 1
        nn.init.normal_(parameter)
    return block, cfg, gpt2_tree(block)


def gpt2_tree(block):
    """A block of ours as `params_from_safetensors` gives those of GPT-2: read-only arrays."""
    own = {name: parameter.detach().numpy() for name, parameter in block.named_parameters()}

    def joined(arrays):
        array = np.concatenate(arrays, axis=-1)
        array.flags.writeable = False
        return array

    def linear(*layers):
        """One matrix for layers side by side, (inputs, outputs), and one bias."""
        w = joined([own[f"{layer}.weight"].T for layer in layers])
        return {"w": w, "b": joined([own[f"{layer}.bias"] for layer in layers])}

    def norm(name):
        return {"g": joined([own[f"{name}.scale"]]), "b": joined([own[f"{name}.shift"]])}

    return {
        "attn": {"c_attn": linear(*QUERY_KEY_VALUE), "c_proj": linear("att.out_proj")},
        "mlp": {"c_fc": linear("ff.layers.0"), "c_proj": linear("ff.layers.2")},
        "ln_1": norm("norm1"),
        "ln_2": norm("norm2"),
    }


class TheirMatrices(Exercise):
    number = "5.12"
    title = "GPT-2's matrices"
    answer = Function("block", returns=dict)
    hints = (
        "`dict(TransformerBlock(cfg).named_parameters())` has the sixteen names, with the shapes "
        "that are needed. The picture has a line from each of GPT-2's to ours.",
        "`np.split(array, 3, axis=-1)` cuts c_attn in three: query, key, value. GPT-2 multiplies "
        "a vector by w from the right, (inputs, outputs); `nn.Linear` keeps (outputs, inputs). Of "
        "a square matrix no shape tells which of the two it is.",
        "`torch.tensor(w.T)` for every matrix, the three parts of c_attn and c_proj among them; "
        "`torch.tensor(b)` for every bias. Of a norm, g is `scale` and b is `shift`.",
    )
    WIDTHS = (4, 8)

    @must(
        "There must be an entry for each of our block's sixteen parameters, under its name "
        "there, and no other entry.",
        on=WIDTHS,
    )
    def names_are_ours(self, from_gpt2, width):
        block, _, tree = block_and_tree(width)
        return set(from_gpt2(tree)) == set(dict(block.named_parameters()))

    @must("Each entry must be a tensor, with the shape that our parameter has.", on=WIDTHS)
    def shapes_are_ours(self, from_gpt2, width):
        block, _, tree = block_and_tree(width)
        weights = from_gpt2(tree)
        return all(
            isinstance(weights[name], torch.Tensor) and weights[name].shape == parameter.shape
            for name, parameter in block.named_parameters()
        )

    @must(
        "c_attn's matrix must be cut in three from left to right: query, key, value. (Whether the "
        "parts are transposed is not looked at yet.)",
        on=WIDTHS,
    )
    def query_key_value_are_in_order(self, from_gpt2, width):
        block, _, tree = block_and_tree(width)
        weights, own = from_gpt2(tree), block.state_dict()
        names = [f"{layer}.weight" for layer in QUERY_KEY_VALUE]
        return all(same(weights[n], own[n]) or same(weights[n], own[n].T) for n in names)

    @must(
        "Square matrices must be transposed as well: what `x @ w` is with GPT-2's, our layer must "
        "give for x.",
        on=WIDTHS,
    )
    def square_matrices_are_transposed(self, from_gpt2, width):
        block, _, tree = block_and_tree(width)
        weights, own = from_gpt2(tree), block.state_dict()
        names = [f"{layer}.weight" for layer in (*QUERY_KEY_VALUE, "att.out_proj")]
        return all(same(weights[name], own[name]) for name in names)

    @must("Each linear layer must have its own bias.", on=WIDTHS)
    def biases_are_those_of_their_layers(self, from_gpt2, width):
        block, _, tree = block_and_tree(width)
        weights, own = from_gpt2(tree), block.state_dict()
        return all(same(weights[name], own[name]) for name in own if name.endswith(".bias"))

    @must(
        "With these weights, our block must give the output of the block that the tree was made "
        "of. (What is left to look at are the norms and the matrices that are not square.)",
        on=WIDTHS,
    )
    def output_is_that_of_the_original(self, from_gpt2, width):
        block, cfg, tree = block_and_tree(width)
        loaded = TransformerBlock(cfg).eval()
        loaded.load_state_dict(from_gpt2(tree), strict=False)  # the mask is no weight
        x = torch.randn(2, 5, width)  # (B, T, C)
        return same(loaded(x), block(x))


# The bug zoo


class BugShift(ASpecimen):
    number = "5.bug1"
    title = "a model that is never wrong"
    answer = Function("token_ids, max_length", returns=tuple[torch.Tensor, torch.Tensor])
    hints = (
        "What is the model asked? Print the first inputs and the first targets.",
        "Whoever is shown a token and asked for that very token need not learn any language.",
        "The targets of a window begin one token later, and end one token later: "
        "`token_ids[i + 1 : i + 1 + max_length]`.",
    )
    CASES = ((torch.arange(10, 19), 4), (torch.arange(7), 2), (torch.tensor([5, 3, 8, 1]), 3))

    @must(
        "The inputs must be windows of `max_length` tokens, each beginning where the one before "
        "ends; a last window of fewer, or without a token behind it, is left out.",
        on=CASES,
    )
    def inputs_are_the_windows(self, cut, token_ids, max_length):
        num_windows = (len(token_ids) - 1) // max_length
        expected = token_ids[: num_windows * max_length].reshape(num_windows, max_length)
        return torch.equal(cut(token_ids, max_length)[0], expected)

    @must("The targets must have the shape of the inputs.", on=CASES)
    def targets_have_the_shape_of_inputs(self, cut, token_ids, max_length):
        inputs, targets = cut(token_ids, max_length)
        return inputs.shape == targets.shape

    @must("Each target must be the token that comes next in the text.", on=CASES)
    def targets_come_next(self, cut, token_ids, max_length):
        num_windows = (len(token_ids) - 1) // max_length
        expected = token_ids[1 : 1 + num_windows * max_length].reshape(num_windows, max_length)
        return torch.equal(cut(token_ids, max_length)[1], expected)


class BugEvaluation(ASpecimen):
    number = "5.bug2"
    title = "a loss that is another each time"
    answer = Function("model, batches", returns=float)
    hints = (
        "Neither the model nor the batch changes between the calls. What is left that draws "
        "random numbers?",
        "`torch.no_grad()` spares the gradients; dropout goes on. `model.eval()` switches it off.",
        "And afterwards? Keep `model.training` before, and call `model.train(was_training)` at "
        "the end.",
    )

    @must(
        "The loss must be that of evaluation mode, in whichever mode the model arrives. (The model "
        "of this check has learned nothing. In training mode it bets on a wrong token besides.)",
        on=[True, False],
    )
    def loss_is_that_of_evaluation_mode(self, evaluate, training):
        model = TableOfScores().train(training)
        return close(evaluate(model, toy_batches(3, 3)), math.log(ONE_BLOCK["vocab_size"]))

    @must("Afterwards the model must be in the mode in which it was.", on=[True, False])
    def model_is_back_in_its_mode(self, evaluate, training):
        model = one_block_gpt(drop_rate=0.5).train(training)
        evaluate(model, toy_batches(2))
        return all(module.training == training for module in model.modules())


class BugGradients(ASpecimen):
    number = "5.bug3"
    title = "gradients that grow"
    answer = Function("model, batches, optimizer", returns=list[float])
    hints = (
        "The same model and the same batch have the same gradient. What does `backward` do with "
        "the one that is already there?",
        "It adds to it. Something has to take the old gradient away before.",
        "`optimizer.zero_grad()` for every batch, before `loss.backward()`. Between `backward` and "
        "`step` it would take away the new one.",
    )

    def _gradient(self, model):
        """All gradients in one vector; zeros where there is none."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        return torch.cat([part.flatten() for part in parts])

    @must(
        "Every update must use the gradient of its own batch, and nothing else.",
        on=[[2, 2, 2], [1, 3]],
    )
    def each_update_uses_its_own_gradient(self, train, texts_per_batch):
        model, used, expected = TableOfScores().eval(), [], []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(lambda *_: used.append(self._gradient(model)))
        train(model, toy_batches(*texts_per_batch), optimizer)
        for batch in toy_batches(*texts_per_batch):
            model.zero_grad()
            calc_loss_batch(*batch, model, "cpu").backward()
            expected.append(self._gradient(model))
        return len(used) == len(expected) and same(torch.stack(used), torch.stack(expected))

    @must("The losses must be those of the batches, each before its update.", on=[[2, 2, 2]])
    def losses_are_those_of_the_batches(self, train, texts_per_batch):
        model = one_block_gpt().train()
        twin = copy.deepcopy(model)
        losses = train(
            model, toy_batches(*texts_per_batch), torch.optim.SGD(model.parameters(), lr=0.1)
        )
        twins_optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
        return close(
            losses, train_once(twin, toy_batches(*texts_per_batch), twins_optimizer), atol=1e-4
        )


class BugAxis(BugSoftmax):
    """What must hold for the loss is what had to hold for 4.bug6."""

    number = "5.bug4"
    title = "a model that cannot learn to count"
    hints = (
        "Take scores that are certain and right: one text of two tokens, V = 3. Follow one of the "
        "numbers through `reshape`: to which token does it belong afterwards?",
        "`reshape` takes the numbers in their order and cuts them into rows of another length. It "
        "does not exchange two dimensions.",
        "`logits.transpose(1, 2)` exchanges them: (B, T, V) becomes (B, V, T). The chapter "
        "flattens batch and tokens instead.",
    )
    SCORES = torch.tensor([0.5, -1.0, 2.0, 1.5, 0.0, 3.0, -2.0, 1.0, 0.3, 2.5, -0.5, 0.7])

    @must(
        "The loss must be the mean of the losses of the tokens, each from its own scores and "
        "its own target.",
        on=[
            (SCORES.reshape(2, 3, 2), torch.tensor([[0, 1, 1], [1, 1, 0]])),
            (SCORES.reshape(2, 2, 3), torch.tensor([[0, 2], [1, 1]])),
        ],
    )
    def every_token_has_its_own_scores(self, loss, logits, targets):
        costs = [
            loss(logits[b : b + 1, t : t + 1], targets[b : b + 1, t : t + 1])
            for b in range(len(targets))
            for t in range(targets.shape[1])
        ]
        return same(loss(logits, targets), torch.stack(costs).mean())


class BugTemperature(ASpecimen):
    number = "5.bug5"
    title = "a temperature that does nothing"
    answer = Function("logits, temperature", returns=torch.Tensor)
    hints = (
        "Go through the lines with temperature 2. What happens to the 2 in the last one?",
        "All probabilities are divided by it, and then by a sum that has become smaller just as "
        "much.",
        "Differences of *logits* are what a temperature makes larger or smaller: divide before the "
        "softmax.",
    )

    @must("The probabilities must sum to 1.", on=[0.1, 1.0, 5.0])
    def probabilities_sum_to_one(self, spread, temperature):
        return close(spread(LOGITS, temperature).sum().item(), 1.0, atol=1e-4)

    @must("At temperature 1 the probabilities must be the softmax of the logits.", on=[1.0])
    def at_one_it_is_the_softmax(self, spread, temperature):
        return same(spread(LOGITS, temperature), LOGITS.softmax(dim=-1))

    @must(
        "Below 1, the likeliest token must get likelier than at 1; above 1, less likely.",
        on=[0.1, 0.5, 2.0, 5.0],
    )
    def low_sharpens_and_high_flattens(self, spread, temperature):
        change = spread(LOGITS, temperature).max() - LOGITS.softmax(dim=-1).max()
        return bool(change > 0.01) if temperature < 1 else bool(change < -0.01)

    @must(
        "A difference of 1 between two logits must count, at temperature t, as one of 1/t.",
        on=[0.5, 2.0, 5.0],
    )
    def differences_are_divided(self, spread, temperature):
        return same(spread(LOGITS, temperature), softmax_with_temperature(LOGITS, temperature))


class BugTopK(ASpecimen):
    number = "5.bug6"
    title = "a token that was ruled out"
    answer = Function("logits, top_k, u", returns=int)
    hints = (
        "Print `probabilities.sum()` before the last lines. What if u is larger?",
        "If nothing passes u, all of `has_passed` is False, and `argmax` returns the first place.",
        "What is left must sum to 1 again: divide by the sum. Or set logits to minus infinity "
        "*before* the softmax, which then sees to it.",
    )

    @must(
        "Only the `top_k` likeliest ids may be drawn, whatever u is.",
        on=[(2, 0.0), (2, 0.5), (2, 0.97), (1, 0.8), (3, 0.999), (9, 0.999)],
    )
    def only_the_likeliest_are_drawn(self, draw, top_k, u):
        return draw(LOGITS, top_k, u) in LOGITS.topk(top_k).indices.tolist()

    @must(
        "Among those that are left, each must be drawn as often as the softmax of their logits "
        "says: the first at which the sum, in the vocabulary's order, passes u.",
        on=[(2, 0.55), (2, 0.6), (2, 0.65), (3, 0.03), (3, 0.08), (3, 0.6), (3, 0.66), (9, 0.3)],
    )
    def shares_are_those_of_the_softmax(self, draw, top_k, u):
        cumulated = keep_top_k(LOGITS, top_k).softmax(dim=-1).cumsum(dim=-1)
        return draw(LOGITS, top_k, u) == int((cumulated > u).nonzero()[0])


class BugDecay(ASpecimen):
    number = "5.bug7"
    title = "a training that turns back"
    answer = Function("model, batches, optimizer, num_epochs, peak", returns=list[float])
    hints = (
        "Print the learning rate of every update.",
        "It arrives at 0 when the first epoch ends, and goes on falling. What does an update with "
        "a learning rate below 0 do?",
        "How many updates are there in all? `len(batches)` is one epoch's.",
    )
    CASES = (([2, 2], 3), ([2, 1, 2], 2), ([2, 2, 2], 1))

    def _rates(self, train, texts_per_batch, num_epochs, peak=0.5):
        """The losses that the answer returns, and the learning rate of each of its updates."""
        model, rates = TableOfScores().eval(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        return train(model, toy_batches(*texts_per_batch), optimizer, num_epochs, peak), rates

    @must("There must be a loss for each epoch, and an update for each batch.", on=CASES)
    def each_epoch_has_its_updates(self, train, texts_per_batch, num_epochs):
        losses, rates = self._rates(train, texts_per_batch, num_epochs)
        return (len(losses), len(rates)) == (num_epochs, num_epochs * len(texts_per_batch))

    @must("The first update must have the learning rate `peak`.", on=CASES)
    def first_rate_is_the_peak(self, train, texts_per_batch, num_epochs):
        return close(self._rates(train, texts_per_batch, num_epochs)[1][0], 0.5)

    @must("No update may have a learning rate below 0: it would make the loss larger.", on=CASES)
    def no_rate_is_below_zero(self, train, texts_per_batch, num_epochs):
        return min(self._rates(train, texts_per_batch, num_epochs)[1]) >= 0

    @must(
        "From update to update the learning rate must fall by the same amount, so that it would "
        "be 0 after the last update of the last epoch.",
        on=CASES,
    )
    def rates_fall_in_a_straight_line(self, train, texts_per_batch, num_epochs):
        num_updates = len(texts_per_batch) * num_epochs
        expected = [0.5 * (num_updates - i) / num_updates for i in range(num_updates)]
        return close(self._rates(train, texts_per_batch, num_epochs)[1], expected)


class BugLeak(ASpecimen):
    number = "5.bug8"
    title = "a test with known questions"
    answer = Function(
        "token_ids, max_length, stride, train_ratio", returns=tuple[torch.Tensor, torch.Tensor]
    )
    hints = (
        "In how many windows is a token in the middle of the text, if the next window begins "
        "`stride` tokens later?",
        "Windows that overlap hold the same tokens. Where each is put into one of two parts by "
        "chance, nearly every token lands in both.",
        "Cut the *text* first, at `int(train_ratio * len(token_ids))`, and then each part into "
        "windows.",
    )
    CASES = ((60, 4, 2, 0.8), (60, 4, 4, 0.5), (41, 6, 1, 0.7))

    def _windows(self, split, num_tokens, *settings):
        """What the answer makes of a text in which no token stands twice."""
        return split(torch.arange(num_tokens), *settings)

    @must(
        "Each part must have windows of `max_length` + 1 tokens that follow one another.", on=CASES
    )
    def windows_are_pieces_of_the_text(self, split, num_tokens, max_length, stride, train_ratio):
        parts = self._windows(split, num_tokens, max_length, stride, train_ratio)
        return all(
            part.dim() == 2
            and torch.equal(part, part[:, :1] + torch.arange(max_length + 1))
            and len(part) > 0
            for part in parts
        )

    @must("No token of the text may stand in windows of both parts.", on=CASES)
    def parts_have_no_token_in_common(self, split, num_tokens, max_length, stride, train_ratio):
        train, val = self._windows(split, num_tokens, max_length, stride, train_ratio)
        return set(train.flatten().tolist()).isdisjoint(val.flatten().tolist())

    @must(
        "The training windows must be those of the first `train_ratio` of the tokens, the others "
        "those of the rest: each part cut from its beginning on, `stride` tokens apart, as often "
        "as a whole window fits.",
        on=CASES,
    )
    def parts_are_cut_like_the_text(self, split, num_tokens, max_length, stride, train_ratio):
        num_train = int(train_ratio * num_tokens)
        expected = [
            ids.unfold(0, max_length + 1, stride)
            for ids in torch.arange(num_tokens).split([num_train, num_tokens - num_train])
        ]
        parts = self._windows(split, num_tokens, max_length, stride, train_ratio)
        return all(torch.equal(*pair) for pair in zip(parts, expected, strict=True))


class BugBest(ASpecimen):
    number = "5.bug9"
    title = "a best that does not last"
    answer = Function("model, train_one_epoch, evaluate, num_epochs", returns=tuple[float, dict])
    hints = (
        "Is what was put away still the same when training is over? Compare "
        "`best_weights['weight']` with `model.weight`.",
        "`state_dict()` holds the parameters' own memory, into which the optimizer writes. Nothing "
        "has been put away but a name.",
        "`copy.deepcopy(model.state_dict())`, or a `clone()` of each tensor in it.",
    )
    CASES = ((3, 6), (1, 4), (4, 4))

    def _run(self, keep_best, best_epoch, num_epochs):
        """The answer's result for a model whose weight counts epochs, the calls, and its loss."""
        model, calls = nn.Linear(1, 1, bias=False), []
        nn.init.zeros_(model.weight)

        def train_one_epoch(model):
            calls.append("train")
            with torch.no_grad():
                model.weight += 1

        def evaluate(model):
            calls.append("evaluate")
            return (model.weight.item() - best_epoch) ** 2

        best_loss, weights = keep_best(model, train_one_epoch, evaluate, num_epochs)
        calls_of_the_answer = list(calls)
        train_one_epoch(model)  # what happens to the model later is no matter of the best weights
        model.load_state_dict(weights)
        return best_loss, evaluate(model), calls_of_the_answer

    @must("After each of `num_epochs` epochs, there must be one evaluation.", on=CASES)
    def every_epoch_is_evaluated(self, keep_best, best_epoch, num_epochs):
        *_, calls = self._run(keep_best, best_epoch, num_epochs)
        return calls == ["train", "evaluate"] * num_epochs

    @must(
        "The loss must be the lowest that was found. (In this check it is 0 after the best epoch.)",
        on=CASES,
    )
    def loss_is_the_lowest(self, keep_best, best_epoch, num_epochs):
        return self._run(keep_best, best_epoch, num_epochs)[0] == 0

    @must(
        "With the weights loaded, the model must have that loss, however long it was trained after "
        "them. (In this check it is 0 after the best epoch.)",
        on=CASES,
    )
    def weights_are_those_of_the_best_epoch(self, keep_best, best_epoch, num_epochs):
        return self._run(keep_best, best_epoch, num_epochs)[1] == 0


class BugChance(BugMode):
    """What must hold for the writer is what had to hold for 4.bug8."""

    number = "5.bug10"
    title = "chance at temperature 0"
    hints = (
        "At temperature 0 the choice leaves nothing to chance. It chooses by the logits: are they "
        "the same when the same tokens go through the model once more?",
        "In training mode they are not: dropout takes other numbers away in each pass. `generate` "
        "uses the model in the mode in which it is. Who has to call `model.eval()`?",
        "And afterwards? Keep `model.training` before, and call `model.train(was_training)` once "
        "the text is written.",
    )


class BugTurned(ASpecimen):
    number = "5.bug11"
    title = "weights that fit everywhere"
    answer = Function("tree, cfg", returns=nn.Module)
    hints = (
        "Give the same x, (1, 5, 16), to the parts of both blocks, `norm1`, `att` and `ff`: where "
        "do the outputs part? Then the same within that part.",
        "It is `att`. Its queries, keys and values are right, and so is what comes after them, but "
        "for one layer. What do shapes say of a matrix with as many rows as columns?",
        "GPT-2 keeps *every* matrix as (inputs, outputs): each of the three must be transposed, "
        "c_proj of the attention too.",
    )
    WIDTHS = (4, 8)

    def _numbers(self, arrays):
        """All numbers of the arrays, the smallest first."""
        return np.sort(np.concatenate([array.ravel() for array in arrays]))

    @must("Each number of the tree must be in the block, and no other.", on=WIDTHS)
    def no_number_is_lost(self, load, width):
        block, cfg, tree = block_and_tree(width)
        loaded = load(tree, cfg)
        found, expected = (
            self._numbers(parameter.detach().numpy() for parameter in module.parameters())
            for module in (loaded, block)
        )
        return np.array_equal(found, expected)

    @must(
        "The block must give the output of the block that the tree was made of, for any x.",
        on=WIDTHS,
    )
    def output_is_that_of_the_original(self, load, width):
        block, cfg, tree = block_and_tree(width)
        x = torch.randn(2, 5, width)  # (B, T, C)
        return same(load(tree, cfg).eval()(x), block(x))


class BugSchedule(ASpecimen):
    number = "5.bug12"
    title = "a training that stops half-way"
    answer = Function("model, batches, optimizer, scheduler", returns=list[float])
    hints = (
        "Let `update` print `optimizer.param_groups[0]['lr']`. Which rates of the schedule are "
        "missing?",
        "Every second one: between two updates the schedule goes on by two rates. How often is "
        "`scheduler.step` called for a batch?",
        "Once in `update`, once in the loop. Either place would be right alone; take one away.",
    )
    CASES = ([2, 2], [2, 1, 2, 2])

    def _train(self, train, texts_per_batch, model):
        """What an answer returns, the rates of its updates, and where the schedule is then."""
        rates = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        losses = train(model, toy_batches(*texts_per_batch), optimizer, scheduler)
        return losses, rates, scheduler.last_epoch

    @must("There must be an update for each batch.", on=CASES)
    def each_batch_has_its_update(self, train, texts_per_batch):
        _, rates, _ = self._train(train, texts_per_batch, one_block_gpt())
        return len(rates) == len(texts_per_batch)

    @must(
        "The updates must have the schedule's rates in their order, and leave none out. (In this "
        "check each rate is half the one before.)",
        on=CASES,
    )
    def rates_are_those_of_the_schedule(self, train, texts_per_batch):
        _, rates, _ = self._train(train, texts_per_batch, one_block_gpt())
        return close(rates, [0.5**i for i in range(1, len(texts_per_batch) + 1)])

    @must(
        "Afterwards the rate of the next update must be set, so that the training can go on.",
        on=CASES,
    )
    def schedule_stands_at_the_next_rate(self, train, texts_per_batch):
        _, _, num_steps = self._train(train, texts_per_batch, one_block_gpt())
        return num_steps == len(texts_per_batch)

    @must("The losses must be those of the batches, each before its update.", on=CASES)
    def losses_are_those_before_each_update(self, train, texts_per_batch):
        def right(model, batches, optimizer, scheduler):
            losses = []
            for batch in batches:
                losses += train_once(model, [batch], optimizer)
                scheduler.step()
            return losses

        model = one_block_gpt()
        expected, *_ = self._train(right, texts_per_batch, copy.deepcopy(model))
        return close(self._train(train, texts_per_batch, model)[0], expected, atol=1e-4)
