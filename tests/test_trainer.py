"""The trainer in one process: what it computes, what survives a kill, and every clear error."""

import csv
import errno
import json
import math
import os
import re
import shutil
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import load_file
from toy_runs import ToyRun, write_toy_shards

import trainer
from checkpoints import (
    CheckpointError,
    checkpoints_in,
    load_optimizer_state,
    load_weights,
    write_checkpoint,
)
from gpt import GPT_CONFIG_124M, GPTModel
from token_shards import TokenBatches
from train_config import ConfigError, OptimizerSection, read_config

EXAMPLE = Path(trainer.__file__).with_name("story.toml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, toy_shards):
    """A run that nothing happened to; no test may change it."""
    run = ToyRun(tmp_path_factory.mktemp("finished") / "run", toy_shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEVICE", "cpu")
        assert run.train() == 0
    return run


@pytest.fixture
def trained_run(toy_run, finished):
    """A run of the test's own that has come to its end."""
    shutil.copytree(finished.out, toy_run.out)
    return toy_run


# --- the configuration -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("optimizer.learning_rte", 0.1, "learning_rte is no setting; the nearest is learning_rate"),
        ("optimizer.steps", 9, "steps is no setting; it belongs in [run]"),
        ("optimizer.q", 9, "q is no setting; there are learning_rate, min_learning_rate,"),
        ("optimiser.betas", [0.9, 0.9], "[optimiser] is no section; the nearest is optimizer"),
        ("run.steps", None, "[run] steps is missing: updates of the weights"),
        ("run.steps", 12.0, "steps must be a whole number, but is 12.0"),
        ("run.steps", True, "steps must be a whole number, but is True"),
        ("run.steps", 0, "steps must be at least 1, but is 0"),
        ("run.compile", 1, "compile must be true or false, but is 1"),
        ("run.out", 7, 'out must be a text in "quotes", but is 7'),
        ("run.precision", "fp16", 'precision must be "fp32" or "bf16", but is \'fp16\''),
        ("model.drop_rate", 1, "drop_rate must be below 1, but is 1"),
        ("optimizer.learning_rate", "0.1", "learning_rate must be a number, but is '0.1'"),
        ("optimizer.learning_rate", 0, "learning_rate must be above 0, but is 0"),
        ("optimizer.betas", [0.9], "betas must be a list of 2 numbers, but is [0.9]"),
        ("optimizer.betas", [0.9, 1.0], "betas must be below 1, but is [0.9, 1.0]"),
        ("model.n_heads", 3, "emb_dim must be divisible by n_heads, but is 16 with 3 heads"),
        ("optimizer.warmup_steps", 12, "warmup_steps must be below the run's steps, but is 12 of"),
        ("optimizer.min_learning_rate", 1, "must not be above learning_rate, but is 1 and that is"),
        ("optimizer.muon_learning_rate", 0.1, 'is of use with name = "muon" only, and name is'),
        ("run.sample_every", 5, "prompt must be a text to go on from, but is ''"),
        ("run.sample_every", 5, "samples need the 50257 ids of GPT-2's tokenizer, but vocab_size"),
        ("data.folder", "nowhere", "there is no folder 'nowhere'"),
    ],
)
def test_a_fault_in_the_configuration_is_named(toy_run, setting, value, message):
    read_config(toy_run.arguments()[1])  # control: as it is, it has none
    toy_run.set(setting, value)
    with pytest.raises(ConfigError) as caught:
        read_config(toy_run.arguments()[1])
    assert message in str(caught.value)


def test_muon_is_refused_where_it_cannot_work(toy_run):
    toy_run.set("optimizer.name", "muon")
    read_config(toy_run.arguments()[1])  # control
    toy_run.set("run.parallel", "fsdp")
    with pytest.raises(ConfigError) as caught:
        read_config(toy_run.arguments()[1])
    assert "needs whole matrices, but parallel is 'fsdp': choose \"ddp\"" in str(caught.value)


