"""Tells packets that are cut off from the last ones before a join, which the demuxer marks in the same way."""

from __future__ import annotations


class CutPackets:
    """Decides which of the packets that the demuxer marks as cut off count as damage.

    The last picture of a transport stream has no explicit length, so the demuxer marks it as cut off even though it is
    whole. Where another file was joined on, the times of the stream jump back right after such a packet. A marked
    packet therefore counts as damage only if no jump follows.
    """

    _WAIT = 2
    """The number of packets of the same stream within which a jump must follow, since a parser may hold one back."""

    def __init__(self) -> None:
        self._waits: dict[int, int] = {}
        """For each stream with a marked packet, the number of packets within which a jump must still follow."""

    def suspect(self, stream: int) -> None:
        """Note that the current packet of a stream is marked as cut off."""
        self._waits[stream] = self._WAIT

    def confirmed(self, stream: int, anew: bool) -> bool:
        """Take note of the next packet of a stream.

        Args:
            stream: The index of the stream.
            anew: Whether the times of the stream jump back at this packet.

        Returns:
            Whether an earlier packet of the stream is now known to be damaged.
        """
        if stream not in self._waits:
            return False
        self._waits[stream] -= 1
        if anew or not self._waits[stream]:
            del self._waits[stream]
            return not anew
        return False

    def left(self) -> int:
        """Return the number of marked packets that no jump has followed by the end of the file."""
        return len(self._waits)
