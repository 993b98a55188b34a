"""Processes of their own that start in a fraction of a second, for the tests that need many."""

import multiprocessing
import os


def start(code):
    """Start a process that runs some code; it ends with the tests at the latest.

    On POSIX all are copies of one process that has imported the slow modules already. That one is
    started once, with the first of them, so all tests that start processes must do it here.
    """
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["trainer", "torch._dynamo"])  # optimizers need the second
    process = context.Process(target=exec, args=(code, {}), daemon=True)
    process.start()
    return process
