"""The experiments around the pocket model's recipe, at toy size."""

import csv
import os
import signal

import pytest
from toy_runs import TOY_VOCABULARY, write_toy_shards

import pocket_experiments
from trainer import Trainer

RECIPE = f"""
[model]
vocab_size = {TOY_VOCABULARY}
context_length = 8
emb_dim = 16
n_heads = 2
n_layers = 1
[data]
folder = "nowhere"
batch_size = 4
[optimizer]
learning_rate = 0.01
[run]
out = "nowhere"
steps = 1
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs experiments of 512 tokens, {name: changes}; returns the exit status and the rows."""
    shards, table = write_toy_shards(tmp_path / "shards"), tmp_path / "experiments.csv"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    monkeypatch.setattr(pocket_experiments, "RECIPE", recipe)
    monkeypatch.setattr(pocket_experiments, "BASE", {})
    monkeypatch.setitem(pocket_experiments.SHORT, "optimizer.warmup_steps", 2)
    monkeypatch.setattr("sys.argv", ["pocket_experiments.py", str(shards), "--out", str(table)])

    def run(experiments):
        experiments = {name: (512, changes) for name, changes in experiments.items()}
        monkeypatch.setattr(pocket_experiments, "EXPERIMENTS", experiments)
        status = pocket_experiments.main()
        if not table.exists():
            return status, []
        with open(table, encoding="utf-8", newline="") as file:
            return status, list(csv.DictReader(file))

    return run


def test_each_experiment_has_its_setting_and_all_its_measurements(run):
    changes = {"as it is": {}, "wide": {"model.emb_dim": 32}, "batch 8": {"data.batch_size": 8}}
    status, rows = run(changes)
    assert status == 0
    of = {name: [row for row in rows if row["experiment"] == name] for name in changes}
    # 16 steps of 4 windows of 8 tokens, or 8 of 8 windows; four measurements in each run.
    assert [row["step"] for row in of["wide"]] == ["4", "8", "12", "16"]
    assert [row["step"] for row in of["batch 8"]] == ["2", "4", "6", "8"]
    assert {group[-1]["tokens"] for group in of.values()} == {"512"}
    assert int(of["wide"][0]["parameters"]) > int(of["as it is"][0]["parameters"])
    assert len({row["val_loss"] for row in rows}) > len(changes)
    assert run(changes) == (0, rows)  # nothing is trained twice: also the seconds stay


def test_ctrl_c_ends_all_of_them(run, monkeypatch):
    begin = pocket_experiments.begin_or_go_on

    def interrupted(cfg, processes, resume):
        def press(trainer):
            os.kill(os.getpid(), signal.SIGINT)
            update(trainer)

        update = Trainer.update
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "update", press)
            begin(cfg, processes, resume)

    monkeypatch.setattr(pocket_experiments, "begin_or_go_on", interrupted)
    assert run({"first": {}, "second": {}}) == (130, [])
    monkeypatch.setattr(pocket_experiments, "begin_or_go_on", begin)
    assert run({"first": {}, "second": {}})[0] == 0  # goes on


def test_a_setting_that_cannot_be_is_told(run, capsys):
    assert run({"odd": {"model.n_heads": 3}}) == (1, [])
    assert "emb_dim must be divisible by n_heads, but is 16 with 3" in capsys.readouterr().err


def test_all_experiments_are_settings_of_the_trainer(tmp_path):
    for tokens, changes in pocket_experiments.EXPERIMENTS.values():
        cfg = pocket_experiments.configure(tmp_path, tmp_path, tokens, changes)
        done = cfg.run.steps * cfg.data.batch_size * cfg.model.context_length
        assert 0.97 * tokens < done <= tokens
