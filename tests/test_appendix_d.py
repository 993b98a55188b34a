"""Appendix D: the schedule, the clipping and the training function, and the book's figures."""

import math
import re
import textwrap

import nbclient
import nbformat
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import companion
import gpt_train_refined
from companion.notebooks import ROOT
from gpt import GPTModel
from gpt_train import GPT_CONFIG_STORY, train_model_simple
from gpt_train_refined import check_schedule, find_highest_gradient, scheduled_lr, train_model

FOLDER = ROOT / "appendix-D" / "01_main-chapter-code"
TOY = {
    "vocab_size": 20,
    "context_length": 8,
    "emb_dim": 8,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
SCHEDULE = {
    "total_steps": 10,
    "warmup_steps": 4,
    "initial_lr": 0.1,
    "peak_lr": 0.5,
    "min_lr": 0.1,
}


# The schedule


@pytest.mark.parametrize(
    "step, rate",
    [
        (0, 0.1),
        (3, 0.1 + 3 * 0.4 / 4),  # the last of the warm-up: not yet the peak
        (4, 0.5),
        (7, 0.3),  # half of the decay: the middle between the peak and min_lr
        (9, 0.1 + 0.2 * (1 - math.sqrt(3) / 2)),  # cos(5/6 of a half turn)
    ],
)
def test_the_schedule_has_the_rates_worked_out_by_hand(step, rate):
    assert scheduled_lr(step, **SCHEDULE) == pytest.approx(rate, rel=1e-12)


def rates_of_torch(total_steps, warmup_steps, initial_lr, peak_lr, min_lr):
    """The same schedule by PyTorch's own schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak_lr)
    rise = LinearLR(optimizer, start_factor=initial_lr / peak_lr, total_iters=warmup_steps)
    fall = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps, eta_min=min_lr)
    scheduler = SequentialLR(optimizer, [rise, fall], milestones=[warmup_steps])
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_the_schedule_is_pytorchs():
    settings = {**SCHEDULE, "total_steps": 135, "warmup_steps": 27, "min_lr": 1e-3}
    rates = [scheduled_lr(step, **settings) for step in range(135)]
    assert rates == pytest.approx(rates_of_torch(**settings), rel=1e-9)
    later = rates_of_torch(**{**settings, "warmup_steps": 28})  # control
    assert rates != pytest.approx(later, rel=1e-3)


def test_the_schedule_without_warmup_starts_at_the_peak_and_may_be_flat():
    flat = {**SCHEDULE, "warmup_steps": 0, "min_lr": 0.5}
    assert {scheduled_lr(step, **flat) for step in range(10)} == {0.5}
    assert scheduled_lr(1, **{**flat, "min_lr": 0.1}) < 0.5  # control


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"warmup_steps": -1}, "below the 10 steps of the training, but is -1"),
        ({"warmup_steps": 10}, "below the 10 steps of the training, but is 10"),
        ({"initial_lr": 0.6}, "initial_lr must lie between 0 and the peak .*, 0.5, but is 0.6"),
        ({"min_lr": 0.7}, "min_lr must lie between 0 and the peak .*, 0.5, but is 0.7"),
        ({"min_lr": -0.1}, "min_lr must lie between 0 and the peak .*, 0.5, but is -0.1"),
    ],
)
def test_settings_that_make_no_schedule_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        scheduled_lr(0, **{**SCHEDULE, **wrong})
    check_schedule(**SCHEDULE)  # control


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_training_is_refused(step):
    with pytest.raises(ValueError, match=f"between 0 and 9, but is {step}"):
        scheduled_lr(step, **SCHEDULE)


# Gradients


def test_the_highest_gradient_is_signed_and_skips_parameters_without_one():
    model = torch.nn.ParameterList([torch.zeros(2), torch.zeros(1), torch.zeros(1)])
    model[0].grad = torch.tensor([-5.0, 1.0])
    model[1].grad = torch.tensor([2.0])
    highest = find_highest_gradient(model)
    assert (highest.item(), highest.dim()) == (2.0, 0)


def test_a_model_before_its_backward_pass_has_no_highest_gradient():
    with pytest.raises(ValueError, match=r"call backward\(\)"):
        find_highest_gradient(torch.nn.Linear(2, 2))


# Training


class Letters:
    """A tokenizer of the toy vocabulary: a letter is an id."""

    def encode(self, text, **settings):
        return [ord(letter) % 20 for letter in text]

    def decode(self, ids):
        return "".join(chr(65 + i) for i in ids)


class Training:
    """A toy training that notes the rate and the norm of the gradients at each update."""

    def __init__(self, lr=0.01, scale=1.0, optimizer_class=torch.optim.AdamW):
        torch.manual_seed(0)
        self.model = GPTModel(TOY)
        with torch.no_grad():
            self.model.out_head.weight *= scale
        self.optimizer = optimizer_class(self.model.parameters(), lr=lr)
        ids = torch.randint(20, (5, 2, 9))
        self.loader = [(batch[:, :-1], batch[:, 1:]) for batch in ids]  # 5 batches of (2, 8)
        self.rates, self.norms = [], []
        self.optimizer.register_step_pre_hook(self.note)

    def note(self, *_):
        gradients = [param.grad.flatten() for param in self.model.parameters()]
        self.norms.append(torch.cat(gradients).norm().item())
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def run(self, function=train_model, **settings):
        loaders = (self.loader, self.loader[:1])
        common = {"eval_freq": 1, "eval_iter": 1, "start_context": "A", "tokenizer": Letters()}
        return function(self.model, *loaders, self.optimizer, "cpu", **common, **settings)


def test_the_returned_rates_are_those_of_the_updates_and_peak_at_the_optimizers_lr():
    training = Training(lr=0.02)
    rates = training.run(n_epochs=2, warmup_steps=3, initial_lr=0.002, min_lr=0.001)[3]
    wanted = [scheduled_lr(step, 10, 3, 0.002, 0.02, 0.001) for step in range(10)]
    assert rates == training.rates == wanted
    assert max(rates) == rates[3] == 0.02


def test_all_groups_of_parameters_get_the_rate():
    training = Training(lr=0.02)
    first, *rest = training.optimizer.param_groups[0]["params"]
    training.optimizer = torch.optim.AdamW([{"params": [first]}, {"params": rest}], lr=0.02)
    rates = training.run(n_epochs=1, warmup_steps=2)[3]
    assert [group["lr"] for group in training.optimizer.param_groups] == [rates[-1]] * 2
    assert rates[-1] < 0.02  # control: it is not the rate that they started with


def test_gradients_are_clipped_from_the_end_of_the_warmup_on():
    training = Training(scale=100.0)
    training.run(n_epochs=2, warmup_steps=4)
    assert min(training.norms[:4]) > 2  # also the control: unclipped norms are longer
    assert training.norms[4:] == pytest.approx([1.0] * 6, rel=1e-4)


def test_a_gradient_below_the_limit_is_left_alone():
    training = Training(scale=0.1)
    training.run(n_epochs=1, warmup_steps=0)
    assert max(training.norms) < 0.9


def test_a_flat_schedule_without_clipping_is_the_training_of_chapter_5():
    refined, simple, decayed = (Training(scale=0.1) for _ in range(3))
    result = refined.run(n_epochs=2, warmup_steps=0, initial_lr=0.0, min_lr=0.01)
    assert max(refined.norms) < 1  # so that clipping had nothing to do
    assert result[:3] == simple.run(train_model_simple, num_epochs=2)
    other = decayed.run(n_epochs=2, warmup_steps=0, min_lr=0.0)  # control
    assert other[0] != result[0]


def test_losses_and_tokens_are_noted_at_each_evaluation():
    training = Training()
    train_losses, val_losses, tokens_seen, rates = training.run(n_epochs=2, warmup_steps=1)
    assert len(train_losses) == len(val_losses) == len(rates) == 10
    assert tokens_seen == [16 * (step + 1) for step in range(10)]
    assert train_losses[-1] < train_losses[0]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1, but is 0"),
        ({"warmup_steps": -1}, "but is -1"),
        ({"warmup_steps": 5}, "below the 5 steps of the training, but is 5"),
        ({"initial_lr": 0.1}, "initial_lr must lie .* 0.01, but is 0.1"),
        ({"min_lr": 0.1}, "min_lr must lie .* 0.01, but is 0.1"),
    ],
)
def test_bad_settings_stop_the_training_before_the_first_update(wrong, message):
    training = Training(lr=0.01)
    with pytest.raises(ValueError, match=message):
        training.run(**{"n_epochs": 1, "warmup_steps": 2, **wrong})
    assert training.norms == []
    training.run(n_epochs=1, warmup_steps=2)  # control
    assert len(training.norms) == 5


def test_a_loss_that_is_no_number_stops_the_training():
    training = Training()

    def damage(*_):
        if len(training.norms) == 3:
            training.model.out_head.weight.data.fill_(math.nan)

    training.optimizer.register_step_post_hook(damage)
    training.loader = training.loader * 2
    with pytest.raises(ValueError, match="loss is nan at step 3, batch 4 of 10 in epoch 1"):
        training.run(n_epochs=1, warmup_steps=2, initial_lr=1e-3)
    assert len(training.norms) == 3


def test_the_script_trains_the_model_of_a_configuration(tmp_path, monkeypatch, capsys):
    """On the beginning of the story, to be quick."""
    story = companion.asset("the-next-word.txt").read_text(encoding="utf-8")
    (tmp_path / "short.txt").write_text(story[:3000], encoding="utf-8")
    monkeypatch.setattr(companion, "asset", lambda name: tmp_path / "short.txt")
    cfg = {**GPT_CONFIG_STORY, "context_length": 32, "emb_dim": 8, "n_heads": 1, "n_layers": 1}
    train_losses, _, _, rates = gpt_train_refined.main(cfg, n_epochs=2, peak_lr=0.02)
    assert train_losses[-1] < train_losses[0]
    assert rates.index(max(rates)) == int(0.2 * len(rates)) > 0
    assert "Ep 1 (Step 000000): Train loss" in capsys.readouterr().out


# The book's figures


STOP_AFTER_STEP_0 = """
updates = []


def stop(*_):
    updates.append(1)
    if len(updates) > 1:
        raise KeyboardInterrupt


optimizer.register_step_pre_hook(stop)
try:
{training}
except KeyboardInterrupt:
    pass
"""


@pytest.fixture(scope="module")
def printed(verdict, tmp_path_factory):
    """All that the notebook prints under PROFILE=book until step 0 of section D.4's training."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / verdict.name).write_bytes(verdict.read_bytes())
    notebook = nbformat.read(FOLDER / "appendix-D.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells]
    end = next(i for i, source in enumerate(sources) if " = train_model(" in source)
    training = textwrap.indent(sources[end], "    ")  # all of it takes too long for a test
    notebook.cells[end].source = STOP_AFTER_STEP_0.format(training=training)
    notebook.cells = notebook.cells[: end + 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_CACHE", str(cache))
        patch.setenv("PROFILE", "book")
        patch.setenv("DEVICE", "cpu")
        patch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
        resources = {"metadata": {"path": str(FOLDER)}}
        nbclient.NotebookClient(notebook, timeout=3600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.book
@pytest.mark.slow
@pytest.mark.parametrize(
    "figure",
    [
        "Batches in an epoch: 9\n",
        "Warm-up steps: 27 of 135\n",
        "step  27: 1.0e-02\n",
        "step 134: 1.2e-05\n",
        "Norm: tensor(5.)",
        "[[0.2000, 0.4000],\n        [0.4000, 0.8000]]",
        "Largest gradient before clipping: 0.0411\n",
    ],
)
def test_the_notebook_prints_the_books_figure(printed, figure):
    assert figure in printed


@pytest.mark.book
@pytest.mark.slow
def test_clipping_more_than_halves_the_largest_gradient_as_in_the_book(printed):
    after = float(re.search(r"gradient after clipping: ([\d.]+)", printed)[1])
    assert 0 < after < 0.0411 / 2


@pytest.mark.book
@pytest.mark.slow
def test_the_training_starts_as_in_the_book(printed):
    """The book's run was on an Apple GPU, whose dropout leaves another batch for the first loss."""
    pattern = r"\(Step 000000\): Train loss ([\d.]+), Val loss ([\d.]+)"
    train_loss, val_loss = map(float, re.search(pattern, printed).groups())
    assert train_loss == pytest.approx(10.969, abs=0.05)
    assert val_loss == pytest.approx(10.938, abs=0.003)


def test_the_pocket_profile_shows_other_figures():
    """Control: what depends on the text and the model could not pass under `pocket`."""
    stored = nbformat.writes(nbformat.read(FOLDER / "appendix-D.ipynb", as_version=4))
    for figure in ("Batches in an epoch: 9\\n", "Warm-up steps: 27 of 135", "0.0411"):
        assert figure not in stored
