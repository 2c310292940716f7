"""What a study found, for people: tables, charts as values and two renderers of them, one page.

Used by the pipeline, the command line and `TrialResults.report`; reads results and writes nobody else's files.
"""
