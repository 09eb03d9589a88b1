"""Scheduled judgement of the prediction log, and the retrain pull request that follows an alarm."""
