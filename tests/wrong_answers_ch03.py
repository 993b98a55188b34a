"""Plausible wrong answers to chapter 3's exercises, each with the rule that must refuse it."""

import torch
import torch.nn as nn
import torch.nn.functional as F

import ch03_bug_zoo as zoo
from multihead_attention import MultiHeadAttention, MultiHeadAttentionWrapper

PROJECTIONS = ("W_query", "W_key", "W_value")

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


def hidden_future(num_tokens):
    return torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(diagonal=1)


# 3.1


class RawMatrices(nn.Module):
    def __init__(self, matrices, scale=2**0.5):
        super().__init__()
        self.W_query, self.W_key, self.W_value = map(nn.Parameter, matrices)
        self.scale = scale

    def forward(self, x):
        scores = x @ self.W_query @ (x @ self.W_key).T
        return torch.softmax(scores / self.scale, dim=-1) @ x @ self.W_value


class LinearLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.W_query, self.W_key, self.W_value = (nn.Linear(3, 2, bias=False) for _ in range(3))

    def forward(self, x):
        scores = self.W_query(x) @ self.W_key(x).T
        return torch.softmax(scores / 2**0.5, dim=-1) @ self.W_value(x)


def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(123)
        return LinearLayers()


def weights_of(sa_v2, order=PROJECTIONS):
    return [getattr(sa_v2, name).weight.detach() for name in order]


def copied_the_other_way():
    sa_v1, sa_v2 = RawMatrices(torch.rand(3, 3, 2)), seeded()
    for name in PROJECTIONS:
        getattr(sa_v2, name).weight = nn.Parameter(getattr(sa_v1, name).detach().T)
    return sa_v1, sa_v2


transposed = [weight.T for weight in weights_of(seeded())]
key_and_query_exchanged = [transposed[1], transposed[0], transposed[2]]
wrong("3.1", "pair_is_in_order")((seeded(), RawMatrices(transposed)))
wrong("3.1", "source_is_as_seeded")(copied_the_other_way())
wrong("3.1", "source_is_as_seeded")((RawMatrices(transposed), LinearLayers()))
wrong("3.1", "matrices_have_their_shape")((RawMatrices(weights_of(seeded())), seeded()))
wrong("3.1", "matrices_are_those_of_the_layers")((RawMatrices(torch.rand(3, 3, 2)), seeded()))
wrong("3.1", "matrices_are_those_of_the_layers")((RawMatrices(key_and_query_exchanged), seeded()))
wrong("3.1", "matrices_are_those_of_the_layers")(
    (RawMatrices([weight.reshape(3, 2) for weight in weights_of(seeded())]), seeded())
)
wrong("3.1", "outputs_are_the_same")((RawMatrices(transposed, scale=1), seeded()))

# 3.2

wrong("3.2", "rows_have_two_columns")(MultiHeadAttentionWrapper(3, 2, 6, 0.0, num_heads=2))
wrong("3.2", "there_are_two_heads")(MultiHeadAttentionWrapper(3, 2, 6, 0.0, num_heads=1))
wrong("3.2", "the_chapters_batch_fits")(MultiHeadAttentionWrapper(2, 1, 6, 0.0, num_heads=2))
wrong("3.2", "the_chapters_batch_fits")(MultiHeadAttentionWrapper(3, 1, 2, 0.0, num_heads=2))

# 3.3

wrong("3.3", "widths_are_768")(MultiHeadAttention(3, 768, 1024, 0.0, num_heads=12))
wrong("3.3", "widths_are_768")(MultiHeadAttention(768, 12 * 768, 8, 0.0, num_heads=12))
wrong("3.3", "there_are_twelve_heads")(MultiHeadAttention(768, 768, 1024, 0.0, num_heads=64))
wrong("3.3", "context_is_1024")(MultiHeadAttention(768, 768, 768, 0.0, num_heads=12))
wrong("3.3", "there_are_2360064_weights")(
    MultiHeadAttention(768, 768, 1024, 0.1, num_heads=12, qkv_bias=True)
)

# 3.4


