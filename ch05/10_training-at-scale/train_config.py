"""What a training run is told: one TOML file, checked as a whole before anything is loaded.

The four classes below are the list of all settings, with their types, defaults and limits;
`trainer.py --help` prints it. `story.toml` is an example.
"""

import difflib
import importlib.util
import json
import math
import sys
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args, get_origin

from gpt import GPT_CONFIG_124M

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """A configuration that no run can have; the message lists all that is wrong."""


def setting(about, default=MISSING, least=None, above=None, below=None, is_free=False):
    """A field of a section: what it is, its default if it has one, and its limits.

    `is_free` marks what a resumed run may change: it has no part in what the model learns.
    """
    limits = {"at least": least, "above": above, "below": below}
    given = {name: limit for name, limit in limits.items() if limit is not None}
    metadata = {"about": about, "limits": given, "is_free": is_free}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelSection:
    """The keys of `GPT_CONFIG_124M`, and three more."""

    context_length: int = setting("tokens in a window", least=1)
    emb_dim: int = setting("width of a token's vector", least=1)
    n_heads: int = setting("attention heads in a block", least=1)
    n_layers: int = setting("blocks", least=1)
    drop_rate: float = setting("dropout while training", 0.0, least=0, below=1)
    qkv_bias: bool = setting("biases in queries, keys and values", False)
    vocab_size: int = setting("token ids that there are", 50257, least=1)
    tie_weights: bool = setting("the output head is the token embedding, as in GPT-2", False)
    name: Literal["gpt", "fast"] = setting("chapter 4's, or faster", "gpt", is_free=True)
    sampled_ids: int = setting("other ids drawn for a training loss, 0: all", 0, least=0)


@dataclass(frozen=True)
class DataSection:
    # Neither is free: a checkpoint has the manifest's sha256, and the batch of all processes.
    folder: str = setting("what prepare_text.py wrote", is_free=True)
    batch_size: int = setting("windows in a batch of one process", least=1, is_free=True)
    seed: int = setting("of the order of the windows", 123, least=0)


@dataclass(frozen=True)
class OptimizerSection:
    learning_rate: float = setting("the highest of the schedule", above=0)
    min_learning_rate: float = setting("what the cosine falls to", 0.0, least=0)
    name: Literal["adamw", "muon"] = setting("Muon for the blocks' matrices", "adamw")
    muon_learning_rate: float = setting("the highest of Muon's, 0: the same", 0.0, least=0)
    warmup_steps: int = setting("steps before the highest rate", 0, least=0)
    weight_decay: float = setting("of matrices; norms and biases have none", 0.1, least=0)
    betas: tuple[float, float] = setting("of AdamW's averages", (0.9, 0.95), least=0, below=1)
    clip_norm: float = setting("longest gradient, 0: no limit", 1.0, least=0)
    accumulation: int = setting("batches whose gradients make one step", 1, least=1)


@dataclass(frozen=True)
class RunSection:
    out: str = setting("folder of the log and the checkpoints", is_free=True)
    steps: int = setting("updates of the weights", least=1)
    seed: int = setting("of the first weights and of dropout", 123, least=0)
    precision: Literal["fp32", "bf16"] = setting("of the computation", "fp32")
    compile: bool = setting("use torch.compile", False, is_free=True)
    parallel: Literal["ddp", "fsdp"] = setting(
        "how several processes share it", "ddp", is_free=True
    )
    log_every: int = setting("steps from one look to the next", 10, least=1, is_free=True)
    eval_every: int = setting("steps, 0: never", 100, least=0, is_free=True)
    eval_batches: int = setting("validation batches, at most", 20, least=1, is_free=True)
    sample_every: int = setting("steps, 0: never", 0, least=0, is_free=True)
    prompt: str = setting("what samples go on from", "", is_free=True)
    checkpoint_every: int = setting("steps, 0: only at the end", 100, least=0, is_free=True)
    keep: int = setting("how many of the newest checkpoints stay", 3, least=1, is_free=True)
    tensorboard: bool = setting("log for TensorBoard as well", False, is_free=True)


@dataclass(frozen=True)
class TrainConfig:
    model: ModelSection
    data: DataSection
    optimizer: OptimizerSection
    run: RunSection


SECTIONS = {section.name: section.type for section in fields(TrainConfig)}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: 'a text in "quotes"'}

# What several settings must fulfil together: their names, the test, and what to say if it fails.
RULES = [
    (
        ("model.emb_dim", "model.n_heads"),
        lambda width, heads: width % heads == 0,
        "emb_dim must be divisible by n_heads, but is {} with {} heads",
    ),
    (
        ("optimizer.warmup_steps", "run.steps"),
        lambda warmup, steps: warmup < steps,
        "warmup_steps must be below the run's steps, but is {} of {}",
    ),
    (
        ("optimizer.min_learning_rate", "optimizer.learning_rate"),
        lambda low, high: low <= high,
        "min_learning_rate must not be above learning_rate, but is {} and that is {}",
    ),
    (
        ("optimizer.muon_learning_rate", "optimizer.name"),
        lambda rate, name: not rate or name == "muon",
        'muon_learning_rate is {}, but is of use with name = "muon" only, and name is {!r}',
    ),
    (
        ("optimizer.name", "run.parallel"),
        lambda name, parallel: (name, parallel) != ("muon", "fsdp"),
        'name is {!r}, which needs whole matrices, but parallel is {!r}: choose "ddp"',
    ),
    (
        ("model.sampled_ids", "model.name"),
        lambda count, name: not count or name == "fast",
        'sampled_ids is {}, which the model "fast" knows only, and name is {!r}',
    ),
    (
        ("run.sample_every", "run.prompt"),
        lambda every, prompt: not every or prompt,
        "sample_every is {}, so prompt must be a text to go on from, but is {!r}",
    ),
    (
        ("run.sample_every", "model.vocab_size"),
        lambda every, size: not every or size == GPT_CONFIG_124M["vocab_size"],
        "sample_every is {}, and samples need the 50257 ids of GPT-2's tokenizer, but vocab_size "
        "is {}",
    ),
    (
        ("run.tensorboard",),
        lambda wanted: not wanted or importlib.util.find_spec("tensorboard"),
        "tensorboard is {}, but not installed: pip install tensorboard",
    ),
    (
        ("data.folder",),
        lambda folder: Path(folder).is_dir(),
        "folder: there is no folder {!r} in the current one; prepare_text.py makes it",
    ),
]


