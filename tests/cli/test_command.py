"""What all commands share: exit statuses, one line for a failure, strict flags, and roots."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuse4seg.cli.command import make_parser, run_command
from fuse4seg.errors import Fuse4SegError, OptionError
from fuse4seg.files import written_whole
from fuse4seg.model_errors import TrainingStoppedError
from fuse4seg.recipes.reading import read_recipe


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = make_parser("Count cases.", example="f4s_count 501 --long_flag")
    parser.add_argument("--long_flag", action="store_true")
    return parser


@pytest.fixture(autouse=True)
def logging_is_restored() -> None:
    """Commands take the root logger over."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.level, root.handlers = level, handlers


def failing(error: BaseException) -> object:
    def action(_: argparse.Namespace) -> int:
        raise error

    return action


class TestExitStatus:
    @pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
    def test_is_what_the_action_returns(self, parser: argparse.ArgumentParser, returned: int | None, status: int) -> None:
        assert run_command(lambda _: returned, parser, []) == status

    @pytest.mark.parametrize("error", [Fuse4SegError("case A is bad. Mend it."), OptionError("--epochs", "must be at least 1.")])
    def test_is_1_after_a_failure_that_one_line_explains(self, parser: argparse.ArgumentParser, error: Fuse4SegError,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(failing(error), parser, []) == 1
        output = capsys.readouterr()
        assert output.err == f"error: {error}\n"
        assert output.out == ""

    def test_is_130_after_an_interruption(self, parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(failing(KeyboardInterrupt()), parser, []) == 130
        assert capsys.readouterr().err == "interrupted\n"

    def test_is_143_after_sigterm_which_cleans_up(self, parser: argparse.ArgumentParser, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def action(_: argparse.Namespace) -> None:
            with written_whole(tmp_path / "file.txt") as temporary:
                temporary.touch()
                os.kill(os.getpid(), signal.SIGTERM)

        assert run_command(action, parser, []) == 143
        assert capsys.readouterr().err == "terminated\n"
        assert list(tmp_path.iterdir()) == []
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_is_that_of_the_signal_after_a_training_was_stopped(self, parser: argparse.ArgumentParser, number: signal.Signals,
                                                                status: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(failing(TrainingStoppedError(number, Path("latest.pth"))), parser, []) == status
        assert capsys.readouterr().err == (f"stopped by {number.name}; everything is saved in latest.pth. Go on with "
                                           f"f4s_train --c.\n")

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_is_1_when_a_library_met_a_full_disk(self, parser: argparse.ArgumentParser, number: int, tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
        full = OSError(number, os.strerror(number), str(tmp_path / "file"))
        assert run_command(failing(full), parser, []) == 1
        assert capsys.readouterr().err == (f"error: cannot write to {tmp_path} ({os.strerror(number)}). Free space, choose "
                                           f"another folder, or change its permissions.\n")

    def test_is_1_where_a_package_is_not_installed(self, parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("monai", *(name for name in sys.modules if name.startswith("monai."))):
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, "fuse4seg.followers.attention_unet", raising=False)
        assert run_command(lambda _: int(read_recipe("attention_unet").segments), parser, []) == 1
        assert capsys.readouterr().err.strip() == "error: the Python package monai is not installed. Install it."
        with pytest.raises(ModuleNotFoundError):
            run_command(failing(ModuleNotFoundError("No module named 'fuse4seg.x'", name="fuse4seg.x")), parser, [])

    def test_does_not_hide_other_errors_of_the_system(self, parser: argparse.ArgumentParser) -> None:
        with pytest.raises(FileNotFoundError):
            run_command(failing(FileNotFoundError(errno.ENOENT, "No such file", "x")), parser, [])

    def test_does_not_hide_an_error_of_the_program(self, parser: argparse.ArgumentParser) -> None:
        with pytest.raises(ZeroDivisionError):
            run_command(failing(ZeroDivisionError()), parser, [])

    def test_is_0_when_the_reader_of_the_output_goes_away(self) -> None:
        program = ("from fuse4seg.cli.command import *\n"
                   "raise SystemExit(run_command(lambda _: [print('line', flush=True) for _ in range(10**5)] and 0,\n"
                   "                             make_parser('', example=''), []))")
        running = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout.readline() == "line\n"
        running.stdout.close()
        assert running.stderr.read() == ""
        running.stderr.close()
        assert running.wait() == 0


class TestFlags:
    @pytest.mark.parametrize("words", [["--no_such_flag"], ["--long"], ["surplus"], ["--long_flag=3"]])
    def test_that_are_unknown_shortened_or_surplus_are_refused(self, parser: argparse.ArgumentParser, words: list[str],
                                                               capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            run_command(failing(AssertionError("must not run")), parser, words)
        assert caught.value.code == 2
        assert "error:" in capsys.readouterr().err

    def test_reach_the_action(self, parser: argparse.ArgumentParser) -> None:
        assert run_command(lambda options: 7 if options.long_flag else 8, parser, ["--long_flag"]) == 7

    def test_help_ends_with_the_example(self, parser: argparse.ArgumentParser) -> None:
        assert parser.format_help().endswith("example:\n  f4s_count 501 --long_flag\n")


class TestRoots:
    def test_are_set_by_root_before_the_action_runs(self, parser: argparse.ArgumentParser, tmp_path: Path) -> None:
        seen = []
        run_command(lambda _: seen.append(os.environ["nnUNet_results"]), parser, ["--root", str(tmp_path)])
        assert seen == [str(tmp_path / "nnUNet_results")]

    def test_are_set_by_f4s_root(self, parser: argparse.ArgumentParser, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("F4S_ROOT", str(tmp_path))
        run_command(lambda _: None, parser, [])
        assert os.environ["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")

    def test_come_with_our_trainer_for_nnu_net(self, parser: argparse.ArgumentParser,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_extTrainer", raising=False)
        run_command(lambda _: None, parser, [])
        assert Path(os.environ["nnUNet_extTrainer"], "fuse4seg_trainer.py").is_file()


class TestLogging:
    @pytest.mark.parametrize(("words", "lines"), [([], ["done"]), (["--verbose"], ["detail", "done"])])
    def test_goes_to_stderr_and_says_more_when_verbose(self, parser: argparse.ArgumentParser, words: list[str], lines: list[str],
                                                       capsys: pytest.CaptureFixture[str]) -> None:
        def action(_: argparse.Namespace) -> None:
            logging.getLogger("fuse4seg.anything").debug("detail")
            logging.getLogger("matplotlib").debug("noise")
            logging.getLogger("fuse4seg.anything").info("done")

        run_command(action, parser, words)
        output = capsys.readouterr()
        assert output.err.splitlines() == lines
        assert output.out == ""


class TestStart:
    def test_does_not_import_torch_before_the_flags_are_parsed(self) -> None:
        program = ("import sys, fuse4seg.cli.train, fuse4seg.cli.predict, fuse4seg.cli.plan_and_preprocess\n"
                   "import fuse4seg.cli.compare\n"
                   "raise SystemExit(bool({'torch', 'nnunetv2', 'matplotlib'} & set(sys.modules)))")
        assert subprocess.run([sys.executable, "-c", program]).returncode == 0
