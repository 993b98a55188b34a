"""Chapter 6's experiments: what each choice does to a toy model, and the table in the README."""

import re
from dataclasses import replace

import pytest
import torch

import additional_experiments as experiments
import companion
from additional_experiments import BY_NAME, CHAPTER, COLUMNS, PAD_TOKEN_ID, SEEDS
from gpt import GPTModel
from gpt_class_finetune import make_classifier

companion.prepare_tokenizer()
TOY = {
    "vocab_size": 50257,
    "context_length": 256,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 3,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
SINGLE = "none, messages one by one"
MESSAGES = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
LONGEST = 5


def toy_model():
    with torch.random.fork_rng():  # as a file of weights, it changes no later draw
        torch.manual_seed(0)
        return GPTModel(TOY)


def build(choices):
    torch.manual_seed(1)  # of the head
    return experiments.classifier_by_choices(choices, toy_model, TOY).eval()


def output(choices, messages=MESSAGES):
    with torch.no_grad():
        return experiments.class_logits(build(choices), messages, choices, LONGEST)


def differs(a, b):
    return not torch.allclose(a, b, atol=1e-4)


# Padding and length


def test_messages_are_padded_behind_or_in_front_or_not_at_all():
    def padded(messages=MESSAGES, **changes):
        ids, is_text = experiments.pad_messages(messages, replace(CHAPTER, **changes), LONGEST)
        assert torch.equal(is_text, ids != PAD_TOKEN_ID)
        return ids.tolist()

    p = PAD_TOKEN_ID
    assert padded()[0] == [5, 6, 7, p, p]
    assert padded(padding="in front")[0] == [p, p, 5, 6, 7]
    assert padded(length=2)[:2] == [[5, 6], [8, 9]]
    assert padded(length=2, padding="in front") == [[5, 6], [8, 9], [p, 13]]
    assert padded(MESSAGES[::2], length="batch") == [[5, 6, 7], [13, p, p]]
    assert padded([list(range(9))], length="batch") == [list(range(LONGEST))]


def test_the_chapters_choices_are_those_of_its_script():
    torch.manual_seed(1)
    model = make_classifier(toy_model()).eval()
    ids, _ = experiments.pad_messages(MESSAGES, CHAPTER, LONGEST)
    with torch.no_grad():
        assert torch.equal(output(CHAPTER), model(ids)[:, -1])
    ours = {n: p.requires_grad for n, p in build(CHAPTER).named_parameters()}
    assert ours == {n: p.requires_grad for n, p in model.named_parameters()}


def test_padding_behind_does_not_matter_where_the_last_token_of_the_text_decides():
    alone = output(BY_NAME[SINGLE])
    assert torch.allclose(output(BY_NAME["last token of the text"]), alone, atol=1e-6)
    assert differs(output(CHAPTER), alone)  # control
    assert differs(output(replace(CHAPTER, padding="in front")), alone)  # other positions, too


# Whose logits decide


@pytest.mark.parametrize(
    ("reads", "first", "second"),
    [
        ("last", 4, 14),
        ("first", 0, 10),
        ("mean", 2, 12),
        ("last of text", 2, 10),
        ("mean of text", 1, 10),
    ],
)
def test_the_logits_that_are_read(reads, first, second):
    logits = torch.tensor([[0.0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])[..., None]  # (2, 5, 1)
    is_text = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    assert experiments.READERS[reads](logits, is_text).tolist() == [[first], [second]]


def test_the_first_token_sees_the_others_only_without_the_mask():
    changed = [[5, 6, 99]]
    for name, sees in [("first token", False), ("first token, no mask", True)]:
        choices = BY_NAME[name]
        before, after = output(choices, MESSAGES[:1]), output(choices, changed)
        assert differs(before, after) == sees
    assert differs(output(CHAPTER, MESSAGES[:1]), output(CHAPTER, changed))  # control


def test_a_later_token_changes_earlier_outputs_only_without_the_mask():
    ids = torch.tensor([[5, 6, 7, 8]])
    changed = torch.tensor([[5, 6, 7, 99]])
    for name, is_changed in [("chapter 6", False), ("last token, no mask", True)]:
        model = build(BY_NAME[name])
        with torch.no_grad():
            assert differs(model(ids)[:, :3], model(changed)[:, :3]) == is_changed
            assert differs(model(ids)[:, 3], model(changed)[:, 3])  # control


# What is trained


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("head", r"out_head\.(weight|bias)"),
        ("chapter 6", r"out_head\..*|final_norm\..*|trf_blocks\.2\..*"),
        ("two blocks", r"out_head\..*|final_norm\..*|trf_blocks\.[12]\..*"),
        ("all", r".*"),
        ("LoRA", r".*\.lora\.[AB]"),
        ("all, from random weights", r".*"),
    ],
)
def test_training_changes_what_is_to_be_trained_and_nothing_else(name, wanted):
    choices = BY_NAME[name]
    model = build(choices)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # LoRA's A has no gradient before B is different from zero
        optimizer.zero_grad()
        experiments.class_logits(model, MESSAGES, choices, LONGEST)[:, 0].sum().backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    expected = {n for n in before if re.fullmatch(wanted, n)}
    # A shift after the keys or before the softmax of one key may have no effect; so: no others.
    assert changed <= expected
    assert len(changed) >= 0.9 * len(expected)


