"""Line charts as PNG files, drawn with Pillow, which the package has anyway."""

from PIL import Image, ImageDraw, ImageFont


COLOURS = ("#1f5fbf", "#d9822b", "#2f9e44", "#868e96")
WIDTH, HEIGHT, MARGIN = 360, 260, 48


def line_chart(draw, corner: tuple[int, int], title: str, lines: dict[str, list[tuple[float, float]]]) -> None:
    """Draw `lines`, name -> points (x, y), into the panel at `corner`; both axes start at 0 and are linear."""
    left, top = corner[0] + MARGIN, corner[1] + MARGIN // 2
    right, bottom = corner[0] + WIDTH - 12, corner[1] + HEIGHT - MARGIN
    font = ImageFont.load_default()
    points = [point for line in lines.values() for point in line]
    x_most, y_most = max(x for x, _ in points), max(y for _, y in points) * 1.05 or 1.0
    draw.text((left, corner[1] + 4), title, fill="black", font=font)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black")
    for x in sorted({x for x, _ in points}):
        place = left + (right - left) * x / x_most
        draw.line([(place, bottom), (place, bottom + 4)], fill="black")
        draw.text((place, bottom + 6), f"{x:g}", fill="black", font=font, anchor="ma")
    for k in range(5):
        place, value = bottom - (bottom - top) * k / 4, y_most * k / 4
        draw.line([(left - 4, place), (left, place)], fill="black")
        draw.text((left - 6, place), f"{value:.3g}", fill="black", font=font, anchor="rm")
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(left + (right - left) * x / x_most, bottom - (bottom - top) * y / y_most) for x, y in sorted(line)]
        draw.line(places, fill=colour, width=2)
        for x, y in places:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        draw.text((left + 8 + 120 * number, corner[1] + HEIGHT - 18), name, fill=colour, font=font)


def save_charts(panels: list[list[tuple[str, dict]]], path: str) -> None:
    """Write rows of charts, each (title, lines), as one picture."""
    columns = max(len(row) for row in panels)
    picture = Image.new("RGB", (WIDTH * columns, HEIGHT * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    for i, row in enumerate(panels):
        for j, (title, lines) in enumerate(row):
            line_chart(draw, (j * WIDTH, i * HEIGHT), title, lines)
    picture.save(path)
