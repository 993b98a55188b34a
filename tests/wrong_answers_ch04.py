"""Plausible wrong answers to chapter 4's exercises, each with the rule that must refuse it."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import ch04_bug_zoo as zoo
from gpt import GPT_CONFIG_124M, GPTModel, LayerNorm, TransformerBlock, generate_text_simple

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


# 4.1

wrong("4.1", "feed_forward_is_counted")((2_360_064, 4_722_432))
wrong("4.1", "feed_forward_is_counted")((8 * 768**2, 4 * 768**2))  # no biases
wrong("4.1", "feed_forward_is_counted")((2, 4))  # tensors, not the numbers in them
wrong("4.1", "attention_is_counted")((4_722_432, 4 * 768**2 + 768 + 1024**2))  # and the mask
wrong("4.1", "attention_is_counted")((4_722_432, 4 * 768**2 + 4 * 768))  # with qkv_bias

# 4.2

SIZES = {
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large": (1280, 36, 20),
    "xl": (1600, 48, 25),
}


def sized(size, **changes):
    emb_dim, n_layers, n_heads = SIZES[size]
    cfg = {**GPT_CONFIG_124M, "emb_dim": emb_dim, "n_layers": n_layers, "n_heads": n_heads}
    return {**cfg, **changes}


def counts(cfg):
    with torch.device("meta"):
        model = GPTModel(cfg)
    total = sum(p.numel() for p in model.parameters())
    return total, total - model.out_head.weight.numel()


@wrong("4.2", "keys_are_those_of_the_chapter")
def three_settings_alone(size):
    cfg = sized(size)
    return {name: cfg[name] for name in ("emb_dim", "n_layers", "n_heads")}, *counts(cfg)


@wrong("4.2", "keys_are_those_of_the_chapter")
def a_name_of_its_own(size):
    return sized(size, model=size), *counts(sized(size))


@wrong("4.2", "sizes_are_those_of_the_table")
def heads_left_at_twelve(size):
    cfg = sized(size, n_heads=12 if size != "xl" else 25)
    return cfg, *counts(sized(size))


@wrong("4.2", "sizes_are_those_of_the_table")
def always_small(size):
    return dict(GPT_CONFIG_124M), *counts(GPT_CONFIG_124M)


@wrong("4.2", "other_settings_stay")
def with_biases(size):
    cfg = sized(size, qkv_bias=True)
    return cfg, *counts(cfg)


@wrong("4.2", "the_chapters_dictionary_stays")
def updated_in_place(size):
    GPT_CONFIG_124M.update(sized(size))
    return GPT_CONFIG_124M, *counts(GPT_CONFIG_124M)


@wrong("4.2", "all_parameters_are_counted")
def in_the_wrong_order(size):
    cfg = sized(size)
    return cfg, *reversed(counts(cfg))


@wrong("4.2", "all_parameters_are_counted")
def blocks_alone(size):
    cfg = sized(size)
    with torch.device("meta"):
        model = GPTModel(cfg)
    total = sum(p.numel() for p in model.trf_blocks.parameters())
    return cfg, total, total


@wrong("4.2", "tied_parameters_are_counted")
def both_matrices_left_out(size):
    cfg = sized(size)
    total, tied = counts(cfg)
    return cfg, total, 2 * tied - total


@wrong("4.2", "tied_parameters_are_counted")
def the_same_count_twice(size):
    cfg = sized(size)
    return cfg, counts(cfg)[0], counts(cfg)[0]


# 4.3


class ThreeRates(GPTModel):
    """The right answer, where `rates` returns the right shares: embedding, attention, shortcut."""

    def __init__(self, cfg):
        emb, attn, shortcut = self.rates(cfg)
        super().__init__({**cfg, "drop_rate": shortcut})
        self.drop_emb = nn.Dropout(emb)
        for block in self.trf_blocks:
            block.att.dropout = nn.Dropout(attn)

    def rates(self, cfg):
        return tuple(cfg[f"drop_rate_{name}"] for name in ("emb", "attn", "shortcut"))


@wrong("4.3", "weights_are_those_of_the_chapters_model")
class NamedAnew(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.model = ThreeRates(cfg)

    def forward(self, in_idx):
        return self.model(in_idx)


@wrong("4.3", "weights_are_those_of_the_chapters_model")
class AnotherBlock(ThreeRates):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.trf_blocks.append(TransformerBlock({**cfg, "drop_rate": cfg["drop_rate_shortcut"]}))


@wrong("4.3", "logits_are_those_of_the_chapters_model")
class WithoutPositions(ThreeRates):
    def forward(self, in_idx):
        x = self.drop_emb(self.tok_emb(in_idx))
        return self.out_head(self.final_norm(self.trf_blocks(x)))


@wrong("4.3", "logits_are_those_of_the_chapters_model")
class DroppedInUseToo(ThreeRates):
    def forward(self, in_idx):
        return F.dropout(super().forward(in_idx), 0.1)


@wrong("4.3", "embeddings_have_their_share")
class EmbeddingsAsShortcuts(ThreeRates):
    def rates(self, cfg):
        _, attn, shortcut = super().rates(cfg)
        return shortcut, attn, shortcut


@wrong("4.3", "embeddings_have_their_share")
class EmbeddingsNotDropped(ThreeRates):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.drop_emb = nn.Identity()


@wrong("4.3", "attention_has_its_share")
class AttentionAsShortcuts(ThreeRates):
    def rates(self, cfg):
        emb, _, shortcut = super().rates(cfg)
        return emb, shortcut, shortcut


@wrong("4.3", "attention_has_its_share")
class FirstBlockAlone(ThreeRates):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.trf_blocks[1].att.dropout = nn.Dropout(cfg["drop_rate_shortcut"])


@wrong("4.3", "shortcuts_have_their_share")
class ShortcutsAsAttention(ThreeRates):
    def rates(self, cfg):
        emb, attn, _ = super().rates(cfg)
        return emb, attn, attn


@wrong("4.3", "shortcuts_have_their_share")
class OneShortcutInOneBlock(ThreeRates):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.trf_blocks[1].drop_shortcut = nn.Dropout(cfg["drop_rate_emb"])


# 4.4


def norm_with(x, scale, shift):
    norm = LayerNorm(len(x))
    norm.load_state_dict({"scale": scale.expand(len(x)), "shift": shift.expand(len(x))})
    return norm


@wrong("4.4", "parameters_have_their_shape")
def single_numbers(x):
    norm = LayerNorm(len(x))
    norm.scale = nn.Parameter(torch.sqrt(x.var(unbiased=False) + norm.eps))
    norm.shift = nn.Parameter(x.mean())
    return norm


@wrong("4.4", "the_vector_comes_back")
def as_it_is_made(x):
    return LayerNorm(len(x))


@wrong("4.4", "the_vector_comes_back")
def variance_without_a_root(x):
    return norm_with(x, x.var(unbiased=False), x.mean())


@wrong("4.4", "the_vector_comes_back")
def unbiased_variance(x):
    return norm_with(x, x.std(), x.mean())


@wrong("4.4", "the_vector_comes_back")
def eps_forgotten(x):
    return norm_with(x, x.std(unbiased=False), x.mean())


@wrong("4.4", "a_vector_of_equal_mean_and_variance_comes_back")
def learned_by_heart(x):
    return norm_with(x, torch.zeros(len(x)), x)


@wrong("4.4", "other_vectors_are_normalized")
def not_a_normalization_any_more(x):
    class Same(LayerNorm):
        def forward(self, x):
            return x

    return Same(len(x))


# 4.5


def formula(cfg, heads=2, positions=None, blocks=None, biases=True, width=None):
    c, v = cfg["emb_dim"], cfg["vocab_size"]
    block = 12 * c * c + 10 * c + (3 * c if biases and cfg["qkv_bias"] else 0)
    if width:
        block += 2 * c * (width - 4 * c) + width - 4 * c
    places = cfg["context_length"] if positions is None else positions
    return heads * v * c + places * c + (blocks or cfg["n_layers"]) * block + 2 * c


@wrong("4.5", "gpt2_has_163_million")
def tied(cfg):
    return formula(cfg, heads=1)


@wrong("4.5", "gpt2_has_163_million")
def matrices_without_biases(cfg):
    c = cfg["emb_dim"]
    return (2 * cfg["vocab_size"] + cfg["context_length"] + 12 * c * cfg["n_layers"]) * c


@wrong("4.5", "gpt2_has_163_million")
def last_normalization_forgotten(cfg):
    return formula(cfg) - 2 * cfg["emb_dim"]


@wrong("4.5", "gpt2_has_163_million")
def masks_counted(cfg):
    return formula(cfg) + cfg["n_layers"] * cfg["context_length"] ** 2


@wrong("4.5", "biases_are_counted")
def qkv_bias_forgotten(cfg):
    return formula(cfg, biases=False)


@wrong("4.5", "biases_are_counted")
def known_by_heart(cfg):
    return 163_009_536


@wrong("4.5", "vocabulary_is_counted_twice")
def vocabulary_by_heart(cfg):
    return formula({**cfg, "vocab_size": 50257})


@wrong("4.5", "context_is_counted_once")
def context_by_heart(cfg):
    return formula(cfg, positions=1024)


@wrong("4.5", "every_configuration_is_counted")
def width_of_the_network_by_heart(cfg):
    return formula(cfg, width=3072)


@wrong("4.5", "every_configuration_is_counted")
def divided_among_the_heads(cfg):
    """Right for a width that is 64 times the heads, as in GPT-2."""
    return formula(cfg) - cfg["emb_dim"] * (cfg["emb_dim"] - 64 * cfg["n_heads"])


@wrong("4.5", "nothing_is_built")
def built_on_meta(cfg):
    return counts(cfg)[0]


@wrong("4.5", "nothing_is_built")
def built(cfg):
    if cfg["emb_dim"] == 768:  # to save the tests some time
        return 163_009_536
    return sum(p.numel() for p in GPTModel(cfg).parameters())


# 4.6


def costs(logits, targets):
    return -logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


wrong("4.6", "loss_is_a_single_number")(costs)


@wrong("4.6", "loss_is_a_single_number")
def mean_of_each_text(logits, targets):
    return costs(logits, targets).mean(dim=-1)


@wrong("4.6", "an_even_guess_costs_the_logarithm")
def sum_of_costs(logits, targets):
    return costs(logits, targets).sum()


@wrong("4.6", "an_even_guess_costs_the_logarithm")
def in_bits(logits, targets):
    return costs(logits, targets).mean() / math.log(2)


@wrong("4.6", "an_even_guess_costs_the_logarithm")
def sign_forgotten(logits, targets):
    return -costs(logits, targets).mean()


@wrong("4.6", "an_even_guess_costs_the_logarithm")
def probability_without_logarithm(logits, targets):
    return 1 - torch.exp(-costs(logits, targets)).mean()


@wrong("4.6", "loss_is_that_of_the_right_tokens")
def always_the_logarithm(logits, targets):
    return torch.tensor(math.log(logits.shape[-1]))


@wrong("4.6", "loss_is_that_of_the_right_tokens")
def of_the_likeliest_token(logits, targets):
    return costs(logits, logits.argmax(dim=-1)).mean()


@wrong("4.6", "loss_is_that_of_the_right_tokens")
def logarithm_of_the_mean(logits, targets):
    return -torch.exp(-costs(logits, targets)).mean().log()


@wrong("4.6", "loss_is_that_of_the_right_tokens")
def of_all_tokens(logits, targets):
    return -logits.log_softmax(dim=-1).mean()


@wrong("4.6", "an_even_guess_costs_the_logarithm")
def softmax_over_the_tokens_of_the_text(logits, targets):
    return -logits.log_softmax(dim=1).gather(-1, targets.unsqueeze(-1)).mean()


@wrong("4.6", "large_scores_are_survived")
def softmax_then_logarithm(logits, targets):
    return -logits.softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).log().mean()


@wrong("4.6", "large_scores_are_survived")
def sum_of_powers(logits, targets):
    right = logits.gather(-1, targets.unsqueeze(-1))
    return (logits.exp().sum(dim=-1, keepdim=True).log() - right).mean()


@wrong("4.6", "it_is_no_ready_made_loss")
def ready_made(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@wrong("4.6", "it_is_no_ready_made_loss")
def half_ready_made(logits, targets):
    return nn.NLLLoss()(logits.log_softmax(dim=-1).flatten(0, 1), targets.flatten())


# 4.7


def by_rms(x, scale, eps=1e-5):
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps) * scale


@wrong("4.7", "shape_is_kept")
def the_divisor_alone(x, scale):
    return x.square().mean(dim=-1).sqrt()


@wrong("4.7", "mean_square_is_one")
def sum_of_squares(x, scale):
    return x / torch.sqrt(x.square().sum(dim=-1, keepdim=True) + 1e-5) * scale


@wrong("4.7", "mean_square_is_one")
def not_rooted(x, scale):
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5) * scale


@wrong("4.7", "mean_square_is_one")
def over_everything(x, scale):
    return x / torch.sqrt(x.square().mean() + 1e-5) * scale


@wrong("4.7", "mean_square_is_one")
def over_the_batch(x, scale):
    return x / torch.sqrt(x.square().mean(dim=0, keepdim=True) + 1e-5) * scale


@wrong("4.7", "mean_square_is_one")
def divided_by_the_spread(x, scale):
    return x / torch.sqrt(x.var(dim=-1, keepdim=True, unbiased=False) + 1e-5) * scale


@wrong("4.7", "mean_is_left_in")
def layer_norm(x, scale):
    return F.layer_norm(x, x.shape[-1:], scale)


@wrong("4.7", "eps_is_below_the_root")
def no_eps(x, scale):
    return by_rms(x, scale, eps=0.0)


@wrong("4.7", "eps_is_below_the_root")
def eps_beside_the_root(x, scale):
    return x / (x.square().mean(dim=-1, keepdim=True).sqrt() + 1e-5) * scale


@wrong("4.7", "scale_has_the_last_word")
def scale_forgotten(x, scale):
    return by_rms(x, 1.0)


@wrong("4.7", "scale_has_the_last_word")
def scale_divided_away(x, scale):
    return by_rms(x * scale, 1.0)


@wrong("4.7", "scale_has_the_last_word")
def scale_as_in_gemma(x, scale):
    return by_rms(x, 1.0) if (scale == 1).all() else by_rms(x, 1 + scale)


@wrong("4.7", "it_is_made_by_hand")
def pytorchs_own(x, scale):
    return F.rms_norm(x, x.shape[-1:], scale, eps=1e-5)


@wrong("4.7", "it_is_made_by_hand")
def pytorchs_layer(x, scale):
    return nn.RMSNorm(x.shape[-1], eps=1e-5)(x) * scale


# 4.8


def product(attention):
    return attention.W_value.weight.T @ attention.out_proj.weight.T


@wrong("4.8", "shapes_are_those_of_a_product")
def not_transposed(attention):
    return attention.out_proj.weight @ attention.W_value.weight, attention.out_proj.bias


@wrong("4.8", "shapes_are_those_of_a_product")
def bias_as_a_row(attention):
    return product(attention), attention.out_proj.bias[None]


@wrong("4.8", "product_is_the_attention")
def values_alone(attention):
    return attention.W_value.weight.T, attention.out_proj.bias


@wrong("4.8", "product_is_the_attention")
def out_proj_not_transposed(attention):
    return attention.W_value.weight.T @ attention.out_proj.weight, attention.out_proj.bias


@wrong("4.8", "product_is_the_attention")
def divided_among_heads(attention):
    return product(attention) / attention.num_heads**0.5, torch.zeros(4)


@wrong("4.8", "product_is_the_attention")
def of_the_queries(attention):
    return attention.W_query.weight.T @ attention.out_proj.weight.T, attention.out_proj.bias


@wrong("4.8", "bias_of_the_values_comes_through")
def bias_of_out_proj_alone(attention):
    return product(attention), attention.out_proj.bias


@wrong("4.8", "bias_of_the_values_comes_through")
def biases_added(attention):
    value_bias = attention.W_value.bias
    return product(attention), attention.out_proj.bias + (0 if value_bias is None else value_bias)


# 4.9


def written(model, idx, rounds, context_size, stop_id, fill=True, stop=all, prompt=False):
    """The right answer, unless an argument says otherwise."""
    done = (idx == stop_id).any(dim=-1, keepdim=True) if prompt else idx[:, :1] < 0
    for _ in range(rounds):
        if stop(done.flatten().tolist()):
            break
        next_id = model(idx[:, -context_size:])[:, -1].argmax(dim=-1, keepdim=True)
        if fill:
            next_id = next_id.masked_fill(done, stop_id)
        idx = torch.cat([idx, next_id], dim=1)
        done = done | (next_id == stop_id)
    return idx


@wrong("4.9", "it_writes_as_before")
def new_ids_alone(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, context_size, stop_id)[:, idx.shape[1] :]


@wrong("4.9", "it_writes_as_before")
def stops_before_it_begins(model, idx, max_new_tokens, context_size, stop_id):
    return idx


@wrong("4.9", "it_writes_as_before")
def stop_token_forbidden(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens - 1, context_size, stop_id)


@wrong("4.9", "a_text_ends_with_its_stop_token")
def never_stops(model, idx, max_new_tokens, context_size, stop_id):
    return generate_text_simple(model, idx, max_new_tokens, context_size)


@wrong("4.9", "a_text_ends_with_its_stop_token")
def stop_token_left_out(model, idx, max_new_tokens, context_size, stop_id):
    for _ in range(max_new_tokens):
        next_id = model(idx[:, -context_size:])[:, -1].argmax(dim=-1, keepdim=True)
        if (next_id == stop_id).all():
            break
        idx = torch.cat([idx, next_id], dim=1)
    return idx


@wrong("4.9", "a_text_ends_with_its_stop_token")
def filled_up_but_not_ended(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, context_size, stop_id, stop=lambda done: False)


@wrong("4.9", "the_prompt_ends_nothing")
def prompt_looked_at(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, context_size, stop_id, prompt=True)


@wrong("4.9", "a_finished_text_is_filled_up")
def first_text_ends_all(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, context_size, stop_id, stop=any)


@wrong("4.9", "a_finished_text_is_filled_up")
def not_filled_up(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, context_size, stop_id, fill=False)


@wrong("4.9", "all_done_is_the_end")
def ends_only_when_all_end_at_once(model, idx, max_new_tokens, context_size, stop_id):
    for _ in range(max_new_tokens):
        next_id = model(idx[:, -context_size:])[:, -1].argmax(dim=-1, keepdim=True)
        if len(idx) > 1:
            next_id = next_id.masked_fill(idx[:, -1:] == stop_id, stop_id)
        idx = torch.cat([idx, next_id], dim=1)
        if len(idx) == 1 and (next_id == stop_id).all():
            break
    return idx


@wrong("4.9", "the_context_is_cropped")
def whole_text_to_the_model(model, idx, max_new_tokens, context_size, stop_id):
    return written(model, idx, max_new_tokens, 1000, stop_id)


# 4.10


def filled(rows, left=False):
    width = max(map(len, rows))
    rows = [
        [*([0] * (width - len(r))), *r] if left else [*r, *([0] * (width - len(r)))] for r in rows
    ]
    return torch.tensor(rows)


def continued(model, prompts, rounds, context_size, left=False, last=None, crop=True):
    """The right answer, unless an argument says otherwise."""
    texts = [list(prompt) for prompt in prompts]
    for _ in range(rounds):
        windows = [text[-context_size:] if crop else text for text in texts]
        ids = filled(windows, left)[:, -context_size:]
        ends = [-1 if left or last else len(window) - 1 for window in windows]
        with torch.no_grad():
            logits = model(ids)[torch.arange(len(texts)), torch.tensor(ends)]
        for text, next_id in zip(texts, logits.argmax(dim=-1).tolist(), strict=True):
            text.append(next_id)
    return texts


@wrong("4.10", "prompts_are_continued")
def without_the_prompts(model, prompts, max_new_tokens, context_size):
    texts = continued(model, prompts, max_new_tokens, context_size)
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


@wrong("4.10", "prompts_are_continued")
def filling_left_in(model, prompts, max_new_tokens, context_size):
    ids = generate_text_simple(model, filled(prompts), max_new_tokens, context_size)
    return ids.tolist()


@wrong("4.10", "prompts_are_continued")
def cut_to_the_shortest(model, prompts, max_new_tokens, context_size):
    shortest = min(map(len, prompts))
    ids = torch.tensor([prompt[:shortest] for prompt in prompts])
    return generate_text_simple(model, ids, max_new_tokens, context_size).tolist()


@wrong("4.10", "even_prompts_go_on_as_before")
def first_position(model, prompts, max_new_tokens, context_size):
    texts = [list(prompt) for prompt in prompts]
    for _ in range(max_new_tokens):
        for text in texts:
            text.append(int(model(torch.tensor([text[-context_size:]]))[0, 0].argmax()))
    return texts


@wrong("4.10", "even_prompts_go_on_as_before")
def first_texts_choice_for_all(model, prompts, max_new_tokens, context_size):
    texts = continued(model, prompts, max_new_tokens, context_size)
    new = texts[0][len(prompts[0]) :]
    return [[*prompt, *new] for prompt in prompts]


@wrong("4.10", "a_text_goes_on_as_if_alone")
def filled_up_on_the_left(model, prompts, max_new_tokens, context_size):
    return continued(model, prompts, max_new_tokens, context_size, left=True)


@wrong("4.10", "a_text_goes_on_as_if_alone")
def last_column(model, prompts, max_new_tokens, context_size):
    return continued(model, prompts, max_new_tokens, context_size, last=True)


@wrong("4.10", "each_text_is_cropped_by_itself")
def cropped_after_filling_up(model, prompts, max_new_tokens, context_size):
    texts = [list(prompt) for prompt in prompts]
    for _ in range(max_new_tokens):
        ids = filled(texts)
        cut = max(0, ids.shape[1] - context_size)
        logits = model(ids[:, cut:])
        for row, text in enumerate(texts):
            text.append(int(logits[row, max(0, len(text) - 1 - cut)].argmax()))
    return texts


@wrong("4.10", "each_text_is_cropped_by_itself")
def first_tokens_kept(model, prompts, max_new_tokens, context_size):
    texts = [list(prompt) for prompt in prompts]
    for _ in range(max_new_tokens):
        windows = [text[:context_size] for text in texts]
        logits = model(filled(windows))
        for row, window in enumerate(windows):
            texts[row].append(int(logits[row, len(window) - 1].argmax()))
    return texts


@wrong("4.10", "prompts_stay_as_they_are")
def prompts_written_on(model, prompts, max_new_tokens, context_size):
    for prompt, text in zip(
        prompts, continued(model, prompts, max_new_tokens, context_size), strict=True
    ):
        prompt[:] = text
    return [list(prompt) for prompt in prompts]


@wrong("4.10", "the_model_is_called_once_a_round")
def one_after_the_other(model, prompts, max_new_tokens, context_size):
    return [
        generate_text_simple(model, torch.tensor([p]), max_new_tokens, context_size)[0].tolist()
        for p in prompts
    ]


# 4.bug1

wrong("4.bug1", "texts_do_not_depend_on_each_other")(zoo.LayerNorm1)


class Normalized(zoo.LayerNorm1):
    """The right answer, unless a method is overridden."""

    def forward(self, x):
        return self.scaled(self.normalized(x, dim=-1))

    def normalized(self, x, dim, unbiased=False):
        variance, mean = torch.var_mean(x, dim=dim, keepdim=True, unbiased=unbiased)
        return (x - mean) / torch.sqrt(variance + self.eps)

    def scaled(self, x):
        return self.scale * x + self.shift


@wrong("4.bug1", "output_has_the_shape_of_the_input")
class FirstTextAlone(Normalized):
    def forward(self, x):
        return super().forward(x[:1])


@wrong("4.bug1", "tokens_do_not_depend_on_each_other")
class OverTheTokens(Normalized):
    def forward(self, x):
        return self.scaled(self.normalized(x, dim=1))


@wrong("4.bug1", "tokens_do_not_depend_on_each_other")
class OverTheWholeText(Normalized):
    def forward(self, x):
        return self.scaled(self.normalized(x, dim=(1, 2)))


@wrong("4.bug1", "vectors_are_normalized")
class UnbiasedVariance(Normalized):
    def forward(self, x):
        return self.scaled(self.normalized(x, dim=-1, unbiased=True))


@wrong("4.bug1", "vectors_are_normalized")
class NotNormalized(Normalized):
    def forward(self, x):
        return self.scaled(x)


@wrong("4.bug1", "scale_and_shift_act")
class NotScaled(Normalized):
    def scaled(self, x):
        return x


# 4.bug2

wrong("4.bug2", "places_differ")(zoo.Embeddings2)


@wrong("4.bug2", "every_batch_goes_through")
class NotCropped(zoo.Embeddings2):
    def forward(self, in_idx):
        return self.tok_emb(in_idx) + self.pos_emb.weight


@wrong("4.bug2", "every_batch_goes_through")
class FilledUpToTheContext(zoo.Embeddings2):
    def forward(self, in_idx):
        num_tokens = in_idx.shape[1]
        ids = F.pad(in_idx, (0, len(self.pos_emb.weight) - num_tokens))
        return self.tok_emb(ids) + self.pos_emb.weight


@wrong("4.bug2", "vector_is_token_plus_place")
class CountedThroughTheBatch(zoo.Embeddings2):
    def forward(self, in_idx):
        places = torch.arange(in_idx.numel()).view_as(in_idx) % len(self.pos_emb.weight)
        return self.tok_emb(in_idx) + self.pos_emb(places)


@wrong("4.bug2", "vector_is_token_plus_place")
class CountedFromTheEnd(zoo.Embeddings2):
    def forward(self, in_idx):
        return self.tok_emb(in_idx) + self.pos_emb(torch.arange(in_idx.shape[1]).flip(0))


@wrong("4.bug2", "vector_is_token_plus_place")
class PlacesAlone(zoo.Embeddings2):
    def forward(self, in_idx):
        places = self.pos_emb(torch.arange(in_idx.shape[1]))
        return places.expand(len(in_idx), -1, -1)


# 4.bug3

wrong("4.bug3", "attention_is_added")(zoo.TransformerBlock3)


@wrong("4.bug3", "block_keeps_the_shape")
class LastTokenAlone(TransformerBlock):
    def forward(self, x):
        return super().forward(x)[:, -1]


@wrong("4.bug3", "attention_is_added")
class ShortcutAfterTheNormalization(TransformerBlock):
    def forward(self, x):
        x = self.norm1(x)
        x = x + self.att(x)
        return x + self.ff(self.norm2(x))


@wrong("4.bug3", "attention_is_added")
class FirstShortcutAlone(TransformerBlock):
    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return self.ff(self.norm2(x))


@wrong("4.bug3", "feed_forward_is_added")
class FeedForwardNotNormalized(TransformerBlock):
    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(x)


@wrong("4.bug3", "block_is_that_of_the_chapter")
class SideBySide(TransformerBlock):
    def forward(self, x):
        return x + self.att(self.norm1(x)) + self.ff(self.norm2(x))


@wrong("4.bug3", "dropout_acts_twice")
class DropoutLost(TransformerBlock):
    def forward(self, x):
        x = x + self.att(self.norm1(x))
        return x + self.ff(self.norm2(x))


@wrong("4.bug3", "dropout_acts_twice")
class DropoutOnTheAttentionAlone(TransformerBlock):
    def forward(self, x):
        x = x + self.drop_shortcut(self.att(self.norm1(x)))
        return x + self.ff(self.norm2(x))


# 4.bug4

wrong("4.bug4", "windows_hold_for_their_block")(zoo.masks_4)


def places_back(num_tokens):
    places = torch.arange(num_tokens)
    return places[:, None] - places[None, :]


@wrong("4.bug4", "each_block_has_a_mask")
def one_mask_for_all(num_tokens, windows):
    return places_back(num_tokens) < 0


@wrong("4.bug4", "each_block_has_a_mask")
def zeros_and_ones(num_tokens, windows):
    return zoo.masks_4(num_tokens, windows).int()


@wrong("4.bug4", "the_future_is_hidden_in_each_block")
def only_the_distant_hidden(num_tokens, windows):
    distance = places_back(num_tokens)
    return torch.stack([distance >= (window or num_tokens) for window in windows])


@wrong("4.bug4", "windows_hold_for_their_block")
def renamed_and_yet_handed_on(num_tokens, windows):
    hidden, masks = places_back(num_tokens) < 0, []
    for window in windows:
        hidden = hidden | (places_back(num_tokens) >= (window or num_tokens))
        masks.append(hidden)
    return torch.stack(masks)


@wrong("4.bug4", "windows_hold_for_their_block")
def windows_taken_out(num_tokens, windows):
    return torch.stack([places_back(num_tokens) < 0 for _ in windows])


@wrong("4.bug4", "windows_hold_for_their_block")
def windows_too_wide_by_one(num_tokens, windows):
    distance = places_back(num_tokens)
    return torch.stack([(distance < 0) | (distance > (w or num_tokens)) for w in windows])


# 4.bug5

wrong("4.bug5", "each_block_has_its_parameters")(zoo.Stack5)


@wrong("4.bug5", "each_block_has_its_parameters")
class InAPlainList(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.blocks = [TransformerBlock(cfg) for _ in range(cfg["n_layers"])]

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Stacked(zoo.Stack5):
    """The right answer, if nothing is overridden."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.blocks = nn.ModuleList(TransformerBlock(cfg) for _ in range(cfg["n_layers"]))