def test_a_sampled_loss_needs_the_fast_model(toy_run):
    toy_run.set("model.sampled_ids", 8)
    toy_run.set("model.name", "fast")
    read_config(toy_run.arguments()[1])  # control
    toy_run.set("model.name", "gpt")
    with pytest.raises(ConfigError, match='sampled_ids is 8, which the model "fast" knows only'):
        read_config(toy_run.arguments()[1])


def test_a_run_with_a_sampled_loss_learns(new_toy_run):
    val_losses = []
    for sampled_ids in 0, 8:
        run = new_toy_run()
        run.set("model.name", "fast")
        run.set("model.sampled_ids", sampled_ids)
        assert run.train() == 0
        with open(run.out / "log.csv", encoding="utf-8", newline="") as file:
            val_losses.append([float(r["val_loss"]) for r in csv.DictReader(file) if r["val_loss"]])
    exact, sampled = val_losses
    assert sampled[-1] < sampled[0] and abs(sampled[-1] - exact[-1]) < 0.1
    assert sampled != exact  # control


def test_all_faults_are_told_at_once_and_before_anything_is_loaded(toy_run, capsys, monkeypatch):
    monkeypatch.delattr(trainer, "check_shards")
    monkeypatch.delattr(trainer, "build_model")
    toy_run.set("model.n_head", 2)
    toy_run.set("model.n_heads", None)
    toy_run.set("optimizer.clip_norm", "1")
    toy_run.set("run.steps", -1)
    assert toy_run.train() == 2

    printed = capsys.readouterr().err.splitlines()
    assert printed[0].endswith("config.toml has 3 problems:")
    assert printed[1:] == [
        "  [model] n_head is no setting; the nearest is n_heads",
        "  [optimizer] clip_norm must be a number, but is '1'",
        "  [run] steps must be at least 1, but is -1",
    ]
    assert not toy_run.out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run\n", "is not a TOML file"),
        ("run = 3", "[run] must be a section with settings, but is 3"),
        ("[run]\nsteps = inf", "steps must be a whole number, but is inf"),
        ("[optimizer]\nlearning_rate = nan", "learning_rate must be a number, but is nan"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match=r"Cannot read .*No such file"):
        read_config(tmp_path / "none.toml")


def test_tensorboard_that_is_not_installed_is_told_with_the_other_faults(toy_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    toy_run.set("run.tensorboard", True)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        read_config(toy_run.arguments()[1])


def test_the_example_is_without_fault_once_its_data_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"has a problem:\n.*no folder"):  # and no other one
        read_config(EXAMPLE)
    (tmp_path / "build" / "story-shards").mkdir(parents=True)
    assert read_config(EXAMPLE).data.folder == "build/story-shards"


# --- what is computed --------------------------------------------------------------------------


def test_the_rate_rises_to_the_peak_and_falls_along_a_cosine():
    cfg = OptimizerSection(learning_rate=1.0, min_learning_rate=0.2, warmup_steps=3)
    rates = [trainer.rate_at(step, 11, cfg) for step in range(11)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[7] == pytest.approx(0.6)  # half-way down
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[10] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 7 / 8)) / 2)


def plain_optimizers(model, name):
    """Pairs of an optimizer and its highest rate."""
    named = dict(model.named_parameters())
    muons = [n for n in named if name == "muon" and re.search("(att.W|out_proj|ff).*weight", n)]
    matrices = [p for n, p in named.items() if n not in muons and p.dim() == 2]
    others = [p for p in named.values() if p.dim() == 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0}]
    pairs = [(torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.1), 0.01)]
    if muons:
        assert len(muons) == 2 * 6  # blocks, matrices in each
        muon = torch.optim.Muon([named[n] for n in muons], adjust_lr_fn="match_rms_adamw")
        pairs.append((muon, 0.03))
    return pairs


