"""Pictures of chapter 7's folder on preferences. A function's docstring is its picture's alt text.

Numbers are computed here from the few named below; tests/test_images.py compares them with dpo.py
and grpo.py.
"""

from math import exp, log, sqrt

from drawing import (
    FOCUS,
    GREY,
    IDS,
    INK,
    LINE,
    MARGIN,
    MODEL,
    SMALL,
    TEXT,
    VECTORS,
    Drawing,
    alt_text,
)

CHOSEN, REJECTED = VECTORS, FOCUS

BETA = 0.5
POLICY, REFERENCE = (-10.0, -11.0), (-12.0, -10.0)  # log-probabilities of chosen and rejected
CHANGES = tuple(p - r for p, r in zip(POLICY, REFERENCE, strict=True))
MARGIN_OF_PAIR = BETA * (CHANGES[0] - CHANGES[1])


def loss_of(margin):
    return log(1 + exp(-margin))


def share(margin):
    """The share of the force that is left: sigmoid(-margin)."""
    return 1 / (1 + exp(margin))


def signed(value, decimals=1):
    return f"{'−' if value < 0 else '+'}{abs(value):.{decimals}f}"


def preference_pair():
    """A preference pair. The prompt: Ben pointed at the swing and asked, may I have a turn? Mia
    said. The chosen answer: Of course you can. Hop on and I will push you. The rejected answer: Go
    away. This swing is mine and you are too slow. Both follow the same prompt; only the tokens of
    the answers are counted."""
    d = Drawing("One prompt, two answers", 308)
    prompt = d.box(
        MARGIN,
        76,
        644,
        62,
        "Ben pointed at the swing and asked, “May I have a turn?”\nMia said, “",
        TEXT,
    )
    answers = [
        ("chosen", CHOSEN, "Of course you can. Hop on\nand I will push you.”"),
        ("rejected", REJECTED, "Go away. This swing is mine\nand you are too slow.”"),
    ]
    for x, (name, color, text) in zip((MARGIN, 362), answers, strict=True):
        box = d.box(x, 184, 310, 62, text, color)
        d.arrow((box.center[0], prompt.y + prompt.h), box.top)
        d.text(box.center[0] + 46, 164, name, SMALL, INK, bold=True)
    d.label(
        MARGIN,
        278,
        "Only the tokens of the answers count. Those of the prompt lead up to them.",
    )
    return d


def dpo_margin():
    """From log-probabilities to the margin. Chosen answer: policy −10.0, reference −12.0, change
    +2.0. Rejected answer: policy −11.0, reference −10.0, change −1.0. The first change less the
    second, +3.0, times beta, 0.5, is the margin, +1.5. Only the policy learns; the reference is
    frozen."""
    d = Drawing("How much more the chosen answer gained", 372)
    for x, name, color in [(170, "policy", MODEL), (330, "frozen reference", LINE)]:
        d.box(x, 70, 140, 40, name, color, SMALL)
    d.label(560, 90, "change", INK, "middle", bold=True)
    rows = zip(("chosen", "rejected"), (CHOSEN, REJECTED), POLICY, REFERENCE, CHANGES, strict=True)
    ends = []
    for y, (name, color, ours, theirs, change) in zip((138, 204), rows, strict=True):
        d.text(MARGIN, y + 20, name, SMALL, INK, "start", bold=True)
        d.chip(170, y, signed(ours), color, 140, 40)
        d.text(320, y + 20, "−")
        d.chip(330, y, signed(theirs), color, 140, 40)
        d.text(485, y + 20, "=")
        ends.append(d.chip(500, y, signed(change), color, 120, 40, strong=True))
    d.line((620, 158), (648, 158), (648, 224), (620, 224))
    d.text(664, 191, "−", bold=True)
    difference = signed(CHANGES[0] - CHANGES[1])
    text = f"margin = beta × {difference} = {BETA} × {difference} = {signed(MARGIN_OF_PAIR)}"
    d.box(170, 282, 450, 44, text, IDS)
    d.label(170, 350, "Where policy and reference agree, every margin is 0.")
    return d


def dpo_loss_curve():
    """The loss of a pair by its margin, a curve that falls: 2.13 at a margin of −2, 0.69 at 0, 0.20
    at 1.5, 0.05 at 3. A bar at each of these points shows the force on the policy: 88 % of beta at
    −2, 50 % at 0, 18 % at 1.5, 5 % at 3. A pair that is right already hardly pulls."""
    d = Drawing("The loss of a pair, and how hard it pulls", 404)
    left, right, floor, unit = 84, 410, 320, 80

    def place(margin):
        return left + (margin + 3) / 6.6 * (right - left), floor - unit * loss_of(margin)

    d.line((left, 74), (left, floor), (right, floor))
    d.line(*(place(step / 10) for step in range(-30, 37)), color=INK, width=2.5)
    d.line((place(0)[0], 84), (place(0)[0], floor), color=LINE, dashed=True)
    d.label(left + 12, 80, "loss", INK)
    d.label(right, floor + 44, "margin", INK, "end")
    for mark in (-2, 0, 2):
        d.label(place(mark)[0], floor + 18, f"{mark}".replace("-", "−"), GREY, "middle")
    points = (-2.0, 0.0, MARGIN_OF_PAIR, 3.0)
    d.label(448, 82, "margin", INK, "start", bold=True)
    d.label(518, 82, "loss", INK, "start", bold=True)
    d.label(580, 82, "force", INK, "start", bold=True)
    for y, margin in zip((112, 166, 220, 274), points, strict=True):
        d.dot(*place(margin))
        d.text(452, y + 12, signed(margin) if margin else "0.0", SMALL, INK, "start", mono=True)
        d.text(518, y + 12, f"{loss_of(margin):.2f}", SMALL, INK, "start", mono=True)
        d.box(580, y, max(4, 88 * share(margin)), 24, "", REJECTED, strong=True)
        d.text(580, y + 38, f"{share(margin):.0%}".replace("%", " %"), SMALL, GREY, "start")
    d.label(
        MARGIN,
        384,
        "The force is a share of beta. A pair that is right already hardly pulls any more.",
    )
    return d


