// Package dns answers workloads' questions for names of the mesh (RFC 1035), over UDP and
// TCP. Its one idea is that it says what it knows and never more: a name that complete knowledge
// lacks does not exist, a name asked for before that is a failure of the server, and a name
// that is not the mesh's is somebody else's to answer.
//
// It forwards nothing, caches nothing, and does not know how a service gets its address: Resolve
// says. Read Server first.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is what is known of a host name.
type Answer uint8

// The answers.
const (
	// Foreign: not a name of the mesh: REFUSED, so that a resolver asks elsewhere.
	Foreign Answer = iota
	// Found: the address is the answer.
	Found
	// NoAddress: the name exists and has none here: NOERROR without an answer.
	NoAddress
	// Absent: complete knowledge says that there is no such name: NXDOMAIN.
	Absent
	// Unknown: knowledge is not complete yet: SERVFAIL, never NXDOMAIN.
	Unknown
)

// Config is what a Server works with. Resolve is required.
type Config struct {
	// Resolve says what is known of a host name, without the final dot. It is called
	// concurrently and must not block.
	Resolve func(host string) (netip.Addr, Answer)
	// Hosts, if set, is asked in place of Resolve: what is known of a host, for a client at an address, the nearest first. It is
	// authoritative, and who asks may say for whom (RFC 7871): nobody but resolvers asks it.
	Hosts func(host string, client netip.Addr) ([]netip.Addr, Answer)
	Log   *slog.Logger // nil discards
}

const (
	// ttl is how long an answer may be kept, in seconds: as long as an application may go on
	// calling an address that has gone.
	ttl = 5
	// udpMax is the largest answer over UDP, in bytes (RFC 1035 §4.2.1). An answer of ours has
	// addressesMax addresses and always fits.
	udpMax = 512
	// addressesMax bounds the addresses of an answer, which are the nearest.
	addressesMax = 6
	// payload is what we say that we take over UDP, in bytes (RFC 6891 §6.2.5).
	payload = 1232
	// messageMax bounds a question that is read, in bytes.
	messageMax = 4096
	// tcpIdle bounds the wait for a question on a connection (RFC 7766 §6.2.3).
	tcpIdle = 10 * time.Second
	// tcpMax bounds connections.
	tcpMax = 64
)

// Server answers questions. It holds no state beside its configuration.
type Server struct{ cfg Config }

// New returns a server.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg}
}

// ServeUDP answers on c until ctx ends. It closes c.
func (s *Server) ServeUDP(ctx context.Context, c net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	in, out := make([]byte, messageMax), make([]byte, 0, udpMax)
	for {
		n, from, err := c.ReadFrom(in)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("answer names over UDP: %w", err)
		case err != nil:
			continue // an ICMP error of an earlier answer: its asker has gone
		}
		if reply := s.AnswerTo(out, in[:n], addrOf(from)); reply != nil {
			_, _ = c.WriteTo(reply, from) // who asked asks again
		}
	}
}

// ServeTCP answers on connections of ln until ctx ends, and returns when all have ended.
// It closes ln.
func (s *Server) ServeTCP(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	places := make(chan struct{}, tcpMax)
	for {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("answer names over TCP: %w", err)
		case err != nil:
			select { // a lack of descriptors passes
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			c.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-places }()
			s.serve(ctx, c)
		})
	}
}

// serve answers the questions of one connection, each led by its length (RFC 1035 §4.2.2).
func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	in, out := make([]byte, messageMax), make([]byte, 0, udpMax)
	for {
		_ = c.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := io.ReadFull(c, in[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(in))
		if n > messageMax {
			return
		}
		if _, err := io.ReadFull(c, in[:n]); err != nil {
			return
		}
		reply := s.AnswerTo(out[:2], in[:n], addrOf(c.RemoteAddr()))
		if reply == nil {
			return
		}
		binary.BigEndian.PutUint16(reply, uint16(len(reply)-2))
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// addrOf is the address of who asks; invalid if that is none.
func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// Answer is AnswerTo for nobody in particular.
func (s *Server) Answer(dst, question []byte) []byte { return s.AnswerTo(dst, question, netip.Addr{}) }

// AnswerTo appends the answer to one question from an address to dst. It returns nil for what is no question
// at all: to answer those would make the server a tool for floods.
func (s *Server) AnswerTo(dst, question []byte, from netip.Addr) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil || h.Response {
		return nil
	}
	reply := dnsmessage.Header{ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired}
	q, err := p.Question()
	switch {
	case h.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
		return build(dst, reply, nil, nil, nil)
	case err != nil:
		reply.RCode = dnsmessage.RCodeFormatError
		return build(dst, reply, nil, nil, nil)
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) { // RFC 9619: one question
		reply.RCode = dnsmessage.RCodeFormatError
		return build(dst, reply, nil, nil, nil)
	}
	var addrs []netip.Addr
	var extra *edns
	answer, host := Foreign, strings.TrimSuffix(q.Name.String(), ".")
	switch {
	case q.Class != dnsmessage.ClassINET:
	case s.cfg.Hosts != nil:
		if extra = readEDNS(&p); extra != nil && extra.client.IsValid() {
			from = extra.client.Addr()
		}
		addrs, answer = s.cfg.Hosts(host, from)
	default:
		var addr netip.Addr
		addr, answer = s.cfg.Resolve(host)
		addrs = []netip.Addr{addr}
	}
	switch answer {
	case Foreign:
		reply.RCode = dnsmessage.RCodeRefused
	case Absent:
		reply.RCode = dnsmessage.RCodeNameError
	case Unknown:
		reply.RCode = dnsmessage.RCodeServerFailure
	}
	reply.Authoritative = answer == Found || answer == NoAddress || answer == Absent
	if answer != Found {
		addrs = nil
	}
	return build(dst, reply, &q, addrs, extra)
}

// build appends a message with at most one question, and those of the addresses that are of its type. Where there are none the
// name exists and has nothing of the type: RFC 2308 §2.2.
func build(dst []byte, h dnsmessage.Header, q *dnsmessage.Question, addrs []netip.Addr, extra *edns) []byte {
	b := dnsmessage.NewBuilder(dst, h)
	b.EnableCompression()
	err := b.StartQuestions()
	if q != nil {
		err = errors.Join(err, b.Question(*q))
	}
	if q != nil {
		err = errors.Join(err, b.StartAnswers(), answers(&b, q, addrs))
	}
	if extra != nil {
		err = errors.Join(err, b.StartAdditionals(), extra.append(&b))
	}
	out, ferr := b.Finish()
	if errors.Join(err, ferr) != nil {
		return nil // a name that was parsed can be written
	}
	return out
}
