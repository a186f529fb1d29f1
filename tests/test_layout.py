"""The module layout: imports go down only, Hub files are self-contained, every module has a place."""

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "videoms_hf"
HUB_FILES = sorted(PACKAGE.glob("*_videoms.py"))

# From top to bottom. A module only imports from lower layers; folders in one layer do not import each other.
LAYERS = [
    {"__main__", "doctor"},
    {"experiments"},
    {"training"},
    {"hub"},
    {"evaluation", "visualization", "conversion"},
    {"data"},
    {"modeling_videoms", "video_processing_videoms", "readers"},
    {
        "layers_videoms",
        "loading_videoms",
        "selection_videoms",
        "tubelets_videoms",
        "decoding_videoms",
        "sampling_videoms",
    },
    {"reader_videoms"},
    {"packets_videoms", "inputs_videoms"},
    {"sources_videoms"},
    {"configuration_videoms", "command_line"},
    {"files", "messages", "machine"},
]

# The same for the modules of `data/`, which may import others of their own group.
DATA_GROUPS = [
    {"preparation", "scanning", "transcoding", "workers"},
    {"dataset", "streaming", "seeding", "transforms", "collate"},
    {"tables", "annotations", "official_annotations", "stored_tables", "shards"},
]


def layer_of(module: str) -> int:
    return next(i for i, modules in enumerate(LAYERS) if module in modules)


def own_imports(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports, anywhere in the file."""
    modules = set()
    package = ("videoms_hf", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names = [module] if node.module else [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        modules |= {name.split(".")[1] for name in names if name.startswith("videoms_hf.")}
    return modules


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in own_imports(path) - {name}:
        assert layer_of(other) > layer_of(name), f"{name} imports {other}, which is not below it"


def test_tables_know_nothing_of_clips_nor_clips_of_offline_tools():
    group_of = {module: i for i, modules in enumerate(DATA_GROUPS) for module in modules}
    for path in (PACKAGE / "data").glob("[!_]*.py"):
        for other in re.findall(r"^ *from \.(\w+) import", path.read_text(), re.M):
            assert group_of[other] >= group_of[path.stem], f"data/{path.stem} imports {other}"
    documents = (PACKAGE / "data/__init__.py").read_text(), (ROOT / "CONTRIBUTING.md").read_text()
    assert all(f"`{module}`" in text for module in group_of for text in documents)


@pytest.mark.parametrize("path", HUB_FILES, ids=lambda path: path.name)
def test_hub_files_import_libraries_and_siblings_only(path):
    allowed = {"torch", "torchvision", "numpy", "av", "transformers", "huggingface_hub"}
    standard = set(__import__("sys").stdlib_module_names)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed | standard
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.level == 1 and (PACKAGE / f"{node.module}.py").exists()
                assert node.module.endswith("_videoms"), f"{node.module} would not be shipped"
            else:
                assert node.module.split(".")[0] in allowed | standard
    assert "videoms_hf." not in path.read_text(), "the package is absent where a Hub file runs"
    assert "scripts/" not in path.read_text(), "the repository is absent where a Hub file runs; name commands"


def test_every_module_of_the_package_has_a_layer():
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert modules <= set().union(*LAYERS)


def test_no_file_is_without_a_name_or_too_long():
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert path.stem not in ("utils", "helpers", "common", "misc"), path
        if PACKAGE in path.parents:
            assert len(path.read_text().splitlines()) <= 450, f"{path} is too long"


def test_one_place_decodes_and_one_knows_the_colours():
    for path in MODULES:
        text = path.read_text()
        # One decodes, two open files, convert pictures and read packets for it, two write videos.
        hub_files = ("decoding_videoms.py", "packets_videoms.py", "sources_videoms.py")
        if path.name not in (*hub_files, "synthetic.py", "transcoding.py"):
            assert not re.search(r"^\s*(import av|from av)\b", text, re.M), f"{path} decodes on its own"
        if path.name != "configuration_videoms.py":
            assert "0.485" not in text, f"{path} repeats the normalisation constants"


def test_nothing_is_unpickled_unpacked_or_run_that_a_file_holds():
    forbidden = re.compile(
        r"\b(pickle|dill|joblib|marshal|shelve)\.(load|loads|Unpickler|open)\b|\byaml\.(unsafe_|full_)?load(_all)?\(|"
        r"weights_only=False|allow_pickle=True|\.extract(all)?\(|unpack_archive|(?<![.\w`])(eval|exec)\(|shell=True|os\.system"
    )
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        text = path.read_text()
        found = [match[0] for match in forbidden.finditer(text)]
        assert not found, f"{path} has {found}"
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, f"{path}: {call}"
        if path != PACKAGE / "files.py":
            assert not re.search(r"os\.replace|\.replace\(path\)|mkstemp|mkdtemp|NamedTemporaryFile", text), (
                f"{path} writes and renames on its own; files.py does that"
            )
