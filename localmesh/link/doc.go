// Package link is the WAN between two clusters of the local mesh: a userspace TCP relay, one process a pair of
// clusters, and the only way for a byte to leave one of them.
//
// Its one idea: what a wide-area path does to a TCP stream is a schedule, and a schedule is pure. [Path] says at which
// instant a piece of a stream that is sent now arrives (delay line, jitter, bottleneck, loss), from values alone. The
// rest of the package is hands: it reads a piece, asks the Path, holds the piece until its instant, writes it. The two
// directions are two Paths, so a link can be cut one way.
//
// # What the two ends see
//
//   - A new connection's SYN takes half an RTT; the target is dialled when it has arrived; the SYN-ACK takes the other
//     half; only then do the client's first bytes set out. A server that speaks first is heard after two RTTs, as over
//     a real path, where its accept returns with the client's ACK.
//   - Each byte takes half the RTT, plus or minus half the jitter, after its turn at the bottleneck, which all
//     connections of a direction share. Bytes of one connection are never reordered.
//   - A lost segment (1460 bytes) holds back its connection, and it alone, until its retransmission would have arrived;
//     see [Path.Send] for the model.
//   - At most a window of bytes ([Shape.Window]) is sent and not acknowledged, an acknowledgement taking half an RTT
//     back. So a connection's memory is bounded, a stuck reader is felt by the writer, and a cut of one direction
//     stops the other once a window of it went unacknowledged.
//   - A FIN crosses as a FIN after the bytes before it, an RST as an RST.
//
// # Faults
//
// A *cut* direction is a black hole: what is in it or sent into it arrives nowhere, new connections hang, nothing is
// reset. TCP retransmits, so no stream ever shows a hole: bytes are kept, within the window, and set out again when the
// link heals. A *stalled* direction keeps what is in it and lets it go, late and at once, when healed. A link that
// *refuses* resets its connections and closes its listeners: callers get ECONNREFUSED.
//
// # What it deliberately does not do
//
// It is a relay, so both kernels end TCP at it: connect succeeds at once, before and even while the path is cut (a
// caller sees the hang at its first read, not in connect); a target that refuses shows as a reset; TCP keep-alives and
// SIOCOUTQ see the relay, not the far end, so only the application's own pings notice a cut. Retransmission timers do
// not back off over a cut: all is sent again at the instant of healing, the luckiest moment of a real timer.
// Congestion control is a ceiling on the window, not slow start and sawtooth. It carries no UDP. It never looks into bytes,
// except to copy them into a [Config.Tap] for a test.
//
// Read [Path] first, then [Config], [Run], and [Client] for those who hold the switch.
package link
