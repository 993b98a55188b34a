"""Pictures of chapter 3. Each function's docstring is its picture's alt text.

The numbers are the chapter's own: `inputs` of section 3.3.1, and what PyTorch computes from it with
the seeds named below. tests/test_images.py computes all of them again.
"""

from itertools import pairwise

from drawing import (
    BODY,
    FOCUS,
    GREY,
    INK,
    KEYS,
    LINE,
    MARGIN,
    MODEL,
    QUERIES,
    SHADES,
    SMALL,
    TEXT,
    VALUES,
    VECTORS,
    WEIGHTS,
    Box,
    Drawing,
    alt_text,
    numbers,
)

TOKENS = ("Your", "journey", "starts", "with", "one", "step")
QUERY = 1  # journey, the token whose context vector the chapter computes first
INPUTS = [
    [0.43, 0.15, 0.89],
    [0.55, 0.87, 0.66],
    [0.57, 0.85, 0.64],
    [0.22, 0.58, 0.33],
    [0.77, 0.25, 0.10],
    [0.05, 0.80, 0.55],
]

# Section 3.3: inputs @ inputs[1], its exp() and the sum of that, (inputs @ inputs.T).softmax(-1),
# then row 1 of these weights times the inputs, one by one and added up
SIMPLE_SCORES = [0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865]
EXPONENTIALS, EXP_SUM = [2.5971, 4.4593, 4.3728, 2.3243, 2.0279, 2.9639], 18.7453
SIMPLE_WEIGHTS = [
    [0.2098, 0.2006, 0.1981, 0.1242, 0.1220, 0.1452],
    [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581],
    [0.1390, 0.2369, 0.2326, 0.1242, 0.1108, 0.1565],
    [0.1435, 0.2074, 0.2046, 0.1462, 0.1263, 0.1720],
    [0.1526, 0.1958, 0.1975, 0.1367, 0.1879, 0.1295],
    [0.1385, 0.2184, 0.2128, 0.1420, 0.0988, 0.1896],
]
WEIGHTED_INPUTS = [
    [0.0596, 0.0208, 0.1233],
    [0.1308, 0.2070, 0.1570],
    [0.1330, 0.1983, 0.1493],
    [0.0273, 0.0719, 0.0409],
    [0.0833, 0.0270, 0.0108],
    [0.0079, 0.1265, 0.0870],
]
SIMPLE_CONTEXT = [0.4419, 0.6515, 0.5683]

# Section 3.4.1: torch.manual_seed(123), then three times torch.rand(3, 2); inputs @ each of them;
# query 1 times all keys, that divided by the root of 2, its softmax, and the values so weighted
W_QUERY = [[0.2961, 0.5166], [0.2517, 0.6886], [0.0740, 0.8665]]
W_KEY = [[0.1366, 0.1025], [0.1841, 0.7264], [0.3153, 0.6871]]
W_VALUE = [[0.0756, 0.1966], [0.3164, 0.4017], [0.1186, 0.8274]]
QUERY_VECTOR = [0.4306, 1.4551]
KEY_VECTORS = [
    [0.3669, 0.7646],
    [0.4433, 1.1419],
    [0.4361, 1.1156],
    [0.2408, 0.6706],
    [0.1827, 0.3292],
    [0.3275, 0.9642],
]
VALUE_VECTORS = [
    [0.1855, 0.8812],
    [0.3951, 1.0037],
    [0.3879, 0.9831],
    [0.2393, 0.5493],
    [0.1492, 0.3346],
    [0.3221, 0.7863],
]
SCORES = [1.2705, 1.8524, 1.8111, 1.0795, 0.5577, 1.5440]
SCALED_SCORES = [0.8984, 1.3098, 1.2806, 0.7633, 0.3944, 1.0918]
ATTENTION_WEIGHTS = [0.1500, 0.2264, 0.2199, 0.1311, 0.0906, 0.1820]
CONTEXT = [0.3061, 0.8210]

# Section 3.5.1: torch.manual_seed(789), then torch.nn.Linear(3, 2, bias=False) for queries and for
# keys; the first three rows of the scores, of the lower triangle of their scaled softmax, the sums
# of these rows, and the rows divided by their sums
CAUSAL_SCORES = [
    [0.2899, 0.0716, 0.0760, -0.0138, 0.1344, -0.0511],
    [0.4656, 0.1723, 0.1751, 0.0259, 0.1771, 0.0085],
    [0.4594, 0.1703, 0.1731, 0.0259, 0.1745, 0.0090],
]
CUT_WEIGHTS = [[0.1921], [0.2041, 0.1659], [0.2036, 0.1659, 0.1662]]
CUT_SUMS = [0.1921, 0.3700, 0.5357]
CAUSAL_ROWS = [[1.0000], [0.5517, 0.4483], [0.3800, 0.3097, 0.3103]]

# The whole of it in two decimals, to be doubled, and which of it dropout takes: an example made
# by hand, since the numbers that torch.nn.Dropout draws differ between machines
CAUSAL_WEIGHTS = [
    [1.00],
    [0.55, 0.45],
    [0.38, 0.31, 0.31],
    [0.28, 0.25, 0.25, 0.23],
    [0.22, 0.20, 0.20, 0.19, 0.20],
    [0.19, 0.17, 0.17, 0.15, 0.17, 0.15],
]
KEPT = ["1", "01", "110", "0101", "10010", "011001"]

