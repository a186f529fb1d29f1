# Copyright 2026 the videoms_hf authors. Licensed under the Apache License, Version 2.0.
"""A self-contained HTML page of the most confident mistakes of an evaluation, with what the model looked at."""

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

from ..messages import printable
from .animation import image_animation
from .clips import ClipView, clip_rows
from .picture import Panels


FRAMES_PER_SECOND = 6.0
PANEL_WIDTH = 240
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #20242c; margin: 2rem auto; max-width: 1180px; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 1.2rem }}
.card {{ border: 1px solid #e2e4e9; border-radius: 10px; padding: .8rem 1rem; overflow: hidden }}
.card img {{ max-width: 100% }}
.wrong {{ color: #c4321c }}
.name {{ color: #6a7078; font-size: .85rem; overflow-wrap: anywhere }}
table {{ border-collapse: collapse; width: 100%; margin-top: 1rem }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e2e4e9; vertical-align: top }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<div class="cards">
{cards}
</div>
<h2>All classes, the worst confusions first</h2>
<table>
<tr><th>class</th><th>videos</th><th>top-1</th><th>most often taken for</th><th>for example</th></tr>
{rows}
</table>
</body>
</html>
"""


class Mistake(NamedTuple):
    """A video with a wrong prediction."""

    name: str
    label: str
    predicted: str
    probability: float
    label_probability: float
    view: ClipView | None  # what the model does with it; `None` if it is not drawn


def mistakes_page(title: str, summary: str, mistakes: Sequence[Mistake], classes: Sequence[dict], tubelet: int) -> str:
    """The page: a card for each mistake, with its clip next to its kept tokens, and the table of all classes.

    Everything is in the page itself. `classes` are rows of `evaluation.results.class_table`.
    """
    cards, rows = [_card(mistake, tubelet) for mistake in mistakes] or ["<p>None.</p>"], []
    for row in classes:
        taken = f"{row['taken_for']} ({row['times']})" if row["times"] else ""
        cells = [row["class"], row["videos"], f"{row['top1']:.1%}", taken, ", ".join(row["examples"])]
        rows.append(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>")
    return PAGE.format(title=_text(title), summary=_text(summary), cards="\n".join(cards), rows="\n".join(rows))


def _card(mistake: Mistake, tubelet: int) -> str:
    picture = ""
    if mistake.view is not None:
        panels = Panels(clip_rows(mistake.view, tubelet, ("clip", "kept"), PANEL_WIDTH), has_heading=False)
        frames = [panels.draw(i) for i in range(len(mistake.view.frames))]
        data = base64.b64encode(image_animation(frames, "webp", FRAMES_PER_SECOND)).decode()
        picture = f'<img alt="the clip and its kept tokens" src="data:image/webp;base64,{data}">'
    return (
        f'<div class="card"><div><b class="wrong">{_text(mistake.predicted)}</b> {mistake.probability:.0%}, '
        f"but it is <b>{_text(mistake.label)}</b> ({mistake.label_probability:.0%})</div>\n{picture}\n"
        f'<div class="name">{_text(mistake.name)}</div></div>'
    )


def _text(text: object) -> str:
    return html.escape(printable(text))
