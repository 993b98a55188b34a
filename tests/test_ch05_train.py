"""Chapter 5's training script: losses, evaluation, the loop, checkpoints, and bad input."""

import errno
import math
import os
import pickle
import subprocess
import sys

import pytest
import tiktoken
import torch
import torch.nn.functional as F

import gpt_train
from conftest import files_below
from gpt import GPTModel, generate_text_simple
from gpt_train import (
    calc_loss_batch,
    calc_loss_loader,
    create_train_val_loaders,
    evaluate_model,
    generate_and_print_sample,
    load_checkpoint,
    plot_losses,
    save_checkpoint,
    text_to_token_ids,
    token_ids_to_text,
    train_model_simple,
)

TINY = {
    "vocab_size": 20,
    "context_length": 6,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


class LettersTokenizer:
    """Twenty letters, for samples of a tiny model."""

    def encode(self, text, allowed_special=()):
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, ids):
        return "".join(chr(ord("a") + i) if i < 19 else "\n" for i in ids)


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    return GPTModel({**TINY, **changes})


def make_loader(num_batches, batch_size=2, seed=1):
    """Batches of random ids, each (2, 6), in a fixed order."""
    ids = torch.randint(20, (num_batches, batch_size, 7), generator=torch.manual_seed(seed))
    return [(rows[:, :-1], rows[:, 1:]) for rows in ids]


def train(model, train_loader, val_loader, optimizer=None, num_epochs=2, eval_freq=3, eval_iter=1):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)
    return train_model_simple(
        model,
        train_loader,
        val_loader,
        optimizer,
        "cpu",
        num_epochs,
        eval_freq,
        eval_iter,
        "abc",
        LettersTokenizer(),
    )


# Text and ids


@pytest.mark.parametrize("text", ["Every effort moves you", "naïve 猫<|endoftext|>next"])
def test_a_text_comes_back_from_its_ids(text):
    tokenizer = tiktoken.get_encoding("gpt2")
    ids = text_to_token_ids(text, tokenizer)
    assert ids.shape[0] == 1
    assert token_ids_to_text(ids, tokenizer) == text


def test_the_end_of_text_is_one_token():
    tokenizer = tiktoken.get_encoding("gpt2")
    assert text_to_token_ids("<|endoftext|>", tokenizer).tolist() == [[50256]]
    assert text_to_token_ids("<endoftext>", tokenizer).shape[1] > 1  # control


# Losses


def test_the_loss_of_a_batch_is_minus_the_mean_logarithm_of_the_targets_probabilities():
    model = make_model().eval()
    [(x, y)] = make_loader(1)
    probabilities = model(x).softmax(dim=-1).detach()
    by_hand = [
        -math.log(probabilities[row, place, y[row, place]])
        for row in range(2)
        for place in range(6)
    ]
    loss = calc_loss_batch(x, y, model, "cpu")
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum(by_hand) / 12, abs=1e-5)
    assert loss.item() != pytest.approx(calc_loss_batch(x, x, model, "cpu").item(), abs=1e-3)


@pytest.mark.parametrize("num_batches, counted", [(None, 3), (2, 2), (3, 3), (100, 3)])
def test_the_loss_of_a_loader_is_the_mean_of_its_first_batches(num_batches, counted):
    model, loader = make_model().eval(), make_loader(3)
    losses = [calc_loss_batch(x, y, model, "cpu").item() for x, y in loader]
    loss = calc_loss_loader(loader, model, "cpu", num_batches)
    assert isinstance(loss, float)
    assert loss == pytest.approx(sum(losses[:counted]) / counted, abs=1e-6)


def test_no_batches_have_no_loss():
    assert math.isnan(calc_loss_loader([], make_model(), "cpu"))
    assert math.isnan(calc_loss_loader(make_loader(1), make_model(), "cpu", num_batches=0))


