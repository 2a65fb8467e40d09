"""What the documents state is computed again: tables of states, lists of commands, messages, links."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from nnunet_partial import trainers
from nnunet_partial.labels import ABSENT, BLOCK, PRESENT, UNKNOWN, PartialLabels, one_axis_per_source, to_json
from nnunet_partial.labels.merge_file import load_merge_file
from nnunet_partial.labels.merge_plan import MergePlan, plan_merge
from nnunet_partial.training.recipe import SETTINGS
from tests import documents
from tests.documents import ROOT, Block, Table

README = ROOT / "README.md"
LABEL_MODEL = ROOT / "docs" / "label-model.md"
HOW_TO = ROOT / "docs" / "how-to-different-organs.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")

STATES = {PRESENT: "present", ABSENT: "absent", UNKNOWN: "unknown"}
_SOURCE = re.compile(r"dataset: Dataset(\d+)_(\w+) +# labels: (\{.*\})")

PlanExample = Callable[[Block, list[Block]], MergePlan]


def examples() -> Iterator[tuple[Block, list[Block], list[Table]]]:
    """The merge files of the label model, each with the CSV files and the tables that follow it."""
    merge_file: Block | None = None
    csv_files: list[Block] = []
    tables: list[Table] = []
    for part in documents.parts(LABEL_MODEL):
        if isinstance(part, Table):
            tables.append(part)
        elif part.kind == "csv":
            csv_files.append(part)
        elif part.kind == "yaml":
            if merge_file is not None:
                yield merge_file, csv_files, tables
            merge_file, csv_files, tables = part, [], []
    assert merge_file is not None
    yield merge_file, csv_files, tables


EXAMPLES = list(examples())


@pytest.fixture
def plan_example(raw_dataset: Callable[..., Path], merge_file: Callable[..., Path]) -> PlanExample:
    """Plans the merge of an example, from datasets with the labels that its comments name."""

    def plan(block: Block, csv_files: list[Block]) -> MergePlan:
        path = merge_file(block.text)
        for file in csv_files:
            assert file.file is not None
            (path.parent / file.file).write_text(file.text)
        sources = yaml.safe_load(block.text)["sources"].values()
        for number, name, labels in _SOURCE.findall(block.text):
            entry = next(s for s in sources if s["dataset"] == f"Dataset{number}_{name}")
            cases = [case.replace("*", "case_01") for case in entry.get("cases", ["*"])]
            raw_dataset(name, int(number), yaml.safe_load(labels), {case: [0] for case in cases})
        return plan_merge(load_merge_file(path), path.parent)

    return plan


def computed(labels: PartialLabels, value_names: tuple[str, ...], header: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The rows of a table of the label model with this header."""
    title, *columns = header
    if title == "annotation set":
        return [
            (name, *("annotated" if known else "-" for known in row))
            for name, row in zip(labels.sets, labels.annotated, strict=True)
        ]
    row = list(labels.sets).index(title)
    if columns == list(labels.space.atoms):
        cells = np.where(labels.possible[row], "possible", "-")
    else:
        cells = np.vectorize(STATES.get)(labels.states[row])
    return [(f"{v} {value_names[v]}", *cells[v]) for v in sorted(labels.sets[title].possible)]


@pytest.mark.parametrize(("block", "csv_files", "tables"), EXAMPLES, ids=[f"line {b.line}" for b, _, _ in EXAMPLES])
def test_tables_of_the_label_model(
    block: Block, csv_files: list[Block], tables: list[Table], plan_example: PlanExample
) -> None:
    plan = plan_example(block, csv_files)
    assert tables, f"no table follows the merge file in line {block.line}"
    assert plan.labels.notes(dict(enumerate(plan.value_names))) == []
    for table in tables:
        fitting = [
            labels
            for labels in (plan.labels, one_axis_per_source(plan.labels))
            if table.header[1:] in (labels.class_names, labels.space.atoms)
        ]
        assert fitting, f"line {table.line}: {table.header[1:]} are neither classes nor atoms"
        assert list(table.rows) == computed(fitting[0], plan.value_names, table.header), f"line {table.line}"


