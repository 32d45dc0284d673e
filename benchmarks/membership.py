"""Membership inference against distilled sets and against all real training chips, as a Markdown table.

    python benchmarks/membership.py --data ucmerced --root FOLDER --sets dpd=SET.nc --random 10 --full

Every set is attacked by itself; sets of the same size share their shadow students, which are kept in --folder, so a
stopped run continues. Two questions are answered: is a chip in the train view that the set was made from, and, for
sets of real chips, is it in the set.
"""

from __future__ import annotations

import argparse
import time

from rsdistill.audit.attack import Attack, MembershipResult
from rsdistill.audit.membership import membership
from rsdistill.datasets import load_dataset
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import create_distiller
from rsdistill.training.trainer import TrainerOptions


def percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def row(name: str, question: str, result: MembershipResult, attack: Attack) -> str:
    low, high = attack.auc_interval
    cells = [
        f"`{name}`",
        "all" if result.ipc is None else str(result.ipc),
        question,
        result.variant,
        percent(attack.tpr(0.01), attack.tpr_interval(0.01)),
        percent(attack.tpr(0.001), attack.tpr_interval(0.001)),
        f"{attack.auc:.3f} ({low:.3f} to {high:.3f})",
        f"{len(attack.member)} / {len(attack.non_member)}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ucmerced")
    parser.add_argument("--root", required=True)
    parser.add_argument("--sets", nargs="*", default=[], metavar="NAME=FILE", help="distilled sets by name")
    parser.add_argument("--random", type=int, metavar="IPC", help="also attack so many random real chips a class")
    parser.add_argument("--full", action="store_true", help="also attack training on all real chips")
    parser.add_argument("--folder", help="where finished students are kept")
    parser.add_argument("--size", type=int, default=64, help="side of the chips; that of the sets")
    parser.add_argument("--steps", type=int, default=300, help="steps of a student of a set")
    parser.add_argument("--full-steps", type=int, default=400, help="steps of a student of all real chips")
    parser.add_argument("--shadow-sets", type=int, default=8)
    parser.add_argument("--targets", type=int, default=2)
    args = parser.parse_args()
    data = load_dataset(args.data, args.root, scheme="published", val=0.1, size=args.size)
    attacked: dict[str, DistilledSet | None] = {}
    for given in args.sets:
        name, _, path = given.partition("=")
        attacked[name] = DistilledSet.load(path)
    if args.random:
        attacked["random"] = create_distiller("random").fit(data).distill(args.random, 0)
    if args.full:
        attacked["full"] = None
    recipe = {"steps": args.steps, "full_steps": args.full_steps}
    options = {"shadow_sets": args.shadow_sets, "targets": args.targets}
    print("| training set | IPC | members are chips of | variant | TPR at 1 % FPR, % | TPR at 0.1 % FPR, % |", end="")
    print(" AUC | members / others |\n|---|---|---|---|---|---|---|---|", flush=True)
    begun = time.process_time()
    for name, tiles in attacked.items():
        found = membership(tiles, data, recipe, options, args.folder, TrainerOptions(progress=False))
        print(row(name, "the train view", found, found.in_view), flush=True)
        if found.in_set is not None:
            print(row(name, "the set itself", found, found.in_set), flush=True)
    print(f"\n{args.shadow_sets} shadows, {args.targets} targets; {time.process_time() - begun:.0f} s of processor.")
    print("As many members as others of each class; 95 % intervals in brackets; chance gives the FPR itself and 0.5.")


if __name__ == "__main__":
    main()
