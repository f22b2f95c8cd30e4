"""Fused kernels: one pass over the memory for all tensors of a group."""


class UnavailableError(Exception):
    """There is no kernel for a device on this machine; the message says why."""