# Section 3.6.1: torch.manual_seed(123), then for each head three torch.nn.Linear(3, 2, bias=False),
# for queries, keys and values; what two causal heads with them make of the inputs
HEAD_OUTPUTS = [
    [[-0.45, 0.22], [-0.59, 0.01], [-0.63, -0.06], [-0.57, -0.08], [-0.55, -0.10], [-0.53, -0.11]],
    [[0.48, 0.11], [0.59, 0.33], [0.62, 0.39], [0.55, 0.36], [0.53, 0.34], [0.51, 0.35]],
]

# Section 3.6.2: the tensor of shape (1, 2, 3, 4) of the demonstration, by head, token, dimension
DEMONSTRATION = [
    [
        [0.2745, 0.6584, 0.2775, 0.8573],
        [0.8993, 0.0390, 0.9268, 0.7388],
        [0.7179, 0.7058, 0.9156, 0.4340],
    ],
    [
        [0.0772, 0.3565, 0.1479, 0.5331],
        [0.4066, 0.2318, 0.4545, 0.9737],
        [0.4606, 0.5159, 0.4220, 0.5786],
    ],
]

SPANISH = ("Me", "gusta", "el", "café", "frío")
LITERAL = ("Me", "pleases", "the", "coffee", "cold")
ENGLISH = ("I", "like", "cold", "coffee")


def chips(d, corners, w, strong=None):
    """The six tokens, one at each corner; the chosen one stands out."""
    return [
        d.chip(x, y, token, TEXT, w, 30, SMALL, strong=i == strong)
        for i, (token, (x, y)) in enumerate(zip(TOKENS, corners, strict=True))
    ]


def chips_across(d, x, y, step, w, strong=None):
    """Tokens as headings of columns."""
    return chips(d, [(x + i * step, y) for i in range(6)], w, strong)


def chips_down(d, x, y, step, w=76, strong=None):
    """Tokens as labels of rows."""
    return chips(d, [(x, y + i * step) for i in range(6)], w, strong)


def column(d, x, y, values, color, w=76, strong=False, decimals=4):
    """A vector that stands upright; returns the Box around it."""
    cells = [[text.strip()] for text in numbers(values, decimals)]
    d.matrix(x, y, cells, color, (w, 28), marked=range(len(cells)) if strong else ())
    return Box(x, y, w, 28 * len(cells))


def row(d, x, y, values, color, w=62, strong=False, decimals=4):
    """A vector that lies; returns the Box around it."""
    cells = [text.strip() for text in numbers(values, decimals)]
    d.matrix(x, y, [cells], color, (w, 30), marked=(0,) if strong else ())
    return Box(x, y, w * len(cells), 30)


def triangle(rows, hidden="", size=6):
    """Rows of a causal matrix, filled up with what stands for hidden cells."""
    return [list(values) + [hidden] * (size - len(values)) for values in rows]


def roadmap():
    """Four panels from left to right, each with a small grid of which token looks at which.
    Simplified attention has a full grid. Self-attention adds learned query, key and value. Causal
    attention hides the upper triangle of the grid. Multi-head attention has two such grids."""
    d = Drawing("Four mechanisms, each built on the one before", 420)
    full = [[0.9, 0.3, 0.5, 0.3], [0.3, 0.9, 0.6, 0.2], [0.4, 0.6, 0.8, 0.3], [0.2, 0.4, 0.3, 0.9]]
    causal = triangle([shades[: i + 1] for i, shades in enumerate(full)], size=4)
    second = triangle([[0.9], [0.8, 0.3], [0.2, 0.3, 0.9], [0.8, 0.2, 0.6, 0.4]], size=4)
    panels = [
        ("3.3", "Simplified\nattention", [full], "weights from\nthe vectors\nthemselves"),
        ("3.4", "Self-\nattention", [full], "adds learned\nquery, key\nand value"),
        ("3.5", "Causal\nattention", [causal], "hides the\ntokens that\ncome later"),
        ("3.6", "Multi-head\nattention", [causal, second], "runs several,\njoins their\nresults"),
    ]
    w, step, y = 138, 138 + 92 / 3, 70
    for i, (section, name, grids, about) in enumerate(panels):
        x = MARGIN + i * step
        panel = d.box(x, y, w, 300)
        d.label(x + w / 2, y + 20, f"Section {section}", GREY, "middle")
        d.label(x + w / 2, y + 46, name, INK, "middle", bold=True)
        cell, middles = (21, [152]) if len(grids) == 1 else (16, [115, 189])
        for grid, middle in zip(grids, middles, strict=True):
            left = x + w / 2 + (15 if i else 0) - 2 * cell
            d.heat(left, y + middle - 2 * cell, grid, 1, (cell, cell), None)
        for k, (letter, color) in enumerate(zip("qkv", (QUERIES, KEYS, VALUES), strict=True)):
            if i:
                d.matrix(x + 10, y + 110 + 30 * k, [[letter]], color, (24, 24))
        d.label(x + w / 2, y + 242, about, INK, "middle")
        if i:
            d.arrow((x - step + w, panel.center[1]), panel.left)
    d.label(MARGIN, 394, "Grids: a row looks at the columns, darker is more, dashed is hidden.")
    return d


