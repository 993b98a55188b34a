"""Plausible wrong answers to chapter 7's exercises, each with the rule that must refuse it."""

import re
from collections import Counter

import torch

import ch07_bug_zoo as zoo
from gpt_instruction_finetuning import collate_answers, custom_collate_fn, format_input, token_f1

WRONG_ANSWERS = []  # (number, name of the rule, answer)


def wrong(number, rule):
    def note(answer):
        WRONG_ANSWERS.append((number, rule, answer))
        return answer

    return note


# 7.1

wrong("7.1", "mark_comes_first")(format_input)


@wrong("7.1", "mark_comes_first")
def mark_on_the_same_line(entry):
    return f"<|user|> {entry['instruction']}\n{entry['input']}"


@wrong("7.1", "instruction_is_the_second_line")
def input_first(entry):
    return f"<|user|>\n{entry['input']}\n{entry['instruction']}"


@wrong("7.1", "instruction_is_the_second_line")
def on_one_line(entry):
    return f"<|user|>\n{entry['instruction']}" + (f" {entry['input']}" if entry["input"] else "")


@wrong("7.1", "input_is_the_third_line")
def with_the_assistant(entry):
    return f"<|user|>\n{entry['instruction']}\n{entry['input']}\n<|assistant|>:"


@wrong("7.1", "nothing_stands_for_no_input")
def always_three_lines(entry):
    return f"<|user|>\n{entry['instruction']}\n{entry['input']}"


# 7.2


def masked_by(first_kept):
    def collate(batch, pad_token_id, ignore_index):
        inputs, targets = custom_collate_fn([ids for _, ids in batch], pad_token_id, ignore_index)
        for row, (length, _) in zip(targets, batch, strict=True):
            row[: first_kept(length)] = ignore_index
        return inputs, targets

    return collate


wrong("7.2", "answer_stays")(masked_by(lambda length: length))
wrong("7.2", "prompt_is_masked")(masked_by(lambda length: 0))
wrong("7.2", "prompt_is_masked")(masked_by(lambda length: max(length - 2, 0)))


@wrong("7.2", "inputs_are_the_chapters")
def inputs_masked_too(batch, pad_token_id, ignore_index):
    inputs, targets = collate_answers(batch, ignore_index, pad_token_id=pad_token_id)
    return inputs.masked_fill(targets == ignore_index, pad_token_id), targets


@wrong("7.2", "answer_stays")
def ends_masked_too(batch, pad_token_id, ignore_index):
    inputs, targets = collate_answers(batch, ignore_index, pad_token_id=pad_token_id)
    return inputs, targets.masked_fill(targets == pad_token_id, ignore_index)


# 7.3

wrong("7.3", "validation_comes_before_the_test")((44_201, 5_200, 2_601))
wrong("7.3", "first_is_the_training_part")((44_202, 2_600, 5_200))
wrong("7.3", "all_entries_are_used")((44_201, 2_600, 5_200))


# 7.4


def linear_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]


@wrong("7.4", "one_layer")
def one_matrix(model, rank):
    return sum(rank * layer.in_features for layer in linear_layers(model))


@wrong("7.4", "one_layer")
def whole_layers(model, rank):
    return sum(layer.weight.numel() for layer in linear_layers(model))


@wrong("7.4", "all_layers_count")
def without_the_blocks(model, rank):
    layers = [model, *model.children()]
    layers = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


@wrong("7.4", "no_linear_layer_gives_none")
def embeddings_too(model, rank):
    embeddings = [layer for layer in model.modules() if isinstance(layer, torch.nn.Embedding)]
    layers = sum(rank * (layer.in_features + layer.out_features) for layer in linear_layers(model))
    return layers + sum(rank * sum(layer.weight.shape) for layer in embeddings)


# 7.5


def words(text):
    return re.findall(r"\w+", text.lower())


@wrong("7.5", "score_is_the_harmonic_mean")
def share_of_the_response(response, reference):
    known = [word for word in words(response) if word in words(reference)]
    return len(known) / max(len(words(response)), 1)


@wrong("7.5", "form_does_not_matter")
def words_with_their_commas(response, reference):
    ours, theirs = Counter(response.lower().split()), Counter(reference.lower().split())
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


@wrong("7.5", "repeated_words_count_once")
def each_time_anew(response, reference):
    ours, theirs = words(response), words(reference)
    common = sum(word in theirs for word in ours)
    return min(1.0, 2 * common / (len(ours) + len(theirs)))


@wrong("7.5", "equal_texts_have_one")
def without_the_two(response, reference):
    return token_f1(response, reference) / 2


@wrong("7.5", "nothing_in_common_gives_none")
def letters_in_common(response, reference):
    ours, theirs = set(response.lower()), set(reference.lower())
    return 2 * len(ours & theirs) / (len(ours) + len(theirs))


# 7.6


