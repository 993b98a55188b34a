"""Pictures of chapter 4. Each function's docstring is its picture's alt text.

The numbers are the chapter's own, computed by PyTorch with the seeds named below.
tests/test_images.py computes again what takes no more than seconds.
"""

from itertools import accumulate, pairwise
from math import pi, sqrt, tanh

from drawing import (
    BODY,
    FOCUS,
    GREY,
    IDS,
    INK,
    KEYS,
    LINE,
    MARGIN,
    MODEL,
    PAPER,
    POSITIONS,
    SHADES,
    SMALL,
    TEXT,
    VECTORS,
    WEIGHTS,
    WHITE,
    Box,
    Drawing,
    alt_text,
    numbers,
    tint,
)

# Parts of the model have the same colors in all pictures of the chapter. A shortcut carries a
# vector as it is and so has the color of vectors; scores are shaded as in chapter 3.
NORM, ATTENTION, FEED_FORWARD, SHORTCUT = LINE, WEIGHTS, MODEL, VECTORS

# GPT_CONFIG_124M
VOCAB_SIZE, CONTEXT_LENGTH, EMB_DIM, N_LAYERS = 50257, 1024, 768, 12

# tiktoken.get_encoding("gpt2"): pieces and ids of the two texts; "·" stands for a space
BATCH = [
    {"pieces": ["Every", "·effort", "·moves", "·you"], "ids": [6109, 3626, 6100, 345]},
    {"pieces": ["Every", "·day", "·holds", "·a"], "ids": [6109, 1110, 6622, 257]},
]

# Section 4.2: torch.manual_seed(123), torch.randn(2, 5), then Sequential(Linear(5, 6), ReLU()) of
# it; means and variances (divided by 5, not 6) of its rows; the root of the first
# variance; the first row minus its mean, and that divided by the root; the means of the columns
LAYER_INPUT = [-0.1115, 0.1204, -0.3696, -0.2404, -1.1969]
ACTIVATIONS = [
    [0.2260, 0.3470, 0.0000, 0.2216, 0.0000, 0.0000],
    [0.2133, 0.2394, 0.0000, 0.5198, 0.3297, 0.0000],
]
ROW_MEANS, ROW_VARIANCES = [0.1324, 0.2170], [0.0231, 0.0398]
STANDARD_DEVIATION = 0.1519
CENTERED = [0.0935, 0.2145, -0.1324, 0.0892, -0.1324, -0.1324]
NORMALIZED = [0.6159, 1.4126, -0.8719, 0.5872, -0.8719, -0.8719]
COLUMN_MEANS = [0.2196, 0.2932, 0.0000, 0.3707, 0.1649, 0.0000]

# Section 4.4: torch.manual_seed(123), layers of sizes 3, 3, 3, 3, 3, 1, each Linear then GELU;
# input 1, 0, -1, squared error against 0; mean absolute gradient of each layer's weights
GRADIENTS = [0.00020, 0.00012, 0.00072, 0.00140, 0.00505]
SHORTCUT_GRADIENTS = [0.22170, 0.20694, 0.32897, 0.26657, 1.32585]

# Section 4.6: parameters of GPTModel(GPT_CONFIG_124M)
MATRIX = VOCAB_SIZE * EMB_DIM  # the token embedding; as large is the output layer
PARAMETERS = {
    "token embedding": MATRIX,
    "position embedding": CONTEXT_LENGTH * EMB_DIM,
    "12 blocks": N_LAYERS * 7_085_568,
    "final norm": 2 * EMB_DIM,
    "output layer": MATRIX,
}
BLOCK_PARAMETERS = {"attention": 2_360_064, "feed-forward": 4_722_432, "two norms": 4 * EMB_DIM}
TOTAL, TIED_TOTAL = 163_009_536, 124_412_160

# Section 4.7: torch.manual_seed(123), GPTModel(GPT_CONFIG_124M).eval(): what it appends to the
# prompt, and its scores for the prompt at the ids of SHOWN_IDS, one row for each token
PROMPT = {"pieces": ["Hello", ",", "·I", "·am"], "ids": [15496, 11, 314, 716]}
APPENDED = {
    "pieces": ["·Feature", "iman", "·Bye", "swick", "attribute", "·argue"],
    "ids": [27018, 24086, 47843, 30961, 42348, 7267],
}
SHOWN_IDS = (0, 1, 2, 27018, 50256)
LOGITS = [
    [-0.2949, -0.8076, 0.0640, 0.8522, -0.8141],
    [1.2199, -0.4768, -0.4399, 0.2603, -0.3599],
    [1.0446, -0.0873, 0.6722, -0.0867, 0.0020],
    [-0.6430, -0.1466, -0.1405, 2.4972, -0.8765],
]

SOME_SCORES = (0.3, 0.1, 0.8, 0.2, 0.5, 0.1, 0.9, 0.4)
STORY = ("The", "·boat", "·left", "·the", "·port", "·when")
SHADES_OF_VECTORS = ((3, 1, 0, 2, 1), (1, 2, 3, 0, 1), (0, 3, 1, 2, 2), (2, 0, 1, 1, 3))


