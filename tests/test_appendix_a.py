"""Appendix A: the toy network, the book's figures, and the training in several processes."""

import gc
import importlib
import os
import runpy
import signal
import subprocess
import sys
import weakref

import nbformat
import psutil
import pytest
import quick_starts
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import companion
from companion.notebooks import ROOT
from conftest import printed_by_section
from toy_network import NeuralNetwork, ToyDataset, compute_accuracy

FOLDER = ROOT / "appendix-A" / "03_main-chapter-code"
SCRIPT = FOLDER / "DDP-script.py"


# The network, the data, the accuracy


def test_the_network_is_three_layers_with_a_relu_between_them():
    torch.manual_seed(0)
    network, x = NeuralNetwork(num_inputs=4, num_outputs=3), torch.randn(5, 4)
    w1, b1, w2, b2, w3, b3 = network.parameters()
    hidden = F.relu(F.relu(x @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(network(x), hidden @ w3.T + b3)
    assert [len(bias) for bias in (b1, b2, b3)] == [30, 20, 3]
    assert not torch.allclose(network(x), (x @ w1.T + b1) @ w2.T @ w3.T)  # control


def test_items_of_the_dataset_are_rows_with_their_labels():
    rows = ToyDataset(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5, 6]))
    assert len(rows) == 2
    assert [(x.tolist(), y.item()) for x, y in rows] == [([1.0, 2.0], 5), ([3.0, 4.0], 6)]


def test_rows_and_labels_of_different_number_are_refused():
    with pytest.raises(ValueError, match="there are 3 and 2"):
        ToyDataset(torch.zeros(3, 2), torch.zeros(2))
    ToyDataset(torch.zeros(3, 2), torch.zeros(3))  # control


class IsPositive(torch.nn.Module):
    """Class 1 for positive features, class 0 for others; the other way round in training mode."""

    def forward(self, x):
        score = -x if self.training else x
        return torch.cat([-score, score], dim=1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_accuracy_is_the_share_of_examples_however_they_are_batched(batch_size):
    features = torch.tensor([[1.0], [2.0], [3.0], [4.0], [-1.0]])
    rows = ToyDataset(features, torch.tensor([1, 1, 1, 0, 1]))  # the last two are wrong
    assert compute_accuracy(IsPositive(), DataLoader(rows, batch_size)) == 3 / 5


def test_an_accuracy_of_nothing_is_refused():
    rows = ToyDataset(torch.zeros(0, 1), torch.zeros(0))
    with pytest.raises(ValueError, match="the loader is empty"):
        compute_accuracy(IsPositive(), DataLoader(rows))


# The book's figures


@pytest.fixture(scope="module")
def printed():
    """What the stored notebooks print, by section; nbval compares it with a run."""
    sections = {}
    for name in ("code-part1", "code-part2", "exercise-solutions"):
        sections |= printed_by_section(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4))
    return sections


FIGURES = [
    ("A.2.1", "0 dimensions, shape ()\n1 dimensions, shape (3,)\n2 dimensions, shape (2, 2)\n"),
    ("A.2.1", "3 dimensions, shape (2, 2, 2)\n"),
    ("A.2.1", "torch.tensor:     tensor([1, 2, 3, 4, 5, 6, 7, 8])\n"),
    ("A.2.1", "torch.from_numpy: tensor([999,   2,   3,   4,   5,   6,   7,   8])\n"),
    ("A.2.2", "torch.int64\ntorch.float32\n"),
    ("A.2.3", "torch.Size([2, 3])\n"),
    ("A.2.3", "tensor([[1, 4],\n        [2, 5],\n        [3, 6]])\n"),
    ("A.2.3", "tensor([[14, 32],\n        [32, 77]])"),
    ("A.3", "tensor(0.0852)"),
    ("A.4", "(tensor([-0.0898]),)\n(tensor([-0.0817]),)\n"),
    ("A.4", "tensor([-0.0898])\ntensor([-0.0817])\n"),
    ("A.5", "Trainable parameters: 2,213\n"),
    ("A.5", "torch.Size([30, 50])"),
    ("A.5", "tensor([-0.0577,  0.0047, -0.0702], grad_fn"),
    ("A.5", "tensor([[-0.1262,  0.1080, -0.1792]], grad_fn"),
    ("A.6", "Length: 5\n"),
    ("A.6", "Batch 1: tensor([[ 2.3000, -1.1000],\n        [-0.9000,  2.9000]]) tensor([1, 0])\n"),
    ("A.6", "        [-0.5000,  2.6000]]) tensor([0, 0])\nBatch 3:"),
    ("A.6", "Batch 3: tensor([[ 2.7000, -1.5000]]) tensor([1])\n"),
    ("A.7", "1/3, batch 1/2: loss 0.75\nEpoch 1/3, batch 2/2: loss 0.65\n"),
    ("A.7", "2/3, batch 1/2: loss 0.44\nEpoch 2/3, batch 2/2: loss 0.13\n"),
    ("A.7", "3/3, batch 1/2: loss 0.03\nEpoch 3/3, batch 2/2: loss 0.00\n"),
    ("A.7", "tensor([[ 2.8569, -4.1618],\n"),
    ("A.7", "tensor([[0.9991, 0.0009],\n"),
    ("A.7", "tensor([0, 0, 0, 1, 1])\n"),
    ("A.7", "training: 1.0\ntest:     1.0\n"),
    ("A.9.1", "tensor([5., 7., 9.])\n"),
    ("A.9.1", "RuntimeError: "),
    ("A.9.2", "1/3, batch 1/2: loss 0.75\nEpoch 1/3, batch 2/2: loss 0.65\n"),
    ("A.9.2", "2/3, batch 1/2: loss 0.44\nEpoch 2/3, batch 2/2: loss 0.13\n"),
    ("A.9.2", "3/3, batch 1/2: loss 0.03\nEpoch 3/3, batch 2/2: loss 0.00\n"),
    ("A.9.2", "training: 1.0\ntest:     1.0\n"),
    ("Exercise A.3", "752\n"),
    ("Exercise A.4", "(100 x 200) by (200 x 300) "),
]


