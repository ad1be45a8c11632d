"""States of all random number generators that a training step may draw from, as plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_states(device: torch.device) -> dict[str, Any]:
    """States of Python's, NumPy's and PyTorch's generators; of PyTorch the CPU's, and that of ``device`` if it is CUDA."""
    name, words, *rest = np.random.get_state()
    states = {"python": random.getstate(), "numpy": (name, words.tolist(), *rest), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`random_states`; a state of CUDA is left out where training goes on elsewhere."""
    random.setstate(states["python"])
    name, words, *rest = states["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def seed_all(*entropy: int) -> None:
    """Seed them all, on every device, from whole numbers from 0 on."""
    words = np.random.SeedSequence(entropy).generate_state(2, dtype=np.uint32)
    random.seed(int(words[0]))
    np.random.seed(words)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
