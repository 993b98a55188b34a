"""Pictures of appendix A. Each function's docstring is its picture's alt text.

The numbers are the appendix's own inputs and what follows from them; tests/test_images.py compares
them with PyTorch's.
"""

from itertools import pairwise
from math import exp, log

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    MODEL,
    SMALL,
    VECTORS,
    Box,
    Drawing,
    alt_text,
)

DATA = VECTORS  # rows of numbers
GRADIENT = FOCUS  # what flows back

# Section A.2.3: six numbers in memory, and how three tensors step through them
MEMORY = [1, 2, 3, 4, 5, 6]
READINGS = [
    ("tensor2d", (2, 3), (3, 1)),
    ("tensor2d.view(3, 2)", (3, 2), (2, 1)),
    ("tensor2d.T", (3, 2), (1, 3)),
]

# Sections A.3 and A.4
Y, X1, W1, B = 1.0, 1.1, 2.2, 0.0
Z = W1 * X1 + B
A = 1 / (1 + exp(-Z))
LOSS = -log(A)
GRADIENTS = {"a": -1 / A, "z": A - Y, "u": A - Y, "w1": (A - Y) * X1, "b": A - Y}

# Section A.5
SIZES = (50, 30, 20, 3)

# Section A.6: the rows, their labels, and the batches of the first pass, by row
ROWS = [(-1.2, 3.1), (-0.9, 2.9), (-0.5, 2.6), (2.3, -1.1), (2.7, -1.5)]
LABELS = [0, 0, 0, 1, 1]
BATCHES = [[3, 1], [0, 2], [4]]

# Section A.7: (w * x - y) ** 2 with these, and two steps
X, TARGET, WEIGHT, RATE = 1.0, 3.0, 1.0, 0.25

# Section A.9.3: the gradients of four examples, two in each process, and shares of five examples
EXAMPLE_GRADIENTS = [[-4, -2], [0, 2]]
SHARES = {1: [[0, 1, 2, 3, 4]], 2: [[0, 2, 4], [1, 3, 0]], 3: [[0, 3], [1, 4], [2, 0]]}


def signed(value, decimals=4):
    return f"{value:.{decimals}f}".replace("-", "−")


def read(shape, stride):
    """The rows that one sees who steps through the memory with this stride."""
    return [
        [str(MEMORY[r * stride[0] + c * stride[1]]) for c in range(shape[1])]
        for r in range(shape[0])
    ]


def tensors():
    """Four tensors. A scalar: 1, shape (). A vector: 1, 2, 3, shape (3). A matrix: rows 1, 2 and
    3, 4, shape (2, 2). A tensor of three dimensions: two matrices, 1 to 4 and 5 to 8, shape
    (2, 2, 2)."""
    d = Drawing("Tensors: numbers in any number of dimensions", 336)
    cell = (46, 34)
    columns = [
        (66, "scalar", "no dimension", "()", [[["1"]]]),
        (178, "vector", "1 dimension", "(3)", [[["1", "2", "3"]]]),
        (368, "matrix", "2 dimensions", "(2, 2)", [[["1", "2"], ["3", "4"]]]),
        (
            544,
            "3-D tensor",
            "3 dimensions",
            "(2, 2, 2)",
            [[["1", "2"], ["3", "4"]], [["5", "6"], ["7", "8"]]],
        ),
    ]
    for x, name, dimensions, shape, matrices in columns:
        middle = x + cell[0] * len(matrices[0][0]) / 2
        d.text(middle, 84, name, bold=True)
        for k, rows in enumerate(matrices):
            d.matrix(x, 108 + 86 * k, rows, DATA, cell)
        d.label(middle, 288, dimensions, INK, "middle")
        d.text(middle, 310, shape, SMALL, GREY, mono=True)
    return d