def word_by_word():
    """A Spanish sentence translated twice. Word by word, "Me gusta el café frío" becomes "Me
    pleases the coffee cold". By meaning it becomes "I like cold coffee": one word is left out, and
    the arrows of the last two cross."""
    d = Drawing("Translating word by word goes wrong", 460)
    x0, step, w = 122, 111, 104
    for y, heading, note in [(70, "Word by word", "wrong"), (250, "By meaning", "right")]:
        d.label(MARGIN, y + 12, heading, INK, bold=True)
        d.label(MARGIN, y + 53, "Spanish")
        d.label(MARGIN, y + 121, f"English,\n{note}")
    for i, (word, literal) in enumerate(zip(SPANISH, LITERAL, strict=True)):
        x = x0 + i * step
        above = d.chip(x, 106, word, TEXT, w)
        d.arrow(above.bottom, d.chip(x, 184, literal, FOCUS, w).top)
        d.chip(x, 286, word, TEXT, w, dashed=word == "el")
    for start, end, word in zip((0, 1, 4, 3), (0, 1, 3, 4), ENGLISH, strict=True):
        below = d.chip(x0 + end * step, 364, word, TEXT, w, strong=True)
        d.arrow((x0 + start * step + w / 2, 320), below.top)
    d.label(x0 + 2 * step + w / 2, 334, "left out", anchor="middle")
    d.label(MARGIN, 432, "Which word comes next depends on words that stand elsewhere.")
    return d


STATES = ((1, 0, 2, 1), (2, 1, 0, 3), (0, 2, 1, 1), (3, 1, 2, 0), (1, 3, 2, 2))
ANSWER_STATES = ((2, 3, 1, 2), (1, 1, 3, 0), (3, 0, 1, 2), (0, 2, 2, 3))


def recurrent(d, y, states):
    """A row of hidden states, each passed on to the next."""
    boxes = [d.vector(118 + i * 116, y, shades, (18, 24)) for i, shades in enumerate(states)]
    for left, right in pairwise(boxes):
        d.arrow(left.right, right.left)
    return boxes


def encoder(d):
    """Spanish tokens, each read into a hidden state."""
    d.label(MARGIN, 85, "input", INK, bold=True)
    d.label(MARGIN, 142, "encoder", INK, bold=True)
    boxes = recurrent(d, 130, STATES)
    for box, word in zip(boxes, SPANISH, strict=True):
        d.arrow(d.chip(box.x - 3, 70, word, TEXT, 78, 30).bottom, box.top)
    return boxes


def decoder(d, focus=""):
    """Hidden states, each writing an English token; the one in focus stands out."""
    d.label(MARGIN, 306, "decoder", INK, bold=True)
    d.label(MARGIN, 363, "output", INK, bold=True)
    boxes = recurrent(d, 294, ANSWER_STATES)
    for box, word in zip(boxes, ENGLISH, strict=True):
        color = FOCUS if word == focus else TEXT
        d.arrow(box.bottom, d.chip(box.x - 3, 348, word, color, 78, 30).top)
    return boxes


def one_hidden_state():
    """An encoder reads five Spanish tokens one after the other, each into a hidden state. Only the
    last state is handed over; from this single vector the decoder writes the English tokens one
    after the other."""
    d = Drawing("All the decoder gets is one vector", 430)
    last = encoder(d)[-1]
    first = decoder(d)[0]
    frame = d.box(264, 192, 206, 64, color=FOCUS)
    d.vector(315, 200, STATES[-1], (26, 24))
    d.label(367, 240, "the whole sentence", INK, "middle")
    d.arrow(last.bottom, (last.center[0], 224), frame.right, color=FOCUS)
    d.arrow(frame.left, (first.center[0], 224), first.top, color=FOCUS)
    d.label(MARGIN, 404, "Five tokens or five hundred: the size of the vector is the same.")
    return d


def look_back():
    """The same encoder and decoder with attention. The decoder step that writes "cold" receives
    arrows from all five hidden states of the encoder; the arrow from "frío", which means cold, is
    the thickest."""
    d = Drawing("With attention, the decoder looks back", 430)
    states = encoder(d)
    writer = decoder(d, "cold")[2]
    for i, (state, width) in enumerate(zip(states, (2, 2, 2, 4, 8), strict=True)):
        end = writer.x + 6 + 15 * i, writer.y
        d.arrow(state.bottom, end, color=FOCUS, width=width)
    d.label(MARGIN, 206, "To write “cold”,\nwhich inputs\nmatter?", INK)
    d.label(MARGIN, 404, "Thicker means more attention (a sketch). Every step weighs anew.")
    return d


def looks_at_itself():
    """The six tokens of "Your journey starts with one step" stand above, and below them their
    context vectors. Lines join every token with every context vector; the six that lead to the
    context vector of "journey" are highlighted arrows."""
    d = Drawing("Self-attention: a text looks at itself", 424)
    x0, step, w = 110, 95, 84
    above = chips_across(d, x0, 72, step, w)
    below = [Box(x0 + i * step, 294, w, 24) for i in range(6)]
    ends = [[(box.x + 7 + 14 * i, box.y) for i in range(6)] for box in below]
    for row_of_ends in ends:
        for start, (x, y) in zip(above, row_of_ends, strict=True):
            d.line((start.bottom[0], 107), (x, y - 5), color=LINE, width=1)
    for start, end in zip(above, ends[QUERY], strict=True):
        d.arrow(start.bottom, end, color=FOCUS, width=3)
    shades = ((1, 0, 2), (2, 3, 1), (2, 2, 1), (0, 1, 0), (2, 0, 0), (0, 2, 1))
    for i, (box, values) in enumerate(zip(below, shades, strict=True)):
        d.vector(box.x, box.y, values, (w / 3, 24))
        d.chip(box.x, 326, TOKENS[i], TEXT, w, 30, SMALL, strong=i == QUERY)
    d.label(MARGIN, 87, "tokens", INK, bold=True)
    d.label(MARGIN, 296, "context\nvectors", INK, bold=True)
    d.label(
        MARGIN, 396, "Every token looks at all six, itself included: 36 lines, one weight each."
    )
    return d


