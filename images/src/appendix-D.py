"""Pictures of appendix D. Each function's docstring is its picture's alt text.

The numbers are the appendix's own settings and what follows from them.
"""

from math import cos, hypot, pi, sin

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    MODEL,
    TEXT,
    VECTORS,
    WHITE,
    Box,
    Drawing,
    alt_text,
    tint,
)

QUESTION = TEXT  # as in chapter 5

# Sections D.1 and D.2: 9 batches in each of 15 epochs, and the learning rates between them
STEPS, WARMUP_STEPS = 9 * 15, 27
INITIAL_LR, PEAK_LR, MIN_LR = 0.0001, 0.01, 0.00001

# Section D.3: a gradient and its Euclidean norm, clipped to a norm of 1; and one that is shorter
GRADIENT, NORM = [[1, 2], [2, 4]], 5
CLIPPED, MAX_NORM = [[0.2, 0.4], [0.4, 0.8]], 1
SHORT, SHORT_NORM = [[0.3, 0.6], [0.6, 0.0]], 0.9


def rate(step):
    """Learning rate at a step from 0 on: up in a line, then down in half a cosine."""
    if step < WARMUP_STEPS:
        return INITIAL_LR + step * (PEAK_LR - INITIAL_LR) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)
    return MIN_LR + (PEAK_LR - MIN_LR) * 0.5 * (1 + cos(pi * progress))


def schedule():
    """Curve of the learning rate over 135 steps. It starts at initial_lr, 0.0001, rises in a
    straight line to the peak, 0.01, at step 27, the end of the warm-up, and falls from there in
    half a cosine, almost to min_lr, 0.00001, at the last step."""
    d = Drawing("The learning rate: warm-up, then half a cosine", 466)
    plot = Box(64, 100, 588, 270)
    wide, tall = plot.w / STEPS, 240 / PEAK_LR
    border, floor = plot.x + WARMUP_STEPS * wide, plot.y + plot.h
    d.rect(plot, WHITE, LINE)
    d.rect(Box(plot.x, plot.y, border - plot.x, plot.h), tint(IDS), LINE)
    points = [(plot.x + step * wide, floor - tall * rate(step)) for step in range(STEPS)]
    d.line(*points, color=MODEL, width=3)
    d.label(plot.x, 84, "learning rate", INK)
    d.label((plot.x + border) / 2, 120, "warm-up", INK, "middle", bold=True)
    d.label(border + 330, 120, "cosine decay", INK, "middle", bold=True)
    for step, text in (
        (0, "0"),
        (WARMUP_STEPS, f"{WARMUP_STEPS}: warmup_steps"),
        (STEPS, f"{STEPS} steps"),
    ):
        x = plot.x + step * wide
        d.line((x, floor), (x, floor + 6))
        d.label(x, floor + 20, text, INK, "end" if step == STEPS else "middle")
    d.arrow((border + 56, 118), points[WARMUP_STEPS], gap=8)
    d.label(border + 60, 118, f"peak {PEAK_LR}", INK)
    d.arrow((border + 16, 335), points[0], gap=8)
    d.label(border + 20, 330, f"initial_lr {INITIAL_LR}", INK)
    d.arrow((points[-1][0] - 26, 292), points[-1], gap=8)
    d.label(points[-1][0] - 8, 276, f"min_lr {MIN_LR:.5f}", INK, "end")
    d.label(
        MARGIN, 422, "To scale: initial_lr is 100 times smaller than the peak, min_lr 1000 times."
    )
    d.label(MARGIN, 442, "15 epochs of 9 batches are 135 steps, a fifth of them for the warm-up.")
    return d


