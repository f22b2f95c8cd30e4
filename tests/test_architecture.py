"""Import arrows point down: the table here is the one in ARCHITECTURE.md, and the code obeys it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dirprune"
PACKAGES = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))


def documented_arrows():
    """Read `a -> b, c` lines from the page."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    lines = re.findall(r"^    (\w+) +-> +([\w, ]*)$", text, flags=re.MULTILINE)
    return {package: set(filter(None, re.split(r"[,\s]+", below))) - {"nothing"} for package, below in lines}


def imported_packages(path):
    """Packages of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            package = rest.split(".")[0]
            if first == "dirprune" and package in PACKAGES:
                yield package


def test_every_package_is_documented():
    assert sorted(documented_arrows()) == PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package):
    paths = list((SOURCE / package).rglob("*.py"))
    assert paths
    imported = {found for path in paths for found in imported_packages(path)} - {package}
    assert imported == documented_arrows()[package]


def test_arrows_have_no_cycle():
    arrows = documented_arrows()
    while arrows:
        leaves = [package for package, below in arrows.items() if not below & set(arrows)]
        assert leaves, f"a cycle among {sorted(arrows)}"
        for package in leaves:
            del arrows[package]


def test_the_core_needs_torch_numpy_and_safetensors_only(tmp_path):
    """`import dirprune` must work where none of the extras is installed."""
    blocked = [
        "accelerate",
        "datasets",
        "matplotlib",
        "PIL",
        "rich",
        "sklearn",
        "torchvision",
        "tyro",
        "pyarrow",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "zstandard",
        "lightning",
        "pytorch_lightning",
        "transformers",
        "timm",
        "huggingface_hub",
        "scipy",
    ]
    code = f"""
import sys
sys.modules |= dict.fromkeys({blocked!r})  # torch itself looks for some of these and copes without
import dirprune, torch
assert set(dirprune.__all__) <= set(dir(dirprune))
for name in dirprune.__all__:  # which are imported when they are used
    getattr(dirprune, name)
model = torch.nn.Linear(3, 2)
optimizer = dirprune.GRDA(dirprune.prunable_groups(model), lr=0.1)
model(torch.ones(1, 3)).sum().backward()
optimizer.step()
dirprune.sparsity_report(model)
dirprune.save_sparse(model, sys.argv[1])
dirprune.load_sparse(sys.argv[1], model)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=True, timeout=120)


def test_the_command_says_which_extra_is_missing(tmp_path):
    code = """
import sys
sys.modules["tyro"] = None
from dirprune.cli import main
sys.exit(main(["train", "digits"]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert "pip install 'directional-pruning[all]'" in ended.stderr


def test_public_names_are_documented_with_an_example():
    import dirprune

    for name in dirprune.__all__:
        thing = getattr(dirprune, name)
        if isinstance(thing, str):
            continue
        assert ">>>" in thing.__doc__ or name == "SparsityReport", name


def test_every_part_is_found_without_an_import_of_its_own():
    code = """
import sys, dirprune
assert "torch" not in sys.modules
assert issubclass(dirprune.errors.SparseFileError, dirprune.errors.DirpruneError)
assert dirprune.models.create_model("lenet5", num_classes=3)
named = {name: getattr(dirprune, name) for name in dir(dirprune)}
print(*(name for name, thing in named.items() if getattr(thing, "__package__", "") == f"dirprune.{name}"))
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert said.split() == PACKAGES
