package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"time"
)

// AwaitHello waits for the ClientHello of a connection whose TLS ends elsewhere, until ctx ends or the time for one is over, and
// returns it with the server name that it asks for. What is out of form, or names no server where nameless does not allow that, is
// an error, of which the client is told by an alert. It takes nothing of the connection beyond what it returns, and does not close it.
func AwaitHello(ctx context.Context, c net.Conn, nameless bool) (first []byte, name string, err error) {
	w := awaitHello(ctx, c)
	defer w.stop()
	defer w.pieces.Close()
	if err = w.pieces.Gather(); err == nil {
		first = w.pieces.Gathered()
		_, name, err = readHello(bytes.NewReader(first), make([]byte, 0, len(first)))
		if nameless && err == errNoSNI {
			err = nil
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	if err != nil {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(alert(alertUnrecognizedName))
		_ = c.SetWriteDeadline(time.Time{})
	}
	return first, name, err
}

// Alert is what a client of TLS is told before a handshake in place of a status: that there is no such name, or that something is
// wrong behind it.
func Alert(status int) []byte {
	if status == 404 {
		return alert(alertUnrecognizedName)
	}
	return alert(alertInternalError)
}

// alert is a fatal one, in the clear (RFC 8446 §6).
func alert(a tls.AlertError) []byte { return []byte{21, 3, 3, 0, 2, 2, byte(a)} }
