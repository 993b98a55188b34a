"""What the answers to chapter 4's exercises must do: read by `companion.exercises`.

4.1 to 4.3 are the book's exercises, the others this repository's; 4.bug1 to 4.bug8 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector, L blocks.
"""

import math
from contextlib import contextmanager

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from ch02_checks import WatchedTorch
from ch03_checks import hidden_triangle, same
from companion.exercises import Class, Exercise, Function, must
from gpt import GPT_CONFIG_124M, GPTModel, LayerNorm, TransformerBlock, generate_text_simple
from multihead_attention import MultiHeadAttention

EVEN = [[1, 2, 3], [7, 0, 5]]  # prompts of equal length, and of different ones
UNEVEN = [[4], [1, 2, 3, 9, 8], [10, 6]]

# Written out once more, since an answer may have changed the dictionary of the chapter.
SMALL = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
TOY = {
    "vocab_size": 11,
    "context_length": 8,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def count_on_meta(cfg):
    """Number of parameters of a `GPTModel`, built without memory for its weights."""
    with torch.device("meta"):
        model = GPTModel(cfg)
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def chapters_config():
    """For a while, `GPT_CONFIG_124M` is what the chapter says; then it is what it was before."""
    before = dict(GPT_CONFIG_124M)
    GPT_CONFIG_124M.clear()
    GPT_CONFIG_124M.update(SMALL)
    try:
        yield
    finally:
        GPT_CONFIG_124M.clear()
        GPT_CONFIG_124M.update(before)


def toy_gpt(**changes):
    """A small model that heeds its whole input: random weights of the usual size hardly do."""
    model = GPTModel({**TOY, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() == 2 else 1.0)
    return model.eval()


class CountingModel(nn.Module):
    """Scores highest, after each token, the next larger number; after V - 1 comes 0.

    In training mode it is the next but one. `seen` lists the ids that it was given, call by call.
    """

    def __init__(self, vocab_size=10):
        super().__init__()
        self.vocab_size = vocab_size
        self.seen = []
        self.eval()

    def forward(self, in_idx):
        """(B, T) ids -> (B, T, V) logits."""
        self.seen.append(in_idx.tolist())
        step = 2 if self.training else 1
        return F.one_hot((in_idx + step) % self.vocab_size, self.vocab_size).float()


class WatchedDropout(TorchFunctionMode):
    """Remembers, while it is active, the share of each dropout and what it was applied to."""

    def __init__(self):
        super().__init__()
        self.calls = []  # (number of dimensions, share)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.dropout and kwargs.get("training", True):
            self.calls.append((args[0].dim(), kwargs.get("p", 0.5)))
        return function(*args, **kwargs)


# The book's exercises


class PartsOfABlock(Exercise):
    number = "4.1"
    title = "feed-forward network against attention"
    answer = tuple[int, int]
    hints = (
        "`block.ff` and `block.att` are modules of their own. Section 4.6 counts the parameters of "
        "a whole model; the same line counts those of a part.",
        "`sum(p.numel() for p in block.ff.parameters())`, and the same for `block.att`.",
    )

    @must("The first number must count all weights and biases of the feed-forward network.")
    def feed_forward_is_counted(self, pair):
        return pair[0] == 8 * 768**2 + 5 * 768

    @must(
        "The second number must count all weights and biases of the attention, whose queries, keys "
        "and values have no bias here. The mask is not learned and does not count."
    )
    def attention_is_counted(self, pair):
        return pair[1] == 4 * 768**2 + 768


class LargerSizes(Exercise):
    number = "4.2"
    title = "the larger GPT-2 models"
    answer = Function("size", returns=tuple[dict, int, int])
    hints = (
        "Only three of the seven settings differ from `GPT_CONFIG_124M`. "
        "`{**GPT_CONFIG_124M, ...}` is a new dictionary with some values replaced; the original "
        "stays as it is.",
        "Count as in section 4.6: all of `model.parameters()`, then without those of "
        "`model.out_head`.",
        "XL needs 6.5 GB. What is built below `with torch.device('meta'):` has shapes but no "
        "numbers, and costs nothing; to count, shapes are enough.",
    )
    SIZES = (
        ("small", 768, 12, 12),
        ("medium", 1024, 24, 16),
        ("large", 1280, 36, 20),
        ("xl", 1600, 48, 25),
    )
    NAMES = ("small", "medium", "large", "xl")
    TOTAL = (
        ("small", 163_009_536),
        ("medium", 406_212_608),
        ("large", 838_220_800),
        ("xl", 1_637_792_000),
    )

    def _ask(self, describe, size):
        """What the answer returns, and whether it left `GPT_CONFIG_124M` as it was."""
        # On meta, so that an answer which forgets it needs no 6.5 GB either.
        with chapters_config(), torch.device("meta"):
            cfg, total, tied = describe(size)
            return dict(cfg), total, tied, GPT_CONFIG_124M == SMALL

    @must("`GPT_CONFIG_124M` itself must not change.", on=["medium"])
    def the_chapters_dictionary_stays(self, describe, size):
        return self._ask(describe, size)[3]

    @must(
        "The configuration must have the keys of `GPT_CONFIG_124M`, and no others.",
        on=["small", "xl"],
    )
    def keys_are_those_of_the_chapter(self, describe, size):
        return self._ask(describe, size)[0].keys() == SMALL.keys()

    @must("Width, blocks and heads must be those of the table.", on=SIZES)
    def sizes_are_those_of_the_table(self, describe, size, width, blocks, heads):
        cfg = self._ask(describe, size)[0]
        return (cfg["emb_dim"], cfg["n_layers"], cfg["n_heads"]) == (width, blocks, heads)

    @must("All settings that are not in the table must stay what they are.", on=["medium", "xl"])
    def other_settings_stay(self, describe, size):
        cfg = self._ask(describe, size)[0]
        names = ("vocab_size", "context_length", "drop_rate", "qkv_bias")
        return all(cfg[name] == SMALL[name] for name in names)

    @must("The first count must be that of all parameters of the model.", on=NAMES)
    def all_parameters_are_counted(self, describe, size):
        return self._ask(describe, size)[1] == dict(self.TOTAL)[size]

    @must("The second count must be all parameters but those of the output layer.", on=NAMES)
    def tied_parameters_are_counted(self, describe, size):
        cfg, _, tied, _ = self._ask(describe, size)
        return tied == dict(self.TOTAL)[size] - cfg["emb_dim"] * cfg["vocab_size"]


class ThreeKindsOfDropout(Exercise):
    number = "4.3"
    title = "three dropout settings"
    answer = Class(nn.Module, "cfg")
    hints = (
        "Dropout stands in three places: in `GPTModel` behind the embeddings, in "
        "`TransformerBlock` before each addition, in `MultiHeadAttention` behind the softmax.",
        "Extend `GPTModel`. Its `__init__` wants one `drop_rate`: give it "
        "`{**cfg, 'drop_rate': ...}`, and afterwards replace the dropout layers that should have "
        "another share.",
        "`self.drop_emb`, and for each block of `self.trf_blocks` its `att.dropout` and its "
        "`drop_shortcut`, are such layers: assign a new `nn.Dropout(...)`.",
    )
    RATES = ((0.1, 0.2, 0.3), (0.3, 0.1, 0.2), (0.0, 0.5, 0.25))

    def _build(self, model_class, emb, attn, shortcut):
        cfg = {name: value for name, value in TOY.items() if name != "drop_rate"}
        rates = {"drop_rate_emb": emb, "drop_rate_attn": attn, "drop_rate_shortcut": shortcut}
        return model_class({**cfg, **rates})

    def _shares(self, model_class, *rates):
        """[(dimensions, share)] of each dropout in a forward pass, in their order."""
        model = self._build(model_class, *rates).train()
        with WatchedDropout() as dropout:
            model(torch.tensor([[1, 2, 3]]))
        return dropout.calls

    @must("The weights must have the names and shapes that they have in `GPTModel`.", on=RATES[:1])
    def weights_are_those_of_the_chapters_model(self, model_class, emb, attn, shortcut):
        def shapes(model):
            return {name: parameter.shape for name, parameter in model.named_parameters()}

        return shapes(self._build(model_class, emb, attn, shortcut)) == shapes(GPTModel(TOY))

    @must(
        "In evaluation mode, the logits must be those of a `GPTModel` with the same weights.",
        on=RATES[:1],
    )
    def logits_are_those_of_the_chapters_model(self, model_class, emb, attn, shortcut):
        model = self._build(model_class, emb, attn, shortcut).eval()
        chapters, ids = toy_gpt(), torch.tensor([[1, 2, 3], [9, 0, 4]])
        model.load_state_dict(chapters.state_dict(), strict=False)
        return same(model(ids), chapters(ids))

    @must("`drop_rate_emb` must be the share that is dropped from the embeddings.", on=RATES)
    def embeddings_have_their_share(self, model_class, emb, attn, shortcut):
        vectors = [p for dim, p in self._shares(model_class, emb, attn, shortcut) if dim == 3]
        return vectors[:1] == [emb] and len(vectors) % 2 == 1

    @must(
        "`drop_rate_attn` must be the share of attention weights that is dropped in each block.",
        on=RATES,
    )
    def attention_has_its_share(self, model_class, emb, attn, shortcut):
        weights = [p for dim, p in self._shares(model_class, emb, attn, shortcut) if dim == 4]
        return weights == [attn] * TOY["n_layers"]

    @must(
        "`drop_rate_shortcut` must be the share that is dropped, twice in each block, from what is "
        "added to the shortcut.",
        on=RATES,
    )
    def shortcuts_have_their_share(self, model_class, emb, attn, shortcut):
        vectors = [p for dim, p in self._shares(model_class, emb, attn, shortcut) if dim == 3]
        return vectors[1:] == [shortcut] * 2 * TOY["n_layers"]


# This repository's exercises


class NormUndone(Exercise):
    number = "4.4"
    title = "a normalization that changes nothing"
    answer = Function("x", returns=LayerNorm)
    hints = (
        "Write down what `LayerNorm` computes: take the mean away, divide by a root, multiply by "
        "`scale`, add `shift`. Which two numbers undo the first two steps?",
        "`scale` must be that root, `shift` that mean. The root is not quite that of the variance: "
        "look for `eps`.",
        "`torch.nn.init.constant_(norm.scale, value)` fills a parameter with a number, and so does "
        "`norm.scale.data.fill_(value)`.",
    )
    VECTORS = (
        torch.tensor([1.0, 2.0, 3.0, 6.0]),
        torch.tensor([-7.0, 5.0]),
        torch.tensor([0.004, -0.002, 0.001]),
    )

    @must("`scale` and `shift` must have one number for each number of the vector.", on=VECTORS)
    def parameters_have_their_shape(self, make, x):
        norm = make(x)
        return norm.scale.shape == norm.shift.shape == x.shape

    @must("Given x, the normalization must return x.", on=VECTORS)
    def the_vector_comes_back(self, make, x):
        return same(make(x)(x), x, atol=1e-6)

    @must(
        "Any other vector with the mean and variance of x must come back too: here x with its "
        "numbers in the opposite order.",
        on=VECTORS,
    )
    def a_vector_of_equal_mean_and_variance_comes_back(self, make, x):
        return same(make(x)(x.flip(0)), x.flip(0), atol=1e-6)

    @must(
        "It must still normalize: x and ten times x, both shifted by 1, must come out alike.",
        on=VECTORS[:2],
    )
    def other_vectors_are_normalized(self, make, x):
        norm = make(x)
        return same(norm(x + 1), norm(10 * x + 1), atol=1e-3)


class CountByFormula(Exercise):
    number = "4.5"
    title = "parameters by formula"
    answer = Function("cfg", returns=int)
    hints = (
        "Go through `GPTModel` from top to bottom: two embeddings, the blocks, a normalization, "
        "the output layer. In a block: an attention, a feed-forward network, two normalizations.",
        "A linear layer from n to m has n * m weights, and m biases if it has any. A normalization "
        "has 2 * emb_dim. `out_proj` always has a bias, the output layer never.",
        "With C for emb_dim, a block has 4 * C * C + C in the attention, 8 * C * C + 5 * C in the "
        "feed-forward network and 4 * C in its normalizations, plus 3 * C if qkv_bias is set.",
    )

    @must("For `GPT_CONFIG_124M` the count must be 163,009,536, as in section 4.6.", on=[SMALL])
    def gpt2_has_163_million(self, count, cfg):
        return count(cfg) == 163_009_536

    @must(
        "With `qkv_bias=True` a block must have three biases more: of queries, keys and values.",
        on=[TOY],
    )
    def biases_are_counted(self, count, cfg):
        added = count({**cfg, "qkv_bias": True}) - count(cfg)
        return added == 3 * cfg["emb_dim"] * cfg["n_layers"]

    @must("One more token in the vocabulary must add a row to two matrices.", on=[TOY])
    def vocabulary_is_counted_twice(self, count, cfg):
        more = {**cfg, "vocab_size": cfg["vocab_size"] + 1}
        return count(more) - count(cfg) == 2 * cfg["emb_dim"]

    @must("One more place in the context must add a row to one matrix.", on=[TOY])
    def context_is_counted_once(self, count, cfg):
        more = {**cfg, "context_length": cfg["context_length"] + 1}
        return count(more) - count(cfg) == cfg["emb_dim"]

    @must(
        "The count must be right for every configuration.",
        on=[
            TOY,
            {**TOY, "n_layers": 5},
            {**TOY, "emb_dim": 24, "n_heads": 3, "qkv_bias": True},
            {**TOY, "n_layers": 1, "n_heads": 8, "drop_rate": 0.5},
        ],
    )
    def every_configuration_is_counted(self, count, cfg):
        return count(cfg) == count_on_meta(cfg)

    @must("The count is right, but a model was built to get it. Compute it from `cfg` alone.")
    def nothing_is_built(self, count):
        with WatchedTorch() as torch_functions:
            count(dict(TOY))
        return not torch_functions.called


class LossOfAGuess(Exercise):
    number = "4.6"
    title = "what a guess costs"
    answer = Function("logits, targets", returns=torch.Tensor)
    hints = (
        "`log_softmax` along the last dimension turns scores into logarithms of probabilities, and "
        "stays right for large scores. Which of the V numbers at each position is wanted?",
        "`gather(-1, targets.unsqueeze(-1))` picks, at each position, the number whose place the "
        "target says. Its result is (B, T, 1).",
        "`-torch.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).mean()`",
    )
    LOGITS = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]], [[1.0, 1.0, 4.0], [0.5, 0.0, 0.0]]])
    TARGETS = torch.tensor([[0, 2], [2, 1]])

    @must(
        "The result must be a single number: a tensor without dimensions.", on=[(LOGITS, TARGETS)]
    )
    def loss_is_a_single_number(self, loss, logits, targets):
        return loss(logits, targets).shape == ()

    @must(
        "If all V scores are equal, the loss must be log(V), with the natural logarithm.",
        on=[(torch.zeros(1, 2, 4), torch.tensor([[0, 3]])), (torch.ones(2, 1, 7), TARGETS[:, :1])],
    )
    def an_even_guess_costs_the_logarithm(self, loss, logits, targets):
        return same(loss(logits, targets), torch.tensor(math.log(logits.shape[-1])))

    @must(
        "The loss must be the mean, over all positions, of minus the logarithm of the probability "
        "of the right token.",
        on=[(LOGITS, TARGETS), (LOGITS[:1], TARGETS[:1])],
    )
    def loss_is_that_of_the_right_tokens(self, loss, logits, targets):
        probabilities = logits.softmax(dim=-1)
        places = [(b, t) for b in range(len(targets)) for t in range(targets.shape[1])]
        costs = [-math.log(probabilities[b, t, targets[b, t]]) for b, t in places]
        return same(loss(logits, targets), torch.tensor(sum(costs) / len(costs)))

    @must(
        "Scores far from 0 must be survived: the probability of the right token is 1, or nearly 0.",
        on=[
            (torch.tensor([[[500.0, 0.0]]]), torch.tensor([[0]])),
            (torch.tensor([[[500.0, 0.0]]]), torch.tensor([[1]])),
        ],
    )
    def large_scores_are_survived(self, loss, logits, targets):
        return same(loss(logits, targets), 500.0 * targets.squeeze().float(), atol=1e-3)

    @must("The loss is right, but PyTorch's own loss made it. Make it yourself.")
    def it_is_no_ready_made_loss(self, loss):
        with WatchedTorch() as torch_functions:
            loss(self.LOGITS, self.TARGETS)
        return torch_functions.called.isdisjoint({"cross_entropy", "nll_loss"})


