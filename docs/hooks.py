"""What MkDocs puts into the site besides the pages of docs/, by its events (`hooks` in mkdocs.yml)."""

import re
from pathlib import Path
from typing import Any

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

README = Path(__file__).parents[1] / "README.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the configuration reference."""
    files.append(File.generated(config, "configuration.md", content=generated.configuration()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fills the home page with results that README.md has."""
    if page.file.src_uri != "index.md":
        return markdown
    return re.sub(r"<!-- (\w+)( verdicts)? -->", lambda found: result(found[1], bool(found[2])), markdown)


def result(name: str, verdicts: bool) -> str:
    """Returns a block of README.md, which `make readme` writes, or its verdicts alone."""
    (block,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README.read_text(), re.DOTALL)
    return "\n".join(line for line in block.splitlines() if line.startswith("- ")) if verdicts else block
