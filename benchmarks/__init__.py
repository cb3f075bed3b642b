"""MINGUS beside pgBackRest and restic: one command, one database, one table.

``make bench`` (``python -m benchmarks``) makes a throw-away PostgreSQL 15 cluster of about 5 GB, then lets every
contender back it up and restore it in turn, round after round, so that what else the machine does meets all of them.
Medians, spreads and ratios go into ``benchmarks/results/`` as a table, as JSON with every single run, and as a plot.

``cluster`` the database · ``contenders`` the programs · ``measuring`` wall, CPU time and memory of a command ·
``engine`` the measured process of MINGUS · ``rounds`` the order · ``figures`` what is compared with which target ·
``report`` the files · ``places`` where it happens, and that nothing stays · ``page_checksum`` one inner loop alone.

Not promised: absolute numbers of another machine. Nothing here is a test; no time is ever asserted.
"""
