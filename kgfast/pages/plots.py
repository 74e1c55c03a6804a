"""Small SVG charts for pages, made without a library; the page's style has their light, dark and size of letters."""

import math

from markupsafe import Markup

from kgfast.pages.markup import escape

# Told apart by people who see red and green alike, and on white as on black: after Okabe and Ito (2008).
COLOURS = (
    "#1f78b4",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#7b5ea7",
    "#a6761d",
    "#8fb339",
    "#7a7f87",
)
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 36  # margins of a chart, in its own units


def number(value):
    """Few digits, for people: 1234567 -> 1.23M, 0.034567 -> 0.0346, 12.0 -> 12."""
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"


def ticks(low, high, count=4):
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(factor for factor, limit in ((1, 1.5), (2, 3.5), (5, 7.5), (10, 11)) if raw < limit * power)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(width, height, parts, label):
    kind = "wide" if width > 720 else "half" if width > 400 else "third"  # how much of a page: letters shrink with it
    start = f'<svg viewBox="0 0 {width} {height}" class="{kind}" role="img" aria-label="{escape(label)}">'
    return Markup(start + "".join(parts) + "</svg>")


def text(x, y, value, anchor="middle", kind="tick"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(str(value))}</text>'


def rule(x1, y1, x2, y2, kind="grid"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def frame(points, zero, x_label, width, height):
    """(parts, at): grid, numbers and the word of the x axis around these points, and where a point (x, y) lies."""
    xs, ys = zip(*points, strict=True)
    low, high = (min(0, *ys) if zero else min(ys)), max(ys)
    high = high if high > low else low + (abs(low) or 1)
    high += (high - low) * 0.06
    low = low if zero else low - (high - low) * 0.06
    left, right = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

    def at(x, y):
        return (
            LEFT + (x - left) / (right - left) * (width - LEFT - RIGHT),
            height - BOTTOM - (y - low) / (high - low) * (height - TOP - BOTTOM),
        )

    parts = []
    for value in ticks(low, high):
        y = at(left, value)[1]
        parts += [rule(LEFT, y, width - RIGHT, y), text(LEFT - 6, y + 3.5, number(value), "end")]
    parts += [text(at(value, low)[0], height - BOTTOM + 15, number(value)) for value in ticks(left, right, 5)]
    parts.append(text(width - RIGHT, height - 2, x_label, "end", "axis"))
    return parts, at


def polyline(points, at, colour, style='stroke-width="2"', hint=""):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
    start = f'<polyline points="{path}" fill="none" stroke="{colour}" {style} stroke-linejoin="round"'
    return f"{start}><title>{escape(hint)}</title></polyline>" if hint else f"{start}/>"


def line_chart(xs, ys, *, label, x_label, colour=COLOURS[0], zero=True, mark=None, width=360, height=210):
    """One curve. `zero`: the axis starts at 0; `mark` = (x, y, word) rings a point; hovering tells values."""
    points = thin(finite(xs, ys))
    if not points:
        return Markup()
    parts, at = frame(points, zero, x_label, width, height)
    parts.append(polyline(points, at, colour))
    radius = 2.4 if len(points) <= 40 else 0
    for x, y in points:
        cx, cy = at(x, y)
        hint = f"<title>{escape(x_label)} {number(x)}: {number(y)}</title>"
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}" fill="{colour}"/>' if radius else "")
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="7" fill="transparent">{hint}</circle>')
    if mark is not None:
        cx, cy = at(mark[0], mark[1])
        anchor = "end" if cx > width / 2 else "start"
        parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="4.5" class="ring" stroke="{colour}"/>')
        parts.append(text(cx + (-8 if anchor == "end" else 8), cy + 16, mark[2], anchor, "note"))
    return svg(width, height, parts, label)