def test_an_evaluation_is_without_dropout_and_gradients_and_ends_in_training_mode():
    model, loader = make_model(drop_rate=0.5), make_loader(2)
    first = evaluate_model(model, loader, loader[:1], "cpu", eval_iter=2)
    assert model.training
    assert first == evaluate_model(model, loader, loader[:1], "cpu", eval_iter=2)
    assert all(parameter.grad is None for parameter in model.parameters())
    dropped = [calc_loss_loader(loader, model, "cpu") for _ in range(2)]
    assert dropped[0] != dropped[1]  # control: in training mode, dropout is seen


def test_a_sample_is_fifty_greedy_tokens_on_one_line(capsys):
    model = make_model()
    model.train()
    generate_and_print_sample(model, LettersTokenizer(), "cpu", "abc")
    printed = capsys.readouterr().out
    greedy = generate_text_simple(model.eval(), torch.tensor([[0, 1, 2]]), 50, 6)
    assert printed == LettersTokenizer().decode(greedy[0].tolist()).replace("\n", " ") + "\n"
    assert len(printed) == 3 + 50 + 1


# The loop


def test_training_is_the_plain_loop_written_out():
    loader = make_loader(4)
    model, other = make_model(drop_rate=0.0), make_model(drop_rate=0.0)
    train(model, loader, loader[:1])

    optimizer = torch.optim.AdamW(other.parameters(), lr=0.01)
    for x, y in loader * 2:
        optimizer.zero_grad()
        F.cross_entropy(other(x).transpose(1, 2), y).backward()
        optimizer.step()
    torch.testing.assert_close(model.state_dict(), other.state_dict())
    assert not torch.allclose(model.out_head.weight, make_model().out_head.weight)  # control


def test_evaluations_come_after_the_updates_0_3_6_and_count_tokens(capsys):
    loader = make_loader(4)
    train_losses, val_losses, tokens_seen = train(make_model(), loader, loader[:1])
    assert tokens_seen == [12, 48, 84]  # after 1, 4 and 7 batches of 2 x 6 tokens
    assert len(train_losses) == len(val_losses) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line[:19] for line in lines if line.startswith("Ep")] == [
        "Ep 1 (Step 000000):",
        "Ep 1 (Step 000003):",
        "Ep 2 (Step 000006):",
    ]
    assert f"Train loss {train_losses[0]:.3f}, Val loss {val_losses[0]:.3f}" in lines[0]
    assert len([line for line in lines if line.startswith("abc")]) == 2  # a sample per epoch


def test_step_0_is_evaluated_after_its_update():
    loader = make_loader(1)
    untrained = evaluate_model(make_model(), loader, loader, "cpu", 1)
    train_losses, _, _ = train(make_model(drop_rate=0.0), loader, loader, num_epochs=1)
    assert train_losses[0] < untrained[0] - 1e-3


def test_a_model_learns_a_repeated_text_by_heart():
    ids = torch.arange(14).remainder(5).unfold(0, 7, 7)  # 0 1 2 3 4 0 1 ...
    loader = [(ids[:, :-1], ids[:, 1:])] * 150
    losses, _, _ = train(make_model(), loader, loader, num_epochs=1, eval_freq=149)
    assert losses[0] > 2
    assert losses[-1] < 0.3


def test_a_loss_that_is_no_number_stops_training_before_the_update():
    loader = make_loader(5)
    model = make_model(drop_rate=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *_: spoil_after(model, optimizer, 3))
    with pytest.raises(ValueError, match=r"nan at step 3, batch 4 of 5 in epoch 1.*before this"):
        train(model, loader, loader[:1], optimizer, eval_freq=100)
    assert optimizer.state[model.out_head.weight]["step"] == 3


def spoil_after(model, optimizer, updates):
    if optimizer.state[model.out_head.weight]["step"] == updates:
        with torch.no_grad():
            model.final_norm.shift[0] = torch.nan


def test_nothing_goes_to_standard_error(capfd):
    train(make_model(), make_loader(2), make_loader(1))
    assert capfd.readouterr().err == ""


