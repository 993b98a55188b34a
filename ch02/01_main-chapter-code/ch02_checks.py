"""What the answers to chapter 2's exercises must do: read by `companion.exercises`.

2.1 and 2.2 are the book's exercises, the others this repository's; 2.bug1 to 2.bug6 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens in a window (`max_length`), V vocabulary, D width of a vector.
"""

import itertools

import tiktoken
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset, RandomSampler

import companion
from companion.exercises import Class, Exercise, Function, must
from dataloader import GPTDatasetV1

companion.prepare_tokenizer()  # so that GPT-2's tokenizer loads with the network off
GPT2 = tiktoken.get_encoding("gpt2")
END = "<|endoftext|>"
WORDS = " one two three four five six seven eight nine ten"  # a token each


class CountedTokens:
    """A tokenizer whose text of n characters has the tokens 0, 1, ..., n - 1."""

    def encode(self, text, **_):
        return list(range(len(text)))


def windows_of_numbers(num_tokens, max_length, stride):
    """The input windows that `GPTDatasetV1` cuts out of the tokens 0, 1, ..., num_tokens - 1."""
    if num_tokens <= max_length:
        return []
    dataset = GPTDatasetV1(" " * num_tokens, CountedTokens(), max_length, stride)
    return [inputs.tolist() for inputs in dataset.input_ids]


def pairs_in(dataset):
    """(inputs, targets) of each window, as lists of ids."""
    return [tuple(part.tolist() for part in dataset[i]) for i in range(len(dataset))]


def shapes_of(item):
    """Shape of each part of a dataset's item; () for what is no tensor."""
    return [tuple(getattr(part, "shape", ())) for part in item]


# The book's exercises


class PiecesOfUnknownWords(Exercise):
    number = "2.1"
    title = "byte pair encoding of unknown words"
    answer = list[tuple[int, str]]
    hints = (
        "`tiktoken.get_encoding('gpt2')` gives the tokenizer; its `encode` makes a list of ids.",
        "`decode` takes a list of ids. To see the text of one id, give it a list of one.",
        "`[(integer, tokenizer.decode([integer])) for integer in ...]`, over the ids of the text.",
    )

    @must("Put together, the pieces must spell the two words with the blank between them.")
    def pieces_spell_the_text(self, pairs):
        return "".join(piece for _, piece in pairs) == "Akwirw ier"

    @must("Each pair must be a token's id in GPT-2's vocabulary and the text of that very token.")
    def each_piece_is_the_text_of_its_id(self, pairs):
        known = all(0 <= token_id < GPT2.n_vocab for token_id, _ in pairs)
        return known and all(GPT2.decode([token_id]) == piece for token_id, piece in pairs)

    @must("These tokens spell the words, but GPT-2's tokenizer cuts them at other places.")
    def cuts_are_the_tokenizers(self, pairs):
        return [token_id for token_id, _ in pairs] == GPT2.encode("Akwirw ier")


class LoadersOfOtherSizes(Exercise):
    number = "2.2"
    title = "loaders with other lengths and strides"
    answer = tuple[DataLoader, DataLoader]
    hints = (
        "`create_dataloader_v1` makes both. All that differs from section 2.6 is its arguments.",
        "`max_length` is the width of a row, `stride` the step from one row to the next. Both "
        "loaders need `batch_size=4` and `shuffle=False`.",
        "The first is `create_dataloader_v1(raw_text, batch_size=4, max_length=2, stride=2, "
        "shuffle=False)`; one number changes for the second.",
    )

    @must("A batch must have four rows.")
    def batches_have_four_rows(self, loaders):
        return all(loader.batch_size == 4 for loader in loaders)

    @must("The loaders must not shuffle: without that, rows cannot be compared by eye.")
    def order_is_that_of_the_text(self, loaders):
        return not any(isinstance(loader.sampler, RandomSampler) for loader in loaders)

    @must("The first loader's rows must be 2 tokens wide, and the second's 8.")
    def windows_have_their_widths(self, loaders):
        return [next(iter(loader))[0].shape[1] for loader in loaders] == [2, 8]

    @must("In both loaders, a row must start two tokens after the row above it.")
    def rows_step_by_two(self, loaders):
        for inputs, targets in (next(iter(loader)) for loader in loaders):
            rows = torch.cat([inputs, targets[:, -1:]], dim=1)  # (B, T + 1)
            if not torch.equal(rows[:-1, 2:], rows[1:, :-2]):
                return False
        return True