def clipping():
    """A circle of radius 1. A gradient, 1, 2, 2, 4, is drawn as an arrow of length 5 and scaled
    back onto the circle: 0.2, 0.4, 0.4, 0.8, in the same direction, with the norm 1. A gradient of
    norm 0.9, which ends within the circle, stays as it is."""
    d = Drawing("Clipping keeps the direction and limits the length", 504)
    x0, y0, unit = 110, 346, 58
    turns = [k * pi / 36 for k in range(73)]
    d.rect(Box(MARGIN, 68, 404, 360), WHITE, LINE, radius=10)
    d.line(*((x0 + unit * cos(a), y0 + unit * sin(a)) for a in turns), color=FOCUS, dashed=True)
    d.label(x0 + unit + 14, y0 + 30, "length 1", FOCUS)

    def arrow(across, up, length, color):
        share = unit * length / hypot(across, up)
        d.arrow((x0, y0), (x0 + share * across, y0 - share * up), color=color, gap=0, width=4)

    arrow(4, 3, NORM, LINE)
    arrow(4, 3, MAX_NORM, MODEL)
    arrow(0, 1, SHORT_NORM, VECTORS)  # as far apart as the two gradients are: its cosine is 0.6
    d.label(314, 162, f"length {NORM}", GREY, "end")
    for y, heading, about, rows, color in [
        (98, "gradient", f"norm √(1 + 4 + 4 + 16) = {NORM}", GRADIENT, LINE),
        (222, "clipped", f"divided by {NORM}: norm {MAX_NORM}", CLIPPED, MODEL),
        (346, "a shorter one", f"norm {SHORT_NORM}: stays", SHORT, VECTORS),
    ]:
        d.label(452, y - 16, heading, INK, bold=True)
        d.matrix(452, y, [[f"{value:g}" for value in row] for row in rows], color, (52, 30))
        d.label(452, y + 76, about)
    d.label(
        MARGIN,
        458,
        "Four numbers are an arrow in four dimensions; this is the plane of both arrows,",
    )
    d.label(
        MARGIN, 478, "to scale. In training the gradients of all parameters together are one arrow."
    )
    return d


def loop_with_three():
    """Flow chart of one step. Gradients to zero; in the warm-up the rate rises in a line, after it
    the rate falls in half a cosine; loss; gradients; from the end of the warm-up on the gradients
    are clipped to norm 1; update of the weights; next batch."""
    d = Drawing("Where the three go in the training loop", 634)
    x, w, side, middle = 88, 240, 392, 208
    d.rect(Box(MARGIN, 66, 644, 490), WHITE, LINE, radius=12)
    d.label(side, 86, "for each batch of each epoch", INK, bold=True)
    new = {"color": FOCUS, "strong": True}
    zero = d.box(x, 84, w, 36, "gradients to zero", LINE)
    rising = d.box(x, 144, w, 36, "step < warmup_steps?", QUESTION)
    line = d.box(side, 136, w, 52, "warm-up: the rate\nrises in a line", **new)
    cosine = d.box(x, 208, w, 52, "decay: the rate falls\nin half a cosine", **new)
    loss = d.box(x, 302, w, 36, "loss of the batch", MODEL)
    gradients = d.box(x, 358, w, 36, "gradients", MODEL)
    risen = d.box(x, 414, w, 36, "step ≥ warmup_steps?", QUESTION)
    clip = d.box(side, 406, w, 52, "clipping: the gradients\nto norm 1 at most", **new)
    update = d.box(x, 506, w, 36, "update the weights", MODEL)
    d.down(zero, rising, cosine, loss, gradients, risen, update, gap=3)
    d.arrow(rising.right, line.left, label="yes")
    d.arrow(risen.right, clip.left, label="yes")
    d.label(middle + 12, 194, "no")
    d.label(middle + 12, 464, "no")
    d.arrow(line.bottom, (line.center[0], 278), (middle, 278), gap=3)
    d.arrow(clip.bottom, (clip.center[0], 486), (middle, 486), gap=3)
    d.arrow(update.left, (56, 524), (56, 102), zero.left, gap=2)
    d.label(
        MARGIN,
        584,
        "Orange: what is new. The rate is set before the update that uses it; gradients",
    )
    d.label(MARGIN, 604, "are clipped when they are complete, from the end of the warm-up on.")
    return d


DRAWINGS = {
    "01-schedule": schedule,
    "02-clipping": clipping,
    "03-loop-with-three": loop_with_three,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
