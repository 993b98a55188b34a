"""Pictures of chapter 2. Each function's docstring is its picture's alt text."""

import re
from itertools import pairwise

from drawing import (
    BODY,
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    MODEL,
    POSITIONS,
    SHADES,
    SMALL,
    TEXT,
    VECTORS,
    Box,
    Drawing,
    alt_text,
    numbers,
    tint,
)

SPLIT = r"([,.:;?_!\"()']|--|\s)"  # the last pattern of section 2.2

# tiktoken.get_encoding("gpt2"): pieces and ids of two texts; "·" stands for a space
MADE_UP = {"pieces": ["Ak", "w", "ir", "w", "·", "ier"], "ids": [33901, 86, 343, 86, 220, 959]}
BOAT = {
    "pieces": ["The", "·boat", "·left", "·the", "·port", "·when", "·the", "·sun", "·rose"],
    "ids": [464, 8848, 1364, 262, 2493, 618, 262, 4252, 8278],
}

# torch.manual_seed(123); torch.nn.Embedding(6, 3).weight, then torch.nn.Embedding(4, 3).weight
TOKEN_TABLE = [
    [0.3374, -0.1778, -0.1690],
    [0.9178, 1.5810, 1.3010],
    [1.2753, -0.2010, -0.1606],
    [-0.4015, 0.9666, -1.1481],
    [-1.1589, 0.3255, -0.6315],
    [-2.8400, -0.7849, -1.4096],
]
POSITION_TABLE = [
    [-0.63, 1.23, 0.31],
    [0.70, -1.00, -1.15],
    [-0.92, 0.90, -2.10],
    [1.16, -1.22, 0.13],
]


def words(text):
    """Split a text as section 2.2 does."""
    return [piece for piece in re.split(SPLIT, text) if piece.strip()]


def vocabulary(text):
    """Number the sorted distinct tokens as section 2.3 does."""
    return {token: i for i, token in enumerate(sorted(set(words(text))))}


TOY_TEXT = "A cat sat. A dog sat, too."
TOY_VOCABULARY = vocabulary(TOY_TEXT)


def stages():
    """Staircase of chapters 2 to 7. The first and lowest step, text data, is marked "you are
    here"; attention, the GPT model, pretraining and two kinds of finetuning build on it."""
    d = Drawing("Text data is the first step towards an LLM", 440)
    steps = [
        ("Text data", "text\nbecomes\nvectors"),
        ("Attention", "tokens look\nat each\nother"),
        ("GPT model", "predicts\nthe next\ntoken"),
        ("Pretraining", "the model\nlearns from\nplain text"),
        ("Classifier", "the model\nsorts\nmessages"),
        ("Assistant", "the model\nfollows\nrequests"),
    ]
    floor, w, step = 368, 102, 108.4
    for i, (name, about) in enumerate(steps):
        h = 132 + 40 * min(i, 4)
        here = i == 0
        x, y = MARGIN + i * step, floor - h
        d.box(x, y, w, h, color=TEXT if here else LINE, strong=here)
        d.label(x + w / 2, y + 22, f"Chapter {i + 2}", INK if here else GREY, "middle")
        d.label(x + w / 2, y + 44, name, INK, "middle", bold=True)
        d.label(x + w / 2, y + 72, about, INK, "middle")
    d.label(MARGIN + w / 2, 176, "You are here", INK, "middle", bold=True)
    d.arrow((MARGIN + w / 2, 186), (MARGIN + w / 2, floor - 132))
    spans = [(0, 2, "build the parts"), (3, 3, "pretrain"), (4, 5, "finetune for one task")]
    for first, last, text in spans:
        d.bracket((MARGIN + first * step, 378), (MARGIN + last * step + w, 378), text)
    return d


