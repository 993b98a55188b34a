"""What the answers to chapter 3's exercises must do: read by `companion.exercises`.

3.1 to 3.3 are the book's exercises, the others this repository's; 3.bug1 to 3.bug7 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens, d_in and d_out widths of input and output, H heads, D width of a head.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from ch02_checks import WatchedTorch
from companion.exercises import Class, Exercise, Function, must
from multihead_attention import MultiHeadAttention, MultiHeadAttentionWrapper

INPUTS = torch.tensor(
    [
        [0.43, 0.15, 0.89],  # Your
        [0.55, 0.87, 0.66],  # journey
        [0.57, 0.85, 0.64],  # starts
        [0.22, 0.58, 0.33],  # with
        [0.77, 0.25, 0.10],  # one
        [0.05, 0.80, 0.55],  # step
    ]
)
PROJECTIONS = ("W_query", "W_key", "W_value")


def same(ours, theirs, atol=1e-5):
    """Whether two tensors are equal but for rounding; not if their shapes differ or one has nan."""
    return ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), atol=atol)


def hidden_triangle(num_tokens):
    """(T, T), True where the key comes after the query."""
    return torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(diagonal=1)


def last_token_changed(x):
    """A copy of (B, T, ...) in which the last token's vector is another."""
    return torch.cat([x[:, :-1], x[:, -1:] + 1.0], dim=1)


# The book's exercises


class SameWeights(Exercise):
    number = "3.1"
    title = "the same weights in both classes"
    answer = tuple[nn.Module, nn.Module]
    hints = (
        "Make a `SelfAttention_v1` first, and print `sa_v1.W_query.shape` beside "
        "`sa_v2.W_query.weight.shape`.",
        "A linear layer stores its matrix with a row for each number that goes *out*. Section "
        "3.4.2's first class multiplies from the right, `x @ W_query`, and needs a row for each "
        "number that comes in.",
        "`sa_v1.W_query = nn.Parameter(sa_v2.W_query.weight.T)`, and the same for the other two.",
    )

    @must(
        "The first of the pair must be the `SelfAttention_v1`, the second the `SelfAttention_v2`."
    )
    def pair_is_in_order(self, pair):
        first, second = ([getattr(part, name, None) for name in PROJECTIONS] for part in pair)
        raw = all(isinstance(matrix, nn.Parameter) for matrix in first)
        return raw and all(isinstance(layer, nn.Linear) for layer in second)

    @must(
        "`sa_v2` must keep the weights that seed 123 gave it: they are copied from it, not to it."
    )
    def source_is_as_seeded(self, pair):
        torch.default_generator.manual_seed(123)
        seeded = [nn.Linear(3, 2, bias=False).weight for _ in PROJECTIONS]
        given = [getattr(pair[1], name).weight for name in PROJECTIONS]
        return all(same(ours, theirs) for ours, theirs in zip(given, seeded, strict=True))

    @must(
        "In `sa_v1`, a matrix must have a row for each of the 3 numbers that come in and a column "
        "for each of the 2 that go out.",
        on=PROJECTIONS,
    )
    def matrices_have_their_shape(self, pair, name):
        return getattr(pair[0], name).shape == (3, 2)

    @must(
        "A matrix of `sa_v1` must compute what the layer of the same name in `sa_v2` computes.",
        on=PROJECTIONS,
    )
    def matrices_are_those_of_the_layers(self, pair, name):
        return same(INPUTS @ getattr(pair[0], name), getattr(pair[1], name)(INPUTS))

    @must("The weights are the same, but for the chapter's six tokens the outputs are not.")
    def outputs_are_the_same(self, pair):
        return same(pair[0](INPUTS), pair[1](INPUTS))


class TwoColumns(Exercise):
    number = "3.2"
    title = "two columns instead of four"
    answer = MultiHeadAttentionWrapper
    hints = (
        "Which of the wrapper's arguments say how wide its output is? Section 3.6.1 got 4 columns "
        "from two heads.",
        "The heads' outputs are joined side by side, so each of the two may bring one column only.",
        "In the wrapper, `d_out` is the width of a single head: "
        "`MultiHeadAttentionWrapper(d_in, ..., context_length, 0.0, num_heads=2)`.",
    )

    @must("The wrapper must have two heads.")
    def there_are_two_heads(self, wrapper):
        return len(wrapper.heads) == 2

    @must("It must take the chapter's batch: texts of 6 tokens, each of 3 numbers.")
    def the_chapters_batch_fits(self, wrapper):
        return all(head.W_query.in_features == 3 and len(head.mask) >= 6 for head in wrapper.heads)

    @must("Each token must come out as a row of 2 numbers, those of both heads together.")
    def rows_have_two_columns(self, wrapper):
        return wrapper(torch.stack([INPUTS, INPUTS])).shape == (2, 6, 2)


