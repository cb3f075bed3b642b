"""Sources: what is backed up. A source yields bytes and facts; it knows no repository, key or pack (``base``)."""
