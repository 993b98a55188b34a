"""Pictures of chapter 5. Each function's docstring is its picture's alt text.

The numbers are the chapter's own, computed by PyTorch with the seeds named below, or follow here
from the numbers that a picture shows. tests/test_images.py computes again what takes no more than
seconds.
"""

from itertools import pairwise
from math import exp, log

import pocket_model_pictures
import training_at_scale
import weight_loading_pictures
from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    KEYS,
    LINE,
    MARGIN,
    MODEL,
    PAPER,
    SMALL,
    TEXT,
    VECTORS,
    WEIGHTS,
    WHITE,
    Box,
    Drawing,
    alt_text,
    tint,
)

# What a model is trained on and what it is checked on; a question in a flow chart
TRAINING, VALIDATION, QUESTION = VECTORS, KEYS, TEXT

VOCAB_SIZE = 50257

# tiktoken.get_encoding("gpt2"): pieces and ids; "·" stands for a space. Section 5.1.1's prompt,
# and the two texts of section 5.1.2: all but the last token are inputs, all but the first targets
PROMPT = {"pieces": ["Every", "·effort", "·moves", "·you"], "ids": [6109, 3626, 6100, 345]}
TEXTS = [
    {"pieces": ["every", "·effort", "·moves", "·you"], "ids": [16833, 3626, 6100, 345]},
    {"pieces": ["I", "·really", "·like", "·chocolate"], "ids": [40, 1107, 588, 11311]},
]

# torch.manual_seed(123), GPTModel({**GPT_CONFIG_124M, "context_length": 256}).eval(): what it
# appends to the prompt; the likeliest token at each of the six positions; the probability of each
# target, its logarithm, the mean of these six, and exp() of the mean without its minus
APPENDED = {"pieces": ["·renting"], "ids": [34245]}
GUESSES = [
    {"pieces": ["·Armed", "·he", "Netflix"], "ids": [16657, 339, 42826]},
    {"pieces": ["·pressuring", "·empowered", "faith"], "ids": [49906, 29669, 41751]},
]
TARGET_PROBABILITIES = [7.454e-05, 3.106e-05, 1.156e-05, 1.034e-05, 5.678e-05, 4.756e-06]
TARGET_LOGARITHMS = [-9.5042, -10.3796, -11.3677, -11.4798, -9.7764, -12.2561]
UNTRAINED_LOSS, UNTRAINED_PERPLEXITY = 10.7940, 48725.8

# Section 5.3: the toy vocabulary with a logit for each of its words
TOY_LOGITS = {
    "closer": 4.51,
    "every": 0.89,
    "effort": -1.90,
    "forward": 6.75,
    "inches": 1.63,
    "moves": -1.62,
    "pizza": -1.89,
    "toward": 6.28,
    "you": 1.79,
}
TOP_K = 3


