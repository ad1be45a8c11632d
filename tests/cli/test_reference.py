"""The reference page on commands: it says what the commands say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

from fuse4seg.cli.reference import COMMANDS, commands_page, own_actions, parser_of

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_the_generated_one() -> None:
    """If not: python -m fuse4seg.cli.reference > documentation/reference/commands.md."""
    assert (ROOT / "documentation" / "reference" / "commands.md").read_text() == commands_page()


def test_holds_every_command_that_is_installed() -> None:
    listed = re.search(r"^COMMANDS = \((.*?)\)", (ROOT / "setup.py").read_text(), re.MULTILINE | re.DOTALL).group(1)
    assert sorted(COMMANDS) == sorted(f"f4s_{name}" for name in re.findall(r'"(\w+)"', listed))


def test_a_section_has_every_flag_of_its_command() -> None:
    page = commands_page()
    for command in COMMANDS:
        section = page.split(f"\n## {command}\n")[1].split("\n## ")[0]
        assert [flag for action in own_actions(command) for flag in action.option_strings[:1] if flag not in section] == []


def test_a_flag_is_explained_once_for_commands_that_share_it() -> None:
    page = commands_page()
    assert page.count("\n--no_integrity_check ") == page.count("\n-np PROCESSES ") == 1
    assert "as f4s_plan_and_preprocess: -d, --allow_missing, --no_integrity_check, --clean, -np\n" in page
    assert "\nshared: --series_rules, -np\n" in page.split("\n## f4s_convert_dataset\n")[1].split("\n## ")[0]


def test_recipes_are_listed_by_the_help_and_not_again_by_the_page() -> None:
    assert "tardal, u2fusion, unet_3plus" in parser_of("f4s_plan_experiment").format_help().replace("\n" + " " * 24, " ")
    assert "tardal" not in commands_page()
