package healthcheck

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/isthmus-mesh/isthmus/dataplane/http1"
	"github.com/isthmus-mesh/isthmus/dataplane/http2"
	"github.com/isthmus-mesh/isthmus/dataplane/message"
	"github.com/isthmus-mesh/isthmus/mesh"
	"google.golang.org/protobuf/encoding/protowire"
)

// Each question takes a connection of its own: an application that accepts no more is not well, whatever it
// would answer on a connection that it accepted before.

// put asks once. When ctx ends the connection is closed under whoever waits on it.
func (q *question) put(ctx context.Context, dial func(context.Context, string, mesh.Protocol) (net.Conn, error)) error {
	conn, err := dial(ctx, q.place, q.spoken())
	if err != nil {
		return err
	}
	defer conn.Close()
	if q.Kind == mesh.HealthTCP {
		return nil
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s, end, err := q.open(ctx, conn)
	if err != nil {
		return err
	}
	defer end()
	if q.Kind == mesh.HealthGRPC {
		return q.putGRPC(s)
	}
	return q.putHTTP(s)
}

// spoken is what the question is put in.
func (q *question) spoken() mesh.Protocol {
	switch {
	case q.Kind == mesh.HealthTCP:
		return mesh.ProtocolTCP
	case q.http2:
		return mesh.ProtocolHTTP2
	}
	return mesh.ProtocolHTTP
}

// open begins a request in the version that the port speaks.
func (q *question) open(ctx context.Context, conn net.Conn) (s message.Stream, end func(), err error) {
	if !q.http2 {
		c := http1.NewClientConn(conn, &http1.Config{})
		s = c.Open()
		return s, func() { s.Close(); c.Close() }, nil
	}
	c, err := http2.NewClientConn(conn, http2.Config{})
	if err != nil {
		return nil, nil, err
	}
	if s, err = c.Open(ctx); err != nil {
		c.Close()
		return nil, nil, err
	}
	return s, func() { s.Close(); c.Close() }, nil
}

// head is what a question of either kind begins with.
func (q *question) head(h *message.Head, method, path string) {
	h.Reset()
	h.Method, h.Scheme, h.Path = h.KeepString(method), h.KeepString("http"), h.KeepString(path)
	h.Authority = h.KeepString(cmp.Or(q.Host, q.target))
	h.Add("user-agent", "isthmus-health")
}

// bodyMax bounds what is read of an answer, in bytes.
const bodyMax = 64 << 10

func (q *question) putHTTP(s message.Stream) error {
	var h message.Head
	q.head(&h, "GET", cmp.Or(q.Path, "/"))
	if err := s.Send(&h, true); err != nil {
		return err
	}
	end, err := receive(s, &h)
	if err != nil {
		return err
	}
	if !end { // so that the connection ends in order; the status is the answer
		_, _ = io.CopyN(io.Discard, s, bodyMax)
	}
	if len(q.Statuses) == 0 && h.Status >= 200 && h.Status <= 399 ||
		slices.ContainsFunc(q.Statuses, func(r mesh.StatusRange) bool { return h.Status >= r.First && h.Status <= r.Last }) {
		return nil
	}
	return fmt.Errorf("status %d: want %s", h.Status, q.wanted())
}

// wanted is the statuses that are healthy, as a policy writes them.
func (q *question) wanted() string {
	var out []string
	for _, r := range q.Statuses {
		if r.First == r.Last {
			out = append(out, fmt.Sprint(r.First))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return cmp.Or(strings.Join(out, ", "), "200-399")
}

// receive reads the final head.
func receive(s message.Stream, h *message.Head) (end bool, err error) {
	for {
		if end, err = s.Receive(h); err != nil || h.Status >= 200 {
			return end, err
		}
	}
}

// The messages of grpc.health.v1 (the gRPC project's "GRPC Health Checking Protocol").
const (
	grpcCheck     = "/grpc.health.v1.Health/Check"
	grpcPrefix    = 5 // of a message: one octet that says whether it is compressed, four of its length
	fieldService  = protowire.Number(1)
	fieldStatus   = protowire.Number(1)
	statusServing = 1
)

func (q *question) putGRPC(s message.Stream) error {
	var h message.Head
	q.head(&h, "POST", grpcCheck)
	h.Add("content-type", "application/grpc")
	h.Add("te", "trailers")
	h.Length = message.LengthUnknown
	if err := s.Send(&h, false); err != nil {
		return err
	}
	if _, err := s.Write(grpcRequest(q.Service)); err != nil {
		return err
	}
	if err := s.CloseWrite(nil); err != nil {
		return err
	}
	end, err := receive(s, &h)
	if err != nil {
		return err
	}
	if h.Status != 200 || !message.IsGRPC(h.Get("content-type")) {
		return fmt.Errorf("status %d of HTTP and content-type %q: the port does not speak gRPC", h.Status, h.Get("content-type"))
	}
	if end { // "Trailers-Only" of gRPC over HTTP/2
		return grpcAnswer(nil, h.Fields)
	}
	body, err := io.ReadAll(io.LimitReader(s, bodyMax))
	if err != nil {
		return err
	}
	if len(body) == bodyMax {
		return fmt.Errorf("the answer has more than %d bytes", bodyMax)
	}
	return grpcAnswer(body, s.Trailers())
}

// grpcRequest is a HealthCheckRequest with its prefix.
func grpcRequest(service string) []byte {
	b := make([]byte, grpcPrefix, grpcPrefix+8+len(service))
	if service != "" {
		b = protowire.AppendString(protowire.AppendTag(b, fieldService, protowire.BytesType), service)
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-grpcPrefix))
	return b
}

// grpcAnswer judges a HealthCheckResponse with its prefix, and the trailers behind it.
func grpcAnswer(body []byte, trailers []message.Field) error {
	t := message.Head{Fields: trailers}
	if code := t.Get("grpc-status"); string(code) != "0" {
		return fmt.Errorf("grpc-status %q: %s", code, t.Get("grpc-message"))
	}
	if len(body) < grpcPrefix || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-grpcPrefix) {
		return errors.New("the answer is not one message, uncompressed")
	}
	status := uint64(0) // UNKNOWN
	for b := body[grpcPrefix:]; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("read the answer: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if num == fieldStatus && typ == protowire.VarintType {
			status, _ = protowire.ConsumeVarint(b) // an error is met below
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return fmt.Errorf("read the answer: %w", protowire.ParseError(n))
		}
		b = b[n:]
	}
	if status != statusServing {
		names := [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
		if status < uint64(len(names)) {
			return errors.New("it says " + names[status])
		}
		return fmt.Errorf("it says status %d", status)
	}
	return nil
}
