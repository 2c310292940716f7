"""Responses of a checkpoint: by transformers here, by vLLM behind Ray Serve, and as an endpoint for others.

Used by the pipeline; knows data and settings, and neither training nor judging.
"""
