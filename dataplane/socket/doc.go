// Package socket is what the engines know of their sockets. Its one idea is that what the kernel can tell and do need not
// be guessed or copied: how much waits on either side, what the peer's kernel acknowledged, who of one machine is at the other end,
// and bytes from one connection into another. Reads and writes are package direct's, past the scheduler.
//
// It accepts and closes no connection. Read Conn first; Dial and ListenConfig make those within one machine cheap, Pipe
// is splice(2) between two of them, and Read and Write are for engines that hold the descriptor themselves.
package socket
