"""Reinforcement learning of language-model agents: it learns, it just runs, it tells you why."""

__version__ = "0.1.0"
