"""Responses of a checkpoint to a set of prompts."""
