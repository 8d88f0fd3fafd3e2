"""The site: Sphinx, with MyST for the pages, which are plain Markdown, and autodoc for the reference.

``.ci/docs`` builds it. What is done here beyond settings: formulas become MathML, which browsers show without any
script; the table of contents is the list of links of index.md; and links to files of the repository lead to pages that
show them.
"""

import base64
import inspect
import posixpath
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

project = "flax_rnn"
copyright = "the flax_rnn authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "figures/**"]
html_theme = "furo"
html_title = "flax_rnn"
html_copy_source = False
html_math_renderer = "mathml"
highlight_language = "none"  # of what follows "::", as equations do
html_theme_options = {"navigation_with_keys": True}
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "repo": None}
suppress_warnings = ["myst.header"]

napoleon_use_ivar = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Weights", "params_style"), ("Call arguments", "params_style")]
autosummary_generate = True  # a page for each class of the lists in api/, in api/classes/
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
# Types of others, of which there is no index at hand, and names that are not of the reference.
nitpick_ignore_regex = [("py:.*", r"(?!flax_rnn\.).*"), ("py:.*", r"flax_rnn\.(\w+\.)*_.*")]

PICTURES = {".png", ".svg"}
SHOWN = {".py", ".md", ".h", ".cc", ".toml", ".json"}
linked: set[str] = set()


def page_of(path: str) -> str:
    """The page, without its ending, that a file or folder of the repository is shown at."""
    if path.startswith("docs/") and path.endswith(".md"):
        return path[len("docs/") : -len(".md")]
    return f"files/{path}"


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Marks links that lead out of the folder, and gives index.md its table of contents."""
    folder = (DOCS / name).parent

    def mark(match: re.Match[str]) -> str:
        path = (folder / match[1]).resolve()
        inside = path.is_relative_to(ROOT) and path.exists() and not path.is_relative_to(DOCS)
        if not inside or path.suffix in PICTURES:
            return match[0]
        return f"](repo:{path.relative_to(ROOT).as_posix()})"

    source[0] = re.sub(r"\]\((\.\.?/[^)#\s]+)(?:#[^)\s]*)?\)", mark, source[0])
    if name == "index":
        source[0] += "\n".join(_contents(source[0]))


def _contents(text: str) -> Iterator[str]:
    """A hidden toctree for each heading with links, and one for the pages that index.md does not know."""
    chapters = {
        part.partition("\n")[0]: re.findall(r"\]\(([\w/-]+)\.(?:md|rst)\)", part) for part in text.split("\n## ")
    }
    known = {name for names in chapters.values() for name in names} | {"index"}
    others = [path.relative_to(DOCS).with_suffix("").as_posix() for path in sorted(DOCS.rglob("*.md"))]
    chapters["More"] = [name for name in others if name not in known and not name.startswith("figures/")]
    for title, names in chapters.items():
        if names:
            yield from ("", "", "```{toctree}", ":hidden:", f":caption: {title}", "", *dict.fromkeys(names), "```")


def resolve(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Makes links to pages of what ``read`` has marked."""
    for node in tree.findall(nodes.reference):
        uri = node.get("refuri", "")
        if uri.startswith("repo:"):
            path = uri[len("repo:") :]
            linked.add(path)
            node["refuri"] = posixpath.relpath(f"{page_of(path)}.html", posixpath.dirname(name) or ".")
            node["internal"] = True


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Pages of the files that the documents link, and of those that these link."""
    waiting, done = sorted(linked), set(linked)
    while waiting:
        path = waiting.pop()
        body, more = _folder(path) if (ROOT / path).is_dir() else _file(path)
        for other in more - done:
            if not page_of(other).startswith("files/"):
                continue
            done.add(other)
            waiting.append(other)
        yield page_of(path), {"title": path, "body": f"<h1>{escape(path)}</h1>{body}", "parents": []}, "page.html"


def _link(to: str, at: str) -> str:
    return posixpath.relpath(f"{page_of(to)}.html", posixpath.dirname(page_of(at)))


def _folder(path: str) -> tuple[str, set[str]]:
    """What is in a folder."""
    entries = [entry for entry in sorted((ROOT / path).iterdir()) if not entry.name.startswith((".", "_"))]
    names = [f"{path}/{one.name}" for one in entries if one.suffix in SHOWN - {".json"}]
    items = "".join(f'<li><a href="{_link(name, path)}">{escape(posixpath.basename(name))}</a></li>' for name in names)
    return f"<ul>{items}</ul>", {*names}


def _file(path: str) -> tuple[str, set[str]]:
    """A file, as it is, or what its Markdown means."""
    text, found = (ROOT / path).read_text(), set[str]()
    if not path.endswith(".md"):
        try:
            lexer = get_lexer_for_filename(path)
        except ClassNotFound:
            lexer = get_lexer_for_filename("file.txt")
        return f'<div class="highlight">{highlight(text, lexer, HtmlFormatter(nowrap=False))}</div>', found

    def lead(match: re.Match[str]) -> str:
        to = (ROOT / path).parent / match[1]
        to = to.resolve()
        if not to.exists() or not to.is_relative_to(ROOT) or not (to.is_dir() or to.suffix in SHOWN):
            return f'data-file="{match[1]}"'
        name = to.relative_to(ROOT).as_posix()
        found.add(name)
        return f'href="{_link(name, path)}"'

    html = MarkdownIt("commonmark").enable("table").render(text)
    html = re.sub(r"<h(\d)>([^<]+)</h\d>", _heading, html)
    html = re.sub(
        r'src="(?!https?:)([^"]+)"', lambda match: f'src="{_embedded((ROOT / path).parent / match[1])}"', html
    )
    html = html.replace("<table>", '<div class="table-wrapper"><table class="docutils">').replace(
        "</table>", "</table></div>"
    )
    return re.sub(r'href="(?!https?:)([^"#]+)(?:#[^"]*)?"', lead, html), found


def _embedded(path: Path) -> str:
    """A picture as an address, since Sphinx copies only those that the pages of docs show."""
    kind = "svg+xml" if path.suffix == ".svg" else path.suffix[1:]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _heading(match: re.Match[str]) -> str:
    """A heading that can be linked."""
    name = re.sub(r"[^\w -]", "", match[2].lower()).replace(" ", "-")
    return f'<h{match[1]} id="{name}">{match[2]}</h{match[1]}>'


def signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, words: str | None, returns: Any) -> Any:
    """Signatures without addresses, and without what every module of linen has."""
    if what == "class" and name.startswith(("flax_rnn.nnx.", "flax_rnn.linen.")):  # metaclasses hide them
        arguments = inspect.signature(thing.__init__)
        plain = [one.replace(annotation=inspect.Parameter.empty) for one in [*arguments.parameters.values()][1:]]
        words = str(inspect.Signature(plain))
    if words is not None:
        words = re.sub(r", (?:parent|name)(?:: [^=]*)?=[^,)]*(?:\([^)]*\))?(?:>)?(?=[,)])", "", words)
        words = re.sub(r"<([\w.]*\.)?(\w+)(?: object)? at 0x[0-9a-f]+>", r"\2", words)
        words = re.sub(r"<class '([\w.]+)'>", r"\1", words)
    return words, returns


def math(self: Any, node: nodes.Element, block: bool) -> None:
    """A formula as MathML; one that cannot be read ends the build."""
    self.body.append(tex2mathml(node.astext(), as_block=block).replace("<mo>'</mo>", "<mo>\N{PRIME}</mo>"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Adds the above."""
    inline = lambda self, node: math(self, node, False)  # noqa: E731
    block = lambda self, node: math(self, node, True)  # noqa: E731
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("source-read", read)
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", file_pages)
    app.connect("autodoc-process-signature", signature)
    app.add_css_file("site.css")


html_static_path = ["_static"]
