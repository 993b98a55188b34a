"""Chapter 6's script: the data, the classifier's loss and accuracy, its use, and bad input."""

import hashlib
import math
import zipfile

import matplotlib.pyplot
import pandas as pd
import pytest
import tiktoken
import torch
from torch.utils.data import DataLoader

import companion
import gpt_class_finetune as ch06
from gpt import GPTModel
from gpt_train import save_checkpoint

companion.prepare_tokenizer()
TOKENIZER = tiktoken.get_encoding("gpt2")
TOY = {
    "vocab_size": 50257,
    "context_length": 12,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}


def classifier(seed=0):
    torch.manual_seed(seed)
    return ch06.make_classifier(GPTModel(TOY)).eval()


def table(*rows):
    return pd.DataFrame(rows, columns=["Label", "Text"])


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


# Reading


def test_messages_are_read_with_or_without_a_header(tmp_path):
    lines = "ham\thi there\nspam\tWIN a prize, 50% off\n"
    plain = ch06.read_messages(write(tmp_path / "a.tsv", lines))
    headed = ch06.read_messages(write(tmp_path / "b.tsv", "label\ttext\n" + lines))
    assert plain.to_dict() == headed.to_dict()
    assert plain["Text"].tolist() == ["hi there", "WIN a prize, 50% off"]


