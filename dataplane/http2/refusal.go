package http2

import (
	"net"
	"time"

	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// TurnAway answers a client that is not to be served: by a GOAWAY of ENHANCE_YOUR_CALM for the reason given, so that it
// knows that nothing it asked for was begun (RFC 9113 §6.8). What the client sends is not read. It closes nc.
func TurnAway(nc net.Conn, reason string) {
	_ = nc.SetDeadline(time.Now().Add(turnAwayTime))
	b := appendFrame(nil, frame{kind: frameSettings}) // RFC 9113 §3.4: the first frame
	_, _ = nc.Write(appendGoAway(b, 0, EnhanceYourCalm, reason))
	_ = nc.Close()
}

// turnAwayTime bounds the answer of TurnAway.
const turnAwayTime = time.Second

// malformed answers a request that is none by 400 before its stream is reset, so that its client learns why (RFC
// 9113 §8.1.1 allows it). No handler sees it. While answers are not taken there is only the reset.
func (s *server) malformed(id uint32, fault string) *ConnError {
	if len(s.out) < s.cfg.SendBuffer {
		h := message.Head{Status: 400}
		h.Add("isthmus-reason", string(mesh.ReasonMalformed))
		if s.cfg.Refused != nil {
			s.cfg.Refused(fault, &h)
		}
		at := len(s.out)
		s.out = s.enc.appendResponse(appendFrame(s.out, frame{kind: frameHeaders, flags: flagEndHeaders | flagEndStream, stream: id}), &h, h.Status)
		s.closeSection(at)
	}
	return s.refuse(id, ProtocolError)
}
