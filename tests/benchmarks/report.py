"""Renders BENCHMARKS.md from the JSON of the benchmarks: `make bench-report`.

Every row is a measurement in tests/benchmarks/results/, or is marked *not measured*; nothing is computed from a
measurement on another machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synco_hub.atomic_write import atomic_write

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parents[1] / "BENCHMARKS.md"

# Benchmark -> the devices it is meant to run on, in the order of the page.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "contrastive_loss": ("cpu", "cuda"),
    "training_step": ("cpu", "cuda"),
    "step_overhead": ("cpu",),
    "two_views": ("cpu", "cuda"),
    "knn": ("cpu", "cuda"),
    "feature_extraction": ("cpu", "cuda"),
    "linear_probe": ("cpu", "cuda"),
    "segmentation": ("cpu", "cuda"),
    "label_propagation": ("cpu",),
    "space": ("cpu",),
    "duplicates": ("cpu",),
    "leak_check": ("cpu",),
    "embedding": ("cpu",),
}
INTRODUCTION = """# Benchmarks

Made by `make bench-report` from what `make bench` measured (tests/benchmarks/results/). Variants take turns in one
process and medians count: read the ratios, not the seconds. *Floor* is what theory or another part of the work sets as
the least. GPU rows are of one look at an H200, at the commit they name; what is called *not measured* was not. `make
bench-smoke` holds the main ratios in CI, with generous margins.
"""
NOTES = HERE / "ideas.md"


def load(name: str, device: str) -> dict[str, Any] | None:
    """One benchmark's JSON, if it was run on such a device."""
    path = RESULTS / f"{name}_{device}.json"
    return json.loads(path.read_text()) if path.exists() else None


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(finding: dict[str, Any]) -> str:
    """The goal and whether it is met."""
    if not finding["goal"]:
        return ""
    return f"{finding['goal']}: {'met' if finding['met'] else '**not met**'}"


def section(name: str, device: str) -> str:
    """A heading, the machine and one row for each finding."""
    report = load(name, device)
    if report is None:
        title = next((r["benchmark"] for d in BENCHMARKS[name] if (r := load(name, d))), name.replace("_", " "))
        return f"## {title}: {device}\n\n*not measured*\n"
    machine, versions = report["machine"], report["versions"]
    where = f"{machine['device']}, {machine.get('cores', '')} cores" if device == "cpu" else machine["device"]
    clock = f", {machine['threads']} thread, {machine['clock']}" if device == "cpu" else ""
    commit = f", commit {report['commit']}" if "commit" in report else ""
    lines = [
        f"## {report['benchmark']}: {device}",
        "",
        f"{where}{clock}; torch {versions['torch']}; {report['date']}{commit}; "
        + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in report["settings"].items()),
        "",
        "| what | measured | goal | floor |",
        "|---|---:|---|---|",
    ]
    lines += [
        f"| {finding['what']} | {number(finding['measured'])} {finding['unit']} | {verdict(finding)} "
        f"| {finding['floor']} |"
        for finding in report["findings"]
    ]
    # What a measurement on a machine that is seldom at hand does not know of.
    lines += ["", report["since"]] if "since" in report else []
    return "\n".join(lines) + "\n"


def scaling_curves() -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Cost against size, by panel and curve: (size, milliseconds)."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {"batch": {}, "queue": {}, "bank": {}, "queries": {}}
    loss = load("contrastive_loss", "cpu")
    for row in loss["rows"] if loss else []:
        if row["queue"] == 4096:
            panels["batch"].setdefault(row["variant"], []).append((row["batch"], row["milliseconds"]))
        if row["batch"] == 128:
            panels["queue"].setdefault(row["variant"], []).append((row["queue"], row["milliseconds"]))
    knn = load("knn", "cpu")
    for row in knn["rows"] if knn else []:
        if row.get("scaling") == "bank":
            panels["bank"].setdefault("k-NN, four k", []).append((row["bank"], 1e3 * row["median_s"]))
        if "scaling" in row and row["bank"] == 100_000:
            panels["queries"].setdefault("k-NN, four k", []).append((row["queries"], 1e3 * row["median_s"]))
    return {panel: {name: sorted(c) for name, c in curves.items() if len(c) > 1} for panel, curves in panels.items()}


def plot(path: Path) -> None:
    """Time against batch, queue and bank, with the slope that the theory gives (linear) as a dotted line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    panels = scaling_curves()
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for axis, (panel, curves) in zip(axes, panels.items(), strict=True):
        sizes: list[float] = []
        for name, curve in curves.items():
            at, times = zip(*curve, strict=True)
            sizes = sorted({*sizes, *at})
            axis.loglog(at, times, "o-", color=f"C{names.index(name)}", label=name, linewidth=1.5, markersize=4)
        if curves:
            at, times = zip(*next(iter(curves.values())), strict=True)
            axis.loglog(at, [times[0] * size / at[0] for size in at], ":", color="gray", label="linear")
        # Sizes as they were measured; a logarithmic axis would label its own between them.
        axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_xlabel(panel)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("milliseconds")
    for axis, name in (
        (axes[0], "contrastive_loss"),
        (axes[1], "contrastive_loss"),
        (axes[2], "knn"),
        (axes[3], "knn"),
    ):
        if report := load(name, "cpu"):
            axis.set_title(f"{name.replace('_', ' ')}, {report['machine']['device']}", fontsize=9)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=9)
    with atomic_write(path) as unfinished:
        figure.savefig(unfinished, dpi=120)
    pyplot.close(figure)


def render() -> str:
    """The whole page."""
    sections = [section(name, device) for name, devices in BENCHMARKS.items() for device in devices]
    picture = "![Time against batch, queue and bank](tests/benchmarks/results/scaling.png)\n"
    return "\n".join([INTRODUCTION, picture, *sections, NOTES.read_text()])


def main() -> None:
    """Draw the plot and write the page."""
    plot(RESULTS / "scaling.png")
    with atomic_write(PAGE) as unfinished:
        unfinished.write_text(render())
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
