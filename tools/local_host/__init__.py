"""A local Azure Functions host: Microsoft's worker library and durable backend, with the wiring between them.

`python -m tools.local_host` serves an app; `LocalHost` does so from a test or a demo, in a process of its own.
"""

from tools.local_host.process import HostError, LocalHost

__all__ = ["HostError", "LocalHost"]