@wrong("3.4", "each_row_has_a_number")
def sum_over_everything(weights):
    return torch.special.entr(weights).sum()


@wrong("3.4", "each_row_has_a_number")
def not_added_up(weights):
    return torch.special.entr(weights)


@wrong("3.4", "a_decided_row_has_none")
def logarithm_of_zero(weights):
    return -(weights * weights.log()).sum(dim=-1)


@wrong("3.4", "a_decided_row_has_none")
def a_small_number_too_large(weights):
    return -(weights * (weights + 1e-3).log()).sum(dim=-1)


@wrong("3.4", "an_even_row_has_the_logarithm")
def in_bits(weights):
    return -torch.special.xlogy(weights, weights).sum(dim=-1) / torch.log(torch.tensor(2.0))


@wrong("3.4", "an_even_row_has_the_logarithm")
def without_the_minus(weights):
    return torch.special.xlogy(weights, weights).sum(dim=-1)


@wrong("3.4", "an_even_row_has_the_logarithm")
def mean_in_place_of_sum(weights):
    return torch.special.entr(weights).mean(dim=-1)


@wrong("3.4", "entropy_is_the_sum_of_its_terms")
def of_the_largest_weight_alone(weights):
    return -weights.amax(dim=-1).log()


@wrong("3.4", "entropy_is_the_sum_of_its_terms")
def logarithm_of_how_many_are_seen(weights):
    return (weights > 0).sum(dim=-1).float().log()


# 3.5


def powers_shared(scores, dim=-1):
    powers = scores.exp()
    return powers / powers.sum(dim=dim, keepdim=True)


@wrong("3.5", "rows_add_up_to_one")
def along_the_columns(scores):
    return powers_shared(scores - scores.max(), dim=0)


@wrong("3.5", "rows_add_up_to_one")
def over_the_whole_tensor(scores):
    powers = (scores - scores.max()).exp()
    return powers / powers.sum()


@wrong("3.5", "rows_add_up_to_one")
def not_divided(scores):
    return (scores - scores.amax(dim=-1, keepdim=True)).exp()


@wrong("3.5", "small_scores_give_the_softmax")
def powers_of_two(scores):
    powers = 2 ** (scores - scores.amax(dim=-1, keepdim=True))
    return powers / powers.sum(dim=-1, keepdim=True)


@wrong("3.5", "rows_add_up_to_one")
def divided_by_the_largest(scores):
    return powers_shared(scores / scores.amax(dim=-1, keepdim=True))


wrong("3.5", "large_scores_give_the_weights_of_small_ones")(powers_shared)


@wrong("3.5", "large_scores_give_the_weights_of_small_ones")
def cut_off(scores):
    return powers_shared(scores.clamp(-80, 80))


@wrong("3.5", "large_scores_give_the_weights_of_small_ones")
def nan_made_zero(scores):
    return powers_shared(scores).nan_to_num()


@wrong("3.5", "rows_do_not_depend_on_each_other")
def largest_of_all_rows(scores):
    return powers_shared(scores - scores.max())


@wrong("3.5", "a_masked_score_gets_nothing")
def mean_taken_away(scores):
    return powers_shared(scores - scores.mean(dim=-1, keepdim=True))


@wrong("3.5", "it_is_made_by_hand")
def pytorchs_own(scores):
    return scores.softmax(dim=-1)


@wrong("3.5", "it_is_made_by_hand")
def pytorchs_layer(scores):
    return nn.Softmax(dim=-1)(scores)


# 3.6


@wrong("3.6", "mask_is_square_and_boolean")
def of_zeros_and_ones(num_tokens, window):
    return torch.ones(num_tokens, num_tokens).triu(1) + torch.ones(num_tokens, num_tokens).tril(
        -window
    )


@wrong("3.6", "mask_is_square_and_boolean")
def a_row_of_the_window_only(num_tokens, window):
    return torch.ones(num_tokens, window, dtype=torch.bool)


@wrong("3.6", "the_future_is_hidden")
def true_for_visible(num_tokens, window):
    return ~(hidden_future(num_tokens) | torch.ones(num_tokens, num_tokens).tril(-window).bool())


