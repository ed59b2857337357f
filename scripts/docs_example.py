"""A hook of mkdocs: puts the recorded run that ships with the studio into the site, as the one HTML file that an export of it is."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "example.html"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """With `example.html` among the site's files; it is made here and lies nowhere else."""
    from safelight.serve.page import bound, example

    files.append(File.generated(config, PAGE, content=bound(example())))
    return files


__all__ = ["PAGE", "on_files"]
