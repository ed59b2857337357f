"""A result as Markdown, for a model's card. Rendered from the JSON and nothing else, so the card can always be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(numbers: Mapping[str, Any], heading: str = "## Measured") -> str:
    """The section of a model card for one evaluation (`Report.numbers`, or the JSON file read back)."""
    warning = numbers["frechet"]["warning"]
    parts = [
        heading,
        _made(numbers),
        _table(numbers),
        f"Warning: {warning}." if warning else "",
        _classes(numbers),
        _how(numbers),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _made(numbers: Mapping[str, Any]) -> str:
    n, made = numbers["pictures"]["generated"], numbers["made"]
    if made["source"] != "generated":
        return f"{n:,} pictures from the folder `{made['folder']}`; how they were made is not recorded."
    sentences = (
        f"{n:,} pictures, the same for all numbers: {made['steps']} steps of `{made['sampler']}` on grid `{made['grid']}`,",
        f"guidance scale {_scale(made['guidance'])}, weights `{made['weights']}`, seed {made['seed']}, model `{made['model']}`,",
        f"torch {made['torch']} on {made['device']}.",
    )
    return " ".join(sentences)


def _scale(guidance: float | Mapping[str, Any]) -> str:
    """A number, or a strength that changes over the run: its kind and fields."""
    if not isinstance(guidance, Mapping):
        return f"{guidance:g}"
    fields = ", ".join(f"{name} {value}" for name, value in guidance.items() if name != "kind")
    return f"`{guidance['kind']}` ({fields})"


def _table(numbers: Mapping[str, Any]) -> str:
    seen, fd, kd, mani = numbers["recognised"], numbers["frechet"], numbers["kernel"], numbers["manifold"]
    copies, floor = numbers["copies"], numbers["manifold"]["floor"]
    low, high = fd["floor_range"]
    rows = [
        (fd["name"], f"{fd['value']:.3g}", f"{fd['floor']:.3g} ({low:.3g} to {high:.3g})", "lower"),
        (f"{kd['name']}, x 1000", _kd(kd), _kd(kd["floor"]), "lower; 95 % interval"),
        ("precision: they look real", f"{mani['precision']:.3f}", f"{floor['precision']:.3f}", "higher"),
        ("recall: all kinds are reached", f"{mani['recall']:.3f}", f"{floor['recall']:.3f}", "higher"),
        ("density", f"{mani['density']:.3f}", f"{floor['density']:.3f}", "higher"),
        ("coverage", f"{mani['coverage']:.3f}", f"{floor['coverage']:.3f}", "higher"),
        ("copies of training pictures, by pixels", _percent(copies["pixels"]["fraction"]), _percent(0.01), "not above"),
        ("copies of training pictures, by features", _percent(copies["features"]["fraction"]), _percent(0.01), "not above"),
    ]
    if seen["rate"] is not None:
        rows.insert(0, ("recognised as the class asked for", _percent(seen["rate"]), _percent(seen["real"]), "higher"))
    lines = [f"| {name} | **{ours}** | {real} | {good} |" for name, ours, real, good in rows]
    return "\n".join(["| | generated | real pictures | better is |", "|---|---:|---:|---|", *lines])


def _classes(numbers: Mapping[str, Any]) -> str:
    if numbers["recognised"]["rate"] is None:
        return ""
    lines = ["| class | recognised | real test pictures | most often mistaken for |", "|---|---:|---:|---|"]
    for row in numbers["recognised"]["classes"]:
        if row["asked"]:
            rate = f"{row['recognised']} of {row['asked']}"
            lines.append(f"| {row['class']} | {rate} | {_percent(row['real'])} | {row['mistaken_for']} |")
    return "\n".join(lines)


def _how(numbers: Mapping[str, Any]) -> str:
    pictures, ex, px = numbers["pictures"], numbers["extractor"], numbers["copies"]["pixels"]
    n, k = pictures["generated"], numbers["manifold"]["neighbours"]
    sentences = (
        f"How: features are the {ex['features']} numbers that `{ex['name']}` (hash `{ex['hash']}`) computes in {ex['layer']}.",
        "They are not Inception's, so no number here is an FID.",
        f"Distances are to all {pictures['test']:,} test pictures; precision, recall, density and coverage to {n:,} of them",
        f"({k} neighbours). The column of real pictures has {pictures['floor']} in the place of the generated ones",
        "(FD: mean and range of five draws), and for recognition the test pictures.",
        f"Pictures are compared as {pictures['range']}, resize: {pictures['resize']}.",
        "A copy is nearer to a training picture than 1 % of held-out real pictures are;",
        f"the nearest of {pictures['train']:,} is {px['median']:.1f} rms grey levels away (median; of held-out real pictures",
        f"{px['held_out_median']:.1f}), over shifts by one pixel and mirror images.",
    )
    return " ".join(sentences)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _kd(k: Mapping[str, Any]) -> str:
    return f"{1000 * k['value']:.3g} ({1000 * k['low']:.3g} to {1000 * k['high']:.3g})"
