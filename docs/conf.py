"""Sphinx's settings; tools/make_docs.py lays out the pages and calls it. Nothing here asks another host for anything."""
from configparser import ConfigParser
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

parser = ConfigParser(delimiters=["="])
parser.read(Path(__file__).parent.parent/"settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

project, author, release, language = cfg["lib_path"], cfg["author"], cfg["version"], "en"
copyright = author
extensions = ["myst_nb"]
exclude_patterns = ["static/**", "extra/**"]
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_block"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "site": "{{path}}"}  # site: a file that lies beside the pages
suppress_warnings = ["myst.header"]
python_maximum_signature_line_length = 70
add_module_names = False
nitpicky = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"{project} {release}"
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
pygments_style, pygments_dark_style = "tango", "monokai"


def setup(app):
    "Formulas as MathML, which browsers draw themselves"
    def inline(self, node):
        self.body.append(tex2mathml(node.astext(), as_block=False))
        raise nodes.SkipNode

    def block(self, node):
        self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
        raise nodes.SkipNode
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