def copy_or_share():
    """ary3d and from_numpy(ary3d) point to the same eight numbers in memory, where 1 was replaced
    by 999. tensor(ary3d) points to eight numbers of its own, where 1 still stands."""
    d = Drawing("torch.from_numpy shares, torch.tensor copies", 336)
    d.label(MARGIN, 78, "name", INK, bold=True)
    d.label(340, 78, "memory", INK, bold=True)
    array = d.chip(MARGIN, 96, "ary3d", IDS, 250, 38, strong=True)
    shared = d.chip(MARGIN, 150, "torch.from_numpy(ary3d)", DATA, 250, 38, strong=True)
    copied = d.chip(MARGIN, 234, "torch.tensor(ary3d)", DATA, 250, 38, strong=True)
    rows = [
        (123, ["999", *"2345678"], array),
        (234, [*"12345678"], copied),
    ]
    for y, numbers, _ in rows:
        d.matrix(340, y, [numbers], LINE, (41, 38))
    d.frame(340, 123, 381, 161)
    d.arrow(array.right, (340, 134), gap=4)
    d.arrow(shared.right, (340, 152), gap=4)
    d.arrow(copied.right, (340, 253), gap=4)
    d.label(340, 184, "ary3d[0, 0, 0] = 999 wrote here", INK)
    d.label(MARGIN, 304, "One row of numbers serves two names: who writes to one changes both.")
    return d


def view_and_transpose():
    """The numbers 1 to 6 in a row in memory, and three tensors that read them. tensor2d, stride
    (3, 1): rows 1 2 3 and 4 5 6. view(3, 2), stride (2, 1): rows 1 2, 3 4, 5 6. T, stride (1, 3):
    rows 1 4, 2 5, 3 6, which from row to row jump about in memory."""
    d = Drawing("One row of numbers, three ways to step through it", 452)
    d.label(MARGIN, 92, "memory", INK, bold=True)
    d.matrix(130, 74, [[str(n) for n in MEMORY]], LINE, (46, 36))
    columns = [MARGIN, 262, 496]
    for x, (name, shape, stride) in zip(columns, READINGS, strict=True):
        d.text(x, 148, name, SMALL, INK, "start", bold=True, mono=True)
        d.matrix(x, 170, read(shape, stride), DATA, (46, 36))
        d.label(x, 304, f"shape {shape}", INK)
        d.label(x, 326, f"stride {stride}", INK)
    for y, text in [
        (368, "Stride (3, 1): 3 numbers on to the next row, 1 to the next column. T swaps the two"),
        (388, "and moves nothing. Read row by row it is 1 4 2 5 3 6, and no single step leads"),
        (408, "through memory in that order: T.view(6) is refused, T.reshape(6) copies."),
    ]:
        d.label(MARGIN, y, text)
    return d


def computation_graph():
    """Graph of a logistic regression. Forward: w1 2.2 times x1 1.1 is u 2.42, plus b 0.0 is z 2.42,
    its sigmoid is a 0.9183, the loss with y 1.0 is 0.0852. Back, as products of the factors along
    the way: -1.0889 at a, -0.0817 at z, u and b, -0.0898 at w1."""
    d = Drawing("Forward the values, backward the gradients", 480)
    d.label(MARGIN, 78, "forward", MODEL, bold=True)
    w, h = 104, 56
    xs = [MARGIN, 163, 298, 433, 568]

    def node(x, y, name, value, color, **look):
        return d.box(x, y, w, h, f"{name}\n{value}", color, SMALL, **look)

    w1 = node(xs[0], 100, "w1", f"{W1:g}", IDS, strong=True)
    x1 = node(xs[0], 172, "x1", f"{X1:g}", DATA)
    b = node(xs[1], 172, "b", f"{B:.1f}", IDS, strong=True)
    u = node(xs[1], 100, "u = w1 * x1", f"{W1 * X1:.2f}", LINE)
    z = node(xs[2], 100, "z = u + b", f"{Z:.2f}", LINE)
    a = node(xs[3], 100, "a = σ(z)", signed(A), LINE)
    loss = node(xs[4], 100, "loss", signed(LOSS), MODEL)
    y = node(xs[4], 172, "y", f"{Y:.1f}", DATA)
    for start, end in [(w1, u), (u, z), (z, a), (a, loss)]:
        d.arrow(start.right, end.left, gap=2)
    d.arrow(x1.right, (u.x, u.y + 48), gap=2)
    d.arrow(b.right, (z.x, z.y + 48), gap=2)
    d.arrow(y.top, loss.bottom, gap=2)

    d.label(MARGIN, 262, "backward: how much the loss grows per unit of each", GRADIENT, bold=True)
    back = {"color": GRADIENT}
    one = node(xs[4], 290, "loss", "1", **back)
    at_a = node(xs[3], 290, "a", signed(GRADIENTS["a"]), **back)
    at_z = node(xs[2], 290, "z", signed(GRADIENTS["z"]), **back)
    at_u = node(xs[1], 290, "u", signed(GRADIENTS["u"]), **back)
    at_w1 = node(xs[0], 290, "w1", signed(GRADIENTS["w1"]), strong=True, **back)
    at_b = node(xs[1], 372, "b", signed(GRADIENTS["b"]), strong=True, **back)
    for start, end in [(one, at_a), (at_a, at_z), (at_z, at_u), (at_u, at_w1)]:
        d.arrow(start.left, end.right, gap=2, color=GRADIENT)
    d.arrow((at_z.x, at_z.y + 48), at_b.right, gap=2, color=GRADIENT)
    for x, text in [(xs[0] + w / 2, f"of u × {X1:g}"), (xs[1] + w / 2, "of z × 1")]:
        d.label(x, 360, text, INK, "middle")
    d.label(xs[2] + w / 2, 360, f"of a × {A * (1 - A):.4f}", INK, "middle")
    d.label(xs[3] + w / 2, 360, f"−1 / {A:.4f}", INK, "middle")
    d.label(
        MARGIN, 452, "w1 and b are learned: only they need their gradients. Rounded to 4 decimals."
    )
    return d


