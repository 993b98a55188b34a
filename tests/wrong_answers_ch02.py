"""Plausible wrong answers to chapter 2's exercises, each with the rule that must refuse it."""

import math
import re

import tiktoken
import torch
from torch.utils.data import Dataset

import ch02_bug_zoo as zoo
import companion
from dataloader import GPTDatasetV1, create_dataloader_v1
from simple_tokenizer import SPLIT_PATTERN, split_text

companion.prepare_tokenizer()
GPT2 = tiktoken.get_encoding("gpt2")
END = "<|endoftext|>"
STORY = companion.asset("the-next-word.txt").read_text(encoding="utf-8")

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


# 2.1

wrong("2.1", "pieces_spell_the_text")(
    [
        (token_id, GPT2.decode([token_id]))
        for word in ("Akwirw", "ier")
        for token_id in GPT2.encode(word)
    ]
)
wrong("2.1", "pieces_spell_the_text")([])
wrong("2.1", "each_piece_is_the_text_of_its_id")(
    list(enumerate(GPT2.decode([token_id]) for token_id in GPT2.encode("Akwirw ier")))
)
wrong("2.1", "each_piece_is_the_text_of_its_id")([(33901, "Akwirw ier")])
wrong("2.1", "cuts_are_the_tokenizers")([(GPT2.encode(c)[0], c) for c in "Akwirw ier"])

# 2.2


def loaders(*sizes, batch_size=4, shuffle=False):
    return [
        create_dataloader_v1(STORY, batch_size, max_length, stride, shuffle=shuffle)
        for max_length, stride in sizes
    ]


wrong("2.2", "batches_have_four_rows")(loaders((2, 2), (8, 2), batch_size=8))
wrong("2.2", "order_is_that_of_the_text")(loaders((2, 2), (8, 2), shuffle=True))
wrong("2.2", "windows_have_their_widths")(loaders((8, 2), (2, 2)))
wrong("2.2", "rows_step_by_two")(loaders((2, 2), (8, 8)))
wrong("2.2", "rows_step_by_two")(loaders((2, 1), (8, 2)))

# 2.3

wrong("2.3", "nothing_is_lost")(split_text)


@wrong("2.3", "nothing_is_lost")
def words_and_blanks(text):
    return " ".join(text.split()).split(" ")


@wrong("2.3", "no_piece_is_empty")
def leaves_empty_pieces(text):
    return re.split(SPLIT_PATTERN, text)


@wrong("2.3", "words_stay_whole")
def letters(text):
    return list(text)


@wrong("2.3", "marks_stand_alone")
def white_space_only(text):
    return [piece for piece in re.split(r"(\s)", text) if piece]


# 2.4


@wrong("2.4", "a_short_text_gives_none")
def forgets_the_target(num_tokens, max_length, stride):
    return len(range(0, num_tokens - max_length + 1, stride))


@wrong("2.4", "a_short_text_gives_none")
def below_zero(num_tokens, max_length, stride):
    return math.ceil((num_tokens - max_length) / stride)