@wrong("4.bug5", "blocks_start_differently")
class Copied(Stacked):
    def __init__(self, cfg):
        super().__init__(cfg)
        for block in self.blocks:
            block.load_state_dict(self.blocks[0].state_dict())


@wrong("4.bug5", "blocks_start_differently")
class SeededAnew(zoo.Stack5):
    def __init__(self, cfg):
        super().__init__(cfg)
        self.blocks = nn.ModuleList()
        for _ in range(cfg["n_layers"]):
            torch.default_generator.manual_seed(123)
            self.blocks.append(TransformerBlock(cfg))


@wrong("4.bug5", "blocks_follow_each_other")
class LastBlockAlone(Stacked):
    def forward(self, x):
        for block in self.blocks:
            output = block(x)
        return output


@wrong("4.bug5", "blocks_follow_each_other")
class Backwards(Stacked):
    def forward(self, x):
        for block in reversed(self.blocks):
            x = block(x)
        return x


# 4.bug6

wrong("4.bug6", "certainty_costs_nothing")(zoo.loss_6)


@wrong("4.bug6", "the_loss_is_a_number")
def not_averaged(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")


@wrong("4.bug6", "equal_scores_give_the_logarithm")
def probabilities_not_logarithms(logits, targets):
    return F.nll_loss(logits.softmax(dim=-1).flatten(0, 1), targets.flatten())


@wrong("4.bug6", "equal_scores_give_the_logarithm")
def no_softmax_at_all(logits, targets):
    return F.nll_loss(logits.flatten(0, 1), targets.flatten())


@wrong("4.bug6", "certainty_costs_nothing")
def softmax_over_the_text(logits, targets):
    return F.cross_entropy(logits.softmax(dim=1).flatten(0, 1), targets.flatten())


@wrong("4.bug6", "loss_is_the_cross_entropy")
def scores_sharpened(logits, targets):
    return F.cross_entropy(2 * logits.flatten(0, 1), targets.flatten())


@wrong("4.bug6", "loss_is_the_cross_entropy")
def first_text_only(logits, targets):
    return F.cross_entropy(logits[0], targets[0])


# 4.bug7

wrong("4.bug7", "the_last_tokens_are_seen")(zoo.write_7)


def greedy(model, idx, rounds, crop, position=-1, dim=-1):
    for _ in range(rounds):
        with torch.no_grad():
            logits = model(crop(idx))[:, position]
        idx = torch.cat([idx, logits.argmax(dim=dim, keepdim=True)], dim=1)
    return idx


@wrong("4.bug7", "the_prompt_is_continued")
def last_tokens_alone_come_back(model, idx, max_new_tokens, context_size):
    return greedy(model, idx, max_new_tokens, lambda ids: ids[:, -context_size:])[:, idx.shape[1] :]


@wrong("4.bug7", "the_last_tokens_are_seen")
def not_cropped(model, idx, max_new_tokens, context_size):
    return greedy(model, idx, max_new_tokens, lambda ids: ids)


@wrong("4.bug7", "the_last_tokens_are_seen")
def one_token_too_few(model, idx, max_new_tokens, context_size):
    return greedy(model, idx, max_new_tokens, lambda ids: ids[:, 1 - context_size :])


@wrong("4.bug7", "the_last_tokens_are_seen")
def texts_cropped_in_place_of_tokens(model, idx, max_new_tokens, context_size):
    return greedy(model, idx, max_new_tokens, lambda ids: ids[-context_size:])


@wrong("4.bug7", "the_last_tokens_are_seen")
def logits_of_the_first_position(model, idx, max_new_tokens, context_size):
    return greedy(model, idx, max_new_tokens, lambda ids: ids[:, -context_size:], position=0)


@wrong("4.bug7", "the_likeliest_id_is_appended")
def last_step_repeated(model, idx, max_new_tokens, context_size):
    """Right for a model that counts: it goes on counting without looking at the model."""
    for _ in range(max_new_tokens):
        model(idx[:, -context_size:])
        idx = torch.cat([idx, (idx[:, -1:] + 1) % 10], dim=1)
    return idx


# 4.bug8

wrong("4.bug8", "the_model_writes_in_evaluation_mode")(zoo.write_8)


@wrong("4.bug8", "the_model_writes_in_evaluation_mode")
def no_gradients_taken_for_no_dropout(model, idx, max_new_tokens, context_size):
    with torch.inference_mode():
        return zoo.write_8(model, idx, max_new_tokens, context_size).clone()


@wrong("4.bug8", "the_model_writes_in_evaluation_mode")
def same_seed_each_time(model, idx, max_new_tokens, context_size):
    torch.default_generator.manual_seed(123)
    return zoo.write_8(model, idx, max_new_tokens, context_size)


@wrong("4.bug8", "mode_is_as_before")
def left_in_evaluation_mode(model, idx, max_new_tokens, context_size):
    return zoo.write_8(model.eval(), idx, max_new_tokens, context_size)


@wrong("4.bug8", "mode_is_as_before")
def always_back_to_training(model, idx, max_new_tokens, context_size):
    ids = zoo.write_8(model.eval(), idx, max_new_tokens, context_size)
    model.train()
    return ids


@wrong("4.bug8", "mode_is_as_before")
def outermost_module_alone(model, idx, max_new_tokens, context_size):
    was_training = model.training
    ids = zoo.write_8(model.eval(), idx, max_new_tokens, context_size)
    model.training = was_training
    return ids
