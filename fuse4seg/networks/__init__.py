"""The fusion network (leader), its follower, and the two as one model."""