class NormOfLaterModels(Exercise):
    number = "4.7"
    title = "a normalization without a mean"
    answer = Function("x, scale", returns=torch.Tensor)
    hints = (
        "Square, then take the mean along the last dimension, then the root: that is the number to "
        "divide by. Keep the dimension, so that each vector is divided by its own.",
        "`eps` is added below the root, as in `LayerNorm`. `scale` comes last.",
        "`x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-5) * scale`",
    )
    X = torch.tensor([[[3.0, -4.0], [0.5, 1.5]], [[10.0, 20.0], [-1.0, -2.0]]])  # (B, T, C)
    ONES = torch.ones(2)

    @must("The result must have the shape of x.", on=[(X, ONES), (X[0, 0], ONES)])
    def shape_is_kept(self, norm, x, scale):
        return norm(x, scale).shape == x.shape

    @must(
        "With a scale of ones, the squares of each vector must have the mean 1.",
        on=[(X, ONES), (torch.tensor([[100.0, 1.0, 1.0]]), torch.ones(3))],
    )
    def mean_square_is_one(self, norm, x, scale):
        mean_square = norm(x, scale).square().mean(dim=-1)
        return same(mean_square, torch.ones(x.shape[:-1]), atol=1e-3)

    @must("The mean must not be taken away: equal numbers come out as ones.", on=[(5 * ONES, ONES)])
    def mean_is_left_in(self, norm, x, scale):
        return same(norm(x, scale), torch.ones(2))

    @must(
        "Numbers near 0 must be divided by a root that has 1e-5 added below it.",
        on=[(torch.zeros(1, 2), ONES), (torch.tensor([[0.003, -0.001]]), ONES)],
    )
    def eps_is_below_the_root(self, norm, x, scale):
        return same(norm(x, scale), F.rms_norm(x, (2,), eps=1e-5))

    @must(
        "`scale` must multiply each number of a vector by its own factor, after the division.",
        on=[(X, torch.tensor([2.0, -0.5]))],
    )
    def scale_has_the_last_word(self, norm, x, scale):
        return same(norm(x, scale), F.rms_norm(x, (2,), scale, eps=1e-5))

    @must("The result is right, but PyTorch's `rms_norm` made it. Make it yourself.")
    def it_is_made_by_hand(self, norm):
        with WatchedTorch() as torch_functions:
            norm(self.X, self.ONES)
        return "rms_norm" not in torch_functions.called