def test_a_progress_bar_is_shown_where_it_is_seen(monkeypatch, capfd):
    """Control of the test above."""
    monkeypatch.setenv("JPY_SESSION_NAME", "a notebook in JupyterLab")
    train(make_model(), make_loader(2), make_loader(1))
    assert "epoch 2" in capfd.readouterr().err


def test_the_plot_has_both_losses_over_epochs_and_an_axis_of_tokens():
    import matplotlib.pyplot as plt

    figure = plot_losses([0, 1, 2], [12, 48, 84], [3.0, 2.0, 1.0], [3.0, 2.5, 2.6])
    axes, token_axes = figure.axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3, 2, 1], [3, 2.5, 2.6]]
    assert token_axes.lines[0].get_xdata().tolist() == [12, 48, 84]
    assert axes.get_xlabel() == "epochs"
    plt.close(figure)


# Splitting a text


def story(num_words):
    return " word" * num_words  # a token each


def test_a_text_is_split_by_characters_and_only_the_training_part_is_shuffled():
    words = " ".join(str(i) for i in range(1000))
    torch.manual_seed(0)
    train_loader, val_loader = create_train_val_loaders(words, 0.75, 2, 16)
    tokenizer = tiktoken.get_encoding("gpt2")
    split = int(0.75 * len(words))
    val_ids = torch.cat([x.flatten() for x, _ in val_loader])
    assert words[split:].startswith(tokenizer.decode(val_ids.tolist()))
    first, again = (next(iter(train_loader))[0] for _ in range(2))
    assert not torch.equal(first, again)
    assert {x.shape for x, _ in train_loader} == {(2, 16)}
    train_text = tokenizer.decode(torch.cat([x.flatten() for x, _ in train_loader]).tolist())
    assert words[split:][:50] not in train_text


@pytest.mark.parametrize("train_ratio", [0, 1, -0.1, 1.5, math.nan])
def test_a_ratio_outside_0_to_1_is_refused(train_ratio):
    with pytest.raises(ValueError, match=f"train_ratio.*{train_ratio}"):
        create_train_val_loaders(story(100), train_ratio, 2, 4)


@pytest.mark.parametrize(
    "train_ratio, part", [(0.9, "validation"), (0.2, "training"), (0.05, "training")]
)
def test_a_part_too_short_for_a_batch_is_named(train_ratio, part):
    with pytest.raises(ValueError, match=rf"The {part} part, .* of 500 characters.*max_length=20"):
        create_train_val_loaders(story(100), train_ratio, 2, 20)
    create_train_val_loaders(story(1000), 0.9, 2, 20)  # control


# Checkpoints


@pytest.fixture
def trained():
    """A model and its optimizer after two updates."""
    model = make_model(drop_rate=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(model, make_loader(2), make_loader(1), optimizer, num_epochs=1)
    return model, optimizer


def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path, trained):
    model, optimizer = trained
    save_checkpoint(tmp_path / "model.pth", model, TINY, optimizer)
    checkpoint = load_checkpoint(tmp_path / "model.pth", TINY)
    assert checkpoint["config"] == TINY
    ends = []
    for has_optimizer in (True, False):
        again = GPTModel({**checkpoint["config"], "drop_rate": 0.0})
        again.load_state_dict(checkpoint["model_state_dict"])
        again_optimizer = torch.optim.AdamW(again.parameters(), lr=0.5)  # the saved rate counts
        if has_optimizer:
            again_optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        train(again, make_loader(3, seed=2), make_loader(1), again_optimizer, num_epochs=1)
        ends.append(again.state_dict())
    train(model, make_loader(3, seed=2), make_loader(1), optimizer, num_epochs=1)
    torch.testing.assert_close(ends[0], model.state_dict(), rtol=0, atol=0)
    with pytest.raises(AssertionError):  # control: without the optimizer's state it is another
        torch.testing.assert_close(ends[1], model.state_dict())


