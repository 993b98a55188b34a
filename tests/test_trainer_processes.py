"""The trainer in processes of its own: killed, and two of them, which talk by gloo, beside one."""

import itertools
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from toy_runs import free_port

import trainer

ONE, DDP, FSDP = (1, "ddp"), (2, "ddp"), (2, "fsdp")
# What the processes do before they train, so that something happens.
NEVER_EXCHANGE = """
exchange = trainer.Trainer.exchange_of_gradients
trainer.Trainer.exchange_of_gradients = lambda self, is_wanted: exchange(self, False)
"""
SIGNAL_AT_STEP_7 = """
import signal
update = trainer.Trainer.update
def update_or_signal(self):
    if (self.step, self.processes.rank) == (7, {rank}):
        signal.raise_signal(signal.{name})
    update(self)
trainer.Trainer.update = update_or_signal
"""


def set_up(run, kind):
    """Batches of 8 windows in all, and no dropout: its random numbers are each process's own."""
    count, parallel = kind
    run.config["model"]["drop_rate"] = 0.0
    run.config["data"]["batch_size"] = 8 // count
    run.config["run"]["parallel"] = parallel


def finish(run, kind, *more, **options):
    """Train as one process or two; none may fail."""
    set_up(run, kind)
    statuses = run.finish(*more, count=kind[0], **options)
    assert statuses == [0] * kind[0], run.output.read_text(encoding="utf-8")


def curves(run):
    """The figures of the log as (rows, 4)."""
    columns = ("tokens", "loss", "val_loss", "gradient_norm")
    return torch.tensor([[float(row[name] or 0) for name in columns] for row in run.rows()])


def farthest(run, other):
    return (curves(run) - curves(other)).abs().max().item()


# Killed at random moments