class SizeOfGPT2(Exercise):
    number = "3.3"
    title = "the size of GPT-2"
    answer = MultiHeadAttention
    hints = (
        "All five numbers of the task are arguments of `MultiHeadAttention`; compare them with its "
        "signature in section 3.6.2.",
        "`d_out` is the width of the whole output here, not of a head, and `qkv_bias` is left as "
        "it is. Dropout has no weights, so any share will do.",
        "`MultiHeadAttention(d_in=768, d_out=768, context_length=..., dropout=0.0, num_heads=...)`",
    )

    @must("Vectors of 768 numbers must go in, and vectors of 768 numbers come out.")
    def widths_are_768(self, attention):
        return attention.W_query.in_features == attention.d_out == 768

    @must("There must be 12 heads, which share the 768 numbers.")
    def there_are_twelve_heads(self, attention):
        return attention.num_heads == 12

    @must("A text of 1,024 tokens must fit, and no longer one.")
    def context_is_1024(self, attention):
        return attention.mask.shape == (1024, 1024)

    @must("There must be 2,360,064 weights: queries, keys and values have no bias.")
    def there_are_2360064_weights(self, attention):
        return sum(parameter.numel() for parameter in attention.parameters()) == 2_360_064


# This repository's exercises


class EntropyOfRows(Exercise):
    number = "3.4"
    title = "how evenly a row is spread"
    answer = Function("weights", returns=torch.Tensor)
    hints = (
        "Compute `-p * log(p)` for all weights at once, then add up along each row: which `dim` is "
        "that?",
        "`log(0)` is minus infinity, and 0 times minus infinity is `nan`. The mathematical limit "
        "of p * log(p) for p towards 0 is 0, and PyTorch has a function that knows it.",
        "`torch.special.entr(weights)` is `-p * log(p)`, and 0 where p is 0. What is left is a sum "
        "over the last dimension.",
    )

    @must(
        "There must be one number for each row: the weights' shape without its last dimension.",
        on=[torch.full((1, 3), 1 / 3), torch.full((2, 1, 3, 3), 1 / 3)],
    )
    def each_row_has_a_number(self, entropy, weights):
        return entropy(weights).shape == weights.shape[:-1]

    @must(
        "A row that gives everything to one token must have entropy 0.",
        on=[torch.eye(3), torch.tensor([[0.0, 1.0]])],
    )
    def a_decided_row_has_none(self, entropy, weights):
        return same(entropy(weights), torch.zeros(len(weights)))

    @must(
        "A row that gives n tokens the same must have entropy log(n), with the natural logarithm.",
        on=[torch.full((1, n), 1 / n) for n in (2, 4, 64)],
    )
    def an_even_row_has_the_logarithm(self, entropy, weights):
        return same(entropy(weights), torch.tensor([math.log(weights.shape[-1])]))

    @must(
        "The entropy must be the sum of -p * log(p) over the weights p of the row.",
        on=[
            torch.tensor([[0.5, 0.25, 0.25]]),
            torch.tensor([[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.125, 0.375, 0.5]]),
        ],
    )
    def entropy_is_the_sum_of_its_terms(self, entropy, weights):
        terms = [[-p * math.log(p) for p in row if p > 0] for row in weights.tolist()]
        return same(entropy(weights), torch.tensor([sum(row) for row in terms]))


