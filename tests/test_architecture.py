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


def texts_with_flags(source):
    """Strings that name a flag, but for docstrings; a style sheet's variables are no flags."""
    tree = ast.parse(source)
    passed = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    texts = []
    for node in ast.walk(tree):  # an f-string comes before its parts
        if isinstance(node, ast.JoinedStr):
            passed |= {id(part) for part in node.values}
            texts.append(
                "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            texts.append(node.value)
    return [text for text in texts if re.search(r"(?<!var\()(?<!-)--[a-z]", text)]


@pytest.mark.parametrize("package", ["", *sorted(set(PACKAGES) - {"cli"})], ids=lambda name: name or "top")
def test_only_the_command_line_speaks_of_flags(package):
    """What the library says names settings as `batch_size`, which the command line makes flags of."""
    folder = SOURCE / package
    for path in folder.rglob("*.py") if package else folder.glob("*.py"):
        assert texts_with_flags(path.read_text()) == [], path.relative_to(ROOT)


def test_a_flag_in_a_message_is_found():
    source = '''
def check(name, jobs):
    """What --jobs says."""
    if jobs < 1:
        raise ValueError(f"--jobs must be >= 1, got {jobs}")
    if not name:
        raise ValueError(f"--{name} is nothing: `jobs` is meant")
    return "var(--paper) -- or not"
'''
    assert texts_with_flags(source) == [
        "--jobs must be >= 1, got x",
        "--x is nothing: `jobs` is meant",
    ]


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
