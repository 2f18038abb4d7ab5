"""Generative reward models for RLHF: judge, vote and train them."""
