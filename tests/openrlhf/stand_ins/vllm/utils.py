"""How a request is named."""

import uuid


def random_uuid():
    """Give a name that no other request has."""
    return uuid.uuid4().hex