class SoftmaxOfLargeScores(Exercise):
    number = "3.5"
    title = "a softmax that survives large scores"
    answer = Function("scores", returns=torch.Tensor)
    hints = (
        "Softmax depends only on the differences between the scores of a row. You may add the same "
        "number to all of them, or take it away, before `torch.exp`.",
        "No score may be far above 0 when `torch.exp` sees it, and at least one should be 0, so "
        "that the sum is not 0. Which number, taken away, brings that about in every row?",
        "`scores.amax(dim=-1, keepdim=True)` is the largest score of each row. Take it away, apply "
        "`torch.exp`, and divide by the sum of the row.",
    )
    ROUNDING = 1e-3  # beside a score of 1000, a float32 has no more than four decimals

    @must(
        "The result must have the shape of the scores, and each row must add up to 1.",
        on=[torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), torch.zeros(1, 2, 3, 3)],
    )
    def rows_add_up_to_one(self, softmax, scores):
        weights = softmax(scores)
        return weights.shape == scores.shape and same(
            weights.sum(-1), torch.ones(scores.shape[:-1])
        )

    @must(
        "The weights must be e to the power of each score, divided by the sum of the row.",
        on=[torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[-1.0, 1.0], [0.5, 0.5]])],
    )
    def small_scores_give_the_softmax(self, softmax, scores):
        powers = scores.exp()
        return same(softmax(scores), powers / powers.sum(dim=-1, keepdim=True))

    @must(
        "Scores far from 0 must give the weights that scores near 0 with equal differences give.",
        on=[torch.tensor([[1000.0, 999.0]]), torch.tensor([[-1000.0, -1001.0]])],
    )
    def large_scores_give_the_weights_of_small_ones(self, softmax, scores):
        return same(softmax(scores), torch.tensor([[0.7311, 0.2689]]), self.ROUNDING)

    @must(
        "What comes out of a row must not depend on the scores in the other rows.",
        on=[torch.tensor([[1000.0, 999.0], [1.0, 0.0]])],
    )
    def rows_do_not_depend_on_each_other(self, softmax, scores):
        return same(softmax(scores), torch.tensor([[0.7311, 0.2689]] * 2), self.ROUNDING)

    @must(
        "A score of minus infinity must get the weight 0, and the others share the rest.",
        on=[torch.tensor([[1.0, 0.0, -torch.inf]])],
    )
    def a_masked_score_gets_nothing(self, softmax, scores):
        return same(softmax(scores), torch.tensor([[0.7311, 0.2689, 0.0]]), self.ROUNDING)

    @must("The weights are right, but PyTorch's softmax made them. Make them with `torch.exp`.")
    def it_is_made_by_hand(self, softmax):
        with WatchedTorch() as torch_functions:
            softmax(torch.tensor([[0.5, -1.0, 2.0]]))
        return not any("softmax" in name for name in torch_functions.called)


class MaskOfAWindow(Exercise):
    number = "3.6"
    title = "a window that slides along"
    answer = Function("num_tokens, window", returns=torch.Tensor)
    hints = (
        "Two things are hidden: what comes after a token, as in section 3.5.1, and what lies too "
        "far before it.",
        "Number rows and columns with `torch.arange(num_tokens)`, once as a column and once as a "
        "row. The distance `row - column` says how far back a token looks.",
        "`distance = places[:, None] - places[None, :]`. A key is hidden where the distance is "
        "below 0, or (`|`) where it is too large. With a window of 1 the only distance allowed is "
        "0.",
    )
    SIZES = ((4, 2), (5, 3), (3, 1), (2, 5))

    @must(
        "The mask must hold True and False, with a row and a column for each token.", on=SIZES[:1]
    )
    def mask_is_square_and_boolean(self, hidden_by, num_tokens, window):
        hidden = hidden_by(num_tokens, window)
        return hidden.dtype == torch.bool and hidden.shape == (num_tokens, num_tokens)

    @must("What comes after a token must be hidden from it: True, right of the diagonal.", on=SIZES)
    def the_future_is_hidden(self, hidden_by, num_tokens, window):
        return bool(hidden_by(num_tokens, window)[hidden_triangle(num_tokens)].all())

    @must("Each token must see itself, whatever the window: False, on the diagonal.", on=SIZES)
    def a_token_sees_itself(self, hidden_by, num_tokens, window):
        return not hidden_by(num_tokens, window).diagonal().any()

    @must("No token may see more than `window` tokens, itself among them.", on=SIZES)
    def no_token_sees_too_far(self, hidden_by, num_tokens, window):
        return bool(((~hidden_by(num_tokens, window)).sum(dim=-1) <= window).all())

    @must(
        "Each token must see the `window - 1` tokens before it, or as many as there are.", on=SIZES
    )
    def no_token_sees_too_little(self, hidden_by, num_tokens, window):
        visible = ~hidden_by(num_tokens, window)
        places = range(num_tokens)
        return all(visible[i, max(0, i - window + 1) : i + 1].all() for i in places)


