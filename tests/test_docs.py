"""The site: made once; its links, pictures, search and dividers, in files and in a real browser that knows no other host."""
import functools
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, ROOT, chromium, opened, wait_until

NEEDED = ("sphinx", "myst_nb", "furo")
if not os.environ.get("CI"):
    for name in NEEDED: pytest.importorskip(name, reason="the extra `docs` is not installed")

import make_docs

ADDRESS = "https://github.com/OWNER/colorize"
CHAPTERS = sorted((ROOT/"nbs").glob("[0-9][0-9]_*.ipynb"))
in_browser = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine; .ci/run installs it")


class Page(HTMLParser):
    "What a page points to, the places in it that can be pointed to, its pictures and its text"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.images, self.words, self.silent = set(), [], [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and "href" in attrs: self.links.append(attrs["href"])
        if tag == "img": self.images.append(attrs)
        if tag in ("img", "script", "iframe", "source", "video") and "src" in attrs: self.loaded.append(attrs["src"])
        if tag == "link" and not {"index", "search", "next", "prev", "canonical"} & set(attrs.get("rel", "").split()): self.loaded.append(attrs["href"])
        self.silent += tag in ("script", "style")

    def handle_endtag(self, tag): self.silent -= tag in ("script", "style")
    def handle_data(self, data): self.words += [] if self.silent else [data]
    @property
    def text(self): return " ".join("".join(self.words).split())


def read(site): return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def leads_nowhere(site, pages):
    "Links and files of the site that are not there"
    bad = []
    for name, page in pages.items():
        for target in page.links + page.loaded:
            url = urlsplit(target)
            if url.scheme or url.netloc: continue
            file = os.path.normpath(os.path.join(os.path.dirname(name), unquote(url.path))) if url.path else name
            if not (site/file).is_file(): bad.append(f"{name}: {target}")
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].ids: bad.append(f"{name}: {target}")
    return bad