def plain_loop(config, steps):
    """Losses and gradient norms as PyTorch gives them, without anything of the trainer's."""
    model_cfg, data = config["model"], config["data"]
    torch.manual_seed(123)
    model = GPTModel({**GPT_CONFIG_124M, **model_cfg})
    optimizers = plain_optimizers(model, config["optimizer"].get("name"))
    batches = TokenBatches(data["folder"], 4, model_cfg["context_length"], data["seed"])
    for step in range(steps):
        half_cosine = (1 + math.cos(math.pi * (step - 3) / (12 - 3))) / 2
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * ((step + 1) / 4 if step < 3 else half_cosine)
        (x1, y1), (x2, y2) = batches.next(), batches.next()
        logits = model(torch.cat([x1, x2]))  # two batches at once are what two after another are
        loss = F.cross_entropy(logits.flatten(0, 1), torch.cat([y1, y2]).flatten())
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.4)
        for optimizer, _ in optimizers:
            optimizer.step()
        yield loss.item(), norm.item()


# Muon computes with 16 bits and makes small differences larger.
@pytest.mark.parametrize("name, atol", [("adamw", 1e-5), ("muon", 1e-3)])
def test_the_log_has_the_figures_of_a_plain_loop(name, atol, toy_run):
    toy_run.set("model.drop_rate", 0.0)
    toy_run.set("optimizer.clip_norm", 0.4)
    if name == "muon":
        toy_run.set("optimizer.name", "muon")
        toy_run.set("optimizer.muon_learning_rate", 0.03)
    assert toy_run.train() == 0
    rows = toy_run.rows()
    expected = list(plain_loop(toy_run.config, 12))

    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [int(row["tokens"]) for row in rows] == [64 * step for step in range(1, 13)]
    figures = [(float(row["loss"]), float(row["gradient_norm"])) for row in rows]
    torch.testing.assert_close(figures, expected, atol=atol, rtol=0)
    assert max(norm for _, norm in expected) > 0.4  # so that clipping had something to do
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.2  # control: it learns
    assert [row["step"] for row in rows if row["val_loss"]] == ["5", "10", "12"]


def test_the_validation_loss_is_that_of_the_saved_weights_without_dropout(trained_run):
    model = GPTModel({**GPT_CONFIG_124M, **trained_run.config["model"]}).eval()
    load_weights(model, trained_run.checkpoint(12))
    batches = TokenBatches(trained_run.config["data"]["folder"], 4, 8, seed=0, split="val")
    pairs = [batches.next(), batches.next()]
    with torch.no_grad():
        losses = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in pairs]
    assert float(trained_run.rows()[-1]["val_loss"]) == pytest.approx(sum(losses) / 2, abs=1e-5)