class WeightsBesidePadding(Exercise):
    number = "3.7"
    title = "texts of different lengths"
    answer = Function("scores, is_padding", returns=torch.Tensor)
    hints = (
        "A key is hidden if it lies in the future or if it is padding. Both masks, joined with "
        "`|`, go before the softmax. What shape must `is_padding` get so that it hides columns?",
        "`is_padding[:, None, :]` is (B, 1, T): the same columns in all rows of a text. A row in "
        "which everything is hidden comes out of the softmax as `nan`, and has to be replaced "
        "afterwards.",
        "Rows are chosen by `is_padding[:, :, None]`. Use `masked_fill` for the scores and, after "
        "the softmax, for these rows: it replaces what it hits, `nan` too, and passes no gradient "
        "on. Adding minus infinity, or multiplying by 0, keeps a `nan`.",
    )
    SCORES = torch.tensor([[0.5, 2.0, 1.0], [1.0, 0.0, -1.0], [0.0, 1.0, 0.5]])  # (T, T)
    NONE, LEFT, RIGHT = [False] * 3, [True, False, False], [False, False, True]
    TEXTS = (
        (SCORES[None], torch.tensor([NONE])),
        (SCORES[None], torch.tensor([RIGHT])),
        (SCORES[None], torch.tensor([LEFT])),
        (torch.stack([SCORES, SCORES, SCORES.T]), torch.tensor([RIGHT, NONE, LEFT])),
    )

    @must("There must be a weight for each score.", on=TEXTS)
    def each_score_has_a_weight(self, weigh, scores, is_padding):
        return weigh(scores, is_padding).shape == scores.shape

    @must("No token may look at a later one.", on=TEXTS)
    def the_future_gets_nothing(self, weigh, scores, is_padding):
        weights = weigh(scores, is_padding)[~is_padding]  # rows of tokens that are not padding
        later = hidden_triangle(scores.shape[-1]).expand_as(scores)[~is_padding]
        return not weights[later].any()

    @must("No token may look at padding.", on=TEXTS)
    def padding_gets_nothing(self, weigh, scores, is_padding):
        weights = weigh(scores, is_padding)[~is_padding]
        columns = is_padding[:, None, :].expand_as(scores)[~is_padding]
        return not weights[columns].any()

    @must("The row of each token that is not padding must add up to 1.", on=TEXTS)
    def rows_of_tokens_add_up_to_one(self, weigh, scores, is_padding):
        sums = weigh(scores, is_padding).sum(dim=-1)[~is_padding]
        return same(sums, torch.ones(len(sums)))

    @must("A text must get the weights that it would get alone, without padding.", on=TEXTS)
    def a_text_is_weighed_as_if_alone(self, weigh, scores, is_padding):
        for weights, own_scores, absent in zip(
            weigh(scores.clone(), is_padding), scores, is_padding, strict=True
        ):
            alone = own_scores[~absent][:, ~absent]
            alone = alone.masked_fill(hidden_triangle(len(alone)), -torch.inf)
            if not same(weights[~absent][:, ~absent], alone.softmax(dim=-1)):
                return False
        return True

    @must("The row of a padding token must be all zeros, and above all not `nan`.", on=TEXTS)
    def rows_of_padding_are_zero(self, weigh, scores, is_padding):
        return not weigh(scores, is_padding)[is_padding].any()

    @must(
        "The weights are right, but they cannot be trained: gradients of the scores are missing, "
        "or are `nan` because of the padding's rows.",
        on=TEXTS,
    )
    def gradients_are_numbers(self, weigh, scores, is_padding):
        weights = weigh(scores.requires_grad_().clone(), is_padding)
        if weights.requires_grad:
            (weights * torch.arange(3.0)).sum().backward()
        return scores.grad is not None and bool(scores.grad.isfinite().all())


