"""What the answers to chapter 7's exercises must do: read by `companion.exercises`.

7.1 to 7.4 are the book's exercises, the others this repository's; 7.bug1 to 7.bug6 are the
specimens of bug-zoo.ipynb. Whoever wants to solve them had better not read on: the hints are here.

Shapes: B batch, T tokens, V vocabulary, C width of a token's vector.
"""

import torch

from ch03_checks import same
from ch04_checks import ASpecimen, toy_gpt
from ch05_checks import close
from companion.exercises import Exercise, Function, must
from gpt_instruction_finetuning import collate_answers, custom_collate_fn, token_f1

WITH_INPUT = {"instruction": "Write the plural.", "input": "fox", "output": "foxes"}
WITHOUT = {"instruction": "Name a color.", "input": "", "output": "Red."}
OTHER = {"instruction": "Name an animal.", "input": "", "output": "Red."}

# Prompts of 2, 1 and 3 ids, with their answers
BATCH = [(2, [0, 1, 2, 3, 4]), (1, [5, 6]), (3, [7, 8, 9, 6])]
ONE = [(3, [4, 5, 6, 7])]
EVEN = [(1, [1, 2, 3]), (2, [4, 5, 6])]


# The book's exercises


class OtherPrompt(Exercise):
    number = "7.1"
    title = "another prompt style"
    answer = Function("entry", returns=str)
    hints = (
        "Three lines at most. Which of them is there only sometimes?",
        "Begin with the mark and the instruction: `'<|user|>\\n' + entry['instruction']`.",
        "Append `'\\n' + entry['input']` if `entry['input']` is not empty. No mark of the "
        "assistant: that belongs to the response.",
    )

    @must("The first line must be the mark `<|user|>`, alone.", on=[WITH_INPUT, WITHOUT])
    def mark_comes_first(self, write, entry):
        return write(entry).split("\n")[0] == "<|user|>"

    @must("After the mark, the second line must be the instruction.", on=[WITH_INPUT, WITHOUT])
    def instruction_is_the_second_line(self, write, entry):
        return write(entry).split("\n")[1:2] == [entry["instruction"]]

    @must("An input must be on the line after, and nothing must follow it.", on=[WITH_INPUT])
    def input_is_the_third_line(self, write, entry):
        return write(entry).split("\n")[2:] == [entry["input"]]

    @must("Without an input, the prompt must end with the instruction.", on=[WITHOUT])
    def nothing_stands_for_no_input(self, write, entry):
        return write(entry).split("\n")[2:] == []


class MaskedPrompt(Exercise):
    number = "7.2"
    title = "masking the instruction"
    answer = Function(
        "batch, pad_token_id, ignore_index", returns=tuple[torch.Tensor, torch.Tensor]
    )
    hints = (
        "Most of it is there: `custom_collate_fn([ids for _, ids in batch], ...)` gives inputs and "
        "targets. Which targets still have to become `ignore_index`?",
        "Write out a row of inputs above its targets. Where does the first token of the answer "
        "stand among the targets?",
        "`row[: prompt_length - 1] = ignore_index`, for each row of the targets.",
    )
    CASES = ((BATCH, 50256, -100), (ONE, 99, -100), (EVEN, 0, -1))

    @must("The inputs must be those of the chapter's `custom_collate_fn`.", on=CASES)
    def inputs_are_the_chapters(self, collate, batch, pad_token_id, ignore_index):
        expected, _ = collate_answers(batch, ignore_index, pad_token_id=pad_token_id)
        return same(collate(batch, pad_token_id, ignore_index)[0], expected, atol=0)

    @must("All targets in the prompt must be `ignore_index`.", on=CASES)
    def prompt_is_masked(self, collate, batch, pad_token_id, ignore_index):
        targets = collate(batch, pad_token_id, ignore_index)[1].tolist()
        return all(
            set(row[: length - 1]) <= {ignore_index}
            for row, (length, _) in zip(targets, batch, strict=True)
        )

    @must(
        "The answer, its first token included, and one padding id after it must stay; what follows "
        "must be `ignore_index`.",
        on=CASES,
    )
    def answer_stays(self, collate, batch, pad_token_id, ignore_index):
        _, expected = collate_answers(batch, ignore_index, pad_token_id=pad_token_id)
        return same(collate(batch, pad_token_id, ignore_index)[1], expected, atol=0)


