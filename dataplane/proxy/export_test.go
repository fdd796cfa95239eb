package proxy

import (
	"slices"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
)

// InboundWithout is Inbound without the stages of some names: with a defence off, for control runs. It panics where there is no
// such stage.
func (p *Proxy) InboundWithout(ex message.Exchange, peer Peer, names ...string) {
	left := slices.DeleteFunc(slices.Clone(inbound[:]), func(s stage) bool { return slices.Contains(names, s.name) })
	if len(left) != len(inbound)-len(names) {
		panic("no such stages")
	}
	r := p.begin(ex)
	r.peer, r.rec.Inbound, r.rec.Caller = peer, true, peer.Identity
	r.run(left)
}

// OutboundWithout is the same of Outbound.
func (p *Proxy) OutboundWithout(ex message.Exchange, via Via, names ...string) {
	left := slices.DeleteFunc(slices.Clone(outbound[:]), func(s stage) bool { return slices.Contains(names, s.name) })
	if len(left) != len(outbound)-len(names) {
		panic("no such stages")
	}
	r := p.begin(ex)
	r.via = via
	r.run(left)
}

// Below is below.
func Below(random uint64, milliPercent int) bool { return below(random, milliPercent) }
