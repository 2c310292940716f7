"""torch 2.11 to 2.13."""


def allow_variants(count: int) -> None:
    """Of one compiled function, before torch gives up and runs it uncompiled: attention has one for each kind of layer,
    and torch's own limit of 8 is less than some models have."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, count)