class TextOfOneToken(Exercise):
    number = "4.8"
    title = "attention with nobody to look at"
    answer = Function("attention", returns=tuple[torch.Tensor, torch.Tensor])
    hints = (
        "A token that sees only itself has one score, and the softmax of one score is 1, whatever "
        "the score is. What is left of queries and keys?",
        "The output is `out_proj(W_value(x))`: two linear layers with nothing in between, which "
        "are one. A linear layer computes `x @ weight.T + bias`.",
        "`matrix = attention.W_value.weight.T @ attention.out_proj.weight.T`. The bias is what "
        "comes out for x = 0: that of `out_proj`, and, if `W_value` has one, `out_proj` of that.",
    )
    SETTINGS = ((1, False), (2, False), (4, True))

    def _attention(self, num_heads, qkv_bias):
        return MultiHeadAttention(3, 4, 5, 0.0, num_heads=num_heads, qkv_bias=qkv_bias)

    @must("The matrix must have the shape (d_in, d_out), the bias (d_out,).", on=SETTINGS)
    def shapes_are_those_of_a_product(self, unite, num_heads, qkv_bias):
        matrix, bias = unite(self._attention(num_heads, qkv_bias))
        return (matrix.shape, bias.shape) == ((3, 4), (4,))

    @must(
        "Without biases in queries, keys and values, `x @ matrix + bias` must be what the "
        "attention returns for texts of one token.",
        on=SETTINGS[:2],
    )
    def product_is_the_attention(self, unite, num_heads, qkv_bias):
        attention, x = self._attention(num_heads, qkv_bias), torch.randn(6, 1, 3)
        matrix, bias = unite(attention)
        return same(x @ matrix + bias, attention(x))

    @must("With biases in queries, keys and values it must be so as well.", on=SETTINGS[2:])
    def bias_of_the_values_comes_through(self, unite, num_heads, qkv_bias):
        attention, x = self._attention(num_heads, qkv_bias), torch.randn(6, 1, 3)
        matrix, bias = unite(attention)
        return same(x @ matrix + bias, attention(x))