class OneMatrixForThree(Exercise):
    number = "3.8"
    title = "queries, keys and values from one matrix"
    answer = Class(nn.Module, "d_in, d_out, context_length, dropout, num_heads")
    hints = (
        "Start from `MultiHeadAttention`. Only the lines change that make the queries, keys and "
        "values: `self.qkv(x)` makes all three, as one tensor (B, T, 3 * d_out).",
        "Of its columns the first d_out are the queries, the next the keys, the last the values; "
        "`chunk(3, dim=-1)` cuts them apart. Each is then shared out among the heads as before.",
        "`queries, keys, values = self.qkv(x).chunk(3, dim=-1)`, and from there on the forward "
        "pass of `MultiHeadAttention`: `view`, `transpose`, scores, mask, softmax, dropout.",
    )
    D_IN, D_OUT, CONTEXT = 6, 8, 5

    def _build(self, attention_class, num_heads, dropout=0.0):
        return attention_class(self.D_IN, self.D_OUT, self.CONTEXT, dropout, num_heads)

    def _twins(self, attention_class, num_heads, dropout=0.0):
        """The answer and a `MultiHeadAttention` with the same weights."""
        fused = self._build(attention_class, num_heads, dropout)
        chapters = self._build(MultiHeadAttention, num_heads, dropout)
        with torch.no_grad():
            stacked = torch.cat([getattr(chapters, name).weight for name in PROJECTIONS])
            fused.qkv.weight.copy_(stacked)
            fused.out_proj.load_state_dict(chapters.out_proj.state_dict())
        return fused, chapters

    @must(
        "Its only weights must be those of two linear layers: `qkv` from d_in to 3 * d_out without "
        "a bias, and `out_proj` from d_out to d_out with one."
    )
    def layers_are_qkv_and_out_proj(self, attention_class):
        parameters = self._build(attention_class, 2).named_parameters()
        return {name: tuple(parameter.shape) for name, parameter in parameters} == {
            "qkv.weight": (3 * self.D_OUT, self.D_IN),
            "out_proj.weight": (self.D_OUT, self.D_OUT),
            "out_proj.bias": (self.D_OUT,),
        }

    @must(
        "The output must have the shape (batch, tokens, d_out).",
        on=[(2, 5), (1, 3), (3, 1)],
    )
    def output_is_batch_tokens_width(self, attention_class, batch_size, num_tokens):
        x = torch.randn(batch_size, num_tokens, self.D_IN)
        output = self._build(attention_class, 2)(x)
        return output.shape == (batch_size, num_tokens, self.D_OUT)

    @must("A change of the last token must not change any output but its own.", on=[1, 2, 4])
    def the_future_stays_hidden(self, attention_class, num_heads):
        attention = self._build(attention_class, num_heads)
        x = torch.randn(2, self.CONTEXT, self.D_IN)
        return same(attention(x)[:, :-1], attention(last_token_changed(x))[:, :-1])

    @must(
        "With the same weights, the output must be that of `MultiHeadAttention`. From top to "
        "bottom, the rows of `qkv.weight` are those of `W_query`, `W_key` and `W_value`.",
        on=[1, 2, 4],
    )
    def output_is_that_of_the_chapters_class(self, attention_class, num_heads):
        fused, chapters = self._twins(attention_class, num_heads)
        x = torch.randn(2, self.CONTEXT, self.D_IN)
        return same(fused(x), chapters(x))

    @must(
        "Dropout must change the output in training, and after `eval()` leave it alone.", on=[0.5]
    )
    def dropout_acts_in_training_only(self, attention_class, dropout):
        fused, chapters = self._twins(attention_class, 2, dropout)
        x = torch.randn(2, self.CONTEXT, self.D_IN)
        return not same(fused(x), fused(x)) and same(fused.eval()(x), chapters.eval()(x))


