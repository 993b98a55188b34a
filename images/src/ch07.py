"""Pictures of chapter 7. Each function's docstring is its picture's alt text.

The batch of three rows is the chapter's own; tests/test_images.py computes it again.
"""

from itertools import pairwise

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    KEYS,
    LINE,
    MARGIN,
    MODEL,
    SMALL,
    TEXT,
    VECTORS,
    Drawing,
    alt_text,
)

END, NOT = 50256, -100
ROWS = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
INPUTS = [[0, 1, 2, 3, 4], [5, 6, END, END, END], [7, 8, 9, END, END]]
SHIFTED = [[1, 2, 3, 4, END], [6, END, END, END, END], [8, 9, END, END, END]]
TARGETS = [[1, 2, 3, 4, END], [6, END, NOT, NOT, NOT], [8, 9, END, NOT, NOT]]

PROMPT_STYLES = {
    "Alpaca": [
        "Below is an instruction that describes",
        "a task. Write a response that",
        "appropriately completes the request.",
        "",
        "### Instruction:",
        "Finish the sentence.",
        "",
        "### Input:",
        "You wear gloves on your",
        "",
        "### Response:",
        "You wear gloves on your hands.",
    ],
    "Phi-3": [
        "<|user|>",
        "Finish the sentence.",
        "You wear gloves on your",
        "<|assistant|>:",
        "You wear gloves on your hands.",
    ],
}
OF_THE_ENTRY = {"Finish the sentence.", "You wear gloves on your", "You wear gloves on your hands."}


def number(value):
    """A whole number with a true minus sign."""
    return str(value).replace("-", "−")


def ids(d, x, y, rows, w=66, h=34):
    """A grid of ids: padding is dashed, what is masked stands out."""
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            look = {"color": FOCUS} if value == NOT else {"color": IDS}
            if value == END:
                look["strong"] = True
            d.chip(x + c * (w + 4), y + r * (h + 8), number(value), w=w, h=h, size=SMALL, **look)


def roadmap():
    """Top: chapters 2 to 7; chapter 7, the assistant, is marked "you are here". Below: the
    pretrained model of chapter 5 and a list of instructions with answers go into finetuning, which
    makes an assistant; its answers to other instructions are scored."""
    d = Drawing("Where we are, and what this chapter is for", 372)
    names = ("Text data", "Attention", "GPT model", "Pretraining", "Classifier", "Assistant")
    for i, name in enumerate(names):
        here = i == 5
        box = d.box(MARGIN + 108.4 * i, 68, 102, 52, color=TEXT if here else LINE, strong=here)
        d.label(box.center[0], 84, f"Chapter {i + 2}", INK if here else GREY, "middle")
        d.label(box.center[0], 105, name, INK, "middle", bold=True)
    here = MARGIN + 5 * 108.4 + 51
    d.line((here, 122), (here, 152))
    d.label(here - 12, 140, "You are here", INK, "end", bold=True)
    d.line((MARGIN, 162), (MARGIN, 152), (672, 152), (672, 162))
    model = d.box(MARGIN, 180, 160, 64, "Pretrained model\n(chapter 5)", MODEL, SMALL)
    data = d.box(MARGIN, 290, 160, 64, "Instructions\nwith answers", TEXT, SMALL)
    training = d.box(252, 234, 130, 66, "Finetuning", VECTORS, strong=True)
    assistant = d.box(440, 234, 100, 66, "Assistant", MODEL)
    scores = d.box(592, 234, 80, 66, "Scores", FOCUS)
    d.arrow(model.right, (220, model.center[1]), (220, 250), (252, 250))
    d.arrow(data.right, (220, data.center[1]), (220, 284), (252, 284))
    d.arrow(training.right, assistant.left)
    d.arrow(assistant.right, scores.left)
    d.label(632, 322, "on other\ninstructions", GREY, "middle")
    return d