@wrong("3.6", "the_future_is_hidden")
def the_past_only(num_tokens, window):
    return torch.ones(num_tokens, num_tokens).tril(-window).bool()


def hidden_at(num_tokens, is_hidden):
    places = torch.arange(num_tokens)
    return is_hidden(places[:, None] - places[None, :])


@wrong("3.6", "a_token_sees_itself")
def itself_not_counted(num_tokens, window):
    return hidden_at(num_tokens, lambda distance: (distance <= 0) | (distance > window))


@wrong("3.6", "a_token_sees_itself")
def a_window_too_narrow_by_one(num_tokens, window):
    return hidden_at(num_tokens, lambda distance: (distance < 0) | (distance >= window - 1))


@wrong("3.6", "no_token_sees_too_far")
def a_window_too_wide_by_one(num_tokens, window):
    return hidden_at(num_tokens, lambda distance: (distance < 0) | (distance > window))


@wrong("3.6", "no_token_sees_too_far")
def the_future_only(num_tokens, window):
    return hidden_future(num_tokens)


@wrong("3.6", "no_token_sees_too_little")
def in_blocks(num_tokens, window):
    block = torch.arange(num_tokens) // window
    return hidden_future(num_tokens) | (block[:, None] != block[None, :])


# 3.7


def weights_where(scores, is_hidden):
    return scores.masked_fill(is_hidden, -torch.inf).softmax(dim=-1)


@wrong("3.7", "each_score_has_a_weight")
def the_first_texts_mask_for_all(scores, is_padding):
    keep = ~is_padding[0]
    return weights_where(scores, hidden_future(scores.shape[-1]))[:, keep][:, :, keep]


@wrong("3.7", "the_future_gets_nothing")
def padding_alone(scores, is_padding):
    return weights_where(scores, is_padding[:, None, :]).nan_to_num()


@wrong("3.7", "padding_gets_nothing")
def future_alone(scores, is_padding):
    return weights_where(scores, hidden_future(scores.shape[-1]))


@wrong("3.7", "padding_gets_nothing")
def rows_hidden_not_columns(scores, is_padding):
    hidden = hidden_future(scores.shape[-1]) | is_padding[:, :, None]
    return weights_where(scores, hidden).nan_to_num()


@wrong("3.7", "rows_of_tokens_add_up_to_one")
def taken_out_after_the_softmax(scores, is_padding):
    weights = weights_where(scores, hidden_future(scores.shape[-1]))
    return weights * ~is_padding[:, None, :] * ~is_padding[:, :, None]


@wrong("3.7", "a_text_is_weighed_as_if_alone")
def scaled_once_more(scores, is_padding):
    return beside_padding(scores / scores.shape[-1] ** 0.5, is_padding)


def beside_padding(scores, is_padding):
    hidden = hidden_future(scores.shape[-1]) | is_padding[:, None, :]
    return weights_where(scores, hidden).masked_fill(is_padding[:, :, None], 0.0)


@wrong("3.7", "rows_of_padding_are_zero")
def rows_of_padding_forgotten(scores, is_padding):
    return weights_where(scores, hidden_future(scores.shape[-1]) | is_padding[:, None, :])


@wrong("3.7", "rows_of_padding_are_zero")
def rows_of_padding_times_zero(scores, is_padding):
    return rows_of_padding_forgotten(scores, is_padding) * ~is_padding[:, :, None]


@wrong("3.7", "rows_of_padding_are_zero")
def a_very_low_score(scores, is_padding):
    hidden = hidden_future(scores.shape[-1]) | is_padding[:, None, :]
    return scores.masked_fill(hidden, -1e9).softmax(dim=-1)


@wrong("3.7", "gradients_are_numbers")
def minus_infinity_added(scores, is_padding):
    hidden = hidden_future(scores.shape[-1]) | is_padding[:, None, :]
    added = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    weights = (scores + added).softmax(dim=-1)
    return weights.masked_fill(is_padding[:, :, None], 0.0)


@wrong("3.7", "gradients_are_numbers")
def cut_off_from_training(scores, is_padding):
    return beside_padding(scores.detach(), is_padding)