class StopToken(Exercise):
    number = "4.9"
    title = "writing until the end"
    answer = Function("model, idx, max_new_tokens, context_size, stop_id", returns=torch.Tensor)
    hints = (
        "Start from `generate_text_simple`. Keep, beside the ids, one bool for each text: is it "
        "done? In the beginning none is.",
        "After `argmax`, a text that is done gets `stop_id` instead: use `masked_fill` or "
        "`torch.where`. Then bring the bools up to date, and `break` if all are done.",
        "`next_id = next_id.masked_fill(is_done, stop_id)`, append, then "
        "`is_done = is_done | (next_id == stop_id)`. Both have the shape (B, 1).",
    )

    def _write(self, write, prompts, max_new_tokens, stop_id, context_size=4):
        return write(
            CountingModel(), torch.tensor(prompts), max_new_tokens, context_size, stop_id
        ).tolist()

    @must(
        "As long as no text is done, this must be `generate_text_simple`. (The model of this check "
        "counts: after 3 comes 4.)",
        on=[([[1, 2]], 3, 9), ([[1], [4]], 4, 0)],
    )
    def it_writes_as_before(self, write, prompts, max_new_tokens, stop_id):
        expected = generate_text_simple(CountingModel(), torch.tensor(prompts), max_new_tokens, 4)
        return self._write(write, prompts, max_new_tokens, stop_id) == expected.tolist()

    @must("A single text must end with its first `stop_id`.", on=[([[1, 2]], 6, 5), ([[1]], 6, 2)])
    def a_text_ends_with_its_stop_token(self, write, prompts, max_new_tokens, stop_id):
        return self._write(write, prompts, max_new_tokens, stop_id) == [list(range(1, stop_id + 1))]

    @must(
        "A `stop_id` in the prompt must end nothing: only written ones count.",
        on=[([[5, 1]], 2, 5)],
    )
    def the_prompt_ends_nothing(self, write, prompts, max_new_tokens, stop_id):
        return self._write(write, prompts, max_new_tokens, stop_id) == [[5, 1, 2, 3]]

    @must(
        "A text that is done must be filled up with `stop_id` while others go on.",
        on=[([[4], [1]], 3, 5), ([[1], [4], [3]], 3, 5)],
    )
    def a_finished_text_is_filled_up(self, write, prompts, max_new_tokens, stop_id):
        return self._write(write, prompts, max_new_tokens, stop_id) == [
            [min(start + i, stop_id) for i in range(max_new_tokens + 1)] for (start,) in prompts
        ]

    @must(
        "When the last text is done, the writing must end, before `max_new_tokens`.",
        on=[([[4], [2]], 8, 5)],
    )
    def all_done_is_the_end(self, write, prompts, max_new_tokens, stop_id):
        return self._write(write, prompts, max_new_tokens, stop_id) == [[4, 5, 5, 5], [2, 3, 4, 5]]

    @must("The model must never get more than the last `context_size` tokens.", on=[(5, 3)])
    def the_context_is_cropped(self, write, max_new_tokens, context_size):
        model = CountingModel()
        write(model, torch.tensor([[0, 1]]), max_new_tokens, context_size, 9)
        return max(len(row) for batch in model.seen for row in batch) <= context_size