class WhatEachHeadAdds(Exercise):
    number = "3.9"
    title = "what each head adds"
    answer = Function("attention, x", returns=torch.Tensor)
    hints = (
        "Follow the forward pass of `MultiHeadAttention` up to `context`, (B, H, T, D). There the "
        "heads are still apart. What does `out_proj` do to the D numbers of one head?",
        "Joined, the numbers of head h stand in the columns from h * D to (h + 1) * D. `out_proj` "
        "multiplies each of them by one column of its `weight`, and adds up. Split that sum.",
        "The share of head h is `context[:, h] @ attention.out_proj.weight[:, h * D : "
        "(h + 1) * D].T`. Stack the shares along dimension 1. The bias belongs to no head.",
    )

    def _attention(self, num_heads):
        return MultiHeadAttention(3, 4, context_length=5, dropout=0.0, num_heads=num_heads)

    @must(
        "The shape must be (batch, heads, tokens, d_out): a head adds a whole row to each token.",
        on=[(1, 2, 3), (3, 4, 5)],
    )
    def each_head_has_a_row_for_each_token(self, shares_of, batch_size, num_heads, num_tokens):
        x = torch.randn(batch_size, num_tokens, 3)
        shares = shares_of(self._attention(num_heads), x)
        return shares.shape == (batch_size, num_heads, num_tokens, 4)

    @must(
        "Added up over the heads, and with the bias of `out_proj` added once, the shares must be "
        "the output of `attention`.",
        on=[(1, 1, 1), (1, 2, 2), (3, 4, 5)],
    )
    def shares_add_up_to_the_output(self, shares_of, batch_size, num_heads, num_tokens):
        attention, x = self._attention(num_heads), torch.randn(batch_size, num_tokens, 3)
        return same(shares_of(attention, x).sum(dim=1) + attention.out_proj.bias, attention(x))

    @must(
        "A head whose values are all 0 must add nothing, and the others what they did before.",
        on=[(2, 0), (4, 2)],
    )
    def a_share_is_that_of_its_head(self, shares_of, num_heads, silent_head):
        attention, x = self._attention(num_heads), torch.randn(1, 1, 3)
        expected = shares_of(attention, x).detach().clone()
        expected[:, silent_head] = 0.0
        rows = slice(silent_head * attention.head_dim, (silent_head + 1) * attention.head_dim)
        with torch.no_grad():
            attention.W_value.weight[rows] = 0.0
        return same(shares_of(attention, x), expected)


# The bug zoo

IN_THE_SOLUTIONS = 'exercise-solutions.ipynb, beside this notebook, under "The bug zoo"'


class AnAttentionHead(Exercise):
    """What holds for every causal head. Specimens 1 to 3 break one rule each."""

    answer = Function("queries, keys, values", returns=torch.Tensor)
    solution = IN_THE_SOLUTIONS
    QUERIES = torch.tensor([[[1.0], [2.0], [-1.0]]])  # (B, T, d_out)
    KEYS = torch.tensor([[[0.5], [1.0], [-1.0]]])
    VALUES = torch.tensor([[[1.0], [2.0], [4.0]]])
    TWO_TEXTS = tuple(
        torch.tensor(part)
        for part in (
            [[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, 0.5]]],
            [[[0.0, 1.0], [2.0, 0.0]], [[1.0, 0.0], [0.5, 2.0]]],
            [[[1.0, 3.0], [2.0, 5.0]], [[0.0, 1.0], [4.0, -1.0]]],
        )
    )
    TEXTS = ((QUERIES, KEYS, VALUES), TWO_TEXTS)

    @must("The output must have the shape of the values.", on=TEXTS)
    def output_has_the_shape_of_the_values(self, attend, queries, keys, values):
        return attend(queries, keys, values).shape == values.shape

    @must(
        "If all tokens have the same value, each output must be that value: the weights of a token "
        "add up to 1.",
        on=[(QUERIES, KEYS, torch.ones(1, 3, 1))],
    )
    def equal_values_come_out_as_they_are(self, attend, queries, keys, values):
        return same(attend(queries, keys, values), values)

    @must("A change of the last token must not change any output but its own.", on=TEXTS)
    def the_future_stays_hidden(self, attend, queries, keys, values):
        parts = (queries, keys, values)
        changed = [last_token_changed(part) for part in parts]
        return same(attend(*parts)[:, :-1], attend(*changed)[:, :-1])

    @must(
        "Each token must look at itself and at every token before it. (With these values, the "
        "output is the weights.)",
        on=[(QUERIES, KEYS, torch.eye(3)[None])],
    )
    def the_past_and_the_token_itself_are_seen(self, attend, queries, keys, values):
        weights = attend(queries, keys, values)[0]  # (T, T)
        return bool((weights > 0)[~hidden_triangle(len(weights))].all())

    @must(
        "The weights must be the softmax of the scores, and a score the dot product of a query and "
        "a key, divided by the square root of their width.",
        on=TEXTS,
    )
    def weights_are_those_of_scaled_dot_products(self, attend, queries, keys, values):
        expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return same(attend(queries, keys, values), expected)


class BugPeek(AnAttentionHead):
    number = "3.bug1"
    title = "a token that knows the next one"
    hints = (
        "Which outputs moved, and which of them had a right to? Print `allowed` for four tokens.",
        "Row 1 belongs to the first token, which may see nothing but itself. How many ones has it? "
        "Section 3.5.1 uses `tril` in one place and `triu(diagonal=1)` in another.",
        "`triu(diagonal=1)` keeps what lies above the diagonal, so the diagonal is left out. With "
        "`tril`, which keeps what lies below, `diagonal=1` takes one more diagonal *in*.",
    )