def test_each_kind_of_table_is_there() -> None:
    cells = {cell for _, _, tables in EXAMPLES for table in tables for row in table.rows for cell in row[1:]}
    assert cells == {"possible", "annotated", "-", *STATES.values()}


def test_block_of_dataset_json(plan_example: PlanExample) -> None:
    plan = plan_example(*EXAMPLES[0][:2])
    (shown,) = documents.blocks(LABEL_MODEL, "json")
    assert json.loads(shown.text) == {
        "labels": {name: value for value, name in enumerate(plan.value_names)},
        BLOCK: to_json(plan.labels),
    }


def test_reading_the_block_in_python(plan_example: PlanExample, tmp_path: Path) -> None:
    plan = plan_example(*EXAMPLES[0][:2])
    (tmp_path / "dataset.json").write_text(json.dumps({BLOCK: to_json(plan.labels)}))
    (shown,) = documents.blocks(LABEL_MODEL, "python")
    names: dict[str, object] = {"folder": tmp_path}
    exec(shown.text, names)
    labels = names["labels"]
    assert isinstance(labels, PartialLabels)
    assert labels.states.shape == (2, 5, 3)
    assert labels.annotated.tolist() == plan.labels.annotated.tolist()


def test_commands_of_the_readme() -> None:
    scripts = re.findall(r"^(nnUNetv2_partial_\w+) = ", PYPROJECT, flags=re.MULTILINE)
    assert documents.table(README, "command").column("command") == scripts


def test_trainers_of_the_readme() -> None:
    table = documents.table(README, "trainer")
    assert table.column("trainer") == trainers.__all__
    epochs = [getattr(trainers, name).recipe.schedule.total_epochs for name in trainers.__all__]
    assert table.column("epochs") == [str(n) for n in epochs]


def test_settings_of_the_readme() -> None:
    table = documents.table(README, "variable")
    assert table.column("variable") == [f"nnUNet_partial_{name}" for name in SETTINGS]
    recipe = trainers.PartialLabelTrainer.recipe
    values = {
        "unlabelled_share": recipe.sampling.unlabelled_share,
        "implied_negatives": recipe.implied_negatives,
        **vars(recipe.schedule),
    }
    assert table.column("default") == [str(values.get(name, "")) for name in SETTINGS]


def test_layers_of_the_architecture() -> None:
    declared = re.search(r"^layers = \[\n(.*?)^\]", PYPROJECT, flags=re.MULTILINE | re.DOTALL)
    assert declared is not None
    layers = [re.split(r" [|:] ", line) for line in re.findall(r'"(.*)"', declared[1])]
    shown = documents.table(ARCHITECTURE, "layer").column("modules")
    assert [row.split(", ") for row in shown] == [
        [name.removeprefix("nnunet_partial.") for name in layer] for layer in layers
    ]


def test_folders_of_the_architecture() -> None:
    (shown,) = documents.blocks(ARCHITECTURE, "")
    library = ROOT / "nnunet_partial"
    listed = re.findall(r"^  (\w+)(/|\.py) ", shown.text, flags=re.MULTILINE)
    assert {name for name, kind in listed if kind == "/"} == {p.parent.name for p in library.glob("*/__init__.py")}
    assert {name for name, kind in listed if kind == ".py"} == {p.stem for p in library.glob("*.py")} - {"__init__"}
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", shown.text, flags=re.MULTILINE))


def _texts_of_the_code() -> str:
    """All text constants, one a line, with {} for what is filled in."""
    import nnunetv2.utilities.find_objects

    found = []
    files = [*(ROOT / "nnunet_partial").rglob("*.py"), Path(nnunetv2.utilities.find_objects.__file__)]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_how_to_are_those_of_the_code() -> None:
    code = _texts_of_the_code()
    messages = documents.table(HOW_TO, "message").column("message")
    missing = [m for m in messages if not re.search(re.escape(m).replace(re.escape("..."), ".*"), code)]
    assert len(messages) > 10
    assert missing == []


@pytest.mark.parametrize("path", documents.DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in documents.links(path):
        target, _, anchor = link.partition("#")
        file = path.parent / target
        assert file.exists(), f"{path.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_each_document_is_linked_from_the_readme() -> None:
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in documents.links(README)}
    assert {path.resolve() for path in documents.DOCUMENTS} - linked == {README}
