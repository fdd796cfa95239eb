package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/socket"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// onwardPart of a gateway's connections, one in so many, may be passed on to other clusters: what comes for the own one has room
// whatever others ask for.
const onwardPart = 4

// onward counts the connections that are passed on to another cluster.
type onward struct {
	most     int64
	now, all atomic.Int64
	turn     atomic.Uint64
}

func (o *onward) enter() bool {
	if o.now.Add(1) > o.most {
		o.leave()
		return false
	}
	return true
}

func (o *onward) leave() { o.now.Add(-1) }

// further connects to a gateway of the cluster that a server name stands in, for a client that asked a gateway of by for that;
// whoever gets the connection calls onward.leave when it has ended. The ClientHello goes on without the words that ask: the next
// gateway cannot be asked, and looks among its own slots only.
func (g *Gateway) further(ctx context.Context, by mesh.TrustDomain, name string) (up net.Conn, word tls.AlertError, err error) {
	own := g.cfg.Domain()
	td, known := domainOf(name)
	switch {
	case by != own:
		return nil, alertUnrecognizedName, fmt.Errorf("a gateway of %s is asked to pass it on, and this is one of %s", by, own)
	case !known:
		return nil, alertUnrecognizedName, errors.New("it is to be passed on, and names no place")
	case td == own:
		return nil, alertUnrecognizedName, errors.New("it is to be passed on to this gateway's own cluster")
	case g.cfg.Onward == nil:
		return nil, alertUnrecognizedName, errors.New("this gateway passes nothing on")
	}
	to := g.cfg.Onward(td)
	if len(to) == 0 {
		return nil, alertUnrecognizedName, fmt.Errorf("%s is not joined, or not reached from here, or nothing is to be passed on", td)
	}
	if !g.onward.enter() {
		return nil, alertInternalError, fmt.Errorf("as many connections are passed on as may be (%d)", g.onward.most)
	}
	ctx, stop := context.WithTimeout(ctx, endpointDial)
	defer stop()
	end, turn := time.Now().Add(endpointDial), g.onward.turn.Add(1)
	var errs []error
	for i := range to {
		// What is left of the time is shared between those not tried yet.
		one, done := context.WithTimeout(ctx, time.Until(end)/time.Duration(len(to)-i))
		up, err = socket.Dial(one, nil, g.cfg.Local, to[(turn+uint64(i))%uint64(len(to))].String())
		done()
		if err == nil {
			g.onward.all.Add(1)
			return up, 0, nil
		}
		errs = append(errs, err)
	}
	g.onward.leave()
	return nil, alertInternalError, errors.Join(errs...)
}

// domainOf is the trust domain that a server name stands in: of a slot, or of gateways themselves.
func domainOf(name string) (mesh.TrustDomain, bool) {
	if rest, ok := strings.CutPrefix(name, GatewayName("")); ok && mesh.IsSubdomain(rest) {
		return mesh.TrustDomain(rest), true
	}
	sni, err := mesh.ParseSNI(name)
	return sni.TrustDomain, err == nil
}

// beginning is what a connection has before its ClientHello is whole: the words that ask to pass it on, if any, and a border.
type beginning struct {
	lead int
	border
}

// total is that of border.
func (d *beginning) total(b []byte) int {
	if d.lead == 0 {
		d.lead = mesh.PassOnSize(b)
	}
	if len(b) < d.lead {
		return d.lead
	}
	return d.lead + d.border.total(b[d.lead:])
}