def add(d, x, y, size=26):
    """A box with a plus sign, centered at (x, y)."""
    return d.box(x - size / 2, y - size / 2, size, size, "+", LINE, SMALL, bold=True)


def roadmap():
    """Top: chapters 2 to 7, chapter 4 highlighted. Below, its parts in the order they are built:
    an outline with empty places, then layer norm, feed-forward and shortcuts, which together with
    chapter 3's attention make a transformer block; twelve blocks make the GPT model, which writes
    text."""
    d = Drawing("Where we are, and what this chapter builds", 466)
    names = ("Text data", "Attention", "GPT model", "Pretraining", "Classifier", "Assistant")
    for i, name in enumerate(names):
        here = i == 2
        box = d.box(MARGIN + 108.4 * i, 68, 102, 52, color=TEXT if here else LINE, strong=here)
        d.label(box.center[0], 84, f"Chapter {i + 2}", INK if here else GREY, "middle")
        d.label(box.center[0], 105, name, INK, "middle", bold=True)
    d.line((MARGIN, 162), (MARGIN, 152), (672, 152), (672, 162))
    d.line((MARGIN + 267.8, 122), (MARGIN + 267.8, 152))
    group, middle = Box(150, 174, 134, 234), 291
    d.rect(group, WHITE, LINE, radius=12)
    parts = {
        "Layer norm": "Section 4.2",
        "Feed-forward": "Section 4.3",
        "Shortcuts": "Section 4.4",
        "Attention": "Chapter 3",
    }
    for k, (name, section) in enumerate(parts.items()):
        part = d.box(157, 182 + 56 * k, 120, 50, color=LINE if k == 3 else TEXT)
        d.label(part.center[0], part.y + 15, section, GREY, "middle")
        d.label(part.center[0], part.y + 35, name, INK, "middle", bold=True)
    wholes = []
    for x, w, section, name, about in [
        (MARGIN, 100, "4.1", "Outline", "every part\nin its place,\nstill empty"),
        (308, 110, "4.5", "Transformer\nblock", "puts these\nparts together"),
        (441, 108, "4.6", "GPT model", "embeddings,\n12 blocks,\noutput layer"),
        (572, 100, "4.7", "Text", "one token\nafter the\nother"),
    ]:
        wholes.append(d.box(x, middle - 66, w, 132, color=TEXT, strong=name == "GPT model"))
        d.label(x + w / 2, middle - 48, f"Section {section}", GREY, "middle")
        d.label(x + w / 2, middle - 24, name, INK, "middle", bold=True)
        d.label(x + w / 2, middle + 4 + 18 * name.count("\n"), about, INK, "middle")
    wholes.insert(1, group)
    for left, right in pairwise(wholes):
        d.arrow(left.right, right.left, gap=4)
    d.label(
        MARGIN, 440, "At the end the model writes, but makes no sense yet: chapter 5 trains it."
    )
    return d


def gpt_overview():
    """The tokens of "Every effort moves you" and their ids go down through the token embedding, the
    position embedding, transformer blocks 1 to 12, a final norm and an output layer. Out come
    50,257 scores for each of the four tokens."""
    d = Drawing("From token ids to scores for the next token", 624)
    x0, step, w = 116, 102, 96
    wide = 3 * step + w
    middles = [x0 + i * step + w / 2 for i in range(4)]
    for x, piece, number in zip(middles, BATCH[0]["pieces"], BATCH[0]["ids"], strict=True):
        d.chip(x - w / 2, 70, piece, TEXT, w, 30)
        d.chip(x - w / 2, 124, str(number), IDS, w, 30)
    d.text(x0 + wide / 2, 354, "…", BODY, bold=True)
    layers = [
        (178, "token embedding", {"color": VECTORS, "strong": True}),
        (236, "+ position embedding", {"color": POSITIONS, "strong": True}),
        (294, "transformer block 1", {"color": MODEL}),
        (376, "transformer block 12", {"color": MODEL}),
        (434, "final norm", {"color": NORM}),
        (492, "output layer", {"color": WEIGHTS, "strong": True}),
    ]
    for y, name, look in layers:
        d.box(x0, y, wide, 34, name, **look)
    for i, x in enumerate(middles):
        for y in (100, 154, 212, 270, 410, 468, 526):
            d.arrow((x, y), (x, y + 24), gap=2)
        d.line((x, 330), (x, 340))
        d.arrow((x, 359), (x, 376), gap=2)
        d.heat(x - 45, 550, [SOME_SCORES[i : i + 5]], 1, (18, 26), None)
    for y, name in [(85, "tokens"), (139, "ids"), (563, "scores")]:
        d.label(MARGIN, y, name, INK, bold=True)
    for y, note in [
        (102, "cut and\nnumbered,\nchapter 2"),
        (185, "look up a\nvector each"),
        (243, "add another\nfor its place"),
        (333, "each token\nlooks at itself\nand back"),
        (441, "evens out\nthe numbers"),
        (499, "vectors\nto scores"),
        (563, "50,257 each"),
    ]:
        d.label(x0 + wide + 16, y, note)
    d.label(MARGIN, 600, "The scores below a token say which token may come after it.")
    return d


