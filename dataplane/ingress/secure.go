package ingress

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/termination"
	"github.com/isthmus-mesh/isthmus/mesh"
	"github.com/isthmus-mesh/isthmus/telemetry/exposition"
)

// Terminate readies the listeners at which TLS ends; those of before that show the same certificates go on as they are. It is
// called once, before the tables are used. What cannot be used of them is logged, once.
func (t *Tables) Terminate(before *Tables, log *slog.Logger) {
	var former map[string]*termination.Server
	if before != nil {
		former = before.ends
	}
	t.ends = map[string]*termination.Server{}
	for _, l := range t.secure {
		l.server = termination.New(l.ends, former[l.name])
		t.ends[l.name] = l.server
		if p := l.server.Problem(); p != "" && (former[l.name] == nil || former[l.name].Problem() != p) {
			log.Error("a certificate of a listener cannot be used", "listener", l.name, "error", p)
		}
	}
}

// Ends returns the listener whose TLS ends here for a server name, "" where a client asks for none; nil where it does not end, or
// nobody takes the name.
func (t *Tables) Ends(d Door, serverName string) *ir.Termination {
	if l := t.named(d, serverName); l != nil {
		return l.ends
	}
	return nil
}

// Secure returns who ends the TLS of a connection by the server name that it asks for, and the listener's name, for Take, which
// is "" where bytes come out; nil as Ends.
func (t *Tables) Secure(d Door, serverName string) (*termination.Server, string) {
	switch l := t.named(d, serverName); {
	case l == nil || l.ends == nil:
	case l.ends.Protocol == mesh.ListenerTLS:
		return l.server, ""
	default:
		return l.server, l.name
	}
	return nil, ""
}

// Expose shows when the certificates of listeners end, and what became of handshakes.
func (t *Tables) Expose(e *exposition.Writer) {
	if t == nil || len(t.ends) == 0 {
		return
	}
	names := slices.Sorted(maps.Keys(t.ends))
	e.Family("isthmus_listener_certificate_expiry_timestamp_seconds", exposition.Gauge, "When the first certificate of a Gateway's listener ends, in seconds since 1970; 0 of a listener that has none which can be used.")
	for _, n := range names {
		at := int64(0)
		if ends := t.ends[n].Ends(); !ends.IsZero() {
			at = ends.Unix()
		}
		e.Value(float64(at), exposition.Label{Name: "listener", Value: n})
	}
	e.Family("isthmus_listener_handshakes_total", exposition.Counter, "Handshakes of TLS at a Gateway's listener: done, failed by the client or its time, refused for want of a certificate.")
	for _, n := range names {
		done, failed, refused := t.ends[n].Handshakes()
		for i, outcome := range []string{"done", "failed", "refused"} {
			e.Value(float64([]int64{done, failed, refused}[i]), exposition.Label{Name: "listener", Value: n}, exposition.Label{Name: "outcome", Value: outcome})
		}
	}
}

func (t *Tables) named(d Door, serverName string) *listener {
	p := t.ports[d]
	if p == nil {
		return nil
	}
	var room [maxHost]byte
	l, _ := p.listeners.find(plain(room[:0], []byte(serverName)))
	return l
}