# This repository's exercises


class SplitKeepingSpace(Exercise):
    number = "2.3"
    title = "a split that keeps white space"
    answer = Function("text", returns=list[str])
    hints = (
        "`re.split` with a captured group returns the separators as well, white space among them. "
        "Look at what `split_text` of section 2.2 does to its pieces afterwards.",
        "Two things happen to a piece there: `strip()` takes its blanks away, and `if piece` drops "
        "it when it is empty. Only one of them is wanted here.",
        "`[piece for piece in re.split(SPLIT_PATTERN, text) if ...]`: keep what is not empty.",
    )

    @must(
        "Joined with nothing between them, the pieces must give back the very same text.",
        on=["one two", "one  two", "\tthree, four -- five?\n\nSix.", " ", ""],
    )
    def nothing_is_lost(self, split, text):
        return "".join(split(text)) == text

    @must("No piece may be empty.", on=["one, two", "end.", ""])
    def no_piece_is_empty(self, split, text):
        return "" not in split(text)

    @must("A word must stay in one piece.", on=[("one two", "two"), ("half-way there", "half-way")])
    def words_stay_whole(self, split, text, word):
        return word in split(text)

    @must(
        "A punctuation mark must be a piece of its own, as in section 2.2.",
        on=[("Hello, world.", ","), ("Hello, world.", "."), ("Is this-- a test?", "--")],
    )
    def marks_stand_alone(self, split, text, mark):
        return mark in split(text)


class NumberOfWindows(Exercise):
    number = "2.4"
    title = "how many windows"
    answer = Function("num_tokens, max_length, stride", returns=int)
    hints = (
        "Count on paper: five tokens, windows of two. The last window is the last whose target is "
        "still inside the text, so it cannot be *four five*.",
        "The windows start at 0, stride, 2 * stride, and so on. Which of them is the first that is "
        "too late?",
        "The first forbidden start is `num_tokens - max_length`. Python counts such starts itself: "
        "`len(range(0, ..., stride))`, and an empty range has length 0.",
    )

    @must(
        "A text no longer than one window gives no window: its last target would lie beyond it.",
        on=[(4, 4, 1), (3, 4, 1), (0, 4, 2)],
    )
    def a_short_text_gives_none(self, count, num_tokens, max_length, stride):
        return count(num_tokens, max_length, stride) == 0

    @must(
        "One token more than a window makes exactly one window, whatever the stride.",
        on=[(5, 4, 1), (5, 4, 4), (5, 4, 9)],
    )
    def one_more_token_gives_one(self, count, num_tokens, max_length, stride):
        return count(num_tokens, max_length, stride) == 1

    @must(
        "`GPTDatasetV1` cuts another number of windows.",
        on=[(n, t, s) for n in (6, 9, 20) for t in (1, 4) for s in (1, 3, 4, 7)],
    )
    def agrees_with_the_dataset(self, count, num_tokens, max_length, stride):
        windows = windows_of_numbers(num_tokens, max_length, stride)
        return count(num_tokens, max_length, stride) == len(windows)