def shapes():
    """Two texts of four tokens become ids of shape (2, 4): 6109, 3626, 6100, 345 and 6109, 1110,
    6622, 257. Each id becomes a vector of 768 numbers, shape (2, 4, 768); the twelve blocks keep
    this shape. The output layer makes it 50,257 scores for each token, shape (2, 4, 50257)."""
    d = Drawing("Shapes on the way from two texts to scores", 606)
    x0, step, w = 182, 124, 112
    rows = [
        (70, "2 texts", "4 tokens each", ""),
        (182, "(2, 4)", "ids", "tokenizer"),
        (294, "(2, 4, 768)", "vectors", "token and position embedding"),
        (396, "(2, 4, 768)", "vectors", "12 blocks and final norm: the shape stays"),
        (498, "(2, 4, 50257)", "scores", "output layer: from 768 numbers to 50,257"),
    ]
    for y, shape, name, change in rows:
        d.label(MARGIN, y + 21, shape, INK, bold=True)
        d.label(MARGIN, y + 41, name)
        if change:
            d.arrow((x0 + w / 2, y - 42), (x0 + w / 2, y - 2), label=change)
    for r, text in enumerate(BATCH):
        for i, (piece, number) in enumerate(zip(text["pieces"], text["ids"], strict=True)):
            x = x0 + i * step
            d.chip(x, 70 + 36 * r, piece, TEXT, w, 30, SMALL)
            d.chip(x, 182 + 36 * r, str(number), IDS, w, 30, SMALL)
            k = i + 3 * r if i else 0  # a first token sees only itself: equal in both texts
            values, turn = SHADES_OF_VECTORS[k % 4], 1 if k < 4 else -1
            d.vector(x + 26, 298 + 28 * r, values[::turn], (12, 22))
            values = SHADES_OF_VECTORS[k % 4 - 2]
            d.vector(x + 26, 400 + 28 * r, values[::-turn], (12, 22))
            scores = [((7 * column + 3 * k) % 10 / 11 + 0.1) ** 2 for column in range(14)]
            d.heat(x, 502 + 28 * r, [scores], 1, (8, 22), None)
    d.label(MARGIN, 580, "Shades stand for numbers, far fewer than there are.")
    return d


def wide_row(d, y, values, color, marked=False):
    """Numbers with four decimals in a row with room for six."""
    cells = [text.strip() for text in numbers(values, 4)]
    d.matrix(164, y, [cells], color, (84, 32), marked=(0,) if marked else ())


def layer_norm():
    """Five inputs become six activations: 0.2260, 0.3470, 0, 0.2216, 0, 0, with mean 0.1324 and
    variance 0.0231. Minus the mean and divided by the root of the variance they are 0.6159, 1.4126,
    -0.8719, 0.5872, -0.8719, -0.8719, with mean 0 and variance 1. On a number line they spread."""
    d = Drawing("Layer normalization: mean 0, variance 1", 578)
    mean, variance = ROW_MEANS[0], ROW_VARIANCES[0]
    steps = [
        (70, "inputs", "", LAYER_INPUT, VECTORS),
        (160, "activations", f"mean {mean}\nvariance {variance}", ACTIVATIONS[0], MODEL),
        (254, "centered", f"mean 0\nvariance {variance}", CENTERED, MODEL),
        (348, "normalized", "mean 0\nvariance 1", NORMALIZED, VECTORS),
    ]
    for y, name, about, values, color in steps:
        wide_row(d, y, values, color, name == "normalized")
        d.label(MARGIN, y - 3 if about else y + 16, name, INK, bold=True)
        d.label(MARGIN, y + 18, about)
    for y, length, change in [
        (102, 58, "linear layer, ReLU"),
        (192, 62, f"minus the mean, {mean}"),
        (286, 62, f"divided by the root of the variance, {STANDARD_DEVIATION}"),
    ]:
        d.arrow((206, y), (206, y + length), label=change)
    number_line(d, 444)
    d.label(MARGIN, 552, "All are moved and stretched alike: equal values stay equal.")
    return d


def number_line(d, y):
    """The six values before and after, as dots above one axis."""

    def place(value):
        return 412 + 168 * value

    lines = [("before", ACTIVATIONS[0], y), ("after", NORMALIZED, y + 40)]
    for name, values, height in lines:
        d.label(MARGIN, height, name, INK, bold=True)
        d.line((164, height), (668, height), color=LINE, width=1.5)
        for value in values:
            d.dot(place(value), height)
        d.label(place(min(values)), height - 16, "3 ×", anchor="middle")
    for tick in (-1, 0, 1):
        d.line((place(tick), y + 48), (place(tick), y + 54))
        d.label(place(tick), y + 68, str(tick).replace("-", "−"), anchor="middle")


