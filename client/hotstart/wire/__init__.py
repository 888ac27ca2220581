"""What client and proxy agree on, as pure functions and value types: no sockets, files, clock or randomness.

Both sides import this package; it imports nothing of either.
"""
