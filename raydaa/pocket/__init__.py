"""The built-in world of small models that any machine trains: its rules, and what a study file becomes in it.

Used by data and the pipeline, where a source or a model is called ``pocket``.
"""
