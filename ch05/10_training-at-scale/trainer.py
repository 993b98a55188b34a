"""A trainer that survives: interrupt it, kill it, fill its disk; `--resume` goes on from there.

    python trainer.py --config story.toml
    python trainer.py --config story.toml --resume
    torchrun --nproc-per-node=2 trainer.py --config story.toml

A step is one update of the weights; `step` counts those that are done. A resumed run ends with the
same bits as one that was never stopped, on the same machine, with as many threads and processes:
the schedule and the data are functions of `step`, and so is the random state, which is set anew
for every step. (Some of a GPU's kernels add in varying order; there, the last digits vary.)

Shapes: B windows in a batch of one process, T tokens, V vocabulary. Losses are in nats per token.
"""

import argparse
import contextlib
import csv
import gc
import itertools
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import tiktoken
import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

import companion
from checkpoints import (
    CheckpointError,
    check_same_run,
    load_optimizer_state,
    load_weights,
    newest_checkpoint,
    remove_unfinished,
    write_checkpoint,
)
from companion.session import keep_freed_memory
from gpt import GPT_CONFIG_124M, GPTModel, generate_text_simple
from gpt_train import text_to_token_ids, token_ids_to_text
from muon import Muon
from token_shards import MANIFEST, VOCAB_SIZE, ShardError, TokenBatches, check_shards, sha256_of
from train_config import ConfigError, fixed_settings, list_of_settings, read_config

COLUMNS = ["step", "tokens", "loss", "val_loss", "learning_rate", "gradient_norm"]
COLUMNS += ["tokens_per_second"]
PATIENCE = timedelta(minutes=10)  # how long a process waits for another one's part of the work
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)  # not one process's part


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped, why and what to do."""


# Parts


def rate_at(step, steps, cfg):
    """Learning rate of the update after `step` others: a line up, then half a cosine down.

    It is that of the book's section D.2, with the peak / (warm-up steps + 1) as the first rate.
    """
    if step < cfg.warmup_steps:
        return cfg.learning_rate * (step + 1) / (cfg.warmup_steps + 1)
    progress = (step - cfg.warmup_steps) / (steps - cfg.warmup_steps)  # 0 at the peak
    height = 0.5 * (1 + math.cos(math.pi * progress))
    return cfg.min_learning_rate + (cfg.learning_rate - cfg.min_learning_rate) * height


def seed_at(seed, step, rank):
    """The seed of one process's random numbers (its dropout) in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def build_model(section, seed):
    """The model of a configuration's section [model], with new weights."""
    cfg = {key: getattr(section, key) for key in GPT_CONFIG_124M}
    torch.manual_seed(seed)
    if section.name == "fast":
        from gpt_fast import GPTFast

        model = GPTFast(cfg)
        model.sampled_ids = section.sampled_ids
    else:
        model = GPTModel(cfg)
    if section.tie_weights:
        model.out_head.weight = model.tok_emb.weight
        for embedding in model.tok_emb, model.pos_emb:  # as GPT-2: a head needs small numbers
            torch.nn.init.normal_(embedding.weight, std=0.02)
    return model


def build_optimizers(model, cfg):
    """A list: AdamW, and before it Muon for the matrices of the blocks if the section asks for it.

    Both pull matrices towards zero, but not norms and biases. In the groups of parameters, "scale"
    says how much of the schedule's rate is theirs.
    """
    parameters, optimizers = list(model.parameters()), []
    if cfg.name == "muon":
        matrices = [p for p in model.trf_blocks.parameters() if p.dim() == 2]
        scale = (cfg.muon_learning_rate or cfg.learning_rate) / cfg.learning_rate
        group = {"params": matrices, "weight_decay": cfg.weight_decay, "scale": scale}
        optimizers.append(Muon([group]))
        taken = set(matrices)
        parameters = [p for p in parameters if p not in taken]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [{**group, "scale": 1.0} for group in groups]
    # Fused: one kernel for all; it exists for the processor, for CUDA and for Apple's GPUs.
    return [*optimizers, torch.optim.AdamW(groups, betas=cfg.betas, fused=True)]


