"""What a study file may say, a file a part; `study` holds them all, `yaml_file` reads and explains.

Used by everybody; knows nobody but the losses whose fields it checks.
"""