def plan():
    """Three stages. The data, sections 7.2 to 7.4: read, format, split, batch. The model, sections
    7.5 and 7.6: load the pretrained weights, finetune them, watch the loss. The evaluation,
    sections 7.7 and 7.8: collect answers, read them, score them."""
    d = Drawing("The plan: data, model, evaluation", 330)
    stages = [
        ("Data", "7.2 to 7.4", TEXT, ("read and check", "format and split", "batch and mask")),
        ("Model", "7.5 and 7.6", VECTORS, ("load weights", "finetune", "watch the loss")),
        ("Evaluation", "7.7 and 7.8", FOCUS, ("collect answers", "read them", "score them")),
    ]
    for r, (name, sections, color, steps) in enumerate(stages):
        y = 72 + 84 * r
        d.label(MARGIN, y + 18, name, INK, bold=True)
        d.label(MARGIN, y + 40, sections)
        boxes = [d.box(146 + 180 * i, y, 150, 56, step, color) for i, step in enumerate(steps)]
        for left, right in pairwise(boxes):
            d.arrow(left.right, right.left)
    return d


def prompt_styles():
    """The same entry in two frames. Alpaca's has a sentence on top and the marks Instruction,
    Input and Response, each after three number signs. Phi-3's has a mark for the user and one for
    the assistant. In both, the last line is the answer."""
    d = Drawing("One entry in two frames", 404)
    for (name, lines), x, w in zip(PROMPT_STYLES.items(), (MARGIN, 376), (330, 296), strict=True):
        d.label(x, 82, name, INK, bold=True)
        d.box(x, 98, w, 22 * len(lines) + 18, color=LINE)
        for i, line in enumerate(lines):
            y = 118 + 22 * i
            is_answer = i == len(lines) - 1
            color = INK if line in OF_THE_ENTRY else GREY
            d.label(x + 12, y, line, color, bold=is_answer)
    d.label(376, 268, "Grey: the frame, always the same.", GREY)
    d.label(376, 292, "Black: the entry’s words.", INK)
    d.label(376, 316, "Bold: the answer.", INK, bold=True)
    return d


def five_steps():
    """Five steps from entries to a batch: format as one text, tokenize to ids, fill up to the
    longest of the batch, shift to get targets, mask what is not to be learned. The dataset does the
    first two, once; the collate function the others, for every batch."""
    d = Drawing("Five steps from entries to a batch", 300)
    steps = [
        ("1 format", "one text\nfor each", TEXT),
        ("2 tokenize", "a list\nof ids", IDS),
        ("3 fill up", "to the longest\nof the batch", IDS),
        ("4 shift", "targets: one\ntoken ahead", VECTORS),
        ("5 mask", "surplus\npadding: −100", FOCUS),
    ]
    boxes = []
    for i, (name, about, color) in enumerate(steps):
        x = MARGIN + 131 * i
        boxes.append(d.box(x, 80, 112, 44, name, color, strong=True))
        d.label(x + 56, 146, about, INK, "middle")
    for left, right in pairwise(boxes):
        d.arrow(left.right, right.left, gap=3)
    d.bracket((MARGIN, 196), (boxes[1].x + 112, 196), "InstructionDataset, once")
    d.bracket((boxes[2].x, 196), (672, 196), "custom_collate_fn, for every batch")
    d.label(MARGIN, 266, "Inputs and targets then have one shape, (batch, tokens).")
    return d


def padding_per_batch():
    """Two batches of three rows. In the first the longest row has five ids, and the others are
    filled up to five; in the second the longest has three, and the others are filled up to
    three. Each batch has its own width."""
    d = Drawing("Each batch is as wide as its own longest row", 330)
    second = [[11, 12, END], [13, 14, 15], [16, END, END]]
    for name, x, rows in [("first batch", MARGIN, INPUTS), ("second batch", 440, second)]:
        d.label(x, 82, name, INK, bold=True)
        ids(d, x, 100, rows)
        width = len(rows[0]) * 70 - 4
        d.bracket((x, 230), (x + width, 230), f"{len(rows[0])} wide")
    d.legend(MARGIN, 288, [("token", {"color": IDS})])
    d.legend(160, 288, [("padding, the end-of-text token 50256", {"color": IDS, "strong": True})])
    return d


