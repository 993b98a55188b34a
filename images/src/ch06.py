"""Pictures of chapter 6. Each function's docstring is its picture's alt text.

The numbers are the book's, those of the models' shapes, or follow here from the numbers that a
picture shows. tests/test_images.py computes them again.
"""

from itertools import pairwise
from math import exp, log

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
)

HAM, SPAM = VECTORS, FOCUS
PAD = 50256

# tiktoken.get_encoding("gpt2"): pieces and ids; "·" stands for a space. The first is section 6.5's
# text, the others are made up, with their labels
FOUR_TOKENS = {"pieces": ["Do", "·you", "·have", "·time"], "ids": [5211, 345, 423, 640]}
MESSAGES = [
    (0, {"pieces": ["Home", "·soon"], "ids": [16060, 2582]}),
    (1, {"pieces": ["You", "·have", "·won", "·a", "·prize"], "ids": [1639, 423, 1839, 257, 11596]}),
    (0, {"pieces": ["See", "·you", "·at", "·eight"], "ids": [6214, 345, 379, 3624]}),
]

# Section 6.2: the book's data
ROWS = {"ham": 4825, "spam": 747}
PARTS = {"training": 1045, "validation": 149, "test": 300}

# Parameters: the pocket model's parts, of which it has four blocks, and the classifier's head
POCKET_WIDTH, VOCAB_SIZE, BLOCKS = 256, 50257, 4
BLOCK_PARAMETERS, NORM_PARAMETERS = 788_992, 512
EMBEDDING_PARAMETERS = VOCAB_SIZE * POCKET_WIDTH + 256 * POCKET_WIDTH
HEAD_PARAMETERS = 2 * POCKET_WIDTH + 2

# Made-up logits of a message, ham first
LOGITS = (-1.0, 1.5)

# Made-up counts of a classifier's answers: a row for each label, a column for each answer
COUNTS = ((95, 5), (10, 90))