class BugColumns(AnAttentionHead):
    number = "3.bug2"
    title = "weights that add up the wrong way"
    hints = (
        "A mixture of ones is one, as long as its weights add up to 1. Print `weights.sum(dim=-1)` "
        "and `weights.sum(dim=-2)`.",
        "The softmax ran down the columns: the tokens compete for being looked at by the same "
        "token's key. How many dimensions have the scores, and which of them is the last?",
        "In section 3.3.2 the scores had two dimensions, and `dim=1` was the last one. In front of "
        "it stands the batch now. `dim=-1` is the last one in both cases.",
    )


class BugZero(AnAttentionHead):
    number = "3.bug3"
    title = "a mask that does not hide"
    hints = (
        "The first token can only look at itself, so its row should be a 1 and then zeros. What "
        "weight does the softmax give to a score of 0?",
        "*e* to the power of 0 is 1, and so a score of 0 is a score like any other. Which score "
        "becomes the weight 0?",
        "Section 3.5.1 fills the hidden scores with `-torch.inf`.",
    )


class SeveralHeads(Exercise):
    """What holds for causal attention with several heads. Specimens 4 and 5 break one rule each."""

    answer = Function("queries, keys, values, num_heads", returns=torch.Tensor)
    solution = IN_THE_SOLUTIONS
    QUERIES = torch.tensor([[[1.0, 0.0, 2.0, -1.0], [0.0, 2.0, 1.0, 1.0]]])  # (B, T, d_out)
    KEYS = torch.tensor([[[0.0, 1.0, 1.0, 0.0], [2.0, -1.0, -1.0, 0.0]]])
    VALUES = torch.tensor([[[1.0, 3.0, 0.0, 1.0], [2.0, 5.0, 4.0, -1.0]]])
    SETTINGS = ((QUERIES, KEYS, VALUES, 1), (QUERIES, KEYS, VALUES, 2))

    @must("The output must have the shape of the values.", on=SETTINGS)
    def joined_heads_have_the_shape_of_the_values(self, attend, queries, keys, values, num_heads):
        return attend(queries, keys, values, num_heads).shape == values.shape

    @must(
        "If all tokens have the same value, each output must be that value: what a head finds for "
        "a token belongs to that token, and into the head's own columns.",
        on=[(QUERIES, KEYS, torch.tensor([[[1.0, 2.0, 3.0, 4.0]] * 2]), 2)],
    )
    def each_head_keeps_its_columns(self, attend, queries, keys, values, num_heads):
        return same(attend(queries, keys, values, num_heads), values)

    @must("A change of the last token must not change any output but its own.", on=SETTINGS)
    def the_future_stays_hidden_from_all_heads(self, attend, queries, keys, values, num_heads):
        parts = (queries, keys, values)
        changed = [last_token_changed(part) for part in parts]
        return same(attend(*parts, num_heads)[:, :-1], attend(*changed, num_heads)[:, :-1])

    @must(
        "In each head, the weights must be the softmax of the scores, and a score the dot product "
        "of a query and a key, divided by the square root of their width.",
        on=SETTINGS,
    )
    def weights_are_scaled_head_by_head(self, attend, queries, keys, values, num_heads):
        heads = [
            part.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, H, T, D)
            for part in (queries, keys, values)
        ]
        expected = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)
        return same(attend(queries, keys, values, num_heads), expected.flatten(2))


class BugScale(SeveralHeads):
    number = "3.bug4"
    title = "heads that grow dull"
    hints = (
        "With one head all is well, and with every further one the error grows. Which number in "
        "the code differs from what it should be only if there are several heads?",
        "A dot product of wide vectors is large because it has many summands; that is what the "
        "division makes up for. How many summands has a score in here?",
        "A head's queries and keys are `d_out // num_heads` wide, and that is also "
        "`keys.shape[-1]`, once they are split.",
    )


class BugMerge(SeveralHeads):
    number = "3.bug5"
    title = "heads in the wrong rows"
    hints = (
        "Each row of the output should be 1, 1, 2, 2. Whose numbers stand in the first row? Print "
        "`context.shape`, and write down in which order its numbers are read.",
        "`context` is (B, H, T, D). `reshape` reads all tokens of the first head before it comes "
        "to the second, and fills the rows of the output in that order.",
        "The heads of one token must lie side by side before they are joined: (B, T, H, D). Undo "
        "with `transpose` what `transpose` did before the scores.",
    )


