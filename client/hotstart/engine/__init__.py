"""The engine: what to fetch, in which pieces, by how many threads, into which memory, and when it is good.

It knows sources only by their interface and tensors only by their bytes.
"""