def softmax(logits):
    powers = [exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def minus(text):
    """A number's text with a true minus sign."""
    return text.replace("-", "−")


def captioned(d, box, *lines):
    """A box's small heading, its name, and what it is about, inside it."""
    heading, name, about = lines
    x = box.center[0]
    d.label(x, box.y + 18, heading, GREY, "middle")
    d.label(x, box.y + 41, name, INK, "middle", bold=True)
    d.label(x, box.y + 67, about, INK, "middle")


def roadmap():
    """Top: chapters 2 to 7; chapter 6, the classifier, is marked "you are here". Below: the
    pretrained model of chapter 5 gets a new head with two outputs, is trained on messages with
    labels, ham or spam, and then says of a new message which of the two it is."""
    d = Drawing("Where we are, and what this chapter is for", 346)
    names = ("Text data", "Attention", "GPT model", "Pretraining", "Classifier", "Assistant")
    for i, name in enumerate(names):
        here = i == 4
        box = d.box(MARGIN + 108.4 * i, 68, 102, 52, color=TEXT if here else LINE, strong=here)
        d.label(box.center[0], 84, f"Chapter {i + 2}", INK if here else GREY, "middle")
        d.label(box.center[0], 105, name, INK, "middle", bold=True)
    here = MARGIN + 4 * 108.4 + 51
    d.line((MARGIN, 172), (MARGIN, 162), (672, 162), (672, 172))
    d.line((here, 122), (here, 162))
    d.label(here + 12, 141, "You are here", INK, bold=True)
    boxes = []
    for i, (heading, name, about) in enumerate(
        [
            ("Chapter 5", "GPT model", "knows how\ntexts go on"),
            ("6.2, 6.3", "Messages", "with labels,\nin batches"),
            ("6.4, 6.5", "New head", "2 outputs,\nnot 50,257"),
            ("6.6, 6.7", "Finetuning", "short training\non labels"),
            ("6.8", "Classifier", "“spam” or\n“not spam”"),
        ]
    ):
        box = d.box(MARGIN + 133 * i, 190, 112, 104, color=TEXT if i else LINE, strong=i == 4)
        x = box.center[0]
        d.label(x, 208, heading, GREY, "middle")
        d.label(x, 231, name, INK, "middle", bold=True)
        d.label(x, 260, about, INK, "middle")
        boxes.append(box)
    for left, right in pairwise(boxes):
        d.arrow(left.right, right.left, gap=3)
    d.label(
        MARGIN, 322, "Most of what the model knows stays; the training adds what to do with it."
    )
    return d


def two_finetunings():
    """Two ways to finetune. Instruction finetuning: a request such as "Is this message spam?" is
    answered in words, any words, and the same model does many tasks. Classification finetuning: the
    message alone goes in, and one of two labels, ham or spam, comes out."""
    d = Drawing("Two kinds of finetuning", 420)
    for y, heading, given, answers, about in [
        (
            70,
            "Instruction finetuning (chapter 7)",
            "Is this spam? “You\nhave won a prize”",
            ["Yes, it is.", "Yes, because …", "I think so."],
            "any words,\nmany tasks:\nmuch training",
        ),
        (
            232,
            "Classification finetuning (this chapter)",
            "You have won a prize",
            ["ham", "spam"],
            "one of two labels,\none task:\nlittle training",
        ),
    ]:
        d.label(MARGIN, y + 10, heading, INK, bold=True)
        text = d.box(MARGIN, y + 40, 184, 72, given, TEXT, SMALL)
        model = d.box(252, y + 46, 84, 60, "GPT", MODEL)
        d.arrow(text.right, model.left, gap=4)
        height = 30 * len(answers) + 6 * (len(answers) - 1)
        top = y + 76 - height / 2
        fixed = len(answers) == 2
        for i, answer in enumerate(answers):
            color = (HAM, SPAM)[i] if fixed else TEXT
            row = top + 36 * i
            box = d.box(376, row, 140, 30, answer, color, SMALL, strong=fixed and i == 1)
            d.arrow(model.right, box.left, gap=4, dashed=not fixed)
        d.label(528, y + 56, about, INK)
    d.label(
        MARGIN, 396, "A classifier cannot say anything else, and needs to learn nothing but this."
    )
    return d


def balance_and_split():
    """The book's collection has 4,825 ham and 747 spam messages. A sample of 747 ham is kept, and
    all spam: 1,494 messages. Shuffled, they are cut into 1,045 to train on, 149 for validation and
    300 for the test, each with both classes in it."""
    d = Drawing("Balance, shuffle, split: the book’s collection", 424)
    scale = 644 / sum(ROWS.values())
    d.label(MARGIN, 80, f"all {sum(ROWS.values()):,} messages", INK, bold=True)
    ham, spam = ROWS["ham"] * scale, ROWS["spam"] * scale
    d.box(MARGIN, 96, ham, 34, f"ham {ROWS['ham']:,}", HAM)
    d.box(MARGIN + ham, 96, spam, 34, f"spam {ROWS['spam']}", SPAM, SMALL, strong=True)
    kept = Box(MARGIN + ham - spam, 180, spam, 34)
    d.label(MARGIN, 164, "balanced: as much ham as spam, drawn at random", INK, bold=True)
    d.box(MARGIN, 180, kept.x - MARGIN - 6, 34, "the rest of the ham is left out", dashed=True)
    d.box(*kept, f"ham {ROWS['spam']}", HAM, SMALL)
    d.box(MARGIN + ham, 180, spam, 34, f"spam {ROWS['spam']}", SPAM, SMALL, strong=True)
    for x in (kept.center[0], MARGIN + ham + spam / 2):
        d.arrow((x, 130), (x, 180), gap=4)
    total = 2 * ROWS["spam"]
    d.line((kept.x, 218), (kept.x, 226), (672, 226), (672, 218))
    d.arrow((kept.x + spam, 226), (kept.x + spam, 262), gap=3)
    d.label(MARGIN, 248, f"shuffled and cut: {total:,} messages", INK, bold=True)
    x = MARGIN
    for i, rows in enumerate(PARTS.values()):
        w = 644 * rows / total
        d.rect(Box(x, 264, w, 34), WHITE, LINE, radius=4)
        stripes = max(2, round(w / 8))
        for k in range(stripes):
            color = SPAM if (k * 7 + i) % 5 in (0, 3) or (k * 3) % 7 == 1 else HAM
            d.rect(Box(x + 4 + (w - 8) * k / stripes, 268, (w - 8) / stripes, 26), color, color)
        names = ("to learn from", "validation:\nto choose by", "test: to\nmeasure by")
        left = (x, x - 28, x + 36)[i]  # the second is narrow
        d.label(left, 318, f"{rows:,}", INK, bold=True)
        d.label(left, 338, names[i], INK)
        x += w
    d.label(
        MARGIN,
        400,
        "Half of each part is spam, nearly: who always says “ham” is right half the time.",
    )
    return d


def padding():
    """Three messages with 2, 5 and 4 tokens: "Home soon", ham; "You have won a prize", spam; "See
    you at eight", ham. Their ids stand in a table of 3 rows and 5 columns, and the places that are
    left over hold the padding id 50256. Beside it stand the labels 0, 1 and 0."""
    d = Drawing("A batch: messages of one length, with labels", 412)
    w, longest = 72, max(len(text["ids"]) for _, text in MESSAGES)
    x0 = MARGIN + 88
    d.label(MARGIN, 82, "the messages’ tokens", INK, bold=True)
    for r, (_, text) in enumerate(MESSAGES):
        d.label(MARGIN, 115 + 36 * r, f"message {r + 1}", INK)
        for c, piece in enumerate(text["pieces"]):
            d.chip(x0 + w * c, 100 + 36 * r, piece, TEXT, w - 4, 30, SMALL)
    d.label(MARGIN, 232, "the batch: ids, shape (3, 5)", INK, bold=True)
    d.label(516, 232, "labels, shape (3,)", INK, bold=True)
    for r, (label, text) in enumerate(MESSAGES):
        y = 250 + 34 * r
        for c in range(longest):
            own = c < len(text["ids"])
            box = Box(x0 + w * c, y, w, 34)
            number = str(text["ids"][c]) if own else str(PAD)
            d.matrix(box.x, y, [[number]], IDS if own else LINE, (w, 34))
        d.matrix(516, y, [[str(label)]], SPAM if label else HAM, (w, 34), (0,))
        d.label(MARGIN, y + 17, f"message {r + 1}", INK)
    d.arrow((x0 + 2.5 * w, 200), (x0 + 2.5 * w, 250), label="encode, then fill up", gap=4)
    d.label(
        MARGIN, 372, f"Grey: padding, id {PAD}, up to the longest message. 0 is ham, 1 is spam."
    )
    d.label(
        MARGIN, 392, "Token by token the model sees it all: padding is no hole, it is a token too."
    )
    return d


def new_head():
    """The pocket model makes a vector of 256 numbers for the last token. Its old head turns it into
    50,257 logits, one for each token that could come next, with 12,865,792 weights. The new head
    turns it into 2 logits, ham and spam, with 514 weights."""
    d = Drawing("The output layer is replaced", 400)
    tokens = d.box(MARGIN, 84, 150, 40, "ids of a message", IDS, SMALL)
    body = d.box(MARGIN, 164, 150, 84, "embeddings,\n4 blocks,\nnormalization", MODEL, SMALL)
    vector = d.vector(MARGIN + 9, 292, (1, 3, 0, 2, 1, 2))
    d.label(MARGIN, 334, f"{POCKET_WIDTH} numbers for the last token", INK)
    d.down(tokens, body, gap=4)
    d.arrow(body.bottom, vector.top, gap=4)
    old_weights = VOCAB_SIZE * POCKET_WIDTH
    for y, name, size, outputs, about in [
        (88, "old head", old_weights, f"{VOCAB_SIZE:,} logits", "which token\ncomes next?"),
        (236, "new head", HEAD_PARAMETERS, "2 logits", "ham or spam?"),
    ]:
        old = y == 88
        d.box(
            268,
            y,
            160,
            72,
            f"{name}\n{size:,}\nparameters",
            LINE if old else KEYS,
            SMALL,
            strong=not old,
            dashed=old,
        )
        d.arrow((MARGIN + 145, 303), (226, 303), (226, y + 36), (268, y + 36), gap=4, dashed=old)
        if old:
            cells = [[((5 * c) % 11 / 12 + 0.05) ** 2 for c in range(9)]]
            d.heat(474, y + 16, cells, 1, (16, 30), None)
            d.label(626, y + 31, "…", INK)
        else:
            d.matrix(474, y + 16, [["ham", "spam"]], HAM, (56, 30))
        d.arrow((428, y + 31), (474, y + 31), gap=4, dashed=old)
        d.label(474, y, outputs, INK, bold=True)
        d.label(474, y + 64, about, INK)
    d.label(MARGIN, 374, "All before the head is kept. The new head begins with random weights.")
    return d


def frozen_and_trained():
    """The pocket classifier's layers with their numbers of parameters. Frozen: the embeddings,
    12,931,328, and blocks 1 to 3, 788,992 each. Trained: block 4, 788,992, the last normalization,
    512, and the new head, 514: about 5 percent of all."""
    d = Drawing("What is frozen, what is trained", 470)
    rows = [("token and position embeddings", EMBEDDING_PARAMETERS, False)]
    rows += [(f"block {i + 1}", BLOCK_PARAMETERS, i == BLOCKS - 1) for i in range(BLOCKS)]
    rows += [("final normalization", NORM_PARAMETERS, True), ("new head", HEAD_PARAMETERS, True)]
    boxes = []
    for i, (name, count, trained) in enumerate(rows):
        color = KEYS if trained else LINE
        boxes.append(d.box(MARGIN, 74 + 48 * i, 300, 34, name, color, strong=trained))
        d.label(446, 91 + 48 * i, f"{count:,}", INK, "end")
    d.down(*boxes, gap=2)
    d.label(446, 62, "parameters", GREY, "end")
    trained = sum(count for _, count, is_trained in rows if is_trained)
    frozen = sum(count for _, count, is_trained in rows if not is_trained)
    d.bracket((470, 74), (470, 252), f"frozen: {frozen:,},\nno gradients are\ncomputed for them")
    d.bracket(
        (470, 266),
        (470, 396),
        f"trained: {trained:,},\n{trained / (trained + frozen):.0%} of all",
    )
    d.label(
        MARGIN, 424, "This is the book's choice: the upper layers are closer to the answer, and"
    )
    d.label(
        MARGIN,
        444,
        "fewer gradients make a step faster. Section 6.7 trains all of the pocket model.",
    )
    return d


def last_token():
    """The tokens "Do", " you", " have", " time" and a triangle: "Do" sees itself only, " time" sees
    all four. Each token gets a row of two logits, shape (1, 4, 2). The last row is framed: it alone
    is made from the whole message, and it alone is read."""
    d = Drawing("Each token gets two logits; the last row is read", 402)
    x0, step, w, h = 150, 84, 76, 34
    d.label(x0, 82, "what it may look at", INK, bold=True)
    d.label(672, 82, "logits (1, 4, 2)", INK, "end", bold=True)
    for c, piece in enumerate(FOUR_TOKENS["pieces"]):
        d.chip(x0 + step * c, 98, piece, TEXT, w, 30, SMALL)
    for r, piece in enumerate(FOUR_TOKENS["pieces"]):
        y = 148 + 46 * r
        last = r == 3
        d.chip(MARGIN, y, piece, TEXT, 96, h, SMALL, strong=last)
        for c in range(4):
            seen = c <= r
            d.box(
                x0 + step * c,
                y,
                w,
                h,
                "" if seen else "hidden",
                WEIGHTS if seen else GREY,
                SMALL,
                strong=last,
                dashed=not seen,
            )
        d.arrow((x0 + 3 * step + w, y + h / 2), (560, y + h / 2), gap=5)
        d.heat(560, y + 2, [[0.3 + 0.1 * r, 0.6 - 0.15 * r]], 1, (48, 30), None)
    y = 148 + 46 * 3
    d.frame(554, y - 4, 662, y + h + 4)
    d.label(608, y + 56, "read", FOCUS, "middle", bold=True)
    d.label(
        MARGIN,
        356,
        "By the causal mask, the first token’s logits are the same for all messages that",
    )
    d.label(MARGIN, 376, "begin with it. Only the last token has seen everything.")
    return d


def where_to_read():
    """The message "See you at eight" with four padding tokens. Read at the last place, the logits
    come from a padding token, and change with the number of padding tokens before it. Read at the
    message's own last token, " eight", they do not: what comes behind it is hidden from it."""
    d = Drawing("Two places to read a padded message", 380)
    pieces = MESSAGES[2][1]["pieces"]
    w = 76
    row = [*pieces, *["pad"] * 4]
    d.label(MARGIN, 82, "a message, filled up to 8 tokens", INK, bold=True)
    for i, piece in enumerate(row):
        own = i < len(pieces)
        d.chip(MARGIN + 80 * i, 100, piece, TEXT if own else LINE, w, 34, SMALL)
    own_x, last_x = MARGIN + 80 * 3 + w / 2, MARGIN + 80 * 7 + w / 2
    for x, color in ((own_x, VECTORS), (last_x, WEIGHTS)):
        d.arrow((x, 134), (x, 182), gap=4, color=color)
    left = d.box(own_x - 190, 184, 236, 106, color=VECTORS)
    right = d.box(last_x - 228, 184, 264, 106, color=WEIGHTS)
    captioned(
        d,
        left,
        "last token of its own",
        "the same for any padding",
        "the mask hides\nwhat comes behind it",
    )
    captioned(
        d,
        right,
        "last token: the book’s place",
        "depends on the padding",
        "it has seen the message,\nand how much padding there is",
    )
    d.label(
        MARGIN,
        316,
        "The book pads every message to the same length, in training and in use, so that",
    )
    d.label(
        MARGIN,
        336,
        "the model can learn to read at the end. Another length may change the answer.",
    )
    return d


def from_logits_to_loss():
    """The last row's logits, ham -1.0 and spam 1.5, become the probabilities 0.076 and 0.924. The
    larger one is at 1, so the label is spam. If the true label is spam, the loss is 0.079; if it is
    ham, 2.579."""
    d = Drawing("From the last row to a label, and to a loss", 406)
    chances = softmax(LOGITS)
    d.label(MARGIN, 106, "logits", INK, bold=True)
    d.label(MARGIN, 196, "probabilities", INK, bold=True)
    w = 92
    logits = d.matrix(170, 90, [[minus(f"{value:.1f}") for value in LOGITS]], WEIGHTS, (w, 34))[0]
    shares = d.heat(170, 180, [chances], 1, (w, 34), 3)[0]
    for box, name in zip(logits, ("0: ham", "1: spam"), strict=True):
        d.label(box.center[0], 76, name, INK, "middle")
    d.arrow((170 + w, 124), (170 + w, 180), label="softmax", gap=4)
    d.frame(shares[1].x, 180, shares[1].x + w, 214)
    label = d.box(496, 178, 176, 38, "label 1: “spam”", SPAM, strong=True)
    d.arrow(shares[1].right, label.left, label="argmax")
    d.label(
        MARGIN, 262, "loss: minus the logarithm of the true label’s probability", INK, bold=True
    )
    for i, (name, share) in enumerate(zip(("ham", "spam"), chances, strict=True)):
        x = MARGIN + 330 * i
        text = minus(f"if it is {name}: -ln {share:.3f} = {-log(share):.3f}")
        d.box(x, 284, 302, 36, text, (HAM, SPAM)[i], SMALL, strong=share < 0.5)
    d.label(
        MARGIN,
        352,
        "The accuracy asks only on which side of one half the probability is. The loss says",
    )
    d.label(
        MARGIN, 372, "how far. It falls even while no answer changes: it has a slope to follow."
    )
    return d


def training_loop():
    """Flow chart. For each epoch: dropout on; for each batch: set gradients to zero, compute the
    loss of the labels, go backward, update the weights, and every eval_freq steps evaluate both
    losses. After the batches of an epoch the accuracies are taken, and the next epoch begins."""
    d = Drawing("The training loop: chapter 5’s, with accuracies", 620)
    d.rect(Box(MARGIN, 64, 644, 490), WHITE, LINE, radius=12)
    d.rect(Box(62, 154, 594, 318), PAPER, LINE, radius=12)
    x, w = 132, 224
    for y, heading in ((88, "for each epoch"), (174, "for each batch of the epoch")):
        d.label(x + w + 24, y, heading, INK, bold=True)
    boxes = []
    for y, name, color, code in [
        (100, "dropout on", LINE, "model.train()"),
        (188, "gradients to zero", LINE, "optimizer.zero_grad()"),
        (236, "loss of the labels", MODEL, "calc_loss_batch(…)"),
        (284, "gradients", MODEL, "loss.backward()"),
        (332, "update the weights", MODEL, "optimizer.step()"),
        (380, "step 0, 50, 100, …?", TEXT, "global_step % eval_freq == 0"),
        (428, "both losses", LINE, "evaluate_model(…)"),
        (504, "both accuracies", FOCUS, "calc_accuracy_loader(…)"),
    ]:
        boxes.append(d.box(x, y, w, 34, name, color, strong=color == FOCUS))
        d.text(x + w + 24, y + 17, code, SMALL, GREY, "start", mono=True)
    d.down(*boxes[:7], gap=2)
    d.arrow((boxes[7].top[0], 472), boxes[7].top, gap=3)
    d.label(x + w + 24, 421, "yes: down, no: back up")
    d.label(x + w / 2 + 12, 488, "after the last batch")
    d.line(boxes[5].left, (88, 397))
    d.arrow(boxes[6].left, (88, 445), (88, 205), boxes[1].left, gap=2)
    d.arrow(boxes[7].left, (46, 521), (46, 117), boxes[0].left, gap=2)
    d.label(
        MARGIN,
        580,
        "New: the loss is that of the last token’s label, and instead of a sample of text the",
    )
    d.label(MARGIN, 600, "accuracies on a few batches are shown after each epoch.")
    return d


def confusion():
    """Made-up answers for 100 ham and 100 spam messages. Of the ham 95 are let through and 5
    flagged; of the spam 10 are let through and 90 flagged. Precision: of the 95 flagged, 90 are
    spam, 94.7 percent. Recall: of the 100 spam, 90 are flagged, 90.0 percent."""
    d = Drawing("Which mistakes? Precision and recall", 428)
    x0, y0, w, h = 150, 124, 130, 80
    d.label(x0 + w, 78, "the classifier says", INK, "middle", bold=True)
    for c, name in enumerate(("not spam", "spam")):
        d.label(x0 + w * (c + 0.5), 104, name, INK, "middle")
    d.label(MARGIN, 104, "the label is", INK, bold=True)
    abouts = (("let through", "lost"), ("got in", "caught"))
    for r, name in enumerate(("ham", "spam")):
        d.label(MARGIN, y0 + h * (r + 0.5), name, INK)
        for c in range(2):
            box = Box(x0 + w * c, y0 + h * r, w, h)
            right = r == c
            d.rect(box, PAPER if not right else WHITE, LINE)
            cell = d.box(
                box.x + 6,
                box.y + 6,
                w - 12,
                h - 12,
                color=VECTORS if right else WEIGHTS,
                strong=right,
            )
            d.text(cell.center[0], cell.y + 24, str(COUNTS[r][c]), bold=True)
            d.label(cell.center[0], cell.y + 50, abouts[r][c], INK, "middle")
    flagged, spam = COUNTS[0][1] + COUNTS[1][1], sum(COUNTS[1])
    caught = COUNTS[1][1]
    column = x0 + w * 1.5
    d.frame(x0 + w + 2, y0 + 2, x0 + 2 * w - 2, y0 + 2 * h - 2)
    d.arrow((column, y0 + 2 * h), (column, 316), gap=3)
    d.label(
        MARGIN,
        334,
        f"precision = {caught} of the {flagged} flagged = {caught / flagged:.1%}",
        INK,
        bold=True,
    )
    d.label(MARGIN, 354, "Can I trust the flag? Low: friends’ messages are lost.")
    d.arrow((x0 + 2 * w, y0 + 1.5 * h), (438, y0 + 1.5 * h), gap=3)
    d.label(
        446, y0 + h + 10, f"recall = {caught} of {spam} spam\n= {caught / spam:.1%}", INK, bold=True
    )
    d.label(446, y0 + h + 54, "How much is caught?\nLow: spam gets in.")
    right = COUNTS[0][0] + caught
    total = spam + sum(COUNTS[0])
    d.label(
        MARGIN,
        396,
        f"accuracy = {right} of {total} = {right / total:.1%}: it does not tell which mistakes.",
    )
    return d


DRAWINGS = {
    "01-roadmap": roadmap,
    "02-two-finetunings": two_finetunings,
    "03-balance-and-split": balance_and_split,
    "04-padding": padding,
    "05-new-head": new_head,
    "06-frozen-and-trained": frozen_and_trained,
    "07-last-token": last_token,
    "08-where-to-read": where_to_read,
    "09-logits-to-loss": from_logits_to_loss,
    "10-training-loop": training_loop,
    "11-confusion": confusion,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