def network():
    """A network: 50 inputs, two hidden layers of 30 and 20 units with a ReLU behind each, 3 logits.
    Each unit is connected to all units before it. The layers have 1,530, 620 and 63 parameters,
    2,213 in all."""
    d = Drawing("Two hidden layers, fully connected", 496)
    xs, shown = [90, 264, 438, 612], [5, 6, 5, 3]
    columns = [
        [(x, 206 + 36 * (k - (count - 1) / 2)) for k in range(count)]
        for x, count in zip(xs, shown, strict=True)
    ]
    for before, after in pairwise(columns):
        for start in before:
            for end in after:
                d.line(start, end, color=LINE, width=1)
    for column in columns:
        for x, y in column:
            d.dot(x, y)
    texts = [
        f"{SIZES[0]} inputs",
        f"{SIZES[1]} units,\nReLU",
        f"{SIZES[2]} units,\nReLU",
        f"{SIZES[3]} logits",
    ]
    for x, text in zip(xs, texts, strict=True):
        d.label(x, 332, text, INK, "middle", bold=True)
    for k, (before, after) in enumerate(pairwise(SIZES)):
        x = (xs[k] + xs[k + 1]) / 2
        d.label(
            x,
            386,
            f"{after} × {before} + {after}\n= {before * after + after:,}",
            INK,
            "middle",
        )
    total = sum(n * m + m for n, m in pairwise(SIZES))
    d.label(MARGIN, 446, f"Weights and biases of each layer: {total:,} parameters in all.")
    d.label(MARGIN, 466, "A dot of the first three columns stands for several units.")
    return d


def loader():
    """Left the dataset: rows 0 to 4 with two features and a label each. Right the batches of one
    pass in a shuffled order: rows 3 and 1, rows 0 and 2, row 4 alone."""
    d = Drawing("From rows to batches", 408)

    def table(x, y, rows):
        for k, row in enumerate(rows):
            d.label(x - 12, y + 34 * k + 17, str(row), GREY, "end")
            values = [signed(v, 1) for v in ROWS[row]]
            d.matrix(x, y + 34 * k, [values], DATA, (58, 34))
            d.matrix(x + 122, y + 34 * k, [[str(LABELS[row])]], IDS, (34, 34))

    d.text(62, 84, "ToyDataset", anchor="start", bold=True)
    d.label(62, 112, "features", INK)
    d.label(184, 112, "label", INK)
    table(62, 128, range(5))
    box = d.box(264, 182, 132, 62, "DataLoader\nshuffle=True", MODEL, SMALL)
    d.arrow((222, 213), box.left, gap=4)
    d.text(492, 84, "3 batches", anchor="start", bold=True)
    tops = [104, 196, 288]
    for y, rows in zip(tops, BATCHES, strict=True):
        table(492, y, rows)
        d.arrow(box.right, (468, y + 17 * len(rows)), gap=6)
    d.label(
        MARGIN,
        352,
        "Grey: the number of the row. Another pass has another order. With drop_last=True",
    )
    d.label(MARGIN, 372, "a batch that is not full, here the third, is left out.")
    return d


