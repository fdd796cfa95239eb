// Package direct reads and writes TCP and Unix connections past the scheduler. Its one idea is
// that a call on a socket that does not block needs no scheduler: package net tells the
// runtime of every read and write, which wakes its monitor, which takes the processor away
// from a call that lasts longer than 20 µs, as a write to a neighbour on the same machine does;
// then threads are woken and put to sleep for each message. Here the kernel is asked
// directly, and only waiting is left to the runtime's poller (ADR 17).
//
// It makes, accepts and closes no connection. Read Conn first; Read and Write are for engines that hold the descriptor
// themselves.
package direct
