"""Pictures of chapter 5's folders on loading. Each function's docstring is its picture's alt text.

Numbers are computed here from the small tables named below; tests/test_images.py computes them
again with PyTorch.
"""

from math import exp

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    SMALL,
    VECTORS,
    WEIGHTS,
    Drawing,
    numbers,
)

OWN, PAGES = IDS, VECTORS  # memory of the process; pages of a mapped file


def five_ways():
    """The way of the bytes from a file to a model, five times. copied: into a second copy in
    memory, then into the model. mapped: the same by way of pages of the file. assigned: pages of
    the file are the model. one-by-one: a tensor at a time is copied into the model. gpt2: some rows
    at a time are turned and copied into the model."""
    d = Drawing("Five ways from the file to the model", 576)
    file_x, between_x, model_x, w, h = 150, 318, 520, 150, 56
    for x, width, text in [
        (file_x, 104, "file on the disk"),
        (between_x, w, "on the way"),
        (model_x, w, "the model"),
    ]:
        d.label(x + width / 2, 76, text, INK, "middle", bold=True)
    ways = [
        ("copied", "model.pth", "all of it,\na second copy", (w, h), OWN, OWN),
        ("mapped", "model.pth", "all of it,\npages of the file", (w, h), PAGES, OWN),
        ("assigned", "model.pth", "", None, PAGES, PAGES),
        ("one-by-one", "model.\nsafetensors", "one tensor", (98, 30), PAGES, OWN),
        ("gpt2", "gpt2.\nsafetensors", "rows", (62, 30), PAGES, OWN),
    ]
    for i, (name, file, text, size, color, model_color) in enumerate(ways):
        y = 96 + 82 * i
        middle = y + h / 2
        d.text(MARGIN, middle, name, SMALL, INK, "start", bold=True, mono=True)
        source = d.box(file_x, y, 104, h, file, LINE, SMALL)
        about = "parameters" if model_color == OWN else "the file’s pages\nas parameters"
        model = d.box(model_x, y, w, h, about, model_color, SMALL, strong=model_color == OWN)
        if size is None:
            d.arrow(source.right, model.left, gap=4, dashed=True)
            d.label(between_x + w / 2, middle - 14, "read when used", GREY, "middle")
            continue
        bw, bh = size
        x = between_x + (w - bw) / 2
        box = d.box(x, middle - bh / 2, bw, bh, text, color, SMALL, strong=color == OWN)
        d.arrow(source.right, box.left, gap=4)
        d.arrow(box.right, model.left, gap=4)
    d.label(between_x + w / 2, 96 + 82 * 4 + 54, "turned, and let go of", GREY, "middle")
    d.legend(
        MARGIN,
        526,
        [
            ("memory of the process", {"color": OWN, "strong": True}),
            ("pages of the file: can be taken back", {"color": PAGES}),
        ],
    )
    d.label(MARGIN, 554, "Whatever is on the way or in the model at the same moment adds up.")
    return d


HEAD, H = [(2.0, 0.0), (0.0, 1.0), (1.0, -2.0)], (1.0, 2.0)


def grown(rows):
    """The rows and their mean."""
    return [*rows, tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))]


def logits_of(rows):
    return [sum(a * b for a, b in zip(row, H, strict=True)) for row in rows]


def probabilities_of(rows):
    powers = [exp(logit) for logit in logits_of(rows)]
    return [power / sum(powers) for power in powers]


def grown_tables():
    """A head of three rows, 2.00 0.00, 0.00 1.00 and 1.00 −2.00, and h, 1.00 2.00, have the logits
    2.00, 2.00 and −3.00. A fourth row, the mean of the three, 1.00 −0.33, has the logit 0.33, the
    mean of the three logits. Old rows and old logits stay. Probabilities were 0.50, 0.50 and 0.00,
    and are 0.46, 0.46, 0.00 and 0.09."""
    d = Drawing("A new row: old rows and old logits stay", 424)
    cell = (58, 32)
    for left, heading, rows in [(MARGIN, "before", HEAD), (366, "after", grown(HEAD))]:
        d.label(left, 80, heading, INK, bold=True)
        new = range(len(HEAD), len(rows))
        values = [
            [numbers(row) for row in rows],
            [numbers([logit]) for logit in logits_of(rows)],
            [numbers([share]) for share in probabilities_of(rows)],
        ]
        for name, texts, x, color in zip(
            ("rows", "logits", "probabilities"),
            values,
            (0, 140, 234),
            (IDS, WEIGHTS, LINE),
            strict=True,
        ):
            d.label(left + x + len(texts[0]) * cell[0] / 2, 112, name, INK, "middle")
            d.matrix(left + x, 128, texts, color, cell, new)
        d.arrow((left + 116, 128 + 16 * len(rows)), (left + 140, 128 + 16 * len(rows)), gap=3)
    d.label(MARGIN, 292, "h", INK)
    d.matrix(MARGIN + 28, 276, [numbers(H)], VECTORS, cell)
    d.label(MARGIN + 28, 328, "a logit is the product of a row with h")
    d.frame(366, 224, 482, 256)
    d.label(366, 292, "new row: mean of the others", FOCUS, bold=True)
    for y, text in [
        (370, "A product with a mean is the mean of the products: so is the new logit. The old"),
        (390, "probabilities shrink by what the new token takes, never more than its equal share."),
    ]:
        d.label(MARGIN, y, text)
    return d


DRAWINGS = {"25-five-ways-to-load": five_ways, "26-grown-tables": grown_tables}
