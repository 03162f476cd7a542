"""What can go wrong with the local services; the text is for the user, with the way out."""


class LocalError(Exception):
    """A local service cannot be started, found or ended."""