def kill_and_resume(run, kills, seed):
    """SIGKILL at random moments; how often rows were lost. The run then goes on to its end."""
    numbers, lost = random.Random(seed), 0
    for _ in range(kills):
        newest = max(run.checkpoints(), default=0) if run.out.exists() else 0
        (process,) = run.start("--resume")
        run.wait_for_rows(newest + numbers.randint(0, 9), [process])
        time.sleep(numbers.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # control: it was still at work
        lost += run.num_rows() > max(run.checkpoints(), default=0)
    assert run.finish("--resume") == [0]
    return lost


def check_kill_and_resume(new_toy_run, kills, steps):
    changes = {"run.steps": steps, "run.log_every": 1, "run.checkpoint_every": 3}
    expected = new_toy_run(changes).undisturbed()
    run = new_toy_run(changes)
    kill_and_resume(run, kills, seed=kills)
    assert run.result() == expected
    assert new_toy_run({**changes, "run.seed": 124}).undisturbed() != expected  # control


@pytest.mark.slow  # it starts processes
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bits(new_toy_run):
    check_kill_and_resume(new_toy_run, kills=2, steps=24)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_killed_a_dozen_times_goes_on_to_the_same_bits(new_toy_run):
    check_kill_and_resume(new_toy_run, kills=12, steps=130)


KILL_BEFORE_WRITING = """
import itertools, os, shutil, signal
import checkpoints
steps = itertools.count()
def counted(function):
    def wrapped(*args, **kwargs):
        if next(steps) == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
os.replace, os.fsync, os.unlink = counted(os.replace), counted(os.fsync), counted(os.unlink)
checkpoints.save_file = counted(checkpoints.save_file)
checkpoints.torch.save = counted(checkpoints.torch.save)
shutil.rmtree = counted(shutil.rmtree)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_that_is_killed_before_any_step_of_writing_goes_on_to_the_same_bits(new_toy_run):
    changes = {"run.steps": 6, "run.log_every": 2, "run.checkpoint_every": 2, "run.keep": 1}
    expected = new_toy_run(changes).undisturbed()
    for step in itertools.count():
        run = new_toy_run(changes)
        status = run.finish(before=KILL_BEFORE_WRITING.format(step=step))
        if status == [0]:
            break
        assert status == [-signal.SIGKILL]
        assert run.train("--resume") == 0
        assert run.result() == expected, f"killed before step {step}"
        assert run.checkpoints()[-1] == 6
        assert not list((run.out / "checkpoints").glob(".*"))
    assert step > 30


# Two processes: curves and checkpoints


@pytest.mark.parametrize("kind", [DDP, pytest.param(FSDP, marks=pytest.mark.slow)], ids=str)
def test_two_processes_have_the_curves_of_one_with_the_same_global_batch(kind, new_toy_run):
    alone, run = new_toy_run(), new_toy_run()
    finish(alone, ONE)
    finish(run, kind)
    assert len(run.rows()) == 12
    assert farthest(run, alone) < 1e-4


@pytest.mark.slow
def test_processes_that_exchange_no_gradients_have_other_curves(new_toy_run):
    """Control of the test above: each one then learns from its own half of the batches."""
    alone, run = new_toy_run(), new_toy_run()
    finish(alone, ONE)
    finish(run, DDP, before=NEVER_EXCHANGE)
    assert farthest(run, alone) > 1e-2


def drop_all_but(run, step):
    """Set a run back to a checkpoint; what it holds: {name: shapes}."""
    for other in set(run.checkpoints()) - {step}:
        shutil.rmtree(run.checkpoint(other))
    tensors = run.tensors(step)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt", "fast"])
def test_each_kind_of_run_goes_on_from_the_checkpoints_of_each_other(
    model, new_toy_run, monkeypatch
):
    alone, run = new_toy_run(), new_toy_run()
    for either in alone, run:
        either.config["model"]["tie_weights"] = True
        either.config["run"] |= {"checkpoint_every": 2, "keep": 6}
    finish(alone, ONE)
    finish(run, ONE)
    run.set("model.name", model)
    step, held = 2, []
    for kind in DDP, FSDP, DDP, ONE, FSDP, ONE:  # after one process: each pair of two in turn
        held.append(drop_all_but(run, step))
        finish(run, kind, "--resume")
        assert farthest(run, alone) < 1e-4, kind
        step = min(step + 2, 10)
    assert all(shapes == held[0] for shapes in held) and len(held[0]) > 30

    drop_all_but(run, 10)
    monkeypatch.setattr(trainer, "set_optimizer_state_dict", lambda *args, **options: None)
    set_up(run, ONE)
    assert run.train("--resume") == 0
    assert farthest(run, alone) > 1e-3  # control: without the optimizer's averages


@pytest.mark.slow
def test_muon_learns_the_same_in_two_processes(new_toy_run):
    alone, run = new_toy_run(), new_toy_run()
    for either, kind in (alone, ONE), (run, DDP):
        either.config["optimizer"]["name"] = "muon"
        finish(either, kind)
    assert farthest(run, alone) < 1e-4


@pytest.mark.slow
def test_torchrun_starts_the_processes(new_toy_run):
    alone, run = new_toy_run(), new_toy_run()
    finish(alone, ONE)
    set_up(run, FSDP)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += [f"--master-port={free_port()}", trainer.__file__, *run.arguments()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert farthest(run, alone) < 1e-4


# Two processes: what happens to one of them


@pytest.mark.slow
def test_ctrl_c_in_one_process_saves_and_ends_both(new_toy_run):
    expected, run = new_toy_run(), new_toy_run()
    finish(expected, DDP)
    finish(run, DDP, before=SIGNAL_AT_STEP_7.format(rank=1, name="SIGINT"))
    assert run.checkpoints() == [4, 8]
    assert run.num_rows() == 8
    finish(run, DDP, "--resume")
    assert run.result() == expected.result()


def check_a_killed_process(new_toy_run, kind, rank):
    expected, run = new_toy_run(), new_toy_run()
    finish(expected, kind)
    set_up(run, kind)
    processes = run.start(count=2, before=SIGNAL_AT_STEP_7.format(rank=rank, name="SIGKILL"))
    killed, other = processes[rank], processes[1 - rank]
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL  # control
    killed_at = time.monotonic()
    other.join(120)
    assert other.exitcode == 1, f"it was still there after {time.monotonic() - killed_at:.0f} s"
    message = f"process {2 - rank} of 2 cannot go on. If another one ended before it, go on with"
    assert message in run.output.read_text(encoding="utf-8")
    assert run.checkpoints() == [4]

    finish(run, kind, "--resume")
    assert run.result() == expected.result()


def test_a_killed_process_ends_the_other_and_the_run_goes_on_to_the_same_bits(new_toy_run):
    check_a_killed_process(new_toy_run, DDP, rank=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind, rank", [(DDP, 0), (FSDP, 0), (FSDP, 1)], ids=str)
def test_any_killed_process_ends_the_other(kind, rank, new_toy_run):
    check_a_killed_process(new_toy_run, kind, rank)
