package ingress

import (
	"bytes"
	"net/netip"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// Edge is what is known of a connection from outside the mesh, whatever it says.
type Edge struct {
	// Peer is who made it.
	Peer netip.Addr
	// Secure says that it came by TLS.
	Secure bool
}

// Fields that say where a request comes from. In a request from outside they are believed as far as proxies are trusted.
const (
	fieldFor   = "x-forwarded-for"
	fieldProto = "x-forwarded-proto"
	fieldHost  = "x-forwarded-host"
)

// forgeable are the fields that nobody outside may write: our own by prefix, who called, and by which name the request is
// logged.
var forgeable = [...]string{"x-forwarded-client-cert", "x-request-id"}

// hearsay are the fields that proxies before us write, which mean nothing where there is none.
var hearsay = [...]string{fieldFor, fieldProto, fieldHost, "x-forwarded-port", "x-forwarded-prefix", "x-real-ip", "forwarded", "x-client-ip", "true-client-ip", "via"}

// Complete makes the head of a request from outside one that may enter, and returns the address of its client.
//
// Where no proxy is trusted everything is dropped that says where the request came from, and what we know takes its place:
// the peer's address, how it came, and the host that it asked for. With hops proxies before us, each of which appends the
// address that it was called from to x-forwarded-for, the client is the last but hops-1 of its entries; all of it is kept and
// the peer, which is the last of the proxies, appended. What a client has written itself stands before that and is believed
// by nobody who counts from the right.
func (e *Edge) Complete(h *message.Head, hops int) netip.Addr {
	drop(h, hops == 0)
	scheme := "http"
	if e.Secure {
		scheme = "https"
	}
	h.Scheme = h.KeepString(scheme)
	client, list := e.Peer, []byte(nil)
	if hops > 0 {
		list = joined(h, fieldFor)
		if a, ok := fromRight(list, hops); ok {
			client = a
		}
		h.Del(fieldFor)
	}
	own := h.Keep(e.Peer.AppendTo(make([]byte, 0, 40)))
	if len(list) > 0 {
		own = h.Keep(append(append(bytes.Clone(list), ", "...), own...))
	}
	h.Fields = append(h.Fields, message.Field{Name: h.KeepString(fieldFor), Value: own})
	if hops == 0 || !h.Has(fieldProto) {
		h.Set(fieldProto, scheme)
	}
	if hops == 0 || !h.Has(fieldHost) {
		h.Del(fieldHost)
		h.Fields = append(h.Fields, message.Field{Name: h.KeepString(fieldHost), Value: h.Authority})
	}
	return client
}

// drop removes what is not believed, in either spelling that some server takes for the same: '_' counts as '-'.
func drop(h *message.Head, all bool) {
	kept := h.Fields[:0]
	for _, f := range h.Fields {
		if !prefixed(f.Name) && !listed(f.Name, forgeable[:], true) && !listed(f.Name, hearsay[:], all) {
			kept = append(kept, f)
		}
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
}

// reservedPrefix is that of the mesh's own fields.
const reservedPrefix = "isthmus-"

func prefixed(name []byte) bool {
	return len(name) >= len(reservedPrefix) && same(name[:len(reservedPrefix)], reservedPrefix)
}

// listed reports whether a name is one of names; in its other spelling it is always.
func listed(name []byte, names []string, plain bool) bool {
	for _, n := range names {
		if same(name, n) {
			return plain || string(name) != n
		}
	}
	return false
}

func same(name []byte, want string) bool {
	if len(name) != len(want) {
		return false
	}
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// joined is all values of a field as one list (RFC 9110 §5.3).
func joined(h *message.Head, name string) []byte {
	var out []byte
	for i := range h.Fields {
		if f := &h.Fields[i]; string(f.Name) == name {
			if out != nil {
				out = append(out, ", "...)
			}
			out = append(out, f.Value...)
		}
	}
	return out
}

// fromRight is the nth address of a list from its right end, from 1; false if there is none.
func fromRight(list []byte, n int) (netip.Addr, bool) {
	for ; n > 1; n-- {
		i := bytes.LastIndexByte(list, ',')
		if i < 0 {
			return netip.Addr{}, false
		}
		list = list[:i]
	}
	last := bytes.TrimSpace(list[bytes.LastIndexByte(list, ',')+1:])
	a, err := netip.ParseAddr(string(last))
	if err != nil {
		if ap, err := netip.ParseAddrPort(string(last)); err == nil {
			return ap.Addr().Unmap(), true
		}
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}
