"""The proxy: keeps the last versions of each model and serves them by range."""
