"""`nnUNetv2_partial_convert`: a public dataset, as downloaded, becomes a raw nnU-Net dataset."""

from __future__ import annotations

import argparse
import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_processes, add_version, output_console, run_command
from nnunet_partial.errors import PartialError

if TYPE_CHECKING:
    from nnunet_partial.conversion import Converter
    from nnunet_partial.conversion.engine import ConversionResult, Options, Plan

__all__ = ["build_parser", "datasets_page", "main"]

_FEW_LABELS = 16
_COLUMNS = ("name", "modality", "cases", "classes", "licence")
_PAGE = """# Datasets that can be converted

`nnUNetv2_partial_convert NAME -i DOWNLOAD` turns a download into a raw nnU-Net dataset
([how to convert](how-to-convert.md)).
Cases are the training cases with labels in a full download.
Licences are those of the datasets: read them before you use one.
This page is written by `nnUNetv2_partial_convert --list --format markdown`.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_convert`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_convert",
        description="Converts a public dataset, as downloaded and unpacked, into a raw nnU-Net dataset that says for "
        "every case what was annotated. A conversion that stopped goes on where it stopped. See "
        "docs/how-to-convert.md.",
    )
    parser.add_argument("dataset", nargs="?", metavar="NAME", help="dataset, see --list")
    parser.add_argument("-i", type=Path, metavar="DOWNLOAD", help="folder of the unpacked download")
    parser.add_argument("-d", type=int, metavar="ID", help="number of the new dataset (default: the dataset's own)")
    parser.add_argument("--name", metavar="NAME", help="name of the new dataset (default: that of the dataset)")
    parser.add_argument("--labels", metavar="NAMES", help="convert these labels only, e.g. liver,spleen")
    parser.add_argument("--exclude", metavar="CASES", help="leave these cases out, e.g. case_00002,case_00010")
    parser.add_argument("--unlabelled", action="store_true", help="also convert training images without labels")
    parser.add_argument("--link", action="store_true", help="link images that need no change instead of copying them")
    parser.add_argument(
        "--orientation",
        choices=("as-is", "RAS"),
        default="as-is",
        help="keep the axes of the images (default), or turn images and labels to RAS",
    )
    parser.add_argument(
        "--overlaps",
        choices=("own", "ignore"),
        default="own",
        help="voxels of several masks get a value of their own (default), or become 'ignore'",
    )
    parser.add_argument(
        "--split-sides",
        "--split_sides",
        action="store_true",
        help="tell left and right apart where organs of both sides have one label, such as kidneys",
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="resize pictures, e.g. 640x512")
    add_processes(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that was converted before")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="check the files, say what would be done")
    parser.add_argument("--list", action="store_true", help="list the datasets")
    parser.add_argument("--format", choices=("table", "markdown"), default="table", help="of --list")
    parser.add_argument("--describe", metavar="NAME", help="say what is known of a dataset")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not (arguments.list or arguments.describe) and (arguments.dataset is None or arguments.i is None):
        parser.error("give a dataset and -i DOWNLOAD, or --list, or --describe NAME")
    return run_command(lambda: _run(arguments))


def datasets_page(converters: Mapping[str, Converter]) -> str:
    """The page of docs/datasets.md."""
    rows = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_row, _sorted(converters))]
    return _PAGE + "\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.dataset_conversion import converters

    known = converters()
    if arguments.list and arguments.format == "markdown":
        print(datasets_page(known), end="")
    elif arguments.list:
        _print_list(output_console(), known)
    elif arguments.describe:
        print(_description(_converter(arguments.describe, known)), end="")
    else:
        _convert(arguments, _converter(arguments.dataset, known))
    return 0


def _converter(name: str, known: Mapping[str, Converter]) -> Converter:
    by_lower_case = {key.lower(): converter for key, converter in known.items()}
    if name.lower() in by_lower_case:
        return by_lower_case[name.lower()]
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=3)
    meant = f"; did you mean {', '.join(by_lower_case[key].name for key in close)}?" if close else ""
    raise PartialError(f"'{name}' is no dataset that can be converted{meant or '; see --list'}")


def _convert(arguments: argparse.Namespace, converter: Converter) -> None:
    from nnunet_partial.conversion.engine import convert_dataset, plan_conversion

    console = output_console()
    options = _options(arguments)
    if arguments.dry_run:
        _print_plan(console, plan_conversion(converter, arguments.i, options))
        _say(console, "dry run: nothing was written")
        return
    result = convert_dataset(
        converter,
        arguments.i,
        arguments.d,
        name=arguments.name,
        options=options,
        processes=arguments.np,
        overwrite=arguments.overwrite,
    )
    _print_plan(console, result.plan)
    _print_result(console, result)


def _options(arguments: argparse.Namespace) -> Options:
    from nnunet_partial.conversion.engine import Options

    size = None
    if arguments.size is not None:
        width, _, height = arguments.size.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise PartialError(f"--size: expected WIDTHxHEIGHT in pixels, e.g. 640x512, found '{arguments.size}'")
        size = (int(width), int(height))
    return Options(
        orientation=arguments.orientation,
        link=arguments.link,
        labels=_words(arguments.labels) if arguments.labels is not None else None,
        exclude=_words(arguments.exclude or ""),
        unlabelled=arguments.unlabelled,
        overlaps=arguments.overlaps,
        size=size,
        split_sides=arguments.split_sides,
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


# what is printed


def _sorted(converters: Mapping[str, Converter]) -> list[Converter]:
    return sorted(converters.values(), key=lambda converter: converter.name.lower())


def _row(converter: Converter) -> tuple[str, ...]:
    listed = _shortened(converter.label_names)
    counts = f"{converter.expected.get('train', '?')}"
    if converter.expected.get("test"):
        counts += f" + {converter.expected['test']} test"
    return converter.name, converter.modality, counts, listed, converter.licence


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW_LABELS else f"{len(names)}: {', '.join(names[:3])}, ..."


def _print_list(console: Console, converters: Mapping[str, Converter]) -> None:
    table = Table(*_COLUMNS, title=f"{len(converters)} datasets")
    for converter in _sorted(converters):
        table.add_row(*map(Text, _row(converter)))
    console.print(table)


def _description(converter: Converter) -> str:
    values: dict[str, list[int]] = {}
    for value, name in converter.values.items():
        values.setdefault(name or "background", []).append(value)
    labels = [f"  {_ranges(numbers)}: {_meaning(name, converter)}" for name, numbers in values.items()]
    counts = ", ".join(f"{count} {kind}" for kind, count in converter.expected.items())
    lines = [
        f"{converter.name}: {converter.modality} ({counts or 'number of cases unknown'})",
        f"from {converter.url}",
        f"licence: {converter.licence}",
        f"cite: {converter.citation}",
        f"default dataset: Dataset{converter.dataset_id:03d}_{converter.name}",
        "files, below the folder given with -i" + "".join(f" or {name} in it" for name in converter.top) + ":",
        *(f"  {pattern}" for pattern in converter.layout),
        "labels:",
        *labels,
        *(f"annotation set '{name}': {', '.join(s.labels or ('all',))}" for name, s in converter.sets.items()),
        *(f"note: {note}" for note in converter.notes),
    ]
    return "\n".join(lines) + "\n"


def _ranges(numbers: Sequence[int]) -> str:
    """'1, 5 to 9': three numbers or more in a row are shortened."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _meaning(name: str, converter: Converter) -> str:
    tissues = sorted(converter.tissues(name))
    return name if tissues == [name] else f"{name} (could be {', '.join(tissues)})"


