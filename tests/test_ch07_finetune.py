"""Chapter 7's script: entries, prompts, batches, loss, answers, scores, and bad input."""

import json
from functools import partial

import pytest
import tiktoken
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import companion
import gpt_instruction_finetuning as ch07
from gpt import GPTModel
from gpt_generate import generate
from gpt_train import calc_loss_batch, save_checkpoint, text_to_token_ids, token_ids_to_text

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
TOY = {
    "vocab_size": 50257,
    "context_length": 96,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
PLURAL = {"instruction": "Write the plural.", "input": "fox", "output": "foxes", "task": "plural"}
COLOR = {"instruction": "Which color has snow?", "input": "", "output": "Snow is white."}
DEMONSTRATION = ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
END, NOT = ch07.PAD_TOKEN_ID, ch07.IGNORE_INDEX


def toy_model(seed=0):
    torch.manual_seed(seed)
    return GPTModel(TOY).eval()


# Reading


def test_entries_are_read_as_they_are(tmp_path):
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([PLURAL, COLOR]), encoding="utf-8")
    assert ch07.read_instructions(path) == [PLURAL, COLOR]
    assert ch07.download_and_load_file(path, "not needed: it is there") == [PLURAL, COLOR]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([PLURAL, {"instruction": "x", "output": "y"}], "entry 1 has no 'input', only"),
        ([{**PLURAL, "instruction": " "}], "entry 0: 'instruction' must not be empty"),
        ([PLURAL, {**PLURAL, "output": ""}], "entry 1: 'output' must not be empty"),
        ([{**PLURAL, "input": None}], "entry 0: 'input' must be a text, but is None"),
        ([{**PLURAL, "output": 7}], "entry 0: 'output' must be a text, but is 7"),
        (["Write the plural."], "entry 0 must be a dictionary, but is 'Write"),
        ({"entries": [PLURAL]}, "must be a list of entries, but is of type dict"),
        ([], "must be a list of entries, but is an empty list"),
    ],
)
def test_an_entry_of_another_kind_is_told(tmp_path, data, message):
    path = tmp_path / "entries.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        ch07.read_instructions(path)
    with pytest.raises(ValueError, match=message):
        ch07.InstructionDataset(data, TOKENIZER)


def test_a_file_cut_short_is_told(tmp_path):
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([PLURAL] * 3, indent=1)[:150], encoding="utf-8")
    with pytest.raises(ValueError, match=r"no complete JSON: .* in line \d+\. Was it cut short"):
        ch07.read_instructions(path)
    path.write_bytes('[{"instruction": "caf\xe9"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match="not in UTF-8: a byte is 0xe9"):
        ch07.read_instructions(path)


def test_an_address_that_is_not_listed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"assets\.toml lists no file at https://other"):
        ch07.download_and_load_file(tmp_path / "x.json", "https://other.example/x.json")
    assert list(tmp_path.iterdir()) == []


def test_the_parts_are_the_list_in_its_order():
    parts = ch07.split_entries(list(range(40)))
    assert [len(part) for part in parts] == [34, 4, 2]
    assert [*parts[0], *parts[1], *parts[2]] == list(range(40))
    with pytest.raises(ValueError, match=r"9 entries at 0.85 and 0.1 make parts of \[7, 0, 2\]"):
        ch07.split_entries(list(range(9)))


# Prompts


def test_a_prompt_has_a_section_for_the_input_only_where_there_is_one():
    header = [21106, 318, 281, 12064, 326, 8477, 257, 4876, 13, 19430, 257, 2882, 326, 20431]
    header += [32543, 262, 2581, 13, 198, 198, 21017, 46486, 25, 198]
    for entry in (PLURAL, COLOR):
        text = ch07.format_input(entry)
        assert TOKENIZER.encode(text)[:24] == header
        assert text.endswith(entry["input"] or entry["instruction"])
        assert ("### Input:" in text) == bool(entry["input"])
    assert ch07.format_prompt(COLOR).endswith("snow?\n\n### Response:\n")


def test_the_response_is_what_was_added():
    prompt = ch07.format_input(COLOR)
    assert ch07.extract_response(f"{prompt}\n\n### Response:\nIt is white. ", prompt) == (
        "It is white."
    )
    with pytest.raises(ValueError, match="does not begin with the prompt: 'It is white"):
        ch07.extract_response("It is white.", prompt)


