"""What nnU-Net prints becomes debug messages, line by line."""

from __future__ import annotations

import logging
import sys

import pytest

from fuse4seg.nnunet_output import logged_prints


class TestLoggedPrints:
    def test_turn_lines_into_debug_messages(self, caplog: pytest.LogCaptureFixture,
                                            capsys: pytest.CaptureFixture[str]) -> None:
        with caplog.at_level(logging.DEBUG), logged_prints():
            sys.stdout.write("2D U-Net")
            sys.stdout.write(" configuration:\n\n{}\nlast")

        assert [record.getMessage() for record in caplog.records] == ["2D U-Net configuration:", "{}", "last"]
        assert capsys.readouterr().out == ""

    def test_end_with_the_block(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ValueError, match="stop"), logged_prints():
            raise ValueError("stop")
        sys.stdout.write("heard")

        assert capsys.readouterr().out == "heard"