@pytest.mark.parametrize("word", ["NA", "null", "nan"])
def test_words_that_pandas_takes_for_nothing_are_texts(tmp_path, word):
    assert ch06.read_messages(write(tmp_path / "a.tsv", f"ham\t{word}\n"))["Text"][0] == word
    path = write(tmp_path / "a.csv", f"Label,Text\n0,{word}\n")
    assert len(ch06.SpamDataset(path, TOKENIZER)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ham\thi\nspan\tyo\n", "message 2: Label must be ham or spam, but is 'span'"),
        ("ham\thi\nspam\t \n", "message 2: Text must not be empty, but is ' '"),
        ("ham,hi\nspam,yo\n", "must have two columns, label and text, .* but has 1"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        ch06.read_messages(write(tmp_path / "a.tsv", text))


def test_another_encoding_is_told(tmp_path):
    path = tmp_path / "latin.tsv"
    path.write_bytes("ham\tcafé\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not in UTF-8: a byte is 0xe9"):
        ch06.read_messages(path)
    path.write_bytes("Label,Text\n0,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not in UTF-8"):
        ch06.SpamDataset(path, TOKENIZER)


# The book's zip file


@pytest.fixture
def zipped(tmp_path, monkeypatch):
    """The arguments of the download of a zip file with one message, which lies there already."""
    content = b"ham\thello\n"
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("SMSSpamCollection", content)
        file.writestr("../readme", "not wanted")
    entries = {
        "s.zip": {"urls": ["https://s.example/s.zip"]},
        "SMSSpamCollection.tsv": {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    monkeypatch.setattr(companion.assets, "manifest", lambda: entries)
    monkeypatch.setattr(companion, "asset", lambda name: path)
    folder = tmp_path / "extracted"
    return "https://s.example/s.zip", tmp_path / "kept.zip", folder, folder / "messages.tsv"


def test_the_collection_is_unpacked_once(zipped, capsys):
    ch06.download_and_unzip_spam_data(*zipped)
    assert zipped[3].read_text() == "ham\thello\n"
    assert [path.name for path in zipped[2].iterdir()] == ["messages.tsv"]
    zipped[3].write_text("kept")
    ch06.download_and_unzip_spam_data(*zipped)
    assert zipped[3].read_text() == "kept"
    assert "is there already" in capsys.readouterr().out


def test_other_messages_than_the_collections_are_refused(zipped):
    companion.assets.manifest()["SMSSpamCollection.tsv"]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="not the SMS Spam Collection"):
        ch06.download_and_unzip_spam_data(*zipped)
    assert not zipped[3].exists()


def test_an_address_that_is_not_listed_is_refused(zipped):
    with pytest.raises(ValueError, match=r"assets\.toml lists no file at https://other"):
        ch06.download_and_unzip_spam_data("https://other.example/s.zip", *zipped[1:])


# Balance and split


def test_ham_is_drawn_down_to_the_number_of_spam():
    df = table(*[("ham", f"h{i}") for i in range(9)], *[("spam", f"s{i}") for i in range(4)])
    balanced = ch06.create_balanced_dataset(df)
    assert balanced["Label"].tolist() == ["ham"] * 4 + ["spam"] * 4
    assert balanced["Text"].tolist()[4:] == ["s0", "s1", "s2", "s3"]
    assert balanced.index.tolist()[4:] == [9, 10, 11, 12]  # rows keep their numbers
    with pytest.raises(ValueError, match="There are 4 spam and 3 ham"):
        ch06.create_balanced_dataset(df[6:])


def test_the_parts_are_all_of_the_table_in_the_shares_asked_for():
    df = table(*[("ham" if i % 2 else "spam", f"t{i}") for i in range(40)])
    parts = ch06.random_split(df, 0.7, 0.1)
    assert [len(part) for part in parts] == [28, 4, 8]
    assert sorted(pd.concat(parts)["Text"]) == sorted(df["Text"])
    assert parts[0]["Text"].tolist() != df["Text"].tolist()[:28]  # it is shuffled
    assert ch06.random_split(df, 0.7, 0.1)[2].equals(parts[2])  # in the same way each time


def test_a_part_without_a_class_is_told():
    df = table(("spam", "s"), *[("ham", f"h{i}") for i in range(9)])
    with pytest.raises(ValueError, match=r"part has .* none with the label 'spam'"):
        ch06.random_split(df, 0.7, 0.1)
    with pytest.raises(ValueError, match=r"but are 0\.9 and 0\.1"):
        ch06.random_split(df, 0.9, 0.1)


# The dataset


@pytest.fixture
def messages_csv(tmp_path):
    return write(tmp_path / "m.csv", "Label,Text\n0,see you\n1,win a big prize now\n")


def test_messages_have_the_length_of_the_longest(messages_csv):
    dataset = ch06.SpamDataset(messages_csv, TOKENIZER)
    assert dataset.max_length == 5
    ids, label = dataset[0]
    assert ids.tolist() == [*TOKENIZER.encode("see you"), *[50256] * 3]
    assert (label.item(), label.dtype) == (0, torch.long)


def test_a_length_that_is_given_cuts_longer_messages(messages_csv):
    dataset = ch06.SpamDataset(messages_csv, TOKENIZER, max_length=3, pad_token_id=7)
    assert dataset[1][0].tolist() == TOKENIZER.encode("win a big")
    assert dataset[0][0].tolist() == [*TOKENIZER.encode("see you"), 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Label,Body\n0,hi\n", "must have the columns Text and Label, but has only Label, Body"),
        ("Label,Text\n0,hi\n2,yo\n", "message 2: Label must be 0 or 1, but is 2"),
        ("Label,Text\n0,hi\n1,\n", "message 2: Text must not be empty"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        ch06.SpamDataset(write(tmp_path / "a.csv", text), TOKENIZER)


def test_a_message_longer_than_the_models_context_is_told_before_training(tmp_path):
    path = write(tmp_path / "m.csv", f"Label,Text\n0,hi\n1,win {'very ' * 20}\n0,yo\n")
    ch06.check_fits(ch06.SpamDataset(path, TOKENIZER), context_length=30)
    ch06.check_fits(ch06.SpamDataset(path, TOKENIZER, max_length=12), context_length=12)
    with pytest.raises(ValueError, match=r"has 2\d tokens, more than the 12 .* 'win very very"):
        ch06.check_fits(ch06.SpamDataset(path, TOKENIZER), context_length=12)


def test_all_parts_have_the_training_parts_length(tmp_path):
    rows = [("ham" if i % 2 else "spam", "word " * (1 + i % 7)) for i in range(40)]
    loaders = ch06.create_spam_loaders(ch06.random_split(table(*rows), 0.7, 0.1), tmp_path)
    assert {ids.shape[1] for loader in loaders for ids, _ in loader} == {8}
    assert [len(loader) for loader in loaders] == [
        3,
        1,
        1,
    ]  # a fourth training batch is too small


# The model, its loss and its accuracy


def test_what_is_trained_is_the_last_block_the_last_norm_and_the_head():
    trained = {name for name, p in classifier().named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"trf_blocks", "final_norm", "out_head"}
    assert {name.split(".")[1] for name in trained if name.startswith("trf")} == {"1"}
    assert "out_head.bias" in trained


def loader_of(model, num_messages=6):
    """Random messages, labelled as the model would have it but for the first two."""
    ids = torch.randint(50257, (num_messages, 5), generator=torch.manual_seed(1))
    with torch.no_grad():
        labels = model(ids)[:, -1].argmax(dim=-1)
    labels[:2] = 1 - labels[:2]
    return DataLoader(list(zip(ids, labels, strict=True)), batch_size=2)


def test_loss_and_accuracy_look_at_the_last_token():
    model = classifier()
    loader = loader_of(model)
    assert ch06.calc_accuracy_loader(loader, model, "cpu") == pytest.approx(4 / 6)
    assert ch06.calc_accuracy_loader(loader, model, "cpu", num_batches=1) == 0
    assert math.isnan(ch06.calc_accuracy_loader([], model, "cpu"))
    ids, labels = next(iter(loader))
    logits = model(ids)
    by_hand = -logits[:, -1].log_softmax(dim=-1)[torch.arange(2), labels].mean()
    loss = ch06.calc_loss_batch(ids, labels, model, "cpu")
    torch.testing.assert_close(loss, by_hand)
    first = -logits[:, 0].log_softmax(dim=-1)[torch.arange(2), labels].mean()
    assert not torch.isclose(loss, first, atol=1e-5)  # control
    losses = [ch06.calc_loss_batch(*batch, model, "cpu").item() for batch in loader]
    assert ch06.calc_loss_loader(loader, model, "cpu") == pytest.approx(sum(losses) / 3)


def test_training_changes_what_is_to_be_trained_only(capsys):
    model, before = classifier(), classifier().state_dict()
    loader = loader_of(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    histories = ch06.train_classifier_simple(model, loader, loader, optimizer, "cpu", 20, 5, 3)
    train_losses, val_losses, train_accs, val_accs, examples = histories
    assert (len(train_losses), len(val_losses), len(train_accs), len(val_accs)) == (12, 12, 20, 20)
    assert examples == 20 * 6
    assert train_losses[-1] < 0.1 * train_losses[0] and train_accs[-1] == 1
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    allowed = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"out_head.weight", "final_norm.scale"} <= changed <= allowed
    assert "Ep 1 (Step 000000)" in capsys.readouterr().out


# Read at the last token that is no padding


def padded(*texts, length):
    return torch.tensor([ch06.pad_or_cut(TOKENIZER.encode(text), length) for text in texts])


def test_padding_makes_no_difference_at_the_last_token_of_the_text():
    model = classifier()
    reader = ch06.LastTextToken(model)
    texts = ("see you", "win a big prize now")
    with torch.no_grad():
        short, long = (reader(padded(*texts, length=length)) for length in (5, 12))
        alone = torch.stack([model(torch.tensor([TOKENIZER.encode(t)]))[0, -1:] for t in texts])
        at_the_end = [model(padded(*texts, length=length))[:, -1:] for length in (5, 12)]
    assert short.shape == (2, 1, 2)
    torch.testing.assert_close(short, long)
    torch.testing.assert_close(short, alone)
    assert not torch.allclose(*at_the_end, atol=1e-3)  # control


def test_columns_of_padding_alone_are_not_computed():
    model, lengths = classifier(), []
    model.tok_emb.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    reader = ch06.LastTextToken(model)
    reader(padded("see you", "win a prize", length=12))
    reader(torch.full((1, 12), ch06.PAD_TOKEN_ID))  # nothing but padding
    reader(padded("win a big prize now", length=3))
    assert lengths == [3, 1, 3]
    assert reader.pos_emb is model.pos_emb


def test_batches_by_length_hold_every_message_once(tmp_path):
    rows = [f"{i % 2},{'word ' * (1 + 5 * i % 7)}" for i in range(20)]
    path = write(tmp_path / "m.csv", "Label,Text\n" + "\n".join(rows) + "\n")
    dataset = ch06.SpamDataset(path, TOKENIZER)
    batches = ch06.batches_by_length(dataset, batch_size=8)
    assert [len(ids) for ids, _ in batches] == [8, 8, 4]
    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    found = sorted((ids.tolist(), label.item()) for ids, label in pairs)
    assert found == sorted((ids.tolist(), label.item()) for ids, label in dataset)
    lengths = [(ids != ch06.PAD_TOKEN_ID).sum().item() for ids, _ in pairs]
    assert lengths == sorted(lengths)
    assert lengths != [(ids != ch06.PAD_TOKEN_ID).sum().item() for ids, _ in dataset]  # control


def test_each_part_has_its_learning_rate_and_all_fall_to_zero():
    model = classifier().requires_grad_(True)
    optimizer = ch06.falling_adamw(model, 4, block_rate=0.1, table_rate=0.4, head_rate=0.2)
    rates = []
    for _ in range(4):
        rates += [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
    expected = [0.1, 0.4, 0.2, 0.075, 0.3, 0.15, 0.05, 0.2, 0.1, 0.025, 0.1, 0.05]
    assert rates == pytest.approx(expected)
    blocks, table, head = optimizer.param_groups
    assert {group["lr"] for group in optimizer.param_groups} == {0}
    assert table["params"] == [model.tok_emb.weight] and table["weight_decay"] == 0
    assert [id(p) for p in head["params"]] == [id(p) for p in model.out_head.parameters()]
    all_ids = {id(p) for group in (blocks, table, head) for p in group["params"]}
    assert all_ids == {id(p) for p in model.parameters()}
    assert len(blocks["params"]) == len(all_ids) - 3


def test_tokens_are_hidden_in_training_only_and_padding_never():
    model, seen = classifier(), []
    model.tok_emb.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    strange_ids = [50000, 50001]
    ch06.hide_tokens(model, strange_ids, share=0.25)
    ids = torch.randint(1000, (40, 10))
    ids[:, 7:] = ch06.PAD_TOKEN_ID
    torch.manual_seed(0)
    model.train()(ids), model(ids), model.eval()(ids)
    for given in seen[:2]:
        is_hidden = given != ids
        assert not is_hidden[:, 7:].any()
        assert 0.15 < is_hidden[:, :7].float().mean() < 0.35
        assert set(given[is_hidden].tolist()) == set(strange_ids)
    assert not torch.equal(seen[0], seen[1])  # others each time
    assert torch.equal(seen[2], ids)  # control


def test_values_are_plotted_over_epochs_and_examples():
    figure = ch06.plot_values([0, 1], [0, 90], [0.5, 0.9], [0.4, 0.8], label="accuracy")
    epochs, examples = figure.axes
    assert (epochs.get_xlabel(), examples.get_xlabel()) == ("epochs", "examples seen")
    assert [list(line.get_ydata()) for line in epochs.lines] == [[0.5, 0.9], [0.4, 0.8]]
    assert epochs.get_ylabel() == "accuracy"
    matplotlib.pyplot.close(figure)


# Use


def test_a_message_is_classified_by_its_last_token():
    model = classifier()
    with torch.no_grad():
        model.out_head.weight.zero_()
        model.out_head.bias.copy_(torch.tensor([0.0, 1.0]))
    assert ch06.classify_review("hello", model, TOKENIZER, "cpu") == "spam"
    with torch.no_grad():
        model.out_head.bias.copy_(torch.tensor([1.0, 0.0]))
    assert ch06.classify_review("hello", model, TOKENIZER, "cpu") == "not spam"


def test_padding_is_part_of_what_is_classified():
    model, seen = classifier(), []
    model.tok_emb.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
    ch06.classify_review("hi", model, TOKENIZER, "cpu", max_length=4)
    ch06.classify_review("a b c d e f", model, TOKENIZER, "cpu", max_length=4)
    ch06.classify_review("hi", model, TOKENIZER, "cpu")
    hi = TOKENIZER.encode("hi")
    assert seen == [[[*hi, *[50256] * 3]], [TOKENIZER.encode("a b c d")], [hi]]


def test_a_message_longer_than_the_context_is_cut_only_when_asked():
    model, long = classifier(), "very " * 20
    with pytest.raises(ValueError, match=r"has 2\d tokens, more than the 12 .* max_length=12"):
        ch06.classify_review(long, model, TOKENIZER, "cpu")
    assert ch06.classify_review(long, model, TOKENIZER, "cpu", max_length=12)
    with pytest.raises(ValueError, match="empty"):
        ch06.classify_review(" \n", model, TOKENIZER, "cpu")


def test_a_classifier_is_saved_and_loaded(tmp_path, capsys, monkeypatch):
    path, model = tmp_path / "c.pth", classifier()
    save_checkpoint(path, model, TOY)
    ids = torch.tensor([TOKENIZER.encode("win a prize")])
    with torch.no_grad():
        assert torch.equal(ch06.load_classifier(path, TOY)(ids), model(ids)[:, -1:])
    with pytest.raises(ValueError, match="emb_dim is 8 in the checkpoint, but 16 is asked for"):
        ch06.load_classifier(path, {**TOY, "emb_dim": 16})
    save_checkpoint(path, GPTModel(TOY), TOY)
    with pytest.raises(ValueError, match="50,257 outputs, but a classifier has 2: ham, spam"):
        ch06.load_classifier(path, TOY)
    assert ch06.main(["--message", "hi", "--path", str(tmp_path / "none.pth")]) == 2
    assert "There is no checkpoint" in capsys.readouterr().err


def test_the_command_line_trains_on_a_file_of_ones_own(tmp_path, capsys, monkeypatch):
    trained = []
    monkeypatch.setattr(ch06, "finetune_pocket", lambda *arguments: trained.append(arguments))
    path = write(tmp_path / "own.tsv", "ham\thi there\nspam\twin a prize\n")
    to = str(tmp_path / "new" / "c.pth")
    assert ch06.main(["--data", str(path), "--path", to, "--seed", "7"]) == 0
    [(messages, saved, seed)] = trained
    assert (messages["Text"].tolist(), saved, seed) == (["hi there", "win a prize"], to, 7)
    assert (tmp_path / "new").is_dir()
    assert ch06.main(["--data", str(path), "--path", str(path / "c.pth")]) == 2
    assert "own.tsv" in capsys.readouterr().err  # before any training
    write(path, "ham,hi there\n")
    assert ch06.main(["--data", str(path)]) == 2
    assert "must have two columns" in capsys.readouterr().err
    assert len(trained) == 1


# The book's figures


@pytest.mark.book
def test_the_books_data(sms_collection, tmp_path):
    df = pd.read_csv(sms_collection, sep="\t", header=None, names=ch06.COLUMNS)
    assert df["Label"].value_counts().to_dict() == {"ham": 4825, "spam": 747}
    balanced = ch06.create_balanced_dataset(df)
    assert balanced["Label"].value_counts().to_dict() == {"ham": 747, "spam": 747}
    parts = ch06.random_split(balanced, 0.7, 0.1)
    assert [len(part) for part in parts] == [1045, 149, 300]
    torch.manual_seed(123)
    loaders = ch06.create_spam_loaders(parts, tmp_path)
    assert loaders[0].dataset.max_length == 120
    assert [len(loader) for loader in loaders] == [130, 19, 38]
    ids, labels = next(iter(loaders[0]))
    assert (tuple(ids.shape), tuple(labels.shape)) == ((8, 120), (8,))