def test_a_dataset_holds_prompt_and_answer():
    dataset = ch07.InstructionDataset([PLURAL, COLOR], TOKENIZER)
    assert len(dataset) == 2
    for entry, ids in zip(dataset.data, dataset, strict=True):
        assert TOKENIZER.decode(ids) == ch07.format_prompt(entry) + entry["output"]
    for entry, (length, ids) in zip(
        dataset.data, ch07.AnswerDataset([PLURAL, COLOR], TOKENIZER), strict=True
    ):
        assert TOKENIZER.decode(ids[length:]) == entry["output"]


def test_a_mark_in_an_entry_is_a_text_like_others():
    entry = {**COLOR, "instruction": "What does <|endoftext|> mean?"}
    (ids,) = ch07.InstructionDataset([entry], TOKENIZER)
    assert END not in ids


# Batches


def test_the_books_demonstration_batch():
    inputs, targets = ch07.custom_collate_fn(DEMONSTRATION)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, END, END, END], [7, 8, 9, END, END]]
    assert targets.tolist() == [[1, 2, 3, 4, END], [6, END, NOT, NOT, NOT], [8, 9, END, NOT, NOT]]


def test_rows_are_cut_last():
    inputs, targets = ch07.custom_collate_fn(DEMONSTRATION, allowed_max_length=2)
    assert inputs.tolist() == [[0, 1], [5, 6], [7, 8]]
    assert targets.tolist() == [[1, 2], [6, END], [8, 9]]


def test_only_targets_in_the_answer_count():
    batch = list(zip([2, 1, 3], DEMONSTRATION, strict=True))  # prompts of two, one, three tokens
    inputs, targets = ch07.collate_answers(batch)
    assert torch.equal(inputs, ch07.custom_collate_fn(DEMONSTRATION)[0])
    assert targets.tolist() == [
        [NOT, 2, 3, 4, END],
        [6, END, NOT, NOT, NOT],
        [NOT, NOT, END, NOT, NOT],
    ]


def test_the_books_losses():
    logits = torch.tensor([[-1.0, 1.0], [-0.5, 1.5]])
    two = F.cross_entropy(logits, torch.tensor([0, 1]))
    assert f"{two:.4f}" == "1.1269"
    three = torch.cat([logits, logits[1:]])
    assert F.cross_entropy(three, torch.tensor([0, 1, 1])) < two
    assert torch.equal(F.cross_entropy(three, torch.tensor([0, 1, NOT])), two)


def test_batches_have_texts_of_similar_length():
    lengths = [3 + 7 * i % 50 for i in range(203)]
    torch.manual_seed(0)
    sampler = ch07.SimilarLengths(lengths, 8)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 25
    assert len({place for batch in batches for place in batch}) == 200  # none twice
    spread = max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches)
    assert spread <= 8
    assert max(lengths) - min(lengths) > 40  # control: in any order it would be about this
    assert sorted(map(sorted, sampler)) != sorted(map(sorted, batches))  # others come together


def test_an_entry_longer_than_the_context_is_told():
    parts = ([PLURAL] * 2, [PLURAL, {**COLOR, "output": "white " * 300}], [COLOR])
    with pytest.raises(ValueError, match=r"Entry 1 has 3\d\d tokens, more than the 256"):
        ch07.create_answer_loaders(parts, TOKENIZER, batch_size=2)
    loaders = ch07.create_answer_loaders(([PLURAL] * 2, [COLOR], [COLOR]), TOKENIZER, 2)
    assert [len(loader) for loader in loaders] == [1, 1, 1]


# Loss


def test_the_loss_is_torchs_with_ignored_targets():
    model = toy_model()
    batch = list(ch07.AnswerDataset([PLURAL, COLOR], TOKENIZER))
    inputs, targets = ch07.collate_answers(batch)
    loss = ch07.calc_answer_loss(inputs, targets, model, "cpu")
    torch.testing.assert_close(loss, calc_loss_batch(inputs, targets, model, "cpu"))
    loss.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    calc_loss_batch(inputs, targets, model, "cpu").backward()
    torch.testing.assert_close(ours, [p.grad for p in model.parameters()])
    everything = ch07.custom_collate_fn([ids for _, ids in batch])
    assert not torch.isclose(loss, calc_loss_batch(*everything, model, "cpu"))  # control
    assert model(inputs).shape == (*inputs.shape, TOY["vocab_size"])  # as it was before


