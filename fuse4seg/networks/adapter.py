"""Adapter of a transformer block: a channel gate, then a detour through half the resolution, each with a skip connection."""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp
from torch import Tensor, nn

from fuse4seg.networks.convolution import axes_of, conv_block

#: The gate squeezes the channels by this factor.
SQUEEZE = 4


class Adapter(nn.Module):
    r"""Let each case weigh its channels, and tokens that lie beside each other mix.

    .. math:: h = x + g \odot x, \quad g = \tanh(W_2 \, \sigma(W_1 \bar{x})), \qquad y = h + \mathrm{up}(\sigma(\mathrm{down}(h)))

    with the mean :math:`\bar{x}` over space, a strided convolution down and a transposed convolution up. It starts as the
    identity (:math:`W_2` and up are 0).

    Args:
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        channels: Channels in and out.

    Source: method.md, "The network", follower: a channel gate, then strided convolution and transposed convolution, each with a
    skip connection. Ours: tanh in place of a sigmoid, so that the gate can start closed and still open either way.
    """

    def __init__(self, conv_op: type[nn.Module], channels: int) -> None:
        super().__init__()
        self.axes, self.channels, self.squeezed = axes_of(conv_op), channels, max(1, channels // SQUEEZE)
        self.gate = nn.Sequential(conv_op(channels, self.squeezed, 1), nn.LeakyReLU(0.01, inplace=True),
                                  conv_op(self.squeezed, channels, 1), nn.Tanh())
        self.down = conv_block(conv_op, channels, channels, stride=2)
        self.up = get_matching_convtransp(conv_op)(channels, channels, 2, 2)
        self.reset()

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as ``features``, (B, C, *S), S of any extents."""
        size = tuple(slice(extent) for extent in features.shape[2:])
        mean = features.mean(dim=tuple(range(2, features.ndim)), keepdim=True)
        gated = features + self.gate(mean) * features
        # An odd axis comes back longer by one.
        return gated + self.up(self.down(gated))[(..., *size)]

    def reset(self) -> None:
        """Start as the identity."""
        for layer in (self.gate[2], self.up):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