def feature_or_batch():
    """The same table twice, two examples by six features. Along the features, as layer norm does,
    each example has a mean: 0.1324 and 0.2170. Along the batch, as batch norm does, each feature
    has a mean, from 0.2196 for the first to 0.0000 for the last."""
    d = Drawing("Normalizing along the features or along the batch", 496)
    x0, w, h = 128, 72, 34
    cells = [[text.strip() for text in numbers(values, 4)] for values in ACTIVATIONS]
    for y, heading, about in [
        (78, "Layer norm", "along the features, every example by itself"),
        (274, "Batch norm", "along the batch, every feature by itself"),
    ]:
        d.label(MARGIN, y, heading, INK, bold=True)
        d.label(x0 + 4, y, about)
    for r in range(2):
        y = 104 + 52 * r
        d.label(MARGIN, y + 17, f"example {r + 1}", INK)
        d.matrix(x0, y, [cells[r]], VECTORS, (w, h), marked=(0,) if r else ())
        d.frame(x0 - 3, y - 3, x0 + 6 * w + 3, y + h + 3)
        d.label(x0 + 6 * w + 18, y + 17, f"mean {ROW_MEANS[r]:.4f}", INK)
        d.label(MARGIN, 317 + h * r, f"example {r + 1}", INK)
    d.label(MARGIN, 220, "An example's result is the same alone and in a batch: what GPT needs.")
    for c, mean in enumerate(COLUMN_MEANS):
        x = x0 + c * (w + 14)
        d.matrix(x, 300, [[cells[0][c]], [cells[1][c]]], VECTORS, (w, h), marked=(1,))
        d.frame(x - 3, 297, x + w + 3, 303 + 2 * h)
        d.text(x + w / 2, 390, f"{mean:.4f}", SMALL, mono=True)
    d.label(MARGIN, 390, "mean", INK)
    d.label(MARGIN, 424, "An example's result depends on what else is in the batch.")
    d.line((MARGIN, 246), (672, 246), color=LINE)
    d.line((MARGIN, 450), (672, 450), color=LINE)
    d.label(MARGIN, 472, "Framed: what is normalized together. The numbers are section 4.2's.")
    return d


def feed_forward():
    """A feed-forward network on three tokens, shape (2, 3, 768). A linear layer widens each token's
    vector from 768 to 3072 numbers, GELU bends every number, a second linear layer narrows it to
    768 again. Strips drawn to scale show the widths."""
    d = Drawing("The feed-forward network, with its widths", 572)
    x0, step, wide = 120, 188, 176
    for y, shape, w in [
        (92, "(2, 3, 768)", 44),
        (216, "(2, 3, 3072)", wide),
        (340, "(2, 3, 3072)", wide),
        (464, "(2, 3, 768)", 44),
    ]:
        d.label(MARGIN, y + 12, shape, INK)
        for i in range(3):
            middle = x0 + step * i + wide / 2
            d.rect(Box(middle - w / 2, y, w, 24), tint(VECTORS, SHADES[2]), VECTORS)
            if y < 464:
                d.arrow((middle, y + 24), (middle, y + 50))
            if y > 92:
                d.arrow((middle, y - 34), (middle, y))
    for i in range(3):
        d.label(x0 + step * i + wide / 2, 76, f"token {i + 1}", GREY, "middle")
    for y, text, color in [
        (142, "linear layer: 768 to 3072", FEED_FORWARD),
        (266, "GELU: bends each number by itself", LINE),
        (390, "linear layer: 3072 to 768", FEED_FORWARD),
    ]:
        d.box(x0, y, 2 * step + wide, 40, text, color)
    d.label(MARGIN, 522, "One of the 2 texts; strips to scale. The same layers serve every token:")
    d.label(MARGIN, 542, "tokens meet in attention, not here.")
    return d


def bend(d, box):
    """The curve of GELU inside a box, for inputs from -3 to 3."""
    x, y = box.center
    points = []
    for k in range(-15, 16):
        value = k / 5
        share = (1 + tanh(sqrt(2 / pi) * (value + 0.044715 * value**3))) / 2
        points.append((x + value * box.w / 7, y + 24 - value * share * box.w / 7))
    d.line((box.x + 8, y + 24), (box.x + box.w - 8, y + 24), color=GREY, width=1)
    d.line(*points, color=FOCUS, width=3)


def expand_contract():
    """A net of dots, 256 numbers each. Three dots fan out to twelve: 768 numbers expand to 3072.
    These pass through GELU one by one, and twelve dots lead back to three: 3072 numbers contract
    to 768."""
    d = Drawing("Expand, bend, contract", 458)
    narrow, many = [154 + 82 * i for i in range(3)], [97 + 25.4 * i for i in range(12)]
    curve = Box(286, 84, 128, 306)
    for xs, left, right in [((84, 226), narrow, many), ((474, 616), many, narrow)]:
        for y1 in left:
            for y2 in right:
                d.line((xs[0], y1), (xs[1], y2), color=LINE, width=1)
    for y in many:
        d.line((226, y), (curve.x, y), color=LINE, width=1.5)
        d.line((curve.x + curve.w, y), (474, y), color=LINE, width=1.5)
    d.rect(curve, PAPER, LINE, radius=8)
    bend(d, curve)
    d.label(350, 152, "GELU", INK, "middle", bold=True)
    for x in (84, 226, 474, 616):
        ys, name = (many, "3072") if x in (226, 474) else (narrow, "768")
        for y in ys:
            d.dot(x, y)
        d.label(x, 406 if name == "3072" else 346, name, INK, "middle", bold=True)
    d.label(155, 78, "linear layer, × 4", INK, "middle")
    d.label(545, 78, "linear layer, ÷ 4", INK, "middle")
    d.label(MARGIN, 434, "A dot stands for 256 numbers. In and out are of one size: blocks stack.")
    return d