@pytest.mark.parametrize("section, figure", FIGURES)
def test_the_notebooks_print_the_books_figure(printed, section, figure):
    assert figure in printed[section]


def test_a_figure_is_looked_for_in_its_own_section(printed):
    """Control: the figures are not in the section after theirs."""
    for section, figure in [("A.3", "tensor(0.0852)"), ("A.5", "2,213"), ("Exercise A.3", "752\n")]:
        assert figure in printed[section]
        others = [text for name, text in printed.items() if name != section]
        assert not any(figure in text for text in others)


# Bad input


@pytest.fixture
def ddp():
    return importlib.import_module("DDP-script")


def run_as_script(monkeypatch, *arguments, **variables):
    """The message with which the script ends."""
    monkeypatch.setattr(sys, "argv", ["DDP-script.py", *arguments])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return ended.value.code


def test_arguments_are_refused(monkeypatch):
    assert "takes no arguments, but got --epochs 3" in run_as_script(monkeypatch, "--epochs", "3")


def test_half_of_torchruns_variables_are_refused(monkeypatch):
    message = run_as_script(monkeypatch, RANK="0", WORLD_SIZE="2")
    assert "RANK is set, but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in message
    assert "torchrun --nproc-per-node=2" in message


def test_no_epoch_is_refused(ddp):
    with pytest.raises(ValueError, match="num_epochs must be at least 1, but is 0"):
        ddp.main(0, 1, 0)


