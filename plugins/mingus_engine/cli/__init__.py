"""The command line: arguments in, one job called, its report shown.

Every command is a module with ``add`` (its parser; imports nothing heavy, so that ``--help`` is quick) and ``run``.
Results go to stdout, everything else (progress, notes, errors) to stderr. With ``--json`` stdout holds exactly one
JSON document, in failure one with the member ``error``. Secrets come from the environment, from files or from a
prompt; never from arguments, which every user of the machine can read.
"""