@wrong("2.4", "one_more_token_gives_one")
def rounds_down(num_tokens, max_length, stride):
    return max(0, (num_tokens - max_length) // stride)


@wrong("2.4", "agrees_with_the_dataset")
def stride_forgotten(num_tokens, max_length, stride):
    return max(0, num_tokens - max_length)


@wrong("2.4", "agrees_with_the_dataset")
def any_or_none(num_tokens, max_length, stride):
    return int(num_tokens > max_length)


# 2.5


def count_positions(num_tokens, starts, max_length):
    counts = [0] * num_tokens
    for start in starts:
        for position in range(start, start + max_length):
            counts[position] += 1
    return counts


@wrong("2.5", "each_token_has_a_count")
def without_the_last(num_tokens, max_length, stride):
    starts = range(0, num_tokens - max_length, stride)
    return count_positions(num_tokens, starts, max_length)[:-1]


@wrong("2.5", "the_last_token_is_never_an_input")
def a_window_without_target(num_tokens, max_length, stride):
    starts = range(0, num_tokens - max_length + 1, stride)
    return count_positions(num_tokens, starts, max_length)


@wrong("2.5", "the_last_token_is_never_an_input")
def targets_instead_of_inputs(num_tokens, max_length, stride):
    starts = range(1, num_tokens - max_length + 1, stride)
    return count_positions(num_tokens, starts, max_length)


@wrong("2.5", "touching_windows_share_no_token")
def as_if_stride_were_one(num_tokens, max_length, stride):
    starts = range(num_tokens - max_length)
    return count_positions(num_tokens, starts, max_length)


@wrong("2.5", "agrees_with_the_dataset")
def as_if_stride_were_the_width(num_tokens, max_length, stride):
    starts = range(0, num_tokens - max_length, max_length)
    return count_positions(num_tokens, starts, max_length)


# 2.6


def one_hot(ids, weight):
    return torch.nn.functional.one_hot(ids, num_classes=len(weight)).to(weight.dtype)


@wrong("2.6", "shape_is_that_of_ids_and_vector")
def transposed(ids, weight):
    return (one_hot(ids, weight) @ weight).transpose(0, -1)


@wrong("2.6", "shape_is_that_of_ids_and_vector")
def the_one_hot_vectors_alone(ids, weight):
    return one_hot(ids, weight)


@wrong("2.6", "each_id_gives_its_row")
def counts_from_one(ids, weight):
    return torch.eye(len(weight))[ids - 1] @ weight


@wrong("2.6", "rows_come_from_a_product")
def indexes(ids, weight):
    return weight[ids]


@wrong("2.6", "rows_come_from_a_product")
def asks_the_embedding_layer(ids, weight):
    return torch.nn.Embedding.from_pretrained(weight)(ids)


# 2.7

wrong("2.7", "no_input_holds_an_end_mark")(GPTDatasetV1)


class OfWindows(Dataset):
    """A dataset of the windows that `cut` makes, each with its target at the end."""

    def __init__(self, txt, tokenizer, max_length, stride):
        self.windows = [torch.tensor(ids) for ids in self.cut(txt, max_length, stride)]

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, idx):
        return self.windows[idx][:-1], self.windows[idx][1:]

    def ids(self, txt):
        return GPT2.encode(txt, allowed_special={END})

    def windows_of(self, ids, max_length, stride):
        return [ids[i : i + max_length + 1] for i in range(0, len(ids) - max_length, stride)]

    def texts(self, txt, with_end=True):
        parts = txt.split(END)
        return [self.ids(part + END * with_end) for part in parts[:-1]] + [self.ids(parts[-1])]


@wrong("2.7", "an_item_is_a_pair_of_windows")
class TargetIsOneToken(OfWindows):
    def cut(self, txt, max_length, stride):
        return [w for ids in self.texts(txt) for w in self.windows_of(ids, max_length, stride)]

    def __getitem__(self, idx):
        return self.windows[idx][:-1], self.windows[idx][-1]


@wrong("2.7", "targets_are_one_token_later")
class TargetIsInput(OfWindows):
    def cut(self, txt, max_length, stride):
        return [w for ids in self.texts(txt) for w in self.windows_of(ids, max_length, stride)]

    def __getitem__(self, idx):
        return self.windows[idx][:-1], self.windows[idx][:-1]


@wrong("2.7", "no_end_mark_is_made_up")
class LastTextEndedToo(OfWindows):
    def cut(self, txt, max_length, stride):
        texts = [self.ids(part + END) for part in txt.split(END)]
        return [w for ids in texts for w in self.windows_of(ids, max_length, stride)]


@wrong("2.7", "no_window_joins_two_texts")
class MarksTakenOut(OfWindows):
    def cut(self, txt, max_length, stride):
        return self.windows_of(self.ids(txt.replace(END, "")), max_length, stride)


@wrong("2.7", "a_single_text_is_cut_as_before")
class StrideForgotten(OfWindows):
    def cut(self, txt, max_length, stride):
        return [w for ids in self.texts(txt) for w in self.windows_of(ids, max_length, max_length)]


@wrong("2.7", "a_model_learns_where_a_text_ends")
class EndsLost(OfWindows):
    def cut(self, txt, max_length, stride):
        texts = self.texts(txt, with_end=False)
        return [w for ids in texts for w in self.windows_of(ids, max_length, stride)]


@wrong("2.7", "each_text_starts_anew")
class CrossingWindowsLeftOut(OfWindows):
    def cut(self, txt, max_length, stride):
        windows = self.windows_of(self.ids(txt), max_length, stride)
        return [w for w in windows if GPT2.eot_token not in w[:-1]]