class PromptsOfAnyLength(Exercise):
    number = "4.10"
    title = "prompts of different lengths"
    answer = Function("model, prompts, max_new_tokens, context_size", returns=list[list[int]])
    hints = (
        "A batch is a rectangle, so the shorter texts have to be filled up. On which side does "
        "filling disturb nothing, given that no token sees what comes after it?",
        "Fill up on the right: the tokens of the text keep their places, and none of them sees the "
        "filling. But the last column is no longer where each text ends. Which logits count?",
        "In each round: crop every text to its last `context_size` ids, fill up with zeros "
        "(`torch.nn.utils.rnn.pad_sequence`), call the model once, and take "
        "`logits[torch.arange(B), lengths - 1]`.",
    )

    def _alone(self, model, prompt, max_new_tokens, context_size):
        ids = torch.tensor([prompt])
        return generate_text_simple(model, ids, max_new_tokens, context_size)[0].tolist()

    def _is_as_if_alone(self, write, prompts, max_new_tokens, context_size):
        model = toy_gpt()
        expected = [self._alone(model, p, max_new_tokens, context_size) for p in prompts]
        return write(model, [list(p) for p in prompts], max_new_tokens, context_size) == expected

    @must(
        "Each text must begin with its prompt and be longer by `max_new_tokens`.",
        on=[(EVEN, 2), (UNEVEN, 3), (UNEVEN, 0)],
    )
    def prompts_are_continued(self, write, prompts, max_new_tokens):
        texts = write(toy_gpt(), [list(p) for p in prompts], max_new_tokens, 8)
        return [text[: len(p)] for text, p in zip(texts, prompts, strict=False)] == prompts and [
            len(text) - max_new_tokens for text in texts
        ] == [len(p) for p in prompts]

    @must(
        "Prompts of equal length must go on as with `generate_text_simple`.",
        on=[(EVEN, 4, 8), ([[5]], 3, 8)],
    )
    def even_prompts_go_on_as_before(self, write, prompts, max_new_tokens, context_size):
        return self._is_as_if_alone(write, prompts, max_new_tokens, context_size)

    @must(
        "Each text must go on as it would alone, however long the others are.",
        on=[(UNEVEN, 3, 8), ([[1, 2], [3, 4, 5], [6]], 4, 8)],
    )
    def a_text_goes_on_as_if_alone(self, write, prompts, max_new_tokens, context_size):
        return self._is_as_if_alone(write, prompts, max_new_tokens, context_size)

    @must(
        "That must hold as well when some texts are longer than `context_size`: each is cropped to "
        "its own last tokens.",
        on=[(UNEVEN, 5, 4), ([[1, 2, 3, 4, 5, 6, 7], [8]], 6, 3)],
    )
    def each_text_is_cropped_by_itself(self, write, prompts, max_new_tokens, context_size):
        return self._is_as_if_alone(write, prompts, max_new_tokens, context_size)

    @must("The prompts that were handed over must not change.", on=[UNEVEN])
    def prompts_stay_as_they_are(self, write, prompts):
        given = [list(p) for p in prompts]
        write(toy_gpt(), given, 2, 8)
        return given == prompts

    @must(
        "The texts are right, but the model was called more than once for each new token.", on=[4]
    )
    def the_model_is_called_once_a_round(self, write, max_new_tokens):
        model = CountingModel()
        write(model, [list(p) for p in UNEVEN], max_new_tokens, 8)
        return len(model.seen) <= max_new_tokens


