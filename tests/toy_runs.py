"""Training runs of toy size, which the tests of the trainer share."""

import csv
import itertools
import json
import random
import socket
import time

import pytest
import quick_starts

TOY_VOCABULARY = 61
# Code that a process of its own runs: what it prints goes to a file.
START = """
import os, sys
os.environ.update({variables!r})
file = os.open({output!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(file, 1), os.dup2(file, 2)
import trainer
exec({before!r})
sys.exit(trainer.main({arguments!r}))
"""


def write_toy_shards(folder, seed=0, train=4000, val=600):
    """A folder of shards: mostly, the id after x is 3x + 1, which a small model soon learns."""
    import numpy as np

    from token_shards import FORMAT, MANIFEST, ShardWriter, write_json

    folder.mkdir(parents=True)
    numbers, shards = random.Random(seed), {}
    for split, count in ("train", train), ("val", val):
        ids = [0]
        while len(ids) < count:
            is_rule = numbers.random() < 0.9
            following = (3 * ids[-1] + 1) % TOY_VOCABULARY
            ids.append(following if is_rule else numbers.randrange(TOY_VOCABULARY))
        writer = ShardWriter(folder, split, shard_tokens=count // 2 + 1)
        writer.write(np.array(ids))
        writer.finish_shard()
        shards[split] = writer.shards
    write_json(folder / MANIFEST, {**FORMAT, "shards": shards})
    return folder


class ToyRun:
    """A training run whose steps take milliseconds; `config` may be changed before it starts."""

    def __init__(self, folder, shards):
        folder.mkdir()
        self.folder, self.out, self.output = folder, folder / "out", folder / "output.txt"
        self.config = {
            "model": {
                "vocab_size": TOY_VOCABULARY,
                "context_length": 8,
                "emb_dim": 16,
                "n_heads": 2,
                "n_layers": 2,
                "drop_rate": 0.1,
            },
            "data": {"folder": str(shards), "batch_size": 4, "seed": 5},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 3, "accumulation": 2},
            "run": {
                "out": str(self.out),
                "steps": 12,
                "log_every": 3,
                "eval_every": 5,
                "eval_batches": 2,
                "checkpoint_every": 4,
                "keep": 2,
            },
        }

    def set(self, setting, value):
        """Give a setting, as "section.key", another value; None removes it."""
        section, _, key = setting.partition(".")
        if value is None:
            del self.config[section][key]
        else:
            self.config.setdefault(section, {})[key] = value

    def arguments(self, *more):
        """The trainer's command line, with the configuration as it is now."""
        lines = []
        for section, settings in self.config.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(x)}" for key, x in settings.items())]
        path = self.folder / "config.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return ["--config", str(path), *more]

    def train(self, *more):
        """Train in this process; the exit status."""
        import trainer

        return trainer.main(self.arguments(*more))

    def start(self, *more, count=1, before=""):
        """Train in `count` processes of their own, which are returned.

        They run the code `before` first, which may change the module `trainer`.
        """
        processes, port = [], free_port()
        for rank in range(count):
            code = START.format(
                variables={
                    "OMP_NUM_THREADS": "1",
                    "DEVICE": "cpu",
                    **({} if count == 1 else torchrun_variables(rank, count, port)),
                },
                output=str(self.output),
                before=before,
                arguments=self.arguments(*more),
            )
            processes.append(quick_starts.start(code))
        return processes

    def finish(self, *more, count=1, before="", seconds=120):
        """Train in `count` processes to the end; their exit statuses."""
        processes = self.start(*more, count=count, before=before)
        for process in processes:
            process.join(seconds)
        return [process.exitcode for process in processes]

    def wait_for_rows(self, count, processes, seconds=120):
        """Wait until the log has so many rows, or a process has ended."""
        end = time.monotonic() + seconds
        while self.num_rows() < count and all(process.is_alive() for process in processes):
            assert time.monotonic() < end, f"{self.num_rows()} rows in {seconds} s"
            time.sleep(0.001)

    def num_rows(self):
        log = self.out / "log.csv"
        return max(0, log.read_bytes().count(b"\n") - 1) if log.exists() else 0

    def rows(self):
        """The log without what differs from run to run, a list of dictionaries of texts."""
        with open(self.out / "log.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            assert float(row.pop("tokens_per_second")) > 0
        return rows

    def checkpoints(self):
        return [int(path.name[5:]) for path in sorted((self.out / "checkpoints").glob("step-*"))]

    def checkpoint(self, step):
        return self.out / "checkpoints" / f"step-{step:06d}"

    def undisturbed(self):
        """Train to the end, and the result."""
        assert self.train() == 0
        return self.result()

    def tensors(self, step):
        """Weights and the optimizer's averages at a step, {name: tensor}."""
        import torch
        from safetensors.torch import load_file

        path = self.checkpoint(step)
        optimizer = torch.load(path / "state.pt", weights_only=True)["state"]
        return load_file(path / "model.safetensors") | {
            f"{name} {kind}": tensor
            for name, averages in optimizer.items()
            for kind, tensor in averages.items()
        }

    def result(self):
        """All that a run leaves at its end: `tensors` as lists, and the log."""
        tensors = self.tensors(self.config["run"]["steps"])
        return {name: tensor.tolist() for name, tensor in tensors.items()}, self.rows()


def torchrun_variables(rank, count, port):
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in variables.items()}}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory):
    return write_toy_shards(tmp_path_factory.mktemp("toy") / "shards")


@pytest.fixture
def new_toy_run(tmp_path, toy_shards, monkeypatch):
    """A function that makes a run, and changes settings of it: {"section.key": value}."""
    monkeypatch.setenv("DEVICE", "cpu")
    numbers = itertools.count()

    def make(changes=None):
        run = ToyRun(tmp_path / f"run-{next(numbers)}", toy_shards)
        for setting, value in (changes or {}).items():
            run.set(setting, value)
        return run

    return make


@pytest.fixture
def toy_run(new_toy_run):
    return new_toy_run()