def toy_network(d, x, gradients, shortcut):
    """Five layers from top to bottom, the gradient of each beside it."""
    middle, peak = x + 92, max(SHORTCUT_GRADIENTS)
    d.label(x, 76, "With shortcuts" if shortcut else "Without shortcuts", INK, bold=True)
    d.label(x + 186, 76, "gradient", FOCUS, bold=True)
    end = d.chip(x + 38, 96, "1, 0, −1", VECTORS, 108, 28, SMALL)
    for i, gradient in enumerate(gradients):
        y = 152 + 92 * i
        sizes = "3 to 1" if i == 4 else "3 to 3"
        layer = d.box(x + 26, y, 132, 30, f"layer {i + 1}: {sizes}", MODEL, SMALL)
        d.arrow(end.bottom, layer.top, gap=3)
        end = layer
        if shortcut and i < 4:
            end = add(d, middle, y + 60, 22)
            d.arrow(layer.bottom, end.top, gap=3)
            left = x + 6
            points = (middle, y - 14), (left, y - 14), (left, y + 60), end.left
            d.arrow(*points, color=SHORTCUT, width=3, gap=2)
        d.text(x + 186, y + 6, f"{gradient:.5f}", SMALL, anchor="start", mono=True)
        d.rect(Box(x + 187, y + 20, max(98 * gradient / peak, 1), 10), FOCUS, FOCUS)
    loss = d.box(x + 38, 578, 108, 28, "loss", LINE, SMALL)
    d.arrow(end.bottom, loss.top, gap=3)
    d.label(x + 186, 582, "starts here,\ngoes upwards", FOCUS)


def deep_network():
    """Five layers, twice. Without shortcuts the gradients from layer 1 to layer 5 are 0.00020,
    0.00012, 0.00072, 0.00140 and 0.00505, bars too short to see. With shortcuts around layers 1 to
    4 they are 0.22170, 0.20694, 0.32897, 0.26657 and 1.32585."""
    d = Drawing("Shortcuts keep the gradient from fading", 690)
    toy_network(d, MARGIN, GRADIENTS, False)
    d.line((346, 70), (346, 612), color=LINE)
    toy_network(d, 372, SHORTCUT_GRADIENTS, True)
    d.label(MARGIN, 640, "Gradient: mean size over a layer's weights; bars on both sides have one")
    d.label(MARGIN, 660, "scale. Layer 5 has no shortcut: 1 number cannot be added to 3.")
    return d


def transformer_block():
    """A transformer block from top to bottom: layer norm, multi-head attention, dropout,
    addition; then layer norm, feed-forward, dropout, addition. Two shortcuts run past the three
    steps before each addition. Vectors enter and leave with shape (2, 4, 768)."""
    d = Drawing("Inside a transformer block", 690)
    x, w, middle = 196, 216, 304
    d.rect(Box(134, 122, 312, 460), WHITE, LINE, radius=14)
    d.label(434, 142, "block", GREY, "end")
    for y in (72, 602):
        for i, shades in enumerate(SHADES_OF_VECTORS):
            d.vector(middle - 172 + 88 * i, y, shades if y == 72 else shades[::-1], (16, 24))
        d.label(490, y + 12, "(2, 4, 768)", INK, bold=True)
        d.label(MARGIN, y + 12, "in" if y == 72 else "out", INK, bold=True)
    parts = [
        (160, "layer norm 1", NORM, "mean 0, variance 1\nfor each token"),
        (216, "multi-head attention", ATTENTION, "each looks at itself\nand at those before"),
        (272, "dropout", GREY, "in training only"),
        (380, "layer norm 2", NORM, "the same, with scale\nand shift of its own"),
        (436, "feed-forward", FEED_FORWARD, "each token by itself:\n768 to 3072 to 768"),
        (492, "dropout", GREY, "in training only"),
    ]
    boxes = []
    for y, name, color, about in parts:
        boxes.append(d.box(x, y, w, 34, name, color, dashed=color == GREY))
        d.label(490, y + 17 - 10 * about.count("\n"), about)
    sums = [add(d, middle, y) for y in (338, 558)]
    starts = [Box(middle, 96, 0, 0), sums[0]]
    for k in range(2):
        d.down(starts[k], *boxes[3 * k : 3 * k + 3], sums[k], gap=4)
        y = (146, 366)[k]
        points = (middle, y), (160, y), (160, sums[k].center[1]), sums[k].left
        d.arrow(*points, color=SHORTCUT, width=4, gap=2)
        d.label(490, sums[k].center[1], "add what came in", INK)
    d.arrow(sums[1].bottom, (middle, 602))
    d.label(MARGIN, 250, "shortcut", INK, bold=True)
    d.label(MARGIN, 464, "shortcut", INK, bold=True)
    d.label(MARGIN, 662, "As many vectors come out as went in, and of the same size.")
    return d