# The bug zoo


class ASpecimen(Exercise):
    """Where the solutions of the zoo are."""

    solution = 'exercise-solutions.ipynb, beside this notebook, under "The bug zoo"'


class BugNorm(ASpecimen):
    number = "4.bug1"
    title = "a text that depends on its neighbors"
    answer = Class(nn.Module, "emb_dim")
    hints = (
        "The second text is not in the formula of the first one, or is it? Print the shape of "
        "`mean`.",
        "A mean for each token has the shape (B, T, 1). Which dimension has become 1 here?",
        "The mean runs over the numbers of one vector: the last dimension, `dim=-1`. So does the "
        "variance.",
    )
    TEXTS = (
        torch.tensor([[[1.0, 2.0, 6.0], [0.0, 1.0, -1.0]], [[5.0, 3.0, 1.0], [2.0, 2.0, 5.0]]]),
        torch.tensor([[[1.0, 0.0, -2.0, 4.0]], [[3.0, 3.0, 5.0, 1.0]], [[0.0, 8.0, 1.0, 1.0]]]),
        torch.tensor([[[2.0, 1.0], [-3.0, 4.0]]]),
    )

    @must("The output must have the shape of the input.", on=TEXTS)
    def output_has_the_shape_of_the_input(self, norm_class, x):
        norm = norm_class(x.shape[-1])
        return norm(x).shape == x.shape

    @must("A text must come out the same alone and beside other texts.", on=TEXTS)
    def texts_do_not_depend_on_each_other(self, norm_class, x):
        norm = norm_class(x.shape[-1])
        return same(norm(x)[:1], norm(x[:1])) and same(norm(x)[-1:], norm(x[-1:]))

    @must("A token must come out the same whatever tokens stand beside it.", on=TEXTS)
    def tokens_do_not_depend_on_each_other(self, norm_class, x):
        norm = norm_class(x.shape[-1])
        return same(norm(x)[:, :1], norm(x[:, :1]))

    @must("Each token's vector must have mean 0 and (biased) variance 1.", on=TEXTS)
    def vectors_are_normalized(self, norm_class, x):
        norm = norm_class(x.shape[-1])
        variance, mean = torch.var_mean(norm(x), dim=-1, unbiased=False)
        return same(mean, torch.zeros(x.shape[:2])) and same(
            variance, torch.ones(x.shape[:2]), atol=1e-3
        )

    @must("`scale` must multiply, and `shift` be added, number by number.", on=TEXTS)
    def scale_and_shift_act(self, norm_class, x):
        norm = norm_class(x.shape[-1])
        scale, shift = torch.randn(2, x.shape[-1])
        norm.load_state_dict({"scale": scale, "shift": shift})
        return same(norm(x), F.layer_norm(x, x.shape[-1:], scale, shift), atol=1e-4)


class BugPositions(ASpecimen):
    number = "4.bug2"
    title = "a model that cannot tell places apart"
    answer = Class(nn.Module, "vocab_size, context_length, emb_dim")
    hints = (
        "How many vectors of places are there? Print `positions` for a batch of one text.",
        "There should be one for each token of a text. What does `in_idx.shape[0]` count?",
        "`in_idx` is (B, T), so the number of tokens is `in_idx.shape[1]`.",
    )

    def _vectors(self, embeddings_class, batch_size, num_tokens):
        """The embeddings, ids for them, and what comes out; None for an error of sizes."""
        embeddings = embeddings_class(9, 6, 4)
        ids = torch.randint(9, (batch_size, num_tokens))
        try:
            return embeddings, ids, embeddings(ids)
        except RuntimeError:  # what PyTorch raises for sizes that do not fit
            return embeddings, ids, None

    @must("The same token must get another vector at each place of a text.", on=[(1, 6), (3, 3)])
    def places_differ(self, embeddings_class, batch_size, num_tokens):
        vectors = embeddings_class(9, num_tokens, 4)(torch.full((batch_size, num_tokens), 7))
        return len(vectors[0].unique(dim=0)) == num_tokens

    @must(
        "Any number of texts of any length up to `context_length` must go through, with a vector "
        "for each of their tokens.",
        on=[(1, 6), (2, 6), (5, 2), (1, 1)],
    )
    def every_batch_goes_through(self, embeddings_class, batch_size, num_tokens):
        _, _, vectors = self._vectors(embeddings_class, batch_size, num_tokens)
        return vectors is not None and vectors.shape == (batch_size, num_tokens, 4)

    @must(
        "A vector must be the token's row of `tok_emb` plus the place's row of `pos_emb`, where "
        "places are counted from 0 in each text.",
        on=[(1, 6), (3, 3), (5, 2)],
    )
    def vector_is_token_plus_place(self, embeddings_class, batch_size, num_tokens):
        embeddings, ids, vectors = self._vectors(embeddings_class, batch_size, num_tokens)
        places = embeddings.pos_emb.weight[:num_tokens]
        return same(vectors, embeddings.tok_emb.weight[ids] + places)


