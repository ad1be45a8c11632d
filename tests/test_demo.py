"""The demo: it goes the whole way, and empties no folder that it did not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.demo import MARKER, DemoSize, run_demo
from fuse4seg.errors import UnwritableFolderError

TINY = DemoSize(training_cases=5, test_cases=1, base_features=8, batch=4, epochs=1, iterations=2)


class TestDemo:
    def test_leaves_a_folder_alone_that_no_demo_made(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(UnwritableFolderError, match="no demo made"):
            run_demo(tmp_path, size=TINY)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    @pytest.mark.slow
    def test_goes_the_whole_way_and_replaces_an_earlier_demo(self, tmp_path: Path) -> None:
        output = tmp_path / "demo"
        output.mkdir()
        for name in (MARKER, "left_over"):
            (output / name).touch()
        evaluation = run_demo(output, size=TINY, device="cpu")
        assert list(evaluation.cases) == ["phantom_005"]
        assert evaluation.names == ("necrotic_core", "oedema", "enhancing_tumour")
        assert not (output / "left_over").exists()
        predictions = output / "predictions"
        assert (predictions / "phantom_005.nii.gz").is_file()
        assert (predictions / "fused" / "phantom_005.nii.gz").is_file()
        assert (predictions / "panels" / "phantom_005.png").read_bytes().startswith(b"\x89PNG")
        assert len(list((predictions / "attention").iterdir())) == 3
        assert 'data-case="phantom_005"' in (predictions / "report" / "index.html").read_text()