def half_block(d, x, y, name, color, pre):
    """One sub-module beside the trunk at x + 44, normalized before it or after the addition."""
    trunk = x + 44
    side = top = d.box(x + 106, y + (56 if pre else 28), 172, 36, name, color)
    plus = Box(trunk - 13, side.center[1] - 13, 26, 26)
    if pre:
        top = d.box(side.x, y, side.w, 32, "norm", NORM)
        d.arrow(top.bottom, side.top, gap=3)
    d.arrow((trunk, y - 14), (top.center[0], y - 14), top.top, gap=0)
    d.arrow(side.left, plus.right)
    return plus


def pre_post_norm():
    """Left, pre-norm, as in GPT-2: each norm stands on the side path before attention or
    feed-forward, and an unbroken line leads from input to output. Right, post-norm, as in the
    first transformer: a norm follows each addition and stands in the way of every path."""
    d = Drawing("Where the norm stands: pre-norm and post-norm", 564)
    for x, pre, heading, about in [
        (MARGIN, True, "Pre-norm", "GPT-2 and this chapter"),
        (372, False, "Post-norm", "the first transformer, 2017"),
    ]:
        trunk = x + 44
        d.label(x, 78, heading, INK, bold=True)
        d.label(x + 96, 78, about)
        start = d.chip(trunk - 34, 100, "in", VECTORS, 68, 28, SMALL)
        parts = [start]
        for y, name, color in [(158, "attention", ATTENTION), (300, "feed-forward", FEED_FORWARD)]:
            plus = half_block(d, x, y, name, color, pre)
            parts.append(plus)
            if not pre:
                parts.append(d.box(trunk - 34, plus.y + 48, 68, 28, "norm", NORM, SMALL))
        parts.append(d.chip(trunk - 34, 434, "out", VECTORS, 68, 28, SMALL))
        d.down(*parts, color=SHORTCUT, width=4, gap=1)
        for plus in parts[1:-1] if pre else parts[1:-1:2]:
            add(d, *plus.center)
    d.line((350, 70), (350, 464), color=LINE)
    d.label(MARGIN, 488, "The green line is unbroken:\nthe gradient has a free way back.", INK)
    d.label(372, 488, "Every path leads through every\nnorm: harder to train when deep.", INK)
    d.label(MARGIN, 540, "Dropout is left out of both.")
    return d


PART_LOOKS = {
    "token embedding": (VECTORS, f"{VOCAB_SIZE} × {EMB_DIM}"),
    "position embedding": (POSITIONS, f"{CONTEXT_LENGTH} × {EMB_DIM}"),
    "12 blocks": (MODEL, "12 × 7,085,568"),
    "final norm": (NORM, "scale and shift"),
    "output layer": (WEIGHTS, f"{EMB_DIM} × {VOCAB_SIZE}"),
    "attention": (ATTENTION, "q, k, v, output"),
    "feed-forward": (FEED_FORWARD, "768 to 3072 to 768"),
    "two norms": (NORM, "scale and shift"),
}


def counted(d, y, name, count, bar):
    """A part, how its parameters come about, their number, and a bar."""
    color, formula = PART_LOOKS[name]
    box = d.box(
        MARGIN, y, 170, 32, name, color, SMALL, strong=color != NORM and name != "attention"
    )
    d.label(216, y + 16, formula)
    d.text(474, y + 16, f"{count:,}", SMALL, anchor="end", mono=True)
    d.rect(Box(494, y + 7, max(bar, 1), 18), color, GREY if color == NORM else color)
    return box


def complete_gpt():
    """The parts of the GPT model with their parameters and bars of that length: token embedding
    38,597,376, position embedding 786,432, twelve blocks 85,026,816, final norm 1,536, output layer
    38,597,376; total 163,009,536. One block: attention 2,360,064, feed-forward 4,722,432, norms
    3,072, together 7,085,568."""
    d = Drawing("Where the 163 million parameters are", 572)
    longest = max(PARAMETERS.values())
    d.label(MARGIN, 76, "The whole model", INK, bold=True)
    boxes = [
        counted(d, 96 + 46 * i, name, count, 172 * count / longest)
        for i, (name, count) in enumerate(PARAMETERS.items())
    ]
    d.down(*boxes, gap=2)
    d.line((360, 322), (474, 322), color=INK)
    d.text(474, 340, f"{TOTAL:,}", SMALL, anchor="end", bold=True, mono=True)
    d.label(MARGIN, 340, "total", INK, bold=True)
    d.label(MARGIN, 392, "One of the 12 blocks", INK, bold=True)
    d.label(494, 392, "bars: all 12 together")
    for i, (name, count) in enumerate(BLOCK_PARAMETERS.items()):
        counted(d, 410 + 38 * i, name, count, 172 * 12 * count / longest)
    d.line((360, 524), (474, 524), color=INK)
    total = sum(BLOCK_PARAMETERS.values())
    d.text(474, 542, f"{total:,}", SMALL, anchor="end", bold=True, mono=True)
    d.label(MARGIN, 542, "total of one block", INK, bold=True)
    return d


def tall_matrix(d, x, y, rows, color, marked=()):
    """Rows of four cells, some of them darker."""
    for r in range(rows):
        shade = SHADES[3 if r in marked else 1]
        for c in range(4):
            d.rect(Box(x + 16 * c, y + 16 * r, 16, 16), tint(color, shade), color)
    return Box(x, y, 64, 16 * rows)


