"""Segmentation networks to choose from: a file each, see :class:`~fuse4seg.networks.follower.FollowerKind`."""