def inputs_targets():
    """Inputs and targets of the three rows. The first row is 0 1 2 3 4 and has the targets 1 2 3 4
    50256; the second is 5 6 and three times 50256, with the targets 6 and four times 50256; the
    third is 7 8 9 and twice 50256, with the targets 8 9 and three times 50256."""
    d = Drawing("Targets are the inputs, one token later", 456)
    for r, rows in enumerate(zip(INPUTS, SHIFTED, strict=True)):
        y = 76 + 116 * r
        for name, row, row_y in zip(("inputs", "targets"), rows, (y, y + 56), strict=True):
            d.label(MARGIN, row_y + 17, name, INK, bold=True)
            ids(d, 130, row_y, [row], w=80)
        for c in range(1, 5):
            x = 130 + 84 * c + 40
            d.arrow((x, y + 34), (x - 84, y + 56), gap=2)
    d.label(572, 121, "the same id", GREY)
    d.label(MARGIN, 424, "Targets end with 50256, more often than once where a row was filled up.")
    return d


def masked_padding():
    """The targets before and after masking. First row: 1 2 3 4 50256 stays. Second: of 6 and four
    times 50256, the first 50256 stays and three become -100. Third: of 8 9 and three times 50256,
    the first 50256 stays and two become -100."""
    d = Drawing("One end-of-text target stays", 360)
    for name, x, rows in [("targets, shifted", MARGIN, SHIFTED), ("masked", 380, TARGETS)]:
        d.label(x, 82, name, INK, bold=True)
        ids(d, x, 100, rows, w=54)
    d.arrow((318, 158), (378, 158), gap=4)
    d.legend(
        MARGIN,
        252,
        [("the first 50256 of a row: “the answer ends here”", {"color": IDS, "strong": True})],
    )
    d.legend(MARGIN, 284, [("−100: the loss leaves it out", {"color": FOCUS})])
    d.label(MARGIN, 326, "Without the one that stays, nothing would teach the model to stop.")
    return d


def masked_prompt():
    """One row: a prompt of four tokens, "Plural of fox?", and the answer "foxes." in three. The
    first three targets are -100. The last token of the prompt has the answer's first token as its
    target: this one, the rest of the answer and the end-of-text token after it count."""
    d = Drawing("Only the answer counts", 300)
    prompt, answer = ["Plural", "of", "fox", "?"], ["fox", "es", "."]
    inputs = prompt + answer
    targets = ["−100"] * (len(prompt) - 1) + answer + ["end"]
    for name, y, row in [("inputs", 84, inputs), ("targets", 176, targets)]:
        d.label(MARGIN, y + 18, name, INK, bold=True)
        for c, text in enumerate(row):
            look = {"color": FOCUS} if text == "−100" else {"color": TEXT}
            look["strong"] = (c >= len(prompt)) if name == "inputs" else text != "−100"
            d.chip(114 + 80 * c, y, text, w=74, h=36, size=SMALL, **look)
    for c in range(len(prompt) - 1, len(inputs)):
        d.arrow((151 + 80 * c, 122), (151 + 80 * c, 176), gap=4)
    d.bracket((114, 226), (114 + 80 * 3 - 6, 226), "masked: prompt length − 1")
    d.bracket((114 + 240, 226), (114 + 80 * 7 - 6, 226), "these count")
    return d


def before_and_after():
    """The same prompt given to two models. The pretrained one goes on with a text, as in a story;
    the finetuned one answers, "The plural of fox is foxes.", and then gives the end-of-text token,
    where it stops."""
    d = Drawing("From going on to answering", 300)
    prompt = d.box(MARGIN, 118, 170, 92, "What is the\nplural of fox?", TEXT)
    for y, name, said in [
        (76, "pretrained", "The little fox ran\nand ran and ..."),
        (186, "finetuned", "The plural of fox is\nfoxes."),
    ]:
        model = d.box(264, y, 126, 62, name, MODEL)
        out = d.box(452, y, 220, 62, said, VECTORS)
        middle = prompt.center[1]
        d.arrow(prompt.right, (232, middle), (232, model.center[1]), model.left)
        d.arrow(model.right, out.left)
    d.label(452, 160, "until the tokens run out")
    d.label(452, 270, "until the end-of-text token")
    return d


