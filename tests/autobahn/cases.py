"""kosoku, with its cases 12 and 13 made to take an uncompressed message for the message that it is.

With permessage-deflate agreed on, a message may still be sent as it is (RFC 7692 §6), and short ones should be. kosoku hands it to a
case as `str`, where the case wants the bytes that Python 2 had, and the case ends with a TypeError. The original suite has no such fault.
"""

from kosoku import _cli
from kosoku.cases import CASES


def take_bytes(case):
    on_message = case.onMessage

    def with_bytes(self, message, binary):
        # The inverse of what kosoku did with the bytes.
        on_message(self, message if isinstance(message, bytes) else message.encode("latin-1" if binary else "utf-8"), binary)

    case.onMessage = with_bytes


for id, case in CASES.items():
    if id.startswith(("12.", "13.")):
        take_bytes(case)
_cli.main()
