"""Acceleration: the same steps, to rounding, by compiled networks and in half precision, and one line where it cannot be had."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor
from torch.nn.functional import cross_entropy

from fuse4seg.errors import OptionError
from fuse4seg.networks.fuse_then_segment import FuseThenSegment
from fuse4seg.recipes.reading import changed, read_recipe
from fuse4seg.steps.bilevel import BilevelStep
from fuse4seg.steps.hypergradients import ESTIMATORS
from fuse4seg.steps.levels import build_levels
from fuse4seg.training.acceleration import (
    Acceleration,
    autocast_of,
    compiled,
    require_compiler,
    scaler_of,
    training_precision,
)
from fuse4seg.training.run import Conduct, Training, make_trainer

MakeModel = Callable[..., FuseThenSegment]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
#: Compiles as the usual one does, but for the C++ at its end, which takes minutes.
QUICK = "aot_eager"


def step_of(model: FuseThenSegment, hypergradient: str, *, adversarial: float = 0.01) -> BilevelStep:
    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, labels[:, 0].long())

    recipe = changed(read_recipe("fuse4seg"), [f"bilevel.hypergradient={hypergradient}", f"losses.adversarial={adversarial}"])
    torch.manual_seed(1)
    return build_levels(model, classes=2, recipe=recipe).bilevel_step(loss, loss_at_one_resolution=loss)


def weights_after(model: FuseThenSegment, hypergradient: str, *, backend: str | None, steps: int = 3) -> dict[str, torch.Tensor]:
    """Of a training on noise, compiled where there is a backend."""
    drawn = torch.Generator().manual_seed(0)
    batch, labels = torch.randn(4, 2, 16, 16, generator=drawn), torch.randint(2, (4, 1, 16, 16), generator=drawn)
    step = step_of(model, hypergradient)
    with compiled(model, on=backend is not None, backend=backend or ""):
        for _ in range(steps):
            step(batch, labels)
        return {name: value.clone() for name, value in model.state_dict().items()}


class Curved(nn.Module):
    """A network whose gradient has one of its own; PyTorch's modules, alone, are not compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(image).tanh()


def refusing(_graph: object, _inputs: object) -> NoReturn:
    """A compiler that cannot."""
    raise RuntimeError("no such compiler\nand much more")


class TestAcceleration:
    @pytest.mark.parametrize(("value", "compiles"), [("1", True), ("True", True), ("t", True), ("0", False), ("", False)])
    def test_without_flags_is_what_nnunets_variable_says(self, monkeypatch: pytest.MonkeyPatch, value: str,
                                                         compiles: bool) -> None:
        monkeypatch.setenv("nnUNet_compile", value)
        assert Acceleration.of_environment() == Acceleration(compile=compiles)

    def test_is_none_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("nnUNet_compile", raising=False)
        assert Acceleration.of_environment() == Acceleration(compile=False, precision="auto")

    def test_asks_for_a_compiler_only_where_something_is_compiled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[torch.device] = []
        monkeypatch.setattr("fuse4seg.training.acceleration.require_compiler", asked.append)
        Acceleration().require(CPU)
        assert asked == []
        Acceleration(compile=True).require(CPU)
        assert asked == [CPU]


class TestPrecision:
    def test_is_by_default_that_of_nnunet(self) -> None:
        assert training_precision("auto", GPU) == torch.float16
        assert training_precision("auto", CPU) == training_precision("auto", torch.device("mps")) == torch.float32

    def test_of_bfloat16_needs_a_device_that_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for has_it in (True, False):
            monkeypatch.setattr("fuse4seg.inference.model.has_bfloat16", lambda _device, has_it=has_it: has_it)
            for device in (CPU, GPU):
                if has_it:
                    assert training_precision("bfloat16", device) == torch.bfloat16
                else:
                    with pytest.raises(OptionError, match=r"^--precision: bfloat16 is not to be had"):
                        training_precision("bfloat16", device)

    @pytest.mark.filterwarnings("ignore:.*GradScaler is enabled")
    def test_of_float16_alone_scales_losses(self) -> None:
        assert isinstance(scaler_of(torch.float16, GPU), torch.amp.GradScaler)
        assert scaler_of(torch.bfloat16, GPU) is scaler_of(torch.float32, GPU) is scaler_of(torch.float32, CPU) is None

    def test_is_that_of_convolutions_within_the_context_and_of_nnunets_own_autocast(self) -> None:
        convolution, image = nn.Conv2d(1, 1, 3), torch.rand(1, 1, 5, 5)
        with autocast_of(torch.float32, CPU)():
            assert convolution(image).dtype == torch.float32
        with autocast_of(torch.bfloat16, CPU)(), torch.autocast("cpu"):
            assert convolution(image).dtype == torch.bfloat16

    @pytest.mark.filterwarnings("ignore:.*CUDA is not available")
    @pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
    def test_of_a_gpu_is_what_nnunets_own_autocast_takes(self, monkeypatch: pytest.MonkeyPatch, wanted: torch.dtype) -> None:
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_arguments: True)
        monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        with autocast_of(wanted, GPU)():
            assert torch.autocast("cuda").fast_dtype == wanted

    def test_of_half_types_moves_as_full_precision_nearly(self, tiny_model: MakeModel) -> None:
        losses = {}
        for precision in (torch.float32, torch.bfloat16):
            step = step_of(tiny_model(), "gauss_newton", adversarial=0)
            step.autocast = autocast_of(precision, CPU)
            drawn = torch.Generator().manual_seed(0)
            batch, labels = torch.randn(4, 2, 16, 16, generator=drawn), torch.randint(2, (4, 1, 16, 16), generator=drawn)
            losses[precision] = [step(batch, labels)["upper"] for _ in range(5)]
        assert losses[torch.bfloat16] != losses[torch.float32]
        assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.03)