def test_bf16_gives_nearly_the_losses_of_fp32(new_toy_run):
    plain, mixed = new_toy_run(), new_toy_run({"run.precision": "bf16"})
    assert plain.train() == mixed.train() == 0
    difference = [
        abs(float(a["loss"]) - float(b["loss"]))
        for a, b in zip(plain.rows(), mixed.rows(), strict=True)
    ]
    assert 0 < max(difference) < 0.05
    weights = load_file(mixed.checkpoint(12) / "model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_a_model_with_a_loss_of_its_own_is_asked_for_it():
    class Model(torch.nn.Module):
        def loss(self, ids, targets):
            return (ids + targets).sum()

    assert trainer.LossModel(Model())(torch.ones(2), torch.ones(2)) == 4


def test_a_tied_head_is_stored_once_and_stays_tied(new_toy_run):
    changes = {"model.tie_weights": True, "model.drop_rate": 0.0}
    run = new_toy_run(changes)
    assert run.train() == 0
    assert float(run.rows()[0]["loss"]) == pytest.approx(math.log(61), abs=0.2)  # as if guessing
    weights = load_file(run.checkpoint(12) / "model.safetensors")
    assert "out_head.weight" not in weights

    shutil.rmtree(run.checkpoint(12))
    assert run.train("--resume") == 0
    assert run.result() == new_toy_run(changes).undisturbed()
    separate = GPTModel({**GPT_CONFIG_124M, **{k: run.config["model"][k] for k in MODEL_KEYS}})
    load_weights(separate, run.checkpoint(12))
    assert torch.equal(separate.out_head.weight, weights["tok_emb.weight"])


MODEL_KEYS = ["vocab_size", "context_length", "emb_dim", "n_heads", "n_layers", "drop_rate"]


def test_weights_of_another_size_are_refused(trained_run):
    model = GPTModel({**GPT_CONFIG_124M, **trained_run.config["model"], "n_layers": 1})
    with pytest.raises(CheckpointError, match=r"trf_blocks.1.* but None in the model"):
        load_weights(model, trained_run.checkpoint(12))


@pytest.mark.slow
def test_samples_go_on_from_the_prompt(toy_run, capsys):
    toy_run.set("model.vocab_size", 50257)
    toy_run.config["run"] |= {"steps": 4, "sample_every": 3, "prompt": "She knows the"}
    assert toy_run.train() == 0
    samples = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  She ")]
    assert len(samples) == 2  # after step 3 and at the end
    assert all(line.startswith("  She knows the") and len(line) > 60 for line in samples)


def test_tensorboard_is_given_the_figures_of_the_log(toy_run, monkeypatch):
    class Board:
        def __init__(self, folder, purge_step):
            boards.append(self)
            self.scalars, self.purge_step = [], purge_step

        def add_scalar(self, *scalar):
            self.scalars.append(scalar)

        def flush(self):
            pass

    boards = []
    fake = types.SimpleNamespace(SummaryWriter=Board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    toy_run.set("run.tensorboard", True)
    assert toy_run.train() == 0
    rows = toy_run.rows()
    losses = [value for name, value, _ in boards[0].scalars if name == "loss"]
    assert losses == pytest.approx([float(row["loss"]) for row in rows])
    assert [step for name, _, step in boards[0].scalars if name == "val_loss"] == [5, 10, 12]

    shutil.rmtree(toy_run.checkpoint(12))
    assert toy_run.train("--resume") == 0
    assert boards[1].purge_step == 9  # what it shows after step 8 is replaced


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses(new_toy_run, monkeypatch):
    changes = {"model.n_layers": 1, "run.steps": 6, "run.eval_every": 0}  # little to compile
    changes["model.drop_rate"] = 0.0  # compiled dropout draws other numbers
    plain, compiled = new_toy_run(changes), new_toy_run({**changes, "run.compile": True})
    compiling, calls = trainer.LossModel.compile, []
    monkeypatch.setattr(
        trainer.LossModel, "compile", lambda self: (compiling(self), calls.append(self))
    )
    assert plain.train() == 0 and calls == []
    assert compiled.train() == 0 and len(calls) == 1  # control: it was compiled
    for expected, row in zip(plain.rows(), compiled.rows(), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-4)


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["position", "seed_at", "optimizer", "muon"])
def test_whatever_were_not_restored_would_be_seen(what, new_toy_run, monkeypatch):
    """Control of the tests of going on: each part of a checkpoint changes the result."""
    run = new_toy_run({"optimizer.name": "muon"} if what == "muon" else {})
    expected = run.undisturbed()
    shutil.rmtree(run.checkpoint(12))
    if what == "position":
        path = run.checkpoint(8) / "state.json"
        state = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**state, "position": 17}), encoding="utf-8")
    elif what == "seed_at":
        monkeypatch.setattr(trainer, "seed_at", lambda *where: 1)
    else:
        restore = trainer.set_optimizer_state_dict
        rest = slice(1, None)  # without AdamW, or without Muon, which is the first of two
        monkeypatch.setattr(
            trainer,
            "set_optimizer_state_dict",
            lambda model, optimizers, state, options: (
                optimizers[rest] and restore(model, optimizers[rest], state, options=options)
            ),
        )
    assert run.train("--resume") == 0
    assert run.result() != expected


@pytest.mark.parametrize(
    "changes", [{}, {"run.precision": "bf16"}, {"optimizer.name": "muon"}], ids=str
)
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_bits(
    changes, new_toy_run, monkeypatch, capsys
):
    update = trainer.Trainer.update

    def interrupted_update(self):
        if self.step == 6:
            signal.raise_signal(signal.SIGINT)
        update(self)

    run = new_toy_run(changes)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "update", interrupted_update)
        assert run.train() == 0
    assert run.checkpoints() == [4, 7]
    assert run.num_rows() == 7
    assert "Interrupted and saved at step 7. Go on with --resume." in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    assert run.train("--resume") == 0
    assert run.result() == new_toy_run(changes).undisturbed()


