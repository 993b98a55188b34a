"""From a folder of text to a file that `load_pocket` reads, at toy size."""

import csv
import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import companion
import export_pocket
import pocket_data
import pocket_model
import trainer
from gpt_fast import GPTFast

TOY = {
    "vocab_size": 50257,
    "context_length": 8,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
RECIPE = """
[model]
name = "fast"
vocab_size = 64
context_length = 8
emb_dim = 16
n_heads = 2
n_layers = 1
tie_weights = true
[data]
folder = '{shards}'
batch_size = 4
[optimizer]
learning_rate = 0.01
[run]
out = '{run}'
steps = 6
eval_every = 2
"""


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """Folders of shards and of a run on a text of a dozen words."""
    folder = tmp_path_factory.mktemp("pocket")
    (folder / "texts").mkdir()
    lines = ["The cat sat on a mat.", "A dog ran to the cat.", "The dog sat on the mat."]
    (folder / "texts" / "story.txt").write_text("\n".join(lines * 20), encoding="utf-8")
    (folder / "texts" / "valid.txt").write_text("\n".join(lines * 5), encoding="utf-8")
    shards, run = folder / "shards", folder / "run"
    shards.mkdir()
    pocket_data.mix(pocket_data.tokenize(folder / "texts", folder / "files"), shards)
    recipe = folder / "toy.toml"
    recipe.write_text(RECIPE.format(shards=shards, run=run), encoding="utf-8")
    assert trainer.main(["--config", str(recipe)]) == 0
    return run, shards


def test_a_loaded_model_has_the_logits_of_the_trained_one(toy_run, tmp_path, monkeypatch):
    run, shards = toy_run
    for module in export_pocket, pocket_model:
        monkeypatch.setattr(module, "POCKET_CONFIG", TOY)
    path = tmp_path / "pocket.safetensors"
    size, digest = export_pocket.export(run, shards, path)
    data = path.read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    entry = {"what": "x", "size": size, "sha256": digest, "path": str(path)}
    monkeypatch.setattr(companion.assets, "manifest", lambda: {pocket_model.FILE: entry})
    loaded = pocket_model.load_pocket(TOY)

    weights = load_file(run / "checkpoints" / "step-000006" / "model.safetensors")
    trained = GPTFast({**TOY, "vocab_size": 64})
    trained.out_head.weight = trained.tok_emb.weight
    pocket_model.fit(trained, weights)
    vocabulary = torch.from_numpy(np.load(shards / "vocabulary.npy")).long()
    small = torch.randint(len(vocabulary), (2, 8), generator=torch.manual_seed(0))
    with torch.no_grad():
        ours = loaded(vocabulary[small])[..., vocabulary]
        theirs = trained.eval()(small)[..., : len(vocabulary)]
        others = loaded(small)[..., vocabulary]  # control: ids of the wrong vocabulary
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=5e-3)
    assert (others - theirs).abs().max() > 0.05


def test_the_history_has_the_measurements_and_the_mean_losses_between_them(toy_run, tmp_path):
    run, _ = toy_run
    path = tmp_path / "training.csv"
    export_pocket.write_history(run, path)
    with open(path, encoding="utf-8", newline="") as file:
        history = list(csv.DictReader(file))
    with open(run / "log.csv", encoding="utf-8", newline="") as file:
        log = list(csv.DictReader(file))
    assert [row["step"] for row in history] == ["2", "4", "6"]
    mean = (float(log[2]["loss"]) + float(log[3]["loss"])) / 2
    assert float(history[1]["train_loss"]) == pytest.approx(mean, abs=1e-4)
    assert float(history[2]["val_loss"]) == pytest.approx(float(log[5]["val_loss"]), abs=1e-4)


def test_without_a_checkpoint_there_is_nothing_to_export(toy_run, tmp_path, monkeypatch, capsys):
    _, shards = toy_run
    path = tmp_path / "pocket.safetensors"
    arguments = ["export_pocket.py", str(tmp_path), str(shards), str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert export_pocket.main() == 1
    assert "has no checkpoint. Train first" in capsys.readouterr().err
    assert not path.exists()