class BugShortcut(ASpecimen):
    number = "4.bug3"
    title = "attention for nothing"
    answer = Class(nn.Module, "cfg")
    hints = (
        "Follow the attention's result through `forward`. Which lines does it pass on its way out?",
        "It reaches the output only through the feed-forward network, because the last line adds "
        "the block's *input*. What should the second shortcut start from?",
        "Before `self.norm2` there has to be a line `shortcut = x` once more.",
    )

    def _block(self, block_class, *silent):
        """A block of the answer, one of the chapter with equal weights, and an input."""
        block, chapters = block_class(TOY).eval(), TransformerBlock(TOY).eval()
        with torch.no_grad():
            for name in silent:
                for parameter in chapters.get_submodule(name).parameters():
                    parameter.zero_()
        block.load_state_dict(chapters.state_dict())
        return block, chapters, torch.randn(2, 5, TOY["emb_dim"])

    @must("The output must have the shape of the input.")
    def block_keeps_the_shape(self, block_class):
        block, _, x = self._block(block_class)
        return block(x).shape == x.shape

    @must(
        "If the feed-forward network adds nothing, the block must return its input plus what the "
        "attention found."
    )
    def attention_is_added(self, block_class):
        block, chapters, x = self._block(block_class, "ff")
        return same(block(x), x + chapters.att(chapters.norm1(x)))

    @must(
        "If the attention adds nothing, the block must return its input plus what the feed-forward "
        "network made of it."
    )
    def feed_forward_is_added(self, block_class):
        block, chapters, x = self._block(block_class, "att")
        return same(block(x), x + chapters.ff(chapters.norm2(x)))

    @must("With the same weights, the output must be that of the chapter's `TransformerBlock`.")
    def block_is_that_of_the_chapter(self, block_class):
        block, chapters, x = self._block(block_class)
        return same(block(x), chapters(x))

    @must("In training, dropout must act twice, each time on what is added.", on=[0.25])
    def dropout_acts_twice(self, block_class, drop_rate):
        block = block_class({**TOY, "drop_rate": drop_rate}).train()
        with WatchedDropout() as dropout:
            block(torch.randn(1, 3, TOY["emb_dim"]))
        return [share for dim, share in dropout.calls if dim == 3] == [drop_rate] * 2


class BugMask(ASpecimen):
    number = "4.bug4"
    title = "a window that nobody can open again"
    answer = Function("num_tokens, windows", returns=torch.Tensor)
    hints = (
        "How many different tensors are in `masks`? `masks[0] is masks[2]` tells.",
        "`hidden |= ...` does not make a new tensor: it changes the one that `hidden` names, and "
        "all blocks have the same one.",
        "`hidden = hidden | ...` makes a new tensor, but gives it the old name, and the next block "
        "starts from it. Give it another name.",
    )
    CASES = ((4, (None, 2, None)), (5, (3, 1)), (3, (1, None)), (4, (None, None)))

    @must("There must be one mask of True and False for each block: (L, T, T).", on=CASES)
    def each_block_has_a_mask(self, make, num_tokens, windows):
        masks = make(num_tokens, windows)
        return masks.dtype == torch.bool and masks.shape == (len(windows), num_tokens, num_tokens)

    @must("No block may let a token see what comes after it.", on=CASES)
    def the_future_is_hidden_in_each_block(self, make, num_tokens, windows):
        return bool(make(num_tokens, windows)[:, hidden_triangle(num_tokens)].all())

    @must(
        "A block with a window must show each token the last `window` tokens, itself among them, "
        "and one without the whole past, whatever the other blocks do.",
        on=CASES,
    )
    def windows_hold_for_their_block(self, make, num_tokens, windows):
        visible = ~make(num_tokens, windows)  # (L, T, T)
        past = ~hidden_triangle(num_tokens)
        expected = [past.triu(1 - (window or num_tokens)) for window in windows]
        return torch.equal(visible, torch.stack(expected))


class BugStack(ASpecimen):
    number = "4.bug5"
    title = "twelve blocks that weigh as much as one"
    answer = Class(nn.Module, "cfg")
    hints = (
        "How often does `TransformerBlock(cfg)` run? Compare `stack.blocks[0] is stack.blocks[1]`.",
        "A list times n repeats what is *in* it, and does not make it anew: all places hold the "
        "same block.",
        "`[TransformerBlock(cfg) for _ in range(cfg['n_layers'])]` runs it n times.",
    )
    SIZES = (1, 2, 5)

    def _stack(self, stack_class, n_layers):
        return stack_class({**TOY, "n_layers": n_layers}).eval()

    @must("There must be as many parameters as `n_layers` blocks have.", on=SIZES)
    def each_block_has_its_parameters(self, stack_class, n_layers):
        in_one = sum(p.numel() for p in TransformerBlock(TOY).parameters())
        in_stack = sum(p.numel() for p in self._stack(stack_class, n_layers).parameters())
        return in_stack == n_layers * in_one

    @must("Each block must start with random numbers of its own.", on=SIZES[1:])
    def blocks_start_differently(self, stack_class, n_layers):
        weights = [block.att.W_query.weight for block in self._stack(stack_class, n_layers).blocks]
        return not any(same(weights[0], other) for other in weights[1:])

    @must("The input must pass through all blocks, one after the other.", on=SIZES)
    def blocks_follow_each_other(self, stack_class, n_layers):
        stack, x = self._stack(stack_class, n_layers), torch.randn(2, 3, TOY["emb_dim"])
        expected = x
        for block in stack.blocks:
            expected = block(expected)
        return same(stack(x), expected)