class LossModel(torch.nn.Module):
    """A model whose output is the loss: what torch.compile and DistributedDataParallel wrap."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, targets):
        """(B, T) ids and targets -> mean cross-entropy."""
        if hasattr(self.model, "loss"):  # without all logits in memory at once
            return self.model.loss(ids, targets)
        return F.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())


class Processes:
    """This process and those beside it, as torchrun started them; alone without torchrun."""

    def __init__(self):
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.is_first = self.rank == 0
        self.device = companion.device()
        if self.device.type == "cuda":
            local_rank = int(os.environ.get("LOCAL_RANK", 0))
            if local_rank >= torch.cuda.device_count():
                raise TrainingError(
                    f"Process {local_rank + 1} of this machine needs a GPU of its own, but there "
                    f"are {torch.cuda.device_count()}. Start fewer, or set DEVICE=cpu."
                )
            self.device = torch.device("cuda", local_rank)
            torch.cuda.set_device(self.device)
        if self.count > 1:
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)

    def mean(self, tensor):
        """The mean of all processes' tensors."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor /= self.count
        return tensor

    def any(self, flag):
        """Whether the flag is set in any process. Takes place between CPUs: no GPU waits."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags)
        return bool(flags)

    def wrap(self, model, parallel, is_compiled):
        """The `LossModel` of a model, and what takes care that all processes learn the same."""
        wrapped = LossModel(model)
        if self.count == 1 or parallel == "ddp":
            if is_compiled:
                wrapped.compile()
            if self.count > 1:
                wrapped = DistributedDataParallel(wrapped, gradient_as_bucket_view=True)
                wrapped.broadcast_buffers = False  # masks, the same in every step
            return wrapped
        mesh = init_device_mesh(self.device.type, (self.count,))
        for block in model.trf_blocks:
            if is_compiled:
                block.compile()
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        if hasattr(model, "loss"):
            register_fsdp_forward_method(model, "loss")
        return wrapped


class Interrupt:
    """Turns Ctrl-C into a wish: `is_wanted`. A second one ends a process that is alone at once."""

    def __init__(self, is_alone):
        self.is_wanted, self.is_alone = False, is_alone

    def __enter__(self):
        self.before = signal.signal(signal.SIGINT, self.note)
        return self

    def note(self, *_):
        self.is_wanted = True
        if self.is_alone:  # else torchrun passes on the same Ctrl-C once more
            signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.before)


class TrainingLog:
    """`log.csv`, a row for each step, and the same for TensorBoard if wanted.

    Rows after `step` are left out of what is there: they are of work that was done, but not saved.
    """

    def __init__(self, out, step, with_tensorboard):
        self.path, self.board, kept = out / "log.csv", None, []
        unfinished = out / ".log.csv.unfinished"
        if step and self.path.exists():
            with open(self.path, encoding="utf-8", newline="") as file:
                complete = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
            kept = [row for row in complete[1:] if int(row[0]) <= step]
        self.append(unfinished, [COLUMNS, *kept], "w")
        os.replace(unfinished, self.path)
        if with_tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def write(self, rows):
        """Append dictionaries with the keys COLUMNS; they are on the disk when this returns.

        Raises:
            TrainingError: they could not be written, as on a full disk.
        """
        figures = [[row[name] for name in COLUMNS] for row in rows]
        text = [[f"{x:.8g}" if isinstance(x, float) else x for x in row] for row in figures]
        self.append(self.path, text, "a")
        if self.board:
            for row, name in itertools.product(rows, COLUMNS[1:]):
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], row["step"])
            self.board.flush()

    def append(self, path, rows, mode):
        try:
            with open(path, mode, encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TrainingError(
                f"Could not write {path}: {error.strerror}. Make room, or make the folder "
                "writable, and go on with --resume."
            ) from error


# The whole


class Trainer:
    """A run: model, optimizers, data and log, at a step.

    Args:
        cfg: a `TrainConfig`.
        processes: a `Processes`.
        fixed: what a checkpoint of the same run must have, see `check_same_run`.
        checkpoint: path and state of the checkpoint to go on from, or two times None.
    """

    def __init__(self, cfg, processes, fixed, checkpoint):
        self.cfg, self.processes, self.fixed = cfg, processes, fixed
        path, state = checkpoint
        self.model = build_model(cfg.model, cfg.run.seed)
        if path:
            load_weights(self.model, path)
        self.model.to(processes.device)
        self.loss_model = processes.wrap(self.model, cfg.run.parallel, cfg.run.compile)
        self.optimizers = build_optimizers(self.model, cfg.optimizer)
        if path:
            set_optimizer_state_dict(
                self.model, self.optimizers, load_optimizer_state(path), options=WHOLE
            )
        self.step = state["step"] if state else 0
        self.train_batches = self.batches("train")
        self.train_batches.position = state["position"] if state else 0
        self.val_batches = self.batches("val") if cfg.run.eval_every else None
        self.unseen = []  # losses and gradient norms of the steps since the last look, (acc. + 1,)
        self.log = None
        if processes.is_first:
            self.log = TrainingLog(Path(cfg.run.out), self.step, cfg.run.tensorboard)
        if cfg.run.sample_every:
            companion.prepare_tokenizer()

    def batches(self, split):
        data, processes = self.cfg.data, self.processes
        return TokenBatches(
            data.folder,
            data.batch_size,
            self.cfg.model.context_length,
            data.seed,
            processes.rank,
            processes.count,
            split,
        )

    def run(self, interrupt):
        """Train until all steps are done, or an `Interrupt` wishes for an end; then save."""
        run = self.cfg.run
        self.say(f"{run.out}: step {self.step} of {run.steps}, on {self.processes.device}")
        self.seconds = time.perf_counter()
        while self.step < run.steps:
            self.update()
            is_stopped = self.processes.any(interrupt.is_wanted)
            if is_stopped or self.is_due(
                run.log_every, run.eval_every, run.sample_every, run.checkpoint_every
            ):
                self.pause(is_stopped)
            if is_stopped:
                self.say(f"Interrupted and saved at step {self.step}. Go on with --resume.")
                return

    def is_due(self, *periods):
        """Whether one of the periods, in steps, ends here; the last step ends all of them."""
        is_last = self.step == self.cfg.run.steps
        return any(period and (is_last or self.step % period == 0) for period in periods)

    def update(self):
        """One step: the gradients of some batches, clipped, and the optimizers' update."""
        cfg = self.cfg.optimizer
        torch.manual_seed(seed_at(self.cfg.run.seed, self.step, self.processes.rank))
        rate = rate_at(self.step, self.cfg.run.steps, cfg)
        for group in itertools.chain(*(optimizer.param_groups for optimizer in self.optimizers)):
            group["lr"] = rate * group["scale"]
        figures = []
        for number in range(cfg.accumulation):
            with self.exchange_of_gradients(number == cfg.accumulation - 1):
                loss = self.loss_of(self.train_batches)
                (loss / cfg.accumulation).backward()
            figures.append(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.clip_norm or math.inf)
        figures.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.unseen.append(torch.stack(figures))  # not read yet: a GPU need not wait here
        self.step += 1

    def loss_of(self, batches):
        """Mean loss of the next batch, a scalar tensor."""
        ids, targets = batches.next()  # (B, T), (B, T)
        if (vocab_size := self.cfg.model.vocab_size) < VOCAB_SIZE:
            largest = max(ids.max().item(), targets.max().item())
            if largest >= vocab_size:
                raise TrainingError(
                    f"The data holds the token id {largest}, but vocab_size is {vocab_size}."
                )
        device = self.processes.device
        is_bf16 = self.cfg.run.precision == "bf16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bf16):
            return self.loss_model(ids.to(device), targets.to(device))

    def exchange_of_gradients(self, is_wanted):
        """A context: processes add up their gradients in a step's last backward pass only."""
        if self.processes.count > 1 and self.cfg.run.parallel == "fsdp":
            self.model.set_requires_gradient_sync(is_wanted)
        elif self.processes.count > 1 and not is_wanted:
            return self.loss_model.no_sync()
        return contextlib.nullcontext()

    def pause(self, is_stopped):
        """Between two updates, what is due: look at the losses, evaluate, write, save."""
        run = self.cfg.run
        rows = self.look()
        if self.is_due(run.eval_every):
            rows[-1]["val_loss"] = self.evaluate()
        if self.log:
            self.log.write(rows)
        self.report(rows)
        if self.is_due(run.sample_every):
            self.sample()
        if is_stopped or self.step == run.steps or self.is_due(run.checkpoint_every):
            self.save()
        self.seconds = time.perf_counter()

    def look(self):
        """Rows for the log of the steps since the last look.

        Raises:
            TrainingError: a loss or a gradient is no finite number; it names step and batch.
        """
        cfg, first = self.cfg, self.step - len(self.unseen) + 1
        table = self.processes.mean(torch.stack(self.unseen)).tolist()  # a GPU is waited for
        for step, figures in enumerate(table, first):
            self.check_finite(step, figures)
        batch_tokens = cfg.data.batch_size * cfg.model.context_length * self.processes.count
        tokens = batch_tokens * cfg.optimizer.accumulation  # in a step
        speed = tokens * len(table) / (time.perf_counter() - self.seconds)
        self.unseen = []
        return [
            {
                "step": step,
                "tokens": step * tokens,
                "loss": sum(losses) / len(losses),
                "val_loss": None,
                "learning_rate": rate_at(step - 1, cfg.run.steps, cfg.optimizer),
                "gradient_norm": norm,
                "tokens_per_second": round(speed),
            }
            for step, (*losses, norm) in enumerate(table, first)
        ]

    def check_finite(self, step, figures):
        for number, figure in enumerate(figures):
            if not math.isfinite(figure):
                accumulation, in_epoch = len(figures) - 1, self.train_batches.num_batches
                batch = (step - 1) * accumulation + min(number, accumulation - 1)
                what = "loss" if number < accumulation else "norm of the gradient"
                raise TrainingError(
                    f"The {what} is {figure} in step {step}, batch {batch % in_epoch + 1} of "
                    f"{in_epoch} in epoch {batch // in_epoch + 1}. Nothing was saved since: the "
                    f"newest checkpoint in {self.cfg.run.out} is from before. Try a lower "
                    "learning_rate or clip_norm, or more warmup_steps, in a new run."
                )

    @torch.no_grad()
    def evaluate(self):
        """Mean loss on the first validation batches, without dropout."""
        batches, self.val_batches.position = self.val_batches, 0
        self.loss_model.eval()
        count = min(self.cfg.run.eval_batches, batches.num_batches)
        losses = torch.stack([self.loss_of(batches) for _ in range(count)])
        self.loss_model.train()
        return self.processes.mean(losses.mean()).item()

    def sample(self):
        """Print how the model goes on from the prompt."""
        tokenizer = tiktoken.get_encoding("gpt2")
        ids = text_to_token_ids(self.cfg.run.prompt, tokenizer).to(self.processes.device)
        self.model.eval()
        ids = generate_text_simple(self.model, ids, 50, self.cfg.model.context_length)
        self.model.train()
        self.say("  " + token_ids_to_text(ids, tokenizer).replace("\n", " "))

    def save(self):
        """Write a checkpoint; all processes have a part in it, the first one writes."""
        weights = get_model_state_dict(self.model, options=WHOLE)
        optimizer_state = get_optimizer_state_dict(self.model, self.optimizers, options=WHOLE)
        if not self.processes.is_first:
            return
        state = {
            "step": self.step,
            "position": self.train_batches.position,
            "fixed": self.fixed,
            "config": asdict(self.cfg),
        }
        own = {name: weights[name] for name, _ in self.model.named_parameters()}  # a tied one once
        folder = Path(self.cfg.run.out) / "checkpoints"
        write_checkpoint(folder, state, own, optimizer_state, self.cfg.run.keep)

    def report(self, rows):
        last, steps = rows[-1], self.cfg.run.steps
        val_loss = "" if last["val_loss"] is None else f"  validation {last['val_loss']:.3f}"
        left = (steps - self.step) * last["tokens"] / self.step / max(1, last["tokens_per_second"])
        self.say(
            f"step {self.step}/{steps}  loss {sum(r['loss'] for r in rows) / len(rows):.3f}"
            f"{val_loss}  rate {last['learning_rate']:.1e}  gradient {last['gradient_norm']:.2f}  "
            f"{last['tokens_per_second']:,} tokens/s  {timedelta(seconds=round(left))} left"
        )

    def say(self, text):
        if self.processes.is_first:
            print(text, flush=True)