def workers():
    """Two time lines. Without a worker the main process loads a batch, trains, loads the next: six
    boxes in a row. With one worker, it loads batches one after the other while the main process
    trains on those before: done sooner."""
    d = Drawing("Loading beside training", 404)
    w, h, x0 = 84, 38, 128
    d.label(MARGIN, 80, "num_workers=0", INK, bold=True)
    d.label(MARGIN, 121, "main", INK)
    for k in range(3):
        d.box(x0 + 2 * k * w, 102, w, h, f"load {k + 1}", DATA, SMALL)
        d.box(x0 + (2 * k + 1) * w, 102, w, h, f"train {k + 1}", MODEL, SMALL)
    d.label(MARGIN, 184, "num_workers=1", INK, bold=True)
    d.label(MARGIN, 225, "worker", INK)
    d.label(MARGIN, 271, "main", INK)
    for k in range(3):
        d.box(x0 + k * w, 206, w, h, f"load {k + 1}", DATA, SMALL)
        d.box(x0 + (k + 1) * w, 252, w, h, f"train {k + 1}", MODEL, SMALL)
    d.box(x0, 252, w, h, "waits", GREY, SMALL, dashed=True)
    d.arrow((x0, 318), (x0 + 6 * w, 318), gap=0)
    d.label(x0 - 10, 318, "time", GREY, "end")
    d.label(
        MARGIN,
        356,
        "It pays if loading takes long. A worker is a process: starting it and handing over",
    )
    d.label(MARGIN, 376, "batches take time too, more than five rows in memory are worth.")
    return d


def training_step():
    """The four lines of a training step on one weight, twice. Weight 1, target 3: loss 4, gradient
    -4, at rate 0.25 the weight becomes 2. Then loss 1, gradient -2, weight 2.5. Without zero_grad
    the second gradient is -4 - 2 = -6 and the weight jumps to 3.5, past the target."""
    d = Drawing("One step of training: loss, gradient, weight", 486)
    first = 2 * X * (WEIGHT * X - TARGET)
    second_weight = WEIGHT - RATE * first
    second = 2 * X * (second_weight * X - TARGET)
    lines = [
        "loss = (w * x - y) ** 2",
        "optimizer.zero_grad()",
        "loss.backward()",
        "optimizer.step()",
    ]
    facts = [
        (f"loss {(WEIGHT - TARGET) ** 2:g}", f"loss {(second_weight - TARGET) ** 2:g}"),
        ("w.grad: none", "w.grad: none"),
        (f"w.grad {signed(first, 0)}", f"w.grad {signed(second, 0)}"),
        (f"w {second_weight:g}", f"w {second_weight - RATE * second:g}"),
    ]
    d.label(302, 82, "first step", INK, bold=True)
    d.label(302, 102, f"w {WEIGHT:g}")
    d.label(500, 82, "second step", INK, bold=True)
    d.label(500, 102, f"w {second_weight:g}")
    boxes = []
    for k, (line, (one, two)) in enumerate(zip(lines, facts, strict=True)):
        y = 122 + 60 * k
        boxes.append(d.box(MARGIN, y, 246, 40, line, MODEL, SMALL, mono=True))
        for x, text in ((302, one), (500, two)):
            color = {0: LINE, 1: LINE, 2: GRADIENT, 3: IDS}[k]
            d.box(x, y, 150, 40, text, color, SMALL, strong=k > 1)
    d.down(*boxes, gap=3)
    wrong = second_weight - RATE * (first + second)
    d.label(
        MARGIN,
        386,
        f"x = {X:g}, y = {TARGET:g}, learning rate {RATE:g}: the weight should become {TARGET:g}.",
        INK,
    )
    d.label(
        MARGIN,
        414,
        "backward() adds to w.grad. Without zero_grad() the second gradient would be",
    )
    d.label(
        MARGIN,
        434,
        f"{signed(first, 0)} {signed(second, 0).replace('−', '− ')} = {signed(first + second, 0)}, "
        f"and w would jump from {second_weight:g} to {wrong:g}, past the target.",
    )
    d.label(MARGIN, 454, "zero_grad() may stand anywhere after step() and before backward().")
    return d


