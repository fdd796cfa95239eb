package message

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// A WebSocket opens by a handshake with a key in HTTP/1.1 (RFC 6455 §4) and without one in
// HTTP/2 (RFC 8441 §5). Where a client speaks the one and its server the other, who stands between
// them is the handshake's other half.

// Handshake is what such a go-between must remember of a request. The zero value is ready.
type Handshake struct {
	// key is Sec-WebSocket-Key: the client's, or ours.
	key []byte
	// ours says that the client sent none.
	ours bool
}

const (
	fieldSocketKey    = "sec-websocket-key"
	fieldSocketAccept = "sec-websocket-accept"
)

// Prepare makes a request that opens a WebSocket one of the version that the server speaks; any
// other is left alone. It may be called again after the version has changed.
func (w *Handshake) Prepare(h *Head, http2 bool, rand func() uint64) {
	if string(h.Upgrade) != "websocket" {
		return
	}
	if w.key == nil {
		if key := h.Get(fieldSocketKey); key != nil {
			w.key = key
		} else {
			w.ours = true
			var nonce [16]byte // RFC 6455 §4.1: no two connections have the same
			binary.BigEndian.PutUint64(nonce[:], rand())
			binary.BigEndian.PutUint64(nonce[8:], rand())
			w.key = base64.StdEncoding.AppendEncode(nil, nonce[:])
		}
	}
	h.Del(fieldSocketKey)
	if !http2 {
		h.Fields = append(h.Fields, Field{h.KeepString(fieldSocketKey), w.key})
	}
}

// Settle makes the answer that grants a WebSocket the one that the client waits for. The error is
// that of RFC 6455 §4.1, where we are the server's client.
func (w *Handshake) Settle(h *Head, http2 bool) error {
	if w.key == nil {
		return nil
	}
	sum := sha1.Sum(append(w.key[:len(w.key):len(w.key)], "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)) // RFC 6455 §4.2.2
	switch want := base64.StdEncoding.EncodeToString(sum[:]); {
	case http2 && !w.ours:
		h.Set(fieldSocketAccept, want)
	case http2 || !w.ours: // nobody waits for one, or who does judges it itself
	case string(h.Get(fieldSocketAccept)) != want:
		return errors.New("a WebSocket was accepted with a wrong " + fieldSocketAccept)
	default:
		h.Del(fieldSocketAccept)
	}
	return nil
}