class BugCrop(Exercise):
    number = "3.bug6"
    title = "short texts not welcome"
    answer = Class(nn.Module, "d_in, d_out, context_length")
    solution = IN_THE_SOLUTIONS
    hints = (
        "The message names two sizes, 6 and 4. Which tensor has the one, which the other?",
        "The mask is made once, for the longest text. A shorter text has fewer rows and columns of "
        "scores, and needs the mask's upper left corner.",
        "`self.mask[:num_tokens, :num_tokens]`, where `num_tokens` is `x.shape[1]`.",
    )

    def _texts(self, num_tokens):
        return torch.randn(2, num_tokens, 3)

    @must("The output must have a vector of d_out numbers for each token.", on=[6])
    def full_texts_go_through(self, attention_class, num_tokens):
        return attention_class(3, 2, 6)(self._texts(num_tokens)).shape == (2, num_tokens, 2)

    @must(
        "A text shorter than `context_length` must go through without an error, and get a vector "
        "for each of its tokens, no more.",
        on=[5, 1],
    )
    def shorter_texts_go_through(self, attention_class, num_tokens):
        try:
            output = attention_class(3, 2, 6)(self._texts(num_tokens))
        except RuntimeError:  # what PyTorch raises for sizes that do not fit
            return False
        return output.shape == (2, num_tokens, 2)

    @must(
        "The output for the first tokens of a text must not depend on whether others follow.",
        on=[5, 2, 1],
    )
    def a_beginning_is_treated_alike(self, attention_class, num_tokens):
        attention, texts = attention_class(3, 2, 6), self._texts(6)
        return same(attention(texts[:, :num_tokens]), attention(texts)[:, :num_tokens])


class BugDropout(Exercise):
    number = "3.bug7"
    title = "dropout that drops nothing"
    answer = Function("queries, keys, values, dropout", returns=torch.Tensor)
    solution = IN_THE_SOLUTIONS
    hints = (
        "Dropout sets numbers to 0. Which numbers, here, and what becomes of a 0 in the lines "
        "after it?",
        "A score of 0 is a score like any other: the softmax gives it a weight above 0 and fills "
        "the row up to 1 again. It is the weights that some of should be 0.",
        "Dropout comes last before the product with the values: `dropout(weights) @ values`.",
    )

    @must(
        "With dropout switched off by `eval()`, this must be plain causal attention.",
        on=AnAttentionHead.TEXTS,
    )
    def it_is_plain_attention_in_use(self, attend, queries, keys, values):
        expected = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return same(attend(queries, keys, values, nn.Dropout(0.5).eval()), expected)

    @must(
        "With a dropout of 0.5, about half of the weights that a token may use must be 0. (Seen on "
        "64 equal texts. Queries of 0 make even weights; these values make them the output.)",
        on=[(torch.zeros(1, 3, 1), torch.ones(1, 3, 1), torch.eye(3)[None])],
    )
    def half_of_the_weights_are_dropped(self, attend, queries, keys, values):
        weights = self._of_64_texts(attend, queries, keys, values)
        return 0.35 < (weights[:, ~hidden_triangle(3)] == 0).float().mean() < 0.65

    @must(
        "What is dropped must be a token's weight: all numbers of its value go together.",
        on=[(3, 4)],
    )
    def a_value_is_dropped_as_a_whole(self, attend, num_tokens, width):
        queries, keys = torch.randn(2, 8, num_tokens, width)
        output = attend(queries, keys, torch.ones(8, num_tokens, width), nn.Dropout(0.5))
        return same(output, output[..., :1].expand_as(output))

    @must(
        "With a dropout of 0.5, the weights that are left must be doubled, and nothing else. (Seen "
        "on 64 equal texts.)",
        on=[(torch.zeros(1, 3, 1), torch.ones(1, 3, 1), torch.eye(3)[None])],
    )
    def weights_that_are_left_are_doubled(self, attend, queries, keys, values):
        weights = self._of_64_texts(attend, queries, keys, values)
        doubled = torch.tensor([[2.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2 / 3, 2 / 3, 2 / 3]])
        return same(weights, doubled.where(weights != 0, 0.0))

    def _of_64_texts(self, attend, *parts):
        return attend(*(part.repeat(64, 1, 1) for part in parts), nn.Dropout(0.5))