def softmax(logits, temperature=1.0):
    """Probabilities of a list of logits; minus infinity gives 0."""
    powers = [exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def top_words():
    """The three words with the largest logits, in the order of the vocabulary."""
    smallest = sorted(TOY_LOGITS.values())[-TOP_K]
    return [word for word, logit in TOY_LOGITS.items() if logit >= smallest]


def minus(text):
    """A number's text with a true minus sign."""
    return text.replace("-", "−")


def captioned(d, box, *lines):
    """A box's small heading, its name, and what it is about, inside it."""
    heading, name, about = lines
    x = box.center[0]
    d.label(x, box.y + 18, heading, GREY, "middle")
    d.label(x, box.y + 41, name, INK, "middle", bold=True)
    d.label(x, box.y + 67 + 20 * name.count("\n"), about, INK, "middle")


def roadmap():
    """Top: chapters 2 to 7; chapter 5, pretraining, is marked "you are here". Below: the GPT model
    with random weights and plain text go into training, which makes a pretrained model. A second
    way to it is to load GPT-2's published weights. Chapters 6 and 7 finetune it."""
    d = Drawing("Where we are, and what this chapter is for", 490)
    names = ("Text data", "Attention", "GPT model", "Pretraining", "Classifier", "Assistant")
    for i, name in enumerate(names):
        here = i == 3
        box = d.box(MARGIN + 108.4 * i, 68, 102, 52, color=TEXT if here else LINE, strong=here)
        d.label(box.center[0], 84, f"Chapter {i + 2}", INK if here else GREY, "middle")
        d.label(box.center[0], 105, name, INK, "middle", bold=True)
    here = MARGIN + 3 * 108.4 + 51
    d.line((MARGIN, 172), (MARGIN, 162), (672, 162), (672, 172))
    d.line((here, 122), (here, 162))
    d.label(here + 12, 141, "You are here", INK, bold=True)
    model = d.box(MARGIN, 186, 132, 116, color=LINE)
    captioned(d, model, "Chapter 4", "GPT model", "random weights,\nwrites nonsense")
    text = d.box(MARGIN, 322, 132, 116, color=LINE)
    captioned(d, text, "Chapter 2", "Plain text", "the next token\nis the answer")
    training = d.box(198, 186, 152, 116, color=TEXT)
    captioned(d, training, "Sections 5.1, 5.2", "Training", "many small steps\nto a lower loss")
    weights = d.box(198, 322, 152, 116, color=TEXT)
    captioned(d, weights, "Section 5.5", "GPT-2", "its published\nweights, loaded")
    trained = d.box(388, 222, 136, 180, color=TEXT, strong=True)
    captioned(
        d,
        trained,
        "Chapter 5",
        "Pretrained\nmodel",
        "continues texts;\n5.3 chooses\nthe tokens,\n5.4 saves it",
    )
    last = [d.box(562, y, 110, 92, color=LINE) for y in (214, 318)]
    for box, i, about in zip(last, (4, 5), ("sorts\nmessages", "follows\nrequests"), strict=True):
        d.label(box.center[0], box.y + 17, f"Chapter {i + 2}", GREY, "middle")
        d.label(box.center[0], box.y + 37, names[i], INK, "middle", bold=True)
        d.label(box.center[0], box.y + 59, about, INK, "middle")
        d.arrow((524, box.center[1]), box.left, gap=4)
    d.arrow(model.right, training.left, gap=4)
    d.arrow(text.right, (179, 380), (179, 266), (198, 266), gap=4)
    for box in (training, weights):
        d.arrow(box.right, (388, box.center[1]), gap=4)
    d.label(MARGIN, 464, "Training once on plain text serves both tasks that follow.")
    return d


def bars(d, x, floor, heights, w=14, marked=()):
    """Upright bars side by side on a floor."""
    for i, height in enumerate(heights):
        color = WEIGHTS if i in marked else LINE
        d.rect(Box(x + (w + 4) * i, floor - height, w, height), color, color)


def topics():
    """Five panels in order. Score: how likely is the real next token? Train: make it likelier, the
    loss falls. Choose: draw the next token. Save: write the weights to a file. Load: fill the model
    with GPT-2's weights."""
    d = Drawing("This chapter in five steps", 372)
    panels = [
        ("5.1", "Score", "how likely\nis the real\nnext token?"),
        ("5.2", "Train", "make it\nlikelier,\nbit by bit"),
        ("5.3", "Choose", "take the\nlikeliest, or\ndraw one"),
        ("5.4", "Save", "weights and\noptimizer\nin a file"),
        ("5.5", "Load", "GPT-2’s\nweights into\nour model"),
    ]
    w, step, y = 112, 133, 70
    for i, (section, name, about) in enumerate(panels):
        x = MARGIN + i * step
        panel = d.box(x, y, w, 252, color=TEXT)
        d.label(x + w / 2, y + 20, f"Section {section}", GREY, "middle")
        d.label(x + w / 2, y + 46, name, INK, "middle", bold=True)
        d.label(x + w / 2, y + 192, about, INK, "middle")
        d.rect(Box(x + 8, y + 66, w - 16, 102), WHITE, LINE, radius=6)
        if i:
            d.arrow((x - step + w, panel.center[1]), panel.left, gap=4)
    left = [MARGIN + i * step for i in range(5)]
    for x, marked, ink in ((left[0], 2, "real"), (left[2], 1, "drawn")):
        bars(d, x + 13, y + 136, (24, 36, 16, 52, 9), marked=(marked,))
        d.label(x + 20 + 18 * marked, y + 152, ink, FOCUS, "middle")
    curve = [(left[1] + 18 + 7.6 * k, y + 154 - 74 * 0.78**k) for k in range(11)]
    d.line(*curve, color=TRAINING, width=3)
    d.label(left[1] + 92, y + 92, "loss", INK, "end")
    for x, arrow in ((left[3], (106, 136)), (left[4], (136, 106))):
        d.box(x + 24, y + 76, 64, 30, "GPT", MODEL, SMALL)
        d.arrow((x + 56, y + arrow[0]), (x + 56, y + arrow[1]), gap=3)
        d.box(x + 24, y + 136, 64, 26, "file", LINE, SMALL)
    d.label(MARGIN, 348, "Training improves the very score that the first step measures.")
    return d


def text_ids_text():
    """ "Every effort moves you" becomes the ids 6109, 3626, 6100, 345, shape (1, 4). The GPT model
    makes 50,257 logits of each, shape (1, 4, 50257). The highest of the last row stands at id
    34245, which is appended, shape (1, 5). Decoded, the text has grown by " renting"."""
    d = Drawing("From text to ids, and from logits back to text", 608)
    x0, step, w = 170, 102, 94
    middles = [x0 + i * step + w / 2 for i in range(5)]
    wide = 3 * step + w
    text = d.box(x0, 70, wide, 34, "Every effort moves you", TEXT, mono=True)
    model = d.box(x0, 236, wide, 40, "GPT model", MODEL)
    for i, number in enumerate([*PROMPT["ids"], *APPENDED["ids"]]):
        new = i == 4
        chip = d.chip(x0 + i * step, 434, str(number), IDS, w, strong=new)
        d.arrow((middles[i], 468), (middles[i], 520), label="" if i else "decode", gap=4)
        if new:
            break
        first = d.chip(x0 + i * step, 154, str(number), IDS, w)
        d.arrow((middles[i], text.bottom[1]), first.top, label="" if i else "encode", gap=4)
        d.arrow(first.bottom, (middles[i], model.y), gap=4)
        d.arrow((middles[i], model.bottom[1]), (middles[i], 314), gap=4)
        scores = [((7 * column + 3 * i + 5) % 10 / 11 + 0.1) ** 2 for column in range(6)]
        d.heat(middles[i] - 45, 318, [scores], 1, (15, 28), None)
    d.frame(middles[3] - 50, 313, middles[3] + 50, 351)
    d.arrow((middles[3] + 52, 332), (middles[4], 332), (middles[4], chip.y), color=FOCUS)
    d.label(
        middles[4] - 12, 380, "argmax of the last row:\nwhere the logit is highest", FOCUS, "end"
    )
    d.box(x0, 520, wide, 34, "Every effort moves you", TEXT, mono=True)
    d.chip(x0 + 4 * step, 520, APPENDED["pieces"][0], FOCUS, w, strong=True)
    for y, name, shape in [
        (77, "text", ""),
        (161, "ids", "(1, 4)"),
        (246, "model", ""),
        (322, "logits", "(1, 4, 50257)"),
        (441, "ids", "(1, 5)"),
        (527, "text", ""),
    ]:
        d.label(MARGIN, y + (0 if shape else 10), name, INK, bold=True)
        d.label(MARGIN, y + 20, shape)
    d.label(MARGIN, 584, "One round of section 5.1.1. The weights are random: hence the odd word.")
    return d


# Probabilities over a toy vocabulary of seven words, after each of three tokens of "the boat left"
TOY_WORDS = ("boat", "left", "port", "rose", "sun", "the", "when")
TOY_INPUTS = ("the", "boat", "left")
TOY_ROWS = [
    [0.46, 0.03, 0.22, 0.05, 0.20, 0.01, 0.03],
    [0.02, 0.58, 0.04, 0.12, 0.02, 0.06, 0.16],
    [0.04, 0.02, 0.07, 0.02, 0.05, 0.61, 0.19],
]


def logits_to_tokens():
    """A toy vocabulary of seven words with ids 0 to 6. After "the", "boat" and "left" stands a row
    of seven probabilities each. The highest of each row is framed: 0.46 at id 0, 0.58 at id 1 and
    0.61 at id 5, which are the words "boat", "left" and "the"."""
    d = Drawing("From a row of probabilities to a word", 424)
    x0, w, h = 128, 54, 36
    for i, word in enumerate(TOY_WORDS):
        d.chip(x0 + w * i + 2, 76, word, TEXT, w - 4, 28, SMALL)
        d.chip(x0 + w * i + 2, 108, str(i), IDS, w - 4, 28, SMALL)
    d.label(MARGIN, 90, "vocabulary", INK, bold=True)
    d.label(MARGIN, 122, "ids", INK, bold=True)
    d.label(MARGIN, 168, "seen last", INK, bold=True)
    d.label(x0, 168, "probability of each word to come next", INK, bold=True)
    for x, heading in ((552, "id"), (626, "word")):
        d.label(x, 168, heading, INK, "middle", bold=True)
    for r, (seen, row) in enumerate(zip(TOY_INPUTS, TOY_ROWS, strict=True)):
        y = 190 + 56 * r
        best = max(range(7), key=row.__getitem__)
        d.chip(MARGIN, y, seen, TEXT, 70, h)
        d.heat(x0, y, [row], 0.7, (w, h))
        d.frame(x0 + w * best, y, x0 + w * (best + 1), y + h)
        number = d.chip(532, y, str(best), IDS, 40, h)
        word = d.chip(590, y, TOY_WORDS[best], FOCUS, 72, h, strong=True)
        d.arrow((x0 + 7 * w, y + h / 2), number.left, gap=4)
        d.arrow(number.right, word.left, gap=3)
    d.label(
        MARGIN, 372, "Each row is the softmax of the logits and adds up to 1. Framed: the argmax."
    )
    d.label(MARGIN, 394, "A made-up example of a trained model; GPT-2’s rows have 50,257 places.")
    return d


def inputs_targets():
    """Two texts of three tokens. Inputs "every effort moves", targets " effort moves you"; inputs
    "I really like", targets " really like chocolate": each target is the input one place to the
    right. The untrained model says " Armed he Netflix" and " pressuring empowered faith" instead.
    """
    d = Drawing("Targets are the inputs, one place further", 596)
    x0, step, w = 172, 172, 152
    for t, (text, guess) in enumerate(zip(TEXTS, GUESSES, strict=True)):
        rows = [
            ("inputs", "", text["pieces"][:-1], text["ids"][:-1], {"color": TEXT}),
            ("targets", "", text["pieces"][1:], text["ids"][1:], {"color": TEXT, "strong": True}),
            ("the model", "untrained", guess["pieces"], guess["ids"], {"color": FOCUS}),
        ]
        for r, (name, about, pieces, ids, look) in enumerate(rows):
            y = 72 + 246 * t + (0, 86, 160)[r]
            d.label(MARGIN, y + (14 if about else 24), name, INK, bold=True)
            d.label(MARGIN, y + 34, about)
            for i, (piece, number) in enumerate(zip(pieces, ids, strict=True)):
                chip = d.chip(x0 + step * i, y, piece, w=w, h=26, size=SMALL, **look)
                d.chip(x0 + step * i + 36, y + 27, str(number), IDS, 80, 22, SMALL)
                if r == 0 and i:
                    d.arrow((chip.center[0], y + 49), (chip.center[0] - step, y + 86), gap=4)
    d.line((MARGIN, 300), (672, 300), color=LINE)
    d.label(
        MARGIN, 552, "Arrows: the same token. Each target is what really comes after the tokens so"
    )
    d.label(MARGIN, 572, "far; the untrained model finds others more likely. · is a space.")
    return d


def loss_steps():
    """Logits become probabilities. The targets of both texts have the probabilities 7.454e-05,
    3.106e-05, 1.156e-05, 1.034e-05, 5.678e-05 and 4.756e-06; their logarithms are -9.5042,
    -10.3796, -11.3677, -11.4798, -9.7764 and -12.2561, with the mean -10.7940. Without the minus,
    10.7940, it is the loss."""
    d = Drawing("The loss, step by step", 560)
    x0, step, w = 134, 90, 88
    logits = d.box(x0, 70, 190, 36, "logits (2, 3, 50257)", WEIGHTS, SMALL)
    chances = d.box(446, 70, 226, 36, "probabilities (2, 3, 50257)", WEIGHTS, SMALL, strong=True)
    d.arrow(logits.right, chances.left, label="softmax")
    targets = [target for text in TEXTS for target in zip(text["pieces"], text["ids"], strict=True)]
    columns = targets[1:4] + targets[5:]
    d.arrow(chances.bottom, (chances.center[0], 146), gap=4)
    d.label(chances.center[0] - 14, 128, "look up each target’s", INK, "end")
    for i, (piece, number) in enumerate(columns):
        x = x0 + step * i
        d.label(x + w / 2, 162, piece.strip("·"), INK, "middle")
        d.chip(x, 178, str(number), IDS, w, 28, SMALL)
        chance = d.matrix(x, 244, [[f"{TARGET_PROBABILITIES[i]:.3e}"]], WEIGHTS, (w, 32), (0,))
        power = d.matrix(x, 324, [[minus(f"{TARGET_LOGARITHMS[i]:.4f}")]], LINE, (w, 32))
        d.arrow((x + w / 2, 206), chance[0][0].top, gap=4)
        d.arrow(chance[0][0].bottom, power[0][0].top, gap=4)
    d.bracket((x0, 362), (672, 362), "mean of the six")
    middle = (x0 + 672) / 2
    mean = d.box(middle - 60, 400, 120, 34, minus(f"{-UNTRAINED_LOSS:.4f}"), LINE, mono=True)
    loss = d.box(middle - 60, 470, 120, 36, f"{UNTRAINED_LOSS:.4f}", FOCUS, mono=True, strong=True)
    d.arrow(mean.bottom, loss.top, label="without the minus")
    for y, name, about in [
        (178, "targets", "of both texts"),
        (246, "probability", "of the target"),
        (326, "logarithm", "natural"),
        (484, "loss", ""),
    ]:
        d.label(MARGIN, y + (5 if about else 4), name, INK, bold=True)
        d.label(MARGIN, y + 25, about)
    d.label(
        MARGIN, 536, "7.454e-05 is 0.00007454. Were all targets certain, at 1, the loss would be 0."
    )
    return d


def cross_entropy():
    """The logits of two texts, shape (2, 3, V), are flattened to (6, V), and their targets, shape
    (2, 3), to (6,), so that each row has its target. The function F.cross_entropy takes both and
    returns 10.7940. Inside, it does softmax, logarithm, choice of the targets, mean and minus."""
    d = Drawing("F.cross_entropy does all these steps at once", 584)
    rows = [[((5 * c + 7 * r + c * r) % 11 / 12 + 0.05) ** 2 for c in range(7)] for r in range(6)]
    cell, flat = (18, 28), Box(262, 150, 126, 168)
    targets = [[str(number) for number in text["ids"][1:]] for text in TEXTS]
    for t in range(2):
        d.label(MARGIN, 106 + 112 * t, f"text {t + 1}")
        d.heat(MARGIN, 120 + 112 * t, rows[3 * t : 3 * t + 3], 1, cell, None)
    d.label(MARGIN, 82, "logits (2, 3, V)", INK, bold=True)
    d.heat(flat.x, flat.y, rows, 1, cell, None)
    d.label(flat.x, 134, "(6, V)", INK, bold=True)
    d.matrix(410, flat.y, [[number] for row in targets for number in row], IDS, (64, 28))
    d.label(410, 134, "(6,)", INK, bold=True)
    d.arrow((154, flat.center[1]), flat.left)
    d.label(208, flat.center[1] - 18, "flatten(0, 1)", INK, "middle")
    d.label(MARGIN, 356, "targets (2, 3)", INK, bold=True)
    d.matrix(MARGIN, 374, targets, IDS, (64, 28))
    d.arrow((220, 402), (442, 402), (442, 318))
    d.label(331, 388, "flatten()", INK, "middle")
    call = d.box(530, 190, 142, 88, "F.cross_\nentropy", MODEL, mono=True)
    d.arrow((474, 234), call.left)
    loss = d.box(541, 330, 120, 36, f"{UNTRAINED_LOSS:.4f}", FOCUS, mono=True, strong=True)
    d.arrow(call.bottom, loss.top, label="loss")
    d.label(MARGIN, 462, "inside F.cross_entropy", INK, bold=True)
    steps = (
        "softmax of\neach row",
        "logarithm",
        "only the\ntarget’s",
        "mean of\nall six",
        "without\nminus",
    )
    boxes = [
        d.box(MARGIN + 133 * i, 480, 112, 48, text, LINE, SMALL) for i, text in enumerate(steps)
    ]
    for left, right in pairwise(boxes):
        d.arrow(left.right, right.left, gap=4)
    d.label(
        MARGIN, 558, "V is the vocabulary, 50,257 logits in a row. Rows and targets stay in order."
    )
    return d


def fan(d, x, y, ends, width):
    """Lines from one point down to many, to choose among."""
    for end in ends:
        d.line((x, y), (end, y + 96), color=WEIGHTS, width=width)


def perplexity():
    """Three fans of equally likely choices. Among 2 the loss is 0.69, among 8 it is 2.08, among all
    50,257 tokens 10.82: the logarithm of their number, which is the perplexity. The untrained
    model, with a loss of 10.7940, has a perplexity of 48,726."""
    d = Drawing("Perplexity: as unsure as a choice among that many", 436)
    step, w = 222, 200
    for i, (n, shown) in enumerate([(2, 2), (8, 8), (VOCAB_SIZE, 49)]):
        x = MARGIN + i * step + w / 2
        gap = (72, 24, 4)[i]
        ends = [x + gap * (k - (shown - 1) / 2) for k in range(shown)]
        d.label(x, 80, f"{n:,} tokens", INK, "middle", bold=True)
        fan(d, x, 110, ends, 2 if i < 2 else 1)
        d.dot(x, 110)
        if i < 2:
            for end in ends:
                d.dot(end, 212)
        chance = (f"{1 / n:.2f}", f"{1 / n:.3f}", f"{1 / n:.5f}")[i]
        d.label(x, 244, f"probability of each {chance}", INK, "middle")
        d.label(x, 270, f"loss ln {n:,} = {log(n):.2f}", INK, "middle")
        d.box(x - 90, 290, 180, 36, f"perplexity {n:,}", FOCUS, strong=i == 2)
    d.label(MARGIN, 364, "perplexity = exp(loss)", INK, bold=True)
    d.label(
        MARGIN,
        388,
        f"The untrained model: loss {UNTRAINED_LOSS:.4f}, perplexity {UNTRAINED_PERPLEXITY:,.0f}."
        " It is as unsure as if nearly",
    )
    d.label(MARGIN, 408, "all tokens were equally likely. Not all 50,257 lines are drawn.")
    return d


# A toy text of 50 tokens: 45 to train on, 5 to check; windows of 4 tokens and batches of 2
# windows. The order of the 11 training windows is one that a shuffle might give.
TOY_TRAINING, TOY_VALIDATION, WINDOW = 45, 5, 4
SHUFFLED = (7, 2, 10, 5, 1, 9, 4, 11, 8, 3, 6)


def windows(tokens):
    """Number of windows whose targets, one place further, still lie within the tokens."""
    return len(range(0, tokens - WINDOW, WINDOW))


def split_and_batch():
    """A text of 50 tokens is cut: the first 90 percent to train on, the last 10 percent to check.
    Each part is cut into windows of 4, 11 and 1. Training windows are shuffled and go in batches
    of 2; the eleventh, alone, is left out. The one window for validation is kept."""
    d = Drawing("One text, two parts, windows, batches", 446)
    cell = 632 / (TOY_TRAINING + TOY_VALIDATION)
    border = 672 - TOY_VALIDATION * cell
    d.label(MARGIN, 80, "a text: 45 tokens for training, 5 for validation", INK, bold=True)
    for x, tokens, color in [
        (MARGIN, TOY_TRAINING, TRAINING),
        (border, TOY_VALIDATION, VALIDATION),
    ]:
        for i in range(tokens):
            d.rect(Box(x + i * cell, 98, cell, 28), tint(color), color)
        for i in range(windows(tokens)):
            left, right = x + i * WINDOW * cell + 2, x + (i + 1) * WINDOW * cell - 2
            d.line((left, 131), (left, 138), (right, 138), (right, 131))
            strip = d.box(left, 188, right - left, 28, str(i + 1), color, SMALL)
            d.arrow((strip.center[0], 140), strip.top, gap=3)
    d.label(MARGIN, 240, "windows of 4 tokens; the targets reach one token further", INK, bold=True)
    w = 4 * cell - 4
    for k in range(0, len(SHUFFLED), 2):
        pair, x = SHUFFLED[k : k + 2], MARGIN + 100 * k / 2
        alone = len(pair) == 1
        if not alone:
            d.rect(Box(x, 300, w + 16, 76), WHITE, LINE, radius=8)
        for i, number in enumerate(pair):
            look = {"color": GREY, "dashed": True} if alone else {"color": TRAINING}
            d.box(x + 8, 308 + 32 * i, w, 28, str(number), size=SMALL, **look)
    d.rect(Box(border + 2, 300, w + 16, 76), WHITE, LINE, radius=8)
    d.box(border + 10, 308, w, 28, "1", VALIDATION, SMALL)
    d.label(MARGIN, 280, "batches of 2 windows, shuffled", INK, bold=True)
    d.label(MARGIN + 500, 352, "left out", GREY)
    d.label(border + 2, 280, "in order", INK)
    d.label(
        MARGIN, 402, "Training leaves out a last batch that is incomplete; validation keeps it."
    )
    d.label(
        MARGIN, 422, "The real cut is made by characters, 90 to 10, before any tokens are counted."
    )
    d.line((border - 6, 68), (border - 6, 384), color=INK)
    return d


def training_loop():
    """Flow chart. For each epoch: dropout on; for each batch: set gradients to zero, compute the
    loss, go backward, update the weights, and every eval_freq steps evaluate on both parts. After
    the batches of an epoch the model writes a sample, and the next epoch begins."""
    d = Drawing("The training loop", 670)
    d.rect(Box(MARGIN, 64, 644, 536), WHITE, LINE, radius=12)
    d.rect(Box(62, 154, 594, 362), PAPER, LINE, radius=12)
    x, w = 132, 224
    for y, heading in ((88, "for each epoch"), (174, "for each batch of the epoch")):
        d.label(x + w + 24, y, heading, INK, bold=True)
    boxes = []
    for y, name, color, code in [
        (100, "dropout on", LINE, "model.train()"),
        (192, "gradients to zero", LINE, "optimizer.zero_grad()"),
        (248, "loss of the batch", MODEL, "calc_loss_batch(…)"),
        (304, "gradients", MODEL, "loss.backward()"),
        (360, "update the weights", MODEL, "optimizer.step()"),
        (416, "step 0, 5, 10, …?", QUESTION, "global_step % eval_freq == 0"),
        (472, "both losses", LINE, "evaluate_model(…)"),
        (548, "write a sample", LINE, "generate_and_print_sample(…)"),
    ]:
        boxes.append(d.box(x, y, w, 34, name, color))
        d.text(x + w + 24, y + 17, code, SMALL, GREY, "start", mono=True)
    d.down(*boxes[:7], gap=3)
    d.arrow((boxes[7].top[0], 516), boxes[7].top, gap=3)
    d.label(x + w / 2 + 12, 461, "yes")
    d.label(108, 420, "no", anchor="middle")
    d.label(x + w / 2 + 12, 532, "after the last batch")
    d.line(boxes[5].left, (88, 433))
    d.arrow(boxes[6].left, (88, 489), (88, 209), boxes[1].left, gap=2)
    d.arrow(boxes[7].left, (46, 565), (46, 117), boxes[0].left, gap=2)
    d.label(
        MARGIN, 626, "Blue: where the model learns. Only the training part is learned from; the"
    )
    d.label(MARGIN, 646, "validation part is for looking, in evaluate_model, without dropout.")
    return d


# The sample that gpt_train.py wrote in one run after 10 epochs, and what stands in its story
PROMPT_OF_SAMPLE, LEARNED_BY_HEART = "She knows the", "ledger in front of me. I meant it as a joke."


def overfitting():
    """Sketch of two losses over the epochs. The training loss falls towards 0; the validation loss
    falls, turns and rises. The gap between them is what does not carry over to new text. Below: the
    model goes on from "She knows the" with a line of the training story, word for word."""
    d = Drawing("Overfitting: a text learned by heart", 560)
    plot = Box(64, 92, 488, 250)
    d.rect(plot, WHITE, LINE)
    d.label(64, 78, "loss", INK)
    d.label(552, 360, "epochs", INK, "end")
    d.label(300, 112, "a sketch, not a measurement")

    def curve(value):
        share = [k / 40 for k in range(41)]
        return [(78 + 460 * x, 330 - 222 * value(x)) for x in share]

    training = curve(lambda x: exp(-3.4 * x) * (1 - 0.4 * x))
    validation = curve(lambda x: 0.5 + 0.5 * exp(-9 * x) + 0.22 * x**2)
    best = max(validation, key=lambda point: point[1])
    d.line((best[0], plot.y), (best[0], plot.y + plot.h), dashed=True)
    d.line(*training, color=TRAINING, width=3)
    d.line(*validation, color=VALIDATION, width=3, dashed=True)
    d.label(best[0] + 12, 238, "from here on it gets better\nonly at the training text", INK)
    end = training[-1][0] + 22
    d.bracket((end, validation[-1][1]), (end, training[-1][1]), "the gap:\noverfitting")
    d.label(end + 8, validation[-1][1] - 14, "validation", INK)
    d.label(end + 8, training[-1][1] + 12, "training", INK)
    w = round(0.61 * SMALL * len(PROMPT_OF_SAMPLE)) + 14
    for y, name, about, start in [
        (390, "the story", "to train on", "… with the"),
        (468, "the model", "goes on", PROMPT_OF_SAMPLE),
    ]:
        d.label(MARGIN, y + 8, name, INK, bold=True)
        d.label(MARGIN, y + 28, about)
        d.chip(122, y, start, TEXT, w, 36, SMALL)
        same = d.chip(122 + w + 4, y, LEARNED_BY_HEART, FOCUS, h=36, size=SMALL, strong=True)
        if y == 390:
            d.arrow(same.bottom, (same.center[0], 468), label="word for word")
    d.label(
        MARGIN,
        536,
        "The text is from one run, after 10 epochs on a short story; no line breaks shown.",
    )
    return d


def temperature():
    """The logits 4.51, 6.75 and 6.28 of "closer", "forward" and "toward", divided by three
    temperatures. At 0.1 the probabilities are 0.000, 0.991 and 0.009, at 1 they are 0.061, 0.578
    and 0.361, at 5 they are 0.251, 0.392 and 0.357. Bars show them."""
    d = Drawing("Temperature: from sure to even", 476)
    words = top_words()
    logits = [TOY_LOGITS[word] for word in words]
    floor, w = 378, 64
    for i, (degree, about) in enumerate([(0.1, "sharper"), (1.0, "unchanged"), (5.0, "flatter")]):
        x = MARGIN + 220 * i
        d.rect(Box(x, 68, 204, 346), WHITE, LINE, radius=10)
        d.label(x + 12, 90, f"temperature {degree:g}", INK, bold=True)
        d.label(x + 12, 112, f"logits ÷ {degree:g}: {about}")
        for k, (word, logit, share) in enumerate(
            zip(words, logits, softmax(logits, degree), strict=True)
        ):
            left = x + 6 + w * k
            cell = d.matrix(left + 2, 132, [[f"{logit / degree:.2f}"]], WEIGHTS, (60, 30))
            top = floor - 150 * share
            d.rect(Box(left + 12, top, 40, 150 * share), WEIGHTS, WEIGHTS)
            d.label(left + 32, top - 14, f"{share:.3f}", INK, "middle")
            d.label(left + 32, floor + 18, word, INK, "middle")
        d.line((x + 10, floor), (x + 194, floor), color=INK)
        d.arrow(cell[0][0].bottom, (cell[0][0].center[0], 200), gap=4)
        d.label(x + 150, 182, "softmax", GREY, "end")
    d.label(
        MARGIN, 436, "Dividing by a small number spreads the logits, and the likeliest takes all;"
    )
    d.label(
        MARGIN, 456, "a large one brings them together. Only these three words are in the choice."
    )
    return d


def top_k():
    """Nine words with their logits. Only the three largest, 4.51 of "closer", 6.75 of "forward" and
    6.28 of "toward", are kept; the other six become minus infinity. Softmax makes 0.061, 0.578 and
    0.361 of the three, and 0 of the others. One is drawn, in 58 of 100 cases "forward"."""
    d = Drawing("Top-k: draw among the k likeliest only, here 3", 526)
    kept = top_words()
    shares = dict(zip(kept, softmax([TOY_LOGITS[word] for word in kept]), strict=True))
    for x, heading in [(MARGIN, "word"), (136, "logit"), (296, "kept"), (456, "probability")]:
        d.label(x, 82, heading, INK, bold=True)
    d.label(254, 82, "top 3", anchor="middle")
    d.label(414, 82, "softmax", anchor="middle")
    for i, (word, logit) in enumerate(TOY_LOGITS.items()):
        y, is_kept = 102 + 40 * i, word in kept
        d.chip(MARGIN, y, word, TEXT, 84, 30, SMALL, strong=is_kept)
        first = d.heat(136, y, [[logit]], 9, (76, 30))[0][0]
        second = d.heat(296, y, [[logit if is_kept else "−∞"]], 9, (76, 30))[0][0]
        third = d.heat(456, y, [[shares.get(word, "0")]], 0.9, (76, 30), 3)[0][0]
        d.arrow(first.right, second.left)
        d.arrow(second.right, third.left)
        if is_kept:
            d.rect(Box(546, y + 5, 210 * shares[word], 20), WEIGHTS, WEIGHTS)
    d.label(
        MARGIN, 484, "Then one is drawn: “forward” in 58 of 100 draws, on average. The six others"
    )
    d.label(MARGIN, 504, "never are: softmax makes 0 of minus infinity.")
    return d


def decision():
    """Flow chart of choosing a token. If top_k is given, all but the k largest logits become minus
    infinity. At temperature 0 the id of the largest logit is taken; above 0 the logits are divided
    by it, softmax follows, and an id is drawn. The end token stops; any other id is appended."""
    d = Drawing("How the next token is chosen", 634)
    x, w, side, wide, middle = 50, 270, 420, 252, 185
    start = d.box(x, 70, w, 40, "logits of the last position", WEIGHTS)
    first = d.box(x, 152, w, 40, "is top_k given?", QUESTION)
    keep = d.box(side, 144, wide, 56, "keep the k largest,\nthe others become −∞", WEIGHTS)
    second = d.box(x, 274, w, 40, "is the temperature 0?", QUESTION)
    best = d.box(side, 266, wide, 56, "argmax: the id of\nthe largest logit", IDS, strong=True)
    about = "divide by the temperature,\nsoftmax, draw an id"
    draw = d.box(x, 356, w, 60, about, IDS, strong=True)
    third = d.box(x, 494, w, 40, "is it the end token?", QUESTION)
    stop = d.box(side, 486, wide, 56, "stop: the end token\nis not appended", FOCUS)
    last = d.box(x, 576, w, 40, "append the id, next round", IDS)
    d.down(start, first, second, draw, third, last)
    for y in (214, 335, 555):
        d.label(middle + 12, y, "no")
    for question, answer in ((first, keep), (second, best), (third, stop)):
        d.arrow(question.right, answer.left, label="yes")
    for box, y in ((keep, 246), (best, 455)):
        d.arrow(box.bottom, (box.center[0], y), (middle, y), gap=3)
    d.label(
        side,
        566,
        "Rounds go on up to\nmax_new_tokens. The end token\ncounts only if eos_id is given.",
    )
    return d


# Bytes of the chapter's model, GPT_CONFIG_124M with a context of 256 tokens: 4 for each weight, 4
# for each cell of the blocks' masks, and 8 for the two moments that AdamW keeps of each weight
WEIGHTS_OF_256 = 162_419_712
MODEL_BYTES = 4 * WEIGHTS_OF_256 + 4 * 12 * 256 * 256
MOMENT_BYTES = 8 * WEIGHTS_OF_256


def checkpoint():
    """A checkpoint holds the configuration, the model's weights, 653 MB, and the optimizer's two
    moments of each weight, 1.30 GB. To write text the first two do, to go on training all three are
    needed. The file is written beside the old one under another name, then renamed."""
    d = Drawing("What a checkpoint holds, and how it is saved", 604)
    moments = f"two moments of\neach weight,\n{MOMENT_BYTES / 1e9:.2f} GB"
    d.rect(Box(MARGIN, 68, 244, 236), WHITE, LINE, radius=8)
    for y, h, name, look, about in [
        (80, 36, "config", {"color": LINE}, "the settings"),
        (
            122,
            56,
            "model_state_dict",
            {"color": MODEL},
            f"the weights,\n{MODEL_BYTES / 1e6:.0f} MB",
        ),
        (184, 112, "optimizer_state_dict", {"color": IDS, "strong": True}, moments),
    ]:
        d.box(MARGIN + 12, y, 220, h, name, size=SMALL, mono=True, **look)
        d.label(286, y + h / 2 - 10 * about.count("\n"), about, INK)
    d.bracket((414, 80), (414, 178), "enough to\nwrite text")
    d.bracket((548, 80), (548, 296), "needed to go\non training")
    d.label(MARGIN, 336, "Saving, step by step", INK, bold=True)
    old, new = {"color": LINE}, {"color": IDS, "strong": True}
    panels = []
    for i, (name, files) in enumerate(
        [
            ("before", [("story.pth", "old, whole", old)]),
            (
                "while it is written",
                [
                    ("story.pth", "old, whole", old),
                    (".story.pth.k3", "unfinished", {"color": GREY, "dashed": True}),
                ],
            ),
            ("renamed", [("story.pth", "new, whole", new)]),
        ]
    ):
        panel = Box(MARGIN + 222 * i, 354, 200, 176)
        d.rect(panel, WHITE, LINE, radius=8)
        d.label(panel.center[0], 372, name, INK, "middle", bold=True)
        for k, (file, state, look) in enumerate(files):
            d.chip(panel.x + 24, 390 + 68 * k, file, w=152, h=32, size=SMALL, **look)
            d.label(panel.center[0], 434 + 68 * k, state, GREY, "middle")
        panels.append(panel)
    for left, right in pairwise(panels):
        d.arrow(left.right, right.left, gap=4)
    d.label(MARGIN, 558, "If the disk is full half-way, the old file is still there, as it was.")
    d.label(MARGIN, 578, "The sizes are those of GPT_CONFIG_124M with a context of 256 tokens.")
    return d


GPT2_SIZES = {
    "124M": {"n_layers": 12, "emb_dim": 768, "n_heads": 12},
    "355M": {"n_layers": 24, "emb_dim": 1024, "n_heads": 16},
    "774M": {"n_layers": 36, "emb_dim": 1280, "n_heads": 20},
    "1558M": {"n_layers": 48, "emb_dim": 1600, "n_heads": 25},
}


def parameters_of(n_layers, emb_dim, n_heads):
    """Parameters of a GPT-2, in which one matrix serves as embedding and as output layer."""
    attention = 4 * (emb_dim + 1) * emb_dim  # query, key, value and output, however many heads
    feed_forward = (emb_dim + 1) * 4 * emb_dim + (4 * emb_dim + 1) * emb_dim
    norms = 4 * emb_dim
    embeddings = (VOCAB_SIZE + 1024) * emb_dim
    return embeddings + n_layers * (attention + feed_forward + norms) + 2 * emb_dim


def gpt2_sizes():
    """The four GPT-2 models as towers of as many layers as they have, and as wide: 12 layers of
    768, 24 of 1024, 36 of 1280, 48 of 1600 numbers; with 12, 16, 20 and 25 heads, and 124, 355, 774
    and 1,558 million parameters."""
    d = Drawing("GPT-2 in four sizes", 528)
    floor = 300
    for y, name in [
        (326, "model"),
        (356, "layers"),
        (386, "width"),
        (416, "heads"),
        (446, "parameters"),
        (476, "at 4 bytes"),
    ]:
        d.label(MARGIN, y, name, INK, bold=True)
    for i, (name, size) in enumerate(GPT2_SIZES.items()):
        x, w = 190 + 136 * i, size["emb_dim"] * 0.078
        for layer in range(size["n_layers"]):
            d.rect(Box(x - w / 2, floor - 4.6 * (layer + 1), w, 4.6), tint(MODEL), MODEL)
        count = parameters_of(**size)
        d.label(x, 326, name, INK, "middle", bold=True)
        for y, text in [
            (356, str(size["n_layers"])),
            (386, str(size["emb_dim"])),
            (416, f"{size['n_heads']}"),
            (446, f"{count:,}"),
            (476, f"{4 * count / 1e9:.1f} GB"),
        ]:
            d.label(x, y, text, INK, "middle")
    d.label(MARGIN, 506, "Towers to scale. All have 50,257 tokens, and 64 numbers in each head.")
    return d


# One block: GPT-2's tensor in the file and its shape, and our names for it. A matrix goes to
# nn.Linear transposed; c_attn holds query, key and value side by side
BLOCK_TENSORS = [
    ("ln_1.weight", (768,), ["norm1.scale"]),
    ("ln_1.bias", (768,), ["norm1.shift"]),
    ("attn.c_attn.weight", (768, 2304), [f"att.W_{n}.weight" for n in ("query", "key", "value")]),
    ("attn.c_attn.bias", (2304,), [f"att.W_{n}.bias" for n in ("query", "key", "value")]),
    ("attn.c_proj.weight", (768, 768), ["att.out_proj.weight"]),
    ("attn.c_proj.bias", (768,), ["att.out_proj.bias"]),
    ("ln_2.weight", (768,), ["norm2.scale"]),
    ("ln_2.bias", (768,), ["norm2.shift"]),
    ("mlp.c_fc.weight", (768, 3072), ["ff.layers.0.weight"]),
    ("mlp.c_fc.bias", (3072,), ["ff.layers.0.bias"]),
    ("mlp.c_proj.weight", (3072, 768), ["ff.layers.2.weight"]),
    ("mlp.c_proj.bias", (768,), ["ff.layers.2.bias"]),
]


def weight_mapping():
    """Twelve tensors of a GPT-2 block on the left, sixteen of ours on the right. Four matrices are
    transposed on the way. c_attn, weight and bias, is split in three: query, key and value. c_proj
    becomes out_proj, ln_1 norm1, ln_2 norm2, c_fc layer 0 and mlp.c_proj layer 2 of ff."""
    d = Drawing("One block: GPT-2’s names and ours", 668)
    d.label(MARGIN, 78, "in the file, after h.0.", INK, bold=True)
    d.label(672, 78, "in our model, after trf_blocks.0.", INK, "end", bold=True)
    y = 96
    for name, shape, ours in BLOCK_TENSORS:
        matrix = len(shape) == 2
        look = {"color": IDS if matrix else LINE, "h": 24, "size": SMALL}
        middle = y + 15 * (len(ours) - 1) + 12
        d.chip(MARGIN, middle - 12, name, w=172, **look)
        d.label(206, middle, str(shape))
        start = (300, middle)
        if matrix:
            start = d.box(300, middle - 11, 26, 22, "T", FOCUS, SMALL, strong=True).right
        last = shape[-1] // len(ours)
        ours_shape = (last, shape[0]) if matrix else (last,)
        for k, our in enumerate(ours):
            row = y + 30 * k + 12
            d.chip(492, row - 12, our, w=180, **look)
            d.label(400, row, str(ours_shape))
            d.arrow(start, (396, row), gap=3)
        y += 30 * len(ours)
    d.box(MARGIN, 588, 26, 22, "T", FOCUS, SMALL, strong=True)
    d.label(64, 599, "transposed: the file stores (in, out), nn.Linear (out, in). c_attn holds")
    d.label(64, 619, "query, key and value side by side, and is split along its last axis.")
    d.label(
        MARGIN, 645, "Elsewhere: wte to tok_emb and out_head, wpe to pos_emb, ln_f to final_norm."
    )
    return d


DRAWINGS = {
    "01-roadmap": roadmap,
    "02-topics": topics,
    "03-text-ids-text": text_ids_text,
    "04-logits-to-tokens": logits_to_tokens,
    "05-inputs-targets": inputs_targets,
    "06-loss-steps": loss_steps,
    "07-cross-entropy": cross_entropy,
    "08-perplexity": perplexity,
    "09-split-and-batch": split_and_batch,
    "10-training-loop": training_loop,
    "11-overfitting": overfitting,
    "12-temperature": temperature,
    "13-top-k": top_k,
    "14-decision": decision,
    "15-checkpoint": checkpoint,
    "16-gpt2-sizes": gpt2_sizes,
    "17-weight-mapping": weight_mapping,
    **training_at_scale.DRAWINGS,
    **pocket_model_pictures.DRAWINGS,
    **weight_loading_pictures.DRAWINGS,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
