"""Small SVG drawings in one style: boxes, chips, arrows, matrices, labels.

A drawing is 700 px wide and opaque, so it reads the same on light and dark pages. `y` grows
downwards. Every text is placed by its vertical middle. Text that could outgrow its box on a
machine with wide fonts raises `ValueError` while drawing.

Colors carry meaning and are the same in every picture: see the names below the palette.
"""

from itertools import chain, pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 700
MARGIN = 28

# Okabe and Ito's color-blind-safe palette
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
INK, GREY, LINE, WHITE, PAPER = "#1A1A1A", "#595959", "#B8B8B8", "#FFFFFF", "#FBFAF7"

TEXT, IDS, VECTORS, POSITIONS, MODEL, FOCUS = SKY, ORANGE, GREEN, PURPLE, BLUE, VERMILLION

# Inside attention there are no ids and no positions, so queries and keys take over their colors.
# Values are what the model computes from a vector; weights say where the focus lies. A context
# vector has the color of what it is mixed from.
QUERIES, KEYS, VALUES, WEIGHTS = ORANGE, PURPLE, BLUE, VERMILLION

# Type scale, in px
HEADLINE, BODY, SMALL = 20, 16, 14
SANS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
MONO = "Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

SHADES = (0.12, 0.22, 0.5, 0.8)


def tint(color, share=SHADES[1]):
    """Mix `share` of a color with white."""
    channels = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (c - 255) * share):02X}" for c in channels)


HEAT = tuple(tint(WEIGHTS, step / 20) for step in range(17))
HUES = (ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE, LINE)
PALETTE = {INK, GREY, LINE, WHITE, PAPER, *HUES, *HEAT}
PALETTE |= {tint(hue, share) for hue in HUES for share in SHADES}
NBSP = "\u00a0"


def text_width(text, size=BODY, bold=False, mono=False):
    """Width in px that no common font exceeds (measured against DejaVu, the widest)."""
    if mono:
        return 0.61 * size * len(text)
    ems = 0.0
    for c in text:
        if c in "fijlrtI.,:;'|!()[]- ":
            ems += 0.42
        elif c in "mwMW@%—":
            ems += 1.0
        elif c.isupper() or not c.isascii() or c in "+=<>&":
            ems += 0.84
        else:
            ems += 0.64
    return ems * size * (1.12 if bold else 1)


def num(value):
    """Write a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0:g}"


def numbers(values, decimals=2):
    """Texts of equal width: a non-breaking space stands where a minus would."""
    return [f"{'−' if v < 0 else NBSP}{abs(v):.{decimals}f}" for v in values]


def alt_text(draw):
    """A drawing's docstring on one line."""
    return " ".join(draw.__doc__.split())


def path(points):
    return "M" + " L".join(f"{num(x)} {num(y)}" for x, y in points)


class Box(NamedTuple):
    """A rectangle that arrows can start from and end at."""

    x: float
    y: float
    w: float
    h: float

    @property
    def center(self):
        return self.x + self.w / 2, self.y + self.h / 2

    @property
    def left(self):
        return self.x, self.y + self.h / 2

    @property
    def right(self):
        return self.x + self.w, self.y + self.h / 2

    @property
    def top(self):
        return self.x + self.w / 2, self.y

    @property
    def bottom(self):
        return self.x + self.w / 2, self.y + self.h


