"""The two pictures of the front pages: drawn as SVG, kept as JPEG.

A phone shows them at half their size, so no text is smaller than 24 px. A JPEG's comment holds the
sha256 of its SVG: so `draw_all.py` finds the one that is out of date, and makes only that anew.

Making one needs Chromium, which is not a Python package, and playwright, which is in the extra
`dev`. Nothing else here does.
"""

import hashlib
import io
import shutil

from drawing import (
    FOCUS,
    GREY,
    IDS,
    LINE,
    MARGIN,
    MODEL,
    PAPER,
    TEXT,
    VECTORS,
    WHITE,
    WIDTH,
    Box,
    Drawing,
    alt_text,
)
from PIL import Image

LARGE, HUGE = 24, 39  # px; half of it on a phone
SCALE = 2.4  # 1680 px wide: sharp where a page shows it at 840 px on a fine screen
QUALITY = 90

# tiktoken.get_encoding("gpt2"); "·" stands for a space
PIECES, IDS_OF_PIECES = ["The", "·boat", "·left", "·the"], [464, 8848, 1364, 262]
NEXT = "port"

# Section 5.2 with the book's text: training loss at steps 0, 15, 25, 35, 40, 55, 65 and 75
STEPS = [0, 15, 25, 35, 40, 55, 65, 75]
LOSSES = [9.781, 5.961, 5.201, 4.069, 3.732, 2.104, 1.320, 0.717]


def cover():
    """Cover: "A companion to Build a Large Language Model (From Scratch)", notebooks and scripts,
    exercises and tests for a laptop, offline. Beside the title a model is being built: the tokens
    The, boat, left, the go into a stack of blocks, the topmost block is just being put on, and the
    token port comes out."""
    d = Drawing("A companion to", 500, headline=26)
    for i, line in enumerate(["Build a Large", "Language Model", "(From Scratch)"]):
        d.text(MARGIN, 108 + 54 * i, line, HUGE, bold=True, anchor="start")
    for i, line in enumerate(
        ["notebooks and scripts,", "exercises and tests", "for a laptop, offline"]
    ):
        d.text(MARGIN, 298 + 36 * i, line, LARGE, GREY, anchor="start")
    x, w = 430, 200
    out = d.chip(x + 50, 34, NEXT, FOCUS, w=100, h=44, size=LARGE, strong=True)
    top = d.box(x, 128, w, 54, "GPT block", VECTORS, LARGE, dashed=True)
    blocks = [d.box(x, 214 + 62 * i, w, 54, "GPT block", MODEL, LARGE) for i in range(3)]
    d.arrow(top.top, out.bottom, width=4)
    d.arrow(top.bottom, blocks[0].top, gap=2, width=4, color=FOCUS)
    left = 384
    for piece in PIECES:
        chip = d.chip(left, 430, piece.strip("·"), TEXT, h=42, size=LARGE)
        left = chip.right[0] + 10
    d.arrow((x + w / 2, 430), blocks[-1].bottom, width=4)
    return d


def mental_model():
    """The whole road, from top to bottom. Text: "The boat left the", chapter 2. Tokens, each with
    an id: 464, 8848, 1364, 262, chapter 2. Attention: each token looks back at those before it,
    chapter 3. GPT: a stack of blocks guesses the next token, port, chapter 4. Pretraining: as its
    guesses get better, the loss falls, chapter 5. Then the road forks: a classifier, chapter 6,
    takes "You won a prize!" for spam, and an assistant, chapter 7, answers "Opposite of hot?" with
    "Cold."."""
    d = Drawing("The road from text to an assistant", 1010, headline=28)
    rows = [104 + 124 * i for i in range(5)]
    names = ["Text", "Tokens", "Attention", "GPT", "Pretraining"]
    chapters = [2, 2, 3, 4, 5]
    stations = []
    for y, name, chapter in zip(rows, names, chapters, strict=True):
        color = MODEL if chapter > 3 else {"Text": TEXT, "Tokens": IDS}.get(name, VECTORS)
        stations.append(d.box(MARGIN, y, 190, 84, f"{name}\nchapter {chapter}", color, LARGE))
    d.down(*stations, width=4, gap=4)
    _examples(d, rows)
    last = stations[-1]
    classifier = d.box(MARGIN, 768, 312, 84, "Classifier\nchapter 6", MODEL, LARGE)
    assistant = d.box(360, 768, 312, 84, "Assistant\nchapter 7", MODEL, LARGE)
    d.arrow(last.bottom, (last.center[0], classifier.y), width=4, gap=4)
    turn, right = (last.bottom[1] + classifier.y) / 2, assistant.center[0]
    d.line((last.center[0], turn), (right, turn), (right, turn + 12), width=4)
    d.arrow((right, turn), assistant.top, width=4, gap=4)
    for box, question, answer in [
        (classifier, "“You won a prize!”", "spam"),
        (assistant, "“Opposite of hot?”", "“Cold.”"),
    ]:
        d.text(box.center[0], 886, question, LARGE)
        chip = d.chip(box.center[0] - 60, 930, answer, FOCUS, w=120, h=44, size=LARGE, strong=True)
        d.arrow((box.center[0], 900), chip.top, gap=3)
    return d


