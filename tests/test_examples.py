"""The examples in docstrings run, and every metric and every loss has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import numpy as np
import pytest
import torch

import fuse4seg.colour
import fuse4seg.datasets.alignment
import fuse4seg.datasets.modalities
import fuse4seg.datasets.one_grid
import fuse4seg.datasets.rigid
import fuse4seg.datasets.series_rules
import fuse4seg.evaluation
import fuse4seg.inference.panel
import fuse4seg.losses
import fuse4seg.networks
import fuse4seg.report
import fuse4seg.training.acceleration
import fuse4seg.training.limits


def modules_of(package: ModuleType) -> list[ModuleType]:
    return [importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)]


WITH_EXAMPLES = [module for package in (fuse4seg.evaluation, fuse4seg.losses) for module in modules_of(package)]
OTHERS = [*modules_of(fuse4seg.networks), *modules_of(fuse4seg.report), fuse4seg.colour, fuse4seg.training.limits,
          fuse4seg.training.acceleration, fuse4seg.datasets.alignment, fuse4seg.datasets.modalities, fuse4seg.datasets.one_grid,
          fuse4seg.datasets.rigid, fuse4seg.datasets.series_rules, fuse4seg.inference.panel]


def examples_of(thing: object, module: ModuleType) -> list[doctest.DocTest]:
    """Examples of a module, or of something in it; they know its names, np and torch."""
    known = {"np": np, "torch": torch, **vars(module)}
    name = getattr(thing, "__name__", module.__name__)
    return [test for test in doctest.DocTestFinder().find(thing, name, module, globs=known) if test.examples]


def without_example(module: ModuleType) -> list[str]:
    """Public functions that a module defines, and whose docstrings show nothing that runs."""
    return [name for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_") and not examples_of(function, module)]


def differences(examples: list[doctest.DocTest]) -> str:
    """What they give beside what they show, where it differs."""
    said: list[str] = []
    for test in examples:
        doctest.DocTestRunner().run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("module", [*WITH_EXAMPLES, *OTHERS], ids=lambda module: module.__name__)
def test_examples_give_what_they_show(module: ModuleType) -> None:
    assert differences(examples_of(module, module)) == ""


@pytest.mark.parametrize("module", WITH_EXAMPLES, ids=lambda module: module.__name__)
def test_every_public_function_has_one(module: ModuleType) -> None:
    assert without_example(module) == []


class TestOfTheseTests:
    """A wrong example, and none, are found."""

    @pytest.fixture
    def module(self) -> ModuleType:
        def wrong() -> None:
            """Show what is not so.

            >>> 1 + 1
            3
            """

        def silent() -> None:
            """Show nothing."""

        module = ModuleType("made_up")
        for function in (wrong, silent):
            function.__module__ = "made_up"
            setattr(module, function.__name__, function)
        return module

    def test_a_wrong_example_is_told(self, module: ModuleType) -> None:
        assert "Expected:\n    3\nGot:\n    2\n" in differences(examples_of(module.wrong, module))

    def test_a_function_without_one_is_named(self, module: ModuleType) -> None:
        assert without_example(module) == ["silent"]