def begin_or_go_on(cfg, processes, resume):
    """Begin a run, or go on with it, as a configuration says.

    Raises:
        TrainingError: the output folder is another run's or in use, or a loss is not finite.
        CheckpointError: a checkpoint cannot be read or written, or is of another configuration.
        ShardError: the data is missing or damaged.
    """
    out, checkpoint = Path(cfg.run.out), (None, None)
    check_shards(cfg.data.folder)
    fixed = fixed_settings(cfg, processes.count)
    fixed["data.folder's manifest, sha256"] = sha256_of(
        Path(cfg.data.folder) / MANIFEST
    ).hexdigest()
    if resume:
        checkpoint = newest_checkpoint(
            out / "checkpoints",
            lambda text: processes.is_first and print(f"trainer.py: {text}", file=sys.stderr),
        )
    elif any((out / name).exists() for name in ("log.csv", "checkpoints")):
        raise TrainingError(
            f"{out} already holds a run. Go on with it by --resume, or give the new run another "
            "out folder."
        )
    if checkpoint[0]:
        check_same_run(checkpoint[0], checkpoint[1]["fixed"], fixed)
    processes.any(False)  # nobody writes before all have looked
    with contextlib.ExitStack() as stack:
        if processes.is_first:
            stack.enter_context(hold(out))
            remove_unfinished(out / "checkpoints")
        trainer = Trainer(cfg, processes, fixed, checkpoint)
        trainer.run(stack.enter_context(Interrupt(processes.count == 1)))