# 3.8


class Fused(nn.Module):
    """The right answer, but for one method that a wrong one overrides."""

    def __init__(self, d_in, d_out, context_length, dropout, num_heads):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, d_out // num_heads
        self.qkv = nn.Linear(d_in, 3 * d_out, bias=False)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def split(self, x):
        """Queries, keys and values, each (B, H, T, D)."""
        shape = (*x.shape[:2], 3, self.num_heads, self.head_dim)
        return self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)

    def weights(self, queries, keys):
        scores = queries @ keys.transpose(2, 3) / self.head_dim**0.5
        return weights_where(scores, hidden_future(scores.shape[-1]))

    def drop(self, weights):
        return self.dropout(weights)

    def join(self, context):
        return self.out_proj(context.transpose(1, 2).flatten(2))

    def forward(self, x):
        queries, keys, values = self.split(x)
        return self.join(self.drop(self.weights(queries, keys)) @ values)


@wrong("3.8", "layers_are_qkv_and_out_proj")
class WithABias(Fused):
    def __init__(self, d_in, d_out, context_length, dropout, num_heads):
        super().__init__(d_in, d_out, context_length, dropout, num_heads)
        self.qkv = nn.Linear(d_in, 3 * d_out)


@wrong("3.8", "layers_are_qkv_and_out_proj")
class ThreeLayersStill(MultiHeadAttention):
    def __init__(self, d_in, d_out, context_length, dropout, num_heads):
        super().__init__(d_in, d_out, context_length, dropout, num_heads)


@wrong("3.8", "output_is_batch_tokens_width")
class HeadsNotJoined(Fused):
    def join(self, context):
        return self.out_proj(context.transpose(1, 2).flatten(2)).unflatten(-1, (self.num_heads, -1))


@wrong("3.8", "the_future_stays_hidden")
class NoMask(Fused):
    def weights(self, queries, keys):
        return (queries @ keys.transpose(2, 3) / self.head_dim**0.5).softmax(dim=-1)


@wrong("3.8", "the_future_stays_hidden")
class JoinedWithoutTranspose(Fused):
    def join(self, context):
        batch_size, _, num_tokens, _ = context.shape
        return self.out_proj(context.reshape(batch_size, num_tokens, -1))


@wrong("3.8", "output_is_that_of_the_chapters_class")
class HeadsBeforeTheThree(Fused):
    def split(self, x):
        shape = (*x.shape[:2], self.num_heads, 3, self.head_dim)
        return self.qkv(x).view(shape).permute(3, 0, 2, 1, 4)


@wrong("3.8", "output_is_that_of_the_chapters_class")
class KeysFirst(Fused):
    def split(self, x):
        keys, queries, values = super().split(x)
        return queries, keys, values


@wrong("3.8", "output_is_that_of_the_chapters_class")
class ScaledByTheWholeWidth(Fused):
    def weights(self, queries, keys):
        return super().weights(queries / self.num_heads**0.5, keys)


@wrong("3.8", "dropout_acts_in_training_only")
class NoDropout(Fused):
    def drop(self, weights):
        return weights


@wrong("3.8", "dropout_acts_in_training_only")
class DropoutForEver(Fused):
    def drop(self, weights):
        return F.dropout(weights, self.dropout.p)


# 3.9


