"""The words for on and off. Imported at every interpreter start where `AI_OTEL_ENABLED` is set: imports nothing."""


def flag(text: str) -> bool:
    """Parse true or false. Raises `ValueError` for anything else."""
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("write true or false")
