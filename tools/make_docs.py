"""The course and the reference as a static site: pages that need no kernel, no network and no server.

    python tools/make_docs.py [--out _docs] [--repository https://github.com/OWNER/NAME]        (or: make docs)

A chapter's page is its notebook with the outputs that are stored in it; nothing of it is run. The reference is read from the
docments in colorize/*.py. Only the four pictures with a divider are made anew, by the model in the box.

The text read out for a picture (alt) is what its cell says after `#| fig-alt:`; where it says nothing, the section, the first sentence
above the picture and the words written in it. The links to GitHub and Colab need the repository's address: see `repository` below.
"""
import argparse
import ast
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from configparser import ConfigParser
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {"slow": "takes minutes", "weights": "needs weights from the network", "cuda": "needs a GPU"}
PAGES = {"README.md": "index.ipynb", "nbs/index.ipynb": "index.ipynb", "MODEL_CARD.md": "model_card.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
WITH_TEXT = {"text/html", "image/png", "image/jpeg", "text/plain"}


def repository(told=None):
    "The address of the repository: as told, from settings.ini (`git_url`), from the CI that builds, or from git; None where nobody knows it"
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    here = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{os.environ['GITHUB_REPOSITORY']}" if "GITHUB_REPOSITORY" in os.environ else None
    origin = lambda: subprocess.run(["git", "-C", ROOT, "remote", "get-url", "origin"], text=True, capture_output=True).stdout.strip()
    url = told or parser["DEFAULT"].get("git_url") or here or re.sub(r"^(ssh://)?git@([^:/]+)[:/]", r"https://\2/", origin())
    return re.sub(r"(\.git)?/*$", "", url) if url.startswith("https://") else None


# The reference: what stands in the modules, without importing them

def described(node, comments):
    "The arguments of a function, or the fields of a dataclass: (names, type, default, comment), and what comes back as (type, comment)"
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
        return [([n.target.id], ast.unparse(n.annotation), n.value and ast.unparse(n.value), comments.get(n.end_lineno, "")) for n in fields], (None, "")
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    found = list(zip(plain, [None]*(len(plain) - len(a.defaults)) + a.defaults, [""]*len(plain)))
    if a.vararg: found.append((a.vararg, None, "*"))
    found += [(arg, default, "") for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: found.append((a.kwarg, None, "**"))
    rows = {}
    for arg, default, star in found:
        if arg.arg in ("self", "cls"): continue
        line = default.end_lineno if default and default.end_lineno in comments else arg.end_lineno
        one = ([star + arg.arg], arg.annotation and ast.unparse(arg.annotation), default and ast.unparse(default))
        rows.setdefault(line if comments.get(line) else (line, arg.arg), []).append(one)
    rows = [row for line, (*others, last) in rows.items() for row in [*((*o, "") for o in others), (*last, comments.get(line, ""))]]
    last = max((arg.end_lineno for arg, *_ in found), default=node.lineno)
    back = next((comments[line] for line in range(last if not found else last + 1, node.body[0].lineno) if line in comments), "")
    return rows, (node.returns and ast.unparse(node.returns), back)


def public_members(cls, patched):
    "A class's own methods and properties that say what they do, and those that other cells have added"
    own = [n for n in cls.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_") and ast.get_docstring(n)]
    return own + [n for name, n in patched if name == cls.name and not n.name.startswith("_")]


class Module:
    "An exported module, read"
    def __init__(self, path, chapter):
        self.path = path.relative_to(ROOT/"colorize")
        self.name, self.chapter, source = ".".join(self.path.with_suffix("").parts), chapter, path.read_text(encoding="utf-8")
        self.tree, lines = ast.parse(source), io.StringIO(source).readline
        self.comments = {t.start[0]: t.string.lstrip("# ") for t in tokenize.generate_tokens(lines) if t.type == tokenize.COMMENT and t.start[1] > 0}
        self.words = ast.get_docstring(self.tree) or ""
        body = self.tree.body
        self.all = next((ast.literal_eval(n.value) for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"), [])
        defined = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        is_patch = lambda n: any(ast.unparse(d).startswith("patch") for d in n.decorator_list)
        self.patched = [(ast.unparse(n.args.args[0].annotation), n) for n in defined if is_patch(n)]
        self.nodes = {n.name: n for n in defined if not n.name.startswith("_") and not is_patch(n)}
        for n in body:
            names = [t.id for t in getattr(n, "targets", [getattr(n, "target", None)]) if isinstance(t, ast.Name)]
            self.nodes |= {name: n for name in names if name in self.all}

    def label(self, name): return f"cell-{self.name}-{sum(map(str.isupper, name))}-{name}"  # labels know no capitals: `Share` and `share`


def cell(text, module=None):
    "A comment as Markdown in a table: what is not code is taken literally, and names of the library are links"
    text = "".join(p if p.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", p) for p in re.split(r"(`[^`]*`)", text or "")).replace("|", r"\|")
    return doc_links(text, module.everything, module.name) if module else text


def code(text): return f"`{text}`".replace("|", r"\|") if text else ""


def entry(module, node, name, patched, address, owner="", colons=5):
    "A function, class, method or constant, as a directive of Sphinx"
    qualified, fence = owner + name, ":"*colons
    where = [f"[source]({address}/blob/main/colorize/{module.path.as_posix()}#L{node.lineno})"] if address and not owner else []
    if not owner and module.chapter and node in module.shown: where.insert(0, f"{{ref}}`explained in chapter {module.chapter[:2]} <{module.label(name)}>`")
    tail = ["", "{.where}", " · ".join(where)] if where else []
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        value = ast.unparse(node.value)
        return [f"{fence}{{py:data}} {qualified}", "", cell(module.comments.get(node.end_lineno, ""), module), "", *(["```python", value, "```"] if len(value) < 400 else ["```text", value[:400] + " …", "```"]), *tail, fence, ""]
    is_class, dataclass = isinstance(node, ast.ClassDef), any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    init = node if not is_class or dataclass else next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    rows, (kind, back) = described(init, module.comments) if init else ([], (None, ""))
    if is_class: kind, back = None, ""
    signature = ", ".join(names[0] + (f"={default}" if default else "") for names, _, default, _ in rows)
    decorators = [ast.unparse(d) for d in node.decorator_list]
    what = "class" if is_class else "property" if "property" in decorators or "patch(as_prop=True)" in decorators else "method" if owner else "function"
    out = [f"{fence}{{py:{what}}} {qualified}" + ("" if what == "property" else f"({signature})")]
    if "classmethod" in decorators or "patch(cls_method=True)" in decorators: out.append(":classmethod:")
    out += ["", cell(ast.get_docstring(node) or (is_class and init and init is not node and ast.get_docstring(init)) or "", module), ""]
    if any(text or kind_ for _, kind_, _, text in rows) or back or kind:
        out += ["| argument | type | |", "|---|---|---|"]
        out += [f"| {', '.join(map(code, names))} | {code(type_)} | {cell(text, module)} |" for names, type_, _, text in rows]
        if back or kind: out.append(f"| *gives* | {code(kind)} | {cell(back, module)} |")
    out += tail
    if is_class:
        for member in public_members(node, patched): out += ["", *entry(module, member, member.name, patched, address, f"{name}.", colons - 1)]
    return [*out, fence, ""]


def reference(modules, folder, address):
    "A page for each module, and one that lists them"
    folder.mkdir()
    patched = [p for module in modules for p in module.patched]
    for module in modules:
        public = sorted(module.nodes, key=lambda name: (isinstance(module.nodes[name], (ast.Assign, ast.AnnAssign)), module.nodes[name].lineno))
        lines = [f"# colorize.{module.name}", "", module.words + ("" if module.words.endswith(".") else "."), ""]
        if module.chapter: lines += [f"The chapter that builds it: {{doc}}`../{module.chapter}`.", ""]
        lines += [f"```{{py:module}} colorize.{module.name}", "```", ""]
        for name in public: lines += entry(module, module.nodes[name], name, patched, address)
        (folder/f"{module.name}.md").write_text("\n".join(lines), encoding="utf-8")
    rows = [f"| {{py:mod}}`colorize.{m.name}` | {cell(m.words)} | {', '.join(f'{{py:obj}}`{n} <colorize.{m.name}.{n}>`' for n in m.nodes if not n.isupper())} |" for m in modules]
    toctree = ["```{toctree}", ":hidden:", *(f"{m.name} <{m.name}>" for m in modules), "```"]
    (folder/"index.md").write_text("\n".join(["# Reference", "", "Every function and class can be imported from `colorize`, or from the module of its chapter. "
                                              "Arguments, their shapes, ranges and units, what comes back and what is raised are read from the code itself.", "",
                                              "| module | | functions and classes |", "|---|---|---|", *rows, "", *toctree, ""]), encoding="utf-8")


# The chapters

def plain(text):
    "Markdown as it is read aloud"
    text = re.sub(r"\$\$.*?\$\$|```.*?```|<details>.*?</details>", " ", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*`$\\]|^[>#|-]+ ?", "", text, flags=re.M).split())


def first_sentence(text, most=240):
    "The first sentence of a cell's prose, cut between words"
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.S)
    prose = "\n".join(line for line in text.splitlines() if not re.match(r"\s*(#|\||!\[|\$\$)", line))
    sentence = re.split(r"(?<=[.?!])\s+(?=[A-Z“\"(])", plain(prose).strip())[0].rstrip(":")
    return sentence if len(sentence) <= most else sentence[:most].rsplit(" ", 1)[0] + " …"


def labels(source):
    "The words that a cell writes into its picture: titles and names of axes"
    try: calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    except SyntaxError: return []
    named = [k.value for call in calls for k in call.keywords if k.arg in ("title", "titles", "xlabel", "ylabel", "suptitle")]
    named += [call.args[0] for call in calls if call.args and getattr(call.func, "attr", "") in ("set_title", "set_xlabel", "set_ylabel", "suptitle")]
    words = [w.value for value in named for w in ([value] if isinstance(value, ast.Constant) else getattr(value, "elts", [])) if isinstance(w, ast.Constant)]
    return list(dict.fromkeys(w for w in words if isinstance(w, str) and w.strip()))


def alt_text(source, title, section, prose):
    "What is read out for the pictures of a code cell"
    if told := re.search(r"^#\|\s*fig-alt:\s*(.+)", source, re.M): return told[1].strip().strip("\"'")
    words = labels(source)
    return f"Figure in “{title}”" + (f", section “{section}”" if section else "") + (f": {prose}" if prose else "") + (f" Its labels: {', '.join(words)}." if words else "")


def linked(text, folder, staged, files):
    "Links turned from the notebook's folder to the site; the files that are linked to are taken along"
    def turn(m):
        target, _, anchor = m[2].partition("#")
        path = os.path.relpath((ROOT/folder/target).resolve(), ROOT)
        if path.startswith("nbs/") and path[4:] in staged: new = path[4:]
        elif path in PAGES and PAGES[path] in staged: new = PAGES[path]
        elif not (ROOT/path).exists(): raise FileNotFoundError(f"{folder}: a link leads to {m[2]}, and there is no {path}")
        else:
            new = path.removeprefix("nbs/") if path.startswith("nbs/images/") else f"site:files/{path}"
            files.add(path)
        return f"{m[1]}{new}{'#' + anchor if anchor else ''})"
    return re.sub(r"(\]\()(?!https?:|mailto:|#)([^)\s]+)\)", turn, text)


def doc_links(text, names, own):
    "Names of the library in prose lead to the reference: not in headings, code or other links"
    def turn(m):
        if not (name := m["name"]) or name not in names: return m[0]
        module = own if own in names[name] else names[name][0]
        return f"{{py:obj}}`{name} <colorize.{module}.{name}>`"
    return re.sub(r"^```.*?^```|^#.*?$|!?\[[^\]]*\]\([^)]*\)|`(?P<name>[A-Za-z]\w*)`|`[^`]*`", turn, text, flags=re.M | re.S)


def shown_output(output, taken):
    "An output as a page without a kernel can show it; None for what is no more than the trace of a widget or of a progress bar"
    data = output.get("data", {})
    if any("widget" in kind for kind in data) or data and re.fullmatch(r"\s*(<style>.*?</style>)?\s*(<div>\s*</div>)?\s*", data.get("text/html", "-"), re.S): return None
    if figure := data.get("application/vnd.plotly.v1+json"):
        place = f"plot-{len(taken)}"
        taken.append(figure)
        about = html.escape(plain(str(figure.get("layout", {}).get("title", {}).get("text", ""))) or "curves; a legend names them")
        output["data"] = {"text/html": f'<div class="plot" id="{place}" role="img" aria-label="Interactive plot: {about}"></div>\n<script src="_static/plotly.min.js"></script>\n'
                          f'<script>Plotly.newPlot("{place}", {json.dumps(figure["data"])}, {json.dumps(figure.get("layout", {}))}, {{responsive: true, displaylogo: false}})</script>'}
    elif data: output["data"] = {kind: value for kind, value in data.items() if kind in WITH_TEXT}
    return output


def ways_in(path, address):
    "The line under a chapter's title: other ways to read and run it"
    ways = [f"[Download the notebook](site:files/nbs/{path.name})"]
    if address:
        site = address.removeprefix("https://github.com/")
        if site != address: ways.insert(0, f"[Open in Colab](https://colab.research.google.com/github/{site}/blob/main/nbs/{path.name})")
        ways.append(f"[Source on GitHub]({address}/blob/main/nbs/{path.name})")
    return "{.ways}\n" + " · ".join(ways) + f" · {{ref}}`in JupyterLab <running>`: `make lab`, then `{path.name}`"


def chapter(path, modules, names, staged, files, address):
    "A notebook as the site shows it"
    notebook = nbformat.read(path, as_version=4)
    own, cells, plots = path.stem[3:], [], []
    module = next((m for m in modules if m.name == own), None)
    title = section = prose = ""
    for one in notebook.cells:
        source = one.source
        flags = re.findall(r"^#\|\s*([\w-]+)", source, re.M)
        if "hide" in flags: continue
        if one.cell_type == "markdown":
            for mark, text in re.findall(r"^(##?) +(.+)", source, re.M): title, section = (plain(text), "") if mark == "#" else (title, plain(text))
            prose = first_sentence(source) or prose
            one.source = doc_links(linked(source, "nbs", staged, files), names, own)
            if not cells and path.name != "index.ipynb":
                head = re.match(r"# .+\n\s*(?:^>.*\n?)*", one.source, re.M)
                one.source = f"{head[0].rstrip()}\n\n{ways_in(path, address)}\n\n{one.source[head.end():]}"
            cells.append(one)
            continue
        one.source = re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")
        one.outputs = [o for o in (shown_output(o, plots) for o in one.outputs) if o]
        if not one.source.strip(): continue
        notes = [f"This cell {FLAGS[flag]} (flag `{flag}`): what it gave is stored here." if one.outputs else f"This cell {FLAGS[flag]} (flag `{flag}`)." for flag in flags if flag in FLAGS]
        if "export" in flags and module:
            lines = set(one.source.splitlines())
            defined = [name for name, node in module.nodes.items() if name not in module.placed and re.search(rf"^(?:(?:def|class) {name}\b|{name}\b[^=\n]*=)", one.source, re.M)]
            module.placed |= set(defined)
            module.shown += [module.nodes[name] for name in defined]
            if defined: notes.insert(0, "In the library: " + ", ".join(f"{{py:obj}}`{name} <colorize.{own}.{name}>`" for name in defined))
            if defined: cells.append(nbformat.v4.new_markdown_cell("\n".join(f"({module.label(name)})=" for name in defined) + "\n{.note}\n" + " · ".join(notes)))
            if defined: notes = []
        if notes: cells.append(nbformat.v4.new_markdown_cell("{.note}\n" + " · ".join(notes)))
        one.metadata = {"mystnb": {"image": {"alt": alt_text(source, title, section, prose)}}, "tags": ["exported"] if "export" in flags else []}
        cells.append(one)
    notebook.cells, notebook.metadata = cells, {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
    return notebook, bool(plots)


# The front page

DIVIDER = """<figure class="divider"><div class="pair" style="--at: 50%">
<img src="{colour}" alt="{title}, with colours by the model in the box" width="{width}" height="{height}"><img class="grey" src="{grey}" alt="{title}, the grey photograph" width="{width}" height="{height}">
<input type="range" min="0" max="100" value="50" aria-label="Divider between grey and colorized: {title}"></div>
<figcaption><span>grey</span><span>{title} <small>({credit})</small></span><span>colorized</span></figcaption></figure>"""


def dividers(folder, number=4, width=720):
    "Photographs of the gallery, grey and as the model in the box colours them, and the piece of a page that lays one over the other"
    from colorize.box import gallery_photos
    from colorize.colorizer import Colorizer
    from colorize.pictures.read import open_photo
    colorizer, pieces = Colorizer.from_pretrained(), []
    with open(ROOT/"data"/"photos"/"LICENSES.csv", encoding="utf-8") as f: credits = {row["file"]: row for row in csv.DictReader(f)}
    folder.mkdir(parents=True, exist_ok=True)
    photos = gallery_photos()
    for path in photos[::max(1, len(photos)//number)][:number]:
        photo, row = open_photo(path), credits[f"valid/{path.name}"]
        photo.thumbnail((width, width))
        sides = {}
        for side, picture in (("grey", photo.convert("L")), ("colour", colorizer(photo))):
            picture.save(folder/f"{path.stem}-{side}.jpg", quality=85, optimize=True)
            sides[side] = f"images/dividers/{path.stem}-{side}.jpg"
        about = {key: html.escape(row[key]) for key in ("title", "author", "licence")}
        pieces.append(DIVIDER.format(**sides, title=about["title"], credit=f"{about['author']}, {about['licence']}", width=photo.width, height=photo.height))
    told = "Move a divider by mouse, by finger, or with the arrow keys. Every third photograph of the gallery below; the licence of each is that of its photograph."
    return f'<div class="dividers">\n{"".join(pieces)}\n</div>\n<p class="caption">{told}</p>'


def front_page(notebook, chapters, pages):
    "Dividers, and what the menu shows"
    first = notebook.cells[0]
    first.source = re.sub(r"^!\[", lambda m: "```{raw} html\n:file: dividers.html\n```\n\n![", first.source, count=1, flags=re.M)
    tree = lambda caption, *lines: f"```{{toctree}}\n:hidden:\n:caption: {caption}\n" + "\n".join(lines) + "\n```"
    titles = dict((stem, title) for notebook_cell in notebook.cells for title, stem in re.findall(r"\[(\d\d [^\]]+)\]\((\d\d_\w+)\.ipynb\)", notebook_cell.source))
    trees = [tree("The course", *(f"{titles[c.stem]} <{c.stem}>" if c.stem in titles else c.stem for c in chapters)),
             tree("The library", "Reference <reference/index>"), tree("More", "running", *(Path(p).stem for p in pages))]
    notebook.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(trees)))


RUNNING = """(running)=
# Running a chapter

Each page of the course is a notebook with what it gave when it was last run. To change something and see what becomes of it, run it.

## In JupyterLab

With Python 3.10 or newer and `make`, {get}:

```sh
make lab      # the first time, it sets up .venv: about 5 minutes, 6 GB
```

JupyterLab opens with the front page; its table leads to the chapters. *Run → Run All Cells* runs one, offline, on two cores, in some seconds to a minute and a half.
Cells marked `slow`, `weights` or `cuda` take minutes, need weights from the network, or a GPU; the tests leave them out.

{colab}
## In another editor

*Download the notebook* under a chapter's title gives the file. It expects the library, the sample photographs in `data/photos`, and some recorded runs in `data/runs`, so it is best put into the folder `nbs` of {copy}.
"""
COLAB = """## In Colab

*Open in Colab* under a chapter's title opens the notebook there, alone. The library and the sample photographs come with a first cell:

```ipython3
!git clone --depth 1 {address} /content/course
%pip install -q -e /content/course
%cd /content/course/nbs
import sys; sys.path.insert(0, "/content/course")
```

"""


def stage(folder, address):
    "All that Sphinx needs, in `folder`"
    source = ROOT/"nbs"
    chapters = sorted(source.glob("[0-9][0-9]_*.ipynb"))
    by_name = {c.stem[3:]: c.stem for c in chapters}
    order = [c.stem[3:] for c in chapters]
    paths = [p for p in (ROOT/"colorize").rglob("*.py") if not p.name.startswith("_")]
    place = lambda p: (p.parent.name != "colorize", p.stem not in order, order.index(p.stem) if p.stem in order else 0, p)
    modules = [Module(path, by_name.get(path.stem) if path.parent.name == "colorize" else None) for path in sorted(paths, key=place)]
    names = {}
    for module in modules:
        module.everything, module.placed, module.shown = names, set(), []
        for name in module.nodes: names.setdefault(name, []).append(module.name)
    texts = [name for name in ("MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md") if (ROOT/name).exists()]
    glossary = source/"glossary.ipynb"
    staged, files = {"index.ipynb", glossary.name, *(c.name for c in chapters), *(PAGES[t] for t in texts)}, {f"nbs/{c.name}" for c in [*chapters, glossary]}
    plots = False
    for path in [source/"index.ipynb", *chapters, glossary]:
        notebook, plotted = chapter(path, modules, names, staged, files, address)
        plots |= plotted
        if path.stem == "index": front_page(notebook, chapters, [glossary.name, *(PAGES[t] for t in texts)])
        nbformat.write(notebook, folder/path.name)
    for text in texts: (folder/PAGES[text]).write_text(doc_links(linked((ROOT/text).read_text(encoding="utf-8"), "", staged, files), names, None), encoding="utf-8")
    for path in files:
        place = folder/path.removeprefix("nbs/") if path.startswith("nbs/images/") else folder/"extra"/"files"/path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/path, place)
    reference(modules, folder/"reference", address)
    get = f"and a copy of the repository (`git clone {address}`)" if address else "in a copy of the repository"
    running = RUNNING.format(get=get, colab=COLAB.format(address=address) if address else "", copy=f"[a copy of the repository]({address})" if address else "a copy of the repository")
    (folder/"running.md").write_text(running, encoding="utf-8")
    (folder/"dividers.html").write_text(dividers(folder/"extra"/"images"/"dividers"), encoding="utf-8")
    static = shutil.copytree(ROOT/"docs"/"static", folder/"static")
    if plots:
        from plotly.offline import get_plotlyjs
        (static/"plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")


def build(out, address=None):
    "The site, in the folder `out`; raises RuntimeError where a link leads nowhere, or Sphinx has any other complaint"
    from sphinx.cmd.build import main
    with tempfile.TemporaryDirectory() as tmp:
        source, made = Path(tmp)/"source", Path(tmp)/"html"
        source.mkdir()
        stage(source, address)
        paths = [f"-Dhtml_static_path={source/'static'}", f"-Dhtml_extra_path={source/'extra'}"]
        if main(["-q", "-W", "--keep-going", "-c", str(ROOT/"docs"), "-d", str(Path(tmp)/"trees"), *paths, str(source), str(made)]): raise RuntimeError("the site has not been made; what is wrong stands above")
        (made/".buildinfo").unlink(missing_ok=True)
        (made/".nojekyll").touch()
        if out.exists(): shutil.rmtree(out)
        shutil.move(made, out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT/"_docs", help="the folder of the site; what is in it is replaced")
    parser.add_argument("--repository", help="the repository's address, for the links to GitHub and Colab")
    args = parser.parse_args()
    address = repository(args.repository)
    if not address: print("The repository's address is not known (git_url in settings.ini): no links to GitHub and Colab.", file=sys.stderr)
    try: build(args.out, address)
    except (RuntimeError, FileNotFoundError) as error: sys.exit(str(error))
    print(f"{args.out/'index.html'} is the front page.")
