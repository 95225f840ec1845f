"""What happens to the pages while the site is built."""

from pathlib import Path

from formulas import with_formulas
from generated import ROOT, command_line, notebook, recipes_page, reference
from links import ROOT_PAGES, moved, search_weight, slug, spaced, whole_words
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_OWN = {"README.md"}  # the site has a start of its own
EXECUTED = ROOT / "build" / "notebooks"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that they have on GitHub."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for name, page in ROOT_PAGES.items():
        if name not in _OWN:
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=moved(text, file=name, page=page)))
    made = {"command-line.md": command_line(), "recipes.md": recipes_page(), **dict(reference())}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        text = notebook(path, EXECUTED / path.name)
        made[page] = moved(text, file=f"docs/notebooks/{path.name}", page=page)
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links and formulas hold on the site."""
    del config, files
    page.meta["search"] = {"boost": search_weight(page.file.src_uri)}
    source = page.file.abs_src_path
    if source is not None:
        file = Path(source).relative_to(ROOT).as_posix()
        markdown = moved(markdown, file=file, page=page.file.src_uri)
    return with_formulas(spaced(markdown))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Break lines of text between the words of a command, never behind a hyphen."""
    del page, config, files
    return whole_words(html)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Take out the one script that a page would fetch: docs/js/worker.js does its work."""
    name = config.site_name
    output = output.replace(f"<title>{name} - {name}</title>", f"<title>{name}</title>")
    return _alone(output, "../" * page.url.count("/"))


def on_post_template(output_content: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Likewise for the page that is shown where there is none."""
    del template_name, config
    return _alone(output_content, "/")


def _alone(output: str, up: str) -> str:
    return output.replace("https://unpkg.com/iframe-worker/shim", f"{up}js/worker.js")
