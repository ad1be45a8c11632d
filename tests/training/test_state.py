"""Random states: what is drawn after them is drawn again."""

from __future__ import annotations

import random

import numpy as np
import torch

from fuse4seg.checkpoint import to_plain
from fuse4seg.training.state import random_states, seed_all, set_random_states

CPU = torch.device("cpu")


def draws() -> list[float]:
    """From every generator; NumPy and PyTorch draw normal numbers in pairs and keep the second."""
    return [random.random(), random.gauss(0, 1), float(np.random.normal()), float(np.random.random()), float(torch.rand(1)),
            float(torch.randn(1, dtype=torch.float64))]


class TestRandomStates:
    def test_are_plain_data_from_which_everything_is_drawn_again(self) -> None:
        draws()
        states = to_plain(random_states(CPU))
        expected = draws()
        assert draws() != expected
        set_random_states(states, CPU)
        assert draws() == expected

    def test_do_not_change_by_being_read(self) -> None:
        seed_all(1, 2)
        expected = draws()
        seed_all(1, 2)
        random_states(CPU)
        assert draws() == expected


class TestSeedAll:
    def test_seeds_every_generator_by_all_of_its_numbers(self) -> None:
        drawn = []
        for entropy in ((0, 1), (0, 2), (1, 1), (0, 1)):
            seed_all(*entropy)
            drawn.append(draws())
        assert drawn[0] == drawn[3]
        assert all(len({row[column] for row in drawn}) == 3 for column in range(6))