@pytest.mark.parametrize(
    "device, message",
    [("mps", "set DEVICE=cpu"), ("cuda", "Process 2 of .* GPU of its own, but there are 1")],
)
def test_devices_that_cannot_be_had_are_refused(ddp, monkeypatch, device, message):
    monkeypatch.setattr(companion, "device", lambda: torch.device(device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match=message):
        ddp.ddp_setup(1, 2)


# Several processes

WORK = """
import contextlib, importlib, os, sys, traceback
os.environ.update({variables!r})
import torch
ddp = importlib.import_module("DDP-script")
features = torch.randn(8, 2, generator=torch.Generator().manual_seed(5))
labels = (features[:, 0] > 0).long()
{before}
with open({output!r}, "a", buffering=1) as file, contextlib.redirect_stdout(file):
    try:
        for size in {sizes!r}:
            ddp.TRAIN_FEATURES, ddp.TRAIN_LABELS = features[:size], labels[:size]
            ddp.BATCH_SIZE = {batch_size}
            network = ddp.main({rank}, {count}, 3, f"{uri}/meet-{{size}}")
            torch.save(network.state_dict(), f"{folder}/weights-{{size}}-{rank}.pt")
    except Exception:
        traceback.print_exc(file=file)
        sys.exit(1)
"""
UNEQUAL_SHARES = """
class PlainShare(torch.utils.data.Sampler):
    def __init__(self, rows):
        self.places = range({rank}, len(rows), {count})
    def __iter__(self):
        return iter(self.places)
    def __len__(self):
        return len(self.places)
    def set_epoch(self, epoch):
        pass
ddp.DistributedSampler = PlainShare
"""


def train(folder, count, sizes, batch_size=2, before=""):
    """Train in `count` processes, on data of each size in turn; their exit statuses."""
    folder.mkdir()
    processes = []
    for rank in range(count):
        code = WORK.format(
            variables={"OMP_NUM_THREADS": "1", "DEVICE": "cpu"},
            output=str(folder / "output.txt"),
            sizes=sizes,
            batch_size=batch_size,
            folder=folder.as_posix(),
            uri=folder.as_uri(),
            rank=rank,
            count=count,
            before=before.format(rank=rank, count=count),
        )
        processes.append(quick_starts.start(code))
    for process in processes:
        process.join(120)
        process.kill()
    return [process.exitcode for process in processes]


def weights(folder, size, rank=0):
    """All weights of a trained network, one behind the other."""
    tensors = torch.load(folder / f"weights-{size}-{rank}.pt", weights_only=True).values()
    return torch.cat([tensor.flatten() for tensor in tensors])


def weights_of_one_process(ddp, monkeypatch, folder, size, batch_size):
    """As `weights`, trained within this process."""
    features = torch.randn(8, 2, generator=torch.Generator().manual_seed(5))[:size]
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(ddp, "TRAIN_FEATURES", features)
    monkeypatch.setattr(ddp, "TRAIN_LABELS", (features[:, 0] > 0).long())
    monkeypatch.setattr(ddp, "BATCH_SIZE", batch_size)
    network = ddp.main(0, 1, 3, (folder / f"meet-alone-{size}-{batch_size}").as_uri())
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_the_wrapped_model_is_gone_before_the_group_is(ddp, tmp_path, monkeypatch):
    """Else it can hang at the end: see the comment in `main`."""
    wrapped, alive = [], []
    wrap, destroy = ddp.DistributedDataParallel, ddp.dist.destroy_process_group

    def remember(*args, **kwargs):
        model = wrap(*args, **kwargs)
        wrapped.append(weakref.ref(model))
        model.itself = [model]  # as it sometimes does anyway
        return model

    def look_and_destroy():
        alive.append(wrapped[-1]() is not None)
        destroy()

    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr(ddp, "DistributedDataParallel", remember)
    monkeypatch.setattr(ddp.dist, "destroy_process_group", look_and_destroy)
    gc.disable()  # or it may be collected by chance
    try:
        ddp.main(0, 1, 1, (tmp_path / "meet-1").as_uri())
        monkeypatch.setattr(ddp.gc, "collect", lambda: None)  # control
        ddp.main(0, 1, 1, (tmp_path / "meet-2").as_uri())
    finally:
        gc.enable()
    assert alive == [False, True]


@pytest.mark.slow  # it starts processes
@pytest.mark.parametrize("count", [2, 3])
def test_processes_learn_the_same_whatever_the_size_of_the_data(
    count, ddp, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    sizes = (1, 2, 5, 6, 7)
    output = folder / "output.txt"
    assert train(folder, count, sizes) == [0] * count, output.read_text(encoding="utf-8")
    for size in sizes:
        copies = [weights(folder, size, rank) for rank in range(count)]
        assert all(torch.equal(copies[0], copy) for copy in copies[1:])
    # Where the shares come out even, it is the training of one process with the whole batch.
    alone = weights_of_one_process(ddp, monkeypatch, folder, 6, batch_size=2 * count)
    torch.testing.assert_close(weights(folder, 6), alone)
    # Controls: not with a smaller batch, and not where an example is used twice.
    smaller = weights_of_one_process(ddp, monkeypatch, folder, 6, batch_size=2)
    assert not torch.allclose(weights(folder, 6), smaller, atol=1e-4)
    padded = weights_of_one_process(ddp, monkeypatch, folder, 7, batch_size=2 * count)
    assert not torch.allclose(weights(folder, 7), padded, atol=1e-4)


@pytest.mark.slow
def test_unequal_shares_would_leave_a_process_waiting(tmp_path):
    """Control of the test above: without the sampler's padding one process waits in vain."""
    folder = tmp_path / "run"
    statuses = train(folder, 2, (5,), before=UNEQUAL_SHARES)
    assert statuses != [0, 0]
    assert "onnection closed by peer" in (folder / "output.txt").read_text(encoding="utf-8")


def environment(**variables):
    cleaned = {key: value for key, value in os.environ.items() if key not in ("RANK", "DEVICE")}
    return {**cleaned, "OMP_NUM_THREADS": "1", "DEVICE": "cpu", **variables}


def check_output(text, count, batches):
    """Each process went through its batches and has learned the data."""
    lines = text.splitlines()
    for rank in range(count):
        name = f"[process {rank}]"
        assert sum(line.startswith(f"{name} epoch") for line in lines) == 3 * batches, text
        assert f"{name} accuracy: training 1.00, test 1.00" in lines, text


@pytest.mark.slow
def test_two_scripts_at_once_start_two_processes_each(tmp_path):
    """A fixed port would have been taken by the first."""
    command = [sys.executable, str(SCRIPT)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes) for _ in range(2)]
    for run in runs:
        out, err = run.communicate(timeout=240)
        assert run.returncode == 0, err
        check_output(out, count=2, batches=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torch's Windows build may lack libuv")
@pytest.mark.parametrize("count, batches", [(1, 3), (3, 1)])
def test_torchrun_starts_as_many_processes_as_it_is_told(count, batches, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*command, f"--nproc-per-node={count}", str(SCRIPT)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    check_output(run.stdout, count, batches)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_all_processes_without_a_traceback(tmp_path):
    endless = (
        "import importlib; importlib.import_module('DDP-script').start_processes(2, 10_000_000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", endless],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        while "epoch 2" not in run.stdout.readline():
            assert run.poll() is None
        family = psutil.Process(run.pid).children(recursive=True)
        workers = [child for child in family if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) == 2
        run.send_signal(signal.SIGINT)  # to the first process alone
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (1, "Interrupted: all processes have ended.\n")
    assert not any(worker.is_running() for worker in workers)