def _examples(d, rows):
    """What the five stations do, beside them."""
    x, w, h = 250, 120, 84
    d.text(x, rows[0] + 42, "“The boat left the”", LARGE, anchor="start")
    for i, number in enumerate(IDS_OF_PIECES):
        d.chip(x + 106 * i, rows[1] + 20, str(number), IDS, w=96, h=44, size=LARGE)
    shades = [[0.9], [0.5, 0.4], [0.2, 0.5, 0.2], [0.1, 0.4, 0.3, 0.1]]
    d.heat(x, rows[2], shades, cell=(w / 4, h / 4), decimals=None)
    for i in range(4):
        d.rect(Box(x, rows[3] + 22 * i, w, 18), MODEL, MODEL, radius=4)
    plot = Box(x, rows[4], w, h)
    d.rect(plot, WHITE, LINE)
    wide, tall = w / STEPS[-1], h / 11
    d.line(
        *((x + wide * s, rows[4] + h - tall * v) for s, v in zip(STEPS, LOSSES, strict=True)),
        color=FOCUS,
        width=4,
    )
    for y, lines in [
        (rows[2], ["each token looks", "back at those before"]),
        (rows[3], ["a stack of blocks", f"guesses: “{NEXT}”?"]),
        (rows[4], ["as its guesses get", "better, the loss falls"]),
    ]:
        for i, line in enumerate(lines):
            d.text(x + w + 18, y + 25 + 34 * i, line, LARGE, anchor="start")


DRAWINGS = {"cover": cover, "mental-model": mental_model}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}


def svgs():
    """{file name below images/: text of the SVG}."""
    return {f"{name}.jpg": draw().svg(ALT[name]) for name, draw in DRAWINGS.items()}


def stamp(svg):
    return f"sha256 of the SVG: {hashlib.sha256(svg.encode()).hexdigest()}".encode()


def outdated(images):
    """One line for each JPEG in the folder `images` that was not made from its SVG."""
    lines = []
    for name, svg in svgs().items():
        if not (images / name).exists():
            lines.append(f"missing: {name}")
        else:
            with Image.open(images / name) as picture:
                if picture.info.get("comment") != stamp(svg):
                    lines.append(f"out of date: {name}")
    return lines


def rendered(svg):
    """The SVG as Chromium shows it, a PIL image 1680 px wide.

    Raises:
        RuntimeError: this machine has no Chromium.
    """
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise RuntimeError("The front page's pictures need Chromium: install it, and draw again.")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(device_scale_factor=SCALE, viewport={"width": WIDTH, "height": 100})
        page.set_content(f'<body style="margin: 0; background: {PAPER}">{svg}</body>')
        png = page.locator("svg").screenshot()
        browser.close()
    return Image.open(io.BytesIO(png)).convert("RGB")


def redraw(images):
    """Make those JPEGs anew that are missing or out of date; their names."""
    names = [line.split(": ")[1] for line in outdated(images)]
    for name in names:
        svg = svgs()[name]
        rendered(svg).save(images / name, quality=QUALITY, optimize=True, comment=stamp(svg))
    return names