class BugSoftmax(ASpecimen):
    number = "4.bug6"
    title = "a loss that never gets small"
    answer = Function("logits, targets", returns=torch.Tensor)
    hints = (
        "What does `F.cross_entropy` expect, probabilities or scores? Its documentation calls them "
        "`input`, 'unnormalized logits'.",
        "It takes a softmax itself. Probabilities lie between 0 and 1, and for a second softmax "
        "those are scores that hardly differ.",
        "Give it the logits as they are.",
    )
    LOGITS = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]], [[1.0, 1.0, 4.0], [0.5, 0.0, 0.0]]])
    TARGETS = torch.tensor([[0, 2], [2, 1]])

    @must("The loss must be a single number: a tensor without dimensions.", on=[(LOGITS, TARGETS)])
    def the_loss_is_a_number(self, loss, logits, targets):
        return loss(logits, targets).shape == ()

    @must(
        "If all V scores are equal, the loss must be log(V).", on=[(torch.zeros(2, 2, 5), TARGETS)]
    )
    def equal_scores_give_the_logarithm(self, loss, logits, targets):
        return same(loss(logits, targets), torch.tensor(math.log(5)))

    @must(
        "If the right token has by far the highest score everywhere, the loss must be 0.",
        on=[(100.0 * F.one_hot(TARGETS, 3), TARGETS)],
    )
    def certainty_costs_nothing(self, loss, logits, targets):
        return same(loss(logits, targets), torch.tensor(0.0))

    @must(
        "The loss must be the mean of minus the logarithm of the right tokens' probabilities.",
        on=[(LOGITS, TARGETS), (LOGITS[:, :1], TARGETS[:, :1])],
    )
    def loss_is_the_cross_entropy(self, loss, logits, targets):
        expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return same(loss(logits, targets), expected)


class AWriter(ASpecimen):
    """What holds for all greedy writing. Specimens 7 and 8 break one rule each."""

    answer = Function("model, idx, max_new_tokens, context_size", returns=torch.Tensor)

    @must("The prompt must come back with `max_new_tokens` ids behind it.", on=[0, 3])
    def the_prompt_is_continued(self, write, max_new_tokens):
        prompt = torch.tensor([[1, 2], [3, 4]])
        ids = write(CountingModel(), prompt, max_new_tokens, 8)
        return ids.shape == (2, 2 + max_new_tokens) and torch.equal(ids[:, :2], prompt)

    @must(
        "The model must get the last `context_size` tokens, or all if there are fewer. (The model "
        "of this check counts: after 3 comes 4.)",
        on=[([[1, 2]], 4, 8), ([[1, 2, 3], [5, 6, 7]], 3, 4), ([[0, 1, 2, 3, 4]], 2, 3)],
    )
    def the_last_tokens_are_seen(self, write, prompt, max_new_tokens, context_size):
        ours, theirs = CountingModel(), CountingModel()
        write(ours, torch.tensor(prompt), max_new_tokens, context_size)
        generate_text_simple(theirs, torch.tensor(prompt), max_new_tokens, context_size)
        return ours.seen == theirs.seen

    @must(
        "Each new id must be the one with the highest score at the last position.",
        on=[([[1, 2], [7, 3]], 5, 8), ([[1, 2, 3, 4]], 5, 4)],
    )
    def the_likeliest_id_is_appended(self, write, prompt, max_new_tokens, context_size):
        model, ids = toy_gpt(), torch.tensor(prompt)
        expected = generate_text_simple(model, ids, max_new_tokens, context_size)
        return torch.equal(write(model, ids, max_new_tokens, context_size), expected)


class BugCropping(AWriter):
    number = "4.bug7"
    title = "a writer with an old memory"
    hints = (
        "All is well until the text is longer than `context_size`. What does the model see from "
        "then on? Print it in each round.",
        "It sees the same tokens in every round: the first ones, and never what it has just "
        "written.",
        "The last n items of a sequence are `[-n:]`; here `idx[:, -context_size:]`.",
    )


class BugMode(AWriter):
    number = "4.bug8"
    title = "a writer of moods"
    hints = (
        "What in a model draws random numbers, after its weights have been made? And what switches "
        "that off?",
        "`model.eval()` before the loop switches dropout off. The docstring asks for one thing "
        "more: how does the caller get the model back?",
        "`model.training` tells the mode. Keep it before `model.eval()`, and after the loop call "
        "`model.train(was_training)`.",
    )

    @must(
        "The model must write in evaluation mode, whatever mode it arrives in. (The model of this "
        "check counts by ones in evaluation mode, and by twos in training mode.)",
        on=[(False, 3), (True, 3)],
    )
    def the_model_writes_in_evaluation_mode(self, write, training, max_new_tokens):
        model = CountingModel().train(training)
        return write(model, torch.tensor([[1, 2]]), max_new_tokens, 8).tolist() == [[1, 2, 3, 4, 5]]

    @must("Afterwards the model must be in the mode in which it was.", on=[True, False])
    def mode_is_as_before(self, write, training):
        model = toy_gpt(drop_rate=0.5).train(training)
        write(model, torch.tensor([[1, 2]]), 2, 8)
        return all(module.training == training for module in model.modules())
