"""What MkDocs puts into the site besides the pages of docs/, by its events (`hooks` in mkdocs.yml)."""

import re
from pathlib import Path
from typing import Any

import generated
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PLANNER = ROOT / "build/planner.html"
NO_PLANNER = """<!doctype html>
<html lang="en"><title>No planner</title><main><h1>No planner</h1>
<code>make planner docs</code> computes it.</main></html>
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the configuration reference, and the planner if `make planner` has computed it."""
    planner = PLANNER.read_text(encoding="utf-8") if PLANNER.is_file() else NO_PLANNER
    files.append(File.generated(config, "configuration.md", content=generated.configuration()))
    files.append(File.generated(config, "planner.html", content=planner))
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
