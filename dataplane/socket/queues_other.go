//go:build !linux

package socket

import (
	"net"
	"time"
)

// Queues cannot be asked for here.
func Queues(net.Conn) (unread, unacknowledged int, ok bool) { return 0, 0, false }

// Unsent cannot be asked for here.
func Unsent(net.Conn) (n int, ok bool) { return 0, false }

// Acknowledged cannot be asked for here.
func Acknowledged(net.Conn) (Acks, bool) { return Acks{}, false }

// RoundTrip is not known here.
func RoundTrip(net.Conn) (time.Duration, bool) { return 0, false }
