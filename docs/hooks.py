"""Hooks of the site's builder: types in docstrings are written as in Transformers, with backticks inside."""

import re


def on_page_content(html: str, **_) -> str:
    return re.sub(r"<code>([^<]*`[^<]*)</code>", lambda code: code[0].replace("`", ""), html)
