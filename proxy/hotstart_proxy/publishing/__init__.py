"""Writing origin layout 1: publish, twins for adopted versions, unpublish, aliases, fallback manifests."""