def test_a_second_ctrl_c_ends_at_once(toy_run, monkeypatch, capsys):
    def update(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer.Trainer, "update", update)
    assert toy_run.train() == 130
    assert "interrupted, and nothing more was saved" in capsys.readouterr().err


def test_the_last_checkpoints_are_kept(trained_run):
    assert trained_run.checkpoints() == [8, 12]
    names = sorted(path.name for path in trained_run.checkpoint(12).iterdir())
    assert names == ["model.safetensors", "state.json", "state.pt"]


def test_a_finished_run_has_nothing_to_go_on_with(trained_run):
    before = trained_run.result()
    assert trained_run.train("--resume") == 0
    assert trained_run.result() == before


def test_resuming_what_has_no_checkpoint_yet_begins_anew(toy_run, finished):
    assert toy_run.train("--resume") == 0
    assert toy_run.result() == finished.result()


def test_what_does_not_change_the_model_may_change_in_between(trained_run, finished):
    run = trained_run
    shutil.rmtree(run.checkpoint(12))
    shutil.copytree(run.config["data"]["folder"], run.folder / "moved")
    for setting, value in [
        ("data.folder", str(run.folder / "moved")),
        ("run.log_every", 1),
        ("run.checkpoint_every", 0),
        ("run.parallel", "fsdp"),
    ]:
        run.set(setting, value)
    assert run.train("--resume") == 0
    assert run.result() == finished.result()


# --- faults ------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def rewrite(path):
    path.write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, "the sha256 of model.safetensors should be"),
        ("model.safetensors", flip, "the sha256 of model.safetensors should be"),
        ("state.pt", flip, "the sha256 of state.pt should be"),
        ("state.pt", Path.unlink, "state.pt is missing"),
        ("state.json", Path.unlink, "no state.json"),
        ("state.json", cut, "state.json is wrong"),
        ("state.json", rewrite, "state.json is wrong"),
    ],
)
def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_used(
    name, damage, message, trained_run, finished, capsys
):
    damage(trained_run.checkpoint(12) / name)
    assert trained_run.train("--resume") == 0

    printed = capsys.readouterr()
    assert "step-000012 is damaged" in printed.err and message in printed.err
    assert "step 8 of 12" in printed.out
    assert trained_run.result() == finished.result()  # and the damaged one was replaced


def test_if_all_checkpoints_are_damaged_nothing_is_trained(trained_run, capsys):
    for step in 8, 12:
        flip(trained_run.checkpoint(step) / "state.pt")
    assert trained_run.train("--resume") == 1
    printed = capsys.readouterr().err
    assert "step-000008 is damaged" in printed and "step-000012 is damaged" in printed
    assert "No checkpoint in" in printed and "can be used" in printed


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(tmp_path):
    def write(step):
        write_checkpoint(tmp_path, {"step": step}, {"weight": torch.ones(2)}, {}, keep=2)

    for step in 4, 8, 12:
        write(step)
    flip(tmp_path / "step-000012" / "state.pt")
    write(10)  # a run that goes on from step 8 does
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000008", "step-000010"]


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"state": {}}, tmp_path / "state.pt")
    assert load_optimizer_state(tmp_path) == {"state": {}}  # control
    torch.save(Path("/"), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be read: Weights only load failed"):
        load_optimizer_state(tmp_path)


def test_a_checkpoint_of_another_configuration_names_both_values(trained_run, capsys):
    trained_run.set("model.emb_dim", 32)
    trained_run.set("optimizer.betas", [0.9, 0.99])
    trained_run.set("data.batch_size", 2)
    assert trained_run.train("--resume") == 1
    printed = capsys.readouterr().err
    assert "model.emb_dim is 16 there, but 32 now" in printed
    assert "optimizer.betas is [0.9, 0.95] there, but [0.9, 0.99] now" in printed
    assert "data.batch_size of all processes is 4 there, but 2 now" in printed
    assert printed.count(" there, but ") == 3


def test_a_checkpoint_of_other_data_is_refused(trained_run, tmp_path, capsys):
    trained_run.set("data.folder", str(write_toy_shards(tmp_path / "other", seed=1)))
    assert trained_run.train("--resume") == 1
    assert "manifest, sha256 is" in capsys.readouterr().err


def test_an_output_folder_with_a_run_is_left_alone(trained_run, capsys):
    before = trained_run.result()
    assert trained_run.train() == 1
    printed = capsys.readouterr().err
    assert f"{trained_run.out} already holds a run" in printed and "--resume" in printed
    assert trained_run.result() == before


def test_an_output_folder_that_cannot_be_is_named(toy_run, capsys):
    toy_run.out.write_text("a file in its place", encoding="utf-8")
    assert toy_run.train() == 1
    assert f"Cannot write in the folder {toy_run.out}: File exists" in capsys.readouterr().err


def test_a_run_that_is_at_work_is_left_alone(toy_run, capsys):
    toy_run.out.mkdir()
    with FileLock(toy_run.out / ".lock"):
        assert toy_run.train() == 1
    assert "Another process is training in" in capsys.readouterr().err
    assert toy_run.train() == 0  # control


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-00001.bin", flip, "train-00001.bin is damaged"),
        ("val-00000.bin", cut, "val-00000.bin is damaged"),
        ("train-00000.bin", Path.unlink, "train-00000.bin is missing"),
        ("manifest.json", cut, "manifest.json is damaged"),
        ("manifest.json", Path.unlink, "There is no"),
    ],
)
def test_damaged_data_is_named_before_the_run_begins(name, damage, message, toy_run, capsys):
    folder = shutil.copytree(toy_run.config["data"]["folder"], toy_run.folder / "shards")
    toy_run.set("data.folder", str(folder))
    damage(folder / name)
    assert toy_run.train() == 1
    assert message in capsys.readouterr().err
    assert not toy_run.out.exists()


