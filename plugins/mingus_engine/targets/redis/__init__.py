"""Where Redis is restored to: ``directory`` a data directory that is ready to start, ``server`` a throw-away server on
one, ``running`` a server that runs. ``layout`` says which file of a snapshot goes where.
"""