def two_processes():
    """Two processes with equal copies of a network. Process 0 has examples with the gradients -4
    and -2, their mean is -3; process 1 has 0 and 2, mean 1. They exchange these, and both go on
    with the mean, -1, which is also the mean of all four. After the step the copies are equal."""
    d = Drawing("Equal copies, different data, one gradient", 520)
    means = [sum(pair) / len(pair) for pair in EXAMPLE_GRADIENTS]
    mean = sum(means) / len(means)
    xs, w = [60, 380], 260
    exchanged = Box(MARGIN, 318, 644, 52)
    for rank, (x, pair) in enumerate(zip(xs, EXAMPLE_GRADIENTS, strict=True)):
        middle = x + w / 2
        d.text(middle, 84, f"process {rank}", bold=True)
        copy = d.box(x, 104, w, 42, "copy of the network", MODEL)
        examples = [
            d.box(x + 136 * k, 178, 124, 44, f"example {2 * rank + k + 1}", DATA, SMALL)
            for k in range(2)
        ]
        d.arrow(copy.bottom, (middle, 176), gap=3)
        for example, value in zip(examples, pair, strict=True):
            d.label(example.center[0], 240, f"gradient {signed(value, 0)}", GRADIENT, "middle")
        own = d.box(
            x + 40, 258, w - 80, 38, f"mean {signed(means[rank], 0)}", GRADIENT, strong=True
        )
        d.arrow(own.bottom, (middle, exchanged.y), gap=3)
        update = d.box(x, 394, w, 42, "the same step", MODEL)
        d.arrow((middle, exchanged.y + exchanged.h), update.top, gap=3)
    d.box(*exchanged, f"all-reduce: mean of the means {signed(mean, 0)}", GRADIENT)
    d.label(
        MARGIN,
        466,
        "Both processes have equally many examples, so this is the mean of all four.",
    )
    d.label(MARGIN, 486, "Equal copies that take equal steps stay equal.")
    return d


def shares():
    """Five examples, 0 to 4. One process has them all. Of two, one has 0, 2, 4, the other 1, 3 and
    0 once more. Of three, they have 0 and 3, 1 and 4, 2 and 0 once more. In each case all processes
    have equally many."""
    d = Drawing("Equally many examples for every process", 466)
    y = 76
    for count, parts in SHARES.items():
        d.label(MARGIN, y + 18, f"{count} process{'es' if count > 1 else ''}", INK, bold=True)
        seen = set()
        for rank, part in enumerate(parts):
            if count > 1:
                d.label(256, y + 18, f"process {rank}", INK, "end")
            for k, example in enumerate(part):
                again = example in seen and rank == count - 1 and k == len(part) - 1
                look = {"color": FOCUS, "strong": True} if again else {"color": DATA}
                d.chip(276 + 56 * k, y, str(example), w=46, h=36, **look)
                seen.add(example)
            y += 44
        y += 14
    d.legend(520, 172, [("used twice", {"color": FOCUS, "strong": True})])
    d.label(
        MARGIN,
        y + 22,
        "Dealt out like cards. After each batch all wait for the gradients of all:",
    )
    d.label(MARGIN, y + 42, "with a batch more than the others, a process would wait in vain.")
    return d


DRAWINGS = {
    "01-tensors": tensors,
    "02-copy-or-share": copy_or_share,
    "03-view-and-transpose": view_and_transpose,
    "04-computation-graph": computation_graph,
    "05-network": network,
    "06-loader": loader,
    "07-workers": workers,
    "08-training-step": training_step,
    "09-two-processes": two_processes,
    "10-shares": shares,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
