"""Health: what is checked of sources, repositories and workers, and the numbers that are drawn and alarmed on."""