class Drawing:
    """One picture; the methods add to it from back to front."""

    def __init__(self, title, height, headline=HEADLINE):
        self.title, self.height, self.parts = title, height, []
        self.rect(Box(1, 1, WIDTH - 2, height - 2), PAPER, LINE, radius=14)
        self.text(MARGIN, 1.9 * headline, title, headline, bold=True, anchor="start")

    def svg(self, desc):
        """The file's text; `desc` says what the picture shows."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
                f'viewBox="0 0 {WIDTH} {self.height}" role="img" font-family="{SANS}">',
                f"<title>{escape(self.title)}</title>",
                f"<desc>{escape(desc)}</desc>",
                *self.parts,
                "</svg>\n",
            ]
        )

    def rect(self, box, fill, stroke, radius=0.0, dashed=False):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{num(box.x)}" y="{num(box.y)}" width="{num(box.w)}" height="{num(box.h)}" '
            f'rx="{num(radius)}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"{dash}/>'
        )

    def text(self, x, y, text, size=BODY, color=INK, anchor="middle", bold=False, mono=False):
        style = ' font-weight="bold"' if bold else ""
        style += f' font-family="{MONO}"' if mono else ""
        self.parts.append(
            f'<text x="{num(x)}" y="{num(y + 0.35 * size)}" font-size="{size}" fill="{color}" '
            f'text-anchor="{anchor}"{style}>{escape(text)}</text>'
        )

    def label(self, x, y, text, color=GREY, anchor="start", bold=False):
        """Loose small print; a line break starts a new line."""
        for i, line in enumerate(text.splitlines()):
            self.text(x, y + 20 * i, line, SMALL, color, anchor, bold)

    def inscribe(self, box, lines, size, color=INK, bold=False, mono=False):
        """Centered lines inside a box; refuses those that might not fit."""
        for i, line in enumerate(lines):
            if text_width(line, size, bold, mono) > box.w - 8:
                raise ValueError(f"{line!r} does not fit a box of {box.w} px")
            x, y = box.center
            y += 1.3 * size * (i - (len(lines) - 1) / 2)
            self.text(x, y, line, size, color, bold=bold, mono=mono)

    def box(
        self, x, y, w, h, text="", color=LINE, size=BODY, *, strong=False, dashed=False, **font
    ):
        """Rounded box with centered text. `strong` makes it stand out, `dashed` marks a gap."""
        box = Box(x, y, w, h)
        fill = color if color == MODEL else PAPER if dashed else tint(color, SHADES[1 + strong])
        self.rect(box, fill, color, radius=min(8, h / 5), dashed=dashed)
        ink = WHITE if color == MODEL else GREY if dashed else INK
        self.inscribe(box, text.splitlines(), size, ink, **font)
        return box

    def chip(self, x, y, text, color=TEXT, w=None, h=34, size=BODY, **look):
        """Token or id in fixed-width type, as wide as its text asks for."""
        w = w or round(text_width(text, size, mono=True)) + 14
        return self.box(x, y, w, h, text, color, size, mono=True, **look)

    def matrix(self, x, y, rows, color=VECTORS, cell=(56, 30), marked=()):
        """Grid of joined cells, `rows` of texts; rows in `marked` stand out. Rows of Boxes."""
        w, h = cell
        grid = []
        for r, row in enumerate(rows):
            grid.append([Box(x + c * w, y + r * h, w, h) for c in range(len(row))])
            for box, text in zip(grid[-1], row, strict=True):
                self.rect(box, tint(color, SHADES[2 if r in marked else 1]), color)
                self.inscribe(box, [text], SMALL, mono=True)
        return grid

    def heat(self, x, y, rows, peak=1.0, cell=(56, 30), decimals=2):
        """Grid of weights or scores, the darker the nearer to `peak`. Rows of Boxes.

        A text in place of a number stands in a dashed cell, for what is hidden. Without
        `decimals` the shades stand alone.
        """
        w, h = cell
        grid = [
            [Box(x + c * w, y + r * h, w, h) for c in range(len(row))] for r, row in enumerate(rows)
        ]
        cells = list(zip(chain(*grid), chain(*rows), strict=True))
        for box, value in cells:
            if isinstance(value, str):
                self.rect(box, PAPER, GREY, dashed=True)
                self.inscribe(box, value.splitlines(), SMALL, GREY, mono=True)
        for box, value in cells:
            if not isinstance(value, str):
                self.rect(box, HEAT[round(16 * min(max(value / peak, 0), 1))], WEIGHTS)
                text = "" if decimals is None else f"{value:.{decimals}f}".replace("-", "−")
                self.inscribe(box, text.splitlines(), SMALL, mono=True)
        return grid

    def vector(self, x, y, shades, cell=(22, 22)):
        """Row of numbers shown as shades (0 to 3), where their values do not matter."""
        w, h = cell
        for i, shade in enumerate(shades):
            self.rect(Box(x + i * w, y, w, h), tint(VECTORS, SHADES[shade]), VECTORS)
        return Box(x, y, len(shades) * w, h)

    def block(self, x, y, rows, columns, color, depth=0, share=SHADES[1]):
        """Tensor seen from the front; `depth` px show a third axis, `share` says how dark it is."""
        w, h = columns * 16, rows * 16
        for back in range(depth, 0, -8):
            self.rect(Box(x + back, y - back, w, h), tint(color, SHADES[2]), color)
        for r in range(rows):
            for c in range(columns):
                self.rect(Box(x + c * 16, y + r * 16, 16, 16), tint(color, share), color)
        return Box(x, y - depth, w + depth, h + depth)

    def line(self, *points, color=GREY, dashed=False, width=2.0):
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="{path(points)}" fill="none" stroke="{color}" '
            f'stroke-width="{num(width)}"{dash}/>'
        )

    def arrow(self, *points, label="", color=GREY, gap=5, dashed=False, width=2.0):
        """Arrow through the points, `gap` px away from both ends; the label is beside its start."""
        points = list(points)
        (x1, y1), (x2, y2) = points[:2]
        if y1 == y2:
            self.label((x1 + x2) / 2, y1 - 14, label, anchor="middle")
        else:
            self.label((x1 + x2) / 2 + 12, (y1 + y2) / 2, label)
        points[0] = towards(points[0], points[1], gap)
        points[-1] = tip = towards(points[-1], points[-2], gap)
        base = towards(tip, points[-2], max(10, 1.8 * width))
        dx, dy = (tip[0] - base[0]) * 0.5, (tip[1] - base[1]) * 0.5
        self.line(*points[:-1], base, color=color, dashed=dashed, width=width)
        corners = (tip, (base[0] - dy, base[1] + dx), (base[0] + dy, base[1] - dx))
        self.parts.append(f'<path d="{path(corners)} Z" fill="{color}"/>')

    def down(self, *boxes, **look):
        """Arrows from each box to the one below it."""
        for above, below in pairwise(boxes):
            self.arrow(above.bottom, below.top, **look)

    def frame(self, left, top, right, bottom, width=3.0):
        """Thick outline around what is to be noticed."""
        corners = (
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
            (left, top - width / 2),
        )
        self.line(*corners, color=INK, width=width)

    def bracket(self, start, end, text):
        """Bracket under a horizontal span or to the right of a vertical one, with its label."""
        (x1, y1), (x2, y2) = start, end
        if y1 == y2:
            self.line(start, (x1, y1 + 8), (x2, y2 + 8), end)
            self.label((x1 + x2) / 2, y1 + 24, text, anchor="middle")
        else:
            self.line(start, (x1 + 8, y1), (x2 + 8, y2), end)
            self.label(x1 + 20, (y1 + y2) / 2 - 10 * text.count("\n"), text)

    def legend(self, x, y, entries):
        """Row of small boxes with their meanings: pairs of a text and the box's look."""
        for text, look in entries:
            self.box(x, y - 10, 20, 20, **look)
            self.label(x + 30, y, text)
            x += 70 + text_width(text, SMALL)

    def dot(self, x, y):
        self.parts.append(f'<circle cx="{num(x)}" cy="{num(y)}" r="6" fill="{VECTORS}"/>')


def towards(start, end, distance):
    """The point `distance` px from `start` on the way to `end`."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    return start[0] + dx / length * distance, start[1] + dy / length * distance