def weight_tying():
    """Left, two matrices of 50257 by 768: one is the embedding that ids look up, the other the
    output layer that makes scores; 163,009,536 parameters. Right, one such matrix is used for both,
    first and last; 124,412,160 parameters."""
    d = Drawing("Weight tying: one matrix, used twice", 594)
    for x, heading, total in [
        (MARGIN, "Two matrices", TOTAL),
        (372, "One matrix, used twice", TIED_TOTAL),
    ]:
        d.label(x, 78, heading, INK, bold=True)
        d.label(x, 508, f"{total:,} parameters", INK, bold=True)
        d.label(x, 115, "id", INK)
        number = d.chip(x + 24, 100, "6109", IDS, 72, 30, SMALL)
        if total == TIED_TOTAL:
            first = last = tall_matrix(d, x + 28, 196, 12, VECTORS, (4,))
        else:
            first = tall_matrix(d, x + 28, 180, 6, VECTORS, (4,))
            last = tall_matrix(d, x + 28, 308, 6, WEIGHTS)
        blocks = d.box(x + 200, 212, 104, 188, "12 blocks,\nfinal norm", MODEL)
        y1, y2 = first.y + 72, last.y + last.h - 40
        d.arrow((x + 92, y1), (blocks.x, y1), label="vector")
        d.arrow((blocks.x, y2), (x + 92, y2), label="vector")
        scores = d.heat(x + 0.5, 452, [SOME_SCORES[:7]], 1, (17, 24), None)[0][3]
        d.arrow(number.bottom, first.top, label="look up a row")
        d.arrow(last.bottom, scores.top, label="compare with every row")
        d.label(x + 132, 464, "50,257 scores", INK)
    d.line((350, 70), (350, 518), color=LINE)
    d.label(
        MARGIN,
        546,
        f"A matrix has {VOCAB_SIZE} × {EMB_DIM} = {MATRIX:,} numbers. GPT-2 was trained with one",
    )
    d.label(MARGIN, 566, "for both ends; the model of section 4.6 has two.")
    return d


def one_token_per_round():
    """Three rounds. The model reads "The boat left" and appends "the"; the new token joins the
    input of the next round, in which the model appends "port", and then "when"."""
    d = Drawing("Each round appends one token", 404)
    x0, w, step = 96, 76, 82
    end = None
    for r in range(3):
        y = 76 + 100 * r
        d.label(MARGIN, y + 17, f"round {r + 1}", INK, bold=True)
        for i, piece in enumerate(STORY[: 3 + r]):
            look = {"color": FOCUS} if i >= 3 else {}
            chip = d.chip(x0 + i * step, y, piece, w=w, **look)
        if end:
            turns = (end.center[0], y - 33), (chip.center[0], y - 33)
            d.arrow(end.bottom, *turns, chip.top, color=FOCUS)
        model = d.box(524, y - 6, 56, 46, "GPT", MODEL, SMALL)
        d.arrow(chip.right, model.left)
        end = d.chip(600, y, STORY[3 + r], FOCUS, 72, strong=True)
        d.arrow(model.right, end.left, gap=2)
    looks = {"color": TEXT}, {"color": FOCUS, "strong": True}, {"color": FOCUS}
    names = "the beginning", "new token", "appended before"
    d.legend(x0, 344, zip(names, looks, strict=True))
    d.label(MARGIN, 378, "A made-up example of a trained model. · is the space before a word.")
    return d


def one_round():
    """The ids 15496, 11, 314, 716 of "Hello, I am" go into the model, which returns a row of 50,257
    scores for each. Only the last row counts: its highest score, 2.4972, stands at id 27018, the
    token " Feature", which is appended to the ids."""
    d = Drawing("Inside one round", 500)
    columns = [270, 340, 410, 504, 598]
    model = d.box(184, 112, 52, 152, "GPT", MODEL)
    for x, heading in [(58, "token"), (128, "id")]:
        d.label(x, 92, heading, INK, "middle", bold=True)
    for x, number in zip(columns, SHOWN_IDS, strict=True):
        d.label(x + 35, 92, str(number), INK, "middle")
    d.label(270, 70, "scores (logits), one column for each id", INK, bold=True)
    for r, (piece, number) in enumerate(zip(PROMPT["pieces"], PROMPT["ids"], strict=True)):
        y = 114 + 40 * r
        d.chip(MARGIN, y, piece, TEXT, 62, 28, SMALL)
        chip = d.chip(98, y, str(number), IDS, 62, 28, SMALL)
        d.arrow(chip.right, (model.x, chip.right[1]))
        d.arrow((model.x + model.w, chip.right[1]), (columns[0], chip.right[1]))
        for x, score in zip(columns, LOGITS[r], strict=True):
            d.heat(x, y, [[score]], 2.5, (70, 28), 4)
        for x in (492, 586):
            d.text(x, y + 14, "…", BODY)
    d.frame(columns[0] - 5, 229, columns[-1] + 75, 267)
    d.label(MARGIN, 292, "Only the last row counts:", INK, bold=True)
    d.label(MARGIN, 312, "it has seen the whole text")
    best = columns[3] + 35
    number = d.chip(best - 32, 320, "27018", IDS, 64, 30, SMALL, strong=True)
    d.arrow((best, 268), number.top)
    d.label(best - 14, 296, "argmax: where it is highest", INK, "end")
    d.arrow(number.right, d.chip(594, 320, "·Feature", TEXT, 78, 30, SMALL).left, gap=3)
    d.label(633, 366, "decoded", anchor="middle")
    for i, each in enumerate([*PROMPT["ids"], 27018]):
        chip = d.chip(best - 365 + 82 * i, 396, str(each), IDS, 74, 30, SMALL, strong=i == 4)
    d.arrow(number.bottom, chip.top)
    d.label(MARGIN, 402, "ids for the\nnext round", INK, bold=True)
    d.label(MARGIN, 452, "Softmax would make 2.4972 a probability, 0.0002, and keep the order of")
    d.label(MARGIN, 472, "the scores: argmax picks the same token without it.")
    return d