class TestCompiled:
    def test_moves_every_estimator_as_before_to_rounding_and_is_repeatable(self, tiny_model: MakeModel) -> None:
        """One test, as what is compiled for one is there for the next."""
        for hypergradient in ESTIMATORS:
            wanted = weights_after(tiny_model(), hypergradient, backend=None)
            found = weights_after(tiny_model(), hypergradient, backend=QUICK)
            again = weights_after(tiny_model(), hypergradient, backend=QUICK)
            start = tiny_model().state_dict()
            assert list(found) == list(wanted)  # no names of the compiler's
            assert all(torch.equal(again[name], found[name]) for name in found)
            moved = max((wanted[name] - start[name]).abs().max() for name in wanted)
            assert max((found[name] - wanted[name]).abs().max() for name in wanted) < 0.02 * moved

    def test_calls_what_is_compiled_within_the_block_alone(self, tiny_model: MakeModel) -> None:
        model, compilations, channels = tiny_model().eval(), [], torch.zeros(1, 2, 16, 16)

        def counting(graph: nn.Module, _inputs: object) -> Callable[..., Any]:
            compilations.append(graph)
            return graph.forward

        with torch.no_grad():
            with compiled(model, backend=counting):
                assert model.fusion._compiled_call_impl is not None
                within = model(channels)
            seen = len(compilations)
            assert seen >= 2
            torch.testing.assert_close(model(channels), within)
        assert len(compilations) == seen
        assert model.fusion._compiled_call_impl is model.segmentation._compiled_call_impl is None

    def test_of_networks_that_are_differentiated_twice_is_refused_in_one_line(self) -> None:
        network = SimpleNamespace(fusion=Curved(), segmentation=nn.Identity())
        image = torch.rand(3, 2, requires_grad=True)

        def penalise() -> None:
            with compiled(network, backend=QUICK):
                gradient, = torch.autograd.grad(network.fusion(image).sum(), image, create_graph=True)
                gradient.square().sum().backward()

        with pytest.raises(OptionError, match=r"^--compile: .* cannot be differentiated twice\. Leave it out\.$"):
            penalise()
        assert network.fusion._compiled_call_impl is None

    def test_leaves_other_faults_as_they_are(self, tiny_model: MakeModel) -> None:
        with pytest.raises(RuntimeError, match="^the disk is full$"), compiled(tiny_model()):
            raise RuntimeError("the disk is full")

    def test_says_in_one_line_that_networks_cannot_be_compiled(self) -> None:
        network = SimpleNamespace(fusion=Curved(), segmentation=nn.Identity())
        with pytest.raises(OptionError) as refused, compiled(network, backend=refusing):
            network.fusion(torch.ones(1, 2))
        assert str(refused.value).startswith("--compile: PyTorch cannot compile here (BackendCompilerFailed: ")
        assert len(str(refused.value).splitlines()) == 1


class TestRequireCompiler:
    def test_refuses_in_one_line_where_there_is_no_c_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # in which nothing is compiled already
        with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(OptionError) as refused:
            require_compiler(CPU)
        assert re.match(r"--compile: PyTorch cannot compile here \(.*\)\. Install .* C\+\+ ", str(refused.value))
        assert len(str(refused.value).splitlines()) == 1

    def test_is_content_with_one_that_compiles(self) -> None:
        require_compiler(CPU, backend=QUICK)

    def test_refuses_devices_that_nothing_is_compiled_for(self) -> None:
        with pytest.raises(OptionError, match="Leave it out on -device mps"):
            require_compiler(torch.device("mps"))


@pytest.mark.slow
def test_a_compiled_training_leaves_the_usual_files_and_either_goes_on_as_the_other(
        own_results: Path, monkeypatch: pytest.MonkeyPatch, interrupted: Callable[..., Any]) -> None:
    monkeypatch.setattr("fuse4seg.training.trainer.compiled", partial(compiled, backend=QUICK))
    changes = ("pretraining.epochs=0", "training.epochs=2", "training.iterations=1")
    training = Training("990", "2d", 0, device="cpu", changes=changes)
    folder = own_results / "Dataset990_Phantom" / training.folder_name / "fold_0"
    finals = []
    for first, second in ((False, False), (True, False), (False, True)):
        for compiling, resume in ((first, False), (second, True)):
            trainer = make_trainer(training, resume=resume, conduct=Conduct(acceleration=Acceleration()))
            trainer.acceleration = Acceleration(compile=compiling)
            if resume:
                trainer.run_training()
            else:
                with pytest.raises(KeyboardInterrupt), interrupted("training", epoch=1):
                    trainer.run_training()
        finals.append(torch.load(folder / "checkpoint_final.pth", weights_only=True)["network_weights"])
        for path in folder.glob("*.pth"):
            path.unlink()
    wanted, *others = finals
    for found in others:
        assert list(found) == list(wanted)
        assert max((found[name] - wanted[name]).abs().max() for name in wanted) < 2e-3
