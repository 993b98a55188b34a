"""Chapter 5's figures as the book prints them.

What does not depend on the profile is looked for in the stored outputs, which the strict run of the
notebooks compares. The training is repeated with the book's text and sizes, on request: it takes a
quarter of an hour on two cores (pytest -m "book and slow").
"""

import re

import nbformat
import pytest

import companion
from companion.notebooks import ROOT
from conftest import printed_by_section
from gpt import GPT_CONFIG_124M, GPTModel
from gpt_download import FILE, SETTINGS, download_and_load_gpt2, load_weights_into_gpt
from gpt_train import create_train_val_loaders, evaluate_model

NOTEBOOK = ROOT / "ch05" / "01_main-chapter-code" / "ch05.ipynb"
SOLUTIONS = NOTEBOOK.with_name("exercise-solutions.ipynb")

FIGURES = {
    "5.1.1": ["Every effort moves you rentingetic wasnم refres RexMeCHicular stren"],
    "5.1.2": [
        "torch.Size([2, 3, 50257])",
        "[[[16657],\n         [  339],\n         [42826]]",
        "Outputs batch 1:  Armed heNetflix",
        "'7.454e-05', '3.106e-05', '1.156e-05'",
        "-10.7940",
        "\n10.7940",
        "48,726",
    ],
    "5.3.1": [
        *["582 x forward", "343 x toward", "73 x closer", "2 x inches"],
        *["985 x forward", "15 x toward", "32 x pizza"],
    ],
    "5.3.2": ["tensor([6.7500, 6.2800, 4.5100])", "tensor([3, 7, 0])"],
    "5.5": ["163,037,184 parameters"],
    "Exercise 5.1": [
        "temperature   1:  0 draws",
        "temperature 0.1:  0 draws",
        "temperature   5: 32 draws, probability 0.0430",
    ],
}


@pytest.fixture(scope="module")
def section():
    """section("5.2"): all that the section's cells print, as it is stored."""
    notebooks = (nbformat.read(path, as_version=4) for path in (NOTEBOOK, SOLUTIONS))
    main, solutions = map(printed_by_section, notebooks)
    return {**main, **solutions}.__getitem__


@pytest.mark.parametrize(
    "number, figure", [(number, figure) for number, all_ in FIGURES.items() for figure in all_]
)
def test_a_section_shows_the_books_figure(section, number, figure):
    assert figure in section(number)


def test_a_figure_is_looked_for_in_its_own_section_only(section):
    """Control of the test above."""
    assert FIGURES["5.1.1"][0] not in section("5.1.2")
    assert FIGURES["5.3.2"][0] not in section("5.3.1")


EXERCISE_5_4 = """
torch.manual_seed(123)
loaders = [
    create_dataloader_v1(
        part, batch_size=2, max_length=256, stride=256, drop_last=is_training, shuffle=is_training
    )
    for part, is_training in [(train_data, True), (val_data, False)]
]
_ = train_model_simple(
    model, *loaders, optimizer, "cpu", num_epochs=1, eval_freq=5, eval_iter=5,
    start_context=start_context, tokenizer=tokenizer,
)
"""


@pytest.fixture(scope="module")
def book_run(verdict, tmp_path_factory):
    """What the notebook prints in the book profile, with exercise 5.4 put into it."""
    import shutil

    import nbclient

    cache = tmp_path_factory.mktemp("cache")
    shutil.copy(verdict, cache / "the-verdict.txt")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = notebook.cells
    loaded = [i for i, cell in enumerate(cells) if "learning rate:" in cell.source]
    heading = nbformat.v4.new_markdown_cell("## Exercise 5.4")
    back = nbformat.v4.new_markdown_cell("## 5.4 again")
    cells[loaded[0] + 1 : loaded[0] + 1] = [heading, nbformat.v4.new_code_cell(EXERCISE_5_4), back]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROFILE", "book")
        patch.setenv("COMPANION_CACHE", str(cache))
        patch.setenv("DEVICE", "cpu")
        patch.delenv("OMP_NUM_THREADS", raising=False)
        client = nbclient.NotebookClient(
            notebook, timeout=7200, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
        )
        client.execute()
    return printed_by_section(notebook)


