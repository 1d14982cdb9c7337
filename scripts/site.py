"""Builds the documents as a site: `make site`, into build/site. Nothing of it is fetched by the reader's browser.

The pages are those of docs/, as they are. Links that leave docs/ go to the repository.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/site-source"
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")

# What stands in the menu, in this order. A page that is missing here fails the build.
CHAPTERS: dict[str, list[str]] = {
    "Start": ["index.md", "jobs.md", "comparison.md", "faq.md"],
    "Guides": [
        "howto/schedule-once.md",
        "howto/groups.md",
        "howto/events.md",
        "howto/webhooks.md",
        "howto/traces.md",
        "howto/workers-in-containers.md",
        "howto/autoscale.md",
        "howto/after-an-outage.md",
        "howto/backup-and-restore.md",
        "howto/move-to-a-cluster.md",
        "howto/replace-the-original.md",
    ],
    "Production": [
        "production.md",
        "upgrading.md",
        "operations.md",
        "bounds.md",
        "reliability.md",
        "scaling.md",
        "dashboard.md",
        "security.md",
    ],
    "Reference": [
        "rest.md",
        "grpc.md",
        "python.md",
        "queues.md",
        "kafka.md",
        "shell.md",
        "cli.md",
        "configuration.md",
        "worker-protocol.md",
        "compatibility.md",
    ],
    "Benchmarks": ["benchmarks.md"],
    "How it works": ["architecture.md", "storage.md"],
}


def linked(text: str, page: Path) -> str:
    """The page's text with links that leave docs/ led to the repository. ``page``: where it lies in the repository."""

    def lead(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = (page.parent / target).resolve()
        if path == ROOT / "README.md":
            there = Path("index.md")
        elif path.is_relative_to(ROOT / "docs"):
            there = path.relative_to(ROOT / "docs")
        else:
            kind = "tree" if path.is_dir() else "blob"
            return f"{match[1]}{REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}{match[3]}"
        mine = Path() if page == ROOT / "README.md" else page.relative_to(ROOT / "docs").parent
        up = "../" * len(mine.parts)
        return f"{match[1]}{up}{there}{'#' + anchor if anchor else ''}{match[3]}"

    return _LINK.sub(lead, text)


def main() -> int:
    """Builds the site; the exit code."""
    shutil.rmtree(BUILD, ignore_errors=True)
    docs = BUILD / "docs"
    shutil.copytree(ROOT / "docs", docs)
    for page in docs.rglob("*.md"):
        page.write_text(linked(page.read_text(), ROOT / "docs" / page.relative_to(docs)))
    (docs / "index.md").write_text(linked((ROOT / "README.md").read_text(), ROOT / "README.md"))
    decisions = sorted(str(page.relative_to(docs)) for page in (docs / "adr").glob("*.md"))
    chapters = {
        **CHAPTERS,
        "Decisions": ["adr/README.md", *(page for page in decisions if not page.endswith("README.md"))],
    }
    named = {page for pages in chapters.values() for page in pages}
    if lost := sorted({str(page.relative_to(docs)) for page in docs.rglob("*.md")} - named):
        print(f"scripts/site.py: name {', '.join(lost)} in CHAPTERS, so that readers find it", file=sys.stderr)
        return 1
    menu = "\n".join(
        f"  - {title}:\n" + "\n".join(f"      - {page}" for page in pages) for title, pages in chapters.items()
    )
    (BUILD / "mkdocs.yml").write_text(
        f"""site_name: DelayBox
site_description: One-time tasks that fire on the millisecond, kept in Redis or Valkey
repo_url: {REPOSITORY}
docs_dir: docs
site_dir: {ROOT / "build/site"}
theme:
  name: material
  font: false
  features: [navigation.tabs, navigation.top, toc.follow, content.code.copy, search.suggest]
  palette:
    - {{media: "(prefers-color-scheme: light)", scheme: default, toggle: {{icon: material/weather-night, name: Dark}}}}
    - {{media: "(prefers-color-scheme: dark)", scheme: slate, toggle: {{icon: material/weather-sunny, name: Light}}}}
plugins: [search]
markdown_extensions:
  - attr_list
  - tables
  - toc: {{permalink: true, slugify: !!python/object/apply:pymdownx.slugs.slugify {{kwds: {{case: lower}}}}}}
  - pymdownx.superfences
  - pymdownx.highlight
validation: {{links: {{anchors: warn}}}}
nav:
{menu}
"""
    )
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--config-file",
        str(BUILD / "mkdocs.yml"),
    ]
    if subprocess.run(command, check=False).returncode:
        return 1
    outside = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"')
    for page in (ROOT / "build/site").rglob("*.html"):
        fetched = [url for url in outside.findall(page.read_text()) if not url.startswith(REPOSITORY)]
        if fetched:
            print(f"scripts/site.py: {page} would fetch {fetched[0]}", file=sys.stderr)
            return 1
    print(f"the site is in {ROOT / 'build/site'}: python3 -m http.server --directory build/site")
    return 0


if __name__ == "__main__":
    sys.exit(main())
