"""Pictures of chapter 5's training at scale. Each function's docstring is its picture's alt text.

Numbers that are not computed here are compared by tests/test_images.py with what the scripts in
ch05/10_training-at-scale do.
"""

import hashlib
from math import e, exp, sin
from struct import pack

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    MODEL,
    SMALL,
    TEXT,
    VECTORS,
    WEIGHTS,
    WHITE,
    Box,
    Drawing,
    numbers,
    tint,
)

VOCAB_SIZE, FLOAT_BYTES = 50257, 4

# checkpoints.py: the files of a checkpoint and the names of two of them, the older one first
FILES = ("model.safetensors", "state.pt", "state.json")
OLD, NEW, DEFAULT_KEEP = 150, 200, 3


def undisturbed(x):
    """A loss that falls, sketched; x runs from 0 to 1."""
    return 0.34 + 0.66 * exp(-3.5 * x)


STOP = 0.5  # where the sketched runs are killed, and go on without one part
RESUMED = [
    lambda x: undisturbed(x - STOP),
    lambda x: undisturbed(x) + 0.26 * e * 9 * (x - STOP) * exp(-9 * (x - STOP)),
    lambda x: undisturbed(x) + 0.3 * (x - STOP),
    lambda x: undisturbed(x) - 0.22,
    lambda x: undisturbed(x) + 0.05 * sin(50 * (x - STOP)),
]


def what_to_save():
    """Five parts of a run. Without the weights the resumed loss jumps back to where it began;
    without the averages it is too high for a while; without the schedule it follows another curve;
    without the place in the data it is too low, on texts seen before; without the random state it
    differs a little. Here the last three follow from the step, one number in state.json."""
    d = Drawing("Leave one part out, and the curve shows it", 548)
    w, step = 120, 131
    columns = [MARGIN + step * i for i in range(5)]
    d.label(MARGIN, 76, "files of a checkpoint", INK, bold=True)
    for x, width, text, look in [
        (columns[0], 154, FILES[0], {"color": MODEL}),
        (columns[1] + 31, 89, FILES[1], {"color": IDS, "strong": True}),
        (columns[2], 382, f"{FILES[2]}: step", {"color": LINE, "strong": True}),
    ]:
        d.chip(x, 92, text, w=width, size=SMALL, **look)
    parts = [
        ("weights", {"color": MODEL}, "back to the\nfirst loss"),
        ("averages\nof AdamW", {"color": IDS, "strong": True}, "too high\nfor a while"),
        ("schedule:\nlearning rate", {}, "another rate,\nanother curve"),
        ("data: which\nbatch is next", {}, "texts seen\nbefore: too low"),
        ("random state:\ndropout", {}, "other dropout:\na little off"),
    ]
    for x, (name, look, about), resumed in zip(columns, parts, RESUMED, strict=True):
        box = d.box(x, 158, w, 54, name, size=SMALL, **look)
        d.arrow((box.center[0], 126), box.top, gap=4)
        d.label(box.center[0], 384, about, INK, "middle")
        sketch(d, Box(x, 256, w, 110), resumed)
    d.label(MARGIN, 236, "the loss of a run that goes on without it", INK, bold=True)
    for x, text, look in [
        (MARGIN, "until the kill", {"color": VECTORS, "width": 3}),
        (212, "goes on without it", {"color": FOCUS, "width": 3}),
        (430, "goes on undisturbed", {"dashed": True}),
    ]:
        d.line((x, 440), (x + 32, 440), **look)
        d.label(x + 42, 440, text, INK)
    for y, text in [
        (476, "Sketches, not measurements. The learning rate, the order of the data and the"),
        (496, "random numbers of a step are functions of its number here. So weights, averages"),
        (516, "and step are enough to go on bit for bit."),
    ]:
        d.label(MARGIN, y, text)
    return d


def sketch(d, panel, resumed):
    """A run's loss, how it goes on, and how it would have gone on."""
    d.rect(panel, WHITE, LINE, radius=8)

    def curve(loss, start, stop):
        shares = [start + (stop - start) * k / 40 for k in range(41)]
        return [
            (panel.x + 8 + (panel.w - 16) * x, panel.y + panel.h - 6 - 96 * loss(x)) for x in shares
        ]

    before = curve(undisturbed, 0, STOP)
    d.line(before[-1], *curve(resumed, STOP, 1), color=FOCUS, width=3)
    d.line(*curve(undisturbed, STOP, 1), dashed=True)
    d.line(*before, color=VECTORS, width=3)