def mixture(d, columns, color, weights, context, decimals):
    """Token vectors as columns, a weight below each, weighted arrows to the sum of them all."""
    x0, step, w = 124, 93, 80
    height = 28 * len(context)
    chips_across(d, x0, 70, step, w, strong=QUERY)
    middle, y = x0 + 2.5 * step + w / 2, 266 + height
    result = row(d, middle - 41 * len(context), y, context, color, 82, strong=True)
    for i, (values, weight) in enumerate(zip(columns, weights, strict=True)):
        x = x0 + i * step
        column(d, x, 108, values, color, w, strong=i == QUERY, decimals=decimals)
        d.text(x + w / 2, 120 + height, "×", BODY)
        cell = d.heat(x, 132 + height, [[weight]], 0.25, (w, 30), 4)[0][0]
        end = result.x + result.w * (i + 0.5) / 6, y
        d.arrow(cell.bottom, end, color=WEIGHTS, width=44 * weight)
    d.label(MARGIN, 147 + height, "weights", INK, bold=True)
    d.label(MARGIN, 167 + height, "sum: 1")
    d.label(middle, y + 46, "context vector of journey", INK, "middle", bold=True)
    return y + 46


def context_vector():
    """Six tokens with input vectors of three numbers. Each vector is multiplied by a weight, and
    arrows as thick as the weights, the thickest from "journey" and "starts", lead to their sum:
    0.4419, 0.6515, 0.5683, the context vector of "journey"."""
    d = Drawing("The goal: a context vector for “journey”", 450)
    d.label(MARGIN, 150, "input\nvectors", INK, bold=True)
    y = mixture(d, INPUTS, VECTORS, SIMPLE_WEIGHTS[QUERY], SIMPLE_CONTEXT, 2)
    d.label(MARGIN, y + 30, "It has the size of an input vector, and something of each of them.")
    return d


