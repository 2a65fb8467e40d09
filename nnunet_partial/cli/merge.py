"""`nnUNetv2_partial_merge`: several raw datasets and one merge file become one partly labelled raw dataset."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_processes, add_version, output_console, run_command
from nnunet_partial.errors import LabelError, PartialError, ProblemsError

if TYPE_CHECKING:
    from nnunet_partial.labels.merge import MergeResult
    from nnunet_partial.labels.merge_plan import MergePlan

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_merge`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_merge",
        description="Merges raw nnU-Net datasets, each labelling some structures, into one raw dataset that says "
        "for every case what was annotated. A merge that was interrupted goes on where it stopped.",
    )
    parser.add_argument(
        "merge_file", nargs="?", metavar="MERGE_FILE", help="YAML file, see docs/merge-file.md, or a name of --list"
    )
    parser.add_argument("-d", type=int, metavar="ID", help="number of the new dataset, 1 to 999")
    parser.add_argument(
        "--images",
        choices=("link", "reference", "copy"),
        default="link",
        help="symbolic links to the images (default), their paths in dataset.json, or copies; where the merge file "
        "declares a normalisation, normalised images are written instead",
    )
    add_processes(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that was merged differently")
    parser.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="check the merge file and say what would be done"
    )
    parser.add_argument("--list", action="store_true", help="list the merge files that come with the package")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not arguments.list and (arguments.merge_file is None or arguments.d is None):
        parser.error("give a merge file and -d ID, or --list")
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.labels.merge import merge_datasets, merge_folds
    from nnunet_partial.labels.merge_file import load_merge_file
    from nnunet_partial.labels.merge_plan import plan_merge

    console = output_console()
    if arguments.list:
        _print_collections(console)
        return 0
    merge_file = _merge_file(arguments.merge_file)
    if arguments.dry_run:
        plan = plan_merge(load_merge_file(merge_file), merge_file.parent)
        merge_folds(plan, merge_file.parent)
        _print_plan(console, plan)
        _say(console, "dry run: nothing was written")
        return 0
    result = merge_datasets(
        merge_file,
        arguments.d,
        images=arguments.images,
        processes=arguments.np,
        overwrite=arguments.overwrite,
    )
    _print_plan(console, result.plan)
    _print_result(console, result, arguments.d)
    return 0


def _merge_file(text: str) -> Path:
    """A merge file by its path, or by the name of one that comes with the package."""
    from nnunet_partial.dataset_conversion import collections

    path = Path(text)
    known: dict[str, Path] = {name.lower(): file for name, file in collections().items()}
    if not path.is_file() and text.lower() in known:
        _check_converted(known[text.lower()])
        return known[text.lower()]
    if not path.suffix and not path.exists():
        raise PartialError(f"{text}: no such file, and no merge file of the package; see --list")
    return path


def _check_converted(path: Path) -> None:
    """All datasets of a collection that are not there are named at once."""
    from nnunet_partial.labels.merge_file import load_merge_file
    from nnunet_partial.labels.raw_dataset import environment_folder, find_dataset_folder

    environment_folder("nnUNet_raw")
    missing = []
    for entry in load_merge_file(path).sources.values():
        try:
            find_dataset_folder(entry.dataset)
        except LabelError:
            missing.append(f"{entry.dataset}: convert it with nnUNetv2_partial_convert")
    if missing:
        raise ProblemsError(f"datasets are missing; {path} says how they are converted", missing)


def _print_collections(console: Console) -> None:
    from nnunet_partial.dataset_conversion import collections
    from nnunet_partial.labels.merge_file import load_merge_file

    table = Table("name", "what it is", "datasets")
    files = collections()
    for name, path in files.items():
        with path.open(encoding="utf-8") as file:
            title = file.readline().removeprefix("#").strip()
        datasets = [str(entry.dataset) for entry in load_merge_file(path).sources.values()]
        table.add_row(*map(Text, (name, title, ", ".join(datasets))))
    console.print(table)
    _say(console, f"files, which say more: {next(iter(files.values())).parent}")


def _print_plan(console: Console, plan: MergePlan) -> None:
    labels = plan.labels
    sources = Table("source", "cases", "annotation sets", "classes annotated", title=f"{len(plan.cases)} cases")
    for source in labels.sources:
        of_set = Counter(name for name in labels.cases.values() if labels.sets[name].source == source)
        rows = [list(labels.sets).index(name) for name in of_set]
        annotated = [n for column, n in enumerate(labels.class_names) if labels.annotated[rows, column].any()]
        listed = ", ".join(f"{name} ({count})" for name, count in of_set.items())
        sources.add_row(*map(Text, (source, str(of_set.total()), listed, ", ".join(annotated) or "none")))
    console.print(sources)

    classes = Table("channel", "class", "annotated in", "side", "atoms", title="classes, in channel order")
    cases = [labels.annotated[labels.row_of(case)] for case in labels.cases]
    for channel, (name, atoms) in enumerate(labels.space.classes.items()):
        count = sum(int(row[channel]) for row in cases)
        side = "yes" if name in labels.sides.classes else ""
        classes.add_row(*map(Text, (str(channel), name, f"{count} cases", side, ", ".join(sorted(atoms)))))
    console.print(classes)
    if labels.sides.classes:
        axes = ", ".join("zyx"[axis] for axis in labels.sides.axes)
        _say(
            console,
            f"sides: mirroring along {axes or 'left-right, to be found in the images,'} is left out in training",
        )
    for note in plan.notes():
        _say(console, f"note: {note}")


def _print_result(console: Console, result: MergeResult, dataset_id: int) -> None:
    from nnunet_partial.labels.raw_dataset import PICTURES, environment_folder

    configuration = "2d" if result.plan.file_ending in PICTURES else "3d_fullres"
    _say(console, f"{'written to' if result.written else 'up to date already:'} {result.folder}")
    if result.splits_kept is not None:
        _say(console, f"note: {result.splits_kept} differs from the folds of the merge and was kept (see --overwrite)")
    try:
        environment_folder("nnUNet_preprocessed")
    except LabelError:
        _say(
            console,
            f"note: nnUNet_preprocessed is not set, so the folds are in {result.folder / 'splits_final.json'} only; "
            "trainings of this package take them from there, those of nnU-Net do not",
        )
    _say(console, "next:")
    _say(console, f"  nnUNetv2_partial_verify -d {dataset_id}")
    _say(console, f"  nnUNetv2_plan_and_preprocess -d {dataset_id} -c {configuration}")
    _say(console, '  eval "$(nnUNetv2_partial_env)"')
    _say(console, f"  nnUNetv2_train {dataset_id} {configuration} 0 -tr PartialLabelTrainer")


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