def test_a_batch_in_which_nothing_counts_is_told():
    batch = list(ch07.AnswerDataset([PLURAL], TOKENIZER))
    cut = ch07.collate_answers(batch, allowed_max_length=10)
    with pytest.raises(ValueError, match="All 10 targets are -100: there is nothing to learn"):
        ch07.calc_answer_loss(*cut, toy_model(), "cpu")


def test_finetuning_lowers_the_loss_and_the_rate(capsys):
    model = toy_model()
    parts = ([PLURAL, COLOR] * 4, [PLURAL], [COLOR])
    loaders = ch07.create_answer_loaders(parts, TOKENIZER, 4, TOY["context_length"])
    before = ch07.calc_answer_loss(*next(iter(loaders[1])), model, "cpu").item()
    optimizers, adamw = [], torch.optim.AdamW

    def noted(*args, **settings):
        optimizers.append(adamw(*args, **settings))
        return optimizers[-1]

    torch.optim.AdamW = noted
    try:
        ch07.finetune(model, loaders[0], loaders[2], 30, 0.01, "Hi", "cpu")
    finally:
        torch.optim.AdamW = adamw
    assert ch07.calc_answer_loss(*next(iter(loaders[1])), model, "cpu").item() < 0.5 * before
    assert optimizers[0].param_groups[0]["lr"] == pytest.approx(0)
    assert "Ep 1 (Step 000000)" in capsys.readouterr().out


# Answers


def test_answers_in_batches_are_those_of_one_by_one():
    model = toy_model(3)
    with torch.no_grad():  # so that it answers with more than one token again and again
        for block in model.trf_blocks:
            block.ff.layers[2].weight.mul_(20)
    entries = [PLURAL, COLOR, {**COLOR, "instruction": "Say yes or no: is it so?"}]
    for eos_id in (END, None):
        answers = ch07.generate_responses(model, entries, TOKENIZER, TOY, 7, batch_size=2)
        alone = []
        for entry in entries:
            prompt = ch07.format_prompt(entry)
            ids = generate(model, text_to_token_ids(prompt, TOKENIZER), 7, 96, eos_id=eos_id or END)
            alone.append(ch07.extract_response(token_ids_to_text(ids, TOKENIZER), prompt))
        assert answers == alone
    assert len(set(answers)) > 1


def test_an_answer_ends_before_the_end_token():
    class Script:
        """Says 5, then 6, then the end token; the second row ends at once."""

        cfg, tok_emb = TOY, torch.nn.Embedding(1, 1)
        says = torch.tensor([[5, 6, END, 9], [END, 7, 8, 9]])

        def fill(self, ids, lengths, cache):
            self.step = 0
            return F.one_hot(self.says[:, 0], 50257).float()

        def extend(self, ids, cache):
            self.step += 1
            return F.one_hot(self.says[:, self.step], 50257).float()

    model = Script()
    assert ch07.answer_batch(model, [[1, 2], [3]], 10) == [[5, 6], []]
    assert model.step == 2  # not asked for a fourth token
    assert ch07.answer_batch(model, [[1, 2], [3]], 1) == [[5], []]


def test_a_prompt_that_leaves_no_room_is_told():
    entry = {**COLOR, "instruction": "white " * 60}
    with pytest.raises(ValueError, match=r"Entry 1 has \d\d tokens, more than the 89"):
        ch07.generate_responses(toy_model(), [COLOR, entry], TOKENIZER, TOY, 7)


# Scores


@pytest.mark.parametrize(
    ("response", "reference", "exact", "f1"),
    [
        ("It is white. ", "It is white.", 1, 1),
        ("it is white", "It is white.", 0, 1),
        ("It is black.", "It is white.", 0, 2 / 3),
        ("white", "It is white.", 0, 1 / 2),
        ("white white white", "It is white.", 0, 1 / 3),
        ("", "It is white.", 0, 0),
        ("?", "!", 0, 1),
    ],
)
def test_scores_by_hand(response, reference, exact, f1):
    assert ch07.exact_match(response, reference) == exact
    assert ch07.token_f1(response, reference) == pytest.approx(f1)
    assert ch07.token_f1(reference, response) == pytest.approx(f1)


