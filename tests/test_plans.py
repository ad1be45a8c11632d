"""Reading plans files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse4seg.errors import PlansNotFoundError
from fuse4seg.plans import read_plans


class TestReadPlans:
    @pytest.mark.parametrize(("content", "problem"),
                             [(None, "is missing"), ("{", "cannot be read"), ("[]", "no plans")])
    def test_says_what_is_wrong(self, tmp_path: Path, content: str | None, problem: str) -> None:
        path = tmp_path / "Fuse4SegPlans.json"
        if content is not None:
            path.write_text(content)

        with pytest.raises(PlansNotFoundError, match=problem):
            read_plans(path)
