"""Print the result table of finished runs as Markdown: ``python docs/results_table.py runs/ucmerced ...``."""

import json
import sys
from pathlib import Path


def percent(value, std=None):
    return "–" if value is None else f"{100 * value:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def table(run: Path) -> str:
    found = json.loads(next(run.glob("*_evaluate/evaluation.json")).read_text(encoding="utf-8"))
    head = "| training set | IPC | OA, % | AA, % | kappa | train neighbour, % (95 %) | copies, % | kB | n |"
    lines = [head, "|" + "---|" * 9]
    for row in found["rows"]:
        null = "–"
        if row["held_out_null"] is not None:
            low, high = (f"{100 * row[end]:.0f}" for end in ("held_out_low", "held_out_high"))
            null = f"{100 * row['held_out_null']:.0f} ({low} to {high})"
        cells = [
            f"`{row['method']}`, {'generated' if row['synthetic'] else 'real chips'}",
            "all" if row["ipc"] is None else row["ipc"],
            percent(row["oa"], row["oa_std"]),
            percent(row["aa"], row["aa_std"]),
            f"{row['kappa']:.3f}",
            null,
            "–" if row["copy_rate"] is None else f"{100 * row['copied']:.0f}",
            f"{row['bytes'] / 1e3:,.0f}",
            row["n"],
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    seconds = sum(stage["seconds"] for stage in stages.values())
    figures = {name: value for stage in stages.values() for name, value in stage["figures"].items()}
    facts = [f"{figures['train']} train, {figures['val']} val, {found['test_chips']} test chips"]
    facts += [f"{name} {figures[name]}" for name in ("psnr", "val_oa", "steps", "singletons") if name in figures]
    lines.append(f"\n{'; '.join(facts)}; {seconds / 60:.0f} minutes in all.")
    return "\n".join(lines)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(f"## {Path(path).name}\n\n{table(Path(path))}\n")