class TimesSeen(Exercise):
    number = "2.5"
    title = "how often a token is seen"
    answer = Function("num_tokens, max_length, stride", returns=list[int])
    hints = (
        "Start from a list of zeros, one for each token, and walk through the windows.",
        "The windows start at `range(0, num_tokens - max_length, stride)`, as in `GPTDatasetV1`. "
        "Only inputs count, not targets.",
        "Two loops: `for start in ...:` and, inside it, `for position in range(start, start + "
        "max_length):`. All that is left is to add 1 at the right place.",
    )

    @must("The list must have one count for each token.", on=[(9, 4, 1), (9, 4, 4), (9, 2, 5)])
    def each_token_has_a_count(self, times_seen, num_tokens, max_length, stride):
        return len(times_seen(num_tokens, max_length, stride)) == num_tokens

    @must(
        "The last token is a target only, never an input: nothing follows it.",
        on=[(9, 4, 1), (8, 4, 4), (9, 1, 1)],
    )
    def the_last_token_is_never_an_input(self, times_seen, num_tokens, max_length, stride):
        return times_seen(num_tokens, max_length, stride)[-1] == 0

    @must(
        "With a stride as long as the window, a token that is in a window is in just one.",
        on=[(9, 4, 4), (30, 7, 7)],
    )
    def touching_windows_share_no_token(self, times_seen, num_tokens, max_length, stride):
        return max(times_seen(num_tokens, max_length, stride)) == 1

    @must(
        "Some token is an input of `GPTDatasetV1`'s windows more often, or less often.",
        on=[(n, t, s) for n in (9, 20) for t in (1, 4) for s in (1, 3, 4, 7)],
    )
    def agrees_with_the_dataset(self, times_seen, num_tokens, max_length, stride):
        windows = windows_of_numbers(num_tokens, max_length, stride)
        expected = [sum(token in window for window in windows) for token in range(num_tokens)]
        return times_seen(num_tokens, max_length, stride) == expected


class WatchedTorch(TorchFunctionMode):
    """Remembers the names of torch's functions that are called while it is active."""

    PRODUCTS = frozenset(
        {"matmul", "__matmul__", "mm", "bmm", "einsum", "linear", "tensordot", "mul", "__mul__"}
    )

    def __init__(self):
        super().__init__()
        self.called = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.called.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


class LookUpAsProduct(Exercise):
    number = "2.6"
    title = "a look-up is a product"
    answer = Function("ids, weight", returns=torch.Tensor)
    hints = (
        "A one-hot vector of length V has a 1 at the place of its id, and zeros elsewhere. What "
        "does it make of a matrix with V rows that it is multiplied with?",
        "`torch.nn.functional.one_hot` makes the vectors. Tell it V, or it guesses from the ids; "
        "and it returns integers, which `@` does not multiply with floats.",
        "`one_hot(ids, num_classes=weight.shape[0])`, made float, and then `@ weight`.",
    )
    ROWS = torch.arange(15.0).reshape(5, 3)  # (V, D)

    @must(
        "The result must have the shape of the ids, and one more dimension for the vectors.",
        on=[(torch.tensor([2, 0, 4]), ROWS), (torch.tensor([[1, 1], [3, 0]]), ROWS)],
    )
    def shape_is_that_of_ids_and_vector(self, look_up, ids, weight):
        return look_up(ids, weight).shape == (*ids.shape, weight.shape[1])

    @must(
        "The vector of an id must be the row of `weight` with that number.",
        on=[(torch.tensor([2, 0, 4]), ROWS), (torch.tensor([[1, 1], [3, 0]]), ROWS)],
    )
    def each_id_gives_its_row(self, look_up, ids, weight):
        return torch.equal(look_up(ids, weight), weight[ids])

    @must("The rows are right, but they were looked up. They must come from a matrix product.")
    def rows_come_from_a_product(self, look_up):
        with WatchedTorch() as torch_functions:
            look_up(torch.tensor([2, 0, 4]), self.ROWS)
        return not torch_functions.called.isdisjoint(torch_functions.PRODUCTS)