@pytest.mark.book
@pytest.mark.slow
def test_the_books_training_gives_the_books_losses(book_run):
    assert "Characters: 20479\nTokens: 5145" in re.sub(r"\n+", "\n", book_run["5.1.3"])
    assert "Train loader: 9 batches of {((2, 256), (2, 256))}" in book_run["5.1.3"]
    assert "Validation loader: 1 batches of {((2, 256), (2, 256))}" in book_run["5.1.3"]
    assert "Training loss: 10.98758\nValidation loss: 10.98111" in book_run["5.1.3"]
    losses = losses_of(book_run["5.2"])
    expected = {
        0: (9.781, 9.933),
        15: (5.961, 6.616),
        25: (5.201, 6.348),
        35: (4.069, 6.226),
        40: (3.732, 6.160),
        55: (2.104, 6.134),
        65: (1.320, 6.238),
        75: (0.717, 6.293),
    }
    for step, (train_loss, val_loss) in expected.items():
        assert losses[step] == pytest.approx((train_loss, val_loss), abs=0.002), step
    assert list(losses) == list(range(0, 90, 5))
    assert losses[85][0] < 0.7 and losses[85][1] > 6
    assert 40 < min(losses, key=lambda step: losses[step][1]) < 70  # near 55: overfitting since
    assert "learning rate: 0.0004" in book_run["5.4"]  # the saved one replaces another
    assert "Every effort moves you,,,,," in book_run["5.2"]
    memorized = 'know," was one of the axioms he laid down across the Sevres and silver of an'
    assert memorized in book_run["5.3"].replace("\n", " ")
    sample = "stand to work on surprise, a one of us had gone with random-"
    assert sample in book_run["5.3.3"].replace("\n", " ")
    resumed = losses_of(book_run["Exercise 5.4"])
    assert resumed[0] == pytest.approx((0.271, 6.545), abs=0.002)
    assert resumed[5] == pytest.approx((0.244, 6.614), abs=0.002)


def losses_of(printed):
    """{step: (training loss, validation loss)} of a training's log."""
    lines = re.findall(r"\(Step (\d+)\): Train loss ([\d.]+), Val loss ([\d.]+)", printed)
    return {int(step): (float(train), float(val)) for step, train, val in lines}


def test_a_log_is_read():
    """Control of the test above: the stored log of the pocket profile is another one."""
    stored = losses_of(printed_by_section(nbformat.read(NOTEBOOK, as_version=4))["5.2"])
    assert list(stored)[:3] == [0, 5, 10]
    assert stored[0] != pytest.approx((9.781, 9.933), abs=0.002)


# GPT-2's own weights, where `gpt_generate.py --model 124M` has downloaded them


@pytest.mark.book
@pytest.mark.slow
@pytest.mark.parametrize(
    "size, expected", [("124M", (3.7547, 3.5596)), ("1558M", (3.3046, 3.1195))]
)
def test_gpt2s_weights_have_the_losses_of_exercise_5_5(size, expected, verdict):
    folder = companion.assets.cache_dir() / "gpt2"
    if not (folder / size / FILE).exists():
        pytest.skip(f"GPT-2's weights are not on this machine: gpt_generate.py --model {size}")
    settings, params = download_and_load_gpt2(size, folder)
    assert settings == SETTINGS[size]
    if size == "124M":
        assert params["wte"][0, :3] == pytest.approx([-0.11010301, -0.03926672, 0.03310751])
    sizes = {"emb_dim": "n_embd", "n_heads": "n_head", "n_layers": "n_layer"}
    sizes = {ours: settings[theirs] for ours, theirs in sizes.items()}
    model = GPTModel({**GPT_CONFIG_124M, **sizes, "context_length": 1024, "qkv_bias": True})
    load_weights_into_gpt(model, params)
    loaders = create_train_val_loaders(verdict.read_text(encoding="utf-8"), 0.9, 2, 256)
    losses = evaluate_model(model, *loaders, "cpu", eval_iter=None)
    assert losses == pytest.approx(expected, abs=0.001)
