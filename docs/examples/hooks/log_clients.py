"""Hooks that log every reply with its client, as a line of JSON."""

import json
import logging

from resolver.hooks import Query, Response

logger = logging.getLogger("queries")


def send(query: Query, response: Response) -> None:
    """One line for each reply; it is sent unchanged."""
    addresses = [record.data for record in response.records if record.type in ("A", "AAAA")]
    logger.info("%s", json.dumps({
        "client": str(query.address), "transport": query.transport, "name": response.question.name,
        "type": response.question.type, "rcode": response.rcode, "addresses": addresses,
    }))
