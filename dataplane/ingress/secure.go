package ingress

import (
	"log/slog"

	"github.com/isthmus-mesh/isthmus/core/ir"
	"github.com/isthmus-mesh/isthmus/dataplane/termination"
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

// Secure returns who ends the TLS of a connection by the server name that it asks for, and the listener's name, for Take; nil
// as Ends.
func (t *Tables) Secure(d Door, serverName string) (*termination.Server, string) {
	if l := t.named(d, serverName); l != nil && l.ends != nil {
		return l.server, l.name
	}
	return nil, ""
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
