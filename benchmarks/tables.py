"""Results as Markdown: `python benchmarks/tables.py RESULTS.json… [--exactness TRUTH.json] [--into PAGE]`.

RESULTS.json is what `serving.py` wrote, TRUTH.json what `tools/check_truth.py --output` did. With `--into` the part of
the page between its two marks is written anew; nobody types figures there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
OURS = "forebay"

Results = Mapping[str, Any]


def markdown(results: Results) -> str:
    """The machine, a row a load with ratios (above 1: ours is better), settings, and whatever has no figure."""
    return "\n\n".join(part for part in (head(results), table(results), settings(results), gaps(results)) if part)


def head(results: Results) -> str:
    """What was measured, where and how."""
    machine = results["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{', '.join(machine['instruction_sets'])}; {machine['system']}. `{results['model']}`, commit "
        f"`{results['commit']}`, {results['date']}: medians of {results['rounds']} alternating rounds, "
        f"{results['seconds']:g} s a load."
    )


def table(results: Results) -> str:
    """A row a load, a column a server: its best setting's median, and how many times better ours is."""
    names = list(dict.fromkeys(contender["server"] for contender in results["contenders"]))
    peers = [name for name in names if name != OURS]
    lines = [f"| load | unit | {' | '.join([OURS, *peers])} |", "|---|---|" + "---|" * (1 + len(peers))]
    for load, how in results["loads"].items():
        ours = best(results, OURS, load)
        cells = [shown(ours)]
        for peer in peers:
            theirs = best(results, peer, load)
            cells.append(shown(theirs) + ratio(ours, theirs, how["higher_is_better"]))
        lines.append(f"| {load} | {how['unit']} | {' | '.join(cells)} |")
    torch = {key: statistics.median(values) for key, values in results["import_torch"].items()}
    lines.append("")
    lines.append(
        f"In brackets: how many times better ours is. A bare `import torch` took {torch['start_s']:.2f} s and "
        f"{torch['memory_mib']:.0f} MiB in the same rounds."
    )
    return "\n".join(lines)


def best(results: Results, server: str, load: str) -> float | None:
    """The median over rounds of a server's best setting; none if no setting has a figure of every round."""
    found: list[float] = [
        statistics.median(contender["figures"][load])
        for contender in results["contenders"]
        if contender["server"] == server and len(contender["figures"].get(load, ())) == results["rounds"]
    ]
    if not found:
        return None
    return max(found) if results["loads"][load]["higher_is_better"] else min(found)


def shown(figure: float | None) -> str:
    """Three digits that count."""
    if figure is None:
        return "none"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def ratio(ours: float | None, theirs: float | None, higher_is_better: bool) -> str:
    """In brackets, above 1 when ours is better."""
    if not ours or not theirs:
        return ""
    return f" ({ours / theirs if higher_is_better else theirs / ours:.2f})"


def settings(results: Results) -> str:
    """Each server's version and the settings of which the best counts in each row."""
    lines = ["| server | version | setting |", "|---|---|---|"]
    lines += [f"| {one['server']} | {one['version']} | {one['setting']} |" for one in results["contenders"]]
    return "\n".join(lines)


def gaps(results: Results) -> str:
    """What has no figure, and why."""
    lines = [f"- {name} was not measured: {first_line(reason)}" for name, reason in results["absent"].items()]
    lines += [
        f"- {one['server']}, {one['setting']}, {load}: {first_line(reason)}"
        for one in results["contenders"]
        for load, reason in one["failures"].items()
    ]
    return "\n".join(lines)


def exactness(truth: Results) -> str:
    """A row a file: how near ours and llama.cpp come to the float32 reference."""
    lines = [
        f"Next tokens at {truth['positions']:,} positions against transformers' in float32: the share of equal best "
        "tokens, and mean |Δlogprob| of the reference's best.",
        "",
        "| file | ours: equal | mean \\|Δlogprob\\| | llama.cpp: equal | mean \\|Δlogprob\\| |",
        "|---|---|---|---|---|",
    ]
    for name, figures in truth["files"].items():
        cells = [f"{one['agreement']:.4f} | {one['mean_abs_dlogprob']:.5f}" for one in figures.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def first_line(reason: str) -> str:
    """Enough of a reason for a list."""
    return (reason.splitlines() or [""])[0][:200]


def written_anew(page: str, figures: Iterable[str]) -> str:
    """The page with these figures between its marks. Raises: ValueError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no `{BEGIN}` followed by `{END}`")
    return "\n\n".join((before + BEGIN, *figures, END + after))


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--exactness", type=Path, help="what `tools/check_truth.py --output` wrote")
    parser.add_argument("--into", type=Path, help="the page whose figures are written anew")
    arguments = parser.parse_args()
    figures = [markdown(json.loads(path.read_text())) for path in arguments.results]
    if arguments.exactness:
        figures.append(exactness(json.loads(arguments.exactness.read_text())))
    if arguments.into:
        arguments.into.write_text(written_anew(arguments.into.read_text(), figures))
    else:
        print("\n\n".join(figures))


if __name__ == "__main__":
    main()
