"""Trees of files restored with everything they had: names, holes, links, owners, modes, times, extended attributes."""