# Three kills: their places in the picture, and the step that the run goes on from
KILLS = [(320, OLD), (516, NEW), (580, NEW)]


def atomic_write():
    """Time line of three names. step-000150 is whole until its removal. .step-000200.unfinished
    grows meanwhile, then one rename makes step-000200 of it, whole; only now step-000150 is
    removed. Killed while writing, the run goes on from step 150; killed after the rename, or while
    the old one is removed, from step 200. A whole checkpoint is always there."""
    d = Drawing("Kill it at any moment: a whole checkpoint is left", 500)
    old, new = (f"step-{step:06d}" for step in (OLD, NEW))
    start, begins, renamed, removal, removed, end = 246, 270, 474, 548, 604, 672
    whole, gone = {"color": IDS, "strong": True}, {"color": GREY, "dashed": True}
    d.label(MARGIN, 90, "the process is killed", FOCUS, bold=True)
    for number, (x, step) in enumerate(KILLS, 1):
        d.line((x, 110), (x, 338), color=FOCUS, dashed=True)
        for dy in (-7, 7):
            d.line((x - 7, 100 + dy), (x + 7, 100 - dy), color=FOCUS, width=3)
        d.label(x, 78, str(number), FOCUS, "middle", bold=True)
        d.chip(x - 28, 340, str(step), IDS, 56, 32, strong=True)
    rows = [(126, old), (196, f".{new}.unfinished"), (266, new)]
    for y, name in rows:
        d.text(MARGIN, y + 20, name, SMALL, INK, "start", mono=True)
    d.box(start, 126, removal - start, 40, **whole)
    d.box(removal, 126, removed - removal, 40, **gone)
    d.box(begins, 196, renamed - begins, 40, **gone)
    d.box(renamed, 266, end - renamed, 40, **whole)
    d.label(334, 146, "whole", INK)
    d.label(334, 216, "three files grow", INK)
    d.label(596, 286, "whole", INK)
    d.label(removed + 8, 146, "removed", INK)
    d.arrow((renamed, 236), (renamed, 266), gap=3)
    d.label(renamed - 12, 252, "one rename", INK, "end")
    d.label(MARGIN, 356, "goes on from step", INK, bold=True)
    d.arrow((start, 396), (end, 396), gap=0)
    d.label(start - 10, 396, "time", GREY, "end")
    for y, text in [
        (428, "All bytes are on the disk before the rename, which is done or not, never half."),
        (448, "Kill 3 leaves half of the old folder; the newer one counts. What is unfinished is"),
        (
            468,
            f"removed when the run goes on. Shown with keep = 1; the default keeps {DEFAULT_KEEP}.",
        ),
    ]:
        d.label(MARGIN, y, text)
    return d


# Two documents in GPT-2's tokens, each with <|endoftext|> at its end; "·" stands for a space.
# Windows 0 to 9 in random_order's order, with this seed, in two epochs
DOCUMENTS = [
    "The harbor was quiet before dawn. A single lamp burned at the end of the pier.",
    "Rain fell on the hills all night, and in the early morning the river was brown and very wide.",
]
ROW = [464, 25451, 373, 5897, 878, 17577, 13, 317, 2060, 20450, 11544, 379, 262, 886, 286, 262]
ROW += [17748, 13, 50256, 31443, 3214, 319, 262, 18639, 477, 1755, 11, 290, 287, 262, 1903, 3329]
ROW += [262, 7850, 373, 7586, 290, 845, 3094, 13, 50256]
END_OF_TEXT = 50256
SHARD_TOKENS, CONTEXT, BATCH, SEED = 22, 4, 2, 123
ACROSS = {"number": 5, "pieces": ["·fell", "·on", "·the", "·hills", "·all"]}
ORDERS = [[7, 1, 2, 5, 4, 3, 8, 9, 6, 0], [9, 7, 2, 0, 5, 3, 1, 8, 4, 6]]