class WindowsWithinTexts(Exercise):
    number = "2.7"
    title = "windows that never cross the end of a text"
    answer = Class(Dataset, "txt, tokenizer, max_length, stride")
    hints = (
        "Cut the token ids into texts first, then cut windows out of each text with the range of "
        "`GPTDatasetV1`.",
        f"If every text keeps its `{END}` as its last token, that range does the rest: the last "
        "token is a target only.",
        "Go through the ids and collect them in a list `text`. Whenever you meet "
        "`tokenizer.eot_token`, append it, put `text` away and start an empty one. Do not forget "
        "the last text, which may have no end mark; for a short text the range is empty.",
    )
    TEXTS = f" one two three four five{END} six seven eight nine{END} ten one two three"

    @must(
        "An item must be a pair of tensors, inputs and targets, of `max_length` ids each.",
        on=[(WORDS, 4, 1), (TEXTS, 2, 2)],
    )
    def an_item_is_a_pair_of_windows(self, dataset_class, txt, max_length, stride):
        dataset = dataset_class(txt, GPT2, max_length, stride)
        shapes = [shape for i in range(len(dataset)) for shape in shapes_of(dataset[i])]
        return shapes == [(max_length,)] * (2 * len(dataset))

    @must("A target must be its input one token later.", on=[(WORDS, 4, 1), (TEXTS, 2, 2)])
    def targets_are_one_token_later(self, dataset_class, txt, max_length, stride):
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        return all(inputs[1:] == targets[:-1] for inputs, targets in pairs)

    @must(
        f"No input may hold `{END}`: what follows it would be predicted from another text.",
        on=[(TEXTS, 2, 1), (TEXTS, 3, 3)],
    )
    def no_input_holds_an_end_mark(self, dataset_class, txt, max_length, stride):
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        return not any(GPT2.eot_token in inputs for inputs, _ in pairs)

    @must(
        f"A text that does not end with `{END}` must not be given one.",
        on=[(WORDS, 2, 1), (WORDS, 3, 2)],
    )
    def no_end_mark_is_made_up(self, dataset_class, txt, max_length, stride):
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        return not any(GPT2.eot_token in targets for _, targets in pairs)

    @must(
        "A window joins the end of one text with the beginning of the next.",
        on=[(TEXTS, 2, 1), (TEXTS, 3, 2)],
    )
    def no_window_joins_two_texts(self, dataset_class, txt, max_length, stride):
        texts = [GPT2.decode(ids) for ids in self._texts(txt)]
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        windows = [GPT2.decode([*inputs, targets[-1]]) for inputs, targets in pairs]
        return all(any(window in text for text in texts) for window in windows)

    @must(
        "A single text must give the windows that `GPTDatasetV1` cuts.",
        on=[(WORDS, 2, 1), (WORDS, 3, 3), (WORDS, 4, 2)],
    )
    def a_single_text_is_cut_as_before(self, dataset_class, txt, max_length, stride):
        expected = GPTDatasetV1(txt, GPT2, max_length, stride)
        return pairs_in(dataset_class(txt, GPT2, max_length, stride)) == pairs_in(expected)

    @must(f"`{END}` must be the last target of its text.", on=[(TEXTS, 2, 1), (TEXTS, 3, 1)])
    def a_model_learns_where_a_text_ends(self, dataset_class, txt, max_length, stride):
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        return sum(targets[-1] == GPT2.eot_token for _, targets in pairs) == txt.count(END)

    @must(
        "The windows of each text must start at its first token, and go on from there by `stride`.",
        on=[(TEXTS, 2, 2), (TEXTS, 3, 2)],
    )
    def each_text_starts_anew(self, dataset_class, txt, max_length, stride):
        expected = [
            ids[start : start + max_length]
            for ids in self._texts(txt)
            for start in range(0, len(ids) - max_length, stride)
        ]
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        return [inputs for inputs, _ in pairs] == expected

    @must(
        "A text too short for a window must be left out, and the others kept.",
        on=[(f" one{END} two three four", 2, 1), (f"{END}{END} two three four", 2, 1)],
    )
    def a_short_text_is_left_out(self, dataset_class, txt, max_length, stride):
        return len(dataset_class(txt, GPT2, max_length, stride)) == 1

    def _texts(self, txt):
        """Ids of each text, with its end mark."""
        parts = txt.split(END)
        ended = [part + END for part in parts[:-1]]
        return [GPT2.encode(part, allowed_special={END}) for part in [*ended, parts[-1]]]