def scores():
    """The reference is "The opposite of wet is dry." The answer "The opposite of wet is cold." has
    exact match 0, and five of six words in common, F1 0.83. The answer "It is dry." has exact match
    0, and two words in common, F1 0.44."""
    d = Drawing("Two scores, neither of them fair", 344)
    reference = ["The", "opposite", "of", "wet", "is", "dry"]
    d.label(MARGIN, 92, "reference", INK, bold=True)
    answers = [("answer 1", [*reference[:-1], "cold"]), ("answer 2", ["It", "is", "dry"])]
    for i, word in enumerate(reference):
        d.chip(122 + 92 * i, 76, word, w=86, h=32, size=SMALL)
    for r, (name, words) in enumerate(answers):
        y = 142 + 84 * r
        d.label(MARGIN, y + 16, name, INK, bold=True)
        for word in words:
            known = word in reference
            x = 122 + 92 * (reference.index(word) if known else (5 if r == 0 else 0))
            look = {"color": VECTORS, "strong": True} if known else {"color": FOCUS}
            d.chip(x, y, word, w=86, h=32, size=SMALL, **look)
        common = sum(word in reference for word in words)
        f1 = 2 * common / (len(words) + len(reference))
        formula = f"2 · {common} / ({len(words)} + {len(reference)})"
        d.label(122, y + 52, f"exact match 0, F1 = {formula} = {f1:.2f}", INK)
    d.legend(MARGIN, 312, [("shared", {"color": VECTORS, "strong": True})])
    d.legend(160, 312, [("not in the reference", {"color": FOCUS})])
    return d


def judge():
    """The notebook sends one request to ollama on the same machine: task, reference and answer,
    with "rate from 0 to 100". Ollama runs Llama 3 and sends the verdict back piece by piece, a line
    of JSON each, the last one marked as done."""
    d = Drawing("A larger model as the judge", 330)
    ours = d.box(MARGIN, 90, 180, 150, color=TEXT)
    d.label(118, 112, "this notebook", INK, "middle", bold=True)
    d.label(118, 146, "task\nreference\nthe model’s answer", INK, "middle")
    theirs = d.box(492, 90, 180, 150, color=VECTORS)
    d.label(582, 112, "ollama serve", INK, "middle", bold=True)
    d.box(522, 140, 120, 60, "Llama 3", MODEL)
    d.arrow((ours.x + 180, 128), (theirs.x, 128), label="POST /api/chat, port 11434")
    d.arrow((theirs.x, 190), (ours.x + 180, 190))
    d.label(350, 212, "{… “content”: “8”, “done”: false}", INK, "middle")
    d.label(350, 232, "{… “content”: “5”, “done”: false}", INK, "middle")
    d.label(350, 252, "{… “content”: “”, “done”: true}", INK, "middle")
    d.label(
        MARGIN, 294, "The pieces make “85”. Both programs run on one machine; nothing leaves it."
    )
    return d


def cycle():
    """The whole way: text data, chapter 2; attention and the model, chapters 3 and 4; pretraining,
    chapter 5; finetuning, chapters 6 and 7; evaluation, which leads back to the data: many mistakes
    of a model are mended there."""
    d = Drawing("The whole way, and back to the data", 270)
    steps = [
        ("Data", "chapter 2", TEXT),
        ("Model", "chapters 3, 4", KEYS),
        ("Pretraining", "chapter 5", VECTORS),
        ("Finetuning", "chapters 6, 7", VECTORS),
        ("Evaluation", "chapters 5 to 7", FOCUS),
    ]
    boxes = []
    for i, (name, about, color) in enumerate(steps):
        boxes.append(d.box(MARGIN + 131 * i, 82, 112, 52, name, color, strong=True))
        d.label(MARGIN + 131 * i + 56, 154, about, GREY, "middle")
    for left, right in pairwise(boxes):
        d.arrow(left.right, right.left, gap=3)
    last, first = boxes[-1].center[0], boxes[0].center[0]
    d.arrow((last, 168), (last, 206), (first, 206), (first, 168))
    d.label(350, 230, "Many mistakes of a model are mended in its data.", INK, "middle")
    return d


DRAWINGS = {
    "01-roadmap": roadmap,
    "02-plan": plan,
    "03-prompt-styles": prompt_styles,
    "04-five-steps": five_steps,
    "05-padding-per-batch": padding_per_batch,
    "06-inputs-targets": inputs_targets,
    "07-masked-padding": masked_padding,
    "08-masked-prompt": masked_prompt,
    "09-before-and-after": before_and_after,
    "10-scores": scores,
    "11-judge": judge,
    "12-cycle": cycle,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