def hold(out):
    """A context that keeps other processes from training in the same folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise TrainingError(f"Another process is training in {out}: wait for its end.") from error
    except OSError as error:  # of which Timeout is one
        raise TrainingError(
            f"Cannot write in the folder {out}: {error.strerror}. Make it writable, or choose "
            "another out folder."
        ) from error


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="Settings in FILE:\n" + list_of_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the run's settings, TOML")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint, if there is one"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """The command line; the exit status: 1 if training stopped, 2 if it could not begin."""
    options = parse_arguments(arguments)
    keep_freed_memory()
    processes = None
    try:
        cfg = read_config(options.config)
        processes = Processes()
        begin_or_go_on(cfg, processes, options.resume)
    except (ConfigError, ShardError, TrainingError, CheckpointError, companion.AssetError) as error:
        print(f"trainer.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except RuntimeError:
        if processes and processes.count > 1:
            print(
                f"trainer.py: process {processes.rank + 1} of {processes.count} cannot go on. If "
                "another one ended before it, go on with --resume. What happened here:",
                file=sys.stderr,
            )
        raise
    except KeyboardInterrupt:
        print("trainer.py: interrupted, and nothing more was saved.", file=sys.stderr)
        return 130
    if processes.count > 1:
        gc.collect()  # a wrapped model that outlives its process group may wait for it for ever
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