def dot_products():
    """The vector of "journey" is the query. Arrows lead from it to the vectors of all six tokens;
    the dot product with each is that token's score, from 0.9544 for "Your" to the highest, 1.4950,
    for "journey" itself."""
    d = Drawing("Step 1: a score for each token", 416)
    for x, heading in [(106, "query"), (386, "inputs"), (626, "scores")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    d.chip(MARGIN, 178, "journey", TEXT, 156, 30, SMALL, strong=True)
    query = row(d, MARGIN, 212, INPUTS[QUERY], VECTORS, 52, strong=True, decimals=2)
    for i, token in enumerate(chips_down(d, 268, 102, 40, strong=QUERY)):
        vector = row(d, 348, token.y, INPUTS[i], VECTORS, 52, strong=i == QUERY, decimals=2)
        score = d.heat(580, token.y, [[SIMPLE_SCORES[i]]], 2, (92, 30), 4)[0][0]
        d.arrow(query.right, token.left)
        d.arrow(vector.right, score.left)
    d.label(542, 80, "dot product", anchor="middle")
    d.label(MARGIN, 364, "For “Your”:", INK, bold=True)
    pairs = zip(INPUTS[QUERY], INPUTS[0], strict=True)
    terms = " + ".join(f"{a:.2f} × {b:.2f}" for a, b in pairs)
    d.text(140, 364, f"{terms} = {SIMPLE_SCORES[0]}", SMALL, anchor="start", mono=True)
    d.label(MARGIN, 390, "The score is high where two vectors point the same way.")
    return d


def softmax():
    """Three columns for six tokens: the scores, their exponentials, which add up to 18.7453, and
    the exponentials divided by that sum, which are the weights. Bars show the weights, from 0.1082
    for "one" to 0.2379 for "journey"; they add up to 1."""
    d = Drawing("Step 2: softmax turns scores into weights", 430)
    for x, heading in [(160, "score"), (306, "exp(score)"), (482, "weight")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    d.label(394, 80, f"÷ {EXP_SUM}", anchor="middle")
    for i, token in enumerate(chips_down(d, MARGIN, 104, 38, strong=QUERY)):
        y, weight = token.y, SIMPLE_WEIGHTS[QUERY][i]
        score = d.heat(118, y, [[SIMPLE_SCORES[i]]], 2, (84, 30), 4)[0][0]
        power = row(d, 264, y, [EXPONENTIALS[i]], LINE, 84)
        share = d.heat(440, y, [[weight]], 0.25, (84, 30), 4)[0][0]
        d.arrow(score.right, power.left)
        d.arrow(power.right, share.left)
        d.rect(Box(536, y + 5, 560 * weight, 20), WEIGHTS, WEIGHTS)
    for x, total in [(264, EXP_SUM), (440, 1)]:
        d.line((x, 338), (x + 84, 338), color=INK)
        d.text(x + 42, 358, f"{total:.4f}", SMALL, mono=True)
    d.label(MARGIN, 358, "sum", INK, bold=True)
    d.label(MARGIN, 402, "Weights are positive, add up to 1, and keep the order of the scores.")
    return d


def weighted_sum():
    """Six rows: the weight of a token times its input vector is a weighted vector. The six
    weighted vectors are added up, column by column, to 0.4419, 0.6515, 0.5683, the context vector
    of "journey"."""
    d = Drawing("Step 3: add up the weighted vectors", 418)
    for x, heading in [(147, "weight"), (288, "input"), (509, "weighted input")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    for i, token in enumerate(chips_down(d, MARGIN, 102, 36, strong=QUERY)):
        y = token.y
        d.heat(112, y, [[SIMPLE_WEIGHTS[QUERY][i]]], 0.25, (70, 30), 4)
        d.text(196, y + 15, "×", BODY)
        row(d, 210, y, INPUTS[i], VECTORS, 52, decimals=2)
        d.text(386, y + 15, "=", BODY)
        row(d, 404, y, WEIGHTED_INPUTS[i], VECTORS, 70)
    d.bracket((624, 102), (624, 312), "add")
    d.line((404, 324), (614, 324), color=INK)
    row(d, 404, 336, SIMPLE_CONTEXT, VECTORS, 70, strong=True)
    d.label(392, 351, "context vector of journey", INK, "end", bold=True)
    d.label(MARGIN, 394, "The heavier a token's weight, the more of it ends up in the sum.")
    return d


def weight_matrix():
    """A 6 by 6 matrix of attention weights, shaded by size. Rows are the tokens that look, columns
    the tokens looked at. The row of "journey" is framed: it holds the six weights from before and
    adds up to 1, as every row does."""
    d = Drawing("All weights at once: one row for each token", 416)
    x0, y0, w, h = 116, 126, 78, 36
    chips_across(d, x0 + 2, 86, w, w - 4)
    chips_down(d, MARGIN, y0 + 3, h, strong=QUERY)
    d.label(MARGIN, 92, "row looks\nat column")
    d.heat(x0, y0, SIMPLE_WEIGHTS, 0.25, (w, h), 4)
    left, top, right, bottom = x0 - 4, y0 + h - 2, x0 + 6 * w + 4, y0 + 2 * h + 2
    corners = (left, top), (right, top), (right, bottom), (left, bottom), (left, top - 1)
    d.line(*corners, color=INK, width=3)
    d.label(right + 10, (top + bottom) / 2, "sum: 1", INK, bold=True)
    d.label(MARGIN, 368, "The framed row is the one computed step by step. All six come from one")
    d.label(MARGIN, 388, "product: softmax of inputs @ inputs.T, taken along each row.")
    return d


def query_key_value():
    """The input vector of "journey" is multiplied by three learned matrices, W_query, W_key and
    W_value, each 3 by 2. The results are three vectors of two numbers: its query, 0.4306 and
    1.4551, its key, 0.4433 and 1.1419, and its value, 0.3951 and 1.0037."""
    d = Drawing("One input vector becomes query, key and value", 456)
    d.chip(MARGIN, 199, "journey", TEXT, 156, 30, SMALL, strong=True)
    vector = row(d, MARGIN, 233, INPUTS[QUERY], VECTORS, 52, strong=True, decimals=2)
    d.label(vector.center[0], 282, "input vector", INK, "middle", bold=True)
    parts = [
        ("query", W_QUERY, QUERY_VECTOR, QUERIES, "what the\ntoken asks"),
        ("key", W_KEY, KEY_VECTORS[QUERY], KEYS, "what it is\ncompared by"),
        ("value", W_VALUE, VALUE_VECTORS[QUERY], VALUES, "what it adds\nto the mix"),
    ]
    for i, (name, weights, result, color, about) in enumerate(parts):
        y = 90 + 116 * i
        d.label(314, y - 13, f"W_{name}", INK, "middle", bold=True)
        cells = [[f"{value:.4f}" for value in values] for values in weights]
        d.matrix(252, y, cells, color, (62, 28))
        d.arrow(vector.right, (252, y + 42))
        end = row(d, 430, y + 27, result, color, strong=True)
        d.arrow((376, y + 42), end.left)
        d.label(end.center[0], y + 12, name, INK, "middle", bold=True)
        d.label(570, y + 32, about, INK)
    d.label(MARGIN, 430, "The three matrices are learned, and the same for every token.")
    return d


def against_keys(d, rows, known=range(6)):
    """The query of journey times the keys, and below, rows of what is computed from them."""
    x0, step, w = 190, 81, 77
    chips_across(d, x0, 72, step, w, strong=QUERY)
    d.label(MARGIN, 100, "query × keys", INK, bold=True)
    d.label(MARGIN, 173, "query of journey")
    row(d, MARGIN, 124, QUERY_VECTOR, QUERIES, strong=True)
    d.text(171, 139, "×", BODY)
    starts = [
        column(d, x0 + i * step, 112, key, KEYS, w, strong=i in known).bottom
        for i, key in enumerate(KEY_VECTORS)
    ]
    for y, name, note, values, peak in rows:
        d.label(MARGIN, y + 5, name, INK, bold=True)
        d.label(MARGIN, y + 25, note)
        for i in range(6):
            value = values[i] if i in known else "?"
            cell = d.heat(x0 + i * step, y, [[value]], peak, (w, 30), 4)[0][0]
            if i in known:
                d.arrow(starts[i], cell.top)
            starts[i] = cell.bottom


def one_score():
    """The query of "journey" and the keys of all six tokens. The dot product of the query with the
    key of "journey" itself is filled in below that key: 0.4306 times 0.4433 plus 1.4551 times
    1.1419 is 1.852. The other five scores are still open."""
    d = Drawing("A score is a query times a key", 346)
    against_keys(d, [(212, "score", "with its own key", SCORES, 2.4)], known=(QUERY,))
    products = zip(QUERY_VECTOR, KEY_VECTORS[QUERY], strict=True)
    terms = " + ".join(f"{a:.4f} × {b:.4f}" for a, b in products)
    d.text(190, 280, f"{terms} ≈ {SCORES[QUERY]:.3f}", SMALL, anchor="start", mono=True)
    d.label(MARGIN, 318, "Whether “journey” looks at itself is decided as for any other token.")
    return d


def scaled_weights():
    """The query of "journey" times all six keys gives six scores. Divided by the square root of 2,
    they become scaled scores, and softmax makes them weights: 0.1500, 0.2264, 0.2199, 0.1311,
    0.0906, 0.1820."""
    d = Drawing("From scores to weights: scale, then softmax", 438)
    rows = [
        (212, "scores", "dot products", SCORES, 2.4),
        (280, "scaled scores", "divided by √2", SCALED_SCORES, 2.4),
        (348, "weights", "after softmax", ATTENTION_WEIGHTS, 0.25),
    ]
    against_keys(d, rows)
    d.label(MARGIN, 410, "√2 because a query and a key have 2 numbers. The weights add up to 1.")
    return d


def mix_values():
    """Six tokens with value vectors of two numbers. Each is multiplied by the token's attention
    weight, and arrows as thick as the weights lead to the sum: 0.3061, 0.8210, the context vector
    of "journey"."""
    d = Drawing("The weights mix the values", 424)
    d.label(MARGIN, 136, "values", INK, bold=True)
    y = mixture(d, VALUE_VECTORS, VALUES, ATTENTION_WEIGHTS, CONTEXT, 4)
    d.label(MARGIN, y + 30, "Query and key only decided how much; what is mixed are the values.")
    return d


def matrix_products():
    """Self-attention as matrix products, with shapes. The inputs X, 6 by 3, times three 3 by 2
    matrices give Q, K and V, each 6 by 2. Q times K transposed, scaled and through softmax, gives
    6 by 6 weights, and the weights times V give the context vectors Z, 6 by 2."""
    d = Drawing("Self-attention is a few matrix products", 544)
    x = d.block(MARGIN, 220, 6, 3, VECTORS)
    d.label(x.center[0], 334, "X (6, 3)", INK, "middle")
    results = []
    for i, (name, color) in enumerate([("query", QUERIES), ("key", KEYS), ("value", VALUES)]):
        y = 138 + 130 * i
        matrix = d.block(142, y - 24, 3, 2, color, share=SHADES[2])
        d.label(158, y + 38, f"W_{name}\n(3, 2)", INK, "middle")
        d.arrow(x.right, matrix.left)
        rows, columns = (2, 6) if name == "key" else (6, 2)
        result = d.block(256, y - 8 * rows, rows, columns, color)
        d.arrow(matrix.right, result.left)
        results.append(result)
    q, k, v = results
    for box, name in [(q, "Q (6, 2)"), (k, "K.T (2, 6)"), (v, "V (6, 2)")]:
        d.label(box.center[0], box.y + box.h + 14, name, INK, "middle")
    weights = d.block(434, 90, 6, 6, WEIGHTS)
    d.label(482, 76, "weights (6, 6)", INK, "middle")
    z = d.block(624, 220, 6, 2, VALUES, share=SHADES[2])
    d.arrow(q.right, weights.left)
    d.arrow(k.right, (482, k.center[1]), weights.bottom)
    d.label(494, 208, "softmax(\nQ @ K.T / √2)", INK)
    d.arrow(weights.right, (640, 138), z.top)
    d.arrow(v.right, (640, v.center[1]), z.bottom)
    d.label(612, 268, "Z (6, 2)", INK, "end")
    d.label(628, 384, "Z = weights @ V", INK, "end")
    d.label(
        MARGIN, 496, "@ is the matrix product: Q = X @ W_query, and so on. The inner sizes agree,"
    )
    d.label(
        MARGIN, 516, "as in (6, 3) @ (3, 2); the outer ones, 6 and 2, are the size of the result."
    )
    return d


def hidden_future():
    """A grid of six tokens by six. Each token looks at itself and at the tokens before it, which
    are the filled cells on and below the diagonal; the cells above it are empty and dashed. "Your"
    sees one token, "step" sees all six."""
    d = Drawing("Causal attention hides the future", 416)
    x0, y0, w, h = 116, 112, 78, 40
    chips_across(d, x0 + 2, 74, w, w - 4)
    chips_down(d, MARGIN, y0 + 5, h)
    d.label(MARGIN, 80, "row looks\nat column")
    d.heat(x0, y0, triangle([[0.625] * (r + 1) for r in range(6)]), 1, (w, h), None)
    for r in range(6):
        d.label(x0 + 6 * w + 14, y0 + (r + 0.5) * h, f"sees {r + 1}", INK)
    seen, hidden = {"color": WEIGHTS, "strong": True}, {"color": GREY, "dashed": True}
    d.legend(x0, 384, [("itself and earlier", seen), ("later, hidden", hidden)])
    return d


def causal_rows(d, x, y, rows, hidden):
    """Three rows; of the six columns the last three, all hidden, are narrow. The Box around it."""
    d.heat(x + 186, y, [[hidden] * 3] * 3, cell=(26, 30))
    d.heat(x, y, triangle(rows, hidden, 3), cell=(62, 30), decimals=4)
    return Box(x, y, 264, 90)


def two_masks():
    """Scores of the tokens "Your", "journey" and "starts", and two ways to hide the future. On the
    left: scaling and softmax, then zeros for later tokens, then each row divided by its sum. On the
    right: minus infinity for later tokens, then scaling and softmax. Both arrive at the same
    weights, such as 0.5517 and 0.4483 for "journey"."""
    d = Drawing("Two ways to mask, one result", 598)
    x0 = 168
    chips_across(d, x0 + 1, 66, 70, 68)
    for i, token in enumerate(TOKENS[:3]):
        d.label(x0 - 12, 117 + 30 * i, token, INK, "end")
    d.label(MARGIN, 117, "scores", INK, bold=True)
    d.heat(x0, 102, CAUSAL_SCORES, 1, (70, 30), 4)
    left = causal_rows(d, MARGIN, 282, CUT_WEIGHTS, "0")
    kept = [scores[: i + 1] for i, scores in enumerate(CAUSAL_SCORES)]
    right = causal_rows(d, 408, 282, kept, "−∞")
    end = causal_rows(d, 218, 462, CAUSAL_ROWS, "0")
    for x, y1, y2, text in [
        (190, 192, left.y, "÷ √2, softmax,\nthen hide with 0"),
        (500, 192, right.y, "hide with −∞"),
        (250, 372, end.y, "divide each\nrow by its sum"),
        (450, 372, end.y, "÷ √2, softmax"),
    ]:
        d.arrow((x, y1), (x, y2))
        d.label(x + 14, (y1 + y2) / 2 - 10 * text.count("\n"), text, INK)
    d.label(304, 270, "sum")
    for r, total in enumerate(CUT_SUMS):
        d.text(304, 297 + 30 * r, f"{total:.4f}", SMALL, GREY, "start", mono=True)
    d.label(MARGIN, 477, "weights", INK, bold=True)
    d.label(
        MARGIN, 574, "The rows of the first three tokens; the last three columns are hidden in all."
    )
    return d


def dropout():
    """The lower triangle of causal attention weights before and after dropout at 0.5. Afterwards
    about half of them, in dashed cells, are 0; the others are doubled, such as 0.45 to 0.90."""
    d = Drawing("Dropout at 0.5: about half go, the rest double", 430)
    cell, y0 = (46, 34), 104
    after = [
        [2 * value if bit == "1" else "0" for value, bit in zip(values, bits, strict=True)]
        for values, bits in zip(CAUSAL_WEIGHTS, KEPT, strict=True)
    ]
    chips_down(d, MARGIN, y0 + 2, 34, 72)
    d.heat(106, y0, CAUSAL_WEIGHTS, 1.2, cell)
    d.heat(396, y0, after, 1.2, cell)
    d.arrow((244, y0 + 51), (384, y0 + 51), label="dropout")
    d.label(106, 84, "causal weights", INK, bold=True)
    d.label(396, 84, "after dropout", INK, bold=True)
    looks = {"color": GREY, "dashed": True}, {"color": WEIGHTS}
    d.legend(106, 338, zip(("dropped by chance", "kept, times 2"), looks, strict=True))
    d.label(MARGIN, 380, "A row no longer adds up to 1, but over many draws it does on average.")
    d.label(MARGIN, 402, "The numbers were rounded to two decimals before they were doubled.")
    return d


def two_heads():
    """The inputs, six rows of three numbers, go through two attention heads, each with query, key
    and value matrices of its own. Each head returns six rows of two numbers. Side by side these
    make the output, six rows of four numbers."""
    d = Drawing("Two heads work side by side, then join", 540)
    vectors = [[f"{v:.2f}" for v in values] for values in INPUTS]
    d.matrix(MARGIN, 196, vectors, VECTORS, (46, 28))
    d.label(97, 180, "inputs (6, 3)", INK, "middle", bold=True)
    for i, outputs in enumerate(HEAD_OUTPUTS):
        y = 96 + 216 * i
        cells = [numbers(values) for values in outputs]
        marked = range(6) if i else ()
        head = d.box(204, y + 54, 80, 60, f"head {i + 1}", MODEL)
        d.arrow((166, 280), head.left)
        d.matrix(320, y, cells, VALUES, (52, 28), marked)
        d.label(372, y - 16, f"head {i + 1} (6, 2)", INK, "middle", bold=True)
        d.arrow(head.right, (320, y + 84))
        d.matrix(464 + 104 * i, 196, cells, VALUES, (52, 28), marked)
        d.arrow((424, y + 84), (464, 256 + 48 * i))
    d.label(568, 180, "output (6, 4)", INK, "middle", bold=True)
    d.label(MARGIN, 512, "Each head has a W_query, W_key and W_value of its own.")
    return d


def split_weights():
    """Left, two heads with a query matrix each: the inputs are multiplied twice, by a 3 by 2
    matrix, and give two 6 by 2 results. Right, one 3 by 4 matrix made of both: the inputs are
    multiplied once, and the 6 by 4 result is split into the two heads."""
    d = Drawing("One wide matrix does the work of two", 452)
    light, dark = SHADES[1], SHADES[3]
    d.label(MARGIN, 78, "A matrix for each head", INK, bold=True)
    d.label(MARGIN, 100, "section 3.6.1: two products")
    d.label(352, 78, "One matrix, split afterwards", INK, bold=True)
    d.label(352, 100, "section 3.6.2: one product")
    d.line((324, 70), (324, 400), color=LINE)
    left, right = (d.block(x, 212, 6, 3, VECTORS) for x in (MARGIN, 352))
    weights = d.block(432, 236, 3, 4, QUERIES, share=dark)
    d.block(432, 236, 3, 2, QUERIES, share=light)
    wide = d.block(528, 212, 6, 4, QUERIES, share=dark)
    d.block(528, 212, 6, 2, QUERIES, share=light)
    d.arrow(right.right, weights.left)
    d.arrow(weights.right, wide.left)
    for i, share in enumerate((light, dark)):
        y = 178 + 164 * i
        matrix = d.block(124, y - 24, 3, 2, QUERIES, share=share)
        result = d.block(208, y - 48, 6, 2, QUERIES, share=share)
        d.arrow(left.right, matrix.left)
        d.arrow(matrix.right, result.left)
        d.label(250, y - 10, f"head {i + 1}\n(6, 2)", INK)
        d.label(140, y + 38, "(3, 2)", INK, "middle")
        part = d.block(640, y - 48, 6, 2, QUERIES, share=share)
        d.arrow(wide.right, part.left)
        d.label(672, y - 62, f"head {i + 1}", INK, "end")
    for box, text in [
        (left, "X (6, 3)"),
        (right, "X (6, 3)"),
        (weights, "(3, 4)"),
        (wide, "(6, 4)"),
    ]:
        d.label(box.center[0], box.y + box.h + 14, text, INK, "middle")
    d.label(MARGIN, 426, "Shown for queries; keys and values are made the same way.")
    return d


def into_heads():
    """Three tokens with eight numbers each, shape (1, 3, 8). A view cuts each token's numbers into
    two heads of four, shape (1, 3, 2, 4), grouped by token. Transpose exchanges two axes, shape
    (1, 2, 3, 4): now they are grouped by head, three tokens in each."""
    d = Drawing("From one wide matrix to heads", 538)
    x0, step, cell = 136, 183, (43, 28)
    rows = [[[f"{v:.2f}" for v in values] for values in head] for head in DEMONSTRATION]
    for y, shape, axes in [
        (107, "(1, 3, 8)", "b, T, d_out"),
        (243, "(1, 3, 2, 4)", "b, T, heads,\nhead_dim"),
        (387, "(1, 2, 3, 4)", "b, heads, T,\nhead_dim"),
    ]:
        d.label(MARGIN, y, shape, INK, bold=True)
        d.label(MARGIN, y + 22, axes)
    d.arrow((x0 + 20, 176), (x0 + 20, 236), label="view: cut each row in two")
    d.arrow((x0 + 20, 320), (x0 + 20, 380), label="transpose: sort by head, not by token")
    for h, head in enumerate(rows):
        marked = range(3) if h else ()
        d.matrix(x0 + 172 * h, 92, head, QUERIES, cell, marked)
        d.label(x0 + 86 + 172 * h, 78, f"for head {h + 1}", INK, "middle")
        d.matrix(x0 + step * h, 380, head, QUERIES, cell, marked)
        d.label(x0 + 86 + step * h, 478, f"head {h + 1}", INK, "middle")
    for t, pair in enumerate(zip(*rows, strict=True)):
        d.label(x0 + 358, 106 + 28 * t, f"token {t + 1}", INK)
        d.matrix(x0 + step * t, 236, pair, QUERIES, cell, (1,))
        d.label(x0 + 86 + step * t, 306, f"token {t + 1}", INK, "middle")
    d.label(MARGIN, 508, "Neither step copies a number: both only change how they are read.")
    return d


DRAWINGS = {
    "01-roadmap": roadmap,
    "02-word-by-word": word_by_word,
    "03-one-hidden-state": one_hidden_state,
    "04-look-back": look_back,
    "05-looks-at-itself": looks_at_itself,
    "06-context-vector": context_vector,
    "07-dot-products": dot_products,
    "08-softmax": softmax,
    "09-weighted-sum": weighted_sum,
    "10-weight-matrix": weight_matrix,
    "11-query-key-value": query_key_value,
    "12-one-score": one_score,
    "13-scaled-weights": scaled_weights,
    "14-mix-values": mix_values,
    "15-matrix-products": matrix_products,
    "16-hidden-future": hidden_future,
    "17-two-masks": two_masks,
    "18-dropout": dropout,
    "19-two-heads": two_heads,
    "20-split-weights": split_weights,
    "21-into-heads": into_heads,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