class AlpacaSizes(Exercise):
    number = "7.3"
    title = "the sizes for Alpaca's data"
    answer = tuple[int, int, int]
    hints = (
        "The split is the chapter's, with 52,002 entries in place of 1,100.",
        "`int(52_002 * 0.85)` are for training and `int(52_002 * 0.1)` for the test.",
        "Validation is what is left: 52,002 minus both.",
    )

    @must("The three parts together must be all 52,002 entries.")
    def all_entries_are_used(self, sizes):
        return sum(sizes) == 52_002

    @must("The first number must be 85 % of the entries, rounded down: the training part.")
    def first_is_the_training_part(self, sizes):
        return sizes[0] == 44_201

    @must(
        "The second number must be the validation part, the third the test part: the order of the "
        "exercise, not of the list."
    )
    def validation_comes_before_the_test(self, sizes):
        return sizes[1:] == (2_601, 5_200)


class LoraSize(Exercise):
    number = "7.4"
    title = "how many parameters LoRA trains"
    answer = Function("model, rank", returns=int)
    hints = (
        "Only the linear layers get matrices: of `model.modules()`, those that are `nn.Linear`.",
        "A layer of n inputs and m outputs gets an (n, rank) and a (rank, m) matrix. How many "
        "numbers are that?",
        "Sum `rank * (layer.in_features + layer.out_features)` over the linear layers. Biases "
        "stay as they are.",
    )

    @must("Without linear layers nothing is trained.")
    def no_linear_layer_gives_none(self, count):
        return count(torch.nn.Embedding(5, 3), 4) == 0

    @must(
        "For one linear layer it must be the numbers of two matrices, (inputs, rank) and (rank, "
        "outputs).",
        on=[(6, 10, 2), (8, 8, 1)],
    )
    def one_layer(self, count, num_inputs, num_outputs, rank):
        return count(torch.nn.Linear(num_inputs, num_outputs), rank) == (
            rank * num_inputs + rank * num_outputs
        )

    @must("All linear layers of the model count, those inside of blocks, too.", on=[1, 16])
    def all_layers_count(self, count, rank):
        model = toy_gpt()
        layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        return count(model, rank) == sum(
            rank * (layer.in_features + layer.out_features) for layer in layers
        )


# This repository's exercises


class SharedWords(Exercise):
    number = "7.5"
    title = "words in common"
    answer = Function("response, reference", returns=float)
    hints = (
        "`re.findall(r'\\w+', text.lower())` is a list of a text's words. How often may a word "
        "that both have be counted?",
        "`Counter(words) & Counter(other_words)` keeps of each word the smaller number; `.total()` "
        "sums them.",
        "Twice that number, divided by the number of words of both texts together.",
    )
    RIGHT = (("It is dry.", "It is dry."), ("one", "one"))
    PARTS = (
        ("It is dry.", "The opposite of wet is dry."),
        ("dry", "It is dry."),
        ("The right spelling is brother", "The right spelling is sister"),
    )

    @must("Equal texts must have 1.", on=RIGHT)
    def equal_texts_have_one(self, f1, response, reference):
        return close(f1(response, reference), 1.0)

    @must("Texts without a common word must have 0, and so must an empty one.", on=["It", ""])
    def nothing_in_common_gives_none(self, f1, response):
        return close(f1(response, "The moon."), 0.0)

    @must("Capitals, commas and full stops must not matter.", on=[("IT is, dry", "It is dry.")])
    def form_does_not_matter(self, f1, response, reference):
        return close(f1(response, reference), 1.0)

    @must(
        "It must be twice the number of common words, divided by the number of words of both.",
        on=PARTS,
    )
    def score_is_the_harmonic_mean(self, f1, response, reference):
        return close(f1(response, reference), token_f1(response, reference))

    @must("A word must be counted in common as often as both have it.", on=[("no no no", "no")])
    def repeated_words_count_once(self, f1, response, reference):
        return close(f1(response, reference), 0.5)


class WhereAnswersEnd(Exercise):
    number = "7.6"
    title = "where an answer ends"
    answer = Function("ids, prompt_length, eos_id", returns=list[list[int]])
    hints = (
        "Each row is a prompt, an answer, and then end tokens to fill it up. Two cuts are needed.",
        "The first cut is at `prompt_length`. The second must be looked for only behind it.",
        "`row = row[prompt_length:]`, and then `row[: row.index(eos_id)]` if `eos_id` is in it.",
    )
    WHOLE = (torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), 2, 9)
    ENDED = (torch.tensor([[1, 2, 3, 9, 9], [4, 5, 9, 9, 9], [6, 7, 3, 2, 1]]), 2, 9)
    MARKED = (torch.tensor([[9, 2, 3, 4, 9], [2, 9, 3, 9, 5]]), 2, 9)

    def _expected(self, ids, prompt_length, eos_id):
        rows = [row[prompt_length:] for row in ids.tolist()]
        return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]

    @must("Without an end token, an answer must be all that comes after the prompt.", on=[WHOLE])
    def prompt_is_left_out(self, cut, ids, prompt_length, eos_id):
        return cut(ids, prompt_length, eos_id) == self._expected(ids, prompt_length, eos_id)

    @must("An answer must stop before its first end token, each row at its own.", on=[ENDED])
    def answer_stops(self, cut, ids, prompt_length, eos_id):
        return cut(ids, prompt_length, eos_id) == self._expected(ids, prompt_length, eos_id)

    @must("An end token in the prompt must not matter.", on=[MARKED])
    def prompt_does_not_matter(self, cut, ids, prompt_length, eos_id):
        return cut(ids, prompt_length, eos_id) == self._expected(ids, prompt_length, eos_id)


