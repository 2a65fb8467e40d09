"""`nnUNetv2_partial_plan`: plans with another network, made from the plans of a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnunet_partial.cli.command import add_version, output_console, run_command
from nnunet_partial.networks.variants import VARIANTS

if TYPE_CHECKING:
    from nnunet_partial.networks.plan_files import WrittenPlans

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line of `nnUNetv2_partial_plan`."""
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_partial_plan",
        description="Writes a variant of a dataset's plans beside them: another network, patch, batch or spacing, the "
        "same normalisation. Sizes of 3D configurations are in the order of the image's axes, z y x.",
    )
    parser.add_argument("-d", metavar="ID_OR_NAME", help="dataset, planned by nnU-Net")
    parser.add_argument("--variant", metavar="NAME", help="one of: " + ", ".join(VARIANTS))
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="plans to change (default: %(default)s)")
    parser.add_argument("-c", metavar="CONFIGURATION", help="configuration to change (default: the variant's)")
    parser.add_argument("--patch_size", type=int, nargs="+", metavar="N", help="patch size in voxels")
    parser.add_argument("--batch_size", type=int, metavar="N", help="patches a batch")
    parser.add_argument("--spacing", type=float, nargs="+", metavar="MM", help="voxel spacing in mm")
    parser.add_argument(
        "--features", type=int, nargs="+", metavar="N", help="channels of each stage, highest resolution first"
    )
    parser.add_argument("-o", "--name", metavar="PLANS", help="name of the new plans (default: PLANS_VARIANT)")
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    parser.add_argument(
        "--coco_weights",
        type=Path,
        metavar="FILE",
        help="for deeplabv3: torchvision's deeplabv3_resnet50 weights of COCO, to be turned into pretrained weights",
    )
    parser.add_argument("--list", action="store_true", help="show the variants and exit")
    add_version(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        return run_command(_list)
    if arguments.d is None or arguments.variant is None:
        parser.error("-d and --variant are needed (or --list)")
    if arguments.coco_weights is not None and arguments.variant != "deeplabv3":
        parser.error("--coco_weights are for --variant deeplabv3")
    return run_command(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from nnunet_partial.networks.plan_files import find_preprocessed_folder, read_dataset_json, write_plan_variant

    folder = find_preprocessed_folder(arguments.d)
    name = arguments.name or f"{arguments.p}_{arguments.variant}"
    pretrained = None
    if arguments.coco_weights is not None:
        from nnunet_partial.networks.deeplab import write_coco_checkpoint

        pretrained = folder / f"{name}_coco.pth"
        write_coco_checkpoint(arguments.coco_weights, pretrained, len(read_dataset_json(folder)["channel_names"]))
    written = write_plan_variant(
        folder,
        arguments.variant,
        name,
        plans_name=arguments.p,
        overwrite=arguments.overwrite,
        configuration=arguments.c,
        patch_size=arguments.patch_size,
        spacing=arguments.spacing,
        batch_size=arguments.batch_size,
        features=arguments.features,
    )
    _print(output_console(), written, pretrained)
    return 0


def _print(console: Console, written: WrittenPlans, pretrained: Path | None) -> None:
    table = Table("", "before", "after", title=f"{written.configuration}, sizes in the plans' axis order")
    for change in written.changes:
        table.add_row(*map(Text, change))
    console.print(table)
    lines = [f"written to {path}" for path in (written.path, pretrained) if path is not None]
    dataset = int(written.path.parent.name.removeprefix("Dataset")[:3])
    name = written.path.stem
    lines.append("next:")
    if not written.preprocessed:
        lines.append(f"  nnUNetv2_preprocess -d {dataset} -plans_name {name} -c {written.configuration}")
    more = "" if pretrained is None else f" -pretrained_weights {pretrained}"
    lines.append(f"  nnUNetv2_train {dataset} {written.configuration} 0 -tr PartialLabelTrainer -p {name}{more}")
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _list() -> int:
    table = Table("variant", "network", "patch", "spacing, mm", "batch", "source", title="plan variants, sizes z y x")
    for name, variant in VARIANTS.items():
        sizes = (variant.patch_size, variant.spacing, (variant.batch_size,) if variant.batch_size else None)
        shown = (" x ".join(f"{value:g}" for value in size) if size else "of the plans" for size in sizes)
        table.add_row(*map(Text, (name, variant.network, *shown, variant.source)))
    output_console().print(table)
    return 0