def test_a_table_has_a_row_per_task_and_one_for_all():
    entries = [PLURAL, {**PLURAL, "output": "boxes"}, {**COLOR, "task": "color"}]
    table = ch07.scores_by_task(entries, ["foxes", "boxen", "It is white."])
    assert table.index.tolist() == ["color", "plural", "all"]
    assert table["entries"].tolist() == [1, 2, 3]
    assert table["exact match"].round(3).tolist() == [0, 0.5, 0.333]
    assert table.loc["all", "F1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    with pytest.raises(ValueError, match="3 entries and 1 responses"):
        ch07.scores_by_task(entries, ["foxes"])


# The command line


def test_a_saved_model_answers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ch07, "load_follower", partial(ch07.load_follower, cfg=TOY))
    monkeypatch.setattr(
        ch07, "generate_responses", partial(ch07.generate_responses, cfg=TOY, max_new_tokens=3)
    )
    path, model = tmp_path / "m.pth", toy_model()
    save_checkpoint(path, model, TOY)
    question = ["--path", str(path), "--instruction"]
    assert ch07.main([*question, COLOR["instruction"]]) == 0
    (answer,) = ch07.generate_responses(model, [COLOR], TOKENIZER)
    assert capsys.readouterr().out == answer + "\n"
    assert ch07.main([*question, " "]) == 2
    assert "'instruction' must not be empty" in capsys.readouterr().err
    assert ch07.main(["--path", str(tmp_path / "none"), "--instruction", "Sing."]) == 2
    assert "There is no checkpoint" in capsys.readouterr().err


# The book's figures


@pytest.mark.book
def test_the_books_data(book_instructions):
    data = ch07.read_instructions(book_instructions)
    assert len(data) == 1100
    assert data[50]["input"] == "Ocassion"
    assert "complicated" in data[999]["instruction"] and data[999]["input"] == ""
    parts = ch07.split_entries(data)
    assert [len(part) for part in parts] == [935, 110, 55]


@pytest.mark.book
def test_the_books_batches(book_instructions):
    part = ch07.split_entries(ch07.read_instructions(book_instructions))[0]
    torch.manual_seed(123)
    loader = DataLoader(
        ch07.InstructionDataset(part, TOKENIZER),
        batch_size=8,
        collate_fn=partial(ch07.custom_collate_fn, allowed_max_length=1024),
        shuffle=True,
        drop_last=True,
        num_workers=0,
    )
    batches = list(loader)
    assert len(batches) == 116
    assert [x.shape[1] for x, _ in batches[:8]] == [61, 76, 73, 68, 65, 72, 80, 67]
    for inputs, targets in batches:
        assert inputs.shape == targets.shape
        ends, ignored = (inputs == END).sum(dim=1), (targets == NOT).sum(dim=1)
        assert torch.equal(ends, ignored)  # one end token before them is a target


@pytest.mark.book
def test_the_books_exercise_on_masked_prompts(book_instructions):
    entries = [
        {
            "instruction": "What is an antonym of 'complicated'?",
            "input": "",
            "output": "An antonym of 'complicated' is 'simple'.",
        },
        {
            "instruction": "Sort the following list in alphabetical order.",
            "input": "Zebra, Elephant, Crocodile",
            "output": "Crocodile, Elephant, Zebra",
        },
        {
            "instruction": "Arrange the given numbers in descending order.",
            "input": "5, 12, 8, 3, 15",
            "output": "15, 12, 8, 5, 3.",
        },
    ]
    assert entries[0] == ch07.read_instructions(book_instructions)[999]
    inputs, targets = ch07.collate_answers(list(ch07.AnswerDataset(entries, TOKENIZER)))
    assert inputs.shape == targets.shape == (3, 64)
    answers = [
        TOKENIZER.decode([i for i in row if i not in (NOT, END)]) for row in targets.tolist()
    ]
    assert answers == [entry["output"] for entry in entries]
