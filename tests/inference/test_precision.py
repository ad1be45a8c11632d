"""Number formats: what each device gets, and what is refused."""

from __future__ import annotations

import pytest
import torch

from fuse4seg.errors import OptionError
from fuse4seg.inference import precision
from fuse4seg.inference.precision import choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: request.param)
    return request.param


class TestChoosePrecision:
    def test_is_the_fastest_of_the_device_by_default(self, bfloat16: bool) -> None:
        assert choose_precision("auto", CPU) == (torch.bfloat16 if bfloat16 else torch.float32)
        assert choose_precision("auto", GPU) == torch.float16
        assert choose_precision("auto", torch.device("mps")) == torch.float32

    def test_is_what_was_asked_for(self) -> None:
        assert choose_precision("float32", CPU) == choose_precision("float32", GPU) == torch.float32
        assert choose_precision("bfloat16", GPU) == torch.bfloat16

    def test_refuses_what_the_processor_would_imitate(self, bfloat16: bool) -> None:
        if bfloat16:
            assert choose_precision("bfloat16", CPU) == torch.bfloat16
        else:
            with pytest.raises(OptionError, match=r"^--precision: bfloat16 .* Choose one of: auto, float32\.$"):
                choose_precision("bfloat16", CPU)

    @pytest.mark.parametrize("wanted", ["float16", "half", ""])
    def test_refuses_what_the_device_has_not(self, wanted: str) -> None:
        with pytest.raises(OptionError, match="Choose one of: auto, float32"):
            choose_precision(wanted, CPU)
