"""Pictures of chapter 5's pocket model. Each function's docstring is its picture's alt text.

tests/test_images.py compares the ids with companion/data/pocket.safetensors.
"""

from drawing import FOCUS, GREY, IDS, INK, LINE, MARGIN, SMALL, TEXT, VECTORS, Drawing

# The pieces of three lines, their ids in GPT-2's vocabulary and, if they have one, in the small one
LINES = [
    (("Tom", " has", " a", " ball", "."), (13787, 468, 257, 2613, 13), (7972, 294, 84, 2046, 8)),
    (("The", " wizard", " waves", "."), (464, 18731, 9813, 13), (290, None, 6280, 8)),
    (("It", " is", " fun", "."), (1026, 318, 1257, 13), (804, 145, 1002, 8)),
]
VOCAB_SIZE, NUM_IDS, WIDTH_OF_ROW = 50_257, 16_384, 256


def small_vocabulary():
    """Three lines as pieces and ids: "Tom has a ball.", "The wizard waves.", "It is fun." Every
    piece but "wizard" is among the 16,384 tokens used most, and has a second, smaller id: 13787
    becomes 7972. The line with the wizard is left out."""
    d = Drawing("From GPT-2’s ids to a smaller vocabulary", 388)
    left, w, step = 130, 92, 100
    for r, (pieces, ids, small) in enumerate(LINES):
        y = 70 + 104 * r
        is_out = None in small
        for text, dy in (("text", 0), ("GPT-2’s id", 30), ("small id", 60)):
            d.label(MARGIN, y + 13 + dy, text)
        for i, (piece, number, new) in enumerate(zip(pieces, ids, small, strict=True)):
            x = left + step * i
            d.chip(x, y, piece.replace(" ", "·"), TEXT, w, 26, SMALL)
            color = FOCUS if new is None else IDS
            d.chip(x, y + 30, str(number), color, w, 26, SMALL, strong=new is None)
            if is_out:
                d.box(x, y + 60, w, 26, "none" if new is None else "", LINE, SMALL, dashed=True)
            else:
                d.chip(x, y + 60, str(new), IDS, w, 26, SMALL)
        if is_out:
            d.label(left + step * len(ids) + 8, y + 73, "left out", INK, bold=True)
    return d


def grown_back():
    """Three tables of token vectors, 256 numbers wide. Training has 16,384 rows. The file has these
    and one more, the row of all tokens never met, and says whose rows they are. load_pocket makes
    50,257 rows of it: each trained row goes to its token's place, and the 33,873 places between
    them get copies of the last row."""
    d = Drawing("The table of tokens: trained, stored, loaded", 452)
    columns = [(60, "in training"), (290, "in the file"), (520, "load_pocket()")]
    w, top, h = 120, 108, 22
    for x, text in columns:
        d.label(x + w / 2, 80, text, INK, "middle", bold=True)
    trained = [VECTORS] * 6
    full = [VECTORS, FOCUS, FOCUS, VECTORS, VECTORS, FOCUS, VECTORS, FOCUS, VECTORS, FOCUS, VECTORS]
    tables = [trained, [*trained, FOCUS], full]
    for (x, _), rows in zip(columns, tables, strict=True):
        for i, color in enumerate(rows):
            d.box(x, top + i * (h + 2), w, h, "", color)
    for (x, _), count, rows in zip(
        columns, (NUM_IDS, NUM_IDS + 1, VOCAB_SIZE), tables, strict=True
    ):
        y = top + len(rows) * (h + 2) + 18
        d.label(x + w / 2, y, f"{count:,} rows", INK, "middle")
    y = top + 3 * (h + 2)
    d.arrow((180, y), (290, y))
    d.arrow((410, y), (520, y))
    d.legend(
        MARGIN,
        408,
        [
            ("a trained row", {"color": VECTORS}),
            ("the row of all tokens never met", {"color": FOCUS}),
        ],
    )
    d.label(
        MARGIN + 1, 434, f"Each row has {WIDTH_OF_ROW} numbers; drawn are a few of the rows.", GREY
    )
    return d


DRAWINGS = {"23-small-vocabulary": small_vocabulary, "24-grown-back": grown_back}
