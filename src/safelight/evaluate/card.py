"""A result as Markdown, for a model's card. Rendered from the JSON and nothing else, so the card can always be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(numbers: Mapping[str, Any], heading: str = "## Measured") -> str:
    """The section of a model card for one evaluation (`Report.numbers`, or the JSON file read back)."""
    pictures, made, seen = numbers["pictures"], numbers["made"], numbers["recognised"]
    frechet, kd, mani, copies = numbers["frechet"], numbers["kernel"], numbers["manifold"], numbers["copies"]
    n, floor = pictures["generated"], "real pictures, same N"
    lines = [heading, "", _made(n, made), ""]
    lines += [f"| | generated | {floor} | |", "|---|---:|---:|---|"]
    if seen["rate"] is not None:
        lines.append(f"| recognised as the class asked for | **{_percent(seen['rate'])}** | {_percent(seen['real'])} | higher is better; the classifier's test accuracy |")
    low, high = frechet["floor_range"]
    lines += [
        f"| {frechet['name']} | **{frechet['value']:.3g}** | {frechet['floor']:.3g} ({low:.3g} to {high:.3g}) | lower is better |",
        f"| {kd['name']}, x 1000 | **{_kd(kd)}** | {_kd(kd['floor'])} | lower is better; 95 % interval |",
        f"| precision | **{mani['precision']:.3f}** | {mani['floor']['precision']:.3f} | higher is better: pictures look real |",
        f"| recall | **{mani['recall']:.3f}** | {mani['floor']['recall']:.3f} | higher is better: variety is reached |",
        f"| density | **{mani['density']:.3f}** | {mani['floor']['density']:.3f} | near the right column |",
        f"| coverage | **{mani['coverage']:.3f}** | {mani['floor']['coverage']:.3f} | higher is better |",
        f"| copies of training pictures, by pixels | **{_percent(copies['pixels']['fraction'])}** | 1.0 % | nearer to a training picture than 1 % of held-out real ones are |",
        f"| copies, by features | **{_percent(copies['features']['fraction'])}** | 1.0 % | the same |",
        "",
    ]  # fmt: skip
    if frechet["warning"]:
        lines += [f"Warning: {frechet['warning']}.", ""]
    if seen["rate"] is not None:
        lines += ["| class | recognised | real test pictures | most often mistaken for |", "|---|---:|---:|---|"]
        for row in seen["classes"]:
            if row["asked"]:
                lines.append(f"| {row['class']} | {row['recognised']} of {row['asked']} | {_percent(row['real'])} | {row['mistaken_for']} |")
        lines.append("")
    px, ex = copies["pixels"], numbers["extractor"]
    lines += [
        f"How: features are {ex['features']} numbers of `{ex['name']}` (hash `{ex['hash']}`): {ex['layer']}. These are not Inception's, so no",
        f"number here is an FID. Reference: all {pictures['test']:,} test pictures for the distances, {n:,} of them for precision, recall,",
        f"density and coverage ({mani['neighbours']} neighbours). The right column puts {pictures['floor']} in the place of the generated",
        f"pictures (FD: mean and range of five draws). Pictures are compared as {pictures['range']}, resize: {pictures['resize']}. The nearest of",
        f"{pictures['train']:,} training pictures is {px['median']:.1f} {px['unit'].split(',')[0]} away (median; held-out real pictures:",
        f"{px['held_out_median']:.1f}), over shifts by one pixel and mirror images.",
        "",
    ]
    return "\n".join(lines)


def _made(n: int, made: Mapping[str, Any]) -> str:
    if made["source"] != "generated":
        return f"{n:,} pictures from the folder `{made['folder']}`; how they were made is not recorded."
    return (
        f"{n:,} pictures, all measured together: {made['steps']} steps of `{made['sampler']}` on grid `{made['grid']}`, guidance scale "
        f"{made['guidance']:g}, weights `{made['weights']}`, seed {made['seed']}, model `{made['model']}`, torch {made['torch']} on {made['device']}."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _kd(k: Mapping[str, Any]) -> str:
    return f"{1000 * k['value']:.3g} ({1000 * k['low']:.3g} to {1000 * k['high']:.3g})"