# The bug zoo

IN_THE_SOLUTIONS = 'exercise-solutions.ipynb, beside this notebook, under "The bug zoo"'


class BugVocab(Exercise):
    number = "2.bug1"
    title = "a vocabulary that remembers too much"
    answer = Function("tokens", returns=dict)
    solution = IN_THE_SOLUTIONS
    hints = (
        "Compare the ids of *mat* in the two vocabularies. What about the text decides them?",
        "An id must depend on which tokens there are, and on nothing else. Section 2.3 does "
        "something with the distinct tokens before it numbers them.",
        "Take the distinct tokens with `set(tokens)`, bring them into an order that is always the "
        "same with `sorted`, and number them with `enumerate`.",
    )

    @must(
        "Each distinct token of the text must have an entry, and nothing else.",
        on=[(["b", "a", "b", "!"],), ([],)],
    )
    def each_token_has_an_entry(self, build, tokens):
        return build(tokens).keys() == set(tokens)

    @must(
        "The ids must run from 0 to one less than the number of distinct tokens, without a gap.",
        on=[(["b", "a", "b", "!"],), (["x", "x", "x"],)],
    )
    def ids_have_no_gap(self, build, tokens):
        return sorted(build(tokens).values()) == list(range(len(set(tokens))))

    @must(
        "The same tokens in another order must get the same ids.",
        on=[(["the", "cat", "sat", "."],), (["b", "c", "a", "a", "!"],)],
    )
    def ids_do_not_depend_on_the_order_of_the_text(self, build, tokens):
        return build(tokens) == build(tokens[::-1])

    @must(
        "The ids must follow the sorted tokens: then they are the same whenever Python starts.",
        on=[(["the", "cat", "sat", "."],), (list("the quick brown fox jumps over a lazy dog"),)],
    )
    def ids_follow_the_sorted_tokens(self, build, tokens):
        vocab = build(tokens)
        return sorted(vocab) == sorted(vocab, key=vocab.get)


class BugEncode(Exercise):
    number = "2.bug2"
    title = "a mark that is no mark"
    answer = Function("text", returns=list[int])
    solution = IN_THE_SOLUTIONS
    hints = (
        "Decode the ids of the symptom one at a time. What has become of the mark?",
        "`disallowed_special=()` forbids nothing, and so the tokenizer reads the mark as ordinary "
        "letters. Another argument of `encode` says which marks are to be read as marks.",
        "Section 2.5 passes `allowed_special`, a set of the marks' names.",
    )

    @must("A text without marks must have GPT-2's ids.", on=["Hello, you", "a  b\n", ""])
    def ordinary_text_has_gpt2s_ids(self, encode, text):
        return encode(text) == GPT2.encode(text)

    @must(
        f"Each `{END}` must become the one id that GPT-2 has for it, 50256.",
        on=[f"one {END} two", f"one{END}two{END}"],
    )
    def a_mark_is_one_id(self, encode, text):
        return encode(text).count(GPT2.eot_token) == text.count(END)

    @must(
        f"The text around `{END}` must keep its ids, those of its blanks among them.",
        on=[f"one {END} two", f"one{END}\ntwo "],
    )
    def text_around_a_mark_is_kept(self, encode, text):
        before, _, after = text.partition(END)
        return encode(text) == [*GPT2.encode(before), GPT2.eot_token, *GPT2.encode(after)]