def test_a_token_outside_the_vocabulary_is_named(toy_run, capsys):
    toy_run.set("model.vocab_size", 60)
    assert toy_run.train() == 1
    assert "holds the token id 60, but vocab_size is 60" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["loss", "norm of the gradient"])
def test_a_figure_that_is_no_number_stops_the_run_and_spoils_no_checkpoint(
    what, finished, new_toy_run, monkeypatch, capsys
):
    forward = trainer.LossModel.forward
    calls = []

    def spoiled(self, ids, targets):
        calls.append(0)
        loss = forward(self, ids, targets)
        if what == "loss":
            return loss * (math.nan if len(calls) == 12 else 1)
        if len(calls) == 12:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    changes = {"run.eval_every": 0, "run.log_every": 100}  # only training calls it, twice a step
    run = new_toy_run(changes)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.LossModel, "forward", spoiled)
        assert run.train() == 1
    printed = capsys.readouterr().err
    assert f"The {what} is" in printed and "in step 6, batch 12 of 124 in epoch 1" in printed
    assert run.checkpoints() == [4]

    assert run.train("--resume") == 0  # control: the checkpoint is a good one
    assert run.result()[0] == finished.result()[0]


def test_a_rate_that_is_far_too_high_is_found(toy_run, capsys):
    toy_run.set("optimizer.learning_rate", 1e30)
    assert toy_run.train() == 1
    assert "Try a lower learning_rate" in capsys.readouterr().err


@pytest.fixture
def small_disk():
    """A function that lets no file grow beyond a number of bytes, as a full disk would."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["model.safetensors", "state.pt", "log.csv"])
def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(
    what, trained_run, finished, small_disk, capsys
):
    run = trained_run
    sizes = {path.name: path.stat().st_size for path in run.checkpoint(12).iterdir()}
    sizes["log.csv"] = (run.out / "log.csv").stat().st_size
    shutil.rmtree(run.checkpoint(12))
    small_disk(sizes[what] - 1)
    assert run.train("--resume") == 1
    printed = capsys.readouterr().err
    assert "Could not write" in printed and "Make room" in printed
    assert os.strerror(errno.EFBIG) in printed  # the system's reason, whoever wrote
    assert run.checkpoints() == [8]
    assert not list((run.out / "checkpoints").glob(".*"))

    small_disk(10**9)
    assert run.train("--resume") == 0
    assert run.result() == finished.result()
