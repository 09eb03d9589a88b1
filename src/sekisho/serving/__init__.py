"""Serving: a verified release behind the Open Inference Protocol v2, with a guard and a prediction log."""