def read_config(path):
    """The `TrainConfig` of a TOML file.

    Raises:
        ConfigError: the file cannot be read as TOML, or has faults; all of them are listed.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    return config_of(tables, path)


def config_of(tables, source):
    """The `TrainConfig` of tables as TOML has them, {section: {name: value}}.

    Args:
        source: where they come from, for messages.

    Raises:
        ConfigError: they have faults; all of them are listed.
    """
    problems, values = [], {}
    for name in [name for name in tables if name not in SECTIONS]:
        problems.append(f"[{name}] is no section{nearest(name, SECTIONS)}")
    for name, section in SECTIONS.items():
        table = tables.get(name, {})
        if isinstance(table, dict):
            problems += section_problems(name, section, table, values)
        else:
            problems.append(f"[{name}] must be a section with settings, but is {table!r}")
    for names, is_fulfilled, message in RULES:
        if values.keys() >= set(names) and not is_fulfilled(*map(values.get, names)):
            problems.append(
                f"[{names[0].split('.')[0]}] " + message.format(*map(values.get, names))
            )
    if problems:
        number = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{source} has {number}:", *problems]))
    return TrainConfig(
        **{
            name: section(**{f.name: values[f"{name}.{f.name}"] for f in fields(section)})
            for name, section in SECTIONS.items()
        }
    )


def section_problems(name, section, table, values):
    """What is wrong with the settings of one section; those that are right go into `values`."""
    known = {f.name: f for f in fields(section)}
    problems, meant = [], set()
    for key in [key for key in table if key not in known]:
        elsewhere = [n for n, s in SECTIONS.items() if key in {f.name for f in fields(s)}]
        meant.update(difflib.get_close_matches(key, known, n=1))
        hint = f"; it belongs in [{elsewhere[0]}]" if elsewhere else nearest(key, known)
        problems.append(f"[{name}] {key} is no setting{hint}")
    for key, f in known.items():
        if key in table:
            problem = value_problem(f, table[key])
            if problem:
                problems.append(f"[{name}] {key} must be {problem}, but is {table[key]!r}")
            else:
                is_list = isinstance(table[key], list)
                values[f"{name}.{key}"] = tuple(table[key]) if is_list else table[key]
        elif f.default is not MISSING:
            values[f"{name}.{key}"] = f.default
        elif key not in meant:  # else it is there, but misspelt
            problems.append(f"[{name}] {key} is missing: {f.metadata['about']}")
    return problems


def nearest(word, names):
    """How a message about an unknown name ends."""
    found = difflib.get_close_matches(word, names, n=1)
    return f"; the nearest is {found[0]}" if found else f"; there are {', '.join(names)}"


def value_problem(f, value):
    """What the value of a field must be, if it is not; None if it is."""
    choices, kinds = choices_of(f), (f.type,)
    if choices:
        kinds = (str,)
    elif get_origin(f.type) is tuple:
        kinds = get_args(f.type)
        if not isinstance(value, list) or len(value) != len(kinds):
            return f"a list of {len(kinds)} numbers"
    parts = value if get_origin(f.type) is tuple else [value]
    if not all(is_of_kind(part, kind) for part, kind in zip(parts, kinds, strict=True)):
        return KINDS[kinds[0]]
    if choices and value not in choices:
        return " or ".join(f'"{choice}"' for choice in choices)
    keeps = {"at least": lambda x, y: x >= y, "above": lambda x, y: x > y}
    keeps["below"] = lambda x, y: x < y
    for name, limit in f.metadata["limits"].items():
        if not all(keeps[name](part, limit) for part in parts):
            return f"{name} {limit}"
    return None


def choices_of(f):
    return get_args(f.type) if get_origin(f.type) is Literal else ()


def is_of_kind(value, kind):
    """Whether a TOML value has a type: a whole number is a number too, true is none."""
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def fixed_settings(cfg, num_processes):
    """{"section.key": value} of all that must stay the same for a run to be the same run."""
    values = {
        f"{name}.{f.name}": asdict(cfg)[name][f.name]
        for name, section in SECTIONS.items()
        for f in fields(section)
        if not f.metadata["is_free"]
    }
    values["optimizer.betas"] = list(cfg.optimizer.betas)  # as JSON gives it back
    values["data.batch_size of all processes"] = cfg.data.batch_size * num_processes
    return values


def list_of_settings():
    """All settings as text, for --help."""
    lines = []
    for name, section in SECTIONS.items():
        lines.append(f"\n[{name}]")
        for f in fields(section):
            default = "" if f.default is MISSING else f" ({json.dumps(f.default)})"
            choices = " or ".join(json.dumps(choice) for choice in choices_of(f))
            lines.append(
                f"  {f.name:19}{choices}{': ' if choices else ''}{f.metadata['about']}{default}"
            )
    return "\n".join(lines)