def curves_chart(series, *, label, x_label, zero=True, width=560, height=300):
    """Several curves in one frame; `series`: list of (name, colour, xs, ys). Hovering tells the name."""
    curves = [(name, colour, thin(finite(xs, ys))) for name, colour, xs, ys in series]
    points = [point for _, _, of_curve in curves for point in of_curve]
    if not points:
        return Markup()
    parts, at = frame(points, zero, x_label, width, height)
    for name, colour, of_curve in reversed(curves):  # the first on top
        if len(of_curve) == 1:
            cx, cy = at(*of_curve[0])
            hint = f"<title>{escape(name)}</title>"
            parts.append(f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3" fill="{colour}">{hint}</circle>')
        elif of_curve:
            parts.append(polyline(of_curve, at, colour, 'stroke-width="1.6" stroke-opacity=".85"', name))
    return svg(width, height, parts, label)


def finite(xs, ys):
    return [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]


def thin(points, most=400):
    """Every n-th point so that at most some 400 remain, the last one always."""
    step = math.ceil(len(points) / most) if points else 1
    return points[::step] + (points[-1:] if (len(points) - 1) % step else [])


def bar_chart(names, series, *, label, x_label, width=560, height=230):
    """Groups of bars, as shares of a series' sum; `series`: list of (title, a value for each of `names`)."""
    shares = [(name, values, [value / max(sum(values), 1) for value in values]) for name, values in series]
    high = max(max(share) for _, _, share in shares) * 1.06 or 1
    slot = (width - LEFT - RIGHT) / len(names)
    bar = slot * 0.72 / len(series)

    def at(share):
        return height - BOTTOM - share / high * (height - TOP - BOTTOM)

    parts = []
    for value in ticks(0, high):
        parts += [
            rule(LEFT, at(value), width - RIGHT, at(value)),
            text(LEFT - 6, at(value) + 3.5, f"{value:.0%}", "end"),
        ]
    for index, name in enumerate(names):
        start = LEFT + slot * (index + 0.14)
        for row, (title, values, share) in enumerate(shares):
            words = f"{title}, {x_label} {name}: {values[index]:,} ({share[index]:.1%})"
            top = at(share[index])
            parts.append(
                f'<rect x="{start + row * bar:.1f}" y="{top:.1f}" width="{bar * 0.94:.1f}" '
                f'height="{height - BOTTOM - top:.1f}" rx="1.5" fill="{COLOURS[row]}">'
                f"<title>{escape(words)}</title></rect>"
            )
        parts.append(text(LEFT + slot * (index + 0.5), height - BOTTOM + 15, name))
    parts.append(text(width - RIGHT, height - 2, x_label, "end", "axis"))
    return svg(width, height, parts, label)


def scatter(points, *, label, width=960, height=600):
    """Points (x, y, name, colour, size), the most important ones first: names are written while they fit, fewer and
    larger ones on a narrow screen.

    Every point tells its name when hovered. Coordinates of any scale; both axes are stretched to the frame.
    """
    pad = 24
    xs, ys = [point[0] for point in points], [point[1] for point in points]

    def scale(value, values, length):
        low, high = min(values), max(values)
        return pad + (value - low) / ((high - low) or 1) * (length - 2 * pad)

    places = [(scale(x, xs, width), height - scale(y, ys, height), *rest) for x, y, *rest in points]
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}"><title>{escape(name)}</title></circle>'
        for x, y, name, colour, size in reversed(places)  # the important ones on top
    ]
    names = [*names_that_fit(places, width, 1.0, 60, "name"), *names_that_fit(places, width, 2.3, 14, "name near")]
    return svg(width, height, dots + names, label)


def names_that_fit(places, width, size, most, kind):
    """The names of points at (x, y) in letters of a size, the first ones first, where none covers another."""
    words: list[str] = []
    taken: list[tuple[float, float, float, float]] = []  # boxes
    for x, y, name, _, radius in places:
        word = name if len(name) <= 26 else name[:25] + "…"
        reach, gap = 6.6 * size * len(word), radius + 3
        start = x + gap if x + gap + reach < width else x - gap - reach
        box = (start, y - 7 * size, start + reach, y + 6 * size)
        free = all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken)
        if free and start >= 0:
            taken.append(box)
            words.append(text(start, y + 3.5 * size, word, "start", kind))
        if len(words) == most:
            break
    return words