class BugDecode(Exercise):
    number = "2.bug3"
    title = "letters that break"
    answer = Function("ids", returns=str)
    solution = IN_THE_SOLUTIONS
    hints = (
        "English comes back, *café* with it; the coffee cup does not. How many ids has the cup?",
        "GPT-2's tokens are pieces of bytes, and one character may need several tokens. A part of "
        "a character cannot be decoded by itself.",
        "The tokens must be put together before they are turned into text, not after: `decode` "
        "takes the whole list.",
    )

    @must(
        "Plain English must come back as it was.",
        on=[(GPT2.encode("Hello, world.  Is this-- a test?"),), ([],)],
    )
    def plain_text_comes_back(self, decode, ids):
        return decode(ids) == GPT2.decode(ids)

    @must(
        "A character that is cut into several tokens must come back as that character.",
        on=[(GPT2.encode("a cup of ☕ and 🍰"),), (GPT2.encode("日本語"),)],
    )
    def characters_of_several_tokens_come_back(self, decode, ids):
        return decode(ids) == GPT2.decode(ids)


class ADatasetOfWindows(Exercise):
    """What holds for every dataset of next-token windows. Specimens 4 to 6 break one rule each."""

    answer = Class(Dataset, "txt, tokenizer, max_length, stride")
    solution = IN_THE_SOLUTIONS
    SETTINGS = (
        *[(WORDS, max_length, stride) for max_length in (2, 4) for stride in (1, 2, 4, 5)],
        (WORDS, 9, 1),
    )

    @must(
        "An item must be a pair of tensors, inputs and targets, of `max_length` ids each: none may "
        "reach beyond the end of the text.",
        on=SETTINGS,
    )
    def an_item_is_a_pair_of_windows(self, dataset_class, txt, max_length, stride):
        dataset = dataset_class(txt, GPT2, max_length, stride)
        shapes = [shape for i in range(len(dataset)) for shape in shapes_of(dataset[i])]
        return shapes == [(max_length,)] * (2 * len(dataset))

    @must("A target must be its input one token later.", on=SETTINGS)
    def targets_are_one_token_later(self, dataset_class, txt, max_length, stride):
        token_ids = GPT2.encode(txt)
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        followers = dict(itertools.pairwise(token_ids))  # no token comes twice
        return all([followers.get(i) for i in inputs] == targets for inputs, targets in pairs)

    @must("Each window must start `stride` tokens after the one before.", on=SETTINGS)
    def windows_step_by_stride(self, dataset_class, txt, max_length, stride):
        token_ids = GPT2.encode(txt)
        pairs = pairs_in(dataset_class(txt, GPT2, max_length, stride))
        starts = [token_ids.index(inputs[0]) for inputs, _ in pairs]
        return starts == [stride * i for i in range(len(starts))]

    @must(
        "Every window whose last target is still inside the text must be there, the last one too.",
        on=SETTINGS,
    )
    def the_last_window_is_there(self, dataset_class, txt, max_length, stride):
        expected = len(GPTDatasetV1(txt, GPT2, max_length, stride))
        return len(dataset_class(txt, GPT2, max_length, stride)) == expected


class BugTargets(ADatasetOfWindows):
    number = "2.bug4"
    title = "a model that only learns to repeat"
    hints = (
        "Read the symptom aloud: given *one*, predict *one*. What should be predicted?",
        "A target is the input one token later (section 2.6). Which line cuts the target, and "
        "where does it start?",
        "The target is `token_ids[start + 1 : ...]`, and as long as the input.",
    )


class BugLastWindow(ADatasetOfWindows):
    number = "2.bug5"
    title = "a window too few"
    hints = (
        "Write down by hand which windows of two tokens *one two three four five* has, and "
        "compare with the symptom. Which one is missing?",
        "`inputs` is already one token shorter than the text, to leave room for the targets. What "
        "does the range make of that?",
        "The last allowed start is `len(inputs) - max_length` itself, and `range` stops before "
        "its end.",
    )


class BugStride(ADatasetOfWindows):
    number = "2.bug6"
    title = "a setting without effect"
    hints = (
        "Look for every place where `stride` is used after it was stored.",
        "Window number `idx` starts at `idx` steps. How long is a step? The answer also changes "
        "how many windows there are.",
        "In `__getitem__`, the start is `idx * self.stride`. In `__len__`, count the starts that "
        "leave room for a window and its last target: `len(range(0, ..., self.stride))`, as in "
        "exercise 2.4.",
    )