class SeenBefore(Exercise):
    number = "7.7"
    title = "test entries that were seen in training"
    answer = Function("train_data, test_data", returns=list[int])
    hints = (
        "A test is cheated if training has the same task, in whatever capitals and with whatever "
        "spaces. The output does not matter: it is what is asked for.",
        "Make a key of an entry: instruction and input, `' '.join(text.lower().split())` each.",
        "Collect the keys of the training part in a set, and list the places in the test part "
        "whose key is in it.",
    )
    TRAIN = (WITH_INPUT, WITHOUT)

    @must("Entries that training does not have must not be listed.")
    def new_entries_are_not_listed(self, find):
        return find(list(self.TRAIN), [OTHER, {**WITH_INPUT, "input": "box"}]) == []

    @must("The places of the same entries must be listed, in their order.")
    def same_entries_are_listed(self, find):
        return find(list(self.TRAIN), [WITHOUT, OTHER, WITH_INPUT]) == [0, 2]

    @must("The same task with another output must be listed, too.")
    def output_does_not_matter(self, find):
        return find(list(self.TRAIN), [OTHER, {**WITHOUT, "output": "Blue."}]) == [1]

    @must("Capitals and spaces must not hide an entry.")
    def form_does_not_matter(self, find):
        hidden = {**WITH_INPUT, "instruction": " write  the PLURAL.", "input": "Fox "}
        return find(list(self.TRAIN), [OTHER, hidden]) == [1]


# The bug zoo


class BugPromptMask(ASpecimen):
    number = "7.bug1"
    title = "answers without a beginning"
    answer = Function("targets, prompt_lengths, ignore_index", returns=torch.Tensor)
    hints = (
        "Write a short prompt and its answer on paper, and the targets under the inputs.",
        "Targets are one token ahead: the target under the prompt's last token is the answer's "
        "first one.",
        "Only the first `prompt_length - 1` targets belong to the prompt.",
    )
    CASES = (
        (torch.tensor([[2, 3, 4, 5], [7, 8, 9, 1]]), [2, 3], -100),
        (torch.tensor([[4, 5, 6]]), [1], -1),
    )

    def _expected(self, targets, prompt_lengths, ignore_index):
        places = torch.arange(targets.shape[1])
        return targets.masked_fill(places < torch.tensor(prompt_lengths)[:, None] - 1, ignore_index)

    @must("The targets that are handed over must be left as they were.", on=CASES)
    def targets_are_left_as_they_were(self, mask, targets, prompt_lengths, ignore_index):
        given = targets.clone()
        mask(given, prompt_lengths, ignore_index)
        return torch.equal(given, targets)

    @must("Only targets in the prompts must be masked, and all of them.", on=CASES)
    def answers_stay_whole(self, mask, targets, prompt_lengths, ignore_index):
        expected = self._expected(targets, prompt_lengths, ignore_index)
        return same(mask(targets, prompt_lengths, ignore_index), expected, atol=0)


class BugEnd(ASpecimen):
    number = "7.bug2"
    title = "a model that never stops"
    answer = Function(
        "batch, pad_token_id, ignore_index", returns=tuple[torch.Tensor, torch.Tensor]
    )
    hints = (
        "Look at the targets of the longest row, which needs no padding. How does it end?",
        "Padding and the end of an answer are the same id. One of them has to stay in each row.",
        "`(targets == pad_token_id).cumsum(dim=1) > 1` is true at the surplus ones.",
    )
    CASES = (([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]], 50256, -100), ([[1], [2, 3]], 9, -1))

    @must("The inputs must be the rows, filled up to the longest.", on=CASES)
    def inputs_are_filled_up(self, collate, batch, pad_token_id, ignore_index):
        expected, _ = custom_collate_fn(batch, pad_token_id, ignore_index)
        return same(collate(batch, pad_token_id, ignore_index)[0], expected, atol=0)

    @must(
        "In the targets, each row must have one padding id, where its answer is over; the surplus "
        "must be `ignore_index`.",
        on=CASES,
    )
    def one_end_stays(self, collate, batch, pad_token_id, ignore_index):
        _, expected = custom_collate_fn(batch, pad_token_id, ignore_index)
        return same(collate(batch, pad_token_id, ignore_index)[1], expected, atol=0)


