"""The report's two forms say the same."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

from common.compare.render import Heading, Picture, Points, Table, Text, markdown, self_contained_html


def test_markdown_links_pictures_beside_it(tmp_path: Path) -> None:
    blocks = [
        Heading("Title", 1),
        Text("A **bold** word."),
        Points(["one", "two"]),
        Table(["arm", "Dice"], [["a|b", "0.5"]]),
        Picture(tmp_path / "pictures" / "x.png", "Dice"),
    ]
    assert markdown(blocks, tmp_path) == (
        "# Title\n\nA **bold** word.\n\n- one\n- two\n\n| arm | Dice |\n| --- | --- |\n| a\\|b | 0.5 |\n\n"
        "![Dice](pictures/x.png)\n"
    )


def test_html_needs_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"picture")
    page = self_contained_html(
        [Text("**1** < `2`"), Table(["<arm>"], [["a & b"]]), Picture(tmp_path / "x.png", 'a "Dice"')], "T & t"
    )
    sources: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list) -> None:  # noqa: ARG002
            sources.extend(value for name, value in attributes if name in ("src", "href"))

    Reader().feed(page)
    assert sources == ["data:image/png;base64," + base64.b64encode(b"picture").decode()]
    assert "<b>1</b> &lt; <code>2</code>" in page
    assert "<th>&lt;arm&gt;</th>" in page
    assert "<td>a &amp; b</td>" in page
    assert "<title>T &amp; t</title>" in page
