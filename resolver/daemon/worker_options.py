"""What a worker is started with besides its settings.

The value does not change, except that the predecessor of an upgrade is taken out when it has confirmed. It is made
before the fork, and the supervisor makes that of each worker from it.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resolver.daemon.service_manager import ServiceManager

if TYPE_CHECKING:
    from resolver.daemon.certificates import Certificates
    from resolver.daemon.management_sockets import ManagementSockets
    from resolver.daemon.predecessor import Predecessor
    from resolver.net.client_contexts import TlsContexts

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a worker that are not in the settings.

    `config` is the path of the configuration file, or empty; `number` counts the workers from 0; `successor` tells that
    this one replaces another that has ended; `management` has the sockets opened before the fork, of which the first
    worker uses all and the others only the channels; `certificates` were read before the fork; `manager` is the service
    manager, which the single worker or the supervisor notifies. `predecessor` is the process that the single worker
    replaces at an upgrade; for other workers `confirmed` and `upgrading` say what `WorkerUpgrades` begins with.
    """

    playground: bool = False
    show_example: bool = False
    config: str = ""
    number: int = 0
    successor: bool = False
    management: "ManagementSockets | None" = None
    certificates: "Certificates | None" = None
    tls_contexts: "TlsContexts | None" = None
    manager: ServiceManager = field(default_factory=ServiceManager)
    predecessor: "Predecessor | None" = None
    confirmed: bool = True
    upgrading: bool = False