class BugPrompt(ASpecimen):
    number = "7.bug3"
    title = "an answer that repeats the question"
    answer = Function("token_ids, prompt_length, eos_id", returns=list[int])
    hints = (
        "What does `generate` return: the new tokens, or more?",
        "`prompt_length` is handed over and never used.",
        "Cut the prompt off first, `list(token_ids)[prompt_length:]`, and look for the end token "
        "in what is left.",
    )

    @must(
        "The prompt must not be in the answer.",
        on=[([1, 2, 3, 4, 5], 2, 9), ([5, 6], 2, 9), ([1, 2, 3, 4, 9, 9], 3, 9)],
    )
    def prompt_is_left_out(self, cut, token_ids, prompt_length, eos_id):
        added = token_ids[prompt_length:]
        expected = added[: added.index(eos_id)] if eos_id in added else added
        return cut(token_ids, prompt_length, eos_id) == expected

    @must("An end token in the prompt must not end the answer.", on=[([1, 9, 3, 4, 9], 3, 9)])
    def end_is_looked_for_behind_the_prompt(self, cut, token_ids, prompt_length, eos_id):
        return cut(token_ids, prompt_length, eos_id) == [4]


class BugSide(ASpecimen):
    number = "7.bug4"
    title = "answers to the padding"
    answer = Function("model, prompts, pad_token_id", returns=list[int])
    hints = (
        "Give it the short prompt alone, then beside a longer one. What stands at the place whose "
        "logits are taken?",
        "The padding is on the right, so the last place of a short row is padding. Padding on the "
        "left would need other positions, too.",
        "Take the logits at each prompt's own last token: `logits[row, len(ids) - 1]`.",
    )
    PROMPTS = ([[3, 1], [2, 5, 1, 4, 6], [6]], [[1, 2, 3], [4]], [[5, 4], [1, 6]])

    def _alone(self, model, prompts):
        with torch.no_grad():
            return [model(torch.tensor([ids]))[0, -1].argmax().item() for ids in prompts]

    @must("All prompts must go through the model at once.", on=[(p,) for p in PROMPTS])
    def one_pass_is_enough(self, choose, prompts):
        model, calls = toy_gpt(), []
        model.register_forward_hook(lambda *_: calls.append(1))
        choose(model, prompts, 0)
        return len(calls) == 1

    @must("Each prompt must get the id that it gets alone.", on=[(p,) for p in PROMPTS])
    def neighbors_do_not_matter(self, choose, prompts):
        models = [toy_gpt() for _ in range(4)]
        return all(choose(model, prompts, 0) == self._alone(model, prompts) for model in models)


class BugScore(ASpecimen):
    number = "7.bug5"
    title = "a score that rises with silence"
    answer = Function("responses, references", returns=float)
    hints = (
        "A model that answers one question of ten, rightly, and is silent on the rest: what score "
        "should it get?",
        "By what number is divided?",
        "Do not leave out empty responses: divide by `len(references)`.",
    )

    @must(
        "Right and wrong responses must be counted.",
        on=[(["a", "b"], ["a", "c"]), (["a"], ["a"]), (["b", "c"], ["a", "b"])],
    )
    def right_ones_count(self, score, responses, references):
        right = sum(r == ref for r, ref in zip(responses, references, strict=True))
        return close(score(responses, references), right / len(references))

    @must(
        "No response is a wrong response.",
        on=[(["a", "", "", ""], ["a", "b", "c", "d"]), (["", ""], ["a", "b"])],
    )
    def silence_is_wrong(self, score, responses, references):
        right = sum(r == ref for r, ref in zip(responses, references, strict=True))
        return close(score(responses, references), right / len(references))


class BugSections(ASpecimen):
    number = "7.bug6"
    title = "a section with nothing in it"
    answer = Function("entry", returns=str)
    hints = (
        "Print the prompt of an entry without an input. Would you know where the answer begins?",
        "The input's section must be there only if there is an input.",
        "Make the section a text of its own: `... if entry['input'] else ''`.",
    )

    @must("With an input, both sections must be there, a blank line between them.", on=[WITH_INPUT])
    def both_sections(self, write, entry):
        return write(entry) == (
            f"### Instruction:\n{entry['instruction']}\n\n### Input:\n{entry['input']}"
        )

    @must("Without an input, the instruction's section must be all.", on=[WITHOUT])
    def no_empty_section(self, write, entry):
        return write(entry) == f"### Instruction:\n{entry['instruction']}"