def test_random_weights_are_not_the_pretrained_ones():
    pretrained = toy_model().tok_emb.weight
    assert torch.equal(build(BY_NAME["all"]).tok_emb.weight, pretrained)
    assert differs(build(BY_NAME["all, from random weights"]).tok_emb.weight, pretrained)


# A training


def parts():
    """Messages in which 7 is spam, to train with; and the same to test with."""
    messages = [[5, i, 7] if i % 2 else [5, i, 9] for i in range(20, 52)]
    labels = torch.tensor([i % 2 for i in range(20, 52)])
    return [(messages, labels), (messages, labels)]


TOY_MODEL = {"pretrained": toy_model, "cfg": TOY}


@pytest.mark.parametrize("name", BY_NAME)
def test_each_choice_can_be_trained_and_tested(name):
    found = experiments.measure_choices(BY_NAME[name], 0, parts(), num_updates=1, **TOY_MODEL)
    assert found["trained"] > 0 and found["seconds"] > 0 and 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("chapter 6", 1.0),
        ("mean of the text's tokens", 1.0),
        ("first token, no mask", 1.0),
        ("first token", 0.5),  # all begin with the same one
    ],
)
def test_what_the_logits_that_decide_can_see_is_learned(name, accuracy):
    choices = replace(BY_NAME[name], trains="all", learning_rate=0.02)
    found = experiments.measure_choices(choices, 0, parts(), num_updates=40, **TOY_MODEL)
    assert found["accuracy"] == accuracy


def test_the_seed_decides_about_the_result():
    draw = torch.manual_seed(0)
    messages, labels = torch.randint(50, (2, 64, 3), generator=draw)
    unrelated = [parts()[0], (messages.tolist(), labels[:, 0] % 2)]

    def accuracy(seed):
        settings = {"num_updates": 2, **TOY_MODEL}
        return experiments.measure_choices(CHAPTER, seed, unrelated, **settings)["accuracy"]

    drawn = [accuracy(seed) for seed in range(6)]
    assert accuracy(3) == drawn[3]
    assert len(set(drawn)) > 1  # control


# The results


def row(choice, seed, **changes):
    values = (choice, str(seed), "9", "0.5", "2.0", "w", "a machine")
    return {**dict(zip(COLUMNS, values, strict=True)), **changes}


def test_a_row_of_the_table_has_mean_and_spread():
    rows = [row("all", seed, accuracy=a) for seed, a in enumerate(("0.9", "0.95", "0.97"))]
    lines = experiments.table_of_choices(rows).splitlines()
    assert lines[0] == "Machine: a machine"
    assert lines[-2:] == [
        "| **what is trained** | | | | |",
        "| all | 9 | 94.0% | 90.0% to 97.0% | 2 |",
    ]


@pytest.fixture
def files(tmp_path):
    """Where results and README go."""
    readme = tmp_path / "README.md"
    block = f"{experiments.TABLE_STARTS}old{experiments.TABLE_ENDS}"
    readme.write_text(f"before\n{block}\nafter\n", encoding="utf-8")
    return tmp_path / "results.csv", readme