@wrong("7.6", "prompt_is_left_out")
def with_the_prompt(ids, prompt_length, eos_id):
    rows = ids.tolist()
    return [row[: row.index(eos_id)] if eos_id in row else row for row in rows]


@wrong("7.6", "answer_stops")
def end_tokens_left_out(ids, prompt_length, eos_id):
    return [
        row[prompt_length:-1] if row[-1] == eos_id else row[prompt_length:] for row in ids.tolist()
    ]


@wrong("7.6", "answer_stops")
def never_stops(ids, prompt_length, eos_id):
    return ids[:, prompt_length:].tolist()


@wrong("7.6", "prompt_does_not_matter")
def end_of_the_whole_row(ids, prompt_length, eos_id):
    rows = ids.tolist()
    ends = [row.index(eos_id) if eos_id in row else len(row) for row in rows]
    return [row[prompt_length:end] for row, end in zip(rows, ends, strict=True)]


# 7.7


@wrong("7.7", "output_does_not_matter")
def whole_entries(train_data, test_data):
    return [i for i, entry in enumerate(test_data) if entry in train_data]


@wrong("7.7", "form_does_not_matter")
def to_the_letter(train_data, test_data):
    seen = {(entry["instruction"], entry["input"]) for entry in train_data}
    return [i for i, e in enumerate(test_data) if (e["instruction"], e["input"]) in seen]


@wrong("7.7", "new_entries_are_not_listed")
def by_instruction(train_data, test_data):
    seen = {entry["instruction"] for entry in train_data}
    return [i for i, entry in enumerate(test_data) if entry["instruction"] in seen]


@wrong("7.7", "same_entries_are_listed")
def the_first_one(train_data, test_data):
    return whole_entries(train_data, test_data)[:1]


# The bug zoo

wrong("7.bug1", "answers_stay_whole")(zoo.mask_prompts_1)


@wrong("7.bug1", "answers_stay_whole")
def one_too_few(targets, prompt_lengths, ignore_index):
    return zoo.mask_prompts_1(targets, [max(n - 2, 0) for n in prompt_lengths], ignore_index)


@wrong("7.bug1", "targets_are_left_as_they_were")
def in_place(targets, prompt_lengths, ignore_index):
    for row, n in zip(targets, prompt_lengths, strict=True):
        row[:n] = ignore_index
    return targets


wrong("7.bug2", "one_end_stays")(zoo.collate_2)


@wrong("7.bug2", "one_end_stays")
def nothing_masked(batch, pad_token_id, ignore_index):
    return custom_collate_fn(batch, pad_token_id, pad_token_id)


@wrong("7.bug2", "inputs_are_filled_up")
def one_too_wide(batch, pad_token_id, ignore_index):
    inputs, targets = custom_collate_fn(batch, pad_token_id, ignore_index)
    return torch.nn.functional.pad(inputs, (0, 1), value=pad_token_id), targets


wrong("7.bug3", "prompt_is_left_out")(zoo.answer_ids_3)


@wrong("7.bug3", "prompt_is_left_out")
def end_kept(token_ids, prompt_length, eos_id):
    return list(token_ids)[prompt_length:]


@wrong("7.bug3", "end_is_looked_for_behind_the_prompt")
def cut_afterwards(token_ids, prompt_length, eos_id):
    return zoo.answer_ids_3(token_ids, prompt_length, eos_id)[prompt_length:]


wrong("7.bug4", "neighbors_do_not_matter")(zoo.next_ids_4)


@wrong("7.bug4", "neighbors_do_not_matter")
def padded_on_the_left(model, prompts, pad_token_id):
    longest = max(map(len, prompts))
    rows = [[pad_token_id] * (longest - len(ids)) + ids for ids in prompts]
    with torch.no_grad():
        return model(torch.tensor(rows))[:, -1].argmax(dim=-1).tolist()


@wrong("7.bug4", "one_pass_is_enough")
def one_by_one(model, prompts, pad_token_id):
    with torch.no_grad():
        return [model(torch.tensor([ids]))[0, -1].argmax().item() for ids in prompts]


wrong("7.bug5", "silence_is_wrong")(zoo.score_5)


@wrong("7.bug5", "silence_is_wrong")
def silence_is_half_right(responses, references):
    points = [0.5 if not r else r == ref for r, ref in zip(responses, references, strict=True)]
    return sum(points) / len(points)


@wrong("7.bug5", "right_ones_count")
def in_whatever_order(responses, references):
    return sum(r in references for r in responses) / len(references)


wrong("7.bug6", "no_empty_section")(zoo.sections_6)


@wrong("7.bug6", "no_empty_section")
def blank_section(entry):
    return zoo.sections_6(entry).replace("### Input:\n", "### Input:\n" if entry["input"] else "")


@wrong("7.bug6", "both_sections")
def never_an_input(entry):
    return f"### Instruction:\n{entry['instruction']}"
