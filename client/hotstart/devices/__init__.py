"""Devices: tensors in pinned memory or on a GPU, by way of a small pinned ring.

Nothing here imports torch before it is used, and nothing outside of ``cuda`` calls CUDA.
"""
