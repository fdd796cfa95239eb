package proxy

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// A WebSocket opens by a handshake with a key in HTTP/1.1 (RFC 6455 §4) and without one in
// HTTP/2 (RFC 8441 §5). Where the client speaks the one and the application the other, the proxy
// beside the application is the handshake's other half.

// socket is what the application's side must be told or relieved of.
type socket struct {
	// key is Sec-WebSocket-Key: the client's, or ours.
	key []byte
	// ours says that the client sent none.
	ours bool
}

const (
	fieldSocketKey    = "sec-websocket-key"
	fieldSocketAccept = "sec-websocket-accept"
)

// prepareSocket makes the handshake that of the far side's protocol. It may be called again
// after the protocol has changed.
func (r *request) prepareSocket() {
	if string(r.head.Upgrade) != "websocket" || r.far == "" {
		return
	}
	h, w := &r.head, &r.socket
	if w.key == nil {
		if key := h.Get(fieldSocketKey); key != nil {
			w.key = key
		} else {
			w.ours = true
			var nonce [16]byte // RFC 6455 §4.1: no two connections have the same
			binary.BigEndian.PutUint64(nonce[:], r.proxy.cfg.Rand())
			binary.BigEndian.PutUint64(nonce[8:], r.proxy.cfg.Rand())
			w.key = base64.StdEncoding.AppendEncode(nil, nonce[:])
		}
	}
	h.Del(fieldSocketKey)
	if !r.far.IsHTTP2() {
		addBytes(h, fieldSocketKey, w.key)
	}
}

// settleSocket makes the answer that grants a WebSocket the one that the client waits for.
func (r *request) settleSocket() *refusal {
	w := &r.socket
	if w.key == nil {
		return nil
	}
	switch want := socketAccept(w.key); {
	case r.far.IsHTTP2() && !w.ours:
		r.reply.Set(fieldSocketAccept, want)
	case r.far.IsHTTP2() || !w.ours: // nobody waits for one, or who does judges it itself
	case string(r.reply.Get(fieldSocketAccept)) != want: // RFC 6455 §4.1: we are the client, and must fail
		return refuse(mesh.ReasonProtocol, "the application accepted a WebSocket with a wrong "+fieldSocketAccept)
	default:
		r.reply.Del(fieldSocketAccept)
	}
	return nil
}

// socketAccept is Sec-WebSocket-Accept for a key (RFC 6455 §4.2.2).
func socketAccept(key []byte) string {
	h := sha1.New()
	h.Write(key)
	h.Write([]byte("258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}
