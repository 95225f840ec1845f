"""Markdown as it lies in the repository to Markdown as the site's builder takes it.

Links lead from file to file, as on GitHub; some of these files are pages of another name on the
site, or no pages at all.
"""

import posixpath
import re

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files beside ``docs/`` that are pages of the site."""

_GUIDES = {"index.md", "library.md", "messages.md", "paper-table.md", "students.md"}
_FENCE = re.compile(r"^ *(```|~~~)")
_NAMED = re.compile(r"^( *```\w+) (\S+)$")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
_INLINE_CODE = re.compile(r"<code>([^<]*-[^<]*)</code>")
_COMMANDS = re.compile(r'<div class="language-(?:sh|console) highlight">.*?</div>', re.DOTALL)
_TEXT = re.compile(r"(?<=>)[^<>]+(?=<)")
_HYPHENED = r"(?<!\S)(?=\S{1,38}(?!\S))\S*-\S*"
_NUMBERED = re.compile(r"^\d\. ")
_THREE = re.compile(r"^ {3}(?! )")
_ITEM = re.compile(r"^ *(?:[-*+]|\d+\.) ")


def slug(heading: str, separator: str = "-") -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"<[^>]+>", "", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def page_of(path: str) -> str | None:
    """The site's page that shows a file of the repository; None if there is none."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/"):
        name = path.removeprefix("docs/")
        return f"{name.removesuffix('.ipynb')}.md" if name.endswith(".ipynb") else name
    module = re.fullmatch(r"src/dukd/(\w+)/(.+)\.py", path)
    if module:
        dotted = module[2].replace("/", ".").removesuffix(".__init__")
        return f"reference/{module[1]}.md#dukd.{module[1]}.{dotted}"
    return None


def moved(markdown: str, *, file: str, page: str) -> str:
    """A page whose links hold on the site.

    Args:
        markdown: The text.
        file: Where it lies in the repository.
        page: Where it lies on the site, without the builder's ending.
    """

    def link(found: re.Match[str]) -> str:
        image, words, target = found.groups()
        name, hash_, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), name))
        there = page_of(path)
        if there is None:
            return words
        uri, own_hash, own_anchor = there.partition("#")
        relative = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"{image}[{words}]({relative}{hash_ or own_hash}{anchor or own_anchor})"

    return "".join(text if code else _LINK.sub(link, text) for code, text in _pieces(markdown))


def spaced(markdown: str) -> str:
    """A page as the builder's Markdown has it.

    Lists have an empty line before them, which GitHub can do without; what belongs to a numbered
    item is indented by four, where GitHub takes three; and a name behind a block's language is its
    title.
    """
    lines: list[str] = []
    fenced = numbered = moves = False
    for given in markdown.splitlines():
        if not fenced:
            numbered = bool(_NUMBERED.match(given)) if given[:1].strip() else numbered
            moves = numbered and bool(_THREE.match(given))
        line = f" {given}" if moves and given else given
        if _FENCE.match(line):
            line = line if fenced else _NAMED.sub(r'\1 title="\2"', line)
            fenced = not fenced
        above = lines[-1] if lines else ""
        starts = not fenced and _ITEM.match(line) and above.strip()
        goes_on = _ITEM.match(above) or above.startswith((" ", "#"))
        if starts and (_FENCE.match(above) or not goes_on):
            lines.append("")
        lines.append(line)
    return "\n".join(lines) + "\n"


def search_weight(page: str) -> float:
    """How much a page of the site counts in its search: a guide is read before a docstring is."""
    if page.startswith(("guides/", "notebooks/")) or page in _GUIDES:
        return 3.0
    return 0.3 if page.startswith("reference/") or page in {"log.md", "changelog.md"} else 1.0


def whole_words(html: str) -> str:
    """A page whose commands are broken at spaces, not behind their hyphens."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = [
        _INLINE_CODE.sub(lambda found: f"<code>{_whole(found[1])}</code>", part)
        for part in parts[::2]
    ]
    html = "".join(parts)
    return _COMMANDS.sub(lambda found: _TEXT.sub(lambda text: _whole(text[0]), found[0]), html)


def _whole(text: str) -> str:
    return re.sub(_HYPHENED, r'<span class="whole">\g<0></span>', text)


def _pieces(markdown: str) -> list[tuple[bool, str]]:
    """The text in runs of lines: whether they are code, and what they say."""
    pieces: list[tuple[bool, str]] = []
    run: list[str] = []
    fenced = False
    for line in markdown.splitlines(keepends=True):
        edge = _FENCE.match(line)
        if edge and not fenced:
            pieces.append((False, "".join(run)))
            run, fenced = [line], True
        elif edge:
            pieces.append((True, "".join([*run, line])))
            run, fenced = [], False
        else:
            run.append(line)
    return [*pieces, (fenced, "".join(run))]
