"""Recipes: the only folder that knows both the models and the training loop.

A file here is a part of the book: what its models learn from, what they call a loss,
and the numbers of their training. `runs.py` runs them and puts the weights into the
zoo.
"""
