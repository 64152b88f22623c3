"""Why a port cannot be listened on, by the name of the option that must be changed."""

import errno

from medssl.imaging.errors import MedsslError


def cannot_listen(group: str, host: str, port: int, error: OSError) -> MedsslError:
    """The error for an address that cannot be listened on.

    Args:
        group: Of the options: `http` or `dicom`.
        host: Address.
        port: TCP port.
        error: What the system said.
    """
    remedies = {
        errno.EADDRINUSE: f"another program listens there: stop it, or choose another {group}.port",
        errno.EACCES: f"{group}.port below 1024 is the system's: choose another",
        errno.EADDRNOTAVAIL: f"{group}.host is no address of this machine: give one, or 0.0.0.0 for all of them",
    }
    what = (error.strerror or str(error)).split(" (while", 1)[0]
    remedy = remedies.get(error.errno or 0, f"check {group}.host and {group}.port")
    return MedsslError(f"cannot listen on {host}:{port} ({what}): {remedy}", reason="port")