def six_rounds():
    """Six rounds from the prompt "Hello, I am". The ids 27018, 24086, 47843, 30961, 42348 and 7267
    are appended one by one; decoded, the text ends as "Hello, I am Featureiman Byeswickattribute
    argue"."""
    d = Drawing("Six rounds, six tokens, and no sense yet", 430)
    x0 = 200
    for x, heading in [(MARGIN, "round"), (108, "new id"), (x0, "text after the round")]:
        d.label(x, 78, heading, INK, bold=True)
    texts = accumulate(APPENDED["pieces"], initial="Hello, I am")
    rows = zip(texts, APPENDED["pieces"], APPENDED["ids"], strict=False)
    for r, (text, piece, number) in enumerate(rows):
        y = 98 + 46 * r
        d.text(50, y + 16, str(r + 1), BODY)
        chip = d.chip(96, y, str(number), IDS, 72, 32, SMALL)
        text = text.replace("·", " ")
        w = round(8.54 * len(text)) + 10
        before = d.chip(x0, y, text, TEXT, w, 32, SMALL)
        d.arrow(chip.right, before.left, gap=4)
        d.chip(x0 + w + 3, y, piece, FOCUS, round(8.54 * len(piece)) + 10, 32, SMALL, strong=True)
    d.label(MARGIN, 392, "The weights are random: this model has learned nothing. · is a space.")
    return d


# Tokens that the model runs in each of six rounds, without and with a cache
RUNS = [4, 5, 6, 7, 8, 9], [4, 1, 1, 1, 1, 1]


def cache_rows(d, y, cached):
    """Three rounds over the tokens so far: what is computed in each."""
    x0, step, w = 104, 85, 82
    pieces = [*PROMPT["pieces"], *APPENDED["pieces"]]
    for r in range(3):
        top = y + 40 * r
        d.label(MARGIN, top + 16, f"round {r + 1}", INK, bold=True)
        for i in range(4 + r):
            new = r == 0 or i == 3 + r
            look = {"color": MODEL} if new else {"color": KEYS} if cached else {"color": FOCUS}
            text = "computed" if new else "kept" if cached else "again"
            d.box(x0 + i * step, top, w, 32, text, size=SMALL, **look)
        d.label(x0 + 6 * step + 10, top + 16, f"runs {RUNS[cached][r]}", INK)
    return pieces[:6]


def kv_cache():
    """Rounds 1 to 3 over the tokens "Hello, I am Featureiman". Without a cache the model runs 4,
    then 5, then 6 tokens, all the earlier ones again. With a cache it runs 4, then 1, then 1: the
    keys and values of the earlier tokens are kept."""
    d = Drawing("A KV cache keeps what would be computed again", 512)
    for y, heading, about in [
        (138, "Without a cache", "all keys and values anew in every round"),
        (296, "With a cache", "keys and values of earlier tokens are kept"),
    ]:
        d.label(MARGIN, y, heading, INK, bold=True)
        d.label(MARGIN + 140, y, about)
        pieces = cache_rows(d, y + 18, heading == "With a cache")
    for i, piece in enumerate(pieces):
        d.chip(104 + 85 * i, 74, piece, TEXT, 82, 30, SMALL)
    d.label(MARGIN, 89, "tokens", INK, bold=True)
    plain, cached = map(sum, RUNS)
    total = f"run {plain} tokens without a cache, {cached} with one."
    d.label(MARGIN, 462, f"After six rounds the model has {total}")
    d.label(MARGIN, 484, "Causal attention allows it: a later token never changes an earlier key.")
    return d


DRAWINGS = {
    "01-roadmap": roadmap,
    "02-gpt-overview": gpt_overview,
    "03-shapes": shapes,
    "04-layer-norm": layer_norm,
    "05-feature-or-batch": feature_or_batch,
    "06-feed-forward": feed_forward,
    "07-expand-contract": expand_contract,
    "08-shortcuts": deep_network,
    "09-transformer-block": transformer_block,
    "10-pre-post-norm": pre_post_norm,
    "11-parameters": complete_gpt,
    "12-weight-tying": weight_tying,
    "13-one-token-per-round": one_token_per_round,
    "14-one-round": one_round,
    "15-six-rounds": six_rounds,
    "16-kv-cache": kv_cache,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
