"""Host-side helpers of mtp_ext: integers and strings, no tensors."""

def compiler() -> str:
    """The compiler that built the libraries, with its version."""