@pytest.fixture
def measured(monkeypatch):
    """A list to which each measurement is added, instead of being made."""
    calls = []

    def measure_choices(choices, seed, parts):
        calls.append((next(name for name in BY_NAME if BY_NAME[name] is choices), seed))
        return {"trained": 9, "accuracy": 0.5, "seconds": 2.0}

    monkeypatch.setattr(experiments, "measure_choices", measure_choices)
    return calls


def test_what_is_finished_is_skipped(files, measured):
    experiments.main(["all"], *files)
    assert measured == [("all", seed) for seed in SEEDS]
    experiments.main(["all", "head"], *files)
    assert measured[3:] == [("head", seed) for seed in SEEDS]
    experiments.main(["first token", "LoRA"], *files)  # all rows with one seed, then with the next
    assert measured[6:9] == [
        ("first token", SEEDS[0]),
        ("LoRA", SEEDS[0]),
        ("first token", SEEDS[1]),
    ]
    text = files[1].read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert experiments.table_of_choices(experiments.read_measurements(files[0])) in text


def test_an_interrupted_row_goes_on_and_other_weights_begin_anew(files, measured):
    experiments.main(["all"], *files)
    lines = files[0].read_text(encoding="utf-8").splitlines()
    files[0].write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    experiments.main(["all"], *files)
    assert measured[3:] == [("all", SEEDS[-1])]
    weights = lines[1].split(",")[COLUMNS.index("weights")]
    files[0].write_text("\n".join(lines).replace(weights, "00000000") + "\n", encoding="utf-8")
    experiments.main(["all"], *files)
    assert len(measured) == 7
    assert len(experiments.read_measurements(files[0])) == 3


@pytest.fixture
def stored():
    """The lines of results.csv."""
    return experiments.read_measurements(experiments.RESULTS)


def test_the_readme_shows_the_results(stored):
    readme = experiments.README.read_text(encoding="utf-8")
    assert experiments.table_of_choices(stored) in readme
    changed = [{**r, "accuracy": "0.1234"} for r in stored]  # control
    assert experiments.table_of_choices(changed) not in readme


def test_the_results_are_of_one_model_which_is_that_of_the_repository(stored):
    sha256 = companion.assets.manifest()["pocket.safetensors"]["sha256"]
    assert {r["weights"] for r in stored} == {sha256[:8]}


CLAIMS = {  # of the README: better row, worse row, by how much at least
    "the token that decides must have seen the message": ("chapter 6", "first token", 0.05),
    "without the mask, the first one sees all": ("first token, no mask", "first token", 0.03),
    "cutting takes away what tells spam": ("cut to 32", "cut to 8", 0.03),
    "the text's own last token is a better place": ("last token of the text", "chapter 6", 0.02),
    "padding to the whole context is harder to learn": (
        "chapter 6",
        "padded to 256, the context",
        0.03,
    ),
    "the head alone can do little": ("chapter 6", "head", 0.2),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_the_readme_says_is_what_was_measured(claim, stored):
    better, worse, difference = CLAIMS[claim]
    accuracies = {
        name: [float(r["accuracy"]) for r in stored if r["choice"] == name]
        for name in (better, worse)
    }
    assert sum(accuracies[better]) / 3 > sum(accuracies[worse]) / 3 + difference


def test_random_weights_do_as_well(stored):
    mean = {
        name: sum(float(r["accuracy"]) for r in stored if r["choice"] == name) / 3
        for name in ("all", "all, from random weights", "head")
    }
    assert abs(mean["all"] - mean["all, from random weights"]) < 0.02
    assert abs(mean["all"] - mean["head"]) > 0.2  # control


def test_padding_and_messages_one_by_one_came_out_alike(stored):
    rows = {(r["choice"], r["seed"]): float(r["accuracy"]) for r in stored}
    for seed in map(str, SEEDS):
        found = [rows[name, seed] for name in ("last token of the text", SINGLE)]
        assert abs(found[0] - found[1]) < 0.015
