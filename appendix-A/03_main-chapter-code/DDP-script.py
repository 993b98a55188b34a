"""Train appendix A's toy network in several processes at once (book, section A.9.3).

    python DDP-script.py                         one process per GPU; without a GPU, two on the CPU
    torchrun --nproc-per-node=3 DDP-script.py    as many as you say

Every process has a copy of the network and a share of the data. In each backward pass
DistributedDataParallel (DDP) puts the mean of all processes' gradients in place of each one's own,
so all copies take the same step.

Shapes: B batch of one process.
"""

import gc
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import companion
from toy_network import NeuralNetwork, ToyDataset, compute_accuracy

NUM_EPOCHS = 3
BATCH_SIZE = 2  # of each process
PROCESSES_WITHOUT_GPU = 2
FROM_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

TRAIN_FEATURES = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
TRAIN_LABELS = torch.tensor([0, 0, 0, 1, 1])
TEST_FEATURES = torch.tensor([[-0.8, 2.8], [2.6, -1.6]])
TEST_LABELS = torch.tensor([0, 1])


def ddp_setup(rank, world_size, init_method="env://"):
    """Join the other processes; returns once all of them are there.

    Args:
        rank: number of this process, from 0.
        world_size: how many there are.
        init_method: where they meet. "env://" is the address that torchrun has set, a file's URL
            works on one machine and needs no port.

    Returns:
        The torch.device that this process computes on.

    Raises:
        ValueError: there are more processes than GPUs on this machine, or DEVICE is "mps".

    Source: book, section A.9.3.
    """
    device = companion.device()
    if device.type == "mps":
        raise ValueError("On mps processes cannot average their gradients: set DEVICE=cpu.")
    backend = "gloo"
    if device.type == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"Process {local_rank + 1} of this machine needs a GPU of its own, but there are "
                f"{torch.cuda.device_count()}: start fewer processes, or set DEVICE=cpu."
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "nccl" if dist.is_nccl_available() else "gloo"  # Windows has no nccl
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=world_size)
    return device


def prepare_dataset():
    """Loaders of the toy data: the training set's share of this process, and all of the test set.

    The sampler deals the shuffled examples out like cards. If they do not come out even, it takes
    some of them twice, so that all processes have the same number of batches: each waits for the
    others' gradients in every step, and with a batch more than they have it would wait in vain.

    Source: book, section A.9.3.
    """
    train_ds = ToyDataset(TRAIN_FEATURES, TRAIN_LABELS)
    test_ds = ToyDataset(TEST_FEATURES, TEST_LABELS)
    # No shuffle=True beside a sampler: it is the sampler that shuffles.
    train_loader = DataLoader(train_ds, batch_size=BATCH_SIZE, sampler=DistributedSampler(train_ds))
    return train_loader, DataLoader(test_ds, batch_size=BATCH_SIZE)


def main(rank, world_size, num_epochs, init_method="env://"):
    """Train as one of `world_size` processes.

    Args:
        rank, world_size, init_method: as for `ddp_setup`.
        num_epochs: how often to go through the training data.

    Returns:
        The trained `NeuralNetwork`, the same in all processes.

    Raises:
        ValueError: `num_epochs` is below 1, or as `ddp_setup`.
    """
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, but is {num_epochs}.")
    device = ddp_setup(rank, world_size, init_method)
    try:
        return train_network(rank, num_epochs, device)
    finally:
        # The DDP model goes first; as it may refer to itself, only the collector finds it. If it
        # were the last to let go of the group, it would hold Python's lock while it waits for the
        # group's threads, which may be waiting for that lock: a hang, once in a few dozen runs.
        gc.collect()
        dist.destroy_process_group()


def train_network(rank, num_epochs, device):
    """Train as process `rank` of the running group; the trained `NeuralNetwork`."""
    train_loader, test_loader = prepare_dataset()
    torch.manual_seed(123)
    network = NeuralNetwork(num_inputs=2, num_outputs=2).to(device)
    model = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(num_epochs):
        train_loader.sampler.set_epoch(epoch)  # or each epoch has the order of the first
        train_epoch(model, train_loader, optimizer, device, f"[process {rank}] epoch {epoch}")
    # Of all examples, none twice; the copy itself, as nothing is to be exchanged any more.
    all_examples = DataLoader(train_loader.dataset, batch_size=BATCH_SIZE)
    on_train, on_test = (
        compute_accuracy(network, loader, device) for loader in (all_examples, test_loader)
    )
    print_line(f"[process {rank}] accuracy: training {on_train:.2f}, test {on_test:.2f}")
    return network


def train_epoch(model, train_loader, optimizer, device, name):
    """Train on this process's share of the data, and print the loss of each batch after `name`."""
    model.train()
    for features, labels in train_loader:
        features, labels = features.to(device), labels.to(device)
        loss = F.cross_entropy(model(features), labels)
        optimizer.zero_grad()
        loss.backward()  # afterwards each gradient is the mean over all processes
        optimizer.step()
        print_line(f"{name}, batch of {len(labels)}, loss {loss:.4f}")


def print_line(line):
    """Print a line and its end at once, so that the lines of several processes do not mix."""
    print(line + "\n", end="", flush=True)


def start_processes(world_size, num_epochs):
    """Start so many processes that run `main`, and wait for them; Ctrl-C ends them all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        meeting_point = (Path(folder) / "meeting-point").as_uri()
        arguments = (world_size, num_epochs, meeting_point)
        processes = mp.spawn(main, arguments, nprocs=world_size, join=False)
        try:
            while not processes.join():  # raises the error of one that fails, and ends the others
                pass
        except KeyboardInterrupt:
            for process in processes.processes:
                process.kill()  # one that waits for a gradient heeds nothing milder
                process.join()
            sys.exit("Interrupted: all processes have ended.")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(f"DDP-script.py takes no arguments, but got {' '.join(sys.argv[1:])}.")
    missing = [name for name in FROM_TORCHRUN if name not in os.environ]
    if not missing:
        main(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), NUM_EPOCHS)
    elif "RANK" in os.environ:
        sys.exit(
            f"RANK is set, but not {', '.join(missing)}. Unset it, or let torchrun start the "
            "processes: torchrun --nproc-per-node=2 DDP-script.py"
        )
    else:
        on_gpus = companion.device().type == "cuda"
        start_processes(torch.cuda.device_count() if on_gpus else PROCESSES_WITHOUT_GPU, NUM_EPOCHS)
