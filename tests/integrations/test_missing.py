"""Where its library is not installed, a part says which extra brings it."""

import importlib
import sys

import pytest

from dirprune.errors import UsageError


@pytest.mark.parametrize(
    ("part", "packages", "named"),
    [
        (
            "lightning",
            ["lightning", "lightning.pytorch", "pytorch_lightning"],
            "lightning or pytorch-lightning",
        ),
        ("transformers", ["transformers"], "transformers"),
        ("hub", ["huggingface_hub"], "huggingface_hub"),
    ],
)
def test_the_extra_is_named(part, packages, named, monkeypatch):
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"dirprune.integrations.{part}", raising=False)
    message = rf"needs {named}: pip install 'directional-pruning\[{part}\]'$"
    with pytest.raises(UsageError, match=message) as caught:
        importlib.import_module(f"dirprune.integrations.{part}")
    assert isinstance(caught.value, ModuleNotFoundError)  # who tries whether it is there catches that
    assert caught.value.name in packages
