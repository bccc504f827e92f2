"""Serving: many prompts, hard and soft, in front of one frozen model."""