@wrong("2.7", "a_short_text_is_left_out")
class StopsAtAShortText(OfWindows):
    def cut(self, txt, max_length, stride):
        windows = []
        for ids in self.texts(txt):
            if len(ids) <= max_length:
                break
            windows += self.windows_of(ids, max_length, stride)
        return windows


# 2.bug1

wrong("2.bug1", "ids_do_not_depend_on_the_order_of_the_text")(zoo.vocab_1)


@wrong("2.bug1", "each_token_has_an_entry")
def from_id_to_token(tokens):
    return dict(enumerate(sorted(set(tokens))))


@wrong("2.bug1", "ids_have_no_gap")
def sorted_with_repetitions(tokens):
    return {token: token_id for token_id, token in enumerate(sorted(tokens))}


@wrong("2.bug1", "ids_follow_the_sorted_tokens")
def sorted_backwards(tokens):
    return {token: i for i, token in enumerate(sorted(set(tokens), reverse=True))}


# 2.bug2

wrong("2.bug2", "a_mark_is_one_id")(zoo.encode_2)


@wrong("2.bug2", "a_mark_is_one_id")
def takes_the_mark_out(text):
    return GPT2.encode(text.replace(END, ""))


@wrong("2.bug2", "ordinary_text_has_gpt2s_ids")
def adds_a_mark_to_everything(text):
    return [*GPT2.encode(text, disallowed_special=()), GPT2.eot_token]


@wrong("2.bug2", "text_around_a_mark_is_kept")
def strips_the_texts(text):
    if END not in text:
        return GPT2.encode(text)
    return GPT2.encode(END.join(map(str.strip, text.split(END))), allowed_special={END})


# 2.bug3

wrong("2.bug3", "characters_of_several_tokens_come_back")(zoo.decode_3)


@wrong("2.bug3", "plain_text_comes_back")
def blanks_between(ids):
    return " ".join(GPT2.decode([token_id]) for token_id in ids)


@wrong("2.bug3", "characters_of_several_tokens_come_back")
def hides_the_damage(ids):
    return GPT2.decode(ids).encode("ascii", errors="ignore").decode()


# 2.bug4 to 2.bug6

wrong("2.bug4", "targets_are_one_token_later")(zoo.Windows4)
wrong("2.bug5", "the_last_window_is_there")(zoo.Windows5)
wrong("2.bug6", "windows_step_by_stride")(zoo.Windows6)


@wrong("2.bug4", "an_item_is_a_pair_of_windows")
class ShorterTargets(zoo.Windows4):
    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx][1:]


@wrong("2.bug4", "targets_are_one_token_later")
class RolledTargets(zoo.Windows4):
    def __getitem__(self, idx):
        return self.input_ids[idx], self.input_ids[idx].roll(-1)


@wrong("2.bug4", "targets_are_one_token_later")
class ShiftedTheOtherWay(GPTDatasetV1):
    def __getitem__(self, idx):
        return self.target_ids[idx], self.input_ids[idx]


class FromARange(Dataset):
    def __init__(self, txt, tokenizer, max_length, stride):
        self.token_ids = torch.tensor(tokenizer.encode(txt))
        self.starts = self.range_of(len(self.token_ids), max_length, stride)
        self.max_length = max_length

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, idx):
        start, end = self.starts[idx], self.starts[idx] + self.max_length
        return self.token_ids[start:end], self.token_ids[start + 1 : end + 1]


@wrong("2.bug5", "an_item_is_a_pair_of_windows")
class OneWindowTooMany(FromARange):
    def range_of(self, num_tokens, max_length, stride):
        return range(0, num_tokens - max_length + 1, stride)


@wrong("2.bug5", "the_last_window_is_there")
class TwoTokensTakenOff(FromARange):
    def range_of(self, num_tokens, max_length, stride):
        return range(0, num_tokens - max_length - 2, stride)


@wrong("2.bug6", "windows_step_by_stride")
class AlwaysOneToken(FromARange):
    def range_of(self, num_tokens, max_length, stride):
        return range(num_tokens - max_length)


@wrong("2.bug6", "windows_step_by_stride")
class StartsLate(FromARange):
    def range_of(self, num_tokens, max_length, stride):
        return range(stride, num_tokens - max_length, stride)


@wrong("2.bug6", "an_item_is_a_pair_of_windows")
class OnlyTheStartMended(zoo.Windows6):
    def __getitem__(self, idx):
        start = idx * self.stride
        end = start + self.max_length
        return self.token_ids[start:end], self.token_ids[start + 1 : end + 1]