def unnamed(pages): return [f"{name}: {image.get('src')}" for name, page in pages.items() for image in page.images if not (image.get("alt") or "").strip()]
def foreign(pages): return [f"{name}: {target}" for name, page in pages.items() for target in page.loaded if urlsplit(target).netloc]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")/"_docs"
    made = subprocess.run([sys.executable, ROOT/"tools"/"make_docs.py", "--out", out, "--repository", ADDRESS + ".git"], text=True, capture_output=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return out


@pytest.fixture(scope="module")
def pages(site): return read(site)


def test_every_link_and_every_anchor_leads_somewhere(site, pages):
    assert len(pages) > 2*len(CHAPTERS) and sum(len(page.links) for page in pages.values()) > 3000
    assert leads_nowhere(site, pages) == []


def test_every_picture_can_be_read_aloud(pages):
    assert sum(len(page.images) for page in pages.values()) > 150
    assert unnamed(pages) == []


def test_no_page_loads_anything_from_another_host(site, pages):
    assert foreign(pages) == []
    for path in site.rglob("*.css"): assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_these_checks_notice_what_is_wrong(tmp_path):
    (tmp_path/"b.html").write_text('<p id="here">')
    (tmp_path/"a.html").write_text('<a href="b.html#here">1</a><a href="b.html#there">2</a><a href="c.html">3</a><a href="#x">4</a><img src="d.png" alt=" "><script src="https://cdn.example/x.js"></script>')
    pages = read(tmp_path)
    assert leads_nowhere(tmp_path, pages) == ["a.html: b.html#there", "a.html: c.html", "a.html: #x", "a.html: d.png"]
    assert unnamed(pages) == ["a.html: d.png"] and foreign(pages) == ["a.html: https://cdn.example/x.js"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_a_chapter_has_all_its_pictures_and_the_ways_to_run_it(site, pages, path):
    page, notebook = pages[f"{path.stem}.html"], json.loads(path.read_text(encoding="utf-8"))
    stored = sum("image/png" in o.get("data", {}) or "image/jpeg" in o.get("data", {}) for cell in notebook["cells"] for o in cell.get("outputs", []))
    in_prose = sum(len(re.findall(r"!\[", "".join(cell["source"]))) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert len(page.images) == stored + in_prose
    assert f"https://colab.research.google.com/github/OWNER/colorize/blob/main/nbs/{path.name}" in page.links
    assert f"{ADDRESS}/blob/main/nbs/{path.name}" in page.links and "running.html#running" in page.links and f"make lab , then {path.name}".replace(" ,", ",") in page.text
    assert (site/"files"/"nbs"/path.name).read_bytes() == path.read_bytes()
    assert not re.search(r"#\| ?\w|default_exp|\$\$|\\(frac|sigma|text)\b", page.text), "what only the notebook needs, or a formula that was not drawn"
    text = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert ("<math" in (site/f"{path.stem}.html").read_text(encoding="utf-8")) == bool(re.search(r"\$[^$`]+\$", text))


def test_every_public_name_is_in_the_reference(pages):
    from colorize._modidx import d
    found = set().union(*(page.ids for name, page in pages.items() if name.startswith("reference/")))
    public = [key for module, symbols in d["syms"].items() for key in symbols if "." not in key.removeprefix(f"{module}.") and not key.removeprefix(f"{module}.").startswith("_")]
    assert len(public) > 200
    assert [key for key in public if key not in found] == []


def test_the_reference_says_what_the_docments_say(pages):
    from fastcore.docments import docments

    from colorize import colorizer, generators, lab, photos
    from colorize.pictures import read
    said = 0
    for module in (lab, photos, generators, colorizer, read):
        text = re.sub(r"[^\w]", "", pages[f"reference/{module.__name__.removeprefix('colorize.')}.html"].text)
        for function in (getattr(module, name) for name in module.__all__):
            if getattr(function, "__module__", "") != module.__name__ or isinstance(function, type) or not callable(function): continue
            for argument, comment in docments(function).items():
                if comment: assert re.sub(r"[^\w]", "", comment) in text, f"{function.__name__}, {argument}: {comment}"
                said += bool(comment)
    assert said > 100


def test_names_in_prose_and_in_the_reference_lead_to_each_other(pages):
    assert "reference/lab.html#colorize.lab.rgb_to_lab" in pages["01_lab.html"].links
    assert any(link.startswith("../01_lab.html#cell-lab-0-rgb-to-lab") for link in pages["reference/lab.html"].links)
    assert any(re.fullmatch(rf"{ADDRESS}/blob/main/colorize/lab\.py#L\d+", link) for link in pages["reference/lab.html"].links)


def test_the_search_index_knows_words_and_functions(site):
    index = json.loads((site/"searchindex.js").read_text(encoding="utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    assert "sepia" in index["terms"] and "perspicacious" not in index["terms"]
    assert any("rgb_to_lab" in json.dumps(names) for names in index["objects"].values())


def test_what_is_said_of_a_picture():
    told = make_docs.alt_text("#| fig-alt: Two curves, the upper one flat\nplot()", "Losses", "A house", "One patch.")
    assert told == "Two curves, the upper one flat"
    made = make_docs.alt_text('ax.set(title="cost", xlabel="error")\nshow(x, titles=["grey", "true"])', "Losses", "A house", make_docs.first_sentence("## A house\n\nOne `patch` of a *wall*. Another."))
    assert made == "Figure in “Losses”, section “A house”: One patch of a wall. Its labels: cost, error, grey, true."


def test_a_link_to_nowhere_stops_the_build():
    with pytest.raises(FileNotFoundError, match=r"no_such\.ipynb"): make_docs.linked("[x](no_such.ipynb)", "nbs", set(), set())
    files = set()
    assert make_docs.linked("[x](05_generators.ipynb#anchor) [y](../recipes/box.yaml) [z](https://a.b)", "nbs", {"05_generators.ipynb"}, files) == (
        "[x](05_generators.ipynb#anchor) [y](site:files/recipes/box.yaml) [z](https://a.b)")
    assert files == {"recipes/box.yaml"}


def test_where_the_repository_is(monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    monkeypatch.setattr(make_docs, "ROOT", tmp_path)
    settings = tmp_path/"settings.ini"
    settings.write_text("[DEFAULT]\ngit_url =\n")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert make_docs.repository() is None
    assert make_docs.ways_in(Path("05_x.ipynb"), None).count("](") == 1, "no links that lead nowhere"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", "git@github.com:one/a.git"], check=True)
    assert make_docs.repository() == "https://github.com/one/a"
    monkeypatch.setenv("GITHUB_REPOSITORY", "two/b")
    assert make_docs.repository() == "https://github.com/two/b"
    settings.write_text("[DEFAULT]\ngit_url = https://github.com/three/c/\n")
    assert make_docs.repository() == "https://github.com/three/c"
    assert make_docs.repository("https://github.com/four/d.git") == "https://github.com/four/d"


@pytest.fixture(scope="module")
def served(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


def coloured(pair):
    "Which columns of a pair of pictures show colours; the line of the divider is left out"
    shown = np.array(Image.open(io.BytesIO(pair.screenshot())).convert("RGB")).astype(int)
    return np.ptp(shown[10:-10], axis=2).mean(0) > 4


@in_browser
def test_the_dividers_follow_the_keyboard_and_the_mouse(browser, served):
    with opened(browser, f"{served}/index.html", 1280, 1400) as page:
        pairs, inputs = page.locator(".divider .pair"), page.locator(".divider input")
        assert pairs.count() == 4 and len({inputs.nth(i).get_attribute("aria-label") for i in range(4)}) == 4
        pair, divider = pairs.nth(2), inputs.nth(2)
        for key, expected in (("End", 0), ("Home", 1)):
            divider.press(key)
            wait_until(lambda: abs(coloured(pair).mean() - expected) < .1)
        for _ in range(30): divider.press("ArrowRight")
        assert divider.get_attribute("aria-valuetext") == "30 % grey"
        columns = coloured(pair)
        assert columns[:int(.27*len(columns))].mean() < .1 and columns[int(.33*len(columns)):].mean() > .9
        box = pair.bounding_box()
        page.mouse.click(box["x"] + .75*box["width"], box["y"] + .3*box["height"])
        assert abs(int(divider.input_value()) - 75) <= 3
        assert inputs.nth(0).input_value() == "50"
        assert page.strangers == []


@in_browser
def test_search_finds_it_without_a_server(browser, site):
    with opened(browser, f"{site.as_uri()}/search.html?q=receptive_field") as page:
        wait_until(lambda: page.locator("ul.search li").count() > 1)
        assert "colorize.discriminators.receptive_field" in page.locator("ul.search").inner_text()
        assert [url for url in page.strangers if not url.startswith("file:")] == []


@in_browser
def test_pages_fit_a_phone_in_light_and_dark_and_ask_no_other_host(browser, served):
    for name in ("index", "05_generators", "09_metrics", "12_experiments", "reference/generators", "model_card"):
        with opened(browser, f"{served}/{name}.html", 390, 800) as page:
            for scheme, bright in (("light", True), ("dark", False)):
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
                assert (sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) > 384) == bright
            if name == "12_experiments": wait_until(lambda: page.locator(".plot svg").count() > 0)
            assert page.strangers == []


def test_the_citation_is_that_of_the_settings():
    from configparser import ConfigParser

    import yaml
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    settings, cited = parser["DEFAULT"], yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"], [a["name"] for a in cited["authors"]]) == (settings["version"], settings["license"], [settings["author"]])
    assert cited["keywords"] == settings["keywords"].split(", ") and "doi" not in cited