def _print_plan(console: Console, plan: Plan) -> None:
    train = [case for case in plan.cases if case.part == "Tr"]
    test = [case for case in plan.cases if case.part == "Ts"]
    table = Table("annotation set", "cases", "labels", title=f"{plan.converter.name}: {len(train)} training cases")
    for (name, annotated), count in Counter((case.set_name, case.annotated) for case in train).items():
        listed = "whatever occurs" if annotated is None else _shortened(annotated) or "nothing is known"
        table.add_row(*map(Text, (name or "", str(count), listed)))
    console.print(table)
    if test:
        labelled = sum(case.case.label is not None for case in test)
        _say(console, f"test cases: {len(test)}, of which {labelled} have labels")
    for reason, count in Counter(plan.left_out.values()).items():
        names = [name for name, why in plan.left_out.items() if why == reason]
        more = ", ..." if count > 5 else ""
        _say(console, f"left out: {count} ({', '.join(names[:5])}{more}): {reason}")
    for note in (*plan.notes, *plan.converter.notes):
        _say(console, f"note: {note}")


def _print_result(console: Console, result: ConversionResult) -> None:
    from nnunet_partial.conversion.placement import ON_IMAGE

    _say(console, f"{'written to' if result.written else 'up to date already:'} {result.folder}")
    _say(console, f"images: {', '.join(f'{count} {how}' for how, count in sorted(result.images.items()))}")
    if result.overlaps:
        listed = ", ".join(f"{name} ({count} cases)" for name, count in list(result.overlaps.items())[:5])
        more = f", and {len(result.overlaps) - 5} more" if len(result.overlaps) > 5 else ""
        _say(console, f"masks overlap; values of their own: {listed}{more}")
    if result.placements:
        counts = sorted(result.placements.items(), key=_commonest_first)
        listed = ", ".join(f"{count} {how.removeprefix(f'{ON_IMAGE}, ')}" for how, count in counts)
        odd = "; look at the rare ones, which are most likely wrong" if len(result.placements) > 1 else ""
        _say(console, f"labels: {listed}{odd} ('placement' in conversion.json says which case)")
    for organ, outcomes in sorted(result.sides.items()):
        listed = ", ".join(f"{count} {how}" for how, count in sorted(outcomes.items(), key=_commonest_first))
        _say(console, f"sides of {organ}: {listed} ('sides' in conversion.json says which case)")
    if result.doubts:
        names = list(result.doubts)
        more = ", ..." if len(names) > 5 else ""
        _say(
            console,
            f"note: {len(names)} of {len(result.plan.cases)} CT images ({', '.join(names[:5])}{more}) look as if they "
            "were not in Hounsfield units: soft tissue near 1000 and no air of -1000 ('intensities' in conversion.json "
            "says what was found). Perhaps 1024 was not subtracted. nnU-Net clips and normalises all CT images alike, "
            "so look at them, and subtract it or leave them out with --exclude",
        )
    if result.splits_kept is not None:
        _say(console, f"note: {result.splits_kept} differs from the official split and was kept (see --overwrite)")
    dataset_id = int(result.folder.name[len("Dataset") :].partition("_")[0])
    _say(console, "next:")
    _say(console, f"  nnUNetv2_partial_verify -d {dataset_id}")
    _say(console, f"  merge it with others (docs/merge-file.md), or nnUNetv2_plan_and_preprocess -d {dataset_id}")


def _commonest_first(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