def contexts(attention, x, masked=True):
    """What the heads of a MultiHeadAttention find, (B, H, T, D)."""
    layers = (attention.W_query, attention.W_key, attention.W_value)
    heads = [layer(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for layer in layers]
    return F.scaled_dot_product_attention(*heads, is_causal=masked)


def shares(attention, x, masked=True):
    columns = attention.out_proj.weight.T.unflatten(0, (attention.num_heads, -1))  # (H, D, d_out)
    return contexts(attention, x, masked) @ columns


@wrong("3.9", "each_head_has_a_row_for_each_token")
def not_projected(attention, x):
    return contexts(attention, x)


@wrong("3.9", "each_head_has_a_row_for_each_token")
def heads_first(attention, x):
    return shares(attention, x).transpose(0, 1)


@wrong("3.9", "shares_add_up_to_the_output")
def bias_in_each_share(attention, x):
    return shares(attention, x) + attention.out_proj.bias


@wrong("3.9", "shares_add_up_to_the_output")
def rows_of_the_weight(attention, x):
    return contexts(attention, x) @ attention.out_proj.weight.unflatten(
        0, (attention.num_heads, -1)
    )


@wrong("3.9", "shares_add_up_to_the_output")
def every_head_with_all_columns(attention, x):
    joined = contexts(attention, x).repeat_interleave(attention.num_heads, dim=-1)
    return joined @ attention.out_proj.weight.T


@wrong("3.9", "shares_add_up_to_the_output")
def unmasked(attention, x):
    return shares(attention, x, masked=False)


@wrong("3.9", "a_share_is_that_of_its_head")
def same_share_for_each_head(attention, x):
    share = (attention(x) - attention.out_proj.bias) / attention.num_heads
    return share[:, None].expand(-1, attention.num_heads, -1, -1)


@wrong("3.9", "a_share_is_that_of_its_head")
def heads_numbered_backwards(attention, x):
    return shares(attention, x).flip(1)


# 3.bug1 to 3.bug3

wrong("3.bug1", "the_future_stays_hidden")(zoo.attend_1)
wrong("3.bug2", "equal_values_come_out_as_they_are")(zoo.attend_2)
wrong("3.bug3", "the_future_stays_hidden")(zoo.attend_3)


def attend(queries, keys, values, diagonal=1, hidden=-torch.inf, scale=None, dim=-1):
    scores = queries @ keys.transpose(-2, -1) / (scale or keys.shape[-1] ** 0.5)
    is_hidden = torch.ones(scores.shape[-2:]).triu(diagonal).bool()
    return scores.masked_fill(is_hidden, hidden).softmax(dim=dim) @ values


@wrong("3.bug1", "equal_values_come_out_as_they_are")
def hides_the_token_itself(queries, keys, values):
    return attend(queries, keys, values, diagonal=0)


@wrong("3.bug1", "the_past_and_the_token_itself_are_seen")
def hides_all_tokens_but_the_first_from_themselves(queries, keys, values):
    output = attend(queries, keys, values, diagonal=0)
    return torch.cat([values[:, :1], output[:, 1:]], dim=1)


@wrong("3.bug1", "the_future_stays_hidden")
def mask_turned_round(queries, keys, values):
    scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
    return weights_where(scores, hidden_future(scores.shape[-1]).T) @ values


@wrong("3.bug2", "equal_values_come_out_as_they_are")
def softmax_over_the_batch(queries, keys, values):
    return attend(queries, keys, values, hidden=-1e9, dim=0)


@wrong("3.bug2", "equal_values_come_out_as_they_are")
def weights_turned_round(queries, keys, values):
    scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
    return weights_where(scores, hidden_future(scores.shape[-1])).transpose(1, 2) @ values


@wrong("3.bug2", "output_has_the_shape_of_the_values")
def the_first_text_alone(queries, keys, values):
    return attend(queries[0], keys[0], values[0])


@wrong("3.bug3", "the_future_stays_hidden")
def a_low_score_too_high(queries, keys, values):
    return attend(queries, keys, values, hidden=-1.0)


@wrong("3.bug3", "equal_values_come_out_as_they_are")
def masked_after_the_softmax(queries, keys, values):
    weights = (queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5).softmax(dim=-1)
    return weights.tril() @ values


@wrong("3.bug3", "weights_are_those_of_scaled_dot_products")
def not_scaled(queries, keys, values):
    return attend(queries, keys, values, scale=1)


# 3.bug4 and 3.bug5

wrong("3.bug4", "weights_are_scaled_head_by_head")(zoo.attend_heads_4)
wrong("3.bug5", "each_head_keeps_its_columns")(zoo.attend_heads_5)


def split(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B, H, T, D)


@wrong("3.bug4", "weights_are_scaled_head_by_head")
def scaled_by_the_number_of_heads(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return attend(*parts, scale=num_heads**0.5).transpose(1, 2).flatten(2)


@wrong("3.bug4", "weights_are_scaled_head_by_head")
def divided_by_the_width_itself(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return attend(*parts, scale=parts[0].shape[-1]).transpose(1, 2).flatten(2)


@wrong("3.bug4", "the_future_stays_hidden_from_all_heads")
def mask_lost_in_mending(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


@wrong("3.bug5", "each_head_keeps_its_columns")
def tokens_and_columns_exchanged(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return attend(*parts).transpose(2, 3).reshape(values.shape)


@wrong("3.bug5", "each_head_keeps_its_columns")
def heads_take_turns_in_the_columns(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return attend(*parts).permute(0, 2, 3, 1).flatten(2)


@wrong("3.bug5", "joined_heads_have_the_shape_of_the_values")
def heads_left_apart(queries, keys, values, num_heads):
    parts = [split(part, num_heads) for part in (queries, keys, values)]
    return attend(*parts).transpose(1, 2)


# 3.bug6

wrong("3.bug6", "shorter_texts_go_through")(zoo.CausalAttention6)


class Cropped(zoo.CausalAttention6):
    """The right answer, where `crop` returns the right part of the mask."""

    def forward(self, x):
        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
        return weights_where(scores, self.crop(x.shape[1]).bool()) @ values


@wrong("3.bug6", "shorter_texts_go_through")
class RowsAlone(Cropped):
    def crop(self, num_tokens):
        return self.mask[:num_tokens]


@wrong("3.bug6", "a_beginning_is_treated_alike")
class LowerLeftCorner(Cropped):
    def crop(self, num_tokens):
        return self.mask[-num_tokens:, :num_tokens]


@wrong("3.bug6", "a_beginning_is_treated_alike")
class UpperRightCorner(Cropped):
    def crop(self, num_tokens):
        return self.mask[:num_tokens, -num_tokens:]


@wrong("3.bug6", "a_beginning_is_treated_alike")
class MaskForFullTextsAlone(Cropped):
    def crop(self, num_tokens):
        return self.mask if num_tokens == len(self.mask) else torch.zeros(num_tokens, num_tokens)


@wrong("3.bug6", "shorter_texts_go_through")
class FilledUpWithZeros(Cropped):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 0, 0, len(self.mask) - x.shape[1])))

    def crop(self, num_tokens):
        return self.mask


@wrong("3.bug6", "full_texts_go_through")
class LastTokenAlone(Cropped):
    def forward(self, x):
        return super().forward(x)[:, -1]

    def crop(self, num_tokens):
        return self.mask[:num_tokens, :num_tokens]


# 3.bug7

wrong("3.bug7", "half_of_the_weights_are_dropped")(zoo.attend_7)


def causal_weights(queries, keys):
    scores = queries @ keys.transpose(1, 2) / keys.shape[-1] ** 0.5
    return weights_where(scores, hidden_future(scores.shape[-1]))


@wrong("3.bug7", "half_of_the_weights_are_dropped")
def dropout_taken_out(queries, keys, values, dropout):
    return causal_weights(queries, keys) @ values


@wrong("3.bug7", "it_is_plain_attention_in_use")
def dropout_for_ever(queries, keys, values, dropout):
    return F.dropout(causal_weights(queries, keys), dropout.p) @ values


@wrong("3.bug7", "a_value_is_dropped_as_a_whole")
def output_dropped(queries, keys, values, dropout):
    return dropout(causal_weights(queries, keys) @ values)


@wrong("3.bug7", "a_value_is_dropped_as_a_whole")
def values_dropped(queries, keys, values, dropout):
    return causal_weights(queries, keys) @ dropout(values)


@wrong("3.bug7", "weights_that_are_left_are_doubled")
def filled_up_to_one_again(queries, keys, values, dropout):
    weights = dropout(causal_weights(queries, keys))
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-9) @ values


@wrong("3.bug7", "weights_that_are_left_are_doubled")
def not_doubled(queries, keys, values, dropout):
    weights = causal_weights(queries, keys)
    return weights * (dropout(weights) > 0) @ values
