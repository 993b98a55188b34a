"""Pictures of appendix E. Each function's docstring is its picture's alt text.

Grey is frozen, vermillion is trained.
"""

from drawing import FOCUS, INK, LINE, MARGIN, VECTORS, WHITE, Box, Drawing, alt_text

FROZEN, TRAINED = LINE, FOCUS

# Section E.1: a square matrix of the drawing, and one of GPT-2's small size
SIDE, RANK = 10, 2
GPT2_WIDTH, GPT2_RANK = 768, 16

# Section E.4: one input through a layer of rank 1, by hand
X = [3, 5]
A, B = [[1], [2]], [[1, 0, -1]]
ALPHA, HAND_RANK = 2, 1

# What the small model with two classes trains: numbers of A and B together, for each layer
WIDTH, CLASSES, BLOCKS = GPT2_WIDTH, 2, 12
LAYERS = {  # of one block: inputs, outputs
    "att.W_query": (WIDTH, WIDTH),
    "att.W_key": (WIDTH, WIDTH),
    "att.W_value": (WIDTH, WIDTH),
    "att.out_proj": (WIDTH, WIDTH),
    "ff.layers.0": (WIDTH, 4 * WIDTH),
    "ff.layers.2": (4 * WIDTH, WIDTH),
}
HEAD = (WIDTH, CLASSES)


def size(layer, rank=GPT2_RANK):
    """Numbers in A and B of a layer with these inputs and outputs."""
    inputs, outputs = layer
    return (inputs + outputs) * rank