@pytest.mark.parametrize("key, value", [("emb_dim", 16), ("n_heads", 4), ("qkv_bias", True)])
def test_a_checkpoint_of_another_configuration_is_refused_with_both_values(
    tmp_path, trained, key, value
):
    save_checkpoint(tmp_path / "model.pth", trained[0], TINY)
    with pytest.raises(ValueError, match=f"{key} is {TINY[key]} in the checkpoint, but {value} is"):
        load_checkpoint(tmp_path / "model.pth", {**TINY, key: value})
    load_checkpoint(tmp_path / "model.pth", {**TINY, "drop_rate": 0.5})  # changes no weight


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*missing\.pth"):
        load_checkpoint(tmp_path / "missing.pth")


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"config": RunsCode()}, "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    for name in ("bad.pth", "plain.pth"):
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            load_checkpoint(name)
    assert not (tmp_path / "it-ran").exists()
    torch.load("bad.pth", weights_only=False)
    assert (tmp_path / "it-ran").exists()  # control: loaded carelessly, it runs


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"text"]
)
def test_a_damaged_checkpoint_is_refused(tmp_path, trained, damage):
    path = tmp_path / "model.pth"
    save_checkpoint(path, trained[0], TINY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"model\.pth cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_a_state_dictionary_alone_is_refused(tmp_path, trained):
    torch.save(trained[0].state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="was not written by save_checkpoint"):
        load_checkpoint(tmp_path / "model.pth")


class FullDisk:
    """A stand-in for torch.save that writes something and then finds no room."""

    def __call__(self, obj, file):
        file.write(b"half a checkpoint")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("has_old", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, trained, has_old):
    path = tmp_path / "model.pth"
    if has_old:
        save_checkpoint(path, trained[0], TINY)
    old = {name: name.read_bytes() for name in tmp_path.iterdir()}
    monkeypatch.setattr(gpt_train.torch, "save", FullDisk())
    with pytest.raises(OSError, match=rf"Could not save .*{os.strerror(errno.ENOSPC)}"):
        save_checkpoint(path, trained[0], TINY)
    assert {name: name.read_bytes() for name in tmp_path.iterdir()} == old


def test_ctrl_c_while_saving_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, trained):
    path = tmp_path / "model.pth"
    save_checkpoint(path, trained[0], TINY)
    old = path.read_bytes()

    def interrupted(_, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gpt_train.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, trained[0], TINY)
    assert [name.read_bytes() for name in tmp_path.iterdir()] == [old]


def test_a_checkpoint_may_be_read_by_whom_other_files_may(tmp_path, trained):
    save_checkpoint(tmp_path / "model.pth", trained[0], TINY)
    (tmp_path / "other").touch()
    assert (tmp_path / "model.pth").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_disk_that_is_really_full_leaves_the_old_file(tmp_path):
    mount = f'mount -t tmpfs -o size=64k tmpfs {tmp_path} && exec "$@"'
    before = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if sys.platform != "linux" or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this system does not allow mounts in a namespace of one's own")
    code = """
import sys
from pathlib import Path
from gpt import GPTModel
from gpt_train import load_checkpoint, save_checkpoint
from test_ch05_train import TINY

path = Path(sys.argv[1]) / "model.pth"
save_checkpoint(path, GPTModel(TINY), TINY)
large = {**TINY, "vocab_size": 5000}
try:
    save_checkpoint(path, GPTModel(large), large)
except OSError as error:
    print("refused:", error)
load_checkpoint(path, TINY)
print("files:", [p.name for p in path.parent.iterdir()])
"""
    importable = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [*before, sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": importable},
    )
    assert "refused: Could not save" in done.stdout, done.stderr
    assert "the file that was there is as it was" in done.stdout
    assert "files: ['model.pth']" in done.stdout


def test_nothing_is_left_beside_a_saved_checkpoint(tmp_path, trained):
    save_checkpoint(tmp_path / "model.pth", *trained[:1], TINY)
    assert set(files_below(tmp_path)) == {"model.pth"}