def window(number):
    """The ids of a window and the one after it, CONTEXT + 1."""
    return ROW[number * CONTEXT : (number + 1) * CONTEXT + 1]


def manifest_rows():
    """Name, tokens, bytes and the beginning of the sha256 of each shard."""
    for number, start in enumerate(range(0, len(ROW), SHARD_TOKENS)):
        ids = ROW[start : start + SHARD_TOKENS]
        data = pack(f"<{len(ids)}H", *ids)
        name = f"train-{number:05d}.bin"
        yield name, len(ids), len(data), hashlib.sha256(data).hexdigest()[:12]


def shards():
    """A row of 41 tokens, two documents, in train-00000.bin with 22 and train-00001.bin with 19. It
    is cut into windows 0 to 9 of 5 tokens; a window's last token is the next one's first. Window 5
    lies in both files. Seed 123 gives the windows of epoch 0 in the order 7, 1, 2, 5, 4, 3, 8, 9,
    6, 0, in batches of 2; epoch 1 has another order. A manifest lists tokens and sha256."""
    d = Drawing("Shards: one long row of tokens, cut into windows", 668)
    break_ = 10
    cell = (644 - break_) / len(ROW)
    files = list(manifest_rows())

    def left(i):
        return MARGIN + i * cell + break_ * (i >= SHARD_TOKENS)

    for k, (name, tokens, _, _) in enumerate(files):
        middle = left(k * SHARD_TOKENS) + tokens * cell / 2
        d.label(middle, 78, f"{name}: {tokens} tokens", INK, "middle", bold=True)
    for i, number in enumerate(ROW):
        is_end = number == END_OF_TEXT
        d.rect(Box(left(i), 94, cell, 28), tint(FOCUS if is_end else IDS, 0.5), IDS)
    for k in range((len(ROW) - 1) // CONTEXT):
        first, last = k * CONTEXT, (k + 1) * CONTEXT
        x, strong = left(first) + 1, k == ACROSS["number"]
        y = 132 + 34 * (k % 2)
        d.box(x, y, left(last) + cell - 1 - x, 26, str(k), VECTORS, SMALL, strong=strong)
    d.label(
        MARGIN,
        214,
        f"windows of T + 1 = {CONTEXT + 1} tokens; the last one is the next window’s first",
        INK,
        bold=True,
    )
    d.box(MARGIN, 236, 20, 20, "", FOCUS, strong=True)
    d.label(MARGIN + 30, 246, "<|endoftext|>: here a document ends; a window may hold parts of two")
    draw_window(d, 130, 292)
    d.label(MARGIN, 428, f"order of the windows, seed {SEED}, batches of {BATCH}", INK, bold=True)
    for epoch, order in enumerate(ORDERS):
        y = 446 + 44 * epoch
        d.label(MARGIN, y + 18, f"epoch {epoch}")
        for k in range(0, len(order), BATCH):
            x = 110 + 114 * k / BATCH
            d.rect(Box(x, y, 100, 36), WHITE, LINE, radius=8)
            for i, number in enumerate(order[k : k + BATCH]):
                strong = number == ACROSS["number"]
                d.box(x + 5 + 48 * i, y + 5, 42, 26, str(number), VECTORS, SMALL, strong=strong)
    d.rect(Box(MARGIN, 546, 644, 94), WHITE, LINE, radius=8)
    heads = ["manifest.json", "tokens", "bytes", "sha256"]
    for x, text in zip((44, 232, 330, 420), heads, strict=True):
        d.label(x, 566, text, INK, bold=True)
    for r, (name, tokens, size, sha256) in enumerate(files):
        for x, text in zip((44, 232, 330, 420), (name, tokens, size, f"{sha256}…"), strict=True):
            d.text(x, 594 + 24 * r, str(text), SMALL, INK, "start", mono=True)
    return d


def draw_window(d, x, y):
    """The window that lies in two files: pieces and ids, inputs and targets."""
    d.label(MARGIN, y + 14, f"window {ACROSS['number']}", INK, bold=True)
    w, step = 92, 100
    border = SHARD_TOKENS - ACROSS["number"] * CONTEXT
    places = [x + step * i + 12 * (i >= border) for i in range(CONTEXT + 1)]
    pairs = zip(places, ACROSS["pieces"], window(ACROSS["number"]), strict=True)
    for place, piece, number in pairs:
        d.chip(place, y, piece, TEXT, w, 26, SMALL)
        d.chip(place, y + 28, str(number), IDS, w, 26, SMALL)
    middle = places[border] - 10
    d.line((middle, y - 12), (middle, y + 60), color=INK, dashed=True)
    for place, text, anchor in [
        (middle - 8, "end of train-00000.bin", "end"),
        (middle + 8, "beginning of train-00001.bin", "start"),
    ]:
        d.label(place, y - 14, text, anchor=anchor)
    for row, text in enumerate(("inputs", "targets")):
        at = y + 62 + 26 * row
        ends = (places[row], places[row + CONTEXT - 1] + w)
        d.line((ends[0], at), (ends[0], at + 8), (ends[1], at + 8), (ends[1], at))
        d.label(MARGIN, at + 4, text, INK)


# A model of two weights, loss ½ (x · w − y)², and a step of plain gradient descent
START_WEIGHTS, RATE = (0.5, 0.2), 0.1
EXAMPLES = [((1.0, 2.0), 0.5), ((3.0, 1.0), 1.9)]


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def gradient(weights, x, y):
    """Of ½ (x · w − y)² by the weights."""
    error = dot(x, weights) - y
    return [error * value for value in x]


def mean_and_update():
    """The mean of the processes' gradients, and the weights after the step."""
    gradients = [gradient(START_WEIGHTS, *example) for example in EXAMPLES]
    mean = [sum(parts) / len(parts) for parts in zip(*gradients, strict=True)]
    return mean, [w - RATE * g for w, g in zip(START_WEIGHTS, mean, strict=True)]


def two_processes():
    """Two processes have the same weights, 0.50 and 0.20, and different batches. Their gradients
    are 0.40, 0.80 and -0.60, -0.20. All-reduce gives both the mean, -0.10 and 0.30. Both subtract
    0.1 times the mean and have the same weights again: 0.51 and 0.17."""
    d = Drawing("Two processes: different batches, the same update", 628)
    mean, after = mean_and_update()
    middle = d.box(230, 366, 240, 76, color=FOCUS)
    d.label(350, 384, "all-reduce: the mean", INK, "middle", bold=True)
    d.matrix(278, 398, [numbers(mean)], WEIGHTS, (72, 30), (0,))
    for rank, (x_values, y) in enumerate(EXAMPLES):
        left = MARGIN + 332 * rank
        panel = Box(left, 64, 312, 272)
        d.rect(panel, WHITE, LINE, radius=10)
        d.label(panel.center[0], 84, f"process {rank}", INK, "middle", bold=True)
        prediction = dot(x_values, START_WEIGHTS)
        for k, (name, values, color) in enumerate(
            [
                ("weights w", START_WEIGHTS, MODEL),
                ("its batch: x", x_values, TEXT),
                ("target y", (y,), TEXT),
                ("x · w", (prediction,), LINE),
                ("error x · w − y", (prediction - y,), LINE),
                ("gradient: error × x", gradient(START_WEIGHTS, x_values, y), WEIGHTS),
            ]
        ):
            row = 104 + 38 * k
            d.label(left + 14, row + 15, name, INK)
            d.matrix(left + 158, row, [numbers(values)], color, (70, 30), (0,) if k == 5 else ())
        turn = left + (80 if rank == 0 else 232)
        inner = middle.left if rank == 0 else middle.right
        d.arrow((turn, 336), (turn, 390), (inner[0], 390), gap=4)
        result = Box(left, 476, 312, 56)
        d.rect(result, WHITE, LINE, radius=10)
        d.label(left + 14, 504, f"w − {RATE} × mean", INK)
        d.matrix(left + 158, 489, [numbers(after)], MODEL, (70, 30), (0,))
        d.arrow((inner[0], 418), (turn, 418), (turn, 476), gap=4)
    for y, text in [
        (558, "The loss is half the squared error. One process with both examples in its"),
        (578, "batch has the same mean and the same update. AdamW’s averages stay equal in"),
        (598, "both, too: they come from equal gradients."),
    ]:
        d.label(MARGIN, y, text)
    return d


TOKENS = 512  # 2 texts of 256
CHUNK, GPU_CHUNK = 256, 2048  # gpt_fast.py's CHUNK_TOKENS
MORE_TOKENS = (512, 2048, 8192)


def megabytes(tokens):
    """Size of the logits of some tokens, in float32."""
    return tokens * VOCAB_SIZE * FLOAT_BYTES / 1e6


def chunked_cross_entropy():
    """Left: all logits at once, 512 by 50,257, take 102.9 MB. Right: 256 tokens at a time take 51.5
    MB; of the first chunk only loss and gradients are kept, and its memory serves the second. Bars
    for 512, 2,048 and 8,192 tokens: all at once 102.9, 411.7 and 1,646.8 MB, one chunk always 51.5
    MB."""
    d = Drawing("Cross-entropy: all logits, or a chunk at a time", 618)
    whole = f"{TOKENS} × {VOCAB_SIZE:,}\nlogits\n{megabytes(TOKENS):.1f} MB"
    chunk = f"{CHUNK} × {VOCAB_SIZE:,}\nlogits, {megabytes(CHUNK):.1f} MB"
    for left, heading in [(MARGIN, "all at once"), (360, "a chunk at a time")]:
        d.rect(Box(left, 64, 312, 252), WHITE, LINE, radius=10)
        d.label(left + 156, 84, heading, INK, "middle", bold=True)
        d.label(left + 14, 112, "hidden", INK)
        d.label(left + 195, 112, "hidden @ weight.T", GREY, "middle")
    d.box(MARGIN + 14, 126, 44, 132, str(TOKENS), VECTORS, SMALL)
    all_logits = d.box(MARGIN + 92, 126, 206, 132, whole, WEIGHTS, SMALL, strong=True)
    d.arrow((MARGIN + 58, 192), all_logits.left, gap=4)
    d.arrow(all_logits.bottom, (all_logits.center[0], 284), gap=4)
    d.label(all_logits.center[0], 297, "loss; gradients later", INK, "middle", bold=True)
    for i in range(TOKENS // CHUNK):
        y = 126 + 68 * i
        d.box(374, y, 44, 64, str(CHUNK), VECTORS, SMALL)
        look = {"color": WEIGHTS, "strong": True} if i else {"color": GREY, "dashed": True}
        text = chunk if i else "the first chunk: done,\nits memory used again"
        box = d.box(452, y, 206, 64, text, size=SMALL, **look)
        d.arrow((418, y + 32), box.left, gap=4)
    d.arrow(box.bottom, (box.center[0], 284), gap=4)
    d.label(box.center[0], 297, "kept: loss, gradients", INK, "middle", bold=True)
    d.label(MARGIN, 348, "logits in memory", INK, bold=True)
    scale = 330 / megabytes(MORE_TOKENS[-1])
    for i, tokens in enumerate(MORE_TOKENS):
        y = 370 + 54 * i
        d.label(MARGIN, y + 18, f"{tokens:,} tokens", INK)
        for k, (count, about) in enumerate([(tokens, "all at once"), (CHUNK, "one chunk")]):
            at = y + 20 * k
            width = scale * megabytes(count)
            d.rect(Box(136, at, width, 16), tint(WEIGHTS, 0.22 if k else 0.8), WEIGHTS)
            d.label(136 + width + 10, at + 8, f"{megabytes(count):,.1f} MB {about}", INK)
    for y, text in [
        (548, f"hidden: a vector for each token. A logit takes {FLOAT_BYTES} bytes. On top come"),
        (568, "logarithms of probabilities and gradients, for all tokens or for one chunk."),
        (588, f"A chunk is {CHUNK} tokens on a CPU, {GPU_CHUNK:,} on a GPU. Bars to scale."),
    ]:
        d.label(MARGIN, y, text)
    return d


DRAWINGS = {
    "18-what-to-save": what_to_save,
    "19-atomic-write": atomic_write,
    "20-shards": shards,
    "21-two-processes": two_processes,
    "22-chunked-cross-entropy": chunked_cross_entropy,
}