def two_roads():
    """Roads from preferences to a tuned model. In the upper one pairs train a reward model, which
    gives points to the model's answers, and a method such as PPO or GRPO tunes the model by them. A
    program that checks answers can take the reward model's place, and then no pairs are needed. The
    lower road is DPO: the loss is computed from the pairs themselves."""
    d = Drawing("Two roads to a tuned model", 348)
    d.box(MARGIN, 176, 110, 60, "preference\npairs", TEXT)
    d.box(584, 176, 88, 60, "tuned\nmodel", MODEL)
    checker = d.box(196, 72, 122, 56, "a program\nthat checks", VECTORS, strong=True)
    reward = d.box(196, 150, 122, 56, "reward\nmodel", VECTORS)
    points = d.box(382, 111, 118, 56, "points for\nits answers", IDS)
    d.arrow(checker.right, (350, 100), (350, 128), (382, 128), dashed=True)
    d.arrow((138, 192), (166, 192), (166, 178), reward.left)
    d.arrow(reward.right, (350, 178), (350, 150), (382, 150))
    d.arrow(points.right, (542, 139), (542, 192), (584, 192))
    d.label(508, 112, "PPO, GRPO")
    d.arrow((138, 220), (166, 220), (166, 276), (542, 276), (542, 220), (584, 220))
    d.label(354, 254, "DPO", INK, "middle", bold=True)
    d.label(354, 298, "the loss is computed from the pairs themselves", GREY, "middle")
    return d


REWARDS = (1, 0, 0, 1)


def advantages():
    """How many standard deviations each reward is above the mean."""
    mean = sum(REWARDS) / len(REWARDS)
    deviation = sqrt(sum((reward - mean) ** 2 for reward in REWARDS) / len(REWARDS))
    return [(reward - mean) / deviation for reward in REWARDS]


def grpo_group():
    """A group of four answers to one question, sort 7 3 9 3 5. 3 3 5 7 9 is right and has reward 1,
    3 5 7 9 9 and 3 3 7 5 9 are wrong and have 0, 3 3 5 7 9 comes once more and has 1. The mean is
    0.5. Less the mean and over the standard deviation, the advantages are +1.0, −1.0, −1.0 and
    +1.0: right answers become likelier, wrong ones less likely."""
    d = Drawing("A group of answers, compared with each other", 388)
    answers = ("3 3 5 7 9", "3 5 7 9 9", "3 3 7 5 9", "3 3 5 7 9")
    d.chip(MARGIN, 172, "7 3 9 3 5 =", TEXT, 130, 40)
    d.label(MARGIN + 65, 152, "one question", INK, "middle")
    for x, text in [(290, "sampled"), (420, "reward"), (524, "advantage"), (630, "then")]:
        d.label(x, 80, text, INK, "middle", bold=True)
    for i, (answer, reward, advantage) in enumerate(
        zip(answers, REWARDS, advantages(), strict=True)
    ):
        y = 102 + 54 * i
        color = CHOSEN if reward else REJECTED
        box = d.chip(230, y, answer, color, 120, 38)
        d.line((158, 192), (196, 192), (196, y + 19), (222, y + 19), color=LINE)
        d.chip(396, y, str(reward), IDS, 48, 38)
        d.chip(486, y, signed(advantage), color, 76, 38, strong=True)
        start, end = (y + 32, y + 6) if reward else (y + 6, y + 32)
        d.arrow((630, start), (630, end), gap=0)
        d.arrow(box.right, (396, y + 19))
        d.arrow((444, y + 19), (486, y + 19))
    mean = sum(REWARDS) / len(REWARDS)
    d.label(
        MARGIN,
        342,
        f"Advantage: (reward − mean of the group) / standard deviation; the mean is {mean}",
    )
    d.label(MARGIN, 364, "A group whose answers are all right, or all wrong, teaches nothing.")
    return d


DRAWINGS = {
    "40-preference-pair": preference_pair,
    "41-dpo-margin": dpo_margin,
    "42-dpo-loss": dpo_loss_curve,
    "43-two-roads": two_roads,
    "44-grpo-group": grpo_group,
}
ALT = {name: alt_text(draw) for name, draw in DRAWINGS.items()}
