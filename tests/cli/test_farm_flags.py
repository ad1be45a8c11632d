"""Flags that share cases out: what does not go together, or is no device, is said before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.cli.predict import main


@pytest.mark.parametrize(("flags", "said"), [
    (["--devices", "cpu", "-device", "cpu"], "error: --devices: says where to compute. Leave out --scheduler and -device."),
    (["--devices", "cpu", "-npp", "1"], "error: -npp: is of one process that predicts: each worker prepares and exports its "
                                        "own cases. Leave it out."),
    (["--devices", "gpu"], "error: --devices: gpu is no device. Name cpu, mps, cuda, or cuda:0, cuda:1, ..."),
    (["--devices", "cpu:1"], "error: --devices: cpu:1 is no device. Name cpu, mps, cuda, or cuda:0, cuda:1, ...")])
def test_flags_that_do_not_go_together_are_refused(untrained_phantom: Path, flags: list[str], said: str, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    images = untrained_phantom / "nnUNet_raw" / "Dataset990_Phantom" / "imagesTs"
    assert main(["-i", str(images), "-o", str(tmp_path / "out"), "--root", str(untrained_phantom), *flags]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (tmp_path / "out").exists()
