"""Frameworks: bytes of tensors as arrays of numpy or torch, without a copy where memory allows it."""
