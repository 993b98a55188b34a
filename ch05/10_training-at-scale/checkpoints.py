"""Checkpoints of a training run: whole or not there at all, and checked when they are read.

A checkpoint is a folder, `step-000200` after 200 updates of the weights, of three files:
    model.safetensors    the model's weights, each stored once
    state.pt             the optimizer's averages
    state.json           step, position in the data, settings, sha256 of the other two files
It is written under another name, and gets its own when all of it is on the disk.
"""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from token_shards import sha256_of, sync_folder

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "state.pt", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used; the message says which, why and what to do."""


# Writing


def write_checkpoint(folder, state, weights, optimizer_state, keep):
    """Add a checkpoint, and remove all but the newest ones.

    Args:
        folder: that of the run's checkpoints; made if it does not exist.
        state: what state.json is to hold, a dictionary with the key "step".
        weights: {name: tensor}.
        optimizer_state: tensors and plain values, nested in dictionaries and lists.
        keep: how many checkpoints stay, this one included.

    Returns:
        The checkpoint's path.

    Raises:
        CheckpointError: it could not be written, as on a full disk. The others are as they were.
    """
    final = Path(folder) / f"step-{state['step']:06d}"
    unfinished = final.with_name(f".{final.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_file(weights, unfinished / WEIGHTS, metadata={"format": "pt"})
        with open(unfinished / OPTIMIZER, "wb") as file:
            torch.save(optimizer_state, file)
        hashes = {name: sha256_of(unfinished / name).hexdigest() for name in (WEIGHTS, OPTIMIZER)}
        text = json.dumps({**state, "sha256": hashes}, indent=1) + "\n"
        (unfinished / STATE).write_text(text, encoding="utf-8")
        for name in (WEIGHTS, OPTIMIZER, STATE):
            with open(unfinished / name, "rb+") as file:
                os.fsync(file.fileno())
        sync_folder(unfinished)
        if final.exists():  # a damaged one, else the run would have gone on from it
            shutil.rmtree(final)
        os.replace(unfinished, final)
        sync_folder(final.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        # On a full disk, torch raises an error of its own that hides the system's.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise CheckpointError(
            f"Could not write the checkpoint {final}: {str(cause).splitlines()[0]}. Make room, or "
            "make the folder writable, and go on with --resume from the one before."
        ) from error
    remove_old(final, keep)
    return final


def remove_old(newest, keep):
    """Remove the checkpoints that are neither among the newest, nor older than the newest."""
    numbers = {path: step_of(path) for path in checkpoints_in(newest.parent)}
    older = [path for path in numbers if numbers[path] <= numbers[newest]]
    for path in numbers.keys() - set(older[-keep:]):  # those that were found damaged, too
        shutil.rmtree(path)


def remove_unfinished(folder):
    """Remove what a killed process left half-written."""
    for path in Path(folder).glob(".step-*.unfinished"):
        shutil.rmtree(path)


# Reading


def checkpoints_in(folder):
    """Paths of all checkpoints, the newest last."""
    paths = [path for path in Path(folder).glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(paths, key=step_of)


def step_of(path):
    return int(path.name.removeprefix("step-"))


def newest_checkpoint(folder, report):
    """Path and state of the newest checkpoint that is whole; None, None if there are none at all.

    Args:
        folder: that of the run's checkpoints.
        report: a function that is given a message about each damaged one.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged.
    """
    paths = checkpoints_in(folder)
    for path in reversed(paths):
        try:
            return path, read_state(path)
        except CheckpointError as error:
            report(f"{error} It is left out.")
    if paths:
        raise CheckpointError(
            f"No checkpoint in {folder} can be used. Begin again with another out folder."
        )
    return None, None


def read_state(path):
    """What state.json holds, if the whole checkpoint is as it was written.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        hashes = {name: state["sha256"][name] for name in (WEIGHTS, OPTIMIZER)}
        if state["step"] != step_of(path):
            raise ValueError(f"step is {state['step']}")
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: no {STATE} ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {STATE} is wrong ({error}).") from error
    for name, expected in hashes.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing.")
        found = sha256_of(path / name).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"{path} is damaged: the sha256 of {name} should be {expected}, but is {found}."
            )
    return state


def check_same_run(path, found, wanted):
    """Raise a CheckpointError unless the fixed settings of a checkpoint are those asked for."""
    different = [
        f"{name} is {found.get(name)} there, but {wanted.get(name)} now"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if different:
        raise CheckpointError(
            "\n  ".join([f"{path} is of another configuration:", *different])
            + "\nSet it back to go on with this run, or begin another one with another out folder."
        )


def load_weights(model, path):
    """Give a model the weights of a checkpoint.

    Args:
        model: a `GPTModel` or `GPTFast` of the checkpoint's sizes. If only the checkpoint's output
            head is tied to the token embedding, the model's head gets a copy.
        path: the checkpoint's folder.

    Raises:
        CheckpointError: names or shapes do not fit the model.
    """
    weights, own = load_file(path / WEIGHTS), dict(model.named_parameters())
    if "out_head.weight" in own:
        weights.setdefault("out_head.weight", weights["tok_emb.weight"])
    for name in sorted(weights.keys() | own):
        shapes = [tuple(found[name].shape) if name in found else None for found in (weights, own)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{path / WEIGHTS} does not fit the model: {name} has the shape {shapes[0]} there, "
                f"but {shapes[1]} in the model."
            )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def load_optimizer_state(path):
    """What `write_checkpoint` was given as `optimizer_state`.

    Raises:
        CheckpointError: the file holds anything but tensors and plain values.
    """
    try:
        return torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path / OPTIMIZER} cannot be read: {reason}") from error
