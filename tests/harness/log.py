"""What the log says."""


def messages(caplog) -> list[str]:
    """Those of Consistent Self-Attention."""
    return [record.message for record in caplog.records if "Consistent Self-Attention" in record.message]
