"""Jobs: what the product does, one function each, called by the command line, by Airflow and by tests.

``initialise`` · ``back_up`` · ``ship`` · ``verify`` · ``restore``. A job gets settings, a source and a context (who
asks, whom to tell, when to stop) and returns a report; everything it opens it closes in every outcome. It never
prints, never exits, never asks.
"""
