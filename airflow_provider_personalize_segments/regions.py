"""Whether a region is one, as far as botocore and the domain name system know."""

from __future__ import annotations

import socket
import time
from functools import cache
from urllib.parse import urlsplit

from botocore.session import Session

LOOKUPS, PAUSE = 3, 1.0
"""How often a name is looked up before it is said not to resolve, and the seconds in between."""
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def is_unknown(region: str | None, endpoint_url: str) -> bool:
    """
    Tell whether botocore knows no Amazon Personalize in a region, and makes up the name of the endpoint.

    AWS may offer Personalize there since this botocore was published, or the name has a typing error.

    :param region: the region of a client
    :param endpoint_url: the client's endpoint; any that somebody has configured is known
    """
    host = urlsplit(endpoint_url).hostname or ""
    made_up = (f"personalize.{region}.", f"personalize-fips.{region}.")
    return bool(region) and host.startswith(made_up) and region not in _known_regions()


def resolves(endpoint_url: str) -> bool:
    """
    Tell whether the host name of an endpoint resolves, at one of a few attempts; blocks for seconds.

    A name server that does not answer is no word about the name: then it may resolve.

    :param endpoint_url: the endpoint
    """
    for attempt in range(LOOKUPS):
        if attempt:
            time.sleep(PAUSE)
        try:
            socket.getaddrinfo(urlsplit(endpoint_url).hostname, 443)
        except OSError as error:
            if error.errno not in _NO_SUCH_NAME:
                return True
        else:
            return True
    return False


@cache
def _known_regions() -> frozenset[str]:
    # Whatever profile the machine's settings name, it may not be there, and is of no concern here.
    session = Session(session_vars={"profile": (None, None, None, None)})
    return frozenset(
        region
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("personalize", partition)
    )