def media():
    """Three rows: a text, a sound wave and a pixel image of a boat each go through an embedding
    model of their own, and each comes out as a vector, a row of numbers shown as shades."""
    d = Drawing("Embedding models turn any medium into a vector", 412)
    for x, heading in [(126, "input"), (360, "embedding model"), (590, "vector")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    vectors = {"text": (3, 0, 2, 1, 0, 3), "sound": (1, 2, 0, 3, 2, 1), "image": (0, 3, 1, 1, 3, 2)}
    for i, (kind, shades) in enumerate(vectors.items()):
        y = 104 + 88 * i
        frame = d.box(MARGIN, y, 196, 70, color=TEXT)
        model = d.box(276, y + 9, 168, 52, f"{kind} model", MODEL)
        vector = d.vector(508, y + 21, shades, cell=(27, 28))
        d.arrow(frame.right, model.left)
        d.arrow(model.right, vector.left)
    d.text(126, 139, "a quiet harbor", BODY, INK, mono=True)
    for i, h in enumerate([8, 18, 34, 22, 44, 52, 28, 14, 30, 46, 36, 16, 24, 10]):
        d.rect(Box(49 + 11.4 * i, 227 - h / 2, 6, h), TEXT, TEXT, radius=3)
    boat = [
        "......#.....",
        ".....##.....",
        "....###.....",
        "..########..",
        "~~~######~~~",
        "~~~~~~~~~~~~",
    ]
    for r, line in enumerate(boat):
        for c, pixel in enumerate(line):
            fill = tint(TEXT, SHADES[{".": 0, "~": 2, "#": 3}[pixel]])
            d.rect(Box(72 + 9 * c, 288 + 9 * r, 9, 9), fill, fill)
    d.label(MARGIN, 384, "Shades stand for numbers. Each kind of input needs a model of its own.")
    return d


def related_words():
    """Scatter plot of words in two dimensions. Animals, cities and foods form three separate
    groups: words of related meaning lie close together."""
    d = Drawing("Words of related meaning lie close together", 464)
    d.arrow((64, 396), (64, 66), gap=0)
    d.arrow((64, 396), (672, 396), gap=0)
    d.label(668, 416, "dimension 1", anchor="end")
    d.label(76, 76, "dimension 2")
    groups = {
        "animals": (92, 98, [("cat", 38, 52), ("dog", 88, 102), ("horse", 122, 60)]),
        "cities": (428, 84, [("Paris", 48, 56), ("Oslo", 118, 94), ("Rome", 32, 108)]),
        "foods": (322, 252, [("bread", 36, 54), ("rice", 128, 44), ("soup", 80, 94)]),
    }
    for name, (left, top, members) in groups.items():
        d.box(left, top, 214, 132, color=GREY, dashed=True)
        d.label(left + 14, top + 18, name, INK, bold=True)
        for word, x, y in members:
            d.dot(left + x, top + y)
            d.text(left + x + 12, top + y, word, BODY, INK, "start", mono=True)
    d.label(MARGIN, 438, "A sketch: this chapter ends with vectors of 256 dimensions, not 2.")
    return d


def pipeline():
    """The sentence "Rain falls on tin roofs." goes down four steps: it is cut into six tokens,
    each token gets an id, each id a vector of three numbers, and the model reads the vectors."""
    text = "Rain falls on tin roofs."
    ids = vocabulary(text)
    d = Drawing("From text to what the model reads", 502)
    x0, step, w = 116, 77, 71
    whole = d.box(x0, 70, 6 * step - 6, 38, text, TEXT, mono=True)
    model = d.box(x0, 430, 6 * step - 6, 44, "GPT model", MODEL, bold=True)
    for i, token in enumerate(words(text)):
        x = x0 + i * step
        chip = d.chip(x, 148, token, TEXT, w)
        number = d.chip(x, 222, str(ids[token]), IDS, w)
        cells = [[n] for n in numbers(TOKEN_TABLE[ids[token]])]
        column = d.matrix(x, 296, cells, VECTORS, (w, 30))
        d.arrow((x + w / 2, whole.bottom[1]), chip.top)
        d.arrow(chip.bottom, number.top)
        d.arrow(number.bottom, column[0][0].top)
        d.arrow(column[-1][0].bottom, (x + w / 2, model.y))
    rows = [(89, "text"), (165, "tokens"), (239, "token ids"), (341, "vectors"), (452, "model")]
    for y, name in rows:
        d.label(MARGIN, y, name, INK, bold=True)
    steps = [(128, "cut", "§ 2.2, 2.5"), (202, "find ids", "§ 2.3, 2.4"), (276, "look up", "§ 2.7")]
    for y, verb, sections in steps:
        d.label(x0 + 6 * step + 8, y - 10, f"{verb}\n{sections}")
    d.label(x0 + 6 * step + 8, 398, "read\nchapter 4")
    return d


def cut_into_tokens():
    """A sentence is cut at spaces and at punctuation. The pieces that are spaces are dropped;
    six words and three punctuation marks remain, each of them a token."""
    text = "Rain again -- bring a coat, Tom!"
    d = Drawing("Words and punctuation marks become tokens", 332)
    for y, name in [(88, "text"), (164, "pieces"), (240, "tokens")]:
        d.label(MARGIN, y, name, INK, bold=True)
    pieces = [piece for piece in re.split(SPLIT, text) if piece]
    x0 = x = 92
    for piece in pieces:
        space, mark = piece == " ", not piece.isalpha()
        look = {"dashed": True, "color": GREY} if space else {"strong": mark}
        cut = d.chip(x, 147, "" if space else piece, w=20 if space else None, **look)
        if not space:
            d.arrow(cut.bottom, d.chip(x, 223, piece, **look).top)
        x += cut.w + 5
    whole = d.box(x0, 71, x - 5 - x0, 34, text, TEXT, mono=True)
    d.arrow(whole.bottom, (whole.center[0], 147), label="cut")
    dropped = {"color": GREY, "dashed": True}
    looks = {"color": TEXT}, {"color": TEXT, "strong": True}, dropped
    d.legend(x0, 300, zip(("word", "punctuation", "space, dropped"), looks, strict=True))
    return d


def build_vocabulary():
    """Ten tokens of a text. Repeated ones are left out, the seven distinct ones are sorted,
    punctuation first, then capitals, then lower case, and numbered from 0 to 6."""
    d = Drawing("The vocabulary numbers the sorted distinct tokens", 424)
    x0, w, step = 132, 46, 55
    for y, name in [(91, "tokens"), (177, "distinct"), (297, "sorted"), (337, "id")]:
        d.label(MARGIN, y, name, INK, bold=True)
    tokens = words(TOY_TEXT)
    for i, token in enumerate(tokens):
        if token in tokens[:i]:
            d.chip(x0 + i * step, 74, token, GREY, w, dashed=True)
        else:
            chip = d.chip(x0 + i * step, 74, token, w=w)
            d.arrow(chip.bottom, d.chip(x0 + i * step, 160, token, w=w).top)
    d.bracket((x0, 202), (x0 + 8 * step + w, 202), "")
    table = d.box(x0 - 10, 270, 7 * step + 11, 94)
    d.arrow((table.center[0], 210), table.top, label="sort: punctuation, capitals, lower case")
    for token, i in TOY_VOCABULARY.items():
        d.chip(x0 + i * step, 280, token, w=w)
        d.chip(x0 + i * step, 320, str(i), IDS, w)
    d.legend(x0, 392, [("seen before, left out", {"color": GREY, "dashed": True})])
    return d


def vocabulary_table(d, x, y, rows, used=()):
    """Two columns, token and id; returns the pairs of boxes by token."""
    pairs = {}
    for r, (token, i) in enumerate(rows.items()):
        special = token.startswith("<|")
        color = FOCUS if special else TEXT
        look = {"strong": token in used}
        left = d.chip(x, y + 32 * r, token, color, 140, 28, **look)
        right = d.chip(x + 144, y + 32 * r, str(i), FOCUS if special else IDS, 44, 28, **look)
        pairs[token] = left, right
    return pairs


def encode_text():
    """The tokens of a new text point into the vocabulary table; from the rows they hit, arrows
    lead to their ids 2, 4, 5 and 1."""
    text = "A dog sat."
    d = Drawing("Encoding: find each token in the vocabulary", 400)
    for x, heading in [(82, "new text"), (350, "vocabulary"), (616, "its ids")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    pairs = vocabulary_table(d, 260, 104, TOY_VOCABULARY, words(text))
    for i, token in enumerate(words(text)):
        chip = d.chip(50, 132 + 48 * i, token, w=64)
        number = d.chip(584, 132 + 48 * i, str(TOY_VOCABULARY[token]), IDS, w=64)
        left, right = pairs[token]
        d.arrow(chip.right, left.left)
        d.arrow(right.right, number.left)
    d.label(MARGIN, 368, "The vocabulary comes from the training text, not from the new one.")
    return d


def encode_decode():
    """Three columns: a text, its four tokens, their four ids. Encoding runs to the right by
    "split" and "str_to_int", decoding runs back to the left by "int_to_str" and "join"."""
    text = "A dog sat."
    d = Drawing("Encoding and decoding are opposite ways", 412)
    d.arrow((MARGIN, 100), (672, 100), color=INK, gap=0)
    d.label(350, 82, "encode", INK, "middle", bold=True)
    d.arrow((672, 364), (MARGIN, 364), color=INK, gap=0)
    d.label(350, 382, "decode", INK, "middle", bold=True)
    source = d.box(MARGIN, 178, 136, 120, text, TEXT, mono=True)
    for i, token in enumerate(words(text)):
        d.chip(312, 149 + 48 * i, token, w=80)
        d.chip(592, 149 + 48 * i, str(TOY_VOCABULARY[token]), IDS, w=80)
    for x, name in [(source.center[0], "text"), (352, "tokens"), (632, "ids")]:
        d.label(x, 132, name, INK, "middle", bold=True)
    steps = [(164, 312, "split", "join"), (392, 592, "str_to_int", "int_to_str")]
    for x1, x2, there, back in steps:
        d.arrow((x1, 210), (x2, 210), label=there, gap=10)
        d.arrow((x2, 270), (x1, 270), label=back, gap=10)
    return d


def special_tokens():
    """The sentence "A bird sat." contains a word that the vocabulary lacks. The word becomes
    <|unk|> with id 8; the table shows <|endoftext|> and <|unk|> appended after the text's own
    seven tokens, as ids 7 and 8."""
    text = "A bird sat."
    table = TOY_VOCABULARY | {"<|endoftext|>": 7, "<|unk|>": 8}
    d = Drawing("Two special tokens extend the vocabulary", 416)
    for x, heading in [(64, "new text"), (187, "token"), (302, "id"), (476, "vocabulary")]:
        d.label(x, 80, heading, INK, "middle", bold=True)
    vocabulary_table(d, 386, 104, table)
    for i, token in enumerate(words(text)):
        known = token if token in table else "<|unk|>"
        color = TEXT if known == token else FOCUS
        y = 104 + 64 * i
        first = d.chip(MARGIN, y, token, color, 72)
        second = d.chip(140, y, known, color, 94)
        third = d.chip(278, y, str(table[known]), IDS if known == token else FOCUS, 48)
        d.arrow(first.right, second.left)
        d.arrow(second.right, third.left)
    d.label(MARGIN, 358, '"bird" is not in the vocabulary:\nwithout <|unk|> it is a KeyError', INK)
    for y1, y2, text in [(104, 324, "from the\ntext"), (328, 388, "special,\nadded")]:
        d.bracket((580, y1), (580, y2), text)
    return d


def joined_documents():
    """Three unrelated documents, a recipe, a match report and a letter, become one long training
    text. A token <|endoftext|> stands at each border between two of them."""
    d = Drawing("One training text from unrelated documents", 340)
    documents = {
        "recipe": "Add two eggs.",
        "match report": "They won 2-1.",
        "letter": "Dear Ana, hi!",
    }
    w, step = 125, 129.75
    for i, (kind, text) in enumerate(documents.items()):
        x = MARGIN + 2 * i * step
        page = d.box(x, 70, w, 76, color=TEXT)
        d.label(page.center[0], 90, kind, INK, "middle", bold=True)
        d.text(page.center[0], 122, text, SMALL, INK)
        d.arrow(page.bottom, d.chip(x, 204, text, w=w, h=44, size=SMALL).top)
        if i < 2:
            d.chip(x + step, 204, "<|endoftext|>", FOCUS, w, 44, SMALL)
    d.bracket((MARGIN, 256), (672, 256), "one training text")
    d.label(MARGIN, 312, "The marker says: what follows has nothing to do with what came before.")
    return d


def bpe_pieces():
    """The made-up words "Akwirw ier" twice. A word vocabulary turns each word into <|unk|>.
    Byte pair encoding cuts them into the known pieces Ak, w, ir, w, space and ier, with the ids
    33901, 86, 343, 86, 220 and 959, from which the text can be restored."""
    d = Drawing("BPE breaks unknown words into known pieces", 470)
    for y, name in [(87, "word vocabulary"), (225, "byte pair encoding")]:
        d.label(MARGIN, y, name, INK, bold=True)
    for y, name in [(157, "both words are lost"), (295, "ids"), (391, "decoded again")]:
        d.label(MARGIN, y, name)
    x0 = x = 220
    for word, w in [("Akwirw", 288.5), ("ier", 86)]:
        first = d.chip(x, 70, word, w=w)
        d.arrow(first.bottom, d.chip(x, 140, "<|unk|>", FOCUS, w).top)
        x += w + 79
    x = x0
    for piece, number in zip(MADE_UP["pieces"], MADE_UP["ids"], strict=True):
        w = 86 if len(piece) == 3 else 68
        chip = d.chip(x, 208, piece, w=w)
        d.arrow(chip.bottom, d.chip(x, 278, str(number), IDS, w).top)
        x += w + 5.5
    end = x - 5.5
    d.bracket((x0, 320), (end, 320), "")
    back = d.box(x0, 374, end - x0, 34, "Akwirw ier", TEXT, mono=True)
    d.arrow((back.center[0], 328), back.top)
    d.label(MARGIN, 440, "· is a space. Nothing is lost: single bytes are the smallest pieces.")
    return d


def growing_context():
    """Five rows over the same sentence, "The boat left the port when". In row one the model
    sees one token and must predict the second; each row below sees one token more and predicts
    the next one."""
    d = Drawing("The context grows; the next token is the target", 384)
    seen, target, hidden = (
        {"color": TEXT},
        {"color": FOCUS, "strong": True},
        {"color": LINE, "dashed": True},
    )
    for row in range(1, 6):
        y = 26 + 46 * row
        d.label(MARGIN, y + 17, f"step {row}")
        for i, piece in enumerate(BOAT["pieces"][:6]):
            look = seen if i < row else target if i == row else hidden
            d.chip(96 + 97 * i, y, "" if i > row else piece, w=91, **look)
    names = ("input: the context", "target: the next token", "not seen yet")
    d.legend(96, 324, zip(names, (seen, target, hidden), strict=True))
    d.label(96, 354, "· is the space that belongs to the token")
    return d


def sliding_window():
    """Nine tokens with their ids. Below them two input windows, tokens 0 to 3 and 4 to 7; under
    each lies its target window, shifted right by one, so that every input id points to the id that
    follows it."""
    d = Drawing("The target is the input shifted by one", 424)
    w, step, x0 = 64, 66.5, 76
    for y, name in [(88, "text"), (132, "ids")]:
        d.label(MARGIN, y, name, INK, bold=True)
    for i, (piece, number) in enumerate(zip(BOAT["pieces"], BOAT["ids"], strict=True)):
        d.chip(x0 + i * step, 71, piece, w=w, size=SMALL)
        d.chip(x0 + i * step, 115, str(number), IDS, w=w, size=SMALL)
    for start, y in [(0, 186), (4, 304)]:
        d.label(MARGIN, y + 17, "input", INK, bold=True)
        d.label(MARGIN, y + 73, "target", INK, bold=True)
        for i in range(start, start + 4):
            number, following = map(str, BOAT["ids"][i : i + 2])
            x = x0 + i * step
            above = d.chip(x, y, number, IDS, w, size=SMALL)
            below = d.chip(x + step, y + 56, following, FOCUS, w, size=SMALL, strong=True)
            d.arrow(above.bottom, below.top)
    d.label(440, 203, "window 1: each input id\nhas the id after it as target")
    d.label(MARGIN + 60, 321, "window 2, stride 4:\nbegins four tokens later")
    return d


def strides():
    """Two panels over the same nine tokens, windows of length 4. With stride 1 there are five
    windows that overlap, and the middle tokens are read four times; with stride 4 two windows lie
    end to end, and each of eight tokens is read once."""
    d = Drawing("The stride decides how much windows overlap", 440)
    length, n, cell = 4, 9, 32
    for x0, stride in [(MARGIN, 1), (384, 4)]:
        starts = range(0, n - length, stride)
        d.text(x0, 82, f"stride {stride}", BODY, INK, "start", bold=True)
        d.label(x0 + 80, 82, f"{len(starts)} windows of length {length}")
        for i in range(n):
            d.chip(x0 + i * cell, 104, str(i), w=cell - 3, h=28, size=SMALL)
            read = sum(start <= i < start + length for start in starts)
            d.chip(x0 + i * cell, 356, str(read), LINE, cell - 3, 28, SMALL, bold=read > 1)
        for row, start in enumerate(starts):
            for i in range(length):
                d.chip(x0 + (start + i) * cell, 148 + 34 * row, "", IDS, cell - 3, 24, strong=True)
        d.label(x0, 338, "how often each token is an input:")
    d.label(206, 158, "neighbors share\n3 of 4 tokens")
    d.label(384, 240, "no token is read twice")
    d.label(MARGIN, 412, "Token 8 is only ever a target: it follows the last input.")
    return d


def embedding_layer():
    """Four ids enter an embedding layer and leave it as four vectors, which the model reads to
    make a prediction. A dashed arrow runs back from the prediction to the layer: training
    corrects the numbers in the layer's table."""
    d = Drawing("An embedding layer is a table that training adjusts", 332)
    layer = d.box(150, 104, 150, 132, "embedding\nlayer\n6 × 3 numbers", VECTORS, strong=True)
    model = d.box(456, 104, 84, 132, "model", MODEL)
    answer = d.box(574, 140, 98, 60, "prediction", LINE, SMALL)
    d.label(62, 82, "ids", INK, "middle", bold=True)
    d.label(375, 82, "vectors", INK, "middle", bold=True)
    vectors = {2: (3, 1, 0), 3: (0, 3, 1), 5: (1, 2, 0), 1: (2, 3, 3)}
    for i, (number, shades) in enumerate(vectors.items()):
        y = 104 + 34 * i
        chip = d.chip(40, y, str(number), IDS, 44, 28)
        vector = d.vector(342, y + 3, shades)
        d.arrow(chip.right, (layer.x, y + 14))
        d.arrow((layer.x + layer.w, y + 14), vector.left)
        d.arrow(vector.right, (model.x, y + 14))
    d.arrow(model.right, answer.left)
    d.arrow(
        answer.bottom,
        (answer.center[0], 280),
        (layer.center[0], 280),
        layer.bottom,
        color=FOCUS,
        dashed=True,
    )
    d.label(424, 302, "training corrects the numbers, random at first", INK, "middle")
    return d


def row_lookup():
    """A table of six rows and three columns. The ids 2, 3, 5 and 1 pick the rows of these numbers,
    and the picked rows, in that order, are the result of the embedding layer."""
    d = Drawing("The embedding of an id is a row of the table", 334)
    ids = (2, 3, 5, 1)
    d.label(58, 116, "ids", INK, "middle", bold=True)
    d.label(286, 82, "weights, 6 × 3", INK, "middle", bold=True)
    d.label(567, 116, "result, 4 × 3", INK, "middle", bold=True)
    table = d.matrix(181, 100, [numbers(row, 4) for row in TOKEN_TABLE], cell=(70, 34), marked=ids)
    for r in range(6):
        d.label(172, 117 + 34 * r, str(r), INK, "end")
    picked = [numbers(TOKEN_TABLE[i], 4) for i in ids]
    result = d.matrix(462, 134, picked, cell=(70, 34), marked=range(4))
    for i, number in enumerate(ids):
        chip = d.chip(36, 136 + 34 * i, str(number), IDS, 44, 30)
        d.arrow(chip.right, (160, 117 + 34 * number))
        d.arrow(table[number][-1].right, result[i][0].left)
    return d


def same_vector():
    """The sentences "dog bites man" and "man bites dog" face each other. Lines between them join
    equal vectors: each word has the same three numbers at every position, only the order
    differs."""
    ids = {"dog": 2, "bites": 1, "man": 3}
    d = Drawing("One token, one vector, wherever it stands", 320)
    ends = {}
    for side, order in enumerate([("dog", "bites", "man"), ("man", "bites", "dog")]):
        xs = (604, 562, 400) if side else (MARGIN, 102, 144)
        d.label(536 if side else 164, 82, " ".join(order), INK, "middle", bold=True)
        for i, word in enumerate(order):
            y = 106 + 54 * i
            d.chip(xs[0], y, word, w=68)
            d.chip(xs[1], y, str(ids[word]), IDS, 36)
            row = d.matrix(xs[2], y, [numbers(TOKEN_TABLE[ids[word]])], cell=(52, 34))[0]
            ends.setdefault(word, []).append(row[0].left if side else row[-1].right)
    for start, end in ends.values():
        d.line(start, end, color=VECTORS)
    d.label(350, 82, "same vectors", anchor="middle")
    d.label(MARGIN, 290, "The vectors alone do not say who bites whom: positions must be added.")
    return d


def add_positions():
    """Three tables of three rows for the tokens dog, bites, dog: token vectors plus position
    vectors equals input vectors. The two rows of dog are equal in the first table and differ in
    the last."""
    d = Drawing("Token vector + position vector = input vector", 330)
    ids = {"dog": 2, "bites": 1}
    order = ("dog", "bites", "dog")
    token = [[round(v, 2) for v in TOKEN_TABLE[ids[word]]] for word in order]
    position = POSITION_TABLE[:3]
    pairs = zip(token, position, strict=True)
    total = [[a + b for a, b in zip(*rows, strict=True)] for rows in pairs]
    for x, name, table, color, marked, note in [
        (102, "token", token, VECTORS, (0, 2), "equal for dog"),
        (306, "position 0, 1, 2", position, POSITIONS, (), "one row per position"),
        (510, "input", total, MODEL, (0, 2), "differs for dog"),
    ]:
        d.label(x + 81, 84, name, INK, "middle", bold=True)
        d.matrix(x, 106, [numbers(row) for row in table], color, (54, 40), marked=marked)
        d.label(x + 81, 248, note, anchor="middle")
    for i, word in enumerate(order):
        d.chip(MARGIN, 109 + 40 * i, word, w=66)
    d.text(285, 166, "+", 20, INK, bold=True)
    d.text(489, 166, "=", 20, INK, bold=True)
    d.label(MARGIN, 300, "The numbers were rounded to two decimals before they were added.")
    return d


def input_pipeline():
    """A text is cut into ids of shape (8, 4), which become token embeddings of shape (8, 4, 256).
    The positions 0 to 3 become position embeddings of shape (4, 256). Their sum, of shape
    (8, 4, 256), goes to the model."""
    d = Drawing("The whole input pipeline, with shapes", 484)
    text = d.box(MARGIN, 70, 112, 38, "text", TEXT)
    ids = d.block(52, 146, 8, 4, IDS)
    d.arrow(text.bottom, ids.top, label="tokenize, cut windows")
    d.label(84, 292, "ids (8, 4)", INK, "middle")
    places = d.block(52, 362, 1, 4, POSITIONS)
    d.label(84, 396, "positions\n0 1 2 3", INK, "middle")
    token_layer = d.box(
        156, 168, 124, 84, "token\nembedding\n50257 × 256", VECTORS, SMALL, strong=True
    )
    place_layer = d.box(
        156, 328, 124, 84, "position\nembedding\n4 × 256", POSITIONS, SMALL, strong=True
    )
    tokens = d.block(316, 158, 8, 4, VECTORS, depth=24)
    d.label(348, 304, "(8, 4, 256)", INK, "middle")
    positions = d.block(316, 374, 1, 4, POSITIONS, depth=24)
    d.label(348, 408, "(4, 256)", INK, "middle")
    plus = d.box(428, 274, 32, 32, "+", LINE, bold=True)
    total = d.block(496, 238, 8, 4, MODEL, depth=24)
    d.label(528, 384, "input\n(8, 4, 256)", INK, "middle")
    d.label(430, 132, "depth: 256 numbers\nfor each token")
    model = d.box(618, 240, 54, 100, "GPT", MODEL, SMALL)
    for path in [
        (ids, token_layer, tokens),
        (places, place_layer, positions),
        (plus, total, model),
    ]:
        for start, end in pairwise(path):
            d.arrow(start.right, end.left)
    d.arrow(tokens.right, (444, tokens.center[1]), plus.top)
    d.arrow(positions.right, (444, positions.center[1]), plus.bottom)
    d.label(MARGIN, 454, "The same 4 position vectors are added to each of the 8 windows.")
    return d


DRAWINGS = {
    "01-stages": stages,
    "02-media-to-vectors": media,
    "03-related-words": related_words,
    "04-pipeline": pipeline,
    "05-cut-into-tokens": cut_into_tokens,
    "06-build-vocabulary": build_vocabulary,
    "07-encode-text": encode_text,
    "08-encode-decode": encode_decode,
    "09-special-tokens": special_tokens,
    "10-joined-documents": joined_documents,
    "11-bpe-pieces": bpe_pieces,
    "12-growing-context": growing_context,
    "13-sliding-window": sliding_window,
    "14-strides": strides,
    "15-embedding-layer": embedding_layer,
    "16-row-lookup": row_lookup,
    "17-same-vector": same_vector,
    "18-add-positions": add_positions,
    "19-input-pipeline": input_pipeline,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