def through_the_layer():
    """x A, x A B, and the scaled update."""
    narrow = [sum(x * row[0] for x, row in zip(X, A, strict=True))]
    wide = [narrow[0] * b for b in B[0]]
    return narrow, wide, [ALPHA // HAND_RANK * value for value in wide]


def full_and_low_rank():
    """Two ways to change a frozen matrix W of 10 rows and 10 columns. Above, plus a full update:
    another matrix as large, 100 numbers to train. Below, plus an update of rank 2: the product of
    A, 10 rows of 2 numbers, and B, 2 rows of 10, which are 40 numbers to train."""
    d = Drawing("A full update, and one of low rank", 516)
    side, thick, x = SIDE * 16, RANK * 16, 288
    for top in (76, 276):
        d.block(x - side - 80, top, SIDE, SIDE, FROZEN)
        d.text(x - 40, top + side / 2, "+", bold=True)
    d.block(x, 76, SIDE, SIDE, TRAINED)
    right = x + side + 20
    d.label(right, 136, "full update", INK, bold=True)
    d.label(right, 156, f"{SIDE} × {SIDE}:\n{SIDE * SIDE} numbers to train", INK)
    d.block(x, 276, SIDE, RANK, TRAINED)
    d.text(x + thick + 18, 276 + side / 2, "×", bold=True)
    right = x + thick + 36
    d.block(right, 276 + side / 2 - thick / 2, RANK, SIDE, TRAINED)
    d.label(right, 282, "update of rank 2", INK, bold=True)
    d.label(right, 302, f"A: {SIDE} × {RANK}, and B: {RANK} × {SIDE}:", INK)
    d.label(right, 322, f"{2 * RANK * SIDE} numbers to train", INK)
    d.label(right, 394, "Their product is 10 × 10,\neach row mixed from B's two.")
    d.label(
        MARGIN,
        472,
        "Grey: W, frozen. In GPT-2's small model most are 768 × 768. A full update of that",
    )
    full, low = GPT2_WIDTH**2, 2 * GPT2_WIDTH * GPT2_RANK
    d.label(MARGIN, 492, f"has {full:,} numbers, and one of rank {GPT2_RANK} has {low:,}.")
    return d


def layer_by_hand():
    """One input through an update of rank 1: x, 3 and 5, times A, 1 over 2, is 13. Times B, 1, 0
    and −1, it is 13, 0 and −13. Times alpha over rank, 2 over 1, the update of the layer's output
    is 26, 0 and −26."""
    d = Drawing("Through a LoRA layer: narrow, wide, scaled", 330)
    narrow, wide, scaled = through_the_layer()

    def texts(row):
        return [str(value).replace("-", "−") for value in row]

    cell, y = (44, 34), 130
    d.label(MARGIN, y - 26, "x", INK, bold=True)
    x = d.matrix(MARGIN, y, [texts(X)], VECTORS, cell)[0][-1]
    a = d.matrix(MARGIN + 144, y - 17, [texts(row) for row in A], TRAINED, cell)
    d.label(a[0][0].x, y - 43, "A", INK, bold=True)
    n = d.matrix(MARGIN + 244, y, [texts(narrow)], VECTORS, cell)[0][0]
    d.label(n.x, y - 26, "x A", INK, bold=True)
    b = d.matrix(MARGIN + 344, y, [texts(row) for row in B], TRAINED, cell)
    d.label(b[0][0].x, y - 26, "B", INK, bold=True)
    w = d.matrix(MARGIN + 512, y, [texts(wide)], VECTORS, cell)
    d.label(w[0][0].x, y - 26, "x A B", INK, bold=True)
    mid = y + 17
    d.arrow(x.right, (a[0][0].x, mid))
    d.arrow((a[0][0].x + cell[0], mid), n.left)
    d.arrow(n.right, b[0][0].left)
    d.arrow(b[0][-1].right, w[0][0].left)
    s = d.matrix(w[0][0].x, y + 94, [texts(scaled)], VECTORS, cell)
    d.arrow(w[0][1].bottom, s[0][1].top)
    d.label(w[0][1].center[0] - 14, y + 62, f"× alpha / rank = {ALPHA} / {HAND_RANK}", anchor="end")
    d.label(s[0][0].x - 12, y + 111, "the update of the layer's output", INK, "end")
    d.label(MARGIN, 286, f"3 × {A[0][0]} + 5 × {A[1][0]} = {narrow[0]}. A makes the input narrow,")
    d.label(MARGIN, 306, "as many numbers as the rank, and B as wide as the layer's output.")
    return d


def beside_the_layer():
    """The input goes two ways. On the left through the linear layer, weight and bias, which are
    frozen; on the right through A, B and the factor alpha over rank, where A and B are trained.
    Both results have the width of the output and are added."""
    d = Drawing("A linear layer with its update beside it", 476)
    middle = 350
    x = d.box(middle - 70, 72, 140, 36, "input x", VECTORS)
    linear = d.box(90, 196, 200, 76, "linear\nweight and bias", FROZEN)
    d.label(90, 180, "frozen", INK, bold=True)
    a = d.box(450, 156, 120, 40, "A", TRAINED)
    b = d.box(400, 226, 220, 40, "B", TRAINED)
    d.label(400, 140, "trained", INK, bold=True)
    out = d.box(middle - 70, 382, 140, 40, "sum", VECTORS)
    d.arrow(x.left, (190, 90), linear.top)
    d.arrow(x.right, (510, 90), a.top)
    d.down(a, b)
    d.label(524, 211, "as wide as the rank")
    d.label(524, 330, "× alpha / rank")
    d.arrow(linear.bottom, (190, 402), out.left)
    d.arrow(b.bottom, (510, 402), out.right)
    d.label(
        MARGIN,
        450,
        "B starts as zeros: before the training, the sum is what the linear layer gives.",
    )
    return d


def wrapped_model():
    """GPT-2's small model with two classes, from below: the tables of tokens and positions, 12
    blocks, the last normalization and the output head. Each of a block's six linear layers has an
    update of rank 16 beside it: four of attention with 24,576 numbers each, two of the feed-forward
    network with 61,440; the output head's has 12,320. Tables, normalizations and the layers' own
    weights are frozen. 73 layers, 2,666,528 numbers to train."""
    d = Drawing("Every linear layer of the model gets an update", 560)
    left, width, right = 60, 230, 330
    d.label(left, 78, "frozen", INK, bold=True)
    d.label(right, 78, "trained: numbers in A and B, rank 16", INK, bold=True)

    def row(y, name, layer=None, h=34):
        box = d.box(left, y, width, h, name, FROZEN, mono=True, size=14)
        if layer:
            beside = d.box(right, y, 150, h, f"{size(layer):,}", TRAINED)
            d.line(box.right, beside.left)
        return box

    row(98, "out_head", HEAD)
    row(140, "final_norm")
    d.rect(Box(40, 190, 520, 268), WHITE, LINE, radius=10)
    d.label(580, 324, "12 blocks", INK, bold=True)
    row(200, "norm1, norm2")
    for i, (name, layer) in enumerate(reversed(LAYERS.items())):
        row(240 + 36 * i, name, layer, h=30)
    row(470, "tok_emb, pos_emb")
    per_block = sum(map(size, LAYERS.values()))
    total = BLOCKS * per_block + size(HEAD)
    layers = BLOCKS * len(LAYERS) + 1
    d.label(
        MARGIN, 532, f"12 × {per_block:,} + {size(HEAD):,} = {total:,} numbers, in {layers} layers."
    )
    return d


DRAWINGS = {
    "01-full-and-low-rank": full_and_low_rank,
    "02-layer-by-hand": layer_by_hand,
    "03-beside-the-layer": beside_the_layer,
    "04-wrapped-model": wrapped_model,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
