"""The web page of ``dao serve``: type a formula, watch its prediction, look at the candidates and download them.

A Starlette application on 127.0.0.1 and one worker process, which predicts one job after another. What is known of a
job lies in a folder of its own, so that the history survives whatever happens to either.
"""
